//! The codec against hostile bytes: nothing panics, nothing is accepted that would not be sent.

use std::sync::LazyLock;

use paceline_protocol::base::aggregation::Aggregation;
use paceline_protocol::base::roster::{Member, Part};
use paceline_protocol::base::signed::{Scope, Signed};
use paceline_protocol::bounds::MESSAGE_BYTES_MAX;
use paceline_protocol::codec::{self, CodecError};
use paceline_protocol::founding::message::Message as Word;
use paceline_protocol::membership::message::{Activity, Message as Membership, Presence};
use paceline_protocol::message::{Body, Message};
use paceline_protocol::paxos::message::{Heartbeat, Message as Paxos, Phase, RoundOpened, RoundPlan, Task};
use paceline_protocol::record::{
    Accept, Alive, Bind, Committed, Contribution, Evaluation, Eviction, Evidence, Failure, FinalEvaluation, Founder,
    Founding, Join, Kind, Leave, Lie, Metric, Proposal, Proposed, Record, Refusal, Resume, Vote,
};
use paceline_protocol::round::message::Message as Work;
use paceline_protocol::sync::message::Message as Sync;
use paceline_protocol::{Ballot, BlobRef, Hash, Identity, Reject};
use proptest::prelude::*;

const BALLOT: Ballot = Ballot { round: 3, attempt: 2 };

fn me() -> Identity {
    Identity::from_secret(&[1; 32])
}

fn scope() -> Scope {
    Scope { run: Hash::of(b"run"), chain: Hash::of(b"chain"), parent: Hash::of(b"parent") }
}

fn model() -> BlobRef {
    BlobRef { id: Hash::of(b"model"), len: 12 }
}

fn proposed() -> Signed<Proposed> {
    let ballot = Ballot { attempt: 1, ..BALLOT };
    Signed::new(&me(), &scope(), Proposed { ballot, value: Hash::of(b"value") })
}

fn vote() -> Signed<Vote> {
    let node = me().node_id();
    let content = Vote { ballot: BALLOT, candidate: node, accepted: Some(proposed()), silent: vec![node] };
    Signed::new(&me(), &scope(), content)
}

fn accept() -> Signed<Accept> {
    let content = Accept { ballot: BALLOT, coordinator: me().node_id(), value: Hash::of(b"value") };
    Signed::new(&me(), &scope(), content)
}

fn evaluation() -> Evaluation {
    Evaluation { metrics: vec![Metric { name: "loss".into(), sum: -5, count: 2 }] }
}

fn contribution() -> Signed<Contribution> {
    let content = Contribution {
        round: 3,
        samples: 7,
        update: model(),
        train_loss: Some(0.5),
        train_ms: 9,
        evaluation: Some(evaluation()),
        trainer: "train.py".into(),
    };
    Signed::new(&me(), &scope(), content)
}

fn final_evaluation() -> Signed<FinalEvaluation> {
    Signed::new(&me(), &scope(), FinalEvaluation { round: 3, evaluation: evaluation() })
}

fn failure() -> Signed<Failure> {
    Signed::new(&me(), &scope(), Failure { round: 3, why: "it diverged".into() })
}

fn resume() -> Signed<Resume> {
    Signed::new(&me(), &scope(), Resume { round: 3 })
}

fn member() -> Member {
    Member { node: me().node_id(), name: "näme".into(), part: Some(Part { index: 1, of: 3 }) }
}

fn founding() -> Signed<Founding> {
    let founders = vec![Founder { member: member(), consent: Hash::of(b"yes") }];
    let run = Hash::of(b"run");
    Signed::new(&me(), &Founding::proposal_scope(run), Founding { run, founders, model: model() })
}

fn bind() -> Signed<Bind> {
    Signed::new(&me(), &founding().scope(), Bind { consent: Hash::of(b"yes") })
}

fn refusal() -> Signed<Refusal> {
    Signed::new(&me(), &founding().scope(), Refusal { chain: Some(Hash::of(b"chain")) })
}

