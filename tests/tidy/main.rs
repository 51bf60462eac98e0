//! Keeps the house in order: which part may name which and what the pure parts must never touch
//! (`tidy/walls.rs`), that nothing goes in a circle (`tidy/circles.rs`), that the documents name
//! what is there (`tidy/documents.rs`), where files stand (`tidy/places.rs`), how large a file and
//! a function may be, and what is banned. It reads the sources as text, so that a rule holds for
//! code that no compiler has seen yet; each refusal says what to do instead.

mod circles;
mod documents;
mod places;
mod source;
mod walls;

use source::{Source, Token};
use std::fmt;
use std::path::Path;
use walls::{ARCHITECTURE, Parts};

const FILE_LINES_MAX: usize = 600;
const FILE_LINES_AIM: usize = 300;
const FUNCTION_LINES_MAX: usize = 70;
const LINE_COLUMNS_MAX: usize = 100;

const UNSAFE_FILES: &[&str] = &[
    "src/net/socket.rs",
    "src/journal/mapped.rs",
    "perf/src/floor/ring.rs",
    "tests/allocations/counting.rs",
];
/// Besides `src/clock.rs`; each with its reason.
const CLOCK_FILES: &[(&str, &str)] = &[(
    "src/control/run.rs",
    "tokio's timer wants an instant of its own; when it is due was reckoned with clock::now",
)];
/// Tests that may pause; each with its reason.
const PAUSE_FILES: &[(&str, &str)] = &[(
    "tests/e2e/support/poll.rs",
    "looks at another process until a deadline, and must leave it the processor in between",
)];
const CLOCK_NAMES: &[&str] = &["Instant", "SystemTime", "clock_gettime", "UNIX_EPOCH"];
const PAUSE_NAMES: &[&str] = &["sleep", "sleep_ms", "sleep_until", "park_timeout"];
const VAGUE_NAMES: &[&str] =
    &["util", "utils", "common", "manager", "managers", "helper", "helpers"];

/// What a rule found.
struct Finding {
    path: String,
    line: usize,
    remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.remedy)
    }
}

type Rule = fn(&Source) -> Vec<Finding>;

const RULES: &[Rule] = &[
    walls::crates,
    walls::pure,
    black_box,
    unsafe_code,
    clocks,
    pauses,
    allows,
    vague_names,
    opening,
    file_lines,
    columns,
    function_lines,
];

#[test]
fn the_sources_are_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = Source::all(root);
    assert!(sources.len() > 50, "only {} sources found below {root:?}", sources.len());
    let mut findings: Vec<Finding> =
        sources.iter().flat_map(|source| RULES.iter().flat_map(|rule| rule(source))).collect();
    let parts = Parts::read(&read(root, ARCHITECTURE));
    findings.extend(sources.iter().flat_map(|source| parts.edges(source)));
    findings.extend(parts.unused(&sources));
    findings.extend(circles::rules(&sources));
    findings.extend(documents::rules(root, &sources));
    findings.extend(places::rules(&sources));
    findings.extend(walls::shard_dependencies(&read(root, "shard/Cargo.toml")));
    findings.extend(migrations(&migration_files(root), &read(root, "src/store/sqlite/file.rs")));
    for source in &sources {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_AIM {
            println!("{}: {lines} lines, {FILE_LINES_AIM} are aimed at", source.path);
        }
    }
    let report: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(report.is_empty(), "{} findings:\n{}", report.len(), report.join("\n"));
}

fn read(root: &Path, path: &str) -> String {
    std::fs::read_to_string(root.join(path)).unwrap_or_default()
}

fn migration_files(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root.join("migrations/sqlite")).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn finding(source: &Source, line: usize, remedy: impl Into<String>) -> Finding {
    Finding { path: source.path.clone(), line, remedy: remedy.into() }
}

fn black_box(source: &Source) -> Vec<Finding> {
    if !source.path.starts_with("tests/e2e/") {
        return Vec::new();
    }
    let inside = |path: &[String]| ["tollgate", "shard"].contains(&path[0].as_str());
    let paths = source.paths().into_iter().filter(|(_, path)| inside(path));
    let remedy = "e2e tests see only what the outside sees: calculate the expectation here, or \
                  ask the running binary";
    paths.map(|(line, _)| finding(source, line, remedy)).collect()
}

fn unsafe_code(source: &Source) -> Vec<Finding> {
    if UNSAFE_FILES.contains(&source.path.as_str()) {
        return Vec::new();
    }
    let remedy = format!(
        "`unsafe` is for {} only: use a safe interface, or put it behind one there",
        UNSAFE_FILES.join(" and ")
    );
    words(source, &["unsafe"]).map(|token| finding(source, token.line, remedy.clone())).collect()
}

