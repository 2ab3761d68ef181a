//! What is around this machine: whom it hears, who answers at the addresses that it knows, by TCP and by QUIC, and how they
//! differ from it in version, run file and clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use if_addrs::IfAddr;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use paceline_bootstrap::addresses::{Transport, peer_of, transport, with_peer};
use paceline_bootstrap::{Dialled, Met, dial, fetch_run_file, node_id, survey};
use paceline_protocol::bounds::PROTOCOL_VERSION;

use super::{Finding, Patient};
use crate::inspect;
use crate::run_file::{self, RunFile};

/// How long others may take to be heard and to answer.
const WAIT: Duration = Duration::from_secs(4);

/// How long a run file may take.
const FILE_WAIT: Duration = Duration::from_secs(3);

/// Clocks that differ by more make logs of two machines hard to read, and hours mean another time.
const CLOCK_MS: i64 = 2_000;

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
    let (heard_here, asked) = tokio::try_join!(lan, survey(&patient.peers, false, WAIT))?;
    let is_new = |met: &Met| heard_here.iter().all(|other| other.peer != met.peer);
    let met: Vec<Met> = heard_here.iter().cloned().chain(asked.into_iter().filter(is_new)).collect();
    let mut findings = vec![heard(&met, patient.mdns)];
    let dialled = dial(&known(patient, &met), WAIT).await?;
    findings.extend(reached_places(&dialled));
    if patient.mdns {
        findings.extend(unheard(&dialled, &heard_here));
    }
    findings.extend(met.iter().filter_map(version));
    findings.extend(clocks(&met));
    if let Some(run_file) = &patient.run_file {
        findings.extend(same_names(run_file, &met).await);
    }
    findings.extend(patient.home.as_ref().and_then(|home| {
        let me = inspect::node_id(home).ok()??;
        twin(&met, me.to_string(), home.is_running())
    }));
    Ok(findings)
}

/// A peer by the host that it is at.
fn named(met: &Met) -> String {
    let id = node_id(&met.peer).map_or_else(|| met.peer.to_string(), |node| node.short());
    match met.addresses.iter().find_map(host) {
        Some(host) => format!("{id} at {host}"),
        None => id,
    }
}

fn host(address: &Multiaddr) -> Option<String> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.to_string()),
        Protocol::Ip6(ip) => Some(ip.to_string()),
        Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) => Some(name.to_string()),
        _ => None,
    }
}

