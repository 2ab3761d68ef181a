//! Two nodes on a switch that is off for a while, which neither of them sees. Needs root and `ip`; where they are missing the test says
//! so and passes.

#![cfg(target_os = "linux")]

#[path = "../../bootstrap/tests/shared/cable.rs"]
mod cable;
mod net_common;

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cable::{Cable, Killed};
use net_common::{PATIENCE, TestNet, options, run_file};
use paceline::net::NetEvent;

/// Set in the processes that are the nodes: the address where the other is found.
const OTHER: &str = "PACELINE_TEST_CABLE_OTHER";

/// TCP waits the longer the longer nothing is answered, up to about as long again.
const OUT: Duration = Duration::from_secs(30);

/// Both must hear each other again within 3 s; twice that on a machine that is busy with something else.
const BACK_MAX: Duration = Duration::from_secs(6);

/// Longer than this, what comes is worth a line.
const GAP: Duration = Duration::from_secs(2);

/// Not a test by itself: a node that speaks all the time, and tells when it hears again after it heard nothing.
#[tokio::test]
async fn node_process() {
    let Ok(other) = std::env::var(OTHER) else { return };
    let mut options = options(&run_file(1), &[other.parse().expect("a multiaddr")]);
    options.listen = vec!["/ip4/0.0.0.0/tcp/4000".parse().expect("a multiaddr")];
    let mut net = TestNet::start(options).await;
    let other = net.until(|event| if let NetEvent::PeerUp(node) = event { Some(node) } else { None }).await;
    let mut speak = tokio::time::interval(Duration::from_millis(100));
    let mut heard: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = speak.tick() => net.net.send(other, b"here".to_vec()),
            event = net.events.recv() => {
                if !matches!(event.expect("the network lives"), NetEvent::Message { .. }) {
                    continue;
                }
                if heard.replace(Instant::now()).is_none_or(|heard| heard.elapsed() >= GAP) {
                    println!("\nheard");
                    std::io::stdout().flush().expect("the parent reads");
                }
            }
        }
    }
}

#[test]
fn after_a_cable_was_out_nodes_hear_each_other_within_seconds() {
    let Some(cable) = Cable::lay_over_switch(9) else {
        eprintln!("skipped: network namespaces need root and `ip`");
        return;
    };
    let (tell, told) = mpsc::channel();
    let mut nodes = Vec::new();
    for end in 0..2 {
        let mut child = cable
            .at(end, std::env::current_exe().expect("this program"))
            .args(["--exact", "node_process", "--nocapture"])
            .env(OTHER, format!("/ip4/{}/tcp/4000", cable.address(1 - end)))
            .stdout(Stdio::piped())
            .spawn()
            .expect("ip is there");
        let out = BufReader::new(child.stdout.take().expect("it is piped"));
        nodes.push(Killed(child));
        let tell = tell.clone();
        std::thread::spawn(move || {
            let heard = out.lines().map_while(Result::ok).filter(|line| line == "heard");
            heard.for_each(|_| {
                let _ = tell.send(end);
            });
        });
    }
    let both_hear = |within: Duration| {
        let (began, mut ends) = (Instant::now(), [false; 2]);
        while ends != [true; 2] {
            ends[told.recv_timeout(within).expect("they hear each other")] = true;
        }
        began.elapsed()
    };
    both_hear(PATIENCE);
    assert!(cable.turn_switch("down"), "it can be turned off");
    std::thread::sleep(OUT);
    assert!(cable.turn_switch("up"), "it can be turned on again");
    let back = both_hear(PATIENCE);
    println!("out for {OUT:?}: both hear each other after {back:?}");
    assert!(back <= BACK_MAX, "it took {back:?}");
}
