//! Postgres' errors, as the store's.

use crate::store::error::{CatalogError, LedgerError, StoreError};
use rustls::CertificateError;
use std::error::Error as _;
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        let why = told(&error);
        match error.code() {
            Some(code) if !is_away(code) => Self::Failed(why),
            None if error.source().and_then(untrusted).is_some() => Self::Failed(why),
            _ => Self::Away(why),
        }
    }
}

impl From<Error> for CatalogError {
    fn from(error: Error) -> Self {
        match error.code() {
            Some(&SqlState::UNIQUE_VIOLATION) => Self::Duplicate,
            Some(&SqlState::QUERY_CANCELED | &SqlState::LOCK_NOT_AVAILABLE) => Self::TooSlow,
            Some(code) if !is_away(code) => Self::Internal(told(&error)),
            _ => Self::Away(told(&error)),
        }
    }
}

impl From<Error> for LedgerError {
    fn from(error: Error) -> Self {
        let why = reason(&error);
        if is_refusal(&error) { Self::Row(why) } else { Self::Unavailable(why) }
    }
}

/// The server, and not what it was asked: a connection (08), resources (53), an operator (57), or
/// a server that only reads at the moment (a replica that is to be promoted).
fn is_away(code: &SqlState) -> bool {
    matches!(code.code().get(..2), Some("08" | "53" | "57"))
        || *code == SqlState::READ_ONLY_SQL_TRANSACTION
}

/// Is the record at fault, and not the store? So it is where its data is (22), where it breaks a
/// constraint (23) or where a trigger refuses it (P0). All else is tried again: a lost connection,
/// a full disk, a deadlock, a missing right.
pub(super) fn is_refusal(error: &Error) -> bool {
    let class = error.code().and_then(|code| code.code().get(..2));
    matches!(class, Some("22" | "23" | "P0"))
}

/// What the server says, or what became of the connection.
pub(super) fn reason(error: &Error) -> String {
    match error.as_db_error() {
        Some(said) => said.message().to_owned(),
        None => match error.source() {
            Some(cause) => untrusted(cause).unwrap_or_else(|| format!("{error}: {cause}")),
            None => error.to_string(),
        },
    }
}

fn told(error: &Error) -> String {
    format!("the store (Postgres) failed: {}", reason(error))
}

/// What is wrong with the server's certificate, if that is it.
fn untrusted(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    let inner = cause.downcast_ref::<std::io::Error>()?.get_ref()?;
    let rustls::Error::InvalidCertificate(why) = inner.downcast_ref()? else { return None };
    Some(match why {
        CertificateError::UnknownIssuer => "the server's certificate is not trusted: neither a \
             public authority nor one of store.ca_file has issued it"
            .to_owned(),
        CertificateError::BadSignature => {
            "the server's certificate is not trusted: an authority of \
             the name that it was issued by is known, and has another key"
                .to_owned()
        }
        why => format!("the server's certificate is not trusted: {why}"),
    })
}

/// The server did not answer in time.
pub(super) struct TooLong;

const TOO_LONG: &str = "the store (Postgres) does not answer";

impl From<TooLong> for LedgerError {
    fn from(_: TooLong) -> Self {
        Self::Unavailable(TOO_LONG.to_owned())
    }
}

impl From<TooLong> for CatalogError {
    fn from(_: TooLong) -> Self {
        Self::Away(TOO_LONG.to_owned())
    }
}

impl From<TooLong> for StoreError {
    fn from(_: TooLong) -> Self {
        Self::Away(TOO_LONG.to_owned())
    }
}
