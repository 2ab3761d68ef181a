//! How a node shows where it stands.
//!
//! It tells the peer at the other end of a connection, never more than it must: what changes the standing of others (its
//! chain, its founding, the end) goes to all, what it does in a round to the coordinator alone, and everything to a few
//! peers in turn. So what a node sends and hears in a round does not grow with the roster; what participants do reaches
//! everybody in the coordinator's heartbeat.

pub mod message;

use crate::base::bounds::PRESENCE_PEERS;
use crate::base::ids::{Hash, NodeId, Time};
use crate::base::timing::PRESENCE_MS;
use crate::context::Context;
use crate::membership::message::{Activity, Message as Membership, Presence};
use crate::message::Message;

/// Where a node stands, as others are to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stand {
    /// The chain; zero for none.
    pub(crate) chain: Hash,
    pub(crate) round: u64,
    pub(crate) held: Option<u64>,
    pub(crate) founding: Option<Hash>,
    pub(crate) activity: Activity,
    pub(crate) at_rest: bool,
}

impl Stand {
    /// What others wait for, or must not miss.
    fn public(&self) -> (Hash, Option<Hash>, bool) {
        (self.chain, self.founding, self.at_rest)
    }

    /// Whether the coordinator does not see by itself what this node does.
    fn is_news(&self) -> bool {
        matches!(self.activity, Activity::Fetching | Activity::Training { .. } | Activity::Failed | Activity::Paused)
    }
}

/// What a node has told of itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Presences {
    counter: u64,
    regular_at: Time,
    /// The peer that was told last in turn.
    turn: Option<NodeId>,
    said: Option<Stand>,
    /// The coordinator that was told last.
    coordinator: Option<NodeId>,
}

impl Presences {
    pub(crate) fn deadline(&self) -> Time {
        self.regular_at
    }

    /// Tells one peer.
    pub(crate) fn tell(&mut self, ctx: &mut Context, to: NodeId, stand: Stand) {
        self.counter += 1;
        let presence = Presence {
            counter: self.counter,
            name: ctx.name.clone(),
            part: ctx.part,
            round: stand.round,
            held: stand.held,
            founding: stand.founding,
            activity: stand.activity,
            at_rest: stand.at_rest,
        };
        ctx.send(to, Message::membership(stand.chain, Membership::Presence(presence)));
    }

    /// Tells whoever should know by now. Answers whether the regular time had come.
    pub(crate) fn tick(&mut self, ctx: &mut Context, stand: Stand, coordinator: Option<NodeId>) -> bool {
        let regular = ctx.now >= self.regular_at;
        let before = self.said.replace(stand);
        if before.is_none_or(|b| b.public() != stand.public()) {
            let all: Vec<NodeId> = ctx.peers.connected().map(|(node, _)| node).collect();
            all.into_iter().for_each(|node| self.tell(ctx, node, stand));
        } else if (stand.is_news() || before.is_some_and(|b| b.activity == Activity::Paused))
            && (before.map(|b| b.activity) != Some(stand.activity) || self.coordinator != coordinator)
        {
            let told = coordinator.filter(|c| *c != ctx.me && ctx.peers.is_connected(*c));
            told.into_iter().for_each(|node| self.tell(ctx, node, stand));
        }
        self.coordinator = coordinator;
        if regular {
            self.regular_at = ctx.now.plus_ms(PRESENCE_MS);
            for node in self.next_in_turn(ctx) {
                self.tell(ctx, node, stand);
            }
        }
        regular
    }

    /// The next few of the connected peers, after those who were told last.
    fn next_in_turn(&mut self, ctx: &Context) -> Vec<NodeId> {
        let mut all: Vec<NodeId> = ctx.peers.connected().map(|(node, _)| node).collect();
        let after = self.turn.map_or(0, |turn| all.partition_point(|node| *node <= turn));
        let after = after.min(all.len());
        all.rotate_left(after);
        all.truncate(PRESENCE_PEERS);
        self.turn = all.last().copied();
        all
    }
}
