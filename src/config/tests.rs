//! A configuration is read whole or refused with all that is wrong in it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::key::KEYS;
use super::{Config, Durability, PostgresUrl, Shards, StoreUrl, example, read, settings_of};
use std::path::Path;

/// Reads `text` as the file `t.toml`, with `variables` for the environment.
fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
    let read = read::merge(Some((Path::new("t.toml"), text)), variables);
    read.map(|read| read.config).map_err(|error| error.to_string())
}

fn refusal(text: &str) -> String {
    load(text, &[]).unwrap_err()
}

#[test]
fn an_empty_file_is_the_defaults() {
    assert_eq!(load("", &[]), Ok(Config::default()));
}

#[test]
fn the_contracts_example_is_read() {
    let text = r#"
        [server]
        listen = "0.0.0.0:3000"
        admin_listen = "127.0.0.1:3001"
        shards = 3
        max_body_bytes = 1_000_000
        [authority]
        url = "embedded"
        when_lost = "closed"
        [store]
        url = "embedded"
        [usage]
        durability = "disk"
        [admin]
        token = "a-secret-of-20-chars"
    "#;
    let mut expected = Config::default();
    expected.server.listen = "0.0.0.0:3000".parse().unwrap();
    expected.server.shards = Shards::Exactly(3);
    expected.server.max_body_bytes = 1_000_000;
    expected.when_lost = shard::catalog::WhenLost::Closed;
    expected.usage.durability = Durability::Disk;
    expected.admin_token = Some("a-secret-of-20-chars".to_string());
    assert_eq!(load(text, &[]), Ok(expected));
}

#[test]
fn the_committed_example_is_the_generated_one_and_says_the_defaults() {
    let committed = include_str!("../../tollgate.example.toml");
    assert_eq!(committed, example(), "write it anew: tollgate check --example");
    assert_eq!(load(committed, &[]), Ok(Config::default()));
    for line in committed.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
}

/// Each key reaches its own field, from the file and from the environment alike.
#[test]
fn every_key_is_read_from_both_places_into_a_field_of_its_own() {
    let key_file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key_file.path(), [7; 32]).unwrap();
    let ca_file = tempfile::NamedTempFile::new().unwrap();
    let ca = rcgen::generate_simple_self_signed(["ca.test".to_owned()]).unwrap();
    std::fs::write(ca_file.path(), ca.cert.pem()).unwrap();
    let mut seen = Vec::new();
    for key in KEYS {
        let mut defaults = Config::default();
        let value = match (key.field)(&mut defaults).render() {
            // "For ever"; a number of days is good too.
            Some(default) if default == "0" => "1".to_string(),
            Some(default) if default.parse::<u64>().is_ok() => {
                // One less stays good beside the other settings.
                (default.parse::<u64>().unwrap() - 1).to_string()
            }
            Some(default) => match default.trim_matches('"') {
                "127.0.0.1:3000" | "127.0.0.1:3001" => "127.0.0.2:4000".to_string(),
                "./tollgate-data" => "/elsewhere".to_string(),
                "auto" => "2".to_string(),
                "process" => "disk".to_string(),
                "degraded" => "open".to_string(),
                "info" => "warn,tollgate::writer=debug".to_string(),
                "text" => "json".to_string(),
                _ => continue, // "embedded" is the only choice there is.
            },
            None if key.name == "read_url" => continue, // Only beside a server's url.
            None if key.name == "ca_file" => ca_file.path().to_string_lossy().into_owned(),
            None if key.table == "secrets" => key_file.path().to_string_lossy().into_owned(),
            None => "a-token-of-some-length".to_string(),
        };
        let from_environment = load("", &[(&key.variable(), &value)]).unwrap();
        let literal = match value.parse::<u64>() {
            Ok(_) => value,
            Err(_) => format!("{value:?}"),
        };
        let from_file = load(&format!("[{}]\n{} = {literal}", key.table, key.name), &[]).unwrap();
        assert_eq!(from_file, from_environment, "{}.{}", key.table, key.name);
        assert_ne!(from_file, Config::default(), "{}.{}", key.table, key.name);
        assert!(!seen.contains(&from_file), "{}.{} has another's field", key.table, key.name);
        seen.push(from_file);
    }
    assert!(seen.len() > 30);
}