fn join() -> Signed<Join> {
    Signed::new(&me(), &scope(), Join { name: "n".into(), part: None, round: 3 })
}

fn leave() -> Signed<Leave> {
    Signed::new(&me(), &scope(), Leave { round: 3 })
}

fn alive() -> Signed<Alive> {
    Signed::new(&me(), &scope(), Alive { yielding: Hash::of(b"the other") })
}

fn evidence(lie: Lie) -> Evidence {
    Evidence { chain: scope().chain, parent: scope().parent, lie }
}

/// Every form of a lie.
fn lies() -> Vec<Lie> {
    vec![
        Lie::Votes(Box::new([vote(), vote()])),
        Lie::Accepts([accept(), accept()]),
        Lie::Proposals([proposed(), proposed()]),
        Lie::HiddenAccept { accept: accept(), vote: Box::new(vote()) },
        Lie::BindAndRefusal { bind: bind(), refusal: refusal() },
    ]
}

/// A record of every kind, each with all that a record can carry.
fn records() -> Vec<Record> {
    let node = me().node_id();
    let kinds = [
        Kind::Genesis { founding: founding(), binds: vec![bind()] },
        Kind::Abort,
        Kind::Train,
        Kind::Empty,
        Kind::Closing,
        Kind::Yield { to: Hash::of(b"the other"), alive: vec![alive()] },
    ];
    let record = |kind| Record {
        kind,
        round: 3,
        attempt: 1,
        coordinator: node,
        parent: Hash::of(b"parent"),
        model: model(),
        participants: vec![node],
        contributions: vec![contribution()],
        evaluations: vec![final_evaluation()],
        failures: vec![failure()],
        resumed: Some(resume()),
        aggregation: Aggregation("rule = \"fedavg\"".into()),
        joined: vec![join()],
        left: vec![leave()],
        evicted: lies()
            .into_iter()
            .map(|lie| Eviction::Liar { node, evidence: evidence(lie) })
            .chain([Eviction::Silent { node, votes: vec![vote()] }])
            .collect(),
        open_ms: 5,
    };
    kinds.into_iter().map(record).collect()
}

fn committed() -> Vec<Committed> {
    records().into_iter().map(|record| Committed { record, accepts: vec![accept()] }).collect()
}

fn words_of_foundings() -> Vec<Word> {
    vec![
        Word::Invite { members: vec![member()] },
        Word::Consent { consent: Hash::of(b"yes") },
        Word::Decline { because_of: Some(me().node_id()) },
        Word::Decline { because_of: None },
        Word::Founding(founding()),
        Word::Bind(bind()),
        Word::Refusal(refusal()),
        Word::Decided(committed().remove(0)),
    ]
}

fn words_of_paxos() -> Vec<Paxos> {
    let node = me().node_id();
    let plan = |task| Signed::new(&me(), &scope(), RoundPlan { ballot: BALLOT, version: 1, task });
    let opened = |task| Paxos::RoundOpened(RoundOpened { votes: vec![vote()], plan: plan(task) });
    let heartbeat = |phase| {
        Paxos::Heartbeat(Heartbeat {
            phase,
            plan: Hash::of(b"plan"),
            proposal: Some(Hash::of(b"value")),
            progress: vec![Activity::Training { percent: 40 }, Activity::Failed],
        })
    };
    vec![
        Paxos::PreVote,
        Paxos::PreVoteGranted,
        Paxos::VoteRequest,
        Paxos::Vote(vote()),
        Paxos::VoteRefused { reject: Reject::VotedForAnother, highest: BALLOT },
        opened(None),
        opened(Some(Task::Evaluate)),
        opened(Some(Task::Train { participants: vec![node] })),
        heartbeat(Phase::Recovering),
        heartbeat(Phase::Collecting),
        heartbeat(Phase::Aggregating),
        heartbeat(Phase::Proposing),
        Paxos::HeartbeatAck { promised: BALLOT },
        Paxos::StepDown,
        Paxos::Proposal(Proposal { proposed: proposed(), record: records().remove(2), votes: vec![vote()] }),
        Paxos::Accept(accept()),
        Paxos::ProposalRefused { reject: Reject::ModelMissing },
        Paxos::QueryPlan,
        Paxos::QueryProposal { value: Hash::of(b"value") },
    ]
}

