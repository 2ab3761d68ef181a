//! Blobs on disk: `ID.blob` is whole, `ID.part` grows chunk by chunk, `ID.manifest` tells what belongs into both.
//!
//! A blob is whole or it is not, also after kill -9: a part becomes a blob by a rename after its bytes are on disk. After
//! a restart the chunks of a part are hashed again, so that nothing half-written counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use paceline_protocol::bounds::MANIFEST_BYTES_MAX;
use paceline_protocol::{BlobRef, Hash};
use thiserror::Error;
use tokio::sync::watch;

use super::manifest::Manifest;

/// Why a blob can't be had from the disk, or put there.
#[derive(Debug, Error)]
pub enum BlobError {
    /// The disk failed, or is full.
    #[error("{path}: {source}")]
    Disk {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// No such blob, or not all of it.
    #[error("blob {0} is not here")]
    Missing(Hash),
    /// A file that does not hold what its name says.
    #[error("{0} is damaged: its bytes do not have the hash of its name; it is fetched again")]
    Damaged(PathBuf),
}

/// What is known of a blob that is not whole yet.
#[derive(Debug)]
struct Partial {
    manifest: Arc<Manifest>,
    have: BTreeSet<u32>,
    /// Tells those who wait for a chunk that one more is there.
    grown: watch::Sender<usize>,
}

/// The blobs of one node.
#[derive(Debug)]
pub struct BlobStore {
    dir: PathBuf,
    state: Mutex<State>,
    /// Counts writes, so that each has a temporary file of its own.
    writes: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    whole: BTreeMap<Hash, Arc<Manifest>>,
    partial: BTreeMap<Hash, Partial>,
    /// Parts that an earlier life left and nobody has asked for since.
    leftover: BTreeSet<Hash>,
    /// Blobs in use, which `retain` leaves alone, with the count of their users.
    pinned: BTreeMap<Hash, usize>,
}

fn disk(path: &Path) -> impl FnOnce(io::Error) -> BlobError + '_ {
    move |source| BlobError::Disk { path: path.to_owned(), source }
}

