//! One round of a chain: train, collect, aggregate, propose. The `Instance` inside decides; this is what it is about.
//!
//! A member trains when a coordinator has opened the round and offers its update to whoever coordinates, once for each
//! ballot, the same update always. A coordinator fetches what is offered, has it checked and folded into the exact sum,
//! and proposes the record when it has waited long enough.

mod collection;
pub mod message;
pub(crate) mod pending;
mod waits;

use std::collections::BTreeSet;

use crate::base::bounds::{FAILURE_BYTES_MAX, MESSAGE_BYTES_MAX, PROPOSAL_SLACK_BYTES};
use crate::base::codec;
use crate::base::ids::{Ballot, BlobRef, Hash, NodeId, Time};
use crate::base::reject::Reject;
use crate::base::signed::Signed;
use crate::base::timing::{CLOSING_MS, PRESENCE_MS, PROGRESS_MS, RETRY_MS};
use crate::chain::Chain;
use crate::context::Context;
use crate::io::{Effect, Event, FetchFailure, Persist, PersistId, Purpose, TrainedUpdate};
use crate::membership::message::Activity;
use crate::message::Message;
use crate::paxos::message::{Phase, Task};
use crate::paxos::{Instance, Output, Start};
use crate::record::{Alive, Committed, Contribution, Evaluation, Failure, FinalEvaluation, Kind, Record, Resume};
use crate::round::message::Message as Work;

use collection::{Collection, Intake};
use pending::PendingChanges;
pub(crate) use waits::Waits;

/// This node's own part in the round.
#[derive(Debug, Clone)]
enum OwnPart {
    /// Nothing was asked of it yet.
    Waiting,
    /// The trainer is at it, and has done so many percent.
    Training(u8),
    /// The update is on disk, and the contribution once this is written; `None` for one that was found there.
    Trained(Signed<Contribution>, Option<PersistId>),
    /// Training failed, and why: the round goes on without this node, or ends if it can't.
    Failed(Signed<Failure>),
    /// The trainer evaluates the last model, and has done so many percent.
    Evaluating(u8),
    /// The evaluation for the closing record.
    Evaluated(Signed<FinalEvaluation>),
}

/// A stronger chain, and the proof that it lives.
pub(crate) type YieldTo = (Hash, Vec<Signed<Alive>>);

#[derive(Debug, Clone)]
pub(crate) struct Round {
    pub(crate) paxos: Instance,
    own: OwnPart,
    /// When this node last offered its work, and the ballot whose coordinator has answered for good.
    offered: Option<Time>,
    answered: Option<Ballot>,
    collection: Option<Collection>,
    progress_at: Time,
    /// Whether the run has stopped before this round: nobody trains, until a member wants to go on.
    halted: bool,
    /// The wish to go on, once there is one, and when this node last told of its own.
    resume: Option<Signed<Resume>>,
    resume_told: Option<Time>,
}

impl Round {
    pub(crate) fn begin(
        ctx: &mut Context,
        chain: &Chain,
        contribution: Option<Signed<Contribution>>,
        start: Start,
    ) -> Self {
        let (roster, model) = (chain.roster().clone(), chain.head().model);
        let paxos = Instance::begin(ctx, chain.scope(), chain.next_round(), roster, model, start);
        // One of another chain's round of the same number does not open here.
        let ours =
            contribution.filter(|c| c.open(&chain.scope(), &ctx.verifier).is_ok_and(|c| c.round == chain.next_round()));
        let own = ours.map_or(OwnPart::Waiting, |c| OwnPart::Trained(c, None));
        Self {
            paxos,
            own,
            offered: None,
            answered: None,
            collection: None,
            progress_at: ctx.now,
            halted: chain.is_halted(),
            resume: None,
            resume_told: None,
        }
    }

    /// Whether the run has stopped here, and nobody is known to want to go on.
    pub(crate) fn is_halted(&self) -> bool {
        self.halted && self.resume.is_none()
    }

    /// While a run has stopped nobody campaigns. Who is asked for a vote answers all the same.
    fn sleeps(&self) -> bool {
        self.is_halted() && self.paxos.opened().is_none()
    }

    /// Somebody at this node wants the run to go on.
    pub(crate) fn wish_to_resume(&mut self, ctx: &mut Context, chain: &Chain) {
        if self.is_halted() {
            self.resume = Some(Signed::new(&ctx.identity, &chain.scope(), Resume { round: chain.next_round() }));
        }
    }

