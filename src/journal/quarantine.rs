//! Damaged segments are kept for a human to look at, whatever becomes of their journal.

use super::QUARANTINE_NAME;
use std::path::{Path, PathBuf};
use std::{fs, io};
use uuid::Uuid;

/// Links or copies a journal's segment into `root/quarantine/`; a second call changes nothing.
pub fn keep(root: &Path, journal_id: u128, path: &Path) -> io::Result<PathBuf> {
    let dir = root.join(QUARANTINE_NAME);
    fs::create_dir_all(&dir)?;
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let kept = dir.join(format!("{}-{file}", Uuid::from_u128(journal_id).hyphenated()));
    match fs::hard_link(path, &kept) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        // A file system without hard links.
        Err(_) => fs::copy(path, &kept).map(|_| ())?,
        Ok(()) => {}
    }
    Ok(kept)
}
