//! Reads the file and the environment against the table of settings, and reports all that is
//! wrong with either. A value that may carry a secret is never repeated in a report.

use super::field::{Given, quoted, without_password};
use super::key::{KEYS, SettingKey, TABLES};
use super::problem::{ConfigErrors, Problem};
use super::{AuthorityUrl, Config, Secrets, Server, StoreUrl, UsageConfig};
use super::{DIGEST_KEY_FILE, ENCRYPTION_KEY_FILE, read_key};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read as _;
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A configuration is a few kilobytes; whatever is longer is not one.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Problems reported at most, so that a wrong file does not fill the screen.
const PROBLEMS_MAX: usize = 50;

/// The file's text.
pub(super) fn read_file(path: &Path) -> Result<String, ConfigErrors> {
    let failed = |message: String| {
        ConfigErrors(vec![Problem { source: path.display().to_string(), at: None, message }])
    };
    let file = std::fs::File::open(path).map_err(|error| failed(format!("not read: {error}")))?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| failed(format!("not read: {error}")))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(failed("longer than 1 MiB: not a configuration".to_string()));
    }
    Ok(text)
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ConfigRead {
    /// The defaults, under the file, under the variables.
    pub config: Config,
    /// Where each setting was given, by its place in [`KEYS`].
    pub origins: BTreeMap<usize, String>,
}

/// The defaults, under the file, under the variables.
pub(super) fn merge(
    file: Option<(&Path, &str)>,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<ConfigRead, ConfigErrors> {
    let read = ConfigRead { config: Config::default(), origins: BTreeMap::new() };
    let mut reading = ConfigReader { read, problems: Vec::new() };
    if let Some((path, text)) = file {
        ParsedFile { path: path.display().to_string(), text, reading: &mut reading }.read();
    }
    let mut variables: Vec<_> = variables.collect();
    variables.sort();
    for (name, value) in variables {
        reading.take_variable(&name.to_string_lossy(), &value);
    }
    if reading.problems.is_empty() {
        reading.check_together(file.map(|(path, _)| path));
    }
    if reading.problems.is_empty() {
        return Ok(reading.read);
    }
    reading.problems.truncate(PROBLEMS_MAX);
    Err(ConfigErrors(reading.problems))
}

struct ConfigReader {
    read: ConfigRead,
    problems: Vec<Problem>,
}

impl ConfigReader {
    fn take_variable(&mut self, name: &str, value: &OsString) {
        // Names without a double underscore are other programs' or the command line's.
        if !name.starts_with("TOLLGATE_") || !name.contains("__") {
            return;
        }
        let message = match KEYS.iter().position(|key| key.variable() == name) {
            None => unknown_variable(name),
            Some(at) => match value.to_str() {
                None => format!("{}: found bytes that are not UTF-8", KEYS[at].path()),
                Some(text) => {
                    let origin = name.to_string();
                    match self.assign(at, &Given::Variable(text), quoted(text), origin) {
                        Ok(()) => return,
                        Err(message) => message,
                    }
                }
            },
        };
        self.problems.push(Problem { source: name.to_string(), at: None, message });
    }

    /// Takes a value for `KEYS[at]` that was given at `origin`.
    fn assign(
        &mut self,
        at: usize,
        given: &Given<'_>,
        found: String,
        origin: String,
    ) -> Result<(), String> {
        let key = &KEYS[at];
        let field = (key.field)(&mut self.read.config);
        field.assign(given, key.range).map_err(|allowed| {
            let found = if key.secret { "a value (not shown)" } else { &shown(&found) };
            format!("{}: found {found}, allowed: {allowed}", key.path())
        })?;
        self.read.origins.insert(at, origin);
        Ok(())
    }

    /// Checks settings against one another. Each is good by itself by then.
    fn check_together(&mut self, path: Option<&Path>) {
        let Config { server, usage, .. } = &self.read.config;
        let Server { listen, admin_listen, max_uri_bytes, max_head_bytes, .. } = server;
        let UsageConfig { segment_bytes, journal_max_bytes, .. } = usage;
        let same_ip = listen.ip() == admin_listen.ip()
            || listen.ip().is_unspecified()
            || admin_listen.ip().is_unspecified();
        let mut messages = Vec::new();
        if listen.port() != 0 && listen.port() == admin_listen.port() && same_ip {
            messages.push(format!(
                "server.admin_listen: found \"{admin_listen}\", allowed: another port than \
                 server.listen (\"{listen}\")"
            ));
        }
        if max_uri_bytes > max_head_bytes {
            messages.push(format!(
                "server.max_uri_bytes: found {max_uri_bytes}, allowed: no more than \
                 server.max_head_bytes ({max_head_bytes})"
            ));
        }
        if segment_bytes.saturating_mul(2) > *journal_max_bytes {
            messages.push(format!(
                "usage.journal_max_bytes: found {journal_max_bytes}, allowed: at least two \
                 segments (usage.segment_bytes is {segment_bytes})"
            ));
        }
        messages.extend(two_ledgers(&self.read.config));
        messages.extend(replica_of_nothing(&self.read.config));
        messages.extend(unusable_keys(&self.read.config));
        let source = path.map_or("configuration".to_string(), |path| path.display().to_string());
        self.problems.extend(messages.into_iter().map(|message| Problem {
            source: source.clone(),
            at: None,
            message,
        }));
    }
}

/// What is wrong with the keys that the first start made in `data_dir`; missing ones will be made.
fn unusable_keys(config: &Config) -> Vec<String> {
    let Secrets { digest_key_file, encryption_key_file } = &config.secrets;
    [(digest_key_file, DIGEST_KEY_FILE), (encryption_key_file, ENCRYPTION_KEY_FILE)]
        .into_iter()
        .filter(|(configured, _)| configured.is_none())
        .map(|(_, name)| config.server.data_dir.join(name))
        .filter(|path| path.is_file())
        .filter_map(|path| read_key(&path).err())
        .collect()
}

struct ParsedFile<'a> {
    path: String,
    text: &'a str,
    reading: &'a mut ConfigReader,
}

