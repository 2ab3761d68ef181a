//! `paceline simulate`, and what it has in common with a run of real processes.

mod cluster;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cluster::{Cluster, shapes};
use serde_json::Value;

fn simulate(run: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paceline"));
    command.args(["simulate", "--format", "json", "--out"]).arg(out).arg(run).args(more);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A folder that ends with the test, a run file in it, and where a simulation of it goes.
fn folder(run_file: &str) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (run, out) = (dir.path().join("run.toml"), dir.path().join("out"));
    std::fs::write(&run, run_file).expect("room");
    (dir, run, out)
}

/// The rounds that a simulation prints.
fn rounds(run: &Path, out: &Path, more: &[&str]) -> Vec<Value> {
    let output = simulate(run, out, more).output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("JSON is text");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON alone is on stdout")).collect()
}

/// The error that ended it: with `--format json` the last line of stderr is an object.
fn told(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let last: Value = serde_json::from_str(text.lines().last().unwrap_or_default()).expect("JSON");
    assert!(last["exit"].is_u64(), "{last}");
    last["error"].as_str().expect("it says why").to_owned()
}

fn column(rounds: &[Value], key: &str) -> Vec<String> {
    rounds.iter().map(|round| round[key].to_string()).collect()
}

/// Runs three nodes and a simulation of three clients on the same run file, and compares.
fn compare(run_file: &str) {
    let mut cluster = Cluster::new(run_file);
    cluster.start_all(3);
    let (_dir, run, out) = folder(run_file);
    let simulated = rounds(&run, &out, &["--clients", "3"]);
    cluster.wait_for_end();
    let networked = cluster.rounds(0);
    assert_eq!(simulated.len(), networked.len());
    let keys = |rounds: &[Value]| -> Vec<String> {
        rounds.iter().flat_map(|round| round.as_object().expect("an object").keys().cloned()).collect()
    };
    assert_eq!(keys(&simulated), keys(&networked));
    for key in ["round", "kind", "model_hash"] {
        assert_eq!(column(&simulated, key), column(&networked, key), "{key}");
    }
    let updates = |rounds: &[Value]| -> Vec<Vec<String>> {
        let of_round = |round: &Value| {
            let mut hashes = column(round["contributions"].as_array().expect("an array"), "update_hash");
            hashes.sort();
            hashes
        };
        rounds.iter().map(of_round).collect()
    };
    assert_eq!(updates(&simulated), updates(&networked));
}

#[test]
fn a_simulation_has_the_bits_of_the_nodes_and_chooses_the_same_participants() {
    compare(&(shapes(3, 4, 300, "shapes-cnn") + "min_updates = 2\nfraction = 0.6\n"));
}

#[test]
fn the_state_of_a_server_optimiser_outlives_its_coordinators() {
    let rule = "[aggregate]\nrule = \"fedadam\"\nlr = 0.01\n";
    compare(&(shapes(3, 3, 300, "shapes-cnn") + "min_updates = 3\n" + rule));
}

#[test]
fn scaffolds_control_variates_are_those_of_the_last_averaged_update() {
    let rule = "[aggregate]\nrule = \"scaffold\"\n";
    compare(&(shapes(3, 4, 300, "shapes-cnn") + "min_updates = 2\nfraction = 0.6\n" + rule));
}

#[test]
fn an_interrupted_simulation_goes_on_to_the_same_end() {
    let (dir, run, _) = folder(&(shapes(3, 5, 600, "shapes-cnn") + "[aggregate]\nrule = \"scaffold\"\n"));
    let whole = rounds(&run, &dir.path().join("whole"), &[]);
    let out = dir.path().join("out");
    let mut child = simulate(&run, &out, &[]).spawn().expect("the program starts");
    let mut first = String::new();
    BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut first).expect("a round");
    child.kill().expect("it runs");
    let _ = child.wait();
    // What a write that was cut short leaves.
    let path = out.join("rounds.jsonl");
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    std::fs::write(&path, text + "{\"kind\":\"tra").expect("room");
    let rest = rounds(&run, &out, &[]);
    assert!((1..=5).contains(&rest.len()));
    assert_eq!(rest.last().map(|r| &r["model_hash"]), whole.last().map(|r| &r["model_hash"]));
    assert_eq!(std::fs::read_to_string(&path).expect("it is there").lines().count(), 5);
}

#[test]
fn a_simulation_ends_when_its_accuracy_is_reached() {
    let (_dir, run, out) = folder(&shapes(3, 50, 300, "shapes-cnn"));
    assert!(rounds(&run, &out, &["--until", "15"]).len() < 50);
    for against in ["rounds", "bytes", "time"] {
        let file = |kind: &str| std::fs::read(out.join(format!("accuracy-{against}.{kind}"))).expect("a plot");
        assert!(file("png").starts_with(b"\x89PNG") && file("svg").starts_with(b"<svg"), "{against}");
    }
}