    /// Tells everybody that this node wants to go on, until it does.
    fn tell_resume_if_due(&mut self, ctx: &mut Context, chain: &Chain) {
        let Some(resume) = self.resume.filter(|resume| resume.by() == ctx.me) else { return };
        if self.resume_told.is_none_or(|at| ctx.now.since_ms(at) >= RETRY_MS) {
            self.resume_told = Some(ctx.now);
            let message = Message::round(chain.genesis(), self.paxos.ballot(), Work::Resume(resume));
            let others: Vec<NodeId> = chain.roster().nodes().filter(|n| *n != ctx.me).collect();
            others.into_iter().for_each(|node| ctx.send(node, message.clone()));
        }
    }

    fn on_resume(&mut self, ctx: &mut Context, chain: &Chain, from: NodeId, resume: Signed<Resume>) {
        match chain.check_resume(&resume) {
            Ok(()) if self.is_halted() => self.resume = Some(resume),
            Ok(()) => {}
            Err(reject) => ctx.reject(from, reject),
        }
    }

    pub(crate) fn deadline(&self, ctx: &Context) -> Time {
        if self.sleeps() {
            return ctx.now.plus_ms(PRESENCE_MS);
        }
        let mut deadline = self.paxos.deadline(ctx);
        if let Some(told) = self.resume_told {
            deadline = deadline.min(told.plus_ms(RETRY_MS));
        }
        if self.has_to_offer(ctx) {
            deadline = deadline.min(self.offered.map_or(ctx.now, |at| at.plus_ms(RETRY_MS)));
        }
        if let Some(collection) = self.collection.as_ref().filter(|c| !c.is_done) {
            let next_gone = ctx.peers.next_gone(&collection.awaited(), ctx.now);
            deadline = [Some(collection.ends), collection.patience_ends(), next_gone]
                .into_iter()
                .flatten()
                .filter(|t| *t > ctx.now)
                .fold(deadline, Time::min);
        }
        deadline
    }

    /// What this node does, as it tells the others.
    pub(crate) fn activity(&self, ctx: &Context, chain: &Chain) -> Activity {
        let leading = self.paxos.is_leading();
        match &self.own {
            OwnPart::Training(percent) | OwnPart::Evaluating(percent) => Activity::Training { percent: *percent },
            _ if leading && self.paxos.phase() != Some(Phase::Collecting) => Activity::Coordinating,
            OwnPart::Waiting if ctx.is_paused => Activity::Paused,
            _ if ctx.is_fetching(chain.head().model.id) => Activity::Fetching,
            OwnPart::Trained(..) if self.has_to_offer(ctx) => Activity::Uploading,
            OwnPart::Trained(..) | OwnPart::Evaluated(_) => Activity::Done,
            OwnPart::Waiting => Activity::Idle,
            OwnPart::Failed(_) => Activity::Failed,
        }
    }

    /// Stops training where this node is paused. It begins anew if it goes on within the round.
    pub(crate) fn pause_if_told(&mut self, ctx: &mut Context) {
        if ctx.is_paused && matches!(self.own, OwnPart::Training(_)) {
            self.own = OwnPart::Waiting;
            ctx.effect(Effect::StopTraining);
        }
    }

    /// How far this node's trainer is.
    pub(crate) fn progressed(&mut self, percent: u8) {
        if let OwnPart::Training(done) | OwnPart::Evaluating(done) = &mut self.own {
            *done = percent.min(100);
        }
    }

    /// Updates that are in the average, and those that a record needs, while they are collected.
    pub(crate) fn updates(&self, ctx: &Context, chain: &Chain) -> Option<(usize, usize)> {
        let is_in = |node: &&NodeId| self.activity_of(ctx, chain, **node) == Some(Activity::Done);
        let participants = self.participants();
        (!participants.is_empty()).then(|| (participants.iter().filter(is_in).count(), chain.updates_needed()))
    }

    /// When the round's patience with those who are late ends, at the latest: the coordinator knows, others reckon from when
    /// they heard of the attempt.
    pub(crate) fn collected_by(&self, chain: &Chain) -> Option<Time> {
        let collects = self.paxos.phase() == Some(Phase::Collecting) && !self.halted;
        let reckoned = || self.paxos.phase_since().plus_ms(chain.params().round_timeout_ms);
        collects.then(|| self.collection.as_ref().map_or_else(reckoned, |collection| collection.ends))
    }

    /// What a participant does, as far as this node knows: the coordinator from its own hand, others from it.
    pub(crate) fn activity_of(&self, ctx: &Context, chain: &Chain, node: NodeId) -> Option<Activity> {
        if node == ctx.me {
            return Some(self.activity(ctx, chain));
        }
        if let Some(collection) = &self.collection {
            match collection.intake(node) {
                Some((_, Intake::In)) => return Some(Activity::Done),
                Some(_) => return Some(Activity::Uploading),
                None => {}
            }
        }
        let said = ctx.peers.activity(node, chain.genesis(), chain.next_round());
        self.told_activity(node).or(said)
    }

