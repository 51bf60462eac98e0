-- The ledger: one row per admitted request. Columns are those of the contract, part 5.
CREATE TABLE usage_records (
    record_id     TEXT PRIMARY KEY,
    occurred_at   TEXT NOT NULL,
    period        TEXT NOT NULL,
    request_id    TEXT NOT NULL,
    consumer_id   TEXT NOT NULL,
    key_id        TEXT NOT NULL,
    service_id    TEXT NOT NULL,
    model         TEXT NOT NULL,
    status        INTEGER NOT NULL,
    outcome       TEXT NOT NULL,
    streamed      INTEGER NOT NULL,
    input_tokens  INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    tokens_source TEXT NOT NULL,
    price_version INTEGER NOT NULL,
    cost_nanousd  INTEGER NOT NULL,
    attempts      INTEGER NOT NULL,
    latency_us    INTEGER NOT NULL,
    ttft_us       INTEGER NOT NULL,
    overhead_us   INTEGER NOT NULL,
    instance_id   TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Sums of the ledger, kept in the transaction that writes its rows. day is YYYY-MM-DD (UTC),
-- period YYYY-MM, both of occurred_at.
CREATE TABLE usage_daily (
    consumer_id   TEXT NOT NULL,
    service_id    TEXT NOT NULL,
    day           TEXT NOT NULL,
    period        TEXT NOT NULL,
    calls         INTEGER NOT NULL,
    input_tokens  INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cost_nanousd  INTEGER NOT NULL,
    PRIMARY KEY (consumer_id, service_id, day)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_daily_by_period ON usage_daily (period, consumer_id);

-- How far each journal has been written into the ledger: records with a sequence number below
-- next_seq are in. closed: replayed to its end after its process died; nothing of it is missing.
CREATE TABLE ingest_watermark (
    journal_id TEXT PRIMARY KEY,
    next_seq   INTEGER NOT NULL,
    closed     INTEGER NOT NULL CHECK (closed IN (0, 1))
) STRICT, WITHOUT ROWID;

-- Records that the ledger refused, with its reason; slot is the journal's 128 bytes of it.
-- Nothing else is ever left out.
CREATE TABLE usage_dlq (
    journal_id TEXT NOT NULL,
    seq        INTEGER NOT NULL,
    reason     TEXT NOT NULL,
    slot       BLOB NOT NULL,
    request_id TEXT NOT NULL,
    PRIMARY KEY (journal_id, seq)
) STRICT, WITHOUT ROWID;
