//! Where nodes can be reached, for the next start, in two files of the home: `peers.json`, the others, and `ports.json`,
//! this one. Losing them costs nothing but the time until somebody is found.

use std::collections::BTreeMap;

use libp2p::Multiaddr;
use paceline_bootstrap::addresses::peer_of;
use paceline_bootstrap::node_id;
use paceline_protocol::NodeId;
use serde::Serialize;

use super::Home;

/// The ports of a home, each with the address that asked for a free one.
type Ports = BTreeMap<String, u16>;

/// Addresses of nodes that a home's node has met, each with its `/p2p/`.
pub(crate) fn known_addresses(home: &Home) -> Vec<Multiaddr> {
    let json = std::fs::read(home.peers()).unwrap_or_default();
    let texts: Vec<String> = serde_json::from_slice(&json).unwrap_or_default();
    texts.iter().filter_map(|t| t.parse().ok()).collect()
}

/// The ports that a home's node found free when it was started before.
pub(crate) fn known_ports(home: &Home) -> Ports {
    let json = std::fs::read(home.ports()).unwrap_or_default();
    serde_json::from_slice(&json).unwrap_or_default()
}

/// What is on disk of these.
#[derive(Debug)]
pub(crate) struct Whereabouts {
    home: Home,
    peers: BTreeMap<NodeId, Vec<Multiaddr>>,
    ports: Ports,
}

impl Whereabouts {
    /// Those of a home.
    pub(crate) fn of(home: Home) -> Self {
        let mut peers: BTreeMap<NodeId, Vec<Multiaddr>> = BTreeMap::new();
        for address in known_addresses(&home) {
            if let Some(node) = peer_of(&address).and_then(|peer| node_id(&peer)) {
                peers.entry(node).or_default().push(address);
            }
        }
        let ports = known_ports(&home);
        Self { home, peers, ports }
    }

    /// Takes down where nodes are that are up, and where members were that are not: they come back there. Whoever is
    /// neither is forgotten.
    pub(crate) fn keep_peers(&mut self, up: Vec<(NodeId, Vec<Multiaddr>)>, is_member: impl Fn(NodeId) -> bool) {
        let mut peers = self.peers.clone();
        peers.retain(|node, _| is_member(*node));
        peers.extend(up.into_iter().filter(|(_, addresses)| !addresses.is_empty()));
        if peers != self.peers {
            let texts: Vec<String> = peers.values().flatten().map(Multiaddr::to_string).collect();
            self.write("peers.json", texts);
            self.peers = peers;
        }
    }

    /// Takes down the ports that this node listens at.
    pub(crate) fn keep_ports(&mut self, ports: Ports) {
        if ports != self.ports {
            self.write("ports.json", ports.clone());
            self.ports = ports;
        }
    }

    /// Behind the caller's back: it has no time to wait for a disk.
    fn write(&self, name: &'static str, content: impl Serialize + Send + 'static) {
        let home = self.home.clone();
        tokio::task::spawn_blocking(move || {
            let json = serde_json::to_vec(&content).unwrap_or_default();
            if let Err(error) = home.write(name, &json) {
                tracing::debug!("{error}");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(byte: u8) -> NodeId {
        paceline_protocol::Identity::from_secret(&[byte; 32]).node_id()
    }

    fn at(byte: u8, port: u16) -> (NodeId, Vec<Multiaddr>) {
        let peer = node(byte).to_string();
        (node(byte), vec![format!("/ip4/10.0.0.{byte}/tcp/{port}/p2p/{peer}").parse().expect("an address")])
    }

    #[tokio::test]
    async fn where_a_member_was_is_known_until_it_leaves() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let home = Home::at(dir.path());
        let known = |home: &Home| Whereabouts::of(home.clone()).peers;
        for (up, members, expected) in [
            (vec![at(1, 1), at(2, 1), at(3, 1)], vec![1, 2], vec![at(1, 1), at(2, 1), at(3, 1)]),
            (vec![at(1, 2)], vec![1, 2], vec![at(1, 2), at(2, 1)]),
            (vec![], vec![1], vec![at(1, 2)]),
        ] {
            let mut whereabouts = Whereabouts::of(home.clone());
            whereabouts.keep_peers(up, |n| members.iter().any(|byte| node(*byte) == n));
            let expected = BTreeMap::from_iter(expected);
            while known(&home) != expected {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
    }

    #[test]
    fn files_that_are_no_json_are_as_if_they_were_not_there() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let home = Home::at(dir.path());
        std::fs::write(home.peers(), b"{").expect("room");
        std::fs::write(home.ports(), b"[1, 2]").expect("room");
        assert!(known_addresses(&home).is_empty() && known_ports(&home).is_empty());
    }
}
