//! The node's network: one task owns the libp2p swarm; a cheap handle drives it, and events come out of it.
//!
//! Nothing here judges content. Bytes come in with an authenticated sender, within their bounds, or they come as
//! [`NetEvent::Malformed`]. Nothing is repeated here either: what matters, the protocol above sends again.

mod bounds;
mod codecs;
mod conduct;
mod counters;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod gossip;
mod outbox;
mod ports;
mod reading;
mod serving;
mod task;
mod wire;

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use libp2p::gossipsub::MessageId;
use libp2p::{Multiaddr, PeerId};
use paceline_bootstrap::{BuildError, Hearing, peer_id};
use paceline_protocol::NodeId;
use paceline_protocol::bounds::{GOSSIP_BYTES_MAX, MESSAGE_BYTES_MAX};
use paceline_protocol::runfile::Published;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use codecs::Asker;
pub use counters::{Counter, NetCounters};
pub use ports::Ports;
pub(crate) use ports::{port, probe as port_is_free, with_port as with_free_port};
pub use wire::{AskError, BITMAP_BYTES_MAX, BlobAnswer, BlobRequest};

/// How a network is started.
#[derive(Debug, Clone)]
pub struct NetOptions {
    /// The node's 32-byte ed25519 secret.
    pub identity: [u8; 32],
    /// The run, whose run file others fetch from here; nodes of other runs are not talked to.
    pub run: Published,
    /// Where to listen; empty for TCP and QUIC on every IPv4 interface, on ports that the system chooses.
    pub listen: Vec<Multiaddr>,
    /// First addresses, with or without `/p2p/`.
    pub bootstrap: Vec<Multiaddr>,
    /// Whether to find others, and to be found, on the local network.
    pub mdns: bool,
    /// Addresses of nodes from an earlier start, each with its `/p2p/`.
    pub known: Vec<Multiaddr>,
    /// Ports of an earlier start, for addresses in `listen` that leave them to the system; one that is taken by now is
    /// replaced.
    pub ports: Ports,
}

/// What the network tells.
#[derive(Debug)]
pub enum NetEvent {
    /// This node can be reached at an address, which ends with its `/p2p/`.
    Listening(Multiaddr),
    /// A node of this run is connected and identified. Once, however many connections there are.
    PeerUp(NodeId),
    /// Its last connection is gone, and an immediate redial was refused or failed.
    PeerDown(NodeId),
    /// A direct message of at most `MESSAGE_BYTES_MAX`.
    Message {
        /// The sender, authenticated by the connection.
        from: NodeId,
        /// The message as it was sent, not decoded.
        bytes: Vec<u8>,
    },
    /// Gossip of at most `GOSSIP_BYTES_MAX`.
    Gossip {
        /// The peer that passed it on, authenticated by the connection. What it says must prove itself.
        from: NodeId,
        /// The message as it was sent, not decoded.
        bytes: Vec<u8>,
        /// With which [`Network::judge`] says whether it is passed on.
        receipt: GossipReceipt,
    },
    /// A peer asks for a piece of a blob. Not answered within some seconds, or dropped, it is told `Busy`.
    BlobRequested {
        /// The peer, authenticated by the connection.
        from: NodeId,
        /// The manifest or the chunk that it wants.
        request: BlobRequest,
        /// Where the answer goes.
        answer: oneshot::Sender<BlobAnswer>,
    },
    /// Another process has this node's identity, and has proven it.
    Twin {
        /// It is at one of these.
        addresses: Vec<Multiaddr>,
        /// Whether it started before this process, which must stop then; or else it will.
        is_earlier: bool,
    },
    /// A peer sent bytes that break a protocol. They were refused and counted.
    Malformed {
        /// The peer that sent them, or passed them on.
        from: NodeId,
        /// "direct", "blobs", "gossip" or "peer exchange".
        protocol: &'static str,
        /// What was wrong with them, in words.
        reason: String,
    },
}

/// Names gossip that waits to be passed on or dropped.
#[derive(Debug, Clone)]
pub struct GossipReceipt {
    id: MessageId,
    source: PeerId,
}

/// Why the network can't be started.
#[derive(Debug, Error)]
pub enum NetError {
    /// The swarm can't be set up.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// An address can't be listened on.
    #[error("can't listen on {address}: {reason}; give another --listen address")]
    Listen {
        /// The address that was asked for.
        address: Multiaddr,
        /// What the system says.
        reason: String,
    },
    /// No address came up.
    #[error("no address to listen on came up within {0:?}: is there a network interface?")]
    NoAddress(Duration),
}

