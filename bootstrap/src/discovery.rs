//! The behaviour by which nodes meet: identify, mDNS, ping, peer exchange, relays, and the dialling that follows from
//! them. What goes on by itself stays inside; what the owner should know comes out as a [`DiscoveryEvent`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::FutureExt;
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, PeerRecord};
use libp2p::identity::Keypair;
use libp2p::request_response::{self, Message, OutboundFailure, ResponseChannel};
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, DialError, FromSwarm, ListenAddresses, ListenOpts,
    NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, StreamProtocol, connection_limits, identify, mdns, ping, relay};
use paceline_protocol::bounds::{ADDRESSES_MAX, PROTOCOL_VERSION};
use paceline_protocol::runfile::Published;
use paceline_protocol::{NodeId, RunId};
use tokio::task::JoinHandle;

use crate::address_book::{Action, AddressBook, Capabilities};
use crate::bounds::{
    CONNECTIONS_MAX, CONNECTIONS_PENDING_MAX, CONNECTIONS_PER_PEER_MAX, PING_INTERVAL, PING_TIMEOUT,
    RECORDS_PER_ANSWER_MAX, RELAY_CIRCUIT_BYTES_MAX, RELAY_CIRCUIT_DURATION_MAX, RELAY_CIRCUITS_MAX,
    RELAY_RESERVATIONS_MAX, TWIN_ADDRESSES_MAX, TWIN_EVERY,
};
use crate::gate::{Closed, Gate};
use crate::hearing::Hearing;
use crate::peer_exchange::{self, Answer, Incoming, Record, Request};
use crate::run_registry::RunRegistry;
use crate::survey::unix_ms_now;
use crate::swarm::{BuildError, Links, node_id};
use crate::twin::{Heard, Met, Twins};
use crate::{addresses, frame, run_protocol};

/// How often waits are looked at: finer than the shortest of them.
const TICK: Duration = Duration::from_millis(50);

/// Addresses under which others see this node, and which it can't know by itself, that it passes on.
const OBSERVED_MAX: usize = 2;

/// Characters of the cause of a failed dial.
const CAUSE_CHARS_MAX: usize = 120;

/// Nodes of other versions that are told of.
const OTHER_VERSIONS_MAX: usize = 16;

/// Characters of what a peer says of its version.
const VERSION_CHARS_MAX: usize = 64;

/// Events that wait for the owner. They wait only if it doesn't poll, and then the newest are dropped.
const EVENTS_MAX: usize = 1024;

/// What a swarm with this behaviour is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A node of a run: dials everybody of its run.
    Node,
    /// A bootstrap: waits to be dialled, introduces, relays.
    Bootstrap,
    /// Looks for runs or a run file, for a moment.
    Seeker,
}
/// How a node looks for others and is found.
#[derive(Debug, Clone)]
pub struct DiscoveryOptions {
    /// What the swarm is for.
    pub role: Role,
    /// The run: a node has one, a bootstrap may.
    pub run: Option<Published>,
    /// First addresses, with or without a peer at the end; dialled until they answer.
    pub bootstrap: Vec<Multiaddr>,
    /// Addresses of nodes of the run from an earlier start, each with the peer at its end.
    pub known: Vec<Multiaddr>,
    /// Whether to look, and to be seen, on the local network.
    pub mdns: bool,
}

/// What the owner should know.
#[derive(Debug)]
pub enum DiscoveryEvent {
    /// A node of this run is connected and identified. Once, however many connections there are.
    PeerUp(NodeId),
    /// Its last connection is gone, and an immediate redial failed.
    PeerDown(NodeId),
    /// A peer was identified, whatever it is. For seekers.
    Met {
        /// Who.
        peer: PeerId,
        /// What it says of its version.
        version: String,
        /// Where it says that it listens.
        listens: Vec<Multiaddr>,
    },
    /// A peer that speaks peer exchange was identified, of whatever run. For seekers.
    Identified(PeerId),
    /// The answer to [`Discovery::ask`].
    Answered(PeerId, Answer),
    /// What was asked with [`Discovery::ask`] got no answer.
    NotAnswered(PeerId, String),
    /// A peer broke a protocol's rules; the bytes were refused.
    Malformed {
        /// The peer that sent the bytes.
        peer: PeerId,
        /// The protocol that they break.
        protocol: &'static str,
        /// What was wrong with them, in words.
        reason: String,
    },
    /// A peer asks too much and was refused.
    Refused(PeerId),
    /// Another process has this node's identity. It has proven so, and is not this one at another address.
    Twin {
        /// It is at one of these.
        addresses: Vec<Multiaddr>,
        /// Whether it started before this process, which must stop then; or else it will.
        is_earlier: bool,
    },
    /// A connection was not let in: its peer or its address broke the rules, or has enough of them.
    NotLetIn,
}

