//! The journal as a whole: what is appended comes back, whatever happens to the files.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::format::{BLOCK_BYTES, BLOCK_SLOTS, Entry, SLOT_BYTES, slot_offset};
use super::scan::{Found, Scan};
use super::{Journal, JournalFull, Open, Pending, Rescue, spawn_preallocator, sync};
use crate::config::{Durability, UsageConfig};
use shard::message::ToShard;
use shard::record::Record;
use shard::units::Period;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// `[usage]` with small segments.
pub(crate) fn config(segment_blocks: u64, segments: u64) -> UsageConfig {
    let segment_bytes = segment_blocks * BLOCK_BYTES as u64;
    UsageConfig {
        durability: Durability::Process,
        sync_timeout_ms: 1_000,
        segment_bytes,
        journal_max_bytes: segments * segment_bytes,
        batch_rows: 64,
        keep_days: 0,
        batch_age_ms: 10,
        default_reserve_tokens: 1,
    }
}

pub(crate) fn journal(root: &Path, config: &UsageConfig) -> Journal {
    Journal::create(root, 0, 7, config, spawn_preallocator().unwrap()).unwrap()
}

pub(crate) fn pending(n: u128) -> Pending {
    let period = Period::of(0);
    Pending { record_id: n, period, estimated_input_tokens: 5, ..Pending::default() }
}

pub(crate) fn record(n: u128) -> Record {
    Record { record_id: n, period: Period::of(0), status: 200, ..Record::default() }
}

/// Admits, however long the preallocator takes to make room.
pub(crate) fn admit(journal: &mut Journal, n: u128, request_id: Option<&[u8]>) -> Open {
    until(|| journal.pending(&pending(n), request_id).ok())
}

/// Polls with a deadline.
pub(crate) fn until<T>(mut poll: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = poll() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited too long");
        std::thread::yield_now();
    }
}

fn entries(scan: &mut Scan) -> (Vec<Entry>, Vec<(u64, u64)>) {
    let (mut entries, mut gaps) = (Vec::new(), Vec::new());
    for found in scan {
        match found {
            Found::Entry { entry, .. } => entries.push(entry),
            Found::Gap { from, to } => gaps.push((from, to)),
        }
    }
    (entries, gaps)
}

fn posts(dir: &Path) -> Vec<u128> {
    let found = entries(&mut Scan::open(dir, 0).unwrap()).0;
    found
        .into_iter()
        .filter_map(|entry| match entry {
            Entry::Post(record, _) => Some(record.record_id),
            _ => None,
        })
        .collect()
}

#[test]
fn what_is_appended_comes_back_over_segments_with_its_texts() {
    let root = tempfile::tempdir().unwrap();
    let mut journal = journal(root.path(), &config(2, 100));
    for n in 0..300u128 {
        let text = format!("request {n}");
        let text = (n % 3 == 0).then_some(text.as_bytes());
        let open = admit(&mut journal, n, text);
        journal.checkpoint(&open, 5, n as u32);
        journal.post(open, &record(n));
    }
    let dir = journal.shared().dir.clone();
    assert_eq!(posts(&dir), (0..300).collect::<Vec<_>>());
    assert!(journal.shared().segments().len() > 10);
    let mut texts = 0;
    for found in Scan::open(&dir, 0).unwrap() {
        match found {
            Found::Entry { entry: Entry::Post(record, _), request_id, .. } => {
                let expected = format!("request {}", record.record_id);
                let given = request_id.as_ref().map(|id| id.as_bytes());
                texts += usize::from(given.is_some());
                assert_eq!(given, (record.record_id % 3 == 0).then_some(expected.as_bytes()));
            }
            Found::Entry { entry: Entry::Pending(pending), request_id, .. } => {
                assert_eq!(request_id.is_some(), pending.record_id % 3 == 0);
            }
            Found::Entry { .. } => {}
            Found::Gap { from, to } => assert_eq!(from, to, "no gap"),
        }
    }
    assert_eq!(texts, 100);
    journal.close();
    assert_eq!(posts(&dir), (0..300).collect::<Vec<_>>());
}