impl BlobStore {
    /// Opens the folder, and makes it if it is not there. Files that are no blobs are left alone.
    ///
    /// # Errors
    /// The disk fails.
    pub fn open(dir: &Path) -> Result<Self, BlobError> {
        fs::create_dir_all(dir).map_err(disk(dir))?;
        let store = Self { dir: dir.to_owned(), state: Mutex::default(), writes: AtomicU64::new(0) };
        let (mut whole, mut leftover) = (BTreeMap::new(), BTreeSet::new());
        for entry in fs::read_dir(dir).map_err(disk(dir))? {
            let path = entry.map_err(disk(dir))?.path();
            let stem = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse::<Hash>().ok());
            if let Some(id) = stem.filter(|_| path.extension().is_some_and(|e| e == "blob"))
                && let Some(manifest) = store.manifest_on_disk(id)
                && fs::metadata(&path).is_ok_and(|m| m.len() == manifest.blob().len)
            {
                whole.insert(id, Arc::new(manifest));
            } else if path.extension().is_some_and(|e| e == "new") {
                // A write that a kill cut short.
                let _ = fs::remove_file(&path);
            } else if let Some(id) = stem {
                leftover.insert(id);
            }
        }
        leftover.retain(|id| !whole.contains_key(id));
        *store.state() = State { whole, leftover, ..State::default() };
        Ok(store)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, id: Hash, extension: &str) -> PathBuf {
        self.dir.join(format!("{id}.{extension}"))
    }

    fn manifest_on_disk(&self, id: Hash) -> Option<Manifest> {
        let mut bytes = Vec::new();
        let file = File::open(self.path(id, "manifest")).ok()?;
        file.take(MANIFEST_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).ok()?;
        Manifest::parse_named(&bytes, id)
    }

    /// The ids of the blobs that are whole.
    pub fn whole(&self) -> Vec<Hash> {
        self.state().whole.keys().copied().collect()
    }

    /// Whether all of a blob is here.
    pub fn is_whole(&self, id: Hash) -> bool {
        self.state().whole.contains_key(&id)
    }

    /// Puts bytes on disk, durably.
    ///
    /// # Errors
    /// The disk fails or is full; then nothing of it counts.
    pub fn put(&self, bytes: &[u8]) -> Result<BlobRef, BlobError> {
        let manifest = Manifest::of(bytes);
        let blob = manifest.blob();
        if self.is_whole(blob.id) {
            return Ok(blob);
        }
        self.write_file(&self.path(blob.id, "manifest"), &manifest.encode())?;
        self.write_file(&self.path(blob.id, "blob"), bytes)?;
        self.sync_dir()?;
        self.state().whole.insert(blob.id, Arc::new(manifest));
        Ok(blob)
    }

    /// Writes a file under a temporary name, syncs it, and gives it its own.
    fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<(), BlobError> {
        // Two may write one blob at a time: one that averages a model and one that fetches it.
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("{number}.new"));
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, path)
        };
        write().map_err(|source| {
            let _ = fs::remove_file(&temporary);
            BlobError::Disk { path: path.to_owned(), source }
        })
    }

    fn sync_dir(&self) -> Result<(), BlobError> {
        File::open(&self.dir).and_then(|d| d.sync_all()).map_err(disk(&self.dir))
    }

    /// All of a blob, checked against its hash.
    ///
    /// # Errors
    /// It is not here, the disk fails, or the file is damaged: then it no longer counts as here.
    pub fn read(&self, id: Hash) -> Result<Vec<u8>, BlobError> {
        let manifest = self.state().whole.get(&id).cloned().ok_or(BlobError::Missing(id))?;
        let path = self.path(id, "blob");
        let bytes = fs::read(&path).map_err(disk(&path))?;
        if Manifest::of(&bytes) != *manifest {
            // Whoever needs it fetches it again, after a restart at the latest.
            self.state().whole.remove(&id);
            let _ = fs::remove_file(&path);
            return Err(BlobError::Damaged(path));
        }
        Ok(bytes)
    }

    /// The manifest's bytes, of a blob that is here or being fetched.
    pub fn manifest(&self, id: Hash) -> Option<Arc<Manifest>> {
        let state = self.state();
        state.whole.get(&id).or_else(|| state.partial.get(&id).map(|p| &p.manifest)).cloned()
    }

    /// One chunk, if it is here; also of a blob that is not whole.
    pub fn chunk(&self, id: Hash, index: u32) -> Option<Vec<u8>> {
        let (manifest, extension) = {
            let state = self.state();
            match (state.whole.get(&id), state.partial.get(&id)) {
                (Some(manifest), _) => (manifest.clone(), "blob"),
                (None, Some(partial)) if partial.have.contains(&index) => (partial.manifest.clone(), "part"),
                _ => return None,
            }
        };
        let range = manifest.range(index)?;
        // A part may have become a blob meanwhile.
        let file = File::open(self.path(id, extension)).or_else(|_| File::open(self.path(id, "blob")));
        let bytes = read_range(&mut file.ok()?, range).ok()?;
        manifest.is_chunk(index, &bytes).then_some(bytes)
    }

    /// For a blob that is being fetched: which chunks are here, a bit each, and how to learn of more.
    pub fn partial(&self, id: Hash) -> Option<(Vec<u8>, watch::Receiver<usize>)> {
        let state = self.state();
        let partial = state.partial.get(&id)?;
        let mut bits = vec![0u8; partial.manifest.chunks().div_ceil(8) as usize];
        partial.have.iter().for_each(|i| bits[*i as usize / 8] |= 1 << (i % 8));
        Some((bits, partial.grown.subscribe()))
    }

    /// Begins or resumes a blob. Returns the chunks that are missing.
    ///
    /// # Errors
    /// The disk fails or is full.
    pub fn begin(&self, manifest: Manifest) -> Result<Vec<u32>, BlobError> {
        let blob = manifest.blob();
        if self.is_whole(blob.id) {
            return Ok(Vec::new());
        }
        let missing = |have: &BTreeSet<u32>| (0..manifest.chunks()).filter(|i| !have.contains(i)).collect();
        if let Some(partial) = self.state().partial.get(&blob.id) {
            return Ok(missing(&partial.have));
        }
        self.write_file(&self.path(blob.id, "manifest"), &manifest.encode())?;
        let path = self.path(blob.id, "part");
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(disk(&path))?;
        // What an earlier try left counts, chunk by chunk, if it hashes right.
        let found = file.metadata().map_err(disk(&path))?.len().min(blob.len);
        let mut have = BTreeSet::new();
        for index in 0..manifest.chunks() {
            let Some(range) = manifest.range(index).filter(|r| r.end <= found) else { break };
            if read_range(&mut file, range).is_ok_and(|bytes| manifest.is_chunk(index, &bytes)) {
                have.insert(index);
            }
        }
        file.set_len(blob.len).map_err(disk(&path))?;
        let missing = missing(&have);
        let (grown, _) = watch::channel(have.len());
        self.state().partial.insert(blob.id, Partial { manifest: Arc::new(manifest), have, grown });
        Ok(missing)
    }

    /// Takes a chunk of a blob that was begun. Whether it is the right one; a wrong one changes nothing.
    ///
    /// # Errors
    /// The disk fails or is full, or the blob was never begun.
    pub fn write_chunk(&self, id: Hash, index: u32, bytes: &[u8]) -> Result<bool, BlobError> {
        let manifest = self.state().partial.get(&id).map(|p| p.manifest.clone()).ok_or(BlobError::Missing(id))?;
        let Some(range) = manifest.range(index).filter(|_| manifest.is_chunk(index, bytes)) else { return Ok(false) };
        let path = self.path(id, "part");
        let write = || {
            let mut file = OpenOptions::new().write(true).open(&path)?;
            file.seek(SeekFrom::Start(range.start))?;
            file.write_all(bytes)
        };
        write().map_err(disk(&path))?;
        if let Some(partial) = self.state().partial.get_mut(&id) {
            partial.have.insert(index);
            partial.grown.send_replace(partial.have.len());
        }
        Ok(true)
    }

    /// Ends a blob whose chunks are all here. `durable` syncs it to the disk first; without, a power loss may damage it,
    /// which its next reader notices.
    ///
    /// # Errors
    /// The disk fails, or chunks are missing.
    pub fn seal(&self, id: Hash, durable: bool) -> Result<(), BlobError> {
        let manifest = {
            let state = self.state();
            let complete = state.partial.get(&id).filter(|p| p.have.len() as u32 == p.manifest.chunks());
            match complete {
                Some(partial) => partial.manifest.clone(),
                None if state.whole.contains_key(&id) => return Ok(()),
                None => return Err(BlobError::Missing(id)),
            }
        };
        let (part, whole) = (self.path(id, "part"), self.path(id, "blob"));
        if durable {
            File::open(&part).and_then(|f| f.sync_all()).map_err(disk(&part))?;
        }
        fs::rename(&part, &whole).map_err(disk(&whole))?;
        if durable {
            self.sync_dir()?;
        }
        let mut state = self.state();
        state.whole.insert(id, manifest);
        state.partial.remove(&id);
        Ok(())
    }

    /// Keeps a blob from being removed until `unpin`.
    pub fn pin(&self, id: Hash) {
        *self.state().pinned.entry(id).or_default() += 1;
    }

    /// Undoes one `pin`.
    pub fn unpin(&self, id: Hash) {
        let mut state = self.state();
        if let Some(count) = state.pinned.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                state.pinned.remove(&id);
            }
        }
    }

    /// Removes everything but `keep` and what is pinned, whole or in part.
    pub fn retain(&self, keep: &BTreeSet<Hash>) {
        let stale: Vec<Hash> = {
            let mut state = self.state();
            let known = state.whole.keys().chain(state.partial.keys()).chain(&state.leftover);
            let stale: Vec<Hash> =
                known.filter(|id| !keep.contains(id) && !state.pinned.contains_key(id)).copied().collect();
            for id in &stale {
                state.whole.remove(id);
                state.partial.remove(id);
                state.leftover.remove(id);
            }
            stale
        };
        for id in stale {
            for extension in ["blob", "part", "manifest"] {
                let _ = fs::remove_file(self.path(id, extension));
            }
        }
    }

    /// Bytes of the blobs that are whole.
    pub fn bytes_on_disk(&self) -> u64 {
        self.state().whole.values().map(|m| m.blob().len).sum()
    }
}

