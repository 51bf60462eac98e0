//! kill -9 under load: every answer that a client has in full is in the ledger once, and nothing
//! is there twice.

use crate::support::disk::Disk;
use crate::support::http::Request;
use crate::support::instance::{Instance, Setup};
use crate::support::ledger::Row;
use crate::support::load::{Log, Until};
use crate::support::{poll, process};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::thread;

/// How often the process is killed: 3, or `TOLLGATE_E2E_KILLS`.
fn kills() -> usize {
    std::env::var("TOLLGATE_E2E_KILLS").map_or(3, |text| text.parse().unwrap())
}

fn once_each(rows: &[Row]) -> BTreeMap<&str, &Row> {
    let records: BTreeSet<&str> = rows.iter().map(|row| row.record_id.as_str()).collect();
    assert_eq!(records.len(), rows.len(), "a record is there twice");
    let requests: BTreeMap<&str, &Row> =
        rows.iter().map(|row| (row.request_id.as_str(), row)).collect();
    assert_eq!(requests.len(), rows.len(), "a request is there twice");
    requests
}

/// A stream that has begun and will not end.
fn open_stream(instance: &Instance, request_id: &str) -> crate::support::http::Connection {
    let request = instance.chat(&json!({ "stream": true })).key(instance.key("bench"));
    let request = request.id(request_id).header("x-mock-fault", "stall-mid-stream");
    let mut connection = instance.open();
    connection.send(&request.to_bytes()).unwrap();
    assert_eq!(connection.head().unwrap().status, 200);
    connection.chunk().unwrap().unwrap();
    connection
}

/// Connections in states that the load's clients are seldom in, request ids and all.
fn bystanders(instance: &Instance, log: &Log, run: &str) -> Vec<TcpStream> {
    let call = |name: &str, more: &Value| {
        let id = format!("{run}-{name}");
        log.sent.lock().unwrap().push(id.clone());
        instance.chat(more).key(instance.key("bench")).id(&id)
    };
    let whole = |name| call(name, &json!({})).to_bytes();
    let stalled = call("stalled", &json!({})).header("x-mock-fault", "stall-before-head");
    let unread = call("unread", &json!({ "stream": true })).header("x-mock-tokens", "1000000");
    let cut = |bytes: Vec<u8>, keep: &dyn Fn(usize) -> usize| bytes[..keep(bytes.len())].to_vec();
    let states = [
        Vec::new(),
        cut(whole("half-head"), &|_| 60),
        cut(whole("half-body"), &|all| all - 10),
        stalled.to_bytes(),
        unread.to_bytes(),
        [whole("pipelined-1"), whole("pipelined-2"), whole("pipelined-3")].concat(),
        whole("half-closed"),
    ];
    let last = states.len() - 1;
    let open = |(at, bytes): (usize, Vec<u8>)| {
        let address = instance.data_url().trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&bytes).unwrap();
        if at == last {
            stream.shutdown(Shutdown::Write).unwrap();
        }
        stream
    };
    let open: Vec<_> = states.into_iter().enumerate().map(open).collect();
    poll::until("the stalled, the unread and the open stream to be admitted", || {
        (instance.metrics().sum("tollgate_permits_open", &[]) >= 3).then_some(())
    });
    open
}

fn kill_under_load(instance: &mut Instance, log: &Log, round: usize) {
    let run = format!("round-{round}");
    let wanted = log.finished_count() + 150 + round % 7 * 20;
    // Loading clients hold the instance; killing needs only its id.
    let pid = rustix::process::Pid::from_raw(instance.process.id().try_into().unwrap()).unwrap();
    let done = AtomicBool::new(false);
    let open = open_stream(instance, &format!("{run}-open"));
    let bystanders = bystanders(instance, log, &run);
    thread::scope(|scope| {
        let _until = Until(&done);
        for _ in 0..4 {
            scope.spawn(|| log.client(instance, &run, &done));
        }
        poll::until("enough answers", || (log.finished_count() >= wanted).then_some(()));
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    });
    drop((open, bystanders));
    assert!(!instance.process.ended().success());
}

#[test]
fn no_answer_is_lost_and_none_is_counted_twice() {
    crash_loop(Setup::default().shards(2).start(), kills());
}

