//! What a configuration that is read again may change in a running instance. Which settings can
//! is said by the one table of settings, so nothing else has to know.

use super::Config;
use super::key::{KEYS, Reload};

/// The outcome of reading a configuration again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What holds from now on: the old one with the new one's live settings.
    pub config: Config,
    /// Live settings that differ, as `section.key`.
    pub applied: Vec<String>,
    /// Settings that differ and wait for a restart.
    pub waiting: Vec<String>,
}

impl Config {
    /// Takes from `new` what can change now. Settings that are checked against one another are live
    /// all or none, so the mixture is as valid as `new`.
    pub(crate) fn change_to(&self, new: &Self) -> Change {
        let (mut old, mut new) = (self.clone(), new.clone());
        let mut change = Change { config: self.clone(), applied: vec![], waiting: vec![] };
        for key in KEYS {
            if (key.field)(&mut old).render() == (key.field)(&mut new).render() {
                continue;
            }
            match key.reload {
                Reload::Live => {
                    (key.copy)(&mut change.config, &new);
                    change.applied.push(key.path());
                }
                Reload::Restart => change.waiting.push(key.path()),
            }
        }
        change
    }
}
