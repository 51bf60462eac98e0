//! What a shard and control say to one another. Both directions are in-process channels:
//! reliable and in order. What crosses the network is `authority::LeaseCall` and `LeaseReply`.

use crate::catalog::CatalogChange;
use crate::units::{BucketId, ConsumerId, KeyId, NanoUsd, Nanos, Period, ServiceId};
use std::net::IpAddr;
use std::sync::Arc;

/// Keyed BLAKE3 of a key's full text, under the instance's digest key.
pub type KeyDigest = [u8; 32];

/// Length of an API key: `tg_`, 12 characters of id, 26 of secret, 7 of checksum.
pub const KEY_TEXT_BYTES: usize = 48;

/// What a verified key may do. Sent by control with a verdict, cached by the shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyGrant {
    /// The key.
    pub key: KeyId,
    /// Who pays.
    pub consumer: ConsumerId,
    /// What its rate is counted under.
    pub bucket: BucketId,
    /// Index into `Catalog::plans`.
    pub plan: u32,
    /// The instant on the shard's clock at which it stops being valid.
    pub expires_at: Option<Nanos>,
    /// Services that it may use; `None`: all.
    pub services: Option<Arc<[ServiceId]>>,
}

/// From a shard to control.
#[derive(Clone, Debug)]
pub enum ToControl {
    /// Is this key valid? Answered by [`ToShard::Verdict`]. One in flight per digest and shard.
    Verify {
        /// Who asks.
        shard: u16,
        /// Names the key in the answer.
        digest: KeyDigest,
        /// The key as the caller sent it; its checksum holds.
        text: [u8; KEY_TEXT_BYTES],
        /// The caller's address, for the budget of failures.
        peer: IpAddr,
    },
    /// Wants and reports of one rate bucket; answered by [`ToShard::Rate`] if `want > 0`.
    Rate(RateWant),
    /// Wants and reports of one quota; answered by [`ToShard::Quota`] if `want > 0`.
    Quota(QuotaWant),
    /// Count the tokens of these texts; answered by [`ToShard::Counted`] in the same order.
    Count {
        /// Who asks.
        shard: u16,
        /// Names the question in the answer.
        ticket: u64,
        /// Text whose tokens are wanted: the prompt's.
        input: Vec<u8>,
        /// The same of the completion.
        output: Vec<u8>,
    },
    /// What has the consumer's month cost so far? Answered by [`ToShard::Account`].
    Account {
        /// Who asks.
        shard: u16,
        /// Names the question in the answer.
        ticket: u64,
        /// Whose month.
        consumer: ConsumerId,
        /// Which month.
        period: Period,
    },
}

/// A shard's word on one rate bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateWant {
    /// Who asks.
    pub shard: u16,
    /// Which bucket.
    pub bucket: BucketId,
    /// Index of the plan whose rate and burst hold for it.
    pub plan: u32,
    /// The lease that `used` and `returned` belong to; 0: none.
    pub lease: u64,
    /// Tokens asked for; 0: only a report.
    pub want: u32,
    /// Of those, one for each waiting request.
    pub need: u32,
    /// Requests of the bucket since the last word, admitted and refused alike.
    pub demand: u32,
    /// Tokens spent or lapsed since the last word.
    pub used: u32,
    /// Unspent tokens given back with this word.
    pub returned: u32,
}

/// Control's answer to [`RateWant`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateGrant {
    /// Which bucket.
    pub bucket: BucketId,
    /// The lease that the tokens belong to. Those of an earlier lease have lapsed; 0: none.
    pub lease: u64,
    /// Tokens granted now.
    pub granted: u32,
    /// The first of them may be spent from here on; the j-th from `not_before + j·spacing`.
    pub not_before: Nanos,
    /// See `not_before`; zero: all at once.
    pub spacing: Nanos,
    /// Unspent tokens of the lease, earlier grants' too, lapse here.
    pub deadline: Nanos,
    /// Nobody waits for them: what lies idle may be kept until then, or until
    /// [`ToShard::RecallRate`].
    pub keep: bool,
    /// Nothing will be granted before this instant: refuse locally until then.
    pub deny_until: Nanos,
    /// For `remaining` headers: tokens in the bucket after this grant that this shard does not
    /// hold, as far as is known: the authority's, the pool's and the other shards'. Negative where
    /// the future is granted already.
    pub left: i64,
}

