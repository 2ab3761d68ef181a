//! Evaluation: how good a model is on examples that it wasn't trained on.

use crate::data::{Examples, Preprocess};
use crate::kernels::loss;
use crate::net::{Mode, Model, ModelError};
use crate::spec::NetSpec;
use crate::threads::Threads;
use crate::train::{Progress, TrainError, check_fit, input_tensor};
use candle_core::Device;
use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

/// Images that an evaluation looks at together, if the net is not so large that it has to be fewer: enough to keep the
/// threads busy.
const EVALUATION_BATCH: usize = 120;

/// How good a model is on a set of examples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Examples whose largest output is that of their label; 0 where a number is learnt.
    pub correct: u64,
    /// How many examples there were.
    pub total: u64,
    /// Mean cross-entropy, or mean squared error in squared deviations; 0 of no examples.
    pub loss: f64,
    /// Where a number is learnt: how far the outputs are off in the mean, in its own unit.
    pub error: Option<f64>,
}

/// An evaluation, and what the examples of each class are taken for.
#[derive(Debug, Clone, PartialEq)]
pub struct Confusion {
    /// The whole in three numbers.
    pub evaluation: Evaluation,
    /// Examples by their label and by the model's answer, the pairs that occur; none where a number is learnt. A model whose
    /// outputs are no numbers has no answer.
    pub counts: BTreeMap<(u16, Option<u16>), u64>,
}

/// What is evaluated, and where.
#[derive(Debug, Clone, Copy)]
pub struct EvaluationJob<'a> {
    /// The net.
    pub spec: &'a NetSpec,
    /// How an example becomes the net's input.
    pub preprocess: Preprocess,
    /// The net's weights: raw little-endian f32.
    pub weights: &'a [u8],
    /// The examples.
    pub data: &'a Examples,
    /// Where to compute.
    pub device: &'a Device,
}

impl EvaluationJob<'_> {
    /// Gives the outputs of each batch of examples, row by row, with their indices and how far it is.
    fn outputs(
        &self,
        threads: &Threads,
        mut each: impl FnMut(Range<usize>, &[f32], [usize; 2]) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let Self { spec, preprocess, weights, data, device } = *self;
        check_fit(spec, preprocess, data)?;
        let model = Model::from_bytes(spec, device, weights)?;
        let indices: Vec<u32> = (0..data.len() as u32).collect();
        let together = EVALUATION_BATCH.min(spec.batch_max().map_err(ModelError::Spec)?);
        let batches = indices.len().div_ceil(together);
        for (batch, indices) in indices.chunks(together).enumerate() {
            let outputs = threads.run(|| -> Result<Vec<f32>, TrainError> {
                let x = input_tensor(preprocess.batch(data, indices, None), spec.input, device)?;
                Ok(model.forward(&x, Mode::Eval)?.flatten_all()?.to_vec1::<f32>()?)
            })?;
            let first = batch * together;
            each(first..first + indices.len(), &outputs, [batch + 1, batches])?;
        }
        Ok(())
    }
}

