//! Softmax and cross-entropy, together because their gradient is simple: probability minus one for the label, over n.

use super::op::{self, Kernel1, View};
use super::reference;
use candle_core::{Result, Shape, Tensor};

/// The mean over the batch of `-log softmax(logits)[label]`. `logits`: `[n, classes]`, a label an image, each below the
/// number of classes.
pub fn cross_entropy(logits: &Tensor, labels: &[u16]) -> Result<Tensor> {
    let (n, classes) = logits.dims2()?;
    if labels.len() != n || labels.iter().any(|&label| usize::from(label) >= classes) {
        candle_core::bail!("{} labels don't fit {n} images of {classes} classes", labels.len())
    }
    if logits.device().is_cpu() {
        return op::apply1(CrossEntropy { labels: labels.to_vec() }, logits);
    }
    reference::cross_entropy(logits, labels)
}

/// The mean over the batch of the squared difference between the outputs, `[n, 1]`, and the numbers that they should be.
pub fn squared_error(outputs: &Tensor, numbers: &[f32]) -> Result<Tensor> {
    let wanted = Tensor::from_slice(numbers, (numbers.len(), 1), outputs.device())?;
    outputs.sub(&wanted)?.sqr()?.mean_all()
}

/// Loss (as the sum, not the mean) of rows of logits. `each` hears every label and the answer to it: the first of equal
/// logits; none for a row with a NaN, which makes the loss NaN.
pub(crate) fn score(logits: &[f32], labels: &[u16], classes: usize, mut each: impl FnMut(u16, Option<u16>)) -> f64 {
    let mut loss = 0f64;
    for (row, &label) in logits.chunks_exact(classes).zip(labels) {
        let (largest, sum) = normaliser(row);
        loss += sum.ln() - f64::from(row[usize::from(label)] - largest);
        let first = row.iter().position(|&logit| logit == largest);
        each(label, first.filter(|_| sum.is_finite()).and_then(|class| u16::try_from(class).ok()));
    }
    loss
}

/// The probability of each class of one row of logits.
pub(crate) fn softmax(row: &[f32]) -> Vec<f32> {
    let (largest, sum) = normaliser(row);
    row.iter().map(|&logit| (libm::exp(f64::from(logit - largest)) / sum) as f32).collect()
}

/// The largest logit, and the sum of exp(logit - largest).
fn normaliser(row: &[f32]) -> (f32, f64) {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (largest, row.iter().map(|&logit| libm::exp(f64::from(logit - largest))).sum())
}

struct CrossEntropy {
    labels: Vec<u16>,
}

impl Kernel1 for CrossEntropy {
    const NAME: &'static str = "cross-entropy";

    fn forward(&self, logits: View<'_>) -> Result<(Vec<f32>, Shape)> {
        let (n, classes) = logits.shape.dims2()?;
        let loss = score(logits.values, &self.labels, classes, |_, _| {});
        Ok((vec![(loss / n.max(1) as f64) as f32], ().into()))
    }

    fn backward(&self, logits: View<'_>, grad: &[f32]) -> Result<Vec<f32>> {
        let (n, classes) = logits.shape.dims2()?;
        let scale = f64::from(grad[0]) / n as f64;
        let mut gradient = Vec::with_capacity(logits.values.len());
        for (row, &label) in logits.values.chunks_exact(classes).zip(&self.labels) {
            let (largest, sum) = normaliser(row);
            gradient.extend(row.iter().enumerate().map(|(class, &logit)| {
                let probability = libm::exp(f64::from(logit - largest)) / sum;
                ((probability - f64::from(u8::from(class == usize::from(label)))) * scale) as f32
            }));
        }
        Ok(gradient)
    }
}
