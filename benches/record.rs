//! A settled record, for the journal and the ledger to take.

use crate::warm::{AT, USAGE};
use shard::record::Record;
use shard::units::{ConsumerId, KeyId, NanoUsd, Period, ServiceId};

/// The record with this id.
pub fn record(record_id: u128) -> Record {
    Record {
        record_id,
        occurred_at_unix_us: AT.unix_us,
        period: Period::of(AT.unix_us),
        consumer: ConsumerId(1),
        key: KeyId(2),
        service: ServiceId(3),
        status: 200,
        usage: USAGE,
        price_version: 1,
        cost: NanoUsd(5_000),
        attempts: 1,
        latency_us: 900,
        ..Record::default()
    }
}