/// A shard's word on one consumer's month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaWant {
    /// Who asks.
    pub shard: u16,
    /// Whose month.
    pub consumer: ConsumerId,
    /// Index of the plan whose quota holds.
    pub plan: u32,
    /// Which month.
    pub period: Period,
    /// Tokens asked for; 0: only a report.
    pub want: u64,
    /// Of those, what the waiting requests cannot do without.
    pub need: u64,
    /// Fewer than these serve none of the waiting requests, and are not granted.
    pub least: u64,
    /// Tokens settled since the last word.
    pub consumed: u64,
    /// Of those, what no grant covers: calls that used more than could be reserved.
    pub overrun: u64,
    /// Unreserved tokens given back with this word.
    pub returned: u64,
}

/// Control's answer to [`QuotaWant`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaGrant {
    /// Whose month.
    pub consumer: ConsumerId,
    /// Which month.
    pub period: Period,
    /// Tokens granted; fewer than `need` only where the month has no more.
    pub granted: u64,
    /// For `remaining` headers: tokens of the month, after this grant, that are not spent and that
    /// this shard does not hold, as far as is known: the authority's, the pool's and, by their last
    /// reports, the other shards'.
    pub left: u64,
    /// Of the month no token was used before this shard asked, and none is given to any other: the
    /// one shard of an instance without others.
    pub alone: bool,
    /// The month's tokens are spent (or promised to calls in flight): refuse what needs more than
    /// `free`.
    pub exhausted: bool,
    /// Tokens that nobody holds, as far as is known: too few to be of use to who asked.
    pub free: u64,
}

/// A consumer's month in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Cost of the month's records.
    pub cost: NanoUsd,
    /// Monthly fees of the subscription services used in the month.
    pub fees: NanoUsd,
    /// Calls of the month.
    pub calls: u64,
    /// Tokens of the month, input and output.
    pub tokens: u64,
    /// The consumer's name.
    pub consumer_name: Arc<str>,
}

/// From control to a shard.
#[derive(Clone, Debug)]
pub enum ToShard {
    /// The next step of the catalog that the shard was started with.
    Catalog(Arc<CatalogChange>),
    /// Is the key valid?
    Verdict {
        /// As asked.
        digest: KeyDigest,
        /// The answer.
        verdict: Verdict,
    },
    /// Forget every cached verdict of the key: revoked, rotated or changed. A verdict asked for
    /// before this and coming after must not bring it back: control orders the two.
    Forget {
        /// Which key.
        key: KeyId,
    },
    /// Forget the cached verdicts of all keys of the consumer: its plan changed.
    ForgetConsumer {
        /// Whose keys.
        consumer: ConsumerId,
    },
    /// Tokens of a rate bucket.
    Rate(RateGrant),
    /// Tokens of the bucket are waited for elsewhere: what lies idle goes back from now on.
    RecallRate {
        /// Which bucket.
        bucket: BucketId,
    },
    /// Tokens of a month.
    Quota(QuotaGrant),
    /// Another shard is short: give back what is unreserved, by a `QuotaWant` with `want` 0.
    RecallQuota {
        /// Whose month.
        consumer: ConsumerId,
        /// Which month.
        period: Period,
    },
    /// Tokens counted.
    Counted {
        /// As asked.
        ticket: u64,
        /// Of the prompt.
        input_tokens: u32,
        /// Of the completion.
        output_tokens: u32,
    },
    /// The consumer's month in the ledger.
    Account {
        /// As asked.
        ticket: u64,
        /// The answer.
        account: Account,
    },
    /// The journal is on stable storage up to, but not including, this sequence number.
    Synced {
        /// First record that may not be.
        next_seq: u64,
    },
    /// A sync of the journal failed; repeated until the shard has moved the records in doubt.
    SyncFailed,
    /// Stop accepting, and finish.
    Drain,
}

/// Control's word on a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Valid.
    Granted(Box<KeyGrant>),
    /// Missing, wrong, revoked or expired: the caller gets the same answer for each.
    Refused,
    /// Not looked at: too many wrong keys from there, or the verifier is full. Never cached.
    Busy,
}
