//! A seeded simulation of instances with their shards, a lossy network and the authority.
//!
//! One seed is one history: budgets, demand, delays, losses, repeats, crashes, pauses and clock
//! faults all come from it. `SEED=n cargo test -p tollgate-shard simulation` replays one;
//! `SEEDS=n` runs that many, from `SEED_FROM` on.

#![expect(clippy::panic, reason = "a test fails by panicking")]

mod oracle;
mod scenario;
mod world;

use crate::authority::Planted;
use scenario::Scenario;
use world::World;

/// Seeds of an ordinary run: some seconds.
const SEEDS: u64 = 400;
/// Every planted fault must be found within this many.
const SEEDS_TO_FIND: u64 = 400;

fn run(seed: u64, planted: Planted) -> Result<oracle::Totals, String> {
    let scenario = Scenario::of(seed);
    World::new(seed, scenario, planted).run()
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn every_seed_keeps_the_invariants() {
    let from = variable("SEED").or(variable("SEED_FROM")).unwrap_or(0);
    let count = if variable("SEED").is_some() { 1 } else { variable("SEEDS").unwrap_or(SEEDS) };
    let mut sum = oracle::Totals::default();
    let mut faults = Vec::new();
    for seed in from..from + count {
        match run(seed, Planted::Nothing) {
            Ok(totals) => sum.add(&totals),
            Err(fault) => faults.push(format!(
                "{fault}\n  replay: SEED={seed} cargo test -p tollgate-shard simulation"
            )),
        }
    }
    if count == 1 {
        println!("{:?}", Scenario::of(from));
    }
    assert!(faults.is_empty(), "{} of {count} seeds:\n{}", faults.len(), faults.join("\n"));
    println!("{count} seeds: {sum:?}");
    assert!(sum.admitted > 0 && sum.denied > 0 && sum.calls > 0, "nothing happened: {sum:?}");
}

#[test]
fn every_planted_fault_is_found() {
    for planted in [
        Planted::NoDedupe,
        Planted::NoBurn,
        Planted::ReceiveTimeDeadlines,
        Planted::RetroactiveAccrual,
    ] {
        let found = (0..SEEDS_TO_FIND).find_map(|seed| run(seed, planted).err().map(|e| (seed, e)));
        match found {
            Some((seed, fault)) => println!("{planted:?} found by seed {seed}: {fault}"),
            None => panic!("{planted:?} was not found in {SEEDS_TO_FIND} seeds"),
        }
    }
}
