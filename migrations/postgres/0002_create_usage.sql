-- The ledger: one row per admitted request, in native types, the widest first so that none is
-- padded. The month is that of the instant, the model is the service's name, a request whose caller
-- named it nothing is named by its record, and the instance is the number of its row. Durations stop
-- at 2147 s. The view usage_records shows each record in the columns and texts of the contract,
-- part 5, as the embedded store does.
-- consumer_id is in every key and lookup: it is the column that Citus distributes by. A record is
-- there once because its journal's watermark moves in the transaction that writes it.
CREATE TABLE usage_instances (
    number      integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    instance_id uuid NOT NULL UNIQUE
);

CREATE TABLE usage_rows (
    record_id     uuid NOT NULL,
    occurred_at   timestamptz NOT NULL,
    consumer_id   bigint NOT NULL,
    key_id        bigint NOT NULL,
    service_id    bigint NOT NULL,
    cost_nanousd  bigint NOT NULL,
    input_tokens  integer NOT NULL,
    cached_tokens integer NOT NULL,
    output_tokens integer NOT NULL,
    price_version integer NOT NULL,
    latency_us    integer NOT NULL,
    ttft_us       integer NOT NULL,
    overhead_us   integer NOT NULL,
    -- Of usage_instances. Not declared as a reference: each row would be checked.
    instance      integer NOT NULL,
    status        smallint NOT NULL,
    attempts      smallint NOT NULL,
    -- completed, client_aborted, upstream_failed, timed_out, recovered.
    outcome       smallint NOT NULL,
    streamed      boolean NOT NULL,
    estimated     boolean NOT NULL,
    request_id    text
) PARTITION BY RANGE (occurred_at);
-- UUIDv7: the newest page is warm.
CREATE INDEX usage_rows_by_id ON usage_rows (record_id);
CREATE INDEX usage_rows_by_consumer ON usage_rows (consumer_id, occurred_at);
-- Sums whose bounds have a time of day; rows come in its order, so a few bytes for many pages do.
CREATE INDEX usage_rows_by_time ON usage_rows
    USING brin (occurred_at) WITH (pages_per_range = 32, autosummarize = on);
-- Whatever has no month of its own; months are made ahead, so it stays empty.
CREATE TABLE usage_rows_default PARTITION OF usage_rows DEFAULT;

-- An identity as the API shows it: 12 characters of Crockford's base 32.
CREATE FUNCTION tollgate_id(id bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT string_agg(substr('0123456789abcdefghjkmnpqrstvwxyz',
                             ((id >> (5 * place)) & 31)::integer + 1, 1), '' ORDER BY place DESC)
    FROM generate_series(0, 11) AS place
$$;

CREATE VIEW usage_records AS
SELECT record_id::text AS record_id,
       to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS occurred_at,
       to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM') AS period,
       coalesce(request_id, record_id::text) AS request_id,
       tollgate_id(consumer_id) AS consumer_id,
       tollgate_id(key_id) AS key_id,
       tollgate_id(service_id) AS service_id,
       coalesce((SELECT name FROM services WHERE id = service_id), tollgate_id(service_id))
           AS model,
       status,
       (ARRAY['completed', 'client_aborted', 'upstream_failed', 'timed_out', 'recovered'])
           [outcome + 1] AS outcome,
       streamed, input_tokens, cached_tokens, output_tokens,
       CASE WHEN estimated THEN 'estimated' ELSE 'reported' END AS tokens_source,
       price_version, cost_nanousd, attempts, latency_us, ttft_us, overhead_us,
       (SELECT instance_id::text FROM usage_instances WHERE number = instance) AS instance_id
FROM usage_rows;

-- Sums of the ledger by day (UTC), kept in the transaction that writes its rows; period is that
-- day's month, YYYYMM.
CREATE TABLE usage_daily (
    consumer_id   bigint NOT NULL,
    service_id    bigint NOT NULL,
    day           date NOT NULL,
    period        integer NOT NULL,
    calls         bigint NOT NULL,
    input_tokens  bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cost_nanousd  numeric NOT NULL,
    PRIMARY KEY (consumer_id, service_id, day)
);
CREATE INDEX usage_daily_by_period ON usage_daily (consumer_id, period);

-- The same by month: what quotas, tiers and allowances are read from.
CREATE TABLE usage_monthly (
    consumer_id   bigint NOT NULL,
    service_id    bigint NOT NULL,
    period        integer NOT NULL,
    calls         bigint NOT NULL,
    input_tokens  bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cost_nanousd  numeric NOT NULL,
    PRIMARY KEY (consumer_id, service_id, period)
);

-- What a consumer owes for a month on a service besides its calls: the fee of the subscription
-- that the month's first call there was priced by, due when that call was admitted.
CREATE TABLE usage_fees (
    consumer_id   bigint NOT NULL,
    service_id    bigint NOT NULL,
    period        integer NOT NULL,
    due_at        timestamptz NOT NULL,
    price_version integer NOT NULL,
    fee_nanousd   bigint NOT NULL,
    PRIMARY KEY (consumer_id, service_id, period)
);

-- How far each journal has been written into the ledger: records with a sequence number below
-- next_seq are in. closed: replayed to its end after its process died; nothing of it is missing.
CREATE TABLE ingest_watermark (
    journal_id uuid PRIMARY KEY,
    next_seq   bigint NOT NULL,
    closed     boolean NOT NULL
);

-- How far back the ledger has its records: those of calls from before were dropped when they had
-- been kept for `usage.keep_days`. Their sums stay.
CREATE TABLE usage_retention (
    only_row     integer PRIMARY KEY CHECK (only_row = 1),
    kept_from_us bigint NOT NULL
);
INSERT INTO usage_retention VALUES (1, 0);

-- Records that the ledger refused, with its reason; slot is the journal's 128 bytes of it.
-- Nothing else is ever left out.
CREATE TABLE usage_dlq (
    journal_id uuid NOT NULL,
    seq        bigint NOT NULL,
    reason     text NOT NULL,
    slot       bytea NOT NULL,
    request_id text NOT NULL,
    PRIMARY KEY (journal_id, seq)
);
