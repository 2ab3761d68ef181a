//! Real processes under faults, and what `status` says of them: what is wrong, and what helps.

mod cluster;

use cluster::{Cluster, shapes};

fn reason(cluster: &Cluster, node: usize) -> Option<String> {
    Some(cluster.status(node)?["reason"].as_str().unwrap_or_default().to_owned())
}

/// Waits until the reason that a node gives has all of this in it.
fn says(cluster: &Cluster, node: usize, parts: &[&str]) {
    let mut last = String::new();
    let begun = std::time::Instant::now();
    cluster.wait("the reason in the status", |c| {
        last = reason(c, node)?;
        assert!(
            begun.elapsed() < cluster::PATIENCE - std::time::Duration::from_secs(5),
            "{parts:?}: {last}\n{}",
            c.logs()
        );
        parts.iter().all(|part| last.contains(part)).then_some(())
    });
}

fn founded() -> Cluster {
    let mut cluster = Cluster::new(&shapes(3, 100_000, 300, "shapes-cnn"));
    cluster.start_all(3);
    cluster.wait("round 2", |c| (0..3).all(|i| c.round(i) >= 2).then_some(()));
    cluster
}

#[test]
fn survivors_name_who_is_gone_and_then_that_too_few_are_left() {
    let mut cluster = founded();
    cluster.kill(2);
    says(&cluster, 0, &["node-3 (not reachable for ", "see whether it runs"]);
    cluster.kill(1);
    says(&cluster, 0, &["only 1 of 3 members are reachable; 2 must be", "start node-", "node-2", "node-3"]);
    cluster.start(1, &[]);
    cluster.start(2, &[]);
    cluster.wait("nothing to be in the way", |c| (0..3).all(|n| reason(c, n).as_deref() == Some("")).then_some(()));
}

#[test]
fn a_node_whose_disk_fails_says_so_and_the_others_name_it() {
    let cluster = founded();
    let (here, away) = (cluster.nodes[2].home.join("blobs"), cluster.nodes[2].home.join("away"));
    std::fs::rename(&here, &away).expect("it is there");
    says(&cluster, 2, &["this node's disk fails (", "/blobs", "No such file", "make room on it, or mend it"]);
    let names_it = |c: &Cluster| (0..2).any(|n| reason(c, n).is_some_and(|r| r.contains("node-3"))).then_some(());
    cluster.wait("the others to name it", names_it);
    let round = cluster.round(0);
    cluster.wait("rounds without it", |c| (c.round(0) > round + 2).then_some(()));
    // Not over what was written meanwhile: there is nothing.
    std::fs::rename(&away, &here).expect("it is there");
    cluster.wait("nothing to be in the way", |c| (0..3).all(|n| reason(c, n).as_deref() == Some("")).then_some(()));
}
