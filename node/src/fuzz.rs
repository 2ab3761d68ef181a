//! What must hold for any bytes that come to this crate: a function a target. `fuzz/` looks for bytes that break it, and the
//! tests below try those that are kept there.
//!
//! Each takes bytes, and panics where the crate does or something does not hold that must.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::Path;

use libp2p::Multiaddr;
use paceline_model::data::Examples;
use paceline_model::{DataSet, Device, Learner, Task, Threads, Trainable};
use paceline_protocol::bounds::{BLOB_BYTES_MAX, RUN_FILE_BYTES_MAX};
use paceline_protocol::runfile::place;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::cli::fuzz::options;
use crate::learn::{Plan, evaluation};
use crate::model_file::ModelFile;
use crate::report::{Peer, Round, Status};
use crate::run_file::parse;
use crate::ui::{table, words};

pub use crate::blobs::fuzz::{fetch, manifest};
pub use crate::net::fuzz::streams;
pub use crate::store::fuzz::store;

/// A folder for a thread, in memory where there is one.
pub(crate) fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
    folder.expect("a temporary folder")
}

/// What is read is written, and read again.
fn reads_back<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Option<T> {
    let value = serde_json::from_slice::<T>(bytes).ok()?;
    let written = serde_json::to_vec(&value).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(serde_json::to_vec(&again).ok(), Some(written));
    Some(value)
}

/// What lies in a home or an output folder, and what another process answers: JSON of some kind.
pub fn json(bytes: &[u8]) {
    let texts: Vec<String> = serde_json::from_slice(bytes).unwrap_or_default();
    let _: Vec<Multiaddr> = texts.iter().filter_map(|t| t.parse().ok()).collect();
    options(bytes);
    if let Some(round) = reads_back::<Round>(bytes) {
        let _ = (
            words::committed_round(&round, Some(&round), 3, str::to_owned),
            words::simulated_round(&round, 3, "accuracy"),
        );
        let _ = table::rounds(&[round], crate::report::short_id).to_string();
    }
    if let Some(status) = reads_back::<Status>(bytes) {
        let _ = (crate::ui::status::status(&status), table::members(&status).to_string());
    }
    if let Some(peer) = reads_back::<Peer>(bytes) {
        let _ = table::peers(&[peer]).to_string();
    }
}

/// What a trainer writes: a line of its stdout, or a file of tensors; and a file of weights that somebody else made.
pub fn trainer(bytes: &[u8]) {
    if let Err(why) = crate::learn::trainer_answer(bytes) {
        assert!(!why.is_empty() && why.len() < 1_000, "{why}");
    }
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, bytes).expect("room");
    match ModelFile::read(&path) {
        Ok(file) => {
            if let Ok((layout, weights)) = file.all() {
                assert_eq!(weights.len(), 4 * layout.parameters());
                assert_eq!(file.of_layout(&layout).ok(), Some(weights));
            }
            assert!(file.about.is_none_or(|about| serde_json::to_string(&about).is_ok()));
        }
        Err(error) => assert!(!format!("{error:#}").is_empty()),
    }
}

/// A run file, as a person writes it or a peer gives it: its canonical form is one, and is its own.
pub fn run_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match parse(text, "run.toml") {
        Ok(file) => {
            let canonical = file.canonical();
            assert!(canonical.len() <= RUN_FILE_BYTES_MAX, "a canonical form over its bound");
            let again = parse(&canonical, "its canonical form");
            let again = again.unwrap_or_else(|e| panic!("{e}\n{canonical}"));
            assert_eq!(again.canonical(), canonical, "two canonical forms");
            assert_eq!(again.run_id(), file.run_id());
            let _ = place(text, "run.toml", "model", "layers", Some(0));
        }
        Err(error) => assert!(error.to_string().starts_with("run.toml"), "an error without its place: {error}"),
    }
}

