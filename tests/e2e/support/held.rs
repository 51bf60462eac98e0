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
    let status = fs::read_to_string(format!("/proc/{}/status", instance.process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// The descriptors once nobody is connected; for instances that keep no idle connections to
/// upstreams for long.
pub fn descriptors_at_rest(instance: &Instance) -> usize {
    let quiet = || {
        let scrape = instance.metrics();
        let open = scrape.sum("tollgate_open_connections", &[])
            + scrape.sum("tollgate_pool_connections", &[])
            + scrape.sum("tollgate_permits_open", &[]);
        (open == 0).then(|| descriptors(instance))
    };
    poll::until("no connection to be open", quiet)
}

/// Fails unless the process comes to rest with no more descriptors than before.
pub fn none_leaked(instance: &Instance, descriptors_before: usize) {
    poll::until("the descriptors to be given back", || {
        (descriptors_at_rest(instance) <= descriptors_before).then_some(())
    });
}
