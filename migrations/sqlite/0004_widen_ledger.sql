-- A day's cost is cost_carry times 10^18 nano-USD plus cost_nanousd, which is below 10^18: no sum
-- of two such can leave SQLite's 64 bits, where it would turn into a REAL.
ALTER TABLE usage_daily ADD COLUMN cost_carry INTEGER NOT NULL DEFAULT 0;
UPDATE usage_daily
SET cost_carry = cost_nanousd / 1000000000000000000,
    cost_nanousd = cost_nanousd % 1000000000000000000
WHERE cost_nanousd >= 1000000000000000000;

-- What a consumer owes for a month on a service besides its calls: the fee of the subscription
-- that the month's first call there was priced by, due when that call was admitted.
CREATE TABLE usage_fees (
    consumer_id   TEXT NOT NULL,
    service_id    TEXT NOT NULL,
    period        TEXT NOT NULL,
    due_at        TEXT NOT NULL,
    price_version INTEGER NOT NULL,
    fee_nanousd   INTEGER NOT NULL,
    PRIMARY KEY (consumer_id, service_id, period)
) STRICT, WITHOUT ROWID;
INSERT OR IGNORE INTO usage_fees
SELECT u.consumer_id, u.service_id, u.period, u.occurred_at, u.price_version,
       json_extract(p.price, '$.fee_nanousd')
FROM usage_records u
JOIN prices p ON p.service_id = u.service_id AND p.version = u.price_version
WHERE json_extract(p.price, '$.kind') = 'subscription'
ORDER BY u.occurred_at;
