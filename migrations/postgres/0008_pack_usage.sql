-- A record in 8 bytes less, which makes it 120 and 4 that point to it. A row without a NULL has a
-- header of 24 bytes, one with a NULL in any of more than 8 columns 32: so no name of the caller's
-- and no place are an empty text, of 1 byte each, and what there is besides `outcome` to be said in
-- one bit each shares its column. The rows are written anew, month by month; the view shows what it
-- always has.
DROP VIEW usage_records;
DROP INDEX usage_rows_by_consumer, usage_rows_by_time;
ALTER TABLE usage_rows RENAME TO usage_rows_wide;

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
    -- In the lowest three bits completed, client_aborted, upstream_failed, timed_out, recovered;
    -- 8: streamed; 16: estimated.
    outcome       smallint NOT NULL,
    -- Empty: the caller named it nothing, and it is named by its record.
    request_id    text NOT NULL,
    -- Where the record stands in its consumer's month on its service: tokens before its own, as
    -- this ledger has added them. Empty: its price does not depend on it.
    month_place   text NOT NULL
) PARTITION BY RANGE (occurred_at);

-- Each month and its parts, by the same names.
DO $$
DECLARE
    month record;
    part record;
BEGIN
    FOR month IN
        SELECT relname, relkind, pg_get_expr(relpartbound, pg_class.oid) AS bounds
        FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'usage_rows_wide'::regclass
    LOOP
        EXECUTE format('ALTER TABLE usage_rows_wide DETACH PARTITION %I', month.relname);
        EXECUTE format('ALTER TABLE %I RENAME TO usage_rows_month', month.relname);
        EXECUTE format('CREATE TABLE %I PARTITION OF usage_rows %s %s', month.relname, month.bounds,
            CASE month.relkind WHEN 'p' THEN 'PARTITION BY HASH (consumer_id)' ELSE '' END);
        FOR part IN
            SELECT relname, pg_get_expr(relpartbound, pg_class.oid) AS bounds
            FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
            WHERE inhparent = 'usage_rows_month'::regclass
        LOOP
            EXECUTE format('ALTER TABLE %I RENAME TO %I', part.relname, part.relname || '_wide');
            EXECUTE format('CREATE TABLE %I PARTITION OF %I %s', part.relname, month.relname,
                part.bounds);
        END LOOP;
        EXECUTE format('INSERT INTO %I
            SELECT record_id, occurred_at, consumer_id, key_id, service_id, cost_nanousd,
                input_tokens, cached_tokens, output_tokens, price_version, latency_us, ttft_us,
                overhead_us, instance, status, attempts,
                outcome + 8 * streamed::integer + 16 * estimated::integer,
                coalesce(request_id, ''''), coalesce(month_place::text, '''')
            FROM usage_rows_month', month.relname);
        DROP TABLE usage_rows_month;
    END LOOP;
END $$;
DROP TABLE usage_rows_wide;

CREATE INDEX usage_rows_by_consumer ON usage_rows (consumer_id);
CREATE INDEX usage_rows_by_time ON usage_rows
    USING brin (occurred_at) WITH (pages_per_range = 32, autosummarize = on);

CREATE VIEW usage_records AS
SELECT record_id::text AS record_id,
       to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS occurred_at,
       to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM') AS period,
       coalesce(nullif(request_id, ''), record_id::text) AS request_id,
       tollgate_id(consumer_id) AS consumer_id,
       tollgate_id(key_id) AS key_id,
       tollgate_id(service_id) AS service_id,
       coalesce((SELECT name FROM services WHERE id = service_id), tollgate_id(service_id))
           AS model,
       status,
       (ARRAY['completed', 'client_aborted', 'upstream_failed', 'timed_out', 'recovered'])
           [(outcome & 7) + 1] AS outcome,
       outcome & 8 > 0 AS streamed, input_tokens, cached_tokens, output_tokens,
       CASE WHEN outcome & 16 > 0 THEN 'estimated' ELSE 'reported' END AS tokens_source,
       price_version, cost_nanousd, attempts, latency_us, ttft_us, overhead_us,
       (SELECT instance_id::text FROM usage_instances WHERE number = instance) AS instance_id
FROM usage_rows;