    fn told_activity(&self, node: NodeId) -> Option<Activity> {
        let Some(Task::Train { participants }) = &self.paxos.opened()?.plan.task else { return None };
        let place = participants.iter().position(|p| *p == node)?;
        self.paxos.progress().get(place).copied()
    }

    /// The participants of the round, as planned.
    pub(crate) fn participants(&self) -> &[NodeId] {
        match self.paxos.opened().and_then(|o| o.plan.task.as_ref()) {
            Some(Task::Train { participants }) => participants,
            Some(Task::Evaluate) | None => &[],
        }
    }

    /// Why this node brings no update.
    pub(crate) fn failure(&self) -> Option<&str> {
        match &self.own {
            OwnPart::Failed(failure) => Some(&failure.vouched().why),
            _ => None,
        }
    }

    /// Blobs that this round still needs.
    pub(crate) fn blobs(&self) -> BTreeSet<Hash> {
        let mut blobs: BTreeSet<Hash> = self.paxos.models().collect();
        if let OwnPart::Trained(contribution, _) = &self.own {
            blobs.insert(contribution.vouched().update.id);
        }
        blobs.extend(self.collection.iter().flat_map(Collection::blobs));
        blobs
    }

    pub(crate) fn receive(&mut self, ctx: &mut Context, chain: &Chain, from: NodeId, ballot: Ballot, message: Work) {
        match message {
            Work::UpdateReady(contribution) => self.on_update_ready(ctx, chain, from, ballot, contribution),
            Work::UpdateAck { update, result } => self.on_update_ack(ctx, from, ballot, update, result),
            Work::Evaluated(evaluation) => self.on_evaluation(ctx, chain, from, ballot, evaluation),
            Work::Failed(failure) => self.on_failure(ctx, chain, from, ballot, failure),
            Work::Resume(resume) => self.on_resume(ctx, chain, from, resume),
        }
    }

    pub(crate) fn tick(&mut self, ctx: &mut Context) {
        if !self.sleeps() {
            self.paxos.tick(ctx);
        }
    }

    /// Does what is due after any input. Returns the decided record.
    pub(crate) fn drive(
        &mut self,
        ctx: &mut Context,
        chain: &Chain,
        pending: &mut PendingChanges,
        yields_to: Option<YieldTo>,
    ) -> Driven {
        let mut driven = Driven::default();
        while let Some(output) = self.paxos.take_output() {
            match output {
                Output::Elected => self.open(ctx, chain, pending),
                Output::Following => {
                    self.offered = None;
                    self.answered = None;
                }
                Output::Decided(committed) => {
                    driven.decided = Some(*committed);
                    return driven;
                }
                Output::Lie(evidence) => {
                    // It is new, or known: either way there is nothing to answer.
                    let _ = pending.add_evidence(ctx, chain, *evidence);
                }
                Output::Unshown { chain, coordinator } => driven.unshown = Some((chain, coordinator)),
            }
        }
        if self.collection.as_ref().is_some_and(|c| !self.leads(c.ballot)) {
            self.collection = None;
        }
        self.tell_resume_if_due(ctx, chain);
        self.work_if_due(ctx, chain);
        self.offer_if_due(ctx, chain);
        self.yield_if_due(ctx, chain, yields_to);
        self.finish_if_due(ctx, chain, pending);
        self.tell_progress(ctx, chain);
        self.paxos.note_phase(ctx.now);
        driven
    }

    fn leads(&self, ballot: Ballot) -> bool {
        self.paxos.is_leading() && self.paxos.ballot() == ballot
    }

    /// The coordinator's plan: who trains and for how long.
    fn open(&mut self, ctx: &mut Context, chain: &Chain, pending: &mut PendingChanges) {
        if self.halted {
            // Nothing is asked of anybody: the record that ends the stop is proposed once a wish for it is here.
            let mut collection = Collection::new(self.paxos.ballot(), ctx.now, ctx.now, false);
            collection.needed = usize::MAX;
            self.collection = Some(collection);
            return;
        }
        let closing = chain.is_trained();
        // Nodes end `CLOSING_MS` after the last round: the closing record must be there before.
        let length_ms = if closing { CLOSING_MS / 2 } else { chain.params().round_timeout_ms };
        let wanted = chain.params().quota.participants_of(chain.roster().len());
        let mut collection = Collection::new(self.paxos.ballot(), ctx.now, ctx.now.plus_ms(length_ms), closing);
        collection.needed = chain.updates_needed();
        if !closing {
            collection.participants = self.choose(ctx, chain, wanted, 0);
        }
        let participants = collection.participants.clone();
        pending.expire(chain);
        self.answered = None;
        self.offered = None;
        self.collection = Some(collection);
        self.paxos.open(ctx, if closing { Task::Evaluate } else { Task::Train { participants } });
    }

