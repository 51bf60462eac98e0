//! One connection to Postgres, its statements prepared once. It is good until something of it was
//! cut short: then it is closed, and the server undoes what was not committed.

use super::tls;
use crate::config::PostgresUrl;
use crate::store::error::StoreError;
use crate::store::location::PostgresServer;
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio_postgres::types::ToSql;
use tokio_postgres::{
    AsyncMessage, CancelToken, Client, Config, Error, Row, SimpleQueryMessage, SimpleQueryRow,
    Statement,
};
use tokio_postgres_rustls::MakeRustlsConnect;

/// To connect, sign in and set the session up.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// A server that has vanished is noticed by its silence after this.
const SILENT_MAX: Duration = Duration::from_secs(15);
/// A transaction that this program has begun and does not go on with is ended by the server.
const SESSION: &str = "SET idle_in_transaction_session_timeout = '60s'; SET lock_timeout = '10s';
    SET client_min_messages = warning; SET default_transaction_isolation = 'read committed';
    SET timezone = 'UTC'; SET datestyle = 'ISO'";

/// The values of a statement.
pub(super) type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

/// What a connection is opened by.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) config: Config,
    /// Encrypts it, where the mode in `config` says so.
    pub(super) tls: MakeRustlsConnect,
    /// Ends any statement.
    pub(super) statement_within: Duration,
    /// Told of each notification.
    pub(super) notified: Option<flume::Sender<()>>,
}

impl Access {
    pub(super) fn new(
        server: &PostgresServer,
        statement_within: Duration,
    ) -> Result<Self, StoreError> {
        Self::to(&server.url, server, statement_within)
    }

    /// The same to a replica of it, if there is one.
    pub(super) fn to_replica(
        server: &PostgresServer,
        statement_within: Duration,
    ) -> Result<Option<Self>, StoreError> {
        let url = server.read_url.as_ref();
        url.map(|url| Self::to(url, server, statement_within)).transpose()
    }

    fn to(
        url: &PostgresUrl,
        server: &PostgresServer,
        statement_within: Duration,
    ) -> Result<Self, StoreError> {
        let mut config: Config = url.for_driver().parse()?;
        config.connect_timeout(CONNECT_WITHIN).tcp_user_timeout(SILENT_MAX);
        config.keepalives_idle(SILENT_MAX).keepalives_interval(SILENT_MAX / 3);
        if config.get_application_name().is_none() {
            config.application_name("tollgate");
        }
        let tls = tls::connector(url.proof, server.ca_file.as_deref())?;
        Ok(Self { config, tls, statement_within, notified: None })
    }
}

/// See the module.
pub(super) struct Session {
    client: Client,
    tls: MakeRustlsConnect,
    _counted: CountedSession,
    statements: Mutex<HashMap<String, Statement>>,
}

impl Session {
    /// Connects. What drives the connection is spawned on the runtime that this runs on.
    pub(super) async fn open(access: &Access) -> Result<Self, Error> {
        let (client, mut connection) = access.config.connect(access.tls.clone()).await?;
        let notified = access.notified.clone();
        tokio::spawn(async move {
            while let Some(Ok(message)) =
                std::future::poll_fn(|context| connection.poll_message(context)).await
            {
                if let (AsyncMessage::Notification(_), Some(notified)) = (message, &notified) {
                    // Where it is full, whoever is told has not looked since.
                    let _ = notified.try_send(());
                }
            }
        });
        let listen = if access.notified.is_some() { "; LISTEN tollgate_catalog" } else { "" };
        let within = access.statement_within.as_millis();
        client
            .batch_execute(&format!("{SESSION}; SET statement_timeout = {within}{listen}"))
            .await?;
        Ok(Self {
            client,
            tls: access.tls.clone(),
            _counted: CountedSession::new(),
            statements: Mutex::default(),
        })
    }

    /// Is it of no use any more?
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Ends what the server is doing for this session, from wherever it is dropped.
    pub(super) fn canceller(&self) -> Canceller {
        Canceller { token: self.client.cancel_token(), tls: self.tls.clone() }
    }

    /// For what has a protocol of its own.
    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    /// A statement, prepared when it is first asked for. There are as many as the program has
    /// texts.
    pub(super) async fn prepared(&self, sql: &str) -> Result<Statement, Error> {
        let known = self.known().get(sql).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.client.prepare(sql).await?;
        self.known().insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Statement>> {
        self.statements.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All rows.
    pub(super) async fn rows(&self, sql: &str, values: Values<'_>) -> Result<Vec<Row>, Error> {
        let statement = self.prepared(sql).await?;
        self.client.query(&statement, values).await
    }

    /// The first row, if there is one.
    pub(super) async fn row(&self, sql: &str, values: Values<'_>) -> Result<Option<Row>, Error> {
        Ok(self.rows(sql, values).await?.into_iter().next())
    }

    /// How many rows it touched.
    pub(super) async fn execute(&self, sql: &str, values: Values<'_>) -> Result<u64, Error> {
        let statement = self.prepared(sql).await?;
        self.client.execute(&statement, values).await
    }

    /// Statements without values, and the rows of them all, as texts.
    pub(super) async fn texts(&self, sql: &str) -> Result<Vec<SimpleQueryRow>, Error> {
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        };
        Ok(self.client.simple_query(sql).await?.into_iter().filter_map(row).collect())
    }

    /// Statements without values or answers.
    pub(super) async fn batch(&self, sql: &str) -> Result<(), Error> {
        self.client.batch_execute(sql).await
    }
}

/// Ends what the server is doing for a session.
pub(super) struct Canceller {
    token: CancelToken,
    tls: MakeRustlsConnect,
}

impl Canceller {
    /// Tells the server, over a connection of its own.
    pub(super) async fn cancel(self) -> Result<(), Error> {
        self.token.cancel_query(self.tls).await
    }
}

/// How many there are in this process.
static OPEN: AtomicI64 = AtomicI64::new(0);

/// Connections to servers that are open, of the whole process.
pub(super) fn open_count() -> i64 {
    OPEN.load(Ordering::Relaxed)
}

/// Counts a session for as long as it is there.
struct CountedSession;

impl CountedSession {
    fn new() -> Self {
        OPEN.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for CountedSession {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}
