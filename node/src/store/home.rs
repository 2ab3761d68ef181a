//! A node's home: one folder for one node of one run.
//!
//! ```text
//! identity.key   the ed25519 secret, readable by its owner alone
//! run.toml       the run file in canonical form
//! options.json   how the node was started, so that `paceline join --home HOME` goes on
//! store.redb     records, votes, accepts
//! store.mark     how many writes the store has confirmed, so that none is lost unnoticed
//! blobs/         models and updates
//! controls/      with SCAFFOLD: this node's control variate
//! peers.json     addresses of nodes seen last
//! ports.json     the free ports that this node found, to take them again
//! http           address of the control API while the node runs
//! http-token     what a browser on another machine has to know, once one may look
//! paused         there while the node's owner lets it train nothing
//! lock           held while the node runs
//! reserve        room on the disk that a start needs
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::files;

/// Between two tries for a lock.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The secret's file.
const IDENTITY: &str = "identity.key";

/// The file that says that the node trains nothing.
const PAUSED: &str = "paused";

/// The file of what a browser on another machine has to know.
const HTTP_TOKEN: &str = "http-token";

/// The file that keeps room on the disk.
const RESERVE: &str = "reserve";

/// Bytes of it: what a start writes before it has cleared up.
const RESERVE_BYTES: usize = 4 << 20;

/// Why a home can't be used.
#[derive(Debug, Error)]
pub enum HomeError {
    /// The disk fails, or a folder may not be written to.
    #[error("{path}: {source}")]
    Disk {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// Another process runs on it.
    #[error("a node runs on {0} already; stop it first, or give another --home")]
    Locked(PathBuf),
    /// The identity is not 32 bytes.
    #[error(
        "{path} has {found} bytes where an identity has 32; bring back the right file, or move the home away and join again, as another node"
    )]
    Identity {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: usize,
    },
    /// There is a store and nobody that it belongs to.
    #[error(
        "{0} has a store and no identity.key: only the node that made it may go on with it; bring the file back, or move the home away and join again, as another node"
    )]
    IdentityLost(PathBuf),
    /// The disk has too little room to run a node.
    #[error("{path}: {source}; a node needs {} MiB free to start: make room on this disk", RESERVE_BYTES >> 20)]
    NoRoom {
        /// The file that was to keep the room.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// There is no place for homes on this system.
    #[error("this system names no folder for data; give --home")]
    NoDataFolder,
}

/// A home's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    dir: PathBuf,
}

/// Held while a node runs on a home.
#[derive(Debug)]
pub struct HomeLock {
    _file: File,
}

fn disk(path: &Path) -> impl FnOnce(io::Error) -> HomeError + '_ {
    move |source| HomeError::Disk { path: path.to_owned(), source }
}

impl Home {
    /// The home at `dir`, which need not exist yet.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The folder under which homes are when nobody says otherwise.
    ///
    /// # Errors
    /// The system has no such place.
    pub fn folder() -> Result<PathBuf, HomeError> {
        let project = directories::ProjectDirs::from("", "", "paceline").ok_or(HomeError::NoDataFolder)?;
        Ok(project.data_dir().to_owned())
    }