#[test]
fn a_torn_end_is_cut_at_whatever_byte_it_tore() {
    let root = tempfile::tempdir().unwrap();
    let mut journal = journal(root.path(), &config(2, 4));
    for n in 1..=10u128 {
        let open = admit(&mut journal, n, None);
        journal.post(open, &record(n));
    }
    let dir = journal.shared().dir.clone();
    let path = dir.join("000001.tgj");
    let whole = fs::read(&path).unwrap();
    let at = slot_offset(19) as usize;
    for torn in 0..SLOT_BYTES {
        for garbage in [0u8, 0xff] {
            let mut bytes = whole.clone();
            bytes[at + torn..at + SLOT_BYTES].fill(garbage);
            let same = bytes == whole;
            fs::write(&path, &bytes).unwrap();
            let mut scan = Scan::open(&dir, 0).unwrap();
            let (found, gaps) = entries(&mut scan);
            assert_eq!(gaps, []);
            assert!(!scan.sources[0].damaged);
            assert_eq!(found.len(), if same { 20 } else { 19 });
            let dirty = bytes[at..at + SLOT_BYTES] != [0; SLOT_BYTES];
            let torn_bytes = if same || !dirty { 0 } else { SLOT_BYTES as u64 };
            assert_eq!(scan.sources[0].torn_bytes, torn_bytes);
        }
        // The same, with the file ending there.
        fs::write(&path, &whole[..at + torn]).unwrap();
        let (found, gaps) = entries(&mut Scan::open(&dir, 0).unwrap());
        assert!(gaps.is_empty() && found.len() >= 19);
    }
}

#[test]
fn a_flipped_bit_in_the_middle_shows_and_costs_one_slot() {
    let root = tempfile::tempdir().unwrap();
    let mut journal = journal(root.path(), &config(2, 20));
    for n in 0..80u128 {
        let open = admit(&mut journal, n, None);
        journal.post(open, &record(n));
    }
    let dir = journal.shared().dir.clone();
    let path = dir.join("000002.tgj");
    let whole = fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(61) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&path, &bytes).unwrap();
        let mut scan = Scan::open(&dir, 0).unwrap();
        let (found, gaps) = entries(&mut scan);
        assert!(scan.sources[1].damaged, "byte {at}");
        assert!(!scan.sources[0].damaged && !scan.sources[2].damaged);
        let in_header = at % BLOCK_BYTES < SLOT_BYTES;
        assert_eq!(found.len(), if in_header { 160 } else { 159 }, "byte {at}");
        if !in_header {
            let place = at as u64 / BLOCK_BYTES as u64 * BLOCK_SLOTS
                + (at % BLOCK_BYTES / SLOT_BYTES) as u64
                - 1;
            let seq = 2 * BLOCK_SLOTS + place;
            assert_eq!(gaps, [(seq, seq + 1)]);
        }
    }
}

#[test]
fn a_hole_before_the_end_of_a_sealed_block_is_damage_even_at_the_end() {
    let root = tempfile::tempdir().unwrap();
    let mut journal = journal(root.path(), &config(2, 4));
    let mut open = Vec::new();
    for n in 0..BLOCK_SLOTS {
        open.push(admit(&mut journal, u128::from(n), None));
    }
    let dir = journal.shared().dir.clone();
    let path = dir.join("000001.tgj");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0; SLOT_BYTES], slot_offset(30)).unwrap();
    let mut scan = Scan::open(&dir, 0).unwrap();
    assert_eq!(entries(&mut scan).1, [(30, 31)]);
    assert!(scan.sources[0].damaged);
}

#[test]
fn a_missing_segment_is_a_gap_unless_the_watermark_has_passed_it() {
    let root = tempfile::tempdir().unwrap();
    let mut journal = journal(root.path(), &config(1, 100));
    for n in 0..62u128 {
        let open = admit(&mut journal, n, None);
        journal.post(open, &record(n));
    }
    let dir = journal.shared().dir.clone();
    fs::remove_file(dir.join("000002.tgj")).unwrap();
    for (watermark, expected) in
        [(0, vec![(31, 62)]), (40, vec![(40, 62)]), (61, vec![(61, 62)]), (62, vec![])]
    {
        let (found, gaps) = entries(&mut Scan::open(&dir, watermark).unwrap());
        assert_eq!(found.len(), 93);
        assert_eq!(gaps, expected);
    }
}

#[test]
fn a_full_journal_refuses_admissions_keeps_settlements_and_recovers() {
    let root = tempfile::tempdir().unwrap();
    let mut journal = journal(root.path(), &config(1, 3));
    let mut open = std::collections::VecDeque::new();
    let mut n = 0;
    // Until it is refused, with three segments there and none to come.
    until(|| match journal.pending(&pending(n), Some(b"text")) {
        Ok(admitted) => {
            open.push_back(admitted);
            n += 1;
            None
        }
        Err(JournalFull) => (journal.shared().bytes() == 3 * 4096).then_some(()),
    });
    assert!(journal.shared().is_full());
    let last = n;
    let mut settled = 0;
    while let Some(it) = open.pop_front() {
        journal.post(it, &record(settled));
        settled += 1;
    }
    assert_eq!(settled, last);
    assert_eq!(posts(&journal.shared().dir).len() as u128, last);
    // The writer has passed them: there is room again.
    journal.shared().delete_behind(journal.next_seq());
    let admitted = admit(&mut journal, n, None);
    assert!(!journal.shared().is_full());
    journal.post(admitted, &record(n));
}

