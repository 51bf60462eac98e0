//! Records from before a migration, and how they read after it.

use super::schema::MIGRATIONS;
use crate::store::migrations::checksum_of;
use crate::store::tests::{TestStore, query};

/// A store as the first `count` migrations have made it.
fn store_before(count: usize) -> TestStore {
    let store = TestStore::postgres();
    query(&store, "CREATE TABLE schema_migrations (name text PRIMARY KEY, checksum text NOT NULL)");
    for (name, text) in &MIGRATIONS[..count] {
        let sum = checksum_of(text);
        query(&store, &format!("{text}; INSERT INTO schema_migrations VALUES ('{name}', '{sum}')"));
    }
    store
}

#[test]
fn records_read_as_they_did_before_they_were_packed() {
    let store = store_before(7);
    // A month in parts, one that is whole, and a record of neither.
    let rows = "INSERT INTO usage_rows
         SELECT gen_random_uuid(), at, n % 7 + 1, n, 2, n * 3, n, n / 2, 5, 1, 7, 8, 9, 1, 200,
             n % 3, n % 5, n % 2 = 0, n % 3 = 0,
             CASE WHEN n % 4 > 0 THEN 'call-' || n END, CASE WHEN n % 6 = 0 THEN n * 10 END
         FROM generate_series(0, 299) AS n,
             unnest(ARRAY['2026-09-30', '2026-10-05', '2026-11-07 08:09:10.111213']::timestamptz[])
                 AS at";
    query(
        &store,
        &format!(
            "UPDATE usage_split SET parts = 2;
             CREATE TABLE usage_rows_2026_11 PARTITION OF usage_rows
                 FOR VALUES FROM ('2026-11-01 00:00:00+00') TO ('2026-12-01 00:00:00+00')
                 PARTITION BY HASH (consumer_id);
             CREATE TABLE usage_rows_2026_11_0 PARTITION OF usage_rows_2026_11
                 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
             CREATE TABLE usage_rows_2026_11_1 PARTITION OF usage_rows_2026_11
                 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
             CREATE TABLE usage_rows_2026_10 PARTITION OF usage_rows
                 FOR VALUES FROM ('2026-10-01 00:00:00+00') TO ('2026-11-01 00:00:00+00');
             INSERT INTO usage_instances (instance_id) VALUES (gen_random_uuid());
             {rows}"
        ),
    );
    let shown = "SELECT * FROM usage_records ORDER BY record_id";
    let parts = "SELECT tableoid::regclass, count(*) FROM usage_rows GROUP BY 1
         ORDER BY tableoid::regclass::text";
    let places = |place: &str| {
        let sql = format!(
            "SELECT record_id, {place} FROM usage_rows WHERE {place} IS NOT NULL
                 ORDER BY record_id"
        );
        query(&store, &sql)
    };
    let before = (query(&store, shown), query(&store, parts), places("month_place"));
    assert_eq!((before.0.len(), before.1.len(), before.2.len()), (900, 4, 150));
    drop(store.ledger());
    let place = "nullif(month_place, '')::bigint";
    assert_eq!((query(&store, shown), query(&store, parts), places(place)), before);
    let left = "SELECT relname FROM pg_class WHERE relname ~ '_wide|usage_rows_month'";
    assert!(query(&store, left).is_empty());
    let indexes = "SELECT count(*) FROM pg_indexes WHERE tablename = 'usage_rows_2026_11_1'";
    assert_eq!(query(&store, indexes), [["2"]]);
}