    /// The homes under the usual folder, those whose node reads its data before its first start among them.
    pub fn all() -> Vec<Home> {
        let Ok(entries) = Self::folder().and_then(|dir| fs::read_dir(&dir).map_err(disk(&dir))) else {
            return Vec::new();
        };
        let mut homes: Vec<Home> = entries
            .filter_map(|e| Some(Home::at(e.ok()?.path())))
            .filter(|h| h.run_file().exists() || h.is_running())
            .collect();
        homes.sort_by(|a, b| a.dir.cmp(&b.dir));
        homes
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The canonical run file.
    pub fn run_file(&self) -> PathBuf {
        self.dir.join("run.toml")
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.dir.join("store.redb")
    }

    /// The folder of blobs.
    pub fn blobs(&self) -> PathBuf {
        self.dir.join("blobs")
    }

    /// The folder of SCAFFOLD's control variates.
    pub fn controls(&self) -> PathBuf {
        self.dir.join("controls")
    }

    /// The folder of a trainer, whose working place it is.
    pub fn trainer(&self) -> PathBuf {
        self.dir.join("trainer")
    }

    /// How the node was started.
    pub fn options(&self) -> PathBuf {
        self.dir.join("options.json")
    }

    /// Addresses of nodes seen last.
    pub fn peers(&self) -> PathBuf {
        self.dir.join("peers.json")
    }

    /// The free ports that this node found.
    pub fn ports(&self) -> PathBuf {
        self.dir.join("ports.json")
    }

    /// Where the control API's address is written.
    pub fn http(&self) -> PathBuf {
        self.dir.join("http")
    }

    /// Whether the node's owner lets it train nothing.
    pub fn is_paused(&self) -> bool {
        self.dir.join(PAUSED).exists()
    }

    /// Pauses the node, or lets it train again, from its next start on.
    ///
    /// # Errors
    /// The disk fails.
    pub fn set_paused(&self, is_paused: bool) -> Result<(), HomeError> {
        if is_paused {
            return self.write(PAUSED, b"");
        }
        let path = self.dir.join(PAUSED);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(HomeError::Disk { path, source }),
            _ => files::sync_dir(&self.dir).map_err(disk(&self.dir)),
        }
    }

    /// What a browser on another machine has to know: drawn at first use, 32 hex digits.
    ///
    /// # Errors
    /// It can't be read or written.
    pub fn http_token(&self) -> Result<String, HomeError> {
        let path = self.dir.join(HTTP_TOKEN);
        match fs::read_to_string(&path) {
            Ok(token) if !token.trim().is_empty() => return Ok(token.trim().to_owned()),
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(HomeError::Disk { path, source }),
            _ => {}
        }
        let secret = paceline_bootstrap::fresh_secret();
        let token: String = secret.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        self.write(HTTP_TOKEN, token.as_bytes())?;
        Ok(token)
    }

