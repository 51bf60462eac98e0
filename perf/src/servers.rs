//! What is measured, started on ports of its own in a folder of its own: the gateway, nginx as
//! its rival, and the floors; and the upstream behind all of them.

use crate::floor::{BODY, MESSAGE_BYTES_MAX};
use crate::http;
use crate::process::{Process, read, until};
use serde_json::Value;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

const START_PATIENCE: Duration = Duration::from_secs(20);
/// The core of the server under test.
pub const SERVER_CORE: usize = 0;
/// The core of the load and of the upstream.
pub const LOAD_CORE: usize = 1;
/// The thread of the gateway's only shard.
pub const SHARD: &str = "shard-0";

/// A folder for one run, removed at its end.
pub struct Place {
    /// Its path.
    pub path: PathBuf,
}

impl Place {
    /// Makes one below `parent`.
    pub fn new(parent: &Path) -> Result<Self, String> {
        Self::at(parent.join(format!("perf-run-{}", std::process::id())))
    }

    /// One within this one.
    pub fn within(&self, name: &str) -> Result<Self, String> {
        Self::at(self.file(name))
    }

    fn at(path: PathBuf) -> Result<Self, String> {
        fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let path = path.canonicalize().map_err(|error| error.to_string())?;
        Ok(Self { path })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A folder that is left does no harm.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A server under test.
pub struct Server {
    /// As figures name it.
    pub name: &'static str,
    /// Where it serves.
    pub address: SocketAddr,
    /// Its process.
    pub process: Process,
}

/// The gateway, with what its demo sells.
pub struct Gateway {
    /// The process and its data plane.
    pub server: Server,
    /// Its control plane.
    pub admin: SocketAddr,
    /// What `demo.json` holds.
    pub demo: Value,
    /// The ledger.
    pub ledger: PathBuf,
}

/// How a gateway is set up besides.
pub struct Setting<'a> {
    /// Settings in its environment.
    pub env: &'a [(&'a str, String)],
    /// Another instance of the same marketplace.
    pub beside: Option<&'a Gateway>,
}

/// Gives a new instance the secrets of `other`, and what that one's demo sells.
fn share(other: &Gateway, data: &Path) -> Result<(), String> {
    let from = other.ledger.parent().unwrap_or(data);
    let done = fs::create_dir_all(data).and_then(|()| {
        let mut names = ["demo.json", "digest.key", "encryption.key"].iter();
        names.try_for_each(|name| fs::copy(from.join(name), data.join(name)).map(drop))
    });
    done.map_err(|error| format!("{}: {error}", data.display()))
}

/// A port that is free just now.
pub fn free_address() -> Result<SocketAddr, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string())?;
    listener.local_addr().map_err(|error| error.to_string())
}

