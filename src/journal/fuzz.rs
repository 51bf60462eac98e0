//! What must hold for a journal of any bytes at all; panics where it does not. The fuzz target in
//! `tests/fuzz` calls it, and so does the test that replays its corpus.
//!
//! The input: a byte of watermark, then for each segment its number, a byte that says whether its
//! checksums are to be put right (chance never would), two bytes of length, and its bytes.

use super::format::{BLOCK_BYTES, BLOCK_SLOTS, Entry, SLOT_BYTES, Slot, slot_offset};
use super::scan::{Found, Scan};
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::os::unix::fs::FileExt;

const SEGMENTS_MAX: usize = 16;

/// A scan ends, goes forward, gives only slots that are there, and reports all that is missing past
/// the watermark.
pub fn scan(input: &[u8]) {
    let Some((watermark, mut rest)) = input.split_first() else { return };
    let watermark = u64::from(*watermark);
    let mut files = Vec::new();
    while let Some((head, bytes)) = rest.split_at_checked(4) {
        let len = usize::from(u16::from_le_bytes([head[2], head[3]])).min(bytes.len());
        let mut content = bytes[..len].to_vec();
        if head[1] & 1 != 0 {
            put_right(&mut content);
        }
        if files.len() < SEGMENTS_MAX {
            files.push((u32::from(head[0]), content));
        }
        rest = &bytes[len..];
    }
    files.sort();
    let slots: Vec<(u64, Entry)> = files.iter().flat_map(|(_, bytes)| slots_of(bytes)).collect();
    // Without memory for a file there is nothing to check.
    let opened: Option<Vec<_>> =
        files.iter().map(|(no, bytes)| Some((*no, in_memory(bytes)?))).collect();
    let Some(Ok(scan)) = opened.map(|opened| Scan::of_files(opened, watermark)) else { return };
    let (mut next, mut entries) = (0, 0);
    for found in scan {
        let (from, to) = match found {
            Found::Entry { seq, entry, .. } => {
                entries += 1;
                assert!(slots.contains(&(seq, entry)), "{seq} is in no segment");
                (seq, seq + 1)
            }
            Found::Gap { from, to } => (from, to),
        };
        assert!(next <= from && from < to, "{from}..{to} comes after {next}");
        assert!(next == from || from <= watermark, "nothing is said of {next}..{from}");
        next = to;
    }
    assert!(entries <= slots.len());
}

/// Gives every slot and header the checksum that it should have.
fn put_right(content: &mut [u8]) {
    for slot in content.as_chunks_mut::<SLOT_BYTES>().0 {
        let crc = crc32c::crc32c(&slot[4..]);
        slot[..4].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Every whole slot of a segment.
fn slots_of(bytes: &[u8]) -> Vec<(u64, Entry)> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    let places = 0..(padded.len() / BLOCK_BYTES) as u64 * BLOCK_SLOTS;
    let slot = |place| {
        let at = slot_offset(place) as usize;
        Entry::decode(<&Slot>::try_from(&padded[at..at + SLOT_BYTES]).ok()?)
    };
    places.filter_map(slot).collect()
}

fn in_memory(bytes: &[u8]) -> Option<File> {
    let file = File::from(memfd_create("segment", MemfdFlags::CLOEXEC).ok()?);
    file.write_all_at(bytes, 0).ok()?;
    Some(file)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use std::path::Path;

    #[test]
    fn the_corpus_holds() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/journal");
        let mut files = 0;
        for entry in std::fs::read_dir(corpus).unwrap() {
            let input = std::fs::read(entry.unwrap().path()).unwrap();
            scan(&input);
            // Cut and broken here and there as well: a corpus is only a start.
            for at in (0..input.len()).step_by(7) {
                scan(&input[..at]);
                let mut broken = input.clone();
                broken[at] ^= 1 << (at % 8);
                scan(&broken);
            }
            files += 1;
        }
        assert!(files >= 3, "{files} files");
    }
}
