//! All that a model reads of a request: its texts, the schemas that it has to follow, and media by
//! the providers' rules. Tokens are counted from it where an upstream reports none.
//!
//! Only what stands under the known names is taken. What is not known is never billed as text.

use super::image::{self, Pixels};
use super::json::{DEPTH_MAX, Kind, Reader, Text, Token, Value, members};
use super::text::{append_json, append_text, begin_text, is_inner};

/// Members of a request's body that hold its prompt.
const PROMPT: [&str; 6] = ["messages", "prompt", "input", "system", "instructions", "suffix"];
/// Members whose JSON the model is shown: tools, and the forms of its answer.
const SCHEMAS: [&str; 5] =
    ["tools", "functions", "response_format", "output_format", "output_config"];

/// Tokens that frame each message of a chat, and that begin its answer (OpenAI Cookbook, "How to
/// count tokens with tiktoken").
const MESSAGE_TOKENS: u64 = 3;
const ANSWER_TOKENS: u64 = 3;
/// A page of a document: 1 500 to 3 000 tokens (Anthropic, "PDF support"). Pages are not counted
/// but guessed from the file's size; a document behind a link is taken for one page.
const PAGE_TOKENS: u64 = 2_250;
const PAGE_BYTES: u64 = 50 * 1024;
/// A second of speech: a token for 100 ms (OpenAI, "Realtime costs"). Its length is guessed from
/// the file's size: 24 000 samples of 2 bytes a second in WAV, else 128 kbit/s.
const SPEECH_TOKENS_PER_S: u64 = 10;
const WAV_BYTES_PER_S: u64 = 48_000;
const SPEECH_BYTES_PER_S: u64 = 16_000;
const LINE: &[u8] = b"\n";
/// Bytes that are looked at of a Base64 text with escapes in it.
const UNESCAPED_BYTES_MAX: usize = 256 * 1024;

/// Appends all text of a request's prompt, in lines; returns the tokens of what is not text.
pub(crate) fn prompt_text(body: &[u8], out: &mut Vec<u8>) -> u64 {
    let mut tokens = 0u64;
    for (key, value) in members(body) {
        if PROMPT.iter().any(|name| key.is(name)) {
            let mut walk = Walk { text: value.raw, out, tokens: 0, messages: 0 };
            walk.run();
            tokens = tokens.saturating_add(walk.tokens);
            if key.is("messages") && walk.messages > 0 {
                tokens += ANSWER_TOKENS + MESSAGE_TOKENS * walk.messages;
            }
        } else if SCHEMAS.iter().any(|name| key.is(name)) {
            append_json(value, LINE, out);
        } else if key.is("text")
            && let Some(format) = value.member("format")
        {
            append_json(format, LINE, out);
        }
    }
    tokens
}

/// A walk through a member of the prompt.
struct Walk<'a, 'b> {
    text: &'a [u8],
    out: &'b mut Vec<u8>,
    /// Tokens of what is not text.
    tokens: u64,
    messages: u64,
}

