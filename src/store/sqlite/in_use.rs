//! What is in use is not deleted, and whoever asks is told by whom.

use crate::store::error::CatalogError;
use rusqlite::{Connection, Params};

/// Of those that use an object, a refusal names so many and counts the rest.
const USERS_NAMED: usize = 3;

/// Refuses to let an object go that `users`, a query for their names, finds in use. Changes come
/// one after another: nobody begins to use it between this and its deletion.
pub(super) fn refuse_used(
    connection: &Connection,
    kind: &str,
    users: &str,
    values: impl Params,
) -> Result<(), CatalogError> {
    let query = format!("SELECT *, count(*) OVER () FROM ({users}) LIMIT {USERS_NAMED}");
    let mut statement = connection.prepare(&query)?;
    let mut rows = statement.query(values)?;
    let (mut names, mut count) = (Vec::<String>::new(), 0);
    while let Some(row) = rows.next()? {
        names.push(row.get(0)?);
        count = row.get(1)?;
    }
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
