//! The one place where messages become bytes and back.
//!
//! bincode with fixed-width integers. Three rules make it safe against hostile bytes: every decoding has a byte limit of
//! its own, every byte must be consumed, and no encoded type is recursive, zero-sized, or a map. From these follows that
//! the encoding is canonical: bytes that decode are the encoding of what they decode to (the tests try it), so a
//! signature over an encoding is a signature over the bytes received.
//!
//! Weights never come this way: they travel as raw little-endian chunks.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Bytes that are not a message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CodecError {
    /// Longer than the kind allows.
    #[error("{len} bytes, over the limit of {max}")]
    TooLong {
        /// Length found.
        len: usize,
        /// Length allowed.
        max: usize,
    },
    /// Not the encoding of the type.
    #[error("malformed: {0}")]
    Malformed(String),
    /// A valid encoding with more behind it.
    #[error("{0} bytes too many")]
    Trailing(usize),
}

/// Encodes `value`. Fails only for what has no encoding at all, which none of the crate's types is.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, bincode::config::standard().with_fixed_int_encoding())
        .expect("the crate's types hold nothing that bincode refuses, and memory is the only sink")
}

/// Decodes all of `bytes`, which may be at most `MAX` long.
pub fn decode<T: DeserializeOwned, const MAX: usize>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > MAX {
        return Err(CodecError::TooLong { len: bytes.len(), max: MAX });
    }
    let config: Configuration<LittleEndian, Fixint, Limit<MAX>> =
        bincode::config::standard().with_fixed_int_encoding().with_limit::<MAX>();
    let (value, used) =
        bincode::serde::decode_from_slice(bytes, config).map_err(|e| CodecError::Malformed(e.to_string()))?;
    match bytes.len() - used {
        0 => Ok(value),
        trailing => Err(CodecError::Trailing(trailing)),
    }
}
