//! The appender: the shard's end of its journal. An append is a checksum and a copy into mapped
//! memory: no system call, no allocation, no lock except one per segment.
//!
//! Space for the settlement of every admitted request is set aside when it is admitted, so that
//! `post` never fails: for want of space, admission is refused instead.

use super::format::{
    BLOCK_BYTES, BLOCK_SLOTS, Entry, Header, Pending, Slot, slot_crc, slot_offset, slots_in,
};
use super::lock::{JournalLock, lock_journal};
use super::mapped::PagesWriter;
use super::preallocator::{self, PreallocatorHandle, Prepared, SegmentJob, WINDOW_BYTES};
use super::shared::{JournalShared, Segment, SyncState};
use crate::channels::{RequestId, Settled};
use crate::config::{Durability, UsageConfig};
use crossbeam_channel::{Receiver, Sender, bounded};
use shard::record::Record;
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use uuid::Uuid;

/// Slots that `durability = disk` keeps in memory until they are synced (4 MiB), to move them if
/// a sync fails. Settlements to come count as well: this bounds the open requests.
const UNSYNCED_MAX: u64 = 32_768;

/// There is no space for one more request. It comes back by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalFull;

/// An admitted request whose settlement has its space set aside.
#[must_use = "an admitted request is settled by Journal::post"]
pub struct Open {
    record_id: u128,
    segment: Arc<Segment>,
    request_id: Option<RequestId>,
}

/// What became of the records that a failed sync left in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rescue {
    /// They are in a new segment; `Synced` will come for them.
    Moved,
    /// No new segment is ready; the syncer asks again soon.
    Waiting,
    /// The new segment failed as well: `Synced` never comes, and nothing is admitted any more.
    Lost,
}

/// The appender. It belongs to one shard's thread.
pub struct Journal {
    shared: Arc<JournalShared>,
    preallocator: PreallocatorHandle,
    current: Arc<Segment>,
    writer: PagesWriter,
    /// Segments to come, in order. One, unless very many requests are open.
    spares: VecDeque<Prepared>,
    prepared: (Sender<Prepared>, Receiver<Prepared>),
    spare_asked: bool,
    segment_slots: u64,
    /// Place of the next slot in the current segment.
    place: u64,
    next_seq: u64,
    post_end: u64,
    reserved_slots: u64,
    block: Block,
    /// Slots that the disk may not have yet, oldest first; `None` where nobody waits for the disk.
    unsynced: Option<VecDeque<Slot>>,
    /// Held so that nobody else removes the journal.
    _lock: JournalLock,
}

/// The checksums of the block being filled.
struct Block {
    crcs: [u8; 4 * BLOCK_SLOTS as usize],
    prev_crc: u32,
}

impl Journal {
    /// Starts a new journal in `root`, with its first segment ready.
    pub fn create(
        root: &Path,
        shard: u16,
        instance_id: u128,
        config: &UsageConfig,
        preallocator: PreallocatorHandle,
    ) -> io::Result<Self> {
        let id = Uuid::now_v7();
        let dir = root.join(id.hyphenated().to_string());
        std::fs::create_dir_all(&dir)?;
        let lock = lock_journal(&dir)?;
        preallocator::sync_dir(root)?;
        // The root may be new as well.
        root.parent().map_or(Ok(()), preallocator::sync_dir)?;
        let on_disk = config.durability == Durability::Disk;
        let segment_bytes = (config.segment_bytes / BLOCK_BYTES as u64).max(1) * BLOCK_BYTES as u64;
        let shared = Arc::new(JournalShared::new(
            id.as_u128(),
            shard,
            instance_id,
            dir,
            segment_bytes,
            config.journal_max_bytes.max(2 * segment_bytes),
            on_disk,
        ));
        let Some(Prepared { segment, writer }) = preallocator::prepare(&shared, 1)? else {
            return Err(io::ErrorKind::QuotaExceeded.into());
        };
        segment.first_seq.store(0, Ordering::Release);
        shared.begin(segment.clone());
        preallocator.send(SegmentJob::Window { segment: segment.clone(), window: 0 });
        let mut journal = Self {
            shared,
            preallocator,
            current: segment,
            writer,
            spares: VecDeque::new(),
            prepared: bounded(1),
            spare_asked: false,
            segment_slots: slots_in(segment_bytes),
            place: 0,
            next_seq: 0,
            post_end: 0,
            reserved_slots: 0,
            block: Block { crcs: [0; 4 * BLOCK_SLOTS as usize], prev_crc: 0 },
            unsynced: on_disk.then(|| VecDeque::with_capacity(UNSYNCED_MAX as usize)),
            _lock: lock,
        };
        if on_disk {
            // The way out of a failed sync.
            journal.ask_for_spare();
        }
        Ok(journal)
    }

