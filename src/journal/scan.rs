//! Reading a journal's segments back: by the next start, by the writer where its channel dropped
//! records, and by `tollgate journal`.
//!
//! Slots are found by their sequence number: whichever segment has a whole slot of it, the newest
//! first, gives it. What no segment has is a gap, and is always reported, but for the torn end of
//! the journal, which is counted, and for segments deleted behind the watermark. Never writes.

use super::format::{BLOCK_BYTES, BLOCK_SLOTS, Entry, Header, SLOT_BYTES, Slot, slots_in};
use super::shared::JournalShared;
use crate::mail::RequestId;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// What is at the next place of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A whole slot.
    Entry {
        /// Its sequence number.
        seq: u64,
        /// Its meaning.
        entry: Entry,
        /// The caller's request id, where one was kept for it.
        request_id: Option<RequestId>,
    },
    /// Slots `from..to` are lost.
    Gap {
        /// The first.
        from: u64,
        /// One past the last.
        to: u64,
    },
}

/// One segment and what was found in it.
pub struct Source {
    /// Its file's number.
    pub no: u32,
    /// Its file.
    pub path: PathBuf,
    /// Sequence number of its first slot; `None`: nothing in it can be read.
    pub first_seq: Option<u64>,
    /// Of the first header that can be read.
    pub header: Option<Header>,
    /// Whole slots.
    pub slots: u64,
    /// Settled records among them.
    pub posts: u64,
    /// Something in it, before the journal's end, is not as it was written.
    pub damaged: bool,
    /// Bytes of slots that were being written when the process or the machine stopped.
    pub torn_bytes: u64,
    file: File,
    capacity: u64,
    block: Option<u64>,
    bytes: Box<[u8; BLOCK_BYTES]>,
    sealed: u64,
    header_bad: bool,
    last_crc: Option<(u64, u32)>,
}

/// An iterator over a journal's slots, in order of their sequence numbers.
pub struct Scan {
    /// The segments, in order of their numbers.
    pub sources: Vec<Source>,
    seq: u64,
    end: u64,
    /// Up to `end` everything was once appended: nothing is merely torn.
    live: bool,
    watermark: u64,
    run: Option<Run>,
    queued: Option<Found>,
    text: Option<(u64, RequestId)>,
    /// A block whose header can't be read: torn if it is the last one, else damaged.
    suspect: Option<(usize, u64)>,
}

/// Slots in a row that can't be read.
struct Run {
    from: u64,
    /// Up to here a sealed header vouches that there was something.
    sealed_to: u64,
    /// Slots that are not merely empty, with the last segment that has one.
    dirty_slots: u64,
    dirty_source: usize,
}

impl Scan {
    /// All of the journal in `dir`; what is below `watermark` may have been deleted.
    pub fn open(dir: &Path, watermark: u64) -> io::Result<Self> {
        let mut paths = Vec::new();
        for file in fs::read_dir(dir)? {
            let path = file?.path();
            if let Some(no) = segment_no(&path) {
                paths.push((no, path));
            }
        }
        paths.sort();
        let sources = paths.into_iter().map(|(no, path)| Source::open(no, path));
        let mut scan = Self::over(sources.collect::<io::Result<_>>()?, 0, None);
        scan.watermark = watermark;
        Ok(scan)
    }

    /// One segment alone.
    pub fn open_segment(path: &Path) -> io::Result<Self> {
        let source = Source::open(segment_no(path).unwrap_or(0), path.to_owned())?;
        let from = source.first_seq.unwrap_or(0);
        Ok(Self::over(vec![source], from, None))
    }

    /// Slots `from..to`, which have been appended, of a journal in use.
    pub fn live(journal: &JournalShared, from: u64, to: u64) -> io::Result<Self> {
        let mut sources = Vec::new();
        for segment in journal.segments() {
            let first = segment.first_seq.load(Ordering::Acquire);
            if first < to && segment.end_seq.load(Ordering::Acquire) > from {
                let mut source =
                    Source::new(segment.no, segment.path.clone(), segment.file.try_clone()?)?;
                source.first_seq = Some(first);
                sources.push(source);
            }
        }
        Ok(Self::over(sources, from, Some(to)))
    }

    fn over(sources: Vec<Source>, from: u64, to: Option<u64>) -> Self {
        let end = sources.iter().filter_map(|source| Some(source.first_seq? + source.capacity));
        let end = end.max().unwrap_or(from);
        let mut scan = Self {
            sources,
            seq: from,
            end: to.unwrap_or(end),
            live: to.is_some(),
            watermark: 0,
            run: None,
            queued: None,
            text: None,
            suspect: None,
        };
        scan.judge_unreadable();
        scan
    }

    /// A segment with bytes of which none can be read: torn if it is the last one.
    fn judge_unreadable(&mut self) {
        let last = self.sources.iter().rposition(|source| source.first_seq.is_some());
        for (at, source) in self.sources.iter_mut().enumerate() {
            source.damaged = source.torn_bytes > 0 && last.is_some_and(|last| at < last);
        }
    }

    /// Ends the run of unreadable slots before `to`, as a gap.
    fn gap(&mut self, to: u64) -> Option<Found> {
        let from = self.run.take()?.from;
        for source in &mut self.sources {
            let Some(first) = source.first_seq else { continue };
            source.damaged |= first < to && first + source.capacity > from;
        }
        Some(Found::Gap { from, to })
    }

