//! A node among others: what it shows, how it comes onto a roster and off it.

use super::Machine;
use super::standing::{End, Standing};
use crate::base::bounds::{JOIN_ASKED_MAX, NEWCOMERS_MAX};
use crate::base::ids::{Hash, NodeId};
use crate::base::reject::Reject;
use crate::base::roster::is_name;
use crate::base::signed::Signed;
use crate::chain::Chain;
use crate::context::Held;
use crate::io::{Event, Persist, Purpose, State};
use crate::membership::Stand;
use crate::membership::message::{Activity, Message as Membership, Presence};
use crate::message::Message;
use crate::record::{Evidence, Join, Kind, Leave, Lie, Refusal, request_scope};

impl Machine {
    /// Where this node stands in its run, in one word.
    pub fn state(&self) -> State {
        match &self.standing {
            Standing::Gathering if self.foundings.bound().is_some() => State::Founding,
            Standing::Gathering => State::Gathering,
            Standing::Following(_) if self.wants_to_leave => State::Leaving,
            Standing::Following(_) => State::Joining,
            Standing::Member(..) if self.wants_to_leave => State::Leaving,
            Standing::Member(_, round) if round.is_halted() => State::Halted,
            Standing::Member(..) => State::Member,
            Standing::Over(_, End::Left) => State::Left,
            Standing::Over(_, End::Finished { .. }) => State::Finished,
        }
    }

    pub(super) fn activity(&self) -> Activity {
        match &self.standing {
            Standing::Member(c, round) => round.activity(&self.ctx, &c.chain),
            Standing::Following(_) => Activity::Joining,
            Standing::Gathering | Standing::Over(..) => Activity::Idle,
        }
    }

    /// What others are to know of this node.
    pub(super) fn stand(&self) -> Stand {
        let c = self.standing.in_chain();
        let held = c.filter(|c| c.written_model().is_some_and(|m| self.ctx.blobs.contains(&m))).and_then(|c| c.written);
        Stand {
            chain: c.map_or(Hash::ZERO, |c| c.chain.genesis()),
            round: self.next_round(),
            held,
            founding: self.foundings.bound(),
            activity: self.activity(),
            at_rest: c.is_some_and(|c| (c.chain.is_closed() || c.chain.is_halted()) && c.holds_head(&self.ctx)),
        }
    }

    /// Shows where this node stands, and pursues what it waits for: once a round, and again with every regular presence.
    pub(super) fn tick_members(&mut self) {
        let stand = self.stand();
        let coordinator = self.standing.round().and_then(|r| r.paxos.opened()).map(|o| o.coordinator);
        if self.presences.tick(&mut self.ctx, stand, coordinator) {
            self.pursued = None;
        }
        let has_head = self.chain().is_some_and(|c| self.ctx.blobs.contains(&c.head().model.id));
        if self.pursued != Some((stand.round, has_head)) {
            self.pursued = Some((stand.round, has_head));
            self.fetch_head();
            self.ask_to_join();
            self.ask_to_leave();
            self.catch_up_with_others();
            self.note_quorum();
            self.let_go_if_dead();
            self.tell_of_forks();
        }
        self.leave_if_done();
    }

    fn tell_of_forks(&mut self) {
        let Some(own) = self.chain().map(Chain::genesis) else { return };
        for genesis in self.sightings.new_forks(&self.ctx, own) {
            self.ctx.emit(Event::Fork { genesis });
        }
    }

    pub(super) fn on_presence(&mut self, from: NodeId, chain: Hash, presence: Presence) {
        if !is_name(&presence.name) {
            return self.ctx.reject(from, Reject::OverBound);
        }
        let round = presence.round;
        let here = self.next_round();
        self.ctx.peers.present(from, chain, presence, self.ctx.now, here);
        if self.sightings.is_given_up(chain) {
            return self.sightings.show_yield(&mut self.ctx, from, chain);
        }
        if self.chain().is_some_and(|own| own.genesis() == chain && round > own.next_round()) {
            self.catch_up(from);
        }
    }

    /// A question that was lost, or had too little of an answer, is asked again.
    fn catch_up_with_others(&mut self) {
        let Some((genesis, here)) = self.chain().map(|c| (c.genesis(), c.next_round())) else { return };
        let is_ahead = |p: &crate::peers::Peer| {
            p.chain() == Some(genesis) && p.presence.as_ref().is_some_and(|(_, p)| p.round > here)
        };
        let ahead = self.ctx.peers.connected().find(|(_, p)| is_ahead(p)).map(|(node, _)| node);
        if let Some(peer) = ahead {
            self.catch_up(peer);
        }
    }

    /// A node holds the last model, whether it trains on it or not.
    fn fetch_head(&mut self) {
        let Some(c) = self.standing.in_chain() else { return };
        let (head, roster) = (c.chain.head(), c.chain.roster().clone());
        let (model, maker) = (head.model, head.coordinator);
        if self.ctx.blobs.contains(&model.id) || self.ctx.is_fetching(model.id) {
            return;
        }
        let connected: Vec<NodeId> = roster.nodes().filter(|n| self.ctx.peers.is_connected(*n)).collect();
        // Its maker first; when that was of no use, any other.
        let pick = match connected.contains(&maker) && self.ctx.draw_below(2) == 0 {
            true => Some(maker),
            false => connected.get(self.ctx.draw_below(connected.len() as u64) as usize).copied(),
        };
        if let Some(origin) = pick {
            self.ctx.fetch(model, Purpose::Model, origin, &roster);
        }
    }