#[test]
fn any_number_of_threads_gives_the_same_models() {
    let (dir, run, _) = folder(&shapes(3, 2, 300, "shapes-cnn"));
    // With 7 threads each of three clients gets two, with 2 one is left over and gets both.
    let models = ["1", "2", "7"]
        .map(|threads| column(&rounds(&run, &dir.path().join(threads), &["--threads", threads]), "model_hash"));
    assert!(models.iter().all(|other| *other == models[0]), "{models:?}");
}

#[test]
fn a_folder_of_another_simulation_is_left_alone() {
    let (_dir, run, out) = folder(&shapes(3, 1, 300, "shapes-cnn"));
    rounds(&run, &out, &[]);
    let output = simulate(&run, &out, &["--clients", "4"]).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(4));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("another simulation, of 3 clients") && error.contains("--out"), "{error}");
}

#[test]
fn a_folder_of_something_else_is_left_alone() {
    let (_dir, run, out) = folder(&shapes(3, 1, 300, "shapes-cnn"));
    std::fs::create_dir(&out).expect("room");
    let kept = ["thesis.tex", "draft.new", "state-best", "state-5-backup"];
    kept.iter().for_each(|name| std::fs::write(out.join(name), "years of work").expect("room"));
    std::fs::write(out.join("accuracy-rounds.png"), "a picture").expect("room");
    let output = simulate(&run, &out, &[]).output().expect("the program starts");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(4) && error.contains("holds `accuracy-rounds.png`"), "{error}");
    std::fs::remove_file(out.join("accuracy-rounds.png")).expect("it is there");
    assert_eq!(rounds(&run, &out, &[]).len(), 1);
    assert!(kept.iter().all(|name| std::fs::read(out.join(name)).is_ok_and(|text| text == b"years of work")));
}

#[test]
fn states_that_a_kill_left_behind_are_cleared() {
    let (_dir, run, out) = folder(&shapes(3, 2, 300, "shapes-cnn"));
    rounds(&run, &out, &[]);
    std::fs::copy(out.join("state-2"), out.join("state-1")).expect("room");
    rounds(&run, &out, &[]);
    let names = std::fs::read_dir(&out).expect("a folder").map(|e| e.expect("an entry").file_name());
    let states: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with("state")).collect();
    assert_eq!(states, ["state-2"]);
}

/// The error of a run file that can't be simulated.
fn refused(run_file: &str) -> (Option<i32>, String) {
    refused_with(run_file, &[], |_| ())
}

/// The same with more options, after `prepare` has put files into the folder of the run file.
fn refused_with(run_file: &str, more: &[&str], prepare: impl FnOnce(&Path)) -> (Option<i32>, String) {
    let (dir, run, out) = folder(run_file);
    prepare(dir.path());
    let mut command = simulate(&run, &out, more);
    let output = command.current_dir(dir.path()).output().expect("the program starts");
    let error = told(&output.stderr).replace(&dir.path().display().to_string(), "DIR");
    (output.status.code(), error)
}

#[test]
fn run_files_that_can_not_be_trained_are_refused_with_line_and_fix() {
    let run = |model: &str, train: &str| {
        format!(
            "[run]\nname = \"x\"\nrounds = 1\n[model]\n{model}\n[data]\ndataset = \"shapes\"\nsamples = 300\n[train]\n{train}\n"
        )
    };
    let preset = "arch = \"shapes-cnn\"";
    let cases = [
        (run(preset, "bacth = 5"), "run.toml:10:1: unknown key `bacth` in [train]: did you mean `batch`?"),
        (
            run(preset, "batch = 500"),
            "run.toml:10:1: `batch` in [train] is 500, and there are 300 training examples in all",
        ),
        (
            run(
                "layers = [\n  { type = \"conv\", out = 8, kernel = 3 },\n  { type = \"max_pool\", size = 40 },\n]",
                "",
            ),
            "run.toml:7:3: [model]: layer 2 (max_pool)",
        ),
        (
            run("layers = [\n  { type = \"flatten\" },\n  { type = \"linear\", out = 100 },\n]", ""),
            "run.toml:5:1: [model]: the net: the last layer gives 100 numbers for 10 classes: end with a linear layer with \
             `out = 10`",
        ),
    ];
    for (text, expected) in cases {
        let (code, error) = refused(&text);
        assert!(code == Some(4) && error.contains(expected), "{code:?} {error}\nexpected {expected}");
    }
}

#[test]
fn a_batch_that_fits_in_no_memory_is_refused_with_its_line() {
    let layers = "layers = [\n  { type = \"conv\", out = 60000, kernel = 1 },\n  { type = \"global_avg_pool\" },\n  \
                  { type = \"linear\", out = 10 },\n]";
    let run = shapes(3, 1, 300, "shapes-cnn").replace("arch = \"shapes-cnn\"", layers);
    let (code, error) = refused(&run);
    assert!(code == Some(4) && error.contains("`batch` in [train] makes steps of 20 examples"), "{code:?} {error}");
    assert!(error.contains("fits in memory for 17 at most") && error.contains("run.toml:"), "{error}");
}

