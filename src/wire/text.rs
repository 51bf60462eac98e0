//! The text of prompts and answers, for counting tokens where an upstream reports none.
//!
//! Only what stands under the known names is taken: what is not known (an image in base 64, say)
//! must never be billed as text.

use super::json::{Reader, Token, Value, members};

/// Text collected at most; what comes after is left out of the estimate.
pub const TEXT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Members of a request's body that hold its prompt.
const PROMPT: [&str; 5] = ["messages", "prompt", "input", "system", "instructions"];
/// Members of an answer's body that hold its text.
const ANSWER: [&str; 3] = ["choices", "output", "content"];
/// Members of a stream's chunk that hold its text.
const CHUNK: [&str; 3] = ["choices", "delta", "content_block"];
/// Members within those whose strings are text, or that hold such.
const INNER: [&str; 18] = [
    "content",
    "text",
    "delta",
    "message",
    "arguments",
    "function",
    "tool_calls",
    "function_call",
    "name",
    "input",
    "output",
    "partial_json",
    "thinking",
    "reasoning",
    "reasoning_content",
    "summary",
    "refusal",
    "parts",
];

/// Appends all text of a request's prompt, a line each.
pub fn prompt_text(body: &[u8], out: &mut Vec<u8>) {
    append_members(body, &PROMPT, b"\n", out);
}

/// Appends all text of an answer that was not streamed, a line each.
pub fn answer_text(body: &[u8], out: &mut Vec<u8>) {
    append_members(body, &ANSWER, b"\n", out);
}

/// Appends the text of one event's data, as it is; true if there was any.
pub fn delta_text(data: &[u8], out: &mut Vec<u8>) -> bool {
    append_members(data, &CHUNK, b"", out)
}

/// The member of a chunk holds text.
pub(super) fn holds_delta(name: super::json::Text<'_>) -> bool {
    CHUNK.iter().any(|known| name.is(known))
}

fn append_members(json: &[u8], names: &[&str], end: &[u8], out: &mut Vec<u8>) -> bool {
    let mut found = false;
    for (key, value) in members(json) {
        if names.iter().any(|name| key.is(name)) {
            found |= append_text(value, end, out);
        }
    }
    found
}

/// Appends the strings in `value` that are text, each with `end`; true if there was any.
pub(super) fn append_text(value: Value<'_>, end: &[u8], out: &mut Vec<u8>) -> bool {
    let mut reader = Reader::new(value.raw);
    // One bit for each open level, the innermost lowest: set where strings in it are text.
    let mut levels = 1u64;
    let mut named: Option<bool> = None;
    let mut found = false;
    while let Ok(Some(token)) = reader.next_token() {
        let is_wanted = named.take().unwrap_or(levels & 1 == 1);
        match token {
            Token::ObjectStart | Token::ArrayStart => levels = levels << 1 | u64::from(is_wanted),
            Token::End => levels >>= 1,
            Token::Key(key) => named = Some(is_wanted && INNER.iter().any(|name| key.is(name))),
            Token::String(text) if is_wanted && !text.raw.is_empty() => {
                found = true;
                if out.len() < TEXT_BYTES_MAX {
                    text.decode_into(out);
                    out.extend_from_slice(end);
                }
            }
            Token::String(_) | Token::Number | Token::Bool | Token::Null => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn taken(take: impl Fn(&[u8], &mut Vec<u8>), body: &str) -> String {
        let mut out = Vec::new();
        take(body.as_bytes(), &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn prompts_of_all_shapes_are_collected() {
        for (body, text) in [
            (
                r#"{"model":"no","messages":[{"role":"no","content":"a\n"},{"role":"user","content":
                [{"type":"text","text":"b"},{"type":"image_url","image_url":
                {"url":"no","text":"no"}}]},
                {"tool_calls":[{"id":"no","type":"no","function":
                {"name":"f","arguments":"{}"}}]}]}"#,
                "a\n\nb\nf\n{}\n",
            ),
            (r#"{"prompt":"a","suffix":"no"}"#, "a\n"),
            (r#"{"prompt":["a","b"]}"#, "a\nb\n"),
            (r#"{"input":["a",["b"],1],"model":"no"}"#, "a\nb\n"),
            (
                r#"{"instructions":"a","input":[{"role":"no","content":
                [{"type":"input_text","text":"b"}]}]}"#,
                "a\nb\n",
            ),
            (
                r#"{"system":[{"type":"text","text":"s","cache_control":{"type":"no"}}],
                "messages":[{"role":"user","content":[{"type":"tool_result","content":"r"},
                {"type":"image","source":{"type":"base64","data":"no"}}]}]}"#,
                "s\nr\n",
            ),
            (r#"{"messages":[{"content":"a"#, ""),
            ("[]", ""),
        ] {
            assert_eq!(taken(prompt_text, body), text, "{body}");
        }
    }

    #[test]
    fn answers_of_all_shapes_are_collected() {
        for (body, text) in [
            (
                r#"{"id":"no","choices":[{"message":{"role":"no","content":"a"},
                "finish_reason":"no"}]}"#,
                "a\n",
            ),
            (r#"{"choices":[{"text":"a"},{"text":"b"}]}"#, "a\nb\n"),
            (
                r#"{"output":[{"type":"message","content":[{"type":"output_text","text":"a"}]}]}"#,
                "a\n",
            ),
            (
                r#"{"type":"message","content":[{"type":"text","text":"a"},
                {"type":"thinking","thinking":"b"}]}"#,
                "a\nb\n",
            ),
            (r#"{"data":[{"embedding":[0.1]}],"object":"list"}"#, ""),
        ] {
            assert_eq!(taken(answer_text, body), text, "{body}");
        }
    }

    #[test]
    fn deltas_of_all_shapes_are_collected() {
        for (data, text) in [
            (
                r#"{"object":"no","choices":[{"index":0,"delta":{"role":"no","content":"a \u00e4"},
                "finish_reason":null}]}"#,
                "a ä",
            ),
            (r#"{"choices":[{"delta":{"content":""}}]}"#, ""),
            (r#"{"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"{"}}]}}]}"#, "{"),
            (r#"{"choices":[{"text":"a"}]}"#, "a"),
            (r#"{"type":"response.output_text.delta","delta":"a","item_id":"no"}"#, "a"),
            (r#"{"type":"response.output_text.done","text":"no"}"#, ""),
            (r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"a"}}"#, "a"),
            (r#"{"type":"content_block_delta","delta":{"type":"x","partial_json":"{"}}"#, "{"),
            (r#"{"type":"content_block_delta","delta":{"type":"x","thinking":"a"}}"#, "a"),
            (r#"{"type":"message_delta","delta":{"stop_reason":"no"}}"#, ""),
            ("[DONE]", ""),
        ] {
            let mut out = Vec::new();
            assert_eq!(delta_text(data.as_bytes(), &mut out), !text.is_empty(), "{data}");
            assert_eq!(String::from_utf8_lossy(&out), text, "{data}");
        }
    }

    proptest! {
        #[test]
        fn nesting_never_confuses_what_is_text(depth in 1usize..40) {
            let (open, close) = (r#"[{"x":["no"],"content":"#.repeat(depth), "}]".repeat(depth));
            let body = format!("{{\"messages\":{open}\"yes\"{close},\"content\":\"no\"}}");
            let expected = if 2 * depth < 64 { "yes\n" } else { "" };
            prop_assert_eq!(taken(prompt_text, &body), expected);
        }
    }
}