    /// The first of the order that everybody can compute, and after them as many as it takes to have `wanted` that can
    /// bring an update; never fewer than before.
    fn choose(&self, ctx: &Context, chain: &Chain, wanted: usize, before: usize) -> Vec<NodeId> {
        let order = chain.roster().participant_order(chain.head().model.id, chain.next_round());
        let able = order.iter().filter(|n| self.can_deliver(ctx, chain, **n)).count();
        let (mut end, mut live) = (0, 0);
        while end < order.len() && (end < wanted.max(before) || live < wanted.min(able)) {
            live += usize::from(self.can_deliver(ctx, chain, order[end]));
            end += 1;
        }
        order[..end].to_vec()
    }

    /// Whether an update can come from a node: it is there, is not paused, and its training has not failed. One that failed,
    /// started again and offers an update after all may still be called failed by an older presence: the offer counts.
    fn can_deliver(&self, ctx: &Context, chain: &Chain, node: NodeId) -> bool {
        if node == ctx.me {
            let is_paused = ctx.is_paused && matches!(self.own, OwnPart::Waiting);
            return !is_paused && self.failure().is_none();
        }
        let has_offered = self.collection.as_ref().is_some_and(|c| c.intake(node).is_some());
        if self.collection.as_ref().is_some_and(|c| c.failures().any(|f| f.by() == node)) {
            return false;
        }
        let said = || ctx.peers.activity(node, chain.genesis(), chain.next_round());
        !ctx.peers.is_gone(node, ctx.now)
            && (has_offered || !matches!(said(), Some(Activity::Failed | Activity::Paused)))
    }

    /// Begins to train, or to evaluate for the closing record, once a coordinator asks for it and the model is here.
    fn work_if_due(&mut self, ctx: &mut Context, chain: &Chain) {
        let Some(opened) = self.paxos.opened() else { return };
        let (coordinator, task) = (opened.coordinator, opened.plan.task.clone());
        if !matches!(self.own, OwnPart::Waiting) {
            return;
        }
        let Some(member) = chain.roster().get(ctx.me) else { return };
        // A plan that the chain does not call for is not followed.
        let closing = match &task {
            Some(Task::Evaluate) if chain.is_trained() => true,
            Some(Task::Train { participants })
                if !chain.is_trained()
                    && participants.contains(&ctx.me)
                    && chain.check_participants(participants).is_ok() =>
            {
                false
            }
            Some(Task::Evaluate | Task::Train { .. }) | None => return,
        };
        if ctx.is_paused && !closing {
            return;
        }
        let (round, model) = (chain.next_round(), chain.head().model);
        let is_here = ctx.blobs.contains(&model.id);
        let may_come = ctx.is_fetching(model.id) || !ctx.is_disk_failing();
        if !is_here && may_come {
            return ctx.fetch(model, Purpose::Model, coordinator, chain.roster());
        }
        if closing {
            self.own = OwnPart::Evaluating(0);
            return match is_here && !ctx.is_paused {
                true => ctx.effect(Effect::Evaluate { round, model }),
                false => self.evaluated(ctx, chain, None),
            };
        }
        if !is_here {
            // The round goes on without this node, and everybody's status says why.
            return self.fail(ctx, chain, "the model can't be kept on its disk".into());
        }
        self.own = OwnPart::Training(0);
        let last_update = chain.last_contribution_of(ctx.me).map(|c| c.update.id);
        let (parent, node_key, training_round) = (chain.head_hash(), member.key(), chain.training_round());
        ctx.effect(Effect::Train { round, training_round, parent, model, node_key, last_update });
    }

    /// The trainer has ended.
    pub(crate) fn trained(&mut self, ctx: &mut Context, chain: &Chain, outcome: Result<TrainedUpdate, String>) {
        if !matches!(self.own, OwnPart::Training(_)) {
            return;
        }
        let round = chain.next_round();
        match outcome {
            Ok(trained) => {
                let TrainedUpdate { update, samples, train_loss, train_ms, evaluation, trainer } = trained;
                let content = Contribution { round, samples, update, train_loss, train_ms, evaluation, trainer };
                let contribution = Signed::new(&ctx.identity, &chain.scope(), content);
                ctx.blobs.insert(update.id);
                // It is offered once it is on disk: what was offered is never trained again.
                let item = Persist::Contribution { chain: chain.genesis(), contribution: contribution.clone() };
                let write = ctx.persist(item);
                self.own = OwnPart::Trained(contribution, Some(write));
            }
            Err(why) => self.fail(ctx, chain, why),
        }
    }

