//! What the gateway must know of a call's JSON body before it lets the call through, read in one
//! pass, and the one change it makes: asking the upstream to report usage at a stream's end.
//!
//! A field that decides about money must have one meaning. Given twice, or in another case, it is
//! refused: the upstream might read it otherwise.

use super::json::{JsonError, Kind, Text, Value, scan_object};
use super::span::Span;

/// Why a body is refused. Fields are named as the caller wrote them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// Not JSON.
    Malformed,
    /// Nested too deeply.
    TooDeep,
    /// JSON, but not an object.
    NotAnObject,
    /// The field is given twice.
    Duplicate(&'static str),
    /// The field is written in another case, which some readers ignore.
    OtherCase(&'static str),
    /// The field is not of its type.
    WrongType {
        /// Which field.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
    },
}

/// A string of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyText {
    /// What stands between the quotes.
    pub span: Span,
    /// There are escapes in it.
    pub escaped: bool,
}

impl BodyText {
    /// Its characters; decoded into `scratch` where there are escapes.
    pub(crate) fn decode<'a>(&self, body: &'a [u8], scratch: &'a mut Vec<u8>) -> &'a [u8] {
        let raw = self.span.of(body);
        if !self.escaped {
            return raw;
        }
        scratch.clear();
        Text { raw, escaped: true }.decode_into(scratch);
        scratch
    }
}

/// Bytes to put in the place of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Splice {
    /// What to replace; empty to insert.
    pub replaced: Span,
    /// What to put there.
    pub text: &'static str,
}

/// What matters of a call's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallFields {
    /// `model`
    pub model: Option<BodyText>,
    /// `stream` is true.
    pub stream: bool,
    /// The largest of `max_tokens`, `max_completion_tokens` and `max_output_tokens`.
    pub max_tokens: Option<u64>,
    /// `n`: answers asked for.
    pub n: Option<u64>,
    /// `stream_options`, where it is there and not null.
    pub stream_options: Option<Span>,
    /// `stream_options.include_usage` is true.
    pub include_usage_asked: bool,
    /// What would make `stream_options.include_usage` true; `None`: it is true already.
    pub include_usage_splice: Option<Splice>,
}

/// Reads a call's body.
pub fn scan_call(body: &[u8]) -> Result<CallFields, CallError> {
    if u32::try_from(body.len()).is_err() {
        return Err(CallError::Malformed);
    }
    let mut scan = CallScan::default();
    let (mut first_error, mut members) = (None, 0usize);
    scan_object(body, |key, value| {
        members += 1;
        if first_error.is_none() {
            first_error = scan.take(body, key, value).err();
        }
    })
    .map_err(|error| match error {
        JsonError::Malformed => CallError::Malformed,
        JsonError::TooDeep => CallError::TooDeep,
        JsonError::NotAnObject => CallError::NotAnObject,
    })?;
    if let Some(error) = first_error {
        return Err(error);
    }
    let mut fields = scan.fields;
    if scan.seen & STREAM_OPTIONS == 0 {
        fields.include_usage_splice = Some(insert_after_brace(body, 0, members > 0, true));
    }
    Ok(fields)
}

/// The body with `stream_options.include_usage` true, in three parts to be sent one after another:
/// a body can be large, and is copied once.
pub(crate) fn with_include_usage<'a>(body: &'a [u8], fields: &CallFields) -> [&'a [u8]; 3] {
    match fields.include_usage_splice {
        None => [body, b"", b""],
        Some(Splice { replaced, text }) => {
            let (before, after) = (replaced.start as usize, replaced.end as usize);
            [&body[..before], text.as_bytes(), &body[after..]]
        }
    }
}

const NAMES: [&str; 7] = [
    "model",
    "stream",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "stream_options",
];
const STREAM_OPTIONS: u8 = 1 << 6;

#[derive(Default)]
struct CallScan {
    fields: CallFields,
    /// One bit for each of [`NAMES`].
    seen: u8,
}

impl CallScan {
    fn take(&mut self, body: &[u8], key: Text<'_>, value: Value<'_>) -> Result<(), CallError> {
        let Some(place) = NAMES.iter().position(|name| key.folds_to(name)) else { return Ok(()) };
        let field = NAMES[place];
        if !key.is(field) {
            return Err(CallError::OtherCase(field));
        }
        if self.seen & 1 << place != 0 {
            return Err(CallError::Duplicate(field));
        }
        self.seen |= 1 << place;
        match place {
            0 => {
                let text =
                    value.as_text().ok_or(CallError::WrongType { field, expected: "a string" })?;
                let span = Span::within(body, text.raw);
                self.fields.model = Some(BodyText { span, escaped: text.escaped });
            }
            1 => self.fields.stream = bool_or_null(field, value)?,
            2..=4 => {
                self.fields.max_tokens = self.fields.max_tokens.max(count_or_null(field, value)?);
            }
            5 => self.fields.n = count_or_null(field, value)?,
            _ => self.take_stream_options(body, field, value)?,
        }
        Ok(())
    }

