//! Gossip: metadata to all nodes of the run. It carries what proves itself, whoever passes it on, so it has neither author nor
//! signature of its own; a node passes on what its machine vouched for.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::gossipsub::{
    self, IdentTopic, IdentityTransform, Message, MessageAuthenticity, MessageId, PublishError, ValidationMode,
    WhitelistSubscriptionFilter,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use paceline_bootstrap::TokenBucket;
use paceline_protocol::bounds::{GOSSIP_BYTES_MAX, PROTOCOL_VERSION};
use paceline_protocol::{Hash, RunId};

use super::bounds::{
    GOSSIP_AGE_MAX, GOSSIP_BURST, GOSSIP_EARNED_EVERY, GOSSIP_MESSAGES_MAX, GOSSIP_OVERHEAD_BYTES, GOSSIP_WAITING_MAX,
};

type Inner = gossipsub::Behaviour<IdentityTransform, WhitelistSubscriptionFilter>;

/// The behaviour: it takes subscriptions to the run's topic alone.
///
/// It says on each connection to which topic it listens, where gossipsub says so on a peer's first alone: beside a silent
/// connection a new one is made, and it may be the only one that the other end still has.
///
/// A peer's frames beyond its allowance are dropped before anything is made of them.
pub(super) struct Behaviour {
    inner: Inner,
    allowances: BTreeMap<PeerId, TokenBucket>,
    events: VecDeque<Event>,
}

/// What comes out of it.
#[derive(Debug)]
pub(super) enum Event {
    /// Of gossipsub.
    Gossipsub(gossipsub::Event),
    /// A frame was dropped, since the peer sends too many.
    Flood(PeerId),
}

/// Floods that wait to be told.
const FLOODS_MAX: usize = 1024;

/// Meshes form within one or two of these.
const HEARTBEAT: Duration = Duration::from_millis(400);

/// The topic of a run.
pub(super) fn topic(run: RunId) -> IdentTopic {
    IdentTopic::new(format!("/paceline/{PROTOCOL_VERSION}/{run}"))
}

/// The behaviour for a run, subscribed to its topic.
pub(super) fn behaviour(run: RunId) -> Result<Behaviour, String> {
    let config = gossipsub::ConfigBuilder::default()
        // Of this run alone: other programs and other runs don't even open a stream.
        .protocol_id_prefix(format!("/paceline/{PROTOCOL_VERSION}/{run}/gossip"))
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(message_id)
        .max_transmit_size(GOSSIP_BYTES_MAX + GOSSIP_OVERHEAD_BYTES)
        .flood_publish(true)
        .heartbeat_initial_delay(Duration::from_millis(100))
        .heartbeat_interval(HEARTBEAT)
        // One message of a stranger's that proves itself goes to at most so many others.
        // Whoever speaks first tells all that it is connected to; the mesh is for those that it is not.
        .mesh_n(3)
        .mesh_n_low(2)
        .mesh_n_high(5)
        .mesh_outbound_min(1)
        .gossip_lazy(3)
        .idontwant_message_size_threshold(GOSSIP_BYTES_MAX)
        .history_length(12)
        .history_gossip(6)
        // A node that restarts is grafted again soon.
        .prune_backoff(Duration::from_secs(5))
        .unsubscribe_backoff(Duration::from_secs(2))
        .graft_flood_threshold(Duration::from_secs(1))
        .max_publish_messages(GOSSIP_MESSAGES_MAX)
        .max_control_messages_sent(512)
        .connection_handler_queue_len(1024)
        .build()
        .map_err(|e| e.to_string())?;
    let topic = topic(run);
    let mut behaviour = Inner::new_with_subscription_filter(
        MessageAuthenticity::Anonymous,
        config,
        WhitelistSubscriptionFilter(HashSet::from([topic.hash()])),
    )?;
    behaviour.subscribe(&topic).map_err(|e| e.to_string())?;
    Ok(Behaviour { inner: behaviour, allowances: BTreeMap::new(), events: VecDeque::new() })
}

impl Behaviour {
    /// Says of gossip that came whether it is passed on.
    pub(super) fn judge(&mut self, id: &MessageId, source: &PeerId, verdict: gossipsub::MessageAcceptance) {
        self.inner.report_message_validation_result(id, source, verdict);
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = <Inner as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(id, peer, address, role, port_use)
    }

