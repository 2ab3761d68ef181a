//! `[metrics]`: what a model is judged by.

use paceline_protocol::bounds::METRIC_NAME_BYTES_MAX;
use paceline_protocol::record::Metric;
use paceline_protocol::runfile::{Key, Schema, quoted};

/// `[metrics]`: what is judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// The metric that says how good a model is.
    pub lead: String,
    /// What is better.
    pub better: Better,
}

/// Which of two values of a metric is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// The higher one, as of an accuracy.
    Higher,
    /// The lower one, as of an error.
    Lower,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { lead: "accuracy".to_owned(), better: Better::Higher }
    }
}

impl Metrics {
    /// A value of the lead as one that is the better the higher it is; and back, since it does so twice.
    pub fn rank(&self, value: f64) -> f64 {
        match self.better {
            Better::Higher => value,
            Better::Lower => -value,
        }
    }

    /// Whether one value of the lead is better than another.
    pub fn is_better(&self, one: f64, other: f64) -> bool {
        self.rank(one) > self.rank(other)
    }
}

pub(super) const METRICS: Schema<Metrics> = Schema {
    name: "metrics",
    doc: "",
    keys: &[
        Key::with_default(
            "lead",
            "\"accuracy\"",
            "the metric that says how good a model is",
            |entry, metrics| {
                let expected = format!("a name of a-z, 0-9 and _, at most {METRIC_NAME_BYTES_MAX} bytes");
                entry.text_where(&expected, Metric::is_name).map(|name| metrics.lead = name.to_owned())
            },
            |metrics| Some(quoted(&metrics.lead)),
        ),
        Key::with_default(
            "better",
            "\"higher\"",
            "which of its values is better: \"higher\" or \"lower\"",
            |entry, metrics| {
                let better = entry.one_of(&["higher", "lower"])?;
                metrics.better = if better == "higher" { Better::Higher } else { Better::Lower };
                Ok(())
            },
            |metrics| Some(quoted(if metrics.better == Better::Higher { "higher" } else { "lower" })),
        ),
    ],
};
