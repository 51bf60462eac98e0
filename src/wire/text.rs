//! The text of answers, for counting tokens where an upstream reports none.
//!
//! Only what stands under the known names is taken: what is not known (an image in base 64, say)
//! must never be billed as text.

use super::json::{Kind, Reader, Token, Value, members};

/// Text collected at most; what comes after is left out of the estimate.
pub const TEXT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Members of an answer's body that hold its text.
const ANSWER: [&str; 3] = ["choices", "output", "content"];
/// Members of a stream's chunk that hold its text.
const CHUNK: [&str; 3] = ["choices", "delta", "content_block"];
/// Members within those that hold text, or further such members.
const INNER: [&str; 17] = [
    "content",
    "text",
    "delta",
    "message",
    "arguments",
    "function",
    "tool_calls",
    "function_call",
    "name",
    "output",
    "partial_json",
    "thinking",
    "reasoning",
    "reasoning_content",
    "summary",
    "refusal",
    "parts",
];

/// Appends all text of an answer that was not streamed, in lines.
pub fn answer_text(body: &[u8], out: &mut Vec<u8>) {
    append_members(body, &ANSWER, b"\n", out);
}

/// Appends the text of one event's data; true if there was any.
pub fn delta_text(data: &[u8], out: &mut Vec<u8>) -> bool {
    append_members(data, &CHUNK, b"", out)
}

/// Does this member of a chunk hold text?
pub(super) fn holds_delta(name: super::json::Text<'_>) -> bool {
    CHUNK.iter().any(|known| name.is(known))
}

/// Does a member of this name hold text, or further such members?
pub(super) fn is_inner(name: super::json::Text<'_>) -> bool {
    INNER.iter().any(|known| name.is(known))
}

fn append_members(json: &[u8], names: &[&str], between: &[u8], out: &mut Vec<u8>) -> bool {
    let mut found = false;
    for (key, value) in members(json) {
        if names.iter().any(|name| key.is(name)) {
            found |= append_text(value, between, out);
        }
    }
    found
}

/// Appends the strings in `value` that are text, with `between`; true if there was any.
pub(super) fn append_text(value: Value<'_>, between: &[u8], out: &mut Vec<u8>) -> bool {
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
            // A tool's arguments.
            Token::Key(key) if is_wanted && key.is("input") => {
                let Ok(value) = reader.next_value() else { return found };
                found |= append_json(value, between, out);
            }
            Token::Key(key) => named = Some(is_wanted && is_inner(key)),
            Token::String(text) if is_wanted && !text.raw.is_empty() => {
                found = true;
                if begin_text(between, out) {
                    text.decode_into(out);
                }
            }
            Token::String(_) | Token::Number | Token::Bool | Token::Null => {}
        }
    }
    found
}

/// Appends `between` if a text stands before it; false if there is no room for one more.
pub(super) fn begin_text(between: &[u8], out: &mut Vec<u8>) -> bool {
    if !out.is_empty() && out.len() < TEXT_BYTES_MAX {
        out.extend_from_slice(between);
    }
    out.len() < TEXT_BYTES_MAX
}

/// Appends a value's JSON without the spaces in it; true if it says anything.
pub(super) fn append_json(value: Value<'_>, between: &[u8], out: &mut Vec<u8>) -> bool {
    if matches!(value.kind, Kind::Null) || matches!(value.raw, b"{}" | b"[]" | b"\"\"") {
        return false;
    }
    if !begin_text(between, out) {
        return true;
    }
    let (mut in_string, mut after_backslash) = (false, false);
    for byte in value.raw {
        if in_string {
            in_string = *byte != b'"' || after_backslash;
            after_backslash = *byte == b'\\' && !after_backslash;
        } else if byte.is_ascii_whitespace() {
            continue;
        } else {
            in_string = *byte == b'"';
        }
        out.push(*byte);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(take: impl Fn(&[u8], &mut Vec<u8>), body: &str) -> String {
        let mut out = Vec::new();
        take(body.as_bytes(), &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn answers_of_all_shapes_are_collected() {
        for (body, text) in [
            (
                r#"{"id":"no","choices":[{"message":{"role":"no","content":"a"},
                "finish_reason":"no"}]}"#,
                "a",
            ),
            (r#"{"choices":[{"text":"a"},{"text":"b"}]}"#, "a\nb"),
            (
                r#"{"output":[{"type":"message","content":[{"type":"output_text","text":"a"}]}]}"#,
                "a",
            ),
            (
                r#"{"type":"message","content":[{"type":"text","text":"a"},
                {"type":"thinking","thinking":"b"}]}"#,
                "a\nb",
            ),
            (
                r#"{"content":[{"type":"tool_use","id":"no","name":"f","input":{ "a": "b c" }},
                {"type":"tool_use","id":"no","input":{}}]}"#,
                "f\n{\"a\":\"b c\"}",
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
}
