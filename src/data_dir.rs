//! Keeps the data directory to its owner: what the program makes there is private by the process's
//! umask, and what an earlier version (or a restored backup) left open is closed at the start. And
//! replaces a file of it in one step.

use rustix::fs::Mode;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Folders inside one another that are looked at; the journals' quarantine is the deepest.
const DEPTH_MAX: u32 = 8;
/// What nobody but the owner may do.
const OTHERS: u32 = 0o077;

/// From now on, whatever this process makes is its owner's alone. For the very beginning of
/// `main`: no thread, no file yet.
pub fn make_files_private() {
    rustix::process::umask(Mode::from_raw_mode(OTHERS));
}

/// Takes from others what they may do with `data_dir` and everything in it. What cannot be changed
/// (a mount that belongs to somebody else) is told, and is the operator's to decide on.
pub(crate) fn close_to_others(data_dir: &Path) {
    close(data_dir, DEPTH_MAX);
}

/// Puts these bytes in the file's place, in one step: whoever reads it finds the old ones or the
/// new ones whole, and no other user can read any of them.
pub(crate) fn replace_file(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut next = path.as_os_str().to_owned();
    next.push(".new");
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()?;
    fs::rename(&next, path)?;
    sync_folder_of(path)
}

/// Makes the file's name as durable as what is in it.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn close(path: &Path, depth: u32) {
    match try_close(path) {
        Ok(true) if depth > 0 => {
            for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                close(&entry.path(), depth - 1);
            }
        }
        Ok(_) => {}
        // A journal's preallocator may just have renamed it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "others may have access to it");
        }
    }
}

/// Is it a folder? What a link points to is not ours.
fn try_close(path: &Path) -> io::Result<bool> {
    let found = fs::symlink_metadata(path)?;
    if found.is_symlink() {
        return Ok(false);
    }
    let mode = found.permissions().mode();
    if mode & OTHERS != 0 {
        fs::set_permissions(path, Permissions::from_mode(mode & 0o7777 & !OTHERS))?;
    }
    Ok(found.is_dir())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn what_was_open_is_closed_and_links_are_left_alone() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let inner = dir.path().join("journal");
        fs::create_dir(&inner).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let outside = elsewhere.path().join("theirs");
        for path in [&dir.path().join("tollgate.db"), &inner.join("1.tgj"), &outside] {
            fs::write(path, "x").unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
        }
        for path in [&inner, &dir.path().to_owned()] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        std::os::unix::fs::symlink(&outside, dir.path().join("link")).unwrap();
        close_to_others(dir.path());
        for (path, expected) in [
            (dir.path(), 0o700),
            (&inner, 0o700),
            (&dir.path().join("tollgate.db"), 0o600),
            (&inner.join("1.tgj"), 0o600),
            (&outside, 0o644),
        ] {
            assert_eq!(mode(path), expected, "{}", path.display());
        }
    }
}
