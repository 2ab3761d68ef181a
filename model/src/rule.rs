//! Rules of aggregation: what the mean of a round's updates does to the global state. FedAvg, its relatives with an
//! optimiser on the server's side (here: in the committed state, since the coordinator changes every round), and
//! SCAFFOLD.
//!
//! A *state* is what a round begins from and ends with: sections of one value a parameter each, raw little-endian
//! f32, the weights first. An *update* is what a client sends: the delta of its weights, and with SCAFFOLD that of
//! its control variate after it. Every step uses only operations that IEEE 754 rounds exactly, in f64, rounded to f32
//! once, so every CPU gets the same bits.
//!
//! | rule | state | update |
//! |---|---|---|
//! | fedavg | weights | delta |
//! | fedavgm | weights, momentum | delta |
//! | fedadagrad, fedadam, fedyogi | weights, momentum m, second moment v | delta |
//! | scaffold | weights, control variate c | delta, delta of the client's control variate |

use crate::exact::{ExactError, ExactSum};
use crate::weights::{self, WeightsError};

/// A rule of aggregation and its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Rule {
    /// x + Δ, with Δ the mean of the deltas weighted by samples (McMahan et al. 2017, algorithm 1).
    #[default]
    FedAvg,
    /// v ← momentum·v + Δ, x ← x + lr·v (Hsu et al. 2019, section 4.2).
    FedAvgM {
        /// Server learning rate, above 0.
        lr: f64,
        /// In [0, 1).
        momentum: f64,
    },
    /// One of the adaptive rules (Reddi et al. 2021, algorithm 2): m ← beta1·m + (1 - beta1)·Δ, v as the moment says,
    /// x ← x + lr·m/(√v + tau). v begins at tau².
    Adaptive {
        /// How v is updated.
        moment: Moment,
        /// Server learning rate (η), above 0.
        lr: f64,
        /// In [0, 1).
        beta1: f64,
        /// The degree of adaptivity (τ), above 0.
        tau: f64,
    },
    /// x ← x + lr·Δ and c ← c + share·Δc (Karimireddy et al. 2020, algorithm 1), the share being that of the round's
    /// samples in those of all clients. The paper's clients count alike, these by their samples, as FedAvg's do: with
    /// parts of one size that is the same, and share·Δc is Σ_S n_i·Δc_i/n, so c stays the mean of the clients'
    /// variates, whichever clients take part.
    Scaffold {
        /// Server learning rate (η_g), above 0.
        lr: f64,
    },
}

/// How an adaptive rule updates its second moment v (Reddi et al. 2021, algorithm 2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Moment {
    /// v + Δ²
    Adagrad,
    /// beta2·v + (1 - beta2)·Δ²
    Adam {
        /// In [0, 1).
        beta2: f64,
    },
    /// v - (1 - beta2)·Δ²·sign(v - Δ²)
    Yogi {
        /// In [0, 1).
        beta2: f64,
    },
}

impl Moment {
    fn next(self, v: f64, delta: f64) -> f64 {
        let square = delta * delta;
        match self {
            Self::Adagrad => v + square,
            Self::Adam { beta2 } => beta2 * v + (1.0 - beta2) * square,
            Self::Yogi { .. } if v == square => v,
            Self::Yogi { beta2 } => v - (1.0 - beta2) * square * (v - square).signum(),
        }
    }
}

/// Parameters of a rule that a run file may set; `None` of a rule that has none of the name.
impl Rule {
    /// Server learning rate.
    pub fn lr_mut(&mut self) -> Option<&mut f64> {
        match self {
            Self::FedAvg => None,
            Self::FedAvgM { lr, .. } | Self::Adaptive { lr, .. } | Self::Scaffold { lr } => Some(lr),
        }
    }

    /// Share of the last step.
    pub fn momentum_mut(&mut self) -> Option<&mut f64> {
        if let Self::FedAvgM { momentum, .. } = self { Some(momentum) } else { None }
    }

    /// Decay of the momentum.
    pub fn beta1_mut(&mut self) -> Option<&mut f64> {
        if let Self::Adaptive { beta1, .. } = self { Some(beta1) } else { None }
    }

    /// Decay of the second moment.
    pub fn beta2_mut(&mut self) -> Option<&mut f64> {
        match self {
            Self::Adaptive { moment: Moment::Adam { beta2 } | Moment::Yogi { beta2 }, .. } => Some(beta2),
            _ => None,
        }
    }

