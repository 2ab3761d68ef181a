//! Repeatable randomness: ChaCha20 streams, each keyed by what its numbers are for.
//!
//! A stream is a function of (seed, round, node key, purpose, index), so an experiment repeats whatever the order
//! in which its parts run. The draws (floats, bounded integers, shuffles) are written out here: a new version of a
//! random number crate can't change a result.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Separates these keys from every other use of BLAKE3.
const CONTEXT: &str = "paceline model stream v1";

/// What the numbers of a stream are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Initial values; the index is the parameter's number in the net.
    Init,
    /// The order in which an epoch visits the images; the index is the epoch.
    Shuffle,
    /// Crops, flips, brightness and contrast; the index is the epoch.
    Augment,
    /// Dropout masks; the index is the epoch.
    Dropout,
    /// Dividing a data set into parts.
    Partition,
    /// Drawing the generated data set; the index is the image.
    Shapes,
}

impl Purpose {
    fn tag(self) -> u8 {
        match self {
            Self::Init => 1,
            Self::Shuffle => 2,
            Self::Augment => 3,
            Self::Dropout => 4,
            Self::Partition => 5,
            Self::Shapes => 6,
        }
    }
}

/// What a stream is a function of: equal keys give equal numbers, different keys unrelated ones.
#[derive(Debug, Clone, Copy)]
pub struct StreamKey<'a> {
    /// The run's seed, the same on every node.
    pub seed: u64,
    /// The round, from 1; 0 for what belongs to no round.
    pub round: u64,
    /// The node key (docs/protocol.md, section 14); empty for what is the same on every node.
    pub node: &'a [u8],
    /// The use of the numbers.
    pub purpose: Purpose,
    /// Tells streams of one purpose apart.
    pub index: u64,
}

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct RandomStream(ChaCha20Rng);

impl RandomStream {
    /// The stream of a key, from its beginning.
    pub fn new(key: &StreamKey<'_>) -> Self {
        let mut hash = blake3::Hasher::new_derive_key(CONTEXT);
        hash.update(&key.seed.to_le_bytes());
        hash.update(&key.round.to_le_bytes());
        hash.update(&[key.purpose.tag()]);
        hash.update(&key.index.to_le_bytes());
        // The only field of variable length comes last, so no two keys hash the same bytes.
        hash.update(key.node);
        Self(ChaCha20Rng::from_seed(*hash.finalize().as_bytes()))
    }

    /// Uniform over all 32-bit values.
    pub fn bits(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// Uniform in [0, 1), a multiple of 2^-24.
    pub fn unit(&mut self) -> f32 {
        // The top 24 bits fit the mantissa of f32 exactly.
        (self.bits() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Uniform in [low, high), up to rounding.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + self.unit() * (high - low)
    }

    /// Uniform in 0..bound, by rejection, so without bias; 0 for a bound of 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        if bound == 0 {
            return 0;
        }
        // The largest multiple of `bound` that 32 bits hold; what lies above would favour small values.
        let zone = u32::MAX - (u32::MAX % bound + 1) % bound;
        loop {
            let bits = self.bits();
            if bits <= zone {
                return bits % bound;
            }
        }
    }

    /// A random order (Fisher and Yates); slices above 2^32 elements keep their tail.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        let len = u32::try_from(items.len()).unwrap_or(u32::MAX);
        for last in (1..len).rev() {
            let other = self.below(last + 1);
            items.swap(last as usize, other as usize);
        }
    }

    /// Standard normal (Marsaglia's polar method), through `libm`, so the same on every CPU.
    pub fn normal(&mut self) -> f64 {
        loop {
            let a = f64::from(self.unit()) * 2.0 - 1.0;
            let b = f64::from(self.unit()) * 2.0 - 1.0;
            let radius = a * a + b * b;
            if radius > 0.0 && radius < 1.0 {
                return a * libm::sqrt(-2.0 * libm::log(radius) / radius);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(index: u64) -> RandomStream {
        RandomStream::new(&StreamKey { seed: 7, round: 1, node: b"node", purpose: Purpose::Shuffle, index })
    }

    #[test]
    fn a_stream_repeats_and_every_field_of_its_key_changes_it() {
        let key = StreamKey { seed: 7, round: 1, node: b"node", purpose: Purpose::Shuffle, index: 0 };
        let first = |key: &StreamKey<'_>| RandomStream::new(key).bits();
        assert_eq!(first(&key), first(&key));
        let others = [
            StreamKey { seed: 8, ..key },
            StreamKey { round: 2, ..key },
            StreamKey { node: b"edon", ..key },
            StreamKey { purpose: Purpose::Augment, ..key },
            StreamKey { index: 1, ..key },
        ];
        for other in &others {
            assert_ne!(first(&key), first(other), "{other:?}");
        }
    }

    #[test]
    fn bounded_integers_reach_every_value_and_no_other() {
        let mut stream = stream(1);
        let mut seen = [0u32; 7];
        for _ in 0..7_000 {
            seen[stream.below(7) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| (800..1200).contains(&count)), "{seen:?}");
        assert_eq!(stream.below(1), 0);
        assert_eq!(stream.below(0), 0);
    }

    #[test]
    fn a_shuffle_is_a_permutation() {
        let mut items: Vec<u32> = (0..100).collect();
        stream(2).shuffle(&mut items);
        let mut sorted = items.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert_ne!(items, sorted);
    }

    #[test]
    fn floats_stay_below_one_and_normals_have_unit_variance() {
        let mut stream = stream(3);
        assert!((0..1_000).all(|_| (0.0..1.0).contains(&stream.unit())));
        let draws: Vec<f64> = (0..4_000).map(|_| stream.normal()).collect();
        let variance = draws.iter().map(|x| x * x).sum::<f64>() / draws.len() as f64;
        assert!((0.9..1.1).contains(&variance), "{variance}");
    }
}
