//! Whom this node knows, whom it is connected to, and whom it dials next. Pure: it is told the time and what happened,
//! and says what to do.
//!
//! A contact's way: learned (given, discovered, introduced) -> dialled, with growing waits -> connected -> identified. A
//! node of the run is *up* then, until its last connection is gone and an immediate redial failed: a broken connection
//! alone is no news to the layers above.
//!
//! A connection may be there and carry nothing: a cable that was out, an address that changed. A peer that is silent is
//! dialled anew beside it. If it answers, the new connection replaces the silent ones; if it doesn't, they are closed in
//! the end, and it is down.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};
use paceline_protocol::bounds::ADDRESSES_MAX;

use crate::addresses::{self, Transport};
use crate::bounds::{
    BACK_OFF_MAX, BACK_OFF_MIN, CONTACTS_MAX, DIAL_PATIENCE, DIALS_MAX, FAILURES_UNTIL_FORGOTTEN, IDENTIFY_TIMEOUT,
    INTRODUCE_INTERVAL, LASTING_CONNECTION, LOST_BACK_OFF_MAX, LOST_LATELY, QUIET, REDIAL_TIMEOUT,
    REQUEST_EARNED_EVERY, REQUESTS_BURST, SILENCE, SILENCE_MAX, STALL, STRANGER_DIALS_MAX, STRANGER_REST,
    STRANGER_STAY, TURNED_AWAY_REST,
};
use crate::complaint::Complaint;
use crate::discovery::Role;
use crate::token_bucket::TokenBucket;

/// What the owner is to do.
#[derive(Debug)]
pub(crate) enum Action {
    /// Dial a peer, or an address of which it is not known whose it is.
    Dial(DialOpts),
    /// Close all connections to a peer.
    Close(PeerId),
    /// Close one connection to a peer.
    CloseOne(PeerId, ConnectionId),
    /// A node of this run is connected and identified.
    Up(PeerId),
    /// A node of this run is gone.
    Down(PeerId),
    /// Introduce this node to a peer.
    Introduce(PeerId),
    /// Reserve a place at a relay, whose address this is.
    Reserve(Multiaddr),
    /// A peer that speaks peer exchange was identified.
    Identified(PeerId),
}

/// What identify tells of a peer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Capabilities {
    /// It is a node of this run.
    pub(crate) ours: bool,
    /// It is a node of another run.
    pub(crate) other_run: bool,
    /// It speaks peer exchange: it tells who else is there.
    pub(crate) introduces: bool,
    /// It relays for those who can't be dialled.
    pub(crate) relays: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unknown,
    Ours,
    Introducer,
    /// Of another run, or no paceline at all; not dialled until then.
    Stranger {
        until: Instant,
    },
}

#[derive(Debug)]
struct Contact {
    kind: Kind,
    /// Given by the user or known from before: dialled forever, and never forgotten.
    kept: bool,
    /// Without the peer at the end, at most `ADDRESSES_MAX`.
    addresses: Vec<Multiaddr>,
    /// Of the record that the addresses are from.
    seq: u64,
    /// Open connections, and when each was opened.
    connections: BTreeMap<ConnectionId, Instant>,
    /// The other end of the last connection.
    last_remote: Option<Multiaddr>,
    /// The address that was last dialled with success.
    worked: Option<Multiaddr>,
    /// It was last met on this machine, or is looked for there: its addresses of loopback are of use.
    near: bool,
    up: bool,
    /// Since when it is known as a node of this run.
    known_since: Option<Instant>,
    was_connected: bool,
    /// The last connection is gone; until then a redial may save the peer.
    redial_until: Option<Instant>,
    dialing: Option<ConnectionId>,
    /// When the last dial began.
    dialled: Instant,
    /// When it was last connected.
    seen: Option<Instant>,
    failures: u32,
    complaint: Complaint,
    next_dial: Instant,
    refused_until: Option<Instant>,
    next_introduction: Option<Instant>,
    relays: bool,
    reserved: bool,
    requests: TokenBucket,
}