    /// This node has nothing for this round.
    fn fail(&mut self, ctx: &mut Context, chain: &Chain, why: String) {
        let round = chain.next_round();
        ctx.emit(Event::TrainingFailed { round, why: why.clone() });
        let content = Failure { round, why: shortened(why) };
        self.own = OwnPart::Failed(Signed::new(&ctx.identity, &chain.scope(), content));
    }

    /// The evaluation for the closing record has ended. A node without held-out data says so with an empty one.
    pub(crate) fn evaluated(&mut self, ctx: &mut Context, chain: &Chain, evaluation: Option<Evaluation>) {
        if matches!(self.own, OwnPart::Evaluating(_)) {
            let content = FinalEvaluation { round: chain.next_round(), evaluation: evaluation.unwrap_or_default() };
            self.own = OwnPart::Evaluated(Signed::new(&ctx.identity, &chain.scope(), content));
        }
    }

    /// Whether there is an update or evaluation that the present coordinator has not answered for.
    fn has_to_offer(&self, ctx: &Context) -> bool {
        let Some(opened) = self.paxos.opened().filter(|o| self.answered != Some(o.plan.ballot)) else { return false };
        match (&self.own, &opened.plan.task) {
            (OwnPart::Trained(_, write), Some(Task::Train { participants })) => {
                write.is_none_or(|id| ctx.is_written(id)) && participants.contains(&ctx.me)
            }
            (OwnPart::Evaluated(_), Some(Task::Evaluate)) => true,
            (OwnPart::Failed(_), Some(Task::Train { .. })) => true,
            _ => false,
        }
    }

    fn offer_if_due(&mut self, ctx: &mut Context, chain: &Chain) {
        let recently = self.offered.is_some_and(|at| ctx.now.since_ms(at) < RETRY_MS);
        if recently || !self.has_to_offer(ctx) {
            return;
        }
        let Some((ballot, coordinator)) = self.paxos.opened().map(|o| (o.plan.ballot, o.coordinator)) else { return };
        self.offered = Some(ctx.now);
        let work = match &self.own {
            OwnPart::Trained(contribution, _) => Work::UpdateReady(contribution.clone()),
            OwnPart::Evaluated(evaluation) => Work::Evaluated(evaluation.clone()),
            OwnPart::Failed(failure) => Work::Failed(failure.clone()),
            OwnPart::Waiting | OwnPart::Training(_) | OwnPart::Evaluating(_) => return,
        };
        ctx.send(coordinator, Message::round(chain.genesis(), ballot, work));
    }

    fn on_update_ack(
        &mut self,
        ctx: &mut Context,
        from: NodeId,
        ballot: Ballot,
        update: Hash,
        result: Result<(), Reject>,
    ) {
        let by_coordinator = self.paxos.opened().is_some_and(|o| o.coordinator == from && o.plan.ballot == ballot);
        let ours = matches!(&self.own, OwnPart::Trained(c, _) if c.vouched().update.id == update);
        // Not collecting (any more) is no answer for good: a coordinator may be about to open.
        if by_coordinator && ours && result != Err(Reject::NotCollecting) {
            self.answered = Some(ballot);
            if let Err(reject) = result {
                ctx.reject(from, reject);
            }
        }
    }

    /// A participant says that its update is ready.
    fn on_update_ready(
        &mut self,
        ctx: &mut Context,
        chain: &Chain,
        from: NodeId,
        ballot: Ballot,
        contribution: Signed<Contribution>,
    ) {
        let genesis = chain.genesis();
        let answer = |update, result| Message::round(genesis, ballot, Work::UpdateAck { update, result });
        let blob = contribution.vouched().update;
        let taken = self.take_update(ctx, chain, from, ballot, contribution);
        match taken {
            Ok(Taken::Begun) => {
                if ctx.blobs.contains(&blob.id) {
                    self.update_fetched(ctx, blob.id);
                } else {
                    ctx.fetch(blob, Purpose::Update, from, chain.roster());
                }
            }
            Ok(Taken::Known(Intake::In)) => ctx.send(from, answer(blob.id, Ok(()))),
            Ok(Taken::Known(Intake::Refused(reject))) => ctx.send(from, answer(blob.id, Err(reject))),
            Ok(Taken::Known(Intake::Fetching | Intake::Folding)) => {}
            Err(reject) => {
                // Whose update comes while the average is made did nothing wrong.
                if reject != Reject::NotCollecting {
                    ctx.reject(from, reject);
                }
                ctx.send(from, answer(blob.id, Err(reject)));
            }
        }
    }