/// The handle. Clones drive the same network, which ends when the last of them is dropped, or with
/// [`Network::shutdown`].
#[derive(Clone)]
pub struct Network {
    commands: mpsc::Sender<Command>,
    snapshot: Arc<NetSnapshot>,
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// What the task keeps up to date for those who only look.
#[derive(Debug, Default)]
struct NetSnapshot {
    addresses: RwLock<Vec<Multiaddr>>,
    peers: RwLock<Vec<(NodeId, Vec<Multiaddr>)>>,
    ports: RwLock<Ports>,
    unanswered: RwLock<Vec<Multiaddr>>,
    counters: Arc<NetCounters>,
    hearing: OnceLock<Hearing>,
}

/// What the handle asks of the task.
enum Command {
    Send { to: NodeId, bytes: Vec<u8> },
    Broadcast { bytes: Vec<u8> },
    Ask { to: NodeId, request: BlobRequest, asker: Asker, answer: oneshot::Sender<Result<BlobAnswer, AskError>> },
    Judge { receipt: GossipReceipt, pass_on: bool },
    Complain { of: NodeId },
    Shutdown,
}

impl Network {
    /// Starts the network and waits until it can be reached at an address. Events go into `events`; while that is full they
    /// wait, and messages over a bound are dropped.
    ///
    /// # Errors
    /// The swarm can't be set up, or it can't listen.
    pub async fn start(options: NetOptions, events: mpsc::Sender<NetEvent>) -> Result<Network, NetError> {
        let snapshot = Arc::new(NetSnapshot::default());
        let (commands, received) = mpsc::channel(bounds::COMMANDS_MAX);
        let (listening, listens) = oneshot::channel();
        let task = task::Task::new(options, events, received, snapshot.clone(), listening)?;
        let task = tokio::spawn(task.run());
        let network = Self { commands, snapshot, task: Arc::new(Mutex::new(Some(task))) };
        match tokio::time::timeout(bounds::LISTEN_TIMEOUT, listens).await {
            Ok(Ok(())) => Ok(network),
            _ => {
                network.shutdown().await;
                Err(NetError::NoAddress(bounds::LISTEN_TIMEOUT))
            }
        }
    }

    /// Sends a message to one node, behind those sent to it before. Never blocks. What can't be delivered within some
    /// seconds, is over `MESSAGE_BYTES_MAX`, or finds the queue full, is dropped and counted.
    pub fn send(&self, to: NodeId, bytes: Vec<u8>) {
        if bytes.len() > MESSAGE_BYTES_MAX {
            tracing::warn!(len = bytes.len(), "a message over {MESSAGE_BYTES_MAX} bytes is not sent");
            return self.snapshot.counters.dropped.add(1);
        }
        self.command(Command::Send { to, bytes });
    }

    /// Gossips a message to all nodes of the run. Never blocks. It waits some seconds for the first that listens. Over
    /// `GOSSIP_BYTES_MAX` it is dropped and counted.
    pub fn broadcast(&self, bytes: Vec<u8>) {
        if bytes.len() > GOSSIP_BYTES_MAX {
            tracing::warn!(len = bytes.len(), "gossip over {GOSSIP_BYTES_MAX} bytes is not sent");
            return self.snapshot.counters.dropped.add(1);
        }
        self.command(Command::Broadcast { bytes });
    }

    /// Asks a node for a piece of a blob. Dropped, the question is taken back: what is on its way is cut off.
    ///
    /// # Errors
    /// No answer came in `timeout`, or at all; or it was malformed. `BlobAnswer::Busy` and the like are answers.
    pub async fn ask_blob(&self, to: NodeId, request: BlobRequest, timeout: Duration) -> Result<BlobAnswer, AskError> {
        let (answer, answered) = oneshot::channel();
        let (asker, _asks) = oneshot::channel();
        let ask = async {
            let command = Command::Ask { to, request, asker, answer };
            self.commands.send(command).await.map_err(|_| AskError::Overloaded)?;
            answered.await.unwrap_or(Err(AskError::Overloaded))
        };
        tokio::time::timeout(timeout, ask).await.unwrap_or(Err(AskError::Timeout))
    }

    /// When anything last came from a node; `None` if it has no connection, or a relayed one alone.
    pub fn last_heard(&self, node: NodeId) -> Option<Instant> {
        self.snapshot.hearing.get()?.last(&peer_id(node))
    }

    /// Says whether gossip is passed on to others. Gossip that nobody judges is not.
    pub fn judge(&self, receipt: GossipReceipt, pass_on: bool) {
        self.command(Command::Judge { receipt, pass_on });
    }

    /// Says of a peer that it sent what no honest node sends or passes on. Who does so too often is turned away for a while.
    pub fn complain(&self, of: NodeId) {
        self.command(Command::Complain { of });
    }

    /// This node's addresses for others, the best first, each with its `/p2p/`.
    pub fn addresses(&self) -> Vec<Multiaddr> {
        self.snapshot.addresses.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The nodes that are up, with their addresses, each with its `/p2p/`: what to give as `known` at the next start.
    pub fn peers(&self) -> Vec<(NodeId, Vec<Multiaddr>)> {
        self.snapshot.peers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first addresses, if nobody answers at any of them.
    pub fn unanswered(&self) -> Vec<Multiaddr> {
        self.snapshot.unanswered.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The ports that the system chose: what to give as `ports` at the next start.
    pub fn ports(&self) -> Ports {
        self.snapshot.ports.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was counted since the start.
    pub fn counters(&self) -> Arc<NetCounters> {
        self.snapshot.counters.clone()
    }

    /// Closes all connections and ends the task.
    pub async fn shutdown(self) {
        // If the task is gone already, there is nothing to end.
        let _ = self.commands.send(Command::Shutdown).await;
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }

    fn command(&self, command: Command) {
        if self.commands.try_send(command).is_err() {
            self.snapshot.counters.dropped.add(1);
        }
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("addresses", &self.addresses()).finish_non_exhaustive()
    }
}
