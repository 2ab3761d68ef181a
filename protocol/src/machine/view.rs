//! A copy of what a status line needs.

use crate::chain::Chain;
use crate::ids::{NodeId, Time};
use crate::machine::{Machine, MemberView, State, View, ViewPhase};
use crate::message::Activity;
use crate::reject::Reject;
use crate::round::Round;

impl Machine {
    /// Where the node stands at `now`.
    pub fn view(&self, now: Time) -> View {
        let state = self.state();
        let contest = self.round.as_ref().map(|r| &r.contest);
        let phase = match (&self.chain, contest) {
            (None, _) => ViewPhase::Founding,
            (Some(_), None) => ViewPhase::Done,
            (Some(_), Some(contest)) => contest.phase().map_or(ViewPhase::Electing, ViewPhase::Round),
        };
        let opened = contest.and_then(|c| c.opened());
        let participants = opened.and_then(|o| o.opening.as_ref()).map(|o| o.participants.clone()).unwrap_or_default();
        View {
            me: self.core.me,
            state,
            reason: self.reason(state),
            genesis: self.chain.as_ref().map(Chain::genesis),
            forks: self.membership.forks().collect(),
            round: self.chain.as_ref().map_or(0, Chain::next_round),
            attempt: contest.map_or(0, |c| c.ballot().attempt),
            phase,
            coordinator: opened.map(|o| o.coordinator),
            quorum: self.chain.as_ref().map_or(0, |c| c.roster().quorum()),
            roster: self.members(now),
            participants: participants.into_iter().map(|n| (n, self.activity_of(n))).collect(),
            model: self.chain.as_ref().map(|c| c.head().model),
            head: self.chain.as_ref().map(|c| (c.head().round, c.head_hash())),
            trained: self.chain.as_ref().map_or(0, Chain::trained),
            attempt_ms: contest.map_or(0, |c| now.since_ms(c.attempt_began())),
        }
    }

    fn activity_of(&self, node: NodeId) -> Activity {
        if node == self.core.me {
            return self.activity();
        }
        if self.round.as_ref().is_some_and(|r| r.is_in(node)) {
            return Activity::Done;
        }
        let presence = self.core.peers.get(node).and_then(|p| p.presence.as_ref());
        match (presence.map_or(Activity::Idle, |p| p.activity), &self.chain) {
            // In an earlier round, perhaps.
            (Activity::Failed, Some(chain))
                if !self.core.peers.has_failed(node, chain.genesis(), chain.next_round()) =>
            {
                Activity::Idle
            }
            (activity, _) => activity,
        }
    }

    /// The roster; before the founding, this node and those that could found with it.
    fn members(&self, now: Time) -> Vec<MemberView> {
        let me = self.core.me;
        let view = |node: NodeId, name: &str, part| {
            let peer = self.core.peers.get(node);
            MemberView {
                node,
                name: name.to_owned(),
                part,
                activity: (node == me || peer.is_some_and(|p| p.presence.is_some())).then(|| self.activity_of(node)),
                reachable: node == me || self.core.peers.is_connected(node),
                silent_ms: peer.filter(|_| node != me).map(|p| now.since_ms(p.heard.0)),
            }
        };
        match &self.chain {
            Some(chain) => chain.roster().members().iter().map(|m| view(m.node, &m.name, m.part)).collect(),
            None => {
                let present = |(node, p): (NodeId, &crate::peers::Peer)| {
                    let presence = p.presence.as_ref().filter(|_| p.connected)?;
                    Some(view(node, &presence.name, presence.part))
                };
                let own = view(me, &self.core.name, self.core.part);
                [own].into_iter().chain(self.core.peers.iter().filter_map(present)).collect()
            }
        }
    }

    /// What is in the way, in words.
    fn reason(&self, state: State) -> Option<String> {
        match state {
            State::Gathering => {
                let (here, needed) = (self.members(self.core.now).len(), self.core.rules.min_nodes);
                (here < needed).then(|| format!("{here} of the {needed} nodes that the run needs are here"))
            }
            State::Founding => {
                let id = self.foundings.bound()?;
                let silent = self.foundings.silent_on(id);
                (!silent.is_empty())
                    .then(|| format!("bound to founding {}; waits for {}", id.short(), silent.join(", ")))
            }
            State::Joining => match self.membership.join_refused() {
                Some(Reject::PartTaken) => Some(format!(
                    "join refused: {}; choose another --part, or wait until its holder is evicted",
                    Reject::PartTaken
                )),
                Some(reject) => Some(format!("join refused: {reject}")),
                None => Some("joins with the next record".to_owned()),
            },
            State::Member | State::Leaving => {
                let chain = self.chain.as_ref()?;
                let there = |n: &NodeId| *n == self.core.me || self.core.peers.is_connected(*n);
                let (here, quorum) = (chain.roster().nodes().filter(there).count(), chain.roster().quorum());
                if here < quorum {
                    return Some(format!(
                        "only {here} of {} members are reachable; {quorum} must be",
                        chain.roster().len()
                    ));
                }
                let failure = self.round.as_ref().and_then(Round::failure);
                failure.map(|why| format!("this node has no update for this round: {why}"))
            }
            State::Left | State::Finished => None,
        }
    }
}
