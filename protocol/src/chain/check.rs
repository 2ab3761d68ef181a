//! What may follow in a chain, what may begin one, and which votes and accepts decide.

use super::Chain;
use super::params::RunParams;
use crate::base::bounds::{CONTINUED_ROUNDS_MAX, FAILURE_BYTES_MAX, REQUEST_ROUNDS, ROSTER_MAX, SMALL_ROSTER};
use crate::base::ids::{Ballot, BlobRef, NodeId};
use crate::base::reject::Reject;
use crate::base::roster::{Roster, is_name};
use crate::base::signed::{Scope, Signed, Verifier};
use crate::record::{
    Committed, Contribution, Eviction, Failure, Forced, Founding, Join, Kind, Leave, Proposed, Record, Resume, Vote,
    request_scope,
};

impl Chain {
    /// Whether this is the next record with a quorum's accepts.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_committed(&self, next: &Committed) -> Result<(), Reject> {
        self.check(&next.record)?;
        check_accepts(next, &self.scope(), &self.roster, &self.verifier)
    }

    /// Whether `record` may follow: parent, round, kind, participants, contributions, roster changes, signatures.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, record: &Record) -> Result<(), Reject> {
        if record.round != self.next_round() || record.parent != self.head {
            return Err(Reject::WrongParent);
        }
        if !self.roster.contains(record.coordinator) {
            return Err(Reject::Stranger);
        }
        if self.is_over() || record.aggregation != self.params.aggregation {
            return Err(Reject::WrongKind);
        }
        if self.is_halted() != record.resumed.is_some() {
            return Err(Reject::WrongKind);
        }
        if !matches!(record.kind, Kind::Empty) && (record.resumed.is_some() || !record.failures.is_empty()) {
            return Err(Reject::WrongKind);
        }
        match &record.kind {
            Kind::Train if !self.is_trained() => self.check_train(record)?,
            Kind::Empty if !self.is_trained() => self.check_empty(record)?,
            Kind::Closing if self.is_trained() => self.check_closing(record)?,
            Kind::Yield { .. } => self.check_yield(record)?,
            _ => return Err(Reject::WrongKind),
        }
        self.check_changes(record)
    }

    fn check_train(&self, record: &Record) -> Result<(), Reject> {
        self.check_participants(&record.participants)?;
        if record.contributions.len() < self.updates_needed() {
            return Err(Reject::TooFewUpdates);
        }
        if record.model.len != self.head().model.len {
            return Err(Reject::WrongShape);
        }
        if !record.evaluations.is_empty() {
            return Err(Reject::WrongKind);
        }
        if !is_ascending(record.contributions.iter().map(Signed::by)) {
            return Err(Reject::Twice);
        }
        record.contributions.iter().try_for_each(|c| self.check_contribution(c, &record.participants).map(drop))
    }

    /// Whether `participants` are the first of the order that everybody can compute, and enough of them.
    ///
    /// # Errors
    /// [`Reject::WrongParticipants`].
    pub fn check_participants(&self, participants: &[NodeId]) -> Result<(), Reject> {
        let order = self.roster.participant_order(self.head().model.id, self.next_round());
        let enough = participants.len() >= self.params.quota.participants_of(self.roster.len());
        if enough && order.starts_with(participants) { Ok(()) } else { Err(Reject::WrongParticipants) }
    }

    /// A contribution to the next round, if it is one that may be averaged, as far as its metadata tell.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_contribution<'a>(
        &self,
        contribution: &'a Signed<Contribution>,
        participants: &[NodeId],
    ) -> Result<&'a Contribution, Reject> {
        if !participants.contains(&contribution.by()) {
            return Err(Reject::NotParticipant);
        }
        let c = contribution.open(&self.scope(), &self.verifier)?;
        if c.round != self.next_round() {
            return Err(Reject::StaleRound);
        }
        if c.update.len != self.params.update_len {
            return Err(Reject::WrongShape);
        }
        if c.is_plausible() { Ok(c) } else { Err(Reject::BadMetrics) }
    }

    fn check_no_training(&self, record: &Record) -> Result<(), Reject> {
        let nothing = record.contributions.is_empty() && record.evaluations.is_empty();
        if !nothing || record.model != self.head().model {
            return Err(Reject::WrongKind);
        }
        let order = self.roster.participant_order(self.head().model.id, self.next_round());
        if order.starts_with(&record.participants) { Ok(()) } else { Err(Reject::WrongParticipants) }
    }

    fn check_empty(&self, record: &Record) -> Result<(), Reject> {
        self.check_no_training(record)?;
        if !is_ascending(record.failures.iter().map(Signed::by)) {
            return Err(Reject::Twice);
        }
        record.failures.iter().try_for_each(|failure| self.check_failure(failure))?;
        record.resumed.iter().try_for_each(|resume| self.check_resume(resume))
    }

    /// Whether a member's training failed in the next round, by its own word.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_failure(&self, failure: &Signed<Failure>) -> Result<(), Reject> {
        if !self.roster.contains(failure.by()) {
            return Err(Reject::Stranger);
        }
        let content = failure.open(&self.scope(), &self.verifier)?;
        let fits = content.round == self.next_round() && content.why.len() <= FAILURE_BYTES_MAX;
        if fits { Ok(()) } else { Err(Reject::BadMetrics) }
    }

    /// Whether a member wants to go on with this run, which stopped.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_resume(&self, resume: &Signed<Resume>) -> Result<(), Reject> {
        if !self.roster.contains(resume.by()) {
            return Err(Reject::Stranger);
        }
        let content = resume.open(&self.scope(), &self.verifier)?;
        if self.is_halted() && content.round == self.next_round() { Ok(()) } else { Err(Reject::WrongKind) }
    }

    fn check_closing(&self, record: &Record) -> Result<(), Reject> {
        if !record.contributions.is_empty() || record.model != self.head().model || !record.participants.is_empty() {
            return Err(Reject::WrongKind);
        }
        if !is_ascending(record.evaluations.iter().map(Signed::by)) {
            return Err(Reject::Twice);
        }
        for evaluation in &record.evaluations {
            if !self.roster.contains(evaluation.by()) {
                return Err(Reject::Stranger);
            }
            let e = evaluation.open(&self.scope(), &self.verifier)?;
            if e.round != record.round || !e.evaluation.is_plausible() {
                return Err(Reject::BadMetrics);
            }
        }
        Ok(())
    }

    /// A yield names no roster changes, and carries a proof that the other chain lives: who signs it belongs to the other
    /// chain's roster, which is checked by who accepts it first (`sync::sighting`).
    fn check_yield(&self, record: &Record) -> Result<(), Reject> {
        let Kind::Yield { to, alive } = &record.kind else { return Err(Reject::WrongKind) };
        if record.round != 1 || *to == self.genesis || self.forced().is_some() {
            return Err(Reject::WrongKind);
        }
        self.check_no_training(record)?;
        if !(record.joined.is_empty() && record.left.is_empty() && record.evicted.is_empty()) {
            return Err(Reject::BadRosterChange);
        }
        if alive.is_empty() || alive.len() > ROSTER_MAX || !is_ascending(alive.iter().map(Signed::by)) {
            return Err(Reject::NotAlive);
        }
        let scope = request_scope(self.params.run, *to);
        for word in alive {
            if word.open(&scope, &self.verifier)?.yielding != self.genesis {
                return Err(Reject::NotAlive);
            }
        }
        Ok(())
    }

    fn check_changes(&self, record: &Record) -> Result<(), Reject> {
        record.left.iter().try_for_each(|leave| self.check_leave(leave))?;
        record.evicted.iter().try_for_each(|eviction| self.check_eviction(eviction))?;
        let gone = record.left.iter().map(Signed::by).chain(record.evicted.iter().map(Eviction::node));
        let mut staying = self.roster.clone();
        gone.for_each(|node| staying.remove(node));
        if record.left.len() + record.evicted.len() != self.roster.len() - staying.len() {
            return Err(Reject::Twice);
        }
        if record.joined.len() > self.joins_max() {
            return Err(Reject::TooMany);
        }
        for join in &record.joined {
            self.check_join(join, &staying)?;
            staying.insert(join.member());
        }
        if staying.is_empty() || staying.len() > ROSTER_MAX { Err(Reject::BadRosterChange) } else { Ok(()) }
    }

    /// Members that one record may add: half of the roster, and one alone to a small one.
    pub fn joins_max(&self) -> usize {
        let n = self.roster.len();
        if n < SMALL_ROSTER { 1 } else { n / 2 }
    }

    /// Whether a node was taken off this roster for a lie: it never comes back under that name.
    fn has_lied(&self, node: NodeId) -> bool {
        let evicted = self.records.iter().flat_map(|c| &c.record.evicted);
        evicted.into_iter().any(|e| matches!(e, Eviction::Liar { .. }) && e.node() == node)
    }

    /// Whether a join request holds, given who stays on the roster.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_join(&self, join: &Signed<Join>, staying: &Roster) -> Result<(), Reject> {
        let node = join.by();
        let request = join.open(&request_scope(self.params.run, self.genesis), &self.verifier)?;
        if self.is_void(node, request.round) {
            return Err(Reject::Void);
        }
        if self.has_lied(node) {
            return Err(Reject::Liar);
        }
        // Whoever is on the roster of this round can't join it, also when the same record takes it off.
        if self.roster.contains(node) || staying.contains(node) || !is_name(&request.name) {
            return Err(Reject::BadRosterChange);
        }
        match request.part {
            Some(part) if !part.is_valid() => Err(Reject::BadRosterChange),
            Some(part) if staying.members().iter().any(|m| m.part == Some(part)) => Err(Reject::PartTaken),
            _ => Ok(()),
        }
    }

    /// Whether a leave request holds.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_leave(&self, leave: &Signed<Leave>) -> Result<(), Reject> {
        let node = leave.by();
        if !self.roster.contains(node) {
            return Err(Reject::BadRosterChange);
        }
        let request = leave.open(&request_scope(self.params.run, self.genesis), &self.verifier)?;
        if self.is_void(node, request.round) { Err(Reject::Void) } else { Ok(()) }
    }

    /// Whether a request that a node made in `round` no longer counts: it is too old, for a round that has not come, or the
    /// node's membership has changed since, so that it can't be said again by others.
    fn is_void(&self, node: NodeId, round: u64) -> bool {
        let now = self.next_round();
        round > now || now - round > REQUEST_ROUNDS || self.has_changed_since(node, round)
    }

    pub(super) fn check_eviction(&self, eviction: &Eviction) -> Result<(), Reject> {
        if !self.roster.contains(eviction.node()) {
            return Err(Reject::BadRosterChange);
        }
        match eviction {
            Eviction::Liar { node, evidence } => match self.liar(evidence)? == *node {
                true => Ok(()),
                false => Err(Reject::BadRosterChange),
            },
            Eviction::Silent { node, votes } => self.check_silent(*node, votes),
        }
    }

    fn check_silent(&self, node: NodeId, votes: &[Signed<Vote>]) -> Result<(), Reject> {
        let enough = (self.roster.quorum()..=self.roster.len()).contains(&votes.len());
        if !enough || !is_ascending(votes.iter().map(Signed::by)) {
            return Err(Reject::NoQuorum);
        }
        for vote in votes {
            let v = vote.open(&self.scope(), &self.verifier)?;
            let named = v.ballot.round == self.next_round() && v.silent.contains(&node);
            if !named || !self.roster.contains(vote.by()) {
                return Err(Reject::BadRosterChange);
            }
        }
        Ok(())
    }

    /// The liar that evidence proves, if it belongs to this chain.
    ///
    /// # Errors
    /// Why it proves nothing.
    pub fn liar(&self, evidence: &crate::record::Evidence) -> Result<NodeId, Reject> {
        if evidence.chain != self.genesis && evidence.chain != self.founding {
            return Err(Reject::OtherChain);
        }
        evidence.liar(self.params.run, &self.verifier)
    }
}

