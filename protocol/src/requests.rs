//! Who wants to come, who wants to go, who must: what waits for the next record (design 4.6).

use std::collections::BTreeMap;

use crate::bounds::{REQUESTS_MAX, ROSTER_MAX};
use crate::chain::Chain;
use crate::core::Core;
use crate::ids::NodeId;
use crate::machine::{Event, Persist};
use crate::message::Message;
use crate::record::{Eviction, Evidence, JoinRequest, LeaveRequest, Vote};
use crate::reject::Reject;

/// The roster changes that a record will carry.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) joined: Vec<JoinRequest>,
    pub(crate) left: Vec<LeaveRequest>,
    pub(crate) evicted: Vec<Eviction>,
}

#[derive(Debug, Default)]
pub(crate) struct Requests {
    joins: BTreeMap<NodeId, JoinRequest>,
    leaves: BTreeMap<NodeId, LeaveRequest>,
    evidence: BTreeMap<NodeId, Evidence>,
}

impl Requests {
    /// A node wants to come. Bounded, and one request a node.
    pub(crate) fn add_join(&mut self, chain: &Chain, request: JoinRequest) -> Result<(), Reject> {
        let node = request.member.node;
        if self.joins.get(&node) == Some(&request) {
            return Ok(());
        }
        if self.joins.len() >= REQUESTS_MAX && !self.joins.contains_key(&node) {
            return Err(Reject::TooMany);
        }
        chain.check_join(&request, chain.roster())?;
        if !request.verifies(chain.rules().run, chain.genesis()) {
            return Err(Reject::BadSignature);
        }
        self.joins.insert(node, request);
        Ok(())
    }

    /// A member wants to go.
    pub(crate) fn add_leave(&mut self, chain: &Chain, request: LeaveRequest) -> Result<(), Reject> {
        chain.check_leave(&request)?;
        self.leaves.insert(request.node, request);
        Ok(())
    }

    /// A member lied. `found` here, it is told to the others.
    pub(crate) fn add_evidence(&mut self, core: &mut Core, chain: &Chain, evidence: Evidence, found: bool) {
        let Some(liar) = evidence.liar(chain.rules().run, chain.genesis()) else { return };
        if self.evidence.contains_key(&liar) || !chain.roster().contains(liar) {
            return;
        }
        core.emit(Event::Liar { node: liar });
        core.persist(Persist::Evidence { genesis: chain.genesis(), evidence: evidence.clone() });
        if found {
            core.broadcast(Message::Evidence { genesis: chain.genesis(), evidence: evidence.clone() });
        }
        self.evidence.insert(liar, evidence);
    }

    /// Drops what has run out or was done.
    pub(crate) fn expire(&mut self, chain: &Chain) {
        self.joins.retain(|_, request| chain.check_join(request, chain.roster()).is_ok());
        self.leaves.retain(|_, request| chain.check_leave(request).is_ok());
        self.evidence.retain(|liar, _| chain.roster().contains(*liar));
    }

    /// What the next record should carry, given the votes that elected its coordinator.
    pub(crate) fn due(&self, core: &Core, chain: &Chain, votes: &[Vote]) -> Changes {
        let roster = chain.roster();
        let mut staying = roster.clone();
        let mut changes = Changes::default();
        for (liar, evidence) in self.evidence.iter().filter(|(liar, _)| roster.contains(**liar)) {
            // No record empties the roster.
            if staying.len() == 1 {
                break;
            }
            changes.evicted.push(Eviction::Liar { node: *liar, evidence: evidence.clone() });
            staying.remove(*liar);
        }
        for node in roster.nodes().filter(|n| *n != core.me) {
            let naming: Vec<Vote> = votes.iter().filter(|v| v.silent.contains(&node)).cloned().collect();
            if naming.len() >= roster.quorum() && staying.contains(node) {
                changes.evicted.push(Eviction::Silent { node, votes: naming });
                staying.remove(node);
            }
        }
        for leave in self.leaves.values().filter(|l| chain.check_leave(l).is_ok()) {
            if staying.contains(leave.node) && staying.len() > 1 {
                changes.left.push(leave.clone());
                staying.remove(leave.node);
            }
        }
        for join in self.joins.values() {
            let room = changes.joined.len() < chain.joins_max() && staying.len() < ROSTER_MAX;
            if room && chain.check_join(join, &staying).is_ok() {
                changes.joined.push(join.clone());
                staying.insert(join.member.clone());
            }
        }
        changes
    }
}
