//! Softmax and cross-entropy, together because their gradient is simple: probability minus one for the label, over n.

use super::{slice, with_values};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// The mean over the batch of -log softmax(logits)[label]. `logits`: `[n, classes]`, a label an image, each below the
/// number of classes.
pub fn cross_entropy(logits: &Tensor, labels: &[u16]) -> Result<Tensor> {
    let (n, classes) = logits.dims2()?;
    if labels.len() != n || labels.iter().any(|&label| usize::from(label) >= classes) {
        candle_core::bail!("{} labels don't fit {n} images of {classes} classes", labels.len())
    }
    if logits.device().is_cpu() {
        return logits.contiguous()?.apply_op1(CrossEntropy { labels: labels.to_vec() });
    }
    composed(logits, labels)
}

/// The same with candle's own loss.
pub(super) fn composed(logits: &Tensor, labels: &[u16]) -> Result<Tensor> {
    let labels: Vec<u32> = labels.iter().map(|&label| u32::from(label)).collect();
    let labels = Tensor::from_vec(labels, logits.dim(0)?, logits.device())?;
    candle_nn::loss::cross_entropy(logits, &labels)
}

/// Loss (as the sum, not the mean) and number of right answers of rows of logits. The first of equal logits is the answer;
/// a row with a NaN is wrong and makes the loss NaN.
pub(crate) fn score(logits: &[f32], labels: &[u16], classes: usize) -> (f64, u64) {
    let (mut loss, mut correct) = (0f64, 0u64);
    for (row, &label) in logits.chunks_exact(classes).zip(labels) {
        let (largest, sum) = normaliser(row);
        let label = usize::from(label);
        loss += sum.ln() - f64::from(row[label] - largest);
        let first = row.iter().position(|&logit| logit == largest);
        correct += u64::from(sum.is_finite() && first == Some(label));
    }
    (loss, correct)
}

/// The largest logit, and the sum of exp(logit - largest).
fn normaliser(row: &[f32]) -> (f32, f64) {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (largest, row.iter().map(|&logit| libm::exp(f64::from(logit - largest))).sum())
}

struct CrossEntropy {
    labels: Vec<u16>,
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, classes) = layout.shape().dims2()?;
        let (loss, _) = score(slice(storage, layout)?, &self.labels, classes);
        Ok((CpuStorage::F32(vec![(loss / n.max(1) as f64) as f32]), ().into()))
    }

    fn bwd(&self, logits: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (n, classes) = logits.dims2()?;
        let scale = f64::from(grad.to_scalar::<f32>()?) / n as f64;
        let gradient = with_values(logits, |logits| {
            let mut gradient = Vec::with_capacity(logits.len());
            for (row, &label) in logits.chunks_exact(classes).zip(&self.labels) {
                let (largest, sum) = normaliser(row);
                gradient.extend(row.iter().enumerate().map(|(class, &logit)| {
                    let probability = libm::exp(f64::from(logit - largest)) / sum;
                    ((probability - f64::from(u8::from(class == usize::from(label)))) * scale) as f32
                }));
            }
            Ok(gradient)
        })?;
        Ok(Some(Tensor::from_vec(gradient, logits.shape(), logits.device())?))
    }
}
