//! Runs that begin with the model of another run: real processes, of which one has its weights.

mod cluster;

use std::path::PathBuf;
use std::process::Command;

use cluster::{Cluster, shapes};
use paceline::run_file;
use serde_json::Value;

fn paceline(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_paceline")).args(arguments).output().expect("the program starts")
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().expect("a temporary folder's name is text")
}

fn tensor(file: &std::path::Path, name: &str) -> Vec<u8> {
    let bytes = std::fs::read(file).expect("it was written");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    file.tensor(name).expect("it is there").data().to_vec()
}

#[test]
fn a_run_goes_on_from_anothers_model_and_trains_its_last_layer_alone() {
    let mut first = Cluster::new(&shapes(2, 2, 300, "shapes-cnn"));
    first.start_all(2);
    first.wait_for_end();
    let folder = first.dir().join("files");
    std::fs::create_dir(&folder).expect("the folder can be written to");
    let path = |name: &str| -> PathBuf { folder.join(name) };
    let home = first.nodes[0].home.clone();
    let written = paceline(&["init", text(&path("next.toml")), "--model", text(&home)]);
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let text_of_it = std::fs::read_to_string(path("next.toml")).expect("it was written");
    let next = text_of_it.replace("[model]\n", "[model]\ntrainable = [\"linear1.*\"]\n").replace("-test", "-next");
    let run = run_file::parse(&next, "next.toml").expect("what init writes is a run file");
    assert!(run.learning.model.weights.is_some() && text_of_it.contains("the model after round 2 of"), "{text_of_it}");

    let mut second = Cluster::new(&next);
    second.place_all(2);
    // Without the weights nothing begins, and the node says what it waits for.
    second.start(1, &["--part", "2/2"]);
    let reason = second.wait("the reason", |c| {
        let status = c.status(1)?;
        status["reason"].as_str().filter(|why| why.contains("waits for the weights")).map(str::to_owned)
    });
    assert!(reason.contains("that the run begins with"), "{reason}");
    second.start(0, &["--part", "1/2", "--model", text(&home)]);
    second.wait_for_end();

    let export = |cluster: &Cluster, node, name: &str| {
        let out = cluster.command(node, &["model", "export", "--out", text(&path(name))]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        path(name)
    };
    let (before, after) = (export(&first, 1, "before.safetensors"), export(&second, 1, "after.safetensors"));
    for name in ["conv1.weight", "conv2.bias", "norm3.weight"] {
        assert_eq!(tensor(&before, name), tensor(&after, name), "{name} is not trained");
    }
    assert_ne!(tensor(&before, "linear1.weight"), tensor(&after, "linear1.weight"));
    let own = tensor(&after, "linear1.weight").len() + tensor(&after, "linear1.bias").len();
    for round in second.rounds(1) {
        assert_eq!(round["contributions"].as_array().map(Vec::len), Some(2), "{round}");
    }
    let updates = std::fs::read_dir(second.nodes[0].home.join("blobs")).expect("a folder").flatten();
    let lens: Vec<u64> = updates.filter_map(|entry| entry.metadata().ok()).map(|m| m.len()).collect();
    assert!(lens.contains(&(own as u64)), "an update has the bytes of what is trained, {own}: {lens:?}");

    // From a file alone, the record's accuracy; and in one process the same bits.
    let measured = paceline(&["model", "eval", "--model", text(&after), "--format", "json"]);
    let measured: Value = serde_json::from_slice(&measured.stdout).expect("JSON");
    let last = second.rounds(0).pop().expect("two rounds");
    assert_eq!(measured["accuracy"], last["accuracy"], "{measured}");
    let diff = paceline(&["model", "diff", text(&before), text(&after), "--format", "json"]);
    let diff: Value = serde_json::from_slice(&diff.stdout).expect("JSON");
    let tensors = diff["tensors"].as_array().expect("each tensor");
    let changed: Vec<&str> = tensors.iter().filter(|t| t["changed"] != 0).filter_map(|t| t["name"].as_str()).collect();
    assert_eq!(changed, ["linear1.weight", "linear1.bias"]);
    image::RgbImage::from_pixel(32, 32, image::Rgb([200, 30, 30])).save(path("red.png")).expect("room");
    let predicted =
        paceline(&["model", "predict", "--model", text(&after), text(&path("red.png")), "--format", "json"]);
    let predicted: Value = serde_json::from_slice(&predicted.stdout).expect("JSON");
    let shares = predicted["probabilities"].as_array().expect("each class");
    let sum: f64 = shares.iter().filter_map(|share| share[1].as_f64()).sum();
    assert!(shares.len() == 10 && (sum - 1.0).abs() < 1e-4 && shares[0][0] == predicted["label"], "{predicted}");
    let best = second.command(1, &["model", "eval", "--best", "--format", "json"]);
    assert!(best.status.success(), "{}", String::from_utf8_lossy(&best.stderr));
    let best: Value = serde_json::from_slice(&best.stdout).expect("JSON");
    let accuracies = second.rounds(1).into_iter().filter_map(|round| round["accuracy"].as_f64());
    assert_eq!(best["accuracy"].as_f64(), accuracies.reduce(f64::max), "{best}");
    std::fs::write(path("run.toml"), &next).expect("the folder can be written to");
    let simulated = paceline(&[
        "simulate",
        text(&path("run.toml")),
        "--clients",
        "2",
        "--model",
        text(&before),
        "--out",
        text(&path("simulated")),
        "--format",
        "json",
    ]);
    let lines = String::from_utf8(simulated.stdout).expect("JSON is text");
    let same = lines.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok()).expect("JSON");
    assert_eq!(same["model_hash"], last["model_hash"], "{}", String::from_utf8_lossy(&simulated.stderr));

    // With a head for other classes, drawn anew: the weights are in a file beside the run file.
    let five = "classes = [\"a\", \"b\", \"c\"]\nimage = [3, 32, 32]";
    let like = shapes(1, 1, 300, "shapes-cnn").replace("\"shapes\"\nsamples = 300", &format!("\"folder\"\n{five}"));
    std::fs::write(path("like.toml"), like).expect("the folder can be written to");
    let init = |file: &str, more: &[&str]| {
        let (file, like) = (path(file), path("like.toml"));
        paceline(&[&["init", text(&file), "--model", text(&after), "--like", text(&like)], more].concat())
    };
    let other = init("other.toml", &[]);
    let error = String::from_utf8_lossy(&other.stderr);
    assert!(error.contains("tensor `linear1.weight` has shape [10, 512], and [3, 512] in this net"), "{error}");
    let made = init("other.toml", &["--fresh", "linear1.*"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let fresh = path("other.safetensors");
    let said = String::from_utf8_lossy(&made.stdout);
    assert!(said.contains(&format!("--model {}", fresh.display())), "{said}");
    assert_eq!(tensor(&fresh, "conv1.weight"), tensor(&after, "conv1.weight"));
    assert_eq!(tensor(&fresh, "linear1.bias").len(), 12);
    let verified = second.command(0, &["verify", "--format", "json"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

#[test]
fn weights_of_another_model_are_refused_at_the_start() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| dir.path().join(name);
    let run =
        shapes(1, 1, 100, "shapes-cnn").replace("[model]\n", &format!("[model]\nweights = \"{}\"\n", "ab".repeat(32)));
    std::fs::write(path("run.toml"), run).expect("the folder can be written to");
    std::fs::write(path("net.pt"), b"PK\x03\x04").expect("the folder can be written to");
    let join = |model: &str| {
        let (home, model) = (path("home"), path(model));
        paceline(&["join", text(&path("run.toml")), "--no-mdns", "--home", text(&home), "--model", text(&model)])
    };
    let refused = join("net.pt");
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(4) && error.contains("safetensors.torch.save_file"), "{error}");
    let missing = join("nothing.safetensors");
    assert!(String::from_utf8_lossy(&missing.stderr).contains("nothing.safetensors can't be read"));
    // Weights of the same net, and others than the run file says; they are not remembered for the next start.
    let donor = paceline(&["demo", "--quiet", "--nodes", "1", "--keep", text(&path("donor"))]);
    assert!(donor.status.success(), "{}", String::from_utf8_lossy(&donor.stderr));
    let others = join("donor/node-1");
    let error = String::from_utf8_lossy(&others.stderr);
    assert!(others.status.code() == Some(4) && error.contains("the weights that were given are"), "{error}");
    assert!(!path("home").join("options.json").exists(), "what can't be used is not remembered");
}