impl ParsedFile<'_> {
    fn read(&mut self) {
        let (document, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let at = error.span().map_or(0, |span| span.start);
            self.report(at, error.message().replace('\n', ", "));
        }
        for (name, value) in document.get_ref().iter() {
            self.read_table(name.get_ref(), name.span().start, value);
        }
        // What could not be read is reported once, not also for what it seems to say.
        let spoilt: Vec<Range<usize>> = errors
            .iter()
            .map(|error| spoilt_by(self.text, error.span().map_or(0, |span| span.start)))
            .collect();
        let is_spoilt = |line: usize| spoilt.iter().any(|lines| lines.contains(&line));
        let mut index = 0;
        self.reading.problems.retain(|problem| {
            index += 1;
            index <= spoilt.len() || problem.at.is_none_or(|(line, _)| !is_spoilt(line))
        });
        self.reading.problems.sort_by_key(|problem| problem.at);
    }

    fn read_table(&mut self, table: &str, at: usize, value: &Spanned<DeValue<'_>>) {
        if !TABLES.iter().any(|(known, _)| *known == table) {
            return self.report(at, unknown_table(table));
        }
        let DeValue::Table(entries) = value.get_ref() else {
            let found = found(self.text, value).1;
            return self.report(at, format!("{table}: found {found}, allowed: a table, [{table}]"));
        };
        for (name, value) in entries.iter() {
            let is_it = |key: &SettingKey| key.table == table && key.name == name.get_ref();
            let Some(key) = KEYS.iter().position(is_it) else {
                self.report(name.span().start, unknown_key(table, name.get_ref()));
                continue;
            };
            let (given, found) = found(self.text, value);
            let origin = format!("{}:{}", self.path, place(self.text, value.span().start).0);
            if let Err(message) = self.reading.assign(key, &given, found, origin) {
                self.report(value.span().start, message);
            }
        }
    }

    fn report(&mut self, offset: usize, message: String) {
        let at = Some(place(self.text, offset));
        self.reading.problems.push(Problem { source: self.path.clone(), at, message });
    }
}

