//! Decodes percent-encoding (RFC 3986, 2.1).

use std::borrow::Cow;

/// The decoded bytes. A `%` without two hex digits after it stands for itself.
pub fn decoded(encoded: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'%', encoded).is_none() {
        return Cow::Borrowed(encoded);
    }
    let (mut out, mut rest) = (Vec::with_capacity(encoded.len()), encoded);
    while let [first, after @ ..] = rest {
        rest = after;
        let mut byte = *first;
        if let (b'%', [high, low, after @ ..]) = (*first, after)
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            (byte, rest) = (high << 4 | low, after);
        }
        out.push(byte);
    }
    Cow::Owned(out)
}

fn digit(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn what_is_encoded_is_read_and_the_rest_stays() {
        for (encoded, meant) in [
            ("", ""),
            ("demo-chat", "demo-chat"),
            ("openai%2Fgpt-4o", "openai/gpt-4o"),
            ("%2f%2F", "//"),
            ("100%", "100%"),
            ("%4", "%4"),
            ("%zz%41", "%zzA"),
            ("%%41", "%A"),
        ] {
            assert_eq!(*decoded(encoded.as_bytes()), *meant.as_bytes(), "{encoded}");
        }
        assert_eq!(*decoded(b"%ff"), [0xff]);
    }
}
