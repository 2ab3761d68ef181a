//! The task that owns the swarm. It takes commands, carries them out, and turns what libp2p says into [`NetEvent`]s.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use futures::StreamExt;
use libp2p::core::transport::ListenerId;
use libp2p::gossipsub::{self, MessageAcceptance};
use libp2p::request_response::{self, Message, OutboundFailure, OutboundRequestId, ProtocolSupport, ResponseChannel};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm};
use paceline_bootstrap::{
    BuildError, Discovery, DiscoveryEvent, DiscoveryOptions, Role, addresses, build_swarm, default_listen, frame,
    node_id, peer_id, run_protocol,
};
use paceline_protocol::RunId;
use paceline_protocol::bounds::GOSSIP_BYTES_MAX;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::bounds::{
    ASKS_PER_PEER_MAX, BLOB_STREAMS_MAX, BLOB_TIMEOUT, DIRECT_STREAMS_MAX, DIRECT_TIMEOUT, EVENTS_BYTES_MAX,
    EVENTS_MAX, TICK,
};
use super::codecs::{Asker, BlobAsk, BlobCodec, DirectBatch, DirectCodec, Incoming};
use super::conduct::{Conduct, Offence};
use super::gossip::{self, Published};
use super::outbox::Outbox;
use super::ports::{self, Ports};
use super::serving::{Served, Serving};
use super::wire::{AskError, BlobAnswer, BlobRequest};
use super::{Command, GossipReceipt, NetError, NetEvent, NetOptions, NetSnapshot};

/// All protocols of a node.
#[derive(NetworkBehaviour)]
struct Node {
    discovery: Discovery,
    gossip: gossip::Behaviour,
    direct: request_response::Behaviour<DirectCodec>,
    blobs: request_response::Behaviour<BlobCodec>,
}

/// A blob request of this node that is on its way.
struct Asked {
    to: PeerId,
    answer: oneshot::Sender<Result<BlobAnswer, AskError>>,
}

/// Owns the swarm, and everything that waits to go out or to come in.
pub(super) struct Task {
    swarm: Swarm<Node>,
    run: RunId,
    events: mpsc::Sender<NetEvent>,
    commands: mpsc::Receiver<Command>,
    snapshot: Arc<NetSnapshot>,
    /// Told once the first address is there.
    listening: Option<oneshot::Sender<()>>,
    /// What was asked of each listener that may choose its port.
    free: Vec<(ListenerId, Multiaddr)>,
    /// Events that the owner has no room for yet.
    pending: Pending,
    outboxes: BTreeMap<PeerId, Outbox>,
    gossip_backlog: gossip::GossipBacklog,
    asked: BTreeMap<OutboundRequestId, Asked>,
    batches: BTreeMap<OutboundRequestId, PeerId>,
    serving: Serving,
    conduct: Conduct,
    tick: Interval,
}

