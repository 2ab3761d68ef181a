//! Addresses: which ones are of use, how they are reached, and in which order to show them.

use std::net::IpAddr;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use paceline_protocol::bounds::ADDRESS_BYTES_MAX;

/// How an address is reached, the preferred way first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// TCP. Preferred, because the kernel of a peer that was killed closes its connections at once, where QUIC waits for a
    /// timeout.
    Tcp,
    /// QUIC over UDP, tried where TCP fails.
    Quic,
    /// Through a relay.
    Relay,
}

/// How an address is reached; `None` if this program can't reach it or it means nothing to others (no port, an unspecified
/// or multicast host, another transport, overlong).
pub fn transport(address: &Multiaddr) -> Option<Transport> {
    if address.len() > ADDRESS_BYTES_MAX {
        return None;
    }
    let mut parts = address.iter();
    match parts.next()? {
        Protocol::Ip4(ip) if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() => return None,
        Protocol::Ip6(ip) if ip.is_unspecified() || ip.is_multicast() => return None,
        Protocol::Ip4(_) | Protocol::Ip6(_) | Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) => {}
        _ => return None,
    }
    let direct = match parts.next()? {
        Protocol::Tcp(port) if port != 0 => Transport::Tcp,
        Protocol::Udp(port) if port != 0 && parts.next() == Some(Protocol::QuicV1) => Transport::Quic,
        _ => return None,
    };
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (None, ..) | (Some(Protocol::P2p(_)), None, ..) => Some(direct),
        (Some(Protocol::P2p(_)), Some(Protocol::P2pCircuit), None | Some(Protocol::P2p(_)), None) => {
            Some(Transport::Relay)
        }
        _ => None,
    }
}

/// The peer that an address ends with.
pub fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

/// The address without the peer that it ends with.
pub fn without_peer(address: &Multiaddr) -> Multiaddr {
    let mut address = address.clone();
    if peer_of(&address).is_some() {
        address.pop();
    }
    address
}

/// The address with the peer at its end.
pub fn with_peer(address: &Multiaddr, peer: PeerId) -> Multiaddr {
    without_peer(address).with(Protocol::P2p(peer))
}

/// Whether the address is of this machine alone.
pub fn is_loopback(address: &Multiaddr) -> bool {
    ip(address).is_some_and(|ip| ip.is_loopback())
}

/// Whether the address means the same everywhere on the internet, as far as its numbers tell.
pub fn is_public(address: &Multiaddr) -> bool {
    match ip(address) {
        Some(IpAddr::V4(ip)) => {
            let [a, b, ..] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let local = ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified();
            !(local || shared || ip.is_documentation())
        }
        Some(IpAddr::V6(ip)) => (ip.segments()[0] & 0xe000) == 0x2000,
        None => false,
    }
}

/// Whether both are direct, over the same protocol, at the same port.
pub fn have_same_port(a: &Multiaddr, b: &Multiaddr) -> bool {
    let direct = |address| transport(address).is_some_and(|transport| transport != Transport::Relay);
    direct(a) && direct(b) && a.iter().nth(1) == b.iter().nth(1)
}

/// Sorts addresses for others to try: those that reach beyond this machine first, then by [`Transport`]. Useless ones and
/// doubles are dropped.
pub fn sorted(addresses: impl IntoIterator<Item = Multiaddr>) -> Vec<Multiaddr> {
    let mut ranked: Vec<_> = addresses
        .into_iter()
        .filter_map(|address| Some(((is_loopback(&address), is_link_local(&address), transport(&address)?), address)))
        .collect();
    ranked.sort();
    ranked.dedup();
    ranked.into_iter().map(|(_, address)| address).collect()
}

/// Link-local IPv6 addresses need a zone, which a multiaddr of this kind doesn't carry: worth the last try alone.
fn is_link_local(address: &Multiaddr) -> bool {
    matches!(ip(address), Some(IpAddr::V6(ip)) if ip.is_unicast_link_local())
}

fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    fn address(text: &str) -> Multiaddr {
        text.replace("PEER", PEER).parse().expect("a multiaddr")
    }

    #[test]
    fn each_address_has_its_transport_or_none() {
        let cases = [
            ("/ip4/10.0.0.1/tcp/4001", Some(Transport::Tcp)),
            ("/dns4/example.org/tcp/4001/p2p/PEER", Some(Transport::Tcp)),
            ("/ip6/::1/udp/4001/quic-v1", Some(Transport::Quic)),
            ("/ip4/10.0.0.1/tcp/4001/p2p/PEER/p2p-circuit", Some(Transport::Relay)),
            ("/ip4/10.0.0.1/tcp/4001/p2p/PEER/p2p-circuit/p2p/PEER", Some(Transport::Relay)),
            ("/ip4/0.0.0.0/tcp/4001", None),
            ("/ip4/10.0.0.1/tcp/0", None),
            ("/ip4/10.0.0.1/udp/4001", None),
            ("/ip4/10.0.0.1/tcp/4001/ws", None),
            ("/memory/7", None),
        ];
        for (text, expected) in cases {
            assert_eq!(transport(&address(text)), expected, "{text}");
        }
    }

    #[test]
    fn the_port_of_an_outgoing_connection_is_not_a_listening_one() {
        let same = |a, b| have_same_port(&address(a), &address(b));
        assert!(same("/ip4/10.0.0.1/tcp/4001", "/ip4/8.8.8.8/tcp/4001"));
        assert!(!same("/ip4/10.0.0.1/tcp/4001", "/ip4/8.8.8.8/tcp/56202"));
        assert!(!same("/ip4/10.0.0.1/tcp/4001", "/ip4/8.8.8.8/udp/4001/quic-v1"));
        assert!(!same("/ip4/10.0.0.1/tcp/4001/p2p/PEER/p2p-circuit", "/ip4/8.8.8.8/tcp/4001"));
    }

    #[test]
    fn addresses_of_this_machine_come_last() {
        let texts = ["/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/udp/2/quic-v1", "/ip4/10.0.0.1/tcp/3", "/memory/7"];
        let sorted = sorted(texts.map(address));
        assert_eq!(sorted, [texts[2], texts[1], texts[0]].map(address));
    }

    #[test]
    fn the_peer_at_the_end_goes_on_and_off() {
        let peer: PeerId = PEER.parse().expect("a peer id");
        let bare = address("/ip4/10.0.0.1/tcp/1");
        assert_eq!(with_peer(&with_peer(&bare, peer), peer), address("/ip4/10.0.0.1/tcp/1/p2p/PEER"));
        assert_eq!(without_peer(&with_peer(&bare, peer)), bare);
        assert_eq!(peer_of(&bare), None);
    }
}
