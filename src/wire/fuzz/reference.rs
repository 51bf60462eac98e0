//! What a call's body and an answer's usage say according to serde_json: the second opinion that
//! the fuzz targets ask for. Written for plainness; it must never be used to serve anybody.
//!
//! Where the two may differ: serde_json refuses a lone surrogate in a string and a number beyond a
//! double's range, which the gateway passes on, and it goes deeper than 64 levels; it has no
//! opinion on text that is no UTF-8. Nor is it asked about a name given twice within `usage`.

use super::super::call::CallError;
use super::super::json::members;
use super::super::usage::Reported;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use std::fmt;

/// The place of the closing quote of the string whose characters begin at `start`, and whether
/// there are escapes before it; `None`: it is no string. Byte by byte.
pub(crate) fn string_end(text: &[u8], start: usize) -> Option<(usize, bool)> {
    let (mut at, mut escaped) = (start, false);
    loop {
        match (*text.get(at)?, text.get(at + 1)) {
            (b'"', _) => return Some((at, escaped)),
            (b'\\', Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')) => at += 2,
            (b'\\', Some(b'u')) => {
                let digits = text.get(at + 2..at + 6)?;
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                at += 6;
            }
            (b'\\' | ..b' ', _) => return None,
            _ => {
                at += 1;
                continue;
            }
        }
        escaped = true;
    }
}

/// A call's fields, each as its caller meant it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// `model`
    pub model: Option<String>,
    /// `stream`
    pub stream: bool,
    /// The largest of its three names.
    pub max_tokens: Option<u64>,
    /// `n`
    pub n: Option<u64>,
    /// `stream_options.include_usage`
    pub include_usage: bool,
}

/// Members in order, those with the same name too.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// The call, or why it is refused; `None`: no opinion.
pub fn call(body: &[u8]) -> Option<Result<Call, CallError>> {
    let Members(members) = serde_json::from_slice(body).ok()?;
    // serde_json keeps one of several; which of them the gateway refuses.
    let options = members.iter().find(|(name, _)| name == "stream_options");
    if options.is_some_and(|(_, options)| has_double(body, options)) {
        return None;
    }
    let mut call = Call::default();
    let mut seen: Vec<&str> = Vec::new();
    for (name, value) in &members {
        if let Err(error) = take(&mut call, &mut seen, name, value) {
            return Some(Err(error));
        }
    }
    Some(Ok(call))
}

/// Is a member of `stream_options` given twice?
fn has_double(body: &[u8], options: &Value) -> bool {
    let written = members(body).find(|(key, _)| key.is("stream_options"));
    let kept = options.as_object().map_or(0, serde_json::Map::len);
    written.is_some_and(|(_, value)| value.members().count() != kept)
}

fn take<'a>(
    call: &mut Call,
    seen: &mut Vec<&'a str>,
    name: &'a str,
    value: &Value,
) -> Result<(), CallError> {
    const NAMES: [&str; 7] = [
        "model",
        "stream",
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "n",
        "stream_options",
    ];
    let Some(field) = NAMES.into_iter().find(|known| *known == folded(name)) else {
        return Ok(());
    };
    if name != field {
        return Err(CallError::OtherCase(field));
    }
    if seen.contains(&name) {
        return Err(CallError::Duplicate(field));
    }
    seen.push(name);
    match field {
        "model" => {
            let wrong = CallError::WrongType { field, expected: "a string" };
            call.model = Some(value.as_str().ok_or(wrong)?.to_owned());
        }
        "stream" => call.stream = truth(field, value)?,
        "n" => call.n = count(field, value)?,
        "stream_options" => match value {
            Value::Null => {}
            Value::Object(options) => {
                const ASKED: &str = "include_usage";
                if options.keys().any(|key| folded(key) == ASKED && key != ASKED) {
                    return Err(CallError::OtherCase("stream_options.include_usage"));
                }
                let asked = options.get("include_usage").unwrap_or(&Value::Null);
                call.include_usage = truth("stream_options.include_usage", asked)?;
            }
            _ => return Err(CallError::WrongType { field, expected: "an object" }),
        },
        _ => call.max_tokens = call.max_tokens.max(count(field, value)?),
    }
    Ok(())
}

/// The name as a reader that ignores case sees it.
fn folded(name: &str) -> String {
    let fold = |letter: char| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    name.chars().map(fold).collect()
}

fn truth(field: &'static str, value: &Value) -> Result<bool, CallError> {
    match value {
        Value::Null => Ok(false),
        Value::Bool(truth) => Ok(*truth),
        _ => Err(CallError::WrongType { field, expected: "true or false" }),
    }
}

fn count(field: &'static str, value: &Value) -> Result<Option<u64>, CallError> {
    let wrong = CallError::WrongType { field, expected: "a non-negative integer" };
    match value {
        Value::Null => Ok(None),
        Value::Number(number) => number.as_u64().map(Some).ok_or(wrong),
        _ => Err(wrong),
    }
}

/// The usage of a whole answer; `None`: no opinion.
pub fn usage(body: &[u8]) -> Option<Reported> {
    let Members(found) = serde_json::from_slice(body).ok()?;
    let usage = found.iter().rev().find(|(name, _)| name == "usage");
    let Some((_, Value::Object(usage))) = usage else {
        return Some(Reported::default());
    };
    let written = members(body).filter(|(key, _)| key.is("usage")).last()?.1;
    let is_doubled = written.members().count() != usage.len()
        || ["completion_tokens", "output_tokens"].iter().all(|it| usage.contains_key(*it))
        || DETAILS.iter().all(|it| usage.contains_key(*it))
        || DETAILS.iter().any(|it| {
            let kept = usage.get(*it).and_then(Value::as_object).map_or(0, serde_json::Map::len);
            written.member(it).is_some_and(|details| details.members().count() != kept)
        });
    (!is_doubled).then(|| reported(usage).unwrap_or_default())
}

/// Where the two dialects say how much of the prompt was cached.
pub(crate) const DETAILS: [&str; 2] = ["prompt_tokens_details", "input_tokens_details"];

/// A count that is not one makes the whole report useless.
struct NoCount;

fn reported(usage: &serde_json::Map<String, Value>) -> Result<Reported, NoCount> {
    let of = |value: Option<&Value>| match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            value.as_u64().and_then(|it| u32::try_from(it).ok()).map(Some).ok_or(NoCount)
        }
    };
    let named = |name: &str| of(usage.get(name));
    let (prompt, input) = (named("prompt_tokens")?, named("input_tokens")?);
    let output = named("completion_tokens")?.or(named("output_tokens")?);
    let (read, written) =
        (named("cache_read_input_tokens")?, named("cache_creation_input_tokens")?);
    let mut cached = None;
    for name in DETAILS {
        cached = cached.or(of(usage.get(name).and_then(|details| details.get("cached_tokens")))?);
    }
    let (input, cached) = match (prompt, input) {
        (Some(prompt), _) => (prompt, cached),
        (None, Some(fresh)) => {
            let all =
                u64::from(fresh) + u64::from(read.unwrap_or(0)) + u64::from(written.unwrap_or(0));
            (u32::try_from(all).unwrap_or(u32::MAX), read.or(cached))
        }
        (None, None) => return Ok(Reported { input: None, output }),
    };
    let total = usage.get("total_tokens").and_then(Value::as_u64);
    let of_total = total.and_then(|total| total.checked_sub(u64::from(input)));
    let output = output.or(of_total.and_then(|of_total| u32::try_from(of_total).ok()));
    Ok(Reported { input: Some((input, cached.unwrap_or(0).min(input))), output })
}
