//! This machine: interfaces, multicast, ports, disk, memory, data.

use std::io::ErrorKind;
use std::net::Ipv4Addr;

use libp2p::Multiaddr;
use paceline_bootstrap::hears_own_multicast;

use super::{Finding, Level, Patient};
use crate::learn::Plan;
use crate::memory;
use crate::net::port_is_free;
use crate::store::{Home, known_ports};

/// Below that a disk has too little room for anything but an end.
const DISK_MIN: u64 = 64 << 20;

/// Below that it will soon.
const DISK_LOW: u64 = 1 << 30;

/// Models of which a home has room at least: the one before, the present one, the next, the best, and updates.
const MODELS: u64 = 8;

/// Copies of a net's weights that training holds at a time, activations left aside.
const WEIGHTS_HELD: u64 = 6;

/// Memory that a node takes whatever it trains.
const MEMORY_MIN: u64 = 200 << 20;

pub(super) fn examine(patient: &Patient) -> Vec<Finding> {
    let (mut findings, interfaces) = interfaces();
    if patient.mdns {
        let mut heard: Vec<Finding> = interfaces.into_iter().map(|(name, ip)| multicast(&name, ip)).collect();
        if heard.iter().any(|finding| finding.level == Level::Ok) {
            // By one of them others can be met: a tunnel or a bridge need not carry multicast.
            heard.iter_mut().for_each(|finding| finding.level = finding.level.min(Level::Warning));
        }
        findings.extend(heard);
    }
    let is_running = patient.home.as_ref().is_some_and(Home::is_running);
    let plan = patient.run_file.as_ref().and_then(|run_file| Plan::of(run_file).ok());
    let model_bytes = plan.as_ref().map_or(0, |plan| plan.formats.state.len());
    if let Some(home) = &patient.home {
        match is_running {
            true => findings.push(Finding::ok("home", format!("a node runs on {}", home.dir().display()))),
            false => findings.extend(ports(home, &patient.listen)),
        }
        // What a node that runs has is there already.
        findings.extend(disk(home, if is_running { 0 } else { model_bytes }));
        if home.is_paused() {
            findings.push(Finding::warning("pause", "this node is paused: it trains nothing", "paceline resume"));
        }
    }
    findings.extend(memory_left(model_bytes).filter(|_| !is_running));
    if let Some(words) = &patient.trainer {
        findings.extend(words.first().map(|program| trainer(program)));
    } else if let (Some(plan), false) = (&plan, is_running) {
        findings.push(data(plan, patient));
    }
    findings
}

/// What connects this machine, and the interfaces on which others can be heard.
fn interfaces() -> (Vec<Finding>, Vec<(String, Ipv4Addr)>) {
    let all = match if_addrs::get_if_addrs() {
        Ok(all) => all,
        Err(error) => {
            let found = Finding::problem("interfaces", format!("the system names none: {error}"), "ip addr");
            return (vec![found], Vec::new());
        }
    };
    let others: Vec<_> = all.into_iter().filter(|interface| !interface.is_loopback()).collect();
    let named: Vec<String> = others.iter().map(|i| format!("{} {}", i.name, i.ip())).collect();
    let by_number = others.iter().filter(|i| !i.is_p2p()).filter_map(|i| match i.ip() {
        std::net::IpAddr::V4(ip) => Some((i.name.clone(), ip)),
        std::net::IpAddr::V6(_) => None,
    });
    let by_number: Vec<(String, Ipv4Addr)> = by_number.collect();
    let found = match named.is_empty() {
        true => Finding::warning(
            "interfaces",
            "this machine is in no network: nodes of other machines can't reach it",
            "ip link show      and connect one, or see why it is down",
        ),
        false => Finding::ok("interfaces", named.join(", ")),
    };
    (vec![found], by_number)
}

fn multicast(name: &str, ip: Ipv4Addr) -> Finding {
    const FIX: &str =
        "sudo ufw allow 5353/udp      (or: sudo firewall-cmd --add-service=mdns; or give --bootstrap ADDR or a ticket)";
    match hears_own_multicast(ip) {
        Ok(true) => Finding::ok("multicast", format!("{name}: what is sent to the mDNS group comes back")),
        Ok(false) => Finding::problem(
            "multicast",
            format!(
                "{name}: what this machine sends to the mDNS group does not even reach itself: a firewall drops it"
            ),
            FIX,
        ),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Finding::problem("multicast", format!("{name}: a firewall of this machine lets no multicast out"), FIX)
        }
        Err(error) => Finding::problem("multicast", format!("{name}: the system refuses multicast ({error})"), FIX),
    }
}