/// Tokens of a stream from one note in the journal to the next.
const INTERVAL_TOKENS: u64 = 8;

#[test]
fn a_stream_cut_off_by_a_kill_is_billed_to_where_it_was_seen() {
    let mut instance = Setup::default().shards(1).start();
    let mut seen = Vec::new();
    // Half of the tokens come, one by one, slower and faster than the journal's notes.
    for (name, tokens, inter_token_ms) in [("slow", "20", "150"), ("quick", "156", "2")] {
        let body = json!({ "stream": true, "max_tokens": 1000 });
        let request = instance.chat(&body).key(instance.key("bench")).id(name);
        let request = request.header("x-mock-tokens", tokens).header("x-mock-prompt-tokens", "11");
        let request = request.header("x-mock-fault", "stall-mid-stream");
        let mut connection = instance.open();
        let request = request.header("x-mock-inter-token-ms", inter_token_ms);
        connection.send(&request.to_bytes()).unwrap();
        assert_eq!(connection.head().unwrap().status, 200);
        let (mut text, half) = (String::new(), tokens.parse::<usize>().unwrap() / 2);
        while text.matches("\"content\":\"").count() <= half {
            text += &String::from_utf8(connection.chunk().unwrap().unwrap()).unwrap();
        }
        seen.push((name, half as u64, connection));
    }
    instance.process.kill();
    instance.restart();
    for (name, tokens, _connection) in &seen {
        let row = instance.ledger().row(name);
        println!("{name}: {tokens} tokens seen, {} billed", row.output_tokens);
        assert_eq!((row.outcome.as_str(), row.tokens_source.as_str()), ("recovered", "estimated"));
        assert!(row.output_tokens <= *tokens, "{row:?}");
        assert!(row.output_tokens + INTERVAL_TOKENS > *tokens, "{tokens} seen: {row:?}");
        assert!(row.input_tokens > 0 && row.cost_nanousd > 0, "{row:?}");
    }
    let slow = instance.ledger().row("slow");
    // Each token was noted in time, but perhaps the last one on a busy machine.
    assert!(slow.output_tokens + 1 >= seen[0].1, "{slow:?}");
    verify_journal(&instance);
}

/// Small segments, so that many are begun; what syncing costs does not matter here.
const ON_DISK: &str = "[usage]\ndurability = \"disk\"\nsegment_bytes = 65536\n";

#[test]
fn durability_on_disk_survives_the_loss_of_power() {
    let disk = Disk::new();
    // One shard: its syncs for the load also sync the PENDING of the open calls.
    let instance = disk.under(Setup::default().shards(1).config(ON_DISK)).start();
    let data_dir = instance.data_dir();
    let mut forgotten = 0;
    // In most rounds something is on its way to the disk just then, not in each.
    crash_loop_with(instance, kills().max(6), Open::Recovered, |round| {
        forgotten += disk.lose_power(&data_dir, round % 2 == 0).0;
    });
    assert!(forgotten > 0, "nothing was ever forgotten");
    // Names are durable too, from the data directory down.
    let syncs = disk.syncs();
    let is_synced = |dir: &Path| syncs.iter().any(|sync| sync.path == dir);
    let of_segment = syncs.iter().find(|sync| sync.path.extension().is_some()).unwrap();
    let journal = of_segment.path.parent().unwrap();
    for dir in [&data_dir, &data_dir.join("journal"), journal] {
        assert!(is_synced(dir), "{} was never synced", dir.display());
    }
}

/// Journals and store of two shards lose what was not synced, names included.
#[test]
fn the_books_balance_after_the_loss_of_power_on_two_shards() {
    let disk = Disk::new();
    let config = format!("{ON_DISK}batch_age_ms = 20\n");
    let instance = disk.under(Setup::default().shards(2).config(&config)).start();
    let data_dir = instance.data_dir();
    let mut forgotten = (0, 0);
    // The shard of an open call may have had nothing to sync.
    crash_loop_with(instance, kills().max(4), Open::MayBeLost, |round| {
        let (journals, store) = disk.lose_power(&data_dir, round % 2 == 1);
        forgotten = (forgotten.0 + journals, forgotten.1 + store);
    });
    assert!(forgotten.0 > 0, "no journal ever forgot anything");
    eprintln!("files that changed, of journals and of the store: {forgotten:?}");
}