/// Measures a model. `on_progress` is called after each batch and can stop the evaluation.
///
/// # Errors
/// The examples are not what the net sees, the weights are not its own, the device fails, or it was stopped.
pub fn evaluate(
    job: &EvaluationJob<'_>,
    threads: &Threads,
    on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Confusion, TrainError> {
    let data = job.data;
    let mut evaluation = Evaluation { correct: 0, total: data.len() as u64, loss: 0.0, error: None };
    let (mut counts, mut off) = (BTreeMap::new(), 0f64);
    job.outputs(threads, |these, outputs, [batch, batches]| {
        let examples = these.len() as f64;
        let loss = match data.numbers() {
            None => loss::score(outputs, &data.labels()[these], job.spec.classes, |label, answer| {
                evaluation.correct += u64::from(answer == Some(label));
                *counts.entry((label, answer)).or_default() += 1;
            }),
            Some((numbers, unit)) => {
                let pairs = outputs.iter().zip(&numbers[these]);
                let differences = pairs.map(|(output, wanted)| f64::from(*output) - f64::from(*wanted));
                off += differences.clone().map(f64::abs).sum::<f64>() * unit;
                differences.map(|difference| difference * difference).sum::<f64>()
            }
        };
        evaluation.loss += loss;
        let progress = Progress { epoch: 1, epochs: 1, batch, batches, loss: loss / examples };
        if on_progress(progress).is_break() { Err(TrainError::Cancelled) } else { Ok(()) }
    })?;
    let count = data.len().max(1) as f64;
    evaluation.loss /= count;
    evaluation.error = data.numbers().map(|_| off / count);
    Ok(Confusion { evaluation, counts })
}

/// What a model says of each example: the probability of each class, the softmax of its outputs; or, where a number is learnt,
/// that number in deviations from the mean. Outputs that are no numbers give probabilities that are none.
///
/// # Errors
/// The examples are not what the net sees, the weights are not its own, or the device fails.
pub fn predict(job: &EvaluationJob<'_>, threads: &Threads) -> Result<Vec<Vec<f32>>, TrainError> {
    let mut all = Vec::with_capacity(job.data.len());
    job.outputs(threads, |_, outputs, _| {
        all.extend(outputs.chunks_exact(job.spec.classes).map(|row| match job.data.numbers() {
            None => loss::softmax(row),
            Some(_) => row.to_vec(),
        }));
        Ok(())
    })?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Source, load};
    use crate::spec::Layer;

    #[test]
    fn an_evaluation_counts_and_takes_empty_data() {
        let data = load(&Source::Shapes { samples: 30 }, None, 1).expect("it is generated").train;
        let layers = vec![Layer::MaxPool { size: 4 }, Layer::Linear { out: 10 }];
        let spec = NetSpec { input: [3, 32, 32], classes: 10, layers };
        let weights = Model::initial(&spec, &Device::Cpu, 1).and_then(|model| model.to_bytes()).expect("a model");
        let threads = Threads::new(1).expect("a thread");
        fn job<'a>(spec: &'a NetSpec, weights: &'a [u8], data: &'a Examples) -> EvaluationJob<'a> {
            EvaluationJob { spec, preprocess: Preprocess::Plain, weights, data, device: &Device::Cpu }
        }
        let run = |data: &Examples| {
            let go_on = &mut |_| ControlFlow::Continue(());
            evaluate(&job(&spec, &weights, data), &threads, go_on).expect("it evaluates")
        };
        let Confusion { evaluation: all, counts } = run(&data);
        assert!(all.total == 30 && all.correct < 20 && (1.5..4.0).contains(&all.loss), "{all:?}");
        let mut halves = [0u64; 2];
        halves[0] = run(&data.select(&(0..15).collect::<Vec<_>>())).evaluation.correct;
        halves[1] = run(&data.select(&(15..30).collect::<Vec<_>>())).evaluation.correct;
        assert_eq!(halves[0] + halves[1], all.correct);
        assert_eq!(run(&data.select(&[])).evaluation, Evaluation { correct: 0, total: 0, loss: 0.0, error: None });
        let right: u64 = counts.iter().filter(|((label, answer), _)| *answer == Some(*label)).map(|(_, n)| n).sum();
        assert_eq!(right, all.correct);
        let probabilities = predict(&job(&spec, &weights, &data), &threads).expect("it runs");
        let answer = |row: &Vec<f32>| (0..10).max_by(|a, b| row[*a].total_cmp(&row[*b])).expect("ten classes");
        let told = probabilities.iter().map(answer).zip(data.labels()).filter(|(a, b)| *a == usize::from(**b)).count();
        assert_eq!(told as u64, all.correct, "the most probable class is the answer");
        assert!(probabilities.iter().all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-5));
        for class in 0..10 {
            let of_class: u64 = counts.iter().filter(|((label, _), _)| *label == class).map(|(_, n)| n).sum();
            assert_eq!(of_class, 3);
        }
    }
}
