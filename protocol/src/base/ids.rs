//! The small values that everything else is made of: hashes, node identities, ballots, blob references, time.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A BLAKE3 hash, 32 bytes. Its text is 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hash([u8; 32]);

/// The hash of a run file's canonical form: the name of a run.
pub type RunId = Hash;

impl Hash {
    /// All zero: stands where there is no hash yet.
    pub const ZERO: Hash = Hash([0; 32]);

    /// The hash with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// BLAKE3 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// BLAKE3 of the parts one after another, each preceded by its length, under a domain of its own: two different
    /// uses, or two different splits, never hash the same bytes.
    pub fn of_parts(domain: &str, parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(domain);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 10 hex digits: enough to tell hashes apart in a log line or a table.
    pub fn short(&self) -> String {
        self.to_string()[..10].to_owned()
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

/// Text that is no hash, node id or signature.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseIdError {
    /// A hash needs 64 hex digits.
    #[error("`{text}` is no hash: expected 64 hexadecimal digits")]
    Hash {
        /// What was given.
        text: String,
    },
    /// A node id is the base58 text of an ed25519 peer id.
    #[error("`{text}` is no node id: expected the base58 text of an ed25519 peer id, which begins with 12D3KooW")]
    NodeId {
        /// What was given.
        text: String,
    },
}

impl FromStr for Hash {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseIdError::Hash { text: text.to_owned() };
        if text.len() != 64 || !text.is_ascii() {
            return Err(error());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digit = |c: u8| char::from(c).to_digit(16).ok_or_else(error);
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Ok(Self(bytes))
    }
}

/// A node's identity: its ed25519 public key, which is what a libp2p `PeerId` of such a key wraps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId([u8; 32]);

/// What libp2p puts before the 32 bytes of an ed25519 key to make the `PeerId`: the identity multihash (0x00) of 36
/// bytes (0x24), which are the protobuf of the key: type (0x08) ed25519 (0x01), data (0x12) of 32 bytes (0x20).
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

impl NodeId {
    /// The node with this public key. Whether the bytes are a point of the curve shows when a signature is checked.
    pub const fn from_public_key(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The ed25519 public key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The bytes of the libp2p `PeerId`.
    pub fn to_peer_id_bytes(&self) -> Vec<u8> {
        [&PEER_ID_PREFIX[..], &self.0[..]].concat()
    }

    /// The node behind the bytes of a libp2p `PeerId`; `None` if that is not of an ed25519 key.
    pub fn from_peer_id_bytes(bytes: &[u8]) -> Option<Self> {
        let key = bytes.strip_prefix(&PEER_ID_PREFIX)?;
        Some(Self(key.try_into().ok()?))
    }

    /// The last 6 characters of the text: the first ones are the same for all nodes.
    pub fn short(&self) -> String {
        let text = self.to_string();
        text[text.len() - 6..].to_owned()
    }

    /// Whether this node signed `bytes`. Strict: no weak keys, no malleable signatures.
    pub fn verifies(&self, bytes: &[u8], signature: &Signature) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(&signature.to_bytes());
        VerifyingKey::from_bytes(&self.0).is_ok_and(|key| key.verify_strict(bytes, &signature).is_ok())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bs58::encode(self.to_peer_id_bytes()).into_string())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for NodeId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseIdError::NodeId { text: text.to_owned() };
        // A peer id of an ed25519 key has 52 characters; base58 of long text is slow, so it is not even tried.
        if text.len() > 64 {
            return Err(error());
        }
        let bytes = bs58::decode(text).into_vec().map_err(|_| error())?;
        Self::from_peer_id_bytes(&bytes).ok_or_else(error)
    }
}

/// An ed25519 signature: two halves, because serde derives arrays of at most 32 elements.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Signature([u8; 32], [u8; 32]);

impl Signature {
    /// The 64 bytes.
    pub fn to_bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&self.0);
        bytes[32..].copy_from_slice(&self.1);
        bytes
    }

    /// The signature with these bytes.
    pub fn from_bytes(bytes: &[u8; 64]) -> Self {
        let (mut low, mut high) = ([0; 32], [0; 32]);
        low.copy_from_slice(&bytes[..32]);
        high.copy_from_slice(&bytes[32..]);
        Self(low, high)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}{:02x}..", self.0[0], self.0[1])
    }
}

/// A node's secret: the ed25519 key that it signs with. Signing is deterministic (RFC 8032), so it needs no randomness.
#[derive(Clone)]
pub struct Identity(SigningKey);

impl Identity {
    /// The identity with this 32-byte ed25519 secret.
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// The public half.
    pub fn node_id(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    /// Signs `bytes`.
    pub fn sign(&self, bytes: &[u8]) -> Signature {
        Signature::from_bytes(&self.0.sign(bytes).to_bytes())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?})", self.node_id())
    }
}

/// A try at a round under one coordinator. Ballots of one round are ordered by attempt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ballot {
    /// The round, from 1 (0 is the founding).
    pub round: u64,
    /// The attempt in that round, from 0.
    pub attempt: u32,
}

impl Ballot {
    /// What stands for a whole round where no attempt is meant.
    pub const fn of_round(round: u64) -> Self {
        Self { round, attempt: 0 }
    }

    /// Above every ballot of a round: the promise of who saw it decided.
    pub const fn end_of_round(round: u64) -> Self {
        Self { round, attempt: u32::MAX }
    }
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.round, self.attempt)
    }
}

impl fmt::Debug for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A blob: bytes named by the hash of their manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlobRef {
    /// Hash of the manifest, which lists the hash of every chunk.
    pub id: Hash,
    /// Length in bytes.
    pub len: u64,
}

impl BlobRef {
    /// No blob: what the record of a founding that came to nothing names.
    pub const NONE: BlobRef = BlobRef { id: Hash::ZERO, len: 0 };
}

/// Milliseconds since a moment that the caller chose, never going back. The machine reads no clock: it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time(pub u64);

impl Time {
    /// The later moment, `ms` milliseconds on.
    pub const fn plus_ms(self, ms: u64) -> Time {
        Time(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to here, 0 if `earlier` is later.
    pub const fn since_ms(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_reads_back_from_its_text() {
        let hash = Hash::of(b"paceline");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert!("xyz".parse::<Hash>().is_err());
        assert!("é".repeat(32).parse::<Hash>().is_err());
    }

    #[test]
    fn a_node_id_is_the_text_of_the_libp2p_peer_id() {
        // The identity of the all-zero secret; its peer id as libp2p prints it begins like every ed25519 peer id.
        let id = Identity::from_secret(&[0; 32]).node_id();
        assert!(id.to_string().starts_with("12D3KooW"));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("12D3KooW".parse::<NodeId>().is_err());
    }

    #[test]
    fn a_signature_holds_for_its_bytes_and_its_signer_alone() {
        let (one, two) = (Identity::from_secret(&[1; 32]), Identity::from_secret(&[2; 32]));
        let signature = one.sign(b"a vote");
        assert!(one.node_id().verifies(b"a vote", &signature));
        assert!(!one.node_id().verifies(b"another vote", &signature));
        assert!(!two.node_id().verifies(b"a vote", &signature));
    }

    #[test]
    fn hashed_parts_do_not_run_into_each_other() {
        assert_ne!(Hash::of_parts("d", &[b"ab", b"c"]), Hash::of_parts("d", &[b"a", b"bc"]));
        assert_ne!(Hash::of_parts("d", &[b"ab"]), Hash::of_parts("e", &[b"ab"]));
    }
}