/// The libp2p behaviours inside.
#[derive(NetworkBehaviour)]
pub struct Protocols {
    limits: connection_limits::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
    peer_exchange: peer_exchange::Behaviour,
    relay_server: Toggle<relay::Behaviour>,
    relay_client: relay::client::Behaviour,
}

/// See the module. Compose it with a node's own protocols, or use it alone.
pub struct Discovery {
    protocols: Protocols,
    hearing: Hearing,
    key: Keypair,
    role: Role,
    run: Option<Published>,
    direct: Option<StreamProtocol>,
    address_book: AddressBook,
    /// First addresses, as they were given.
    given: Vec<Multiaddr>,
    gate: Gate,
    registry: RunRegistry,
    listening: ListenAddresses,
    observed: Vec<Multiaddr>,
    /// The signed record of the present addresses.
    record: Option<Vec<u8>>,
    /// Requests made by the owner, whose answers are the owner's.
    asked: Vec<request_response::OutboundRequestId>,
    /// Run files asked for by the bootstrap.
    files_asked: Vec<(request_response::OutboundRequestId, RunId)>,
    /// Introductions on the way, with the run that the records will be of.
    introduced: Vec<(request_response::OutboundRequestId, RunId)>,
    /// Nodes of other versions that were told of.
    other_versions: BTreeSet<PeerId>,
    twins: Twins,
    /// Addresses at which this node's identity was said to be, and which are not its own.
    suspected: Vec<Multiaddr>,
    /// The question that is on its way there.
    asking: Option<JoinHandle<Option<Heard>>>,
    /// When it was last asked there.
    asked_twin: Option<Instant>,
    events: VecDeque<DiscoveryEvent>,
    tick: tokio::time::Interval,
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.asking.iter().for_each(JoinHandle::abort);
    }
}

impl Discovery {
    /// The behaviour for this identity. Needs to run within tokio.
    ///
    /// # Errors
    /// None at present; mDNS that can't be had is a warning, since there are other ways to meet.
    pub fn new(options: DiscoveryOptions, key: &Keypair, links: Links) -> Result<Self, BuildError> {
        let (now, me) = (Instant::now(), key.public().to_peer_id());
        let mut address_book = AddressBook::new(me, options.role);
        options.bootstrap.iter().chain(&options.known).for_each(|address| address_book.keep(now, address));
        let mut registry = RunRegistry::default();
        if let Some(own) = &options.run {
            registry.keep(own.run, &own.name, own.text.clone().into_bytes());
        }
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Ok(Self {
            protocols: protocols(&options, key, links.relay),
            hearing: links.hearing,
            key: key.clone(),
            role: options.role,
            direct: options.run.as_ref().map(|own| run_protocol(own.run, "direct")),
            run: options.run,
            address_book,
            given: options.bootstrap,
            gate: Gate::default(),
            registry,
            listening: ListenAddresses::default(),
            observed: Vec::new(),
            record: None,
            asked: Vec::new(),
            files_asked: Vec::new(),
            introduced: Vec::new(),
            other_versions: BTreeSet::new(),
            twins: Twins::new(now),
            suspected: Vec::new(),
            asking: None,
            asked_twin: None,
            events: VecDeque::new(),
            tick,
        })
    }

