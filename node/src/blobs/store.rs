//! Blobs on disk: `ID.blob` is whole, `ID.part` grows chunk by chunk, `ID.manifest` tells what belongs into both.
//!
//! A blob is whole or it is not, also after kill -9 or a power loss: a part becomes a blob by a rename after its bytes are
//! on disk. What is found at a start is hashed again, chunk by chunk, so that nothing half-written counts and nothing
//! that is right is fetched twice.

mod chunk_waiters;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use paceline_protocol::bounds::MANIFEST_BYTES_MAX;
use paceline_protocol::{BlobRef, Hash};
use thiserror::Error;

use super::manifest::Manifest;
use crate::store::files;
use chunk_waiters::ChunkWaiters;
pub use chunk_waiters::{ChunkSignal, FetchGuard};

/// Bytes of whole blobs that are hashed again at a start: a few seconds' worth. What is beyond is believed by its length
/// until it is read, which hashes it anyway.
const VERIFIED_BYTES_MAX: u64 = 4 << 30;

pub(super) const WHOLE: &str = "blob";
const PART: &str = "part";
const MANIFEST: &str = "manifest";

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
    #[error(
        "{0} is damaged: it or its manifest has not the hash of its name; what is right of it is kept, and if it is needed the rest is fetched again"
    )]
    Damaged(PathBuf),
}

/// The blobs of one node.
#[derive(Debug)]
pub struct BlobStore {
    dir: PathBuf,
    state: Mutex<State>,
    /// What the disk last failed with.
    trouble: Mutex<Option<String>>,
}

#[derive(Debug, Default)]
struct State {
    whole: BTreeMap<Hash, Whole>,
    partial: BTreeMap<Hash, Partial>,
    /// What a start found and could not count as whole: parts that a fetch may resume.
    unverified: BTreeSet<Hash>,
    /// Blobs that `retain` leaves alone once: whoever says what to keep may not have heard of them yet.
    fresh: BTreeSet<Hash>,
    /// Blobs in use, which `retain` leaves alone, with the count of their users.
    pinned: BTreeMap<Hash, usize>,
    waiters: ChunkWaiters,
}

/// A blob of which every chunk is here.
#[derive(Debug, Clone)]
struct Whole {
    manifest: Arc<Manifest>,
    /// Whether it is on disk under its own name. If not it is a part still, and counts as one after a restart.
    durable: bool,
}

impl Whole {
    fn extension(&self) -> &'static str {
        if self.durable { WHOLE } else { PART }
    }
}

/// What is known of a blob that is not whole yet.
#[derive(Debug)]
struct Partial {
    manifest: Arc<Manifest>,
    have: BTreeSet<u32>,
}

