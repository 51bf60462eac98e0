//! A source file as the rules see it: its text, its code without comments and texts, its tokens,
//! and which lines are tests. A lexer of one screen, so that the rules need no parser.

use std::path::{Path, PathBuf};

/// A source file.
pub struct Source {
    /// Relative to the repository, with `/`.
    pub path: String,
    /// As it is.
    pub text: String,
    /// Its tokens, comments and the insides of literals left out.
    pub tokens: Vec<Token>,
    test_lines: Vec<(usize, usize)>,
}

/// One token: a word, `::`, or a single character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// From 1.
    pub line: usize,
    /// What it is.
    pub text: String,
}

impl Token {
    /// A name or a keyword.
    pub fn is_word(&self) -> bool {
        self.text.starts_with(|first: char| first.is_alphabetic() || first == '_')
    }
}

impl Source {
    /// Reads `text` as the file `path`.
    pub fn new(path: &str, text: &str) -> Self {
        let tokens = tokens(&code(text));
        let is_test_file = path.contains("tests/")
            || path.contains("/simulation/")
            || path.ends_with("/tests.rs")
            || path.ends_with("_tests.rs");
        let test_lines = if is_test_file { vec![(1, usize::MAX)] } else { test_modules(&tokens) };
        Self { path: path.to_owned(), text: text.to_owned(), tokens, test_lines }
    }

    /// Every `.rs` file of the product and its tests.
    pub fn all(root: &Path) -> Vec<Self> {
        let mut found = Vec::new();
        for folder in ["src", "shard", "tests", "benches", "perf"] {
            collect(&root.join(folder), &mut found);
        }
        found.sort();
        let read = |path: &PathBuf| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let relative = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
            Self::new(&relative, &text)
        };
        found.iter().map(read).collect()
    }

    /// `src/gateway/path.rs` is `gateway::path`.
    pub fn module(&self) -> Vec<String> {
        module_of(&self.path)
    }

    /// Is the line part of a test?
    pub fn is_test(&self, line: usize) -> bool {
        self.test_lines.iter().any(|(from, to)| (*from..=*to).contains(&line))
    }

    /// Every path that the code names, `use a::{b, c::d}` as `a::b` and `a::c::d`, with `self`,
    /// `super` and `crate` resolved to `crate::…`.
    pub fn paths(&self) -> Vec<(usize, Vec<String>)> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < self.tokens.len() {
            let begins = self.tokens[at].is_word()
                && (at == 0 || self.tokens[at - 1].text != "::")
                && self.tokens.get(at + 1).is_some_and(|next| next.text == "::");
            at = if begins { self.path_at(at, &[], &mut found) } else { at + 1 };
        }
        let module = module_of(&self.path);
        found.into_iter().map(|(line, path)| (line, resolved(path, &module))).collect()
    }

    fn path_at(
        &self,
        mut at: usize,
        prefix: &[String],
        found: &mut Vec<(usize, Vec<String>)>,
    ) -> usize {
        let mut path = prefix.to_vec();
        let line = self.tokens[at].line;
        loop {
            path.push(self.tokens[at].text.clone());
            at += 1;
            let next = |ahead: usize| self.tokens.get(at + ahead);
            if next(0).is_none_or(|token| token.text != "::") {
                break;
            }
            match next(1) {
                Some(token) if token.is_word() => at += 1,
                Some(token) if token.text == "{" => return self.group_at(at + 2, &path, found),
                _ => break,
            }
        }
        found.push((line, path));
        at
    }

    fn group_at(
        &self,
        mut at: usize,
        prefix: &[String],
        found: &mut Vec<(usize, Vec<String>)>,
    ) -> usize {
        while let Some(token) = self.tokens.get(at) {
            if token.text == "}" {
                return at + 1;
            }
            at = if token.is_word() { self.path_at(at, prefix, found) } else { at + 1 };
        }
        at
    }

    /// The token that closes the bracket at `open`.
    pub fn closing(&self, open: usize) -> usize {
        closing(&self.tokens, open)
    }
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn module_of(path: &str) -> Vec<String> {
    let inside = path.rsplit_once("src/").map_or(path, |(_, inside)| inside);
    let name = inside.trim_end_matches(".rs").trim_end_matches("/mod");
    name.split('/').filter(|part| !["lib", "main"].contains(part)).map(str::to_owned).collect()
}

fn resolved(path: Vec<String>, module: &[String]) -> Vec<String> {
    let ups = path.iter().take_while(|part| *part == "super").count();
    let mut whole = vec!["crate".to_owned()];
    match path[0].as_str() {
        "super" => {
            whole.extend_from_slice(&module[..module.len().saturating_sub(ups)]);
            whole.extend_from_slice(&path[ups..]);
        }
        "self" => {
            whole.extend_from_slice(module);
            whole.extend_from_slice(&path[1..]);
        }
        _ => return path,
    }
    whole
}

fn test_modules(tokens: &[Token]) -> Vec<(usize, usize)> {
    let words: Vec<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
    let mark = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
    let starts = words.windows(mark.len()).enumerate().filter(|(_, window)| *window == mark);
    starts
        .filter(|(at, _)| words.get(at + mark.len() + 1) == Some(&"{"))
        .map(|(at, _)| {
            let close = closing(tokens, at + mark.len() + 1);
            (tokens[at].line, tokens[close.min(tokens.len() - 1)].line)
        })
        .collect()
}

fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len()
}

fn tokens(code: &str) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
            let bytes = if is_word(first) {
                rest.find(|letter| !is_word(letter)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            if !first.is_whitespace() {
                tokens.push(Token { line: number + 1, text: rest[..bytes].to_owned() });
            }
            rest = &rest[bytes..];
        }
    }
    tokens
}

/// The text with comments and the insides of literals blanked, line by line as it was.
fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment_bytes(rest),
            '"' => text_bytes(rest),
            'r' | 'b' | 'c' if !out.ends_with(|c: char| c.is_alphanumeric() || c == '_') => {
                prefixed_text_bytes(rest)
            }
            '\'' => char_bytes(rest),
            _ => 0,
        };
        if skipped > 0 {
            // A literal stays as something, so that what stands around it does not join.
            out.push_str(if first == '/' { " " } else { " 0 " });
            out.extend(rest[..skipped].chars().filter(|letter| *letter == '\n'));
            rest = &rest[skipped..];
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

fn block_comment_bytes(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    loop {
        let here = &rest[at..];
        if here.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if here.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
        } else {
            at += here.chars().next().map_or(0, char::len_utf8);
        }
        if depth == 0 || at >= rest.len() {
            return at;
        }
    }
}

fn text_bytes(rest: &str) -> usize {
    let mut letters = rest.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return at + 1,
            '\\' => drop(letters.next()),
            _ => {}
        }
    }
    rest.len()
}

/// `b"…"`, `r#"…"#`, `br"…"`; 0 if it is a word.
fn prefixed_text_bytes(rest: &str) -> usize {
    let letters = rest.len() - rest.trim_start_matches(['r', 'b', 'c']).len();
    let after = &rest[letters..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    let is_raw = rest[..letters].contains('r');
    if letters > 2 || (hashes > 0 && !is_raw) {
        return 0;
    }
    match after[hashes..].chars().next() {
        Some('"') if is_raw => {
            let end = format!("\"{}", "#".repeat(hashes));
            let inside = letters + hashes + 1;
            rest[inside..].find(&end).map_or(rest.len(), |at| inside + at + end.len())
        }
        Some('"') => letters + text_bytes(after),
        Some('\'') if rest.starts_with("b'") => 1 + char_bytes(after),
        _ => 0,
    }
}

/// A character literal; 0 for a lifetime.
fn char_bytes(rest: &str) -> usize {
    let mut letters = rest.char_indices().skip(1);
    match letters.next() {
        Some((_, '\\')) => rest[3..].find('\'').map_or(rest.len(), |at| at + 4),
        Some(_) => match letters.next() {
            Some((at, '\'')) => at + 1,
            _ => 0,
        },
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        Source::new("src/a/b.rs", text).tokens.into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_and_texts_are_no_code() {
        let text =
            "a // b\n/* c /* d */ e */ f \"g \\\" h\" r#\"i \" j\"# b\"k\" 'l' '\\'' '\\u{7}' m";
        assert_eq!(words(text), ["a", "f", "0", "0", "0", "0", "0", "0", "m"]);
        assert_eq!(words("fn x<'a>(b: &'a str) {}").len(), 16);
        assert_eq!(words("\"\" a"), ["0", "a"]);
        assert_eq!(words("br b r0 b'x' bar\"y\""), ["br", "b", "r0", "0", "bar", "0"]);
        let source = Source::new("src/a.rs", "\"two\nlines\" /* and\ntwo */ here");
        assert_eq!(source.tokens.last().map(|token| token.line), Some(3));
    }

    #[test]
    fn paths_are_resolved() {
        let text = "use a::{b, c::{d, e as f}};\nuse super::x; super::super::y::z(); crate::q::r;";
        let paths: Vec<String> = Source::new("src/gateway/path.rs", text)
            .paths()
            .into_iter()
            .map(|(line, path)| format!("{line} {}", path.join("::")))
            .collect();
        for expected in ["1 a::b", "1 a::c::d", "1 a::c::e", "2 crate::gateway::x"] {
            assert!(paths.iter().any(|path| path == expected), "{expected} in {paths:?}");
        }
        assert!(paths.contains(&"2 crate::y::z".to_owned()), "{paths:?}");
        assert!(paths.contains(&"2 crate::q::r".to_owned()), "{paths:?}");
        let module = Source::new("src/gateway/mod.rs", "super::control::x();");
        assert_eq!(module.paths()[0].1.join("::"), "crate::control::x");
    }

    #[test]
    fn test_modules_are_known() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() {}\n}\nfn c() {}\n";
        let source = Source::new("src/a.rs", text);
        let tests: Vec<bool> = (1..=6).map(|line| source.is_test(line)).collect();
        assert_eq!(tests, [false, true, true, true, true, false]);
        assert!(Source::new("src/x/tests.rs", text).is_test(1));
        assert!(Source::new("tests/e2e/main.rs", text).is_test(1));
    }
}
