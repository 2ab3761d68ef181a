//! Networks for tests: on loopback, without mDNS, each with its own events.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

#[path = "../../../bootstrap/tests/shared/raw.rs"]
mod raw;

use std::time::Duration;

use futures::StreamExt;
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::NetworkBehaviour;
use libp2p::{Multiaddr, Swarm};
use paceline::net::{BlobAnswer, BlobRequest, NetEvent, NetOptions, Network, Ports};
use paceline::run_file::RunFile;
use paceline_bootstrap::{
    Discovery, DiscoveryOptions, Role, ServeOptions, build_swarm, fresh_secret, run_protocol, serve,
};
use paceline_protocol::{Identity, NodeId};
use raw::Raw;
use tokio::sync::{mpsc, oneshot};

/// How long a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A run that differs from others by its seed.
pub fn run_file(seed: u64) -> RunFile {
    let mut file =
        paceline::run_file::parse(&paceline::run_file::template(&[]), "template").expect("the template parses");
    file.run.seed = seed;
    file
}

/// Options for a node of the run on loopback.
pub fn options(file: &RunFile, bootstrap: &[Multiaddr]) -> NetOptions {
    NetOptions {
        identity: fresh_secret(),
        run: file.published(),
        listen: ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"]
            .map(|a| a.parse().expect("a multiaddr"))
            .into(),
        bootstrap: bootstrap.to_vec(),
        mdns: false,
        known: Vec::new(),
        ports: Ports::new(),
    }
}

/// A network and its events.
pub struct TestNet {
    pub net: Network,
    pub id: NodeId,
    pub events: mpsc::Receiver<NetEvent>,
}

impl TestNet {
    pub async fn start(options: NetOptions) -> Self {
        let id = Identity::from_secret(&options.identity).node_id();
        let (sender, events) = mpsc::channel(64);
        Self { net: Network::start(options, sender).await.expect("it starts"), id, events }
    }

    pub async fn of(file: &RunFile, bootstrap: &[Multiaddr]) -> Self {
        Self::start(options(file, bootstrap)).await
    }

    /// The first event of which `pick` makes something.
    pub async fn until<T>(&mut self, mut pick: impl FnMut(NetEvent) -> Option<T>) -> T {
        let look = async {
            loop {
                let event = self.events.recv().await.expect("the network lives");
                if let Some(found) = pick(event) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, look).await.expect("it happens in time")
    }

    pub async fn until_up(&mut self, node: NodeId) {
        self.until(|event| matches!(event, NetEvent::PeerUp(up) if up == node).then_some(())).await;
    }

    /// All events of a while, in words.
    pub async fn during(&mut self, time: Duration) -> Vec<String> {
        let mut seen = Vec::new();
        let _ = tokio::time::timeout(time, async {
            while let Some(event) = self.events.recv().await {
                seen.push(format!("{event:?}"));
            }
        })
        .await;
        seen
    }

    /// Answers requests for blobs for as long as the network lives.
    pub fn serve(mut self, answer: impl Fn(BlobRequest) -> BlobAnswer + Send + 'static) {
        tokio::spawn(async move {
            while let Some(event) = self.events.recv().await {
                if let NetEvent::BlobRequested { request, answer: to, .. } = event {
                    let _ = to.send(answer(request));
                }
            }
        });
    }
}

/// Two nodes of a run that are up for each other.
pub async fn pair(file: &RunFile) -> (TestNet, TestNet) {
    let mut a = TestNet::of(file, &[]).await;
    let mut b = TestNet::of(file, &a.net.addresses()).await;
    a.until_up(b.id).await;
    b.until_up(a.id).await;
    (a, b)
}

/// A bootstrap on loopback that serves until the sender is dropped, and its addresses.
pub async fn bootstrap() -> (Vec<Multiaddr>, oneshot::Sender<()>) {
    let (stop, stopped) = oneshot::channel();
    let (tell, told) = oneshot::channel();
    let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().expect("a multiaddr")];
    let options = ServeOptions { listen, ..ServeOptions::default() };
    tokio::spawn(async move {
        let on_ready = |ready| drop(tell.send(ready));
        serve(options, on_ready, async { drop(stopped.await) }).await.expect("serves");
    });
    let ready: paceline_bootstrap::Ready = told.await.expect("it listens");
    (ready.addresses.iter().map(|a| a.parse().expect("a multiaddr")).collect(), stop)
}

/// Bytes that don't compress, from a seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

#[derive(NetworkBehaviour)]
pub struct HostileNode {
    pub discovery: Discovery,
    pub direct: request_response::Behaviour<Raw>,
    pub blobs: request_response::Behaviour<Raw>,
}

/// A node that speaks the run's protocols with whatever bytes it likes.
pub fn hostile(file: &RunFile, bootstrap: &[Multiaddr]) -> Swarm<HostileNode> {
    let run = file.run_id();
    let own = file.published();
    let options = DiscoveryOptions {
        role: Role::Node,
        run: Some(own),
        bootstrap: bootstrap.to_vec(),
        known: Vec::new(),
        mdns: false,
    };
    let raw = move |what| {
        let config = request_response::Config::default().with_request_timeout(PATIENCE);
        request_response::Behaviour::with_codec(Raw, [(run_protocol(run, what), ProtocolSupport::Full)], config)
    };
    let mut swarm = build_swarm(&fresh_secret(), |key, relay| {
        Ok(HostileNode { discovery: Discovery::new(options, key, relay)?, direct: raw("direct"), blobs: raw("blobs") })
    })
    .expect("a swarm");
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().expect("a multiaddr")).expect("listens");
    swarm
}

/// Lets a swarm live while something else is waited for.
pub async fn beside<T>(swarm: &mut Swarm<HostileNode>, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = swarm.next() => {}
        }
    }
}
