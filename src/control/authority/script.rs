//! The words of the lease script: what a call of it is made of, and what its answer says.
//!
//! Keys have a hash tag, so that all of a call lie on one slot of a Redis Cluster. Which group a
//! key belongs to must be the same on all instances, of whatever version.

use redis::{Cmd, Value};
use shard::lease::{
    LeaseAnswer, LeaseAsk, LeaseCall, QuotaAnswer, QuotaAsk, RateAnswer, RateAsk, Status,
};
use shard::units::{BucketId, ConsumerId, Nanos, Period};

/// The script.
pub(super) const TEXT: &str = include_str!("lease.lua");

/// Groups of keys, each with a slot and a marker of its own: enough to spread over many masters,
/// few enough that all are opened in one go.
pub(super) const GROUPS: u8 = 128;

/// What the script does for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScriptAsk {
    /// A call of the pool.
    Call(LeaseCall),
    /// The ledger's word on what a month has consumed.
    Seed { consumer: ConsumerId, period: Period, tokens: u64 },
    /// Nothing is to be granted of the bucket any more.
    Revoke(BucketId),
}

impl ScriptAsk {
    /// The group that its key belongs to.
    pub(super) fn group(&self) -> u8 {
        let id = match self {
            Self::Call(LeaseCall { ask: LeaseAsk::Rate(ask), .. }) => ask.bucket.0,
            Self::Call(LeaseCall { ask: LeaseAsk::Quota(ask), .. }) => ask.consumer.0,
            Self::Seed { consumer, .. } => consumer.0,
            Self::Revoke(bucket) => bucket.0,
        };
        (crc32c::crc32c(&id.to_le_bytes()) % u32::from(GROUPS)) as u8
    }

    fn key(&self, group: u8) -> String {
        match self {
            Self::Call(LeaseCall { ask: LeaseAsk::Rate(RateAsk { bucket, .. }), .. })
            | Self::Revoke(bucket) => bucket_key(group, *bucket),
            Self::Call(LeaseCall { ask: LeaseAsk::Quota(ask), .. }) => {
                month_key(group, ask.consumer, ask.period)
            }
            Self::Seed { consumer, period, .. } => month_key(group, *consumer, *period),
        }
    }

    fn add_to(&self, command: &mut Cmd) {
        match self {
            Self::Call(LeaseCall { seq, ask: LeaseAsk::Rate(ask), .. }) => {
                let RateAsk { rate_per_s, burst, lease, want, long_want, demand_per_s, .. } = *ask;
                let numbers = [*seq, rate_per_s, burst, lease, want, long_want, demand_per_s];
                command.arg("rate").arg(&numbers);
                command.arg(&[ask.used, ask.returned, ask.rtt.us(), ask.bucket.0]);
            }
            Self::Call(LeaseCall { seq, ask: LeaseAsk::Quota(ask), .. }) => {
                let QuotaAsk { limit, want, need, least, consumed, held, .. } = *ask;
                command.arg("quota").arg(*seq);
                match limit {
                    Some(limit) => command.arg(limit),
                    None => command.arg(-1),
                };
                command.arg(&[want, need, least, consumed, held]);
                command.arg(month_name(ask.consumer, ask.period));
            }
            Self::Seed { tokens, .. } => drop(command.arg("seed").arg(*tokens)),
            Self::Revoke(bucket) => drop(command.arg("revoke").arg(bucket.0)),
        }
    }

    /// The answer, where the ask has one.
    fn answer(&self, numbers: &[i64]) -> Option<LeaseAnswer> {
        let Self::Call(call) = self else { return None };
        let natural = |number: i64| u64::try_from(number).ok();
        let span = |number: i64| natural(number).map(Nanos::from_us);
        Some(match (call.ask, numbers) {
            (
                LeaseAsk::Rate(ask),
                &[
                    status,
                    lease,
                    granted,
                    not_before,
                    spacing_ns,
                    ttl,
                    long,
                    deny_for,
                    left,
                    holders,
                ],
            ) => LeaseAnswer::Rate(RateAnswer {
                bucket: ask.bucket,
                status: Status::of(status)?,
                lease: natural(lease)?,
                granted: natural(granted)?,
                not_before: span(not_before)?,
                spacing: Nanos(natural(spacing_ns)?),
                ttl: span(ttl)?,
                long: long != 0,
                deny_for: span(deny_for)?,
                left,
                holders: natural(holders)?,
            }),
            (LeaseAsk::Quota(ask), &[status, granted, left]) => LeaseAnswer::Quota(QuotaAnswer {
                consumer: ask.consumer,
                period: ask.period,
                status: Status::of(status)?,
                granted: natural(granted)?,
                left: natural(left)?,
            }),
            _ => return None,
        })
    }
}

/// What is known of the group's past.
pub(super) fn marker_key(group: u8) -> String {
    format!("tollgate:marker:{{{group}}}")
}

/// Written where a link begins, and never read.
pub(super) fn opened_key(group: u8) -> String {
    format!("tollgate:opened:{{{group}}}")
}

/// Where a bucket's state is.
pub(super) fn bucket_key(group: u8, bucket: BucketId) -> String {
    format!("tollgate:rate:{{{group}}}:{bucket}")
}

/// Where a month's state is.
pub(super) fn month_key(group: u8, consumer: ConsumerId, period: Period) -> String {
    format!("tollgate:quota:{{{group}}}:{consumer}:{period}")
}

/// What a month is called where it is recalled. A bucket is called by its number.
pub(super) fn month_name(consumer: ConsumerId, period: Period) -> String {
    format!("{}:{}", consumer.0, period.0)
}

/// The call of the script, known as `sha1`, that does these asks of one group. Without any it
/// opens the group.
pub(super) fn command(sha1: &str, holder: u128, group: u8, asks: &[ScriptAsk]) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(sha1).arg(asks.len() + 1).arg(marker_key(group));
    for ask in asks {
        command.arg(ask.key(group));
    }
    command.arg(format!("{holder:032x}"));
    asks.iter().for_each(|ask| ask.add_to(&mut command));
    command
}

/// The answers to the asks; of one that cannot be read, none.
pub(super) fn answers(asks: &[ScriptAsk], value: &Value) -> Vec<Option<LeaseAnswer>> {
    let Value::Array(rows) = value else { return vec![None; asks.len()] };
    let numbers = |row: &Value| match row {
        Value::Array(row) => row
            .iter()
            .map(|number| if let Value::Int(number) = number { Some(*number) } else { None })
            .collect::<Option<Vec<i64>>>(),
        _ => None,
    };
    let answer = |(ask, row): (&ScriptAsk, &Value)| ask.answer(&numbers(row)?);
    asks.iter().zip(rows).map(answer).collect()
}
