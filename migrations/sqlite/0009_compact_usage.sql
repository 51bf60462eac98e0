-- A record in half the bytes: identities of calls as 16 bytes, instants as microseconds since 1970,
-- enumerations as numbers, the instance by the number of its row, and no text that another column
-- or table has already: the month is that of the instant, the model is the service's name, and a
-- request whose caller named it nothing is named by its record. The view below shows each record
-- in the columns and texts that it always had.
CREATE TABLE usage_instances (
    number      INTEGER PRIMARY KEY,
    instance_id TEXT NOT NULL UNIQUE
) STRICT;
INSERT INTO usage_instances (instance_id) SELECT DISTINCT instance_id FROM usage_records;

CREATE TABLE usage_rows (
    record_id      BLOB PRIMARY KEY,
    occurred_at_us INTEGER NOT NULL,
    request_id     TEXT,
    consumer_id    TEXT NOT NULL,
    key_id         TEXT NOT NULL,
    service_id     TEXT NOT NULL,
    status         INTEGER NOT NULL,
    -- completed, client_aborted, upstream_failed, timed_out, recovered.
    outcome        INTEGER NOT NULL CHECK (outcome BETWEEN 0 AND 4),
    streamed       INTEGER NOT NULL,
    input_tokens   INTEGER NOT NULL,
    cached_tokens  INTEGER NOT NULL,
    output_tokens  INTEGER NOT NULL,
    estimated      INTEGER NOT NULL,
    price_version  INTEGER NOT NULL,
    cost_nanousd   INTEGER NOT NULL,
    attempts       INTEGER NOT NULL,
    latency_us     INTEGER NOT NULL,
    ttft_us        INTEGER NOT NULL,
    overhead_us    INTEGER NOT NULL,
    -- Of usage_instances. Not declared as a reference: each row would be checked.
    instance       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO usage_rows
SELECT unhex(replace(record_id, '-', '')),
       unixepoch(substr(occurred_at, 1, 19)) * 1000000 + CAST(substr(occurred_at, 21, 6) AS INTEGER),
       nullif(request_id, record_id), consumer_id, key_id, service_id, status,
       CASE outcome WHEN 'completed' THEN 0 WHEN 'client_aborted' THEN 1
           WHEN 'upstream_failed' THEN 2 WHEN 'timed_out' THEN 3 WHEN 'recovered' THEN 4 END,
       streamed, input_tokens, cached_tokens, output_tokens, tokens_source = 'estimated',
       price_version, cost_nanousd, attempts, latency_us, ttft_us, overhead_us,
       (SELECT number FROM usage_instances i WHERE i.instance_id = u.instance_id)
FROM usage_records u ORDER BY record_id;
DROP TABLE usage_records;
CREATE INDEX usage_rows_by_time ON usage_rows (occurred_at_us);

CREATE VIEW usage_records AS
SELECT u.record_uuid AS record_id,
       strftime('%Y-%m-%dT%H:%M:%S', u.occurred_at_us / 1000000, 'unixepoch')
           || printf('.%06dZ', u.occurred_at_us % 1000000) AS occurred_at,
       strftime('%Y-%m', u.occurred_at_us / 1000000, 'unixepoch') AS period,
       coalesce(u.request_id, u.record_uuid) AS request_id,
       u.consumer_id, u.key_id, u.service_id,
       coalesce((SELECT name FROM services s WHERE s.id = u.service_id), u.service_id) AS model,
       u.status,
       CASE u.outcome WHEN 0 THEN 'completed' WHEN 1 THEN 'client_aborted'
           WHEN 2 THEN 'upstream_failed' WHEN 3 THEN 'timed_out' ELSE 'recovered' END AS outcome,
       u.streamed, u.input_tokens, u.cached_tokens, u.output_tokens,
       iif(u.estimated, 'estimated', 'reported') AS tokens_source,
       u.price_version, u.cost_nanousd, u.attempts, u.latency_us, u.ttft_us, u.overhead_us,
       (SELECT i.instance_id FROM usage_instances i WHERE i.number = u.instance) AS instance_id
FROM (SELECT *, lower(substr(hex(record_id), 1, 8) || '-' || substr(hex(record_id), 9, 4) || '-'
          || substr(hex(record_id), 13, 4) || '-' || substr(hex(record_id), 17, 4) || '-'
          || substr(hex(record_id), 21)) AS record_uuid
      FROM usage_rows) u;