impl Task {
    /// Builds the swarm and listens.
    pub(super) fn new(
        options: NetOptions,
        events: mpsc::Sender<NetEvent>,
        commands: mpsc::Receiver<Command>,
        snapshot: Arc<NetSnapshot>,
        listening: oneshot::Sender<()>,
    ) -> Result<Self, NetError> {
        let (run, secret) = (options.run.run, options.identity);
        let (listen, known_ports) = (options.listen.clone(), options.ports.clone());
        let mut swarm = build_swarm(&secret, |key, relay| {
            Ok(Node {
                gossip: gossip::behaviour(run).map_err(BuildError::Behaviour)?,
                direct: direct(run),
                blobs: blobs(run),
                discovery: Discovery::new(discovery_options(options), key, relay)?,
            })
        })?;
        // Made for this task, so nobody has set it before.
        let _ = snapshot.hearing.set(swarm.behaviour().discovery.hearing().clone());
        let free = listen_on(&mut swarm, listen, &known_ports)?;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            swarm,
            run,
            events,
            commands,
            snapshot,
            listening: Some(listening),
            free,
            pending: Pending::default(),
            outboxes: BTreeMap::new(),
            gossip_backlog: gossip::GossipBacklog::default(),
            asked: BTreeMap::new(),
            batches: BTreeMap::new(),
            serving: Serving::default(),
            conduct: Conduct::default(),
            tick,
        })
    }

    /// Runs until it is told to stop, or nobody is left to tell it anything.
    pub(super) async fn run(mut self) {
        let events = self.events.clone();
        loop {
            tokio::select! {
                command = self.commands.recv() => match command {
                    None | Some(Command::Shutdown) => break,
                    Some(command) => self.on_command(command),
                },
                event = self.swarm.select_next_some() => self.on_swarm(event),
                served = self.serving.next() => self.on_served(served),
                permit = events.reserve(), if !self.pending.is_empty() => match permit {
                    Ok(permit) => drop(self.pending.pop().map(|event| permit.send(event))),
                    // Nobody listens any more.
                    Err(_) => break,
                },
                _ = self.tick.tick() => self.on_tick(),
            }
        }
        self.close().await;
    }

    /// Says goodbye, so that the others need not find out.
    async fn close(mut self) {
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // It may be gone by now.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closing = async { while self.swarm.network_info().num_peers() > 0 && self.swarm.next().await.is_some() {} };
        // Who doesn't answer is left behind.
        let _ = tokio::time::timeout(TICK * 3, closing).await;
    }

    fn on_command(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Send { to, bytes } => {
                let to = peer_id(to);
                let dropped = self.outboxes.entry(to).or_default().push(now, bytes);
                self.snapshot.counters.dropped.add(dropped);
                self.flush(now, to);
            }
            Command::Broadcast { bytes } => self.broadcast(now, bytes),
            Command::Ask { to, request, asker, answer } => self.ask(peer_id(to), request, asker, answer),
            Command::Judge { receipt, pass_on } => self.judge(&receipt, pass_on),
            Command::Complain { of } => self.offends(peer_id(of), Offence::Malformed),
            Command::Shutdown => {}
        }
    }

    /// Sends what waits for a peer, if it is its turn.
    fn flush(&mut self, now: Instant, peer: PeerId) {
        let Some(outbox) = self.outboxes.get_mut(&peer) else { return };
        let node = self.swarm.behaviour_mut();
        if !node.discovery.is_up(&peer) || !node.direct.is_connected(&peer) {
            return node.discovery.want(peer);
        }
        while let Some(batch) = outbox.next_batch(now) {
            self.snapshot.counters.direct_sent.add(batch.iter().map(Vec::len).sum());
            let id = node.direct.send_request(&peer, DirectBatch { batch: Incoming::Request(batch), _held: None });
            self.batches.insert(id, peer);
        }
    }

    fn broadcast(&mut self, now: Instant, bytes: Vec<u8>) {
        let counters = &self.snapshot.counters;
        let len = bytes.len();
        match gossip::publish(&mut self.swarm.behaviour_mut().gossip, self.run, bytes.clone()) {
            Published::Sent => counters.gossip_sent.add(len),
            Published::Later => counters.dropped.add(self.gossip_backlog.push(now, bytes)),
            Published::Never(reason) => {
                tracing::warn!(reason, "gossip can't be sent");
                counters.dropped.add(1);
            }
        }
    }

    /// Gossip that nobody vouched for is not passed on. It costs its sender nothing: it may be new to this node alone.
    fn judge(&mut self, receipt: &GossipReceipt, pass_on: bool) {
        let verdict = if pass_on { MessageAcceptance::Accept } else { MessageAcceptance::Ignore };
        self.swarm.behaviour_mut().gossip.judge(&receipt.id, &receipt.source, verdict);
    }

    fn retry_gossip(&mut self) {
        let (gossip, run, counters) = (&mut self.swarm.behaviour_mut().gossip, self.run, &self.snapshot.counters);
        let never = self.gossip_backlog.retry(|bytes| {
            let len = bytes.len();
            let published = gossip::publish(gossip, run, bytes);
            if published == Published::Sent {
                counters.gossip_sent.add(len);
            }
            published
        });
        counters.dropped.add(never);
    }

    fn ask(
        &mut self,
        to: PeerId,
        request: BlobRequest,
        asker: Asker,
        answer: oneshot::Sender<Result<BlobAnswer, AskError>>,
    ) {
        let node = self.swarm.behaviour_mut();
        // A silent peer keeps streams waiting whose asker has gone elsewhere long since.
        let is_waited_for = |asked: &Asked| asked.to == to && !asked.answer.is_closed();
        if !node.discovery.is_up(&to) || !node.blobs.is_connected(&to) {
            node.discovery.want(to);
            // Whoever gave up already needs no answer.
            let _ = answer.send(Err(AskError::Unreachable));
        } else if self.asked.values().filter(|asked| is_waited_for(asked)).count() >= ASKS_PER_PEER_MAX {
            let _ = answer.send(Err(AskError::Overloaded));
        } else {
            let ask = BlobAsk { request: Incoming::Request(request), asker: Some(asker) };
            let id = node.blobs.send_request(&to, ask);
            self.asked.insert(id, Asked { to, answer });
        }
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        let peers: Vec<PeerId> = self.outboxes.keys().copied().collect();
        for peer in peers {
            self.flush(now, peer);
        }
        let expired: usize = self.outboxes.values_mut().map(|outbox| outbox.expire(now)).sum();
        self.outboxes.retain(|_, outbox| !outbox.is_idle());
        self.snapshot.counters.dropped.add(expired + self.gossip_backlog.expire(now));
        self.retry_gossip();
        let swarm = &self.swarm;
        self.conduct.forget(now, |peer| swarm.is_connected(peer));
        self.share();
    }

    /// Shows addresses and peers to those who only look.
    fn share(&mut self) {
        let discovery = &self.swarm.behaviour().discovery;
        *self.snapshot.addresses.write().unwrap_or_else(PoisonError::into_inner) = discovery.addresses();
        *self.snapshot.peers.write().unwrap_or_else(PoisonError::into_inner) = discovery.peers();
        *self.snapshot.unanswered.write().unwrap_or_else(PoisonError::into_inner) = discovery.unanswered().to_vec();
    }

    fn emit(&mut self, event: NetEvent) {
        if let Some(dropped) = self.pending.push(event) {
            self.snapshot.counters.dropped.add(1);
            // Until it is judged gossip stays in memory, whoever asks for it.
            if let NetEvent::Gossip { receipt, .. } = dropped {
                self.judge(&receipt, false);
            }
        }
    }

    /// Notes an offence. One too many, and the peer is turned away.
    fn offends(&mut self, peer: PeerId, offence: Offence) {
        let is_too_much = self.conduct.offends(Instant::now(), peer, offence) && self.swarm.is_connected(&peer);
        if is_too_much && self.swarm.behaviour_mut().discovery.turn_away(peer) {
            tracing::info!(%peer, ?offence, "turned away: it broke the rules too often");
            self.snapshot.counters.turned_away.add(1);
        }
    }

    /// More than a peer may send or ask: it is refused.
    fn refuse(&mut self, peer: PeerId) {
        self.snapshot.counters.refused.add(1);
        self.offends(peer, Offence::TooMuch);
    }

    /// A message that was begun and did not end.
    fn stalled(&mut self, peer: PeerId) {
        self.snapshot.counters.stalled.add(1);
        self.offends(peer, Offence::Stalled);
    }

    fn malformed(&mut self, peer: PeerId, protocol: &'static str, reason: String) {
        tracing::debug!(%peer, protocol, reason, "refused");
        self.snapshot.counters.malformed.add(1);
        self.offends(peer, Offence::Malformed);
        if let Some(from) = node_id(&peer) {
            self.emit(NetEvent::Malformed { from, protocol, reason });
        }
    }

    fn on_swarm(&mut self, event: SwarmEvent<NodeEvent>) {
        match event {
            SwarmEvent::Behaviour(NodeEvent::Discovery(event)) => self.on_discovery(event),
            SwarmEvent::Behaviour(NodeEvent::Gossip(event)) => self.on_gossip(event),
            SwarmEvent::Behaviour(NodeEvent::Direct(event)) => self.on_direct(event),
            SwarmEvent::Behaviour(NodeEvent::Blobs(event)) => self.on_blobs(event),
            SwarmEvent::NewListenAddr { listener_id, address } => {
                self.share();
                self.keep_port(listener_id, &address);
                if addresses::transport(&address).is_some() {
                    let me = *self.swarm.local_peer_id();
                    self.emit(NetEvent::Listening(addresses::with_peer(&address, me)));
                    self.listening.take().map(|tell| tell.send(()));
                }
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "a listener failed"),
            _ => {}
        }
    }

    fn keep_port(&self, listener: ListenerId, address: &Multiaddr) {
        let asked = self.free.iter().find(|(id, _)| *id == listener).map(|(_, asked)| asked.to_string());
        if let (Some(asked), Some(port)) = (asked, ports::port(address)) {
            self.snapshot.ports.write().unwrap_or_else(PoisonError::into_inner).insert(asked, port);
        }
    }

    fn on_discovery(&mut self, event: DiscoveryEvent) {
        match event {
            DiscoveryEvent::PeerUp(node) => {
                tracing::debug!(%node, "peer up");
                self.emit(NetEvent::PeerUp(node));
                self.share();
                self.flush(Instant::now(), peer_id(node));
            }
            DiscoveryEvent::PeerDown(node) => {
                tracing::debug!(%node, "peer down");
                self.emit(NetEvent::PeerDown(node));
                self.share();
            }
            DiscoveryEvent::Malformed { peer, protocol, reason } => self.malformed(peer, protocol, reason),
            DiscoveryEvent::Twin { addresses, is_earlier } => self.emit(NetEvent::Twin { addresses, is_earlier }),
            DiscoveryEvent::Refused(peer) => self.refuse(peer),
            DiscoveryEvent::NotLetIn => self.snapshot.counters.not_let_in.add(1),
            DiscoveryEvent::Met { .. }
            | DiscoveryEvent::Identified(_)
            | DiscoveryEvent::Answered(..)
            | DiscoveryEvent::NotAnswered(..) => {}
        }
    }

    fn on_gossip(&mut self, event: gossip::Event) {
        let event = match event {
            gossip::Event::Flood(peer) => return self.refuse(peer),
            gossip::Event::Gossipsub(event) => event,
        };
        match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                let receipt = GossipReceipt { id: message_id, source: propagation_source };
                if !self.conduct.may_say(Instant::now(), propagation_source, 1, message.data.len()) {
                    self.judge(&receipt, false);
                    return self.refuse(propagation_source);
                }
                match node_id(&propagation_source).filter(|_| message.data.len() <= GOSSIP_BYTES_MAX) {
                    Some(from) => {
                        self.snapshot.counters.gossip_received.add(message.data.len());
                        self.emit(NetEvent::Gossip { from, bytes: message.data, receipt });
                    }
                    None => {
                        self.judge(&receipt, false);
                        self.malformed(propagation_source, "gossip", "over the bound".to_owned());
                    }
                }
            }
            gossipsub::Event::Subscribed { .. } => self.retry_gossip(),
            _ => {}
        }
    }

    fn on_direct(&mut self, event: request_response::Event<DirectBatch, ()>) {
        let now = Instant::now();
        match event {
            request_response::Event::Message { peer, message: Message::Request { request, channel, .. }, .. } => {
                self.on_batch(now, peer, request, channel);
            }
            request_response::Event::Message { message: Message::Response { request_id, .. }, .. } => {
                self.on_batch_settled(now, request_id);
            }
            request_response::Event::OutboundFailure { peer, request_id, error, .. } => {
                tracing::debug!(%peer, %error, "a batch was not acknowledged");
                self.snapshot.counters.unacknowledged.add(1);
                if let OutboundFailure::Io(error) = &error
                    && frame::is_malformed(error)
                {
                    self.malformed(peer, "direct", error.to_string());
                }
                self.on_batch_settled(now, request_id);
            }
            _ => {}
        }
    }

    fn on_batch_settled(&mut self, now: Instant, id: OutboundRequestId) {
        if let Some(peer) = self.batches.remove(&id) {
            if let Some(outbox) = self.outboxes.get_mut(&peer) {
                outbox.on_settled();
            }
            self.flush(now, peer);
        }
    }

    fn on_batch(&mut self, now: Instant, peer: PeerId, request: DirectBatch, channel: ResponseChannel<()>) {
        let batch = match request.batch {
            Incoming::Request(batch) => batch,
            Incoming::Malformed(reason) => return self.malformed(peer, "direct", reason),
            Incoming::Stalled => return self.stalled(peer),
        };
        let Some(from) = node_id(&peer) else { return };
        if !self.conduct.may_send(now, peer, batch.len(), batch.iter().map(Vec::len).sum()) {
            // Unanswered, it fails at the other end.
            return self.refuse(peer);
        }
        for bytes in batch {
            self.snapshot.counters.direct_received.add(bytes.len());
            self.emit(NetEvent::Message { from, bytes });
        }
        // Who is gone by now needs no acknowledgement.
        let _ = self.swarm.behaviour_mut().direct.send_response(channel, ());
    }

    fn on_blobs(&mut self, event: request_response::Event<BlobAsk, BlobAnswer>) {
        match event {
            request_response::Event::Message { peer, message: Message::Request { request, channel, .. }, .. } => {
                match request.request {
                    Incoming::Request(request) => self.on_asked(peer, request, channel),
                    Incoming::Malformed(reason) => self.malformed(peer, "blobs", reason),
                    Incoming::Stalled => self.stalled(peer),
                }
            }
            request_response::Event::Message { message: Message::Response { request_id, response }, .. } => {
                if let BlobAnswer::Manifest(bytes) | BlobAnswer::Chunk(bytes) = &response {
                    self.snapshot.counters.blobs_received.add(bytes.len());
                }
                if let Some(asked) = self.asked.remove(&request_id) {
                    // Who gave up doesn't need it.
                    let _ = asked.answer.send(Ok(response));
                }
            }
            request_response::Event::OutboundFailure { peer, request_id, error, .. } => {
                let error = match error {
                    OutboundFailure::DialFailure => AskError::Unreachable,
                    OutboundFailure::Timeout => AskError::Timeout,
                    OutboundFailure::UnsupportedProtocols => AskError::Unsupported,
                    OutboundFailure::ConnectionClosed => AskError::Broken("the connection was closed".to_owned()),
                    OutboundFailure::Io(error) if frame::is_malformed(&error) => {
                        self.malformed(peer, "blobs", error.to_string());
                        AskError::Malformed(error.to_string())
                    }
                    OutboundFailure::Io(error) => AskError::Broken(error.to_string()),
                };
                if let Some(asked) = self.asked.remove(&request_id) {
                    let _ = asked.answer.send(Err(error));
                }
            }
            _ => {}
        }
    }

    fn on_asked(&mut self, peer: PeerId, request: BlobRequest, channel: ResponseChannel<BlobAnswer>) {
        let allowed = self.conduct.may_ask(Instant::now(), peer) && self.serving.has_room_for(&peer);
        let Some(from) = node_id(&peer) else { return };
        let has_room = self.serving.has_room() && !self.pending.is_full();
        if !allowed {
            self.refuse(peer);
        } else if !has_room {
            // Others keep this node busy: that is not the asker's fault.
            self.snapshot.counters.refused.add(1);
        }
        if !allowed || !has_room {
            let _ = self.swarm.behaviour_mut().blobs.send_response(channel, BlobAnswer::Busy);
            return;
        }
        let (answer, answered) = oneshot::channel();
        self.serving.push(peer, channel, answered);
        self.emit(NetEvent::BlobRequested { from, request, answer });
    }

    fn on_served(&mut self, served: Served) {
        let Served { channel, mut answer, .. } = served;
        if BlobAnswer::payload_max(answer.tag()).is_none_or(|max| answer.payload().len() > max) {
            tracing::warn!(len = answer.payload().len(), "an answer over its bound is not sent");
            answer = BlobAnswer::Unknown;
        }
        if let BlobAnswer::Manifest(bytes) | BlobAnswer::Chunk(bytes) = &answer {
            self.snapshot.counters.blobs_sent.add(bytes.len());
        }
        // Who is gone by now needs no answer.
        let _ = self.swarm.behaviour_mut().blobs.send_response(channel, answer);
    }
}

