//! Real processes of which two have one identity: a home that was copied.

mod cluster;

use std::time::{Duration, Instant};

use cluster::{Cluster, PATIENCE, shapes};

/// Three nodes, the third of which is stopped, and its home copied: the place of the copy is 3.
fn copied() -> Cluster {
    let mut cluster = Cluster::new(&shapes(3, 20_000, 300, "shapes-cnn"));
    cluster.start_all(3);
    cluster.wait("round 2", |c| (c.round(2) >= 2).then_some(()));
    assert!(cluster.terminate(2), "SIGTERM is no failure");
    assert_eq!(cluster.copy_home(2), 3);
    cluster
}

/// Waits until one of these has ended, and tells which, with its exit code.
fn first_to_end(cluster: &mut Cluster, of: [usize; 2]) -> (usize, i32) {
    let began = Instant::now();
    loop {
        for index in of {
            if let Some(code) = cluster.exit_code(index) {
                return (index, code);
            }
        }
        assert!(began.elapsed() < PATIENCE, "none ends\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The later one stops with a sentence, the earlier one takes part on.
fn the_later_stops(earlier: usize, later: usize) {
    let mut cluster = copied();
    cluster.start(earlier, &[]);
    let there = cluster.round(0);
    cluster.wait("the first of the twins", |c| (c.round(earlier) > there).then_some(()));
    cluster.start(later, &[]);
    let began = Instant::now();
    let (ended, code) = first_to_end(&mut cluster, [earlier, later]);
    println!("the later of two twins has stopped after {:?}", began.elapsed());
    assert_eq!((ended, code), (later, 4), "{}", cluster.logs());
    let log = cluster.log(later);
    assert!(log.contains("another process has this node's identity"), "{log}");
    assert!(log.contains("move identity.key, options.json, store.redb and store.mark out of"), "{log}");
    let there = cluster.round(0);
    cluster.wait("the earlier one takes part", |c| (c.round(earlier) > there + 1).then_some(()));

    // What the sentence says to do makes it a node of its own.
    for file in ["identity.key", "options.json", "store.redb", "store.mark"] {
        std::fs::remove_file(cluster.nodes[later].home.join(file)).expect("it is there");
    }
    cluster.start(later, &[]);
    cluster.wait("a node of its own", |c| (c.status(later)?["state"] == "member").then_some(()));
}

#[test]
fn a_copied_home_that_is_started_beside_its_original_stops() {
    the_later_stops(2, 3);
}

#[test]
fn an_original_that_is_started_beside_a_copy_of_its_home_stops() {
    the_later_stops(3, 2);
}

#[test]
fn of_two_twins_that_are_started_at_once_one_stops_and_one_stays() {
    let mut cluster = copied();
    cluster.start(2, &[]);
    cluster.start(3, &[]);
    let (ended, code) = first_to_end(&mut cluster, [2, 3]);
    assert_eq!(code, 4, "{}", cluster.logs());
    let stays = 5 - ended;
    let there = cluster.round(0);
    cluster.wait("the other one takes part", |c| (c.round(stays) > there + 2).then_some(()));
    assert_eq!(cluster.exit_code(stays), None, "{}", cluster.logs());
}
