//! A Postgres of the test process's own: one server, private to it and gone with it, however it
//! ends, and an empty database for each test that asks for one.
//!
//! The server is a child of a shell that waits for the end of its input, which is the end of this
//! process. It listens on a socket in its own folder only.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio_postgres::{NoTls, SimpleQueryMessage};

/// `$1`: the folder; `$2`: where the programs are. Postgres refuses to run as root. What a crash of
/// the host would lose does not matter here: no sync.
const SERVE: &str = r#"
    trap '' INT TERM HUP
    as=
    if [ "$(id -u)" = 0 ]; then
        chown nobody "$1"
        as='setpriv --reuid=nobody --regid=nogroup --clear-groups'
    fi
    cd "$1" || exit
    $as "$2/initdb" -D data -A trust -U tollgate -E UTF8 --locale=C --no-sync >log 2>&1 || exit
    $as "$2/postgres" -D data -k "$1" -c listen_addresses= -c fsync=off -c max_connections=500 \
        -c shared_buffers=32MB -c jit=off >>log 2>&1 &
    server=$!
    echo started
    cat >/dev/null
    kill -QUIT $server
    wait $server
    rm -rf "$1"
"#;
const STARTS_WITHIN: Duration = Duration::from_secs(60);

struct Server {
    folder: PathBuf,
    /// Its input is open for as long as this process lives.
    _shell: Child,
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("tollgate-pg-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let mut shell = Command::new("sh")
            .args(["-c", SERVE, "sh"])
            .args([&folder, &programs()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut started = [0; 7];
        let told = shell.stdout.take().unwrap().read_exact(&mut started);
        let log = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        assert!(told.is_ok(), "no Postgres: run `bash tests/servers`\n{}", log());
        let until = Instant::now() + STARTS_WITHIN;
        while let Err(error) = query(&url(&folder, "postgres"), "SELECT 1") {
            assert!(Instant::now() < until, "Postgres does not answer: {error}\n{}", log());
            std::thread::yield_now();
        }
        Server { folder, _shell: shell }
    })
}

/// What `tests/servers` provides, or Debian's package.
fn programs() -> PathBuf {
    let provided = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/servers/postgres");
    if provided.is_dir() { provided } else { "/usr/lib/postgresql/15/bin".into() }
}

fn url(folder: &Path, database: &str) -> String {
    let socket = folder.to_string_lossy().replace('/', "%2F");
    format!("postgres://tollgate@{socket}/{database}")
}

/// Does `sql` there, and answers the rows of its last statement, a null as an empty text.
pub(crate) fn query(url: &str, sql: &str) -> Result<Vec<Vec<String>>, tokio_postgres::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        let driving = tokio::spawn(connection);
        let mut rows = Vec::new();
        for message in client.simple_query(sql).await? {
            match message {
                SimpleQueryMessage::Row(row) => {
                    let text = |column| row.get(column).unwrap_or_default().to_owned();
                    rows.push((0..row.len()).map(text).collect());
                }
                SimpleQueryMessage::CommandComplete(_) => {}
                _ => rows.clear(),
            }
        }
        drop(client);
        // The server is to have seen the end: a database with a connection cannot be dropped.
        let _ = driving.await;
        Ok(rows)
    })
}

/// An empty database, dropped with this.
pub(crate) struct Database {
    name: String,
    /// Where it is.
    pub url: String,
}

impl Database {
    /// A new one.
    pub(crate) fn create() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = &server().folder;
        query(&url(folder, "postgres"), &format!("CREATE DATABASE {name}")).unwrap();
        Self { url: url(folder, &name), name }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let drop_it = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        // A server that is gone has taken it along.
        let _ = query(&url(&server().folder, "postgres"), &drop_it);
    }
}
