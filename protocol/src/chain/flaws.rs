//! What exactly is wrong with a record that may not follow, and whose word it is. A member that is shown one only refuses it;
//! whoever looks into a history afterwards wants to know which statement does not hold.

use super::{Chain, RunParams, check_forced, check_founding, check_outcome};
use crate::base::ids::NodeId;
use crate::base::reject::Reject;
use crate::base::signed::{Scope, Signed, Verifier};
use crate::record::{Accept, Bind, Committed, Eviction, Founding, Kind};

/// The part of a record, or of its proof, that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The founding that a genesis is of.
    Founding,
    /// A founder's bind.
    Bind,
    /// A participant's contribution.
    Contribution,
    /// A member's evaluation of the last model.
    Evaluation,
    /// A member's word that its training failed.
    Failure,
    /// A member's wish to go on.
    Resume,
    /// A request to join.
    Join,
    /// A request to leave.
    Leave,
    /// An eviction, or its proof.
    Eviction,
    /// A member's accept.
    Accept,
    /// The record as a whole: its place, its kind, what it says of the round.
    Record,
    /// The accepts as a whole: too few, or not of one ballot.
    Accepts,
}

impl Part {
    /// In words, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Founding => "the founding",
            Self::Bind => "the bind",
            Self::Contribution => "the contribution",
            Self::Evaluation => "the evaluation",
            Self::Failure => "the failure",
            Self::Resume => "the wish to go on",
            Self::Join => "the request to join",
            Self::Leave => "the request to leave",
            Self::Eviction => "the eviction",
            Self::Accept => "the accept",
            Self::Record => "the record",
            Self::Accepts => "the proof of its commit",
        }
    }
}

/// Something that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flaw {
    /// What.
    pub part: Part,
    /// Whose statement it is said to be, or who made the record.
    pub by: NodeId,
    /// What is wrong with it.
    pub reject: Reject,
}

/// What is wrong with a genesis; nothing if a chain may begin with it.
pub fn genesis_flaws(params: &RunParams, genesis: &Committed, verifier: &Verifier) -> Vec<Flaw> {
    let Err(reject) = Chain::begin(params.clone(), genesis.clone(), verifier.clone()) else { return Vec::new() };
    let record = &genesis.record;
    let whole = Flaw { part: Part::Record, by: record.coordinator, reject };
    if let Kind::Forced(forced) = &record.kind {
        let flaws = match check_forced(params, forced, record, verifier) {
            Err(reject) => vec![Flaw { part: Part::Founding, by: forced.by(), reject }],
            Ok(()) => accept_flaws(genesis, &forced.scope(params.run), verifier),
        };
        return or_as_a_whole(flaws, genesis, reject);
    }
    let Kind::Genesis { founding, binds } = &record.kind else { return vec![whole] };
    let mut flaws = Vec::new();
    if let Err(reject) = check_founding(params, founding, verifier) {
        flaws.push(Flaw { part: Part::Founding, by: founding.by(), reject });
    }
    flaws.extend(bind_flaws(founding, binds, verifier));
    if flaws.is_empty()
        && let Err(reject) = check_outcome(founding, record, verifier)
    {
        flaws.push(Flaw { reject, ..whole });
    }
    flaws.extend(accept_flaws(genesis, &founding.scope(), verifier));
    or_as_a_whole(flaws, genesis, reject)
}

fn bind_flaws(founding: &Signed<Founding>, binds: &[Signed<Bind>], verifier: &Verifier) -> Vec<Flaw> {
    let scope = founding.scope();
    let flaw = |bind: &Signed<Bind>| {
        let reject = bind.open(&scope, verifier).err()?;
        Some(Flaw { part: Part::Bind, by: bind.by(), reject })
    };
    binds.iter().filter_map(flaw).collect()
}

/// Accepts whose signature does not hold, or that are of another record. Where all are, it is the record that is another.
fn accept_flaws(committed: &Committed, scope: &Scope, verifier: &Verifier) -> Vec<Flaw> {
    let value = committed.record.hash();
    let flaw = |accept: &Signed<Accept>| {
        let reject = match accept.open(scope, verifier) {
            Ok(content) if content.value == value => return None,
            Ok(_) => Reject::WrongHash,
            Err(reject) => reject,
        };
        Some(Flaw { part: Part::Accept, by: accept.by(), reject })
    };
    let flaws: Vec<Flaw> = committed.accepts.iter().filter_map(flaw).collect();
    let all_of_another = !flaws.is_empty()
        && flaws.len() == committed.accepts.len()
        && flaws.iter().all(|flaw| flaw.reject == Reject::WrongHash);
    match all_of_another {
        true => vec![Flaw { part: Part::Accepts, by: committed.record.coordinator, reject: Reject::WrongHash }],
        false => flaws,
    }
}

/// Where each statement holds and their sum does not, it is the record, or its proof, that is wrong.
fn or_as_a_whole(mut flaws: Vec<Flaw>, committed: &Committed, reject: Reject) -> Vec<Flaw> {
    if flaws.is_empty() {
        let part = if reject == Reject::NoQuorum { Part::Accepts } else { Part::Record };
        flaws.push(Flaw { part, by: committed.record.coordinator, reject });
    }
    flaws
}

