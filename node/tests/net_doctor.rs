//! What `paceline doctor` finds on a network of two machines: a healthy one, and each thing that can be wrong with it. Machines are
//! network namespaces; that needs root, `ip` and `nft`. Where they are missing a test says so and passes.

#![cfg(target_os = "linux")]

#[path = "../../bootstrap/tests/shared/cable.rs"]
mod cable;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cable::{Cable, Killed};
use futures::StreamExt;
use libp2p::{SwarmBuilder, identify, noise, tcp, yamux};
use serde_json::Value;
use tempfile::TempDir;

/// Longest wait for a node to be there.
const PATIENCE: Duration = Duration::from_secs(60);

/// Two machines and a folder for their files.
struct Lan {
    dir: TempDir,
    cable: Cable,
}

impl Lan {
    fn lay(network: u8) -> Option<Self> {
        let has_nft = Command::new("nft").arg("--version").stdout(Stdio::null()).status().is_ok_and(|s| s.success());
        let cable = if has_nft { Cable::lay(network) } else { None };
        if cable.is_none() {
            eprintln!("skipped: network namespaces need root, `ip` and `nft`");
        }
        let lan = Self { dir: tempfile::tempdir().expect("a temporary folder"), cable: cable? };
        for end in 0..2 {
            let up = lan.cable.at(end, "ip").args(["link", "set", "lo", "up"]).status();
            assert!(up.is_ok_and(|status| status.success()), "root may");
        }
        Some(lan)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A run file that waits for more nodes than there are.
    fn run_file(&self, name: &str, samples: u32) -> PathBuf {
        let path = self.path(name);
        let text = format!(
            "run = {{ name = \"doctored\", rounds = 5, min_nodes = 5 }}\nmodel = {{ arch = \"mlp\" }}\n\
             data = {{ dataset = \"shapes\", samples = {samples} }}\n"
        );
        std::fs::write(&path, text).expect("the folder can be written to");
        path
    }

    fn paceline(&self, end: usize) -> Command {
        let mut command = self.cable.at(end, env!("CARGO_BIN_EXE_paceline"));
        command.env_remove("RUST_LOG").env("HOME", self.path("nobody")).env("XDG_DATA_HOME", self.path("nobody"));
        command
    }

    /// A node at an end that waits for others, once its page answers.
    fn node(&self, end: usize, home: &str, arguments: &[&str], more: &[(&str, &Path)]) -> Killed {
        let home = self.path(home);
        let log = std::fs::File::create(self.path(&format!("log-{end}"))).expect("a log");
        let mut command = self.paceline(end);
        command.arg("join").args(arguments).arg("--home").arg(&home);
        command.envs(more.iter().copied());
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("the program starts");
        let node = Killed(child);
        let began = Instant::now();
        while !home.join("ports.json").exists() && !home.join("http").exists() {
            let log = std::fs::read_to_string(self.path(&format!("log-{end}"))).unwrap_or_default();
            assert!(began.elapsed() < PATIENCE, "the node does not start:\n{log}");
            std::thread::sleep(Duration::from_millis(50));
        }
        node
    }

    /// What doctor finds at the other end.
    fn doctor(&self, arguments: &[&str]) -> Vec<Value> {
        findings(self.paceline(1).args(["doctor", "--format", "json"]).args(arguments))
    }

    /// Drops what a rule of nft says at an end: `hook` is input or output.
    fn block(&self, end: usize, hook: &str, rule: &str) {
        let nft = |what: &str| {
            let done = self.cable.at(end, "nft").arg(what).status().expect("it is there");
            assert!(done.success(), "nft {what}");
        };
        nft("add table inet wall");
        nft(&format!("add chain inet wall {hook} {{ type filter hook {hook} priority 0; }}"));
        nft(&format!("add rule inet wall {hook} {rule} drop"));
    }
}

fn findings(command: &mut Command) -> Vec<Value> {
    let output = command.output().expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let all: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let problems = all.iter().filter(|finding| finding["level"] == "problem").count();
    assert_eq!(
        output.status.code(),
        Some(i32::from(problems > 0)),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    all
}

/// The finding about something, whose text has these parts. It has a fix unless all is well.
fn find<'a>(all: &'a [Value], about: &str, level: &str, parts: &[&str]) -> &'a Value {
    let has = |finding: &&Value| {
        let what = finding["what"].as_str().unwrap_or_default();
        finding["about"] == about && finding["level"] == level && parts.iter().all(|part| what.contains(part))
    };
    let found = all.iter().find(has).unwrap_or_else(|| panic!("no {level} about {about} with {parts:?} in {all:#?}"));
    assert_eq!(found["fix"].is_string(), level != "ok", "{found}");
    found
}

