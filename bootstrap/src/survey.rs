//! What of a network keeps nodes from meeting: whom one hears by multicast, which addresses answer by TCP and by QUIC, which
//! version and clock the others have. For `paceline doctor`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, TransportError};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::timeout_at;

use crate::addresses;
use crate::bounds::RUNS_MAX;
use crate::discovery::DiscoveryEvent;
use crate::peer_exchange::{Answer, Request, SeenRun};
use crate::seek::seeker;
use crate::swarm::BuildError;

/// Peers that a survey tells of at most.
const PEERS_MAX: usize = 256;

/// Where mDNS is spoken (RFC 6762, section 3).
const MDNS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 251), 5353);

/// How long one's own multicast may take to come back: the kernel does it at once.
const ECHO_WAIT: Duration = Duration::from_millis(500);

/// A peer that was met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Met {
    /// Who.
    pub peer: PeerId,
    /// What it says of its version: `/paceline/N`, or what another program says.
    pub version: String,
    /// Where it says that it listens, and where it was met.
    pub addresses: Vec<Multiaddr>,
    /// The runs that it knows.
    pub runs: Vec<SeenRun>,
    /// Milliseconds that its clock is ahead of this machine's, give or take half of what the question took; `None` where it
    /// did not tell.
    pub clock_ahead_ms: Option<i64>,
}

/// How a dial of one address went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialled {
    /// The address.
    pub address: Multiaddr,
    /// Who answered, or why nobody did.
    pub outcome: Result<PeerId, String>,
}

/// Who is met within `wait` at these addresses and, where `mdns` says so, on the local network.
///
/// # Errors
/// The network can't be set up.
pub async fn survey(at: &[Multiaddr], mdns: bool, wait: Duration) -> Result<Vec<Met>, BuildError> {
    let (mut swarm, ends) = (seeker(at, mdns)?, tokio::time::Instant::now() + wait);
    let mut met: BTreeMap<PeerId, Met> = BTreeMap::new();
    let mut asked: BTreeMap<PeerId, Instant> = BTreeMap::new();
    while let Ok(event) = timeout_at(ends, swarm.select_next_some()).await {
        let SwarmEvent::Behaviour(event) = event else { continue };
        match event {
            DiscoveryEvent::Met { peer, version, listens } => {
                let mut addresses = swarm.behaviour().addresses_of(peer);
                addresses.extend(listens);
                let addresses = addresses::sorted(addresses);
                if met.len() < PEERS_MAX || met.contains_key(&peer) {
                    let before = met.remove(&peer).map(|m| (m.runs, m.clock_ahead_ms));
                    let (runs, clock_ahead_ms) = before.unwrap_or_default();
                    met.insert(peer, Met { peer, version, addresses, runs, clock_ahead_ms });
                }
            }
            DiscoveryEvent::Identified(peer) if asked.len() < PEERS_MAX && !asked.contains_key(&peer) => {
                swarm.behaviour_mut().ask(peer, Request::Runs);
                asked.insert(peer, Instant::now());
                swarm.behaviour_mut().ask(peer, Request::Clock);
            }
            DiscoveryEvent::Answered(peer, answer) => {
                let Some(met) = met.get_mut(&peer) else { continue };
                match answer {
                    Answer::Runs(runs) => met.runs = runs.into_iter().take(RUNS_MAX).collect(),
                    Answer::Clock { unix_ms } => {
                        let took_ms = asked.get(&peer).map_or(0, |at| at.elapsed().as_millis() as i64);
                        // It read its clock about half way.
                        met.clock_ahead_ms =
                            i64::try_from(unix_ms).ok().map(|theirs| theirs - unix_ms_now() + took_ms / 2);
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    Ok(met.into_values().collect())
}

/// Dials each address by itself, all at once, and tells who answers there within `wait`.
///
/// # Errors
/// The network can't be set up.
pub async fn dial(at: &[Multiaddr], wait: Duration) -> Result<Vec<Dialled>, BuildError> {
    let (mut swarm, ends) = (seeker(&[], false)?, tokio::time::Instant::now() + wait);
    let mut open: BTreeMap<ConnectionId, Multiaddr> = BTreeMap::new();
    let mut dialled = Vec::new();
    for address in at {
        let options = DialOpts::unknown_peer_id().address(address.clone()).build();
        let id = options.connection_id();
        match swarm.dial(options) {
            Ok(()) => drop(open.insert(id, address.clone())),
            Err(error) => dialled.push(Dialled { address: address.clone(), outcome: Err(cause(&error)) }),
        }
    }
    while !open.is_empty() {
        let Ok(event) = timeout_at(ends, swarm.select_next_some()).await else { break };
        let (id, outcome) = match event {
            SwarmEvent::ConnectionEstablished { connection_id, peer_id, .. } => (connection_id, Ok(peer_id)),
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => (connection_id, Err(cause(&error))),
            _ => continue,
        };
        open.remove(&id).into_iter().for_each(|address| dialled.push(Dialled { address, outcome: outcome.clone() }));
    }
    let silent = open.into_values();
    dialled.extend(silent.map(|address| Dialled { address, outcome: Err("no answer in time".to_owned()) }));
    Ok(dialled)
}

/// A failed dial in a few words, without the names of libp2p's types.
fn cause(error: &DialError) -> String {
    match error {
        DialError::WrongPeerId { .. } => "another node is there".to_owned(),
        DialError::LocalPeerId { .. } => "this node itself is there".to_owned(),
        DialError::Transport(failures) => {
            let innermost = |error: &TransportError<std::io::Error>| match error {
                TransportError::MultiaddrNotSupported(_) => "this kind of address is not supported".to_owned(),
                TransportError::Other(error) => deepest(error),
            };
            failures.first().map_or_else(|| "no address".to_owned(), |(_, error)| innermost(error))
        }
        other => other.to_string(),
    }
}

/// The last words of an error's chain: what the system said.
fn deepest(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => deepest(source),
        None => {
            let text = error.to_string();
            // libp2p joins what several transports said.
            let last = text.rsplit(": ").find(|part| !part.trim().is_empty()).unwrap_or(&text);
            let words = last.split(" (os error").next().unwrap_or(last);
            words.trim_end_matches([')', ']', ' ']).to_owned()
        }
    }
}

/// Whether multicast leaves this machine by an interface, as far as the machine itself can tell: what is sent to a group comes
/// back to whoever is in it, unless it was dropped on its way out or in.
///
/// # Errors
/// What the system says against it.
pub fn hears_own_multicast(interface: Ipv4Addr) -> std::io::Result<bool> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, MDNS.port())).into())?;
    socket.join_multicast_v4(MDNS.ip(), &interface)?;
    socket.set_multicast_if_v4(&interface)?;
    socket.set_multicast_loop_v4(true)?;
    let socket = UdpSocket::from(socket);
    // A question that nobody answers: a header with one question for a name of this moment.
    let mark = format!("{:016x}", unix_ms_now() as u64 ^ u64::from(std::process::id()).rotate_left(40));
    let mut question = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, mark.len() as u8];
    question.extend(mark.as_bytes());
    question.extend([5]);
    question.extend(b"local");
    question.extend([0, 0, 1, 0, 1]);
    socket.send_to(&question, MDNS)?;
    let ends = Instant::now() + ECHO_WAIT;
    let mut heard = [0; 2_048];
    loop {
        let left = ends.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut heard) {
            Ok(len) if heard[..len] == question[..] => return Ok(true),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
}

/// This machine's clock.
pub(crate) fn unix_ms_now() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