impl Chain {
    /// What is wrong with `next` and its proof; nothing if it may follow.
    pub fn flaws(&self, next: &Committed) -> Vec<Flaw> {
        let Err(reject) = self.check_committed(next) else { return Vec::new() };
        let record = &next.record;
        // Signatures hold in a place alone: where it is another, none can be judged.
        if record.parent != self.head_hash() || record.round != self.next_round() {
            return or_as_a_whole(Vec::new(), next, reject);
        }
        let mut flaws = Vec::new();
        let mut note = |part, by, result: Result<(), Reject>| {
            if let Err(reject) = result {
                flaws.push(Flaw { part, by, reject });
            }
        };
        for contribution in &record.contributions {
            let checked = self.check_contribution(contribution, &record.participants).map(drop);
            note(Part::Contribution, contribution.by(), checked);
        }
        for evaluation in &record.evaluations {
            let checked = evaluation.open(&self.scope(), &self.verifier).map(drop);
            note(Part::Evaluation, evaluation.by(), checked);
        }
        for failure in &record.failures {
            note(Part::Failure, failure.by(), self.check_failure(failure));
        }
        if let Some(resume) = &record.resumed {
            note(Part::Resume, resume.by(), self.check_resume(resume));
        }
        let mut staying = self.roster().clone();
        for leave in &record.left {
            note(Part::Leave, leave.by(), self.check_leave(leave));
            staying.remove(leave.by());
        }
        for eviction in &record.evicted {
            note(Part::Eviction, Eviction::node(eviction), self.check_eviction(eviction));
            staying.remove(Eviction::node(eviction));
        }
        for join in &record.joined {
            note(Part::Join, join.by(), self.check_join(join, &staying));
            staying.insert(join.member());
        }
        flaws.extend(accept_flaws(next, &self.scope(), &self.verifier));
        or_as_a_whole(flaws, next, reject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{Ballot, BlobRef, Hash, Identity};
    use crate::chain::fixture::{by_signer, chain, commit, genesis, identities, params};
    use crate::record::{Contribution, Record};

    struct World {
        all: Vec<Identity>,
        chain: Chain,
    }

    impl World {
        fn new() -> Self {
            let all = identities(1, 3);
            Self { chain: chain(&all), all }
        }

        /// A train record that everybody accepted, with `change` made to it before or after that.
        fn train(&self, before: impl Fn(&mut Record), after: impl Fn(&mut Committed)) -> Vec<Flaw> {
            let (scope, round) = (self.chain.scope(), self.chain.next_round());
            let contribution = |i: &Identity| {
                let update = BlobRef { id: Hash::of(i.node_id().as_bytes()), len: params().update_len };
                let content = Contribution {
                    round,
                    update,
                    samples: 5,
                    train_loss: Some(1.0),
                    train_ms: 1,
                    evaluation: None,
                    trainer: String::new(),
                };
                Signed::new(i, &scope, content)
            };
            let ballot = Ballot::of_round(round);
            let coordinator = self.all[0].node_id();
            let model = BlobRef { id: Hash::of(b"next"), len: self.chain.head().model.len };
            let mut record = Record::plain(Kind::Train, ballot, coordinator, self.chain.head_hash(), model);
            record.participants = self.chain.roster().participant_order(self.chain.head().model.id, round);
            record.contributions = by_signer(self.all.iter().map(contribution).collect());
            before(&mut record);
            let mut committed = commit(&self.all.iter().collect::<Vec<_>>(), &scope, ballot, coordinator, record);
            after(&mut committed);
            self.chain.flaws(&committed)
        }
    }

    fn parts(flaws: &[Flaw]) -> Vec<(Part, NodeId, Reject)> {
        flaws.iter().map(|f| (f.part, f.by, f.reject)).collect()
    }

    #[test]
    fn a_sound_record_has_no_flaws() {
        assert_eq!(World::new().train(|_| {}, |_| {}), []);
    }

    #[test]
    fn an_exchanged_contribution_is_named_with_its_signer_and_so_is_the_record_that_holds_it() {
        let world = World::new();
        let forger = Identity::from_secret(&[9; 32]);
        let victim = world.all[1].node_id();
        let exchange = |committed: &mut Committed| {
            let scope = world.chain.scope();
            let theirs = committed.record.contributions[1].vouched().clone();
            let forged = Signed::new(&forger, &scope, Contribution { samples: 5_000, ..theirs });
            committed.record.contributions[1] = forged.in_the_name_of(victim);
        };
        let coordinator = world.all[0].node_id();
        assert_eq!(
            parts(&world.train(|_| {}, exchange)),
            [(Part::Contribution, victim, Reject::BadSignature), (Part::Accepts, coordinator, Reject::WrongHash)]
        );
    }

    #[test]
    fn a_forged_accept_is_named_with_its_signer() {
        let world = World::new();
        let victim = world.all[2].node_id();
        let forge = |committed: &mut Committed| {
            committed.accepts[2] = committed.accepts[1].in_the_name_of(victim);
        };
        assert_eq!(parts(&world.train(|_| {}, forge)), [(Part::Accept, victim, Reject::BadSignature)]);
    }

    #[test]
    fn what_no_single_statement_explains_is_the_coordinators() {
        let world = World::new();
        let coordinator = world.all[0].node_id();
        let few = world.train(|_| {}, |committed| committed.accepts.truncate(1));
        assert_eq!(parts(&few), [(Part::Accepts, coordinator, Reject::NoQuorum)]);
        let shorter = world.train(|record| record.model.len = 3, |_| {});
        assert_eq!(parts(&shorter), [(Part::Record, coordinator, Reject::WrongShape)]);
    }

    #[test]
    fn a_genesis_names_who_did_not_bind() {
        let all = identities(1, 3);
        let mut first = genesis(&all);
        let victim = all[1].node_id();
        if let Kind::Genesis { binds, .. } = &mut first.record.kind {
            binds[1] = binds[2].in_the_name_of(victim);
        }
        let flaws = genesis_flaws(&params(), &first, &Verifier::default());
        assert_eq!(parts(&flaws)[0], (Part::Bind, victim, Reject::BadSignature));
    }
}
