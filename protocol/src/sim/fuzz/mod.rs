//! What must hold for any bytes that come to this crate: a function a target. `fuzz/` looks for bytes that break it, and the
//! tests below try those that are kept there.
//!
//! Each takes bytes, and panics where the crate does or something does not hold that must.

mod bytes;
mod maker;
mod scene;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::bounds::MESSAGE_BYTES_MAX;
use crate::base::codec;
use crate::base::ids::{Ballot, Hash};
use crate::base::roster::Roster;
use crate::base::signed::{Signed, Verifier};
use crate::chain::Chain;
use crate::chain::fixture::{self, identities, params};
use crate::message::Message;
use crate::record::{AbortProof, Bind, Committed, Contribution, Evidence, Founding, Kind, Proposal, Record, Vote};

/// Calls `then` with what these bytes are, if they are anything. Bytes that decode are the encoding of what they decode to.
fn with<T: Serialize + DeserializeOwned>(bytes: &[u8], then: impl FnOnce(T)) {
    if let Ok(value) = codec::decode::<T, MESSAGE_BYTES_MAX>(bytes) {
        assert_eq!(codec::encode(&value), bytes, "two encodings of one value");
        then(value);
    }
}

/// A message, as a peer sends it.
pub fn message(bytes: &[u8]) {
    if let Ok(message) = Message::decode(bytes) {
        assert_eq!(message.encode(), bytes, "two encodings of one message");
        let _ = format!("{message:?}");
    }
}

/// What is signed and kept, as it lies on disk or in an answer: the first byte says as what the others are read. What a chain
/// takes in has a hash, a roster after it, and can be taken in by who catches up.
pub fn records(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind % 8 {
        0 => with(bytes, |committed: Committed| follows(&committed)),
        1 => with(bytes, |record: Record| follows(&signed_again(record))),
        2 => with(bytes, |proposal: Proposal| assert_ne!(proposal.record.hash(), Hash::ZERO)),
        3 => with(bytes, |evidence: Evidence| {
            // Whether it proves anything is for who has its chain.
            let _ = evidence.liar(params().run, &Verifier::default());
        }),
        4 => with(bytes, |_: (Hash, AbortProof)| {}),
        5 => with(bytes, |(founding, _): (Signed<Founding>, Signed<Bind>)| {
            assert_eq!(founding.scope().chain, founding.id());
        }),
        6 => with(bytes, |_: Signed<Vote>| {}),
        _ => with(bytes, |_: Signed<Contribution>| {}),
    }
}

/// Figures of a record that nobody has checked yet are no trouble either, and a chain that takes it is sound afterwards.
fn follows(committed: &Committed) {
    let record = &committed.record;
    let _ = (record.hash(), record.evaluation_of_parent(), record.train_loss(), record.train_ms_max());
    let _ = (committed.committed_in(), record.roster_after(&Roster::default()), format!("{committed:?}"));
    let mut chain = fixture::chain(&identities(1, 3));
    if chain.append(committed.clone()).is_ok() {
        assert!(!chain.roster().is_empty(), "a chain without members");
        assert_eq!(chain.next_round(), 2);
    }
    let _ = Chain::begin(params(), committed.clone(), Verifier::default());
}

/// The record with a quorum's accepts, so that more than a signature is looked at.
fn signed_again(mut record: Record) -> Committed {
    let keys = identities(1, 3);
    let chain = fixture::chain(&keys);
    if !matches!(record.kind, Kind::Genesis { .. }) {
        (record.round, record.parent) = (chain.next_round(), chain.head_hash());
        record.coordinator = keys[0].node_id();
    }
    let (ballot, coordinator) = (Ballot { round: record.round, attempt: record.attempt }, record.coordinator);
    fixture::commit(&keys.iter().collect::<Vec<_>>(), &chain.scope(), ballot, coordinator, record)
}

/// A real machine, wherever it stands, to which others say what these bytes make them say; see `scene`.
pub fn machine(bytes: &[u8]) {
    scene::play(bytes);
}

#[cfg(test)]
#[path = "../../../../fuzz/replay.rs"]
#[allow(clippy::disallowed_methods)] // Tests read what is kept for them.
mod replay;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Rng;

    #[test]
    fn any_choices_are_no_trouble_to_a_machine_wherever_it_stands() {
        for seed in 0..300 {
            let mut rng = Rng::new(seed);
            let mut bytes: Vec<u8> = (0..600).map(|_| rng.draw() as u8).collect();
            bytes[0] = seed as u8;
            let plays = std::panic::catch_unwind(|| machine(&bytes));
            assert!(plays.is_ok(), "seed {seed}");
        }
    }

    replay::tests!(seeds(), message, records, machine);

    /// Real values for each target to begin with.
    fn seeds() -> Vec<(&'static str, Vec<u8>)> {
        let draw = |seed: u64, len: usize| {
            let mut rng = Rng::new(seed);
            (0..len).map(|_| rng.draw() as u8).collect::<Vec<u8>>()
        };
        fn made<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<Vec<u8>> {
            scene::make_anything::<T>(bytes).map(|value| codec::encode(&value))
        }
        let mut all = Vec::new();
        for seed in 0..40 {
            let bytes = draw(seed, 400);
            all.extend(made::<Message>(&bytes).map(|message| ("message", message)));
            let record = match seed % 8 {
                0 => made::<Committed>(&bytes),
                1 => made::<Record>(&bytes),
                2 => made::<Proposal>(&bytes),
                3 => made::<Evidence>(&bytes),
                4 => made::<(Hash, AbortProof)>(&bytes),
                5 => made::<(Signed<Founding>, Signed<Bind>)>(&bytes),
                6 => made::<Signed<Vote>>(&bytes),
                _ => made::<Signed<Contribution>>(&bytes),
            };
            all.extend(record.map(|record| ("records", [&[seed as u8], &record[..]].concat())));
            all.push(("machine", [&[seed as u8], &draw(1_000 + seed, 200)[..]].concat()));
        }
        let records = fixture::chain(&identities(1, 3)).records().to_vec();
        all.extend(records.iter().map(|c| ("records", [&[0], &codec::encode(c)[..]].concat())));
        // Everybody is honest: time passes, what is said is answered, what is asked for is done.
        let honest = [31, 0, 19, 23, 0, 31, 0, 26, 19, 19, 27, 19, 28, 19, 19, 18, 14, 0, 19];
        all.extend((0..10).map(|begin| ("machine", [&[begin], &honest.repeat(20)[..]].concat())));
        all
    }
}