fn discovery_options(options: NetOptions) -> DiscoveryOptions {
    DiscoveryOptions {
        role: Role::Node,
        run: Some(options.run),
        bootstrap: options.bootstrap,
        known: options.known,
        mdns: options.mdns,
    }
}

fn direct(run: RunId) -> request_response::Behaviour<DirectCodec> {
    let config = request_response::Config::default()
        .with_request_timeout(DIRECT_TIMEOUT)
        .with_max_concurrent_streams(DIRECT_STREAMS_MAX);
    request_response::Behaviour::with_codec(
        DirectCodec::default(),
        [(run_protocol(run, "direct"), ProtocolSupport::Full)],
        config,
    )
}

fn blobs(run: RunId) -> request_response::Behaviour<BlobCodec> {
    let config = request_response::Config::default()
        .with_request_timeout(BLOB_TIMEOUT)
        .with_max_concurrent_streams(BLOB_STREAMS_MAX);
    request_response::Behaviour::with_codec(
        BlobCodec::default(),
        [(run_protocol(run, "blobs"), ProtocolSupport::Full)],
        config,
    )
}

/// Of the default addresses one is enough; those that were asked for must all work. Answers which may choose their port.
fn listen_on(
    swarm: &mut Swarm<Node>,
    listen: Vec<Multiaddr>,
    known: &Ports,
) -> Result<Vec<(ListenerId, Multiaddr)>, NetError> {
    let given = !listen.is_empty();
    let mut failed = None;
    let mut works = false;
    let mut free = Vec::new();
    for address in if given { listen } else { default_listen() } {
        let again = ports::again(&address, known).and_then(|again| swarm.listen_on(again).ok());
        // libp2p shares the ports of TCP: two nodes would listen at one, and each hear half.
        let taken = ports::probe(&address).err();
        let listens = match (again, taken) {
            (Some(listener), _) => Ok(listener),
            (None, Some(error)) => Err(error.to_string()),
            (None, None) => swarm.listen_on(address.clone()).map_err(|error| error.to_string()),
        };
        match listens {
            Ok(listener) => {
                works = true;
                free.extend(ports::is_free(&address).then_some((listener, address)));
            }
            Err(error) => {
                tracing::warn!(%address, %error, "can't listen");
                failed = Some(NetError::Listen { address, reason: error });
            }
        }
    }
    match failed {
        Some(error) if given || !works => Err(error),
        _ => Ok(free),
    }
}