/// The value for a field, and the value for a report.
fn found<'a>(text: &str, value: &'a Spanned<DeValue<'_>>) -> (Given<'a>, String) {
    let as_written = || text.get(value.span()).unwrap_or_default().to_string();
    match value.get_ref() {
        DeValue::String(text) => (Given::Text(text), quoted(text)),
        DeValue::Integer(number) => {
            let value = i128::from_str_radix(number.as_str(), number.radix()).ok();
            (Given::Integer(value), as_written())
        }
        DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {
            (Given::Other, as_written())
        }
        DeValue::Array(items) => {
            let texts = items.iter().map(|item| match item.get_ref() {
                DeValue::String(text) => Some(&**text),
                _ => None,
            });
            let given = texts.collect::<Option<_>>().map_or(Given::Other, Given::List);
            (given, "an array".to_string())
        }
        DeValue::Table(_) => (Given::Other, "a table".to_string()),
    }
}

/// The lines that mean nothing because the one at `offset` could not be read: itself, and the rest
/// of its table where it should have begun one.
fn spoilt_by(text: &str, offset: usize) -> Range<usize> {
    let (first, _) = place(text, offset);
    let begins_table = |line: &&str| line.trim_start().starts_with('[');
    let mut lines = text.lines().skip(first - 1);
    let bad = lines.next().is_some_and(|line| begins_table(&line));
    let more = if bad { lines.take_while(|line| !begins_table(line)).count() } else { 0 };
    first..first + 1 + more
}

/// Line and column of a byte, from 1.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// What may be shown of a value that was found: without a password, and cut to a line.
fn shown(found: &str) -> String {
    let shown = without_password(found);
    match shown.char_indices().nth(80) {
        Some((cut, _)) => format!("{}…", &shown[..cut]),
        None => shown,
    }
}

/// What many instances share must not be counted by a ledger of one of them.
fn two_ledgers(config: &Config) -> Option<String> {
    let shares_limits = config.authority_url != AuthorityUrl::Embedded;
    (shares_limits && config.store.url == StoreUrl::Embedded).then(|| {
        format!(
            "authority.url: found \"{}\", allowed: \"embedded\" while store.url is \"embedded\": \
             each instance would have a ledger of its own, and all of them one limit",
            config.authority_url.shown()
        )
    })
}

/// A replica is a server's.
fn replica_of_nothing(config: &Config) -> Option<String> {
    (config.store.read_url.is_some() && config.store.url == StoreUrl::Embedded).then(|| {
        "store.read_url: found a server, allowed: none while store.url is \"embedded\"".to_owned()
    })
}

fn unknown_table(table: &str) -> String {
    let tables = TABLES.iter().map(|(known, _)| *known);
    let elsewhere = KEYS.iter().find(|key| key.name == table);
    let hint = match (nearest(table, tables.clone()), elsewhere) {
        (_, Some(key)) => format!(" (it belongs in [{}])", key.table),
        (Some(near), None) => format!(" (did you mean [{near}]?)"),
        (None, None) => String::new(),
    };
    format!("{table}: no such table{hint}; allowed: {}", tables.collect::<Vec<_>>().join(", "))
}

fn unknown_key(table: &str, name: &str) -> String {
    let names = KEYS.iter().filter(|key| key.table == table).map(|key| key.name);
    let elsewhere = KEYS.iter().find(|key| key.name == name);
    let hint = match (elsewhere, nearest(name, names.clone())) {
        (Some(key), _) => format!(" (it belongs in [{}])", key.table),
        (None, Some(near)) => format!(" (did you mean {near}?)"),
        (None, None) => String::new(),
    };
    let allowed = names.collect::<Vec<_>>().join(", ");
    format!("{table}.{name}: no such key{hint}; allowed in [{table}]: {allowed}")
}

fn unknown_variable(name: &str) -> String {
    let variables: Vec<String> = KEYS.iter().map(SettingKey::variable).collect();
    match nearest(name, variables.iter().map(String::as_str)) {
        Some(near) => format!("no such setting (did you mean {near}?)"),
        None => "no such setting; `tollgate check --example` lists them all".to_string(),
    }
}

/// The known name that a typing error or two would turn into `name`.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let typos_max = (name.len() / 3).clamp(1, 3);
    known
        .map(|known| {
            (strsim::damerau_levenshtein(&name.to_lowercase(), &known.to_lowercase()), known)
        })
        .filter(|(typos, _)| *typos <= typos_max)
        .min_by_key(|(typos, _)| *typos)
        .map(|(_, known)| known)
}
