//! What the documents name is there: a test, a function, a setting or a metric that has been
//! renamed, and a file that has moved, must not live on in prose.

use crate::Finding;
use crate::source::Source;
use std::collections::HashSet;
use std::path::Path;

/// What tells of the past (CHANGELOG.md, tuning.md) is left alone. Folders: all in them.
const DOCUMENTS: &[&str] = &["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md", "docs"];
const FOLDERS: &[&str] = &["benches/", "docs/", "migrations/", "perf/", "shard/", "src/", "tests/"];

/// Names of the documents that no source has, and paths where nothing is.
pub fn rules(root: &Path, sources: &[Source]) -> Vec<Finding> {
    let words: HashSet<&str> = sources.iter().flat_map(|source| words_of(&source.text)).collect();
    let mut found = Vec::new();
    for path in DOCUMENTS.iter().flat_map(|name| files(root, name)) {
        let text = std::fs::read_to_string(root.join(&path)).unwrap_or_default();
        found.extend(stale(&path, &text, &words, |file| root.join(file).exists()));
    }
    found
}

fn files(root: &Path, name: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(root.join(name)) else { return vec![name.to_owned()] };
    let inside = entries.flatten().map(|entry| entry.file_name());
    inside.map(|file| format!("{name}/{}", file.to_string_lossy())).collect()
}

fn stale(
    path: &str,
    text: &str,
    words: &HashSet<&str>,
    is_there: impl Fn(&str) -> bool,
) -> Vec<Finding> {
    let quoted = text
        .lines()
        .enumerate()
        .flat_map(|(at, line)| line.split('`').skip(1).step_by(2).map(move |name| (at + 1, name)));
    let is_gone = |name: &str| {
        let is_name = words_of(name).eq([name]) && name.matches('_').count() >= 2;
        let is_path = FOLDERS.iter().any(|folder| name.starts_with(folder))
            && !name.contains([' ', '*', '<', '…']);
        is_name && !words.contains(name) || is_path && !is_there(name)
    };
    quoted
        .filter(|(_, name)| is_gone(name))
        .map(|(line, name)| Finding {
            path: path.to_owned(),
            line,
            remedy: format!("names `{name}`, which is not there (any more): say what is"),
        })
        .collect()
}

fn words_of(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| !word.is_empty())
}

mod bites {
    use super::*;

    #[test]
    fn what_is_named_has_to_be_there() {
        let words = HashSet::from(["a_test_that_is", "is_there"]);
        let text = "`a_test_that_is`\n`a_test_that_was`, `not_checked`\n\
                    `src/a.rs` and `src/b.rs`\n`src/<any>.rs` `an a_test_that_was`\n";
        let found = stale("docs/a.md", text, &words, |file| file == "src/a.rs");
        let told: Vec<String> = found.iter().map(Finding::to_string).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("docs/a.md:2: names `a_test_that_was`"), "{told:?}");
        assert!(told[1].starts_with("docs/a.md:3: names `src/b.rs`"), "{told:?}");
    }
}