/// An address that was given without saying whose it is.
#[derive(Debug)]
struct UnknownPeerAddress {
    address: Multiaddr,
    dialing: Option<ConnectionId>,
    failures: u32,
    complaint: Complaint,
    next_dial: Instant,
    /// Who answered there last.
    peer: Option<PeerId>,
}

/// All contacts of a node.
#[derive(Debug)]
pub(crate) struct AddressBook {
    me: PeerId,
    role: Role,
    contacts: BTreeMap<PeerId, Contact>,
    unknown: Vec<UnknownPeerAddress>,
    actions: VecDeque<Action>,
    random: Random,
    /// The last look at the time.
    ticked: Option<Instant>,
    /// Since when this process has run without a stall.
    awake_since: Option<Instant>,
}

impl AddressBook {
    pub(crate) fn new(me: PeerId, role: Role) -> Self {
        let (contacts, unknown, actions) = (BTreeMap::new(), Vec::new(), VecDeque::new());
        Self { me, role, contacts, unknown, actions, random: Random::new(), ticked: None, awake_since: None }
    }

    /// An address that is dialled forever.
    pub(crate) fn keep(&mut self, now: Instant, address: &Multiaddr) {
        match addresses::peer_of(address) {
            Some(peer) => {
                self.learn(now, peer, std::slice::from_ref(address));
                if let Some(contact) = self.contacts.get_mut(&peer) {
                    (contact.kept, contact.near) = (true, contact.near || addresses::is_loopback(address));
                    contact.known_since.get_or_insert(now);
                }
            }
            None => {
                let address = address.clone();
                self.unknown.push(UnknownPeerAddress {
                    address,
                    dialing: None,
                    failures: 0,
                    complaint: Complaint::default(),
                    next_dial: now,
                    peer: None,
                });
            }
        }
    }

    /// Addresses at which a peer was said to be.
    pub(crate) fn learn(&mut self, now: Instant, peer: PeerId, addresses: &[Multiaddr]) {
        self.add(now, peer, addresses, None);
    }

    /// Addresses that a peer has signed; they replace older ones.
    pub(crate) fn learn_signed(&mut self, now: Instant, peer: PeerId, addresses: &[Multiaddr], seq: u64) {
        self.add(now, peer, addresses, Some(seq));
    }

    fn add(&mut self, now: Instant, peer: PeerId, found: &[Multiaddr], seq: Option<u64>) {
        if peer == self.me || !self.make_room(peer) {
            return;
        }
        let contact = self.contacts.entry(peer).or_insert_with(|| Contact::new(now));
        let mut found: Vec<Multiaddr> = found
            .iter()
            .map(addresses::without_peer)
            .filter(|address| addresses::transport(address).is_some())
            .take(ADDRESSES_MAX)
            .collect();
        match seq {
            Some(seq) if seq < contact.seq => return,
            // An address that worked stays, whatever the record says.
            Some(seq) => {
                contact.seq = seq;
                found.extend(contact.worked.clone());
            }
            None => found.extend(contact.addresses.iter().cloned()),
        }
        // Those of another machine lead back to this one. Who listens on nothing else can only be here.
        if !contact.near && !found.iter().all(addresses::is_loopback) {
            found.retain(|address| !addresses::is_loopback(address));
        }
        if found.iter().any(|address| !contact.addresses.contains(address)) && contact.failures > 0 {
            // Something new: worth a try at once.
            (contact.failures, contact.next_dial) = (0, now);
        }
        contact.addresses.clear();
        for address in found {
            if !contact.addresses.contains(&address) && contact.addresses.len() < ADDRESSES_MAX {
                contact.addresses.push(address);
            }
        }
    }

    /// Makes room for one more contact; `false` if all that there are matter more.
    fn make_room(&mut self, peer: PeerId) -> bool {
        if self.contacts.contains_key(&peer) || self.contacts.len() < CONTACTS_MAX {
            return true;
        }
        let idle = self.contacts.iter().filter(|(_, c)| !c.kept && c.connections.is_empty() && !c.up);
        let worst = idle.max_by_key(|(_, c)| (!c.was_connected, c.failures)).map(|(peer, _)| *peer);
        worst.is_some_and(|peer| self.contacts.remove(&peer).is_some())
    }

