//! Tests of `usage`.

use super::*;
use proptest::prelude::*;

fn counts(input: u32, cached: u32, output: u32) -> Option<TokenCounts> {
    Some(TokenCounts { input, cached, output })
}

/// The meter after these events, their roles, and the text of the answer.
fn metered(events: &[&str]) -> (StreamMeter, Vec<EventRole>, String) {
    let (mut meter, mut text) = (StreamMeter::new(), Vec::new());
    let roles = events.iter().map(|data| meter.event(data.as_bytes(), &mut text)).collect();
    (meter, roles, String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn usage_is_read_from_bodies_of_all_shapes() {
    for (body, expected) in [
        (
            r#"{"choices":[{"message":{"content":"{\"usage\":{}}"}}],"usage":{"prompt_tokens":9,
            "completion_tokens":12,"total_tokens":21,"prompt_tokens_details":{"cached_tokens":4,
            "audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":3}}}"#,
            counts(9, 4, 12),
        ),
        (
            r#"{"object":"list","data":[],"usage":{"prompt_tokens":8,"total_tokens":8}}"#,
            counts(8, 0, 0),
        ),
        (
            r#"{"object":"response","usage":{"input_tokens":36,"input_tokens_details":
            {"cached_tokens":10},"output_tokens":87,"total_tokens":123}}"#,
            counts(36, 10, 87),
        ),
        (
            r#"{"type":"message","usage":{"input_tokens":10,"cache_creation_input_tokens":5,
            "cache_read_input_tokens":20,"output_tokens":7}}"#,
            counts(35, 20, 7),
        ),
        (
            r#"{"usage":{"input_tokens":10,"cache_read_input_tokens":null,"output_tokens":7}}"#,
            counts(10, 0, 7),
        ),
        // A bridge that gives both dialects: OpenAI's total already holds the cached ones.
        (
            r#"{"usage":{"prompt_tokens":30,"completion_tokens":1,"cache_read_input_tokens":20,
            "prompt_tokens_details":{"cached_tokens":20}}}"#,
            counts(30, 20, 1),
        ),
        (
            r#"{"usage":{"prompt_tokens":5,"total_tokens":5,
            "prompt_tokens_details":{"cached_tokens":9}}}"#,
            counts(5, 5, 0),
        ),
        (
            r#"{"usage":{"input_tokens":4294967295,"cache_read_input_tokens":9,
                "output_tokens":1}}"#,
            counts(u32::MAX, 9, 1),
        ),
    ] {
        assert_eq!(usage_from_body(body.as_bytes()).whole(), expected, "{body}");
    }
}

#[test]
fn half_a_report_is_kept() {
    let half = |input, output| Reported { input, output };
    for (usage, expected) in [
        ("{\"completion_tokens\":3}", half(None, Some(3))),
        ("{\"output_tokens\":3,\"total_tokens\":9}", half(None, Some(3))),
        ("{\"prompt_tokens\":1}", half(Some((1, 0)), None)),
        ("{\"prompt_tokens\":2,\"total_tokens\":1}", half(Some((2, 0)), None)),
        ("{\"prompt_tokens\":2,\"total_tokens\":5}", half(Some((2, 0)), Some(3))),
        (
            "{\"input_tokens\":1,\"cache_read_input_tokens\":8,\"total_tokens\":\"x\"}",
            half(Some((9, 8)), None),
        ),
        ("{\"total_tokens\":5}", half(None, None)),
        ("{}", half(None, None)),
    ] {
        let body = format!("{{\"usage\":{usage}}}");
        assert_eq!(usage_from_body(body.as_bytes()), expected, "{body}");
        assert_eq!(metered(&[&body]).0.reported(), expected, "{body}");
    }
    let delta = r#"{"type":"message_delta","delta":{},"usage":{"output_tokens":15}}"#;
    assert_eq!(metered(&[delta]).0.reported(), half(None, Some(15)));
    let start = r#"{"type":"message_start","message":{"usage":{"input_tokens":25,
        "output_tokens":1}}}"#;
    assert_eq!(metered(&[start]).0.reported(), half(Some((25, 0)), None));
}

#[test]
fn nonsense_is_no_usage() {
    for usage in [
        "null",
        "[]",
        "{}",
        "{\"prompt_tokens\":-1}",
        "{\"prompt_tokens\":1.5}",
        "{\"prompt_tokens\":1e3}",
        "{\"prompt_tokens\":\"5\"}",
        "{\"prompt_tokens\":4294967296}",
        "{\"prompt_tokens\":1,\"completion_tokens\":-1}",
        "{\"prompt_tokens\":null}",
    ] {
        let body = format!("{{\"usage\":{usage}}}");
        assert_eq!(usage_from_body(body.as_bytes()), Reported::default(), "{body}");
        let (meter, ..) = metered(&[&body]);
        assert_eq!(meter.reported(), Reported::default(), "{body}");
    }
    for body in ["", "[]", r#"{"a":{"usage":{"prompt_tokens":1}}}"#, r#"{"a":"\"usage\""}"#] {
        assert_eq!(usage_from_body(body.as_bytes()), Reported::default(), "{body}");
    }
}

#[test]
fn an_openai_stream_is_metered() {
    let (meter, roles, text) = metered(&[
        r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}],"usage":null}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"Hel"}}],"usage":null}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":"stop"}]}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2}}"#,
        "[DONE]",
    ]);
    assert_eq!((meter.reported().whole(), text.as_str()), (counts(9, 0, 2), "Hello"));
    assert_eq!(
        roles.iter().map(|role| role.has_text).collect::<Vec<_>>(),
        [false, true, true, false, false]
    );
    assert!(roles[3].is_usage_only && !roles[2].is_usage_only && !roles[0].is_usage_only);
    assert!(roles[4].is_end && !roles[3].is_end);
}

