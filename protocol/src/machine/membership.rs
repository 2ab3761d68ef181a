//! Presence, joining, leaving, and chains that meet (design 4.2, 4.6).

use std::collections::{BTreeMap, BTreeSet};

use crate::bounds::NAME_BYTES_MAX;
use crate::chain::Chain;
use crate::ids::{Hash, NodeId, Time};
use crate::machine::{Event, Machine, Persist, State};
use crate::message::{Activity, Message, Presence};
use crate::record::{JoinRequest, LeaveRequest};
use crate::reject::Reject;
use crate::timing::PRESENCE_MS;

/// Forks remembered; more than a few mean that somebody makes them up.
const FORKS_MAX: usize = 8;

#[derive(Debug)]
pub(super) struct Membership {
    /// When the next presence is due.
    present_at: Time,
    counter: u64,
    /// What the last presence said, to send another when it changes.
    said: Option<(u64, Activity, bool)>,
    /// The round for which this node last asked for what it lacks, and whether it then had the last model.
    pursued: Option<(u64, bool)>,
    /// Whether this node was on the roster after the last record.
    pub(super) was_member: bool,
    /// Whether somebody at this node wants it off the roster.
    wants_to_leave: bool,
    /// Whether it is off the roster for good.
    left: bool,
    /// Why the last join request was refused.
    join_refused: Option<Reject>,
    /// Other chains of this run, and how far they have come.
    forks: BTreeMap<Hash, u64>,
}

impl Membership {
    pub(super) fn new(left: bool) -> Self {
        Self {
            present_at: Time::default(),
            counter: 0,
            said: None,
            pursued: None,
            was_member: false,
            wants_to_leave: false,
            left,
            join_refused: None,
            forks: BTreeMap::new(),
        }
    }

    pub(super) fn deadline(&self) -> Time {
        self.present_at
    }

    pub(super) fn refused(&mut self, reject: Reject) {
        self.join_refused = Some(reject);
    }

    pub(super) fn join_refused(&self) -> Option<Reject> {
        self.join_refused
    }

    pub(super) fn forks(&self) -> impl Iterator<Item = Hash> + '_ {
        self.forks.keys().copied()
    }
}

impl Machine {
    /// Where this node stands in its run.
    pub(super) fn state(&self) -> State {
        let me = self.core.me;
        match &self.chain {
            _ if self.membership.left => State::Left,
            None if self.foundings.bound().is_some() => State::Founding,
            None => State::Gathering,
            Some(chain) if chain.is_closed() || self.finished => State::Finished,
            Some(chain) if !chain.roster().contains(me) => State::Joining,
            Some(_) if self.membership.wants_to_leave => State::Leaving,
            Some(_) => State::Member,
        }
    }

    pub(super) fn activity(&self) -> Activity {
        match (&self.chain, &self.round) {
            (Some(chain), _) if !chain.roster().contains(self.core.me) => Activity::Joining,
            (Some(chain), Some(round)) => round.activity(&self.core, chain),
            _ => Activity::Idle,
        }
    }

    pub(super) fn presence(&mut self) -> Presence {
        self.membership.counter += 1;
        Presence {
            counter: self.membership.counter,
            name: self.core.name.clone(),
            part: self.core.part,
            genesis: self.chain.as_ref().map(Chain::genesis),
            round: self.chain.as_ref().map_or(0, Chain::next_round),
            founding: self.foundings.bound(),
            activity: self.activity(),
            finished: self.chain.as_ref().is_some_and(Chain::is_closed),
        }
    }

    /// Shows where this node stands, from time to time and when it changes; pursues what it waits for.
    pub(super) fn membership_tick(&mut self) {
        let round = self.chain.as_ref().map_or(0, Chain::next_round);
        let finished = self.chain.as_ref().is_some_and(Chain::is_closed);
        let stand = (round, self.activity(), finished);
        let regular = self.core.now >= self.membership.present_at;
        if regular {
            self.membership.present_at = self.core.now.plus_ms(PRESENCE_MS);
            self.membership.pursued = None;
        }
        if regular || self.membership.said != Some(stand) {
            self.membership.said = Some(stand);
            let presence = Message::Presence(self.presence());
            self.core.broadcast(presence);
        }
        self.pursue(round);
    }

