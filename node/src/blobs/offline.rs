//! A folder of blobs that is looked at and left as it is: [`super::BlobStore`] mends what it finds damaged.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use paceline_protocol::Hash;
use paceline_protocol::bounds::BLOB_BYTES_MAX;

use super::Manifest;
use super::store::{BlobError, WHOLE};

/// The blobs of a node that does not run.
#[derive(Debug, Clone)]
pub struct BlobFolder {
    dir: PathBuf,
}

impl BlobFolder {
    /// The folder at `dir`, which need not be there.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The ids of the blobs that call themselves whole, ascending.
    ///
    /// # Errors
    /// The disk fails.
    pub fn ids(&self) -> Result<Vec<Hash>, BlobError> {
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(disk(&self.dir))?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            let path = entry.map_err(disk(&self.dir))?.path();
            if path.extension().is_some_and(|e| e == WHOLE) {
                ids.extend(path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse::<Hash>().ok()));
            }
        }
        ids.sort();
        Ok(ids)
    }

    /// The bytes of a blob, if they are the ones that it is named after.
    ///
    /// # Errors
    /// It is missing or damaged, or the disk fails.
    pub fn read(&self, id: Hash) -> Result<Vec<u8>, BlobError> {
        let path = self.dir.join(format!("{id}.{WHOLE}"));
        let file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(BlobError::Missing(id)),
            file => file.map_err(disk(&path))?,
        };
        let mut bytes = Vec::new();
        file.take(BLOB_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(disk(&path))?;
        if Manifest::of(&bytes).blob().id == id { Ok(bytes) } else { Err(BlobError::Damaged(path)) }
    }
}

fn disk(path: &Path) -> impl FnOnce(io::Error) -> BlobError + '_ {
    move |source| BlobError::Disk { path: path.to_owned(), source }
}
