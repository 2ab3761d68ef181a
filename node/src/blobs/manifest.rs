//! The manifest of a blob: its length and the hash of every chunk. The hash of its encoding is the blob's id.

use paceline_protocol::bounds::{BLOB_BYTES_MAX, CHUNK_BYTES, MANIFEST_BYTES_MAX};
use paceline_protocol::codec;
use paceline_protocol::{BlobRef, Hash};
use serde::{Deserialize, Serialize};

/// Length and chunk hashes. Every chunk but the last has `CHUNK_BYTES`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    len: u64,
    chunks: Vec<Hash>,
}

impl Manifest {
    /// The manifest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self { len: bytes.len() as u64, chunks: bytes.chunks(CHUNK_BYTES as usize).map(Hash::of).collect() }
    }

    /// Reads a manifest that should be the one of `blob`; `None` if it is not, whatever is wrong with it.
    pub fn parse(bytes: &[u8], blob: BlobRef) -> Option<Self> {
        let manifest = Self::parse_named(bytes, blob.id)?;
        (manifest.len == blob.len).then_some(manifest)
    }

    /// Reads the manifest with this hash, of a blob of whatever length.
    pub(super) fn parse_named(bytes: &[u8], id: Hash) -> Option<Self> {
        if Hash::of(bytes) != id {
            return None;
        }
        let manifest: Self = codec::decode::<_, MANIFEST_BYTES_MAX>(bytes).ok()?;
        let fits = manifest.len <= BLOB_BYTES_MAX && manifest.chunks.len() as u64 == manifest.len.div_ceil(CHUNK_BYTES);
        fits.then_some(manifest)
    }

    /// The bytes that travel, and whose hash is the id.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// The blob's name.
    pub fn blob(&self) -> BlobRef {
        BlobRef { id: Hash::of(&self.encode()), len: self.len }
    }

    /// How many chunks.
    pub fn chunks(&self) -> u32 {
        self.chunks.len() as u32
    }

    /// Where a chunk lies in the blob.
    pub fn range(&self, index: u32) -> Option<std::ops::Range<u64>> {
        let start = u64::from(index) * CHUNK_BYTES;
        (index < self.chunks()).then(|| start..(start + CHUNK_BYTES).min(self.len))
    }

    /// Whether these bytes are the chunk.
    pub fn is_chunk(&self, index: u32, bytes: &[u8]) -> bool {
        let length = self.range(index).map(|r| r.end - r.start);
        length == Some(bytes.len() as u64) && self.chunks.get(index as usize) == Some(&Hash::of(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_reads_back_under_its_own_id_alone() {
        let manifest = Manifest::of(&vec![7; 3 * CHUNK_BYTES as usize / 2]);
        let (bytes, blob) = (manifest.encode(), manifest.blob());
        assert_eq!(Manifest::parse(&bytes, blob), Some(manifest));
        assert_eq!(Manifest::parse(&bytes, BlobRef { len: blob.len + 1, ..blob }), None);
        assert_eq!(Manifest::parse(&bytes[1..], blob), None);
    }

    #[test]
    fn a_manifest_whose_length_and_chunks_disagree_is_none() {
        let wrong = Manifest { len: CHUNK_BYTES + 1, chunks: vec![Hash::ZERO] };
        let bytes = wrong.encode();
        let blob = BlobRef { id: Hash::of(&bytes), len: wrong.len };
        assert_eq!(Manifest::parse(&bytes, blob), None);
    }

    #[test]
    fn the_last_chunk_is_as_long_as_what_remains() {
        let bytes: Vec<u8> = (0..CHUNK_BYTES + 10).map(|i| i as u8).collect();
        let manifest = Manifest::of(&bytes);
        assert_eq!(manifest.range(1), Some(CHUNK_BYTES..CHUNK_BYTES + 10));
        assert!(manifest.is_chunk(1, &bytes[CHUNK_BYTES as usize..]));
        assert!(!manifest.is_chunk(1, &bytes[1..11]));
        assert_eq!(manifest.range(2), None);
    }
}
