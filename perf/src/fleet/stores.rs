//! The Redis and the Postgres that a fleet stands on: real servers, private to the run. `perf/run`
//! has made the programs ready and says where they are.

use crate::process::{Process, pause, until};
use crate::servers::{LOAD_CORE, Place, free_address};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const START_PATIENCE: Duration = Duration::from_secs(60);

/// Where `tests/servers` keeps the programs.
fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/servers")
}

/// A Redis.
pub struct Redis {
    address: SocketAddr,
    _process: Process,
}

impl Redis {
    /// An empty one.
    pub fn start(place: &Place) -> Result<Self, String> {
        let address = free_address()?;
        let (port, folder) = (address.port().to_string(), place.path.display().to_string());
        let args = ["--bind", "127.0.0.1", "--port", &port, "--dir", &folder];
        let args = [&args[..], &["--save", "", "--appendonly", "no"]].concat();
        let log = place.path.join("redis.log");
        let program = programs().join("redis-server");
        let process = Process::start(LOAD_CORE, &program, &args, &[], &log)?;
        let redis = Self { address, _process: process };
        until("Redis", START_PATIENCE, || Ok(redis.ask("PING").ok()))?;
        Ok(redis)
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    /// How often the lease script has run.
    pub fn calls(&self) -> Result<u64, String> {
        let said = self.ask("INFO commandstats")?;
        let line = said.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
        Ok(line.and_then(|line| line.split(',').next()?.parse().ok()).unwrap_or(0))
    }

    fn ask(&self, command: &str) -> Result<String, String> {
        let mut stream = TcpStream::connect(self.address).map_err(|error| error.to_string())?;
        let mut said = String::new();
        write!(stream, "{command}\r\nQUIT\r\n")
            .and_then(|()| stream.read_to_string(&mut said))
            .map_err(|error| error.to_string())?;
        Ok(said)
    }
}

/// A Postgres.
pub struct Postgres {
    port: String,
    folder: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

impl Postgres {
    /// One with an empty database. Its data is kept by the kernel alone: a run is no crash test.
    pub fn start(place: &Place) -> Result<Self, String> {
        let folder = place.path.join("postgres");
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let port = free_address()?.port().to_string();
        let log = place.path.join("postgres.log");
        let mut postgres = Self { port, folder, log, process: None };
        let owned = Command::new("chown").arg("nobody").arg(&postgres.folder).status();
        owned.map_err(|error| error.to_string())?;
        let data = postgres.folder.join("data").display().to_string();
        let initdb = programs().join("postgres/initdb").display().to_string();
        let made = Command::new("setpriv")
            .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", &initdb])
            .args(["-D", &data, "-U", "tollgate", "-A", "trust", "-E", "UTF8", "--locale=C"])
            .output()
            .map_err(|error| error.to_string())?;
        if !made.status.success() {
            return Err(format!("initdb: {}", String::from_utf8_lossy(&made.stderr)));
        }
        postgres.begin()?;
        postgres.sql_in("postgres", "CREATE DATABASE tollgate")?;
        Ok(postgres)
    }

    /// Starts it anew after [`Self::stop`].
    pub fn begin(&mut self) -> Result<(), String> {
        let (data, program) = (self.folder.join("data"), programs().join("postgres/postgres"));
        let (data, program) = (data.display().to_string(), program.display().to_string());
        let folder = self.folder.display().to_string();
        let args = ["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--pdeathsig=KILL"];
        let args = [&args[..], &[&program, "-D", &data, "-k", &folder, "-p", &self.port]].concat();
        let settings = ["-c", "max_connections=100", "-c", "max_wal_size=8GB"];
        let args = [&args[..], &settings, &["-c", "shared_buffers=512MB"]].concat();
        let process = Process::start(LOAD_CORE, Path::new("setpriv"), &args, &[], &self.log)?;
        self.process = Some(process);
        until("Postgres", START_PATIENCE, || Ok(self.sql_in("postgres", "SELECT 1").ok()))?;
        Ok(())
    }

    /// Ends it, as an operator would.
    pub fn stop(&mut self) -> Result<(), String> {
        // Its `SIGTERM` waits for every client to leave.
        match self.process.take() {
            Some(process) => process.interrupt(),
            None => Ok(()),
        }
    }

    /// The URL of the database.
    pub fn url(&self) -> String {
        format!("postgres://tollgate@127.0.0.1:{}/tollgate", self.port)
    }

    /// Rows of a statement, without decoration.
    pub fn sql(&self, statement: &str) -> Result<String, String> {
        self.sql_in("tollgate", statement)
    }

    fn sql_in(&self, database: &str, statement: &str) -> Result<String, String> {
        let said = Command::new("psql")
            .args(["-h", "127.0.0.1", "-p", &self.port, "-U", "tollgate", "-d", database])
            .args(["-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-c", statement])
            .output()
            .map_err(|error| format!("psql: {error}"))?;
        match said.status.success() {
            true => Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&said.stderr).into_owned()),
        }
    }

    /// Waits until the ledger has so many rows.
    pub fn wait_for_rows(&self, rows: u64) -> Result<(), String> {
        until("the rows", Duration::from_secs(300), || {
            let there = self.sql("SELECT sum(calls) FROM usage_daily")?.parse::<u64>().unwrap_or(0);
            pause(Duration::from_millis(20));
            Ok((there >= rows).then_some(()))
        })
    }
}
