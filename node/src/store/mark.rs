//! How many writes the database has confirmed, in a file beside it.
//!
//! A database alone can't tell a last write that a power loss tore from one that was damaged later: it gives up both and
//! opens with what was before. The first was never confirmed; the second is a promise, and the node would make another in
//! its place. So each write is counted in the database, and here once it is on disk, and only then confirmed. A database
//! that has fewer writes than its mark is damaged, or a copy from earlier.
//!
//! Two slots are written in turn, in place: a torn write harms the older one alone.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use paceline_protocol::Hash;
use redb::StorageBackend;
use redb::backends::FileBackend;

use super::files;

/// Between the slots: more than what a disk writes as one.
const SLOT_OFFSET: u64 = 4096;

/// Bytes of a slot: whose, how many, and the hash of both.
const SLOT_BYTES: usize = 32 + 8 + 32;

/// An open mark.
#[derive(Debug)]
pub(super) struct Mark {
    file: Box<dyn StorageBackend>,
    store: Hash,
    writes: u64,
}

/// What is wrong with a mark.
#[derive(Debug)]
pub(super) enum MarkError {
    Disk(io::Error),
    /// No slot of it is whole.
    Damaged,
}

impl From<io::Error> for MarkError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl Mark {
    /// The mark in a file; `None` if there is no file.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, MarkError> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        Self::read(backend(file)?).map(Some)
    }

    /// Makes the mark of a database without a write: it is there whole or not at all.
    pub(super) fn make(path: &Path, store: Hash) -> io::Result<Self> {
        files::write_whole(path, &image(store))?;
        files::sync_dir(path.parent().unwrap_or(Path::new(".")))?;
        let file = backend(OpenOptions::new().read(true).write(true).open(path)?)?;
        Ok(Self { file, store, writes: 0 })
    }

    pub(super) fn read(file: Box<dyn StorageBackend>) -> Result<Self, MarkError> {
        let slot = |at: u64| -> io::Result<Option<(Hash, u64)>> {
            if file.len()? < at + SLOT_BYTES as u64 {
                return Ok(None);
            }
            let mut bytes = [0; SLOT_BYTES];
            file.read(at, &mut bytes)?;
            Ok(parse(&bytes))
        };
        let found = [slot(0)?, slot(SLOT_OFFSET)?].into_iter().flatten().max_by_key(|(_, writes)| *writes);
        let (store, writes) = found.ok_or(MarkError::Damaged)?;
        Ok(Self { file, store, writes })
    }

    /// Which database it belongs to.
    pub(super) fn store(&self) -> Hash {
        self.store
    }

    /// How many writes were confirmed.
    pub(super) fn writes(&self) -> u64 {
        self.writes
    }

    /// Counts the writes up to this one as confirmed, on disk when it returns.
    pub(super) fn confirm(&mut self, writes: u64) -> io::Result<()> {
        self.file.write((writes % 2) * SLOT_OFFSET, &slot(self.store, writes))?;
        self.file.sync_data()?;
        self.writes = writes;
        Ok(())
    }
}

fn backend(file: File) -> io::Result<Box<dyn StorageBackend>> {
    Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
}

/// What a new mark holds.
pub(super) fn image(store: Hash) -> Vec<u8> {
    let mut image = vec![0; SLOT_OFFSET as usize];
    image[..SLOT_BYTES].copy_from_slice(&slot(store, 0));
    image.extend(slot(store, 0));
    image
}

fn slot(store: Hash, writes: u64) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    bytes[..32].copy_from_slice(store.as_bytes());
    bytes[32..40].copy_from_slice(&writes.to_le_bytes());
    let hash = Hash::of(&bytes[..40]);
    bytes[40..].copy_from_slice(hash.as_bytes());
    bytes
}

fn parse(bytes: &[u8; SLOT_BYTES]) -> Option<(Hash, u64)> {
    let store = Hash::from_bytes(bytes[..32].try_into().ok()?);
    let writes = u64::from_le_bytes(bytes[32..40].try_into().ok()?);
    (slot(store, writes) == *bytes).then_some((store, writes))
}
