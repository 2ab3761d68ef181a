//! How a run begins: nodes that see each other decide on a first roster.
//!
//! ```text
//!  proposer                        each member
//!     │ Invite ──────────────────────► could I have proposed this? ── Consent(fresh hash) / Decline
//!     │ ◄──────────────────────────────┘                                binds nobody
//!     │ all said yes
//!     │ Founding(with all consents) ─► mine, and still so? ──────────── Bind, on disk  /  Refusal: proof of the abort
//!     ▼
//!  Paxos of round 0 among the proposed roster: `genesis` with every bind in hand, `abort` when time is up
//! ```
//!
//! A node is bound to one founding at a time, and only its outcome frees it; so two foundings that come about share no node,
//! whoever crashes. It binds itself only to a founding that carries the consent which it drew for this proposer in this
//! life, and gives up that consent with every refusal: nobody is bound to what was made up, and nobody signs both. Who is in
//! a chain refuses and takes no part.

pub mod message;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::base::bounds::{ABORTED_FOUNDINGS_MAX, ROSTER_MAX};
use crate::base::ids::{Ballot, BlobRef, Hash, NodeId, Time};
use crate::base::reject::Reject;
use crate::base::roster::{Member, Roster};
use crate::base::signed::{Scope, Signed};
use crate::base::timing::{
    BIND_MS, CONSENT_MS, FOUNDING_STEP_MS, LEFT_OUT_DOUBLINGS_MAX, LEFT_OUT_MS, RETRY_MS, STABLE_MS,
};
use crate::chain::{check_accepts, check_founding, check_outcome};
use crate::context::{Context, Held};
use crate::founding::message::Message as Word;
use crate::io::{Event, Persist, RecoveredBallot, RecoveredFounding};
use crate::message::Message;
use crate::paxos::message::{Message as Paxos, Phase};
use crate::paxos::{Instance, Output, Start};
use crate::record::{AbortProof, Bind, Committed, Evidence, Founder, Founding, Kind, Record, Refusal, founding_scope};

/// All that a node has to do with foundings.
#[derive(Debug, Clone, Default)]
pub(crate) struct Foundings {
    /// The founding that this node is bound to.
    bound: Option<Bound>,
    /// This node's own question whether others would found with it.
    invitation: Option<Invitation>,
    /// The consent that this node gave to another's.
    given: Option<Given>,
    /// Proofs of foundings that came to nothing, the oldest first, for members that still wait.
    aborted: BTreeMap<Hash, AbortProof>,
    aborted_order: Vec<Hash>,
    /// Who refused, was silent or failed, until when this node founds without it, and how often it was so.
    left_out: BTreeMap<NodeId, (Time, u32)>,
    /// The nodes that could found, and since when they are the same.
    candidates: BTreeSet<NodeId>,
    candidates_since: Time,
    /// A random part of this node's waiting time, drawn with the candidates.
    jitter_ms: u64,
}

/// Who was asked whether it would take part, and who said that it would.
#[derive(Debug, Clone)]
struct Invitation {
    id: Hash,
    members: Vec<Member>,
    consents: BTreeMap<NodeId, Hash>,
    ask_at: Time,
    until: Time,
}

/// A consent: a founding of this proposer that carries it binds this node, until it runs out.
#[derive(Debug, Clone)]
struct Given {
    to: NodeId,
    invitation: Hash,
    consent: Hash,
    until: Time,
}

/// What this node knows outside of foundings.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Standing<'a> {
    /// In no chain, and none is in sight that lives or may prove that it does.
    Free,
    /// In no chain, but not free to found.
    Busy,
    /// In this chain, which began with this record.
    InChain(&'a Committed),
}

impl Foundings {
    pub(crate) fn restored(ctx: &mut Context, found: Vec<RecoveredFounding>, ballots: &[RecoveredBallot]) -> Self {
        let mut foundings = Self { candidates_since: ctx.now, ..Self::default() };
        for found in found {
            match found {
                RecoveredFounding::Aborted { founding, proof } => foundings.remember(founding, proof),
                RecoveredFounding::Bound { founding, bind } => {
                    let ballot = ballots.iter().find(|b| b.chain == founding.id()).cloned();
                    foundings.bound = Some(Bound::begin(ctx, founding, bind, Start::AfterRestart(ballot)));
                }
            }
        }
        foundings
    }

