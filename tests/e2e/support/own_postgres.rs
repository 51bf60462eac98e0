//! A Postgres that one test has to itself, with settings and files of its own, on a port of this
//! host besides the socket in its folder. It ends with the test, or with this process.

use super::poll;
use super::postgres::{programs, query};
use std::io::Read as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// `$1`: the folder; `$2`: where the programs are; `$3`: the port; `$4`: the folder of the one that
/// it is a replica of, or nothing, and `$5` its port; then settings. As for the shared one.
const SERVE: &str = r#"
    trap '' INT TERM HUP
    as=
    if [ "$(id -u)" = 0 ]; then
        chown -R nobody "$1"
        as='setpriv --reuid=nobody --regid=nogroup --clear-groups'
    fi
    cd "$1" || exit
    bin=$2 port=$3 from=$4 from_port=$5
    shift 5
    if [ -n "$from" ]; then
        $as "$bin/pg_basebackup" -D data -R -h "$from" -p "$from_port" -U tollgate -c fast \
            --no-sync >log 2>&1 || exit
    else
        $as "$bin/initdb" -D data -A trust -U tollgate -E UTF8 --locale=C --no-sync >log 2>&1 \
            || exit
    fi
    $as "$bin/postgres" -D data -k "$PWD" -p "$port" -c listen_addresses=127.0.0.1 -c fsync=off \
        -c shared_buffers=32MB "$@" >>log 2>&1 &
    server=$!
    echo started
    cat >/dev/null
    kill -QUIT $server
    wait $server
"#;

/// See the module.
pub struct OwnPostgres {
    folder: TempDir,
    shell: Child,
    /// On 127.0.0.1.
    pub port: u16,
}

impl OwnPostgres {
    /// Starts one. `files` (name, content) are its own, and nobody else's, in its folder; there
    /// `settings` (`name=value`) find them by `../name`.
    pub fn start(files: &[(&str, &str)], settings: &[&str]) -> Self {
        Self::start_from(None, files, settings)
    }

    /// Starts a replica of this one, which follows it.
    pub fn replica(&self) -> Self {
        Self::start_from(Some(self), &[], &[])
    }

    fn start_from(from: Option<&Self>, files: &[(&str, &str)], settings: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        for (name, content) in files {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            let own = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(&path, own).unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut shell = Command::new("sh")
            .args(["-c", SERVE, "sh"])
            .args([folder.path(), &programs()])
            .arg(port.to_string())
            .arg(from.map_or_else(PathBuf::new, |it| it.folder.path().to_owned()))
            .arg(from.map_or_else(String::new, |it| it.port.to_string()))
            .args(settings.iter().flat_map(|setting| ["-c", setting]))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut started = [0; 7];
        let told = shell.stdout.take().unwrap().read_exact(&mut started);
        let server = Self { folder, shell, port };
        assert!(told.is_ok(), "no Postgres: run `bash tests/servers`\n{}", server.log());
        poll::until("Postgres answers", || server.query("SELECT 1").ok());
        server
    }

    /// Does `sql` there, over its socket.
    pub fn query(&self, sql: &str) -> Result<Vec<Vec<String>>, tokio_postgres::Error> {
        let socket = self.folder.path().to_string_lossy().replace('/', "%2F");
        query(&format!("postgres://tollgate@{socket}:{}/postgres", self.port), sql)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
