//! Which module names which, and that none names itself by way of others: what stands in a circle
//! can be neither read nor changed by itself. Stages of a call know nothing of one another either;
//! `gateway/path.rs` alone goes on from one to the next.
//!
//! The modules inside of one module are looked at side by side, each with all that is inside of it.
//! A module and what is inside of it may name each other: that is no circle. A name leads to the
//! file that has it: one that is only passed on (`pub use`) is followed. Tests may name what they
//! like.

use crate::source::Source;
use crate::{Finding, finding};
use std::collections::BTreeMap;

/// Circles that are to be undone: without these edges there are none. The list can only shrink,
/// since an edge that closes no circle any more has to be struck.
const KNOWN_CIRCLES: &[(&str, &str)] = &[];

/// The stages of a call: modules of `gateway`.
const STAGES: &[&str] = &["local", "meter", "relay", "resolve"];
/// Who goes on from stage to stage.
const PATH: &str = "gateway::path";
/// Names of stages outside of `path` that are to be undone. This list too can only shrink.
const KNOWN_STAGES: &[(&str, &str)] = &[];

/// From module to module, with the place that names it first.
pub struct Graph<'a>(BTreeMap<String, BTreeMap<String, (&'a Source, usize)>>);

impl<'a> Graph<'a> {
    /// The graph of all that is no test.
    pub fn new(all: &'a [Source]) -> Self {
        let crates = ["src/", "shard/src/"];
        let is_product = |source: &&Source| {
            crates.iter().any(|it| source.path.starts_with(it)) && !source.is_test(1)
        };
        let sources: Vec<&Source> = all.iter().filter(is_product).collect();
        let places: Vec<Vec<String>> = sources.iter().map(|source| module(source)).collect();
        let modules: BTreeMap<Vec<String>, usize> = places.iter().cloned().zip(0..).collect();
        let paths = sources.iter().map(|source| paths(source, &modules)).collect();
        let names = Names { paths, modules };
        let mut edges: BTreeMap<String, BTreeMap<String, (&Source, usize)>> = BTreeMap::new();
        for (from, paths) in names.paths.iter().enumerate() {
            for (line, path) in paths {
                let Some(to) = names.home(path, 0) else { continue };
                let Some((from_module, to)) = side_by_side(&places[from], &places[to]) else {
                    continue;
                };
                let named = edges.entry(from_module).or_default();
                named.entry(to).or_insert((sources[from], *line));
            }
        }
        Self(edges)
    }

    fn has(&self, from: &str, to: &str) -> bool {
        self.0.get(from).is_some_and(|named| named.contains_key(to))
    }

    /// The modules on a shortest way from one to another, both included.
    fn way(&self, from: &str, to: &str, without: &[(&str, &str)]) -> Option<Vec<String>> {
        let mut ways = vec![vec![from.to_owned()]];
        let mut next = 0;
        while let Some(way) = ways.get(next).cloned() {
            next += 1;
            let at = way.last()?.as_str();
            if at == to {
                return Some(way);
            }
            for named in self.0.get(at).into_iter().flat_map(BTreeMap::keys) {
                let is_known = without.contains(&(at, named));
                if !is_known && !ways.iter().any(|way| way.last() == Some(named)) {
                    ways.push([way.as_slice(), std::slice::from_ref(named)].concat());
                }
            }
        }
        None
    }

    /// Circles that `known` does not break, and what it lists in vain. Only the shortest: one edge
    /// that leads back draws a circle around everything between.
    pub fn circles(&self, known: &[(&str, &str)]) -> Vec<Finding> {
        let mut closed = Vec::new();
        for (from, named) in &self.0 {
            for (to, (source, line)) in named {
                let way = self.way(to, from, known);
                let Some(way) = way.filter(|_| !known.contains(&(from, to))) else { continue };
                let remedy = format!(
                    "closes a circle: {from} → {}. Move what both need below both, or pass it in",
                    way.join(" → ")
                );
                closed.push((way.len(), finding(source, *line, remedy)));
            }
        }
        let shortest = closed.iter().map(|(len, _)| *len).min();
        closed.retain(|(len, _)| Some(*len) == shortest);
        let mut found: Vec<Finding> = closed.into_iter().map(|(_, finding)| finding).collect();
        for (from, to) in known {
            if !self.has(from, to) || self.way(to, from, &[]).is_none() {
                found.push(struck("KNOWN_CIRCLES", from, to));
            }
        }
        found
    }

