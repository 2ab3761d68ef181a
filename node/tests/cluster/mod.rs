//! A run of real processes on loopback, for the tests beside this folder.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for anything: far beyond what it takes, so that a slow machine fails nothing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// One node: its home stays when the process goes.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) home: PathBuf,
    child: Option<Child>,
    lives: u32,
}

/// Some nodes and a bootstrap. All processes end with it.
pub(crate) struct Cluster {
    dir: tempfile::TempDir,
    bootstrap: Option<Child>,
    ticket: String,
    /// A library that is loaded into each node, and writes down what it does to its home.
    pub(crate) recorder: Option<PathBuf>,
    pub(crate) nodes: Vec<Node>,
}

fn paceline() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paceline"));
    // Whatever the person who runs the tests has set must not change what is logged.
    command.env_remove("RUST_LOG").env("RUST_BACKTRACE", "0");
    command
}

impl Cluster {
    /// Starts a bootstrap for this run file; nodes are started one by one.
    pub(crate) fn new(run_file: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("run.toml");
        std::fs::write(&file, run_file).expect("the folder can be written to");
        let mut bootstrap = paceline()
            .args(["--quiet", "bootstrap", "--listen", "/ip4/127.0.0.1/tcp/0", "--run"])
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut ticket = String::new();
        let out = bootstrap.stdout.take().expect("it is piped");
        BufReader::new(out).read_line(&mut ticket).expect("the bootstrap prints its ticket");
        let ticket = ticket.trim().to_owned();
        assert!(ticket.starts_with("paceline2:"), "no ticket: {ticket}");
        Self { dir, bootstrap: Some(bootstrap), ticket, recorder: None, nodes: Vec::new() }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn ticket(&self) -> &str {
        &self.ticket
    }

    /// Adds and starts node `k` of `of`, with part k/of.
    pub(crate) fn start_all(&mut self, of: usize) {
        self.place_all(of);
        for k in 1..=of {
            self.start(k - 1, &["--part", &format!("{k}/{of}")]);
        }
    }

    /// Adds so many nodes with empty homes, and starts none.
    pub(crate) fn place_all(&mut self, of: usize) {
        for k in 1..=of {
            let name = format!("node-{k}");
            let home = self.dir.path().join(&name);
            std::fs::create_dir_all(&home).expect("the folder can be written to");
            self.nodes.push(Node { name, home, child: None, lives: 0 });
        }
    }

    /// Where the recorder writes down what a node does.
    pub(crate) fn recording(&self, index: usize) -> PathBuf {
        self.dir.path().join(format!("{}.deeds", self.nodes[index].name))
    }

    /// Starts a node, or starts it again.
    pub(crate) fn start(&mut self, index: usize, more: &[&str]) {
        self.start_with(index, &self.ticket.clone(), &[&["--exit-when-done"], more].concat());
    }

    /// The same, but it goes on serving when the run is over.
    pub(crate) fn start_to_stay(&mut self, index: usize) {
        self.start_with(index, &self.ticket.clone(), &[]);
    }

    fn start_with(&mut self, index: usize, ticket: &str, more: &[&str]) {
        let recording = self.recording(index);
        let node = &mut self.nodes[index];
        node.lives += 1;
        let log = std::fs::File::create(node.home.join(format!("log-{}", node.lives))).expect("a log");
        let mut command = paceline();
        if let Some(library) = &self.recorder {
            command.env("LD_PRELOAD", library).env("RECORD_ROOT", &node.home).env("RECORD_LOG", recording);
        }
        let child = command
            .args(["join", ticket, "--name", &node.name, "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"])
            .args(["--threads", "1", "--home"])
            .arg(&node.home)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        node.child = Some(child);
    }

    /// Adds and starts a node without a part.
    pub(crate) fn join_late(&mut self, ticket: &str, more: &[&str]) {
        let name = format!("node-{}", self.nodes.len() + 1);
        let home = self.dir.path().join(&name);
        std::fs::create_dir_all(&home).expect("the folder can be written to");
        self.nodes.push(Node { name, home, child: None, lives: 0 });
        self.start_with(self.nodes.len() - 1, ticket, &[&["--exit-when-done"], more].concat());
    }

    /// Adds a node whose home is a copy of another's, which must not run meanwhile. It is not started.
    pub(crate) fn copy_home(&mut self, index: usize) -> usize {
        assert!(!self.is_running(index), "a home is copied as a whole");
        let name = format!("{}-copied", self.nodes[index].name);
        let home = self.dir.path().join(&name);
        let copied = Command::new("cp").arg("-r").args([&self.nodes[index].home, &home]).status();
        assert!(copied.expect("cp exists").success());
        self.nodes.push(Node { name, home, child: None, lives: 0 });
        self.nodes.len() - 1
    }

    /// The exit code of a node that has ended by itself.
    pub(crate) fn exit_code(&mut self, index: usize) -> Option<i32> {
        let child = self.nodes[index].child.as_mut()?;
        let code = child.try_wait().expect("it is ours")?.code();
        self.nodes[index].child = None;
        code
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.nodes[index].child.take() {
            child.kill().expect("it is ours");
            child.wait().expect("it is ours");
        }
    }

    /// SIGTERM; returns whether it ended with success.
    pub(crate) fn terminate(&mut self, index: usize) -> bool {
        let mut child = self.nodes[index].child.take().expect("it runs");
        let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill exists");
        assert!(sent.success());
        child.wait().expect("it is ours").success()
    }

    /// Sends a signal, by its name: STOP freezes a process as it is, as a laptop that is closed.
    pub(crate) fn signal(&self, index: usize, signal: &str) {
        let child = self.nodes[index].child.as_ref().expect("it runs");
        let sent = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
        assert!(sent.expect("kill exists").success());
    }

    pub(crate) fn kill_bootstrap(&mut self) {
        if let Some(mut bootstrap) = self.bootstrap.take() {
            bootstrap.kill().expect("it is ours");
            bootstrap.wait().expect("it is ours");
        }
    }

    pub(crate) fn is_running(&self, index: usize) -> bool {
        self.nodes[index].child.is_some()
    }

    /// The control API's answer, or nothing while the node does not answer.
    pub(crate) fn get(&self, index: usize, path: &str) -> Option<Value> {
        let address = std::fs::read_to_string(self.nodes[index].home.join("http")).ok()?;
        let agent: ureq::Agent =
            ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(2))).build().into();
        agent.get(format!("http://{address}{path}")).call().ok()?.body_mut().read_json().ok()
    }

    pub(crate) fn status(&self, index: usize) -> Option<Value> {
        self.get(index, "/status")
    }

    /// The round that a node is in; 0 while it is in none.
    pub(crate) fn round(&self, index: usize) -> u64 {
        self.status(index).and_then(|s| s["round"].as_u64()).unwrap_or(0)
    }

    /// `paceline rounds` of a node, whether it runs or not.
    pub(crate) fn rounds(&self, index: usize) -> Vec<Value> {
        let out = self.command(index, &["rounds", "--format", "json"]);
        String::from_utf8(out.stdout)
            .expect("JSON is text")
            .lines()
            .map(|line| serde_json::from_str(line).expect("one object a line"))
            .collect()
    }

    /// Runs a command that takes `--home` on a node's home.
    pub(crate) fn command(&self, index: usize, arguments: &[&str]) -> std::process::Output {
        paceline().args(arguments).arg("--home").arg(&self.nodes[index].home).output().expect("the program starts")
    }

    /// Waits until something is so, and fails with the logs if it never is.
    pub(crate) fn wait<T>(&self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            if began.elapsed() >= PATIENCE {
                panic!("{what} did not come within {PATIENCE:?}\n{}", self.logs());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until every node that runs has ended, and returns whether all did with success.
    pub(crate) fn wait_for_end(&mut self) {
        let began = Instant::now();
        for index in 0..self.nodes.len() {
            while let Some(child) = &mut self.nodes[index].child {
                match child.try_wait().expect("it is ours") {
                    Some(status) => {
                        assert!(status.success(), "{} ended with {status}\n{}", self.nodes[index].name, self.logs());
                        self.nodes[index].child = None;
                    }
                    None if began.elapsed() >= PATIENCE => panic!("the run does not end\n{}", self.logs()),
                    None => std::thread::sleep(Duration::from_millis(50)),
                }
            }
        }
    }

    /// Waits until a node has ended, and returns whether it did with success.
    pub(crate) fn wait_for_exit(&mut self, index: usize) -> bool {
        let began = Instant::now();
        loop {
            let child = self.nodes[index].child.as_mut().expect("it runs");
            if let Some(status) = child.try_wait().expect("it is ours") {
                self.nodes[index].child = None;
                return status.success();
            }
            assert!(began.elapsed() < PATIENCE, "{} does not end\n{}", self.nodes[index].name, self.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What a node logged, in all its lives.
    pub(crate) fn log(&self, index: usize) -> String {
        let node = &self.nodes[index];
        (1..=node.lives).map(|life| read(&node.home.join(format!("log-{life}")))).collect()
    }

    pub(crate) fn logs(&self) -> String {
        let tail = |log: String| {
            log.lines().rev().take(40).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
        };
        (0..self.nodes.len()).map(|i| format!("--- {}\n{}\n", self.nodes[i].name, tail(self.log(i)))).collect()
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(child) = &mut node.child {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        self.kill_bootstrap();
    }
}

/// A run on generated pictures that trains for a moment.
pub(crate) fn shapes(nodes: usize, rounds: u64, samples: u32, arch: &str) -> String {
    format!(
        "[run]\nname = \"test\"\nrounds = {rounds}\nmin_nodes = {nodes}\n\
         [model]\narch = \"{arch}\"\n\
         [data]\ndataset = \"shapes\"\nsamples = {samples}\n\
         [train]\nbatch = 20\nlr = 0.1\n\
         [round]\ntimeout = \"1min\"\n"
    )
}
