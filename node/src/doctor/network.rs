//! What is around this machine: whom it hears, who answers at the addresses that it knows, by TCP and by QUIC, and how they
//! differ from it in version, run file and clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use if_addrs::IfAddr;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use paceline_bootstrap::addresses::{Transport, is_loopback, peer_of, transport, with_peer};
use paceline_bootstrap::{Dialled, Met, dial, is_host_name, node_id, survey};
use paceline_protocol::bounds::PROTOCOL_VERSION;

use super::{Finding, Patient};
use crate::inspect;
use crate::neighbours::differences;
use crate::run_file::RunFile;

/// How long others may take to be heard and to answer.
const WAIT: Duration = Duration::from_secs(4);

/// How long a dialled address may take to answer: a machine that trains answers late.
const DIAL_WAIT: Duration = Duration::from_secs(10);

/// How long a run file may take.
const FILE_WAIT: Duration = Duration::from_secs(3);

/// Clocks that differ by more make logs of two machines hard to read, and hours mean another time.
const CLOCK_MS: i64 = 2_000;

/// Runs of the same name whose run files are fetched, one after the other.
const OTHER_RUNS_MAX: usize = 4;

/// Addresses that are dialled at most.
const ADDRESSES_MAX: usize = 64;

pub(super) async fn examine(patient: &Patient) -> anyhow::Result<Vec<Finding>> {
    // Apart, since only what comes by itself shows that multicast works.
    let lan = async {
        match patient.mdns {
            true => survey(&[], true, WAIT).await,
            false => Ok(Vec::new()),
        }
    };
    let at: Vec<Multiaddr> = patient.asked.iter().chain(&patient.peers).cloned().collect();
    let (heard_here, answered) = tokio::try_join!(lan, survey(&at, false, WAIT))?;
    let is_new = |met: &Met| heard_here.iter().all(|other| other.peer != met.peer);
    let met: Vec<Met> = heard_here.iter().cloned().chain(answered.into_iter().filter(is_new)).collect();
    let me = match &patient.home {
        Some(home) => inspect::node_id(home)?.map(|me| me.to_string()),
        None => None,
    };
    let is_running = patient.home.as_ref().is_some_and(|home| home.is_running());
    // A node that runs finds its twin itself, and knows its own addresses better.
    let twin = me.as_ref().filter(|_| !is_running).and_then(|me| twin(&met, me));
    // This home's own node is none of the others.
    let met: Vec<Met> = met.into_iter().filter(|met| Some(met.peer.to_string()) != me).collect();
    let around = Around { patient, met: &met };
    let mut findings = vec![around.heard()];
    let dialled = dial(&around.known(me.as_deref()), DIAL_WAIT).await?;
    findings.extend(around.reached_places(&dialled));
    if patient.mdns {
        findings.extend(unheard(&dialled, &heard_here));
    }
    findings.extend(met.iter().filter_map(|met| around.version(met)));
    findings.extend(around.clocks());
    if let Some(run_file) = &patient.run_file {
        findings.extend(around.same_names(run_file).await);
    }
    findings.extend(twin);
    Ok(findings)
}

/// The others, and what is known of them.
struct Around<'a> {
    patient: &'a Patient,
    met: &'a [Met],
}