    /// Who names a stage and is not `path`, and what `known` lists in vain.
    pub fn stages(&self, known: &[(&str, &str)]) -> Vec<Finding> {
        let mut found = Vec::new();
        for (from, named) in self.0.iter().filter(|(from, _)| *from != PATH) {
            let stages = named.iter().filter(|(to, _)| is_stage(to));
            for (to, (source, line)) in stages.filter(|(to, _)| !known.contains(&(from, to))) {
                let remedy = format!(
                    "names the stage `{to}`: only {PATH} goes from stage to stage. Take what it \
                     made as an argument; a type that stages share stands in call.rs"
                );
                found.push(finding(source, *line, remedy));
            }
        }
        let vain = known.iter().filter(|(from, to)| !self.has(from, to));
        found.extend(vain.map(|(from, to)| struck("KNOWN_STAGES", from, to)));
        found
    }
}

fn struck(list: &str, from: &str, to: &str) -> Finding {
    let remedy = format!("`{from}` → `{to}` is not there any more: strike it from {list}");
    Finding { path: "tests/tidy/circles.rs".to_owned(), line: 1, remedy }
}

/// What is wrong with the sources as a whole.
pub fn rules(sources: &[Source]) -> Vec<Finding> {
    let graph = Graph::new(sources);
    let mut found = graph.circles(KNOWN_CIRCLES);
    found.extend(graph.stages(KNOWN_STAGES));
    let stages = STAGES.iter().map(|stage| format!("gateway::{stage}"));
    let gone = stages.filter(|stage| !graph.0.contains_key(stage));
    found.extend(gone.map(|stage| struck("STAGES", PATH, &stage)));
    found
}

fn is_stage(module: &str) -> bool {
    module.strip_prefix("gateway::").is_some_and(|name| STAGES.contains(&name))
}

/// A file's module, the crate first.
fn module(source: &Source) -> Vec<String> {
    let folder = if source.path.starts_with("shard/") { "shard" } else { "crate" };
    let mut module = source.module();
    // Two files can't be the root.
    if source.path.ends_with("/main.rs") {
        module.push("main".to_owned());
    }
    module.insert(0, folder.to_owned());
    module
}

/// The modules of one module that two files are inside of; `None` if they are the same, or one
/// file is the module that the other is inside of.
fn side_by_side(from: &[String], to: &[String]) -> Option<(String, String)> {
    let shared = from.iter().zip(to).take_while(|(from, to)| from == to).count();
    if shared == 0 || shared == from.len() || shared == to.len() {
        return None;
    }
    let name = |module: &[String]| module[..=shared].join("::").replacen("crate::", "", 1);
    Some((name(from), name(to)))
}

/// The paths that a file names outside of its tests, each from its crate's root.
fn paths(source: &Source, modules: &BTreeMap<Vec<String>, usize>) -> Vec<(usize, Vec<String>)> {
    let own = module(source);
    let named = source.paths().into_iter().filter(|(line, _)| !source.is_test(*line));
    named
        .filter_map(|(line, mut path)| {
            match path[0].as_str() {
                "crate" => path[0].clone_from(&own[0]),
                "tollgate" => "crate".clone_into(&mut path[0]),
                "shard" => {}
                child => {
                    // What begins with a child's name leads there; all else leads out.
                    let mut inside = own.clone();
                    inside.push(child.to_owned());
                    modules.get(&inside)?;
                    path.splice(0..0, own.iter().cloned());
                }
            }
            Some((line, path))
        })
        .collect()
}

/// What the files name, and where the modules are.
struct Names {
    paths: Vec<Vec<(usize, Vec<String>)>>,
    modules: BTreeMap<Vec<String>, usize>,
}

