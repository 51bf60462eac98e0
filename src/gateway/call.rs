//! A call, as the stages of its way see it, and how each of them can end it.

use super::answer::Refused;
use super::route::Route;
use super::settle::Beginning;
use super::upstream::Fault;
use crate::metrics::Endpoint;
use crate::wire::error::{ApiError, Shape};
use shard::record::Outcome;

/// One call: what is known of it before anything is decided.
pub struct Call {
    /// Where it goes.
    pub route: Route,
    /// Its name in metrics.
    pub endpoint: Endpoint,
    /// How its errors look.
    pub shape: Shape,
    /// Its identity and its first instant.
    pub beginning: Beginning,
}

/// Why a call ends before it is relayed.
pub enum Stop {
    /// The client is told.
    Refused(Refused),
    /// The client is gone.
    Gone,
}

impl From<Option<ApiError>> for Stop {
    fn from(error: Option<ApiError>) -> Self {
        error.map_or(Self::Gone, Self::from)
    }
}

impl From<ApiError> for Stop {
    fn from(error: ApiError) -> Self {
        Self::Refused(error.into())
    }
}

/// After a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Wait for the next one.
    KeepAlive,
    /// Close.
    Close,
}

/// What a fault is to the caller, and to the record.
pub const fn meaning(fault: Fault) -> (ApiError, Outcome) {
    match fault {
        Fault::TimedOut => (ApiError::UpstreamTimeout, Outcome::TimedOut),
        Fault::Failed | Fault::Stale => (ApiError::UpstreamError, Outcome::UpstreamFailed),
    }
}
