//! One segment's file as `scan` reads it: block by block, with what its headers say of the slots.
//!
//! What can't be read counts as empty, and is marked. Never writes.

use super::format::{
    BLOCK_BYTES, BLOCK_SLOTS, Entry, Header, SLOT_BYTES, Slot, slot_crc, slots_in,
};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// One segment and what was found in it.
pub struct Source {
    /// Its file's number.
    pub no: u32,
    /// Its file.
    pub path: PathBuf,
    /// Sequence number of its first slot; `None`: nothing in it can be read.
    pub first_seq: Option<u64>,
    /// The first header that can be read.
    pub header: Option<Header>,
    /// Whole slots.
    pub slots: u64,
    /// Settled records among them.
    pub posts: u64,
    /// Something in it, before the journal's end, is not as it was written.
    pub damaged: bool,
    /// Bytes of slots that were being written when the process or the machine stopped.
    pub torn_bytes: u64,
    /// Slots that its file holds or could hold.
    pub(super) capacity: u64,
    /// Its file's length.
    pub(super) file_bytes: u64,
    /// Slots of the loaded block that its header vouches for.
    pub(super) sealed: u64,
    /// The loaded block's header can't be read, or is another's.
    pub(super) header_bad: bool,
    file: File,
    block: Option<u64>,
    bytes: Box<[u8; BLOCK_BYTES]>,
    last_crc: Option<(u64, u32)>,
}

impl Source {
    /// Opens a segment and finds its place in the journal.
    pub(super) fn open(no: u32, path: PathBuf) -> io::Result<Self> {
        let file = File::open(&path)?;
        Self::probed(no, path, file)
    }

    /// The same for an open file.
    pub(super) fn probed(no: u32, path: PathBuf, file: File) -> io::Result<Self> {
        let mut source = Self::new(no, path, file)?;
        source.probe();
        Ok(source)
    }

    /// The same without looking into it.
    pub(super) fn new(no: u32, path: PathBuf, file: File) -> io::Result<Self> {
        let file_bytes = file.metadata()?.len();
        let capacity = slots_in(file_bytes.next_multiple_of(BLOCK_BYTES as u64));
        Ok(Self {
            no,
            path,
            first_seq: None,
            header: None,
            slots: 0,
            posts: 0,
            damaged: false,
            torn_bytes: 0,
            capacity,
            file_bytes,
            sealed: 0,
            header_bad: false,
            file,
            block: None,
            bytes: Box::new([0; BLOCK_BYTES]),
            last_crc: None,
        })
    }

    /// Finds the first sequence number by the first header or slot that is whole.
    fn probe(&mut self) {
        for block in 0..self.capacity / BLOCK_SLOTS {
            self.load(block);
            self.torn_bytes += self.bytes.iter().filter(|byte| **byte != 0).count() as u64;
            let header = Header::decode(self.part(0));
            let by_slot = (0..BLOCK_SLOTS).find_map(|place| {
                let (seq, _) = Entry::decode(self.part(place + 1))?;
                seq.checked_sub(block * BLOCK_SLOTS + place)
            });
            // By the block's own number: it may have been written in another block's place.
            let by_header =
                header.and_then(|it| it.first_seq.checked_sub(u64::from(it.block) * BLOCK_SLOTS));
            let ends = |first: &u64| first.checked_add(self.capacity).is_some();
            self.first_seq = by_header.or(by_slot).filter(ends);
            self.header = header;
            if self.first_seq.is_some() {
                self.torn_bytes = 0;
                break;
            }
        }
        self.block = None;
    }

    /// The slot with this place, its block loaded.
    pub(super) fn slot(&mut self, place: u64) -> &Slot {
        let block = place / BLOCK_SLOTS;
        if self.block != Some(block) {
            self.load(block);
            self.judge_header(block);
        }
        self.part(place % BLOCK_SLOTS + 1)
    }

    fn judge_header(&mut self, block: u64) {
        let header =
            Header::decode(self.part(0)).filter(|header| u64::from(header.block) == block).filter(
                |header| Some(header.first_seq) == self.first_seq.map(|f| f + block * BLOCK_SLOTS),
            );
        self.header_bad = header.is_none();
        self.sealed = 0;
        let Some(header) = header else { return };
        self.header = self.header.or(Some(header));
        self.sealed = u64::from(header.sealed_slots).min(BLOCK_SLOTS);
        if self.sealed == 0 {
            return;
        }
        let slots_crc = (1..=self.sealed)
            .fold(0, |crc, at| crc32c::crc32c_append(crc, &slot_crc(self.part(at))));
        let chained = match self.last_crc {
            Some((last, crc)) if last + 1 == block => crc == header.prev_crc,
            _ => true,
        };
        self.damaged |= slots_crc != header.slots_crc || !chained;
        self.last_crc = Some((block, header.slots_crc));
    }

    /// Loads a block. One that can't be read counts as empty: its slots become a gap.
    fn load(&mut self, block: u64) {
        self.block = Some(block);
        self.bytes.fill(0);
        let mut read = 0;
        while read < BLOCK_BYTES {
            let at = block * BLOCK_BYTES as u64 + read as u64;
            match self.file.read_at(&mut self.bytes[read..], at) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let path = self.path.display();
                    tracing::warn!(%path, block, %error, "journal block not readable");
                    break;
                }
            }
        }
    }

    fn part(&self, at: u64) -> &Slot {
        let parts = self.bytes.as_chunks::<SLOT_BYTES>().0;
        &parts[at as usize]
    }
}