impl Server {
    fn start(
        place: &Place,
        (name, core): (&'static str, usize),
        address: SocketAddr,
        program: &Path,
        args: &[&str],
        env: &[(&str, String)],
    ) -> Result<Self, String> {
        let log = place.file(&format!("{name}.log"));
        let process = Process::start(core, program, args, env, &log)?;
        let connected = || Ok(TcpStream::connect(address).ok());
        until(name, START_PATIENCE, connected)
            .map_err(|why| format!("{why}:\n{}", read(&log).unwrap_or_default()))?;
        Ok(Self { name, address, process })
    }

    /// A server of this program's own: `answer`, `relay` or `monoio`.
    pub fn floor(
        place: &Place,
        named: (&'static str, usize),
        kind: &str,
        upstream: Option<SocketAddr>,
    ) -> Result<Self, String> {
        Self::roomy_floor(place, named, kind, upstream, MESSAGE_BYTES_MAX)
    }

    /// The same, with room for longer messages.
    pub fn roomy_floor(
        place: &Place,
        named: (&'static str, usize),
        kind: &str,
        upstream: Option<SocketAddr>,
        message_bytes: usize,
    ) -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let address = free_address()?;
        let (at, to) = (address.to_string(), upstream.map(|to| to.to_string()));
        let room = message_bytes.to_string();
        let mut args = vec!["floor", kind, room.as_str(), at.as_str()];
        args.extend(to.as_deref());
        Self::start(place, named, address, &own, &args, &[])
    }

    /// nginx with one process, its logs off and connections to the upstream kept.
    pub fn nginx(place: &Place, upstream: SocketAddr) -> Result<Self, String> {
        let address = free_address()?;
        let folder = place.path.display();
        let configuration = format!(
            r#"daemon off; master_process off; worker_processes 1; user root;
worker_rlimit_nofile 65536; pid {folder}/nginx.pid; error_log {folder}/nginx-error.log;
events {{ worker_connections 32768; }}
http {{
  client_body_buffer_size 2m; client_max_body_size 16m;
  access_log off; keepalive_timeout 3600s; keepalive_requests 1000000000;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream model {{ server {upstream}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen {address} backlog=4096;
    location / {{
      proxy_pass http://model; proxy_http_version 1.1; proxy_set_header Connection "";
    }}
    location = /static {{ default_type application/json; return 200 '{BODY}'; }}
  }}
}}
"#
        );
        let path = place.file("nginx.conf");
        fs::write(&path, configuration).map_err(|error| error.to_string())?;
        let args = ["-c", &path.display().to_string(), "-p", &folder.to_string()];
        Self::start(place, ("nginx", SERVER_CORE), address, Path::new("nginx"), &args, &[])
    }
}

impl Gateway {
    /// `tollgate demo` with one shard, journal and ledger on, in front of `upstream`.
    pub fn start(place: &Place, program: &Path, upstream: SocketAddr) -> Result<Self, String> {
        Self::start_with(place, program, upstream, &Setting { env: &[], beside: None })
    }

    /// The same, set up otherwise.
    pub fn start_with(
        place: &Place,
        program: &Path,
        upstream: SocketAddr,
        setting: &Setting<'_>,
    ) -> Result<Self, String> {
        let (address, admin) = (free_address()?, free_address()?);
        let data = place.file("tollgate");
        let (at, admin_at) = (address.to_string(), admin.to_string());
        let args = ["demo", "--shards", "1", "--listen", &at, "--admin-listen", &admin_at];
        let (folder, url) = (data.display().to_string(), format!("http://{upstream}"));
        let args = [&args[..], &["--data-dir", &folder, "--upstream", &url]].concat();
        if let Some(other) = setting.beside {
            share(other, &data)?;
        }
        let named = ("tollgate", SERVER_CORE);
        let server = Server::start(place, named, address, program, &args, setting.env)?;
        // The file comes in one step, once all that it names is there.
        let path = data.join("demo.json");
        let demo: Value = until("demo.json", START_PATIENCE, || {
            let demo = read(&path).ok().and_then(|text| serde_json::from_str(&text).ok());
            // One that came from another instance names that one.
            Ok(demo.filter(|demo: &Value| demo["admin_url"] == format!("http://{admin}")))
        })?;
        let gateway = Self { server, admin, demo, ledger: data.join("tollgate.db") };
        until("readiness", START_PATIENCE, || Ok(http::get(address, "/readyz", "").ok()))?;
        Ok(gateway)
    }

    /// A text of `demo.json`, such as `keys.bench`.
    pub fn demo_text(&self, group: &str, name: &str) -> Result<&str, String> {
        self.demo[group][name].as_str().ok_or(format!("demo.json has no {group}.{name}"))
    }

    /// Calls that the gateway itself says it has answered with 200.
    pub fn answered(&self) -> Result<u64, String> {
        let page = http::get(self.admin, "/metrics", "")?;
        let samples = page.lines().filter(|line| {
            line.starts_with("http_requests_total{")
                && line.contains("status=\"200\"")
                && ["consume", "chat_completions"].iter().any(|name| line.contains(name))
        });
        let counts = samples.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        Ok(counts.sum())
    }
}
