//! Real nodes, run as somebody does who has other things to do: paused and resumed, ended by their records, looked at over HTTP,
//! with a log file that is rotated.

mod cluster;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use cluster::{Cluster, shapes};
use serde_json::Value;

/// Whether a node's update is in the average of a round.
fn brought(cluster: &Cluster, node: &str, round: u64) -> bool {
    let rounds = cluster.rounds(0);
    let found = rounds.iter().find(|r| r["round"] == round).unwrap_or_else(|| panic!("there is no round {round}"));
    found["contributions"].as_array().is_some_and(|all| all.iter().any(|c| c["node_id"] == node))
}

fn says(output: &std::process::Output, text: &str) {
    let all = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).join("");
    assert!(output.status.success() && all.contains(text), "{text:?} is not in {all}");
}

#[test]
fn a_paused_node_is_passed_over_also_after_a_restart_until_it_is_resumed() {
    let mut cluster = Cluster::new(&shapes(3, 100_000, 300, "shapes-cnn"));
    cluster.start_all(3);
    cluster.wait("round 2", |c| (c.round(0) >= 2).then_some(()));
    let id = cluster.status(2).expect("it runs")["node_id"].as_str().expect("it has one").to_owned();

    says(&cluster.command(2, &["pause"]), "trains nothing");
    let is_paused = |c: &Cluster| {
        let roster = c.status(0)?["roster"].as_array()?.clone();
        roster.iter().find(|m| m["node_id"] == id.as_str())?["state"].as_str().filter(|s| *s == "paused").map(drop)
    };
    cluster.wait("the others to see it", is_paused);
    // What it shows of itself may be some milliseconds old.
    cluster.wait("its own word for it", |c| {
        let reason = c.status(2)?["reason"].as_str()?.to_owned();
        (reason.contains("paused") && reason.contains("paceline resume")).then_some(())
    });
    assert!(cluster.terminate(2), "SIGTERM is no failure");
    cluster.start(2, &[]);
    cluster.wait("the others to see it again", is_paused);
    let paused = cluster.round(0) + 1;
    cluster.wait("two rounds", |c| (c.round(0) > paused + 2).then_some(()));
    assert!(!brought(&cluster, &id, paused) && !brought(&cluster, &id, paused + 1), "{}", cluster.logs());

    says(&cluster.command(2, &["resume"]), "trains again");
    let again = cluster.round(0) + 1;
    cluster.wait("its update", |c| {
        let last = c.round(0).saturating_sub(1);
        (again..=last).any(|round| brought(c, &id, round)).then_some(())
    });
    let refused = cluster.command(2, &["resume"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("there is nothing to resume"));
}

#[test]
fn a_run_ends_by_its_target_alike_on_all_nodes_and_in_a_simulation() {
    let file = format!("{}[stop]\ntarget = 0.3\n", shapes(3, 200, 600, "shapes-cnn"));
    let mut cluster = Cluster::new(&file);
    cluster.start_all(3);
    cluster.wait_for_end();
    let rounds: Vec<Vec<Value>> = (0..3).map(|node| cluster.rounds(node)).collect();
    let model = |rounds: &[Value]| rounds.last().map(|r| (rounds.len(), r["model_hash"].clone()));
    assert!(rounds[0].len() < 200, "it never came to 30 %");
    assert_eq!((model(&rounds[0]), model(&rounds[0])), (model(&rounds[1]), model(&rounds[2])));
    let [.., before, _] = rounds[0].as_slice() else { panic!("a run has two rounds at least") };
    assert!(before["accuracy"].as_f64().is_some_and(|accuracy| accuracy >= 0.3), "{before}");
    let status = String::from_utf8_lossy(&cluster.command(0, &["status"]).stdout).into_owned();
    assert!(status.contains("accuracy came to the target of [stop]"), "{status}");
    assert!(cluster.log(0).contains("the run ends before its 200 rounds"), "{}", cluster.log(0));

    let (run, out) = (cluster.dir().join("run.toml"), cluster.dir().join("simulated"));
    let simulated = std::process::Command::new(env!("CARGO_BIN_EXE_paceline"))
        .args(["simulate", "--clients", "3", "--quiet", "--out"])
        .arg(&out)
        .arg(&run)
        .output()
        .expect("the program starts");
    assert!(simulated.status.success(), "{}", String::from_utf8_lossy(&simulated.stderr));
    let lines = std::fs::read_to_string(out.join("rounds.jsonl")).expect("it has rounds");
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(model(&lines), model(&rounds[0]));
}

/// What a node answers to a request with this Host, and the first lines of the rest.
fn ask(address: &str, host: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("it can be");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").expect("it reads");
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).expect("it answers");
    let mut rest = String::new();
    let _ = reader.take(1 << 20).read_to_string(&mut rest);
    (first.trim().to_owned(), rest)
}

