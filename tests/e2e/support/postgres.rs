//! A Postgres of the test process's own: one server, private to it and gone with it, however it
//! ends, and an empty database for each test that asks for one.
//!
//! A server is a child of a shell, which obeys the words on its input and ends with it: at the
//! latest with this process. It listens on a socket in its own folder only.

use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};
use tokio_postgres::{NoTls, SimpleQueryMessage};

/// `$1`: the folder; `$2`: where the programs are. Postgres refuses to run as root. What a crash of
/// the host would lose does not matter here: no sync. Each word is answered by a line: `kill` ends
/// the server and all its processes at once, `stop` ends its connections and then it.
const SERVE: &str = r#"
    trap '' INT TERM HUP
    as=
    if [ "$(id -u)" = 0 ]; then
        chown nobody "$1"
        as='setpriv --reuid=nobody --regid=nogroup --clear-groups'
    fi
    cd "$1" || exit
    exec 2>>log
    $as "$2/initdb" -D data -A trust -U tollgate -E UTF8 --locale=C --no-sync >log 2>&1 || exit
    while echo done; do
        read -r word || break
        case $word in
        start)
            # It gives up beside what is left of the one before, and is then told again.
            grep -qs . "/proc/$server/maps" || {
                $as "$2/postgres" -D data -k "$1" -c listen_addresses= -c fsync=off \
                    -c max_connections=500 -c shared_buffers=32MB -c jit=off >>log 2>&1 &
                server=$!
            } ;;
        stop)
            kill -INT $server
            wait $server ;;
        kill)
            kill -STOP $server
            kill -KILL $server $(cat /proc/$server/task/$server/children)
            wait $server ;;
        esac
    done
    kill -QUIT $server 2>/dev/null
    wait $server
    rm -rf "$1"
"#;
const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// See the module.
pub(crate) struct Server {
    folder: PathBuf,
    shell: Mutex<Shell>,
}

struct Shell {
    child: Child,
    /// Open for as long as this process lives.
    words: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Server {
    /// A new one, which takes connections.
    pub(crate) fn start() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tollgate-pg-{}-{count}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        let mut child = Command::new("sh")
            .args(["-c", SERVE, "sh"])
            .args([&folder, &programs()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let words = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut shell = Shell { child, words, answers };
        shell.answer(&folder);
        let server = Self { folder, shell: Mutex::new(shell) };
        server.begin();
        server
    }

    /// Starts it anew, after [`Self::kill`] or [`Self::stop`].
    pub(crate) fn begin(&self) {
        let until = Instant::now() + STARTS_WITHIN;
        self.tell("start");
        while let Err(error) = query(&url(&self.folder, "postgres"), "SELECT 1") {
            assert!(Instant::now() < until, "Postgres does not answer: {error}\n{}", self.log());
            self.tell("start");
        }
    }

    /// Ends its connections, and then it, as an operator would.
    pub(crate) fn stop(&self) {
        self.tell("stop");
    }

    /// Kills all of it at once.
    pub(crate) fn kill(&self) {
        self.tell("kill");
    }

    fn tell(&self, word: &str) {
        let mut shell = self.shell.lock().unwrap();
        writeln!(shell.words.as_ref().unwrap(), "{word}").unwrap();
        shell.answer(&self.folder);
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Shell {
    fn answer(&mut self, folder: &Path) {
        let mut line = String::new();
        let told = self.answers.read_line(&mut line);
        let log = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        let is_done = told.is_ok() && line == "done\n";
        assert!(is_done, "no Postgres: run `bash tests/servers`\n{}", log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut shell = self.shell.lock().unwrap();
        shell.words = None;
        let _ = shell.child.wait();
    }
}

/// The one that all tests share which do nothing to it.
fn shared() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(Server::start)
}

/// What `tests/servers` provides, or Debian's package.
pub(crate) fn programs() -> PathBuf {
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
    /// How to reach it without it.
    server_url: String,
}

impl Database {
    /// A new one on the shared server.
    pub(crate) fn create() -> Self {
        Self::create_on(shared())
    }

    /// A new one on this server.
    pub(crate) fn create_on(server: &Server) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let server_url = url(&server.folder, "postgres");
        query(&server_url, &format!("CREATE DATABASE {name}")).unwrap();
        Self { url: url(&server.folder, &name), name, server_url }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let drop_it = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        // A server that is gone has taken it along.
        let _ = query(&self.server_url, &drop_it);
    }
}
