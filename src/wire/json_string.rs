//! Where a string of JSON ends. Its bytes are looked through in blocks of 64, each once: a search
//! for the next quote or backslash that starts anew at each escape costs several times as much on
//! prompts, which have an escape every few words.

use memchr::memchr2;

/// As many bytes as a mask has bits.
const BLOCK_BYTES: usize = 64;

/// The place of the closing quote of the string whose characters begin at `start`, and whether
/// there are escapes before it. `None`: there is none, or what stands before it is not allowed.
pub(super) fn string_end(text: &[u8], start: usize) -> Option<(usize, bool)> {
    let mut block_at = start;
    // Everything before this has been checked.
    let mut next = start;
    loop {
        let rest = text.get(block_at..)?;
        let mut special = match rest.first_chunk::<BLOCK_BYTES>() {
            Some(block) => special_bytes(block),
            None => special_bytes(&padded(rest)),
        };
        let was_plain = special == 0;
        while special != 0 {
            let at = block_at + special.trailing_zeros() as usize;
            special &= special - 1;
            if at < next {
                // It belongs to the escape before it.
                continue;
            }
            match text.get(at)? {
                b'"' => return Some((at, next > start)),
                b'\\' => next = at + escape_bytes(&text[at + 1..])?,
                _ => return None,
            }
        }
        block_at += BLOCK_BYTES;
        if was_plain {
            block_at += plain_run(text.get(block_at..)?)?;
        }
    }
}

/// The length of the run before the next quote or backslash. Past a block without any, the next
/// one is mostly far away, and a plain search is quickest.
fn plain_run(rest: &[u8]) -> Option<usize> {
    let bytes = memchr2(b'"', b'\\', rest)?;
    // No early exit: so it runs over many bytes at once.
    let has_control = rest[..bytes].iter().fold(false, |found, byte| found | (*byte < b' '));
    (!has_control).then_some(bytes)
}

/// A block of what is left of a text.
fn padded(rest: &[u8]) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    block[..rest.len()].copy_from_slice(rest);
    block
}

/// Which bytes of a block don't stand for themselves in a string, the first one as the lowest bit.
#[inline]
fn special_bytes(block: &[u8; BLOCK_BYTES]) -> u64 {
    /// Brings the lowest bits of eight bytes together in the highest byte.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    let mut marks = [0u8; BLOCK_BYTES];
    // No early exit: so it runs over many bytes at once.
    for (mark, byte) in marks.iter_mut().zip(block) {
        *mark = u8::from((*byte == b'"') | (*byte == b'\\') | (*byte < b' '));
    }
    if marks.iter().fold(0, |any, mark| any | mark) == 0 {
        return 0;
    }
    let words = marks.as_chunks::<8>().0.iter().enumerate();
    words.fold(0, |special, (index, word)| {
        special | u64::from_le_bytes(*word).wrapping_mul(GATHER) >> 56 << (8 * index)
    })
}

/// The length of the escape whose backslash stands before `rest`; `None`: it is not one.
fn escape_bytes(rest: &[u8]) -> Option<usize> {
    match rest.first()? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(2),
        b'u' => rest.get(1..5)?.iter().all(u8::is_ascii_hexdigit).then_some(6),
        _ => None,
    }
}

#[cfg(test)]
#[path = "json_string_tests.rs"]
mod tests;
