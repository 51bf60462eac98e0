//! Files that hold a key: 32 random bytes that nobody but their owner can read. They are checked
//! when the configuration is read, so that `check` and the start report a bad file with the line
//! that names it. What is in a file is never reported.

use super::field::{Field, Given, Range, quoted};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// The files' names in `data_dir`, where the configuration names none.
pub const DIGEST_KEY_FILE: &str = "digest.key";
/// See [`DIGEST_KEY_FILE`].
pub const ENCRYPTION_KEY_FILE: &str = "encryption.key";
/// Length of every key.
pub const KEY_BYTES: usize = 32;
/// Mode bits that must be clear: nobody else may use the file.
const OTHERS: u32 = 0o077;

/// The place of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile(pub PathBuf);

/// Reads a key; a refusal says what is wrong with the file, but nothing of its content.
pub fn read_key(path: &Path) -> Result<[u8; KEY_BYTES], String> {
    let not_read = |error: std::io::Error| format!("{} is not read: {error}", path.display());
    let file = File::open(path).map_err(not_read)?;
    let mode = file.metadata().map_err(not_read)?.permissions().mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(format!(
            "{} has mode {mode:04o}: others may use it; chmod 0600 it, and have a new key if they \
             may have read it",
            path.display()
        ));
    }
    let mut bytes = Vec::with_capacity(KEY_BYTES + 1);
    file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(not_read)?;
    let found = if bytes.len() > KEY_BYTES { "more".to_owned() } else { bytes.len().to_string() };
    bytes
        .try_into()
        .map_err(|_| format!("{} holds {found} bytes instead of {KEY_BYTES}", path.display()))
}

impl Field for Option<KeyFile> {
    fn assign(&mut self, given: &Given<'_>, range: Range) -> Result<(), String> {
        let mut path = PathBuf::new();
        path.assign(given, range)?;
        read_key(&path)
            .map_err(|why| format!("a file of {KEY_BYTES} random bytes with mode 0600; {why}"))?;
        *self = Some(KeyFile(path));
        Ok(())
    }

    fn render(&self) -> Option<String> {
        self.as_ref().map(|KeyFile(path)| quoted(&path.to_string_lossy()))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use std::fs::{self, Permissions};

    #[test]
    fn only_32_bytes_that_nobody_else_can_read_are_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        let read = |bytes: &[u8], mode: u32| {
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let read = read_key(&path);
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            read
        };
        assert_eq!(read(&[7; 32], 0o600), Ok([7; 32]));
        assert_eq!(read(&[7; 32], 0o400), Ok([7; 32]));
        for mode in [0o640, 0o604, 0o620] {
            assert!(read(&[7; 32], mode).unwrap_err().contains(&format!("mode {mode:04o}")));
        }
        assert!(read(&[7; 31], 0o600).unwrap_err().contains("31 bytes"));
        assert!(read(&[7; 33], 0o600).unwrap_err().contains("more bytes"));
        fs::remove_file(&path).unwrap();
        assert!(read_key(&path).unwrap_err().contains("not read"));
    }
}