/// Events that wait for the owner, within a bound.
#[derive(Default)]
struct Pending {
    events: VecDeque<NetEvent>,
    bytes: usize,
}

impl Pending {
    /// Puts an event in, or gives it back where there is no room for it.
    fn push(&mut self, event: NetEvent) -> Option<NetEvent> {
        let len = payload(&event);
        // What tells of peers is never dropped: there are few of them, and nothing repeats them.
        let may_drop = matches!(
            event,
            NetEvent::Message { .. }
                | NetEvent::Gossip { .. }
                | NetEvent::BlobRequested { .. }
                | NetEvent::Malformed { .. }
        );
        if may_drop && (self.is_full() || self.bytes + len > EVENTS_BYTES_MAX) {
            return Some(event);
        }
        self.bytes += len;
        self.events.push_back(event);
        None
    }

    fn pop(&mut self) -> Option<NetEvent> {
        let event = self.events.pop_front()?;
        self.bytes -= payload(&event);
        Some(event)
    }

    fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    fn is_full(&self) -> bool {
        self.events.len() >= EVENTS_MAX
    }
}

fn payload(event: &NetEvent) -> usize {
    match event {
        NetEvent::Message { bytes, .. } | NetEvent::Gossip { bytes, .. } => bytes.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gossip_that_finds_no_room_comes_back_so_that_it_is_judged_and_leaves_memory() {
        let receipt = || GossipReceipt { id: gossipsub::MessageId::new(b"id"), source: PeerId::random() };
        let gossip = || NetEvent::Gossip { from: peer(), bytes: vec![0; 100], receipt: receipt() };
        let mut pending = Pending::default();
        assert_eq!((0..EVENTS_MAX).filter(|_| pending.push(gossip()).is_some()).count(), 0);
        assert!(matches!(pending.push(gossip()), Some(NetEvent::Gossip { .. })));
        assert!(pending.push(NetEvent::PeerDown(peer())).is_none(), "what tells of peers always finds room");
    }

    fn peer() -> paceline_protocol::NodeId {
        paceline_protocol::NodeId::from_public_key([7; 32])
    }
}
