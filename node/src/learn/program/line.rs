//! What goes over a trainer's stdin and stdout: a JSON object a line (docs/trainer.md).

use std::collections::BTreeMap;
use std::path::PathBuf;

use paceline_model::Task;
use paceline_protocol::Hash;
use paceline_protocol::bounds::{FAILURE_BYTES_MAX, NAME_BYTES_MAX};
use serde::{Deserialize, Serialize};

/// The version of the protocol.
pub(super) const PROTOCOL: u32 = 1;

/// Bytes of a line.
pub(super) const LINE_BYTES_MAX: usize = 1 << 20;

/// What the node says.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Question {
    /// The first line.
    Hello(Hello),
    /// Write the initial weights.
    Initial { id: u64, result: PathBuf },
    /// Train from these weights and write new ones.
    Train { id: u64, round: u64, seed: u64, weights: PathBuf, result: PathBuf },
    /// Measure these weights.
    Evaluate { id: u64, weights: PathBuf },
    /// Give a job up.
    Cancel { id: u64 },
    /// Say something.
    Ping,
    /// Exit.
    Stop,
}

/// What a trainer is greeted with.
#[derive(Debug, Clone, Serialize)]
pub struct Hello {
    /// [`Hello::PROTOCOL`].
    pub protocol: u32,
    /// This program's version.
    pub paceline: String,
    /// The run.
    pub run: HelloRun,
    /// The run's seed.
    pub seed: u64,
    /// The node.
    pub node: HelloNode,
    /// Where its data are, absolute.
    pub data: Option<PathBuf>,
    /// The trainer's folder, absolute.
    pub folder: PathBuf,
    /// Threads that it may compute with.
    pub threads: usize,
    /// `[train]` of the run file.
    pub train: serde_json::Value,
    /// `[train.settings]`, as it stands.
    pub settings: serde_json::Value,
    /// The patterns of `trainable` in `[model]`; of none, all tensors are trained.
    pub trainable: Vec<String>,
}

/// The run, to a trainer.
#[derive(Debug, Clone, Serialize)]
pub struct HelloRun {
    /// Its id, hex.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Rounds in all.
    pub rounds: u64,
}

/// The node, to its trainer.
#[derive(Debug, Clone, Serialize)]
pub struct HelloNode {
    /// Its id; in a simulation the part that it stands for.
    pub id: String,
    /// What people call it.
    pub name: Option<String>,
    /// K and N of `--part K/N`.
    pub part: Option<(u32, u32)>,
}

impl Hello {
    /// The version of the protocol that this program speaks.
    pub const PROTOCOL: u32 = PROTOCOL;
}

/// What the trainer answers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Answer {
    Ready {
        protocol: u32,
        #[serde(default)]
        name: String,
    },
    Initialized {
        id: u64,
    },
    Progress {
        id: u64,
        #[serde(default)]
        done: u64,
        #[serde(default)]
        of: u64,
        #[serde(default)]
        loss: Option<f64>,
    },
    Trained {
        id: u64,
        samples: u64,
        #[serde(default)]
        loss: Option<f64>,
    },
    Evaluated {
        id: u64,
        metrics: BTreeMap<String, MetricLine>,
    },
    Failed {
        #[serde(default)]
        id: Option<u64>,
        why: String,
    },
    Cancelled {
        id: u64,
    },
    Pong,
}

/// A sum, and what it is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub(super) struct MetricLine {
    pub(super) sum: f64,
    /// A whole number, which some write with a point.
    pub(super) count: f64,
}

impl Question {
    /// As it goes over the line.
    pub(super) fn line(&self) -> String {
        // Nothing in it can't be JSON: paths that are no UTF-8 were refused before.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }

    /// Its `type`.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Initial { .. } => "initial",
            Self::Train { .. } => "train",
            Self::Evaluate { .. } => "evaluate",
            Self::Cancel { .. } => "cancel",
            Self::Ping => "ping",
            Self::Stop => "stop",
        }
    }
}

impl Answer {
    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(line: &[u8]) -> Result<Self, String> {
        let shown = || cut_to(&String::from_utf8_lossy(line), 80);
        serde_json::from_slice(line).map_err(|error| format!("it wrote {:?}, which is no answer ({error})", shown()))
    }

    /// The job that it is about.
    pub(super) fn id(&self) -> Option<u64> {
        match *self {
            Self::Initialized { id }
            | Self::Progress { id, .. }
            | Self::Trained { id, .. }
            | Self::Evaluated { id, .. }
            | Self::Cancelled { id } => Some(id),
            Self::Failed { id, .. } => id,
            Self::Ready { .. } | Self::Pong => None,
        }
    }

    /// Its `type`.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Ready { .. } => "ready",
            Self::Initialized { .. } => "initialized",
            Self::Progress { .. } => "progress",
            Self::Trained { .. } => "trained",
            Self::Evaluated { .. } => "evaluated",
            Self::Failed { .. } => "failed",
            Self::Cancelled { .. } => "cancelled",
            Self::Pong => "pong",
        }
    }
}

/// The seed of a training: of the run's seed, the round and the node. Below 2^53, which every JSON reader keeps.
pub(super) fn seed(task: &Task<'_>) -> u64 {
    let parts: [&[u8]; 3] = [&task.seed.to_le_bytes(), &task.round.to_le_bytes(), task.node_key];
    let hash = Hash::of_parts("paceline trainer seed", &parts);
    let bytes = hash.as_bytes();
    u64::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6] & 0x1F, 0])
}

/// What went wrong, in one line that others may read.
pub(super) fn cut(why: &str) -> String {
    cut_to(why.lines().next().unwrap_or_default().trim(), FAILURE_BYTES_MAX - 1)
}

/// A trainer's name as records have it.
pub(super) fn cut_name(name: &str) -> String {
    let printable: String = name.chars().filter(|c| !c.is_control()).collect();
    cut_to(&printable, NAME_BYTES_MAX)
}

fn cut_to(text: &str, bytes: usize) -> String {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}
