//! How many tokens a call took, as the upstream reports it: in a body, or along a stream.
//!
//! Anything but a plain count (negative, a fraction, over 32 bits) is no report: the call is then
//! estimated, never billed on nonsense.

use super::json::{Kind, Reader, Text, Token, Value, members};
use super::span::Span;
use super::text::{append_text, holds_delta};
use memchr::memmem;

pub use super::text::{TEXT_BYTES_MAX, answer_text, delta_text};

/// Tokens of one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// Of the prompt, cached ones included.
    pub input: u32,
    /// Of those, read from the upstream's cache.
    pub cached: u32,
    /// Of the answer.
    pub output: u32,
}

/// What an upstream reports of a call: its usage, a half of it, or nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reported {
    /// Tokens of the prompt, and those of them that were cached.
    pub input: Option<(u32, u32)>,
    /// Tokens of the answer.
    pub output: Option<u32>,
}

impl Reported {
    /// Both halves.
    pub fn whole(&self) -> Option<TokenCounts> {
        let (input, cached) = self.input?;
        Some(TokenCounts { input, cached, output: self.output? })
    }
}

/// The usage that a whole answer reports: OpenAI's chat, completions, embeddings and responses,
/// and Anthropic's messages.
pub fn usage_from_body(json: &[u8]) -> Reported {
    let Some(at) = memmem::rfind(json, b"\"usage\"") else { return Reported::default() };
    let report = report_from(json, at).or_else(|| {
        let (_, usage) = members(json).filter(|(key, _)| key.is("usage")).last()?;
        Report::read(usage.members())
    });
    report.map_or_else(Reported::default, |report| Reported {
        input: report.input(),
        output: report.output(),
    })
}

/// The report in the member whose name begins at `at`, if it is the answer's own. It mostly stands
/// near the end, so what comes before it is not read.
fn report_from(json: &[u8], at: usize) -> Option<Report> {
    let mut reader = Reader::at_member(json, at);
    let mut report = None;
    while let Some(token) = reader.next_token().ok()? {
        match token {
            Token::Key(key) if key.is("usage") => {
                if reader.next_token().ok()? != Some(Token::ObjectStart) {
                    return None;
                }
                report = Report::read(std::iter::from_fn(|| reader.next_member()));
            }
            Token::Key(_) => drop(reader.next_value().ok()?),
            _ => {}
        }
    }
    report
}

/// What an event of a stream means for the relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventRole {
    /// It is there only to report usage, and hidden from a caller who did not ask for it.
    pub is_usage_only: bool,
    /// The answer is complete with it.
    pub is_end: bool,
    /// The upstream says that it failed.
    pub is_error: bool,
    /// It carries text of the answer.
    pub has_text: bool,
    /// Where it says that there is no usage yet, with one comma: hidden from the same caller. The
    /// rest is the same JSON.
    pub null_usage: Option<Span>,
}

/// Reads the usage from a stream's events as they pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamMeter(Reported);

impl StreamMeter {
    /// At the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes note of one event's data; its text, if there is any, goes to `text`.
    pub fn event(&mut self, data: &[u8], text: &mut Vec<u8>) -> EventRole {
        if data == b"[DONE]" {
            return EventRole { is_end: true, ..EventRole::default() };
        }
        let mut role = EventRole::default();
        let mut has_no_choices = false;
        let (mut kind, mut usage, mut inner) = (EventKind::Other, None, None);
        for (key, value) in members(data) {
            if holds_delta(key) {
                has_no_choices |= key.is("choices") && value.elements().next().is_none();
                role.has_text |= append_text(value, b"", text);
            } else if key.is("usage") && value.kind == Kind::Object {
                usage = Some(value);
            } else if key.is("usage") && value.kind == Kind::Null {
                role.null_usage = Some(member_with_comma(data, key, value));
            } else if key.is("type") {
                kind = EventKind::of(value);
            } else if key.is("message") || key.is("response") {
                inner = value.member("usage");
            } else if key.is("error") {
                role.is_error |= value.kind != Kind::Null;
            }
        }
        role.is_usage_only = has_no_choices && usage.is_some();
        role.is_end = matches!(kind, EventKind::MessageStop | EventKind::ResponseEnd { .. });
        role.is_error |=
            matches!(kind, EventKind::Error | EventKind::ResponseEnd { is_failure: true });
        match kind {
            EventKind::MessageStart => self.take(inner, false),
            EventKind::ResponseEnd { .. } => self.take(inner, true),
            _ => self.take(usage, true),
        }
        role
    }

