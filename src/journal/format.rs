//! The journal's bytes: 128-byte slots, each with its own checksum, in blocks of 4 KiB.
//!
//! A slot is readable by itself, so that a torn or unsealed block loses no slot that was whole.
//! The block's header, sealed when the block is full, shows a flipped bit, a hole or a misplaced
//! write in the middle, which a slot alone can't. All integers are little-endian.
//!
//! Slot: crc 0..4 (of 4..128), kind 4, version 5, seq 8..16, record id 16..32, then by kind.
//! This module never touches a file.

use crate::channels::RequestId;
use shard::record::{Outcome, Record, Usage};
use shard::units::{ConsumerId, KeyId, NanoUsd, Period, ServiceId};

/// Bytes of one slot, and of a block's header.
pub const SLOT_BYTES: usize = 128;
/// Bytes of one block: a header and its slots.
pub(crate) const BLOCK_BYTES: usize = 4096;
/// Slots of one block.
pub(crate) const BLOCK_SLOTS: u64 = (BLOCK_BYTES / SLOT_BYTES - 1) as u64;
/// One slot's bytes.
pub(crate) type Slot = [u8; SLOT_BYTES];

const VERSION: u8 = 1;
const MAGIC: [u8; 4] = *b"TGJ1";
const PENDING: u8 = 1;
const CHECKPOINT: u8 = 2;
const POST: u8 = 3;
const TEXT: u8 = 4;
const PAD: u8 = 5;
const STREAMED: u8 = 1;
const ESTIMATED: u8 = 2;

/// What is known of a request when it is admitted: enough to bill it if the process dies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// As in the record to come.
    pub record_id: u128,
    /// As in the record to come.
    pub occurred_at_unix_us: i64,
    /// As in the record to come.
    pub period: Period,
    /// Who pays.
    pub consumer: ConsumerId,
    /// With which key.
    pub key: KeyId,
    /// For which service.
    pub service: ServiceId,
    /// Tokens taken from the month's quota for the call.
    pub reserved_tokens: u64,
    /// Tokens that the prompt is thought to have.
    pub estimated_input_tokens: u32,
    /// The price that will hold.
    pub price_version: u32,
    /// Asked for as an event stream.
    pub streamed: bool,
}

/// One slot's meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A request was admitted.
    Pending(Pending),
    /// So much of an open request was relayed.
    Checkpoint {
        /// Of which request.
        record_id: u128,
        /// Input so far.
        input_tokens: u32,
        /// Output so far.
        output_tokens: u32,
    },
    /// A request was settled. The number is `channels::Settled::prev_end`.
    Post(Record, u64),
    /// The caller's request id of the next slot.
    Text(u128, RequestId),
    /// Filler before a segment's end, so that a text and its slot stand in one segment.
    Pad,
}

impl Entry {
    /// The slot's bytes at `seq`, checksum included.
    pub(crate) fn encode(&self, seq: u64) -> Slot {
        let mut slot = [0; SLOT_BYTES];
        let (kind, record_id) = match self {
            Self::Pending(pending) => (PENDING, put_pending(&mut slot, pending)),
            Self::Checkpoint { record_id, input_tokens, output_tokens } => {
                put(&mut slot, 72, input_tokens.to_le_bytes());
                put(&mut slot, 80, output_tokens.to_le_bytes());
                (CHECKPOINT, *record_id)
            }
            Self::Post(record, prev_end) => {
                put(&mut slot, 112, prev_end.to_le_bytes());
                (POST, put_record(&mut slot, record))
            }
            Self::Text(record_id, text) => {
                let text = text.as_bytes();
                slot[32] = text.len() as u8;
                slot[33..33 + text.len()].copy_from_slice(text);
                (TEXT, *record_id)
            }
            Self::Pad => (PAD, 0),
        };
        slot[4] = kind;
        slot[5] = VERSION;
        put(&mut slot, 8, seq.to_le_bytes());
        put(&mut slot, 16, record_id.to_le_bytes());
        let crc = crc32c::crc32c(&slot[4..]);
        put(&mut slot, 0, crc.to_le_bytes());
        slot
    }