    /// Since when a peer is known as a node of this run; `None` if it is not.
    pub(crate) fn known_since(&self, peer: PeerId) -> Option<Instant> {
        self.contacts.get(&peer)?.known_since
    }

    /// The open connections to a peer.
    pub(crate) fn connections_of(&self, peer: PeerId) -> impl Iterator<Item = ConnectionId> {
        self.contacts.get(&peer).into_iter().flat_map(|c| c.connections.keys().copied())
    }

    /// Whether the peer is a node of this run that is up.
    pub(crate) fn is_up(&self, peer: PeerId) -> bool {
        self.contacts.get(&peer).is_some_and(|c| c.up)
    }

    /// Peers of this run that are up, with their addresses.
    pub(crate) fn up(&self) -> impl Iterator<Item = (PeerId, &[Multiaddr])> {
        self.contacts.iter().filter(|(_, c)| c.up).map(|(peer, c)| (*peer, c.addresses.as_slice()))
    }

    /// Where a peer can be reached.
    pub(crate) fn addresses_of(&self, peer: PeerId) -> Vec<Multiaddr> {
        self.contacts.get(&peer).map(|c| c.addresses.clone()).unwrap_or_default()
    }

    /// Whether somebody answers at an address that was given: `None` before it is known.
    pub(crate) fn is_answered(&self, given: &Multiaddr) -> Option<bool> {
        let unknown = self.unknown.iter().find(|u| addresses::peer_of(given).is_none() && u.address == *given);
        let peer = addresses::peer_of(given).or(unknown.and_then(|u| u.peer));
        match peer.and_then(|peer| self.contacts.get(&peer)) {
            Some(contact) if !contact.connections.is_empty() => Some(true),
            Some(contact) => contact.complaint.is_open().then_some(false),
            None => unknown.is_some_and(|u| u.complaint.is_open()).then_some(false),
        }
    }

    /// Whether the peer may ask one thing more; counts it.
    pub(crate) fn may_ask(&mut self, now: Instant, peer: PeerId) -> bool {
        self.contacts.get_mut(&peer).is_some_and(|c| c.requests.take(now))
    }

    /// What to do next.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// A connection was opened. `remote` is the other end's address, `dialled` whether this end opened it, `heard`
    /// when the peer was last heard over those that were there before.
    pub(crate) fn on_connected(
        &mut self,
        now: Instant,
        peer: PeerId,
        id: ConnectionId,
        remote: &Multiaddr,
        dialled: bool,
        heard: Option<Instant>,
    ) {
        if let Some(unknown) = self.unknown.iter_mut().find(|unknown| unknown.dialing == Some(id)) {
            (unknown.dialing, unknown.peer, unknown.failures) = (None, Some(peer), 0);
            unknown.complaint.settle();
            let address = unknown.address.clone();
            self.keep(now, &addresses::with_peer(&address, peer));
        }
        self.contacts.entry(peer).or_insert_with(|| Contact::new(now)).near = addresses::is_loopback(remote);
        if dialled {
            self.learn(now, peer, std::slice::from_ref(remote));
        }
        let contact = self.contacts.entry(peer).or_insert_with(|| Contact::new(now));
        if is_silent(now, self.awake_since, heard, QUIET) {
            self.actions.extend(contact.connections.keys().map(|old| Action::CloseOne(peer, *old)));
        }
        contact.connections.insert(id, now);
        contact.last_remote = Some(addresses::without_peer(remote));
        if dialled {
            contact.worked = contact.last_remote.clone();
        }
        (contact.redial_until, contact.was_connected) = (None, true);
        contact.complaint.settle();
        if contact.dialing == Some(id) {
            contact.dialing = None;
        }
    }

