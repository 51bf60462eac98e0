//! Random histories of a journal, and what its replay makes of each.

use super::{NOW, bench, connection, ids, number};
use crate::journal::tests::{admit, config, record};
use crate::store::Ledger;
use crate::writer::replay::{ReplayReport, replay};
use proptest::prelude::*;
use std::path::Path;

#[derive(Clone, Debug)]
enum Step {
    Admit { text: bool },
    Checkpoint { which: usize },
    Post { which: usize, by_channel: bool },
    Turn,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        20 => any::<bool>().prop_map(|text| Step::Admit { text }),
        5 => any::<usize>().prop_map(|which| Step::Checkpoint { which }),
        20 => (any::<usize>(), any::<bool>())
            .prop_map(|(which, by_channel)| Step::Post { which, by_channel }),
        1 => Just(Step::Turn),
    ];
    prop::collection::vec(step, 1..250)
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// A random history, killed; its replay failed at a random point, killed after its last
    /// commit but before the files were removed, and done again.
    #[test]
    fn rows_are_posts_and_the_dead_each_exactly_once(
        steps in steps(), fail_percent in 0u64..=100,
    ) {
        let mut bench = bench(&config(1, 1_000));
        let (mut open, mut admitted) = (Vec::new(), 0u128);
        let mut posted = Vec::new();
        for step in steps {
            match step {
                Step::Admit { text } => {
                    let text = text.then_some(b"text".as_slice());
                    open.push((admitted, admit(&mut bench.journal, admitted, text)));
                    admitted += 1;
                }
                Step::Checkpoint { which } if !open.is_empty() => {
                    let which = which % open.len();
                    bench.journal.checkpoint(&open[which].1, 1, 1);
                }
                Step::Post { which, by_channel } if !open.is_empty() => {
                    let (n, it) = open.swap_remove(which % open.len());
                    bench.post(it, &record(n), by_channel);
                    posted.push(n);
                }
                Step::Turn => { bench.writer.turn(NOW, true); }
                Step::Checkpoint { .. } | Step::Post { .. } => {}
            }
        }
        let (ingested, post_end) = {
            let shared = bench.journal.shared();
            (shared.ingested(), shared.post_end())
        };
        let (journal_dir, dead) = (bench.journal_dir(), open.len() as i64);
        drop(open);
        let dir = bench.die();
        let before = tempfile::tempdir().unwrap();
        copy_dir(&journal_dir, before.path());
        let mut ledger = Ledger::open(dir.path()).unwrap();
        let fail_at = ingested + (post_end - ingested) * fail_percent / 100;
        connection(&ledger)
            .execute_batch(&format!(
                "CREATE TEMP TRIGGER dies BEFORE INSERT ON main.ingest_watermark
                 WHEN NEW.next_seq >= {fail_at} BEGIN SELECT RAISE(ABORT, 'dies here'); END;"
            ))
            .unwrap();
        prop_assert!(replay(dir.path(), &mut ledger).is_err());
        connection(&ledger).execute_batch("DROP TRIGGER dies").unwrap();
        replay(dir.path(), &mut ledger).unwrap();
        prop_assert!(!journal_dir.exists());
        copy_dir(before.path(), &journal_dir);
        let report = replay(dir.path(), &mut ledger).unwrap();
        prop_assert_eq!(report, ReplayReport::default());
        prop_assert_eq!(ids(dir.path()), (0..admitted).collect::<Vec<_>>());
        let recovered = "SELECT count(*) FROM usage_records WHERE outcome = 'recovered'";
        prop_assert_eq!(number(connection(&ledger), recovered), dead);
        prop_assert_eq!(posted.len() as i64 + dead, admitted as i64);
        prop_assert_eq!(number(connection(&ledger), "SELECT count(*) FROM usage_dlq"), 0);
        let calls = "SELECT coalesce(sum(calls), 0) FROM usage_daily";
        prop_assert_eq!(number(connection(&ledger), calls), admitted as i64);
    }
}
