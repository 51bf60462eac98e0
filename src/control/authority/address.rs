//! Where the Redis is that counts rates and quotas: one server, the masters of a cluster, or
//! whichever server the Sentinels call the master. It is asked for anew whenever a link is opened:
//! who was the master may not be it any more.

use super::script::{GROUPS, marker_key};
use crate::config::{RedisKind, RedisUrl};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, Pipeline,
    ProtocolVersion, RedisConnectionInfo, RedisError, TlsCertificates, Value, from_redis_value_ref,
};
use std::time::Duration;

/// One server is asked where the masters are, within this; then the next one.
const ASK_WITHIN: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct RedisAddress {
    kind: RedisKind,
    /// Who is asked where the masters are.
    asked: Vec<ConnectionInfo>,
    /// How a master is spoken to; of a single server also where it is.
    master: ConnectionInfo,
}

/// A master, and the groups of keys that it has.
pub(super) type MasterGroups = (Client, Vec<u8>);

impl RedisAddress {
    /// Of this URL. `authorities`: certificates (PEM) that are trusted in place of the public ones.
    pub(crate) fn new(url: &RedisUrl, authorities: Option<Vec<u8>>) -> Result<Self, String> {
        if url.is_encrypted() {
            // Which of several implementations of TLS's ciphers; whoever comes first says it.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        let servers = url.servers().ok_or("this is no URL of a Redis")?;
        let wrong = |error: RedisError| error.to_string();
        let trusting = |server: ConnectionInfo| match &authorities {
            Some(pem) if url.is_encrypted() => {
                let trusted = TlsCertificates { client_tls: None, root_cert: Some(pem.clone()) };
                let client = Client::build_with_tls(server, trusted).map_err(wrong)?;
                Ok(client.get_connection_info().clone())
            }
            _ => Ok(server),
        };
        // Small calls in quick succession, each of which somebody waits for.
        let tcp = TcpSettings::default().set_nodelay(true);
        let set = |server: ConnectionInfo| {
            // So that it may say something unasked.
            let settings = server.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
            // Redis 7.0 does not know the command that would tell whose library this is.
            let settings = settings.set_skip_set_lib_name();
            server.set_tcp_settings(tcp.clone()).set_redis_settings(settings)
        };
        let servers: Vec<_> =
            servers.into_iter().map(|it| trusting(it).map(set)).collect::<Result<_, String>>()?;
        let master = servers.first().ok_or("this URL names no server")?.clone();
        let asked = match url.kind() {
            // User and password are the master's.
            RedisKind::Sentinel(_) => servers
                .into_iter()
                .map(|it| it.set_redis_settings(RedisConnectionInfo::default()))
                .collect(),
            _ => servers,
        };
        Ok(Self { kind: url.kind().clone(), asked, master })
    }

    /// All masters that have any of the groups.
    pub(super) async fn masters(&self) -> Result<Vec<MasterGroups>, RedisError> {
        let mut failed = None;
        // One that answers what is not so any more must not be asked first for ever.
        let first = fastrand::usize(..self.asked.len());
        for place in 0..self.asked.len() {
            let server = &self.asked[(first + place) % self.asked.len()];
            let asked = tokio::time::timeout(ASK_WITHIN, self.masters_by(server));
            match asked.await.unwrap_or_else(|_| Err(no_answer("it did not answer in time"))) {
                Ok(masters) => return Ok(masters),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| no_answer("there is nobody to ask")))
    }

    async fn masters_by(&self, server: &ConnectionInfo) -> Result<Vec<MasterGroups>, RedisError> {
        let name = match &self.kind {
            RedisKind::Single => {
                let client = Client::open(self.master.clone())?;
                return Ok(vec![(client, (0..GROUPS).collect())]);
            }
            RedisKind::Cluster => None,
            RedisKind::Sentinel(name) => Some(name),
        };
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(ASK_WITHIN));
        let client = Client::open(server.clone())?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        match name {
            Some(name) => {
                let found = match master_of(&mut connection, name).await {
                    Err(error) if error.code() == Some("NOAUTH") => {
                        self.sign_in(&mut connection).await?;
                        master_of(&mut connection, name).await
                    }
                    found => found,
                };
                let (host, port) = found?;
                Ok(vec![(self.client(host, port)?, (0..GROUPS).collect())])
            }
            None => self.of_cluster(&mut connection, server).await,
        }
    }