fn is_ascending(nodes: impl Iterator<Item = NodeId>) -> bool {
    nodes.is_sorted_by(|a, b| a < b)
}

/// Whether a founding may be decided on at all: signed, this run, a roster in order, large enough, no part twice, the
/// proposer on it.
///
/// # Errors
/// What is wrong with it.
pub fn check_founding(params: &RunParams, founding: &Signed<Founding>, verifier: &Verifier) -> Result<(), Reject> {
    let content = founding.open(&Founding::proposal_scope(params.run), verifier)?;
    let founders = &content.founders;
    if content.run != params.run {
        return Err(Reject::OtherChain);
    }
    if content.model != params.initial_model {
        return Err(Reject::OtherInitialModel);
    }
    if founders.len() < params.min_nodes || founders.len() > ROSTER_MAX {
        return Err(Reject::OverBound);
    }
    if !is_ascending(founders.iter().map(|f| f.member.node)) {
        return Err(Reject::Twice);
    }
    if founders.iter().all(|f| f.member.node != founding.by()) {
        return Err(Reject::Stranger);
    }
    let mut parts: Vec<_> = founders.iter().filter_map(|f| f.member.part).collect();
    parts.sort();
    let parts_fit = parts.iter().all(|p| p.is_valid()) && parts.is_sorted_by(|a, b| a < b);
    if !parts_fit || founders.iter().any(|f| !is_name(&f.member.name)) {
        return Err(Reject::BadRosterChange);
    }
    Ok(())
}