#[test]
fn the_environment_wins_over_the_file() {
    let text = "[server]\nlisten = \"127.0.0.1:1\"\nshards = 1";
    let variables = [("TOLLGATE_SERVER__LISTEN", "127.0.0.1:2"), ("TOLLGATE_LOG", "debug")];
    let config = load(text, &variables).unwrap();
    assert_eq!(config.server.listen.port(), 2);
    assert_eq!(config.server.shards, Shards::Exactly(1));
}

/// Each live setting counts at once, each other one waits, and neither changes a third.
#[test]
fn what_is_read_again_changes_what_can_change() {
    let old =
        load("[server]\nmax_headers = 50\n[admin]\ntoken = \"one-of-16-letters\"", &[]).unwrap();
    assert!(old.change_to(&old).applied.is_empty() && old.change_to(&old).waiting.is_empty());
    let text = "[server]\nmax_body_bytes = 2048\nshards = 3\n[usage]\nbatch_rows = 7\n\
                durability = \"disk\"\n[log]\nlevel = \"debug\"\n";
    let change = old.change_to(&load(text, &[]).unwrap());
    let live = "[server]\nmax_body_bytes = 2048\n[usage]\nbatch_rows = 7\n\
                [log]\nlevel = \"debug\"\n";
    assert_eq!(Ok(change.config), load(live, &[]));
    let applied = ["server.max_headers", "server.max_body_bytes", "usage.batch_rows", "log.level"];
    assert_eq!(change.applied, [&applied[..], &["admin.token"]].concat());
    assert_eq!(change.waiting, ["server.shards", "usage.durability"]);
}