    /// The founding that this node is bound to.
    pub(crate) fn bound(&self) -> Option<Hash> {
        self.bound.as_ref().map(|b| b.id)
    }

    /// This node is in a chain: what it was asked before is void, and what it is bound to is decided.
    pub(crate) fn clear(&mut self) {
        self.bound = None;
        self.invitation = None;
        self.given = None;
        self.candidates.clear();
    }

    /// This node leaves before it is bound to anything: what it said of itself and asked of others is void.
    pub(crate) fn leave(&mut self, ctx: &mut Context) {
        self.given = None;
        if let Some(own) = self.invitation.take() {
            Self::withdraw(ctx, &own);
        }
    }

    /// The members whose bind is not known here, by name.
    pub(crate) fn silent(&self) -> Vec<String> {
        let Some(bound) = &self.bound else { return Vec::new() };
        let silent = bound.roster.members().iter().filter(|m| !bound.binds.contains_key(&m.node));
        silent.map(|m| m.name.clone()).collect()
    }

    pub(crate) fn deadline(&self, ctx: &Context, free: bool) -> Option<Time> {
        if let Some(bound) = &self.bound {
            return Some(bound.deadline(ctx));
        }
        let invited = self.invitation.as_ref().map(|i| i.ask_at.min(i.until));
        let proposal = free.then(|| self.proposes_at(ctx)).flatten();
        invited.into_iter().chain(proposal).min()
    }

    /// Looks again at who could found a run together, and asks them when it is this node's turn.
    pub(crate) fn tick(&mut self, ctx: &mut Context, free: bool) {
        if let Some(bound) = &mut self.bound {
            return bound.tick(ctx);
        }
        if self.invitation.as_ref().is_some_and(|i| ctx.now >= i.until || !free) {
            self.invitation_failed(ctx);
        }
        self.ask_again(ctx);
        if !free {
            self.candidates.clear();
            return;
        }
        let candidates = self.candidates(ctx);
        if candidates != self.candidates {
            (self.candidates, self.candidates_since) = (candidates, ctx.now);
            self.jitter_ms = ctx.draw_below(FOUNDING_STEP_MS);
        }
        if self.invitation.is_none() && self.proposes_at(ctx).is_some_and(|at| ctx.now >= at) {
            self.invite(ctx);
        }
    }

    /// This node and those connected ones that are free, without those left out. If too few are left, those come back who
    /// were the least trouble.
    fn candidates(&self, ctx: &Context) -> BTreeSet<NodeId> {
        let free = ctx.peers.connected().filter(|(_, p)| p.is_free()).map(|(node, _)| node);
        let is_out = |node: &NodeId| self.left_out.get(node).is_some_and(|(until, _)| ctx.now < *until);
        let (mut out, chosen): (Vec<NodeId>, Vec<NodeId>) = free.chain([ctx.me]).partition(is_out);
        out.sort_by_key(|node| self.left_out.get(node).map(|(until, times)| (*times, *until)));
        let missing = ctx.params.min_nodes.saturating_sub(chosen.len());
        chosen.into_iter().chain(out.into_iter().take(missing)).collect()
    }

    /// When this node asks, if the candidates stay as they are: the smallest id first, the others step in after a growing
    /// wait. `None` while too few nodes are there.
    fn proposes_at(&self, ctx: &Context) -> Option<Time> {
        let rank = self.candidates.iter().position(|n| *n == ctx.me)? as u64;
        let wait_ms = if rank == 0 { 0 } else { rank * FOUNDING_STEP_MS + self.jitter_ms };
        let at = self.candidates_since.plus_ms(STABLE_MS + wait_ms);
        let given_until = self.given.as_ref().map_or(at, |g| g.until);
        (self.candidates.len() >= ctx.params.min_nodes).then(|| at.max(given_until))
    }

