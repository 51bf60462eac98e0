//! Three instances that are one gateway: together they hold a key to its rate and a consumer to
//! his month, and waste next to nothing of either.

use crate::limits::exact;
use crate::support::fleet::{Caller, Fleet};
use crate::support::poll;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// For how long a share is measured: long enough that 5 % of the slow key's tokens are several.
const SPAN: Duration = Duration::from_secs(12);

fn unix_us() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()
}

/// Calls of a key on each instance that were admitted in a span, by the instants of the records.
fn admitted(fleet: &Fleet, key: &str, from: u128, to: u128) -> Vec<u64> {
    let sql = format!(
        "SELECT count(*) FROM usage_rows
         WHERE tollgate_id(key_id) = '{}' AND extract(epoch FROM occurred_at) * 1000000
             BETWEEN {from} AND {to} GROUP BY instance",
        &key[3..15]
    );
    fleet.sql(&sql).iter().map(|row| row[0].parse().unwrap()).collect()
}

#[test]
fn two_keys_get_their_rates_over_three_instances_and_no_more() {
    let fleet = Fleet::start(3);
    let model = fleet.first(|instance| instance.model("per_token").to_owned());
    let of_plan = |plan: &str| fleet.first(|instance| instance.key(plan).to_owned());
    let (fast, slow) = (of_plan("enterprise"), of_plan("basic"));
    let (fast, slow) = (Caller::new(&fast, &model), Caller::new(&slow, &model));
    [&fast, &slow].iter().for_each(|caller| fleet.served(caller.key));
    let mut span = (0, 0);
    fleet.under_load(2, &fast, || {
        fleet.under_load(2, &slow, || {
            poll::until("the first refusals", || {
                (fast.refusals() > 0 && slow.refusals() > 0).then_some(())
            });
            span.0 = unix_us();
            let until = Instant::now() + SPAN;
            poll::within(SPAN + poll::PATIENCE, "the end of the measurement", || {
                (Instant::now() >= until).then_some(())
            });
            span.1 = unix_us();
        });
    });
    fleet.balance_books(false);
    let span_s = (span.1 - span.0) as f64 / 1e6;
    for (caller, rate, share) in [(&fast, 1_000, 0.98), (&slow, 10, 0.95)] {
        fleet.keeps_to(caller.key, rate, rate, 0);
        let admitted = admitted(&fleet, caller.key, span.0, span.1);
        let (sum, ideal) = (admitted.iter().sum::<u64>() as f64, rate as f64 * span_s);
        println!("{rate}/s: {admitted:?} of {ideal:.0}, {} refused", caller.refusals());
        assert!(sum >= share * ideal, "{admitted:?} of {ideal:.0} at {rate}/s");
        assert_eq!(admitted.len(), 3);
        assert!(admitted.iter().all(|of| *of as f64 >= sum / 9.0), "one starves: {admitted:?}");
    }
}

/// Every call uses what it reserves. A call may be refused for the moment in which another instance
/// holds what it needs; whoever then asks again gets it, so that nothing is left in the end,
/// although all of them are asked without a pause.
#[test]
fn a_month_ends_to_the_token_over_three_instances() {
    const QUOTA: u64 = 6_789;
    const SIZES: [u32; 9] = [10, 20, 50, 150, 10, 20, 50, 150, 20];
    let fleet = Fleet::start(3);
    let key = fleet.first(|instance| {
        let admin = instance.admin();
        admin.plan("small", 1_000, QUOTA);
        admin.key("small")
    });
    fleet.known(&key.text);
    let spent = Mutex::new(0);
    thread::scope(|scope| {
        for (client, output) in SIZES.iter().enumerate() {
            let (fleet, key, spent) = (&fleet, &key, &spent);
            scope.spawn(move || {
                let (request, mut connection) = {
                    let instance = fleet.instances[client % 3].lock().unwrap();
                    (exact(&instance, &key.text, *output), instance.open())
                };
                poll::until("the end of the month's tokens", || {
                    let answer = fleet.call_on(&mut connection, request.clone());
                    match answer.status() {
                        200 => *spent.lock().unwrap() += 50 + u64::from(*output),
                        // Not granted yet: Redis is new.
                        429 if answer.code() == "insufficient_quota" => return Some(()),
                        429 | 503 => {}
                        status => panic!("{status}: {}", answer.text()),
                    }
                    None
                });
            });
        }
    });
    let mut spent = spent.into_inner().unwrap();
    let smallest = SIZES.iter().copied().min().unwrap();
    let mut turn = fleet.instances.iter().cycle();
    poll::until("no room for a call", || {
        let instance = turn.next().unwrap().lock().unwrap();
        let request = exact(&instance, &key.text, smallest);
        if fleet.call_on(&mut instance.open(), request).status() == 200 {
            spent += 50 + u64::from(smallest);
        }
        (spent + 50 + u64::from(smallest) > QUOTA).then_some(())
    });
    assert!(spent <= QUOTA, "{spent} of {QUOTA}");
    fleet.balance_books(false);
    let used = "SELECT sum(input_tokens + output_tokens) FROM usage_rows";
    assert_eq!(fleet.sql(used)[0][0], spent.to_string());
}
