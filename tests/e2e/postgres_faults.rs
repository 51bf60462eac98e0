//! A Postgres that lets the writer and control down while calls go on: nothing lost, nothing twice.

use crate::support::instance::Setup;
use crate::support::load::{Log, Until};
use crate::support::{poll, postgres};
use std::collections::HashSet;
use std::sync::atomic::AtomicBool;

/// Ends every connection to the database but the one that asks, whatever it is in the middle of:
/// a COPY, a commit, a statement of control's.
const CUT: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()";
const CUTS: u32 = 20;

#[test]
fn connections_that_are_cut_under_load_cost_no_record_and_double_none() {
    let instance = Setup::default().shards(2).on_postgres().start();
    let url = instance.store_url().unwrap();
    let (log, done) = (Log::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _until = Until(&done);
        for client in 0..4 {
            let (log, done, instance) = (&log, &done, &instance);
            scope.spawn(move || log.client(instance, &format!("client-{client}"), done));
        }
        for _ in 0..CUTS {
            let before = log.finished_count();
            poll::until("more calls", || (log.finished_count() > before + 20).then_some(()));
            // Whoever was cut off before may not have come back yet.
            poll::until("a connection to cut", || {
                Some(postgres::query(url, CUT).unwrap()).filter(|cut| !cut.is_empty())
            });
        }
    });
    instance.balance_books();
    assert_eq!(instance.metrics().sum("tollgate_writer_refused_total", &[]), 0);
    let rows: HashSet<String> =
        instance.ledger().rows().into_iter().map(|row| row.request_id).collect();
    let finished = log.finished.lock().unwrap();
    assert!(finished.iter().all(|id| rows.contains(id)), "an answered call has no row");
    let sums = "SELECT (SELECT count(*) FROM usage_rows), (SELECT sum(calls) FROM usage_daily),
        (SELECT sum(calls) FROM usage_monthly)";
    let sums = postgres::query(url, sums).unwrap().remove(0);
    assert!(sums.iter().all(|sum| *sum == sums[0]), "rows and sums differ: {sums:?}");
}