    /// This node's addresses for others, the best first, each with its peer at the end.
    pub fn addresses(&self) -> Vec<Multiaddr> {
        let me = self.key.public().to_peer_id();
        let all = self.listening.iter().chain(&self.observed).map(addresses::without_peer);
        let mut sorted = addresses::sorted(all);
        sorted.truncate(ADDRESSES_MAX);
        sorted.iter().map(|address| addresses::with_peer(address, me)).collect()
    }

    /// Nodes of this run that are up, with their addresses.
    pub fn peers(&self) -> Vec<(NodeId, Vec<Multiaddr>)> {
        let with_id = |(peer, list): (PeerId, &[Multiaddr])| {
            Some((node_id(&peer)?, list.iter().map(|a| addresses::with_peer(a, peer)).collect()))
        };
        self.address_book.up().filter_map(with_id).collect()
    }

    /// Where a peer can be reached, as far as is known, without the peer at the end.
    pub fn addresses_of(&self, peer: PeerId) -> Vec<Multiaddr> {
        self.address_book.addresses_of(peer)
    }

    /// The first addresses that were given, if there are some and nobody answers at any.
    pub fn unanswered(&self) -> &[Multiaddr] {
        let all_fail = self.given.iter().all(|address| self.address_book.is_answered(address) == Some(false));
        if all_fail { &self.given } else { &[] }
    }

    /// When each peer was last heard.
    pub fn hearing(&self) -> &Hearing {
        &self.hearing
    }

    /// Whether the node is up.
    pub fn is_up(&self, peer: &PeerId) -> bool {
        self.address_book.is_up(*peer)
    }

    /// Dials a node soon, if its addresses are known and it is not connected.
    pub fn want(&mut self, peer: PeerId) {
        self.address_book.want(Instant::now(), peer);
    }

    /// Addresses at which a node was said to be; it is dialled.
    pub fn learn(&mut self, peer: PeerId, addresses: &[Multiaddr]) {
        self.address_book.learn(Instant::now(), peer, addresses);
    }

    /// Closes the connections to a peer that broke the rules, and turns it away for `TURNED_AWAY_REST`. An address from
    /// which several were turned away is open for those alone whom this node knew before. `false` if it is turned away
    /// already: what was on its way from it still comes.
    pub fn turn_away(&mut self, peer: PeerId) -> bool {
        let now = Instant::now();
        if self.gate.is_turned_away(now, peer) {
            return false;
        }
        self.gate.turn_away(now, peer, self.address_book.connections_of(peer));
        self.address_book.turn_away(now, peer);
        true
    }

    /// Says of a connection that is not let in why, to those who look after it and to libp2p.
    fn not_let_in(&mut self, why: Closed) -> ConnectionDenied {
        self.emit(DiscoveryEvent::NotLetIn);
        ConnectionDenied::new(why)
    }

    /// Asks a connected peer; the answer comes as [`DiscoveryEvent::Answered`].
    pub fn ask(&mut self, peer: PeerId, request: Request) {
        self.asked.push(self.protocols.peer_exchange.send_request(&peer, Incoming::Request(request)));
    }

    fn emit(&mut self, event: DiscoveryEvent) {
        // `PeerUp` and `PeerDown` are bounded by the connections; the rest may be dropped.
        let matters =
            matches!(event, DiscoveryEvent::PeerUp(_) | DiscoveryEvent::PeerDown(_) | DiscoveryEvent::Twin { .. });
        if matters || self.events.len() < EVENTS_MAX {
            self.events.push_back(event);
        }
    }