/// Whether a record may be the outcome of this founding, which was checked.
///
/// # Errors
/// What is wrong with it.
pub fn check_outcome(founding: &Signed<Founding>, record: &Record, verifier: &Verifier) -> Result<(), Reject> {
    let content = founding.vouched();
    let (id, model) = match &record.kind {
        Kind::Genesis { .. } => (founding.id(), content.model),
        _ => (founding.id(), BlobRef::NONE),
    };
    let ballot = Ballot { round: 0, attempt: record.attempt };
    if *record != Record::plain(record.kind.clone(), ballot, record.coordinator, id, model) {
        return Err(Reject::WrongKind);
    }
    match &record.kind {
        Kind::Abort => Ok(()),
        Kind::Genesis { founding: found, binds } if found == founding => {
            if !binds.iter().map(Signed::by).eq(content.founders.iter().map(|f| f.member.node)) {
                return Err(Reject::BadSignature);
            }
            let scope = founding.scope();
            binds.iter().zip(&content.founders).try_for_each(|(bind, founder)| {
                let consent = bind.open(&scope, verifier)?.consent;
                if consent == founder.consent { Ok(()) } else { Err(Reject::BadSignature) }
            })
        }
        _ => Err(Reject::WrongKind),
    }
}

/// Whether a record may begin a chain that one member began alone. Whether that member ever was in the chain that it names
/// can't be seen from here: nobody enters such a chain but at its owner's wish.
///
/// # Errors
/// What is wrong with it.
pub fn check_forced(
    params: &RunParams,
    forced: &Signed<Forced>,
    record: &Record,
    verifier: &Verifier,
) -> Result<(), Reject> {
    let content = forced.open(&Founding::proposal_scope(params.run), verifier)?;
    let (by, ballot) = (forced.by(), Ballot::of_round(0));
    if *record != Record::plain(record.kind.clone(), ballot, by, content.head, content.model) {
        return Err(Reject::WrongKind);
    }
    if content.member.node != by {
        return Err(Reject::Stranger);
    }
    if content.model.len != params.initial_model.len {
        return Err(Reject::WrongShape);
    }
    let too_many = content.round > CONTINUED_ROUNDS_MAX || content.trained > params.rounds;
    if too_many || content.trained > content.round {
        return Err(Reject::OverBound);
    }
    let part_fits = content.member.part.is_none_or(|part| part.is_valid());
    if !part_fits || !is_name(&content.member.name) {
        return Err(Reject::BadRosterChange);
    }
    Ok(())
}

