//! Every bound of the pure core, in one place. Full means a named refusal.

use crate::units::Nanos;

/// Verdicts on valid keys that one shard caches; past it the least useful one goes (CLOCK).
pub const KEYS_CACHED_MAX: usize = 65_536;
/// Verdicts on wrong keys that one shard caches, apart from the valid ones.
pub const WRONG_KEYS_CACHED_MAX: usize = 16_384;
/// How long a wrong key is refused without asking again.
pub const WRONG_KEY_TTL: Nanos = Nanos::from_s(5);
/// How long a valid verdict is used without asking again. A revocation does not wait for it.
pub const KEY_TTL: Nanos = Nanos::from_s(300);
/// Rate buckets that one shard holds slices of.
pub const BUCKETS_MAX: usize = 65_536;
/// Consumers' months that one shard holds slices of.
pub const QUOTAS_MAX: usize = 65_536;
/// Requests that one shard has admitted and not settled.
pub const PERMITS_MAX: usize = 65_536;
/// Messages to control that one shard has not yet sent.
pub const OUTBOX_MAX: usize = 65_536;
/// Rate buckets that an instance holds leases of; past it wants are denied.
pub const POOL_BUCKETS_MAX: usize = 262_144;
/// Months that an instance holds leases of; past it wants are denied.
pub const POOL_QUOTAS_MAX: usize = 262_144;
/// Rate buckets that an authority remembers. A full, idle bucket is forgotten without loss.
pub const AUTHORITY_BUCKETS_MAX: usize = 1_048_576;
/// Months that an authority remembers; an idle one is forgotten and seeded again.
pub const AUTHORITY_QUOTAS_MAX: usize = 1_048_576;
/// Instances that hold leases of one bucket or month.
pub const HOLDERS_MAX: usize = 4_096;
/// Not-before runs that an instance holds of one bucket; it asks for no more before one is spent.
pub const RUNS_MAX: usize = 8;
