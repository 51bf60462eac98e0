//! `[authority] url`: who counts rates and quotas.

use super::field::{Field, Given, Range, quoted};
use redis::{ConnectionInfo, IntoConnectionInfo};
use std::fmt;

/// Who counts rates and quotas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorityUrl {
    /// This process.
    Embedded,
    /// A Redis that all instances share.
    Redis(RedisUrl),
}

/// What is found at the servers of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisKind {
    /// One server, the authority.
    Single,
    /// Some of a cluster's servers, any of which knows the others.
    Cluster,
    /// Sentinels, any of which knows where the master of this name is.
    Sentinel(String),
}

/// The URL of a Redis. It may hold a password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    text: String,
    kind: RedisKind,
    is_encrypted: bool,
}

const ALLOWED: &str = "\"embedded\", or \"redis://[[user]:password@]host[:port][/database]\", \
     \"redis-cluster://…host[:port],host[:port]…\" or \
     \"redis-sentinel://…host[:port],host[:port]…/NAME\", and each with rediss for TLS";

impl RedisUrl {
    /// Reads it, or says what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let not_one = || ALLOWED.to_owned();
        let (scheme, rest) = text.split_once("://").ok_or_else(not_one)?;
        let (base, kind) = scheme.split_once('-').unwrap_or((scheme, ""));
        let kind = match kind {
            "" if scheme == base => RedisKind::Single,
            "cluster" => RedisKind::Cluster,
            "sentinel" => match rest.split_once('/') {
                Some((_, name)) if !name.is_empty() => RedisKind::Sentinel(name.to_owned()),
                _ => return Err(not_one()),
            },
            _ => return Err(not_one()),
        };
        let is_encrypted = match base {
            "redis" => false,
            "rediss" => true,
            _ => return Err(not_one()),
        };
        // Behind a `#` a certificate could be told not to matter.
        if rest.contains(['#', '?']) || (kind == RedisKind::Cluster && rest.contains('/')) {
            return Err(not_one());
        }
        let url = Self { text: text.to_owned(), kind, is_encrypted };
        match url.servers() {
            Some(_) => Ok(url),
            None => Err(not_one()),
        }
    }

    /// What is found at its servers.
    pub fn kind(&self) -> &RedisKind {
        &self.kind
    }

    /// Is TLS spoken?
    pub fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// Its servers; at least one, or `None` where one of them cannot be read.
    pub fn servers(&self) -> Option<Vec<ConnectionInfo>> {
        let (_, rest) = self.text.split_once("://")?;
        let scheme = if self.is_encrypted { "rediss" } else { "redis" };
        if self.kind == RedisKind::Single {
            return Some(vec![format!("{scheme}://{rest}").into_connection_info().ok()?]);
        }
        let (user, hosts) = match rest.rsplit_once('@') {
            Some((user, hosts)) => (format!("{user}@"), hosts),
            None => (String::new(), rest),
        };
        let hosts = hosts.split_once('/').map_or(hosts, |(hosts, _)| hosts);
        let server = |host: &str| format!("{scheme}://{user}{host}").into_connection_info().ok();
        hosts.split(',').map(server).collect()
    }

    /// Without user and password.
    fn shown(&self) -> String {
        match (self.text.split_once("://"), self.text.rfind('@')) {
            (Some((scheme, _)), Some(at)) => format!("{scheme}://…{}", &self.text[at..]),
            _ => self.text.clone(),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Field for AuthorityUrl {
    fn assign(&mut self, given: &Given<'_>, _: Range) -> Result<(), String> {
        *self = match given {
            Given::Text("embedded") | Given::Variable("embedded") => Self::Embedded,
            Given::Text(text) | Given::Variable(text) => Self::Redis(RedisUrl::parse(text)?),
            _ => return Err(ALLOWED.to_owned()),
        };
        Ok(())
    }

    fn render(&self) -> Option<String> {
        Some(quoted(&self.shown()))
    }
}

impl AuthorityUrl {
    /// Without user and password.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Embedded => "embedded".to_owned(),
            Self::Redis(url) => url.shown(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn read(text: &str) -> (RedisKind, bool, Vec<String>) {
        let url = RedisUrl::parse(text).unwrap();
        let servers = url.servers().unwrap();
        let shown = |server: &ConnectionInfo| {
            let user = server.redis_settings();
            let (name, password) = (user.username(), user.password());
            format!("{:?} {:?} {}", name.unwrap_or("-"), password.unwrap_or("-"), server.addr())
        };
        (url.kind().clone(), url.is_encrypted(), servers.iter().map(shown).collect())
    }

    #[test]
    fn each_kind_of_redis_has_its_url() {
        let single = (RedisKind::Single, true, vec!["\"me\" \"p@w\" cache:6379".to_owned()]);
        assert_eq!(read("rediss://me:p%40w@cache"), single);
        let both = |user: &str| vec![format!("{user} a:7000"), format!("{user} ::1:6379")];
        let cluster = (RedisKind::Cluster, false, both("\"-\" \"-\""));
        assert_eq!(read("redis-cluster://a:7000,[::1]"), cluster);
        let sentinel = (RedisKind::Sentinel("main".to_owned()), true, both("\"-\" \"pw\""));
        assert_eq!(read("rediss-sentinel://:pw@a:7000,[::1]/main"), sentinel);
    }

    #[test]
    fn what_is_no_such_url_is_refused() {
        for text in [
            "cache:6379",
            "http://cache",
            "redis-ring://cache",
            "redis-://cache",
            "redis://",
            "redis://cache/x",
            "rediss://cache#insecure",
            "redis-cluster://a,b/1",
            "redis-cluster://a,,b",
            "redis-sentinel://a,b",
            "redis-sentinel://a,b/",
            "redis+unix:///tmp/redis",
        ] {
            assert!(RedisUrl::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn no_password_is_shown() {
        let url = RedisUrl::parse("redis-cluster://me:hunter2@a:1,b:2").unwrap();
        assert_eq!(format!("{url:?}"), "redis-cluster://…@a:1,b:2");
    }
}
