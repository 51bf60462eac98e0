//! Processes that a measurement starts: pinned to a core, asked for their CPU time and memory,
//! and ended by their id. Nothing here touches a process that it did not start.

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A clock tick of `/proc/PID/stat`: `USER_HZ` is 100 wherever this runs.
const TICK_US: u64 = 10_000;
/// A process has this long to end by itself.
const END_PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A process of this run. It is killed when this goes.
pub struct Process {
    child: Child,
}

/// A thread of a process.
pub struct Thread {
    /// Its id.
    pub id: i32,
    /// Its name.
    pub name: String,
}

impl Process {
    /// Starts a program on one core, with `env` besides what is there; what it says goes to `log`.
    pub fn start(
        core: usize,
        program: &Path,
        args: &[&str],
        env: &[(&str, String)],
        log: &Path,
    ) -> Result<Self, String> {
        let file = File::create(log).map_err(|error| format!("{}: {error}", log.display()))?;
        let copy = file.try_clone().map_err(|error| error.to_string())?;
        // It goes with this process, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TOLLGATE_") {
                command.env_remove(name);
            }
        }
        command.args(["taskset", "-c", &core.to_string()]).arg(program).args(args);
        command.envs(env.iter().map(|(name, value)| (name, value)));
        let child = command.stdin(Stdio::null()).stdout(file).stderr(copy).spawn();
        let child = child.map_err(|error| format!("{}: {error}", program.display()))?;
        Ok(Self { child })
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its id, as system calls take it.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// CPU time of all its threads, those that have ended included, in microseconds.
    pub fn cpu_us(&self) -> Result<u64, String> {
        let stat = read(&self.proc("stat"))?;
        // The name, in brackets, may hold anything.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
        match (ticks(11), ticks(12)) {
            (Some(user), Some(system)) => Ok((user + system) * TICK_US),
            _ => Err(format!("process {} says nothing of its time", self.id())),
        }
    }

    /// CPU time of its thread of that name, in microseconds.
    pub fn thread_cpu_us(&self, name: &str) -> Result<u64, String> {
        let thread = self.thread(name)?;
        let text = read(&self.proc(&format!("task/{thread}/schedstat")))?;
        let ns = text.split_whitespace().next().and_then(|field| field.parse::<u64>().ok());
        ns.map(|ns| ns / 1_000).ok_or(format!("thread {name} says nothing of its time"))
    }

    /// CPU time of each of its threads that is alive, in nanoseconds. The kernel's count is exact
    /// for those that wait; of one that runs, up to a tick is missing.
    pub fn threads_cpu_ns(&self) -> Result<Vec<(Thread, u64)>, String> {
        let threads = self.threads()?.into_iter().filter_map(|id| {
            // One that ends meanwhile says nothing any more.
            let name = read(&self.proc(&format!("task/{id}/comm"))).ok()?;
            let text = read(&self.proc(&format!("task/{id}/schedstat"))).ok()?;
            let ns = text.split_whitespace().next()?.parse().ok()?;
            Some((Thread { id, name: name.trim_end().to_owned() }, ns))
        });
        Ok(threads.collect())
    }

    /// The id of its thread of that name.
    pub fn thread(&self, name: &str) -> Result<i32, String> {
        let found = self.threads()?.into_iter().find(|thread| {
            let comm = read(&self.proc(&format!("task/{thread}/comm")));
            comm.is_ok_and(|comm| comm.trim_end() == name)
        });
        found.ok_or(format!("process {} has no thread {name}", self.id()))
    }

    /// Memory that it occupies, in bytes.
    pub fn resident_bytes(&self) -> Result<u64, String> {
        let status = read(&self.proc("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kib.map(|kib| kib * 1_024).ok_or("no VmRSS".to_owned())
    }

    /// Pins all its threads to another core.
    pub fn move_to(&self, core: usize) -> Result<(), String> {
        let mut cpus = CpuSet::new();
        cpus.set(core);
        for thread in self.threads()? {
            let pinned = sched_setaffinity(Pid::from_raw(thread), &cpus);
            pinned.map_err(|error| format!("thread {thread} cannot be pinned: {error}"))?;
        }
        Ok(())
    }

    /// Asks it to end and waits until it has.
    pub fn end(self) -> Result<(), String> {
        self.end_by(Signal::TERM)
    }

    /// The same by SIGINT.
    pub fn interrupt(self) -> Result<(), String> {
        self.end_by(Signal::INT)
    }

    fn end_by(mut self, signal: Signal) -> Result<(), String> {
        kill_process(self.pid(), signal).map_err(|error| error.to_string())?;
        until("a process to end", END_PATIENCE, || {
            self.child.try_wait().map(|status| status.map(|_| ())).map_err(|e| e.to_string())
        })
    }

    fn threads(&self) -> Result<Vec<i32>, String> {
        let entries = fs::read_dir(self.proc("task")).map_err(|error| error.to_string())?;
        let names = entries.flatten().map(|entry| entry.file_name());
        Ok(names.filter_map(|name| name.to_string_lossy().parse().ok()).collect())
    }

    fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.id()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks again and again until `look` finds something.
pub fn until<T>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Result<Option<T>, String>,
) -> Result<T, String> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(format!("waited {} s in vain for {what}", patience.as_secs()));
        }
        pause(LOOK_EVERY);
    }
}

/// Lets time pass.
pub fn pause(span: Duration) {
    std::thread::sleep(span);
}

/// A file of `/proc`, or any small one.
pub fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}
