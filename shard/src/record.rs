//! What one admitted request leaves behind. Flat, integers only; `journal::format` gives it its
//! 128 bytes, `writer` its row.

use crate::limits::CALL_TOKENS_MAX;
use crate::units::{ConsumerId, KeyId, NanoUsd, Period, ServiceId};

/// How an admitted request ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// The upstream's answer reached the client whole.
    #[default]
    Completed = 0,
    /// The client left before the end; what was relayed is billed.
    ClientAborted = 1,
    /// The upstream broke off, answered nonsense or could not be reached.
    UpstreamFailed = 2,
    /// The upstream was too slow.
    TimedOut = 3,
    /// The process died under it; rebuilt from the journal at the next start.
    Recovered = 4,
}

impl Outcome {
    /// Every outcome, in order of its number.
    pub const ALL: [Self; 5] = [
        Self::Completed,
        Self::ClientAborted,
        Self::UpstreamFailed,
        Self::TimedOut,
        Self::Recovered,
    ];

    /// The name that rows and metrics carry.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::ClientAborted => "client_aborted",
            Self::UpstreamFailed => "upstream_failed",
            Self::TimedOut => "timed_out",
            Self::Recovered => "recovered",
        }
    }
}

/// Tokens of one call. `cached` is a part of `input`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens, cached ones included.
    pub input_tokens: u32,
    /// Prompt tokens that the upstream served from its cache; at most `input_tokens`.
    pub cached_tokens: u32,
    /// Completion tokens.
    pub output_tokens: u32,
    /// Counted by us because the upstream reported none.
    pub estimated: bool,
}

impl Usage {
    /// Input and output together: what quota and tiers count.
    pub const fn total(&self) -> u64 {
        self.input_tokens as u64 + self.output_tokens as u64
    }

    /// The same, each count cut to [`CALL_TOKENS_MAX`].
    #[must_use]
    pub fn bounded(&self) -> Self {
        let input_tokens = self.input_tokens.min(CALL_TOKENS_MAX);
        Self {
            input_tokens,
            cached_tokens: self.cached_tokens.min(input_tokens),
            output_tokens: self.output_tokens.min(CALL_TOKENS_MAX),
            ..*self
        }
    }
}

/// Longest caller-given request id that is kept (and echoed); longer ones are replaced.
pub const REQUEST_ID_BYTES_MAX: usize = 64;

/// One usage record: one admitted request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// UUIDv7, made by us.
    pub record_id: u128,
    /// Admission, wall time, microseconds since 1970.
    pub occurred_at_unix_us: i64,
    /// The month it counts in: that of admission.
    pub period: Period,
    /// Who pays.
    pub consumer: ConsumerId,
    /// With which key.
    pub key: KeyId,
    /// For which service; its name is the row's `model`.
    pub service: ServiceId,
    /// HTTP status sent to the client; 0 in a recovered record.
    pub status: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// Answered as an event stream.
    pub streamed: bool,
    /// Tokens.
    pub usage: Usage,
    /// Version of the service's price that `cost` was made with.
    pub price_version: u32,
    /// Price of `usage`, rounded once. Zero until the ledger has priced it, where the price depends
    /// on the month or the process died before it could price.
    pub cost: NanoUsd,
    /// Calls made to the upstream.
    pub attempts: u16,
    /// First byte of the request to last byte of the answer, microseconds, saturating.
    pub latency_us: u32,
    /// First byte of the request to first byte of the upstream's answer, microseconds; 0 if none.
    pub ttft_us: u32,
    /// `latency_us` less the time spent waiting for the upstream.
    pub overhead_us: u32,
}