    fn invite(&mut self, ctx: &mut Context) {
        // Should it come to nothing, the next try waits anew.
        self.candidates_since = ctx.now;
        self.given = None;
        let mut members: Vec<Member> = Vec::new();
        for node in &self.candidates {
            let member = match ctx.peers.presence(*node) {
                _ if *node == ctx.me => Member { node: ctx.me, name: ctx.name.clone(), part: ctx.part },
                Some((_, presence)) => Member { node: *node, name: presence.name.clone(), part: presence.part },
                None => continue,
            };
            // Of two that hold the same part, the first is founded with; the other may not even join.
            let fits = member.part.is_none_or(|p| p.is_valid() && members.iter().all(|m| m.part != Some(p)));
            if fits && members.len() < ROSTER_MAX {
                members.push(member);
            }
        }
        if members.len() < ctx.params.min_nodes || members.iter().all(|m| m.node != ctx.me) {
            return;
        }
        let (id, consents) = (ctx.draw(), BTreeMap::from([(ctx.me, ctx.draw())]));
        let until = ctx.now.plus_ms(CONSENT_MS);
        self.invitation = Some(Invitation { id, members, consents, ask_at: ctx.now, until });
        self.ask_again(ctx);
        self.found_if_all_consent(ctx);
    }

    /// Asks those who have not said yes: messages may be lost.
    fn ask_again(&mut self, ctx: &mut Context) {
        let Some(invitation) = self.invitation.as_mut().filter(|i| ctx.now >= i.ask_at) else { return };
        invitation.ask_at = ctx.now.plus_ms(RETRY_MS);
        let message = Message::founding(invitation.id, Word::Invite { members: invitation.members.clone() });
        let missing = invitation.members.iter().filter(|m| !invitation.consents.contains_key(&m.node));
        missing.for_each(|m| ctx.send(m.node, message.clone()));
    }

    /// Whoever did not say yes in time is left out.
    fn invitation_failed(&mut self, ctx: &mut Context) {
        let Some(invitation) = self.invitation.take() else { return };
        Self::withdraw(ctx, &invitation);
        let silent = invitation.members.iter().map(|m| m.node).filter(|n| !invitation.consents.contains_key(n));
        let silent: Vec<NodeId> = silent.collect();
        self.leave_out(ctx, silent);
    }

    /// Those who said yes are told that nothing comes of it: until their consent runs out they would say no to everybody else.
    fn withdraw(ctx: &mut Context, invitation: &Invitation) {
        let word = Message::founding(invitation.id, Word::Decline { because_of: None });
        let me = ctx.me;
        invitation.members.iter().filter(|m| m.node != me).for_each(|m| ctx.send(m.node, word.clone()));
    }

    fn leave_out(&mut self, ctx: &Context, nodes: Vec<NodeId>) {
        for node in nodes.into_iter().filter(|n| *n != ctx.me) {
            let (until, times) = self.left_out.entry(node).or_default();
            *until = ctx.now.plus_ms(LEFT_OUT_MS << (*times).min(LEFT_OUT_DOUBLINGS_MAX));
            *times += 1;
        }
    }

    /// A peer's connection is lost.
    pub(crate) fn peer_down(&mut self, ctx: &mut Context, peer: NodeId) {
        self.left_out.remove(&peer);
        if let Some(bound) = &mut self.bound {
            bound.paxos.peer_down(ctx, peer);
        }
    }

    /// Takes a message of a founding or an invitation.
    pub(crate) fn receive(&mut self, ctx: &mut Context, from: NodeId, id: Hash, message: Word, standing: Standing<'_>) {
        match message {
            Word::Invite { members } => self.on_invite(ctx, from, id, &members, standing),
            Word::Consent { consent } => self.on_consent(ctx, from, id, consent),
            Word::Decline { because_of } => self.on_decline(ctx, from, id, because_of),
            Word::Founding(founding) => self.on_founding(ctx, from, id, founding, standing),
            Word::Bind(bind) => self.on_bind(ctx, from, id, bind, standing),
            Word::Refusal(refusal) => self.on_refusal(ctx, from, id, refusal),
            Word::Decided(committed) => match &mut self.bound {
                Some(bound) if bound.id == id => bound.on_decided(ctx, from, committed),
                _ => {}
            },
        }
    }

    /// Takes a message of a founding's decision.
    pub(crate) fn receive_paxos(
        &mut self,
        ctx: &mut Context,
        from: NodeId,
        (id, ballot): (Hash, Ballot),
        message: Paxos,
        standing: Standing<'_>,
    ) {
        match &mut self.bound {
            Some(bound) if bound.id == id => bound.receive_paxos(ctx, from, ballot, message),
            _ => self.on_unknown(ctx, from, id, standing),
        }
    }

