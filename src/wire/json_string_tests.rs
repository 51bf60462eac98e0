//! Tests of `json_string`, against the reader byte by byte.

use super::super::fuzz::reference;
use super::*;
use proptest::prelude::*;

#[track_caller]
fn agrees(text: &[u8], start: usize) -> Option<(usize, bool)> {
    let found = string_end(text, start);
    let shown = String::from_utf8_lossy(text);
    assert_eq!(found, reference::string_end(text, start), "from {start} of {shown:?}");
    found
}

/// What makes a difference, at each place of two blocks and a half, and cut off there.
#[test]
fn a_string_ends_where_it_does_byte_by_byte() {
    let pieces: [&[u8]; 18] = [
        b"\"",
        b"\\\"",
        b"\\\\",
        b"\\\\\"",
        b"\\\\\\\"",
        b"\\n",
        b"\\/",
        b"\\x",
        b"\\",
        b"\\u00e4",
        b"\\uD83D\\uDE00",
        b"\\u12g4",
        b"\\u12\"4",
        b"\\u",
        b"\n",
        b"\x1f",
        b"\x7f\xff",
        b"",
    ];
    for piece in pieces {
        for before in 0..160 {
            for after in [0, 1, 5, 63, 64, 130] {
                let head = [&b"x".repeat(before), piece].concat();
                let ended = [&head[..], &b"y".repeat(after), b"\", \"\\x"].concat();
                agrees(&ended, 0);
                agrees(&ended, before);
                agrees(&ended[..head.len() + after], 0);
            }
        }
    }
}

#[test]
fn what_is_found_is_the_end() {
    assert_eq!(agrees(b"\"", 0), Some((0, false)));
    assert_eq!(agrees(br#"\"""#, 0), Some((2, true)));
    assert_eq!(agrees(br#"abc" \q"#, 1), Some((3, false)));
    let escapes = [&br"\n".repeat(1_000)[..], b"\""].concat();
    assert_eq!(agrees(&escapes, 0), Some((2_000, true)));
    // From within an escape the rest is read as it stands.
    assert_eq!(agrees(&escapes, 1), Some((2_000, true)));
    assert_eq!(agrees(b"", 0), None);
    assert_eq!(agrees(b"abc", 3), None);
    assert_eq!(agrees(b"abc", 9), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_096))]
    #[test]
    fn any_text_ends_where_it_does_byte_by_byte(
        pieces in prop::collection::vec(prop_oneof![
            4 => (0usize..150).prop_map(|count| "a".repeat(count)),
            8 => prop::sample::select(vec![
                r"\n", r"\\", r#"\""#, r"\u0041", r"\t", "\u{e4}", " ", "/",
            ]).prop_map(str::to_owned),
            1 => prop::sample::select(vec!["\"", r"\", r"\u004", r"\x", "\n", "\0", "\x1f"])
                .prop_map(str::to_owned),
        ], 0..40),
        start in 0usize..70,
    ) {
        let text = pieces.concat() + "\"";
        agrees(text.as_bytes(), 0);
        agrees(text.as_bytes(), start);
    }

    #[test]
    fn any_bytes_end_where_they_do_byte_by_byte(
        text in prop::collection::vec(any::<u8>(), 0..300),
        start in 0usize..70,
    ) {
        agrees(&text, start);
    }
}