    /// A connection is gone.
    pub(crate) fn on_closed(&mut self, now: Instant, peer: PeerId, id: ConnectionId) {
        let Some(contact) = self.contacts.get_mut(&peer) else { return };
        let since = contact.connections.remove(&id);
        if !contact.connections.is_empty() {
            return;
        }
        (contact.next_introduction, contact.reserved, contact.seen) = (None, false, Some(now));
        // Who closes at once doesn't want this node, or has no room: dialling again at once would go on forever.
        let lasted = since.is_some_and(|since| now >= since + LASTING_CONNECTION);
        if !lasted {
            contact.failures = contact.failures.saturating_add(1);
        }
        contact.next_dial = match contact.kind {
            Kind::Stranger { .. } => now + self.random.jitter(INTRODUCE_INTERVAL),
            _ => now + self.random.back_off(contact.failures, BACK_OFF_MAX),
        };
        if contact.up && lasted && contact.refused_until.is_none() && !contact.addresses.is_empty() {
            contact.redial_until = Some(now + REDIAL_TIMEOUT);
            self.actions.push_back(contact.dial(now, peer, contact.redial_addresses()));
        } else {
            self.take_down(peer);
        }
        self.forget_idle(peer);
    }

    /// A dial came to nothing. Answers whether people should hear of it: it was to somebody that is to be there, and this
    /// cause is news.
    pub(crate) fn on_dial_failed(&mut self, now: Instant, id: ConnectionId, cause: &str) -> bool {
        if let Some(unknown) = self.unknown.iter_mut().find(|unknown| unknown.dialing == Some(id)) {
            unknown.dialing = None;
            unknown.next_dial = now + self.random.back_off(unknown.failures, BACK_OFF_MAX);
            unknown.failures = unknown.failures.saturating_add(1);
            return unknown.complaint.is_due(now, cause);
        }
        let Some((peer, contact)) = self.contacts.iter_mut().find(|(_, c)| c.dialing == Some(id)) else { return false };
        let peer = *peer;
        contact.dialing = None;
        contact.next_dial = now + self.random.back_off(contact.failures, contact.back_off_max(now));
        contact.failures = contact.failures.saturating_add(1);
        let is_news = contact.kept && contact.complaint.is_due(now, cause);
        if contact.redial_until.take().is_some() && contact.connections.is_empty() {
            self.take_down(peer);
        }
        self.forget_idle(peer);
        is_news
    }

    /// A given address turned out to be this node's own.
    pub(crate) fn on_dialled_itself(&mut self, id: ConnectionId) {
        self.unknown.retain(|unknown| unknown.dialing != Some(id));
    }

    /// Identify told what a peer is, and where it listens.
    pub(crate) fn on_identified(
        &mut self,
        now: Instant,
        peer: PeerId,
        capabilities: Capabilities,
        listens_on: &[Multiaddr],
    ) {
        if capabilities.ours || capabilities.introduces {
            self.learn(now, peer, listens_on);
        }
        let Some(contact) = self.contacts.get_mut(&peer) else { return };
        if contact.connections.is_empty() {
            return;
        }
        (contact.relays, contact.failures) = (capabilities.relays, 0);
        let stranger = Kind::Stranger { until: now + STRANGER_REST };
        contact.kind = match capabilities {
            Capabilities { ours: true, .. } => Kind::Ours,
            Capabilities { other_run: false, introduces: true, .. } => Kind::Introducer,
            _ => stranger,
        };
        let alive_here = capabilities.introduces && (contact.kept || self.role != Role::Node);
        if contact.kind == Kind::Ours && !contact.up {
            contact.up = true;
            contact.known_since.get_or_insert(now);
            self.actions.push_back(Action::Up(peer));
        }
        if capabilities.introduces {
            self.actions.push_back(Action::Identified(peer));
        }
        match contact.kind {
            Kind::Ours | Kind::Introducer => contact.next_introduction = contact.next_introduction.or(Some(now)),
            // One that was given on purpose may introduce, whatever run it is of.
            _ if alive_here => contact.next_introduction = contact.next_introduction.or(Some(now)),
            _ if capabilities.introduces => {}
            _ => self.actions.push_back(Action::Close(peer)),
        }
        if contact.relays && contact.kept && !contact.reserved && self.role == Role::Node {
            let direct = contact.addresses.iter().find(|a| !addresses::is_loopback(a) && is_direct(a)).cloned();
            if let Some(address) = direct {
                contact.reserved = true;
                self.actions.push_back(Action::Reserve(addresses::with_peer(&address, peer)));
            }
        }
    }