/// The net of a run file that somebody else has written: what it may be at all is said before memory is taken for it, and what
/// may be is trained without trouble. The bytes choose its layers and the size of the images.
pub fn net(bytes: &[u8]) {
    let text = run_file_of(bytes);
    let Ok(run_file) = parse(&text, "run.toml") else { return };
    let plan = match Plan::of(&run_file) {
        Ok(plan) => plan,
        Err(error) => {
            let place = error.place(&text, "run.toml").unwrap_or_default();
            assert!(place.starts_with("run.toml:"), "an error without its place: {error}");
            return;
        }
    };
    let formats = plan.formats;
    assert!(formats.state.len() <= BLOB_BYTES_MAX && formats.update.len() <= 2 * BLOB_BYTES_MAX);
    let [channels, height, width] = plan.source.shape();
    // What is larger takes longer, and no other way.
    if formats.parameters() > 3_000 || channels * height * width > 400 || plan.spec.layers.len() > 8 {
        return;
    }
    let (count, len) = (6, channels * height * width);
    let pixels = (0..count * len).map(|i| (i * 37) as u8).collect();
    let labels = (0..count).map(|i| (i % plan.spec.classes) as u16).collect();
    let images =
        Examples::new([channels, height, width], plan.spec.classes, pixels, labels).expect("they are consistent");
    let state = plan.initial_state(&plan.drawn_weights().expect("a small net fits in memory"));
    assert_eq!(state.len() as u64, formats.state.len());
    let threads = Threads::new(1).expect("a thread");
    let learner = plan.learner(DataSet { train: images.clone(), test: images, notes: Vec::new() }, Device::Cpu);
    let task = Task {
        round: 1,
        seed: plan.seed,
        node_key: b"node",
        rule: formats.rule(),
        state: &state,
        control: None,
        trainable: Trainable::all(),
    };
    let go_on = &mut |_| ControlFlow::Continue(());
    if let Ok(trained) = learner.train(&task, &threads, go_on) {
        assert!(formats.update.check(&trained.update).is_ok());
    }
    if let Ok(measures) = learner.evaluate(formats.state.weights(&state), &threads, go_on) {
        assert_eq!(evaluation(&measures).metrics.len(), measures.len(), "{measures:?}");
    }
}

