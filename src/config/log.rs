//! `[log]`: what the program says about itself. A level is checked when it is read: the log must
//! never fall silent over a typing error.

use std::fmt;
use std::str::FromStr;
use tracing_subscriber::EnvFilter;

/// `[log]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// What is said.
    pub level: LogLevel,
    /// How.
    pub format: LogFormat,
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For collectors.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("\"text\" or \"json\"".to_string()),
        }
    }
}

/// A level for all parts of the program, or by part, as [`EnvFilter`] reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevel(String);

impl LogLevel {
    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The filter that it stands for.
    pub fn filter(&self) -> EnvFilter {
        EnvFilter::new(&self.0)
    }
}

impl Default for LogLevel {
    fn default() -> Self {
        Self("info".to_string())
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for LogLevel {
    type Err = String;

    /// Stricter than [`EnvFilter`], which takes a mistyped level for a part of the program.
    fn from_str(text: &str) -> Result<Self, String> {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        let is_level = |directive: &str| {
            let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
            LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level))
        };
        if !text.split(',').all(is_level) || EnvFilter::try_new(text).is_err() {
            return Err("error, warn, info, debug, trace or off, or such by part: \
                        \"warn,tollgate::writer=debug\""
                .to_string());
        }
        Ok(Self(text.to_string()))
    }
}