    /// Degree of adaptivity.
    pub fn tau_mut(&mut self) -> Option<&mut f64> {
        if let Self::Adaptive { tau, .. } = self { Some(tau) } else { None }
    }
}

impl Rule {
    /// What run files call the rules.
    pub const NAMES: [&str; 6] = ["fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "scaffold"];

    /// The rule of a name with usual parameters, of which `lr` is the one to tune (Reddi et al. 2021, section 5); `None` for
    /// a name that is none.
    pub fn named(name: &str) -> Option<Self> {
        let adaptive = |moment, lr, beta1| Self::Adaptive { moment, lr, beta1, tau: 0.001 };
        Some(match name {
            "fedavg" => Self::FedAvg,
            "fedavgm" => Self::FedAvgM { lr: 1.0, momentum: 0.9 },
            "fedadagrad" => adaptive(Moment::Adagrad, 0.1, 0.0),
            "fedadam" => adaptive(Moment::Adam { beta2: 0.99 }, 0.01, 0.9),
            "fedyogi" => adaptive(Moment::Yogi { beta2: 0.99 }, 0.01, 0.9),
            "scaffold" => Self::Scaffold { lr: 1.0 },
            _ => return None,
        })
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::FedAvg => "fedavg",
            Self::FedAvgM { .. } => "fedavgm",
            Self::Adaptive { moment: Moment::Adagrad, .. } => "fedadagrad",
            Self::Adaptive { moment: Moment::Adam { .. }, .. } => "fedadam",
            Self::Adaptive { moment: Moment::Yogi { .. }, .. } => "fedyogi",
            Self::Scaffold { .. } => "scaffold",
        }
    }

    /// Sections of the state: values of a state for each parameter of the net.
    pub fn state_sections(&self) -> usize {
        match self {
            Self::FedAvg => 1,
            Self::FedAvgM { .. } | Self::Scaffold { .. } => 2,
            Self::Adaptive { .. } => 3,
        }
    }

    /// Sections of an update.
    pub fn update_sections(&self) -> usize {
        if self.has_controls() { 2 } else { 1 }
    }

    /// The weights of a state: its first section.
    pub fn weights<'a>(&self, state: &'a [u8]) -> &'a [u8] {
        &state[..state.len() / self.state_sections()]
    }

    /// Checks foreign bytes that claim to be a state of a net with so many parameters.
    ///
    /// # Errors
    /// Another length, a value that is not finite, or a second moment below zero.
    pub fn check_state(&self, bytes: &[u8], parameter_count: usize) -> Result<(), WeightsError> {
        weights::check_weights(bytes, parameter_count.saturating_mul(self.state_sections()))?;
        if !matches!(self, Self::Adaptive { .. }) {
            return Ok(());
        }
        let first = 2 * parameter_count;
        match weights::first_not(&bytes[4 * first..], |v| v >= 0.0) {
            Some((i, value)) => Err(WeightsError::OutOfRange { index: first + i, value }),
            None => Ok(()),
        }
    }

    /// Whether clients have control variates of their own, which they keep from round to round.
    pub fn has_controls(&self) -> bool {
        matches!(self, Self::Scaffold { .. })
    }

    /// The server's control variate of a state; `None` but for SCAFFOLD.
    pub(crate) fn control<'a>(&self, state: &'a [u8]) -> Option<&'a [u8]> {
        self.has_controls().then(|| &state[state.len() / 2..])
    }

    /// The state of round 0: these weights, and an optimiser that has seen nothing.
    pub fn initial_state(&self, mut weights: Vec<u8>) -> Vec<u8> {
        let len = weights.len();
        weights.resize(len * self.state_sections(), 0);
        if let Self::Adaptive { tau, .. } = self {
            let v = ((tau * tau) as f32).to_le_bytes();
            weights[2 * len..].chunks_exact_mut(4).for_each(|value| value.copy_from_slice(&v));
        }
        weights
    }

    /// The state after a round with these updates, of clients that have `samples` together, those that did not train
    /// included.
    ///
    /// # Errors
    /// There is no update, the state's bytes are wrong, or a new value is beyond f32.
    pub fn step(&self, state: &[u8], updates: &ExactSum, samples: u64) -> Result<Vec<u8>, ExactError> {
        let means = updates.means()?;
        let len = updates.values() / self.update_sections();
        self.check_state(state, len).map_err(ExactError::Parent)?;
        let old = |section: usize| weights::values(&state[4 * len * section..4 * len * (section + 1)]).map(f64::from);
        match *self {
            Self::FedAvg => write(len, old(0).zip(means).map(|(x, delta)| [x + delta])),
            Self::FedAvgM { lr, momentum } => {
                let values = old(0).zip(old(1)).zip(means).map(|((x, v), delta)| {
                    let v = momentum * v + delta;
                    [x + lr * v, v]
                });
                write(len, values)
            }
            Self::Adaptive { moment, lr, beta1, tau } => {
                let values = old(0).zip(old(1)).zip(old(2)).zip(means).map(|(((x, m), v), delta)| {
                    let m = beta1 * m + (1.0 - beta1) * delta;
                    let v = moment.next(v, delta);
                    [x + lr * m / (v.sqrt() + tau), m, v]
                });
                write(len, values)
            }
            Self::Scaffold { lr } => {
                let share = updates.samples() as f64 / samples.max(updates.samples()) as f64;
                let controls = updates.means()?.skip(len);
                let values = old(0).zip(old(1)).zip(means.zip(controls));
                write(len, values.map(|((x, c), (delta, of_c))| [x + lr * delta, c + share * of_c]))
            }
        }
    }
}

