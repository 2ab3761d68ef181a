//! Builds swarms: TCP and QUIC, encrypted and authenticated, with names resolved and relays usable.

use libp2p::core::Transport;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::upgrade::Version;
use libp2p::identity::{DecodingError, Keypair, ed25519};
use libp2p::swarm::NetworkBehaviour;
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder, noise, quic, relay, tcp, yamux};
use paceline_protocol::NodeId;
use thiserror::Error;

use crate::bounds::{IDLE_CONNECTION_TIMEOUT, QUIC_KEEP_ALIVE, QUIC_SILENCE_MAX_MS};
use crate::hearing::Hearing;

/// Why a swarm can't be built.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The secret is no ed25519 key.
    #[error("the identity's secret is no ed25519 key: {0}")]
    Secret(#[from] DecodingError),
    /// Encryption or transport can't be set up.
    #[error("the transport can't be set up: {0}")]
    Transport(String),
    /// A behaviour can't be set up.
    #[error("the network protocols can't be set up: {0}")]
    Behaviour(String),
}

/// What a behaviour is given of the transport below it.
pub struct Links {
    /// The relayed connections of this node.
    pub(crate) relay: relay::client::Behaviour,
    /// When each peer was last heard, over connections that are not relayed.
    pub(crate) hearing: Hearing,
}

/// A swarm with the identity of this 32-byte ed25519 secret. `make` builds its behaviour.
///
/// # Errors
/// The secret is no key, or transport or behaviour can't be set up.
pub fn build_swarm<B: NetworkBehaviour>(
    secret: &[u8; 32],
    make: impl FnOnce(&Keypair, Links) -> Result<B, BuildError>,
) -> Result<Swarm<B>, BuildError> {
    let key = Keypair::ed25519_from_bytes(*secret)?;
    let hearing = Hearing::default();
    let direct = || {
        Ok::<_, BuildError>(
            SwarmBuilder::with_existing_identity(key.clone())
                .with_tokio()
                .with_other_transport(|key| tcp_transport(key, hearing.clone()))
                .map_err(|e| transport(&e))?
                .with_other_transport(|key| quic_transport(key, hearing.clone()))
                .unwrap_or_else(|infallible| match infallible {}),
        )
    };
    let boxed = |e: BuildError| -> BoxedError { Box::new(e) };
    let make = |key: &Keypair, relay| make(key, Links { relay, hearing: hearing.clone() }).map_err(boxed);
    let configure = |config: libp2p::swarm::Config| config.with_idle_connection_timeout(IDLE_CONNECTION_TIMEOUT);
    match direct()?.with_dns() {
        Ok(builder) => Ok(builder
            .with_relay_client(noise::Config::new, yamux::Config::default)
            .map_err(|e| transport(&e))?
            .with_behaviour(make)
            .map_err(|e| BuildError::Behaviour(e.to_string()))?
            .with_swarm_config(configure)
            .build()),
        // A machine without a resolver's configuration can still be reached by number.
        Err(error) => {
            tracing::warn!(%error, "names in addresses can't be resolved: /etc/resolv.conf can't be used");
            Ok(direct()?
                .with_relay_client(noise::Config::new, yamux::Config::default)
                .map_err(|e| transport(&e))?
                .with_behaviour(make)
                .map_err(|e| BuildError::Behaviour(e.to_string()))?
                .with_swarm_config(configure)
                .build())
        }
    }
}

fn transport(error: &dyn std::fmt::Display) -> BuildError {
    BuildError::Transport(error.to_string())
}

type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// A transport whose connections are listened to.
type Listening = libp2p::core::transport::Boxed<(PeerId, crate::hearing::Heard)>;

fn tcp_transport(key: &Keypair, hearing: Hearing) -> Result<Listening, BoxedError> {
    Ok(tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(key)?)
        .multiplex(yamux::Config::default())
        .map(move |(peer, muxer), _| (peer, hearing.listen(peer, StreamMuxerBox::new(muxer))))
        .boxed())
}

fn quic_transport(key: &Keypair, hearing: Hearing) -> Listening {
    quic::tokio::Transport::new(quic_config(quic::Config::new(key)))
        .map(move |(peer, muxer), _| (peer, hearing.listen(peer, StreamMuxerBox::new(muxer))))
        .boxed()
}

fn quic_config(mut config: quic::Config) -> quic::Config {
    config.max_idle_timeout = QUIC_SILENCE_MAX_MS;
    config.keep_alive_interval = QUIC_KEEP_ALIVE;
    config
}

/// The secret of an identity that nobody had before.
pub fn fresh_secret() -> [u8; 32] {
    let pair = ed25519::Keypair::generate();
    let mut secret = [0; 32];
    secret.copy_from_slice(pair.secret().as_ref());
    secret
}

/// Where a node listens if it isn't told: every IPv4 interface, TCP and QUIC, ports that the system chooses.
pub fn default_listen() -> Vec<Multiaddr> {
    ["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"].map(|a| a.parse().expect("it is a multiaddr")).to_vec()
}

/// The node behind a libp2p peer; `None` if its key is not ed25519.
pub fn node_id(peer: &PeerId) -> Option<NodeId> {
    NodeId::from_peer_id_bytes(&peer.to_bytes())
}

/// The libp2p peer of a node, whatever its 32 bytes are: a `PeerId` is the form of a key, not a proof that there is one.
pub fn peer_id(node: NodeId) -> PeerId {
    PeerId::from_bytes(&node.to_peer_id_bytes()).expect("the prefix makes any 32 bytes an identity multihash of a key")
}

#[cfg(test)]
mod tests {
    use paceline_protocol::Identity;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_32_bytes_that_a_peer_calls_a_node_are_a_libp2p_peer(bytes in any::<[u8; 32]>()) {
            let node = NodeId::from_public_key(bytes);
            prop_assert_eq!(node_id(&peer_id(node)), Some(node));
        }
    }

    #[test]
    fn a_node_and_its_libp2p_peer_have_the_same_text() {
        let node = Identity::from_secret(&[7; 32]).node_id();
        let key = Keypair::ed25519_from_bytes([7; 32]).expect("32 bytes are a secret");
        assert_eq!(key.public().to_peer_id(), peer_id(node));
        assert_eq!(node_id(&peer_id(node)), Some(node));
        assert_eq!(peer_id(node).to_string(), node.to_string());
    }
}
