//! Makes values of any type that is said or signed, as bytes choose: a serde deserialiser that reads choices in place of an
//! encoding.
//!
//! Bytes alone never get past the first signature. So what is signed here is signed by one of a few known nodes, in a scope
//! that may be the right one; hashes, nodes and ballots are mostly those that are about. Because serde names what it wants,
//! a message or a field that is added tomorrow is made as well.

use serde::de::value::{Error, SeqDeserializer, U32Deserializer};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, SeqAccess, VariantAccess, Visitor};
use serde::de::{Error as _, IntoDeserializer};
use serde::forward_to_deserialize_any;

use super::bytes::Bytes;
use crate::base::aggregation::Aggregation;
use crate::base::bounds::PROTOCOL_VERSION;
use crate::base::codec;
use crate::base::ids::{BlobRef, Hash, Identity, NodeId};
use crate::base::signed::{Scope, StatementKind};
use crate::chain::fixture::params;
use crate::record::{Founding, founding_scope, request_scope};

/// Bytes of what is made, beyond which lists stay empty.
const MADE_BYTES_MAX: usize = 16 << 10;

/// What values are made of.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// The nodes, ascending.
    pub(super) keys: Vec<Identity>,
    /// The one whose signature nobody has: that of the machine under test.
    pub(super) unforgeable: NodeId,
    /// The roster, as places among them.
    pub(super) members: Vec<usize>,
    /// The scope that is signed in now, and others that were or may be.
    pub(super) scope: Scope,
    pub(super) scopes: Vec<Scope>,
    pub(super) hashes: Vec<Hash>,
    pub(super) blobs: Vec<BlobRef>,
    pub(super) round: u64,
    pub(super) attempt: u32,
    /// Goes into what is made up.
    pub(super) salt: u32,
}

/// How many hashes, scopes and blobs are remembered.
const REMEMBERED_MAX: usize = 24;

impl Known {
    pub(super) fn hash(&mut self, hash: Hash) {
        remember(&mut self.hashes, hash);
    }

    pub(super) fn scope(&mut self, scope: Scope) {
        remember(&mut self.scopes, scope);
    }

    pub(super) fn blob(&mut self, blob: BlobRef) {
        remember(&mut self.blobs, blob);
    }

    fn node(&self, place: usize) -> NodeId {
        self.keys[place % self.keys.len()].node_id()
    }

    /// Where a statement of a kind holds: at its right place, or at another.
    fn scope_of(&self, kind: StatementKind, bytes: &mut Bytes<'_>) -> Scope {
        let (choice, now) = (bytes.byte(), self.scope);
        if choice >= 0xE0 {
            return bytes.pick(&self.scopes).unwrap_or(now);
        }
        match kind {
            StatementKind::Founding => Founding::proposal_scope(now.run),
            StatementKind::Join | StatementKind::Leave => request_scope(now.run, now.chain),
            StatementKind::Alive => {
                request_scope(now.run, bytes.pick(&self.scopes).map_or(now.chain, |scope| scope.chain))
            }
            StatementKind::Bind | StatementKind::Refusal => {
                let is_founding = |s: &&Scope| s.chain == s.parent;
                let foundings: Vec<Scope> = self.scopes.iter().filter(is_founding).copied().collect();
                bytes.pick(&foundings).unwrap_or(now)
            }
            _ => now,
        }
    }
}

fn remember<T: PartialEq>(all: &mut Vec<T>, one: T) {
    if all.contains(&one) {
        return;
    }
    if all.len() == REMEMBERED_MAX {
        // What came first, the genesis and the like, is what most is about.
        all.remove(REMEMBERED_MAX / 2);
    }
    all.push(one);
}

/// A value of this type, as the bytes choose; `None` for one that holds more than it may.
pub(super) fn make<T: DeserializeOwned>(known: &mut Known, bytes: &mut Bytes<'_>) -> Option<T> {
    let mut maker = Maker { known, bytes, encoded: Vec::new(), forced: None, statement: None, numbers: None };
    T::deserialize(&mut maker).ok()
}

struct Maker<'a, 'b> {
    known: &'a mut Known,
    bytes: &'a mut Bytes<'b>,
    /// The encoding of what was made so far, as `codec` makes it: what signatures cover.
    encoded: Vec<u8>,
    /// The next node: elements of a list are of nodes that ascend.
    forced: Option<NodeId>,
    /// The kind of the statement whose content comes next, once it is known.
    statement: Option<Option<StatementKind>>,
    /// A hash and a length, or a ballot, that is made as a whole.
    numbers: Option<Whole>,
}

#[derive(Clone, Copy)]
enum Whole {
    Blob(BlobRef),
    Ballot(u64, u32),
}

