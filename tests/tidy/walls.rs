//! The walls between the parts of the program: which part may name which (the table in
//! ARCHITECTURE.md says it, and is read here), which crate is known in which files only, and what
//! the pure parts must never touch.

use crate::source::Source;
use crate::{Finding, finding};
use std::collections::BTreeSet;

/// Where the table of the parts stands.
pub const ARCHITECTURE: &str = "ARCHITECTURE.md";

/// Crates that only some files may name.
const CRATES: &[(&str, &[&str])] = &[
    (
        "tokio",
        &[
            "src/control/",
            "src/store/sqlite/lane.rs",
            "src/store/postgres/",
            "src/store/tests/",
            "tests/e2e/support/",
        ],
    ),
    ("tokio_postgres", &["src/store/postgres/", "src/config/store_url.rs", "tests/e2e/support/"]),
    ("axum", &["src/control/"]),
    ("hyper", &["src/control/", "src/wire/tests.rs"]),
    ("hyper_util", &["src/control/"]),
    ("argon2", &["src/control/"]),
    ("monoio", &["src/net/", "perf/src/floor/monoio_relay.rs"]),
    ("clap", &["src/cli/", "src/main.rs"]),
    ("clap_complete", &["src/cli/completions.rs"]),
    ("clap_mangen", &["src/cli/completions.rs"]),
    (
        "ureq",
        &["src/cli/", "src/control/admin/tests/", "tests/e2e/", "tests/allocations/whole_call.rs"],
    ),
    ("rusqlite", &["src/store/sqlite/", "src/writer/tests/", "perf/src/measure.rs", "tests/e2e/"]),
    ("memmap2", &["src/journal/"]),
    ("redis", &["src/config/authority_url.rs", "src/control/authority/"]),
];

/// A part that is pure: no clock, socket, file, thread, lock or randomness.
struct Pure {
    folder: &'static str,
    /// Beside the standard library's pure names.
    crates: &'static [&'static str],
}

const PURE: &[Pure] = &[
    Pure { folder: "shard/src/", crates: SHARD_DEPENDENCIES },
    Pure {
        folder: "src/wire/",
        crates: &["tollgate_shard", "crc32c", "httparse", "memchr", "serde", "serde_json"],
    },
];
const SHARD_DEPENDENCIES: &[&str] = &["hashbrown", "foldhash"];

/// All that a pure part may name of the standard library.
const PURE_STD: &[&str] = &[
    "alloc",
    "array",
    "borrow",
    "boxed",
    "cell",
    "cmp",
    "collections::BTreeMap",
    "collections::BTreeSet",
    "collections::BinaryHeap",
    "collections::VecDeque",
    "collections::btree_map",
    "collections::hash_map",
    "collections::vec_deque",
    "convert",
    "error",
    "fmt",
    "hash::BuildHasher",
    "hash::Hash",
    "hash::Hasher",
    "hint",
    "iter",
    "marker",
    "mem",
    "net::IpAddr",
    "net::Ipv4Addr",
    "net::Ipv6Addr",
    "net::SocketAddr",
    "num",
    "ops",
    "option",
    "ptr",
    "rc",
    "result",
    "slice",
    "str",
    "string",
    "sync::Arc",
    "sync::atomic",
    "time::Duration",
    "u64",
    "vec",
];

/// Tests only: it reads the seed to replay from the environment.
const SIMULATION: &str = "shard/src/simulation/";

/// A part of the program: a file or a folder of `src`, or `benches`.
struct Part {
    name: String,
    /// Paths that it may name besides itself; `None`: all.
    may: Option<Vec<String>>,
    /// The table's line.
    line: usize,
}

/// Every part, as ARCHITECTURE.md lists them.
pub struct Parts(Vec<Part>);