    /// Asks for what this node lacks or wishes: once a round, and again with every regular presence.
    fn pursue(&mut self, round: u64) {
        let has_head = self.chain.as_ref().is_some_and(|c| self.core.blobs.contains(&c.head().model.id));
        if self.membership.pursued != Some((round, has_head)) {
            self.membership.pursued = Some((round, has_head));
            self.fetch_head();
            self.ask_to_join();
            self.ask_to_leave();
            self.look_for_chain();
        }
        self.leave_if_done();
    }

    /// A node holds the last model, whether it trains on it or not.
    fn fetch_head(&mut self) {
        let Some(chain) = &self.chain else { return };
        let head = chain.head();
        let mut connected = chain.roster().nodes().filter(|n| self.core.peers.is_connected(*n));
        let maker = Some(head.coordinator).filter(|n| self.core.peers.is_connected(*n));
        if let Some(origin) = maker.or_else(|| connected.next()) {
            self.core.fetch(head.model, crate::machine::Purpose::Model, origin, chain.roster());
        }
    }

    /// Whoever follows a chain without being on its roster asks to come onto it, once it holds the last model.
    fn ask_to_join(&mut self) {
        let Some(chain) = &self.chain else { return };
        let stays_out = self.membership.left || self.membership.wants_to_leave;
        let outside = !chain.roster().contains(self.core.me) && !stays_out;
        if !outside || chain.is_closed() || !self.core.blobs.contains(&chain.head().model.id) {
            return;
        }
        let (run, genesis, round) = (self.core.rules.run, chain.genesis(), chain.next_round());
        let request =
            JoinRequest::new(&self.core.identity, run, genesis, round, self.core.name.clone(), self.core.part);
        let message = Message::Join { genesis, request };
        // Gossip may lose it, and only one member is needed to pass it on.
        let asked: Vec<NodeId> = chain.roster().nodes().filter(|n| self.core.peers.is_connected(*n)).take(3).collect();
        asked.into_iter().for_each(|n| self.core.send(n, message.clone()));
        self.core.broadcast(message);
    }

    pub(super) fn on_join(&mut self, from: NodeId, request: JoinRequest) {
        let Some(chain) = &self.chain else { return };
        let genesis = chain.genesis();
        let joining = request.member.node;
        if let Err(reject) = self.requests.add_join(chain, request) {
            self.core.reject(from, reject);
            // Only the joining node itself can do something about it.
            if from == joining {
                self.core.send(from, Message::JoinRefused { genesis, reject });
            }
        }
    }

    pub(super) fn wish_to_leave(&mut self) {
        self.membership.wants_to_leave = true;
        self.membership.pursued = None;
        if self.chain.as_ref().is_none_or(|c| !c.roster().contains(self.core.me)) {
            self.set_left();
        } else {
            self.ask_to_leave();
        }
    }

    fn ask_to_leave(&mut self) {
        let Some(chain) = &self.chain else { return };
        if !self.membership.wants_to_leave || !chain.roster().contains(self.core.me) {
            return;
        }
        let (genesis, round) = (chain.genesis(), chain.next_round());
        let request = LeaveRequest::new(&self.core.identity, self.core.rules.run, genesis, round);
        let message = Message::Leave { genesis, request };
        self.core.send_to_all(chain.roster(), &message);
        self.core.send(self.core.me, message);
    }

    fn set_left(&mut self) {
        if !self.membership.left {
            self.membership.left = true;
            let genesis = self.chain.as_ref().map_or(Hash::ZERO, Chain::genesis);
            self.core.persist(Persist::Left { genesis });
            self.core.emit(Event::Left);
        }
    }

    /// Whoever left stays until a majority of those who remain holds the record without it.
    fn leave_if_done(&mut self) {
        let Some(chain) = &self.chain else { return };
        if !self.membership.wants_to_leave || self.membership.left || chain.roster().contains(self.core.me) {
            return;
        }
        let here = chain.next_round();
        let holds = |node: &NodeId| {
            let presence = self.core.peers.get(*node).and_then(|p| p.presence.as_ref());
            presence.is_some_and(|p| p.genesis == Some(chain.genesis()) && p.round >= here)
        };
        if chain.roster().nodes().filter(holds).count() >= chain.roster().quorum() {
            self.set_left();
        }
    }

    /// After a record: is this node on the roster, and was it before?
    pub(super) fn membership_changed(&mut self) {
        let Some(chain) = &self.chain else { return };
        let is_member = chain.roster().contains(self.core.me);
        match (self.membership.was_member, is_member) {
            (false, true) => {
                self.membership.join_refused = None;
                self.core.emit(Event::Joined { round: chain.next_round() });
            }
            (true, false) if !self.membership.wants_to_leave => self.core.emit(Event::Evicted),
            _ => {}
        }
        self.membership.was_member = is_member;
    }