/// The statement with this name.
fn statement(name: &str) -> Option<StatementKind> {
    Some(match name {
        "Founding" => StatementKind::Founding,
        "Bind" => StatementKind::Bind,
        "Refusal" => StatementKind::Refusal,
        "Vote" => StatementKind::Vote,
        "Proposed" => StatementKind::Proposed,
        "Accept" => StatementKind::Accept,
        "RoundPlan" => StatementKind::Plan,
        "Contribution" => StatementKind::Contribution,
        "FinalEvaluation" => StatementKind::Evaluation,
        "Join" => StatementKind::Join,
        "Leave" => StatementKind::Leave,
        "Failure" => StatementKind::Failure,
        "Resume" => StatementKind::Resume,
        "Alive" => StatementKind::Alive,
        _ => return None,
    })
}

impl Maker<'_, '_> {
    fn put(&mut self, bytes: &[u8]) {
        self.encoded.extend_from_slice(bytes);
    }

    fn number(&mut self) -> u64 {
        let choice = self.bytes.byte();
        match choice % 8 {
            0 => 0,
            1..=4 => self.known.round.wrapping_add(u64::from(choice / 8 % 4)).wrapping_sub(1),
            5 => u64::from(self.bytes.byte()),
            6 => self.bytes.u64(),
            _ => u64::MAX - u64::from(choice / 8),
        }
    }

    fn real(&mut self) -> f64 {
        match self.bytes.byte() % 8 {
            0..=3 => 0.5,
            4 => -1.0,
            5 => f64::NAN,
            6 => f64::INFINITY,
            _ => f64::from_bits(self.bytes.u64()),
        }
    }

    fn hash(&mut self) -> Hash {
        let choice = self.bytes.byte();
        match choice {
            0xF0..=0xFF => self.made_up(choice),
            _ => self
                .known
                .hashes
                .get(usize::from(choice) % self.known.hashes.len().max(1))
                .copied()
                .unwrap_or(Hash::ZERO),
        }
    }

    /// What nobody has heard of.
    fn made_up(&self, choice: u8) -> Hash {
        Hash::of_parts("made up", &[&[choice], &self.known.salt.to_le_bytes()])
    }

    fn node(&mut self) -> NodeId {
        if let Some(node) = self.forced.take() {
            return node;
        }
        let choice = self.bytes.byte();
        match choice {
            0xF8..=0xFF => NodeId::from_public_key(*self.made_up(choice).as_bytes()),
            _ => self.known.node(usize::from(choice)),
        }
    }

    /// The nodes that the elements of a list are of: the roster, or any that can sign.
    fn list(&mut self) -> Vec<NodeId> {
        let choice = self.bytes.byte();
        if self.encoded.len() > MADE_BYTES_MAX {
            return Vec::new();
        }
        let places: Vec<usize> = match choice {
            0x80.. => self.known.members.clone(),
            _ => (0..self.known.keys.len()).filter(|i| choice >> i & 1 == 1).collect(),
        };
        places.into_iter().map(|place| self.known.node(place)).collect()
    }

    /// A struct's fields, a tuple's elements, a statement: what serde asks for, one after the other.
    fn fields<'de, V: Visitor<'de>>(&mut self, len: usize, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Fields { maker: self, nodes: vec![None; len].into_iter() })
    }

    fn signed<'de, V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        let outer = self.statement.take();
        let signed = visitor.visit_seq(SignedFields { maker: self, step: 0, start: 0, by: None });
        self.statement = outer;
        signed
    }

    /// The signature of the content that was encoded from `start` on.
    fn sign(&mut self, by: NodeId, start: usize) -> [u8; 64] {
        let content = &self.encoded[start..];
        let kind = self.statement.flatten();
        let key = self.known.keys.iter().find(|key| key.node_id() == by && by != self.known.unforgeable).cloned();
        let (Some(kind), Some(key)) = (kind, key) else { return [0; 64] };
        let scope = self.known.scope_of(kind, self.bytes);
        let mut covered = codec::encode(&("paceline", PROTOCOL_VERSION, scope, kind, by));
        covered.extend_from_slice(content);
        if kind == StatementKind::Founding {
            let id = Hash::of_parts("paceline founding", &[by.as_bytes(), content]);
            let run = self.known.scope.run;
            self.known.hash(id);
            self.known.scope(founding_scope(run, id));
        }
        key.sign(&covered).to_bytes()
    }
}

/// Bytes of an array, to whoever asks for it.
struct Array<'a>(&'a [u8]);

impl<'de> Deserializer<'de> for Array<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(SeqDeserializer::new(self.0.iter().copied()))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq
        tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// Elements, each of a node if its place says so.
