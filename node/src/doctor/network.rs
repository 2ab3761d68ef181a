//! What is around this machine: whom it hears, who answers at the addresses that it knows, by TCP and by QUIC, and how they
//! differ from it in version, run file and clock.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use paceline_bootstrap::addresses::{Transport, peer_of, transport};
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
    let met = survey(&patient.peers, patient.mdns, WAIT).await?;
    let mut findings = vec![heard(&met, patient.mdns)];
    findings.extend(addresses(patient, &met).await?);
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

/// Each address that is known of others, dialled by itself.
async fn addresses(patient: &Patient, met: &[Met]) -> anyhow::Result<Vec<Finding>> {
    let with_peer = |met: &Met| {
        let peer = met.peer;
        met.addresses
            .iter()
            .map(move |address| paceline_bootstrap::addresses::with_peer(address, peer))
            .collect::<Vec<_>>()
    };
    let mut all: BTreeSet<Multiaddr> = patient.peers.iter().cloned().collect();
    all.extend(met.iter().flat_map(with_peer));
    let all: Vec<Multiaddr> = all.into_iter().filter(|a| transport(a).is_some()).take(ADDRESSES_MAX).collect();
    let dialled = dial(&all, WAIT).await?;
    // By host and peer: TCP and QUIC of one are told together.
    let mut places: Vec<(Option<String>, Option<PeerId>)> =
        dialled.iter().map(|d| (host(&d.address), peer_of(&d.address))).collect();
    places.sort();
    places.dedup();
    Ok(places.iter().map(|place| reached(place, &dialled)).collect())
}

fn reached(place: &(Option<String>, Option<PeerId>), dialled: &[Dialled]) -> Finding {
    let here = || dialled.iter().filter(|d| (host(&d.address), peer_of(&d.address)) == *place);
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
            let at: Vec<Multiaddr> = met
                .addresses
                .iter()
                .map(|address| paceline_bootstrap::addresses::with_peer(address, met.peer))
                .collect();
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
