//! What a net sees of an example: an image's scaling, and the crops and distortions that it is trained with; a row as it is.

use super::{Examples, Input};
use crate::random_stream::RandomStream;
use crate::spec::CROP;
use rayon::prelude::*;

/// How pixels become what the net sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preprocess {
    /// Pixels from 0..255 to -1..1, numbers as they are; nothing else, whatever `augment` says.
    Plain,
    /// As the CIFAR-10 experiments of McMahan et al. 2017, section 3 (TensorFlow's tutorial): in training a random
    /// 24x24 crop, a flip, brightness by ±63 and contrast by 0.2 to 1.8, else the crop in the middle; then each image
    /// is scaled to mean 0 and deviation 1.
    CifarPaper,
}

/// What is drawn for one training image.
#[derive(Debug, Clone, Copy)]
struct Draw {
    top: usize,
    left: usize,
    flip: bool,
    brightness: f32,
    contrast: f32,
}

impl Preprocess {
    /// What belongs to a preset: the crops to `cifar-cnn` on images that are large enough, else nothing special.
    pub fn for_preset(arch: &str, image: [usize; 3]) -> Self {
        if arch == "cifar-cnn" && image[1] >= CROP && image[2] >= CROP { Self::CifarPaper } else { Self::Plain }
    }

    /// The shape that the net sees of images of this shape.
    pub fn seen(self, [channels, height, width]: [usize; 3]) -> [usize; 3] {
        match self {
            Self::Plain => [channels, height, width],
            Self::CifarPaper => [channels, height.min(CROP), width.min(CROP)],
        }
    }

    /// The examples of these indices as the net sees them, `[example, height, width, channel]`, images distorted at random
    /// where `stream` is given. Each image takes the same number of draws, in the order of the indices.
    pub(crate) fn batch(self, examples: &Examples, indices: &[u32], mut stream: Option<&mut RandomStream>) -> Vec<f32> {
        let shape = examples.shape();
        let seen = self.seen(shape);
        let mut batch = vec![0f32; indices.len() * seen.iter().product::<usize>()];
        let draws: Vec<Option<Draw>> = indices
            .iter()
            .map(|_| match (self, &mut stream) {
                (Self::CifarPaper, Some(stream)) => Some(Draw::new(shape, seen, stream)),
                _ => None,
            })
            .collect();
        let rows = batch.par_chunks_mut(seen.iter().product::<usize>().max(1));
        rows.zip(indices).zip(draws).for_each(|((row, &index), draw)| match (self, examples.input(index as usize)) {
            (Self::Plain, Input::Pixels(pixels)) => plain(pixels, shape, row),
            (Self::CifarPaper, Input::Pixels(pixels)) => cropped(pixels, shape, seen, draw, row),
            (_, Input::Numbers(numbers)) => row.copy_from_slice(numbers),
        });
        batch
    }
}

impl Draw {
    fn new(image: [usize; 3], seen: [usize; 3], stream: &mut RandomStream) -> Self {
        Self {
            top: stream.below((image[1] - seen[1] + 1) as u32) as usize,
            left: stream.below((image[2] - seen[2] + 1) as u32) as usize,
            flip: stream.below(2) == 1,
            brightness: stream.between(-63.0, 63.0),
            contrast: stream.between(0.2, 1.8),
        }
    }
}

fn plain(pixels: &[u8], [channels, height, width]: [usize; 3], row: &mut [f32]) {
    for (channel, plane) in pixels.chunks_exact(height * width).enumerate() {
        for (to, &pixel) in row.iter_mut().skip(channel).step_by(channels).zip(plane) {
            *to = f32::from(pixel) / 127.5 - 1.0;
        }
    }
}

fn cropped(pixels: &[u8], image: [usize; 3], seen: [usize; 3], draw: Option<Draw>, row: &mut [f32]) {
    let ([channels, height, width], [_, seen_height, seen_width]) = (image, seen);
    let middle = ((height - seen_height) / 2, (width - seen_width) / 2);
    let (top, left) = draw.map_or(middle, |draw| (draw.top, draw.left));
    let flip = draw.is_some_and(|draw| draw.flip);
    for (channel, plane) in pixels.chunks_exact(height * width).enumerate() {
        for y in 0..seen_height {
            let line = &plane[(top + y) * width + left..][..seen_width];
            for (x, &pixel) in line.iter().enumerate() {
                let x = if flip { seen_width - 1 - x } else { x };
                row[(y * seen_width + x) * channels + channel] = f32::from(pixel);
            }
        }
    }
    if let Some(draw) = draw {
        distort(row, channels, draw);
    }
    whiten(row);
}

/// Adds brightness and scales each channel about its mean. The order is that of the tutorial.
fn distort(row: &mut [f32], channels: usize, draw: Draw) {
    row.iter_mut().for_each(|value| *value += draw.brightness);
    let mut means = vec![0f32; channels];
    for pixel in row.chunks_exact(channels) {
        means.iter_mut().zip(pixel).for_each(|(mean, value)| *mean += value);
    }
    let count = (row.len() / channels) as f32;
    means.iter_mut().for_each(|mean| *mean /= count);
    for pixel in row.chunks_exact_mut(channels) {
        pixel.iter_mut().zip(&means).for_each(|(value, mean)| *value = (*value - mean) * draw.contrast + mean);
    }
}