    /// Whether this node could have proposed this roster itself: itself and others, all connected, none of them in a chain
    /// or bound elsewhere. Whom it leaves out for its own part does not matter.
    fn could_propose(ctx: &Context, members: &[Member], id: Option<Hash>) -> bool {
        let ascending = members.is_sorted_by(|a, b| a.node < b.node);
        let enough = (ctx.params.min_nodes..=ROSTER_MAX).contains(&members.len());
        let listed = members.iter().any(|m| m.node == ctx.me);
        ascending && enough && listed && Self::not_free(ctx, members, id).is_none()
    }

    /// The first of these whom this node does not see, or not free but for the founding `id`.
    fn not_free(ctx: &Context, members: &[Member], id: Option<Hash>) -> Option<NodeId> {
        let is_there = |node: NodeId| {
            node == ctx.me
                || ctx.peers.get(node).is_some_and(|p| {
                    let bound = p.presence.as_ref().and_then(|(_, p)| p.founding);
                    p.is_free() || (p.connected && p.chain().is_none() && bound.is_some() && bound == id)
                })
        };
        members.iter().map(|m| m.node).find(|node| !is_there(*node))
    }

    fn on_invite(&mut self, ctx: &mut Context, from: NodeId, id: Hash, members: &[Member], standing: Standing<'_>) {
        if !ctx.peers.may_answer(from, ctx.now) {
            return ctx.reject(from, Reject::TooMany);
        }
        if let Some(given) = self.given.as_ref().filter(|g| g.invitation == id && g.to == from) {
            return ctx.send(from, Message::founding(id, Word::Consent { consent: given.consent }));
        }
        let free = matches!(standing, Standing::Free) && self.bound.is_none();
        let is_member = members.iter().any(|m| m.node == from);
        // Of two that ask at once, the smaller one goes on.
        let own_first = self.invitation.is_some() && ctx.me < from;
        let given_first = self.given.as_ref().is_some_and(|g| g.to != from && ctx.now < g.until);
        if !free || own_first || given_first || !is_member || !Self::could_propose(ctx, members, None) {
            let because_of = Self::not_free(ctx, members, None);
            return ctx.send(from, Message::founding(id, Word::Decline { because_of }));
        }
        if let Some(own) = self.invitation.take() {
            Self::withdraw(ctx, &own);
        }
        // As after its own try, this node waits anew: else all who said yes would ask at once as soon as it came to nothing.
        self.candidates_since = ctx.now;
        let consent = ctx.draw();
        self.given = Some(Given { to: from, invitation: id, consent, until: ctx.now.plus_ms(2 * CONSENT_MS) });
        ctx.send(from, Message::founding(id, Word::Consent { consent }));
    }

    fn on_consent(&mut self, ctx: &mut Context, from: NodeId, id: Hash, consent: Hash) {
        let Some(invitation) = self.invitation.as_mut().filter(|i| i.id == id) else { return };
        if invitation.members.iter().any(|m| m.node == from) {
            invitation.consents.entry(from).or_insert(consent);
            self.found_if_all_consent(ctx);
        }
    }

    /// Somebody says no, perhaps because of another whom it does not see: neither is asked for a while. Or whoever asked this
    /// node does so no more.
    fn on_decline(&mut self, ctx: &mut Context, from: NodeId, id: Hash, because_of: Option<NodeId>) {
        self.given.take_if(|g| g.invitation == id && g.to == from);
        let invited = |i: &Invitation, node: NodeId| i.members.iter().any(|m| m.node == node);
        if let Some(invitation) = self.invitation.take_if(|i| i.id == id && invited(i, from)) {
            Self::withdraw(ctx, &invitation);
            let other = because_of.filter(|node| *node != from && invited(&invitation, *node));
            self.leave_out(ctx, other.into_iter().chain([from]).collect());
        }
    }

    /// Everybody said yes: the founding is proposed, and this node binds itself first.
    fn found_if_all_consent(&mut self, ctx: &mut Context) {
        let all = |i: &mut Invitation| i.consents.len() == i.members.len();
        let Some(invitation) = self.invitation.take_if(all) else { return };
        let Invitation { members, consents, .. } = invitation;
        let founder = |member: Member| {
            let consent = consents.get(&member.node).copied().unwrap_or(Hash::ZERO);
            Founder { member, consent }
        };
        let founders = members.into_iter().map(founder).collect();
        let content = Founding { run: ctx.params.run, founders, model: ctx.params.initial_model };
        let founding = Signed::new(&ctx.identity, &Founding::proposal_scope(ctx.params.run), content);
        if check_founding(&ctx.params, &founding, &ctx.verifier).is_err() {
            return;
        }
        let id = founding.id();
        let members = founding.vouched().founders.len();
        ctx.emit(Event::FoundingBegun { id, members });
        ctx.send_to_all(&founding.vouched().roster(), &Message::founding(id, Word::Founding(founding.clone())));
        self.bind(ctx, founding);
    }

