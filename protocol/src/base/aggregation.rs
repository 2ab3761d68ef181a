//! The rules of aggregation that a run file can name, with their parameters. What they compute is the learning side's
//! business; here they are names and numbers that the run file fixes and the record of every round repeats.

use serde::{Deserialize, Serialize};

/// How a round's updates become the next global state.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub enum Rule {
    /// `fedavg`: mean of the deltas, weighted by samples (McMahan et al. 2017, algorithm 1).
    #[default]
    FedAvg,
    /// `fedavgm`: FedAvg with momentum on the server's side (Hsu et al. 2019).
    FedAvgM {
        /// Server learning rate.
        lr: f64,
        /// Share of the last step that is added to the next.
        momentum: f64,
    },
    /// `fedadagrad` (Reddi et al. 2021, algorithm 2).
    FedAdagrad {
        /// Server learning rate.
        lr: f64,
        /// Decay of the momentum.
        beta1: f64,
        /// Degree of adaptivity.
        tau: f64,
    },
    /// `fedadam` (likewise).
    FedAdam {
        /// Server learning rate.
        lr: f64,
        /// Decay of the momentum.
        beta1: f64,
        /// Decay of the second moment.
        beta2: f64,
        /// Degree of adaptivity.
        tau: f64,
    },
    /// `fedyogi` (likewise).
    FedYogi {
        /// Server learning rate.
        lr: f64,
        /// Decay of the momentum.
        beta1: f64,
        /// Decay of the second moment.
        beta2: f64,
        /// Degree of adaptivity.
        tau: f64,
    },
    /// `scaffold` (Karimireddy et al. 2020).
    Scaffold {
        /// Server learning rate.
        lr: f64,
    },
}

impl Rule {
    /// The names, as `rule` in `[aggregate]` has them.
    pub const NAMES: [&str; 6] = ["fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "scaffold"];

    /// The rule of a name with usual parameters, of which `lr` is the one to tune (Reddi et al. 2021, section 5); `None` for a
    /// name that is none.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "fedavg" => Self::FedAvg,
            "fedavgm" => Self::FedAvgM { lr: 1.0, momentum: 0.9 },
            "fedadagrad" => Self::FedAdagrad { lr: 0.1, beta1: 0.0, tau: 0.001 },
            "fedadam" => Self::FedAdam { lr: 0.01, beta1: 0.9, beta2: 0.99, tau: 0.001 },
            "fedyogi" => Self::FedYogi { lr: 0.01, beta1: 0.9, beta2: 0.99, tau: 0.001 },
            "scaffold" => Self::Scaffold { lr: 1.0 },
            _ => return None,
        })
    }

    /// The name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::FedAvg => "fedavg",
            Self::FedAvgM { .. } => "fedavgm",
            Self::FedAdagrad { .. } => "fedadagrad",
            Self::FedAdam { .. } => "fedadam",
            Self::FedYogi { .. } => "fedyogi",
            Self::Scaffold { .. } => "scaffold",
        }
    }

    /// The parameters by the names of their keys, in the order of the canonical form.
    pub fn parameters(&self) -> Vec<(&'static str, f64)> {
        let mut copy = *self;
        copy.parameters_mut().into_iter().map(|(key, value)| (key, *value)).collect()
    }

    pub(crate) fn parameters_mut(&mut self) -> Vec<(&'static str, &mut f64)> {
        match self {
            Self::FedAvg => vec![],
            Self::FedAvgM { lr, momentum } => vec![("lr", lr), ("momentum", momentum)],
            Self::FedAdagrad { lr, beta1, tau } => vec![("lr", lr), ("beta1", beta1), ("tau", tau)],
            Self::FedAdam { lr, beta1, beta2, tau } | Self::FedYogi { lr, beta1, beta2, tau } => {
                vec![("lr", lr), ("beta1", beta1), ("beta2", beta2), ("tau", tau)]
            }
            Self::Scaffold { lr } => vec![("lr", lr)],
        }
    }
}
