//! Starts `tollgate` as it ships and listens to what it says. A process ends with its test.

use super::poll::PATIENCE;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

/// The binary under test: `TOLLGATE_BIN`, or the release build.
pub fn binary() -> PathBuf {
    let built = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/release/tollgate"));
    let path = std::env::var_os("TOLLGATE_BIN").map_or_else(built, PathBuf::from);
    assert!(
        path.is_file(),
        "{} is not there: run `cargo build --release`, or set TOLLGATE_BIN",
        path.display()
    );
    path
}

/// `tollgate` without the settings of this host's environment.
pub fn command(args: &[&str]) -> Command {
    clean(Command::new(binary()), args)
}

/// The same, which may have `soft` files open, and raise that to `hard` itself.
pub fn with_descriptors(soft: u32, hard: u32, args: &[&str]) -> Command {
    let mut shell = Command::new("sh");
    let limits = format!("ulimit -S -n {soft}; ulimit -H -n {hard}; exec \"$0\" \"$@\"");
    shell.args(["-c", &limits]).arg(binary());
    clean(shell, args)
}

fn clean(mut command: Command, args: &[&str]) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TOLLGATE_") {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs `tollgate` to its end.
pub fn run(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

/// A running `tollgate`.
pub struct Process {
    child: Child,
    lines: Mutex<Receiver<String>>,
    said: Vec<String>,
}

impl Process {
    /// Starts it and waits for a line of its stderr with `mark` in it: what follows the mark.
    pub fn start(mut command: Command, mark: &str) -> (Self, String) {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (say, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| say.send(line))
        });
        let mut stdout = child.stdout.take().unwrap();
        thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        let mut process = Self { child, lines: Mutex::new(lines), said: Vec::new() };
        let found = process.wait_for(mark);
        (process, found)
    }

    /// What follows `mark` in the next line of stderr that has it.
    pub fn wait_for(&mut self, mark: &str) -> String {
        loop {
            let Ok(line) = self.lines.get_mut().unwrap().recv_timeout(PATIENCE) else {
                panic!("`{mark}` was not said, but:\n{}", self.said.join("\n"));
            };
            let found = line.split_once(mark).map(|(_, rest)| rest.to_owned());
            self.said.push(line);
            if let Some(found) = found {
                return found;
            }
        }
    }

    /// All of its stderr so far.
    pub fn log(&mut self) -> String {
        self.said.extend(self.lines.get_mut().unwrap().try_iter());
        self.said.join("\n")
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Is it still there?
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        kill_process(Pid::from_child(&self.child), Signal::HUP).unwrap();
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    /// SIGKILL; returns once it is dead.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Its status, once it has ended by itself.
    pub fn ended(&mut self) -> ExitStatus {
        super::poll::until("the end of the process", || self.child.try_wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- stderr of pid {}\n{}\n---", self.child.id(), self.log());
        }
    }
}