    /// Whether an offered update is one to fetch, and what became of it if it was offered before.
    fn take_update(
        &mut self,
        ctx: &Context,
        chain: &Chain,
        from: NodeId,
        ballot: Ballot,
        contribution: Signed<Contribution>,
    ) -> Result<Taken, Reject> {
        if !self.leads(ballot) {
            let stale = ballot < self.paxos.ballot();
            return Err(if stale { Reject::StaleBallot } else { Reject::NotCollecting });
        }
        let collection = self.collection.as_mut().filter(|c| !c.closing).ok_or(Reject::NotCollecting)?;
        if contribution.by() != from {
            return Err(Reject::BadSignature);
        }
        let offered = contribution.open(&chain.scope(), &ctx.verifier)?;
        match collection.intake(from) {
            Some((before, intake)) if before.update == offered.update => return Ok(Taken::Known(intake)),
            Some(_) => return Err(Reject::Twice),
            None if collection.is_done => return Err(Reject::NotCollecting),
            None => {}
        }
        chain.check_contribution(&contribution, &collection.participants)?;
        collection.begin_intake(contribution);
        Ok(Taken::Begun)
    }

    /// An offered update is here: it is checked and folded.
    pub(crate) fn update_fetched(&mut self, ctx: &mut Context, blob: Hash) {
        // What comes while the average is made is not in it.
        let Some(collection) = self.collection.as_mut().filter(|c| !c.is_done) else { return };
        let ballot = collection.ballot;
        for node in collection.waiting_for(blob, Intake::Fetching) {
            if let Some((contribution, _)) = collection.intake(node) {
                let (update, samples) = (contribution.update, contribution.samples);
                ctx.effect(Effect::Fold { ballot, node, update, samples });
                collection.set_intake(node, Intake::Folding, ctx.now);
            }
        }
    }

    pub(crate) fn fetch_failed(&mut self, ctx: &mut Context, chain: &Chain, blob: Hash, failure: FetchFailure) {
        let concerned = self.collection.as_ref().map(|c| c.waiting_for(blob, Intake::Fetching)).unwrap_or_default();
        for node in concerned {
            match failure {
                FetchFailure::Invalid(reject) => self.settle(ctx, chain, node, Err(reject)),
                // The participant offers again, if it lives.
                FetchFailure::Unreachable => self.forget_intake(node),
                FetchFailure::Disk => return self.own_disk_failed(ctx),
            }
        }
        let invalid = match failure {
            FetchFailure::Invalid(reject) => Some(reject),
            FetchFailure::Unreachable | FetchFailure::Disk => None,
        };
        self.paxos.fetch_failed(ctx, blob, invalid);
    }

    /// A coordinator that can't keep an update would wait for it until the round's timeout: another takes its place.
    fn own_disk_failed(&mut self, ctx: &mut Context) {
        ctx.disk_failed();
        self.paxos.step_down(ctx, "this node's disk fails");
    }

    fn forget_intake(&mut self, node: NodeId) {
        if let Some(collection) = &mut self.collection {
            collection.forget_intake(node);
        }
    }

    /// A fold has ended.
    pub(crate) fn folded(
        &mut self,
        ctx: &mut Context,
        chain: &Chain,
        ballot: Ballot,
        node: NodeId,
        result: Result<(), Reject>,
    ) {
        if self.collection.as_ref().is_some_and(|c| c.ballot == ballot) {
            match result {
                // Trouble of this node's own is not the participant's fault.
                Err(Reject::ModelMissing) => self.own_disk_failed(ctx),
                Err(Reject::TooMany) => self.forget_intake(node),
                result => self.settle(ctx, chain, node, result),
            }
        }
    }

    /// An offered update is in, or refused for good.
    fn settle(&mut self, ctx: &mut Context, chain: &Chain, node: NodeId, result: Result<(), Reject>) {
        let Some(collection) = &mut self.collection else { return };
        let Some((contribution, _)) = collection.intake(node) else { return };
        let (ballot, update) = (collection.ballot, contribution.update.id);
        let intake = match result {
            Ok(()) => {
                ctx.emit(Event::UpdateIn { ballot, node });
                Intake::In
            }
            Err(reject) => {
                ctx.reject(node, reject);
                Intake::Refused(reject)
            }
        };
        collection.set_intake(node, intake, ctx.now);
        ctx.send(node, Message::round(chain.genesis(), ballot, Work::UpdateAck { update, result }));
    }