impl Around<'_> {
    /// A peer by its name or id, and the host that it is at.
    fn named(&self, met: &Met) -> String {
        let id = self.name(&met.peer);
        match met.addresses.iter().find_map(host) {
            Some(host) => format!("{id} at {host}"),
            None => id,
        }
    }

    /// What people call a peer.
    fn name(&self, peer: &PeerId) -> String {
        let known = self.patient.names.get(&peer.to_string()).filter(|name| !name.is_empty()).cloned();
        known.unwrap_or_else(|| node_id(peer).map_or_else(|| peer.to_string(), |node| node.short()))
    }

    fn heard(&self) -> Finding {
        let names: Vec<String> = self.met.iter().map(|met| self.named(met)).collect();
        match (names.is_empty(), self.patient.mdns) {
            (false, _) => Finding::ok("nodes", format!("{} are met: {}", names.len(), names.join(", "))),
            (true, true) => Finding::warning(
                "nodes",
                "no node is heard on this network, nor at the addresses that are known",
                "paceline doctor      on another machine while a node runs there; across networks use `paceline ticket` and --bootstrap",
            ),
            (true, false) => Finding::warning(
                "nodes",
                "no node answers at the addresses that are known, and --no-mdns looks for no others",
                "paceline ticket      on a machine whose node runs, then here: paceline join TICKET",
            ),
        }
    }

    /// Each address that is known of others. Those of loopback are of use to somebody on this machine who has no others.
    fn known(&self, me: Option<&str>) -> Vec<Multiaddr> {
        let mut all: BTreeSet<Multiaddr> = self.patient.peers.iter().cloned().collect();
        all.extend(self.met.iter().flat_map(|met| met.addresses.iter().map(|address| with_peer(address, met.peer))));
        let has_others = |peer: Option<PeerId>| all.iter().any(|a| peer_of(a) == peer && !is_loopback(a));
        let is_own = |a: &Multiaddr| peer_of(a).is_some_and(|peer| me == Some(peer.to_string().as_str()));
        let useful = all.iter().filter(|a| !(is_own(a) || is_loopback(a) && has_others(peer_of(a))));
        // Those that were asked for come first: what others claim to have must not push them out.
        let mut known: Vec<Multiaddr> = Vec::new();
        for address in self.patient.asked.iter().chain(useful).filter(|a| transport(a).is_some()) {
            if known.len() < ADDRESSES_MAX && !known.contains(address) {
                known.push(address.clone());
            }
        }
        known
    }

    /// By host and peer: TCP and QUIC of one are told together.
    fn reached_places(&self, dialled: &[Dialled]) -> Vec<Finding> {
        let place = |d: &Dialled| (host(&d.address), peer_of(&d.address).or(d.outcome.clone().ok()));
        let mut places: Vec<Place> = dialled.iter().map(place).collect();
        // Who does not answer by one of the two is whoever answers there by the other.
        let answers: Vec<Option<String>> = places.iter().filter(|p| p.1.is_some()).map(|p| p.0.clone()).collect();
        places.retain(|(host, peer)| peer.is_some() || !answers.contains(host));
        places.sort();
        places.dedup();
        let links: Vec<Link<'_>> = places.iter().map(|place| Link::of(place, dialled)).collect();
        let no_udp = links.iter().filter(|link| link.works(Transport::Tcp) && link.lacks(Transport::Quic)).count();
        let any_udp = links.iter().any(|link| link.works(Transport::Quic));
        if no_udp > 1 && !any_udp {
            let mut findings = vec![Finding::warning(
                "udp",
                format!("{no_udp} nodes answer by TCP and none by QUIC: UDP is blocked, most likely on this machine"),
                "sudo ufw status      and let UDP pass; without it nodes use TCP alone",
            )];
            findings.extend(links.iter().filter(|link| !link.works(Transport::Tcp)).map(|link| self.reached(link)));
            return findings;
        }
        links.iter().map(|link| self.reached(link)).collect()
    }

    fn reached(&self, link: &Link<'_>) -> Finding {
        let host = link.place.0.clone().unwrap_or_default();
        let name = match &link.place.1 {
            Some(peer) => format!("{} at {host}", self.name(peer)),
            None => host.clone(),
        };
        let port = |address: &Multiaddr| crate::net::port(address).unwrap_or_default();
        let is_asked = link.all.iter().any(|d| self.patient.asked.contains(&d.address));
        match (link.works(Transport::Tcp), link.works(Transport::Quic)) {
            (true, true) => Finding::ok("peer", format!("{name} answers by TCP and by QUIC")),
            (true, false) => match link.failed(Transport::Quic) {
                None => Finding::ok("peer", format!("{name} answers by TCP")),
                Some((address, why)) => Finding::warning(
                    "peer",
                    format!("{name} answers by TCP and not by QUIC, which is UDP ({why})"),
                    format!(
                        "sudo ufw allow {}/udp      on {host}, and see whether the network between lets UDP pass",
                        port(address)
                    ),
                ),
            },
            (false, true) => match link.failed(Transport::Tcp) {
                None => Finding::ok("peer", format!("{name} answers by QUIC")),
                Some((address, why)) => Finding::warning(
                    "peer",
                    format!("{name} answers by QUIC and not by TCP ({why})"),
                    format!("sudo ufw allow {}/tcp      on {host}", port(address)),
                ),
            },
            (false, false) => {
                let (address, why) = link.failed(Transport::Tcp).or(link.failed(Transport::Quic)).unzip();
                let at = address.map(|address| format!("{host}:{}", port(address))).unwrap_or_else(|| host.clone());
                let what = match &link.place.1 {
                    Some(peer) => {
                        format!("{} does not answer at {at} ({})", self.name(peer), why.unwrap_or("no answer"))
                    }
                    None => format!("nobody answers at {at} ({})", why.unwrap_or("no answer")),
                };
                let fix =
                    format!("paceline status      on {host}: see that the node runs, and that the port is open there");
                if is_asked { Finding::problem("peer", what, fix) } else { Finding::warning("peer", what, fix) }
            }
        }
    }

    fn version(&self, met: &Met) -> Option<Finding> {
        let theirs: u32 = met.version.strip_prefix("/paceline/")?.parse().ok()?;
        (theirs != PROTOCOL_VERSION).then(|| {
            Finding::problem(
                "version",
                format!(
                    "{} speaks version {theirs} of the protocol, and this program version {PROTOCOL_VERSION}",
                    self.named(met)
                ),
                "paceline --version      on both; all nodes of a run need the same",
            )
        })
    }

    fn clocks(&self) -> Vec<Finding> {
        let known: Vec<(&Met, i64)> = self.met.iter().filter_map(|m| Some((m, m.clock_ahead_ms?))).collect();
        let off = known.iter().filter(|(_, ms)| ms.abs() > CLOCK_MS).map(|(met, ms)| {
            let (seconds, way) = (ms.abs() / 1_000, if *ms > 0 { "ahead of" } else { "behind" });
            Finding::warning(
                "clock",
                format!(
                    "the clock of {} is {seconds} s {way} this machine's: logs and --hours disagree",
                    self.named(met)
                ),
                "sudo timedatectl set-ntp true      on the machine whose clock is wrong",
            )
        });
        let off: Vec<Finding> = off.collect();
        match off.is_empty() && !known.is_empty() {
            true => vec![Finding::ok("clock", format!("within {} s of {} others", CLOCK_MS / 1_000, known.len()))],
            false => off,
        }
    }

    /// Runs of the same name with another run file.
    async fn same_names(&self, run_file: &RunFile) -> Vec<Finding> {
        let own = run_file.run_id();
        let mut seen = BTreeSet::new();
        let mut findings = Vec::new();
        for met in self.met {
            for run in met.runs.iter().filter(|run| run.name == run_file.run.name && run.run != own) {
                if seen.len() >= OTHER_RUNS_MAX || !seen.insert(run.run) {
                    continue;
                }
                let at: Vec<Multiaddr> = met.addresses.iter().map(|address| with_peer(address, met.peer)).collect();
                let differ = differences(&at, run.run, run_file, FILE_WAIT).await;
                findings.push(Finding::problem(
                    "run file",
                    format!("{} is in another run called {} ({}){differ}", self.named(met), run.name, run.run.short()),
                    "scp the one run file to all machines, or `paceline join TICKET` with a ticket of one",
                ));
            }
            if met.runs.iter().any(|run| run.run == own) && seen.insert(own) {
                findings.push(Finding::ok(
                    "run file",
                    format!("{} has this very run file of {}", self.named(met), run_file.run.name),
                ));
            }
        }
        findings
    }
}

