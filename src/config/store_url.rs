//! `[store] url`: where the catalog and the ledger are kept.

use super::field::{Field, Given, Range, quoted};
use std::fmt;
use tokio_postgres::config::{Host, SslMode};

/// Where the catalog and the ledger are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// SQLite in `data_dir`.
    Embedded,
    /// A Postgres server.
    Postgres(PostgresUrl),
}

/// What a server has to prove before anything is said to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerProof {
    /// Nothing (`disable`, `prefer`, no mode): what it offers is encrypted, whoever it is.
    None,
    /// That a trusted authority has issued its certificate (`verify-ca`).
    Authority,
    /// And that the certificate is the host's (`require`, `verify-full`).
    Host,
}

/// The URL of a Postgres server. It may hold a password.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    text: String,
    /// The same as the driver reads it.
    for_driver: String,
    /// What the server has to prove.
    pub proof: ServerProof,
}

const ALLOWED: &str = "\"embedded\" or \"postgres://user[:password]@host[:port]/database\"";
/// Modes that the driver does not tell apart.
const VERIFYING: [(&str, ServerProof); 2] =
    [("sslmode=verify-ca", ServerProof::Authority), ("sslmode=verify-full", ServerProof::Host)];

impl PostgresUrl {
    /// Reads it, or says what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let not_one = || ALLOWED.to_string();
        let is_url = text.starts_with("postgres://") || text.starts_with("postgresql://");
        // Shown, a URL loses what stands before its host and nothing else.
        if !is_url || text.contains("password=") {
            return Err(not_one());
        }
        let (server, parameters) = text.split_once('?').unwrap_or((text, ""));
        let mut proof = None;
        let known = |parameter: &str| {
            let verifying = VERIFYING.iter().find(|(mode, _)| *mode == parameter);
            verifying.map_or(parameter.to_owned(), |(_, asked)| {
                proof = Some(*asked);
                "sslmode=require".to_owned()
            })
        };
        let parameters: Vec<String> = parameters.split('&').map(known).collect();
        let for_driver = match parameters.join("&") {
            none if none.is_empty() => server.to_owned(),
            some => format!("{server}?{some}"),
        };
        let read: tokio_postgres::Config = for_driver.parse().map_err(|_| not_one())?;
        if read.get_hosts().is_empty() {
            return Err(not_one());
        }
        let proof = match read.get_ssl_mode() {
            SslMode::Disable | SslMode::Prefer => ServerProof::None,
            _ => proof.unwrap_or(ServerProof::Host),
        };
        let is_socket = |host: &Host| matches!(host, Host::Unix(_));
        if proof != ServerProof::None && read.get_hosts().iter().any(is_socket) {
            return Err("no sslmode with a socket of this host: nothing on it is encrypted".into());
        }
        Ok(Self { text: text.to_owned(), for_driver, proof })
    }

    /// As the driver takes it: of the modes of TLS it knows `disable`, `prefer` and `require`.
    pub fn for_driver(&self) -> &str {
        &self.for_driver
    }

    /// Without user and password.
    fn shown(&self) -> String {
        match (self.text.split_once("://"), self.text.rfind('@')) {
            (Some((scheme, _)), Some(at)) => format!("{scheme}://…{}", &self.text[at..]),
            _ => self.text.clone(),
        }
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Field for StoreUrl {
    fn assign(&mut self, given: &Given<'_>, _: Range) -> Result<(), String> {
        *self = match given.text().unwrap_or_default() {
            "embedded" => Self::Embedded,
            text => Self::Postgres(PostgresUrl::parse(text)?),
        };
        Ok(())
    }

    fn render(&self) -> Option<String> {
        Some(match self {
            Self::Embedded => quoted("embedded"),
            Self::Postgres(url) => quoted(&url.text),
        })
    }
}

impl Field for Option<PostgresUrl> {
    fn assign(&mut self, given: &Given<'_>, _: Range) -> Result<(), String> {
        *self = Some(PostgresUrl::parse(given.text().unwrap_or_default())?);
        Ok(())
    }

    fn render(&self) -> Option<String> {
        self.as_ref().map(|url| quoted(&url.text))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn each_mode_says_what_the_server_has_to_prove() {
        let proof = |parameters: &str| {
            let url = format!("postgres://me@db/ledger{parameters}");
            PostgresUrl::parse(&url).unwrap().proof
        };
        for none in ["", "?sslmode=disable", "?sslmode=prefer", "?connect_timeout=3"] {
            assert_eq!(proof(none), ServerProof::None, "{none}");
        }
        assert_eq!(proof("?sslmode=verify-ca"), ServerProof::Authority);
        assert_eq!(proof("?sslmode=verify-full"), ServerProof::Host);
        assert_eq!(proof("?sslmode=require"), ServerProof::Host, "none is encrypted to anybody");
        let url = PostgresUrl::parse("postgres://me@db/x?a&sslmode=verify-ca&b");
        assert!(url.is_err(), "a parameter that the driver does not know");
        let url = PostgresUrl::parse("postgres://me@db/x?connect_timeout=3&sslmode=verify-full");
        let for_driver = "postgres://me@db/x?connect_timeout=3&sslmode=require";
        assert_eq!(url.unwrap().for_driver(), for_driver);
    }

    #[test]
    fn no_password_is_shown() {
        for (text, shown) in [
            ("postgres://me:hunter2@db/x?sslmode=require", "postgres://…@db/x?sslmode=require"),
            ("postgres://me:hunter%402@a:1,b:2/x", "postgres://…@a:1,b:2/x"),
            ("postgres://db/x", "postgres://db/x"),
        ] {
            let url = PostgresUrl::parse(text).unwrap();
            assert_eq!(format!("{url:?}"), shown);
            assert_eq!(format!("{:?}", StoreUrl::Postgres(url)), format!("Postgres({shown})"));
        }
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let refusal = |url: &str| PostgresUrl::parse(url).unwrap_err();
        assert!(refusal("postgres://me@db/x?sslmode=verify").contains("postgres://"));
        assert!(refusal("postgres://me@%2Ftmp/x?sslmode=verify-full").contains("socket"));
        assert!(refusal("postgres://db/x?password=p").contains("postgres://"));
    }
}
