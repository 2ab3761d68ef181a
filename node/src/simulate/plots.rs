//! The plots of a simulation: its leading metric over rounds, bytes and time.

use std::path::{Path, PathBuf};

use paceline_model::ACCURACY;

use crate::plot::{Curve, Curves};
use crate::report::Round;

/// What a horizontal axis counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Axis {
    /// Rounds.
    Rounds,
    /// GB that the clients of a round receive and send, added up.
    Bytes,
    /// Minutes that the rounds took here.
    Time,
}

impl Axis {
    /// All of them.
    const ALL: [Self; 3] = [Self::Rounds, Self::Bytes, Self::Time];

    fn name(self) -> &'static str {
        match self {
            Self::Rounds => "rounds",
            Self::Bytes => "bytes",
            Self::Time => "time",
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Rounds => "round",
            Self::Bytes => "GB moved",
            Self::Time => "minutes",
        }
    }

    fn of(self, round: &Round) -> f64 {
        match self {
            Self::Rounds => 1.0,
            Self::Bytes => (round.bytes_sent + round.bytes_received) as f64 / 1e9,
            Self::Time => round.duration_ms.unwrap_or(0) as f64 / 60_000.0,
        }
    }
}

/// Writes the plots of a metric, `accuracy-rounds`, `accuracy-bytes` and `accuracy-time` for instance, with the endings
/// `.svg` and `.png` into a folder, each with a curve for each of these runs. Gives the files.
///
/// # Errors
/// A file can't be written.
pub fn plot(title: &str, metric: &str, runs: &[(String, &[Round])], dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let is_share = metric == ACCURACY;
    let mut files = Vec::new();
    for axis in Axis::ALL {
        let curves = Curves {
            title: title.to_owned(),
            x: axis.label().to_owned(),
            y: format!("test {}{}", metric.replace('_', " "), if is_share { ", %" } else { "" }),
            curves: runs.iter().map(|(name, rounds)| curve(name, metric, rounds, axis)).collect(),
        };
        files.extend(curves.write(&dir.join(format!("{metric}-{}", axis.name())))?);
    }
    Ok(files)
}

/// Whether a file is one of these plots, by its name.
pub(super) fn is_plot(name: &str) -> bool {
    let stem = name.strip_suffix(".svg").or(name.strip_suffix(".png"));
    stem.is_some_and(|stem| Axis::ALL.iter().any(|axis| stem.ends_with(&format!("-{}", axis.name()))))
}

fn curve(name: &str, metric: &str, rounds: &[Round], axis: Axis) -> Curve {
    let mut at = 0.0;
    let scale = if metric == ACCURACY { 100.0 } else { 1.0 };
    let point = |round: &Round| {
        at += axis.of(round);
        round.metrics.get(metric).map(|value| (at, scale * value))
    };
    Curve { name: name.to_owned(), points: rounds.iter().filter_map(point).collect() }
}