/// The run file that bytes choose.
fn run_file_of(bytes: &[u8]) -> String {
    let mut bytes = bytes.iter().copied();
    let mut byte = || bytes.next().unwrap_or(0);
    // Mostly small, sometimes at a bound.
    let number = |byte: u8| match byte {
        0xFE => 1 << 20,
        0xFD => 1024,
        0xFC => 0,
        _ => u32::from(byte % 12),
    };
    let rules = ["fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "scaffold"];
    let rule = rules[usize::from(byte()) % rules.len()];
    let (classes, size) = (1 + byte() % 3, [1 + byte() % 2 * 2, 1 + byte() % 12, 1 + byte() % 12]);
    let batch = 1 + byte() % 6;
    let switches = byte();
    let classes: Vec<String> = (0..classes).map(|i| format!("\"c{i}\"")).collect();
    let mut layers = String::new();
    for _ in 0..byte() % 8 {
        let layer = match byte() % 9 {
            0 => {
                let [out, kernel, stride, pad] = [byte(), byte(), byte(), byte()].map(number);
                format!("type = \"conv\", out = {out}, kernel = {kernel}, stride = {stride}, pad = {pad}")
            }
            1 => format!("type = \"group_norm\", groups = {}", number(byte())),
            2 => "type = \"relu\"".to_owned(),
            3 => format!("type = \"max_pool\", size = {}", number(byte())),
            4 => {
                let [out, stride, groups] = [byte(), byte(), byte()].map(number);
                format!("type = \"residual\", out = {out}, stride = {stride}, groups = {groups}")
            }
            5 => "type = \"global_avg_pool\"".to_owned(),
            6 => "type = \"flatten\"".to_owned(),
            7 => format!("type = \"linear\", out = {}", number(byte())),
            _ => "type = \"dropout\", rate = 0.5".to_owned(),
        };
        // Writing into a string can't fail.
        let _ = writeln!(layers, "{{ {layer} }},");
    }
    let [clip, prox, momentum] = [1, 2, 4].map(|bit| if switches & bit != 0 { "0.5" } else { "0.0" });
    let augment = switches & 8 != 0;
    format!(
        "[run]\nname = \"f\"\nrounds = 1\n[model]\nlayers = [\n{layers}{{ type = \"linear\", out = {} }},\n]\n[data]\n\
         dataset = \"folder\"\nclasses = [{}]\nimage = {size:?}\nholdout = 0.5\n[train]\nbatch = {batch}\nepochs = 1\n\
         lr = 0.1\nclip_norm = {clip}\nprox_mu = {prox}\nmomentum = {momentum}\naugment = {augment}\n[aggregate]\n\
         rule = \"{rule}\"\n",
        classes.len(),
        classes.join(", "),
    )
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use paceline_protocol::Hash;
    use safetensors::tensor::{Dtype, TensorView};

    use super::*;
    use crate::blobs::Manifest;
    use crate::net::BlobRequest;
    use crate::run_file::template;

    replay::tests!(seeds(), streams, manifest, fetch, store, json, trainer, run_file, net);

    #[test]
    fn no_damage_to_what_a_trainer_writes_is_trouble() {
        for (_, whole) in seeds().into_iter().filter(|(target, _)| *target == "trainer") {
            for at in 0..whole.len() {
                trainer(&whole[..at]);
                let mut changed = whole.clone();
                changed[at] ^= 1 << (at % 8);
                trainer(&changed);
            }
        }
    }

    /// Real values for each target to begin with.
    fn seeds() -> Vec<(&'static str, Vec<u8>)> {
        let framed = |bytes: &[u8]| [&(bytes.len() as u32).to_le_bytes(), bytes].concat();
        let mut all: Vec<(&str, Vec<u8>)> = Vec::new();
        let batch = [framed(b"one"), framed(b""), framed(b"three")].concat();
        let blob = Hash::of(b"blob");
        let requests = [BlobRequest::Manifest { blob }, BlobRequest::Chunk { blob, index: 7 }].map(|r| r.encode());
        let streams = [(1, &batch[..]), (3, &[6]), (5, &requests[0]), (5, &requests[1]), (0, &framed(&batch))];
        all.extend(streams.map(|(kind, bytes)| ("streams", [&[kind], bytes].concat())));
        for (tag, payload) in [(0u8, &[1; 40][..]), (1, &[2; 30]), (2, &[]), (3, &[0xF0]), (4, &[])] {
            all.push(("streams", [&[7 | tag << 3], payload].concat()));
        }
        for len in [0, 1, 1 << 18, 600_000] {
            all.push(("manifest", Manifest::of(&vec![7; len]).encode()));
        }
        for seed in 0..16u8 {
            let draw = |len: u8| {
                (0..len).map(move |i| i.wrapping_mul(seed.wrapping_mul(2).wrapping_add(91)) ^ i.rotate_left(3))
            };
            all.push(("fetch", draw(40).collect()));
            all.push(("net", draw(60).collect()));
            all.push(("store", [seed].into_iter().chain(draw(1 + 4 * (seed % 4))).collect()));
        }
        // A convolution, a norm, a rectifier, a pool, a residual block.
        let layers = [0, 2, 1, 8, 8, 3, 0, 5, 0, 4, 3, 1, 1, 1, 2, 2, 3, 2, 4, 4, 1, 2];
        all.extend((0..6).map(|rule| ("net", [&[rule], &layers[1..]].concat())));
        let canonical = parse(&template(&[]), "the template").expect("the template parses").canonical();
        all.extend([template(&[]), canonical].map(|text| ("run_file", text.into_bytes())));
        for line in [
            r#"{"type": "ready", "protocol": 1, "name": "train.py"}"#,
            r#"{"type": "progress", "id": 7, "done": 12, "of": 100, "loss": null}"#,
            r#"{"type": "trained", "id": 7, "samples": 1437, "loss": 0.65}"#,
            r#"{"type": "evaluated", "id": 8, "metrics": {"accuracy": {"sum": 131, "count": 144.0}}}"#,
            r#"{"type": "failed", "why": "out of memory"}"#,
        ] {
            all.push(("trainer", line.as_bytes().to_vec()));
        }
        let (half, whole) = ([0u8; 4], [0u8; 12]);
        let views = [
            ("a", TensorView::new(Dtype::F16, vec![2], &half).expect("consistent")),
            ("b", TensorView::new(Dtype::F32, vec![1, 3], &whole).expect("consistent")),
        ];
        let about = std::collections::HashMap::from([("paceline".to_owned(), "{}".to_owned())]);
        for metadata in [None, Some(about)] {
            all.push(("trainer", safetensors::serialize(views.clone(), metadata).expect("it can be written")));
        }
        let round = serde_json::json!({
            "kind": "train", "round": 1, "attempt": 0, "model_hash": "ab", "accuracy": 0.5, "train_loss": 1.0,
            "contributions": [{ "node_id": "1/3", "samples": 7, "update_hash": "cd", "train_loss": 1.0, "train_ms": 9 }],
            "bytes_sent": 1, "bytes_received": 2,
        });
        let peers = ["/ip4/10.0.0.1/tcp/4001"];
        let options = b"join\nrun.toml\n--part\n1/3\n--name\nlab".to_vec();
        all.push(("json", options));
        let values = [serde_json::to_vec(&round), serde_json::to_vec(&Status::default()), serde_json::to_vec(&peers)];
        all.extend(values.map(|json| ("json", json.expect("it can be written"))));
        all
    }
}
