//! `[store] url`: where the catalog and the ledger are kept.

use super::field::{Field, Given, Range, quoted};
use tokio_postgres::config::SslMode;

/// Where the catalog and the ledger are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// SQLite in `data_dir`.
    Embedded,
    /// A Postgres server, by a URL that may hold a password.
    Postgres(String),
}

const ALLOWED: &str = "\"embedded\" or \"postgres://user[:password]@host[:port]/database\"";

impl Field for StoreUrl {
    fn assign(&mut self, given: &Given<'_>, _: Range) -> Result<(), String> {
        let text = given.text().unwrap_or_default();
        if text == "embedded" {
            *self = Self::Embedded;
            return Ok(());
        }
        let is_url = text.starts_with("postgres://") || text.starts_with("postgresql://");
        // Shown, a URL loses what stands before its host and nothing else.
        let hides_password = !text.contains("password=");
        let Ok(server) = text.parse::<tokio_postgres::Config>() else {
            return Err(ALLOWED.to_string());
        };
        if !is_url || !hides_password || server.get_hosts().is_empty() {
            return Err(ALLOWED.to_string());
        }
        if !matches!(server.get_ssl_mode(), SslMode::Disable | SslMode::Prefer) {
            return Err("sslmode=disable or none: TLS to Postgres is not in this version; use a \
                 socket, a private network or a tunnel"
                .to_string());
        }
        *self = Self::Postgres(text.to_string());
        Ok(())
    }

    fn render(&self) -> Option<String> {
        Some(match self {
            Self::Embedded => quoted("embedded"),
            Self::Postgres(url) => quoted(url),
        })
    }
}
