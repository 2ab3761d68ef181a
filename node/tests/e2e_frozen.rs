//! Real processes of which one is frozen, as a laptop that is closed: connected, and silent.

mod cluster;

use cluster::{Cluster, shapes};
use paceline_protocol::NodeId;

/// Rounds that are looked at; the one in which the node froze may wait for its update.
const ROUNDS: u64 = 4;

/// Waiting for the frozen node's answer cost 10 s and more in each round; without it a round takes about 2 s here.
const OVERHEAD_MS_MAX: u64 = 6_000;

#[test]
fn nobody_waits_for_a_frozen_node() {
    let mut cluster = Cluster::new(&shapes(3, 200, 300, "shapes-cnn"));
    cluster.start_all(3);
    cluster.wait("round 3", |c| (0..3).all(|i| c.round(i) >= 3).then_some(()));
    // The first of the model's chunks is the one of the smallest id: whoever lacks it would ask this node.
    let id = |i: usize| {
        let status = cluster.wait("its status", |c| c.status(i));
        status["node_id"].as_str().expect("a node has an id").parse::<NodeId>().expect("it is one")
    };
    let frozen = (0..3).min_by_key(|i| id(*i)).expect("there are three");
    let survivor = (frozen + 1) % 3;
    cluster.signal(frozen, "STOP");
    let began = cluster.round(survivor);
    cluster.wait("some rounds without it", |c| (c.round(survivor) > began + ROUNDS + 1).then_some(()));
    let name = cluster.nodes[frozen].name.clone();
    let names_it = |c: &Cluster| {
        let status = c.status(survivor)?;
        let reason = status["reason"].as_str()?;
        (reason.contains(&name) && reason.contains("see whether it runs")).then_some(())
    };
    cluster.wait("the frozen node's name in the status", names_it);
    let text = String::from_utf8_lossy(&cluster.command(survivor, &["status"]).stdout).into_owned();
    let line = text.lines().find(|line| line.trim_start().starts_with(&name)).unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains("silent") && line.contains(" s ago"), "what is only remembered is shown as such: {text}");
    let rounds = cluster.rounds(survivor);
    let overheads: Vec<u64> = rounds
        .iter()
        .filter(|r| r["round"].as_u64().is_some_and(|round| round > began + 1))
        .map(|r| r["overhead_ms"].as_u64().expect("it was there"))
        .collect();
    println!("overheads with a frozen node: {overheads:?} ms");
    assert!(overheads.len() as u64 >= ROUNDS, "{overheads:?}");
    assert!(overheads.iter().all(|ms| *ms <= OVERHEAD_MS_MAX), "{overheads:?}\n{}", cluster.logs());
}