fn is_there(all: &[Value], about: &str, level: &str) -> bool {
    all.iter().any(|finding| finding["about"] == about && finding["level"] == level)
}

#[test]
fn a_healthy_network_has_no_problem() {
    let Some(lan) = Lan::lay(20) else { return };
    let run = lan.run_file("run.toml", 300).display().to_string();
    let _node = lan.node(0, "a", &[&run], &[]);
    let all = lan.doctor(&[&run]);
    assert!(all.iter().all(|finding| finding["level"] != "problem"), "{all:#?}");
    find(&all, "nodes", "ok", &["1 are met", &lan.cable.address(0)]);
    find(&all, "peer", "ok", &["answers by TCP and by QUIC"]);
    find(&all, "run file", "ok", &["this very run file of doctored"]);
    find(&all, "clock", "ok", &["1 others"]);
    find(&all, "multicast", "ok", &["comes back"]);
    find(&all, "data", "ok", &["images to train on"]);
}

#[test]
fn another_run_file_of_the_same_name_is_told_with_the_keys_that_differ() {
    let Some(lan) = Lan::lay(21) else { return };
    let theirs = lan.run_file("theirs.toml", 300).display().to_string();
    let ours = lan.run_file("ours.toml", 301).display().to_string();
    let _node = lan.node(0, "a", &[&theirs], &[]);
    find(
        &lan.doctor(&[&ours]),
        "run file",
        "problem",
        &["another run called doctored", "[data] samples: 300 there, 301 here"],
    );
}

