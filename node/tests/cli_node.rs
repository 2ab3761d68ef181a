//! The commands that look at a node, and its control API, with one real node that waits for others.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Far beyond what a start takes, so that a slow machine fails nothing.
const PATIENCE: Duration = Duration::from_secs(120);

/// What `status --format json` has at least (the README lists it).
const STATUS_KEYS: [&str; 19] = [
    "run_id",
    "run_name",
    "node_id",
    "round",
    "rounds",
    "attempt",
    "phase",
    "coordinator",
    "is_coordinator",
    "state",
    "reason",
    "quorum",
    "genesis",
    "fork",
    "part",
    "model_hash",
    "roster",
    "participants",
    "last_commit",
];

/// A node alone in a run of two; it ends with this.
struct Lone {
    dir: tempfile::TempDir,
    child: Child,
}

impl Lone {
    fn start() -> Self {
        Self::start_by(|dir| Self::join(dir, &["--part", "1/2"]).spawn().expect("the program starts"))
    }

    /// Starts it in another way.
    fn start_by(start: impl FnOnce(&tempfile::TempDir) -> Child) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let run = "[run]\nname = \"lone\"\nrounds = 2\nmin_nodes = 2\n[model]\narch = \"shapes-cnn\"\n\
                   [data]\ndataset = \"shapes\"\nsamples = 100\n";
        std::fs::write(dir.path().join("run.toml"), run).expect("the folder can be written to");
        let child = start(&dir);
        let mut node = Self { dir, child };
        let began = Instant::now();
        while !node.command(&["status"]).status.success() {
            assert_eq!(node.child.try_wait().expect("it is ours"), None, "it ended");
            assert!(began.elapsed() < PATIENCE, "no answer: {}", stderr(&node.command(&["status"])));
            std::thread::sleep(Duration::from_millis(20));
        }
        node
    }

    fn join(dir: &tempfile::TempDir, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_paceline"));
        command
            .arg("join")
            .arg(dir.path().join("run.toml"))
            .args(["--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0", "--threads", "1", "--home"])
            .arg(dir.path().join("home"))
            .args(more)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    fn prepare(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_paceline"));
        command.args(arguments).arg("--home").arg(self.home()).env_remove("RUST_LOG");
        command
    }

    fn command(&self, arguments: &[&str]) -> Output {
        self.prepare(arguments).output().expect("the program starts")
    }

    fn status(&self) -> Value {
        let out = self.command(&["status", "--format", "json"]);
        assert!(out.status.success(), "{}", stderr(&out));
        serde_json::from_slice(&out.stdout).expect("JSON alone is on stdout")
    }

    fn address(&self) -> String {
        std::fs::read_to_string(self.home().join("http")).expect("a node that runs writes it").trim().to_owned()
    }

    /// One request as it stands, and the status code of its answer.
    fn raw(&self, method: &str, path: &str, host: &str) -> u16 {
        let mut stream = TcpStream::connect(self.address()).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("sockets have time-outs");
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line")
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill exists").success());
    }

    fn ends_with_success(&mut self) {
        let status = self.child.wait().expect("it is ours");
        assert!(status.success(), "it ended with {status}");
    }

    fn terminate(&mut self) {
        self.signal("-TERM");
        self.ends_with_success();
    }
}