fn clocks(source: &Source) -> Vec<Finding> {
    let is_product = source.path.starts_with("src/") && source.path != "src/clock.rs";
    let is_exception = CLOCK_FILES.iter().any(|(path, _)| *path == source.path);
    if !is_product || is_exception {
        return Vec::new();
    }
    let read = words(source, CLOCK_NAMES).filter(|token| !source.is_test(token.line));
    read.map(|token| {
        let remedy = format!(
            "`{}` reads a clock: call `clock::now` or `clock::unix_us`, or take the time as an \
             argument",
            token.text
        );
        finding(source, token.line, remedy)
    })
    .collect()
}

fn pauses(source: &Source) -> Vec<Finding> {
    if PAUSE_FILES.iter().any(|(path, _)| *path == source.path) {
        return Vec::new();
    }
    let in_tests = words(source, PAUSE_NAMES).filter(|token| source.is_test(token.line));
    let remedy = "a test that sleeps is slow and flaky: pass the time in, or poll with a deadline \
                  (in e2e: support/poll.rs)";
    in_tests.map(|token| finding(source, token.line, remedy)).collect()
}

fn allows(source: &Source) -> Vec<Finding> {
    let marks = source.tokens.windows(3).filter(|window| {
        window[0].text == "[" && window[1].text == "allow" && window[2].text == "("
    });
    let remedy = "say `#[expect(.., reason = \"..\")]`, which tells when it is not needed any more";
    marks.map(|window| finding(source, window[1].line, remedy)).collect()
}

fn vague_names(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut check = |name: &str, line: usize| {
        if let Some(vague) = pieces(name).iter().find(|word| VAGUE_NAMES.contains(&word.as_str())) {
            let remedy = format!("`{vague}` in `{name}` says nothing: name it after what it does");
            found.push(finding(source, line, remedy));
        }
    };
    for folder_or_file in source.path.trim_end_matches(".rs").split('/') {
        check(folder_or_file, 1);
    }
    for pair in source.tokens.windows(2) {
        let names = ["mod", "struct", "enum", "trait", "fn", "type"];
        if names.contains(&pair[0].text.as_str()) {
            check(&pair[1].text, pair[1].line);
        }
    }
    found
}

/// `snake_case` and `CamelCase` in lower-case words.
fn pieces(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for letter in name.chars() {
        if letter == '_' || letter.is_uppercase() {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| letter != '_') {
            word.extend(letter.to_lowercase());
        }
    }
    words
}

fn opening(source: &Source) -> Vec<Finding> {
    let remedy = "a file opens with `//!`: what it is, why it exists, what it must never do";
    let opens = source.text.starts_with("//!");
    if opens { Vec::new() } else { vec![finding(source, 1, remedy)] }
}

fn file_lines(source: &Source) -> Vec<Finding> {
    let lines = source.text.lines().count();
    let remedy = format!(
        "{lines} lines, at most {FILE_LINES_MAX} (aim at {FILE_LINES_AIM}): cut the file where \
         its parts know least of each other"
    );
    if lines > FILE_LINES_MAX { vec![finding(source, lines, remedy)] } else { Vec::new() }
}

fn columns(source: &Source) -> Vec<Finding> {
    let lines = source.text.lines().enumerate();
    lines
        .map(|(at, line)| (at + 1, line.chars().count()))
        .filter(|(_, columns)| *columns > LINE_COLUMNS_MAX)
        .map(|(line, columns)| {
            let remedy = format!("{columns} columns, at most {LINE_COLUMNS_MAX}: break the line");
            finding(source, line, remedy)
        })
        .collect()
}

fn function_lines(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for (at, pair) in source.tokens.windows(2).enumerate() {
        if pair[0].text != "fn" || !pair[1].is_word() {
            continue;
        }
        let Some(last) = function_end(source, at + 2) else { continue };
        let lines = last + 1 - pair[0].line;
        if lines > FUNCTION_LINES_MAX {
            let remedy = format!(
                "`{}` has {lines} lines, at most {FUNCTION_LINES_MAX}: branch in the parent, \
                 compute in leaves",
                pair[1].text
            );
            found.push(finding(source, pair[0].line, remedy));
        }
    }
    found
}

/// The line of a function's last brace; `None` without a body.
fn function_end(source: &Source, from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        match source.tokens.get(at)?.text.as_str() {
            ";" => return None,
            "{" => return source.tokens.get(source.closing(at)).map(|token| token.line),
            "(" | "[" => at = source.closing(at) + 1,
            _ => at += 1,
        }
    }
}