    /// By the name that the master knows: a URL has no other for the Sentinels.
    async fn sign_in(&self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let settings = self.master.redis_settings();
        let mut sign_in = redis::cmd("AUTH");
        if let Some(user) = settings.username() {
            sign_in.arg(user);
        }
        sign_in.arg(settings.password().unwrap_or_default());
        sign_in.exec_async(connection).await
    }

    async fn of_cluster(
        &self,
        connection: &mut MultiplexedConnection,
        server: &ConnectionInfo,
    ) -> Result<Vec<MasterGroups>, RedisError> {
        let mut asked = Pipeline::new();
        asked.cmd("CLUSTER").arg("SLOTS");
        for group in 0..GROUPS {
            asked.cmd("CLUSTER").arg("KEYSLOT").arg(marker_key(group));
        }
        let answers: Vec<Value> = asked.query_async(connection).await?;
        let [ranges, slots @ ..] = answers.as_slice() else {
            return Err(no_answer("it says nothing of a cluster"));
        };
        let ranges: Vec<SlotRange> =
            from_redis_value_ref::<Vec<Value>>(ranges)?.iter().filter_map(slot_range).collect();
        let mut masters: Vec<((&str, u16), Vec<u8>)> = Vec::new();
        for (group, slot) in (0..GROUPS).zip(slots) {
            let slot: u16 = from_redis_value_ref(slot)?;
            let has = |range: &&SlotRange| (range.first..=range.last).contains(&slot);
            let Some(range) = ranges.iter().find(has) else {
                return Err(no_answer("no server has all of the slots"));
            };
            let place = (&*range.host, range.port);
            match masters.iter_mut().find(|(known, _)| *known == place) {
                Some((_, groups)) => groups.push(group),
                None => masters.push((place, vec![group])),
            }
        }
        let client = |((host, port), groups): ((&str, u16), _)| {
            // A server that does not know its own address is where it was asked.
            let host = if host.is_empty() { host_of(server) } else { host.to_owned() };
            Ok((self.client(host, port)?, groups))
        };
        masters.into_iter().map(client).collect()
    }

    fn client(&self, host: String, port: u16) -> Result<Client, RedisError> {
        let address = match self.master.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            _ => ConnectionAddr::Tcp(host, port),
        };
        Client::open(self.master.clone().set_addr(address))
    }
}

/// Slots of a cluster, and their master.
struct SlotRange {
    first: u16,
    last: u16,
    host: String,
    port: u16,
}

/// Of a line of `CLUSTER SLOTS`: first slot, last slot, the master, replicas.
fn slot_range(line: &Value) -> Option<SlotRange> {
    let Value::Array(line) = line else { return None };
    let [first, last, Value::Array(master), ..] = line.as_slice() else { return None };
    let [host, port, ..] = master.as_slice() else { return None };
    let number = |value: &Value| from_redis_value_ref::<u16>(value).ok();
    let host = from_redis_value_ref::<Option<String>>(host).ok()?.unwrap_or_default();
    Some(SlotRange { first: number(first)?, last: number(last)?, host, port: number(port)? })
}

async fn master_of(
    connection: &mut MultiplexedConnection,
    name: &str,
) -> Result<(String, u16), RedisError> {
    let mut asked = redis::cmd("SENTINEL");
    asked.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let found: Option<(String, u16)> = asked.query_async(connection).await?;
    found.ok_or_else(|| no_answer("the Sentinel knows no master of that name"))
}

fn host_of(server: &ConnectionInfo) -> String {
    match server.addr() {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host.clone(),
        _ => String::new(),
    }
}

fn no_answer(why: &'static str) -> RedisError {
    RedisError::from((ErrorKind::Client, why))
}