    pub(super) fn on_presence(&mut self, from: NodeId, presence: Presence) {
        if presence.name.len() > NAME_BYTES_MAX {
            return self.core.reject(from, Reject::OverBound);
        }
        let here = self.chain.as_ref().map_or(0, Chain::next_round);
        let (genesis, round) = (presence.genesis, presence.round);
        self.core.peers.present(from, presence, self.core.now, here);
        match (&self.chain, genesis) {
            (Some(chain), Some(genesis)) if genesis == chain.genesis() => self.catch_up(from, round),
            (Some(_), Some(genesis)) => self.note_fork(genesis, round),
            (None, Some(_)) => self.look_for_chain(),
            _ => {}
        }
    }

    fn note_fork(&mut self, genesis: Hash, round: u64) {
        let forks = &mut self.membership.forks;
        if forks.len() >= FORKS_MAX && !forks.contains_key(&genesis) {
            return;
        }
        if forks.insert(genesis, round).is_none() {
            self.core.emit(Event::Fork { genesis });
        }
        self.follow_yield();
    }

    /// A node without a chain that sees one follows it: the one that most peers are in. A bound one must wait.
    fn look_for_chain(&mut self) {
        if self.chain.is_some() || self.foundings.bound().is_some() {
            return;
        }
        let mut seen: BTreeMap<Hash, BTreeSet<NodeId>> = BTreeMap::new();
        for (node, peer) in self.core.peers.iter().filter(|(_, p)| p.connected) {
            if let Some(genesis) = peer.presence.as_ref().and_then(|p| p.genesis) {
                seen.entry(genesis).or_default().insert(node);
            }
        }
        let best = seen.into_iter().max_by_key(|(_, nodes)| nodes.len());
        if let Some((genesis, nodes)) = best
            && let Some(peer) = nodes.first()
        {
            self.ask_for_records(*peer, genesis, 0);
        }
    }

    /// A message of a chain that this node is not in.
    pub(super) fn receive_of_other_chain(&mut self, from: NodeId, genesis: Hash, message: Message) {
        match (&self.chain, message) {
            (None, Message::Records { mut records, .. }) if self.foundings.bound().is_none() && !records.is_empty() => {
                let rest = records.split_off(1);
                let first = records.pop();
                self.catch_up.clear();
                if let Some(first) = first.filter(|f| f.record.hash() == genesis) {
                    self.begin_chain(first);
                    self.on_records(from, rest);
                }
            }
            // An answer to records would be answered in turn, for ever.
            (_, Message::Records { .. } | Message::Committed { .. }) => {}
            _ if self.aside.as_ref().is_some_and(|c| c.genesis() == genesis) => self.show_aside(from),
            (None, _) => {}
            (Some(_), _) => self.core.reject(from, Reject::OtherChain),
        }
    }

    /// A member of the chain that was given up works on in it: it has missed the last record.
    fn show_aside(&mut self, to: NodeId) {
        if let Some(chain) = self.aside.as_ref().filter(|c| c.roster().contains(to)) {
            let records = chain.records().iter().skip(1).cloned().collect();
            self.core.send(to, Message::Records { genesis: chain.genesis(), records });
        }
    }

    /// The chain that this one should give way to: it has no round of its own yet, and the other has, or has the smaller
    /// hash.
    pub(super) fn yields_to(&self) -> Option<Hash> {
        let chain = self.chain.as_ref().filter(|c| c.next_round() == 1)?;
        let stronger = |(genesis, round): &(&Hash, &u64)| **round > 1 || **genesis < chain.genesis();
        self.membership.forks.iter().filter(stronger).map(|(genesis, _)| *genesis).min()
    }

    /// This chain has given itself up: its nodes move to the other.
    pub(super) fn follow_yield(&mut self) {
        let Some(chain) = &self.chain else { return };
        let Some(to) = chain.yielded_to() else { return };
        let from = chain.genesis();
        self.core.persist(Persist::SwitchChain { from, to });
        self.aside = self.chain.take();
        self.round = None;
        self.committed_at = None;
        self.membership.was_member = false;
        self.membership.forks.remove(&to);
        self.look_for_chain();
    }
}