    fn on_protocols(&mut self, event: ProtocolsEvent) {
        let now = Instant::now();
        match event {
            ProtocolsEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                let capabilities = self.capabilities(&info);
                tracing::debug!(peer = %peer_id, ?capabilities, "identified");
                let useful = addresses::sorted(info.listen_addrs.into_iter().take(ADDRESSES_MAX));
                self.warn_of_version(peer_id, &info.protocol_version, useful.first());
                if self.role == Role::Seeker {
                    let version: String = info.protocol_version.chars().take(VERSION_CHARS_MAX).collect();
                    self.emit(DiscoveryEvent::Met { peer: peer_id, version, listens: useful.clone() });
                }
                self.address_book.on_identified(now, peer_id, capabilities, &useful);
            }
            ProtocolsEvent::Mdns(mdns::Event::Discovered(found)) => {
                let mut by_peer: BTreeMap<PeerId, Vec<Multiaddr>> = BTreeMap::new();
                found.into_iter().for_each(|(peer, address)| by_peer.entry(peer).or_default().push(address));
                by_peer.iter().for_each(|(peer, addresses)| self.address_book.learn(now, *peer, addresses));
            }
            // A live peer's record runs out as well: that it is gone shows on its connection.
            ProtocolsEvent::Mdns(mdns::Event::Expired(_)) => {}
            ProtocolsEvent::PeerExchange(event) => self.on_peer_exchange(now, event),
            _ => {}
        }
    }

    /// Nodes of another version speak other protocols, and none of both would ever say why nobody comes.
    fn warn_of_version(&mut self, peer: PeerId, version: &str, address: Option<&Multiaddr>) {
        let theirs = version.strip_prefix("/paceline/").and_then(|number| number.parse::<u32>().ok());
        let Some(theirs) = theirs.filter(|theirs| *theirs != PROTOCOL_VERSION && self.role == Role::Node) else {
            return;
        };
        if self.other_versions.len() < OTHER_VERSIONS_MAX && self.other_versions.insert(peer) {
            let at = address.map_or_else(|| peer.to_string(), Multiaddr::to_string);
            tracing::warn!(
                "a node at {at} speaks version {theirs} of the protocol, and this program version {PROTOCOL_VERSION}: they can't be in one \
                 run; run the same paceline on all machines"
            );
        }
    }

    fn capabilities(&self, info: &identify::Info) -> Capabilities {
        let speaks = |protocol: &StreamProtocol| info.protocols.contains(protocol);
        let other = |protocol: &StreamProtocol| {
            let name = protocol.as_ref();
            name.starts_with("/paceline/") && name.ends_with("/direct") && Some(protocol) != self.direct.as_ref()
        };
        Capabilities {
            ours: self.direct.as_ref().is_some_and(speaks),
            other_run: info.protocols.iter().any(other),
            introduces: speaks(&peer_exchange::protocol()),
            relays: speaks(&relay::HOP_PROTOCOL_NAME),
        }
    }

    fn on_peer_exchange(&mut self, now: Instant, event: peer_exchange::Event) {
        match event {
            request_response::Event::Message { peer, message: Message::Request { request, channel, .. }, .. } => {
                match request {
                    Incoming::Request(request) => self.on_request(now, peer, request, channel),
                    Incoming::Malformed(reason) => self.on_malformed(peer, reason),
                }
            }
            request_response::Event::Message { peer, message: Message::Response { request_id, response }, .. } => {
                self.on_answer(now, peer, request_id, response)
            }
            request_response::Event::OutboundFailure { peer, request_id, error, .. } => {
                take(&mut self.introduced, |(id, _)| *id == request_id);
                take(&mut self.files_asked, |(id, _)| *id == request_id);
                if take(&mut self.asked, |id| *id == request_id).is_some() {
                    self.emit(DiscoveryEvent::NotAnswered(peer, error.to_string()));
                }
                if let OutboundFailure::Io(error) = error
                    && frame::is_malformed(&error)
                {
                    self.on_malformed(peer, error.to_string());
                }
            }
            _ => {}
        }
    }

    fn on_malformed(&mut self, peer: PeerId, reason: String) {
        self.emit(DiscoveryEvent::Malformed { peer, protocol: "peer exchange", reason });
    }

    fn on_request(&mut self, now: Instant, peer: PeerId, request: Request, channel: ResponseChannel<Answer>) {
        let answer = if self.address_book.may_ask(now, peer) {
            self.answer(now, peer, request)
        } else {
            self.emit(DiscoveryEvent::Refused(peer));
            Answer::TooMany
        };
        // A peer that is gone by now needs no answer.
        let _ = self.protocols.peer_exchange.send_response(channel, answer);
    }

    fn answer(&mut self, now: Instant, peer: PeerId, request: Request) -> Answer {
        match request {
            Request::Runs => Answer::Runs(self.registry.runs(self.role == Role::Node)),
            Request::Clock => Answer::Clock { unix_ms: unix_ms_now().max(0) as u64 },
            Request::Twin(question) => {
                self.twins.answer(now, &self.key, &question).map_or(Answer::NotHere, Answer::Twin)
            }
            Request::RunFile { run } => {
                self.registry.file(run).map_or(Answer::NotHere, |file| Answer::RunFile(file.clone()))
            }
            Request::Introduce { run, record } => match Record::check(record) {
                Ok(record) if record.peer == peer => {
                    if self.own_run() == Some(run) {
                        self.address_book.learn_signed(now, peer, &record.addresses, record.seq);
                    }
                    // It may be the word of a twin, or its own from another life: it can find out.
                    let before = self.registry.record_of(run, peer);
                    let before = before.filter(|b| !has_same_addresses(b, &record)).map(|b| b.bytes.clone());
                    if !self.registry.introduce(now, run, record) {
                        self.emit(DiscoveryEvent::Refused(peer));
                        return Answer::TooMany;
                    }
                    self.ask_for_file(peer, run);
                    let mut records = self.records(run, peer);
                    records.truncate(RECORDS_PER_ANSWER_MAX - 1);
                    records.extend(before);
                    Answer::Records(records)
                }
                _ => {
                    let reason = "a record that is not the sender's or not signed".to_owned();
                    self.on_malformed(peer, reason);
                    Answer::BadRecord
                }
            },
        }
    }

    /// The others of a run, this node first if it is one of them.
    fn records(&mut self, run: RunId, asker: PeerId) -> Vec<Vec<u8>> {
        let others = self.registry.records(run, asker);
        let own = (self.role == Role::Node && self.own_run() == Some(run)).then(|| self.own_record()).flatten();
        own.into_iter().chain(others).take(RECORDS_PER_ANSWER_MAX).collect()
    }

    /// A bootstrap keeps the run file for those who come with a ticket.
    fn ask_for_file(&mut self, peer: PeerId, run: RunId) {
        let lacking = self.role == Role::Bootstrap && self.registry.lacks_file(run);
        if lacking && !self.files_asked.iter().any(|(_, asked)| *asked == run) {
            let id = self.protocols.peer_exchange.send_request(&peer, Incoming::Request(Request::RunFile { run }));
            self.files_asked.push((id, run));
        }
    }

    fn on_answer(&mut self, now: Instant, peer: PeerId, id: request_response::OutboundRequestId, answer: Answer) {
        if take(&mut self.asked, |asked| *asked == id).is_some() {
            self.emit(DiscoveryEvent::Answered(peer, answer));
        } else if let Some((_, run)) = take(&mut self.introduced, |(asked, _)| *asked == id) {
            if let Answer::Records(records) = answer {
                records.into_iter().for_each(|record| self.on_record(now, peer, run, record));
            }
        } else if let Some((_, run)) = take(&mut self.files_asked, |(asked, _)| *asked == id)
            && let Answer::RunFile(file) = answer
        {
            match Published::check(run, &file) {
                Ok(published) => self.registry.set_file(run, &published.name, file),
                Err(reason) => self.on_malformed(peer, reason),
            }
        }
    }

    fn on_record(&mut self, now: Instant, from: PeerId, run: RunId, bytes: Vec<u8>) {
        // Known ones come again and again: their signatures were checked.
        if self.own_run() != Some(run) || self.registry.knows(run, &bytes) {
            return;
        }
        match Record::check(bytes) {
            Ok(record) if record.peer == self.key.public().to_peer_id() => self.suspect(record.addresses),
            Ok(record) => self.address_book.learn_signed(now, record.peer, &record.addresses, record.seq),
            Err(error) => self.on_malformed(from, error.to_string()),
        }
    }

    /// This node's identity is said to be at these addresses.
    fn suspect(&mut self, addresses: Vec<Multiaddr>) {
        if self.role != Role::Node {
            return;
        }
        for address in addresses.iter().map(addresses::without_peer) {
            let is_own = self.listening.iter().chain(&self.observed).any(|own| addresses::without_peer(own) == address);
            let is_known = is_own || self.suspected.contains(&address);
            if !is_known && addresses::transport(&address).is_some() && self.suspected.len() < TWIN_ADDRESSES_MAX {
                self.suspected.push(address);
            }
        }
    }

    /// Asks where this node's identity is said to be, and hears what comes back.
    fn look_for_twin(&mut self, now: Instant, cx: &mut Context<'_>) {
        if let Some(asking) = &mut self.asking {
            let Poll::Ready(heard) = asking.poll_unpin(cx) else { return };
            self.asking = None;
            if let Some(heard) = heard.ok().flatten() {
                self.on_twin(now, &heard);
            }
        }
        let is_time = self.asked_twin.is_none_or(|asked| now >= asked + TWIN_EVERY);
        if !self.suspected.is_empty() && is_time {
            self.asked_twin = Some(now);
            let addresses = std::mem::take(&mut self.suspected);
            tracing::debug!(?addresses, "this node's identity is said to be there");
            self.asking = Some(tokio::spawn(self.twins.ask(self.key.public().to_peer_id(), addresses)));
            // To be woken when it ends.
            cx.waker().wake_by_ref();
        }
    }

    fn on_twin(&mut self, now: Instant, heard: &Heard) {
        let is_earlier = match self.twins.hear(now, &self.key.public(), heard) {
            Some(Met::Earlier) => true,
            Some(Met::Later) => false,
            Some(Met::Itself) | None => return,
        };
        self.emit(DiscoveryEvent::Twin { addresses: heard.addresses.clone(), is_earlier });
    }

    fn own_run(&self) -> Option<RunId> {
        self.run.as_ref().map(|own| own.run)
    }

    fn own_record(&mut self) -> Option<Vec<u8>> {
        if self.record.is_none() {
            let addresses: Vec<_> = self.addresses().iter().map(addresses::without_peer).collect();
            if addresses.is_empty() {
                return None;
            }
            let record = PeerRecord::new_interop(&self.key, addresses).ok()?;
            self.record = Some(record.into_signed_envelope().into_protobuf_encoding());
        }
        self.record.clone()
    }

    fn introduce(&mut self, peer: PeerId) {
        if let (Role::Node, Some(run), Some(record)) = (self.role, self.own_run(), self.own_record()) {
            let id =
                self.protocols.peer_exchange.send_request(&peer, Incoming::Request(Request::Introduce { run, record }));
            self.introduced.push((id, run));
        }
    }

    fn on_tick(&mut self, now: Instant) {
        let up: Vec<PeerId> = self.address_book.up().map(|(peer, _)| peer).collect();
        up.into_iter().for_each(|peer| self.registry.refresh(now, peer));
        self.registry.expire(now);
        self.address_book.tick(now, |peer| self.hearing.last(peer));
    }

    fn carry_out(&mut self, action: Action) -> Option<ToSwarm<DiscoveryEvent, THandlerInEvent<Protocols>>> {
        match action {
            Action::Dial(opts) => return Some(ToSwarm::Dial { opts }),
            Action::Close(peer_id) => {
                return Some(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::All });
            }
            Action::CloseOne(peer_id, id) => {
                tracing::debug!(peer = %peer_id, "silent: another connection takes its place");
                return Some(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::One(id) });
            }
            Action::Reserve(relay) => {
                let address = relay.with(libp2p::multiaddr::Protocol::P2pCircuit);
                return Some(ToSwarm::ListenOn { opts: ListenOpts::new(address) });
            }
            Action::Up(peer) => node_id(&peer).into_iter().for_each(|node| self.emit(DiscoveryEvent::PeerUp(node))),
            Action::Down(peer) => node_id(&peer).into_iter().for_each(|node| self.emit(DiscoveryEvent::PeerDown(node))),
            Action::Identified(peer) => self.emit(DiscoveryEvent::Identified(peer)),
            Action::Introduce(peer) => self.introduce(peer),
        }
        None
    }

    fn on_swarm(&mut self, event: &FromSwarm) {
        let now = Instant::now();
        if self.listening.on_swarm_event(event) {
            self.record = None;
            self.address_book.on_own_addresses(now);
        }
        match event {
            FromSwarm::ConnectionEstablished(e) => {
                let (remote, dialled) = (e.endpoint.get_remote_address(), e.endpoint.is_dialer());
                let heard = self.hearing.last(&e.peer_id);
                self.address_book.on_connected(now, e.peer_id, e.connection_id, remote, dialled, heard);
            }
            FromSwarm::ConnectionClosed(e) => {
                self.gate.ends(e.connection_id);
                self.address_book.on_closed(now, e.peer_id, e.connection_id);
            }
            FromSwarm::ListenFailure(e) => self.gate.ends(e.connection_id),
            FromSwarm::DialFailure(e) => {
                // The swarm takes addresses of its own out, which leaves none.
                if matches!(e.error, DialError::LocalPeerId { .. } | DialError::NoAddresses) {
                    self.address_book.on_dialled_itself(e.connection_id);
                }
                self.gate.ends(e.connection_id);
                match e.error {
                    DialError::LocalPeerId { address } => self.suspect(vec![address.clone()]),
                    DialError::WrongPeerId { obtained, address } if *obtained == self.key.public().to_peer_id() => {
                        self.suspect(vec![address.clone()]);
                    }
                    _ => {}
                }
                let causes = dial_causes(e.error);
                let cause = causes.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                if self.address_book.on_dial_failed(now, e.connection_id, &cause) {
                    tell_dial_failure(e.peer_id, &causes);
                }
                tracing::debug!(peer = ?e.peer_id, ?causes, "dial failed");
            }
            FromSwarm::NewExternalAddrCandidate(e) => self.on_observed(now, e.addr),
            _ => {}
        }
    }

    /// Behind a cloud's address translation only others see the public address. A port that this node doesn't listen on is
    /// that of an outgoing connection: nobody can dial it.
    fn on_observed(&mut self, now: Instant, address: &Multiaddr) {
        let address = addresses::without_peer(address);
        if !self.listening.iter().any(|own| addresses::have_same_port(own, &address)) {
            return;
        }
        let known = self.listening.iter().any(|a| *a == address) || self.observed.contains(&address);
        if addresses::is_public(&address) && !known && self.observed.len() < OBSERVED_MAX {
            self.observed.push(address);
            self.record = None;
            self.address_book.on_own_addresses(now);
        }
    }
}

