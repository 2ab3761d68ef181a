//! Exact averaging (docs/protocol.md, section 14): fixed-point sums that don't depend on the order of arrival.
//!
//! A delta becomes an i64 with 26 fractional bits, rounded to nearest even, times its sample count. The bounds below
//! keep every sum within 2^62, so integer addition never overflows and is associative. Division and addition to the
//! old value happen in f64, and one rounding to f32 ends it ([`crate::rule`]). Every step is one that IEEE 754 rounds
//! exactly, so every CPU gets the same bits. Memory is 8 bytes a parameter, however many contributions there are.

use crate::weights::{self, WeightsError};

/// Fractional bits of the fixed-point numbers.
pub const FRACTION_BITS: u32 = 26;
/// Samples of one contribution at most.
pub const SAMPLES_MAX: u64 = 1 << 20;
/// Contributions to one sum at most; the bound on the roster.
pub const CONTRIBUTIONS_MAX: usize = 4096;

const SCALE: f64 = (1u64 << FRACTION_BITS) as f64;

/// The sample-weighted sum of deltas (FedAvg, McMahan et al. 2017, algorithm 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExactSum {
    sums: Vec<i64>,
    samples: u64,
    contributions: usize,
}

/// Why a contribution is refused or a sum has no average.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ExactError {
    /// The delta has another length than the sum, or a value out of range.
    #[error("the delta is refused: {0}")]
    Delta(#[source] WeightsError),
    /// The parent model has another length than the sum, or a value that is not finite.
    #[error("the parent model is refused: {0}")]
    Parent(#[source] WeightsError),
    /// The sample count is out of range.
    #[error("{samples} samples: from 1 to {SAMPLES_MAX} are possible")]
    Samples {
        /// The count that the contribution claims.
        samples: u64,
    },
    /// [`CONTRIBUTIONS_MAX`] contributions are in the sum.
    #[error("a sum takes {CONTRIBUTIONS_MAX} contributions at most")]
    Full,
    /// No contribution is in the sum.
    #[error("no contribution was added: there is nothing to average")]
    Empty,
    /// A new value is beyond f32.
    #[error("the new value {index} is beyond f32: the run has diverged; lower the learning rates")]
    Overflow {
        /// Its index among the parameters, from 0.
        index: usize,
    },
}

impl ExactSum {
    /// A sum of nothing over `len` parameters.
    pub fn new(len: usize) -> Self {
        Self { sums: vec![0; len], samples: 0, contributions: 0 }
    }

    /// Adds a delta (raw little-endian f32, |x| <= 16) weighted by its samples (1 to 2^20). Everything is checked
    /// first: a refused contribution leaves the sum as it was.
    pub fn add(&mut self, delta: &[u8], samples: u64) -> Result<(), ExactError> {
        if self.contributions >= CONTRIBUTIONS_MAX {
            return Err(ExactError::Full);
        }
        if !(1..=SAMPLES_MAX).contains(&samples) {
            return Err(ExactError::Samples { samples });
        }
        weights::check_delta(delta, self.sums.len()).map_err(ExactError::Delta)?;
        // At most 2^30 times 2^20: exact in f64.
        let factor = samples as f64;
        for (sum, value) in self.sums.iter_mut().zip(weights::values(delta)) {
            *sum += integer(fixed(value) * factor);
        }
        self.samples += samples;
        self.contributions += 1;
        Ok(())
    }

    /// The means of the deltas' values, weighted by samples.
    ///
    /// # Errors
    /// Nothing was added.
    pub fn means(&self) -> Result<impl Iterator<Item = f64> + '_, ExactError> {
        if self.samples == 0 {
            return Err(ExactError::Empty);
        }
        // At most 2^32 samples times a power of two: exact in f64.
        let divisor = self.samples as f64 * SCALE;
        Ok(self.sums.iter().map(move |&sum| sum as f64 / divisor))
    }

    /// Values of each delta.
    pub fn values(&self) -> usize {
        self.sums.len()
    }

    /// Samples of all the contributions.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// How many contributions were added.
    pub fn contributions(&self) -> usize {
        self.contributions
    }
}

/// 1.5 · 2^52. The sum of it and a number within ±2^51 has no fractional bits: it is rounded half to even, and the integer
/// stands in its low bits. Unlike `round_ties_even` and `as i64`, every vector unit adds so: a fold is six times as fast.
const ROUNDER: f64 = 6_755_399_441_055_744.0;

/// A checked delta's value as fixed point, an integer: the product is exact in f64, the rounding is half to even.
fn fixed(value: f32) -> f64 {
    (f64::from(value) * SCALE + ROUNDER) - ROUNDER
}