/// Where somebody is, and who, as far as that is known.
type Place = (Option<String>, Option<PeerId>);

/// What dialling the addresses of a place gave.
struct Link<'a> {
    place: &'a Place,
    all: Vec<&'a Dialled>,
}

impl<'a> Link<'a> {
    fn of(place: &'a Place, dialled: &'a [Dialled]) -> Self {
        let is_it = |d: &&Dialled| {
            let peer = peer_of(&d.address).or(d.outcome.clone().ok());
            host(&d.address) == place.0 && (peer == place.1 || peer.is_none())
        };
        Self { place, all: dialled.iter().filter(is_it).collect() }
    }

    fn by(&self, wanted: Transport) -> impl Iterator<Item = &'a Dialled> {
        self.all.iter().copied().filter(move |d| transport(&d.address) == Some(wanted))
    }

    fn works(&self, by: Transport) -> bool {
        self.by(by).any(|d| d.outcome.is_ok())
    }

    fn lacks(&self, by: Transport) -> bool {
        !self.works(by) && self.failed(by).is_some()
    }

    /// The address that failed, where the peer itself said that it listens if it did, and why.
    fn failed(&self, by: Transport) -> Option<(&'a Multiaddr, &'a str)> {
        let failed = |d: &'a Dialled| Some((&d.address, d.outcome.as_ref().err()?.as_str()));
        let said = self.by(by).filter(|d| peer_of(&d.address).is_some()).find_map(failed);
        said.or_else(|| self.by(by).find_map(failed))
    }
}