fn heard(met: &[Met], mdns: bool) -> Finding {
    let names: Vec<String> = met.iter().map(named).collect();
    match (names.is_empty(), mdns) {
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

/// Each address that is known of others.
fn known(patient: &Patient, met: &[Met]) -> Vec<Multiaddr> {
    let mut all: BTreeSet<Multiaddr> = patient.peers.iter().cloned().collect();
    all.extend(met.iter().flat_map(|met| met.addresses.iter().map(|address| with_peer(address, met.peer))));
    all.into_iter().filter(|a| transport(a).is_some()).take(ADDRESSES_MAX).collect()
}

/// By host and peer: TCP and QUIC of one are told together.
fn reached_places(dialled: &[Dialled]) -> Vec<Finding> {
    let place = |d: &Dialled| (host(&d.address), peer_of(&d.address).or(d.outcome.clone().ok()));
    let mut places: Vec<(Option<String>, Option<PeerId>)> = dialled.iter().map(place).collect();
    // Who does not answer by one of the two is whoever answers there by the other.
    let answers: Vec<Option<String>> = places.iter().filter(|p| p.1.is_some()).map(|p| p.0.clone()).collect();
    places.retain(|(host, peer)| peer.is_some() || !answers.contains(host));
    places.sort();
    places.dedup();
    places.iter().map(|place| reached(place, dialled)).collect()
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

fn reached(place: &(Option<String>, Option<PeerId>), dialled: &[Dialled]) -> Finding {
    let is_it = |d: &&Dialled| {
        let peer = peer_of(&d.address).or(d.outcome.clone().ok());
        host(&d.address) == place.0 && (peer == place.1 || peer.is_none())
    };
    let here = || dialled.iter().filter(is_it);
    let by = |wanted: Transport| here().filter(move |d| transport(&d.address) == Some(wanted));
    let works = |wanted| by(wanted).any(|d| d.outcome.is_ok());
    let fails = |wanted| by(wanted).find_map(|d| d.outcome.clone().err().map(|why| (d.address.clone(), why)));
    let name = place.0.clone().unwrap_or_default();
    let port = |address: &Multiaddr| crate::net::port(address).unwrap_or_default();
    match (works(Transport::Tcp), works(Transport::Quic), fails(Transport::Tcp), fails(Transport::Quic)) {
        (true, true, ..) => Finding::ok("peer", format!("{name} answers by TCP and by QUIC")),
        (true, false, _, None) => Finding::ok("peer", format!("{name} answers by TCP")),
        (false, true, None, _) => Finding::ok("peer", format!("{name} answers by QUIC")),
        (true, false, _, Some((address, why))) => {
            let fix = format!(
                "sudo ufw allow {}/udp      on {name}, and see whether the network between lets UDP pass",
                port(&address)
            );
            Finding::warning("peer", format!("{name} answers by TCP and not by QUIC, which is UDP ({why})"), fix)
        }
        (false, true, Some((address, why)), _) => {
            let fix = format!("sudo ufw allow {}/tcp      on {name}", port(&address));
            Finding::warning("peer", format!("{name} answers by QUIC and not by TCP ({why})"), fix)
        }
        (false, false, tcp, quic) => {
            let (address, why) = tcp.or(quic).unwrap_or_else(|| (Multiaddr::empty(), "no answer".to_owned()));
            let fix = format!(
                "paceline status      on {name}: see that the node runs, and that port {} is open there",
                port(&address)
            );
            Finding::warning("peer", format!("{name} does not answer at {address} ({why})"), fix)
        }
    }
}

fn version(met: &Met) -> Option<Finding> {
    let theirs = met.version.strip_prefix("/paceline/")?;
    (theirs != PROTOCOL_VERSION.to_string()).then(|| {
        Finding::problem(
            "version",
            format!(
                "{} speaks version {theirs} of the protocol, and this program version {PROTOCOL_VERSION}",
                named(met)
            ),
            "paceline --version      on both; all nodes of a run need the same",
        )
    })
}

fn clocks(met: &[Met]) -> Vec<Finding> {
    let known: Vec<(&Met, i64)> = met.iter().filter_map(|m| Some((m, m.clock_ahead_ms?))).collect();
    let off = known.iter().filter(|(_, ms)| ms.abs() > CLOCK_MS).map(|(met, ms)| {
        let (seconds, way) = (ms.abs() / 1_000, if *ms > 0 { "ahead of" } else { "behind" });
        Finding::warning(
            "clock",
            format!("the clock of {} is {seconds} s {way} this machine's: logs and --hours disagree", named(met)),
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
async fn same_names(run_file: &RunFile, met: &[Met]) -> Vec<Finding> {
    let own = run_file.run_id();
    let mut seen = BTreeSet::new();
    let mut findings = Vec::new();
    for met in met {
        for run in met.runs.iter().filter(|run| run.name == run_file.run.name && run.run != own) {
            if !seen.insert(run.run) {
                continue;
            }
            let at: Vec<Multiaddr> = met.addresses.iter().map(|address| with_peer(address, met.peer)).collect();
            let theirs = fetch_run_file(&at, run.run, FILE_WAIT).await.ok();
            let theirs = theirs.and_then(|published| run_file::parse(&published.text, "theirs").ok());
            let differ = theirs.map(|theirs| run_file::differences(&theirs, run_file).join("; ")).unwrap_or_default();
            findings.push(Finding::problem(
                "run file",
                format!("{} is in another run called {} ({}): {differ}", named(met), run.name, run.run.short()),
                "scp the one run file to all machines, or `paceline join TICKET` with a ticket of one",
            ));
        }
        if met.runs.iter().any(|run| run.run == own) && seen.insert(own) {
            findings.push(Finding::ok(
                "run file",
                format!("{} has this very run file of {}", named(met), run_file.run.name),
            ));
        }
    }
    findings
}

/// Somebody else with this home's identity.
fn twin(met: &[Met], me: String, is_running: bool) -> Option<Finding> {
    let own: BTreeSet<IpAddr> =
        if_addrs::get_if_addrs().unwrap_or_default().iter().map(|interface| interface.ip()).collect();
    let is_here = |address: &Multiaddr| match address.iter().next() {
        Some(Protocol::Ip4(ip)) => own.contains(&IpAddr::V4(ip)),
        Some(Protocol::Ip6(ip)) => own.contains(&IpAddr::V6(ip)),
        _ => false,
    };
    let twin = met.iter().find(|met| met.peer.to_string() == me)?;
    // While the node runs here it is met at this machine's own addresses.
    let elsewhere = twin.addresses.iter().find(|address| !is_here(address));
    let at = match (is_running, elsewhere) {
        (true, None) => return None,
        (true, Some(address)) => address.to_string(),
        (false, _) => twin.addresses.first()?.to_string(),
    };
    Some(Finding::problem(
        "identity",
        format!("another process has this home's identity, at {at}: the home was copied, or is in use there"),
        "stop one of the two; to make a copy a node of its own, move identity.key, options.json, store.redb and store.mark out of it",
    ))
}
