//! What a process holds, as the kernel counts it: descriptors and memory.

use super::instance::Instance;
use super::poll;
use std::fs;

/// Open descriptors.
pub fn descriptors(instance: &Instance) -> usize {
    fs::read_dir(format!("/proc/{}/fd", instance.process.id())).unwrap().count()
}

/// The most memory that it ever had, in KiB.
pub fn peak_kib(instance: &Instance) -> u64 {
    status_kib(instance, "VmHWM:")
}

/// The memory that it has now, in KiB.
pub fn memory_kib(instance: &Instance) -> u64 {
    status_kib(instance, "VmRSS:")
}

fn status_kib(instance: &Instance, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", instance.process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Processor time of the threads whose names begin so, in the kernel's ticks.
pub fn ticks_of(instance: &Instance, name: &str) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", instance.process.id())).unwrap();
    let ticks = tasks.map(|task| {
        let stat = fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
        let (begin, rest) = stat.rsplit_once(") ").unwrap();
        let numbers: Vec<&str> = rest.split(' ').collect();
        // proc(5): utime and stime are the 14th and 15th field, the state being the third.
        let spent = |field: usize| numbers[field - 3].parse::<u64>().unwrap();
        let is_wanted = begin.split_once('(').is_some_and(|(_, comm)| comm.starts_with(name));
        if is_wanted { spent(14) + spent(15) } else { 0 }
    });
    ticks.sum()
}

/// The descriptors once nobody is connected; for instances that keep no idle connections to
/// upstreams for long.
pub fn descriptors_at_rest(instance: &Instance) -> usize {
    let quiet = |family: &str| {
        poll::until(&format!("no {family}"), || {
            (instance.metrics().sum(family, &[]) == 0).then_some(())
        });
    };
    quiet("tollgate_open_connections");
    quiet("tollgate_permits_open");
    quiet("tollgate_pool_connections");
    descriptors(instance)
}

/// Fails unless the process comes to rest with no more descriptors than before.
pub fn none_leaked(instance: &Instance, descriptors_before: usize) {
    poll::until("the descriptors to be given back", || {
        (descriptors_at_rest(instance) <= descriptors_before).then_some(())
    });
}
