//! What the command line promises to scripts, where no node runs: exit codes, JSON alone on stdout, errors that say what to
//! do, and nothing remembered of a start that could not be.

use std::path::Path;
use std::process::{Command, Output};

fn paceline(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paceline"));
    command.args(arguments).env_remove("RUST_LOG").output().expect("the program starts")
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

#[track_caller]
fn fails(arguments: &[&str], code: i32, says: &[&str]) {
    let out = paceline(arguments);
    assert_eq!(out.status.code(), Some(code), "{arguments:?}: {}", stderr(&out));
    assert!(out.stdout.is_empty(), "{arguments:?}: an error belongs on stderr");
    for part in says {
        assert!(stderr(&out).contains(part), "{arguments:?} should say `{part}`: {}", stderr(&out));
    }
}

#[test]
fn init_writes_a_run_file_and_leaves_an_existing_one_alone() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("run.toml");
    assert!(paceline(&["init", text(&file)]).status.success());
    let written = std::fs::read_to_string(&file).expect("it was written");
    paceline::run_file::parse(&written, "run.toml").expect("the template is sound");
    std::fs::write(&file, "mine").expect("the folder can be written to");
    fails(&["init", text(&file)], 4, &["left alone"]);
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), "mine");
}

#[test]
fn init_prints_json_alone_when_asked_for_json() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("run.toml");
    let out = paceline(&["init", text(&file), "--format", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON alone is on stdout");
    assert_eq!(json["wrote"], text(&file));
}

#[test]
fn a_misspelt_key_is_named_with_its_place_and_the_right_one() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (file, home) = (dir.path().join("run.toml"), dir.path().join("home"));
    std::fs::write(&file, "[run]\nname = \"x\"\nrouns = 3\n").expect("the folder can be written to");
    fails(&["join", text(&file), "--home", text(&home)], 4, &["run.toml:3:1", "`rounds`"]);
    assert!(!home.exists());
}

#[test]
fn a_run_file_that_is_not_there_is_named() {
    fails(&["join", "no-such-run.toml"], 4, &["no-such-run.toml", "paceline init"]);
}

#[test]
fn a_folder_without_a_node_is_not_found() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for command in ["status", "rounds", "peers", "ticket", "leave"] {
        fails(&[command, "--home", text(dir.path())], 3, &["is no home of a node"]);
    }
}

#[test]
fn an_address_where_nobody_answers_is_not_found() {
    fails(&["status", "--node", "http://127.0.0.1:1"], 3, &["does not answer"]);
}

#[test]
fn wrong_usage_ends_with_two_and_is_not_remembered() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (file, home) = (dir.path().join("run.toml"), dir.path().join("home"));
    assert!(paceline(&["init", text(&file)]).status.success());
    let join = |more: &[&str], says: &[&str]| {
        fails(&[&["join", text(&file), "--home", text(&home)], more].concat(), 2, says);
        assert!(!home.exists(), "{more:?} left a home behind");
    };
    join(&["--threads", "0"], &["--threads"]);
    join(&["--part", "6/5"], &["K/N"]);
    join(&["--name", &"x".repeat(65)], &["64 bytes"]);
    join(&["--http", "0.0.0.0:0"], &["loopback"]);
    #[cfg(not(feature = "cuda"))]
    join(&["--device", "cuda"], &["--features cuda"]);
    #[cfg(not(feature = "metal"))]
    join(&["--device", "metal"], &["--features metal"]);
}

#[test]
fn data_that_is_not_there_is_found_before_anything_is_remembered() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (file, home) = (dir.path().join("run.toml"), dir.path().join("home"));
    let run = "[run]\nname = \"x\"\nrounds = 1\n[model]\narch = \"cifar-cnn\"\n[data]\ndataset = \"cifar10\"\n";
    std::fs::write(&file, run).expect("the folder can be written to");
    let missing = dir.path().join("no-batches");
    fails(&["join", text(&file), "--home", text(&home), "--data", text(&missing)], 4, &["no-batches"]);
    assert!(!home.join("run.toml").exists() && !home.join("options.json").exists());
}

