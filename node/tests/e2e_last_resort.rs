//! Real processes whose majority is gone for good.

mod cluster;

use cluster::{Cluster, shapes};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command that must succeed, and gives what it printed as JSON.
fn json(cluster: &Cluster, index: usize, command: &[&str]) -> serde_json::Value {
    let out = cluster.command(index, &[&["--format", "json"], command].concat());
    assert!(out.status.success(), "{command:?}: {}\n{}", text(&out.stderr), cluster.logs());
    serde_json::from_slice(&out.stdout).expect("JSON alone is on stdout")
}

#[test]
fn two_who_are_left_of_four_go_on_behind_the_last_record_and_take_a_third_in() {
    let mut cluster = Cluster::new(&shapes(4, 4_000, 300, "shapes-cnn"));
    cluster.start_all(4);
    cluster.wait("round 3", |c| (0..4).all(|n| c.round(n) >= 3).then_some(()));
    for gone in [2, 3] {
        cluster.kill(gone);
        std::fs::remove_dir_all(&cluster.nodes[gone].home).expect("it is there");
    }
    cluster.nodes.truncate(2);
    let reason = |c: &Cluster, n: usize| c.status(n)?["reason"].as_str().map(str::to_owned);
    cluster.wait("a reason", |c| reason(c, 0).filter(|why| why.contains("only 2 of 4 members are reachable")));
    // They may have been gone for a moment.
    let hasty = text(&cluster.command(0, &["roster", "drop", "--force"]).stderr);
    assert!(hasty.contains("may be back soon; try again"), "{hasty}");
    cluster.wait("the last resort", |c| reason(c, 0).filter(|why| why.contains("paceline roster drop")));
    let before = cluster.status(0).expect("it runs");

    // Without --force it says what it would do, and does nothing.
    let asked = cluster.command(0, &["roster", "drop"]);
    let warning = text(&asked.stderr);
    assert_eq!(asked.status.code(), Some(2), "{warning}");
    assert!(
        ["node-3", "node-4", "node-2 would stay", "--force"].iter().all(|word| warning.contains(word)),
        "{warning}"
    );
    assert_eq!(cluster.status(0).expect("it runs")["genesis"], before["genesis"]);

    let alone = json(&cluster, 0, &["roster", "drop", "--force"]);
    let genesis = alone["genesis"].as_str().expect("it is in a chain").to_owned();
    assert_eq!(alone["forced"]["chain"], before["genesis"], "{alone}");
    assert_eq!((&alone["trained"], &alone["model_hash"]), (&before["trained"], &before["model_hash"]), "{alone}");

    // Its neighbour goes on in the old chain until its owner moves it.
    cluster.wait("a fork in sight", |c| (c.status(1)?["fork"] == genesis.as_str()).then_some(()));
    assert_eq!(cluster.status(1).expect("it runs")["genesis"], before["genesis"]);
    let shown = text(&cluster.command(1, &["status"]).stdout);
    assert!(shown.contains(&format!("paceline join --switch {genesis}")), "{shown}");
    assert!(cluster.terminate(1));
    cluster.start(1, &["--switch", &genesis]);
    // A new machine comes with a ticket, as ever.
    let ticket = json(&cluster, 0, &["ticket"])["ticket"].as_str().expect("a ticket").to_owned();
    cluster.join_late(&ticket, &[]);

    let together = cluster.wait("three members", |c| {
        let status = |n: usize| c.status(n).filter(|s| s["genesis"] == genesis.as_str());
        let all: Vec<_> = (0..3).map_while(status).collect();
        let are_members = all.len() == 3 && all.iter().all(|s| s["roster"].as_array().is_some_and(|r| r.len() == 3));
        are_members.then(|| all[0]["trained"].as_u64()).flatten()
    });
    let trained = |c: &Cluster, n: usize| c.status(n)?["trained"].as_u64();
    cluster.wait("two rounds of three", |c| (0..3).all(|n| trained(c, n) > Some(together + 2)).then_some(()));
    // Who starts it with the old ticket, and without --switch, need not know of all that.
    assert!(cluster.terminate(1));
    cluster.start(1, &[]);
    cluster.wait("its return", |c| (c.status(1)?["genesis"] == genesis.as_str()).then_some(()));
    for index in 0..3 {
        assert!(cluster.terminate(index));
        let status = json(&cluster, index, &["status"]);
        assert_eq!(
            (&status["genesis"], &status["forced"]["name"]),
            (&genesis.as_str().into(), &"node-1".into()),
            "{status}"
        );
        let found = json(&cluster, index, &["verify"]);
        let notes = found["notes"].to_string();
        assert!(notes.contains("node-1") && notes.contains("began this chain alone"), "{notes}");
    }
}

#[test]
fn a_roster_whose_quorum_is_there_is_not_dropped() {
    let mut cluster = Cluster::new(&shapes(2, 400, 300, "shapes-cnn"));
    cluster.start_all(2);
    cluster.wait("a round", |c| (c.round(0) >= 2).then_some(()));
    let before = cluster.status(0).expect("it runs");
    let out = cluster.command(0, &["roster", "drop", "--force"]);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("2 of 2 members decide, and as many are there"), "{}", text(&out.stderr));
    assert_eq!(cluster.status(0).expect("it runs")["genesis"], before["genesis"]);
}

#[test]
fn a_node_is_moved_to_no_chain_that_is_none() {
    let mut cluster = Cluster::new(&shapes(2, 400, 300, "shapes-cnn"));
    cluster.place_all(1);
    cluster.start(0, &["--switch", "next"]);
    assert!(!cluster.wait_for_exit(0));
    assert!(cluster.log(0).contains("is no genesis: give the 64 hex digits"), "{}", cluster.log(0));
}
