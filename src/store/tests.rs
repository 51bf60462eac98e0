//! The store's promises, whatever database it lies in.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::{Advance, Batch, Ledger, LedgerError, Origin};
use crate::channels::Settled;
use shard::record::Record;

const ORIGINS: [Origin; 1] = [Origin { journal_id: 1, instance_id: 2 }];

fn settled(seq: u64) -> Settled {
    let record = Record { record_id: seq.into(), ..Record::default() };
    Settled { shard: 0, seq, prev_end: seq, record, request_id: None }
}

#[test]
fn what_the_store_may_take_later_is_told_from_what_it_never_takes() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    let records: Vec<Settled> = (1..=2_000).map(settled).collect();
    let mut write = |sql: &str| {
        let Ledger::Sqlite(sqlite) = &ledger;
        sqlite.connection().execute_batch(sql).unwrap();
        ledger.write(&Batch {
            origins: &ORIGINS,
            records: &records,
            recovered: &[],
            advances: &[Advance { origin: 0, next_seq: 2_001, closed: false }],
        })
    };
    let full = write("PRAGMA max_page_count = 1;");
    assert!(
        matches!(&full, Err(LedgerError::Unavailable(why)) if why.contains("full")),
        "{full:?}"
    );
    // Nothing that could be kept aside: no record is at fault.
    let refused = write(
        "PRAGMA max_page_count = 1000000;
         CREATE TEMP TRIGGER refuses BEFORE INSERT ON main.ingest_watermark
         BEGIN SELECT RAISE(ABORT, 'never'); END;",
    );
    assert_eq!(refused, Err(LedgerError::Row("never".to_owned())));
    let written = write("DROP TRIGGER refuses;").unwrap();
    assert_eq!((written.rows, written.skipped, written.refused), (2_000, 0, 0));
    assert_eq!(ledger.watermark(1), Ok((2_001, false)));
}