    /// Reads what [`Entry::encode`] wrote, with its sequence number; `None` for anything else.
    pub(crate) fn decode(slot: &Slot) -> Option<(u64, Self)> {
        if u32::from_le_bytes(get(slot, 0)) != crc32c::crc32c(&slot[4..]) || slot[5] != VERSION {
            return None;
        }
        let record_id = u128::from_le_bytes(get(slot, 16));
        let entry = match slot[4] {
            PENDING => Self::Pending(get_pending(slot, record_id)),
            CHECKPOINT => Self::Checkpoint {
                record_id,
                input_tokens: u32::from_le_bytes(get(slot, 72)),
                output_tokens: u32::from_le_bytes(get(slot, 80)),
            },
            POST => Self::Post(get_record(slot, record_id)?, u64::from_le_bytes(get(slot, 112))),
            TEXT => {
                let text = slot.get(33..33 + slot[32] as usize)?;
                Self::Text(record_id, RequestId::new(text)?)
            }
            PAD => Self::Pad,
            _ => return None,
        };
        Some((u64::from_le_bytes(get(slot, 8)), entry))
    }
}

/// The checksum inside a slot.
pub(crate) fn slot_crc(slot: &Slot) -> [u8; 4] {
    get(slot, 0)
}

/// A block's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose journal.
    pub journal_id: u128,
    /// Of which process.
    pub instance_id: u128,
    /// Of which shard.
    pub shard: u16,
    /// The segment's number, from 1.
    pub segment: u32,
    /// The block's place in the segment, from 0.
    pub block: u32,
    /// Sequence number of its first slot.
    pub first_seq: u64,
    /// Slots that it vouches for; 0: not sealed.
    pub sealed_slots: u16,
    /// CRC32C over the checksums of those slots.
    pub slots_crc: u32,
    /// `slots_crc` of the block before it in the segment; 0 in the first.
    pub prev_crc: u32,
}

impl Header {
    /// The header's bytes, checksum included.
    pub(crate) fn encode(&self) -> Slot {
        let mut slot = [0; SLOT_BYTES];
        put(&mut slot, 4, MAGIC);
        put(&mut slot, 8, self.first_seq.to_le_bytes());
        put(&mut slot, 16, self.journal_id.to_le_bytes());
        put(&mut slot, 32, self.instance_id.to_le_bytes());
        put(&mut slot, 48, self.segment.to_le_bytes());
        put(&mut slot, 52, self.block.to_le_bytes());
        put(&mut slot, 56, self.slots_crc.to_le_bytes());
        put(&mut slot, 60, self.prev_crc.to_le_bytes());
        put(&mut slot, 64, self.shard.to_le_bytes());
        put(&mut slot, 66, self.sealed_slots.to_le_bytes());
        let crc = crc32c::crc32c(&slot[4..]);
        put(&mut slot, 0, crc.to_le_bytes());
        slot
    }

    /// Reads what [`Header::encode`] wrote; `None` for anything else.
    pub(crate) fn decode(slot: &Slot) -> Option<Self> {
        let whole = u32::from_le_bytes(get(slot, 0)) == crc32c::crc32c(&slot[4..]);
        (whole && slot[4..8] == MAGIC).then(|| Self {
            journal_id: u128::from_le_bytes(get(slot, 16)),
            instance_id: u128::from_le_bytes(get(slot, 32)),
            shard: u16::from_le_bytes(get(slot, 64)),
            segment: u32::from_le_bytes(get(slot, 48)),
            block: u32::from_le_bytes(get(slot, 52)),
            first_seq: u64::from_le_bytes(get(slot, 8)),
            sealed_slots: u16::from_le_bytes(get(slot, 66)),
            slots_crc: u32::from_le_bytes(get(slot, 56)),
            prev_crc: u32::from_le_bytes(get(slot, 60)),
        })
    }
}

