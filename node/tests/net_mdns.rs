//! Two nodes on one local network find each other without any address (docs/protocol.md, section 2, promise 7). mDNS
//! doesn't work on loopback, so there are two network namespaces and a cable between them. Needs root and `ip`; where
//! they are missing the test says so and passes.

#![cfg(target_os = "linux")]

#[path = "../../bootstrap/tests/shared/cable.rs"]
mod cable;
mod net_common;

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use cable::{Cable, Killed};
use net_common::{TestNet, options, run_file};
use paceline::net::NetEvent;

/// Set in the processes that are the nodes.
const NODE: &str = "PACELINE_TEST_MDNS_NODE";

/// Not a test by itself: a node that tells who is up, in a namespace of its own.
#[tokio::test]
async fn node_process() {
    if std::env::var(NODE).is_err() {
        return;
    }
    let mut options = options(&run_file(1), &[]);
    (options.listen, options.mdns) = (Vec::new(), true);
    let mut net = TestNet::start(options).await;
    println!("\nnode {}", net.id);
    let up = net.until(|event| if let NetEvent::PeerUp(node) = event { Some(node) } else { None }).await;
    println!("\nup {up}");
    std::io::stdout().flush().expect("the parent reads");
    std::future::pending::<()>().await;
}

#[test]
fn two_nodes_on_a_local_network_find_each_other_without_an_address() {
    let Some(cable) = Cable::lay(8) else {
        eprintln!("skipped: network namespaces need root and `ip`");
        return;
    };
    let mut told = Vec::new();
    let mut nodes = Vec::new();
    for end in 0..2 {
        let mut child = cable
            .at(end, std::env::current_exe().expect("this program"))
            .args(["--exact", "node_process", "--nocapture"])
            .env(NODE, "1")
            .stdout(Stdio::piped())
            .spawn()
            .expect("ip is there");
        told.push(BufReader::new(child.stdout.take().expect("it is piped")).lines().map_while(Result::ok));
        nodes.push(Killed(child));
    }
    let mut says = |i: usize, what: &str| told[i].find_map(|line| line.strip_prefix(what).map(str::to_owned));
    let ids = [says(0, "node "), says(1, "node ")];
    let ups = [says(0, "up "), says(1, "up ")];
    assert!(ids.iter().all(Option::is_some), "{ids:?}");
    assert_eq!((&ups[0], &ups[1]), (&ids[1], &ids[0]));
}
