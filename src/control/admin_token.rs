//! The admin token: configured, or made at the first start and kept in `data_dir/admin.token`.

use crate::config::{Config, TOKEN_CHARS_MIN};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The file's name in `data_dir`.
pub(super) const FILE_NAME: &str = "admin.token";

/// The token that the admin API asks for: the configured one, or the one in `data_dir`.
pub(crate) fn load(config: &Config) -> io::Result<String> {
    if let Some(token) = &config.admin_token {
        return Ok(token.clone());
    }
    let path = config.server.data_dir.join(FILE_NAME);
    match fs::read_to_string(&path) {
        Ok(text) if text.trim().len() >= TOKEN_CHARS_MIN => Ok(text.trim().to_owned()),
        Ok(_) => {
            let message = format!(
                "{} holds no token of {TOKEN_CHARS_MIN} characters or more; remove it to have a \
                 new one made",
                path.display()
            );
            Err(io::Error::new(io::ErrorKind::InvalidData, message))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let token = make(&path)?;
            tracing::info!(path = %path.display(), "made an admin token");
            Ok(token)
        }
        Err(error) => Err(error),
    }
}

fn make(path: &Path) -> io::Result<String> {
    let mut bits = [0u8; 16];
    getrandom::fill(&mut bits).map_err(io::Error::other)?;
    let token = format!("{:032x}", u128::from_be_bytes(bits));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{token}")?;
    file.sync_all()?;
    Ok(token)
}