struct Fields<'m, 'a, 'b> {
    maker: &'m mut Maker<'a, 'b>,
    nodes: std::vec::IntoIter<Option<NodeId>>,
}

impl<'de> SeqAccess<'de> for Fields<'_, '_, '_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(node) = self.nodes.next() else { return Ok(None) };
        if node.is_some() {
            self.maker.forced = node;
        }
        let element = seed.deserialize(&mut *self.maker)?;
        if node.is_some() {
            self.maker.forced = None;
        }
        Ok(Some(element))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.nodes.len())
    }
}

/// Signer, content, signature.
struct SignedFields<'m, 'a, 'b> {
    maker: &'m mut Maker<'a, 'b>,
    step: u8,
    start: usize,
    by: Option<NodeId>,
}

impl<'de> SeqAccess<'de> for SignedFields<'_, '_, '_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.step += 1;
        match self.step {
            1 => {
                let by = self.maker.node();
                self.by = Some(by);
                // The newtype takes the bytes as they are.
                self.maker.forced = Some(by);
                let field = seed.deserialize(&mut *self.maker)?;
                self.start = self.maker.encoded.len();
                self.maker.statement = Some(None);
                Ok(Some(field))
            }
            2 => seed.deserialize(&mut *self.maker).map(Some),
            3 => {
                let by = self.by.ok_or_else(|| Error::custom("a statement without a signer"))?;
                let signature = self.maker.sign(by, self.start);
                self.maker.put(&signature);
                seed.deserialize(Halves(signature)).map(Some)
            }
            _ => Ok(None),
        }
    }
}

/// A signature, to whoever asks for it.
struct Halves([u8; 64]);

impl<'de> Deserializer<'de> for Halves {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        struct Both([u8; 64], usize);
        impl<'de> SeqAccess<'de> for Both {
            type Error = Error;

            fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
                let half = self.0.chunks_exact(32).nth(self.1);
                self.1 += 1;
                half.map(|half| seed.deserialize(Array(half))).transpose()
            }
        }
        visitor.visit_seq(Both(self.0, 0))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq
        tuple tuple_struct map struct enum identifier ignored_any
    }
}

macro_rules! integers {
    ($($deserialize:ident $visit:ident $type:ty),*) => { $(
        fn $deserialize<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let number = self.number() as $type;
            self.put(&number.to_le_bytes());
            visitor.$visit(number)
        }
    )* };
}

impl<'de> Deserializer<'de> for &mut Maker<'_, '_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("what is said has types"))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let is = self.bytes.byte() & 1 == 1;
        self.put(&[u8::from(is)]);
        visitor.visit_bool(is)
    }

    integers! {
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32, deserialize_i64 visit_i64 i64,
        deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let number = match self.numbers {
            Some(Whole::Ballot(_, attempt)) => attempt,
            _ => self.number() as u32,
        };
        self.put(&number.to_le_bytes());
        visitor.visit_u32(number)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let number = match self.numbers {
            Some(Whole::Ballot(round, _)) => round,
            Some(Whole::Blob(blob)) => blob.len,
            None => self.number(),
        };
        self.put(&number.to_le_bytes());
        visitor.visit_u64(number)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let number = self.real() as f32;
        self.put(&number.to_le_bytes());
        visitor.visit_f32(number)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let number = self.real();
        self.put(&number.to_le_bytes());
        visitor.visit_f64(number)
    }

    fn deserialize_char<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("nothing that is said holds a character"))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let choice = self.bytes.byte();
        // Now and then as long as a bound, or longer.
        let len = if choice >= 0xF8 { usize::from(choice - 0xF0) * 32 } else { usize::from(choice % 4) };
        let text: String = (0..len).map(|_| char::from(self.bytes.byte())).collect();
        self.put(&(text.len() as u64).to_le_bytes());
        self.put(text.as_bytes());
        visitor.visit_string(text)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("nothing that is said holds bytes"))
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let is_some = self.bytes.byte() & 1 == 1;
        self.put(&[u8::from(is_some)]);
        if is_some { visitor.visit_some(self) } else { visitor.visit_none() }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        // Another rule of aggregation than the run's is one refusal.
        if name == "Aggregation" && self.bytes.byte() < 0xF0 {
            let Aggregation(rule) = params().aggregation;
            self.put(&(rule.len() as u64).to_le_bytes());
            self.put(rule.as_bytes());
            return visitor.visit_newtype_struct(rule.into_deserializer());
        }
        let bytes = match (name, self.numbers) {
            ("Hash", Some(Whole::Blob(blob))) => *blob.id.as_bytes(),
            ("Hash", _) => *self.hash().as_bytes(),
            ("NodeId", _) => *self.node().as_bytes(),
            _ => return visitor.visit_newtype_struct(self),
        };
        self.put(&bytes);
        visitor.visit_newtype_struct(Array(&bytes))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let nodes: Vec<Option<NodeId>> = self.list().into_iter().map(Some).collect();
        self.put(&(nodes.len() as u64).to_le_bytes());
        visitor.visit_seq(Fields { maker: self, nodes: nodes.into_iter() })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.fields(len, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.fields(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("nothing that is said holds a map"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name == "Signed" {
            return self.signed(visitor);
        }
        if self.statement == Some(None) {
            self.statement = Some(statement(name));
        }
        let start = self.encoded.len();
        self.numbers = match name {
            "BlobRef" => self.bytes.pick(&self.known.blobs).filter(|_| self.bytes.byte() < 0xF0).map(Whole::Blob),
            "Ballot" => {
                let choice = self.bytes.byte();
                let round =
                    self.known.round.wrapping_add(u64::from(choice >> 6)).wrapping_sub(u64::from(choice >= 0xC0) * 4);
                let attempt =
                    self.known.attempt.wrapping_add(u32::from(choice & 7)).wrapping_sub(u32::from(choice >> 3 & 1));
                (choice & 0x30 != 0x30).then_some(Whole::Ballot(round, attempt))
            }
            _ => None,
        };
        let made = self.fields(fields.len(), visitor);
        self.numbers = None;
        if name == "Record" {
            let hash = Hash::of_parts("paceline record", &[&self.encoded[start..]]);
            self.known.hash(hash);
        }
        made
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let variant = self.bytes.below(variants.len());
        self.put(&(variant as u32).to_le_bytes());
        visitor.visit_enum(Variant { maker: self, variant: variant as u32 })
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("fields have an order"))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("nothing is passed over"))
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

struct Variant<'m, 'a, 'b> {
    maker: &'m mut Maker<'a, 'b>,
    variant: u32,
}

