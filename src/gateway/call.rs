//! What all stages of a call share: the call itself, and how a stage can end it.

use super::route::Route;
use crate::channels::RequestId;
use crate::metrics::Endpoint;
use crate::wire::error::{ApiError, Shape};
use crate::wire::usage::Reported;
use shard::LimitsView;
use shard::units::Nanos;

/// One call: what is known of it before anything is decided.
pub(super) struct Call {
    /// Where it goes.
    pub route: Route,
    /// Its name in metrics.
    pub endpoint: Endpoint,
    /// How its errors look.
    pub shape: Shape,
    /// Its identity and its first instant.
    pub beginning: Beginning,
}

/// Where and when a call began.
pub(super) struct Beginning {
    /// Identity of its record.
    pub record_id: u128,
    /// Its name.
    pub request_id: CallId,
    /// When its first byte was here.
    pub begun: Nanos,
}

/// What names a call in its answer and in its record.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallId {
    text: RequestId,
    is_given: bool,
}

impl CallId {
    /// The caller's.
    pub(super) fn given(text: &[u8]) -> Option<Self> {
        Some(Self { text: RequestId::new(text)?, is_given: true })
    }

    /// Ours: the record's.
    pub(super) fn ours(record_id: u128) -> Self {
        Self { text: RequestId::of_record(record_id), is_given: false }
    }

    /// As text.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// The caller's text, where it gave one.
    pub(super) fn if_given(&self) -> Option<&[u8]> {
        self.is_given.then(|| self.as_bytes())
    }
}

/// Why a call ends before it is relayed.
pub(super) enum Stop {
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

/// A refusal on its way to the client.
#[derive(Debug)]
pub(super) struct Refused {
    /// What is wrong.
    pub error: ApiError,
    /// When it may be better.
    pub retry_after: Option<RetryAfter>,
    /// The caller's limits, where the caller is known and they matter.
    pub limits: Option<LimitsView>,
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        // Every 503 says when to come back; one second is as good a guess as any.
        let retry_after = (error.status() == 503).then_some(RetryAfter::A_SECOND);
        Self { error, retry_after, limits: None }
    }
}

/// When a refused call may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RetryAfter {
    /// From now.
    pub span: Nanos,
    /// Short enough that the milliseconds are worth telling: `retry-after-ms`, which the OpenAI
    /// SDKs prefer.
    pub in_ms: bool,
}

impl RetryAfter {
    /// Where nobody knows.
    pub(super) const A_SECOND: Self = Self { span: Nanos::from_s(1), in_ms: false };
}

/// What an answer says of the tokens that it took.
#[derive(Default)]
pub(super) struct Uncounted {
    /// As its upstream reported, perhaps in part.
    pub reported: Reported,
    /// The completion's text, where the report has no output.
    pub completion: Vec<u8>,
}

impl Uncounted {
    /// Is nothing left to be counted?
    pub(super) fn is_whole(&self) -> bool {
        self.reported.whole().is_some()
    }
}

/// After a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Wait for the next one.
    KeepAlive,
    /// Close.
    Close,
}