    /// What has been reported so far; the last report holds. Anthropic reports the prompt's tokens
    /// at a stream's start already.
    pub fn reported(&self) -> Reported {
        self.0
    }

    fn take(&mut self, usage: Option<Value<'_>>, is_final: bool) {
        let Some(report) = usage.and_then(|usage| Report::read(usage.members())) else { return };
        // Anthropic's closing report may leave the prompt out, or set it to 0: the first one holds.
        if let Some((input, cached)) = report.input()
            && (input > 0 || self.0.input.is_none())
        {
            self.0.input = Some((input, cached));
        }
        if is_final && report.output().is_some() {
            self.0.output = report.output();
        }
    }
}

/// Where a member of the object `data` stands, with the comma before it, or else the one after it.
fn member_with_comma(data: &[u8], key: Text<'_>, value: Value<'_>) -> Span {
    let is_mark = |byte: &u8| !byte.is_ascii_whitespace();
    let start = Span::within(data, key.raw).start as usize - 1;
    let end = Span::within(data, value.raw).end as usize;
    match data[..start].iter().rposition(is_mark) {
        Some(comma) if data[comma] == b',' => Span::new(comma, end),
        _ => match data[end..].iter().position(is_mark) {
            Some(after) if data[end + after] == b',' => Span::new(start, end + after + 1),
            _ => Span::new(start, end),
        },
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum EventKind {
    MessageStart,
    MessageStop,
    ResponseEnd { is_failure: bool },
    Error,
    Other,
}

impl EventKind {
    fn of(value: Value<'_>) -> Self {
        let Some(text) = value.as_text() else { return Self::Other };
        match text.raw {
            b"message_start" => Self::MessageStart,
            b"message_stop" => Self::MessageStop,
            b"response.completed" | b"response.incomplete" => {
                Self::ResponseEnd { is_failure: false }
            }
            b"response.failed" => Self::ResponseEnd { is_failure: true },
            b"error" => Self::Error,
            _ => Self::Other,
        }
    }
}

/// A usage object as it stands.
#[derive(Default)]
struct Report {
    prompt: Option<u32>,
    input: Option<u32>,
    output: Option<u32>,
    total: Option<u64>,
    cached: Option<u32>,
    cache_read: Option<u32>,
    cache_creation: Option<u32>,
}

impl Report {
    fn read<'a>(members: impl Iterator<Item = (Text<'a>, Value<'a>)>) -> Option<Self> {
        let mut report = Self::default();
        for (key, value) in members {
            let is = |name: &str| key.is(name);
            let (place, value) = if is("prompt_tokens") {
                (&mut report.prompt, value)
            } else if is("input_tokens") {
                (&mut report.input, value)
            } else if is("completion_tokens") || is("output_tokens") {
                (&mut report.output, value)
            } else if is("total_tokens") {
                report.total = value.as_u64();
                continue;
            } else if is("cache_read_input_tokens") {
                (&mut report.cache_read, value)
            } else if is("cache_creation_input_tokens") {
                (&mut report.cache_creation, value)
            } else if is("prompt_tokens_details") || is("input_tokens_details") {
                let Some(cached) = value.member("cached_tokens") else { continue };
                (&mut report.cached, cached)
            } else {
                continue;
            };
            if value.kind != Kind::Null {
                *place = Some(u32::try_from(value.as_u64()?).ok()?);
            }
        }
        Some(report)
    }

    /// The prompt's tokens, and those of them that were cached. OpenAI counts the cached ones in;
    /// Anthropic counts neither those read from the cache nor those written to it.
    fn input(&self) -> Option<(u32, u32)> {
        let (total, cached) = match (self.prompt, self.input) {
            (Some(prompt), _) => (prompt, self.cached),
            (None, Some(fresh)) => {
                let read = self.cache_read.unwrap_or(0);
                let total =
                    fresh.saturating_add(read).saturating_add(self.cache_creation.unwrap_or(0));
                (total, self.cache_read.or(self.cached))
            }
            (None, None) => return None,
        };
        Some((total, cached.unwrap_or(0).min(total)))
    }

    /// Embeddings report only the prompt's, and the total.
    fn output(&self) -> Option<u32> {
        let of_total = || {
            let (input, _) = self.input()?;
            u32::try_from(self.total?.checked_sub(u64::from(input))?).ok()
        };
        self.output.or_else(of_total)
    }
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