/// Slots that a segment of `bytes` holds.
pub(crate) const fn slots_in(bytes: u64) -> u64 {
    bytes / BLOCK_BYTES as u64 * BLOCK_SLOTS
}

/// Offset in its segment of the slot with this place.
pub(crate) const fn slot_offset(place: u64) -> u64 {
    place / BLOCK_SLOTS * BLOCK_BYTES as u64 + (place % BLOCK_SLOTS + 1) * SLOT_BYTES as u64
}

fn put_pending(slot: &mut Slot, pending: &Pending) -> u128 {
    put(slot, 32, pending.occurred_at_unix_us.to_le_bytes());
    put(slot, 40, pending.consumer.0.to_le_bytes());
    put(slot, 48, pending.key.0.to_le_bytes());
    put(slot, 56, pending.service.0.to_le_bytes());
    put(slot, 64, pending.reserved_tokens.to_le_bytes());
    put(slot, 72, pending.estimated_input_tokens.to_le_bytes());
    put(slot, 84, pending.price_version.to_le_bytes());
    put(slot, 100, pending.period.0.to_le_bytes());
    slot[109] = if pending.streamed { STREAMED } else { 0 };
    pending.record_id
}

fn get_pending(slot: &Slot, record_id: u128) -> Pending {
    Pending {
        record_id,
        occurred_at_unix_us: i64::from_le_bytes(get(slot, 32)),
        period: Period(u32::from_le_bytes(get(slot, 100))),
        consumer: ConsumerId(u64::from_le_bytes(get(slot, 40))),
        key: KeyId(u64::from_le_bytes(get(slot, 48))),
        service: ServiceId(u64::from_le_bytes(get(slot, 56))),
        reserved_tokens: u64::from_le_bytes(get(slot, 64)),
        estimated_input_tokens: u32::from_le_bytes(get(slot, 72)),
        price_version: u32::from_le_bytes(get(slot, 84)),
        streamed: slot[109] & STREAMED != 0,
    }
}

fn put_record(slot: &mut Slot, record: &Record) -> u128 {
    put(slot, 32, record.occurred_at_unix_us.to_le_bytes());
    put(slot, 40, record.consumer.0.to_le_bytes());
    put(slot, 48, record.key.0.to_le_bytes());
    put(slot, 56, record.service.0.to_le_bytes());
    put(slot, 64, record.cost.0.to_le_bytes());
    put(slot, 72, record.usage.input_tokens.to_le_bytes());
    put(slot, 76, record.usage.cached_tokens.to_le_bytes());
    put(slot, 80, record.usage.output_tokens.to_le_bytes());
    put(slot, 84, record.price_version.to_le_bytes());
    put(slot, 88, record.latency_us.to_le_bytes());
    put(slot, 92, record.ttft_us.to_le_bytes());
    put(slot, 96, record.overhead_us.to_le_bytes());
    put(slot, 100, record.period.0.to_le_bytes());
    put(slot, 104, record.status.to_le_bytes());
    put(slot, 106, record.attempts.to_le_bytes());
    slot[108] = record.outcome as u8;
    slot[109] = if record.streamed { STREAMED } else { 0 }
        | if record.usage.estimated { ESTIMATED } else { 0 };
    record.record_id
}

fn get_record(slot: &Slot, record_id: u128) -> Option<Record> {
    Some(Record {
        record_id,
        occurred_at_unix_us: i64::from_le_bytes(get(slot, 32)),
        period: Period(u32::from_le_bytes(get(slot, 100))),
        consumer: ConsumerId(u64::from_le_bytes(get(slot, 40))),
        key: KeyId(u64::from_le_bytes(get(slot, 48))),
        service: ServiceId(u64::from_le_bytes(get(slot, 56))),
        status: u16::from_le_bytes(get(slot, 104)),
        outcome: *Outcome::ALL.get(slot[108] as usize)?,
        streamed: slot[109] & STREAMED != 0,
        usage: Usage {
            input_tokens: u32::from_le_bytes(get(slot, 72)),
            cached_tokens: u32::from_le_bytes(get(slot, 76)),
            output_tokens: u32::from_le_bytes(get(slot, 80)),
            estimated: slot[109] & ESTIMATED != 0,
        },
        price_version: u32::from_le_bytes(get(slot, 84)),
        cost: NanoUsd(i64::from_le_bytes(get(slot, 64))),
        attempts: u16::from_le_bytes(get(slot, 106)),
        latency_us: u32::from_le_bytes(get(slot, 88)),
        ttft_us: u32::from_le_bytes(get(slot, 92)),
        overhead_us: u32::from_le_bytes(get(slot, 96)),
    })
}