    fn take_stream_options(
        &mut self,
        body: &[u8],
        field: &'static str,
        value: Value<'_>,
    ) -> Result<(), CallError> {
        let span = Span::within(body, value.raw);
        if value.kind == Kind::Null {
            let text = r#"{"include_usage":true}"#;
            self.fields.include_usage_splice = Some(Splice { replaced: span, text });
            return Ok(());
        }
        if value.kind != Kind::Object {
            return Err(CallError::WrongType { field, expected: "an object" });
        }
        self.fields.stream_options = Some(span);
        let (mut asked, mut members) = (None, 0usize);
        for (key, inner) in value.members() {
            members += 1;
            if !key.folds_to("include_usage") {
                continue;
            }
            if !key.is("include_usage") {
                return Err(CallError::OtherCase("stream_options.include_usage"));
            }
            if asked.replace(inner).is_some() {
                return Err(CallError::Duplicate("stream_options.include_usage"));
            }
        }
        self.fields.include_usage_splice = match asked {
            None => Some(insert_after_brace(body, span.start, members > 0, false)),
            Some(inner) if bool_or_null("stream_options.include_usage", inner)? => {
                self.fields.include_usage_asked = true;
                None
            }
            Some(inner) => Some(Splice { replaced: Span::within(body, inner.raw), text: "true" }),
        };
        Ok(())
    }
}

/// Inserts a member at the start of the object whose brace is the first one at or after `from`.
fn insert_after_brace(body: &[u8], from: u32, has_members: bool, is_whole: bool) -> Splice {
    let text = match (is_whole, has_members) {
        (true, true) => r#""stream_options":{"include_usage":true},"#,
        (true, false) => r#""stream_options":{"include_usage":true}"#,
        (false, true) => r#""include_usage":true,"#,
        (false, false) => r#""include_usage":true"#,
    };
    let start = from as usize;
    let at = start + body[start..].iter().take_while(|byte| **byte != b'{').count() + 1;
    Splice { replaced: Span::new(at, at), text }
}

fn bool_or_null(field: &'static str, value: Value<'_>) -> Result<bool, CallError> {
    match (value.kind, value.as_bool()) {
        (Kind::Null, _) => Ok(false),
        (_, Some(truth)) => Ok(truth),
        _ => Err(CallError::WrongType { field, expected: "true or false" }),
    }
}

