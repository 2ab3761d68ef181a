//! Discovery on a local network, which mDNS doesn't do on loopback: two network namespaces and a cable between them. Needs
//! root and `ip`; where they are missing the test says so and passes.

#![cfg(target_os = "linux")]

mod common;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use paceline_bootstrap::discover_runs;

/// Set in the process that looks for runs.
const SEEKER: &str = "PACELINE_TEST_SEEKER";

/// Two namespaces, `left` at 10.213.7.1 and `right` at 10.213.7.2. Taken down when dropped.
struct Cable {
    left: String,
    right: String,
}

impl Cable {
    fn lay() -> Option<Self> {
        let id = std::process::id();
        let cable = Self { left: format!("plb{id}l"), right: format!("plb{id}r") };
        let (left, right) = (cable.left.as_str(), cable.right.as_str());
        let veth = (format!("v{id}l"), format!("v{id}r"));
        let (l, r) = (veth.0.as_str(), veth.1.as_str());
        let steps: [&[&str]; 9] = [
            &["netns", "add", left],
            &["netns", "add", right],
            &["link", "add", l, "netns", left, "type", "veth", "peer", "name", r, "netns", right],
            &["-n", left, "addr", "add", "10.213.7.1/24", "dev", l],
            &["-n", right, "addr", "add", "10.213.7.2/24", "dev", r],
            &["-n", left, "link", "set", l, "up", "multicast", "on"],
            &["-n", right, "link", "set", r, "up", "multicast", "on"],
            &["-n", left, "route", "add", "default", "dev", l],
            &["-n", right, "route", "add", "default", "dev", r],
        ];
        steps.iter().all(|step| run(step)).then_some(cable)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in [&self.left, &self.right] {
            run(&["netns", "del", name]);
        }
    }
}

fn run(arguments: &[&str]) -> bool {
    let status = Command::new("ip").args(arguments).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test by itself: the process that `runs_on_the_local_network_are_found` starts in the other namespace.
#[tokio::test]
async fn seeker_process() {
    if std::env::var(SEEKER).is_err() {
        return;
    }
    for run in discover_runs(&[], Duration::from_secs(8)).await.expect("a swarm") {
        println!("\nfound {} {:?}", run.name, run.addresses);
    }
}

#[test]
fn runs_on_the_local_network_are_found() {
    let Some(cable) = Cable::lay() else {
        eprintln!("skipped: network namespaces need root and `ip`");
        return;
    };
    let directory = tempfile::tempdir().expect("a directory");
    let run_file = directory.path().join("run.toml");
    std::fs::write(&run_file, common::run_file(1).canonical()).expect("written");
    let _bootstrap = Killed(
        Command::new("ip")
            .args(["netns", "exec", &cable.left, env!("CARGO_BIN_EXE_paceline-bootstrap"), "--run"])
            .arg(&run_file)
            .stdout(Stdio::null())
            .spawn()
            .expect("ip is there"),
    );
    let seeker = Command::new("ip")
        .args(["netns", "exec", &cable.right])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "seeker_process", "--nocapture"])
        .env(SEEKER, "1")
        .output()
        .expect("ip is there");
    let said = String::from_utf8_lossy(&seeker.stdout);
    assert!(said.contains("found shapes") && said.contains("10.213.7.1"), "{said}");
}
