//! Discovery on a local network, which mDNS doesn't do on loopback: two network namespaces and a cable between them. Needs
//! root and `ip`; where they are missing the test says so and passes.

#![cfg(target_os = "linux")]

#[path = "shared/cable.rs"]
mod cable;
mod common;

use std::process::Stdio;
use std::time::Duration;

use cable::{Cable, Killed};
use paceline_bootstrap::{ServeOptions, discover_runs, serve};

/// Set in the process that looks for runs.
const SEEKER: &str = "PACELINE_TEST_SEEKER";

/// Set in the process that serves one.
const SERVER: &str = "PACELINE_TEST_SERVER";

/// Not a test by itself: the process that `runs_on_the_local_network_are_found` starts in one namespace.
#[tokio::test]
async fn server_process() {
    if std::env::var(SERVER).is_err() {
        return;
    }
    let options = ServeOptions { run: Some(common::run_file(1)), listen: Vec::new(), home: None, mdns: true };
    serve(options, |_| {}, std::future::pending()).await.expect("a swarm");
}

/// Not a test by itself: the process that `runs_on_the_local_network_are_found` starts in the other namespace.
#[tokio::test]
async fn seeker_process() {
    if std::env::var(SEEKER).is_err() {
        return;
    }
    for run in discover_runs(&[], true, Duration::from_secs(8)).await.expect("a swarm") {
        println!("\nfound {} {:?}", run.name, run.addresses);
    }
}

#[test]
fn runs_on_the_local_network_are_found() {
    let Some(cable) = Cable::lay(7) else {
        eprintln!("skipped: network namespaces need root and `ip`");
        return;
    };
    let this = std::env::current_exe().expect("this program");
    let mut server = cable.at(0, &this);
    server.args(["--exact", "server_process"]).env(SERVER, "1").stdout(Stdio::null());
    let _server = Killed(server.spawn().expect("ip is there"));
    let seeker = cable
        .at(1, &this)
        .args(["--exact", "seeker_process", "--nocapture"])
        .env(SEEKER, "1")
        .output()
        .expect("ip is there");
    let said = String::from_utf8_lossy(&seeker.stdout);
    assert!(said.contains("found shapes") && said.contains(&cable.address(0)), "{said}");
}