    /// This node's own addresses changed: everybody who introduces is told.
    pub(crate) fn on_own_addresses(&mut self, now: Instant) {
        for contact in self.contacts.values_mut() {
            contact.next_introduction = contact.next_introduction.map(|_| now);
        }
    }

    /// Dials a peer of this run soon, if its addresses are known and nothing is under way.
    pub(crate) fn want(&mut self, now: Instant, peer: PeerId) {
        if let Some(contact) = self.contacts.get_mut(&peer)
            && contact.connections.is_empty()
            && contact.failures < 2
        {
            contact.next_dial = now;
        }
    }

    /// Closes the connections to a peer, and leaves it alone for a while.
    pub(crate) fn turn_away(&mut self, now: Instant, peer: PeerId) {
        if let Some(contact) = self.contacts.get_mut(&peer) {
            contact.refused_until = Some(now + TURNED_AWAY_REST);
            contact.next_dial = now + TURNED_AWAY_REST;
            contact.redial_until = None;
            self.actions.push_back(Action::Close(peer));
            self.take_down(peer);
        }
    }

    /// Time has passed: dials, introduces, and ends what took too long. `heard` says when a peer was last heard.
    pub(crate) fn tick(&mut self, now: Instant, heard: impl Fn(&PeerId) -> Option<Instant>) {
        let ticked = self.ticked.replace(now);
        if ticked.is_none_or(|ticked| now >= ticked + STALL) {
            self.awake_since = Some(now);
        }
        let awake_since = self.awake_since;
        let ups = self.contacts.values().filter(|c| c.up).count() as u32;
        let mut dials = self.contacts.values().filter(|c| c.dialing.is_some()).count();
        let mut strangers = self.contacts.values().filter(|c| c.dialing.is_some() && c.is_stranger()).count();
        let (mut gone, mut dead) = (Vec::new(), Vec::new());
        for (peer, contact) in &mut self.contacts {
            if contact.redial_until.is_some_and(|until| now >= until) {
                contact.redial_until = None;
                gone.push(*peer);
            }
            contact.refused_until = contact.refused_until.filter(|until| now < *until);
            if contact.is_unidentified(now) || contact.overstayed(now, self.role) {
                self.actions.push_back(Action::Close(*peer));
            }
            if contact.next_introduction.is_some_and(|at| now >= at) {
                // Bootstraps hear often; the nodes of a large run share the work of telling each other.
                let share = if contact.kind == Kind::Ours { (ups / 4).max(1) } else { 1 };
                contact.next_introduction = Some(now + self.random.jitter(INTRODUCE_INTERVAL * share));
                self.actions.push_back(Action::Introduce(*peer));
            }
            contact.lose_patience(now);
            let heard = heard(peer);
            if !contact.connections.is_empty() && is_silent(now, awake_since, heard, SILENCE_MAX) {
                self.actions.push_back(Action::Close(*peer));
            }
            let beside = is_silent(now, awake_since, heard, SILENCE) && contact.is_due_beside(now);
            if contact.is_hopeless() {
                dead.push(*peer);
            } else if dials < DIALS_MAX
                && (!contact.is_stranger() || strangers < STRANGER_DIALS_MAX)
                && (beside || contact.is_due(now, self.role))
            {
                dials += 1;
                strangers += usize::from(contact.is_stranger());
                // Where it was last, or wherever else it may be by now.
                let near = beside && contact.failures % 2 == 0;
                let addresses = if near { contact.redial_addresses() } else { contact.dial_addresses() };
                self.actions.push_back(contact.dial(now, *peer, addresses));
            }
        }
        gone.into_iter().for_each(|peer| self.take_down(peer));
        dead.iter().for_each(|peer| drop(self.contacts.remove(peer)));
        self.dial_unknown(now);
    }

