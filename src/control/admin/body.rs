//! Reads a JSON body field by field and collects every problem, each under its field's path.

use super::error::{AdminError, FieldProblem};
use crate::wire::time_text;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// A JSON object being read. Null counts as absent, but see [`BodyFields::has`].
pub(crate) struct BodyFields {
    map: Map<String, Value>,
    path: String,
    problems: Vec<FieldProblem>,
}

impl BodyFields {
    /// The whole body; fields that are not `known` are problems.
    pub(crate) fn of_body(body: &[u8], known: &[&str]) -> Result<Self, AdminError> {
        let value: Value = serde_json::from_slice(body).map_err(|error| {
            AdminError::invalid(None, format!("The body is not valid JSON: {error}."))
        })?;
        Self::nested(&value, "", known).map_err(|problems| match &problems[..] {
            [problem] if problem.field.is_empty() => {
                AdminError::invalid(None, "The body must be a JSON object.".to_owned())
            }
            _ => AdminError::from(problems),
        })
    }

    /// An object inside of another; `path` is its own name there.
    pub(crate) fn nested(
        value: &Value,
        path: &str,
        known: &[&str],
    ) -> Result<Self, Vec<FieldProblem>> {
        let Value::Object(map) = value else {
            return Err(vec![FieldProblem::new(path, "must be an object")]);
        };
        let mut fields = Self { map: map.clone(), path: path.to_owned(), problems: Vec::new() };
        for name in map.keys().filter(|name| !known.contains(&name.as_str())) {
            let message = format!("is unknown; known are {}", known.join(", "));
            fields.problem(name, message);
        }
        Ok(fields)
    }

    /// The path of the field `name`.
    pub(crate) fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Notes a problem of the field `name`.
    pub(crate) fn problem(&mut self, name: &str, message: impl Into<String>) {
        let problem = FieldProblem::new(self.path(name), message);
        self.problems.push(problem);
    }

    /// Notes problems of nested fields.
    pub(crate) fn add(&mut self, problems: Vec<FieldProblem>) {
        self.problems.extend(problems);
    }

    /// Is the field there, be it null?
    pub(crate) fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// Has a problem of the field been noted?
    pub(crate) fn has_problem(&self, name: &str) -> bool {
        let path = self.path(name);
        self.problems.iter().any(|problem| problem.field == path)
    }

    /// The field's value unless absent or null.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// A text of 1 to `chars_max` characters, none of them a control character.
    pub(crate) fn text(&mut self, name: &str, chars_max: usize) -> Option<String> {
        match self.take(name)? {
            Value::String(text)
                if (1..=chars_max).contains(&text.chars().count())
                    && !text.chars().any(char::is_control) =>
            {
                return Some(text);
            }
            _ => self.problem(
                name,
                format!("must be a text of 1 to {chars_max} characters without control characters"),
            ),
        }
        None
    }

    /// The same, not to be left out.
    pub(crate) fn required_text(&mut self, name: &str, chars_max: usize) -> String {
        let is_absent = self.is_absent(name);
        let text = self.text(name, chars_max);
        self.require(name, is_absent);
        text.unwrap_or_default()
    }

    /// A whole number.
    pub(crate) fn integer(&mut self, name: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let number = whole(&self.take(name)?).filter(|number| range.contains(number));
        if number.is_none() {
            let message =
                format!("must be a whole number from {} to {}", range.start(), range.end());
            self.problem(name, message);
        }
        number
    }

    /// The same, not to be left out.
    pub(crate) fn required_integer(&mut self, name: &str, range: RangeInclusive<u64>) -> u64 {
        let is_absent = self.is_absent(name);
        let number = self.integer(name, range);
        self.require(name, is_absent);
        number.unwrap_or_default()
    }

    /// True or false.
    pub(crate) fn boolean(&mut self, name: &str) -> Option<bool> {
        let value = self.take(name)?.as_bool();
        if value.is_none() {
            self.problem(name, "must be true or false");
        }
        value
    }

    /// An instant, microseconds since 1970: RFC 3339, or a whole number of seconds since 1970.
    pub(crate) fn instant(&mut self, name: &str) -> Option<i64> {
        /// The year 9999.
        const UNIX_S_MAX: i64 = 253_402_300_799;
        let instant = match self.take(name)? {
            Value::String(text) => time_text::parse_rfc3339(&text),
            value @ Value::Number(_) => whole(&value)
                .and_then(|unix_s| i64::try_from(unix_s).ok())
                .filter(|unix_s| (0..=UNIX_S_MAX).contains(unix_s))
                .map(|unix_s| unix_s * 1_000_000),
            _ => None,
        };
        if instant.is_none() {
            self.problem(
                name,
                "must be a time such as \"2030-01-31T00:00:00Z\", or seconds since 1970",
            );
        }
        instant
    }

    /// Every problem, if there was any.
    pub(crate) fn finish(self) -> Result<(), Vec<FieldProblem>> {
        if self.problems.is_empty() { Ok(()) } else { Err(self.problems) }
    }

    fn is_absent(&self, name: &str) -> bool {
        self.map.get(name).is_none_or(Value::is_null)
    }

    fn require(&mut self, name: &str, is_absent: bool) {
        if is_absent {
            self.problem(name, "is required");
        }
    }
}

/// A whole number, as JSON Schema knows it: `7.0` and `7e0` are 7 too.
fn whole(value: &Value) -> Option<u64> {
    /// From here on a double may stand for more than one whole number.
    const EXACT_MAX: f64 = (1_u64 << 53) as f64;
    let is_whole = |number: &f64| number.fract() == 0.0 && (0.0..EXACT_MAX).contains(number);
    value.as_u64().or_else(|| value.as_f64().filter(is_whole).map(|number| number as u64))
}
