-- How far back the ledger has its records: those of calls from before were dropped when they had
-- been kept for `usage.keep_days`. Their sums by day stay.
CREATE TABLE usage_retention (
    only_row     INTEGER PRIMARY KEY CHECK (only_row = 1),
    kept_from_us INTEGER NOT NULL
) STRICT;
INSERT INTO usage_retention VALUES (1, 0);
