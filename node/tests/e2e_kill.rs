//! Real processes whose coordinator is killed with -9. Times are printed (`--nocapture`), not judged.

mod cluster;

use std::time::{Duration, Instant};

use cluster::{Cluster, shapes};

/// When the coordinator is killed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Moment {
    /// Everybody trains.
    Training,
    /// An update is in, others are not.
    Collecting,
    /// The proposal is out.
    Proposing,
}

/// The coordinator of a round from 2 on, caught in the moment; and the round.
fn catch(cluster: &Cluster, moment: Moment) -> Option<(usize, u64)> {
    (0..cluster.nodes.len()).find_map(|i| {
        let status = cluster.status(i)?;
        let round = status["round"].as_u64()?;
        if status["is_coordinator"] != true || round < 2 {
            return None;
        }
        let states: Vec<&str> = status["participants"].as_array()?.iter().filter_map(|p| p["state"].as_str()).collect();
        let count = |state: &str| states.iter().filter(|s| **s == state).count();
        let caught = match moment {
            Moment::Training => status["phase"] == "collecting" && count("training") >= 3 && count("done") == 0,
            Moment::Collecting => status["phase"] == "collecting" && (1..4).contains(&count("done")),
            Moment::Proposing => status["phase"] == "proposing",
        };
        caught.then_some((i, round))
    })
}

fn coordinator_dies(moment: Moment) {
    // The larger net makes proposals last long enough to be caught; many rounds give many chances.
    let arch = if moment == Moment::Proposing { "cifar-cnn" } else { "shapes-cnn" };
    let samples = if moment == Moment::Proposing { 160 } else { 3_000 };
    let mut cluster = Cluster::new(&shapes(4, 12, samples, arch));
    cluster.start_all(4);
    let (victim, round) = cluster.wait("the moment", |c| catch(c, moment));
    let killed = Instant::now();
    let victim_id = cluster.status(victim).map(|s| s["node_id"].clone());
    cluster.kill(victim);
    let survivor = (victim + 1) % 4;

    let at_work = |c: &Cluster| {
        let status = c.status(survivor)?;
        let successor =
            status["coordinator"].as_str().is_some_and(|id| Some(id) != victim_id.as_ref().and_then(|v| v.as_str()));
        (successor || status["round"].as_u64() > Some(round)).then_some(())
    };
    cluster.wait("a successor", at_work);
    println!("{moment:?}: round {round}, a successor is at work after {:?}", killed.elapsed());
    cluster.wait("the commit", |c| (c.round(survivor) > round).then_some(()));
    println!("{moment:?}: committed after {:?}", killed.elapsed());

    let back = Instant::now();
    cluster.start(victim, &[]);
    let there = cluster.round(survivor);
    cluster.wait("its return", |c| (c.round(victim) >= there).then_some(()));
    println!("{moment:?}: the killed node is back in the round after {:?}", back.elapsed());
    cluster.wait_for_end();

    let rounds = cluster.rounds(survivor);
    assert_eq!(rounds.len(), 12);
    let record = rounds.iter().find(|r| r["round"] == round).expect("it is committed");
    if moment != Moment::Proposing {
        assert_ne!(Some(&record["committed_by"]), victim_id.as_ref(), "the dead can't commit");
    }
    for i in (0..4).filter(|i| *i != victim) {
        let trainings = cluster.log(i).matches(&format!("round {round}: trains on")).count();
        assert!(trainings <= 1, "{} trained {trainings} times in round {round}", cluster.nodes[i].name);
    }
    let models: Vec<_> = (0..4).map(|i| cluster.rounds(i).last().map(|r| r["model_hash"].clone())).collect();
    assert!(models.iter().all(|m| m == &models[0]), "the nodes disagree: {models:?}");
}

#[test]
fn a_coordinator_killed_while_all_train_is_replaced() {
    coordinator_dies(Moment::Training);
}

#[test]
fn a_coordinator_killed_while_it_collects_is_replaced() {
    coordinator_dies(Moment::Collecting);
}

#[test]
fn a_coordinator_killed_with_its_proposal_out_is_replaced() {
    coordinator_dies(Moment::Proposing);
}

#[test]
fn a_node_that_comes_back_fetches_only_the_model_it_lacks() {
    let mut cluster = Cluster::new(&shapes(4, 14, 1_200, "shapes-cnn"));
    cluster.start_all(4);
    cluster.wait("round 2", |c| (c.round(3) >= 2).then_some(()));
    cluster.kill(3);
    cluster.wait("round 6", |c| (c.round(0) >= 6).then_some(()));
    cluster.start(3, &[]);
    let there = cluster.round(0);
    cluster.wait("its return", |c| (c.round(3) >= there).then_some(()));
    let model_bytes = std::fs::metadata(
        std::fs::read_dir(cluster.nodes[3].home.join("blobs"))
            .expect("it has blobs")
            .filter_map(Result::ok)
            .map(|e| e.path())
            .find(|p| p.extension().is_some_and(|e| e == "blob"))
            .expect("it has a model"),
    )
    .expect("it is a file")
    .len();
    let missed = there.saturating_sub(2);
    let received = cluster.wait("its figures", |c| {
        let address = std::fs::read_to_string(c.nodes[3].home.join("http")).ok()?;
        let metrics = ureq::get(format!("http://{address}/metrics")).call().ok()?.body_mut().read_to_string().ok()?;
        let line = metrics.lines().find(|l| l.starts_with("paceline_blob_received_bytes_total"))?;
        line.split_whitespace().last()?.parse::<f64>().ok()
    });
    println!("missed {missed} rounds, received {received} bytes of blobs, a model has {model_bytes}");
    // The model of the round that it came back into, and perhaps of one or two that committed meanwhile.
    assert!(received <= 3.5 * model_bytes as f64, "it fetched models that it has no use for");
    cluster.wait_for_end();
}

#[test]
fn a_node_that_is_terminated_ends_cleanly_and_goes_on_where_it_was() {
    let mut cluster = Cluster::new(&shapes(3, 8, 1_200, "shapes-cnn"));
    cluster.start_all(3);
    cluster.wait("round 2", |c| (c.round(2) >= 2).then_some(()));
    assert!(cluster.terminate(2), "SIGTERM is no failure\n{}", cluster.logs());
    assert!(cluster.log(2).contains("stays on the roster"), "{}", cluster.log(2));
    let stopped = cluster.command(2, &["status", "--format", "json"]);
    let status: serde_json::Value = serde_json::from_slice(&stopped.stdout).expect("JSON alone is on stdout");
    assert_eq!(status["state"], "stopped");
    std::thread::sleep(Duration::from_millis(200));
    cluster.start(2, &[]);
    cluster.wait_for_end();
    assert_eq!(cluster.rounds(2).len(), 8);
}