/// Whether the ports that were given can be had, and those at which the others know this node.
fn ports(home: &Home, listen: &[Multiaddr]) -> Vec<Finding> {
    let kept = known_ports(home).into_iter().filter_map(|(asked, port)| {
        let asked: Multiaddr = asked.parse().ok()?;
        crate::net::with_free_port(&asked, port)
    });
    // Those were found where no others were given.
    let kept: Vec<Multiaddr> = if listen.is_empty() { kept.collect() } else { Vec::new() };
    let is_given = !listen.is_empty();
    let all: Vec<&Multiaddr> = listen.iter().chain(&kept).collect();
    let taken = |address: &Multiaddr| {
        let error = port_is_free(address).err()?;
        let port = crate::net::port(address).unwrap_or_default();
        Some(match error.kind() {
            ErrorKind::AddrInUse if is_given => Finding::problem(
                "ports",
                format!("{address} can't be listened on: another program has the port"),
                format!("sudo ss -lntup 'sport = :{port}'      and stop that program, or give another --listen"),
            ),
            ErrorKind::AddrInUse => Finding::warning(
                "ports",
                format!(
                    "{address}, at which the others know this node, is another program's by now: it takes another port"
                ),
                format!("sudo ss -lntup 'sport = :{port}'      and stop that program, if the port matters"),
            ),
            _ => Finding::problem(
                "ports",
                format!("{address} can't be listened on: {error}"),
                "ip addr      and give --listen an address of this machine, or a port above 1023",
            ),
        })
    };
    let found: Vec<Finding> = all.iter().filter_map(|address| taken(address)).collect();
    match (found.is_empty(), all.is_empty()) {
        (true, true) => vec![Finding::ok("ports", "the system chooses free ones")],
        (true, false) => {
            let names: Vec<String> = all.iter().map(ToString::to_string).collect();
            vec![Finding::ok("ports", format!("nobody has {}", names.join(", ")))]
        }
        (false, _) => found,
    }
}

#[cfg(unix)]
fn disk(home: &Home, model_bytes: u64) -> Option<Finding> {
    let dir = home.dir();
    // A home that is yet to be made will be where its folder is.
    let there = dir.ancestors().find(|path| path.exists())?;
    let fix = format!("df -h {}      and make room there, or give another --home", there.display());
    let about = match rustix::fs::statvfs(there) {
        Ok(about) => about,
        Err(error) => return Some(Finding::warning("disk", format!("{}: {error}", there.display()), fix)),
    };
    let (free, needed) = (about.f_bavail.saturating_mul(about.f_frsize), DISK_MIN.max(MODELS * model_bytes));
    let told = format!("{} MiB are free at {}", free >> 20, there.display());
    Some(match free {
        _ if free < needed => {
            Finding::problem("disk", format!("{told}; a node needs {} MiB and would stop", needed >> 20), fix)
        }
        _ if free < DISK_LOW => Finding::warning("disk", told, fix),
        _ => Finding::ok("disk", told),
    })
}

#[cfg(not(unix))]
fn disk(_: &Home, _: u64) -> Option<Finding> {
    None
}

fn memory_left(model_bytes: u64) -> Option<Finding> {
    let free = memory::available()?;
    let needed = MEMORY_MIN + WEIGHTS_HELD * model_bytes;
    let told = format!("{} MiB of memory are free", free >> 20);
    Some(match free < needed {
        true => Finding::warning(
            "memory",
            format!("{told}, and a node of this run takes about {} MiB", needed >> 20),
            "free -h      and end what takes most, or give fewer --threads",
        ),
        false => Finding::ok("memory", told),
    })
}

fn trainer(program: &str) -> Finding {
    let is_path = program.contains(std::path::MAIN_SEPARATOR);
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let is_there = match is_path {
        true => std::path::Path::new(program).is_file(),
        false => std::env::split_paths(&folders).any(|folder| folder.join(program).is_file()),
    };
    match is_there {
        true => Finding::ok("trainer", format!("{program} is there")),
        false => Finding::problem(
            "trainer",
            format!("{program}, with which --trainer begins, is not there"),
            format!("command -v {program}      or give its whole path"),
        ),
    }
}

fn data(plan: &Plan, patient: &Patient) -> Finding {
    match plan.data(patient.data.as_deref(), patient.part) {
        Ok(data) => Finding::ok(
            "data",
            format!("{} {} to train on, {} held out", data.train.len(), data.train.noun(), data.test.len()),
        ),
        Err(error) => {
            let fix = match &patient.data {
                Some(path) => format!("ls -l {}      and give --data the place where they are", path.display()),
                None => "give --data PATH, as `paceline join` takes it".to_owned(),
            };
            Finding::problem("data", error.to_string(), fix)
        }
    }
}