    fn bind(&mut self, ctx: &mut Context, founding: Signed<Founding>) {
        let mine = founding.vouched().founders.iter().find(|f| f.member.node == ctx.me);
        let Some(consent) = mine.map(|f| f.consent) else { return };
        let bind = Signed::new(&ctx.identity, &founding.scope(), Bind { consent });
        self.clear();
        self.bound = Some(Bound::begin(ctx, founding, bind, Start::Fresh));
    }

    /// A founding is proposed: this node binds itself if it is asked by the proposer and the consent is its own; else it
    /// refuses.
    fn on_founding(
        &mut self,
        ctx: &mut Context,
        from: NodeId,
        id: Hash,
        founding: Signed<Founding>,
        standing: Standing<'_>,
    ) {
        if self.bound() == Some(id) {
            return;
        }
        if founding.by() != from || founding.id() != id {
            return self.on_unknown(ctx, from, id, standing);
        }
        if let Err(reject) = check_founding(&ctx.params, &founding, &ctx.verifier) {
            // Nobody waits for what this node can't take part in.
            self.given = None;
            ctx.reject(from, reject);
            return self.on_unknown(ctx, from, id, standing);
        }
        let founders = &founding.vouched().founders;
        let members: Vec<Member> = founders.iter().map(|f| f.member.clone()).collect();
        let consent = founders.iter().find(|f| f.member.node == ctx.me).map(|f| f.consent);
        let Some(consent) = consent else { return ctx.reject(from, Reject::Stranger) };
        let is_given = |g: &Given| g.to == from && g.consent == consent && ctx.now < g.until;
        let free = matches!(standing, Standing::Free | Standing::Busy) && self.bound.is_none();
        if free && self.given.as_ref().is_some_and(is_given) && Self::could_propose(ctx, &members, Some(id)) {
            return self.bind(ctx, founding);
        }
        // The consent goes with the refusal: what was refused is never bound to.
        self.given = None;
        self.on_unknown(ctx, from, id, standing);
    }

    fn on_bind(&mut self, ctx: &mut Context, from: NodeId, id: Hash, bind: Signed<Bind>, standing: Standing<'_>) {
        match &mut self.bound {
            Some(bound) if bound.id == id => bound.on_bind(ctx, from, bind),
            _ => self.on_unknown(ctx, from, id, standing),
        }
    }

    /// Somebody works on a founding that this node is not bound to: it is shown how it ended, or refused, unless the
    /// proposer may just be about to ask.
    fn on_unknown(&mut self, ctx: &mut Context, from: NodeId, id: Hash, standing: Standing<'_>) {
        let awaited = self.given.as_ref().is_some_and(|g| ctx.now < g.until);
        if awaited || !ctx.peers.may_answer(from, ctx.now) {
            return;
        }
        let chain = match standing {
            Standing::InChain(genesis) if is_genesis_of(genesis, id) => {
                return ctx.send(from, Message::founding(id, Word::Decided(genesis.clone())));
            }
            Standing::InChain(genesis) => Some(genesis.record.hash()),
            Standing::Free | Standing::Busy => None,
        };
        match self.aborted.get(&id) {
            Some(proof) => ctx.send(from, proof_message(id, proof.clone())),
            // What this node took part in, it never refuses.
            None if ctx.promise(id).is_some() => {}
            None => {
                let scope = founding_scope(ctx.params.run, id);
                let refusal = Signed::new(&ctx.identity, &scope, Refusal { chain });
                ctx.send(from, Message::founding(id, Word::Refusal(refusal)));
            }
        }
    }

