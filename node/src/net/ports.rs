//! Free ports, taken again: whoever was away knows this node by its port, and after a power cut nobody is left to tell of
//! a new one.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use socket2::{Domain, Socket, Type};

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
    let bind = |port: u16, kind: Type| {
        let address = SocketAddr::new(ip, port);
        let socket = Socket::new(Domain::for_address(address), kind, None)?;
        if address.is_ipv6() {
            // As libp2p has it: all addresses of the one family leave the port of the other free.
            socket.set_only_v6(true)?;
        }
        // What a closed connection leaves behind is nobody.
        #[cfg(unix)]
        socket.set_reuse_address(kind == Type::STREAM)?;
        socket.bind(&address.into())?;
        if kind == Type::STREAM { socket.listen(1) } else { Ok(()) }
    };
    match parts.next() {
        Some(Protocol::Tcp(0) | Protocol::Udp(0)) => Ok(()),
        Some(Protocol::Tcp(port)) => bind(port, Type::STREAM),
        Some(Protocol::Udp(port)) => bind(port, Type::DGRAM),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_one_family_is_free_for_the_other() {
        let Ok(taken) = std::net::TcpListener::bind("0.0.0.0:0") else { return };
        let port = taken.local_addr().expect("it listens").port();
        let at = |host: &str| probe(&format!("{host}/tcp/{port}").parse().expect("an address"));
        assert!(at("/ip4/0.0.0.0").is_err());
        // A machine without IPv6 refuses it for another reason.
        assert!(at("/ip6/::").is_ok_and(|()| true) || !std::path::Path::new("/proc/net/if_inet6").exists());
    }
}
