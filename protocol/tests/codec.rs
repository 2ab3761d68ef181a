//! The codec against hostile bytes: nothing panics, nothing is accepted that would not be sent.

use paceline_protocol::bounds::MESSAGE_BYTES_MAX;
use paceline_protocol::codec::{self, CodecError};
use paceline_protocol::ids::{Ballot, BlobRef, Hash, Identity};
use paceline_protocol::message::{Message, Presence};
use paceline_protocol::record::{Contribution, Evaluation, Vote};
use paceline_protocol::sign::Scope;
use proptest::prelude::*;

fn vote() -> Vote {
    let me = Identity::from_secret(&[1; 32]);
    let scope = Scope { run: Hash::ZERO, genesis: Hash::ZERO, parent: Hash::ZERO };
    let ballot = Ballot { round: 3, attempt: 1 };
    Vote::new(&me, &scope, ballot, me.node_id(), Some((ballot, Hash::of(b"v"))), vec![me.node_id()])
}

/// One of each shape that matters: options, vectors, strings, floats, results.
fn samples() -> Vec<Message> {
    let ballot = Ballot { round: 3, attempt: 1 };
    let genesis = Hash::of(b"genesis");
    let contribution = Contribution {
        node: vote().voter,
        samples: 7,
        update: BlobRef { id: genesis, len: 12 },
        train_loss: 0.5,
        train_ms: 9,
        evaluation: Some(Evaluation { correct: 1, total: 2, loss: 0.25 }),
        signature: vote().signature,
    };
    vec![
        Message::Vote { genesis, vote: vote() },
        Message::Offer { genesis, ballot, contribution },
        Message::Presence(Presence {
            counter: 1,
            name: "näme".into(),
            part: None,
            genesis: Some(genesis),
            round: 3,
            founding: None,
            activity: paceline_protocol::message::Activity::Training,
            finished: false,
        }),
        Message::OfferAnswer { genesis, ballot, update: genesis, result: Err(paceline_protocol::Reject::NotFinite) },
    ]
}

#[test]
fn every_message_reads_back() {
    for message in samples() {
        assert_eq!(Message::decode(&message.encode()).as_ref(), Ok(&message));
    }
}

#[test]
fn a_byte_too_many_is_refused() {
    let mut bytes = samples()[0].encode();
    bytes.push(0);
    assert_eq!(Message::decode(&bytes), Err(CodecError::Trailing(1)));
}

#[test]
fn every_truncation_is_refused() {
    for message in samples() {
        let bytes = message.encode();
        assert!((0..bytes.len()).all(|end| Message::decode(&bytes[..end]).is_err()));
    }
}

#[test]
fn a_message_over_its_limit_is_refused_unread() {
    let bytes = vec![0; MESSAGE_BYTES_MAX + 1];
    assert!(matches!(Message::decode(&bytes), Err(CodecError::TooLong { .. })));
}

#[test]
fn a_vector_that_claims_more_than_the_limit_allocates_nothing() {
    // A list of votes whose length says 2^60.
    let mut bytes = codec::encode(&(1u64 << 60));
    bytes.extend([0; 64]);
    assert!(codec::decode::<Vec<Vote>, 4096>(&bytes).is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = Message::decode(&bytes);
    }

    /// What decodes is the encoding of what it decodes to, so that a signature over an encoding is one over the bytes
    /// received.
    #[test]
    fn the_encoding_is_canonical(which in 0usize..4, at in any::<prop::sample::Index>(), flip in 1u8..) {
        let mut bytes = samples()[which].encode();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert_eq!(message.encode(), bytes);
        }
    }
}