fn protocols(options: &DiscoveryOptions, key: &Keypair, relay_client: relay::client::Behaviour) -> Protocols {
    let me = key.public().to_peer_id();
    let limits = connection_limits::ConnectionLimits::default()
        .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER_MAX))
        .with_max_established(Some(CONNECTIONS_MAX))
        .with_max_pending_incoming(Some(CONNECTIONS_PENDING_MAX))
        .with_max_pending_outgoing(Some(CONNECTIONS_PENDING_MAX));
    let identify = identify::Config::new(format!("/paceline/{PROTOCOL_VERSION}"), key.public())
        .with_agent_version(concat!("paceline/", env!("CARGO_PKG_VERSION")).to_owned())
        .with_push_listen_addr_updates(true)
        // The address book remembers addresses, and checks them.
        .with_cache_size(0);
    let mdns = options.mdns.then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), me));
    let mdns = mdns.and_then(|made| {
        made.inspect_err(|error| {
            tracing::warn!(%error, "nodes on this network can't be discovered by mDNS: give --bootstrap or a ticket");
        })
        .ok()
    });
    let relay_config = relay::Config {
        max_reservations: RELAY_RESERVATIONS_MAX,
        max_circuits: RELAY_CIRCUITS_MAX,
        max_circuit_bytes: RELAY_CIRCUIT_BYTES_MAX,
        max_circuit_duration: RELAY_CIRCUIT_DURATION_MAX,
        ..relay::Config::default()
    };
    Protocols {
        limits: connection_limits::Behaviour::new(limits),
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_INTERVAL).with_timeout(PING_TIMEOUT)),
        mdns: mdns.into(),
        peer_exchange: peer_exchange::behaviour(),
        relay_server: (options.role == Role::Bootstrap).then(|| relay::Behaviour::new(me, relay_config)).into(),
        relay_client,
    }
}

