//! Files that are there whole or not at all, also after kill -9 or a power loss.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// The extension of files that are being written. What a crash leaves of them is of no use.
pub(crate) const UNFINISHED: &str = "new";

/// Tells two writers of one file apart.
static WRITES: AtomicU64 = AtomicU64::new(0);

/// Writes a file under a name of its own, syncs it, and then gives it `path`: readers see the old content or the new.
/// It is readable by its owner alone. The folder is not synced yet.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let number = WRITES.fetch_add(1, Ordering::Relaxed);
    let unfinished = path.with_file_name(format!("{name}.{number}.{UNFINISHED}"));
    let write = || {
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&unfinished);
    })
}

/// Puts the names in a folder on disk: only then a renamed file survives a power loss.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    // Elsewhere a folder can't be opened, and renames are the file system's to keep.
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

/// Removes what writers that were killed left in a folder.
pub(crate) fn sweep(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_file() && path.extension().is_some_and(|e| e == UNFINISHED) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_fails_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        // A folder can't be replaced by a file.
        let path = dir.path().join("taken");
        fs::create_dir(&path).expect("makes it");
        write_whole(&path, b"bytes").expect_err("a folder is in the way");
        assert_eq!(fs::read_dir(dir.path()).expect("reads").count(), 1);
    }

    #[test]
    fn writers_of_one_file_leave_one_of_their_contents() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("file");
        std::thread::scope(|scope| {
            for byte in 0..8u8 {
                let path = &path;
                scope.spawn(move || (0..20).for_each(|_| write_whole(path, &[byte; 9_000]).expect("writes")));
            }
        });
        let content = fs::read(&path).expect("reads");
        assert!(content.len() == 9_000 && content.iter().all(|b| *b == content[0]), "two contents were mixed");
    }

    #[test]
    fn what_a_killed_writer_left_is_swept() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::write(dir.path().join(format!("a.7.{UNFINISHED}")), b"half").expect("writes");
        fs::write(dir.path().join("a"), b"whole").expect("writes");
        sweep(dir.path()).expect("sweeps");
        assert_eq!(fs::read_dir(dir.path()).expect("reads").count(), 1);
    }
}