fn count_or_null(field: &'static str, value: Value<'_>) -> Result<Option<u64>, CallError> {
    match (value.kind, value.as_u64()) {
        (Kind::Null, _) => Ok(None),
        (_, Some(count)) => Ok(Some(count)),
        _ => Err(CallError::WrongType { field, expected: "a non-negative integer" }),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn spliced(body: &str) -> String {
        let fields = scan_call(body.as_bytes()).unwrap();
        String::from_utf8(with_include_usage(body.as_bytes(), &fields).concat()).unwrap()
    }

    #[test]
    fn the_fields_of_a_call_are_found() {
        let body = br#"{"messages":[{"role":"user","content":"\"model\":"}],"model":"demo-chat",
            "stream":true,"max_tokens":5,"max_completion_tokens":7,"n":null,
            "stream_options":{"include_usage":true}}"#;
        let fields = scan_call(body).unwrap();
        assert_eq!(fields.model.unwrap().span.of(body), b"demo-chat");
        assert!(fields.stream && fields.include_usage_asked);
        assert_eq!((fields.max_tokens, fields.n), (Some(7), None));
        assert_eq!(scan_call(b"{}").unwrap().model, None);
        let body = br#"{"mod\u0065l":"a\u0062\"c","n":3,"stream":null}"#;
        let fields = scan_call(body).unwrap();
        assert_eq!(fields.model.unwrap().decode(body, &mut Vec::new()), b"ab\"c");
        assert_eq!((fields.n, fields.stream), (Some(3), false));
    }

    #[test]
    fn a_field_given_twice_is_refused() {
        for (body, field) in [
            (r#"{"model":"a","model":"a"}"#, "model"),
            (r#"{"model":"a","mod\u0065l":"b"}"#, "model"),
            (r#"{"stream":true,"stream":false}"#, "stream"),
            (r#"{"max_tokens":1,"max_tokens":2}"#, "max_tokens"),
            (r#"{"n":1,"n":2}"#, "n"),
            (r#"{"stream_options":null,"stream_options":{}}"#, "stream_options"),
            (
                r#"{"stream_options":{"include_usage":true,"include_us\u0061ge":false}}"#,
                "stream_options.include_usage",
            ),
        ] {
            assert_eq!(scan_call(body.as_bytes()), Err(CallError::Duplicate(field)), "{body}");
        }
    }

    #[test]
    fn a_field_in_another_case_is_refused() {
        for (body, field) in [
            (r#"{"Stream":true}"#, "stream"),
            (r#"{"stream":false,"STREAM":true}"#, "stream"),
            (r#"{"\u017ftream":true}"#, "stream"),
            ("{\"\u{17f}tream\":true}", "stream"),
            ("{\"max_to\u{212a}ens\":1}", "max_tokens"),
            (r#"{"mode\u004c":"a"}"#, "model"),
            (
                r#"{"stream_options":{"include_usage":true,"Include_Usage":false}}"#,
                "stream_options.include_usage",
            ),
        ] {
            assert_eq!(scan_call(body.as_bytes()), Err(CallError::OtherCase(field)), "{body}");
        }
        for body in [r#"{"streams":1}"#, r#"{"strea\u0301m":1}"#, r#"{"\u00e9":1,"modem":1}"#] {
            assert_eq!(scan_call(body.as_bytes()).err(), None, "{body}");
        }
    }

    #[test]
    fn a_field_of_the_wrong_type_is_named() {
        for (body, wrong) in [
            (r#"{"model":1}"#, "model"),
            (r#"{"model":null}"#, "model"),
            (r#"{"stream":"true"}"#, "stream"),
            (r#"{"stream":1}"#, "stream"),
            (r#"{"max_tokens":-1}"#, "max_tokens"),
            (r#"{"max_tokens":1.5}"#, "max_tokens"),
            (r#"{"max_completion_tokens":1e3}"#, "max_completion_tokens"),
            (r#"{"max_output_tokens":18446744073709551616}"#, "max_output_tokens"),
            (r#"{"n":"2"}"#, "n"),
            (r#"{"stream_options":[]}"#, "stream_options"),
            (r#"{"stream_options":{"include_usage":1}}"#, "stream_options.include_usage"),
        ] {
            let error = scan_call(body.as_bytes()).unwrap_err();
            assert!(
                matches!(error, CallError::WrongType { field, .. } if field == wrong),
                "{body}"
            );
        }
    }

    #[test]
    fn what_is_not_an_object_is_refused() {
        assert_eq!(scan_call(b""), Err(CallError::Malformed));
        assert_eq!(scan_call(b"[]"), Err(CallError::NotAnObject));
        assert_eq!(scan_call(br#"{"model":"a""#), Err(CallError::Malformed));
        // A wrong field before the malformed end: the error is that the body is not JSON.
        assert_eq!(scan_call(br#"{"model":1,}"#), Err(CallError::Malformed));
        assert_eq!(scan_call("{\"a\":".repeat(99).as_bytes()), Err(CallError::TooDeep));
    }

    #[test]
    fn include_usage_is_spliced_in_and_nothing_else_changes() {
        for (body, expected) in [
            (r#" {"a":1}"#, r#" {"stream_options":{"include_usage":true},"a":1}"#),
            ("{ }", r#"{"stream_options":{"include_usage":true} }"#),
            (r#"{"stream_options": null}"#, r#"{"stream_options": {"include_usage":true}}"#),
            (r#"{"stream_options":{ }}"#, r#"{"stream_options":{"include_usage":true }}"#),
            (
                r#"{"a":"{","stream_options":{"b":{}}}"#,
                r#"{"a":"{","stream_options":{"include_usage":true,"b":{}}}"#,
            ),
            (
                r#"{"stream_options":{"b":1,"include_usage":false}}"#,
                r#"{"stream_options":{"b":1,"include_usage":true}}"#,
            ),
            (
                r#"{"stream_options":{"include_usage":null}}"#,
                r#"{"stream_options":{"include_usage":true}}"#,
            ),
        ] {
            assert_eq!(spliced(body), expected);
            assert_eq!(spliced(expected), expected);
        }
    }

    proptest! {
        #[test]
        fn any_object_is_spliced_into_the_same_with_usage(
            keys in proptest::collection::btree_map("[a-z]{1,3}|stream_options", 0u8..5, 0..5),
        ) {
            let mut object = serde_json::Map::new();
            for (key, form) in keys {
                let value = match (key.as_str(), form) {
                    ("stream_options", 0) => json!(null),
                    ("stream_options", 1) => json!({}),
                    ("stream_options", 2) => json!({"include_usage": false, "x": 1}),
                    ("stream_options", 3) => json!({"include_usage": true}),
                    ("stream_options", _) => json!({"x": [null]}),
                    ("n", _) => json!(form),
                    _ => json!([form, "stream_options"]),
                };
                object.insert(key, value);
            }
            let body = serde_json::to_string(&object).unwrap();
            let options = object.entry("stream_options").or_insert(json!({}));
            if options.is_null() {
                *options = json!({});
            }
            options["include_usage"] = json!(true);
            let found: serde_json::Value = serde_json::from_str(&spliced(&body)).unwrap();
            prop_assert_eq!(found, serde_json::Value::Object(object));
        }

        #[test]
        fn any_bytes_end_in_an_answer(body in proptest::collection::vec(any::<u8>(), 0..80)) {
            let is_object = matches!(
                serde_json::from_slice(&body), Ok(serde_json::Value::Object(_)));
            if scan_call(&body).is_ok() {
                prop_assert!(is_object);
            }
        }
    }
}