    fn on_swarm_event(&mut self, mut event: FromSwarm) {
        if let FromSwarm::ConnectionEstablished(established) = &mut event {
            // All that it does for the first: it says what it is subscribed to.
            established.other_established = 0;
        }
        if let FromSwarm::ConnectionClosed(closed) = &event
            && closed.remaining_established == 0
        {
            self.allowances.remove(&closed.peer_id);
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        let now = Instant::now();
        let allowance =
            self.allowances.entry(peer).or_insert_with(|| TokenBucket::new(now, GOSSIP_BURST, GOSSIP_EARNED_EVERY));
        if allowance.take(now) {
            self.inner.on_connection_handler_event(peer, id, event);
        } else if self.events.len() < FLOODS_MAX {
            self.events.push_back(Event::Flood(peer));
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        match self.events.pop_front() {
            Some(event) => Poll::Ready(ToSwarm::GenerateEvent(event)),
            None => self.inner.poll(cx).map(|event| event.map_out(Event::Gossipsub)),
        }
    }
}

/// The content: what proves itself is the same message whoever sends it. A repetition is held back for as long as the ids are
/// remembered; who came later asks for what it lacks.
fn message_id(message: &Message) -> MessageId {
    MessageId::new(Hash::of_parts("paceline gossip message", &[&message.data]).as_bytes())
}

/// Gossip that nobody could be told yet: a node that starts speaks before others listen.
#[derive(Debug, Default)]
pub(super) struct GossipBacklog(VecDeque<(Instant, Vec<u8>)>);

/// What became of gossip.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Published {
    /// It went to at least one peer.
    Sent,
    /// Nobody listens, or all queues are full: worth another try.
    Later,
    /// It can't be sent.
    Never(String),
}

/// Publishes, and says what became of it.
pub(super) fn publish(behaviour: &mut Behaviour, run: RunId, bytes: Vec<u8>) -> Published {
    match behaviour.inner.publish(topic(run), bytes) {
        // Somebody said it before.
        Ok(_) | Err(PublishError::Duplicate) => Published::Sent,
        Err(PublishError::NoPeersSubscribedToTopic | PublishError::AllQueuesFull(_)) => Published::Later,
        Err(error) => Published::Never(error.to_string()),
    }
}

impl GossipBacklog {
    /// Keeps a message for later. Answers how many older ones were dropped for it.
    pub(super) fn push(&mut self, now: Instant, bytes: Vec<u8>) -> usize {
        self.0.push_back((now, bytes));
        let over = self.0.len().saturating_sub(GOSSIP_WAITING_MAX);
        self.0.drain(..over);
        over
    }

    /// Drops what waited too long. Answers how many.
    pub(super) fn expire(&mut self, now: Instant) -> usize {
        let before = self.0.len();
        self.0.retain(|(since, _)| now < *since + GOSSIP_AGE_MAX);
        before - self.0.len()
    }

    /// Tries all again, in order, with `publish`. Answers how many can never be sent.
    pub(super) fn retry(&mut self, mut publish: impl FnMut(Vec<u8>) -> Published) -> usize {
        let mut never = 0;
        while let Some((since, bytes)) = self.0.pop_front() {
            match publish(bytes.clone()) {
                Published::Sent => {}
                Published::Never(_) => never += 1,
                Published::Later => {
                    self.0.push_front((since, bytes));
                    break;
                }
            }
        }
        never
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_heard_is_tried_again_in_order_and_dropped_when_it_is_old() {
        let (now, mut backlog) = (Instant::now(), GossipBacklog::default());
        (0..3).for_each(|i| assert_eq!(backlog.push(now, vec![i]), 0));
        let mut sent = Vec::new();
        backlog.retry(|bytes| {
            if sent.len() == 2 {
                return Published::Later;
            }
            sent.push(bytes);
            Published::Sent
        });
        assert_eq!(sent, [[0], [1]]);
        assert_eq!(backlog.expire(now + GOSSIP_AGE_MAX), 1);
    }

    #[test]
    fn waiting_gossip_is_bounded() {
        let (now, mut backlog) = (Instant::now(), GossipBacklog::default());
        let dropped: usize = (0..GOSSIP_WAITING_MAX + 2).map(|_| backlog.push(now, Vec::new())).sum();
        assert_eq!(dropped, 2);
    }

    #[test]
    fn the_configuration_is_valid() {
        assert!(behaviour(Hash::ZERO).is_ok());
    }
}
