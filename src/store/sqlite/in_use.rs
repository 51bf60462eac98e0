//! Who uses what is to be deleted.

use crate::store::error::CatalogError;
use crate::store::in_use::{self, USERS_NAMED};
use rusqlite::{Connection, Params};

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
    in_use::refuse_used(kind, &names, count)
}
