//! Why a call brought no (whole) answer: what a retry, the caller, the operator and the record each
//! need to know of it.

use crate::metrics::Phase;
use std::fmt;
use std::io;
use std::rc::Rc;

/// What ended it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cause {
    /// The host's name has not been found.
    NoAddress,
    /// Its certificate is no good for it, or TLS failed otherwise.
    Tls(Rc<rustls::Error>),
    /// A deadline passed, or the drain's did.
    Deadline,
    /// The upstream closed the connection.
    Closed,
    /// The socket failed.
    Socket(io::ErrorKind),
    /// What came is not HTTP.
    Nonsense,
    /// A success that is not what its route promises.
    NotItsRoute,
}

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fault {
    /// How far the call had come.
    pub phase: Phase,
    /// A program of the upstream may have read the whole request, and acted on it: to send it again
    /// would be to call twice.
    pub heard: bool,
    /// What ended it.
    pub cause: Cause,
}

impl From<io::ErrorKind> for Cause {
    fn from(kind: io::ErrorKind) -> Self {
        Self::Socket(kind)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress => f.write_str("its host has no known address"),
            Self::Tls(error) => write!(f, "{error}"),
            Self::Deadline => f.write_str("a deadline passed"),
            Self::Closed => f.write_str("it closed the connection"),
            Self::Socket(kind) => kind.fmt(f),
            Self::Nonsense => f.write_str("it sent what is not HTTP"),
            Self::NotItsRoute => f.write_str("its success is not what the route promises"),
        }
    }
}
