use std::ops::ControlFlow;
use std::path::Path;

use super::*;

/// A trainer of Python's standard library, and a folder whose file `act` says what it does.
struct Bench {
    dir: tempfile::TempDir,
    threads: Threads,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary folder"), threads: Threads::new(1).expect("a thread") }
    }

    fn act(&self, what: &str) {
        std::fs::write(self.dir.path().join("act"), what).expect("room");
    }

    fn program(&self) -> Program {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/learn/program/testdata/fake.py");
        let hello = Hello {
            protocol: Hello::PROTOCOL,
            paceline: "0".to_owned(),
            run: HelloRun { id: "ab".to_owned(), name: "test".to_owned(), rounds: 3 },
            seed: 7,
            node: HelloNode { id: "12D3KooW".to_owned(), name: None, part: Some((2, 3)) },
            data: Some(self.dir.path().to_owned()),
            folder: self.dir.path().join("trainer"),
            threads: 1,
            train: serde_json::json!({}),
            settings: serde_json::json!({}),
            trainable: Vec::new(),
        };
        let command = vec!["python3".to_owned(), script.display().to_string()];
        Program { command, hello, patience: Duration::from_secs(60), layout: None }
    }

    fn start(&self) -> ProgramLearner {
        ProgramLearner::start(self.program()).expect("python3 is there")
    }

    fn train(&self, learner: &ProgramLearner) -> Result<Trained, String> {
        self.train_watched(learner, &mut |_| ControlFlow::Continue(())).map_err(|error| error.to_string())
    }

    fn train_watched(&self, learner: &ProgramLearner, watch: &mut Watch<'_>) -> Result<Trained, TrainError> {
        let state = learner.initial(0).expect("it is kept");
        let task = Task::plain(1, 7, b"node", &state);
        learner.train(&task, &self.threads, watch)
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[test]
fn a_program_brings_its_tensors_trains_and_measures() {
    let bench = Bench::new();
    let learner = bench.start();
    let names: Vec<&str> = learner.layout().tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!((names, learner.name().as_str()), (vec!["body", "head.bias"], "fake.py"));
    assert_eq!(floats(&learner.initial(0).expect("it is kept")), [7.0, 7.0, 7.0, 7.0, 0.5]);
    let mut steps = Vec::new();
    let trained = bench.train_watched(&learner, &mut |p| {
        steps.push((p.batch, p.batches));
        ControlFlow::Continue(())
    });
    let trained = trained.expect("it trains");
    assert!(floats(&trained.update).iter().all(|delta| (delta - 0.02).abs() < 1e-6), "{:?}", floats(&trained.update));
    assert_eq!((trained.samples, trained.train_loss, steps.last()), (20, Some(0.25), Some(&(3, 3))));
    let measured =
        learner.evaluate(&learner.initial(0).expect("it is kept"), &bench.threads, &mut |_| ControlFlow::Continue(()));
    let expected = vec![Measure::new("accuracy", 2.0, 4), Measure::new("f1", 1.5, 2)];
    assert_eq!(measured.expect("it measures"), expected);
}

#[test]
fn rubbish_is_told_with_its_tensor_and_the_trainer_lives_on() {
    let bench = Bench::new();
    let learner = bench.start();
    let cases = [
        ("NaN", "value 3 of tensor `body` went from 7 to NaN"),
        ("leave a tensor out", "tensor `body` is missing"),
        ("one tensor too many", "tensor `tail`, which its trainer wrote, is none of this run's"),
        ("another shape", "tensor `body` has shape [4] in what its trainer wrote, [2, 2] in this run"),
        ("another type", "tensor `body` is of F64"),
        ("jump", "value 0 of tensor `head.bias` went from 0.5 to 20.52: it must be finite, and move by at most 16"),
        ("write nothing", "its trainer answered and wrote no file"),
        ("no samples", "its trainer says 0 samples"),
        ("fail in train", "out of memory"),
    ];
    for (act, expected) in cases {
        bench.act(act);
        let error = bench.train(&learner).expect_err("it is rubbish");
        assert!(error.starts_with(expected), "{act}: {error}");
    }
    bench.act("");
    assert!(bench.train(&learner).is_ok());
    assert_eq!(learner.inner.running().failures, 0, "it was never started again");
}

#[test]
fn a_trainer_that_ends_or_writes_what_is_no_answer_is_started_again() {
    let bench = Bench::new();
    let learner = bench.start();
    let cases = [
        ("exit in train", "its trainer: it ended in the middle of its work (exit status: 7)"),
        ("rubbish in train", "its trainer: it wrote \"what is this?\\n\", which is no answer"),
    ];
    for (act, expected) in cases {
        bench.act(act);
        let error = bench.train(&learner).expect_err("it ends");
        assert!(error.starts_with(expected), "{act}: {error}");
        bench.act("");
        assert!(bench.train(&learner).is_ok(), "{act}");
    }
}

#[test]
fn a_trainer_that_hangs_is_ended_and_started_again() {
    let bench = Bench::new();
    let program = Program { patience: Duration::from_millis(300), ..bench.program() };
    let learner = ProgramLearner::start(program).expect("python3 is there");
    bench.act("hang in train");
    let error = bench.train(&learner).expect_err("it hangs");
    assert!(error.starts_with("its trainer: it showed no progress for 0 s and was ended"), "{error}");
    bench.act("");
    assert!(bench.train(&learner).is_ok());
}

#[test]
fn a_job_is_given_up_when_it_is_watched_so_and_the_next_one_is_done() {
    let bench = Bench::new();
    let learner = bench.start();
    bench.act("hang in train");
    let stop = |p: Progress| if p.batch == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    // It does not listen while it works, so it is ended after a while.
    assert!(matches!(bench.train_watched(&learner, &mut { stop }), Err(TrainError::Cancelled)));
    bench.act("");
    assert!(bench.train(&learner).is_ok());
}

#[test]
fn a_stopped_trainer_ends_and_is_not_started_again() {
    let bench = Bench::new();
    let learner = bench.start();
    learner.stop();
    assert!(learner.inner.running().process.is_none());
    let again = bench.train_watched(&learner, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(again, Err(TrainError::Cancelled)));
}

#[test]
fn a_program_that_is_no_trainer_is_an_error_at_the_start() {
    let bench = Bench::new();
    bench.act("exit at once");
    let error = ProgramLearner::start(bench.program()).expect_err("it ends").to_string();
    assert!(error.ends_with("fake.py`: it ended before it was ready (exit status: 1)"), "{error}");
    let command = vec!["/no/such/program".to_owned()];
    let error = ProgramLearner::start(Program { command, ..bench.program() }).expect_err("it is not there").to_string();
    assert!(error.contains("`/no/such/program` can't be started"), "{error}");
}

#[test]
fn the_seed_of_a_training_follows_from_run_round_and_node() {
    let seed = |seed, round, node_key: &[u8]| line::seed(&Task::plain(round, seed, node_key, &[]));
    let all = [seed(1, 1, b"a"), seed(1, 1, b"b"), seed(1, 2, b"a"), seed(2, 1, b"a")];
    assert!((0..4).all(|i| (0..i).all(|j| all[i] != all[j])) && all.iter().all(|s| *s < 1 << 53), "{all:?}");
    assert_eq!(seed(1, 1, b"a"), all[0]);
}