impl Parts {
    /// Reads the rows of the table whose last column says what a part may know. A row's places
    /// and paths stand in backticks.
    pub fn read(architecture: &str) -> Self {
        let lines = architecture.lines().enumerate();
        let rows = lines.skip_while(|(_, line)| !line.ends_with("| may know |")).skip(2);
        let mut parts = Vec::new();
        for (at, row) in rows.take_while(|(_, line)| line.starts_with('|')) {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            let (Some(places), Some(may)) = (cells.first(), cells.last()) else { continue };
            for name in quoted(places).filter_map(part_of) {
                let all = quoted(may).map(str::to_owned).collect();
                let may = if *may == "all" { None } else { Some(all) };
                parts.push(Part { name: name.to_owned(), may, line: at + 1 });
            }
        }
        Self(parts)
    }

    fn part(&self, name: &str) -> Option<&Part> {
        self.0.iter().find(|part| part.name == name)
    }

    /// What a file names of other parts and may not, and files of no part.
    pub fn edges(&self, source: &Source) -> Vec<Finding> {
        let Some(from) = part_of(&source.path) else { return Vec::new() };
        let Some(part) = self.part(from) else {
            let remedy = format!(
                "`{from}` is no part that the table in {ARCHITECTURE} lists: put the file into \
                 the part that it belongs to, or give it a row that says what it may know"
            );
            return vec![finding(source, 1, remedy)];
        };
        let Some(may) = &part.may else { return Vec::new() };
        let named = self.named(source, from).into_iter();
        let forbidden =
            named.filter(|(_, path)| !may.iter().any(|prefix| starts_with(path, prefix)));
        forbidden
            .map(|(line, path)| {
                let allowed = if may.is_empty() { "nothing".to_owned() } else { may.join(", ") };
                let remedy = format!(
                    "`{from}` names `{}`, but may name only {allowed} ({ARCHITECTURE}): pass \
                     what it needs down as a value, or let the two meet in `channels`",
                    path.join("::")
                );
                finding(source, line, remedy)
            })
            .collect()
    }

    /// What the table says and the sources don't: a door that nobody uses is a hole in the wall.
    pub fn unused(&self, sources: &[Source]) -> Vec<Finding> {
        let mut used = BTreeSet::new();
        for source in sources {
            let Some(from) = part_of(&source.path) else { continue };
            used.insert((from, ""));
            let named = self.named(source, from);
            for prefix in self.part(from).and_then(|part| part.may.as_ref()).into_iter().flatten() {
                if named.iter().any(|(_, path)| starts_with(path, prefix)) {
                    used.insert((from, prefix.as_str()));
                }
            }
        }
        let mut found = Vec::new();
        for Part { name, may, line } in &self.0 {
            let mut strike = |remedy: String| {
                found.push(Finding { path: ARCHITECTURE.to_owned(), line: *line, remedy });
            };
            if !used.contains(&(name.as_str(), "")) {
                strike(format!("lists `{name}`, which is not there: strike it"));
                continue;
            }
            for prefix in may.iter().flatten() {
                if !used.contains(&(name.as_str(), prefix.as_str())) {
                    strike(format!("`{name}` may know `{prefix}`, but does not: strike it"));
                }
            }
        }
        found
    }

    /// The paths into other parts that a file of `from` names.
    fn named(&self, source: &Source, from: &str) -> Vec<(usize, Vec<String>)> {
        let mut named = Vec::new();
        for (line, mut path) in source.paths() {
            match path[0].as_str() {
                "crate" | "tollgate" => drop(path.remove(0)),
                "shard" => {}
                _ => continue,
            }
            let is_part = |to: &String| to == "shard" || self.part(to).is_some();
            if path.first().is_some_and(|to| is_part(to) && to != from) {
                named.push((line, path));
            }
        }
        named
    }
}

fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The part that a file belongs to.
fn part_of(path: &str) -> Option<&str> {
    let name = match path.strip_prefix("src/") {
        Some(inside) => inside.split('/').next()?,
        None => path.split('/').next().filter(|folder| *folder == "benches")?,
    };
    Some(name.trim_end_matches(".rs"))
}

fn starts_with(path: &[String], prefix: &str) -> bool {
    let prefix: Vec<&str> = prefix.split("::").collect();
    path.len() >= prefix.len() && path.iter().zip(&prefix).all(|(part, wanted)| part == wanted)
}

