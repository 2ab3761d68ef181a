//! Who wants to come, who wants to go, who must: what waits for the next record.

use std::collections::BTreeMap;

use crate::base::bounds::{REQUESTS_MAX, ROSTER_MAX};
use crate::base::codec;
use crate::base::ids::{NodeId, Time};
use crate::base::reject::Reject;
use crate::base::signed::Signed;
use crate::base::timing::JOIN_HEARD_MS;
use crate::chain::Chain;
use crate::context::Context;
use crate::io::{Event, Persist};
use crate::membership::message::Message as Membership;
use crate::message::Message;
use crate::record::{Eviction, Evidence, Join, Leave, Vote};

/// The roster changes that a record carries.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) joined: Vec<Signed<Join>>,
    pub(crate) left: Vec<Signed<Leave>>,
    pub(crate) evicted: Vec<Eviction>,
}

/// The changes that wait.
#[derive(Debug, Clone, Default)]
pub(crate) struct PendingChanges {
    /// Since when a node asks, and its last request. It asks over its own connection, and is forgotten with it.
    joins: BTreeMap<NodeId, (Time, Signed<Join>)>,
    leaves: BTreeMap<NodeId, Signed<Leave>>,
    evidence: BTreeMap<NodeId, Evidence>,
}

impl PendingChanges {
    /// A node wants to come. Bounded, and one request a node.
    ///
    /// # Errors
    /// Why it can't.
    pub(crate) fn add_join(&mut self, ctx: &Context, chain: &Chain, join: Signed<Join>) -> Result<(), Reject> {
        let node = join.by();
        let since = self.joins.get(&node).map(|(since, _)| *since);
        if self.joins.len() >= REQUESTS_MAX && since.is_none() {
            return Err(Reject::TooMany);
        }
        chain.check_join(&join, chain.roster())?;
        self.joins.insert(node, (since.unwrap_or(ctx.now), join));
        Ok(())
    }

    /// A member wants to go.
    ///
    /// # Errors
    /// Why it can't.
    pub(crate) fn add_leave(&mut self, chain: &Chain, leave: Signed<Leave>) -> Result<(), Reject> {
        chain.check_leave(&leave)?;
        self.leaves.insert(leave.by(), leave);
        Ok(())
    }

    /// A peer is gone, and its wish to join with it.
    pub(crate) fn peer_down(&mut self, peer: NodeId) {
        self.joins.remove(&peer);
    }

    /// A member lied. What is new is written down and told to the others.
    pub(crate) fn add_evidence(&mut self, ctx: &mut Context, chain: &Chain, evidence: Evidence) -> Result<(), Reject> {
        let liar = chain.liar(&evidence)?;
        if self.evidence.contains_key(&liar) || !chain.roster().contains(liar) {
            return Ok(());
        }
        ctx.emit(Event::Liar { node: liar });
        ctx.persist(Persist::Evidence(evidence.clone()));
        let message = Message::membership(chain.genesis(), Membership::Evidence(evidence.clone()));
        ctx.relay();
        ctx.broadcast(message);
        self.evidence.insert(liar, evidence);
        Ok(())
    }

    /// Evidence that was on disk.
    pub(crate) fn restore_evidence(&mut self, chain: &Chain, evidence: Evidence) {
        if let Ok(liar) = chain.liar(&evidence)
            && chain.roster().contains(liar)
        {
            self.evidence.insert(liar, evidence);
        }
    }

    /// Drops what has run out or was done.
    pub(crate) fn expire(&mut self, chain: &Chain) {
        self.joins.retain(|_, (_, join)| chain.check_join(join, chain.roster()).is_ok());
        self.leaves.retain(|_, leave| chain.check_leave(leave).is_ok());
        self.evidence.retain(|liar, _| chain.roster().contains(*liar));
    }

    /// What the next record should carry, given the votes that elected its coordinator, and as much of it as has room in
    /// `room` bytes: what is left over waits.
    pub(crate) fn due(&self, ctx: &Context, chain: &Chain, votes: &[Signed<Vote>], mut room: usize) -> Changes {
        let roster = chain.roster();
        let mut staying = roster.clone();
        let mut changes = Changes::default();
        for eviction in self.liars(chain).chain(silent(ctx, chain, votes)) {
            let node = eviction.node();
            // No record empties the roster.
            if staying.len() > 1 && staying.contains(node) && takes(&mut room, codec::encode(&eviction).len()) {
                changes.evicted.push(eviction);
                staying.remove(node);
            }
        }
        for leave in self.leaves.values().filter(|l| chain.check_leave(l).is_ok()) {
            let goes = staying.contains(leave.by()) && staying.len() > 1;
            if goes && takes(&mut room, codec::encode(leave).len()) {
                changes.left.push(*leave);
                staying.remove(leave.by());
            }
        }
        let heard = |since: Time| ctx.now.since_ms(since) >= JOIN_HEARD_MS;
        for (_, join) in self.joins.values().filter(|(since, _)| heard(*since)) {
            let fits = changes.joined.len() < chain.joins_max() && staying.len() < ROSTER_MAX;
            if fits && chain.check_join(join, &staying).is_ok() && takes(&mut room, codec::encode(join).len()) {
                staying.insert(join.member());
                changes.joined.push(join.clone());
            }
        }
        changes
    }

    fn liars<'a>(&'a self, chain: &'a Chain) -> impl Iterator<Item = Eviction> + 'a {
        let on_roster = self.evidence.iter().filter(|(liar, _)| chain.roster().contains(**liar));
        on_roster.map(|(liar, evidence)| Eviction::Liar { node: *liar, evidence: evidence.clone() })
    }
}

/// The members that a quorum of these votes names silent.
fn silent(ctx: &Context, chain: &Chain, votes: &[Signed<Vote>]) -> Vec<Eviction> {
    let eviction = |node: NodeId| {
        let naming: Vec<Signed<Vote>> = votes.iter().filter(|v| v.vouched().silent.contains(&node)).cloned().collect();
        (naming.len() >= chain.roster().quorum()).then_some(Eviction::Silent { node, votes: naming })
    };
    chain.roster().nodes().filter(|n| *n != ctx.me).filter_map(eviction).collect()
}

/// Takes so many bytes of the room, if it has them.
fn takes(room: &mut usize, bytes: usize) -> bool {
    match room.checked_sub(bytes) {
        Some(rest) => {
            *room = rest;
            true
        }
        None => false,
    }
}
