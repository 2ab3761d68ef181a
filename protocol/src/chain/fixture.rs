//! What tests begin with: a run, a few identities, and a chain that they founded.

use super::{Chain, RunParams, StopRule};
use crate::base::aggregation::Aggregation;
use crate::base::ids::{Ballot, BlobRef, Hash, Identity, NodeId};
use crate::base::roster::Member;
use crate::base::signed::{Scope, Signed, Statement, Verifier};
use crate::record::{Accept, Bind, Committed, Evaluation, Founder, Founding, Kind, Metric, Record, Vote};
#[cfg(test)]
use crate::record::{Proposal, Proposed};
use crate::runfile::Quota;

/// The run.
pub(crate) fn params() -> RunParams {
    RunParams {
        run: Hash::of(b"run"),
        rounds: 3,
        min_nodes: 3,
        quota: Quota { fraction: 1.0, min_updates: Some(2) },
        round_timeout_ms: 60_000,
        initial_model: BlobRef { id: Hash::of(b"model"), len: 40 },
        update_len: 40,
        aggregation: Aggregation::default(),
        stop: StopRule::default(),
    }
}

/// Identities from the `first` of all on, ascending by node id.
pub(crate) fn identities(first: u8, count: u8) -> Vec<Identity> {
    let mut all: Vec<Identity> = (first..first + count).map(|i| Identity::from_secret(&[i; 32])).collect();
    all.sort_by_key(Identity::node_id);
    all
}

/// A member without a part, which is called by the end of its id.
pub(crate) fn member(node: NodeId) -> Member {
    Member { node, name: node.short(), part: None }
}

/// So many of so many are right.
pub(crate) fn accuracy(correct: u64, total: u64) -> Evaluation {
    Evaluation::of(Metric::new("accuracy", correct as f64, total).into_iter().collect())
}

/// The word that a founder gave.
pub(crate) fn consent(node: NodeId) -> Hash {
    Hash::of(node.as_bytes())
}

/// A founding of these members, proposed by the first.
pub(crate) fn founding(members: &[Identity]) -> Signed<Founding> {
    founding_of(&members[0], members.iter().map(Identity::node_id).collect())
}

/// A founding of these members, whoever they are.
pub(crate) fn founding_of(proposer: &Identity, mut members: Vec<NodeId>) -> Signed<Founding> {
    members.sort();
    let founder = |node: NodeId| Founder { member: member(node), consent: consent(node) };
    let founders = members.into_iter().map(founder).collect();
    let RunParams { run, initial_model: model, .. } = params();
    Signed::new(proposer, &Founding::proposal_scope(run), Founding { run, founders, model })
}

/// The bind of a founder.
pub(crate) fn bind(founder: &Identity, founding: &Signed<Founding>) -> Signed<Bind> {
    Signed::new(founder, &founding.scope(), Bind { consent: consent(founder.node_id()) })
}

/// The record that a founding comes about, of its first ballot.
pub(crate) fn genesis_record(members: &[Identity]) -> Record {
    let founding = founding(members);
    let (id, model) = (founding.id(), params().initial_model);
    let binds = by_signer(members.iter().map(|i| bind(i, &founding)).collect());
    let kind = Kind::Genesis { founding, binds };
    Record::plain(kind, Ballot::of_round(0), members[0].node_id(), id, model)
}

/// The genesis of a chain that these founded, accepted by all.
pub(crate) fn genesis(members: &[Identity]) -> Committed {
    let all: Vec<&Identity> = members.iter().collect();
    commit(&all, &founding(members).scope(), Ballot::of_round(0), members[0].node_id(), genesis_record(members))
}

/// The chain that these founded.
pub(crate) fn chain(members: &[Identity]) -> Chain {
    Chain::begin(params(), genesis(members), Verifier::default()).expect("the genesis holds")
}

/// Statements in the order of their signers.
pub(crate) fn by_signer<T: Statement>(mut statements: Vec<Signed<T>>) -> Vec<Signed<T>> {
    statements.sort_by_key(Signed::by);
    statements
}

/// Votes for a candidate, of voters that accepted nothing.
pub(crate) fn votes(voters: &[&Identity], scope: &Scope, ballot: Ballot, candidate: NodeId) -> Vec<Signed<Vote>> {
    let vote = Vote { ballot, candidate, accepted: None, silent: Vec::new() };
    by_signer(voters.iter().map(|v| Signed::new(v, scope, vote.clone())).collect())
}

/// A record with the accepts of these in a ballot.
pub(crate) fn commit(
    acceptors: &[&Identity],
    scope: &Scope,
    ballot: Ballot,
    coordinator: NodeId,
    record: Record,
) -> Committed {
    let accept = Accept { ballot, coordinator, value: record.hash() };
    let accepts = by_signer(acceptors.iter().map(|i| Signed::new(i, scope, accept)).collect());
    Committed { record, accepts }
}

/// A proposal of a coordinator that these elected.
#[cfg(test)]
pub(crate) fn propose(
    coordinator: &Identity,
    voters: &[&Identity],
    scope: &Scope,
    ballot: Ballot,
    record: Record,
) -> Proposal {
    let proposed = Signed::new(coordinator, scope, Proposed { ballot, value: record.hash() });
    Proposal { proposed, record, votes: votes(voters, scope, ballot, coordinator.node_id()) }
}

/// An empty record that may follow in a chain.
pub(crate) fn empty(chain: &Chain, attempt: u32, coordinator: NodeId) -> Record {
    let ballot = Ballot { round: chain.next_round(), attempt };
    Record::plain(Kind::Empty, ballot, coordinator, chain.head_hash(), chain.head().model)
}