#[test]
fn the_page_is_for_this_machine_and_elsewhere_for_who_knows_the_token() {
    let mut cluster = Cluster::new(&shapes(3, 100_000, 300, "shapes-cnn"));
    cluster.place_all(3);
    (0..2).for_each(|node| cluster.start(node, &[]));
    // A port that is free a moment before it is taken.
    let free = std::net::TcpListener::bind("0.0.0.0:0").and_then(|l| l.local_addr()).expect("there is one");
    cluster.start(2, &["--page", &free.to_string()]);
    cluster.wait("round 3", |c| (c.round(2) >= 3).then_some(()));
    let home = &cluster.nodes[2].home;
    let http = std::fs::read_to_string(home.join("http")).expect("it runs");
    let http = http.trim();

    let (answer, page) = ask(http, http, "/");
    assert!(answer.contains("200") && page.contains("<html") && page.contains("default-src 'self'"), "{answer}");
    for (path, has) in
        [("/page.js", "EventSource"), ("/page.css", "prefers-color-scheme"), ("/rounds/1", "accepted_by")]
    {
        let (answer, body) = ask(http, http, path);
        assert!(answer.contains("200") && body.contains(has), "{path}: {answer}");
    }
    assert!(ask(http, "evil.example", "/").0.contains("403"));
    assert!(ask(http, http, "/rounds/99999").0.contains("404"));
    let mut stream = TcpStream::connect(http).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("it can be");
    write!(stream, "GET /events HTTP/1.1\r\nHost: {http}\r\n\r\n").expect("it reads");
    let lines: Vec<String> = BufReader::new(stream).lines().map_while(Result::ok).take(40).collect();
    for event in ["event: rounds", "event: status"] {
        assert!(lines.iter().any(|line| line == event), "{event} is not in {lines:#?}");
    }

    let page = format!("127.0.0.1:{}", free.port());
    let token = std::fs::read_to_string(home.join("http-token")).expect("it was made");
    assert!(ask(&page, "pc3:4100", "/status").0.contains("401"));
    assert!(ask(&page, "pc3:4100", "/status?token=wrong").0.contains("401"));
    let (answer, body) = ask(&page, "pc3:4100", &format!("/status?token={token}"));
    assert!(answer.contains("200") && body.contains("HttpOnly"), "{answer}");
    assert!(ask(&page, "pc3:4100", &format!("/ticket?token={token}")).0.contains("404"), "it only tells");
}

#[test]
fn a_log_file_is_opened_anew_on_sighup_and_holds_json_where_that_is_asked_for() {
    let mut cluster = Cluster::new(&shapes(2, 100_000, 300, "shapes-cnn"));
    cluster.place_all(2);
    let (log, moved) = (cluster.dir().join("node.log"), cluster.dir().join("node.log.moved"));
    let path = log.display().to_string();
    cluster.start(0, &["--log-file", &path, "--log-format", "json"]);
    cluster.start(1, &[]);
    cluster.wait("round 3", |c| (c.round(0) >= 3).then_some(()));
    std::fs::rename(&log, &moved).expect("it is there");
    cluster.signal(0, "HUP");
    cluster.wait("the log to go on", |_| {
        let text = std::fs::read_to_string(&log).ok().filter(|text| text.lines().count() > 1)?;
        let line: Value = serde_json::from_str(text.lines().next()?).expect("a line is JSON");
        assert!(line["timestamp"].is_string() && line["level"] == "INFO", "{line}");
        Some(())
    });
    assert!(cluster.is_running(0), "SIGHUP ended it");
    // Without a log file it means that the terminal is gone.
    cluster.signal(1, "HUP");
    assert!(cluster.wait_for_exit(1), "{}", cluster.log(1));
}
