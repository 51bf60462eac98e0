-- Sums whose bounds have a time of day read the hours of two days, not the whole ledger.
CREATE INDEX usage_records_by_time ON usage_records (occurred_at);
