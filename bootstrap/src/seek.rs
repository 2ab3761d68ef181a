//! Asking around with a swarm that lives for a moment: for a run file, and for the runs on the local network.
//!
//! It has an identity of its own, made for the occasion: the node that joins afterwards is met as somebody new.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, Swarm};
use paceline_protocol::RunId;
use paceline_protocol::runfile::Published;
use thiserror::Error;
use tokio::time::{Instant, timeout_at};

use crate::bounds::RUNS_MAX;
use crate::discovery::{Discovery, DiscoveryEvent, DiscoveryOptions, Role};
use crate::peer_exchange::{Answer, Request};
use crate::swarm::{BuildError, build_swarm, fresh_secret};

/// Peers whose addresses are remembered for a run that was found.
const PEERS_PER_RUN_MAX: usize = 8;

/// Why a run file was not found.
#[derive(Debug, Error)]
pub enum SeekError {
    /// The network can't be set up.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Nobody had it in time.
    #[error(
        "run {run} was not found at {addresses} after {waited_ms} ms: {found}; check that a node of the run, or its \
         bootstrap, is up and can be reached from here"
    )]
    NotFound {
        /// The run that was looked for.
        run: RunId,
        /// Where it was looked for.
        addresses: String,
        /// How long it was looked for, in milliseconds.
        waited_ms: u128,
        /// What was found instead.
        found: String,
    },
}

/// A run that was found on the local network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRun {
    /// The run.
    pub run: RunId,
    /// Its name; empty if nobody who answered has the run file.
    pub name: String,
    /// Its nodes, as the best informed peer counts them.
    pub nodes: u32,
    /// Where to ask for it: peers that know it, each address with its peer at the end.
    pub addresses: Vec<Multiaddr>,
}

/// Fetches the run file of a run from whoever of these addresses has it, and checks its hash.
///
/// # Errors
/// Nobody had it within `wait`.
pub async fn fetch_run_file(addresses: &[Multiaddr], run: RunId, wait: Duration) -> Result<Published, SeekError> {
    let (mut swarm, started) = (seeker(addresses, false)?, Instant::now());
    let mut found = "no address answered".to_owned();
    while let Ok(event) = timeout_at(started + wait, next(&mut swarm)).await {
        match event {
            DiscoveryEvent::Identified(peer) => swarm.behaviour_mut().ask(peer, Request::RunFile { run }),
            DiscoveryEvent::Answered(peer, Answer::RunFile(bytes)) => match Published::check(run, &bytes) {
                Ok(published) => return Ok(published),
                Err(reason) => found = format!("{peer} sent a run file that is refused: {reason}"),
            },
            DiscoveryEvent::Answered(peer, _) => found = format!("{peer} answered and doesn't have the run file"),
            DiscoveryEvent::NotAnswered(peer, reason) => {
                found = format!("{peer} was reached and gave no answer: {reason}")
            }
            _ => {}
        }
    }
    let addresses = addresses.iter().map(Multiaddr::to_string).collect::<Vec<_>>().join(", ");
    Err(SeekError::NotFound { run, addresses, waited_ms: started.elapsed().as_millis(), found })
}

/// Looks for runs at these addresses and, where `mdns` says so, on the local network, for so long.
///
/// # Errors
/// The network can't be set up. That nothing was found is an empty list.
pub async fn discover_runs(at: &[Multiaddr], mdns: bool, wait: Duration) -> Result<Vec<FoundRun>, BuildError> {
    let (mut swarm, started) = (seeker(at, mdns)?, Instant::now());
    let mut runs: BTreeMap<RunId, FoundRun> = BTreeMap::new();
    while let Ok(event) = timeout_at(started + wait, next(&mut swarm)).await {
        match event {
            DiscoveryEvent::Identified(peer) => swarm.behaviour_mut().ask(peer, Request::Runs),
            DiscoveryEvent::Answered(peer, Answer::Runs(seen)) => {
                let addresses = swarm.behaviour().addresses_of(peer);
                for seen in seen {
                    if runs.len() >= RUNS_MAX && !runs.contains_key(&seen.run) {
                        continue;
                    }
                    let found = runs.entry(seen.run).or_insert_with(|| FoundRun {
                        run: seen.run,
                        name: String::new(),
                        nodes: 0,
                        addresses: Vec::new(),
                    });
                    found.nodes = found.nodes.max(seen.nodes);
                    if found.name.is_empty() {
                        found.name = seen.name;
                    }
                    found.add(peer, &addresses);
                }
            }
            _ => {}
        }
    }
    Ok(runs.into_values().collect())
}

impl FoundRun {
    fn add(&mut self, peer: PeerId, addresses: &[Multiaddr]) {
        let best = crate::addresses::sorted(addresses.iter().cloned()).into_iter().next();
        if let Some(best) = best.filter(|_| self.addresses.len() < PEERS_PER_RUN_MAX) {
            self.addresses.push(crate::addresses::with_peer(&best, peer));
        }
    }
}

/// A swarm that asks at these addresses, with an identity of the moment.
pub(crate) fn seeker(addresses: &[Multiaddr], mdns: bool) -> Result<Swarm<Discovery>, BuildError> {
    let options =
        DiscoveryOptions { role: Role::Seeker, run: None, bootstrap: addresses.to_vec(), known: Vec::new(), mdns };
    build_swarm(&fresh_secret(), |key, relay| Discovery::new(options, key, relay))
}

async fn next(swarm: &mut Swarm<Discovery>) -> DiscoveryEvent {
    loop {
        if let SwarmEvent::Behaviour(event) = swarm.select_next_some().await {
            return event;
        }
    }
}
