//! Free ports, taken again: whoever was away knows this node by its port, and after a power cut nobody is left to tell of
//! a new one.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

/// The port that was found for each address that asked for a free one.
pub type Ports = BTreeMap<String, u16>;

/// The address with the port that it had before; `None` if it names one itself, had none, or somebody else has it now.
pub(super) fn again(asked: &Multiaddr, ports: &Ports) -> Option<Multiaddr> {
    let port = *ports.get(&asked.to_string())?;
    let address = with_port(asked, port)?;
    match probe(&address) {
        Ok(()) => Some(address),
        Err(error) => {
            tracing::warn!(
                "port {port}, at which the others know this node, is taken ({error}): it listens at another, and is found there once it has reached one of them"
            );
            None
        }
    }
}

/// Whether the address leaves the port to the system.
pub(super) fn is_free(address: &Multiaddr) -> bool {
    port(address) == Some(0)
}

/// The port of a direct address.
pub(crate) fn port(address: &Multiaddr) -> Option<u16> {
    match address.iter().nth(1) {
        Some(Protocol::Tcp(port) | Protocol::Udp(port)) => Some(port),
        _ => None,
    }
}

/// The address that leaves the port to the system, with this one.
pub(crate) fn with_port(asked: &Multiaddr, port: u16) -> Option<Multiaddr> {
    asked.replace(1, |part| match part {
        Protocol::Tcp(0) => Some(Protocol::Tcp(port)),
        Protocol::Udp(0) => Some(Protocol::Udp(port)),
        _ => None,
    })
}

/// Whether nobody has the port. libp2p shares the ports of TCP, so that two nodes would listen at one.
pub(crate) fn probe(address: &Multiaddr) -> io::Result<()> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next() {
        Some(Protocol::Ip4(ip)) => ip.into(),
        Some(Protocol::Ip6(ip)) => ip.into(),
        _ => return Ok(()),
    };
    match parts.next() {
        Some(Protocol::Tcp(port)) => TcpListener::bind(SocketAddr::new(ip, port)).map(drop),
        Some(Protocol::Udp(port)) => UdpSocket::bind(SocketAddr::new(ip, port)).map(drop),
        _ => Ok(()),
    }
}
