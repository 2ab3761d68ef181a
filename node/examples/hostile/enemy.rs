//! A node that speaks the run's protocols with whatever bytes it likes: it opens streams by name, takes those that come,
//! and leaves both to whoever drives it. What makes it look like a node of the run, identify and ping, is real.

use std::collections::VecDeque;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::identity::Keypair;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, Stream, SubstreamProtocol, SwarmEvent, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, StreamProtocol, SwarmBuilder, identify, noise, ping, tcp, yamux};
use tokio::sync::{mpsc, oneshot};

use crate::tally::Tally;
use crate::target::Target;

/// How long an enemy waits for a connection or a stream.
const PATIENCE: Duration = Duration::from_secs(10);

/// Streams that wait for whoever takes them; more are dropped.
const INBOUND_MAX: usize = 256;

/// One identity. Its connections are those that it makes.
pub(crate) struct Enemy {
    /// Its key, which signs what needs a signature.
    pub(crate) key: Keypair,
    commands: mpsc::UnboundedSender<Command>,
    /// Streams that the other end opened.
    pub(crate) inbound: mpsc::Receiver<(StreamProtocol, Stream)>,
}

enum Command {
    Connect(Target, oneshot::Sender<bool>),
    Open(PeerId, StreamProtocol, oneshot::Sender<Stream>),
    Push(PeerId),
}

impl Enemy {
    /// An identity that says it speaks these protocols. Its swarm runs until it is dropped.
    pub(crate) fn new(key: Keypair, speaks: Vec<StreamProtocol>, tally: Arc<Tally>) -> Self {
        let (commands, received) = mpsc::unbounded_channel();
        let (inbound_in, inbound) = mpsc::channel(INBOUND_MAX);
        let swarm = SwarmBuilder::with_existing_identity(key.clone())
            .with_tokio()
            .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
            .expect("the transport can be set up")
            .with_behaviour(|key| Behaviour {
                identify: identify::Behaviour::new(identify::Config::new(
                    format!("/paceline/{}", paceline_protocol::bounds::PROTOCOL_VERSION),
                    key.public(),
                )),
                ping: ping::Behaviour::new(ping::Config::new()),
                raw: RawStreams { speaks, inbound: inbound_in, actions: VecDeque::new() },
            })
            .expect("the behaviour is there")
            .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(3600)))
            .build();
        tokio::spawn(live(swarm, received, tally));
        Self { key, commands, inbound }
    }

    /// One more connection to a target; whether it was made.
    pub(crate) async fn connect(&self, target: &Target) -> bool {
        let (tell, told) = oneshot::channel();
        if self.commands.send(Command::Connect(target.clone(), tell)).is_err() {
            return false;
        }
        matches!(tokio::time::timeout(PATIENCE, told).await, Ok(Ok(true)))
    }

    /// A stream of this protocol on one of the connections to a target; `None` if there is none.
    pub(crate) async fn open(&self, target: &Target, protocol: &StreamProtocol) -> Option<Stream> {
        let (tell, told) = oneshot::channel();
        self.commands.send(Command::Open(target.peer, protocol.clone(), tell)).ok()?;
        tokio::time::timeout(PATIENCE, told).await.ok()?.ok()
    }

    /// Says again what it is, unasked.
    pub(crate) fn push_identity(&self, target: &Target) {
        let _ = self.commands.send(Command::Push(target.peer));
    }
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    raw: RawStreams,
}

async fn live(mut swarm: libp2p::Swarm<Behaviour>, mut commands: mpsc::UnboundedReceiver<Command>, tally: Arc<Tally>) {
    let mut dials: Vec<(ConnectionId, oneshot::Sender<bool>)> = Vec::new();
    let take = |dials: &mut Vec<(ConnectionId, oneshot::Sender<bool>)>, id| {
        dials.iter().position(|(dial, _)| *dial == id).map(|at| dials.swap_remove(at).1)
    };
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                None => return,
                Some(Command::Connect(target, tell)) => {
                    let opts = DialOpts::peer_id(target.peer).condition(PeerCondition::Always)
                        .addresses(vec![target.address.clone()]).allocate_new_port().build();
                    dials.push((opts.connection_id(), tell));
                    if let Err(error) = swarm.dial(opts) {
                        tally.dial_failed(&error.to_string());
                    }
                }
                Some(Command::Open(peer, protocol, tell)) => {
                    swarm.behaviour_mut().raw.actions.push_back((peer, protocol, tell));
                }
                Some(Command::Push(peer)) => swarm.behaviour_mut().identify.push([peer]),
            },
            event = swarm.select_next_some() => match event {
                SwarmEvent::ConnectionEstablished { connection_id, .. } => {
                    tally.connected();
                    take(&mut dials, connection_id).map(|tell| tell.send(true));
                }
                SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                    tally.dial_failed(&error.to_string());
                    take(&mut dials, connection_id).map(|tell| tell.send(false));
                }
                SwarmEvent::ConnectionClosed { .. } => tally.closed(),
                _ => {}
            }
        }
    }
}

/// Opens streams and takes them, whatever is said on them.
struct RawStreams {
    speaks: Vec<StreamProtocol>,
    inbound: mpsc::Sender<(StreamProtocol, Stream)>,
    actions: VecDeque<(PeerId, StreamProtocol, oneshot::Sender<Stream>)>,
}

impl RawStreams {
    fn handler(&self) -> Handler {
        Handler { speaks: self.speaks.clone(), inbound: self.inbound.clone(), wanted: VecDeque::new() }
    }
}

impl NetworkBehaviour for RawStreams {
    type ConnectionHandler = Handler;
    type ToSwarm = std::convert::Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    fn on_swarm_event(&mut self, _: FromSwarm) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.actions.pop_front() {
            Some((peer_id, protocol, tell)) => {
                let event = Wanted(protocol, tell);
                Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::Any, event })
            }
            None => Poll::Pending,
        }
    }
}

/// A stream that is wanted, and who waits for it.
#[derive(Debug)]
struct Wanted(StreamProtocol, oneshot::Sender<Stream>);

struct Handler {
    speaks: Vec<StreamProtocol>,
    inbound: mpsc::Sender<(StreamProtocol, Stream)>,
    wanted: VecDeque<Wanted>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Wanted;
    type ToBehaviour = std::convert::Infallible;
    type InboundProtocol = Raw;
    type OutboundProtocol = Raw;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = oneshot::Sender<Stream>;

    fn listen_protocol(&self) -> SubstreamProtocol<Raw, ()> {
        SubstreamProtocol::new(Raw(self.speaks.clone()), ())
    }

    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Raw, oneshot::Sender<Stream>, Self::ToBehaviour>> {
        match self.wanted.pop_front() {
            Some(Wanted(protocol, tell)) => Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(Raw(vec![protocol]), tell),
            }),
            None => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, wanted: Wanted) {
        self.wanted.push_back(wanted);
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<Raw, Raw, (), oneshot::Sender<Stream>>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: (stream, name), .. }) => {
                // Nobody may be there to take it.
                let _ = self.inbound.try_send((name, stream));
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: (stream, _), info }) => {
                // Who gave up doesn't need it.
                let _ = info.send(stream);
            }
            _ => {}
        }
    }
}

/// A stream as it is, under one of these names.
struct Raw(Vec<StreamProtocol>);

impl UpgradeInfo for Raw {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Raw {
    type Output = (Stream, StreamProtocol);
    type Error = std::convert::Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((stream, name)))
    }
}

impl OutboundUpgrade<Stream> for Raw {
    type Output = (Stream, StreamProtocol);
    type Error = std::convert::Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((stream, name)))
    }
}