#[test]
fn a_setting_knows_where_it_was_given() {
    let text =
        "[server]\nshards = 2\n\nmax_headers = 9\n[admin]\ntoken = \"hunter2-hunter2-hunter2\"";
    let variables = [("TOLLGATE_SERVER__SHARDS", "3")];
    let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
    let read = read::merge(Some((Path::new("t.toml"), text)), variables).unwrap();
    let lines: Vec<String> = settings_of(read)
        .iter()
        .map(|it| format!("{} {} {} {}", it.path, it.value, it.origin, it.reload))
        .collect();
    let expected = [
        "server.shards 3 TOLLGATE_SERVER__SHARDS restart",
        "server.max_headers 9 t.toml:4 SIGHUP",
        "admin.token (not shown) t.toml:6 SIGHUP",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_variable_that_is_no_setting_is_named() {
    let error = load("", &[("TOLLGATE_SERVER__LISTN", "x"), ("OTHER__NAME", "x")]).unwrap_err();
    assert_eq!(
        error,
        "TOLLGATE_SERVER__LISTN: no such setting (did you mean TOLLGATE_SERVER__LISTEN?)"
    );
    let error = load("", &[("TOLLGATE_SERVER__MAX_HEADERS", "many")]).unwrap_err();
    assert_eq!(
        error,
        "TOLLGATE_SERVER__MAX_HEADERS: server.max_headers: found \"many\", allowed: an integer \
         from 8 to 1000"
    );
}

#[test]
fn an_unknown_key_is_named_with_its_place_and_its_likely_name() {
    let error = refusal("# why\n[store]\nurl = \"embedded\"\n  ulr = 1\n");
    assert_eq!(
        error,
        "t.toml:4:3: store.ulr: no such key (did you mean url?); allowed in [store]: url, ca_file, \
         read_url, connections_max, disk_bytes"
    );
    assert!(refusal("[store]\nqqqq = 1").contains("store.qqqq: no such key; allowed"));
    let misplaced = refusal("[server]\nbatch_rows = 1");
    assert!(
        misplaced.contains("t.toml:2:1: server.batch_rows: no such key (it belongs in [usage])")
    );
}

#[test]
fn an_unknown_table_is_named_with_its_place_and_its_likely_name() {
    assert_eq!(
        refusal("\n[sever]\nlisten = 1"),
        "t.toml:2:2: sever: no such table (did you mean [server]?); allowed: server, authority, \
         store, usage, upstream, keys, secrets, log, admin"
    );
    assert!(
        refusal("listen = 1")
            .contains("t.toml:1:1: listen: no such table (it belongs in [server])")
    );
    assert!(refusal("server = 1").contains("server: found 1, allowed: a table, [server]"));
    assert!(refusal("[[server]]").contains("server: found an array, allowed: a table"));
}

#[test]
fn a_bad_value_is_shown_with_what_is_allowed() {
    for (text, expected) in [
        (
            "[server]\nlisten = \"localhost\"",
            "t.toml:2:10: server.listen: found \"localhost\", allowed: an IP address with a port",
        ),
        ("[server]\nlisten = 3000", "server.listen: found 3000, allowed: an IP address"),
        (
            "[server]\nshards = \"many\"",
            "server.shards: found \"many\", allowed: \"auto\" or an integer from 1 to 1024",
        ),
        ("[server]\nshards = 0", "found 0, allowed: \"auto\" or an integer from 1"),
        ("[server]\nshards = \"2\"", "found \"2\", allowed: \"auto\" or an integer"),
        ("[server]\nmax_headers = 1001", "found 1001, allowed: an integer from 8 to 1000"),
        ("[server]\nmax_headers = -1", "found -1, allowed: an integer"),
        ("[server]\nmax_headers = 99.5", "found 99.5, allowed: an integer"),
        ("[server]\nmax_headers = true", "found true, allowed: an integer"),
        ("[server]\nmax_headers = [1]", "found an array, allowed: an integer"),
        ("[server]\nmax_headers = {}", "found a table, allowed: an integer"),
        ("[server]\nmax_headers = 0xFFFFFFFFFFFFFFFFFFFF", "allowed: an integer"),
        ("[server]\ndata_dir = \"\"", "found \"\", allowed: a path"),
        (
            "[authority]\nwhen_lost = \"panic\"",
            "found \"panic\", allowed: \"closed\", \"degraded\" or \"open\"",
        ),
        ("[usage]\ndurability = \"none\"", "found \"none\", allowed: \"process\" or \"disk\""),
        ("[log]\nlevel = \"inof\"", "found \"inof\", allowed: error, warn, info"),
        ("[log]\nlevel = 3", "found 3, allowed: error, warn, info"),
        ("[log]\nformat = \"xml\"", "found \"xml\", allowed: \"text\" or \"json\""),
        ("[store]\nurl = \"sqlite\"", "found \"sqlite\", allowed: \"embedded\" or \"postgres://"),
    ] {
        let error = refusal(text);
        assert!(error.contains(expected), "{text:?} gave {error:?}");
        assert!(error.starts_with("t.toml:2:"), "{error}");
    }
}

#[test]
fn stores_of_later_versions_are_known_and_refused() {
    let error = refusal("[authority]\nurl = \"redis-ring://:hunter2-hunter2-hunter2@cache:6379\"");
    let found =
        "t.toml:2:7: authority.url: found \"redis-ring://…@cache:6379\", allowed: \"embedded\"";
    assert!(error.starts_with(found), "{error}");
    let url = "postgres://me:hunter2-hunter2-hunter2@db/tollgate";
    let error = refusal(&format!("[store]\nurl = \"{url}?sslmode=verify\""));
    assert!(error.contains("allowed: \"embedded\" or \"postgres://"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    refusal("[store]\nurl = \"postgres://db/tollgate?password=hunter2\"");
    refusal("[store]\nurl = \"postgres:///tollgate\"");
    let config = load(&format!("[store]\nurl = \"{url}\""), &[]).unwrap();
    assert_eq!(config.store.url, StoreUrl::Postgres(PostgresUrl::parse(url).unwrap()));
    assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
    assert!(!error.contains("hunter2-hunter2-hunter2"), "{error}");
}

#[test]
fn an_authority_for_all_needs_a_store_for_all() {
    let error = refusal("[authority]\nurl = \"redis://:hunter2-hunter2@cache:6379/0\"");
    let told =
        "found \"redis://…@cache:6379/0\", allowed: \"embedded\" while store.url is \"embedded\"";
    assert!(error.contains(told) && !error.contains("hunter2"), "{error}");
}

#[test]
fn settings_that_do_not_go_together_are_refused() {
    for (text, expected) in [
        (
            "[store]\nread_url = \"postgres://me@replica/tollgate\"",
            "store.read_url: found a server, allowed: none while store.url is \"embedded\"",
        ),
        (
            "[server]\nlisten = \"0.0.0.0:3001\"",
            "server.admin_listen: found \"127.0.0.1:3001\", allowed: another port",
        ),
        (
            "[server]\nmax_uri_bytes = 40000",
            "server.max_uri_bytes: found 40000, allowed: no more than server.max_head_bytes",
        ),
        (
            "[usage]\njournal_max_bytes = 20000000",
            "usage.journal_max_bytes: found 20000000, allowed: at least two segments",
        ),
    ] {
        let error = refusal(text);
        assert!(error.starts_with("t.toml: ") && error.contains(expected), "{error}");
    }
    let any_port = "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"";
    assert!(load(any_port, &[]).is_ok());
}

#[test]
fn all_problems_are_reported_at_once_in_the_order_of_the_file() {
    let text = "[upstream]\nconnect_timeout_ms = 0\n[server]\nshards = \"x\"\nlisten = 5 5\n\
                ports = 1\n[admin]\ntoken = 7\n";
    let variables = [("TOLLGATE_USAGE__BATCH_ROWS", "0"), ("TOLLGATE_NO__SUCH", "")];
    let error = load(text, &variables).unwrap_err();
    let places: Vec<&str> = error.lines().map(|line| line.split(": ").next().unwrap()).collect();
    let expected = [
        "t.toml:2:22",
        "t.toml:4:10",
        "t.toml:5:10",
        "t.toml:6:1",
        "t.toml:8:9",
        "TOLLGATE_NO__SUCH",
        "TOLLGATE_USAGE__BATCH_ROWS",
    ];
    assert_eq!(places, expected, "{error}");
}

#[test]
fn no_secret_is_shown() {
    let config = load("[admin]\ntoken = \"hunter2-hunter2-hunter2\"", &[]).unwrap();
    let shown = format!("{config:?}");
    assert!(shown.contains("admin.token") && !shown.contains("hunter2-hunter2-hunter2"), "{shown}");
    assert!(shown.contains("server.listen: \"127.0.0.1:3000\""), "{shown}");
    let error = refusal("[admin]\ntoken = \"hunter2-hunter2-hunter2 \\u00e9\"");
    assert!(error.contains("admin.token: found a value (not shown)"), "{error}");
    assert!(!error.contains("hunter2-hunter2-hunter2"), "{error}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Config::load(Some(Path::new("/no/such/file.toml"))).unwrap_err().to_string();
    assert!(error.starts_with("/no/such/file.toml: not read: "), "{error}");
}

#[test]
fn an_unclosed_table_is_reported_once() {
    let refused = refusal("[server\nlisten = \"127.0.0.1:1\"\n");
    assert_eq!(refused.lines().count(), 1, "{refused}");
    assert!(refused.starts_with("t.toml:1:8: unclosed table"), "{refused}");
}

#[test]
fn a_list_is_written_alike_in_both_places() {
    let written = "[\"a.example\", \"b\"]";
    let from_file = load(&format!("[admin]\nhosts = {written}"), &[]).unwrap();
    assert_eq!(from_file.admin_hosts.0, ["a.example", "b"]);
    assert_eq!(load("", &[("TOLLGATE_ADMIN__HOSTS", written)]), Ok(from_file));
    for wrong in ["\"a\"", "[1]", "[\"a:1\"]", "[\"\"]", "["] {
        assert!(load("", &[("TOLLGATE_ADMIN__HOSTS", wrong)]).is_err(), "{wrong}");
    }
}