#[test]
fn the_last_report_of_a_stream_holds() {
    let (meter, roles, _) = metered(&[
        r#"{"choices":[{"delta":{"content":"a"}}],
                "usage":{"prompt_tokens":9,"completion_tokens":1}}"#,
        r#"{"choices":[{"delta":{"content":"b"}}],
                "usage":{"prompt_tokens":9,"completion_tokens":2}}"#,
        // Azure's first chunk has no choices and no usage: it is not one to hide.
        r#"{"choices":[],"prompt_filter_results":[]}"#,
    ]);
    assert_eq!(meter.reported().whole(), counts(9, 0, 2));
    assert!(roles.iter().all(|role| !role.is_usage_only));
}

#[test]
fn a_responses_stream_is_metered() {
    let (meter, roles, text) = metered(&[
        r#"{"type":"response.created","response":{"usage":null}}"#,
        r#"{"type":"response.output_text.delta","delta":"Hi"}"#,
        r#"{"type":"response.output_text.done","text":"Hi"}"#,
        r#"{"type":"response.completed","response":{"output":[{"content":[{"text":"Hi"}]}],
                "error":null,"usage":{"input_tokens":37,"output_tokens":11,
                "input_tokens_details":{"cached_tokens":1}}}}"#,
    ]);
    assert_eq!((meter.reported().whole(), text.as_str()), (counts(37, 1, 11), "Hi"));
    assert!(roles[3].is_end && !roles[3].is_error && !roles[0].is_end);
}

#[test]
fn an_anthropic_stream_is_metered() {
    let start = r#"{"type":"message_start","message":{"usage":{"input_tokens":25,
        "cache_read_input_tokens":5,"output_tokens":1}}}"#;
    let delta = r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"Hi"}}"#;
    let (meter, ..) = metered(&[start, delta]);
    assert_eq!(meter.reported(), Reported { input: Some((30, 5)), output: None });
    for usage in ["{\"output_tokens\":15}", "{\"input_tokens\":0,\"output_tokens\":15}"] {
        let end = format!(
            r#"{{"type":"message_delta","delta":{{"stop_reason":"end_turn"}},"usage":{usage}}}"#
        );
        let (meter, roles, text) = metered(&[start, delta, &end, r#"{"type":"message_stop"}"#]);
        assert_eq!((meter.reported().whole(), text.as_str()), (counts(30, 5, 15), "Hi"));
        assert!(roles[3].is_end && !roles[2].is_end && !roles[2].is_usage_only);
    }
}

#[test]
fn an_upstreams_failure_is_told() {
    for data in [
        r#"{"error":{"message":"x"}}"#,
        r#"{"type":"error","error":{"type":"overloaded_error"}}"#,
        r#"{"type":"response.failed","response":{}}"#,
    ] {
        assert!(metered(&[data]).1[0].is_error, "{data}");
    }
    assert!(!metered(&[r#"{"error":null,"choices":[]}"#]).1[0].is_error);
}

proptest! {
    #[test]
    fn counts_are_read_as_they_were_written(input: u32, cached: u32, output: u32) {
        let usage = format!(
            "{{\"prompt_tokens\":{input},\"prompt_tokens_details\":{{\"cached_tokens\":{cached}}},\
             \"completion_tokens\":{output}}}"
        );
        let body = format!("{{\"usage\":{usage}}}");
        let expected = counts(input, cached.min(input), output);
        prop_assert_eq!(usage_from_body(body.as_bytes()).whole(), expected);
        prop_assert_eq!(metered(&[&body]).0.reported().whole(), expected);
    }

    #[test]
    fn any_bytes_are_survived(
        data in "[\\[\\]{}:,\"]{0,4}\
                 (\"(usage|choices|type|delta|message)\":[\\[\\]{}0-9,\":a-z]{0,9},?){0,6}\\}?",
    ) {
        let _ = usage_from_body(data.as_bytes());
        let mut text = Vec::new();
        let role = StreamMeter::new().event(data.as_bytes(), &mut text);
        prop_assert_eq!(role.has_text, !text.is_empty());
    }
}

#[test]
fn a_usage_of_null_can_be_cut_out() {
    for (data, cut) in [
        (
            r#"{"id":1,"choices":[{"delta":{}}],"usage":null}"#,
            r#"{"id":1,"choices":[{"delta":{}}]}"#,
        ),
        (r#"{"id":1,"usage":null,"choices":[]}"#, r#"{"id":1,"choices":[]}"#),
        (r#"{"id":1 , "usage" : null , "choices":[]}"#, r#"{"id":1  , "choices":[]}"#),
        (r#"{"usage":null,"id":1}"#, r#"{"id":1}"#),
        (r#"{ "usage": null , "id":1}"#, r#"{  "id":1}"#),
        (r#"{"usage":null}"#, "{}"),
        (r#"{"id":1,"us\u0061ge":null}"#, r#"{"id":1}"#),
    ] {
        let (_, roles, _) = metered(&[data]);
        let span = roles[0].null_usage.unwrap_or_default();
        let left = [&data[..span.start as usize], &data[span.end as usize..]].concat();
        assert_eq!(left, cut);
    }
    for data in [
        r#"{"choices":[{"usage":null}]}"#,
        r#"{"choices":[{"delta":{"content":",\"usage\":null"}}]}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#,
        r#"{"choices":[],"usage":nul"#,
        "[DONE]",
    ] {
        assert_eq!(metered(&[data]).1[0].null_usage, None, "{data}");
    }
}
