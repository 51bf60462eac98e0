//! How a value of each type is read from the file or the environment, and written into the
//! example. A refusal is the text of what is allowed.

use super::{Durability, Hosts, LogFormat, LogLevel, Shards};
use shard::catalog::WhenLost;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A value as it was given.
#[derive(Clone, Debug)]
pub(super) enum Given<'a> {
    /// A string of the file.
    Text(&'a str),
    /// An integer of the file; `None`: too large for any setting.
    Integer(Option<i128>),
    /// A list of strings of the file.
    List(Vec<&'a str>),
    /// An environment variable's text, for any type; a list is written as in the file.
    Variable(&'a str),
    /// A type that no setting has.
    Other,
}

impl Given<'_> {
    /// A string.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Variable(text) => Some(text),
            Self::Integer(_) | Self::List(_) | Self::Other => None,
        }
    }

    fn list(&self) -> Option<Vec<&str>> {
        match self {
            Self::List(items) => Some(items.clone()),
            Self::Variable(text) => {
                let inside = text.trim().strip_prefix('[')?.strip_suffix(']')?.trim();
                let items = inside.strip_suffix(',').unwrap_or(inside);
                items.split(',').filter(|_| !items.is_empty()).map(quoted_text).collect()
            }
            Self::Text(_) | Self::Integer(_) | Self::Other => None,
        }
    }

    fn integer(&self) -> Option<i128> {
        match self {
            Self::Integer(value) => *value,
            Self::Variable(text) => text.replace('_', "").parse().ok(),
            Self::Text(_) | Self::List(_) | Self::Other => None,
        }
    }
}

/// What stands between quotes.
fn quoted_text(text: &str) -> Option<&str> {
    text.trim().strip_prefix('"')?.strip_suffix('"')
}

/// A shorter bearer token could be guessed, wherever it comes from.
pub const TOKEN_CHARS_MIN: usize = 16;

/// The bounds of an integer, inclusive; other types ignore it.
pub(super) type Range = (u64, u64);

/// A setting's place in the configuration.
pub(super) trait Field {
    /// Takes the value, or says what is allowed.
    fn assign(&mut self, given: &Given<'_>, range: Range) -> Result<(), String>;
    /// The value as TOML; `None`: it is not set.
    fn render(&self) -> Option<String>;
}

macro_rules! integer_field {
    ($($type:ty),*) => {$(
        impl Field for $type {
            fn assign(&mut self, given: &Given<'_>, (min, max): Range) -> Result<(), String> {
                let allowed = || format!("an integer from {min} to {max}");
                let value = given.integer().ok_or_else(allowed)?;
                if !(i128::from(min)..=i128::from(max)).contains(&value) {
                    return Err(allowed());
                }
                *self = Self::try_from(value).map_err(|_| allowed())?;
                Ok(())
            }

            fn render(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )*};
}
integer_field!(u32, u64, usize);

impl Field for SocketAddr {
    fn assign(&mut self, given: &Given<'_>, _: Range) -> Result<(), String> {
        *self = given
            .text()
            .and_then(|text| text.parse().ok())
            .ok_or("an IP address with a port, such as \"127.0.0.1:3000\" or \"[::]:3000\"")?;
        Ok(())
    }

    fn render(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}

impl Field for PathBuf {
    fn assign(&mut self, given: &Given<'_>, _: Range) -> Result<(), String> {
        let usable = |text: &&str| !text.is_empty() && !text.contains('\0');
        *self = given.text().filter(usable).ok_or("a path, such as \"./tollgate-data\"")?.into();
        Ok(())
    }

    fn render(&self) -> Option<String> {
        Some(quoted(&self.to_string_lossy()))
    }
}

impl Field for Hosts {
    fn assign(&mut self, given: &Given<'_>, _: Range) -> Result<(), String> {
        let is_name = |name: &&str| {
            let is_in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            (1..=253).contains(&name.len()) && name.bytes().all(is_in_name)
        };
        let names = given
            .list()
            .filter(|names| names.iter().all(is_name))
            .ok_or("a list of host names without ports, such as [\"admin.example.com\"]")?;
        self.0 = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        Ok(())
    }

    fn render(&self) -> Option<String> {
        let names: Vec<String> = self.0.iter().map(|name| quoted(name)).collect();
        Some(format!("[{}]", names.join(", ")))
    }
}

impl Field for Shards {
    fn assign(&mut self, given: &Given<'_>, (min, max): Range) -> Result<(), String> {
        if given.text() == Some("auto") {
            *self = Self::Auto;
            return Ok(());
        }
        let mut count = 0_u32;
        count
            .assign(given, (min, max.min(u64::from(u16::MAX))))
            .map_err(|allowed| format!("\"auto\" or {allowed}"))?;
        *self = u16::try_from(count).map_or(Self::Auto, Self::Exactly);
        Ok(())
    }

    fn render(&self) -> Option<String> {
        Some(match self {
            Self::Auto => quoted("auto"),
            Self::Exactly(count) => count.to_string(),
        })
    }
}

impl Field for Durability {
    fn assign(&mut self, given: &Given<'_>, _: Range) -> Result<(), String> {
        *self = match given.text() {
            Some("process") => Self::Process,
            Some("disk") => Self::Disk,
            _ => return Err("\"process\" or \"disk\"".to_string()),
        };
        Ok(())
    }

    fn render(&self) -> Option<String> {
        Some(quoted(match self {
            Self::Process => "process",
            Self::Disk => "disk",
        }))
    }
}

impl Field for WhenLost {
    fn assign(&mut self, given: &Given<'_>, _: Range) -> Result<(), String> {
        *self = match given.text() {
            Some("closed") => Self::Closed,
            Some("degraded") => Self::Degraded,
            Some("open") => Self::Open,
            _ => return Err("\"closed\", \"degraded\" or \"open\"".to_string()),
        };
        Ok(())
    }

    fn render(&self) -> Option<String> {
        Some(quoted(match self {
            Self::Closed => "closed",
            Self::Degraded => "degraded",
            Self::Open => "open",
        }))
    }
}

impl Field for LogLevel {
    fn assign(&mut self, given: &Given<'_>, _: Range) -> Result<(), String> {
        *self = given.text().unwrap_or_default().parse()?;
        Ok(())
    }

    fn render(&self) -> Option<String> {
        Some(quoted(self.as_str()))
    }
}

impl Field for LogFormat {
    fn assign(&mut self, given: &Given<'_>, _: Range) -> Result<(), String> {
        *self = given.text().unwrap_or_default().parse()?;
        Ok(())
    }

    fn render(&self) -> Option<String> {
        Some(quoted(match self {
            Self::Text => "text",
            Self::Json => "json",
        }))
    }
}

/// A bearer token: it has to fit in a header as it is, and not be guessed.
impl Field for Option<String> {
    fn assign(&mut self, given: &Given<'_>, _: Range) -> Result<(), String> {
        let visible = |text: &&str| {
            (TOKEN_CHARS_MIN..=512).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        let token = given
            .text()
            .filter(visible)
            .ok_or("a string of 16 to 512 visible ASCII characters without spaces")?;
        *self = Some(token.to_string());
        Ok(())
    }

    fn render(&self) -> Option<String> {
        self.as_deref().map(quoted)
    }
}

/// `scheme://user:password@host` without what stands before the `@`.
pub(super) fn without_password(shown: &str) -> String {
    match (shown.find("://"), shown.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => {
            format!("{}://…{}", &shown[..scheme], &shown[at..])
        }
        _ => shown.to_string(),
    }
}

/// A TOML basic string.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