#[test]
fn a_segment_stays_while_a_request_in_it_is_open() {
    let root = tempfile::tempdir().unwrap();
    let mut journal = journal(root.path(), &config(1, 100));
    let first = admit(&mut journal, 0, None);
    for n in 1..100u128 {
        let open = admit(&mut journal, n, None);
        journal.post(open, &record(n));
    }
    let shared = journal.shared();
    let there = |no: u32| shared.dir.join(format!("{no:06}.tgj")).exists();
    shared.delete_behind(31);
    assert!(there(1) && there(2));
    shared.delete_behind(shared.appended());
    assert!(there(1) && !there(2) && !there(3), "the open one's alone, and the current one");
    journal.post(first, &record(0));
    shared.delete_behind(shared.appended());
    assert!(!there(1) && there(shared.segments()[0].no));
}

#[test]
fn synced_is_told_up_to_what_was_appended() {
    let root = tempfile::tempdir().unwrap();
    let config = UsageConfig { durability: Durability::Disk, ..config(2, 10) };
    let mut journal = journal(root.path(), &config);
    let shared = journal.shared();
    assert!(sync::step(&shared).is_none(), "nothing to sync");
    let open = admit(&mut journal, 1, None);
    assert!(sync::step(&shared).is_none(), "nobody waits for a PENDING");
    let settled = journal.post(open, &record(1));
    let told = sync::step(&shared);
    assert!(matches!(told, Some(ToShard::Synced { next_seq }) if next_seq == settled.seq + 1));
    assert!(sync::step(&shared).is_none());
}

#[test]
fn a_failed_sync_moves_what_is_in_doubt_and_a_second_one_ends_admission() {
    let root = tempfile::tempdir().unwrap();
    let config = UsageConfig { durability: Durability::Disk, ..config(2, 10) };
    let mut journal = journal(root.path(), &config);
    let shared = journal.shared();
    for n in 0..5u128 {
        let open = admit(&mut journal, n, None);
        journal.post(open, &record(n));
    }
    assert!(matches!(sync::step(&shared), Some(ToShard::Synced { next_seq: 10 })));
    let kept_open = admit(&mut journal, 5, Some(b"five"));
    for n in 6..10u128 {
        let open = admit(&mut journal, n, None);
        journal.post(open, &record(n));
    }
    shared.syncs_to_fail.store(1, Ordering::Relaxed);
    assert!(matches!(sync::step(&shared), Some(ToShard::SyncFailed)));
    assert!(matches!(sync::step(&shared), Some(ToShard::SyncFailed)), "asks again, syncs not");
    until(|| (journal.sync_failed() == Rescue::Moved).then_some(()));
    journal.post(kept_open, &record(5));
    assert!(matches!(sync::step(&shared), Some(ToShard::Synced { next_seq: 22 })));
    assert!(shared.segments()[0].poisoned.load(Ordering::Relaxed));
    // As after a power loss: the old segment has only what was synced before.
    let file = fs::OpenOptions::new().write(true).open(&shared.segments()[0].path).unwrap();
    for place in 10..2 * BLOCK_SLOTS {
        file.write_all_at(&[0; SLOT_BYTES], slot_offset(place)).unwrap();
    }
    assert_eq!(posts(&shared.dir), [0, 1, 2, 3, 4, 6, 7, 8, 9, 5]);
    // The new segment has been synced, so the next failure may move it again; two in a row may not.
    let open = admit(&mut journal, 10, None);
    journal.post(open, &record(10));
    shared.syncs_to_fail.store(2, Ordering::Relaxed);
    assert!(matches!(sync::step(&shared), Some(ToShard::SyncFailed)));
    until(|| (journal.sync_failed() == Rescue::Moved).then_some(()));
    assert!(matches!(sync::step(&shared), Some(ToShard::SyncFailed)));
    assert_eq!(journal.sync_failed(), Rescue::Lost);
    assert!(journal.pending(&pending(11), None).is_err());
    assert_eq!(shared.sync_failures(), 3);
    assert_eq!(posts(&shared.dir), [0, 1, 2, 3, 4, 6, 7, 8, 9, 5, 10]);
}

#[test]
fn the_syncer_thread_answers_by_mail_and_ends_with_the_journal() {
    let root = tempfile::tempdir().unwrap();
    let config = UsageConfig { durability: Durability::Disk, ..config(2, 10) };
    let mut journal = journal(root.path(), &config);
    let (to_shard, inbox) = flume::bounded(64);
    let shared = Arc::clone(&journal.shared());
    let syncer = sync::spawn(shared, to_shard).unwrap();
    for n in 0..20u128 {
        let open = admit(&mut journal, n, None);
        let settled = journal.post(open, &record(n));
        until(|| match inbox.try_recv() {
            Ok(ToShard::Synced { next_seq }) => (next_seq > settled.seq).then_some(()),
            _ => None,
        });
    }
    journal.close();
    syncer.join().unwrap();
}