impl Partial {
    fn missing(&self) -> Vec<u32> {
        (0..self.manifest.chunks()).filter(|i| !self.have.contains(i)).collect()
    }
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
        files::sweep(dir).map_err(disk(dir))?;
        let store = Self { dir: dir.to_owned(), state: Mutex::default(), trouble: Mutex::default() };
        let mut found: BTreeMap<Hash, bool> = BTreeMap::new();
        for entry in fs::read_dir(dir).map_err(disk(dir))? {
            let path = entry.map_err(disk(dir))?.path();
            let id = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse::<Hash>().ok());
            let extension = path.extension().and_then(|e| e.to_str());
            if let (Some(id), Some(extension @ (WHOLE | PART | MANIFEST))) = (id, extension) {
                *found.entry(id).or_default() |= extension == WHOLE;
            }
        }
        let mut budget = VERIFIED_BYTES_MAX;
        for (id, has_whole) in found {
            let manifest = has_whole.then(|| store.whole_on_disk(id, &mut budget)).flatten();
            let mut state = store.state();
            state.fresh.insert(id);
            match manifest {
                Some(manifest) => {
                    state.whole.insert(id, Whole { manifest: Arc::new(manifest), durable: true });
                }
                None => {
                    state.unverified.insert(id);
                    drop(state);
                    if has_whole {
                        store.demote(id);
                    }
                }
            }
        }
        Ok(store)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the disk last failed with, until something is written to it again.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn forget_trouble(&self) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A failure of the disk, which is remembered.
    fn disk<'a>(&'a self, path: &'a Path) -> impl FnOnce(io::Error) -> BlobError + 'a {
        move |source| {
            let error = disk(path)(source);
            *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
            error
        }
    }

    fn path(&self, id: Hash, extension: &str) -> PathBuf {
        self.dir.join(format!("{id}.{extension}"))
    }

    fn manifest_on_disk(&self, id: Hash) -> Option<Manifest> {
        let mut bytes = Vec::new();
        let file = File::open(self.path(id, MANIFEST)).ok()?;
        file.take(MANIFEST_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).ok()?;
        Manifest::parse_named(&bytes, id)
    }

    /// The manifest of a blob whose file has what the manifest says, as far as the budget of bytes goes.
    fn whole_on_disk(&self, id: Hash, budget: &mut u64) -> Option<Manifest> {
        let manifest = self.manifest_on_disk(id)?;
        let path = self.path(id, WHOLE);
        let len = fs::metadata(&path).ok()?.len();
        let affordable = *budget >= len;
        *budget = budget.saturating_sub(len);
        let right = len == manifest.blob().len && (!affordable || holds(&path, &manifest));
        right.then_some(manifest)
    }

    /// A damaged blob becomes a part, whose right chunks count when it is fetched again.
    fn demote(&self, id: Hash) {
        tracing::warn!("{}", BlobError::Damaged(self.path(id, WHOLE)));
        let _ = fs::rename(self.path(id, WHOLE), self.path(id, PART));
    }

    /// The ids of the blobs that are whole.
    pub fn whole(&self) -> Vec<Hash> {
        self.state().whole.keys().copied().collect()
    }

    /// Whether all of a blob is here.
    pub fn is_whole(&self, id: Hash) -> bool {
        self.state().whole.contains_key(&id)
    }

    /// Puts bytes on disk, durably. Of one that is here already the bytes on disk are checked, and repaired.
    ///
    /// # Errors
    /// The disk fails or is full; then nothing of it counts.
    pub fn put(&self, bytes: &[u8]) -> Result<BlobRef, BlobError> {
        let manifest = Manifest::of(bytes);
        let blob = manifest.blob();
        let known = self.state().whole.get(&blob.id).cloned();
        if let Some(known) = known
            && holds(&self.path(blob.id, known.extension()), &manifest)
        {
            self.seal(blob.id, true)?;
            return Ok(blob);
        }
        for (extension, bytes) in [(MANIFEST, &manifest.encode()[..]), (WHOLE, bytes)] {
            let path = self.path(blob.id, extension);
            files::write_whole(&path, bytes).map_err(self.disk(&path))?;
        }
        self.sync_dir()?;
        self.forget_trouble();
        self.count_as_whole(blob.id, Arc::new(manifest), true);
        // One that was being fetched meanwhile: the fetch finds it whole.
        let _ = fs::remove_file(self.path(blob.id, PART));
        Ok(blob)
    }

    fn count_as_whole(&self, id: Hash, manifest: Arc<Manifest>, durable: bool) {
        let mut state = self.state();
        state.whole.insert(id, Whole { manifest, durable });
        state.partial.remove(&id);
        state.unverified.remove(&id);
        state.fresh.insert(id);
        state.waiters.tell(id);
    }

    fn sync_dir(&self) -> Result<(), BlobError> {
        files::sync_dir(&self.dir).map_err(self.disk(&self.dir))
    }

    /// All of a blob, checked against its hash.
    ///
    /// # Errors
    /// It is not here, the disk fails, or the file is damaged: then it no longer counts as here.
    pub fn read(&self, id: Hash) -> Result<Vec<u8>, BlobError> {
        let whole = self.state().whole.get(&id).cloned().ok_or(BlobError::Missing(id))?;
        // A part may have become a blob meanwhile.
        let path = self.path(id, whole.extension());
        let read = fs::read(&path).or_else(|_| fs::read(self.path(id, WHOLE)));
        let bytes = read.map_err(self.disk(&path))?;
        if Manifest::of(&bytes) != *whole.manifest {
            self.forget_damaged(id);
            return Err(BlobError::Damaged(path));
        }
        Ok(bytes)
    }

    fn forget_damaged(&self, id: Hash) {
        let mut state = self.state();
        if state.whole.remove(&id).is_some() {
            state.unverified.insert(id);
            self.demote(id);
        }
    }

    /// The manifest of a blob that is here or being fetched, or was when the node was stopped.
    pub fn manifest(&self, id: Hash) -> Option<Arc<Manifest>> {
        let is_unverified = {
            let state = self.state();
            let partial = || state.partial.get(&id).map(|p| &p.manifest);
            if let Some(manifest) = state.whole.get(&id).map(|w| &w.manifest).or_else(partial) {
                return Some(manifest.clone());
            }
            state.unverified.contains(&id)
        };
        is_unverified.then(|| self.manifest_on_disk(id).map(Arc::new)).flatten()
    }

    /// Whether a chunk is here.
    pub fn has_chunk(&self, id: Hash, index: u32) -> bool {
        let state = self.state();
        let whole = state.whole.get(&id).is_some_and(|w| index < w.manifest.chunks());
        whole || state.partial.get(&id).is_some_and(|p| p.have.contains(&index))
    }

    /// One chunk, if it is here; also of a blob that is not whole.
    pub fn chunk(&self, id: Hash, index: u32) -> Option<Vec<u8>> {
        let (manifest, extension) = {
            let state = self.state();
            match (state.whole.get(&id), state.partial.get(&id)) {
                (Some(whole), _) => (whole.manifest.clone(), whole.extension()),
                (None, Some(partial)) if partial.have.contains(&index) => (partial.manifest.clone(), PART),
                _ => return None,
            }
        };
        let range = manifest.range(index)?;
        // A part may have become a blob meanwhile.
        let file = File::open(self.path(id, extension)).or_else(|_| File::open(self.path(id, WHOLE)));
        let bytes = read_range(&mut file.ok()?, range).ok()?;
        let right = manifest.is_chunk(index, &bytes);
        if !right {
            self.forget_damaged(id);
            self.state().partial.get_mut(&id).map(|p| p.have.remove(&index));
        }
        right.then_some(bytes)
    }

    /// The chunks that are here of a blob that is not whole: a bit each, the lowest first.
    pub fn bitmap(&self, id: Hash) -> Option<Vec<u8>> {
        let state = self.state();
        let partial = state.partial.get(&id)?;
        let mut bits = vec![0u8; partial.manifest.chunks().div_ceil(8) as usize];
        partial.have.iter().for_each(|i| bits[*i as usize / 8] |= 1 << (i % 8));
        Some(bits)
    }

    /// Begins or resumes a blob. Returns the chunks that are missing.
    ///
    /// # Errors
    /// The disk fails or is full.
    pub fn begin(&self, manifest: Manifest) -> Result<Vec<u32>, BlobError> {
        let blob = manifest.blob();
        if let Some(missing) = self.state().missing(blob.id) {
            return Ok(missing);
        }
        // One that is resumed on a full disk needs no more room.
        if self.manifest_on_disk(blob.id).as_ref() != Some(&manifest) {
            let path = self.path(blob.id, MANIFEST);
            files::write_whole(&path, &manifest.encode()).map_err(self.disk(&path))?;
        }
        let path = self.path(blob.id, PART);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(self.disk(&path))?;
        // What an earlier try left counts, chunk by chunk, if it hashes right.
        let found = file.metadata().map_err(self.disk(&path))?.len();
        let mut have = BTreeSet::new();
        for index in 0..manifest.chunks() {
            let Some(range) = manifest.range(index).filter(|r| r.end <= found) else { break };
            if read_range(&mut file, range).is_ok_and(|bytes| manifest.is_chunk(index, &bytes)) {
                have.insert(index);
            }
        }
        file.set_len(blob.len).map_err(self.disk(&path))?;
        let mut state = self.state();
        // Another may have been quicker.
        if let Some(missing) = state.missing(blob.id) {
            return Ok(missing);
        }
        let partial = Partial { manifest: Arc::new(manifest), have };
        let missing = partial.missing();
        state.partial.insert(blob.id, partial);
        state.unverified.remove(&blob.id);
        state.waiters.tell(blob.id);
        Ok(missing)
    }

    /// Takes a chunk of a blob that was begun. Whether it is the right one; a wrong one changes nothing.
    ///
    /// # Errors
    /// The disk fails or is full, or the blob was never begun.
    pub fn write_chunk(&self, id: Hash, index: u32, bytes: &[u8]) -> Result<bool, BlobError> {
        let (manifest, is_whole) = {
            let state = self.state();
            match (state.whole.get(&id), state.partial.get(&id)) {
                (Some(whole), _) => (whole.manifest.clone(), true),
                (None, Some(partial)) => (partial.manifest.clone(), false),
                (None, None) => return Err(BlobError::Missing(id)),
            }
        };
        let Some(range) = manifest.range(index).filter(|_| manifest.is_chunk(index, bytes)) else { return Ok(false) };
        if is_whole {
            return Ok(true);
        }
        let path = self.path(id, PART);
        let write = || {
            let mut file = OpenOptions::new().write(true).open(&path)?;
            file.seek(SeekFrom::Start(range.start))?;
            file.write_all(bytes)
        };
        if let Err(source) = write() {
            // It may have become whole by another way meanwhile, and the part be gone.
            return if self.is_whole(id) { Ok(true) } else { Err(self.disk(&path)(source)) };
        }
        self.forget_trouble();
        let mut state = self.state();
        if let Some(partial) = state.partial.get_mut(&id) {
            partial.have.insert(index);
            state.waiters.tell(id);
        }
        Ok(true)
    }

    /// Ends a blob whose chunks are all here. `durable` syncs it to the disk and gives it its name; without, it is a part
    /// again after a restart, whose chunks are checked.
    ///
    /// # Errors
    /// The disk fails, or chunks are missing.
    pub fn seal(&self, id: Hash, durable: bool) -> Result<(), BlobError> {
        let manifest = {
            let state = self.state();
            let complete = state.partial.get(&id).filter(|p| p.have.len() as u32 == p.manifest.chunks());
            match (state.whole.get(&id), complete) {
                (Some(whole), _) if whole.durable || !durable => return Ok(()),
                (Some(whole), _) => whole.manifest.clone(),
                (None, Some(partial)) => partial.manifest.clone(),
                (None, None) => return Err(BlobError::Missing(id)),
            }
        };
        if durable {
            let (part, whole) = (self.path(id, PART), self.path(id, WHOLE));
            let finish = || File::open(&part)?.sync_all().and_then(|()| fs::rename(&part, &whole));
            match finish() {
                // It was put there by another way meanwhile.
                Err(_) if self.state().whole.get(&id).is_some_and(|w| w.durable) => return Ok(()),
                result => result.map_err(self.disk(&part))?,
            }
            self.sync_dir()?;
            self.forget_trouble();
        }
        self.count_as_whole(id, manifest, durable);
        Ok(())
    }

    /// Says that a blob is being fetched, until the answer is dropped: who asks for its chunks may wait for them.
    pub fn fetching(self: &Arc<Self>, id: Hash) -> FetchGuard {
        FetchGuard::begin(self.clone(), id)
    }

    /// For a blob that is being fetched: tells when more of it is here.
    pub fn chunk_signal(&self, id: Hash) -> Option<ChunkSignal> {
        self.state().waiters.watch(id)
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

    /// Removes everything but `keep` and what is pinned, whole or in part. What came since the last time, or was found
    /// at the start, stays once more: it may be of use to somebody who has not said so yet.
    pub fn retain(&self, keep: &BTreeSet<Hash>) {
        let mut gone = Vec::new();
        {
            let mut state = self.state();
            let fresh = std::mem::take(&mut state.fresh);
            let known: BTreeSet<Hash> =
                state.whole.keys().chain(state.partial.keys()).chain(&state.unverified).copied().collect();
            let stays = |id: &Hash| keep.contains(id) || fresh.contains(id) || state.pinned.contains_key(id);
            for id in known.into_iter().filter(|id| !stays(id)).collect::<Vec<_>>() {
                state.whole.remove(&id);
                state.partial.remove(&id);
                state.unverified.remove(&id);
                gone.extend(self.set_aside(id));
            }
        }
        for path in gone {
            let _ = fs::remove_file(path);
        }
    }

    /// Takes a blob's files out of the way at once, for whoever puts the same blob next; a large one takes long to remove.
    fn set_aside(&self, id: Hash) -> Vec<PathBuf> {
        let aside = |extension| {
            let gone = self.path(id, &format!("{extension}.{}", files::UNFINISHED));
            fs::rename(self.path(id, extension), &gone).ok().map(|()| gone)
        };
        [WHOLE, PART, MANIFEST].into_iter().filter_map(aside).collect()
    }
}

impl State {
    /// The chunks that are missing of a blob that is whole or was begun.
    fn missing(&self, id: Hash) -> Option<Vec<u32>> {
        if self.whole.contains_key(&id) { Some(Vec::new()) } else { self.partial.get(&id).map(Partial::missing) }
    }
}

/// Whether a file holds a blob, chunk by chunk.
fn holds(path: &Path, manifest: &Manifest) -> bool {
    let Ok(mut file) = File::open(path) else { return false };
    let mut right = |index| {
        let range = manifest.range(index).unwrap_or_default();
        read_range(&mut file, range).is_ok_and(|bytes| manifest.is_chunk(index, &bytes))
    };
    (0..manifest.chunks()).all(&mut right) && file.metadata().is_ok_and(|m| m.len() == manifest.blob().len)
}

fn read_range(file: &mut File, range: std::ops::Range<u64>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    file.seek(SeekFrom::Start(range.start))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
