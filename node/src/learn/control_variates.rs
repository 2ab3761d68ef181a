//! SCAFFOLD's control variates of clients: what a client keeps from one of its rounds to the next.
//!
//! Each lies in a file named by the update that it was made with. The chain says which update of a client was averaged
//! last, so it says which file counts: an update that never came into a record leaves the variate as it was, whatever
//! crashed in between. Behind the variate stands the hash of both: nobody else has it, so a damaged one shows itself here or
//! nowhere.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use paceline_protocol::Hash;

use crate::store::files;

/// Why there is no control variate where there should be one.
#[derive(Debug, thiserror::Error)]
pub enum ControlVariateError {
    /// The file can't be read or written.
    #[error("{}: the control variate: {source}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is damaged.
    #[error(
        "{}: the control variate is damaged: it has {found} bytes where {wanted} are due, or not the hash at its end", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Bytes in it.
        found: usize,
        /// Bytes that should be.
        wanted: usize,
    },
}

/// Bytes of the hash at the end of a file.
const HASH_BYTES: usize = 32;

/// A folder of control variates.
#[derive(Debug, Clone)]
pub struct ControlVariates {
    dir: PathBuf,
}

impl ControlVariates {
    /// In this folder, which is made when it is needed.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The control variate that belongs to a client's last averaged update, of a net with so many parameters; `None` for a
    /// client that has none yet.
    ///
    /// # Errors
    /// The file can't be read or is damaged.
    pub fn read(&self, last_update: Option<Hash>, parameters: usize) -> Result<Option<Vec<u8>>, ControlVariateError> {
        let Some(update) = last_update else { return Ok(None) };
        let path = self.path(update);
        let mut bytes = fs::read(&path).map_err(|source| ControlVariateError::Disk { path: path.clone(), source })?;
        let (found, wanted) = (bytes.len(), parameters * size_of::<f32>() + HASH_BYTES);
        let end = found.saturating_sub(HASH_BYTES);
        if found != wanted || bytes[end..] != *seal(update, &bytes[..end]).as_bytes() {
            return Err(ControlVariateError::Damaged { path, found, wanted });
        }
        bytes.truncate(end);
        Ok(Some(bytes))
    }

    /// Puts a control variate on disk beside the update that it was made with.
    ///
    /// # Errors
    /// The disk fails or is full.
    pub fn put(&self, update: Hash, control: &[u8]) -> Result<(), ControlVariateError> {
        let path = self.path(update);
        let write = || -> io::Result<()> {
            fs::create_dir_all(&self.dir)?;
            files::write_whole(&path, &[control, seal(update, control).as_bytes()].concat())?;
            files::sync_dir(&self.dir)
        };
        write().map_err(|source| ControlVariateError::Disk { path: path.clone(), source })
    }

    /// Removes all but those of these updates.
    pub fn retain(&self, updates: &[Hash]) {
        let kept: Vec<PathBuf> = updates.iter().map(|update| self.path(*update)).collect();
        let files = fs::read_dir(&self.dir).into_iter().flatten().flatten().map(|entry| entry.path());
        // A file that stays costs space alone.
        files.filter(|path| !kept.contains(path)).for_each(|path| drop(fs::remove_file(path)));
    }

    fn path(&self, update: Hash) -> PathBuf {
        Path::join(&self.dir, update.to_string())
    }
}

/// The hash that stands behind the variate of an update.
fn seal(update: Hash, control: &[u8]) -> Hash {
    Hash::of(&[update.as_bytes(), control].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_variate_belongs_to_its_update() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let controls = ControlVariates::at(dir.path().join("controls"));
        let [averaged, lost] = [b"a", b"b"].map(|name| Hash::of(name));
        let (one, two) = (1f32.to_le_bytes(), 2f32.to_le_bytes());
        assert_eq!(controls.read(None, 1).expect("nothing is asked for"), None);
        controls.put(averaged, &one).expect("room");
        controls.put(lost, &two).expect("room");
        assert_eq!(controls.read(Some(averaged), 1).expect("it is there"), Some(one.to_vec()));
        controls.retain(&[averaged]);
        assert!(matches!(controls.read(Some(lost), 1), Err(ControlVariateError::Disk { .. })));
        assert_eq!(controls.read(Some(averaged), 1).expect("it is there"), Some(one.to_vec()));
    }

    #[test]
    fn a_damaged_control_variate_or_that_of_another_update_is_none() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let controls = ControlVariates::at(dir.path());
        let [update, other] = [b"a", b"b"].map(|name| Hash::of(name));
        controls.put(update, &1f32.to_le_bytes()).expect("room");
        controls.put(other, &2f32.to_le_bytes()).expect("room");
        let path = dir.path().join(update.to_string());
        let sound = fs::read(&path).expect("it is there");
        let is_refused = |bytes: &[u8]| {
            fs::write(&path, bytes).expect("room");
            matches!(controls.read(Some(update), 1), Err(ControlVariateError::Damaged { .. }))
        };
        for bit in 0..sound.len() * 8 {
            let mut bytes = sound.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(is_refused(&bytes), "bit {bit}");
        }
        for cut in 0..sound.len() {
            assert!(is_refused(&sound[..cut]), "cut at {cut}");
        }
        assert!(is_refused(&fs::read(dir.path().join(other.to_string())).expect("it is there")));
        assert!(!is_refused(&sound));
    }
}
