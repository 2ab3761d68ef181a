//! Nodes for tests: discovery, and a protocol under the run's name that sends and takes whatever bytes it is given.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

#[path = "../shared/raw.rs"]
mod raw;

use std::time::Duration;

use futures::StreamExt;
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm};
use paceline_bootstrap::{
    Discovery, DiscoveryEvent, DiscoveryOptions, Ready, Role, ServeOptions, build_swarm, fresh_secret, run_protocol,
    serve,
};
use paceline_protocol::runfile::{Published, RunFile};
use raw::Raw;
use tokio::sync::oneshot;

/// How long a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

#[derive(NetworkBehaviour)]
pub struct TestNode {
    pub discovery: Discovery,
    pub raw: request_response::Behaviour<Raw>,
}

/// A run that differs from others by its seed.
pub fn run_file(seed: u64) -> Published {
    let text = RunFile::<()>::template(&[("run", "seed", seed.to_string())]);
    RunFile::<()>::parse(&text, "template").expect("the template parses").published()
}

/// A node of the run that listens on loopback. Must be polled to live.
pub async fn node(file: &Published, bootstrap: &[Multiaddr]) -> Swarm<TestNode> {
    node_speaking(file, bootstrap, run_protocol(file.run, "direct")).await
}

/// A node whose raw protocol has another name.
pub async fn node_speaking(file: &Published, bootstrap: &[Multiaddr], protocol: StreamProtocol) -> Swarm<TestNode> {
    let mut swarm = swarm(file, bootstrap, protocol);
    listen(&mut swarm, &["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"]).await;
    swarm
}

/// A node that listens on these addresses, or nowhere.
pub async fn node_listening(file: &Published, bootstrap: &[Multiaddr], on: &[&str]) -> Swarm<TestNode> {
    let mut swarm = swarm(file, bootstrap, run_protocol(file.run, "direct"));
    listen(&mut swarm, on).await;
    swarm
}

fn swarm(file: &Published, bootstrap: &[Multiaddr], protocol: StreamProtocol) -> Swarm<TestNode> {
    let options = DiscoveryOptions {
        role: Role::Node,
        run: Some(file.clone()),
        bootstrap: bootstrap.to_vec(),
        known: Vec::new(),
        mdns: false,
    };
    build_swarm(&fresh_secret(), |key, relay| {
        let config = request_response::Config::default().with_request_timeout(PATIENCE);
        let raw = request_response::Behaviour::with_codec(Raw, [(protocol, ProtocolSupport::Full)], config);
        Ok(TestNode { discovery: Discovery::new(options, key, relay)?, raw })
    })
    .expect("a swarm")
}

async fn listen(swarm: &mut Swarm<TestNode>, on: &[&str]) {
    for address in on {
        swarm.listen_on(address.parse().expect("a multiaddr")).expect("it can be listened on");
    }
    while swarm.behaviour().discovery.addresses().len() < on.len() {
        swarm.next().await;
    }
}

/// Polls all swarms until `done` says so of an event, which it is given with its swarm's index.
pub async fn until<T>(
    swarms: &mut [&mut Swarm<TestNode>],
    mut done: impl FnMut(usize, &DiscoveryEvent) -> Option<T>,
) -> T {
    let look = async {
        loop {
            let next =
                swarms.iter_mut().enumerate().map(|(i, s)| Box::pin(async move { (i, s.select_next_some().await) }));
            let ((i, event), ..) = futures::future::select_all(next).await;
            if let SwarmEvent::Behaviour(TestNodeEvent::Discovery(event)) = event
                && let Some(found) = done(i, &event)
            {
                return found;
            }
        }
    };
    tokio::time::timeout(PATIENCE, look).await.expect("it happens in time")
}

/// Polls all swarms for a while and answers what they say.
pub async fn during(swarms: &mut [&mut Swarm<TestNode>], time: Duration) -> Vec<(usize, String)> {
    let mut seen = Vec::new();
    let never = until(swarms, |i, event| {
        seen.push((i, format!("{event:?}")));
        None::<()>
    });
    let _ = tokio::time::timeout(time, never).await;
    seen
}

/// A bootstrap that serves until the sender is dropped.
pub async fn bootstrap(run: Option<Published>, port: u16) -> (Ready, oneshot::Sender<()>) {
    let (stop, stopped) = oneshot::channel();
    let (tell, told) = oneshot::channel();
    let listen = vec![format!("/ip4/127.0.0.1/tcp/{port}").parse().expect("a multiaddr")];
    let options = ServeOptions { run, listen, home: None, mdns: false };
    let on_ready = |ready| drop(tell.send(ready));
    tokio::spawn(async move {
        let shutdown = async { drop(stopped.await) };
        serve(options, on_ready, shutdown).await.expect("serves");
    });
    (told.await.expect("it listens"), stop)
}

pub fn parse(addresses: &[String]) -> Vec<Multiaddr> {
    addresses.iter().map(|a| a.parse().expect("a multiaddr")).collect()
}

pub fn addresses(swarm: &Swarm<TestNode>) -> Vec<Multiaddr> {
    swarm.behaviour().discovery.addresses()
}

pub fn is_up(swarm: &Swarm<TestNode>, peer: &Swarm<TestNode>) -> bool {
    swarm.behaviour().discovery.is_up(peer.local_peer_id())
}

pub fn peer(swarm: &Swarm<TestNode>) -> PeerId {
    *swarm.local_peer_id()
}
