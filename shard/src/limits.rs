//! Every bound of the pure core, in one place. Full means a named refusal.

use crate::units::Nanos;

/// Verdicts on valid keys that one shard caches; past it the least useful one goes (CLOCK).
pub(crate) const KEYS_CACHED_MAX: usize = 65_536;
/// Verdicts on wrong keys that one shard caches, apart from the valid ones.
pub(crate) const WRONG_KEYS_CACHED_MAX: usize = 16_384;
/// How long a wrong key is refused without asking again.
pub(crate) const WRONG_KEY_TTL: Nanos = Nanos::from_s(5);
/// How long a valid verdict is used before control is asked again, while the key goes on: at the
/// least, and so much longer at the most. Keys that were verified at one moment are spread by their
/// digests, and 10 000 keys ask 500 times a second.
pub(crate) const KEY_FRESH_MIN: Nanos = Nanos::from_s(10);
pub(crate) const KEY_FRESH_SPREAD: Nanos = Nanos::from_s(20);
/// How long a valid verdict is used where control does not answer.
pub(crate) const KEY_TTL: Nanos = Nanos::from_s(300);
/// Rate buckets that one shard holds slices of.
pub(crate) const BUCKETS_MAX: usize = 65_536;
/// Consumers' months that one shard holds slices of.
pub(crate) const QUOTAS_MAX: usize = 65_536;
/// Consumers' months on services of a price that depends on it, as one shard counts them.
pub(crate) const SERVICE_MONTHS_MAX: usize = 65_536;
/// Requests that one shard has admitted and not settled.
pub(crate) const PERMITS_MAX: usize = 65_536;
/// Messages to control that one shard has not yet sent.
pub(crate) const OUTBOX_MAX: usize = 65_536;
/// Keys about which one shard is asking control, or was turned away a moment ago.
/// More than the keys that may all call at once after a start.
pub(crate) const VERIFIES_MAX: usize = 16_384;
/// After this long without a verdict control is asked again. Longer than its queue can take.
pub(crate) const VERIFY_RETRY: Nanos = Nanos::from_s(10);
/// How long a key that control would not look at is turned away unasked.
pub(crate) const BUSY_TTL: Nanos = Nanos::from_ms(100);
/// Rate buckets that an instance holds leases of; past it wants are denied.
pub(crate) const POOL_BUCKETS_MAX: usize = 262_144;
/// Months that an instance holds leases of; past it wants are denied.
pub(crate) const POOL_QUOTAS_MAX: usize = 262_144;
/// Rate buckets that an authority remembers. A full, idle bucket is forgotten without loss.
pub(crate) const AUTHORITY_BUCKETS_MAX: usize = 1_048_576;
/// Months that an authority remembers; an idle one is forgotten and seeded again.
pub(crate) const AUTHORITY_QUOTAS_MAX: usize = 1_048_576;
/// The largest rate, and the largest burst, that an authority counts with: what an authority in
/// Redis counts has to be exact in a double.
pub const AUTHORITY_RATE_MAX: u64 = 1_000_000_000;
/// More requests per second than this are one holder's demand no more than these are.
pub const AUTHORITY_DEMAND_MAX: u64 = 1 << 22;
/// The most tokens of a month that an authority counts with, for the same reason.
pub const AUTHORITY_TOKENS_MAX: u64 = (1 << 53) - 1;
/// A longer round trip does not make a lease longer.
pub const AUTHORITY_RTT_MAX: Nanos = Nanos::from_ms(500);
/// Instances that hold leases of one bucket or month.
pub const HOLDERS_MAX: usize = 4_096;
/// Not-before runs that an instance holds of one bucket; it asks for no more before one is spent.
pub(crate) const RUNS_MAX: usize = 8;
/// Tokens of one call, input and output each, that are counted and billed; what an upstream reports
/// beyond it is cut off and counted as clamped. More than any model takes in or gives out.
///
/// With it no sum can overflow. The ledger takes 400 000 rows a second at the most (tuning.md):
/// 1.1·10¹² calls in a month of 31 days, 3.5·10¹⁰ in a day. Were all of them one consumer's on one
/// service and this large, the month's places, input and output, would come to 1.80·10¹⁹, below
/// 2⁶⁴ = 1.84·10¹⁹; a day's sum of either to 2.9·10¹⁷, below 2⁶³ = 9.2·10¹⁸. At the largest price
/// such a call costs 1.7·10¹⁴ nano-USD (168 000 USD), far below 2⁶³, and the month 1.8·10²⁶: the
/// ledger keeps a day's cost in two integers, with room for 9.2·10³⁶, and adds days in 128 bits.
pub(crate) const CALL_TOKENS_MAX: u32 = 1 << 23;
/// The largest price of 1 000 000 tokens, nano-USD: 10 000 USD, a cent a token. Fifteen times the
/// dearest that is for sale. See [`CALL_TOKENS_MAX`].
pub const PRICE_NANOUSD_MAX: u64 = 10_000_000_000_000;