/// Crates outside of the files that may name them.
pub fn crates(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for (line, path) in source.paths() {
        for (name, places) in CRATES {
            if path[0] == *name && !places.iter().any(|place| source.path.starts_with(place)) {
                let remedy = format!(
                    "`{name}` may be named in {} only: put the call behind a function there",
                    places.join(", ")
                );
                found.push(finding(source, line, remedy));
            }
        }
    }
    found
}

/// What a pure part names of the standard library, or of crates, that is not pure.
pub fn pure(source: &Source) -> Vec<Finding> {
    let Some(part) = PURE.iter().find(|part| source.path.starts_with(part.folder)) else {
        return Vec::new();
    };
    let dependencies = dependencies(include_str!("../../Cargo.toml"));
    let mut found = Vec::new();
    for (line, path) in source.paths() {
        if source.is_test(line) || source.path.starts_with(SIMULATION) {
            continue;
        }
        let is_std = ["std", "core", "alloc"].contains(&path[0].as_str());
        let is_pure = PURE_STD.iter().any(|prefix| starts_with(&path[1..], prefix));
        let is_crate = dependencies.iter().any(|(_, name)| name.replace('-', "_") == path[0]);
        if is_std && !is_pure || is_crate && !part.crates.contains(&path[0].as_str()) {
            let remedy = format!(
                "{} is pure, and names `{}`: it has no clock, socket, file, thread, lock or \
                 randomness; take the value as an argument, or, if the name is pure, add it to \
                 PURE_STD or to the part's crates",
                part.folder,
                path.join("::")
            );
            found.push(finding(source, line, remedy));
        }
    }
    found
}

/// What `shard` depends on and may not.
pub fn shard_dependencies(manifest: &str) -> Vec<Finding> {
    let named = dependencies(manifest).into_iter();
    named
        .filter(|(_, name)| !SHARD_DEPENDENCIES.contains(name))
        .map(|(line, name)| Finding {
            path: "shard/Cargo.toml".to_owned(),
            line,
            remedy: format!(
                "`shard` depends on {name}; it may depend on {} only: write the few lines it \
                 needs, or do that work outside of it",
                SHARD_DEPENDENCIES.join(" and ")
            ),
        })
        .collect()
}

/// The names below `[dependencies]`, with their lines.
fn dependencies(manifest: &str) -> Vec<(usize, &str)> {
    let lines = manifest.lines().enumerate();
    let inside = lines
        .skip_while(|(_, line)| line.trim() != "[dependencies]")
        .skip(1)
        .take_while(|(_, line)| !line.starts_with('['));
    let named = inside.filter_map(|(at, line)| {
        let name = line.split(['=', '.']).next()?.trim();
        (!name.is_empty() && !name.starts_with('#')).then_some((at + 1, name))
    });
    named.collect()
}

/// Planted faults are refused, and what is as it should be is left alone.
mod bites {
    use super::*;

    fn lines(found: Vec<Finding>) -> Vec<usize> {
        found.iter().for_each(|finding| assert!(finding.remedy.len() > 20, "{finding}"));
        found.into_iter().map(|finding| finding.line).collect()
    }

    fn edges(path: &str, text: &str) -> Vec<usize> {
        let parts = Parts::read(include_str!("../../ARCHITECTURE.md"));
        lines(parts.edges(&Source::new(path, text)))
    }

    fn pure_lines(path: &str, text: &str) -> Vec<usize> {
        lines(pure(&Source::new(path, text)))
    }

    #[test]
    fn edges_point_down() {
        let gateway = "use crate::wire::{head, call};\nuse crate::control::verifier;\n";
        assert_eq!(edges("src/gateway/a.rs", gateway), [2]);
        assert_eq!(edges("src/control/a.rs", "use crate::wire::{key_text, head};"), [1]);
        assert_eq!(edges("src/gateway/mod.rs", "\nuse super::writer::run;"), [2]);
        assert_eq!(edges("src/writer/a.rs", "tollgate::gateway::spawn()"), [1]);
        assert_eq!(edges("src/wire/a.rs", "use shard::units::A;\nuse shard::quota;"), [2]);
        assert_eq!(edges("src/wire.rs", "use crate::clock;\nuse self::b::c;"), [1]);
        assert_eq!(edges("src/channels.rs", "use crate::run::x; // crate::gateway"), [1]);
        assert_eq!(edges("src/model_server/a.rs", "use crate::{gateway::path, net};"), [1]);
        assert_eq!(edges("src/gateway/a.rs", "crate::descriptors::connections_per_shard(1)"), [1]);
        assert_eq!(edges("benches/a.rs", "use tollgate::gateway::spawn;"), [1]);
        assert!(edges("src/run.rs", "use crate::{gateway::run, control::x};").is_empty());
        assert!(edges("src/gateway/a.rs", "use super::channels;\nuse super::b::c;").is_empty());
    }

