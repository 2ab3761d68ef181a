//! The oracle: federated averaging in one process, without network or protocol, over the built-in data set.

use paceline_model::{
    DataSet, Device, EvaluationJob, ExactSum, Model, NetSpec, Partition, Preprocess, Rule, Source, Task, Threads,
    TrainConfig, TrainJob, Trained, evaluate, load, train,
};
use std::ops::ControlFlow;

const SEED: u64 = 1;
const CLIENTS: usize = 4;
const ROUNDS: u64 = 3;

fn config() -> TrainConfig {
    TrainConfig::sgd(1, 25, 0.05)
}

fn data() -> DataSet {
    load(&Source::Shapes { samples: 3_000 }, None, SEED).expect("it is generated")
}

fn trained(spec: &NetSpec, parent: &[u8], part: &DataSet, round: u64, k: usize, threads: &Threads) -> Trained {
    let node_key = [k as u8];
    let task = Task::plain(round, SEED, &node_key, parent);
    let job = TrainJob {
        task,
        spec,
        preprocess: Preprocess::Plain,
        data: &part.train,
        config: &config(),
        device: &Device::Cpu,
    };
    train(&job, threads, &mut |_| ControlFlow::Continue(())).expect("it trains")
}

#[test]
fn federated_averaging_learns_the_built_in_data_set() {
    let spec = NetSpec::preset("shapes-cnn", [3, 32, 32], 10).expect("a preset");
    let threads = Threads::new(2).expect("two threads");
    let whole = data();
    let parts: Vec<DataSet> =
        (1..=CLIENTS).map(|k| whole.clone().part(k, CLIENTS, &Partition::Iid, SEED).expect("a part")).collect();
    let mut model = Model::initial(&spec, &Device::Cpu, SEED).and_then(|model| model.to_bytes()).expect("a preset");
    let accuracy = |model: &[u8]| {
        let (data, device) = (&whole.test, &Device::Cpu);
        let job = EvaluationJob { spec: &spec, preprocess: Preprocess::Plain, weights: model, data, device };
        let result = evaluate(&job, &threads, &mut |_| ControlFlow::Continue(()));
        let result = result.expect("it evaluates").evaluation;
        result.correct as f64 / result.total as f64
    };
    let mut accuracies = vec![accuracy(&model)];
    for round in 1..=ROUNDS {
        let mut sum = ExactSum::new(spec.parameter_count().expect("a preset"));
        for (k, part) in parts.iter().enumerate() {
            let update = trained(&spec, &model, part, round, k, &threads);
            sum.add(&update.update, update.samples).expect("in range");
        }
        assert_eq!(sum.samples(), 3_000);
        model = Rule::FedAvg.step(&model, &sum, 3_000).expect("finite");
        accuracies.push(accuracy(&model));
    }
    assert!(accuracies[0] < 0.2, "an untrained net guesses: {accuracies:?}");
    assert!(accuracies[3] > accuracies[1].max(accuracies[0] + 0.1), "seed {SEED}: {accuracies:?}");
}

#[test]
fn one_client_alone_in_a_round_keeps_exactly_its_own_weights_up_to_rounding() {
    let spec = NetSpec::preset("shapes-cnn", [3, 32, 32], 10).expect("a preset");
    let threads = Threads::new(1).expect("a thread");
    let part = data().part(1, 30, &Partition::Iid, SEED).expect("a part");
    let parent = Model::initial(&spec, &Device::Cpu, SEED).and_then(|model| model.to_bytes()).expect("a preset");
    let update = trained(&spec, &parent, &part, 1, 0, &threads);
    let mut sum = ExactSum::new(spec.parameter_count().expect("a preset"));
    sum.add(&update.update, update.samples).expect("in range");
    let new = Rule::FedAvg.step(&parent, &sum, sum.samples()).expect("finite");
    let value = |bytes: &[u8], i: usize| f32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().expect("four bytes"));
    for i in 0..new.len() / 4 {
        let expected = value(&parent, i) + value(&update.update, i);
        assert!((value(&new, i) - expected).abs() <= 2e-8, "weight {i}");
    }
}

#[test]
fn the_same_bits_come_from_one_two_and_three_threads() {
    let spec = NetSpec::preset("shapes-cnn", [3, 32, 32], 10).expect("a preset");
    let part = data().part(1, 20, &Partition::Iid, SEED).expect("a part");
    let parent = Model::initial(&spec, &Device::Cpu, SEED).and_then(|model| model.to_bytes()).expect("a preset");
    let results: Vec<Trained> =
        (1..=3).map(|count| trained(&spec, &parent, &part, 1, 0, &Threads::new(count).expect("threads"))).collect();
    assert!(results[0] == results[1] && results[1] == results[2]);
    assert!(results[0].update.iter().any(|&byte| byte != 0));
}