fn read_range(file: &mut File, range: std::ops::Range<u64>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    file.seek(SeekFrom::Start(range.start))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use paceline_protocol::bounds::CHUNK_BYTES;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    fn fresh() -> (tempfile::TempDir, BlobStore) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = BlobStore::open(dir.path()).expect("an empty folder opens");
        (dir, store)
    }

    #[test]
    fn what_was_put_is_there_after_a_restart() {
        let (dir, store) = fresh();
        let data = bytes(700_000);
        let blob = store.put(&data).expect("room on the disk");
        let again = BlobStore::open(dir.path()).expect("it opens again");
        assert_eq!(again.read(blob.id).expect("it is whole"), data);
    }

    #[test]
    fn a_part_resumes_with_the_chunks_that_were_whole() {
        let (dir, store) = fresh();
        let data = bytes(3 * CHUNK_BYTES as usize + 5);
        let manifest = Manifest::of(&data);
        let id = manifest.blob().id;
        assert_eq!(store.begin(manifest.clone()).expect("begins"), [0, 1, 2, 3]);
        let chunk = |i: usize| &data[i * CHUNK_BYTES as usize..data.len().min((i + 1) * CHUNK_BYTES as usize)];
        assert!(store.write_chunk(id, 1, chunk(1)).expect("writes"));
        drop(store);
        let again = BlobStore::open(dir.path()).expect("it opens again");
        assert!(!again.is_whole(id));
        assert_eq!(again.begin(manifest).expect("resumes"), [0, 2, 3]);
        for i in [0, 2, 3] {
            assert!(again.write_chunk(id, i as u32, chunk(i)).expect("writes"));
        }
        again.seal(id, true).expect("all chunks are here");
        assert_eq!(again.read(id).expect("it is whole"), data);
    }

    #[test]
    fn a_chunk_that_fails_its_hash_changes_nothing() {
        let (_dir, store) = fresh();
        let data = bytes(1_000);
        let manifest = Manifest::of(&data);
        let id = manifest.blob().id;
        store.begin(manifest).expect("begins");
        assert!(!store.write_chunk(id, 0, &bytes(999)).expect("no disk error"));
        assert!(store.seal(id, true).is_err());
    }

    #[test]
    fn a_damaged_blob_is_refused_and_forgotten() {
        let (dir, store) = fresh();
        let blob = store.put(&bytes(1_000)).expect("room on the disk");
        let path = dir.path().join(format!("{}.blob", blob.id));
        let mut data = fs::read(&path).expect("it is a file");
        data[500] ^= 1;
        fs::write(&path, data).expect("writes");
        assert!(matches!(store.read(blob.id), Err(BlobError::Damaged(_))));
        assert!(!store.is_whole(blob.id));
    }

    #[test]
    fn what_is_pinned_survives_a_clean_up() {
        let (_dir, store) = fresh();
        let (one, two) = (store.put(&bytes(10)).expect("room"), store.put(&bytes(20)).expect("room"));
        store.pin(one.id);
        store.retain(&BTreeSet::new());
        assert!(store.is_whole(one.id) && !store.is_whole(two.id));
    }
}
