//! Where files stand, so that they are found without a search: a module with children is
//! `x/mod.rs`, no folder holds a single file, and long unit tests stand beside what they test.

use crate::source::Source;
use crate::{Finding, finding};
use std::collections::{BTreeMap, BTreeSet};

/// Files that stand in the wrong place.
pub fn rules(sources: &[Source]) -> Vec<Finding> {
    let paths: BTreeSet<&str> = sources.iter().map(|source| source.path.as_str()).collect();
    let mut entries: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for path in &paths {
        for (at, _) in path.match_indices('/') {
            let entry = path[at + 1..].split('/').next().unwrap_or_default();
            entries.entry(&path[..at]).or_default().insert(entry);
        }
    }
    let product = sources.iter().filter(|source| {
        ["src/", "shard/src/", "perf/src/"].iter().any(|folder| source.path.starts_with(folder))
    });
    let mut found = Vec::new();
    for source in product {
        let path = source.path.as_str();
        let (folder, name) = path.rsplit_once('/').unwrap_or_default();
        let stem = name.trim_end_matches(".rs");
        if entries[folder].len() == 1 {
            found.push(finding(source, 1, format!("alone in {folder}/: it needs no folder")));
        }
        if entries.contains_key(path.trim_end_matches(".rs")) {
            found.push(finding(source, 1, format!("{stem}/ is beside it: call it {stem}/mod.rs")));
        }
        if let Some(tested) = stem.strip_suffix("_tests")
            && !entries[folder].contains(format!("{tested}.rs").as_str())
        {
            let remedy = format!(
                "there is no {tested}.rs beside it: name tests after their file, or tests.rs for \
                 a folder as a whole"
            );
            found.push(finding(source, 1, remedy));
        }
    }
    found
}

/// Planted faults are refused, and what is as it should be is left alone.
mod bites {
    use super::*;

    #[test]
    fn a_file_has_its_place() {
        let found = |paths: &[&str]| {
            let sources: Vec<Source> = paths.iter().map(|path| Source::new(path, "")).collect();
            rules(&sources).iter().map(|it| it.path.clone()).collect::<Vec<_>>()
        };
        let good =
            ["src/main.rs", "src/a/mod.rs", "src/a/b.rs", "src/a/b_tests.rs", "src/a/tests.rs"];
        assert!(found(&good).is_empty());
        assert_eq!(found(&["src/main.rs", "src/a/b_tests.rs", "src/a/c.rs"]), ["src/a/b_tests.rs"]);
        assert_eq!(found(&["src/main.rs", "src/a/mod.rs"]), ["src/a/mod.rs"]);
        assert_eq!(found(&["src/a.rs", "src/a/mod.rs", "src/a/b.rs"]), ["src/a.rs"]);
    }
}