    /// A member refuses: the founding comes to nothing.
    fn on_refusal(&mut self, ctx: &mut Context, from: NodeId, id: Hash, refusal: Signed<Refusal>) {
        let Some(bound) = self.bound.as_ref().filter(|b| b.id == id) else { return };
        if !bound.roster.contains(refusal.by()) {
            return ctx.reject(from, Reject::Stranger);
        }
        if let Err(reject) = refusal.open(&bound.scope, &ctx.verifier) {
            return ctx.reject(from, reject);
        }
        // It told this node; the others may wait for it, too.
        if refusal.by() == from {
            ctx.send_to_all(&bound.roster, &Message::founding(id, Word::Refusal(refusal)));
        }
        self.leave_out(ctx, vec![refusal.by()]);
        self.abort(ctx, AbortProof::Refused(refusal));
    }

    /// The founding that this node is bound to comes to nothing. Whoever had not bound itself is left out.
    fn abort(&mut self, ctx: &mut Context, proof: AbortProof) {
        let Some(bound) = self.bound.take() else { return };
        let silent = bound.roster.nodes().filter(|n| !bound.binds.contains_key(n)).collect();
        if matches!(proof, AbortProof::Decided(_)) {
            self.leave_out(ctx, silent);
        }
        ctx.emit(Event::FoundingAborted { id: bound.id });
        ctx.persist(Persist::Aborted { founding: bound.id, proof: proof.clone() });
        self.remember(bound.id, proof);
        self.candidates_since = ctx.now;
    }

    fn remember(&mut self, id: Hash, proof: AbortProof) {
        if self.aborted.insert(id, proof).is_none() {
            self.aborted_order.push(id);
        }
        if self.aborted_order.len() > ABORTED_FOUNDINGS_MAX {
            let oldest = self.aborted_order.remove(0);
            self.aborted.remove(&oldest);
        }
    }

    /// Takes the decision, if it is reached. A genesis begins the chain, and comes with the lies that were seen until then.
    pub(crate) fn take_decided(&mut self, ctx: &mut Context) -> Option<(Committed, Vec<Evidence>)> {
        let bound = self.bound.as_mut()?;
        let committed = bound.drive(ctx)?;
        let lies = std::mem::take(&mut bound.lies);
        if matches!(committed.record.kind, Kind::Abort) {
            self.abort(ctx, AbortProof::Decided(committed));
            return None;
        }
        Some((committed, lies))
    }
}

fn proof_message(id: Hash, proof: AbortProof) -> Message {
    match proof {
        AbortProof::Refused(refusal) => Message::founding(id, Word::Refusal(refusal)),
        AbortProof::Decided(committed) => Message::founding(id, Word::Decided(committed)),
    }
}

fn is_genesis_of(genesis: &Committed, id: Hash) -> bool {
    matches!(&genesis.record.kind, Kind::Genesis { founding, .. } if founding.id() == id)
}

/// The founding that this node is bound to, until its outcome is known.
#[derive(Debug, Clone)]
struct Bound {
    id: Hash,
    founding: Signed<Founding>,
    scope: Scope,
    roster: Roster,
    paxos: Instance,
    bind: Signed<Bind>,
    /// Whose bind is known; this node's own once it is on disk.
    binds: BTreeMap<NodeId, Signed<Bind>>,
    /// When this node was elected and began to wait for binds.
    waiting_since: Option<Time>,
    repeat_at: Time,
    lies: Vec<Evidence>,
}

impl Bound {
    /// Writes the bind down (again, after a restart) and tells it to all.
    fn begin(ctx: &mut Context, founding: Signed<Founding>, bind: Signed<Bind>, start: Start) -> Self {
        let (id, scope) = (founding.id(), founding.scope());
        let (roster, model) = (founding.vouched().roster(), founding.vouched().model);
        let word = Message::founding(id, Word::Bind(bind));
        let held = roster.nodes().map(|n| Held::Send(n, word.clone())).collect();
        ctx.persist_then(Persist::Bound { founding: founding.clone(), bind }, held);
        let paxos = Instance::begin(ctx, scope, 0, roster.clone(), model, start);
        let repeat_at = ctx.now.plus_ms(RETRY_MS);
        let (binds, lies) = (BTreeMap::new(), Vec::new());
        Self { id, founding, scope, roster, paxos, bind, binds, waiting_since: None, repeat_at, lies }
    }

    fn deadline(&self, ctx: &Context) -> Time {
        let patience = self.waiting_since.filter(|_| self.paxos.is_leading()).map(|at| at.plus_ms(BIND_MS));
        let due = self.paxos.deadline(ctx).min(self.repeat_at);
        patience.map_or(due, |at| at.min(due))
    }

