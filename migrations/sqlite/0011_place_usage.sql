-- Where a record stands in its consumer's month on its service: tokens before its own, as this
-- ledger has added them. Only of records whose price depends on it, so that the others take no byte
-- more.
CREATE TABLE usage_places (
    record_id   BLOB PRIMARY KEY,
    month_place INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
