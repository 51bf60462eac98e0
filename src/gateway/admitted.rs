//! An admitted call, from its PENDING in the journal to its record there. Nothing else consumes a
//! permit, so nothing else can bill.

use super::call::Beginning;
use super::core::Core;
use super::mailbox;
use crate::clock;
use crate::journal::{JournalFull, Open, Pending};
use crate::wire::error::ApiError;
use shard::key_cache::Caller;
use shard::permit::Permit;
use shard::record::{Outcome, Record, Usage};
use shard::units::{NanoUsd, Nanos};

/// A call that has its permit and its place in the journal.
#[must_use]
pub(super) struct Admitted {
    /// Who calls.
    pub caller: Caller,
    /// Index of the service.
    pub service: u32,
    /// Calls made to the upstream.
    pub attempts: u16,
    /// Answered as an event stream.
    pub streamed: bool,
    /// Time spent waiting for others: for the upstream, and for a client that is slow.
    pub waited: Nanos,
    /// When the upstream's answer began.
    pub first_byte_at: Option<Nanos>,
    permit: Permit,
    open: Open,
    record_id: u128,
    begun: Nanos,
    input_estimate: u32,
    checkpoint: Checkpoint,
}

/// A stream has a CHECKPOINT in the journal after so many tokens or so much time, whichever comes
/// first. A process that is killed leaves less than that of a stream unbilled.
const CHECKPOINT_TOKENS: u32 = 8;
const CHECKPOINT_EVERY: Nanos = Nanos::from_ms(100);

/// The last CHECKPOINT.
#[derive(Clone, Copy)]
struct Checkpoint {
    output_tokens: u32,
    at: Nanos,
}

/// What settling brought.
pub(super) struct Bill {
    /// Who is billed.
    pub caller: Caller,
    /// Price of the call; `None`: the ledger will decide on it.
    pub cost: Option<NanoUsd>,
    /// Its record's place in the journal.
    pub seq: u64,
}

impl Admitted {
    /// Puts the PENDING of a permit into the journal. Where it has no room, or is closed already,
    /// the permit is settled at zero: nothing was admitted.
    pub(super) fn begin(
        core: &Core,
        permit: Permit,
        caller: Caller,
        (input_estimate, streamed): (u32, bool),
        beginning: &Beginning,
    ) -> Result<Self, ApiError> {
        let pending = Pending {
            record_id: beginning.record_id,
            occurred_at_unix_us: permit.admitted_at_unix_us(),
            period: permit.period(),
            consumer: permit.consumer(),
            key: permit.key(),
            service: permit.service_id(),
            price_version: permit.price_version(),
            reserved_tokens: permit.reserved_tokens(),
            estimated_input_tokens: input_estimate,
            streamed,
        };
        let mut journal = core.journal.borrow_mut();
        let request_id = beginning.request_id.if_given();
        let error = match journal.as_mut().map(|journal| journal.pending(&pending, request_id)) {
            Some(Ok(open)) => {
                return Ok(Self::opened(permit, open, caller, input_estimate, beginning));
            }
            Some(Err(JournalFull)) => ApiError::JournalFull,
            None => ApiError::Overloaded,
        };
        let _ = core.shard.borrow_mut().settle(permit, &Usage::default(), clock::moment_lately());
        if matches!(error, ApiError::JournalFull) {
            core.metrics().journal_full.add(1);
        }
        Err(error)
    }

    fn opened(
        permit: Permit,
        open: Open,
        caller: Caller,
        input_estimate: u32,
        beginning: &Beginning,
    ) -> Self {
        Self {
            caller,
            service: permit.service(),
            attempts: 0,
            streamed: false,
            waited: Nanos(0),
            first_byte_at: None,
            permit,
            open,
            record_id: beginning.record_id,
            begun: beginning.begun,
            input_estimate,
            checkpoint: Checkpoint { output_tokens: 0, at: beginning.begun },
        }
    }

    /// Notes how far a stream has come, once it has come far enough or for long enough, so that a
    /// crash bills it. To be called before what is counted leaves. `input_tokens`: if reported.
    pub(super) fn checkpoint(
        &mut self,
        core: &Core,
        input_tokens: Option<u32>,
        output_tokens: u32,
    ) {
        let (last, now) = (self.checkpoint, clock::lately());
        let more = output_tokens.saturating_sub(last.output_tokens);
        let is_due = more >= CHECKPOINT_TOKENS || now.since(last.at) >= CHECKPOINT_EVERY;
        if more == 0 || !is_due {
            return;
        }
        self.checkpoint = Checkpoint { output_tokens, at: now };
        let input_tokens = input_tokens.unwrap_or(self.input_estimate);
        if let Some(journal) = core.journal.borrow_mut().as_mut() {
            journal.checkpoint(&self.open, input_tokens, output_tokens);
        }
    }

    /// Prices the call as far as it can be priced here, refunds what was reserved too much, and
    /// puts the record into the journal and on its way to the writer.
    pub(super) fn settle(self, core: &Core, status: u16, outcome: Outcome, usage: &Usage) -> Bill {
        clock::tick();
        let at = clock::moment_lately();
        let counted = usage.bounded();
        if counted != *usage {
            core.metrics().tokens_clamped.add(1);
            tracing::warn!(record = %uuid::Uuid::from_u128(self.record_id), ?usage, "more tokens \
                reported than any call has; cut to the largest count that is billed");
        }
        let usage = &counted;
        let mut record = Record {
            record_id: self.record_id,
            occurred_at_unix_us: self.permit.admitted_at_unix_us(),
            period: self.permit.period(),
            consumer: self.permit.consumer(),
            key: self.permit.key(),
            service: self.permit.service_id(),
            status,
            outcome,
            streamed: self.streamed,
            usage: *usage,
            attempts: self.attempts,
            latency_us: micros(at.now.since(self.begun)),
            ttft_us: self.first_byte_at.map_or(0, |first| micros(first.since(self.begun))),
            overhead_us: micros(Nanos(at.now.since(self.begun).0.saturating_sub(self.waited.0))),
            ..Record::default()
        };
        let priced = core.shard.borrow_mut().settle(self.permit, usage, at);
        record.price_version = priced.price_version;
        record.cost = priced.cost.unwrap_or_default();
        mailbox::post(core);
        let settled = match core.journal.borrow_mut().as_mut() {
            Some(journal) => journal.post(self.open, &record),
            // The journal goes only after the last admitted call has been settled.
            None => unreachable!("a call outlived its journal"),
        };
        mailbox::hand_over(core, settled);
        let metrics = core.metrics();
        metrics.consumption(self.service, outcome, usage);
        // Usage was asked for wherever it does not come unasked: an upstream that leaves it out is
        // a matter for the operator, since all that it serves is only estimated.
        if usage.estimated && usage.total() > 0 && outcome == Outcome::Completed {
            metrics.usage_unreported(self.service, self.streamed);
        }
        metrics.overhead(u64::from(record.overhead_us));
        Bill { caller: self.caller, cost: priced.cost, seq: settled.seq }
    }
}

fn micros(span: Nanos) -> u32 {
    u32::try_from(span.0 / 1_000).unwrap_or(u32::MAX)
}
