//! SCAFFOLD's control variates of clients: what a client keeps from one of its rounds to the next.
//!
//! Each lies in a file named by the update that it was made with. The chain says which update of a client was averaged
//! last, so it says which file counts: an update that never came into a record leaves the variate as it was, whatever
//! crashed in between.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use paceline_protocol::Hash;

/// A folder of control variates.
#[derive(Debug, Clone)]
pub struct Controls {
    dir: PathBuf,
}

impl Controls {
    /// In this folder, which is made when it is needed.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The control variate that belongs to a client's last averaged update; `None` for a client that has none yet.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn read(&self, last_update: Option<Hash>) -> io::Result<Option<Vec<u8>>> {
        last_update.map(|update| fs::read(self.path(update))).transpose()
    }

    /// Puts a control variate on disk beside the update that it was made with.
    ///
    /// # Errors
    /// The disk fails or is full.
    pub fn put(&self, update: Hash, control: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let path = self.path(update);
        let temporary = path.with_extension("new");
        let mut file = File::create(&temporary)?;
        file.write_all(control)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(&self.dir)?.sync_all()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_variate_belongs_to_its_update() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let controls = Controls::at(dir.path().join("controls"));
        let [averaged, lost] = [b"a", b"b"].map(|name| Hash::of(name));
        assert_eq!(controls.read(None).expect("nothing is asked for"), None);
        controls.put(averaged, &[1]).expect("room");
        controls.put(lost, &[2]).expect("room");
        assert_eq!(controls.read(Some(averaged)).expect("it is there"), Some(vec![1]));
        controls.retain(&[averaged]);
        assert!(controls.read(Some(lost)).is_err());
        assert_eq!(controls.read(Some(averaged)).expect("it is there"), Some(vec![1]));
    }
}
