//! Reads a query string with the same care as a body.

use super::body::BodyFields;
use super::error::AdminError;
use crate::store::Page;
use serde_json::{Map, Value};

/// Rows of a page where the caller names no limit.
const LIMIT_DEFAULT: u32 = 100;
/// Most rows of a page.
const LIMIT_MAX: u32 = 1_000;

/// The parameters of a query string.
pub(super) type Pairs = Vec<(String, String)>;

/// Reads parameters; those that are not `known` are problems.
pub(super) fn read(pairs: Pairs, known: &[&str]) -> Result<BodyFields, AdminError> {
    let map: Map<String, Value> =
        pairs.into_iter().map(|(name, text)| (name, Value::String(text))).collect();
    BodyFields::nested(&Value::Object(map), "", known).map_err(AdminError::from)
}

/// `limit` and `cursor` of a list.
pub(super) fn page(fields: &mut BodyFields) -> Page {
    let limit = number(fields, "limit", i64::from(LIMIT_MAX)).unwrap_or(LIMIT_DEFAULT.into());
    let after = number(fields, "cursor", i64::MAX).unwrap_or(0);
    Page { limit: u32::try_from(limit).unwrap_or(LIMIT_DEFAULT), after }
}

/// `limit` and `cursor` of a list without further parameters.
pub(super) fn only_page(pairs: Pairs) -> Result<Page, AdminError> {
    let mut fields = read(pairs, &["limit", "cursor"])?;
    let page = page(&mut fields);
    fields.finish()?;
    Ok(page)
}

/// A whole number from 1 to `max`, written plainly: no sign, no leading zero.
pub(super) fn number(fields: &mut BodyFields, name: &str, max: i64) -> Option<i64> {
    let text = fields.text(name, 20)?;
    let is_plain = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| is_plain && (1..=max).contains(number));
    if number.is_none() {
        fields.problem(name, format!("must be a whole number from 1 to {max}"));
    }
    number
}