    fn finish(&mut self) -> Option<Found> {
        let run = self.run.as_ref()?;
        if self.live {
            return self.gap(self.end);
        }
        let torn = run.dirty_slots * SLOT_BYTES as u64;
        self.sources[run.dirty_source].torn_bytes += torn;
        if run.sealed_to > run.from {
            return self.gap(self.run.as_ref()?.sealed_to);
        }
        self.run = None;
        None
    }

    /// No segment has `seq`: goes on with the next that there is.
    fn jump(&mut self) -> Option<Found> {
        let (at, seq) = (self.seq, self.seq);
        let firsts = self.sources.iter().filter_map(|source| source.first_seq);
        let next = firsts.filter(|first| *first > seq).min().unwrap_or(self.end).min(self.end);
        self.seq = next;
        let before = self.gap(at);
        let lost_from = at.max(self.watermark);
        let lost = (lost_from < next).then_some(Found::Gap { from: lost_from, to: next });
        if before.is_some() {
            self.queued = lost;
            return before;
        }
        lost
    }

    fn step(&mut self) -> Option<Found> {
        let seq = self.seq;
        let (mut covered, mut sealed, mut dirty) = (false, false, None);
        for at in (0..self.sources.len()).rev() {
            let source = &mut self.sources[at];
            let Some(place) = source.first_seq.and_then(|first| seq.checked_sub(first)) else {
                continue;
            };
            if place >= source.capacity {
                continue;
            }
            covered = true;
            let slot = *source.slot(place);
            if let Some(entry) = Entry::decode(&slot).filter(|found| found.0 == seq) {
                return Some(self.take(at, place, entry.1));
            }
            sealed |= place % BLOCK_SLOTS < source.sealed;
            if slot != [0; SLOT_BYTES] {
                dirty = Some(at);
            }
        }
        if !covered {
            return self.jump();
        }
        self.seq += 1;
        let run = self.run.get_or_insert(Run {
            from: seq,
            sealed_to: 0,
            dirty_slots: 0,
            dirty_source: 0,
        });
        if sealed {
            run.sealed_to = seq + 1;
        }
        if let Some(at) = dirty {
            run.dirty_slots += 1;
            run.dirty_source = at;
        }
        None
    }

    fn take(&mut self, at: usize, place: u64, entry: Entry) -> Found {
        let seq = self.seq;
        self.seq += 1;
        let source = &mut self.sources[at];
        source.slots += 1;
        source.posts += u64::from(matches!(entry, Entry::Post(..)));
        let here = (at, place / BLOCK_SLOTS);
        let header_bad = source.header_bad;
        if let Some(suspect) = self.suspect.filter(|suspect| *suspect != here) {
            self.sources[suspect.0].damaged = true;
            self.suspect = None;
        }
        if header_bad {
            self.suspect = Some(here);
        }
        let request_id = self.text.take().filter(|text| text.0 == seq).map(|text| text.1);
        if let Entry::Text(_, text) = entry {
            self.text = Some((seq + 1, text));
        }
        let found = Found::Entry { seq, entry, request_id };
        match self.gap(seq) {
            Some(gap) => {
                self.queued = Some(found);
                gap
            }
            None => found,
        }
    }
}

impl Iterator for Scan {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        if let Some(found) = self.queued.take() {
            return Some(found);
        }
        while self.seq < self.end {
            if let Some(found) = self.step() {
                return Some(found);
            }
        }
        self.finish()
    }
}

impl Source {
    fn open(no: u32, path: PathBuf) -> io::Result<Self> {
        let file = File::open(&path)?;
        let mut source = Self::new(no, path, file)?;
        source.probe();
        Ok(source)
    }

    fn new(no: u32, path: PathBuf, file: File) -> io::Result<Self> {
        let capacity = slots_in(file.metadata()?.len().next_multiple_of(BLOCK_BYTES as u64));
        Ok(Self {
            no,
            path,
            first_seq: None,
            header: None,
            slots: 0,
            posts: 0,
            damaged: false,
            torn_bytes: 0,
            file,
            capacity,
            block: None,
            bytes: Box::new([0; BLOCK_BYTES]),
            sealed: 0,
            header_bad: false,
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
            let by_header = header.and_then(|it| it.first_seq.checked_sub(block * BLOCK_SLOTS));
            self.first_seq = by_header.or(by_slot);
            self.header = header;
            if self.first_seq.is_some() {
                self.torn_bytes = 0;
                break;
            }
        }
        self.block = None;
    }

    fn slot(&mut self, place: u64) -> &Slot {
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
            .fold(0, |crc, at| crc32c::crc32c_append(crc, &super::format::slot_crc(self.part(at))));
        let chained = match self.last_crc {
            Some((last, crc)) if last + 1 == block => crc == header.prev_crc,
            _ => true,
        };
        self.damaged |= slots_crc != header.slots_crc || !chained;
        self.last_crc = Some((block, header.slots_crc));
    }

    /// A block that can't be read is as an empty one: its slots become a gap.
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

/// The number in a segment's file name; `None`: it is no segment.
pub fn segment_no(path: &Path) -> Option<u32> {
    if path.extension()? != "tgj" {
        return None;
    }
    path.file_stem()?.to_str()?.parse().ok()
}