/// Why a dial failed, in a few words each, and where so.
fn dial_causes(error: &DialError) -> BTreeMap<String, Vec<String>> {
    let mut causes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    match error {
        DialError::Transport(tried) => {
            for (address, error) in tried {
                causes.entry(innermost(error)).or_default().push(addresses::without_peer(address).to_string());
            }
        }
        other => drop(causes.insert(innermost(other), Vec::new())),
    }
    causes
}

/// What the system said, below all the layers that pass it on.
fn innermost(error: &dyn std::error::Error) -> String {
    let last = std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error);
    last.to_string().lines().next().unwrap_or_default().chars().take(CAUSE_CHARS_MAX).collect()
}

/// Somebody who should be there and doesn't answer is what people look for when nobody comes.
fn tell_dial_failure(peer: Option<PeerId>, causes: &BTreeMap<String, Vec<String>>) {
    let who = peer
        .and_then(|peer| node_id(&peer))
        .map_or_else(|| "an address that was given".to_owned(), |node| node.short());
    let why: Vec<String> = causes.iter().map(|(cause, at)| format!("{cause} {}", at.join(" "))).collect();
    tracing::warn!("{who} can't be reached, and is tried on: {}", why.join(", ").trim_end());
}

fn has_same_addresses(one: &Record, other: &Record) -> bool {
    one.addresses.len() == other.addresses.len() && one.addresses.iter().all(|a| other.addresses.contains(a))
}

