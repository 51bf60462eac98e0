//! Tests of `json`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use proptest::prelude::*;
use serde::de::IgnoredAny;

/// The verdict on any text, whatever its top level is.
fn verdict(text: &[u8]) -> Result<(), JsonError> {
    std::str::from_utf8(text).map_err(|_| JsonError::Malformed)?;
    let mut reader = Reader::new(text);
    while reader.next_token()?.is_some() {}
    Ok(())
}

fn reference(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

fn members(text: &str) -> Result<Vec<(String, String)>, JsonError> {
    let mut found = Vec::new();
    scan_object(text.as_bytes(), |key, value| {
        let mut decoded = Vec::new();
        key.decode_into(&mut decoded);
        let raw = String::from_utf8_lossy(value.raw).into_owned();
        found.push((String::from_utf8_lossy(&decoded).into_owned(), raw));
    })?;
    Ok(found)
}

#[test]
fn members_are_reported_in_order() {
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(
        members(r#" {"a" : [1, {"b":"}"}] ,"m\u006fd\"el":"x\\" , "c":-0.5e+3,"d":{} } "#),
        Ok(vec![
            pair("a", r#"[1, {"b":"}"}]"#),
            pair("mod\"el", r#""x\\""#),
            pair("c", "-0.5e+3"),
            pair("d", "{}"),
        ])
    );
    assert_eq!(members("[1]"), Err(JsonError::NotAnObject));
    assert_eq!(members("{\"a\":1}x"), Err(JsonError::Malformed));
}

#[test]
fn depth_is_bounded() {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert_eq!(verdict(nested(64).as_bytes()), Ok(()));
    assert_eq!(verdict(nested(65).as_bytes()), Err(JsonError::TooDeep));
    assert_eq!(verdict("{\"a\":".repeat(100_000).as_bytes()), Err(JsonError::TooDeep));
    let mixed = format!("{}1{}", "{\"a\":[".repeat(32), "]}".repeat(32));
    assert_eq!(verdict(mixed.as_bytes()), Ok(()));
}

#[test]
fn escaped_text_equals_its_decoded_form() {
    for (raw, plain) in [
        (r"mod\u0065l", "model"),
        (r"\ud83d\ude00!", "\u{1f600}!"),
        (r"\ud800x", "\u{fffd}x"),
        (r"\udc00\ud800", "\u{fffd}\u{fffd}"),
        (r"\ud800\u0041", "\u{fffd}A"),
        (r#"\"\\\/\b\f\n\r\t"#, "\"\\/\u{8}\u{c}\n\r\t"),
        (r"\u0000", "\0"),
    ] {
        let quoted = format!("\"{raw}\"");
        let text = Reader::new(quoted.as_bytes()).next_value().unwrap().as_text().unwrap();
        assert!(text.is(plain), "{raw}");
        assert!(!text.is("") && !text.is(&format!("{plain}x")) && !text.is(&format!("x{plain}")));
        let mut decoded = Vec::new();
        text.decode_into(&mut decoded);
        assert_eq!(String::from_utf8(decoded).unwrap(), plain);
    }
}

#[test]
fn values_give_what_they_are() {
    let text = br#"{"n":18446744073709551615,"f":1.0,"m":-1,"e":1e3,"b":false,"a":[1,[2],"x"]}"#;
    let value = Reader::new(text).next_value().unwrap();
    assert_eq!(value.member("n").unwrap().as_u64(), Some(u64::MAX));
    for name in ["f", "m", "e", "b"] {
        assert_eq!(value.member(name).unwrap().as_u64(), None, "{name}");
    }
    assert_eq!(value.member("b").unwrap().as_bool(), Some(false));
    let elements: Vec<&[u8]> =
        value.member("a").unwrap().elements().map(|element| element.raw).collect();
    assert_eq!(elements, [&b"1"[..], b"[2]", b"\"x\""]);
    assert_eq!(value.elements().count() + value.member("n").unwrap().members().count(), 0);
}

#[test]
fn bad_grammar_is_refused_as_the_reference_does() {
    for text in [
        "",
        " ",
        "{",
        "}",
        "[",
        "]",
        "[1,]",
        "[,1]",
        "{,}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{1:1}",
        "[1}",
        "{\"a\":1]",
        "01",
        "-",
        "-01",
        "1.",
        ".1",
        "1e",
        "1e+",
        "+1",
        "0x1",
        "NaN",
        "tru",
        "truex",
        "nul",
        "1 2",
        "\"",
        "\"\\",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"a\nb\"",
        "\"\u{7f}\"",
        "\u{feff}{}",
        "[1 2]",
        "{\"a\" 1}",
        "\"a\"\"b\"",
        "//",
        "1e999",
        "-0",
        "0e0",
        "[ ]",
        "{ }",
        "\t1\r\n",
        "\u{a0}1",
        "\"\\ud800\"",
    ] {
        assert_eq!(verdict(text.as_bytes()).is_ok(), reference(text.as_bytes()), "{text:?}");
    }
    assert_eq!(members("{\"a\":\"\u{e4}\"}").map(|found| found.len()), Ok(1));
    assert_eq!(scan_object(b"{\"a\":\"\xff\"}", |_, _| ()), Err(JsonError::Malformed));
}

fn document() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
        "[\"\\\\/a-c\u{0}-\u{1f}\u{1f600}]{0,8}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
            proptest::collection::btree_map(".{0,6}", inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn the_verdict_is_the_references_on_mutated_documents(
        document in document(),
        pretty: bool,
        edits in proptest::collection::vec(
            (any::<prop::sample::Index>(), any::<u8>(), any::<prop::sample::Index>(), 0u8..4),
            0..4),
    ) {
        let mut text = if pretty {
            serde_json::to_vec_pretty(&document).unwrap()
        } else {
            serde_json::to_vec(&document).unwrap()
        };
        for (at, byte, pick, edit) in edits {
            let at = at.index(text.len() + 1);
            let signs = b"{}[]\",:\\ue-+.019tfn \n\x1f\xff";
            let byte = if byte < 40 { byte } else { signs[pick.index(signs.len())] };
            match edit {
                0 => text.truncate(at),
                1 if at < text.len() => text[at] = byte,
                2 if at < text.len() => { text.remove(at); }
                _ => text.insert(at, byte),
            }
        }
        let ours = verdict(&text);
        prop_assert_eq!(ours.is_ok(), reference(&text), "{:?}", String::from_utf8_lossy(&text));
    }

    #[test]
    fn members_and_their_values_are_the_references(document in document()) {
        let text = serde_json::to_vec(&document).unwrap();
        let value = Reader::new(&text).next_value().unwrap();
        if let serde_json::Value::Object(map) = &document {
            prop_assert_eq!(value.members().count(), map.len());
            for (key, expected) in map {
                let found = value.member(key).unwrap();
                let parsed: serde_json::Value = serde_json::from_slice(found.raw).unwrap();
                prop_assert_eq!(&parsed, &serde_json::from_slice::<serde_json::Value>(
                    &serde_json::to_vec(expected).unwrap()).unwrap());
                if let (Some(string), Some(found)) = (expected.as_str(), found.as_text()) {
                    prop_assert!(found.is(string));
                }
            }
        }
    }

    #[test]
    fn any_bytes_end_in_a_verdict(text in proptest::collection::vec(any::<u8>(), 0..100)) {
        prop_assert_eq!(verdict(&text).is_ok(), reference(&text));
    }
}