#[test]
fn a_named_net_that_does_not_fit_its_images_is_named_with_them() {
    let data = "dataset = \"folder\"\nclasses = [\"a\", \"b\"]\nimage = [1, 2, 2]";
    let run = format!("[run]\nname = \"x\"\nrounds = 1\n[model]\narch = \"mnist-cnn\"\n[data]\n{data}\n");
    let (code, error) = refused(&run);
    let expected = "run.toml:5:1: `arch = \"mnist-cnn\"` does not fit an input of [1, 2, 2]";
    assert!(code == Some(4) && error.contains(expected), "{code:?} {error}");
}

#[test]
fn files_for_a_data_set_that_is_generated_are_refused() {
    let (code, error) = refused_with(&shapes(3, 1, 300, "shapes-cnn"), &["--data", "mnist"], |_| ());
    assert!(code == Some(4) && error.contains("is generated and reads no files"), "{code:?} {error}");
}

#[test]
fn data_with_fewer_classes_than_the_net_is_refused_with_line_and_fix() {
    let data = "dataset = \"folder\"\nclasses = [\"a\", \"b\"]\nimage = [1, 8, 8]";
    let run = format!("[run]\nname = \"x\"\nrounds = 1\n[model]\narch = \"mlp\"\n[data]\n{data}\n");
    let pictures = |dir: &Path, class: &str, side: u32| {
        let folder = dir.join("pictures").join(class);
        std::fs::create_dir_all(&folder).expect("room");
        for i in 0..60 {
            image::GrayImage::new(side, side).save(folder.join(format!("{i}.png"))).expect("room");
        }
    };
    let more = ["--data", "pictures"];
    // One machine may lack a class, all together must not: with its folder empty, or without one.
    let expected = "run.toml:8:1: all training examples together are of 1 of the 2 classes";
    for has_folder in [true, false] {
        let (code, error) = refused_with(&run, &more, |dir| {
            pictures(dir, "a", 8);
            if has_folder {
                std::fs::create_dir_all(dir.join("pictures/b")).expect("room");
            }
        });
        assert!(
            code == Some(4)
                && error.contains(expected)
                && error.contains("give --data with some of each, lower `holdout`"),
            "{code:?} {error}"
        );
    }
    let (code, error) =
        refused_with(&run, &more, |dir| ["a", "b"].map(|class| pictures(dir, class, 9)).into_iter().collect());
    assert!(
        code == Some(4) && error.contains("run.toml:9:1: pictures/a/0.png: expected an image 8 wide"),
        "{code:?} {error}"
    );
}

#[test]
fn files_in_a_known_format_with_images_of_another_size_are_refused_with_line_and_fix() {
    let run = "[run]\nname = \"x\"\nrounds = 1\n[model]\narch = \"mlp\"\n[data]\ndataset = \"mnist\"\n";
    let (code, error) = refused_with(run, &["--data", "."], |dir| {
        let idx = |magic: u32, dimensions: &[u32], value: &dyn Fn(usize) -> u8| -> Vec<u8> {
            let header = [&[magic], dimensions].concat().into_iter().flat_map(u32::to_be_bytes);
            header.chain((0..dimensions.iter().product::<u32>() as usize).map(value)).collect()
        };
        for split in ["train", "t10k"] {
            let write = |name: String, bytes: Vec<u8>| std::fs::write(dir.join(name), bytes).expect("room");
            write(format!("{split}-images-idx3-ubyte"), idx(0x0803, &[60, 20, 20], &|_| 0));
            write(format!("{split}-labels-idx1-ubyte"), idx(0x0801, &[60], &|i| (i % 10) as u8));
        }
    });
    let expected =
        "run.toml:7:1: the images are [1, 20, 20] (channels, height, width), and those of this data set [1, 28, 28]";
    assert!(code == Some(4) && error.contains(expected) && error.contains("scale them"), "{code:?} {error}");
}

#[test]
fn more_clients_than_images_are_refused_before_anything_starts() {
    let run = shapes(3, 1, 300, "shapes-cnn");
    let (code, error) = refused_with(&run, &["--clients", "301"], |_| ());
    assert!(code == Some(4) && error.contains("301 clients for 300 training examples"), "{code:?} {error}");
    let (code, error) = refused(&run.replace("min_nodes = 3", "min_nodes = 400"));
    assert!(
        code == Some(4) && error.contains("run.toml:") && error.contains("400 clients for 300"),
        "{code:?} {error}"
    );
}

#[test]
fn a_learning_rate_that_diverges_ends_the_simulation_with_its_line() {
    let run = shapes(3, 2, 300, "shapes-cnn").replace("lr = 0.1", "lr = 1e9");
    let (code, error) = refused(&run);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("training diverged in round 1") && error.contains("lower `lr`"), "{error}");
    assert!(error.contains("DIR/run.toml:") && error.contains("0 updates, 2 are needed"), "{error}");
}
