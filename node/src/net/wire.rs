//! What nodes ask of each other about blobs, and how it looks on the wire.
//!
//! Weights do not go through serde: a request is a tag and fixed fields, an answer is a tag and raw bytes.

use paceline_protocol::Hash;
use paceline_protocol::bounds::{BLOB_BYTES_MAX, CHUNK_BYTES, MANIFEST_BYTES_MAX};
use thiserror::Error;

/// Bytes of the bitmap in [`BlobAnswer::Lacks`]: one bit for each chunk of the largest blob.
pub const BITMAP_BYTES_MAX: usize = (BLOB_BYTES_MAX / CHUNK_BYTES / 8) as usize;

/// Bytes of an encoded request: a tag, a hash, an index.
pub(super) const BLOB_REQUEST_BYTES_MAX: usize = 1 + 32 + 4;

/// Asks a peer for a piece of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlobRequest {
    /// The manifest, which lists the hashes of all chunks.
    Manifest {
        /// The blob's id: the hash of its manifest.
        blob: Hash,
    },
    /// One chunk.
    Chunk {
        /// The blob's id.
        blob: Hash,
        /// Which chunk, from 0.
        index: u32,
    },
}

/// The answer to a [`BlobRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlobAnswer {
    /// The manifest's bytes, at most `MANIFEST_BYTES_MAX`.
    Manifest(Vec<u8>),
    /// The chunk's bytes, at most `CHUNK_BYTES`.
    Chunk(Vec<u8>),
    /// Nothing is known of this blob here.
    Unknown,
    /// The blob is being fetched here, and this chunk is not there yet.
    Lacks {
        /// A bit for each chunk that is there, the lowest bit first.
        have: Vec<u8>,
    },
    /// Too many requests at once: ask another, or later.
    Busy,
}

/// Why an answer did not come.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AskError {
    /// No connection, and none could be made.
    #[error("the peer can't be reached")]
    Unreachable,
    /// No answer in the time given.
    #[error("no answer in time")]
    Timeout,
    /// The peer doesn't serve blobs of this run.
    #[error("the peer doesn't serve blobs of this run")]
    Unsupported,
    /// The answer was malformed or over a bound.
    #[error("the peer's answer is refused: {0}")]
    Malformed(String),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// This node's own queue of requests is full, or the network is shut down.
    #[error("this node's own network is overloaded or shut down")]
    Overloaded,
}

impl BlobRequest {
    /// The blob that is asked about.
    pub fn blob(&self) -> Hash {
        match self {
            Self::Manifest { blob } | Self::Chunk { blob, .. } => *blob,
        }
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Manifest { blob } => [&[0][..], blob.as_bytes()].concat(),
            Self::Chunk { blob, index } => [&[1][..], blob.as_bytes(), &index.to_le_bytes()].concat(),
        }
    }

    /// The request with these bytes; `None` if there is none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first()?;
        let (blob, rest) = rest.split_first_chunk::<32>()?;
        let blob = Hash::from_bytes(*blob);
        match (tag, rest) {
            (0, []) => Some(Self::Manifest { blob }),
            (1, index) => Some(Self::Chunk { blob, index: u32::from_le_bytes(index.try_into().ok()?) }),
            _ => None,
        }
    }
}

impl BlobAnswer {
    /// The tag that goes before the payload.
    pub(crate) fn tag(&self) -> u8 {
        match self {
            Self::Manifest(_) => 0,
            Self::Chunk(_) => 1,
            Self::Unknown => 2,
            Self::Lacks { .. } => 3,
            Self::Busy => 4,
        }
    }

    /// The bytes after the tag.
    pub(crate) fn payload(&self) -> &[u8] {
        match self {
            Self::Manifest(bytes) | Self::Chunk(bytes) | Self::Lacks { have: bytes } => bytes,
            Self::Unknown | Self::Busy => &[],
        }
    }

    /// The longest payload that an answer with this tag may have; `None` for a tag that doesn't exist.
    pub(crate) fn payload_max(tag: u8) -> Option<usize> {
        match tag {
            0 => Some(MANIFEST_BYTES_MAX),
            1 => Some(CHUNK_BYTES as usize),
            2 | 4 => Some(0),
            3 => Some(BITMAP_BYTES_MAX),
            _ => None,
        }
    }

    /// The answer with this tag and payload; `None` if there is none.
    pub(crate) fn from_parts(tag: u8, payload: Vec<u8>) -> Option<Self> {
        if payload.len() > Self::payload_max(tag)? {
            return None;
        }
        match tag {
            0 => Some(Self::Manifest(payload)),
            1 => Some(Self::Chunk(payload)),
            2 => Some(Self::Unknown),
            3 => Some(Self::Lacks { have: payload }),
            4 => Some(Self::Busy),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reads_back() {
        let blob = Hash::of(b"blob");
        for request in [BlobRequest::Manifest { blob }, BlobRequest::Chunk { blob, index: 77 }] {
            assert_eq!(BlobRequest::decode(&request.encode()), Some(request));
        }
    }

    #[test]
    fn a_request_with_bytes_too_few_or_too_many_is_none() {
        let bytes = BlobRequest::Chunk { blob: Hash::ZERO, index: 1 }.encode();
        assert_eq!(BlobRequest::decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(BlobRequest::decode(&[bytes.as_slice(), &[0]].concat()), None);
        assert_eq!(BlobRequest::decode(&[9; 33]), None);
    }

    #[test]
    fn an_answer_over_its_own_bound_is_none() {
        assert_eq!(BlobAnswer::from_parts(1, vec![0; CHUNK_BYTES as usize + 1]), None);
        assert_eq!(BlobAnswer::from_parts(2, vec![0]), None);
        assert_eq!(BlobAnswer::from_parts(9, vec![]), None);
    }
}