/// An integer within ±2^51.
fn integer(value: f64) -> i64 {
    (value + ROUNDER).to_bits() as i64 - ROUNDER.to_bits() as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random_stream::{Purpose, RandomStream, StreamKey};
    use crate::rule::Rule;
    use proptest::prelude::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    /// The new model of plain FedAvg.
    fn average(sum: &ExactSum, parent: &[u8]) -> Result<Vec<u8>, ExactError> {
        Rule::FedAvg.step(parent, sum, sum.samples())
    }

    /// `numerator / denominator` and then `+ old`, each rounded once to f64, then to f32, from integers only.
    fn expected(old: f32, terms: &[(f32, u64)]) -> f32 {
        let mut sum = 0i128;
        let mut total = 0i128;
        for &(value, samples) in terms {
            sum += half_even(value) * i128::from(samples);
            total += i128::from(samples);
        }
        (f64::from(old) + sum as f64 / (total as f64 * 67_108_864.0)) as f32
    }

    /// The bits of a f32 shifted to 26 fractional bits, rounded half to even, without floating point.
    fn half_even(value: f32) -> i128 {
        let bits = value.to_bits();
        let exponent = ((bits >> 23) & 0xff) as i32;
        let fraction = i128::from(bits & 0x7f_ffff);
        let (mantissa, power) = if exponent == 0 { (fraction, -149) } else { (fraction | 0x80_0000, exponent - 150) };
        let shift = power + 26;
        let magnitude = if shift >= 0 {
            mantissa << shift
        } else if shift < -100 {
            0
        } else {
            let down = -shift as u32;
            let (quotient, rest) = (mantissa >> down, mantissa & ((1i128 << down) - 1));
            let half = 1i128 << (down - 1);
            quotient + i128::from(rest > half || (rest == half && quotient & 1 == 1))
        };
        if value.is_sign_negative() { -magnitude } else { magnitude }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn the_average_is_that_of_exact_integers(
            old in -100f32..100.0,
            terms in proptest::collection::vec((-16f32..=16.0, 1u64..=SAMPLES_MAX), 1..20),
        ) {
            let mut sum = ExactSum::new(1);
            for &(value, samples) in &terms {
                sum.add(&bytes(&[value]), samples).expect("in range");
            }
            prop_assert_eq!(average(&sum, &bytes(&[old])).expect("finite"), bytes(&[expected(old, &terms)]));
        }

        #[test]
        fn fixed_point_rounds_half_to_even(bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            prop_assume!(value.abs() <= 16.0);
            prop_assert_eq!(i128::from(integer(fixed(value))), half_even(value));
        }
    }

    #[test]
    fn the_order_of_arrival_changes_no_bit() {
        let seed = 11;
        let mut stream =
            RandomStream::new(&StreamKey { seed, round: 0, node: &[], purpose: Purpose::Shuffle, index: 0 });
        let mut parts: Vec<(Vec<u8>, u64)> = (0..50)
            .map(|_| {
                let values: Vec<f32> = (0..33).map(|_| stream.between(-16.0, 16.0)).collect();
                (bytes(&values), u64::from(stream.below(1 << 20)) + 1)
            })
            .collect();
        let parent = bytes(&[0.125f32; 33]);
        let average_of = |parts: &[(Vec<u8>, u64)]| {
            let mut sum = ExactSum::new(33);
            parts.iter().for_each(|(delta, samples)| sum.add(delta, *samples).expect("in range"));
            average(&sum, &parent).expect("finite")
        };
        let first = average_of(&parts);
        for _ in 0..5 {
            stream.shuffle(&mut parts);
            assert_eq!(average_of(&parts), first, "seed {seed}");
        }
    }

    #[test]
    fn a_refused_contribution_leaves_the_sum_untouched() {
        let mut sum = ExactSum::new(2);
        sum.add(&bytes(&[1.0, -1.0]), 3).expect("in range");
        let before = sum.clone();
        let refused = [
            (bytes(&[1.0]), 1),
            (bytes(&[1.0, f32::NAN]), 1),
            (bytes(&[1.0, f32::INFINITY]), 1),
            (bytes(&[1.0, 16.5]), 1),
            (bytes(&[1.0, 1.0]), 0),
            (bytes(&[1.0, 1.0]), SAMPLES_MAX + 1),
        ];
        for (delta, samples) in refused {
            sum.add(&delta, samples).expect_err("out of range");
            assert_eq!(sum, before);
        }
        assert_eq!((sum.samples(), sum.contributions()), (3, 1));
    }

    #[test]
    fn the_extremes_fit_and_one_more_is_refused() {
        let mut sum = ExactSum::new(1);
        for _ in 0..CONTRIBUTIONS_MAX {
            sum.add(&bytes(&[-16.0]), SAMPLES_MAX).expect("in range");
        }
        assert_eq!(sum.sums[0], -(1i64 << 62));
        assert_eq!(sum.add(&bytes(&[0.0]), 1), Err(ExactError::Full));
        assert_eq!(average(&sum, &bytes(&[0.0])), Ok(bytes(&[-16.0])));
    }

    #[test]
    fn nothing_has_no_average_and_a_bad_parent_is_refused() {
        let mut sum = ExactSum::new(1);
        assert_eq!(average(&sum, &bytes(&[0.0])), Err(ExactError::Empty));
        sum.add(&bytes(&[16.0]), 1).expect("in range");
        assert!(matches!(average(&sum, &bytes(&[f32::NAN])), Err(ExactError::Parent(_))));
        assert!(matches!(average(&sum, &[0; 3]), Err(ExactError::Parent(_))));
    }
}
