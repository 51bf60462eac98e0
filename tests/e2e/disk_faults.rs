//! A disk that fails to sync: what was answered is kept, a file whose sync failed is never
//! synced again, and when the way out fails as well nothing more is admitted.

use crate::support::disk::Disk;
use crate::support::instance::{Instance, Setup};
use crate::support::load::{Log, Until};
use crate::support::poll;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::thread;

const ON_DISK: &str = "[usage]\ndurability = \"disk\"\nsegment_bytes = 65536\n";

/// Answers under load until `seen` says that what was to happen has.
fn under_load(instance: &Instance, log: &Log, run: &str, mut seen: impl FnMut() -> bool) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _until = Until(&done);
        for _ in 0..3 {
            scope.spawn(|| log.client(instance, run, &done));
        }
        poll::until("answers and the fault", || {
            (log.finished_count() >= 100 && seen()).then_some(())
        });
        let before = log.finished_count();
        poll::until("answers after it", || (log.finished_count() >= before + 50).then_some(()));
    });
}

/// What each client has in full comes to be in the ledger, once.
fn is_recorded(instance: &Instance, log: &Log) {
    let finished: BTreeSet<String> = log.finished.lock().unwrap().iter().cloned().collect();
    poll::until("every answer in the ledger", || {
        let rows = instance.ledger().rows();
        let recorded: BTreeSet<String> = rows.iter().map(|row| row.request_id.clone()).collect();
        assert_eq!(recorded.len(), rows.len(), "a request is there twice");
        finished.is_subset(&recorded).then_some(())
    });
}

/// No file was synced again after a sync of it had failed. Returns those that failed.
fn none_was_tried_again(disk: &Disk) -> BTreeSet<PathBuf> {
    let mut failed = BTreeSet::new();
    for sync in disk.syncs() {
        assert!(!failed.contains(&sync.path), "{:?} synced after it had failed", sync.path);
        // A new file that could not be synced is removed and made anew.
        if !sync.good && sync.call == "fdatasync" {
            failed.insert(sync.path);
        }
    }
    failed
}

#[test]
fn a_failed_sync_is_seen_by_nobody_and_never_tried_again() {
    let disk = Disk::new();
    let mut instance = disk.under(Setup::default().shards(1).config(ON_DISK)).start();
    let log = Log::default();
    for round in 1..=3 {
        disk.fail_once("tgj");
        under_load(&instance, &log, "once", || disk.has_failed("tgj"));
        assert_eq!(none_was_tried_again(&disk).len(), round);
    }
    assert_eq!(log.broken.lock().unwrap().len(), 0, "a call was broken off");
    let failures = || instance.metrics().sum("tollgate_journal_sync_failures_total", &[]);
    poll::until("the failures to be counted", || (failures() == 3).then_some(()));
    instance.balance_books();
    is_recorded(&instance, &log);
    // What was moved holds even when the power goes.
    instance.process.kill();
    disk.forget_unsynced(&instance.data_dir());
    instance.restart();
    is_recorded(&instance, &log);
    instance.process.terminate();
    assert_eq!(instance.process.ended().code(), Some(0), "{}", instance.process.log());
    none_was_tried_again(&disk);
}

#[test]
fn a_disk_that_goes_on_failing_ends_admission_until_the_next_start() {
    let disk = Disk::new();
    let mut instance = disk.under(Setup::default().shards(1).config(ON_DISK)).start();
    let log = Log::default();
    under_load(&instance, &log, "before", || true);
    disk.fail_always("tgj", true);
    let call = |instance: &Instance| {
        let chat = instance.chat(&json!({})).key(instance.key("bench"));
        instance.open().call(&chat)
    };
    let refused = call(&instance).unwrap();
    assert_eq!((refused.status(), refused.code().as_str()), (503, "journal_full"));
    assert!(refused.head.number("retry-after") >= 1);
    assert_eq!(call(&instance).unwrap().expect(503).code(), "journal_full");
    assert_eq!(none_was_tried_again(&disk).len(), 2, "the segment, and the one moved to");
    instance.balance_books();
    is_recorded(&instance, &log);
    instance.process.terminate();
    assert_eq!(instance.process.ended().code(), Some(0), "{}", instance.process.log());
    none_was_tried_again(&disk);
    disk.fail_always("tgj", false);
    instance.restart();
    under_load(&instance, &log, "after", || true);
    is_recorded(&instance, &log);
}

#[test]
fn a_store_whose_sync_fails_is_written_again() {
    let disk = Disk::new();
    let instance = disk.under(Setup::default().shards(1)).start();
    let log = Log::default();
    for _ in 0..3 {
        disk.fail_once("db-wal");
        under_load(&instance, &log, "store", || disk.has_failed("db-wal"));
    }
    instance.balance_books();
    is_recorded(&instance, &log);
    assert!(instance.metrics().sum("tollgate_writer_failures_total", &[]) >= 1);
}