fn take<T>(list: &mut Vec<T>, is_it: impl Fn(&T) -> bool) -> Option<T> {
    list.iter().position(is_it).map(|at| list.swap_remove(at))
}

impl NetworkBehaviour for Discovery {
    type ConnectionHandler = <Protocols as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = DiscoveryEvent;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.gate.begins(Instant::now(), id, remote).map_err(|closed| self.not_let_in(closed))?;
        self.protocols.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let known_since = self.address_book.known_since(peer);
        let enters = self.gate.enters(Instant::now(), id, peer, known_since);
        enters.map_err(|closed| self.not_let_in(closed))?;
        self.protocols.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let mut found = self.protocols.handle_pending_outbound_connection(id, peer, addresses, role)?;
        found.extend(peer.map(|peer| self.address_book.addresses_of(peer)).unwrap_or_default());
        Ok(found)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let known_since = self.address_book.known_since(peer);
        let meets = self.gate.meets(Instant::now(), id, peer, address, known_since);
        meets.map_err(|closed| self.not_let_in(closed))?;
        self.protocols.handle_established_outbound_connection(id, peer, address, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        self.on_swarm(&event);
        self.protocols.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.protocols.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.look_for_twin(Instant::now(), cx);
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(ToSwarm::GenerateEvent(event));
            }
            if let Some(action) = self.address_book.poll_action() {
                match self.carry_out(action) {
                    Some(command) => return Poll::Ready(command),
                    None => continue,
                }
            }
            match self.protocols.poll(cx) {
                // Elsewhere the address book looks at what is heard: an answer may wait behind a large chunk.
                Poll::Ready(ToSwarm::GenerateEvent(ProtocolsEvent::Ping(ping::Event {
                    peer,
                    connection,
                    result: Err(ping::Failure::Timeout),
                }))) if self.hearing.last(&peer).is_none() => {
                    tracing::debug!(%peer, "no answer to a ping: closing the connection");
                    let connection = CloseConnection::One(connection);
                    return Poll::Ready(ToSwarm::CloseConnection { peer_id: peer, connection });
                }
                Poll::Ready(ToSwarm::GenerateEvent(event)) => {
                    self.on_protocols(event);
                    continue;
                }
                Poll::Ready(command) => return Poll::Ready(command.map_out(|_| unreachable_event())),
                Poll::Pending => {}
            }
            if self.tick.poll_tick(cx).is_pending() {
                return Poll::Pending;
            }
            self.on_tick(Instant::now());
        }
    }
}

fn unreachable_event() -> DiscoveryEvent {
    unreachable!("events were matched before; other commands carry none")
}