#[test]
fn nodes_that_wait_beside_each_other_with_other_run_files_both_say_so() {
    let Some(lan) = Lan::lay(22) else { return };
    let theirs = lan.run_file("theirs.toml", 300).display().to_string();
    let ours = lan.run_file("ours.toml", 301).display().to_string();
    let _nodes = [lan.node(0, "a", &[&theirs], &[]), lan.node(1, "b", &[&ours], &[])];
    for (end, home, differ) in [(0, "a", "samples: 301 there, 300 here"), (1, "b", "samples: 300 there, 301 here")] {
        let began = Instant::now();
        loop {
            let status = lan.paceline(end).args(["status", "--home"]).arg(lan.path(home)).output().expect("it starts");
            let text = String::from_utf8_lossy(&status.stdout).into_owned();
            if text.contains("another run file named doctored") && text.contains(differ) {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{home} says:\n{text}");
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

#[test]
fn multicast_that_a_firewall_of_this_machine_drops_is_a_problem() {
    let Some(lan) = Lan::lay(23) else { return };
    lan.block(1, "input", "udp dport 5353");
    let all = lan.doctor(&[]);
    find(&all, "multicast", "problem", &["does not even reach itself"]);
    find(&all, "nodes", "warning", &["no node is heard"]);
    lan.block(1, "output", "udp dport 5353");
    find(&lan.doctor(&[]), "multicast", "problem", &["lets no multicast out"]);
}

#[test]
fn multicast_that_is_dropped_on_the_way_shows_on_a_node_that_answers() {
    let Some(lan) = Lan::lay(24) else { return };
    let run = lan.run_file("run.toml", 300).display().to_string();
    let _node = lan.node(0, "a", &[&run, "--listen", "0.0.0.0:4001"], &[]);
    lan.block(0, "input", "udp dport 5353");
    lan.block(0, "output", "udp dport 5353");
    let there = format!("{}:4001", lan.cable.address(0));
    let all = lan.doctor(&["--peer", &there]);
    find(&all, "multicast", "ok", &["comes back"]);
    find(&all, "multicast", "warning", &[&lan.cable.address(0), "is not heard by multicast"]);
    find(&all, "peer", "ok", &["answers by TCP and by QUIC"]);
}

#[test]
fn udp_that_is_blocked_leaves_tcp() {
    let Some(lan) = Lan::lay(25) else { return };
    let run = lan.run_file("run.toml", 300).display().to_string();
    let _node = lan.node(0, "a", &[&run, "--listen", "0.0.0.0:4001"], &[]);
    lan.block(0, "input", "udp dport 4001");
    let there = format!("{}:4001", lan.cable.address(0));
    let all = lan.doctor(&["--peer", &there]);
    let found = find(&all, "peer", "warning", &["answers by TCP and not by QUIC, which is UDP"]);
    assert!(found["fix"].as_str().is_some_and(|fix| fix.contains("allow 4001/udp")), "{found}");
}

#[test]
fn a_port_that_another_program_has_is_a_problem() {
    let Some(lan) = Lan::lay(26) else { return };
    let run = lan.run_file("run.toml", 300).display().to_string();
    drop(lan.node(1, "b", &[&run, "--listen", "0.0.0.0:4001"], &[]));
    let home = lan.path("b").display().to_string();
    find(&lan.doctor(&["--home", &home]), "ports", "ok", &["nobody has"]);
    let _other = lan.node(1, "c", &[&run, "--listen", "0.0.0.0:4001"], &[]);
    let all = lan.doctor(&["--home", &home]);
    find(&all, "ports", "problem", &["/tcp/4001 can't be listened on"]);
    find(&all, "ports", "problem", &["/udp/4001/quic-v1 can't be listened on"]);
}

#[test]
fn a_home_that_is_in_use_elsewhere_is_told_by_its_copy() {
    let Some(lan) = Lan::lay(27) else { return };
    let run = lan.run_file("run.toml", 300).display().to_string();
    let _node = lan.node(0, "a", &[&run], &[]);
    let copied = Command::new("cp").arg("-r").arg(lan.path("a")).arg(lan.path("copy")).status().expect("cp is there");
    assert!(copied.success());
    let home = lan.path("copy").display().to_string();
    find(&lan.doctor(&["--home", &home]), "identity", "problem", &["this home's identity", &lan.cable.address(0)]);
}

#[test]
fn a_disk_that_is_full_is_a_problem() {
    let Some(lan) = Lan::lay(28) else { return };
    let run = lan.run_file("run.toml", 300).display().to_string();
    let home = lan.path("small");
    std::fs::create_dir(&home).expect("room");
    let mount = |what: &[&str]| Command::new("mount").args(what).arg(&home).status().is_ok_and(|s| s.success());
    assert!(mount(&["-t", "tmpfs", "-o", "size=16m", "none"]), "root may mount");
    drop(lan.node(1, "small", &[&run], &[]));
    let all = lan.doctor(&["--home", &home.display().to_string()]);
    assert!(Command::new("umount").arg("-l").arg(&home).status().is_ok_and(|s| s.success()));
    find(&all, "disk", "problem", &["MiB are free", "would stop"]);
}

#[test]
fn a_clock_that_is_wrong_is_told_with_its_machine() {
    let Some(lan) = Lan::lay(29) else { return };
    let (source, library) = (lan.path("clock.c"), lan.path("clock.so"));
    let shim = "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <time.h>\n\
                int clock_gettime(clockid_t id, struct timespec *t) {\n\
                  static int (*real)(clockid_t, struct timespec *);\n\
                  if (!real) real = dlsym(RTLD_NEXT, \"clock_gettime\");\n\
                  int result = real(id, t);\n\
                  if (id == CLOCK_REALTIME) t->tv_sec += 3600;\n\
                  return result;\n}\n";
    std::fs::write(&source, shim).expect("room");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").status();
    assert!(built.is_ok_and(|status| status.success()), "a C compiler is there");
    let run = lan.run_file("run.toml", 300).display().to_string();
    let _node = lan.node(0, "a", &[&run], &[("LD_PRELOAD", &library)]);
    let all = lan.doctor(&[&run]);
    find(&all, "clock", "warning", &[&lan.cable.address(0), "ahead of this machine's"]);
    assert!(!is_there(&all, "clock", "ok"));
}

/// On loopback, since the other version is played by this very process.
#[tokio::test]
async fn a_node_of_another_version_is_told() {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .expect("noise")
        .with_behaviour(|key| identify::Behaviour::new(identify::Config::new("/paceline/4".into(), key.public())))
        .expect("a behaviour")
        .build();
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().expect("an address")).expect("it listens");
    let address = loop {
        if let libp2p::swarm::SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address.to_string();
        }
    };
    let living = tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    let dir = tempfile::tempdir().expect("a temporary folder");
    let nobody = dir.path().to_owned();
    let all = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_paceline"));
        command.env("HOME", &nobody).env("XDG_DATA_HOME", &nobody).env_remove("RUST_LOG");
        findings(command.args(["doctor", "--no-mdns", "--format", "json", "--peer", &address]))
    });
    find(&all.await.expect("it ends"), "version", "problem", &["speaks version 4 of the protocol"]);
    living.abort();
}