    /// Appends a request's PENDING and sets aside space for its settlement. A request id that is
    /// empty or longer than `REQUEST_ID_BYTES_MAX` is left out.
    pub fn pending(
        &mut self,
        pending: &Pending,
        request_id: Option<&[u8]>,
    ) -> Result<Open, JournalFull> {
        let request_id = request_id.and_then(RequestId::new);
        let slots = slots_of(request_id.as_ref());
        if !self.has_room(2 * slots) {
            self.shared.full.store(true, Ordering::Relaxed);
            return Err(JournalFull);
        }
        if self.shared.is_full() {
            self.shared.full.store(false, Ordering::Relaxed);
        }
        self.put_with_text(pending.record_id, request_id, &Entry::Pending(*pending));
        self.current.opens.fetch_add(1, Ordering::AcqRel);
        self.reserved_slots += slots;
        self.publish();
        Ok(Open { record_id: pending.record_id, segment: self.current.clone(), request_id })
    }

    /// Appends how far an open request has come, unless space is short.
    pub(crate) fn checkpoint(&mut self, open: &Open, input_tokens: u32, output_tokens: u32) {
        if self.has_room(1) {
            let record_id = open.record_id;
            self.put(&Entry::Checkpoint { record_id, input_tokens, output_tokens });
            self.publish();
        }
    }

    /// Appends a request's settlement. What it returns is for the writer's channel; if that is
    /// full, drop it.
    pub fn post(&mut self, open: Open, record: &Record) -> Settled {
        let Open { record_id, segment, request_id } = open;
        assert_eq!(record_id, record.record_id);
        self.reserved_slots -= slots_of(request_id.as_ref());
        let prev_end = self.post_end;
        let entry = Entry::Post(*record, prev_end);
        let seq = self.put_with_text(record_id, request_id, &entry);
        self.post_end = seq + 1;
        self.publish();
        self.shared.post_end.store(self.post_end, Ordering::Release);
        // After the POST is visible: until then the PENDING is all there is.
        segment.opens.fetch_sub(1, Ordering::AcqRel);
        if self.unsynced.is_some() {
            self.shared.want_sync();
        }
        Settled { shard: self.shared.shard, seq, prev_end, record: *record, request_id }
    }

    /// Call it at `ToShard::SyncFailed`: it moves what the disk may not have to a new segment.
    pub(crate) fn sync_failed(&mut self) -> Rescue {
        match self.shared.sync_state() {
            SyncState::Fine | SyncState::Moved => return Rescue::Moved,
            SyncState::Lost => return Rescue::Lost,
            SyncState::Failed => {}
        }
        self.forget_synced();
        self.take_spare();
        if self.spares.is_empty() {
            self.ask_for_spare();
            return Rescue::Waiting;
        }
        let Some(unsynced) = &mut self.unsynced else { return Rescue::Moved };
        let slots: Vec<Slot> = unsynced.drain(..).collect();
        // Open requests may be counted on the old segment and written in the new: keep both.
        self.current.held.store(true, Ordering::Release);
        self.next_seq -= slots.len() as u64;
        self.begin_spare();
        self.current.held.store(true, Ordering::Release);
        for slot in &slots {
            self.put_slot(slot);
        }
        self.shared.set_sync_state(SyncState::Moved);
        self.shared.want_sync();
        Rescue::Moved
    }

    /// The sequence number that the next slot gets.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// What the other threads see.
    pub fn shared(&self) -> Arc<JournalShared> {
        self.shared.clone()
    }

    /// Ends the journal: seals the last block and syncs it. Requests still open are found as
    /// such at the next start.
    pub fn close(mut self) {
        let in_block = self.place % BLOCK_SLOTS;
        if in_block > 0 {
            self.write_header(self.place / BLOCK_SLOTS, in_block);
        }
        // A file whose sync failed is not synced again: the next one might say that all is well.
        if !self.current.poisoned.load(Ordering::Acquire)
            && let Err(error) = self.current.file.sync_data()
        {
            // The store gets the records now, and the page cache still has them.
            let path = self.current.path.display();
            tracing::error!(%path, %error, "journal not synced at its end");
        }
        self.take_spare();
        for spare in self.spares.drain(..) {
            let _ = std::fs::remove_file(&spare.segment.path);
        }
        self.shared.ended.store(true, Ordering::Release);
        if self.reserved_slots == 0 {
            self.shared.closed.store(true, Ordering::Release);
        }
        let _ = self.shared.sync_wake.0.try_send(());
    }

