//! What must hold for any bytes at all, one function per fuzz target: each panics where it does
//! not. The targets in `tests/fuzz` call these, and so does the test that replays their corpora.
//!
//! The first byte of the input says how the rest is cut into reads.

use super::call::{CallFields, scan_call, with_include_usage};
use super::chunked::{ChunkDecoder, ChunkError, Step};
use super::json::{DEPTH_MAX, JsonError, Reader, scan_object};
use super::json_string::string_end;
use super::prompt::prompt_text;
use super::request::{HeadLimits, RequestHead, parse_request_head};
use super::response::{ResponseHead, parse_response_head};
use super::sse::SseSplitter;
use super::usage::{StreamMeter, answer_text, delta_text, usage_from_body};
use serde::de::IgnoredAny;

pub mod reference;

const LIMITS: HeadLimits = HeadLimits { head_bytes: 4096, uri_bytes: 512, headers: 32 };

/// A head read in pieces gives what the head read at once gives, refusals too.
pub fn head(input: &[u8]) {
    let (cut, text) = cut_and_rest(input);
    let ends = || (cut..text.len()).step_by(cut).chain([text.len()]);
    let (mut whole, mut pieces) = (RequestHead::default(), RequestHead::default());
    let expected = parse_request_head(text, &LIMITS, &mut whole);
    let result = ends()
        .map(|end| parse_request_head(&text[..end], &LIMITS, &mut pieces))
        .find(|result| *result != Ok(false))
        .unwrap_or(Ok(false));
    assert_eq!(result.is_err(), expected.is_err());
    if expected.is_ok() {
        assert_eq!((result, format!("{pieces:?}")), (expected, format!("{whole:?}")));
    }
    if expected == Ok(true) {
        assert!(whole.path.of(text).starts_with(b"/") && whole.head_len <= text.len());
        assert!(text[..whole.head_len].ends_with(b"\r\n\r\n"));
    }
    let (mut whole, mut pieces) = (ResponseHead::default(), ResponseHead::default());
    let expected = parse_response_head(text, &LIMITS, &mut whole, false);
    let result = ends()
        .map(|end| parse_response_head(&text[..end], &LIMITS, &mut pieces, false))
        .find(|result| *result != Ok(false))
        .unwrap_or(Ok(false));
    assert_eq!(result, expected);
    if expected.is_ok() {
        assert_eq!(format!("{pieces:?}"), format!("{whole:?}"));
    }
}

/// A chunked body decoded in pieces is the body decoded at once.
pub fn chunk(input: &[u8]) {
    let (cut, body) = cut_and_rest(input);
    let whole = decode(body, body.len().max(1));
    assert_eq!(decode(body, cut), whole);
}

/// Data and bytes consumed.
fn decode(body: &[u8], cut: usize) -> Result<(Vec<u8>, usize), ChunkError> {
    let mut decoder = ChunkDecoder::new();
    let (mut data, mut total) = (Vec::new(), 0);
    for piece in body.chunks(cut) {
        let mut at = 0;
        while at < piece.len() && !decoder.is_done() {
            at += match decoder.decode(&piece[at..])? {
                Step::Data { payload, consumed } => {
                    assert!(consumed > 0, "data without progress");
                    data.extend_from_slice(&piece[at..][payload]);
                    consumed
                }
                Step::More { consumed } | Step::End { consumed } => consumed,
            };
        }
        total += at;
    }
    Ok((data, total))
}

/// A stream splits into the same events however it is cut, and no byte of it is lost.
pub fn sse(input: &[u8]) {
    let (cut, stream) = cut_and_rest(input);
    let whole = events(stream, stream.len().max(1));
    assert_eq!(events(stream, cut), whole);
}

type NameAndData = (Option<Vec<u8>>, Option<Vec<u8>>);

/// Each event that has a name or data.
fn events(stream: &[u8], cut: usize) -> Vec<NameAndData> {
    let mut splitter = SseSplitter::new();
    let (mut found, mut scratch) = (Vec::new(), Vec::new());
    let (mut start, mut end) = (0, 0);
    for piece in stream.chunks(cut) {
        end += piece.len();
        while let Ok(Some(event)) = splitter.next_event(&stream[start..end]) {
            let buf = &stream[start..end];
            assert!(event.bytes > 0 && event.bytes <= buf.len(), "events take what is there");
            let name = event.name.map(|name| name.of(buf).to_vec());
            let data = event.data(buf, &mut scratch).map(<[u8]>::to_vec);
            if name.is_some() || data.is_some() {
                found.push((name, data));
            }
            start += event.bytes;
        }
    }
    found
}