/// Mean 0 and deviation 1; the deviation counts as at least 1/sqrt(values), so that a flat image divides by no zero.
fn whiten(row: &mut [f32]) {
    let count = row.len() as f32;
    let mean = row.iter().sum::<f32>() / count;
    let variance = row.iter().map(|value| (value - mean) * (value - mean)).sum::<f32>() / count;
    let inverse = 1.0 / variance.sqrt().max(1.0 / count.sqrt());
    row.iter_mut().for_each(|value| *value = (*value - mean) * inverse);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random_stream::{Purpose, StreamKey};

    fn images() -> Examples {
        let pixels = (0..2 * 3 * 32 * 32).map(|i| (i * 31 % 251) as u8).collect();
        Examples::new([3, 32, 32], 10, pixels, vec![0, 1]).expect("consistent")
    }

    fn stream() -> RandomStream {
        RandomStream::new(&StreamKey { seed: 1, round: 1, node: b"n", purpose: Purpose::Augment, index: 0 })
    }

    #[test]
    fn plain_puts_channels_last_and_scales_to_one() {
        let images = Examples::new([3, 1, 2], 1, vec![0, 255, 51, 102, 153, 204], vec![0]).expect("consistent");
        let batch = Preprocess::Plain.batch(&images, &[0], Some(&mut stream()));
        let expected = [-1.0, -0.6, 0.2, 1.0, -0.2, 0.6];
        assert!(batch.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{batch:?}");
    }

    #[test]
    fn the_papers_images_are_crops_with_mean_zero_and_deviation_one() {
        let images = images();
        let cases = [Preprocess::CifarPaper.batch(&images, &[1], None), {
            Preprocess::CifarPaper.batch(&images, &[1], Some(&mut stream()))
        }];
        for batch in &cases {
            assert_eq!(batch.len(), 24 * 24 * 3);
            let mean = batch.iter().sum::<f32>() / batch.len() as f32;
            let variance = batch.iter().map(|x| x * x).sum::<f32>() / batch.len() as f32;
            assert!(mean.abs() < 1e-3 && (variance - 1.0).abs() < 1e-2, "{mean} {variance}");
        }
        assert_ne!(cases[0], cases[1]);
    }

    #[test]
    fn a_training_image_is_cropped_flipped_brightened_stretched_and_whitened() {
        let images = images();
        for flip in [false, true] {
            let draw = Draw { top: 3, left: 5, flip, brightness: 17.0, contrast: 1.5 };
            let mut found = vec![0f32; 24 * 24 * 3];
            cropped(images.pixels(1), [3, 32, 32], [3, 24, 24], Some(draw), &mut found);
            // The distortion in double precision, each pass over whole channels.
            let pixel = |channel: usize, y: usize, x: usize| {
                let x = if flip { 23 - x } else { x };
                f64::from(images.pixels(1)[channel * 1024 + (3 + y) * 32 + 5 + x]) + 17.0
            };
            let places = || (0..24).flat_map(|y| (0..24).map(move |x| (y, x)));
            let stretched: Vec<Vec<f64>> = (0..3)
                .map(|channel| {
                    let mean = places().map(|(y, x)| pixel(channel, y, x)).sum::<f64>() / 576.0;
                    places().map(|(y, x)| (pixel(channel, y, x) - mean) * 1.5 + mean).collect()
                })
                .collect();
            let count = found.len() as f64;
            let mean = stretched.iter().flatten().sum::<f64>() / count;
            let deviation = (stretched.iter().flatten().map(|v| (v - mean).powi(2)).sum::<f64>() / count).sqrt();
            for (i, found) in found.iter().enumerate() {
                let expected = (stretched[i % 3][i / 3] - mean) / deviation;
                assert!((f64::from(*found) - expected).abs() < 1e-4, "flip {flip}, value {i}: {found} {expected}");
            }
        }
    }

    #[test]
    fn the_middle_crop_is_the_middle() {
        let mut pixels = vec![0u8; 32 * 32];
        pixels[4 * 32 + 4] = 255;
        let images = Examples::new([1, 32, 32], 1, pixels, vec![0]).expect("consistent");
        let batch = Preprocess::CifarPaper.batch(&images, &[0], None);
        assert!(batch[0] > 10.0 && batch[1..].iter().all(|&x| x < 0.0));
    }

    #[test]
    fn a_flat_image_gives_zeros_and_no_nan() {
        let images = Examples::new([3, 32, 32], 1, vec![9; 3072], vec![0]).expect("consistent");
        assert!(Preprocess::CifarPaper.batch(&images, &[0], None).iter().all(|&x| x == 0.0));
    }
}
