//! Whom it goes against, and the names of what is spoken there.

use std::str::FromStr;

use anyhow::Context;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use paceline_bootstrap::run_protocol;
use paceline_protocol::RunId;

/// A node of the run.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Where it listens, over TCP.
    pub(crate) address: Multiaddr,
    /// Who it is.
    pub(crate) peer: PeerId,
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut address: Multiaddr = text.parse()?;
        match address.pop().context("the address is empty")? {
            Protocol::P2p(peer) => Ok(Self { address, peer }),
            _ => anyhow::bail!("{text} doesn't end with /p2p/ and a peer"),
        }
    }
}

impl Target {
    /// Its IP address and port.
    pub(crate) fn socket(&self) -> Option<std::net::SocketAddr> {
        let mut parts = self.address.iter();
        match (parts.next()?, parts.next()?) {
            (Protocol::Ip4(ip), Protocol::Tcp(port)) => Some((ip, port).into()),
            (Protocol::Ip6(ip), Protocol::Tcp(port)) => Some((ip, port).into()),
            _ => None,
        }
    }
}

/// The protocols of a run.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// Direct messages.
    pub(crate) direct: StreamProtocol,
    /// Manifests and chunks.
    pub(crate) blobs: StreamProtocol,
    /// Gossip.
    pub(crate) gossip: StreamProtocol,
    /// Who else is there.
    pub(crate) exchange: StreamProtocol,
    /// The topic that gossip is about.
    pub(crate) topic: String,
}

impl Names {
    /// Of this run.
    pub(crate) fn of(run: RunId) -> Self {
        Self {
            direct: run_protocol(run, "direct"),
            blobs: run_protocol(run, "blobs"),
            gossip: run_protocol(run, "gossip/1.1.0"),
            exchange: StreamProtocol::new("/paceline/2/peer-exchange"),
            topic: format!("/paceline/2/{run}"),
        }
    }

    /// All of them: who speaks these is a node of the run.
    pub(crate) fn all(&self) -> Vec<StreamProtocol> {
        vec![self.direct.clone(), self.blobs.clone(), self.gossip.clone(), self.exchange.clone()]
    }
}
