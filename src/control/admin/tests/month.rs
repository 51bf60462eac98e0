//! The change of the month: every active consumer's month is asked for at once.

use super::*;
use shard::message::QuotaGrant;

const CONSUMERS: u64 = 10_000;
const MONTH: Period = Period(202_612);

fn want(shard: u16, consumer: u64) -> ToControl {
    ToControl::Quota(QuotaWant {
        shard,
        consumer: ConsumerId(consumer),
        plan: 0,
        period: MONTH,
        want: 10,
        need: 10,
        least: 10,
        consumed: 0,
        returned: 0,
        overrun: 0,
    })
}

/// The grants of a mailbox until there is one for each of so many consumers. As a shard does,
/// asks again where none came in time.
fn grants(running: &Running, shard: usize, count: usize) -> Vec<QuotaGrant> {
    let mut grants = Vec::new();
    while grants.len() < count {
        match running.message(shard) {
            ToShard::Quota(grant) if grant.granted >= 10 => grants.push(grant),
            ToShard::Quota(grant) => {
                assert!(!grant.exhausted, "{grant:?}");
                let again = want(shard as u16, grant.consumer.0);
                running.shards[shard].to_control.send(again).unwrap();
            }
            ToShard::Forget { .. } => {}
            other => panic!("{other:?} instead of a grant"),
        }
    }
    grants
}

#[test]
fn ten_thousand_months_begin_and_a_key_is_revoked_meanwhile() {
    let running = Running::start();
    let made = running.make_key("premium");
    let begun = crate::clock::now();
    for consumer in 0..CONSUMERS {
        let shard = (consumer % 2) as u16;
        running.shards[usize::from(shard)].to_control.send(want(shard, consumer)).unwrap();
    }
    let path = format!("/keys/{}", text(&made["id"]));
    assert_eq!(running.call("DELETE", &path, &Value::Null).0, 200);
    let revoked = crate::clock::now().since(begun);
    for shard in 0..2 {
        let mut consumers: Vec<u64> = grants(&running, shard, CONSUMERS as usize / 2)
            .iter()
            .map(|it| it.consumer.0)
            .collect();
        consumers.sort_unstable();
        consumers.dedup();
        assert_eq!(consumers.len(), CONSUMERS as usize / 2);
    }
    let granted = crate::clock::now().since(begun);
    println!(
        "{CONSUMERS} months: a key revoked after {} ms, all granted after {} ms",
        revoked.0 / 1_000_000,
        granted.0 / 1_000_000
    );
}
