//! Two nodes on one local network find each other without any address (promise 7 of the design). mDNS doesn't work on
//! loopback, so there are two network namespaces and a cable between them. Needs root and `ip`; where they are missing the
//! test says so and passes.

#![cfg(target_os = "linux")]

mod net_common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use net_common::{TestNet, options, run_file};
use paceline::net::NetEvent;

/// Set in the processes that are the nodes.
const NODE: &str = "PACELINE_TEST_MDNS_NODE";

/// Two namespaces with a cable between them. Taken down when dropped.
struct Cable([String; 2]);

impl Cable {
    fn lay() -> Option<Self> {
        let id = std::process::id();
        let cable = Self(["l", "r"].map(|end| format!("pln{id}{end}")));
        let [left, right] = cable.0.each_ref().map(String::as_str);
        let (l, r) = (format!("w{id}l"), format!("w{id}r"));
        let cabled = run(&["netns", "add", left])
            && run(&["netns", "add", right])
            && run(&["link", "add", &l, "netns", left, "type", "veth", "peer", "name", &r, "netns", right]);
        let ends = [(left, &l, "10.213.8.1/24"), (right, &r, "10.213.8.2/24")];
        let up = |(name, link, ip): (&str, &String, &str)| {
            run(&["-n", name, "addr", "add", ip, "dev", link])
                && run(&["-n", name, "link", "set", link, "up", "multicast", "on"])
                && run(&["-n", name, "route", "add", "default", "dev", link])
        };
        (cabled && ends.into_iter().all(up)).then_some(cable)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in &self.0 {
            run(&["netns", "del", name]);
        }
    }
}

fn run(arguments: &[&str]) -> bool {
    Command::new("ip").args(arguments).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

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
    let Some(cable) = Cable::lay() else {
        eprintln!("skipped: network namespaces need root and `ip`");
        return;
    };
    let mut told = Vec::new();
    let mut nodes = Vec::new();
    for name in &cable.0 {
        let mut child = Command::new("ip")
            .args(["netns", "exec", name])
            .arg(std::env::current_exe().expect("this program"))
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
