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