fn host(address: &Multiaddr) -> Option<String> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.to_string()),
        Protocol::Ip6(ip) => Some(ip.to_string()),
        // It may stand in a command that somebody pastes.
        Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) => {
            is_host_name(&name).then(|| name.to_string())
        }
        _ => None,
    }
}

/// Nodes of this very network that answer and were not heard by multicast.
fn unheard(dialled: &[Dialled], heard: &[Met]) -> Vec<Finding> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let is_near = |address: &Multiaddr| match address.iter().next() {
        Some(Protocol::Ip4(ip)) => interfaces.iter().any(|interface| match &interface.addr {
            IfAddr::V4(own) if !own.ip.is_loopback() => {
                let mask = u32::from(own.netmask);
                ip != own.ip && u32::from(ip) & mask == u32::from(own.ip) & mask
            }
            _ => false,
        }),
        _ => false,
    };
    let silent = dialled.iter().filter_map(|d| {
        let peer = d.outcome.as_ref().ok().filter(|peer| heard.iter().all(|met| met.peer != **peer))?;
        Some((*peer, host(&d.address).filter(|_| is_near(&d.address))?))
    });
    let silent: BTreeMap<PeerId, String> = silent.collect();
    let found = |name: &String| {
        Finding::warning(
            "multicast",
            format!(
                "{name} answers and is not heard by multicast, though it is in this network: it runs with --no-mdns, or something between drops UDP 5353"
            ),
            format!(
                "sudo ufw allow 5353/udp      on both; or give the node here --bootstrap {name}:PORT, or join with a ticket"
            ),
        )
    };
    silent.values().map(found).collect()
}

/// Somebody else with this home's identity, whose node does not run.
fn twin(met: &[Met], me: &str) -> Option<Finding> {
    let twin = met.iter().find(|met| met.peer.to_string() == me)?;
    let at = twin.addresses.iter().find_map(host).unwrap_or_default();
    Some(Finding::problem(
        "identity",
        format!("another process has this home's identity, at {at}: the home was copied, or is in use there"),
        "stop one of the two; to make a copy a node of its own, move identity.key, options.json, store.redb and store.mark out of it",
    ))
}
