//! Reading a journal's segments back: by the next start, by the writer where its channel dropped
//! records, and by `tollgate journal`.
//!
//! Slots are found by their sequence number: whichever segment has a whole slot of it, the newest
//! first, gives it. What no segment has is a gap and always reported, except the journal's torn
//! end, which is counted, and segments deleted behind the watermark. Never writes.

use super::format::{BLOCK_SLOTS, Entry, SLOT_BYTES, slots_in};
use super::shared::JournalShared;
pub use super::source::Source;
use crate::channels::RequestId;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// What is at the next place of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
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

/// An iterator over a journal's slots, in order of their sequence numbers.
pub(crate) struct Scan {
    /// The segments, in order of their numbers.
    pub sources: Vec<Source>,
    seq: u64,
    end: u64,
    /// Up to `end` everything was once appended: nothing is merely torn.
    live: bool,
    watermark: u64,
    run: Option<UnreadableRun>,
    queued: Option<Found>,
    text: Option<(u64, RequestId)>,
    /// A block whose header can't be read: torn if it is the last one, else damaged.
    suspect: Option<(usize, u64)>,
    /// Slots that missing files may have held, between the last segment that was begun and the
    /// next, which was made after them.
    missing_slots: u64,
}

/// Slots in a row that can't be read.
struct UnreadableRun {
    from: u64,
    /// Up to here a sealed header vouches that there was something.
    sealed_to: u64,
    /// Slots that are not merely empty, with the last segment that has one.
    dirty_slots: u64,
    dirty_source: usize,
}

impl Scan {
    /// All of the journal in `dir`; what is below `watermark` may have been deleted.
    pub(crate) fn open(dir: &Path, watermark: u64) -> io::Result<Self> {
        let mut paths = Vec::new();
        for file in fs::read_dir(dir)? {
            let path = file?.path();
            if let Some(no) = segment_no(&path) {
                paths.push((no, path));
            }
        }
        paths.sort();
        let sources = paths.into_iter().map(|(no, path)| Source::open(no, path));
        Ok(Self::whole(sources.collect::<io::Result<_>>()?, watermark))
    }

    /// The same for open files, in order of their numbers.
    pub(crate) fn of_files(files: Vec<(u32, File)>, watermark: u64) -> io::Result<Self> {
        let sources = files.into_iter().map(|(no, file)| Source::probed(no, PathBuf::new(), file));
        Ok(Self::whole(sources.collect::<io::Result<_>>()?, watermark))
    }

    /// One segment alone.
    pub(crate) fn open_segment(path: &Path) -> io::Result<Self> {
        let source = Source::open(segment_no(path).unwrap_or(0), path.to_owned())?;
        let from = source.first_seq.unwrap_or(0);
        Ok(Self::over(vec![source], from, None))
    }

    /// Slots `from..to`, which have been appended, of a journal in use.
    pub(crate) fn live(journal: &JournalShared, from: u64, to: u64) -> io::Result<Self> {
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

    fn whole(sources: Vec<Source>, watermark: u64) -> Self {
        let mut scan = Self::over(sources, 0, None);
        scan.watermark = watermark;
        scan.judge_files();
        scan
    }

    fn over(sources: Vec<Source>, from: u64, to: Option<u64>) -> Self {
        let end = sources.iter().filter_map(|source| Some(source.first_seq? + source.capacity));
        let end = end.max().unwrap_or(from);
        Self {
            sources,
            seq: from,
            end: to.unwrap_or(end),
            live: to.is_some(),
            watermark: 0,
            run: None,
            queued: None,
            text: None,
            suspect: None,
            missing_slots: 0,
        }
    }

    /// Judges what the files' numbers and lengths tell before any slot is read.
    fn judge_files(&mut self) {
        let last = self.sources.iter().rposition(|source| source.first_seq.is_some());
        let whole_bytes = self.sources.iter().map(|source| source.file_bytes).max().unwrap_or(0);
        let count = self.sources.len();
        for (at, source) in self.sources.iter_mut().enumerate() {
            let short_bytes = whole_bytes - source.file_bytes;
            let is_begun = source.first_seq.is_some();
            if last.is_some_and(|last| at < last) {
                source.damaged = !is_begun || short_bytes > 0;
            } else if is_begun || at + 1 < count {
                // Except the very last, which may still have been in the making.
                source.torn_bytes += short_bytes;
            }
        }
        let next = self.sources.get(last.map_or(0, |last| last + 1)).map_or(0, |next| next.no);
        let last_no = last.map_or(0, |last| self.sources[last].no);
        let missing = next.saturating_sub(last_no).saturating_sub(1);
        self.missing_slots = u64::from(missing) * slots_in(whole_bytes);
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
        let Some(run) = &self.run else { return self.missing_segments() };
        if self.live {
            return self.gap(self.end);
        }
        if run.sealed_to < self.end {
            // The last segment was not full, so none was begun after it.
            self.missing_slots = 0;
        }
        let torn = run.dirty_slots * SLOT_BYTES as u64;
        self.sources[run.dirty_source].torn_bytes += torn;
        if run.sealed_to > run.from {
            return self.gap(self.run.as_ref()?.sealed_to);
        }
        self.run = None;
        None
    }

    fn missing_segments(&mut self) -> Option<Found> {
        let to = self.end.saturating_add(std::mem::take(&mut self.missing_slots));
        let from = self.end.max(self.watermark);
        (from < to).then_some(Found::Gap { from, to })
    }

    /// No segment has `seq`: goes on with the next slot that there is.
    fn jump(&mut self) -> Option<Found> {
        let (at, seq) = (self.seq, self.seq);
        let firsts = self.sources.iter().filter_map(|source| source.first_seq);
        let next = firsts.filter(|first| *first > seq).min().unwrap_or(self.end).min(self.end);
        self.seq = next;
        if self.run.is_some() && self.watermark <= at && at < next {
            return self.gap(next);
        }
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
        let run = self.run.get_or_insert(UnreadableRun {
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

/// The number in a segment's file name; `None`: it is no segment.
pub(crate) fn segment_no(path: &Path) -> Option<u32> {
    if path.extension()? != "tgj" {
        return None;
    }
    path.file_stem()?.to_str()?.parse().ok()
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
