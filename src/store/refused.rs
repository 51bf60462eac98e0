//! Records that the store will not have. No single one may stop the writer: it is kept aside in
//! `usage_dlq`, whole, in the transaction that moves the watermark past it, and told.

use crate::channels::Settled;
use crate::journal::format::{Entry, SLOT_BYTES, Slot};
use crate::store::texts;
use shard::record::Record;
use uuid::Uuid;

/// The journal's slot of a record, as `usage_dlq` keeps it.
pub(super) fn slot_of(settled: &Settled) -> Slot {
    Entry::Post(settled.record, settled.prev_end).encode(settled.seq)
}

/// What [`slot_of`] wrote; `None`: it is not readable.
pub(super) fn record_in(slot: Vec<u8>) -> Option<Record> {
    let slot: [u8; SLOT_BYTES] = slot.try_into().ok()?;
    match Entry::decode(&slot)?.1 {
        Entry::Post(record, _) => Some(record),
        _ => None,
    }
}

/// Tells whoever runs the instance.
pub(super) fn tell(journal_id: u128, settled: &Settled, reason: &str) {
    tracing::error!(
        record = texts::uuid(settled.record.record_id).as_str(),
        journal = %Uuid::from_u128(journal_id),
        seq = settled.seq,
        reason,
        "the ledger refused a record; it is kept aside: see `tollgate journal dead`"
    );
}
