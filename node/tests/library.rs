//! Nodes as a library: three in this process, over loopback, each with a learner of the caller's.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use paceline::learn::{Plan, Workers};
use paceline::node::{Node, NodeError, Options, Running};
use paceline::run_file::{self, RunFile};
use paceline::simulate::{Experiment, Simulation};
use paceline_model::Device;
use paceline_protocol::base::roster::Part;
use paceline_protocol::io::Event;

const RUN: &str = "[run]\nname = \"library\"\nrounds = 3\n[model]\narch = \"shapes-cnn\"\n[data]\n\
    dataset = \"shapes\"\nsamples = 300\n[round]\nmin_updates = 3\n";

/// Far beyond what it takes, so that a slow machine fails nothing.
const PATIENCE: Duration = Duration::from_secs(180);

fn run_file() -> RunFile {
    run_file::parse(RUN, "run.toml").expect("it is sound")
}

#[test]
fn a_learner_of_the_callers_is_simulated() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run_file = run_file();
    let plan = Plan::of(&run_file).expect("it can be trained");
    let learner = Arc::new(plan.learner(plan.data(None, None).expect("it is generated"), Device::Cpu));
    let experiment = Experiment { run_file, lr_place: "run.toml".to_owned(), learner, weights: None, clients: 3 };
    let workers = Workers::new(2).expect("threads");
    let mut simulation = Simulation::open(experiment, None, workers, folder.path()).expect("the folder is empty");
    let shares = Mutex::new(Vec::new());
    let show = |share| shares.lock().expect("no panic").push(share);
    while !simulation.is_over() {
        assert!(simulation.next_round(&AtomicBool::new(false), &show).expect("it trains").is_some());
    }
    assert_eq!(simulation.rounds().len(), 3);
    assert!(simulation.summary(0).best.is_some_and(|best| best > 0.0));
    let last = shares.into_inner().expect("no panic").last().copied();
    assert!(last.is_some_and(|share| share > 0.99), "{last:?}");
}

async fn start(homes: &Path, number: u32, others: &[Running], exits: bool) -> Running {
    let (run_file, part) = (run_file(), Some(Part { index: number, of: 3 }));
    let plan = Plan::of(&run_file).expect("it can be trained");
    let data = plan.data(None, part).expect("it is generated");
    let options = Options {
        part,
        threads: Some(1),
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().expect("an address")],
        bootstrap: others.iter().flat_map(Running::addresses).collect(),
        no_mdns: true,
        exits_when_done: exits,
        ..Options::default()
    };
    let node = Node::open(homes.join(number.to_string()), run_file).await.expect("the home is free");
    node.run(Arc::new(plan.learner(data, Device::Cpu)), options).await.expect("it runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_in_one_process_come_to_one_model() {
    let homes = tempfile::tempdir().expect("a temporary folder");
    let mut nodes = Vec::new();
    for number in 1..=3 {
        nodes.push(start(homes.path(), number, &nodes, true).await);
    }
    let mut events = nodes[0].events();
    for node in &mut nodes {
        let over = tokio::time::timeout(PATIENCE, node.ended()).await.expect("it ends").expect("nothing fails");
        assert_eq!(over, Some(Event::Finished { complete: true }));
    }
    let committed = std::iter::from_fn(|| events.try_recv().ok()).filter(|e| matches!(e, Event::Committed { .. }));
    assert!(committed.count() >= 3, "each round is told");
    let rounds = nodes[0].rounds();
    assert_eq!(rounds.len(), 3);
    assert!(
        rounds.iter().all(|r| r.contributions.len() == 3 && r.accuracy.is_some() && r.metrics.contains_key("loss"))
    );
    for node in &nodes[1..] {
        assert_eq!(node.rounds().last().map(|r| r.model_hash.clone()), rounds.last().map(|r| r.model_hash.clone()));
    }
    let status = nodes[0].status().expect("it has begun");
    assert_eq!((status.run_name.as_str(), status.roster.len()), ("library", 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_is_one_nodes_alone_and_goes_on_after_a_stop() {
    let homes = tempfile::tempdir().expect("a temporary folder");
    let running = start(homes.path(), 1, &[], false).await;
    let taken = Node::open(homes.path().join("1"), run_file()).await;
    assert!(matches!(taken, Err(NodeError::Failed(_))), "a node runs in it");
    let id = running.id();
    running.stop().await.expect("it stops");
    let again = start(homes.path(), 1, &[], false).await;
    assert_eq!(again.id(), id);
    again.stop().await.expect("it stops");
    let other = run_file::parse(&RUN.replace("rounds = 3", "rounds = 4"), "run.toml").expect("it is sound");
    let refused = Node::open(homes.path().join("1"), other).await.expect_err("it is the home of another run");
    assert!(refused.to_string().contains("is the home of run library"), "{refused}");
}
