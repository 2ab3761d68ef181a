//! Nodes go away, are killed, come back; and those of other runs never come at all.

mod net_common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use net_common::{TestNet, options, run_file};
use paceline::net::{NetEvent, Ports};
use paceline_bootstrap::fresh_secret;

/// Set in the process that is to be killed: the address to dial first.
const VICTIM: &str = "PACELINE_TEST_VICTIM";

/// Set in that process if it listens everywhere, as nodes do by default, and not on loopback alone.
const EVERYWHERE: &str = "PACELINE_TEST_EVERYWHERE";

/// Not a test by itself: the process that `kill_one` starts and kills.
#[tokio::test]
async fn victim_process() {
    let Ok(address) = std::env::var(VICTIM) else { return };
    let mut options = options(&run_file(1), &[address.parse().expect("a multiaddr")]);
    if std::env::var(EVERYWHERE).is_ok() {
        options.listen = Vec::new();
    }
    let victim = TestNet::start(options).await;
    println!("\nvictim {}", victim.id);
    std::io::stdout().flush().expect("the parent reads");
    std::future::pending::<()>().await;
}

/// Kills a process that is up with SIGKILL, and waits until it is down.
async fn kill_one(everywhere: bool) {
    let mut a_options = options(&run_file(1), &[]);
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    if everywhere {
        a_options.listen = Vec::new();
        command.env(EVERYWHERE, "1");
    }
    let mut a = TestNet::start(a_options).await;
    let mut child = command
        .args(["--exact", "victim_process", "--nocapture"])
        .env(VICTIM, a.net.addresses()[0].to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a process");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
    let id = lines.find_map(|line| line.strip_prefix("victim ").map(str::to_owned)).expect("it says who it is");
    let victim = id.parse().expect("a node id");
    a.until_up(victim).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let known = a.net.peers();
    let killed = Instant::now();
    child.kill().expect("it is there to be killed");
    a.until(|event| matches!(event, NetEvent::PeerDown(node) if node == victim).then_some(())).await;
    println!("down {:?} after kill -9, known at {known:?}", killed.elapsed());
    child.wait().expect("it is dead");
}

#[tokio::test]
async fn a_killed_process_is_down() {
    kill_one(false).await;
}

#[tokio::test]
async fn a_killed_process_that_listened_everywhere_is_down() {
    kill_one(true).await;
}

#[tokio::test]
async fn a_node_that_shuts_down_is_down_and_up_again_when_it_is_back() {
    let file = run_file(1);
    let mut a = TestNet::of(&file, &[]).await;
    let identity = fresh_secret();
    for _ in 0..2 {
        let mut b_options = options(&file, &a.net.addresses());
        b_options.identity = identity;
        let mut b = TestNet::start(b_options).await;
        a.until_up(b.id).await;
        b.until_up(a.id).await;
        let id = b.id;
        b.net.shutdown().await;
        a.until(|event| matches!(event, NetEvent::PeerDown(node) if node == id).then_some(())).await;
    }
}

#[tokio::test]
async fn nodes_that_knew_each_other_meet_again_without_a_bootstrap() {
    let file = run_file(1);
    let (mut a_options, mut b_options) = (options(&file, &[]), options(&file, &[]));
    let port = || std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    a_options.listen = vec![format!("/ip4/127.0.0.1/tcp/{}", port()).parse().expect("a multiaddr")];
    let a = TestNet::start(a_options.clone()).await;
    b_options.bootstrap = a.net.addresses();
    let mut b = TestNet::start(b_options.clone()).await;
    b.until_up(a.id).await;
    let known: Vec<_> = b.net.peers().into_iter().flat_map(|(_, addresses)| addresses).collect();
    a.net.shutdown().await;
    b.net.shutdown().await;
    (b_options.bootstrap, b_options.known) = (Vec::new(), known);
    let mut a = TestNet::start(a_options).await;
    let mut b = TestNet::start(b_options).await;
    a.until_up(b.id).await;
    b.until_up(a.id).await;
}

#[tokio::test]
async fn ports_that_were_free_are_taken_again_unless_somebody_has_them_by_now() {
    let start = async |ports| {
        let mut options = options(&run_file(1), &[]);
        options.ports = ports;
        let mut net = TestNet::start(options).await;
        while net.net.ports().len() < 2 {
            net.until(|event| matches!(event, NetEvent::Listening(_)).then_some(())).await;
        }
        net.net
    };
    let first = start(Ports::new()).await;
    let ports = first.ports();
    assert_eq!(ports.keys().collect::<Vec<_>>(), ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"]);
    first.shutdown().await;
    let again = start(ports.clone()).await;
    assert_eq!(again.ports(), ports);
    let other = start(ports.clone()).await.ports();
    assert!(other.iter().all(|(asked, port)| *port != 0 && ports[asked] != *port), "{other:?} beside {ports:?}");
}

#[tokio::test]
async fn a_node_of_another_run_is_not_up_and_hears_nothing() {
    let mut a = TestNet::of(&run_file(1), &[]).await;
    let mut b = TestNet::of(&run_file(2), &a.net.addresses()).await;
    a.net.send(b.id, b"direct".to_vec());
    a.net.broadcast(b"gossip".to_vec());
    let (of_a, of_b) = tokio::join!(a.during(Duration::from_secs(2)), b.during(Duration::from_secs(2)));
    let strange = |events: &[String]| events.iter().any(|e| !e.starts_with("Listening"));
    assert!(!strange(&of_a) && !strange(&of_b), "{of_a:?} {of_b:?}");
}