fn put<const N: usize>(slot: &mut Slot, at: usize, bytes: [u8; N]) {
    slot[at..at + N].copy_from_slice(&bytes);
}

fn get<const N: usize>(slot: &Slot, at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&slot[at..at + N]);
    bytes
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use proptest::prelude::*;

    fn record(n: u64) -> Record {
        Record {
            record_id: u128::from(n) << 64 | 77,
            occurred_at_unix_us: n as i64,
            period: Period(n as u32),
            consumer: ConsumerId(n.rotate_left(7)),
            key: KeyId(n.rotate_left(13)),
            service: ServiceId(n.rotate_left(21)),
            status: n as u16,
            outcome: Outcome::ALL[(n % 5) as usize],
            streamed: n & 1 != 0,
            usage: Usage {
                input_tokens: n as u32,
                cached_tokens: (n >> 8) as u32,
                output_tokens: (n >> 16) as u32,
                estimated: n & 2 != 0,
            },
            price_version: (n >> 24) as u32,
            cost: NanoUsd((n as i64).wrapping_neg()),
            attempts: (n >> 3) as u16,
            latency_us: (n >> 5) as u32,
            ttft_us: (n >> 9) as u32,
            overhead_us: (n >> 11) as u32,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_entry_comes_back_and_every_flipped_bit_shows(
            n in any::<u64>(), seq in any::<u64>(), bit in 0..SLOT_BYTES * 8,
            text in proptest::collection::vec(any::<u8>(), 1..=64),
        ) {
            let pending = Pending {
                record_id: u128::from(n), occurred_at_unix_us: n as i64, period: Period(n as u32),
                consumer: ConsumerId(n), key: KeyId(!n), service: ServiceId(n / 3),
                reserved_tokens: n / 5, estimated_input_tokens: n as u32,
                price_version: (n >> 7) as u32, streamed: n & 4 != 0,
            };
            let text = RequestId::new(&text).unwrap();
            for entry in [
                Entry::Pending(pending),
                Entry::Checkpoint { record_id: 9, input_tokens: n as u32, output_tokens: 2 },
                Entry::Post(record(n), n),
                Entry::Text(u128::from(n), text),
                Entry::Pad,
            ] {
                let mut slot = entry.encode(seq);
                prop_assert_eq!(Entry::decode(&slot), Some((seq, entry)));
                slot[bit / 8] ^= 1 << (bit % 8);
                prop_assert_eq!(Entry::decode(&slot), None);
            }
            let header = Header {
                journal_id: u128::from(n), instance_id: !u128::from(n), shard: n as u16,
                segment: n as u32, block: 7, first_seq: seq, sealed_slots: 31,
                slots_crc: 5, prev_crc: 6,
            };
            let mut slot = header.encode();
            prop_assert_eq!(Header::decode(&slot), Some(header));
            slot[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Header::decode(&slot), None);
        }
    }

    #[test]
    fn an_empty_slot_is_no_entry_and_places_follow_one_another() {
        assert_eq!(Entry::decode(&[0; SLOT_BYTES]), None);
        assert_eq!(slots_in(8192), 62);
        assert_eq!(slot_offset(0), 128);
        assert_eq!(slot_offset(30), 4096 - 128);
        assert_eq!(slot_offset(31), 4096 + 128);
    }
}
