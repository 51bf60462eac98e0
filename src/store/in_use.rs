//! What is in use is not deleted, and whoever asks is told by whom.

use super::error::CatalogError;

/// Of those that use an object, a refusal names so many and counts the rest.
pub(super) const USERS_NAMED: usize = 3;

/// Refuses to let an object go that `count` others use, each of this `kind`; `names` has the first
/// few of them.
pub(super) fn refuse_used(kind: &str, names: &[String], count: i64) -> Result<(), CatalogError> {
    let plural = if count > 1 { "s" } else { "" };
    let more = match count - names.len() as i64 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    match names.is_empty() {
        true => Ok(()),
        false => Err(CatalogError::InUse(format!("{kind}{plural} {}{more}", names.join(", ")))),
    }
}
