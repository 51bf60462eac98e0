//! `tollgate.example.toml`, written from the table of settings and the defaults.

use super::Config;
use super::key::{KEYS, Reload, SettingKey, TABLES};

const HEAD: &str = "\
# Every setting of Tollgate with its default: what is left out is as it stands here.
# Each is also an environment variable, TOLLGATE_SECTION__KEY, which wins over the file:
# TOLLGATE_SERVER__LISTEN=0.0.0.0:3000. Validate with `tollgate check --config FILE`.
# SIGHUP reads both again and applies what changed, but for settings marked (restart).
# Written by `tollgate check --example`.
";

/// The text of the example file: every setting with its default and its meaning.
pub fn example() -> String {
    let mut config = Config::default();
    let mut out = HEAD.to_string();
    for (table, about) in TABLES {
        out.push_str(&format!("\n# {about}\n[{table}]\n"));
        for key in KEYS.iter().filter(|key| key.table == *table) {
            push_key(&mut out, key, &mut config);
        }
    }
    out
}

fn push_key(out: &mut String, key: &SettingKey, config: &mut Config) {
    let mark = match key.reload {
        Reload::Live => "",
        Reload::Restart => " (restart)",
    };
    for line in format!("{}{mark}", key.doc).lines() {
        out.push_str(&format!("# {line}\n"));
    }
    match (key.field)(config).render() {
        Some(value) => out.push_str(&format!("{} = {value}\n", key.name)),
        None => out.push_str(&format!("# {} = \"…\"\n", key.name)),
    }
}
