//! Bounded channels between the threads. The gateway, control and the writer meet only here.
//!
//! shard → control and control → shard are flume: its async end wakes a task on either runtime.
//! shard → writer is crossbeam: nobody is woken per record, the writer looks every few
//! milliseconds. A full channel to the writer loses nothing: the record is in the journal, and
//! the writer reads there what the channel did not bring.

use shard::message::{ToControl, ToShard};
use shard::record::{REQUEST_ID_BYTES_MAX, Record};
use std::fmt;

/// Messages on their way to control, all shards together.
pub(crate) const TO_CONTROL_MAX: usize = 65_536;
/// Messages on their way to one shard.
pub(crate) const TO_SHARD_MAX: usize = 65_536;
/// Records on their way to the writer, all shards together. Their slots are in memory for good
/// (4 MB); what does not fit is read from the journal.
pub(crate) const TO_WRITER_MAX: usize = 16_384;

/// A request id that the caller gave: 1 to [`REQUEST_ID_BYTES_MAX`] bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    len: u8,
    bytes: [u8; REQUEST_ID_BYTES_MAX],
}

impl RequestId {
    /// Keeps `text`; `None` if it is empty or too long.
    pub fn new(text: &[u8]) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        let mut bytes = [0; REQUEST_ID_BYTES_MAX];
        bytes.get_mut(..text.len())?.copy_from_slice(text);
        Some(Self { len: text.len() as u8, bytes })
    }

    /// The record's own id: the name of a request whose caller gave none.
    pub(crate) fn of_record(record_id: u128) -> Self {
        let mut bytes = [0; REQUEST_ID_BYTES_MAX];
        let len = uuid::Uuid::from_u128(record_id).hyphenated().encode_lower(&mut bytes).len();
        Self { len: len as u8, bytes }
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

/// A settled record on its way to the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Whose journal it is in.
    pub shard: u16,
    /// Its sequence number there.
    pub seq: u64,
    /// One past the sequence number of the journal's last settled record before it; 0 if it is
    /// the first. It tells the writer whether the channel has dropped any in between.
    pub prev_end: u64,
    /// The record.
    pub record: Record,
    /// The caller's request id; `None`: the record's id is the request's.
    pub request_id: Option<RequestId>,
}

impl Settled {
    /// The caller's request id, or `record_id`, the record's own as text.
    pub(crate) fn request_id_or<'a>(&'a self, record_id: &'a str) -> &'a str {
        self.given_request_id().unwrap_or(record_id)
    }

    /// The caller's request id, if it gave one.
    pub(crate) fn given_request_id(&self) -> Option<&str> {
        std::str::from_utf8(self.request_id.as_ref()?.as_bytes()).ok()
    }
}

/// A shard's ends.
pub struct ShardChannels {
    /// To control.
    pub to_control: flume::Sender<ToControl>,
    /// From control.
    pub from_control: flume::Receiver<ToShard>,
    /// To the writer.
    pub to_writer: crossbeam_channel::Sender<Settled>,
}

/// Control's ends.
pub struct ControlChannels {
    /// From all shards.
    pub from_shards: flume::Receiver<ToControl>,
    /// To each shard, by its number.
    pub to_shards: Vec<flume::Sender<ToShard>>,
}

/// The writer's ends.
pub struct WriterChannels {
    /// From all shards.
    pub records: crossbeam_channel::Receiver<Settled>,
    /// To each shard: `Synced`, `SyncFailed`.
    pub to_shards: Vec<flume::Sender<ToShard>>,
}

/// All channels of a process with `shards` shards.
pub fn open(shards: usize) -> (Vec<ShardChannels>, ControlChannels, WriterChannels) {
    let (to_control, from_shards) = flume::bounded(TO_CONTROL_MAX);
    let (to_writer, records) = crossbeam_channel::bounded(TO_WRITER_MAX);
    let mut to_shards = Vec::with_capacity(shards);
    let mut shard_channels = Vec::with_capacity(shards);
    for _ in 0..shards {
        let (to_shard, from_control) = flume::bounded(TO_SHARD_MAX);
        to_shards.push(to_shard);
        shard_channels.push(ShardChannels {
            to_control: to_control.clone(),
            from_control,
            to_writer: to_writer.clone(),
        });
    }
    let control = ControlChannels { from_shards, to_shards: to_shards.clone() };
    (shard_channels, control, WriterChannels { records, to_shards })
}