    /// Is there room for `slots` beside what is set aside?
    fn has_room(&mut self, slots: u64) -> bool {
        self.take_spare();
        if self.place >= self.segment_slots / 2 && self.spares.is_empty() {
            self.ask_for_spare();
        }
        // The last slot of a segment may become filler, so it does not count.
        let here = (self.segment_slots - self.place).saturating_sub(1);
        let next = self.spares.len() as u64 * (self.segment_slots - 1);
        if self.reserved_slots + slots > here + next {
            self.ask_for_spare();
            return false;
        }
        if self.unsynced.is_none() {
            return true;
        }
        self.forget_synced();
        let kept = self.unsynced.as_ref().map_or(0, VecDeque::len) as u64;
        kept + self.reserved_slots + slots <= UNSYNCED_MAX.min(self.segment_slots - 1)
            && self.shared.sync_state() != SyncState::Lost
    }

    fn put_with_text(&mut self, id: u128, text: Option<RequestId>, entry: &Entry) -> u64 {
        if let Some(text) = text {
            if self.segment_slots - self.place == 1 {
                self.put(&Entry::Pad);
            }
            self.put(&Entry::Text(id, text));
        }
        self.put(entry)
    }

    fn put(&mut self, entry: &Entry) -> u64 {
        let seq = self.next_seq;
        self.put_slot(&entry.encode(seq));
        seq
    }

    fn put_slot(&mut self, slot: &Slot) {
        if self.place == self.segment_slots {
            self.begin_spare();
        }
        let (block, in_block) = (self.place / BLOCK_SLOTS, (self.place % BLOCK_SLOTS) as usize);
        if in_block == 0 {
            self.write_header(block, 0);
        }
        let offset = slot_offset(self.place);
        self.writer.write(offset, slot);
        self.block.crcs[4 * in_block..4 * in_block + 4].copy_from_slice(&slot_crc(slot));
        self.place += 1;
        self.next_seq += 1;
        if self.place.is_multiple_of(BLOCK_SLOTS) {
            self.write_header(block, BLOCK_SLOTS);
            let end = (block + 1) as usize * BLOCK_BYTES;
            if end.is_multiple_of(WINDOW_BYTES) && self.place < self.segment_slots {
                let segment = self.current.clone();
                self.preallocator.send(SegmentJob::Window { segment, window: end / WINDOW_BYTES });
            }
        }
        if let Some(unsynced) = &mut self.unsynced {
            unsynced.push_back(*slot);
        }
    }

    /// Writes the header of the current `block`, vouching for its first `sealed` slots.
    fn write_header(&mut self, block: u64, sealed: u64) {
        let slots_crc = crc32c::crc32c(&self.block.crcs[..4 * sealed as usize]);
        let header = Header {
            journal_id: self.shared.id,
            instance_id: self.shared.instance_id,
            shard: self.shared.shard,
            segment: self.current.no,
            block: block as u32,
            first_seq: self.current.first_seq.load(Ordering::Relaxed) + block * BLOCK_SLOTS,
            sealed_slots: sealed as u16,
            slots_crc,
            prev_crc: self.block.prev_crc,
        };
        self.writer.write(block * BLOCK_BYTES as u64, &header.encode());
        if sealed == BLOCK_SLOTS {
            self.block.prev_crc = slots_crc;
        }
    }

    /// Goes on in the prepared segment, from `next_seq`.
    fn begin_spare(&mut self) {
        let spare = self.spares.pop_front();
        assert!(spare.is_some(), "an append without room");
        let Some(Prepared { segment, writer }) = spare else { return };
        segment.first_seq.store(self.next_seq, Ordering::Release);
        self.shared.begin(segment.clone());
        self.preallocator.send(SegmentJob::Window { segment: segment.clone(), window: 0 });
        let left = std::mem::replace(&mut self.current, segment);
        left.end_seq.store(self.next_seq, Ordering::Release);
        self.preallocator.send(SegmentJob::Leave { segment: left });
        self.writer = writer;
        self.place = 0;
        self.block.prev_crc = 0;
        if self.unsynced.is_some() && self.spares.is_empty() {
            self.ask_for_spare();
        }
    }

    fn take_spare(&mut self) {
        if self.spare_asked
            && let Ok(prepared) = self.prepared.1.try_recv()
        {
            self.spares.push_back(prepared);
            self.spare_asked = false;
        }
    }

    fn ask_for_spare(&mut self) {
        if !self.spare_asked {
            let (journal, to) = (self.shared.clone(), self.prepared.0.clone());
            let no = self.current.no + self.spares.len() as u32 + 1;
            self.spare_asked = self.preallocator.send(SegmentJob::Prepare { journal, no, to });
        }
    }

    fn forget_synced(&mut self) {
        let Some(unsynced) = &mut self.unsynced else { return };
        let first = self.next_seq - unsynced.len() as u64;
        let synced = self.shared.synced().saturating_sub(first);
        unsynced.drain(..(synced as usize).min(unsynced.len()));
    }

    fn publish(&self) {
        self.shared.appended.store(self.next_seq, Ordering::Release);
    }
}

fn slots_of(request_id: Option<&RequestId>) -> u64 {
    1 + u64::from(request_id.is_some())
}
