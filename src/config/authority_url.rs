//! `[authority] url`: who counts rates and quotas.

use super::field::{Field, Given, Range, quoted};
use redis::IntoConnectionInfo;

/// Who counts rates and quotas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorityUrl {
    /// This process.
    Embedded,
    /// A Redis server that all instances share, by a URL that may hold a password.
    Redis(String),
}

const ALLOWED: &str = "\"embedded\" or \"redis://[[user]:password@]host[:port][/database]\"";
const ELSEWHERE: [&str; 3] = ["rediss", "redis-cluster", "redis-sentinel"];

impl Field for AuthorityUrl {
    fn assign(&mut self, given: &Given<'_>, _: Range) -> Result<(), String> {
        let text = match given {
            Given::Text(text) | Given::Variable(text) => *text,
            _ => return Err(ALLOWED.to_string()),
        };
        if text == "embedded" {
            *self = Self::Embedded;
            return Ok(());
        }
        let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
        if ELSEWHERE.contains(&scheme) {
            return Err(format!(
                "{scheme}:// is not in this version; use redis://, a single server in the clear"
            ));
        }
        if scheme != "redis" || text.into_connection_info().is_err() {
            return Err(ALLOWED.to_string());
        }
        *self = Self::Redis(text.to_string());
        Ok(())
    }

    fn render(&self) -> Option<String> {
        Some(match self {
            Self::Embedded => quoted("embedded"),
            Self::Redis(_) => quoted(&self.shown()),
        })
    }
}

impl AuthorityUrl {
    /// Without user and password.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Embedded => "embedded".to_string(),
            Self::Redis(url) => match url.rfind('@') {
                Some(at) => format!("redis://…{}", &url[at..]),
                None => url.clone(),
            },
        }
    }
}
