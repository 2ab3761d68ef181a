//! Real processes, from the first hello to the last record.

mod cluster;

use std::process::Command;
use std::str::FromStr;

use cluster::{Cluster, shapes};
use paceline_bootstrap::Ticket;

#[test]
fn a_demo_ends_with_one_model_for_all() {
    let out = Command::new(env!("CARGO_BIN_EXE_paceline"))
        .args(["demo", "--nodes", "3", "--rounds", "2", "--format", "json"])
        .output()
        .expect("the program starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let rounds: Vec<serde_json::Value> = String::from_utf8(out.stdout)
        .expect("JSON is text")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON alone is on stdout"))
        .collect();
    assert_eq!(rounds.len(), 2);
    assert!(rounds.iter().all(|r| r["contributions"].as_array().is_some_and(|c| c.len() == 3)));
    assert!(rounds.iter().all(|r| r["accuracy"].is_f64()), "the closing record completes the last row");
}

#[test]
fn the_model_of_a_finished_run_is_taken_away_for_pytorch() {
    let mut cluster = Cluster::new(&shapes(2, 2, 400, "shapes-cnn"));
    cluster.start_all(2);
    cluster.wait_for_end();
    let (tensors, module) = (cluster.dir().join("lab.safetensors"), cluster.dir().join("lab.py"));
    let export = |more: &[&str]| {
        let out = tensors.to_str().expect("a temporary folder's name is text");
        cluster.command(0, &[&["model", "export", "--out", out], more].concat())
    };
    let out = export(&["--format", "json"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let said: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let last = cluster.rounds(0).pop().expect("two rounds");
    assert_eq!(said["about"]["round"], 2);
    for key in ["model_hash", "record_hash", "accuracy"] {
        assert!(!last[key].is_null() && said["about"][key] == last[key], "{key}: {said}, not {last}");
    }
    let bytes = std::fs::read(&tensors).expect("it was written");
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).expect("a safetensors file");
    let about = header.metadata().as_ref().and_then(|m| m.get("paceline")).expect("what it is");
    assert_eq!(serde_json::from_str::<serde_json::Value>(about).expect("JSON"), said["about"]);
    assert_eq!(header.info("conv1.weight").expect("a tensor").shape, [16, 3, 5, 5]);
    let parse = "import ast, sys; ast.parse(open(sys.argv[1]).read())";
    let parsed = Command::new("python3").args(["-c", parse]).arg(&module).status().expect("python3 is there");
    assert!(parsed.success(), "{}", std::fs::read_to_string(&module).expect("it was written"));
    let out = cluster.command(0, &["model", "eval", "--format", "json"]);
    let measured: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!((&measured["accuracy"], &measured["examples"]), (&last["accuracy"], &last["evaluated"]), "{measured}");
    let rows = measured["classes"].as_array().expect("each class");
    let taken = |row: &serde_json::Value| -> u64 {
        row["taken_for"].as_array().expect("a row").iter().filter_map(serde_json::Value::as_u64).sum()
    };
    assert_eq!(rows.iter().map(taken).sum::<u64>(), measured["examples"], "each image is taken for something");
    // The same once more, and what is there is left alone until it is said otherwise.
    let again = export(&[]);
    assert_eq!(again.status.code(), Some(4), "{}", String::from_utf8_lossy(&again.stderr));
    assert!(export(&["--force"]).status.success());
    assert_eq!(std::fs::read(&tensors).expect("it is there"), bytes, "the same model is the same bytes");
    let none = export(&["--force", "--round", "7"]);
    let error = String::from_utf8_lossy(&none.stderr);
    assert!(!none.status.success() && error.contains("round 7 is not committed here; the last one is 2"), "{error}");
}

#[cfg(unix)]
#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let left = || std::fs::read_dir(temporary.path()).expect("it can be read").count();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_paceline"))
        .args(["demo", "--nodes", "2", "--rounds", "500", "--quiet"])
        .env("TMPDIR", temporary.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the program starts");
    while left() == 0 {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let interrupt = Command::new("kill").args(["-INT", &demo.id().to_string()]).status();
    assert!(interrupt.expect("kill is there").success());
    assert_eq!(demo.wait().expect("it ends").code(), Some(1));
    assert_eq!(left(), 0);
}

#[test]
fn a_run_whose_training_fails_everywhere_stops_with_the_reason_and_can_be_resumed() {
    let mut cluster =
        Cluster::new(&shapes(2, 6, 400, "shapes-cnn").replace("lr = 0.1", "lr = 1e9").replace("1min", "1h"));
    cluster.start_all(2);
    // Far sooner than the timeout of a round, an hour.
    for node in 0..2 {
        assert!(!cluster.wait_for_exit(node), "{}", cluster.logs());
        assert!(cluster.log(node).contains("training failed on all nodes"), "{}", cluster.logs());
    }
    let kinds = |c: &Cluster, n: usize| -> Vec<String> {
        c.rounds(n).iter().filter_map(|r| r["kind"].as_str().map(str::to_owned)).collect()
    };
    assert_eq!(kinds(&cluster, 0), ["empty"; 3]);
    // It stays stopped until somebody wants to go on.
    (0..2).for_each(|n| cluster.start_to_stay(n));
    let halted = |c: &Cluster, n: usize| {
        let status = c.status(n)?;
        (status["state"] == "halted").then(|| status["reason"].as_str().unwrap_or_default().to_owned())
    };
    for node in 0..2 {
        let reason = cluster.wait("the nodes to stand still", |c| halted(c, node));
        // Records are everybody's: they name the line, and no folder of this machine.
        assert!(reason.contains(": run.toml:18:1: training diverged in round 3"), "{reason}");
        assert!(reason.contains("lower `lr`") && reason.contains("paceline resume"), "{reason}");
    }
    let out = cluster.command(0, &["resume"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    // The record that ends the stop, and three that fail again.
    cluster.wait("the second stop", |c| (0..2).all(|n| kinds(c, n).len() == 7 && halted(c, n).is_some()).then_some(()));
}

#[test]
fn a_run_goes_on_when_its_bootstrap_is_gone() {
    let mut cluster = Cluster::new(&shapes(3, 4, 600, "shapes-cnn"));
    cluster.start_all(3);
    cluster.wait("the founding", |c| (0..3).all(|i| c.round(i) >= 1).then_some(()));
    cluster.kill_bootstrap();
    cluster.wait_for_end();
    assert_eq!(cluster.rounds(0).len(), 4);
}

#[test]
fn after_a_power_cut_nodes_find_each_other_without_bootstrap_and_mdns() {
    let mut cluster = Cluster::new(&shapes(3, 1_000, 600, "shapes-cnn"));
    cluster.start_all(3);
    cluster.wait("the founding", |c| (0..3).all(|i| c.round(i) >= 2).then_some(()));
    cluster.kill_bootstrap();
    (0..3).for_each(|n| cluster.kill(n));
    let before = cluster.rounds(0).len();
    (0..3).for_each(|n| cluster.start(n, &[]));
    cluster.wait("a round", |c| (0..3).all(|n| c.round(n) > before as u64 + 2).then_some(()));
    let reason = cluster.status(0).expect("it runs")["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("nobody answers at /ip4/127.0.0.1/tcp/") && reason.contains("paceline ticket"), "{reason}");
}

#[test]
fn the_same_parts_give_the_same_models_with_fresh_identities() {
    let models = || {
        let run = shapes(3, 3, 600, "shapes-cnn") + "min_updates = 3\n";
        let mut cluster = Cluster::new(&run);
        cluster.start_all(3);
        cluster.wait_for_end();
        let rounds = cluster.rounds(0);
        let hashes =
            |key: &str| rounds.iter().map(|r| r[key].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>();
        (hashes("model_hash"), hashes("record_hash"))
    };
    let (one, two) = (models(), models());
    assert_eq!(one.0, two.0, "the models must repeat");
    assert_ne!(one.1, two.1, "the identities are fresh");
}

#[test]
fn one_process_repeats_every_update_and_model_of_a_run() {
    let mut cluster = Cluster::new(&shapes(3, 3, 600, "shapes-cnn"));
    cluster.start_all(3);
    cluster.wait_for_end();
    let home = paceline::store::Home::at(&cluster.nodes[0].home);
    let mut rounds = Vec::new();
    let scratch = tempfile::tempdir().expect("a temporary folder");
    paceline::replay::replay(&home, None, 2, scratch.path(), |r| rounds.push(r)).expect("the home is whole");
    assert_eq!(rounds.len(), 3);
    for round in rounds {
        assert_eq!((round.updates_equal, round.updates, round.model_equal), (3, 3, true), "round {}", round.round);
    }
}

#[test]
fn a_node_that_comes_later_joins_with_a_ticket_of_any_node() {
    let mut cluster = Cluster::new(&shapes(3, 10, 1_500, "shapes-cnn"));
    cluster.start_all(3);
    cluster.wait("round 2", |c| (c.round(0) >= 2).then_some(()));
    let out = cluster.command(1, &["ticket"]);
    let ticket = String::from_utf8(out.stdout).expect("text").trim().to_owned();
    assert!(ticket.starts_with("paceline2:"), "{ticket}");
    cluster.join_late(&ticket, &[]);
    let member = |c: &Cluster| c.status(3).filter(|s| s["state"] == "member" || s["state"] == "finished").map(|_| ());
    cluster.wait("the join", member);
    cluster.wait_for_end();
    assert_eq!(cluster.rounds(3).len(), 10, "a joiner has the whole history");
}

#[test]
fn who_comes_when_the_run_is_over_ends_with_its_model_in_hand() {
    let mut cluster = Cluster::new(&shapes(3, 2, 1_500, "shapes-cnn"));
    cluster.start_all(3);
    cluster.wait_for_end();
    cluster.start_to_stay(0);
    cluster.wait("the first to serve", |c| (c.status(0)?["state"] == "finished").then_some(()));
    let out = cluster.command(0, &["ticket"]);
    let ticket = String::from_utf8(out.stdout).expect("text").trim().to_owned();
    cluster.join_late(&ticket, &[]);
    assert!(cluster.wait_for_exit(3), "{}", cluster.logs());
    let model = |n: usize| cluster.rounds(n).last().and_then(|r| r["model_hash"].as_str().map(str::to_owned));
    let here = cluster.nodes[3].home.join("blobs").join(format!("{}.blob", model(3).expect("a round")));
    assert!(here.exists(), "{} is not there\n{}", here.display(), cluster.logs());
    let verified = cluster.command(3, &["verify", "--format", "json"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

#[test]
fn a_home_starts_again_with_its_ticket_while_nobody_can_be_asked_for_the_run_file() {
    let mut cluster = Cluster::new(&shapes(3, 6, 1_500, "shapes-cnn"));
    cluster.start_all(1);
    cluster.wait("the node", |c| c.status(0));
    cluster.kill(0);
    cluster.kill_bootstrap();
    cluster.start(0, &[]);
    let asks = |c: &Cluster| c.log(0).matches("asks for the run file").count();
    cluster.wait("it to join again", |c| (c.log(0).matches("joins run").count() == 2).then_some(()));
    assert_eq!(asks(&cluster), 1, "{}", cluster.logs());
}

#[test]
fn newcomers_wait_for_the_run_that_their_ticket_is_for_and_found_no_other() {
    let mut cluster = Cluster::new(&shapes(3, 1_000, 1_500, "shapes-cnn"));
    cluster.start_all(3);
    cluster.wait("round 2", |c| (c.round(0) >= 2).then_some(()));
    cluster.kill(1);
    cluster.kill(2);
    let out = cluster.command(0, &["ticket"]);
    let ticket = String::from_utf8(out.stdout).expect("text").trim().to_owned();
    // The bootstrap is where newcomers meet each other, and the members when these come back at other ports.
    let bootstrap = Ticket::from_str(cluster.ticket()).expect("a ticket").addresses[0].to_string();
    (0..3).for_each(|_| cluster.join_late(&ticket, &["--bootstrap", &bootstrap]));
    // With the member, of whose chain they have no quorum in sight.
    let sees = |c: &Cluster, n: usize| c.status(n)?["roster"].as_array().map(Vec::len);
    cluster.wait("the newcomers to meet", |c| (3..6).all(|n| sees(c, n) == Some(4)).then_some(()));
    let chain = cluster.status(0).expect("it runs")["genesis"].clone();
    // Now the run sleeps, and three nodes that could found one see each other.
    cluster.kill(0);
    let waits = |c: &Cluster, n: usize| {
        let status = c.status(n)?;
        let reason = status["reason"].as_str()?;
        (sees(c, n) == Some(3) && reason.contains("that this node was told to enter, is not in sight")).then_some(())
    };
    cluster.wait("all to wait", |c| (3..6).all(|n| waits(c, n).is_some()).then_some(()));
    std::thread::sleep(std::time::Duration::from_secs(8));
    for n in 3..6 {
        assert!(waits(&cluster, n).is_some(), "{}", cluster.logs());
    }
    (0..3).for_each(|n| cluster.start(n, &[]));
    let is_in = |c: &Cluster, n: usize| c.status(n).is_some_and(|s| s["genesis"] == chain && s["state"] == "member");
    cluster.wait("all to be members", |c| (0..6).all(|n| is_in(c, n)).then_some(()));
}

#[test]
fn a_member_leaves_and_the_others_go_on() {
    let mut cluster = Cluster::new(&shapes(4, 8, 1_200, "shapes-cnn"));
    cluster.start_all(4);
    cluster.wait("round 2", |c| (c.round(3) >= 2).then_some(()));
    let out = cluster.command(3, &["leave", "--yes"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    cluster.wait_for_end();
    let roster = |c: &Cluster| {
        let out = c.command(0, &["status", "--format", "json"]);
        let status: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
        status["roster"].as_array().map(Vec::len)
    };
    assert_eq!(roster(&cluster), Some(3));
    assert!(cluster.log(3).contains("left the run"), "{}", cluster.log(3));
}
