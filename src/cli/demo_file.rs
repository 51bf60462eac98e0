//! `DATA_DIR/demo.json`: what the demo has made, for scripts and for its next start. It has keys in
//! it: no other user may be able to read it at any time.

use crate::data_dir::replace_file;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Its name.
pub(super) const FILE_NAME: &str = "demo.json";

/// What `DATA_DIR/demo.json` holds, for scripts. It has no `Debug`: it is full of secrets.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DemoFile {
    /// Data plane.
    pub data_url: String,
    /// Control plane.
    pub admin_url: String,
    /// Its bearer token.
    pub admin_token: String,
    /// A key of each plan.
    pub keys: DemoKeys,
    /// The services' ids, by how they are priced.
    pub services: DemoServices,
    /// Their model names.
    pub models: DemoServices,
    /// The model server behind them.
    pub upstream_url: String,
    /// Ids of `services` that have been deleted since: not kept, since each start finds them out.
    #[serde(skip)]
    pub deleted: Vec<String>,
}

/// A key of each plan.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DemoKeys {
    /// 10 requests a second.
    pub basic: String,
    /// 100 requests a second.
    pub premium: String,
    /// 1000 requests a second.
    pub enterprise: String,
    /// As many as there can be.
    pub bench: String,
}

/// Something of each service.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DemoServices {
    /// Of the one priced per token.
    pub per_token: String,
    /// Of the one with graduated prices.
    pub tiered: String,
    /// Of the one with a monthly fee.
    pub subscription: String,
}

impl DemoFile {
    /// Reads an earlier start's file; `None`: there was none.
    pub(super) fn read(data_dir: &Path) -> Result<Option<Self>, String> {
        let path = data_dir.join(FILE_NAME);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        serde_json::from_str(&text).map(Some).map_err(|_| {
            format!("{} is not the demo's: remove it, and keys are made anew", path.display())
        })
    }

    /// Replaces the file in one step.
    pub(super) fn write(&self, data_dir: &Path) -> Result<(), String> {
        let path = data_dir.join(FILE_NAME);
        let text = serde_json::to_vec_pretty(self).map_err(std::io::Error::from);
        let written = text.and_then(|text| replace_file(&path, &[&text, b"\n"]));
        written.map_err(|error| format!("{}: {error}", path.display()))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{DemoFile, DemoKeys, DemoServices};

    /// What the demo may have made.
    pub(crate) fn example() -> DemoFile {
        let text = str::to_string;
        DemoFile {
            data_url: text("http://127.0.0.1:3000"),
            admin_url: text("http://127.0.0.1:3001"),
            admin_token: text("secret"),
            keys: DemoKeys {
                basic: text("tg_basic"),
                premium: text("tg_premium"),
                enterprise: text("tg_enterprise"),
                bench: text("tg_bench"),
            },
            services: DemoServices {
                per_token: text("s-per-token"),
                tiered: text("s-tiered"),
                subscription: text("s-subscription"),
            },
            models: DemoServices {
                per_token: text("demo-chat"),
                tiered: text("demo-chat-tiered"),
                subscription: text("demo-chat-flat"),
            },
            upstream_url: text("http://127.0.0.1:9"),
            deleted: Vec::new(),
        }
    }
}
