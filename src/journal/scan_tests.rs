//! What becomes of a journal whose files are not as they were written: every kind of damage has
//! its outcome, and nothing that was written is passed over without a word.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::super::format::{BLOCK_BYTES, BLOCK_SLOTS, Entry, Header, Slot};
use super::super::tests::{admit, config, journal, record, until};
use super::{Found, Scan};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const SEGMENT_BYTES: u64 = 2 * BLOCK_BYTES as u64;
const SEGMENT_SLOTS: u64 = 2 * BLOCK_SLOTS;

/// A journal of so many slots in segments of two blocks, and a spare, as a dead process leaves it.
fn written(slots: u64) -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let mut journal = journal(root.path(), &config(2, 100));
    for n in 0..slots / 2 {
        let open = admit(&mut journal, u128::from(n), None);
        journal.post(open, &record(u128::from(n)));
    }
    let dir = journal.shared().dir.clone();
    let spare = segment(&dir, slots.div_ceil(SEGMENT_SLOTS) as u32 + 1);
    until(|| (fs::metadata(&spare).ok()?.len() == SEGMENT_BYTES).then_some(()));
    // Closed in good order, it would lose its spare, sooner or later.
    std::mem::forget(journal);
    (root, dir)
}

fn segment(dir: &Path, no: u32) -> PathBuf {
    dir.join(format!("{no:06}.tgj"))
}

/// What a scan finds: slots, gaps, the numbers of damaged segments, torn bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    slots: u64,
    gaps: Vec<(u64, u64)>,
    damaged: Vec<u32>,
    torn_bytes: u64,
}

fn outcome(dir: &Path, watermark: u64) -> Outcome {
    let mut scan = Scan::open(dir, watermark).unwrap();
    let mut outcome = Outcome::default();
    for found in &mut scan {
        match found {
            Found::Entry { .. } => outcome.slots += 1,
            Found::Gap { from, to } => outcome.gaps.push((from, to)),
        }
    }
    for source in &scan.sources {
        outcome.torn_bytes += source.torn_bytes;
        if source.damaged {
            outcome.damaged.push(source.no);
        }
    }
    outcome
}

#[test]
fn a_missing_segment_shows_by_its_number_where_no_later_one_was_begun() {
    let (_root, dir) = written(SEGMENT_SLOTS + 50);
    let whole = Outcome { slots: SEGMENT_SLOTS + 50, ..Outcome::default() };
    assert_eq!(outcome(&dir, 0), whole);
    fs::remove_file(segment(&dir, 2)).unwrap();
    // Nobody knows how many slots it had: the gap is as many as it could hold.
    let gap = (SEGMENT_SLOTS, 2 * SEGMENT_SLOTS);
    let lost = Outcome { slots: SEGMENT_SLOTS, gaps: vec![gap], ..Outcome::default() };
    assert_eq!(outcome(&dir, 0), lost);
    let gap = (SEGMENT_SLOTS + 9, 2 * SEGMENT_SLOTS);
    assert_eq!(outcome(&dir, SEGMENT_SLOTS + 9), Outcome { gaps: vec![gap], ..lost });
    fs::remove_file(segment(&dir, 1)).unwrap();
    let gap = (0, 2 * SEGMENT_SLOTS);
    assert_eq!(outcome(&dir, 0), Outcome { gaps: vec![gap], ..Outcome::default() });
}

#[test]
fn a_segment_cut_short_is_damage_in_the_middle_and_torn_at_the_end() {
    let (_root, dir) = written(2 * SEGMENT_SLOTS);
    for (keep_bytes, kept) in [(0, 0), (1, 0), (4096, 31), (4096 + 128, 31), (8172, 61)] {
        let cut = |no: u32| {
            let whole = fs::read(segment(&dir, no)).unwrap();
            fs::write(segment(&dir, no), &whole[..keep_bytes as usize]).unwrap();
            whole
        };
        let whole = cut(1);
        let found = outcome(&dir, 0);
        assert_eq!(found.slots, SEGMENT_SLOTS + kept, "{keep_bytes}");
        assert_eq!(found.gaps, [(kept, SEGMENT_SLOTS)]);
        assert_eq!(found.damaged, [1]);
        fs::write(segment(&dir, 1), whole).unwrap();
        let whole = cut(2);
        let found = outcome(&dir, 0);
        // Where a sealed header is left, it tells of the slots that were behind it.
        let vouched = usize::from(keep_bytes > BLOCK_BYTES as u64);
        assert_eq!(found.slots, SEGMENT_SLOTS + kept, "{keep_bytes}");
        assert_eq!((found.gaps.len(), found.damaged.len()), (vouched, vouched), "{found:?}");
        assert!(found.torn_bytes >= SEGMENT_BYTES - keep_bytes, "{found:?}");
        fs::write(segment(&dir, 2), whole).unwrap();
    }
}

#[test]
fn a_block_written_to_anothers_place_costs_the_two_and_no_more() {
    let (_root, dir) = written(2 * SEGMENT_SLOTS);
    let path = segment(&dir, 1);
    let mut bytes = fs::read(&path).unwrap();
    let (first, second) = bytes.split_at_mut(BLOCK_BYTES);
    first.swap_with_slice(second);
    fs::write(&path, bytes).unwrap();
    let gap = (0, SEGMENT_SLOTS);
    let expected =
        Outcome { slots: SEGMENT_SLOTS, gaps: vec![gap], damaged: vec![1], torn_bytes: 0 };
    assert_eq!(outcome(&dir, 0), expected);
}

#[test]
fn sequence_numbers_at_the_end_of_their_range_are_no_segment() {
    let root = tempfile::tempdir().unwrap();
    for seq in [u64::MAX, u64::MAX - BLOCK_SLOTS + 1] {
        let slot = Entry::Pad.encode(seq);
        let block = [[0; 128], slot].concat();
        fs::write(segment(root.path(), 1), block).unwrap();
        assert_eq!(outcome(root.path(), 0).gaps, []);
        let header: Slot = Header {
            journal_id: 1,
            instance_id: 1,
            shard: 0,
            segment: 1,
            block: 0,
            first_seq: seq,
            sealed_slots: 31,
            slots_crc: 0,
            prev_crc: 0,
        }
        .encode();
        fs::write(segment(root.path(), 1), [header, slot].concat()).unwrap();
        assert_eq!(outcome(root.path(), 0).gaps, []);
    }
}