fn words_of_rounds() -> Vec<Work> {
    let update = Hash::of(b"update");
    vec![
        Work::UpdateReady(contribution()),
        Work::UpdateAck { update, result: Ok(()) },
        Work::UpdateAck { update, result: Err(Reject::NotFinite) },
        Work::Evaluated(final_evaluation()),
        Work::Failed(failure()),
        Work::Resume(resume()),
    ]
}

fn words_of_membership() -> Vec<Membership> {
    let presence = |activity| {
        Membership::Presence(Presence {
            counter: 1,
            name: "näme".into(),
            part: member().part,
            round: 3,
            held: Some(2),
            founding: Some(founding().id()),
            activity,
            at_rest: true,
        })
    };
    let activities = [
        Activity::Idle,
        Activity::Fetching,
        Activity::Training { percent: 40 },
        Activity::Uploading,
        Activity::Done,
        Activity::Coordinating,
        Activity::Joining,
        Activity::Failed,
        Activity::Paused,
    ];
    let others =
        [Membership::Join(join()), Membership::JoinRefused { reject: Reject::PartTaken }, Membership::Leave(leave())];
    let told = lies().into_iter().map(|lie| Membership::Evidence(evidence(lie)));
    activities.into_iter().map(presence).chain(others).chain(told).collect()
}

fn words_of_sync() -> Vec<Sync> {
    let told = committed().into_iter().map(Sync::Committed);
    let others = [
        Sync::Query { from: 7 },
        Sync::Records(committed()),
        Sync::QueryAlive { yielding: Hash::of(b"mine") },
        Sync::Alive(alive()),
    ];
    told.chain(others).collect()
}

/// Every message of every part.
fn samples() -> Vec<Message> {
    let bodies = words_of_foundings()
        .into_iter()
        .map(Body::Founding)
        .chain(words_of_paxos().into_iter().map(|message| Body::Paxos { ballot: BALLOT, message }))
        .chain(words_of_rounds().into_iter().map(|message| Body::Round { ballot: BALLOT, message }))
        .chain(words_of_membership().into_iter().map(Body::Membership))
        .chain(words_of_sync().into_iter().map(Body::Sync));
    bodies.map(|body| Message { chain: Hash::of(b"chain"), body }).collect()
}

#[test]
fn every_message_reads_back() {
    for message in samples() {
        assert_eq!(Message::decode(&message.encode()).as_ref(), Ok(&message));
    }
}

#[test]
fn no_two_messages_have_the_same_bytes() {
    let mut all: Vec<Vec<u8>> = samples().iter().map(Message::encode).collect();
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn a_byte_too_many_is_refused() {
    for message in samples() {
        let mut bytes = message.encode();
        bytes.push(0);
        assert_eq!(Message::decode(&bytes), Err(CodecError::Trailing(1)), "{message:?}");
    }
}

#[test]
fn every_truncation_is_refused() {
    for message in samples() {
        let bytes = message.encode();
        // Of the long ones a sample is enough: every length that a prefix can have is met by some message.
        let step = (bytes.len() / 500).max(1);
        assert!((0..bytes.len()).step_by(step).all(|end| Message::decode(&bytes[..end]).is_err()), "{message:?}");
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
    assert!(codec::decode::<Vec<Signed<Vote>>, 4096>(&bytes).is_err());
}

static ENCODED: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| samples().iter().map(Message::encode).collect());

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = Message::decode(&bytes);
    }

    /// What decodes is the encoding of what it decodes to, so that a signature over an encoding is one over the bytes
    /// received.
    #[test]
    fn the_encoding_is_canonical(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        flip in 1u8..,
    ) {
        let mut bytes = ENCODED[which.index(ENCODED.len())].clone();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert_eq!(message.encode(), bytes);
        }
    }
}
