//! What honest nodes said, said again: to everybody, by somebody else, long after.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use paceline::net::{BlobAnswer, NetEvent, NetOptions, Network};
use paceline_protocol::{Hash, NodeId};
use tokio::sync::mpsc;

use crate::Attack;
use crate::target::Target;

/// Messages that are kept to be said again: the oldest go first.
const KEPT_MAX: usize = 2_000;

/// Messages that are said again to each node in one go.
const AT_ONCE: usize = 64;

/// See [`crate::Kind::Replay`]. It listens with an honest node's network, and speaks with that and with raw streams.
pub(crate) async fn replay(attack: Arc<Attack>) -> anyhow::Result<()> {
    let (events_in, mut events) = mpsc::channel(1024);
    let secret = Hash::of_parts("hostile listener", &[&attack.seed.to_le_bytes()]);
    let known = |target: &Target| target.address.clone().with(libp2p::multiaddr::Protocol::P2p(target.peer));
    let options = NetOptions {
        identity: *secret.as_bytes(),
        run: attack.run.published(),
        listen: vec!["/ip4/0.0.0.0/tcp/0".parse()?],
        bootstrap: attack.targets.iter().map(known).collect(),
        mdns: false,
        known: vec![],
        ports: Default::default(),
    };
    let network = Network::start(options, events_in).await?;
    let (mut met, mut heard): (Vec<NodeId>, VecDeque<Vec<u8>>) = Default::default();
    let mut pause = tokio::time::interval(Duration::from_millis(5));
    let mut at = 0;
    loop {
        tokio::select! {
            Some(event) = events.recv() => match event {
                NetEvent::PeerUp(peer) => met.push(peer),
                NetEvent::PeerDown(peer) => {
                    met.retain(|met| *met != peer);
                    attack.tally.closed();
                }
                NetEvent::Message { bytes, .. } => keep(&mut heard, bytes),
                NetEvent::Gossip { bytes, receipt, .. } => {
                    keep(&mut heard, bytes);
                    network.judge(receipt, true);
                }
                NetEvent::BlobRequested { answer, .. } => drop(answer.send(BlobAnswer::Unknown)),
                _ => {}
            },
            _ = pause.tick(), if !heard.is_empty() => {
                at = (at + AT_ONCE) % heard.len();
                for bytes in heard.iter().cycle().skip(at).take(AT_ONCE) {
                    for peer in &met {
                        network.send(*peer, bytes.clone());
                        attack.tally.sent(bytes.len());
                    }
                    network.broadcast(bytes.clone());
                }
            }
        }
    }
}

fn keep(heard: &mut VecDeque<Vec<u8>>, bytes: Vec<u8>) {
    if heard.len() >= KEPT_MAX {
        heard.pop_front();
    }
    heard.push_back(bytes);
}
