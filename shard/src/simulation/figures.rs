//! What a key costs the authority: calls about its bucket for each request, in the long run.

use super::oracle::Totals;
use super::scenario::Scenario;
use super::world::World;
use crate::authority::Planted;
use crate::units::Nanos;

fn totals(scenario: Scenario) -> Totals {
    match World::new(1, scenario, Planted::Nothing).run() {
        Ok(totals) => totals,
        Err(fault) => panic!("{fault}"),
    }
}

fn permyriad(calls: u64, of: u64) -> u64 {
    calls * 10_000 / of.max(1)
}

/// Nobody competes: a call every few seconds, and no request is refused.
#[test]
fn a_quiet_key_costs_a_call_every_few_seconds() {
    for (rate, burst) in [(10, 10), (100, 100), (1_000, 1_000), (10_000_000, 10_000_000)] {
        for (shards, per_shard, pace_ms, most) in
            [(&[1][..], 1, 1_000, 2_500), (&[2], 1, 2_000, 2_500), (&[1, 1, 1], 1, 3_000, 9_000)]
        {
            let quiet = Scenario {
                rtt: Nanos::from_ms(1),
                call_gap: Nanos::from_ms(10),
                pace: Some(Nanos::from_ms(pace_ms)),
                calm_for: Nanos::from_s(100),
                ..Scenario::steady(rate, burst, shards, per_shard)
            };
            let long = totals(quiet.clone());
            let short = totals(Scenario { recallable: false, ..quiet });
            let calls = permyriad(long.calm_calls, long.calm_admitted);
            let months = permyriad(long.calm_month_calls, long.calm_admitted);
            let before = permyriad(short.calm_calls, short.calm_admitted);
            println!(
                "{rate}/s, {shards:?}: {calls} of 10 000, {before} with short leases; \
                 {months} of its month"
            );
            assert!(months <= 1_500, "{months} of 10 000");
            assert!(long.calm_denied == 0 && long.calm_admitted > 90, "{long:?}");
            assert!(calls <= most && calls * 2 <= before, "{calls} and {before} of 10 000");
        }
    }
}

/// One of many keys that take turns: its shards keep what it will need.
#[test]
fn a_key_in_turn_costs_few_messages() {
    let turns = Scenario {
        pace: Some(Nanos::from_ms(200)),
        calm_for: Nanos::from_s(100),
        ..Scenario::steady(1_000, 1_000, &[2], 1)
    };
    let kept = totals(turns.clone());
    let returned = totals(Scenario { recallable: false, ..turns });
    let of = |totals: Totals| permyriad(totals.calm_words, totals.calm_admitted);
    println!("{} of 10 000, {} where nothing is kept", of(kept), of(returned));
    assert!(kept.calm_denied == 0 && of(kept) <= 3_500, "{kept:?}");
    assert!(of(kept) * 6 <= of(returned), "{kept:?}, {returned:?}");
}

/// Three instances want four times a key's rate.
#[test]
fn a_contended_key_costs_few_calls() {
    let scenario = Scenario {
        pace: Some(Nanos::from_ms(24)),
        ..Scenario::steady(1_000, 1_000, &[2, 2, 2], 16)
    };
    let totals = totals(scenario);
    let calls = permyriad(totals.calm_calls, totals.calm_admitted);
    println!("{calls} of 10 000: {totals:?}");
    assert!(calls <= 600, "{calls} of 10 000: {totals:?}");
}

/// What is refused costs next to nothing, however much it is.
#[test]
fn an_abused_key_costs_next_to_nothing() {
    let scenario = Scenario {
        pace: Some(Nanos::from_us(1_920)),
        calm_for: Nanos::from_s(10),
        ..Scenario::steady(10, 10, &[2, 2, 2], 16)
    };
    let totals = totals(scenario);
    let calls = permyriad(totals.calm_calls * 10, totals.calm_denied);
    println!("{calls} of 100 000: {totals:?}");
    assert!(calls <= 80, "{calls} of 100 000: {totals:?}");
}