impl<'de> EnumAccess<'de> for Variant<'_, '_, '_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), Error> {
        let index: U32Deserializer<Error> = self.variant.into_deserializer();
        Ok((seed.deserialize(index)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, '_, '_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self.maker)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.maker.fields(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        self.maker.fields(fields.len(), visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::signed::{Signed, Verifier};
    use crate::message::Message;
    use crate::record::Vote;
    use crate::sim::Rng;

    fn known() -> Known {
        let keys = crate::chain::fixture::identities(1, 4);
        let scope = Scope { run: Hash::of(b"run"), chain: Hash::of(b"chain"), parent: Hash::of(b"parent") };
        let hashes = vec![scope.chain, scope.parent];
        let blobs = vec![BlobRef { id: Hash::of(b"model"), len: 40 }];
        let unforgeable = keys[0].node_id();
        Known {
            keys,
            unforgeable,
            members: vec![0, 1, 2],
            scope,
            scopes: vec![scope],
            hashes,
            blobs,
            round: 1,
            attempt: 0,
            salt: 0,
        }
    }

    fn draw(rng: &mut Rng, len: usize) -> Vec<u8> {
        (0..len).map(|_| rng.draw() as u8).collect()
    }

    #[test]
    fn what_is_made_is_signed_over_what_is_encoded() {
        let (mut held, verifier) = (0, Verifier::default());
        for seed in 0..200 {
            let bytes = draw(&mut Rng::new(seed), 64);
            let mut known = known();
            let Some(vote) = make::<Signed<Vote>>(&mut known, &mut Bytes::new(&bytes)) else { continue };
            held += u32::from(vote.open(&known.scope, &verifier).is_ok());
        }
        assert!(held > 80, "{held} of 200 votes are signed where they hold");
    }

    #[test]
    fn every_kind_of_message_is_made() {
        let mut kinds = std::collections::BTreeSet::new();
        for seed in 0..3_000 {
            let bytes = draw(&mut Rng::new(seed), 400);
            if let Some(message) = make::<Message>(&mut known(), &mut Bytes::new(&bytes)) {
                let text = format!("{:?}", message.body);
                let words: Vec<&str> =
                    text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).take(8).collect();
                let is_paxos = words.first().is_some_and(|w| *w == "Paxos" || *w == "Round");
                kinds.insert(
                    words
                        .iter()
                        .filter(|w| w.chars().next().is_some_and(char::is_uppercase))
                        .nth(if is_paxos { 2 } else { 1 })
                        .map(|w| (words[0].to_owned(), (*w).to_owned())),
                );
            }
        }
        eprintln!("{kinds:?}");
        assert!(kinds.len() >= 30, "{kinds:?}");
    }
}
