//! Nodes whose trainer is a program of their owner: real processes, of which some misbehave.

mod cluster;

use std::path::{Path, PathBuf};
use std::process::Command;

use cluster::Cluster;
use serde_json::Value;

fn run_file(rounds: u64) -> String {
    format!(
        "[run]\nname = \"foreign\"\nrounds = {rounds}\n[model]\narch = \"trainer\"\n[round]\nmin_updates = 2\n\
         [metrics]\nlead = \"f1\"\n"
    )
}

/// The trainer of the tests.
fn trainer() -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/learn/program/testdata/fake.py");
    format!("python3 '{}'", script.display())
}

/// Three nodes with it, and the folders in which a file says what each does.
fn start(cluster: &mut Cluster, patience: &str) -> Vec<PathBuf> {
    let command = trainer();
    cluster.place_all(3);
    let folders: Vec<PathBuf> = (1..=3).map(|k| cluster.dir().join(format!("data-{k}"))).collect();
    for (index, folder) in folders.iter().enumerate() {
        std::fs::create_dir(folder).expect("the folder can be written to");
        let (part, data) = (format!("{}/3", index + 1), folder.to_str().expect("a temporary folder's name is text"));
        let trainer = ["--trainer", &command, "--trainer-patience", patience];
        cluster.start(index, &[&["--part", &part, "--data", data], &trainer[..]].concat());
    }
    folders
}

fn act(folder: &Path, what: &str) {
    std::fs::write(folder.join("act"), what).expect("the folder can be written to");
}

#[test]
fn programs_of_their_owners_train_one_model_together() {
    let mut cluster = Cluster::new(&run_file(3));
    start(&mut cluster, "60");
    cluster.wait_for_end();
    let rounds = cluster.rounds(0);
    assert_eq!(rounds.len(), 3);
    for round in &rounds {
        assert_eq!((round["metrics"]["f1"].as_f64(), round["accuracy"].as_f64()), (Some(0.75), Some(0.5)), "{round}");
        let by: Vec<&Value> = round["contributions"].as_array().expect("three").iter().map(|c| &c["trainer"]).collect();
        assert!(by.iter().all(|trainer| **trainer == "fake.py"), "{round}");
    }
    // Their steps are 0.01, 0.02, 0.03, their samples 10, 20, 30: a mean of 0.07/3 in each of three rounds.
    let out = cluster.dir().join("model.safetensors");
    let path = out.to_str().expect("a temporary folder's name is text");
    let exported = cluster.command(1, &["model", "export", "--out", path]);
    assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
    let bytes = std::fs::read(&out).expect("it was written");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let bias = file.tensor("head.bias").expect("a tensor of the trainer's");
    let value = f32::from_le_bytes(bias.data().try_into().expect("one number"));
    assert!((value - 0.57).abs() < 1e-5, "{value}");
    assert_eq!(file.tensor("body").expect("another").shape(), [2, 2]);
    let verified = cluster.command(2, &["verify", "--format", "json"]);
    let verified: Value = serde_json::from_slice(&verified.stdout).expect("JSON");
    assert_eq!((&verified["ok"], &verified["records"]), (&true.into(), &5.into()), "{verified}");
    // One process with a program for each part comes to the same.
    let run = cluster.dir().join("simulated.toml");
    std::fs::write(&run, run_file(3)).expect("room");
    let simulated = Command::new(env!("CARGO_BIN_EXE_paceline"))
        .args(["simulate", "simulated.toml", "--data", "data-1", "--format", "json", "--trainer", &trainer()])
        .current_dir(cluster.dir())
        .output()
        .expect("the program starts");
    let text = String::from_utf8(simulated.stdout).expect("JSON is text");
    let again: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("a round a line")).collect();
    let models = |all: &[Value]| -> Vec<Value> { all.iter().map(|round| round["model_hash"].clone()).collect() };
    assert_eq!(models(&again), models(&rounds), "{}", String::from_utf8_lossy(&simulated.stderr));
}

#[test]
fn a_run_goes_on_without_a_trainer_that_ends_hangs_or_sends_rubbish() {
    for what in ["exit in train", "exit in evaluate", "hang in train", "hang in evaluate", "NaN", "rubbish in train"] {
        let mut cluster = Cluster::new(&run_file(2));
        let folders = start(&mut cluster, "1");
        act(&folders[2], what);
        cluster.wait_for_end();
        let rounds = cluster.rounds(0);
        assert_eq!(rounds.len(), 2, "{what}");
        let parts = |round: &Value| round["contributions"].as_array().map_or(0, Vec::len);
        assert!(rounds.iter().all(|round| parts(round) == 2), "{what}: {rounds:?}");
        let log = std::fs::read_to_string(cluster.nodes[2].home.join("log-1")).expect("a log");
        assert!(log.contains("training failed"), "{what}: {log}");
    }
}

#[test]
fn a_command_comes_from_the_owner_alone() {
    let cluster = Cluster::new(&run_file(1));
    let home = cluster.dir().join("home");
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_paceline"))
        .args(["join", cluster.ticket(), "--no-mdns", "--home"])
        .arg(home)
        .output()
        .expect("the program starts");
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && error.contains("--trainer COMMAND"), "{error}");
}

/// A run of one node, whose trainer has these initial weights.
fn join_alone(dir: &Path, home: &str, seed_of: &str) -> std::process::Output {
    let trainer = dir.join("train.py");
    let script =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/learn/program/testdata/fake.py"));
    let script = script.expect("it is there").replace("float(hello[\"seed\"])", seed_of);
    std::fs::write(&trainer, script).expect("room");
    std::fs::write(dir.join("run.toml"), run_file(2).replace("rounds = 2", "rounds = 2\nmin_nodes = 1")).expect("room");
    Command::new(env!("CARGO_BIN_EXE_paceline"))
        .args(["join", "run.toml", "--no-mdns", "--exit-when-done", "--home", home])
        .args(["--listen", "/ip4/127.0.0.1/tcp/0", "--trainer", "python3 train.py"])
        .current_dir(dir)
        .output()
        .expect("the program starts")
}

#[test]
fn a_trainer_that_begins_otherwise_than_at_its_first_start_is_refused_and_nothing_is_lost() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let done = join_alone(dir.path(), "home", "1.0");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let other = join_alone(dir.path(), "home", "2.0");
    let error = String::from_utf8_lossy(&other.stderr);
    assert!(other.status.code() == Some(4) && error.contains("began with other weights"), "{error}");
    let again = join_alone(dir.path(), "home", "1.0");
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
}

#[test]
fn a_folder_that_is_no_trainers_is_left_alone() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir_all(dir.path().join("home/trainer")).expect("room");
    let mine = dir.path().join("home/trainer/train.py");
    std::fs::write(&mine, "of mine").expect("room");
    let refused = join_alone(dir.path(), "home", "1.0");
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(4) && error.contains("holds files that are no trainer's"), "{error}");
    assert_eq!(std::fs::read_to_string(&mine).expect("it is there"), "of mine");
}