    /// Whoever follows a chain asks to come onto its roster, once it holds the last model; not one that must not vote in it.
    fn ask_to_join(&mut self) {
        let Standing::Following(c) = &self.standing else { return };
        if self.wants_to_leave || c.has_forgotten || !self.ctx.blobs.contains(&c.chain.head().model.id) {
            return;
        }
        let (genesis, round) = (c.chain.genesis(), c.chain.next_round());
        let scope = request_scope(self.ctx.params.run, genesis);
        let content = Join { name: self.ctx.name.clone(), part: self.ctx.part, round };
        let message = Message::membership(genesis, Membership::Join(Signed::new(&self.ctx.identity, &scope, content)));
        let members = c.chain.roster().nodes().filter(|n| self.ctx.peers.is_connected(*n)).take(JOIN_ASKED_MAX);
        members.collect::<Vec<_>>().into_iter().for_each(|n| self.ctx.send(n, message.clone()));
    }

    /// What members say to each other, and others to them, about membership.
    pub(super) fn on_membership(&mut self, from: NodeId, message: Membership) {
        let Some(c) = self.standing.in_chain_mut() else { return };
        match message {
            Membership::Join(join) if join.by() != from => self.ctx.reject(from, Reject::BadSignature),
            Membership::Join(join) => {
                c.refused.remove(&from);
                if let Err(reject) = c.pending.add_join(&self.ctx, &c.chain, join) {
                    let genesis = c.chain.genesis();
                    if c.refused.len() < NEWCOMERS_MAX {
                        c.refused.insert(from, reject);
                    }
                    self.ctx.reject(from, reject);
                    self.ctx.send(from, Message::membership(genesis, Membership::JoinRefused { reject }));
                }
            }
            Membership::JoinRefused { reject } => {
                if c.chain.roster().contains(from) {
                    c.join_refused = Some(reject);
                }
            }
            Membership::Leave(leave) => {
                if c.chain.roster().contains(leave.by()) {
                    let added = c.pending.add_leave(&c.chain, leave);
                    self.note(from, added);
                }
                // Whoever leaves waits to hear who holds what comes after it.
                if from != self.ctx.me && self.ctx.peers.may_answer(from, self.ctx.now) {
                    let stand = self.stand();
                    self.presences.tell(&mut self.ctx, from, stand);
                }
            }
            Membership::Evidence(evidence) => {
                let added = c.pending.add_evidence(&mut self.ctx, &c.chain, evidence);
                self.note(from, added);
            }
            // It was taken by `receive`.
            Membership::Presence(_) => {}
        }
    }

    /// The wish is written down: a node that is started again goes on leaving, and does not come back by itself.
    pub(super) fn wish_to_leave(&mut self) {
        if !self.wants_to_leave {
            self.wants_to_leave = true;
            self.ctx.persist(Persist::Leaving);
        }
        self.pursued = None;
        self.leave_if_done();
    }

    /// Says that this node wants to go, and asks by that who holds the record without it.
    fn ask_to_leave(&mut self) {
        let (Standing::Member(c, _) | Standing::Following(c)) = &self.standing else { return };
        // A member without a vote is worse than none: the others would need as many without it.
        let is_void = c.has_forgotten && c.chain.roster().contains(self.ctx.me);
        if !self.wants_to_leave && !is_void {
            return;
        }
        let (genesis, roster, round) = (c.chain.genesis(), c.chain.roster().clone(), c.chain.next_round());
        let scope = request_scope(self.ctx.params.run, genesis);
        let leave = Signed::new(&self.ctx.identity, &scope, Leave { round });
        let message = Message::membership(genesis, Membership::Leave(leave));
        self.ctx.send_to_all(&roster, &message);
        if roster.contains(self.ctx.me) {
            self.ctx.send(self.ctx.me, message);
        }
    }

    /// Off the roster, a node goes once a quorum of the new one has the record without it on disk, and its model.
    fn leave_if_done(&mut self) {
        if !self.wants_to_leave {
            return;
        }
        let c = match &self.standing {
            // Who is bound to a founding waits for its outcome: it may be on a roster then.
            Standing::Gathering if self.foundings.bound().is_none() => return self.left(),
            Standing::Following(c) => c,
            Standing::Gathering | Standing::Member(..) | Standing::Over(..) => return,
        };
        let (chain, me) = (&c.chain, self.ctx.me);
        let gone =
            chain.records().iter().rev().find(|c| {
                c.record.left.iter().any(|l| l.by() == me) || c.record.evicted.iter().any(|e| e.node() == me)
            });
        let Some(round) = gone.map(|c| c.record.round) else { return self.left() };
        let holds = |node: &NodeId| {
            let said = self.ctx.peers.presence(*node).filter(|_| self.ctx.peers.is_connected(*node));
            said.is_some_and(|(g, p)| *g == chain.genesis() && p.held.is_some_and(|held| held >= round))
        };
        if chain.roster().nodes().filter(holds).count() >= chain.roster().quorum() {
            self.left();
        }
    }

    fn left(&mut self) {
        self.foundings.leave(&mut self.ctx);
        // The process may end when it hears that it left: by then that is on disk.
        self.ctx.persist_then(Persist::Left, vec![Held::Emit(Event::Left)]);
        self.leave_for_good();
    }
}

/// The proof that a founder of this chain both bound itself to its founding and refused it.
pub(super) fn bind_and_refusal(chain: &Chain, refusal: Signed<Refusal>) -> Option<Evidence> {
    let Kind::Genesis { binds, .. } = &chain.records()[0].record.kind else { return None };
    let bind = *binds.iter().find(|b| b.by() == refusal.by())?;
    let founding = chain.founding();
    Some(Evidence { chain: founding, parent: founding, lie: Lie::BindAndRefusal { bind, refusal } })
}
