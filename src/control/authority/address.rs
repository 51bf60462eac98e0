//! Where the Redis is that counts rates and quotas.

use redis::io::tcp::TcpSettings;
use redis::{Client, IntoConnectionInfo, ProtocolVersion};

/// Where the authority is.
#[derive(Clone, Debug)]
pub(crate) struct RedisAddress(Client);

impl RedisAddress {
    /// Of a URL such as `redis://user:password@host:6379/0`. What is wrong with it is told without
    /// it: a password may be in there.
    pub(crate) fn new(url: &str) -> Result<Self, &'static str> {
        let wrong = |_| "this is no URL of a Redis";
        let info = url.into_connection_info().map_err(wrong)?;
        // Small calls in quick succession, each of which somebody waits for.
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        // So that it may say something unasked.
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        Client::open(info.set_redis_settings(settings)).map(Self).map_err(wrong)
    }

    pub(super) fn client(&self) -> &Client {
        &self.0
    }
}