    fn tick(&mut self, ctx: &mut Context) {
        self.paxos.tick(ctx);
        if ctx.now >= self.repeat_at {
            self.repeat_at = ctx.now.plus_ms(2 * RETRY_MS);
            self.repeat(ctx);
        }
    }

    /// Tells those whose bind is missing this node's own, if it is on disk; the proposer tells them what it is about.
    fn repeat(&self, ctx: &mut Context) {
        let me = ctx.me;
        let missing: Vec<NodeId> = self.roster.nodes().filter(|n| *n != me && !self.binds.contains_key(n)).collect();
        for node in missing {
            if self.founding.by() == me {
                ctx.send(node, Message::founding(self.id, Word::Founding(self.founding.clone())));
            }
            self.say_bind(ctx, node);
        }
    }

    fn say_bind(&self, ctx: &mut Context, to: NodeId) {
        if self.binds.contains_key(&ctx.me) {
            ctx.send(to, Message::founding(self.id, Word::Bind(self.bind)));
        }
    }

    fn on_bind(&mut self, ctx: &mut Context, from: NodeId, bind: Signed<Bind>) {
        if bind.by() != from || !self.roster.contains(from) {
            return ctx.reject(from, Reject::Stranger);
        }
        let consent = self.founding.vouched().founders.iter().find(|f| f.member.node == from).map(|f| f.consent);
        match bind.open(&self.scope, &ctx.verifier) {
            Ok(word) if Some(word.consent) == consent => {
                let fresh = self.binds.insert(from, bind).is_none();
                // Its sender may have lost this node's; a first one is answered once.
                if fresh && from != ctx.me {
                    self.say_bind(ctx, from);
                }
            }
            Ok(_) | Err(_) => ctx.reject(from, Reject::BadSignature),
        }
    }

    fn receive_paxos(&mut self, ctx: &mut Context, from: NodeId, ballot: Ballot, message: Paxos) {
        let (founding, verifier) = (&self.founding, ctx.verifier.clone());
        self.paxos.receive(ctx, from, ballot, message, &|record, _| check_outcome(founding, record, &verifier));
    }

    fn on_decided(&mut self, ctx: &mut Context, from: NodeId, committed: Committed) {
        let proven = check_outcome(&self.founding, &committed.record, &ctx.verifier)
            .and_then(|()| check_accepts(&committed, &self.scope, &self.roster, &ctx.verifier));
        match proven {
            Ok(()) => self.paxos.decide(committed),
            Err(reject) => ctx.reject(from, reject),
        }
    }

    /// Does what is due. Returns the decision when there is one.
    fn drive(&mut self, ctx: &mut Context) -> Option<Committed> {
        while let Some(output) = self.paxos.take_output() {
            match output {
                Output::Elected => self.waiting_since = Some(ctx.now),
                Output::Decided(committed) => {
                    // Those who bound themselves wait for it, and the mesh of gossip may not be there yet.
                    if committed.committed_in().is_some_and(|(_, coordinator)| coordinator == ctx.me) {
                        let word = Word::Decided((*committed).clone());
                        ctx.send_to_all(&self.roster, &Message::founding(self.id, word));
                    }
                    return Some(*committed);
                }
                // There is no chain yet to evict a liar from.
                Output::Lie(evidence) => self.lies.push(*evidence),
                // Nobody proposes to yield here.
                Output::Following | Output::Unshown { .. } => {}
            }
        }
        self.propose_if_due(ctx);
        None
    }

    /// The coordinator proposes the genesis with every bind in hand, and the abort when time is up.
    fn propose_if_due(&mut self, ctx: &mut Context) {
        let waits = self.paxos.is_leading() && self.paxos.phase() == Some(Phase::Collecting);
        let Some(since) = self.waiting_since.filter(|_| waits) else { return };
        let (kind, model) = if self.roster.nodes().all(|n| self.binds.contains_key(&n)) {
            let binds = self.binds.values().copied().collect();
            (Kind::Genesis { founding: self.founding.clone(), binds }, self.founding.vouched().model)
        } else if ctx.now.since_ms(since) >= BIND_MS {
            (Kind::Abort, BlobRef::NONE)
        } else {
            return;
        };
        self.waiting_since = None;
        let record = Record::plain(kind, self.paxos.ballot(), ctx.me, self.id, model);
        self.paxos.propose(ctx, record);
    }
}
