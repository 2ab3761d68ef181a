//! The binary `paceline-bootstrap`: what it prints, how it ends, and that its identity stays.

#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use paceline_bootstrap::Ticket;

fn start(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_paceline-bootstrap"))
        .args(["--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns"])
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a process")
}

fn stop(mut child: Child) -> Option<i32> {
    let kill = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill runs");
    assert!(kill.success());
    child.wait().expect("it ends").code()
}

fn lines(child: &mut Child, count: usize) -> Vec<String> {
    let out = child.stdout.take().expect("it is piped");
    BufReader::new(out).lines().take(count).map(|line| line.expect("it prints text")).collect()
}

fn write_run_file(directory: &Path) -> String {
    let path = directory.join("run.toml");
    std::fs::write(&path, paceline::run_file::template(&[])).expect("written");
    path.to_str().expect("a plain path").to_owned()
}

#[test]
fn it_prints_its_address_and_the_ticket_and_ends_cleanly_on_sigterm() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut child = start(&["--run", &write_run_file(directory.path())]);
    let lines = lines(&mut child, 2);
    assert!(lines[0].starts_with("address /ip4/127.0.0.1/tcp/"), "{lines:?}");
    let ticket: Ticket = lines[1].strip_prefix("ticket  ").expect("the ticket's line").parse().expect("a ticket");
    assert_eq!(format!("address {}", ticket.addresses[0]), lines[0]);
    assert_eq!(stop(child), Some(0));
}

#[test]
fn in_json_it_prints_one_object_and_nothing_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let home = directory.path().join("home");
    let home = home.to_str().expect("a plain path");
    let mut ids = Vec::new();
    for _ in 0..2 {
        let mut child = start(&["--home", home, "--format", "json"]);
        let line = lines(&mut child, 1).remove(0);
        let ready: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert!(ready["addresses"][0].as_str().is_some_and(|a| a.starts_with("/ip4/127.0.0.1/tcp/")), "{line}");
        assert!(ready["ticket"].is_null(), "{line}");
        ids.push(ready["peer_id"].as_str().expect("a text").to_owned());
        assert_eq!(stop(child), Some(0));
    }
    assert_eq!(ids[0], ids[1], "the identity stays");
}

#[test]
fn a_wrong_run_file_is_named_with_line_and_column() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("run.toml");
    std::fs::write(&path, "[run]\nnam = 1\n").expect("written");
    let out = start(&["--run", path.to_str().expect("a plain path")]).wait_with_output().expect("it ends");
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && error.contains("run.toml:2:1: unknown key `nam`"), "{error}");
}
