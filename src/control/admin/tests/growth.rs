//! A change of the catalog costs what changes, however much is for sale.

use super::*;
use crate::clock;

/// A store with so many services.
fn with_services(count: u32) -> Running {
    let data_dir = tempfile::tempdir().unwrap();
    drop(open(&config(data_dir.path())).unwrap());
    let price = json!({"kind": "per_token", "input_nanousd_per_mtok": 1,
        "cached_input_nanousd_per_mtok": 1, "output_nanousd_per_mtok": 2});
    let sql = format!(
        "BEGIN;
         WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {count})
         INSERT INTO services SELECT NULL, printf('%012d', i), 'old-' || i,
             'http://127.0.0.1:' || (1024 + i), '/', NULL, 1, '2026-11-01T00:00:00Z', NULL,
             NULL
             FROM n;
         INSERT INTO prices SELECT id, 1, 0, '{price}', created_at FROM services;
         COMMIT;"
    );
    let store = crate::store::open_file(data_dir.path()).unwrap();
    store.execute_batch(&sql).unwrap();
    Running::start_in(data_dir)
}

/// Nanoseconds that a new service takes.
fn time_of_a_new_service(running: &Running, place: u32) -> u64 {
    let begun = clock::now();
    let name = format!("new-{place}");
    let service = json!({"name": name, "base_url": "http://127.0.0.1", "price": per_token()});
    running.post("/services", &service);
    let took = clock::now().since(begun);
    let before = running.catalog.borrow().services.clone();
    let after = running.new_catalog();
    assert_eq!(after.services.len(), before.len() + 1);
    assert!(before.iter().zip(&after.services).all(|(old, new)| Arc::ptr_eq(old, new)));
    took.0
}

#[test]
fn a_new_service_costs_no_more_among_twenty_thousand() {
    const ROUNDS: u32 = 20;
    let counts = [250, 20_000];
    let all = counts.map(with_services);
    let mut times = [Vec::new(), Vec::new()];
    // By turns, so that what else the machine does falls on both.
    for round in 0..ROUNDS {
        for (running, times) in all.iter().zip(&mut times) {
            times.push(time_of_a_new_service(running, round));
        }
    }
    for ((running, count), mut times) in all.iter().zip(counts).zip(times) {
        times.sort_unstable();
        let (least, median) = (times[0] / 1_000, times[times.len() / 2] / 1_000);
        println!("a new service beside {count}: {least} µs at least, {median} µs in the median");
        let catalog = running.catalog.borrow();
        assert_eq!(catalog.service_by_name(b"new-9"), Some(count + 9));
        let nothing_more = running.shards[0].from_control.try_recv();
        assert!(nothing_more.is_err(), "one message for one change");
    }
}
