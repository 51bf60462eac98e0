//! Bounded channels between the threads. The gateway, control and the writer meet only here.
//!
//! shard → control and control → shard are flume: its async end wakes a task on either runtime.
//! shard → writer is crossbeam: nobody is woken per record, the writer looks every few
//! milliseconds. A full channel to the writer loses nothing: the record is in the journal, and
//! the writer reads there what the channel did not bring.

use shard::message::{ToControl, ToShard};
use shard::record::Record;

/// Messages on their way to control, all shards together.
pub const TO_CONTROL_MAX: usize = 65_536;
/// Messages on their way to one shard.
pub const TO_SHARD_MAX: usize = 65_536;
/// Records on their way to the writer, all shards together.
pub const TO_WRITER_MAX: usize = 65_536;

/// A settled record on its way to the writer.
#[derive(Clone, Copy, Debug)]
pub struct Settled {
    /// Whose journal it is in.
    pub shard: u16,
    /// Its sequence number there.
    pub seq: u64,
    /// The record.
    pub record: Record,
}

/// A shard's ends.
pub struct ShardMail {
    /// To control.
    pub to_control: flume::Sender<ToControl>,
    /// From control.
    pub from_control: flume::Receiver<ToShard>,
    /// To the writer.
    pub to_writer: crossbeam_channel::Sender<Settled>,
}

/// Control's ends.
pub struct ControlMail {
    /// From all shards.
    pub from_shards: flume::Receiver<ToControl>,
    /// To each shard, by its number.
    pub to_shards: Vec<flume::Sender<ToShard>>,
}

/// The writer's ends.
pub struct WriterMail {
    /// From all shards.
    pub records: crossbeam_channel::Receiver<Settled>,
    /// To each shard: `Synced`, `SyncFailed`.
    pub to_shards: Vec<flume::Sender<ToShard>>,
}

/// All channels of a process with `shards` shards.
pub fn open(shards: usize) -> (Vec<ShardMail>, ControlMail, WriterMail) {
    let (to_control, from_shards) = flume::bounded(TO_CONTROL_MAX);
    let (to_writer, records) = crossbeam_channel::bounded(TO_WRITER_MAX);
    let mut to_shards = Vec::with_capacity(shards);
    let mut mails = Vec::with_capacity(shards);
    for _ in 0..shards {
        let (to_shard, from_control) = flume::bounded(TO_SHARD_MAX);
        to_shards.push(to_shard);
        mails.push(ShardMail {
            to_control: to_control.clone(),
            from_control,
            to_writer: to_writer.clone(),
        });
    }
    let control = ControlMail { from_shards, to_shards: to_shards.clone() };
    (mails, control, WriterMail { records, to_shards })
}