    #[test]
    fn an_unknown_part_is_refused() {
        let between = "//! x\nuse crate::gateway::run;\nuse crate::writer::row;";
        assert_eq!(edges("src/bridge.rs", between), [1]);
        assert_eq!(edges("src/bridge/mod.rs", between), [1]);
        assert_eq!(edges("src/bridge/a/b.rs", ""), [1]);
        assert!(edges("tests/e2e/bridge.rs", between).is_empty());
    }

    #[test]
    fn the_table_says_no_more_than_there_is() {
        let table = "| place | holds | may know |\n|---|---|---|\n\
                     | `src/a.rs`, `src/b/` | x | `c`, `shard::d` |\n\
                     | `src/c.rs` | x | all |\n| `src/e.rs` | x | nothing |\n\n";
        let parts = Parts::read(table);
        let a = Source::new("src/a.rs", "use crate::c::x;\nuse shard::d;\nuse shard::f;");
        let b = Source::new("src/b/mod.rs", "use super::c;");
        let c = Source::new("src/c.rs", "use crate::e;");
        assert_eq!(lines(parts.edges(&a)), [3]);
        assert_eq!(lines(parts.unused(&[a, b, c])), [3, 5]);
    }

    #[test]
    fn crates_stay_where_they_are_known() {
        let named = |path: &str, text: &str| lines(crates(&Source::new(path, text)));
        let text = "use tokio::net;\nmonoio::spawn();\nmine::tokio::x();";
        assert_eq!(named("src/gateway/run.rs", text), [1, 2]);
        assert_eq!(named("src/control/run.rs", text), [2]);
        assert_eq!(named("src/net/mod.rs", text), [1]);
        assert_eq!(named("src/writer/run.rs", "tokio::task::spawn_blocking(x);"), [1]);
        let store = "use rusqlite::Connection;\nfn a(db: &rusqlite::Connection) {}";
        assert_eq!(named("src/store/catalog.rs", store), [1, 2]);
        assert_eq!(named("src/control/admin_state.rs", store), [1, 2]);
        assert_eq!(named("src/writer/run.rs", store), [1, 2]);
        assert!(named("src/store/sqlite/plans.rs", store).is_empty());
    }

    #[test]
    fn the_pure_parts_are_pure() {
        let bad = "use std::time::{Duration, Instant};\nstd::thread::spawn();\n\
                   use std::sync::{Arc, Mutex};\nuse std::net::{IpAddr, TcpStream};\n\
                   use std::collections::HashMap;\nuse std::fs;\nuse std::{mem, io::Read};\n\
                   fastrand::u64(..);\n";
        assert_eq!(pure_lines("shard/src/a.rs", bad), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(pure_lines("src/wire/a.rs", bad), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert!(pure_lines("src/a.rs", bad).is_empty());
        assert_eq!(pure_lines("src/wire/a.rs", "use flume::Sender;\nuse memchr::memchr;"), [1]);
        let good = "use std::sync::Arc;\n#[cfg(test)]\nmod tests {\nuse std::fs::File;\n}\n";
        assert!(pure_lines("shard/src/a.rs", good).is_empty());
        assert!(pure_lines("src/wire/a.rs", good).is_empty());
        let manifest = "[dependencies]\nhashbrown = \"1\"\nrand.workspace = true\n\n[dev-x]\nz = 1";
        assert_eq!(lines(shard_dependencies(manifest)), [3]);
    }
}
