//! A Redis of a test's own: the real server, on a port and in a folder of its own, which ends
//! with the test.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

/// See the module.
pub(crate) struct RedisServer {
    /// Where it listens, on the loopback.
    pub(crate) port: u16,
    /// Further words of its command line.
    args: Vec<String>,
    folder: tempfile::TempDir,
    child: Option<Child>,
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    let any = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    any.local_addr().unwrap().port()
}

impl RedisServer {
    /// One that is empty, and keeps nothing on disk.
    pub(crate) fn start() -> Self {
        let port = free_port();
        Self::start_at(port, &["--port", &port.to_string()])
    }

    /// One with these words at the beginning of its command line, which make it listen there.
    pub(crate) fn start_at(port: u16, args: &[&str]) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut server = Self { port, args, folder: tempfile::tempdir().unwrap(), child: None };
        server.begin();
        server
    }

    /// How it is reached.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Its answer to this command, words apart by spaces.
    pub(crate) fn ask(&self, words: &str) -> String {
        let mut connection = TcpStream::connect(self.address()).unwrap();
        write!(connection, "{words}\r\nQUIT\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert!(!answer.starts_with('-'), "{words}: {answer}");
        answer
    }

    /// Does this command, which has nothing to tell.
    pub(crate) fn command(&self, words: &str) {
        let answer = self.ask(words);
        assert!(answer.starts_with('+'), "{words}: {answer}");
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        self.end();
    }

    /// Kills it and starts it anew: empty.
    pub(crate) fn restart(&mut self) {
        self.end();
        self.begin();
    }

    /// It says nothing any more, though its connections stay.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// It goes on after [`Self::pause`].
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().unwrap().id();
        kill_process(Pid::from_raw(id as i32).unwrap(), signal).unwrap();
    }

    fn begin(&mut self) {
        let mut command = Command::new(binary());
        command
            .args(&self.args)
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let child = self.child.insert(command.spawn().unwrap());
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut log = String::new();
        let begun = said.find(|line| {
            log.extend([line, "\n"]);
            is_ready(line)
        });
        assert!(begun.is_some(), "no Redis on port {}\n{log}", self.port);
        thread::spawn(move || said.for_each(drop));
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.end();
    }
}

/// A Sentinel says that it is one, and nothing more.
fn is_ready(line: &str) -> bool {
    line.contains("Ready to accept connections") || line.contains("+monitor master")
}

/// The program.
pub(crate) fn binary() -> PathBuf {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.cache/servers/redis-server"));
    assert!(path.exists(), "{} is not there: run `bash tests/servers`", path.display());
    path
}