#[test]
fn durability_in_process_does_not_which_shows_that_the_test_can_fail() {
    let disk = Disk::new();
    let config = "[usage]\nbatch_age_ms = 60000\n";
    let mut instance = disk.under(Setup::default().shards(1).config(config)).start();
    let log = Log::default();
    kill_under_load(&mut instance, &log, 0);
    assert!(disk.forget_unsynced(&instance.data_dir()) > 0);
    instance.restart();
    assert_eq!(instance.ledger().rows().len(), 0);
    assert!(log.finished_count() > 0);
}

fn crash_loop(instance: Instance, rounds: usize) {
    crash_loop_with(instance, rounds, Open::Recovered, |_| {});
}

/// What becomes of calls that were open at a death.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Recovered,
    MayBeLost,
}

/// `meanwhile`: between a death and the next start.
fn crash_loop_with(
    mut instance: Instance,
    rounds: usize,
    open: Open,
    mut meanwhile: impl FnMut(usize),
) {
    let log = Log::default();
    for round in 0..rounds {
        kill_under_load(&mut instance, &log, round);
        meanwhile(round);
        instance.restart();
        let finished = log.finished.lock().unwrap().clone();
        let ledger = instance.ledger();
        if open == Open::Recovered {
            poll::until("the open stream to be recovered", || {
                Some(ledger.rows_of(&format!("round-{round}-open"))).filter(|rows| !rows.is_empty())
            });
        }
        let rows = ledger.rows();
        let by_request = once_each(&rows);
        let missing: Vec<&String> =
            finished.iter().filter(|id| !by_request.contains_key(id.as_str())).collect();
        assert!(missing.is_empty(), "answered, but not in the ledger: {missing:?}");
        for id in &finished {
            let row = by_request[id.as_str()];
            assert_eq!((row.outcome.as_str(), row.status), ("completed", 200), "{row:?}");
        }
        for (name, streamed) in [("open", true), ("unread", true), ("stalled", false)] {
            let Some(open) = by_request.get(format!("round-{round}-{name}").as_str()) else {
                assert!(open == Open::MayBeLost, "{name} is lost");
                continue;
            };
            assert_eq!((open.outcome.as_str(), open.streamed), ("recovered", streamed), "{open:?}");
        }
        for name in ["half-head", "half-body"] {
            assert!(!by_request.contains_key(format!("round-{round}-{name}").as_str()), "{name}");
        }
        let sent: BTreeSet<String> = log.sent.lock().unwrap().iter().cloned().collect();
        for id in by_request.keys().filter(|id| !id.ends_with("-open")) {
            assert!(sent.contains(*id), "{id} was never sent");
        }
    }
    sums_hold(&instance);
    verify_journal(&instance);
    // It goes on as if nothing had been.
    let before = instance.ledger().rows().len();
    instance.call(&instance.chat(&json!({})).key(instance.key("bench")).id("after")).expect(200);
    instance.ledger().row("after");
    assert_eq!(instance.ledger().rows().len(), before + 1);
    let account = Request::get("/api/v1/account").key(instance.key("bench"));
    let cost = instance.call(&account).expect(200).json()["month"]["cost_nanousd"].clone();
    assert!(cost.as_u64().is_some_and(|cost| cost > 0), "{cost}");
}

/// The daily sums are those of the rows.
fn sums_hold(instance: &Instance) {
    let rows = instance.ledger().rows();
    let usage = instance.admin().get("usage?by=day");
    let sum = |name: &str| -> u64 {
        usage["data"].as_array().unwrap().iter().map(|row| row[name].as_u64().unwrap()).sum()
    };
    assert_eq!(sum("calls"), rows.len() as u64);
    assert_eq!(sum("cost_nanousd"), rows.iter().map(|row| row.cost_nanousd).sum::<u64>());
    assert_eq!(sum("output_tokens"), rows.iter().map(|row| row.output_tokens).sum::<u64>());
}

fn verify_journal(instance: &Instance) {
    let dir = instance.data_dir().join("journal");
    let output = process::run(&["journal", "verify", dir.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
}