    fn on_evaluation(
        &mut self,
        ctx: &mut Context,
        chain: &Chain,
        from: NodeId,
        ballot: Ballot,
        signed: Signed<FinalEvaluation>,
    ) {
        if !self.leads(ballot) {
            return ctx.reject(from, Reject::StaleBallot);
        }
        let Some(collection) = self.collection.as_mut().filter(|c| c.closing) else {
            return ctx.reject(from, Reject::NotCollecting);
        };
        if signed.by() != from || !chain.roster().contains(from) {
            return ctx.reject(from, Reject::Stranger);
        }
        match signed.open(&chain.scope(), &ctx.verifier) {
            Ok(e) if e.round == chain.next_round() && e.evaluation.is_plausible() => collection.add_evaluation(signed),
            Ok(_) => ctx.reject(from, Reject::BadMetrics),
            Err(reject) => ctx.reject(from, reject),
        }
    }

    /// A member says that it brings no update. It is asked no more, and may bring one all the same.
    fn on_failure(&mut self, ctx: &mut Context, chain: &Chain, from: NodeId, ballot: Ballot, failure: Signed<Failure>) {
        if !self.leads(ballot) {
            return ctx.reject(from, Reject::StaleBallot);
        }
        if failure.by() != from {
            return ctx.reject(from, Reject::BadSignature);
        }
        match (chain.check_failure(&failure), self.collection.as_mut().filter(|c| !c.closing)) {
            (Ok(()), Some(collection)) => collection.add_failure(failure),
            (Ok(()), None) => {}
            (Err(reject), _) => ctx.reject(from, reject),
        }
    }

    /// A chain without a round of its own gives way to a stronger one that was shown to be alive.
    fn yield_if_due(&mut self, ctx: &mut Context, chain: &Chain, yields_to: Option<YieldTo>) {
        let collects = self.collection.as_ref().is_some_and(|c| !c.is_done);
        if let Some((to, alive)) = yields_to.filter(|_| collects) {
            let record = self.record(ctx, chain, Kind::Yield { to, alive }, chain.head().model, None);
            self.propose(ctx, record);
        }
    }

    /// Ends the collection when nobody is missing, when those missing were waited for long enough, or when time is up.
    fn finish_if_due(&mut self, ctx: &mut Context, chain: &Chain, pending: &mut PendingChanges) {
        let now = ctx.now;
        let Some(collection) = self.collection.as_ref().filter(|c| !c.is_done && !c.is_folding()) else { return };
        if collection.closing {
            let is_there = |node: &NodeId| *node == ctx.me || !ctx.peers.is_gone(*node, now);
            let missing = chain.roster().nodes().any(|n| is_there(&n) && !collection.has_evaluation(n));
            if !missing || now >= collection.ends {
                let record = self.record(ctx, chain, Kind::Closing, chain.head().model, Some(pending));
                self.propose(ctx, record);
            }
            return;
        }
        if self.halted {
            if self.resume.is_some() {
                let record = self.record(ctx, chain, Kind::Empty, chain.head().model, Some(pending));
                self.propose(ctx, record);
            }
            return;
        }
        let all_in = !collection.awaited().into_iter().any(|node| self.can_deliver(ctx, chain, node));
        let out_of_patience = collection.patience_ends().is_some_and(|at| now >= at);
        if collection.has_enough() && (all_in || out_of_patience || now >= collection.ends) {
            return self.aggregate(ctx, chain);
        }
        if now >= collection.ends || chain.is_hopeless(collection.failures().count()) {
            let record = self.record(ctx, chain, Kind::Empty, chain.head().model, Some(pending));
            return self.propose(ctx, record);
        }
        self.extend(ctx, chain);
    }

    /// Lets the next in the order step in for participants that are gone or whose training failed.
    fn extend(&mut self, ctx: &mut Context, chain: &Chain) {
        let Some(before) = self.collection.as_ref().map(|c| c.participants.len()) else { return };
        let wanted = chain.params().quota.participants_of(chain.roster().len());
        let participants = self.choose(ctx, chain, wanted, before);
        if participants.len() > before {
            if let Some(collection) = &mut self.collection {
                collection.participants.clone_from(&participants);
            }
            self.paxos.open(ctx, Task::Train { participants });
        }
    }