impl Names {
    /// The file that has what a path leads to. A name that a file has from another one is looked
    /// for there.
    fn home(&self, path: &[String], steps: usize) -> Option<usize> {
        const STEPS_MAX: usize = 8;
        let known = (1..=path.len()).rev();
        let (len, file) =
            known.filter_map(|len| Some((len, *self.modules.get(&path[..len])?))).next()?;
        let passed_on = path.get(len).and_then(|name| {
            let mut ways = self.paths[file].iter().map(|(_, way)| way);
            ways.find(|way| way.last() == Some(name) && way.as_slice() != path)
        });
        match passed_on.filter(|_| steps < STEPS_MAX) {
            Some(way) => self.home(way, steps + 1),
            None => Some(file),
        }
    }
}

/// Planted faults are refused, and what is as it should be is left alone.
mod bites {
    use super::*;

    fn sources(files: &[(&str, &str)]) -> Vec<Source> {
        files.iter().map(|(path, text)| Source::new(path, text)).collect()
    }

    fn told(found: Vec<Finding>) -> Vec<String> {
        found.iter().map(|finding| format!("{}:{}", finding.path, finding.line)).collect()
    }

    #[test]
    fn a_way_back_is_refused() {
        let planted = sources(&[
            ("src/gateway/path.rs", "use super::park::Spot;"),
            ("src/gateway/park.rs", "//! x\n\nfn a() { super::path::request(); }"),
        ]);
        let graph = Graph::new(&planted);
        assert_eq!(told(graph.circles(&[])), ["src/gateway/park.rs:3", "src/gateway/path.rs:1"]);
        let known = ("gateway::park", "gateway::path");
        assert!(graph.circles(&[known]).is_empty());
        let straight = sources(&[
            ("src/gateway/path.rs", "use super::park::Spot;"),
            ("src/gateway/park.rs", "#[cfg(test)]\nmod tests {\nuse crate::gateway::path;\n}"),
        ]);
        let graph = Graph::new(&straight);
        assert!(graph.circles(&[]).is_empty());
        assert_eq!(told(graph.circles(&[known])), ["tests/tidy/circles.rs:1"], "it is undone");
    }

    #[test]
    fn a_circle_of_three_is_seen_whatever_way_it_is_named() {
        let planted = sources(&[
            ("src/a.rs", "use crate::b::B;"),
            ("src/b/mod.rs", "mod inner;\npub use inner::B;"),
            ("src/b/inner.rs", "use super::X;\nfn x() { crate::c::y() }"),
            ("src/c.rs", "use crate::{a as first, d};"),
            ("src/d.rs", "use crate::b::B;"),
        ]);
        let circles = told(Graph::new(&planted).circles(&[]));
        let all = ["src/a.rs:1", "src/b/inner.rs:2", "src/c.rs:1", "src/c.rs:1", "src/d.rs:1"];
        assert_eq!(circles, all);
        let shard = sources(&[
            ("shard/src/lib.rs", "mod quota;\nuse quota::Quotas;"),
            ("shard/src/quota.rs", "use crate::pool::A;"),
            ("shard/src/pool.rs", "use crate::Quotas;\nuse self::rate::R;"),
            ("shard/src/pool/rate.rs", "use super::B;"),
            ("src/quota.rs", "use shard::quota::A;"),
        ]);
        let circles = told(Graph::new(&shard).circles(&[]));
        assert_eq!(circles, ["shard/src/pool.rs:1", "shard/src/quota.rs:1"]);
    }

    #[test]
    fn stages_know_nothing_of_one_another() {
        let planted = sources(&[
            ("src/gateway/path.rs", "use super::{meter, relay};"),
            ("src/gateway/relay.rs", "use super::meter::count;\nuse super::call;"),
            ("src/gateway/meter.rs", ""),
            ("src/gateway/local/mod.rs", "use self::models::List;"),
            ("src/gateway/local/models.rs", ""),
            ("src/gateway/call.rs", "use super::local::Fault;"),
        ]);
        let graph = Graph::new(&planted);
        assert_eq!(told(graph.stages(&[])), ["src/gateway/call.rs:1", "src/gateway/relay.rs:1"]);
        let known = ("gateway::relay", "gateway::meter");
        let undone = ("gateway::meter", "gateway::relay");
        let found = told(graph.stages(&[known, undone]));
        assert_eq!(found, ["src/gateway/call.rs:1", "tests/tidy/circles.rs:1"]);
    }
}