/// Our reader takes for JSON what serde_json does, down to 64 levels, and reads the same; strings
/// end where a byte-by-byte reader ends them; a call that asks for usage is otherwise unchanged.
pub fn json(text: &[u8]) {
    // A string might begin at any place; some of each input are tried.
    for start in (0..=text.len()).step_by(text.len() / 64 + 1) {
        assert_eq!(string_end(text, start), reference::string_end(text, start));
    }
    let mut reader = Reader::new(text);
    let verdict = loop {
        match reader.next_token() {
            Ok(Some(_)) => assert!(reader.depth() <= DEPTH_MAX),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    if let Ok(text) = std::str::from_utf8(text)
        && verdict != Err(JsonError::TooDeep)
    {
        assert_eq!(verdict.is_ok(), serde_json::from_str::<IgnoredAny>(text).is_ok());
    }
    let scanned = scan_call(text);
    if let Some(expected) = reference::call(text).filter(|_| verdict.is_ok()) {
        let said = |fields: &CallFields| reference::Call {
            model: fields.model.map(|model| {
                String::from_utf8_lossy(model.decode(text, &mut Vec::new())).into_owned()
            }),
            stream: fields.stream,
            max_tokens: fields.max_tokens,
            n: fields.n,
            include_usage: fields.include_usage_asked,
        };
        assert_eq!(scanned.as_ref().map(said).map_err(|error| *error), expected);
    }
    let Ok(fields) = scanned else { return };
    assert_eq!(verdict, Ok(()));
    let asked = with_include_usage(text, &fields).concat();
    // One level may be added; at the bound of levels that is not the same call any more.
    let Ok(again) = scan_call(&asked) else { return };
    assert!(again.include_usage_asked && again.include_usage_splice.is_none());
    assert_eq!((again.stream, again.max_tokens), (fields.stream, fields.max_tokens));
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let model = fields.model.map(|model| model.decode(text, &mut left));
    assert_eq!(again.model.map(|model| model.decode(&asked, &mut right)), model);
}

/// Whatever an upstream sends is metered without harm; meter and reader find the same text; the
/// usage of a whole answer is what serde_json reads there.
pub fn usage(data: &[u8]) {
    let reported = usage_from_body(data);
    assert!(reported.input.is_none_or(|(input, cached)| cached <= input));
    // The meter overlooks a name written with escapes, and all that is below 64 levels.
    if memchr::memmem::find(data, b"\"usage\"").is_some()
        && scan_object(data, |_, _| {}).is_ok()
        && let Some(expected) = reference::usage(data)
    {
        assert_eq!(reported, expected);
    }
    let mut meter = StreamMeter::new();
    let (mut text, mut delta) = (Vec::new(), Vec::new());
    let role = meter.event(data, &mut text);
    assert_eq!(delta_text(data, &mut delta), role.has_text);
    assert_eq!(delta, text);
    assert!(meter.reported().input.is_none_or(|(input, cached)| cached <= input));
    prompt_text(data, &mut text);
    answer_text(data, &mut text);
}

fn cut_and_rest(input: &[u8]) -> (usize, &[u8]) {
    input.split_first().map_or((1, input), |(cut, rest)| (usize::from(*cut).max(1), rest))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    use proptest::prelude::*;

    type Target = (&'static str, fn(&[u8]));

    /// JSON with the names that matter, as one may write it: some given twice, some escaped.
    fn body() -> impl Strategy<Value = String> {
        let name = prop_oneof![
            4 => prop::sample::select(vec![
                "model", "stream", "max_tokens", "max_completion_tokens", "max_output_tokens", "n",
                "stream_options", "include_usage", "usage", "prompt_tokens", "input_tokens",
                "completion_tokens", "output_tokens", "cache_read_input_tokens",
                "cache_creation_input_tokens", "prompt_tokens_details", "input_tokens_details",
                "cached_tokens", "mod\\u0065l", "us\\u0061ge", "include_us\\u0061ge",
            ]).prop_map(str::to_owned),
            1 => "[a-z]{0,3}",
        ];
        let leaf = prop::sample::select(vec![
            "null",
            "true",
            "false",
            "0",
            "-0",
            "1",
            "-1",
            "1.0",
            "1e3",
            "01",
            "4294967295",
            "4294967296",
            "18446744073709551615",
            "18446744073709551616",
            "1e999",
            "\"\"",
            "\"gpt\"",
            "\"\\ud83d\\ude00\"",
            "\"\\ud800\"",
            "\"\\\"\"",
            "\"é\"",
            "[]",
            "{}",
        ]);
        leaf.prop_map(str::to_owned).prop_recursive(3, 24, 6, move |inner| {
            let members = prop::collection::vec((name.clone(), " ?", inner.clone()), 0..6);
            prop_oneof![
                6 => members.prop_map(|members| {
                    let member = |(name, space, value)| format!("\"{name}\":{space}{value}");
                    let members: Vec<String> = members.into_iter().map(member).collect();
                    format!("{{{}}}", members.join(","))
                }),
                1 => prop::collection::vec(inner, 0..3)
                    .prop_map(|elements| format!("[{}]", elements.join(", "))),
            ]
        })
    }

    /// A body whose fields mostly are of their types.
    fn plausible_body() -> impl Strategy<Value = String> {
        let count = || prop::sample::select(vec!["0", "3", "7", "12", "4294967295", "null"]);
        let usage = prop::sample::select(vec![
            "prompt_tokens",
            "input_tokens",
            "completion_tokens",
            "output_tokens",
            "cache_read_input_tokens",
            "cache_creation_input_tokens",
        ]);
        let details = prop::sample::select(reference::DETAILS.to_vec());
        let usage = prop_oneof![
            4 => (usage, count()).prop_map(|(name, count)| format!("\"{name}\":{count}")),
            1 => (details, count())
                .prop_map(|(name, count)| format!("\"{name}\":{{\"cached_tokens\":{count}}}")),
        ];
        let counted = prop::sample::select(vec![
            "max_tokens",
            "max_completion_tokens",
            "max_output_tokens",
            "n",
        ]);
        let truth = || prop::sample::select(vec!["true", "false", "null"]);
        let member = prop_oneof![
            4 => (counted, count()).prop_map(|(name, count)| format!("\"{name}\":{count}")),
            1 => truth().prop_map(|truth| format!("\"stream\": {truth}")),
            1 => truth()
                .prop_map(|truth| format!("\"stream_options\":{{\"include_usage\":{truth}}}")),
            1 => "[a-z\\\\u004]{0,9}".prop_map(|text| format!("\"model\":\"{text}\"")),
            4 => prop::collection::vec(usage, 0..5)
                .prop_map(|usage| format!("\"usage\":{{{}}}", usage.join(","))),
        ];
        prop::collection::vec(member, 0..5)
            .prop_map(|members| format!("{{{}}}", members.join(", ")))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn serde_json_reads_the_same(
            body in prop_oneof![body(), plausible_body()],
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        ) {
            let mut bytes = body.into_bytes();
            json(&bytes);
            usage(&bytes);
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
                json(&bytes);
                usage(&bytes);
            }
        }
    }

    #[test]
    fn the_corpora_hold() {
        let corpora = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
        let targets: [Target; 5] =
            [("head", head), ("chunk", chunk), ("sse", sse), ("json", json), ("usage", usage)];
        for (name, target) in targets {
            let mut files = 0;
            for entry in std::fs::read_dir(corpora.join(name)).unwrap() {
                let input = std::fs::read(entry.unwrap().path()).unwrap();
                target(&input);
                // Cut everywhere and broken at each byte as well: a corpus is only a start.
                for at in 0..input.len() {
                    target(&input[..at]);
                    let mut broken = input.clone();
                    broken[at] = broken[at].wrapping_add(1);
                    target(&broken);
                }
                files += 1;
            }
            assert!(files >= 3, "{name} has {files} files");
        }
        // Whoever adds a target adds it above; the journal's has its test beside it.
        for entry in std::fs::read_dir(corpora).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(name == "journal" || targets.iter().any(|it| it.0 == name), "{name}");
        }
    }
}