    fn dial_unknown(&mut self, now: Instant) {
        for unknown in &mut self.unknown {
            // The one who answered has a contact of its own, which is dialled; should another answer here one day, the
            // address still leads to it.
            let connected = unknown.peer.and_then(|peer| self.contacts.get(&peer));
            let connected = connected.is_some_and(|c| !c.connections.is_empty() || c.dialing.is_some());
            if !connected && unknown.dialing.is_none() && now >= unknown.next_dial {
                let opts = DialOpts::unknown_peer_id().address(unknown.address.clone()).allocate_new_port().build();
                unknown.dialing = Some(opts.connection_id());
                self.actions.push_back(Action::Dial(opts));
            }
        }
    }

    fn take_down(&mut self, peer: PeerId) {
        if let Some(contact) = self.contacts.get_mut(&peer)
            && std::mem::take(&mut contact.up)
        {
            self.actions.push_back(Action::Down(peer));
        }
    }

    /// Forgets a peer that is not connected and has no address: one who asked the way and left.
    fn forget_idle(&mut self, peer: PeerId) {
        let idle = |c: &Contact| {
            let transient = matches!(c.kind, Kind::Unknown | Kind::Stranger { .. }) && !c.kept;
            let nowhere = c.addresses.is_empty() && c.refused_until.is_none();
            c.connections.is_empty() && !c.up && c.dialing.is_none() && transient && nowhere
        };
        if self.contacts.get(&peer).is_some_and(idle) {
            self.contacts.remove(&peer);
        }
    }
}

impl Contact {
    fn new(now: Instant) -> Self {
        Self {
            kind: Kind::Unknown,
            kept: false,
            addresses: Vec::new(),
            seq: 0,
            connections: BTreeMap::new(),
            last_remote: None,
            worked: None,
            near: false,
            up: false,
            known_since: None,
            was_connected: false,
            redial_until: None,
            dialing: None,
            dialled: now,
            seen: None,
            failures: 0,
            complaint: Complaint::default(),
            next_dial: now,
            refused_until: None,
            next_introduction: None,
            relays: false,
            reserved: false,
            requests: TokenBucket::new(now, REQUESTS_BURST, REQUEST_EARNED_EVERY),
        }
    }

    fn dial(&mut self, now: Instant, peer: PeerId, addresses: Vec<Multiaddr>) -> Action {
        let opts = dial(peer, addresses);
        (self.dialing, self.dialled) = (Some(opts.connection_id()), now);
        Action::Dial(opts)
    }

    /// A dial that takes long is not waited for; should it come to something, so much the better.
    fn lose_patience(&mut self, now: Instant) {
        if self.kind == Kind::Ours && self.dialing.is_some() && now >= self.dialled + DIAL_PATIENCE {
            (self.dialing, self.next_dial) = (None, now);
            self.failures = self.failures.saturating_add(1);
        }
    }

    /// Whether a connected node may be dialled now as well.
    fn is_due_beside(&self, now: Instant) -> bool {
        let is_connected = self.kind == Kind::Ours && !self.connections.is_empty() && self.refused_until.is_none();
        is_connected && self.dialing.is_none() && now >= self.next_dial && !self.addresses.is_empty()
    }

    fn back_off_max(&self, now: Instant) -> Duration {
        let lately = !self.connections.is_empty() || self.seen.is_some_and(|seen| now < seen + LOST_LATELY);
        if self.kind == Kind::Ours && lately { LOST_BACK_OFF_MAX } else { BACK_OFF_MAX }
    }