    /// The coordinator tells all what the participants do, now and then.
    fn tell_progress(&mut self, ctx: &mut Context, chain: &Chain) {
        let collects = self.collection.as_ref().is_some_and(|c| !c.is_done && !c.closing);
        if !collects || ctx.now.since_ms(self.progress_at) < PROGRESS_MS {
            return;
        }
        self.progress_at = ctx.now;
        let participants = self.participants().iter();
        let progress = participants.map(|n| self.activity_of(ctx, chain, *n).unwrap_or(Activity::Idle)).collect();
        self.paxos.show_progress(progress);
    }

    fn aggregate(&mut self, ctx: &mut Context, chain: &Chain) {
        let Some(collection) = &mut self.collection else { return };
        collection.is_done = true;
        let contents = || collection.contributions().map(|c| (c.by(), c.vouched()));
        let updates = contents().map(|(node, c)| (node, c.update, c.samples)).collect();
        let roster_samples = chain.samples_of_roster(contents().map(|(node, c)| (node, c.samples)));
        let (ballot, parent_model) = (collection.ballot, chain.head().model);
        self.paxos.aggregating();
        ctx.effect(Effect::Aggregate { ballot, parent_model, updates, roster_samples });
    }

    /// The new model is on disk, or could not be made.
    pub(crate) fn aggregated(
        &mut self,
        ctx: &mut Context,
        chain: &Chain,
        pending: &mut PendingChanges,
        ballot: Ballot,
        result: Result<BlobRef, String>,
    ) {
        let is_awaited = self.collection.as_ref().is_some_and(|c| c.ballot == ballot && c.is_done);
        if !is_awaited || !self.leads(ballot) || self.paxos.phase() != Some(Phase::Aggregating) {
            return;
        }
        match result {
            Ok(model) => {
                ctx.blobs.insert(model.id);
                let record = self.record(ctx, chain, Kind::Train, model, Some(pending));
                self.propose(ctx, record);
            }
            Err(_) => self.paxos.step_down(ctx, "the average could not be made"),
        }
    }

    fn propose(&mut self, ctx: &mut Context, record: Record) {
        if let Some(collection) = &mut self.collection {
            collection.is_done = true;
        }
        self.paxos.propose(ctx, record);
    }

    /// The record of this round, with the roster changes that are due and have room if `pending` is given.
    fn record(
        &self,
        ctx: &Context,
        chain: &Chain,
        kind: Kind,
        model: BlobRef,
        pending: Option<&PendingChanges>,
    ) -> Record {
        let collection = self.collection.as_ref();
        let mut record = Record::plain(kind, self.paxos.ballot(), ctx.me, chain.head_hash(), model);
        record.aggregation.clone_from(&chain.params().aggregation);
        record.open_ms = collection.map_or(0, |c| ctx.now.since_ms(c.began));
        if let Some(collection) = collection {
            match record.kind {
                Kind::Train => {
                    record.contributions = collection.contributions().cloned().collect();
                    record.participants.clone_from(&collection.participants);
                }
                Kind::Empty => {
                    record.participants.clone_from(&collection.participants);
                    record.resumed = self.resume;
                    let failures: Vec<_> = collection.failures().cloned().collect();
                    if chain.is_hopeless(failures.len()) {
                        record.failures = failures;
                    }
                }
                Kind::Closing => record.evaluations = collection.evaluations(),
                Kind::Genesis { .. } | Kind::Abort | Kind::Yield { .. } | Kind::Forced(_) => {}
            }
        }
        if let Some(pending) = pending {
            let votes = self.paxos.opened().map(|o| o.votes.as_slice()).unwrap_or_default();
            let taken = codec::encode(&record).len() + self.paxos.votes_len() + PROPOSAL_SLACK_BYTES;
            let changes = pending.due(ctx, chain, votes, MESSAGE_BYTES_MAX.saturating_sub(taken));
            (record.joined, record.left, record.evicted) = (changes.joined, changes.left, changes.evicted);
        }
        record
    }

    /// The round is over for this node.
    pub(crate) fn end(&self, ctx: &mut Context) {
        if matches!(self.own, OwnPart::Training(_) | OwnPart::Evaluating(_)) {
            ctx.effect(Effect::StopTraining);
        }
    }
}

/// As much of a text as a failure has room for.
fn shortened(mut why: String) -> String {
    while why.len() > FAILURE_BYTES_MAX {
        why.pop();
    }
    why
}

/// What became of an offered update.
enum Taken {
    Begun,
    Known(Intake),
}

/// What came of a round's work.
#[derive(Debug, Default)]
pub(crate) struct Driven {
    /// The record that is decided.
    pub(crate) decided: Option<Committed>,
    /// A yield is proposed to a chain that was not shown here; its coordinator can show it.
    pub(crate) unshown: Option<(Hash, NodeId)>,
}