/// Writes the sections of a new state, each value rounded once.
fn write<const N: usize>(len: usize, values: impl Iterator<Item = [f64; N]>) -> Result<Vec<u8>, ExactError> {
    let mut state = vec![0; 4 * len * N];
    let mut places: [_; N] = {
        let mut sections = state.chunks_exact_mut(4 * len.max(1));
        std::array::from_fn(|_| sections.next().unwrap_or_default().chunks_exact_mut(4))
    };
    for sections in values {
        for (places, value) in places.iter_mut().zip(sections) {
            if let Some(place) = places.next() {
                place.copy_from_slice(&(value as f32).to_le_bytes());
            }
        }
    }
    match weights::first_not(&state, f32::is_finite) {
        Some((index, _)) => Err(ExactError::Overflow { index }),
        None => Ok(state),
    }
}

/// One of each, for tests of what must hold for all.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) const EVERY_RULE: [Rule; 6] = [
    Rule::FedAvg,
    Rule::FedAvgM { lr: 0.7, momentum: 0.9 },
    Rule::Adaptive { moment: Moment::Adagrad, lr: 0.1, beta1: 0.0, tau: 1e-3 },
    Rule::Adaptive { moment: Moment::Adam { beta2: 0.99 }, lr: 0.01, beta1: 0.9, tau: 1e-3 },
    Rule::Adaptive { moment: Moment::Yogi { beta2: 0.99 }, lr: 0.01, beta1: 0.9, tau: 1e-2 },
    Rule::Scaffold { lr: 1.0 },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random_stream::{Purpose, RandomStream, StreamKey};

    const SEED: u64 = 5;
    const LEN: usize = 7;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn floats(bytes: &[u8]) -> Vec<f64> {
        weights::values(bytes).map(f64::from).collect()
    }

    fn random(stream: &mut RandomStream, len: usize) -> Vec<f32> {
        (0..len).map(|_| stream.between(-0.5, 0.5)).collect()
    }

    /// The rule's step over whole vectors, written from the papers.
    fn reference(rule: &Rule, state: &[f64], mean: &[f64], share: f64) -> Vec<f64> {
        let section = |i: usize| &state[i * LEN..(i + 1) * LEN];
        let zip = |a: &[f64], b: &[f64], f: &dyn Fn(f64, f64) -> f64| -> Vec<f64> {
            a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect()
        };
        let delta = &mean[..LEN];
        match *rule {
            Rule::FedAvg => zip(section(0), delta, &|x, d| x + d),
            Rule::FedAvgM { lr, momentum } => {
                let v = zip(section(1), delta, &|v, d| momentum * v + d);
                [zip(section(0), &v, &|x, v| x + lr * v), v].concat()
            }
            Rule::Adaptive { moment, lr, beta1, tau } => {
                let m = zip(section(1), delta, &|m, d| beta1 * m + (1.0 - beta1) * d);
                let v = zip(section(2), delta, &|v, d| match moment {
                    Moment::Adagrad => v + d.powi(2),
                    Moment::Adam { beta2 } => beta2 * v + (1.0 - beta2) * d.powi(2),
                    Moment::Yogi { beta2 } if v > d.powi(2) => v - (1.0 - beta2) * d.powi(2),
                    Moment::Yogi { beta2 } => v + (1.0 - beta2) * d.powi(2),
                });
                let step = zip(&m, &v, &|m, v| lr * m / (v.sqrt() + tau));
                [zip(section(0), &step, &|x, s| x + s), m, v].concat()
            }
            Rule::Scaffold { lr } => {
                let c = zip(section(1), &mean[LEN..], &|c, d| c + share * d);
                [zip(section(0), delta, &|x, d| x + lr * d), c].concat()
            }
        }
    }

    #[test]
    fn every_rule_is_its_papers_over_several_rounds() {
        for rule in EVERY_RULE {
            let mut stream =
                RandomStream::new(&StreamKey { seed: SEED, round: 0, node: &[], purpose: Purpose::Shuffle, index: 0 });
            let mut state = rule.initial_state(bytes(&random(&mut stream, LEN)));
            let mut expected = floats(&state);
            for round in 0..5 {
                let updates: Vec<(Vec<f32>, u64)> =
                    (1..=3).map(|n| (random(&mut stream, LEN * rule.update_sections()), n * 100)).collect();
                let mut sum = ExactSum::new(LEN * rule.update_sections());
                updates.iter().for_each(|(update, n)| sum.add(&bytes(update), *n).expect("in range"));
                let total: u64 = updates.iter().map(|(_, n)| n).sum();
                let of_all = |i: usize| updates.iter().map(|(u, n)| f64::from(u[i]) * *n as f64).sum::<f64>();
                let mean: Vec<f64> = (0..LEN * rule.update_sections()).map(|i| of_all(i) / total as f64).collect();
                state = rule.step(&state, &sum, 2_400).expect("finite");
                expected = reference(&rule, &expected, &mean, 0.25);
                for (found, expected) in floats(&state).iter().zip(&expected) {
                    let off = (found - expected).abs();
                    assert!(
                        off < 1e-5 * (1.0 + expected.abs()),
                        "seed {SEED}, {rule:?}, round {round}: {found} {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_second_moment_below_zero_is_no_state() {
        let rule = EVERY_RULE[3];
        let mut state = rule.initial_state(bytes(&[1.0, 2.0]));
        assert_eq!(rule.check_state(&state, 2), Ok(()));
        state[20..].copy_from_slice(&(-1e-9f32).to_le_bytes());
        assert!(matches!(rule.check_state(&state, 2), Err(WeightsError::OutOfRange { index: 5, .. })));
        assert!(rule.check_state(&state, 3).is_err());
    }

    #[test]
    fn a_state_begins_with_the_weights_and_an_optimiser_that_saw_nothing() {
        for rule in EVERY_RULE {
            let state = rule.initial_state(bytes(&[1.0, -2.0]));
            assert_eq!(state.len(), 8 * rule.state_sections());
            assert_eq!(floats(rule.weights(&state)), [1.0, -2.0]);
            let v = if let Rule::Adaptive { tau, .. } = rule { f64::from((tau * tau) as f32) } else { 0.0 };
            assert!(floats(&state[8..]).iter().all(|&x| x == 0.0 || x == v), "{rule:?}");
        }
    }

    #[test]
    fn a_state_of_another_rule_or_a_sum_of_nothing_is_refused() {
        let mut sum = ExactSum::new(2);
        let state = Rule::FedAvg.initial_state(bytes(&[1.0, 2.0]));
        assert_eq!(Rule::FedAvg.step(&state, &sum, 1), Err(ExactError::Empty));
        sum.add(&bytes(&[0.0, 0.0]), 1).expect("in range");
        for rule in &EVERY_RULE[1..5] {
            assert!(matches!(rule.step(&state, &sum, 1), Err(ExactError::Parent(_))), "{rule:?}");
        }
        let huge = Rule::FedAvgM { lr: 1e300, momentum: 0.0 };
        let mut sum = ExactSum::new(2);
        sum.add(&bytes(&[0.0, 1.0]), 1).expect("in range");
        let state = huge.initial_state(bytes(&[1.0, 2.0]));
        assert_eq!(huge.step(&state, &sum, 1), Err(ExactError::Overflow { index: 1 }));
    }
}