    fn is_due(&self, now: Instant, role: Role) -> bool {
        let wanted = match (self.kind, role) {
            (Kind::Stranger { until }, Role::Node) => self.kept || now >= until,
            (Kind::Stranger { .. }, _) => self.kept,
            (_, Role::Bootstrap) => self.kept,
            // A bootstrap that mDNS showed once and is gone is met again by mDNS, or not needed.
            _ => true,
        };
        let idle = self.connections.is_empty() && self.dialing.is_none() && self.refused_until.is_none();
        wanted && idle && now >= self.next_dial && !self.addresses.is_empty()
    }

    /// Whether it is known by hearsay alone.
    fn is_stranger(&self) -> bool {
        !self.kept && !self.was_connected
    }

    fn is_hopeless(&self) -> bool {
        let idle = self.connections.is_empty() && self.dialing.is_none() && !self.up && self.refused_until.is_none();
        idle && !self.kept && self.kind != Kind::Ours && self.failures >= FAILURES_UNTIL_FORGOTTEN
    }

    fn is_unidentified(&self, now: Instant) -> bool {
        self.kind == Kind::Unknown && self.connections.values().any(|since| now >= *since + IDENTIFY_TIMEOUT)
    }

    /// A peer of another run may ask the way, and no more.
    fn overstayed(&self, now: Instant, role: Role) -> bool {
        let stranger = matches!(self.kind, Kind::Stranger { .. });
        let stayed = self.connections.values().any(|since| now >= *since + STRANGER_STAY);
        role == Role::Node && stranger && !self.kept && stayed
    }

    /// The addresses of one way; with each failure the next way.
    fn dial_addresses(&self) -> Vec<Multiaddr> {
        let transports = [Transport::Tcp, Transport::Quic, Transport::Relay].map(|transport| self.by(transport));
        let transports: Vec<_> = transports.into_iter().filter(|addresses| !addresses.is_empty()).collect();
        match transports.len() {
            0 => Vec::new(),
            count => transports[self.failures as usize % count].clone(),
        }
    }

    /// Where the last connection led, if that can be told: a dead process refuses there at once.
    fn redial_addresses(&self) -> Vec<Multiaddr> {
        let direct = self.by(Transport::Tcp);
        let host = |address: &Multiaddr| address.iter().next().map(Protocol::acquire);
        let same_host = self.last_remote.as_ref().and_then(host);
        let near: Vec<Multiaddr> = direct.iter().filter(|a| host(a) == same_host).cloned().collect();
        match (near.is_empty(), direct.is_empty()) {
            (false, _) => near,
            (true, false) => direct,
            (true, true) => self.addresses.clone(),
        }
    }

    fn by(&self, transport: Transport) -> Vec<Multiaddr> {
        self.addresses.iter().filter(|address| addresses::transport(address) == Some(transport)).cloned().collect()
    }
}

/// Whether a peer was not heard for so long. Where nobody listens, nobody is silent.
fn is_silent(now: Instant, awake_since: Option<Instant>, heard: Option<Instant>, long: Duration) -> bool {
    heard.is_some_and(|heard| now >= awake_since.map_or(heard, |awake| awake.max(heard)) + long)
}

fn is_direct(address: &Multiaddr) -> bool {
    matches!(addresses::transport(address), Some(Transport::Tcp | Transport::Quic))
}

/// A port of its own for every dial: two nodes that dial each other from their listening ports meet in one half-open TCP
/// connection, in which both believe to be the dialler.
fn dial(peer: PeerId, addresses: Vec<Multiaddr>) -> DialOpts {
    DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(addresses).allocate_new_port().build()
}

/// Random waits, so that nodes that fail together don't try again together.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(RandomState::new().build_hasher().finish() | 1)
    }

    /// Between three and five quarters of `base`.
    fn jitter(&mut self, base: Duration) -> Duration {
        // xorshift64 (Marsaglia 2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        base.mul_f64(0.75 + 0.5 * (self.0 >> 11) as f64 / (1u64 << 53) as f64)
    }

    fn back_off(&mut self, failures: u32, max: Duration) -> Duration {
        let doubled = BACK_OFF_MIN.saturating_mul(1 << failures.min(16));
        self.jitter(doubled.min(max))
    }
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
