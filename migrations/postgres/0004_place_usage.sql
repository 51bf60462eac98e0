-- Where a record stands in its consumer's month on its service: tokens before its own, as this
-- ledger has added them. Only where the record's price depends on it.
ALTER TABLE usage_rows ADD COLUMN month_place bigint;