impl<'a> Walk<'a, '_> {
    fn run(&mut self) {
        let mut reader = Reader::new(self.text);
        // One bit for each open level, the innermost lowest: set in `levels` where strings in it
        // are text, in `objects` where it is an object.
        let (mut levels, mut objects) = (1u64, 0u64);
        let mut starts = [0usize; DEPTH_MAX as usize + 1];
        let mut named: Option<bool> = None;
        while let Ok(Some(token)) = reader.next_token() {
            let is_wanted = named.take().unwrap_or(levels & 1 == 1);
            match token {
                Token::ObjectStart | Token::ArrayStart => {
                    let is_object = token == Token::ObjectStart;
                    self.messages += u64::from(is_object && reader.depth() == 2);
                    levels = levels << 1 | u64::from(is_wanted);
                    objects = objects << 1 | u64::from(is_object);
                    starts[reader.depth() as usize] = reader.token_start();
                }
                Token::End => (levels, objects) = (levels >> 1, objects >> 1),
                Token::Key(key) if is_wanted && is_medium(key) => {
                    let Ok(value) = reader.next_value() else { return };
                    let raw = &self.text[starts[reader.depth() as usize]..];
                    self.take_medium(key, value, Value { raw, kind: Kind::Object });
                }
                Token::Key(key) if is_wanted && key.is("input") => {
                    let Ok(value) = reader.next_value() else { return };
                    append_json(value, LINE, self.out);
                }
                Token::Key(key) => named = Some(is_wanted && (is_inner(key) || key.is("file"))),
                Token::String(text) if is_wanted => self.take_text(text),
                // A prompt, or what is to be embedded, may be given in tokens.
                Token::Number if objects == 0 => self.tokens += 1,
                Token::String(_) | Token::Number | Token::Bool | Token::Null => {}
            }
        }
    }

    fn take_text(&mut self, text: Text<'_>) {
        if !text.raw.is_empty() && begin_text(LINE, self.out) {
            text.decode_into(self.out);
        }
    }

    /// Counts a member of the object `part` that is not text.
    fn take_medium(&mut self, key: Text<'a>, value: Value<'a>, part: Value<'a>) {
        let is_of = |kind: &str| {
            part.member("type").and_then(|it| it.as_text()).is_some_and(|it| it.is(kind))
        };
        let more = if value.kind == Kind::Null {
            0
        } else if key.is("image_url") {
            openai_image(value, part)
        } else if key.is("source") && value.kind != Kind::Object {
            // A search result's: it is text.
            append_json(value, LINE, self.out);
            0
        } else if key.is("source") && is_of("image") {
            image::anthropic_tokens(value.member("data").and_then(base64_size))
        } else if key.is("source") {
            self.document(value)
        } else if key.is("input_audio") {
            speech(value)
        } else if key.is("file_id") && is_of("input_image") {
            image::openai_tokens(None, is_low(part))
        } else if key.is("file_data") {
            pages(value.raw.len())
        } else {
            PAGE_TOKENS
        };
        self.tokens = self.tokens.saturating_add(more);
    }

    /// A document of Anthropic's: text, parts, or a file.
    fn document(&mut self, source: Value<'_>) -> u64 {
        let is = |kind: &str| {
            source.member("type").and_then(|it| it.as_text()).is_some_and(|it| it.is(kind))
        };
        match (source.member("data"), source.member("content")) {
            (Some(data), _) if is("text") => {
                append_text(data, LINE, self.out);
                0
            }
            (Some(data), _) => pages(data.raw.len()),
            (None, Some(content)) => {
                append_text(content, LINE, self.out);
                0
            }
            (None, None) => PAGE_TOKENS,
        }
    }
}

/// Does a member of this name hold anything but text?
fn is_medium(name: Text<'_>) -> bool {
    ["image_url", "source", "input_audio", "file_data", "file_url", "file_id"]
        .iter()
        .any(|known| name.is(known))
}

/// An image of OpenAI's: `{"url", "detail"}` in a chat; in a response the link alone, with the
/// detail beside it.
fn openai_image(value: Value<'_>, part: Value<'_>) -> u64 {
    match value.kind {
        Kind::String => image::openai_tokens(base64_size(value), is_low(part)),
        _ => image::openai_tokens(value.member("url").and_then(base64_size), is_low(value)),
    }
}

fn is_low(image: Value<'_>) -> bool {
    image.member("detail").and_then(|it| it.as_text()).is_some_and(|it| it.is("low"))
}

/// The size of an image in Base64, with or without the start of a data URL.
fn base64_size(value: Value<'_>) -> Option<Pixels> {
    let text = value.as_text()?;
    let mut decoded = Vec::new();
    let raw = if text.escaped {
        let raw = &text.raw[..text.raw.len().min(UNESCAPED_BYTES_MAX)];
        Text { raw, escaped: true }.decode_into(&mut decoded);
        &decoded[..]
    } else {
        text.raw
    };
    if !raw.get(..5).is_some_and(|it| it.eq_ignore_ascii_case(b"data:")) {
        return Pixels::of_base64(raw);
    }
    let comma = memchr::memchr(b',', raw)?;
    raw[..comma].to_ascii_lowercase().ends_with(b";base64").then_some(())?;
    Pixels::of_base64(&raw[comma + 1..])
}

fn pages(base64_bytes: usize) -> u64 {
    PAGE_TOKENS * (base64_bytes as u64 * 3 / 4).div_ceil(PAGE_BYTES).max(1)
}

fn speech(audio: Value<'_>) -> u64 {
    let bytes = audio.member("data").map_or(0, |data| data.raw.len() as u64 * 3 / 4);
    let is_wav = audio.member("format").and_then(|it| it.as_text()).is_some_and(|it| it.is("wav"));
    let bytes_per_s = if is_wav { WAV_BYTES_PER_S } else { SPEECH_BYTES_PER_S };
    (bytes * SPEECH_TOKENS_PER_S).div_ceil(bytes_per_s)
}

#[cfg(test)]
#[path = "prompt_tests.rs"]
mod tests;