    /// Makes the folder if it is not there, and takes the lock, which the process's end releases.
    ///
    /// # Errors
    /// Another process holds it, or the disk fails.
    pub fn lock(&self) -> Result<HomeLock, HomeError> {
        self.make_dir().map_err(disk(&self.dir))?;
        let path = self.dir.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(disk(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(HomeLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(HomeError::Locked(self.dir.clone())),
            Err(TryLockError::Error(source)) => Err(HomeError::Disk { path, source }),
        }
    }

    /// Makes the folder, for its owner alone, if it is not there.
    fn make_dir(&self) -> io::Result<()> {
        if self.dir.is_dir() {
            return Ok(());
        }
        if let Some(parent) = self.dir.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        match builder.create(&self.dir) {
            // Somebody else was faster.
            Err(_) if self.dir.is_dir() => Ok(()),
            made => made,
        }
    }

    /// The same, but another holder is waited for: a command that only looks at a home holds its lock for some milliseconds, a
    /// node for as long as it runs.
    ///
    /// # Errors
    /// Another process still holds it after this time, or the disk fails.
    pub fn lock_within(&self, wait: Duration) -> Result<HomeLock, HomeError> {
        let began = Instant::now();
        loop {
            match self.lock() {
                Err(HomeError::Locked(_)) if began.elapsed() < wait => std::thread::sleep(LOCK_PAUSE),
                result => return result,
            }
        }
    }

    /// Whether a node runs on this home.
    pub fn is_running(&self) -> bool {
        let path = self.dir.join("lock");
        path.exists() && matches!(self.lock(), Err(HomeError::Locked(_)))
    }

    /// The node's secret, made on first use from the system's randomness. For the node itself, which holds the lock; who
    /// only looks uses [`Home::known_identity`].
    ///
    /// # Errors
    /// The file has another length, or is gone while what it signed is there, or the disk fails.
    pub fn identity(&self) -> Result<[u8; 32], HomeError> {
        if let Some(secret) = self.known_identity()? {
            return Ok(secret);
        }
        if self.database().exists() {
            return Err(HomeError::IdentityLost(self.dir.clone()));
        }
        let secret = paceline_bootstrap::fresh_secret();
        self.write(IDENTITY, &secret)?;
        Ok(secret)
    }

    /// The node's secret, if it has one yet.
    ///
    /// # Errors
    /// The file has another length, or the disk fails.
    pub fn known_identity(&self) -> Result<Option<[u8; 32]>, HomeError> {
        let path = self.dir.join(IDENTITY);
        match fs::read(&path) {
            Ok(bytes) => {
                let found = bytes.len();
                bytes.try_into().map(Some).map_err(|_| HomeError::Identity { path, found })
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(HomeError::Disk { path, source }),
        }
    }

    /// Gives back the room that was kept, so that a node whose disk ran full can start and clear up.
    ///
    /// # Errors
    /// The disk fails.
    pub fn free_reserve(&self) -> Result<(), HomeError> {
        let path = self.dir.join(RESERVE);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(disk(&path)(e)),
            _ => Ok(()),
        }
    }

    /// Keeps room for the next start. Without it a node whose disk is full would start, fail its first write and end, again
    /// and again.
    ///
    /// # Errors
    /// There is too little room to run.
    pub fn take_reserve(&self) -> Result<(), HomeError> {
        // Zeros may take no room on file systems that compress or leave holes.
        let mut noise = 0x9E37_79B9_7F4A_7C15u64;
        let mut word = || {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            noise.to_le_bytes()
        };
        let bytes: Vec<u8> = (0..RESERVE_BYTES / 8).flat_map(|_| word()).collect();
        let path = self.dir.join(RESERVE);
        files::write_whole(&path, &bytes).map_err(|source| HomeError::NoRoom { path, source })
    }

    /// Writes a file of the home at once or not at all, readable by its owner alone.
    ///
    /// # Errors
    /// The disk fails or is full.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), HomeError> {
        let path = self.dir.join(name);
        let write = || {
            files::write_whole(&path, bytes)?;
            files::sync_dir(&self.dir)
        };
        write().map_err(disk(&path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_once_and_stays() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let home = Home::at(dir.path().join("home"));
        let _lock = home.lock().expect("nobody is on it");
        assert_eq!(home.known_identity().expect("a look makes none"), None);
        let secret = home.identity().expect("it is made");
        assert_eq!(home.identity().expect("it is read"), secret);
    }

    #[test]
    fn a_store_whose_identity_is_gone_gets_no_new_one() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let home = Home::at(dir.path());
        std::fs::write(home.database(), b"promises").expect("room");
        assert!(matches!(home.identity(), Err(HomeError::IdentityLost(_))));
        assert!(!dir.path().join(IDENTITY).exists());
    }

    #[test]
    fn a_second_node_on_one_home_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let home = Home::at(dir.path());
        let lock = home.lock().expect("nobody is on it");
        assert!(matches!(home.lock(), Err(HomeError::Locked(_))));
        assert!(home.is_running());
        drop(lock);
        assert!(!home.is_running());
    }

    #[test]
    fn the_room_that_is_kept_can_be_given_back_and_taken_again() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let home = Home::at(dir.path());
        home.free_reserve().expect("there is none yet");
        home.take_reserve().expect("there is room");
        assert_eq!(fs::metadata(dir.path().join("reserve")).expect("it is there").len(), RESERVE_BYTES as u64);
        home.free_reserve().expect("it goes");
        assert!(!dir.path().join("reserve").exists());
    }

    #[test]
    fn a_damaged_identity_is_named() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::write(dir.path().join("identity.key"), [1; 31]).expect("writes");
        let error = Home::at(dir.path()).identity().expect_err("31 bytes are no identity");
        assert!(error.to_string().contains("identity.key has 31 bytes"), "{error}");
    }
}
