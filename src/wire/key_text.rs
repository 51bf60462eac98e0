//! An API key as text: `tg_`, 12 characters of key id, 26 of secret, 7 of checksum.
//!
//! The checksum lets a mistyped or random key be refused without a lookup; it proves nothing.
//! What is read here is a secret: no type of this file holds the secret part, so none can log it.

use shard::message::KEY_TEXT_BYTES;
use shard::units::{BASE32, ID_CHARS, base32_digit, id_from_text, id_to_text};
use std::ops::Range;

/// What every key begins with.
pub(crate) const PREFIX: &[u8] = b"tg_";
/// Where the secret's characters are.
pub const SECRET: Range<usize> = 15..41;
const ID: Range<usize> = 3..15;
const CHECKSUM_CHARS: usize = KEY_TEXT_BYTES - SECRET.end;

const _: () = assert!(ID.end - ID.start == ID_CHARS && SECRET.end - SECRET.start == 26);

/// A key whose checksum holds. Whether it is anybody's is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyText {
    /// The key id.
    pub id: u64,
}

/// Reads a key; `None` for what cannot be one.
pub fn parse(text: &[u8]) -> Option<KeyText> {
    let text: &[u8; KEY_TEXT_BYTES] = text.try_into().ok()?;
    if !text.starts_with(PREFIX) || text[SECRET.end..] != checksum(&text[..SECRET.end]) {
        return None;
    }
    // 128 bits in 26 characters leave the first two bits of 130 clear.
    let is_secret =
        text[SECRET].iter().all(|byte| base32_digit(*byte).is_some()) && text[SECRET.start] <= b'7';
    let id = id_from_text(&text[ID])?;
    is_secret.then_some(KeyText { id })
}

/// Writes a key.
pub(crate) fn compose(id: u64, secret: &[u8; 16]) -> [u8; KEY_TEXT_BYTES] {
    let mut text = [0u8; KEY_TEXT_BYTES];
    text[..PREFIX.len()].copy_from_slice(PREFIX);
    text[ID].copy_from_slice(&id_to_text(id));
    write_base32(u128::from_be_bytes(*secret), &mut text[SECRET]);
    let checksum = checksum(&text[..SECRET.end]);
    text[SECRET.end..].copy_from_slice(&checksum);
    text
}

fn checksum(text: &[u8]) -> [u8; CHECKSUM_CHARS] {
    let mut out = [0u8; CHECKSUM_CHARS];
    write_base32(u128::from(crc32c::crc32c(text)), &mut out);
    out
}

fn write_base32(mut number: u128, out: &mut [u8]) {
    for byte in out.iter_mut().rev() {
        *byte = BASE32[(number & 31) as usize];
        number >>= 5;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shard::units::ID_MAX;

    #[test]
    fn the_text_form_is_fixed() {
        assert_eq!(
            String::from_utf8_lossy(&compose(1, &[0xff; 16])),
            "tg_0000000000017zzzzzzzzzzzzzzzzzzzzzzzzz3d8atv7"
        );
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let key = compose(7, &[3; 16]);
        for wrong in [&b""[..], b"tg_", &key[1..], &key[..47], &key.to_ascii_uppercase()] {
            assert_eq!(parse(wrong), None);
        }
        // Right checksums over a secret of more than 128 bits, and over foreign characters.
        for (at, byte) in [(SECRET.start, b'8'), (20, b'u'), (5, b'l'), (0, b'x')] {
            let mut text = key;
            text[at] = byte;
            let checksum = checksum(&text[..SECRET.end]);
            text[SECRET.end..].copy_from_slice(&checksum);
            assert_eq!(parse(&text), None);
        }
    }

    proptest! {
        #[test]
        fn what_was_composed_is_read(id in 0..=ID_MAX, secret: [u8; 16]) {
            prop_assert_eq!(parse(&compose(id, &secret)), Some(KeyText { id }));
        }

        #[test]
        fn one_wrong_character_is_noticed(secret: [u8; 16], at in 0usize..48, byte: u8) {
            let key = compose(9, &secret);
            let mut wrong = key;
            wrong[at] = byte;
            prop_assert_eq!(parse(&wrong).is_some(), wrong == key);
        }
    }
}