impl Drop for Lone {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[test]
fn a_waiting_node_says_for_what() {
    let node = Lone::start();
    let status = node.status();
    for key in STATUS_KEYS {
        assert!(status.get(key).is_some(), "`{key}` is missing: {status}");
    }
    assert_eq!((&status["state"], &status["part"]), (&"gathering".into(), &"1/2".into()));
    let reason = status["reason"].as_str().expect("it waits");
    assert!(reason.starts_with("1 of the 2 nodes that the run needs are here; start more"), "{reason}");
}

#[test]
fn a_node_is_the_same_after_a_stop_whether_it_runs_or_not() {
    let mut node = Lone::start();
    let running = node.status();
    node.terminate();
    assert!(!node.home().join("http").exists(), "nobody answers there any more");
    let stopped = node.status();
    assert_eq!(stopped["state"], "stopped");
    for key in ["node_id", "run_id", "run_name", "rounds"] {
        assert_eq!(running[key], stopped[key], "{key}");
    }
    assert!(stopped["reason"].as_str().is_some_and(|r| r.contains("paceline join --home")), "{stopped}");
}

#[test]
fn a_node_whose_log_nobody_reads_goes_on() {
    let mut node = Lone::start_by(|dir| {
        let mut child = Lone::join(dir, &["-vv"]).stderr(Stdio::piped()).spawn().expect("the program starts");
        let mut line = String::new();
        let mut log = BufReader::new(child.stderr.take().expect("it is piped"));
        log.read_line(&mut line).expect("it logs");
        assert!(!line.is_empty(), "it logs nothing");
        child
    });
    // It logs several times a second, into a pipe without an end.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(node.status()["state"], "gathering");
    node.terminate();
}

#[test]
#[cfg(target_os = "linux")]
fn a_terminal_that_is_closed_stops_a_node_in_order() {
    let mut node = Lone::start_by(|dir| {
        let log = std::fs::File::create(dir.path().join("log")).expect("a log");
        let join = Lone::join(dir, &[]);
        // Whoever runs the tests may be one that outlives terminals, and what is ignored is inherited.
        let mut env = Command::new("env");
        env.arg("--default-signal=HUP").arg(join.get_program()).args(join.get_args());
        env.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("there is env")
    });
    node.signal("-HUP");
    node.ends_with_success();
    let log = std::fs::read_to_string(node.dir.path().join("log")).expect("it logs");
    assert!(log.contains("stopped; go on with: paceline join"), "{log}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_node_that_is_to_outlive_its_terminal_does() {
    let mut node = Lone::start_by(|dir| {
        let join = Lone::join(dir, &[]);
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(join.get_program()).args(join.get_args());
        shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("there is a shell")
    });
    node.signal("-HUP");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(node.status()["state"], "gathering");
    node.terminate();
}

#[test]
fn a_proxy_in_the_environment_does_not_stand_before_the_own_node() {
    let node = Lone::start();
    let mut command = node.prepare(&["status", "--format", "json"]);
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env(name, "http://127.0.0.1:1");
    }
    let out = command.env_remove("no_proxy").env_remove("NO_PROXY").output().expect("the program starts");
    let status: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{}", stderr(&out)));
    assert_eq!(status["state"], "gathering");
}

#[test]
fn a_home_has_one_node_at_a_time() {
    let node = Lone::start();
    let out = Lone::join(&node.dir, &[]).stderr(Stdio::piped()).output().expect("the program starts");
    assert_eq!(out.status.code(), Some(1));
    assert!(stderr(&out).contains("home"), "{}", stderr(&out));
    assert_eq!(node.status()["state"], "gathering", "the first goes on");
}

#[test]
fn a_node_starts_while_somebody_looks_at_its_home() {
    let mut node = Lone::start();
    node.terminate();
    let lock = paceline::store::Home::at(node.home()).lock().expect("nobody is on it");
    node.child = Lone::join(&node.dir, &[]).spawn().expect("the program starts");
    // Somewhat longer than a look takes; the node waits for more.
    std::thread::sleep(Duration::from_millis(500));
    drop(lock);
    let began = Instant::now();
    while !node.home().join("http").exists() {
        assert!(node.child.try_wait().expect("it is ours").is_none(), "it gave up");
        assert!(began.elapsed() < PATIENCE, "it does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(node.status()["part"], "1/2", "the part of the first start is remembered");
}

#[test]
fn the_control_api_answers_to_its_own_names_alone() {
    let node = Lone::start();
    let address = node.address();
    let port = address.rsplit(':').next().expect("an address has a port").to_owned();
    for own in [address.clone(), format!("localhost:{port}"), format!("[::1]:{port}")] {
        assert_eq!(node.raw("GET", "/status", &own), 200, "{own}");
    }
    for foreign in ["evil.example", &format!("evil.example:{port}"), "127.0.0.1:1", ""] {
        assert_eq!(node.raw("GET", "/status", foreign), 403, "{foreign}");
    }
}

#[test]
fn a_command_needs_a_header_that_no_web_page_can_send() {
    let node = Lone::start();
    assert_eq!(node.raw("POST", "/leave", &node.address()), 403);
    assert_eq!(node.status()["state"], "gathering", "it did not leave");
}

#[test]
fn the_metrics_are_in_the_text_format_of_prometheus() {
    let node = Lone::start();
    let url = format!("http://{}/metrics", node.address());
    let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
    let text = agent.get(url).call().expect("it answers").body_mut().read_to_string().expect("text");
    for name in ["paceline_received_bytes_total", "paceline_round", "paceline_garbage_total"] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name}: {text}");
    }
}