fn migrations(files: &[String], sqlite: &str) -> Vec<Finding> {
    let mut after = 0;
    let mut found = Vec::new();
    for file in files {
        match sqlite[after..].find(&format!("migrations/sqlite/{file}\"")) {
            Some(at) => after += at,
            None => found.push(Finding {
                path: format!("migrations/sqlite/{file}"),
                line: 1,
                remedy:
                    "is not in MIGRATIONS of src/store/sqlite/file.rs, or not in the order of its \
                         number: list it there, last"
                        .to_owned(),
            }),
        }
    }
    found
}

fn words<'a>(source: &'a Source, wanted: &'a [&str]) -> impl Iterator<Item = &'a Token> {
    source.tokens.iter().filter(|token| wanted.contains(&token.text.as_str()))
}

/// Each rule finds what it is for, and leaves alone what is as it should be.
mod bites {
    use super::*;

    fn lines(rule: Rule, path: &str, text: &str) -> Vec<usize> {
        let found = rule(&Source::new(path, text));
        found.iter().for_each(|finding| assert!(finding.remedy.len() > 20, "{finding}"));
        found.into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn bans_bite() {
        let text = "unsafe {}\n#[allow(dead_code)]\n#![allow(x)]\nfn allow() { allow(1) }";
        assert_eq!(lines(unsafe_code, "src/a.rs", text), [1]);
        assert!(lines(unsafe_code, "src/net/socket.rs", text).is_empty());
        assert_eq!(lines(allows, "src/a.rs", text), [2, 3]);
        assert_eq!(lines(clocks, "src/a.rs", "let a = Instant::now();\n\"Instant\""), [1]);
        assert!(lines(clocks, "src/clock.rs", "SystemTime::now()").is_empty());
        let paused = "sleep(1);\n#[cfg(test)]\nmod tests {\nfn a() { std::thread::sleep(b); }\n}";
        assert_eq!(lines(pauses, "src/a.rs", paused), [4]);
        assert_eq!(lines(pauses, "tests/a.rs", paused), [1, 4]);
        assert!(lines(pauses, "tests/e2e/support/poll.rs", paused).is_empty());
        assert_eq!(lines(black_box, "tests/e2e/a.rs", "use tollgate::wire;\nx::shard::y"), [1]);
    }

    #[test]
    fn names_say_something() {
        assert_eq!(lines(vague_names, "src/gateway/utils.rs", ""), [1]);
        assert_eq!(lines(vague_names, "src/common/mod.rs", ""), [1]);
        let text = "mod key_helper;\nstruct PoolManager;\nfn commonly() {}\nlet helper = 1;";
        assert_eq!(lines(vague_names, "src/a.rs", text), [1, 2]);
    }

    #[test]
    fn sizes_are_bounded() {
        let long = "//! x\n".repeat(FILE_LINES_MAX + 1);
        assert_eq!(lines(file_lines, "src/a.rs", &long), [FILE_LINES_MAX + 1]);
        assert!(lines(file_lines, "src/a.rs", &long[6..]).is_empty());
        let wide = format!("{}\n{}é", "é".repeat(LINE_COLUMNS_MAX), "é".repeat(LINE_COLUMNS_MAX));
        assert_eq!(lines(columns, "src/a.rs", &wide), [2]);
        assert_eq!(lines(opening, "src/a.rs", "// x\n//! y"), [1]);
        assert!(lines(opening, "src/a.rs", "//! y").is_empty());
        let function = |body: usize| {
            let text = format!(
                "trait T {{\nfn a(b: [u8; 2]);\nfn c() {{\n{}}}\n}}",
                "d();\n".repeat(body)
            );
            lines(function_lines, "src/a.rs", &text)
        };
        assert_eq!(function(FUNCTION_LINES_MAX - 1), [3]);
        assert!(function(FUNCTION_LINES_MAX - 2).is_empty());
    }

    #[test]
    fn migrations_are_listed_in_order() {
        let files = ["0001_a.sql".to_owned(), "0002_b.sql".to_owned()];
        let line = |file: &str| format!("include_str!(\"../../../migrations/sqlite/{file}\"),\n");
        let listed = line("0001_a.sql") + &line("0002_b.sql");
        assert!(migrations(&files, &listed).is_empty());
        assert_eq!(migrations(&files, &line("0001_a.sql")).len(), 1);
        assert_eq!(migrations(&files, &(line("0002_b.sql") + &line("0001_a.sql"))).len(), 1);
    }
}