/// Whether these votes elect `candidate` in `ballot`: a quorum of the roster, each signed, each voter once. Returns what
/// the highest of them has accepted: that must be proposed again.
///
/// # Errors
/// What is wrong with them.
pub fn check_votes(
    votes: &[Signed<Vote>],
    scope: &Scope,
    roster: &Roster,
    ballot: Ballot,
    candidate: NodeId,
    verifier: &Verifier,
) -> Result<Option<Signed<Proposed>>, Reject> {
    if !roster.contains(candidate) {
        return Err(Reject::Stranger);
    }
    if votes.len() < roster.quorum() || votes.len() > roster.len() || !is_ascending(votes.iter().map(Signed::by)) {
        return Err(Reject::NoQuorum);
    }
    for vote in votes {
        let v = vote.open(scope, verifier)?;
        if v.ballot != ballot || v.candidate != candidate || !roster.contains(vote.by()) {
            return Err(Reject::NoQuorum);
        }
        v.accepted(scope, verifier)?;
    }
    Ok(highest_accepted(votes))
}

/// What must be proposed again, of what these votes, which were checked, say that their voters accepted: that of the highest
/// ballot. Where a coordinator proposed two records in it, the word of the others counts before its own.
pub fn highest_accepted(votes: &[Signed<Vote>]) -> Option<Signed<Proposed>> {
    let claims = votes.iter().filter_map(|vote| Some((vote.by(), vote.vouched().accepted?)));
    claims.max_by_key(|(voter, claim)| (claim.vouched().ballot, claim.by() != *voter, *voter)).map(|(_, claim)| claim)
}

/// Whether the accepts of `committed` prove it: one ballot, one coordinator, a quorum of the roster, each signed.
///
/// # Errors
/// What is wrong with them.
pub fn check_accepts(committed: &Committed, scope: &Scope, roster: &Roster, verifier: &Verifier) -> Result<(), Reject> {
    let Committed { record, accepts } = committed;
    let enough = (roster.quorum()..=roster.len()).contains(&accepts.len());
    if !enough || !is_ascending(accepts.iter().map(Signed::by)) {
        return Err(Reject::NoQuorum);
    }
    let value = record.hash();
    let mut first = None;
    for accept in accepts {
        let a = accept.open(scope, verifier)?;
        let first = *first.get_or_insert(*a);
        let fits = *a == first && a.value == value && a.ballot.round == record.round;
        if !fits || !roster.contains(accept.by()) {
            return Err(Reject::NoQuorum);
        }
    }
    Ok(())
}
