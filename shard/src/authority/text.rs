//! What an authority keeps, as text: to compare it with another machine that keeps the same.

use super::Authority;
use super::quota::{ConsumerMonth, QuotaHolder};
use super::rate::{Bucket, RateHolder};
use crate::lease::{RateAnswer, Status};
use crate::units::{BucketId, ConsumerId, Nanos, Period};

impl Status {
    /// Its number in the words of other machines.
    pub const fn code(self) -> i64 {
        match self {
            Self::Done => 0,
            Self::Denied => 1,
            Self::AllOnLease => 2,
            Self::Revoked => 3,
            Self::Stale => 4,
            Self::NeedSeed => 5,
            Self::Fenced => 6,
        }
    }

    /// The status of a number.
    pub const fn of(code: i64) -> Option<Self> {
        Some(match code {
            0 => Self::Done,
            1 => Self::Denied,
            2 => Self::AllOnLease,
            3 => Self::Revoked,
            4 => Self::Stale,
            5 => Self::NeedSeed,
            6 => Self::Fenced,
            _ => return None,
        })
    }
}

impl Authority {
    /// A line for the bucket and one for each holder: times in microseconds, levels in
    /// micro-tokens. `None` where it knows nothing of it.
    pub fn bucket_text(&self, bucket: BucketId) -> Option<String> {
        let bucket = self.buckets.get(&bucket).filter(|bucket| !bucket.is_lost(self.open_at))?;
        let Bucket { rate_per_s, burst, revoked, level, outstanding, last, last_lease, .. } =
            bucket;
        let (last, level) = (last.us(), level / 1_000);
        let mut text = format!(
            "{rate_per_s} {burst} {} {level} {outstanding} {last} {last_lease}\n",
            u8::from(*revoked)
        );
        bucket.holders.iter().for_each(|holder| text += &rate_line(holder));
        Some(text)
    }

    /// The same for a month.
    pub fn month_text(&self, consumer: ConsumerId, period: Period) -> Option<String> {
        let month = self.quotas.get(&(consumer, period));
        let month = month.filter(|month| !month.is_lost(self.open_at))?;
        let ConsumerMonth { seeded, limit, consumed, called_at, .. } = month;
        let called_us = called_at.us();
        let mut text = format!("{} {limit} {consumed} {called_us}\n", u8::from(*seeded));
        month.holders.iter().for_each(|holder| text += &quota_line(holder));
        Some(text)
    }
}

fn rate_line(holder: &RateHolder) -> String {
    let RateHolder { id, seq, lease, outstanding, demand_per_s, reply, .. } = holder;
    let RateAnswer { status, lease: in_reply, granted, spacing, left, holders, .. } = reply;
    let (ended, long, spacing_ns) = (u8::from(holder.ended), u8::from(holder.long), spacing.0);
    let long_in_reply = u8::from(reply.long);
    let [expires, called, active, replied] =
        [holder.expires_at, holder.called_at, holder.active_until, holder.replied_at]
            .map(Nanos::us);
    let put_off = holder.put_off_since.map_or(-1, |at| at.us() as i64);
    let [first, ttl, deny] = [reply.not_before, reply.ttl, reply.deny_for].map(Nanos::us);
    let status = status.code();
    format!(
        "{id:032x} {ended} {seq} {lease} {outstanding} {long} {expires} {called} {active} \
         {put_off} {demand_per_s} {replied} {status} {in_reply} {granted} {first} {spacing_ns} \
         {ttl} {long_in_reply} {deny} {left} {holders}\n"
    )
}

fn quota_line(holder: &QuotaHolder) -> String {
    let QuotaHolder { id, seq, balance, called_at, reply } = holder;
    let (called, status) = (called_at.us(), reply.status.code());
    format!("{id:032x} {seq} {balance} {called} {status} {} {}\n", reply.granted, reply.left)
}
