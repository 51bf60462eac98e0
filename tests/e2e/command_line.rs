//! The command line as people and scripts use it: exit codes, tables, JSON.

use crate::shared::{shared, unique};
use crate::support::instance::{Setup, Upstream};
use crate::support::process;
use serde_json::{Value, json};
use std::process::Output;

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs a command of the admin API against the shared instance.
fn admin(args: &[&str]) -> Output {
    let api = shared().instance.admin();
    let place = ["--admin-url", &api.url, "--admin-token", &api.token];
    process::run(&[args, &place].concat())
}

fn done(args: &[&str]) -> String {
    let output = admin(args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

fn json_of(args: &[&str]) -> Value {
    let text = done(&[args, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{args:?}: {text}"))
}

#[test]
fn every_command_explains_itself() {
    let commands = [
        "demo",
        "serve",
        "check",
        "upstream",
        "journal",
        "plan",
        "consumer",
        "key",
        "service",
        "price",
        "usage",
        "secrets",
        "completions",
        "man",
    ];
    for command in commands {
        let output = process::run(&[command, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{command}");
        let text = stdout(&output);
        assert!(
            text.contains("Example") && text.contains(&format!("tollgate {command}")),
            "{text}"
        );
    }
    for wrong in [vec!["nonsense"], vec!["serve", "--nonsense"], vec!["plan"], vec![]] {
        let output = process::run(&wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{wrong:?}");
    }
}

#[test]
fn a_name_stands_with_or_without_its_flag() {
    for kind in ["plan", "consumer", "service"] {
        let more: &[&str] = match kind {
            "plan" => &["--rate-per-s", "1", "--burst", "1", "--quota-tokens", "1"],
            "consumer" => &["--plan", "basic"],
            _ => &["--base-url", "http://127.0.0.1:9", "--per-token", "1,1"],
        };
        let (plain, flagged) = (unique("plain"), unique("flagged"));
        assert!(done(&[&[kind, "create", &plain], more].concat()).contains(&plain));
        assert!(done(&[&[kind, "create", "--name", &flagged], more].concat()).contains(&flagged));
        let both = admin(&[&[kind, "create", "a", "--name", "b"], more].concat());
        assert_eq!(both.status.code(), Some(2), "{kind}");
        let none = admin(&[&[kind, "create"], more].concat());
        assert_eq!(none.status.code(), Some(2), "{kind}");
    }
}

#[test]
fn the_admin_token_has_one_variable() {
    let api = shared().instance.admin();
    let with = |name: &str| {
        let mut command = process::command(&["plan", "list", "--admin-url", &api.url]);
        command.args(["--data-dir", "/nonexistent"]).env(name, &api.token).output().unwrap()
    };
    assert!(with("TOLLGATE_ADMIN__TOKEN").status.success());
    assert_eq!(with("TOLLGATE_ADMIN_TOKEN").status.code(), Some(2));
}

#[test]
fn shells_and_man_are_told_of_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&process::run(&["completions", shell]));
        assert!(script.contains("tollgate") && script.contains("journal"), "{shell}");
    }
    let script = stdout(&process::run(&["completions", "bash"]));
    // What bash itself offers after `tollgate co`.
    let ask = "COMP_WORDS=(tollgate co); COMP_CWORD=1; _tollgate tollgate co";
    let ask = format!("{script}\n{ask}; echo ${{COMPREPLY[@]}}");
    let offered = std::process::Command::new("bash").args(["-c", &ask]).output().unwrap();
    assert_eq!(stdout(&offered).trim(), "consumer completions", "{}", stderr(&offered));
    assert!(stdout(&process::run(&["man"])).contains(".TH tollgate"));
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("man1");
    let pages = stdout(&process::run(&["man", "--dir", dir.to_str().unwrap()]));
    for page in ["tollgate.1", "tollgate-key-create.1", "tollgate-usage.1"] {
        assert!(pages.lines().any(|line| line == page) && dir.join(page).exists(), "{pages}");
    }
}

#[test]
fn check_names_line_and_what_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tollgate.toml");
    let check = |text: &str| {
        std::fs::write(&path, text).unwrap();
        process::run(&["check", "--config", path.to_str().unwrap()])
    };
    let good = check("[server]\nlisten = \"0.0.0.0:3000\"\n[usage]\ndurability = \"disk\"\n");
    assert_eq!(good.status.code(), Some(0), "{}", stderr(&good));
    let mut with_variables = process::command(&["check", "--config", path.to_str().unwrap()]);
    let with_variables = with_variables
        .env("TOLLGATE_SERVER__LISTEN", "0.0.0.0:4000")
        .env("TOLLGATE_SERVER__MAX_HEADERS", "50")
        .output();
    let told = stdout(&with_variables.unwrap());
    let lines = [
        ["server.listen", "0.0.0.0:4000", "TOLLGATE_SERVER__LISTEN", "restart"],
        ["server.max_headers", "50", "TOLLGATE_SERVER__MAX_HEADERS", "SIGHUP"],
        ["usage.durability", "disk", "tollgate.toml:4", "restart"],
    ];
    for words in lines {
        let is_it = |line: &str| words.iter().all(|word| line.contains(word));
        assert!(told.lines().any(is_it), "{words:?}: {told}");
    }
    for (text, line, found, allowed) in [
        ("[server]\nlistn = \"0.0.0.0:3000\"\n", 2, "listn", "listen"),
        ("[server]\n\nlisten = \"nowhere\"\n", 3, "nowhere", "port"),
        ("[usage]\ndurability = \"ram\"\n", 2, "ram", "disk"),
        ("[servre]\n", 1, "servre", "server"),
        ("[server]\nshards = 0\n", 2, "0", "auto"),
        ("[server\n", 1, "", ""),
    ] {
        let output = check(text);
        assert_eq!(output.status.code(), Some(2), "{text}");
        let said = stderr(&output) + &stdout(&output);
        assert!(said.contains(&format!("tollgate.toml:{line}:")), "{text}: {said}");
        assert!(said.contains(found) && said.contains(allowed), "{text}: {said}");
    }
    let two = check("[server]\nlistn = 1\n[usage]\ndurability = \"ram\"\n");
    let said = stderr(&two) + &stdout(&two);
    assert!(said.contains("listn") && said.contains("ram"), "all at once: {said}");
    let missing = process::run(&["check", "--config", "/no/such/file.toml"]);
    assert!(matches!(missing.status.code(), Some(1 | 2)), "{missing:?}");
}

#[test]
fn a_marketplace_can_be_set_up() {
    let (plan, consumer, service) = (unique("plan"), unique("consumer"), unique("service"));
    let limits = ["--rate-per-s", "50", "--burst", "60", "--quota-tokens", "5M"];
    let made = json_of(&[&["plan", "create", "--name", &plan][..], &limits].concat());
    assert_eq!((&made["rate_per_s"], &made["quota_tokens"]), (&json!(50), &json!(5_000_000)));
    json_of(&["consumer", "create", "--name", &consumer, "--plan", &plan]);
    let made = json_of(&[
        "service",
        "create",
        "--name",
        &service,
        "--base-url",
        "http://127.0.0.1:9",
        "--per-token",
        "2.50,10",
    ]);
    assert_eq!(made["name"], service.as_str());
    json_of(&["price", "add", &service, "--per-token", "3,12,1.5"]);
    let key = json_of(&["key", "create", "--consumer", &consumer, "--service", &service]);
    assert!(key["key"].as_str().is_some_and(|key| key.starts_with("tg_")), "{key}");
    for (kind, name) in [("plan", &plan), ("consumer", &consumer), ("service", &service)] {
        let table = done(&[kind, "list"]);
        assert!(table.contains(name.as_str()), "{table}");
        let listed = json_of(&[kind, "list"]);
        let rows = listed.as_array().or(listed["data"].as_array()).unwrap();
        assert!(rows.iter().any(|row| row["name"] == **name), "{listed}");
    }
    let keys = done(&["key", "list"]);
    assert!(keys.contains(key["id"].as_str().unwrap()), "{keys}");
    assert!(!keys.contains(key["key"].as_str().unwrap()), "a key is shown once");
    let prices = json_of(&["price", "list", &service]);
    let rows = prices.as_array().or(prices["data"].as_array()).unwrap();
    assert_eq!(rows.len(), 2, "{prices}");
    done(&["key", "revoke", key["id"].as_str().unwrap()]);
    done(&["usage"]);
    let csv = done(&["usage", "--csv", "--by", "day"]);
    assert!(csv.starts_with("day,calls,"), "{csv}");
}

#[test]
fn failures_have_their_codes() {
    let limits = ["--rate-per-s", "1", "--burst", "1", "--quota-tokens", "1"];
    let twice = admin(&[&["plan", "create", "--name", "basic"][..], &limits].concat());
    assert_eq!(twice.status.code(), Some(1), "{}", stderr(&twice));
    assert!(stderr(&twice).contains("name"), "{}", stderr(&twice));
    let incomplete = admin(&["plan", "create", "--name", "x"]);
    assert_eq!(incomplete.status.code(), Some(2));
    for wrong in [
        vec!["usage", "--from", "yesterday"],
        vec!["usage", "--from", "2026-11-02", "--to", "2026-11-01"],
        vec!["plan", "create", "--name", "x", "--rate-per-s", "0", "--burst", "1"],
    ] {
        let output = admin(&wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{wrong:?}");
    }
    for (wrong, remedy) in [
        (["--upstream", "model.example"], "http://"),
        (["--listen", "localhost:3000"], "127.0.0.1:3000"),
        (["--log-level", "inof"], "info"),
    ] {
        let output = process::run(&[&["demo"][..], &wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(remedy), "{wrong:?}: {}", stderr(&output));
    }
    let taken = shared().instance.data_url().trim_start_matches("http://");
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    let args = ["demo", "--listen", taken, "--admin-listen", "127.0.0.1:0", "--data-dir", dir];
    let output = process::run(&args);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let nobody = ["plan", "list", "--admin-url", "http://127.0.0.1:9", "--admin-token", "x"];
    assert_eq!(process::run(&nobody).status.code(), Some(1));
    let api = shared().instance.admin();
    let stranger = ["plan", "list", "--admin-url", &api.url, "--admin-token", "x"];
    let refused = process::run(&stranger);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("--admin-token"), "{}", stderr(&refused));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let api = shared().instance.admin();
    let place = ["--admin-url", &api.url, "--admin-token", &api.token];
    for args in [vec!["check", "--example"], vec!["plan", "list"], vec!["usage", "--csv"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = process::command(&args);
        if args[0] != "check" {
            command.args(place);
        }
        let output = command.stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
        assert!(output.stderr.is_empty(), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn a_journal_can_be_looked_at() {
    let mut instance = Setup::default().shards(1).start();
    for _ in 0..3 {
        instance.call(&instance.chat(&json!({})).key(instance.key("bench"))).expect(200);
    }
    instance.process.kill();
    let dir = instance.data_dir().join("journal");
    let journal = |what: &[&str]| instance.run(&[&["journal"], what].concat());
    let dir = dir.to_str().unwrap();
    let verified = journal(&["verify", dir]);
    assert!(verified.status.success(), "{}", stderr(&verified));
    let shown = journal(&["show", dir, "--json"]);
    assert!(shown.status.success(), "{}", stderr(&shown));
    let posts = stdout(&shown).lines().filter(|line| line.contains("\"kind\":\"post\"")).count();
    assert_eq!(posts, 3, "{}", stdout(&shown));
    let replayed = journal(&["replay", dir]);
    assert!(replayed.status.success(), "{}", stderr(&replayed));
    assert_eq!(instance.ledger().rows().len(), 3);
    assert_eq!(journal(&["verify", "/no/such/dir"]).status.code(), Some(2));
    instance.restart();
    assert_eq!(instance.ledger().rows().len(), 3);
}

#[test]
fn the_demo_takes_a_model_server_of_ones_own() {
    let upstream = Upstream::start(&["--tokens", "3"]);
    let instance = Setup::default().shards(1).upstream(&upstream).start();
    assert_eq!(instance.demo["upstream_url"], upstream.url.as_str());
    let request = instance.chat(&json!({})).key(instance.key("basic"));
    let answer = instance.call(&request).expect(200).json();
    assert_eq!(answer["usage"]["completion_tokens"], 3);
    assert_eq!(upstream.count("requests"), 1);
}

#[test]
fn a_second_instance_on_the_same_data_is_refused() {
    let data_dir = shared().instance.data_dir();
    let output = process::run(&[
        "demo",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--data-dir",
        data_dir.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
}

#[test]
fn secrets_are_in_no_file_that_others_can_read() {
    use std::os::unix::fs::PermissionsExt;
    let dir = shared().instance.data_dir();
    for name in ["admin.token", "demo.json"] {
        let mode = std::fs::metadata(dir.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}: {mode:o}");
    }
}
