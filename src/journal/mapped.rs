//! A segment's file in memory: the journal's only `unsafe`.
//!
//! Written through the mapping, read through the file: nobody in this process ever reads these
//! bytes by a reference, so the one writer's copies race with nothing. The file is allocated
//! before it is mapped, and nothing in this program shortens it: a write never raises SIGBUS.
#![expect(unsafe_code, reason = "the two calls below; each says why it is sound")]

use super::format::{SLOT_BYTES, Slot};
use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};
use std::fs::File;
use std::io;
use std::sync::Arc;

/// A segment's pages, for advice from any thread.
pub struct Pages(MmapRaw);

/// The right to write a segment's pages. There is one per mapping.
pub(super) struct PagesWriter(Arc<Pages>);

/// Maps the first `bytes` of `file`, which must be allocated.
pub(super) fn map(file: &File, bytes: u64) -> io::Result<(Arc<Pages>, PagesWriter)> {
    let pages = Arc::new(Pages(MmapOptions::new().len(bytes as usize).map_raw(file)?));
    Ok((pages.clone(), PagesWriter(pages)))
}

impl Pages {
    /// Faults in `len` bytes from `offset`, or up to the end, ready to be written.
    pub(crate) fn populate(&self, offset: usize, len: usize) -> io::Result<()> {
        let len = len.min(self.0.len().saturating_sub(offset));
        if len == 0 {
            return Ok(());
        }
        self.0.advise_range(Advice::PopulateWrite, offset, len)
    }

    /// Takes `len` bytes from `offset` out of this process's memory; the page cache keeps them.
    pub fn release(&self, offset: usize, len: usize) -> io::Result<()> {
        let len = len.min(self.0.len().saturating_sub(offset));
        if len == 0 {
            return Ok(());
        }
        // SAFETY: the mapping is shared and backed by a file, so that the bytes stay in the page
        // cache and come back with the next fault; no reference into the mapping ever exists.
        unsafe { self.0.unchecked_advise_range(UncheckedAdvice::DontNeed, offset, len) }
    }
}

impl PagesWriter {
    /// Copies one slot to `offset`.
    pub(super) fn write(&mut self, offset: u64, slot: &Slot) {
        let offset = offset as usize;
        let pages = &self.0.0;
        assert!(offset.checked_add(SLOT_BYTES).is_some_and(|end| end <= pages.len()));
        // SAFETY: the range was checked against the mapping just now; the mapping lives as long
        // as `self`; `&mut self` on the only writer, and no readers, exclude a race.
        unsafe {
            std::ptr::copy_nonoverlapping(
                slot.as_ptr(),
                pages.as_mut_ptr().add(offset),
                SLOT_BYTES,
            );
        }
    }
}