#[test]
fn every_command_has_help_with_examples() {
    for command in ["demo", "init", "join", "status", "rounds", "peers", "ticket", "leave", "simulate", "data"] {
        let out = paceline(&[command, "--help"]);
        assert!(out.status.success());
        assert!(String::from_utf8_lossy(&out.stdout).contains("Example"), "{command}");
    }
}

#[test]
fn the_version_is_printed() {
    let out = paceline(&["--version"]);
    let version = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(version.starts_with(concat!("paceline ", env!("CARGO_PKG_VERSION"))), "{version}");
}

#[test]
fn data_shows_what_a_partition_gives_each_part() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (run, plot) = (dir.path().join("run.toml"), dir.path().join("labels"));
    let file = "[run]\nname = \"x\"\nrounds = 1\n[model]\narch = \"mlp\"\n[data]\ndataset = \"shapes\"\nsamples = 500\n\
                partition = { labels = 2 }\n";
    std::fs::write(&run, file).expect("room");
    let out = paceline(&["data", text(&run), "--clients", "5", "--format", "json", "--plot", text(&plot)]);
    assert!(out.status.success(), "{}", stderr(&out));
    let lines: Vec<serde_json::Value> = String::from_utf8(out.stdout)
        .expect("JSON is text")
        .lines()
        .map(|line| serde_json::from_str(line).expect("one object a line"))
        .collect();
    let images: u64 = lines.iter().filter_map(|line| line["examples"].as_u64()).sum();
    assert_eq!((lines.len(), images), (5, 500));
    let kinds = |line: &serde_json::Value| {
        line["labels"].as_array().expect("an array").iter().filter(|count| count.as_u64() > Some(0)).count()
    };
    assert!(lines.iter().all(|line| kinds(line) == 2), "{lines:?}");
    assert!(dir.path().join("labels.svg").is_file() && dir.path().join("labels.png").is_file());
    let out = paceline(&["data", text(&run)]);
    assert!(String::from_utf8_lossy(&out.stdout).contains("3/3"), "three parts are the run file's min_nodes");
}

#[test]
fn a_folder_of_photos_becomes_a_run_file_that_works_there() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let photos = dir.path().join("pets");
    for (class, colour) in [("cat", [200, 40, 40]), ("dog", [40, 40, 200])] {
        std::fs::create_dir_all(photos.join(class)).expect("room");
        for i in 0..30 {
            let photo = image::RgbImage::from_pixel(60 + i, 90 - i, image::Rgb(colour));
            photo.save(photos.join(class).join(format!("{i}.jpg"))).expect("room");
        }
    }
    std::fs::write(photos.join("dog/notes.txt"), "of mine").expect("room");
    let (photos, file) = (photos.to_str().expect("text"), dir.path().join("run.toml"));
    let file = file.to_str().expect("text");
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_paceline")).args(arguments).output().expect("the program starts")
    };
    let made = run(&["init", file, "--from", photos]);
    let said = String::from_utf8_lossy(&made.stdout).into_owned();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert!(said.contains("60 images of 2 classes: cat 30, dog 30") && said.contains("1 .txt"), "{said}");
    let text = std::fs::read_to_string(file).expect("it was written");
    let parsed = paceline::run_file::parse(&text, "run.toml").expect("it is a run file");
    assert_eq!(parsed.run.name, "pets");
    let checked = run(&["check", file, "--data", photos, "--threads", "1", "--format", "json"]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let checked: serde_json::Value = serde_json::from_slice(&checked.stdout).expect("JSON");
    assert_eq!(checked["examples"].as_u64().zip(checked["held_out"].as_u64()).map(|(a, b)| a + b), Some(60));
    assert_eq!(checked["model_bytes"].as_u64(), checked["parameters"].as_u64().map(|n| 4 * n));
    assert!(checked["round_s"].as_f64().is_some_and(|s| s > 0.0) && checked["notes"][0].is_string(), "{checked}");
    let again = run(&["init", file, "--from", photos]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("exists and is left alone"));
    let target = run(&["init", "other.toml", "--from", photos, "--target", "cat"]);
    let error = String::from_utf8_lossy(&target.stderr);
    assert!(target.status.code() == Some(4) && error.contains("--target goes with a table"), "{error}");
}
