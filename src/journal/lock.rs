//! One process per data directory: two would overwrite each other's journals and store. One per
//! journal as well, by whatever path it is reached: whoever removes a journal must hold its lock.
//!
//! The locks are the kernel's (flock), so that they go with the process, however that ends.

use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::{fmt, io};

/// The lock's file inside `data_dir`.
const FILE_NAME: &str = "tollgate.lock";

/// Held as long as it lives.
#[must_use = "the directory is locked as long as this lives"]
pub struct DataDirLock {
    _file: File,
}

/// Why a data directory can't be used.
#[derive(Debug)]
pub enum LockError {
    /// Another process uses it.
    InUse(PathBuf),
    /// It can't be made or opened.
    Io(PathBuf, io::Error),
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(dir) => write!(
                f,
                "the data directory {} is in use by another tollgate process; stop that one, or \
                 choose another directory (server.data_dir)",
                dir.display()
            ),
            Self::Io(dir, error) => {
                write!(f, "the data directory {} can't be used: {error}", dir.display())
            }
        }
    }
}

impl std::error::Error for LockError {}

/// Makes `data_dir` if need be, and locks it for this process.
pub fn lock(data_dir: &Path) -> Result<DataDirLock, LockError> {
    let failed = |error| LockError::Io(data_dir.to_owned(), error);
    std::fs::create_dir_all(data_dir).map_err(failed)?;
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(data_dir.join(FILE_NAME))
        .map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(DataDirLock { _file: file }),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(LockError::InUse(data_dir.to_owned())),
        Err(error) => Err(failed(error.into())),
    }
}

/// Held by whoever writes or takes away the journal in a directory, as long as it lives.
#[must_use = "the journal is locked as long as this lives"]
pub struct JournalLock {
    _dir: File,
}

/// Locks the journal in `dir`, unless a live process has it.
pub fn lock_journal(dir: &Path) -> io::Result<JournalLock> {
    let file = File::open(dir)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(JournalLock { _dir: file }),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "the journal is in use by another tollgate process; stop that one first",
        )),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn a_second_process_is_told_and_the_next_one_is_let_in() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let held = lock(&data_dir).unwrap();
        assert!(matches!(lock(&data_dir), Err(LockError::InUse(_))));
        drop(held);
        assert!(lock(&data_dir).is_ok());
    }
}
