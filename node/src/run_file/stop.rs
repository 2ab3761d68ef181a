//! `[stop]`: when a run ends before its rounds do.

use paceline_protocol::bounds::ROUNDS_MAX;
use paceline_protocol::runfile::{Key, Schema, duration, number, quoted};

/// `[stop]`: what ends the run before its rounds do.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StopSection {
    /// The value of the leading metric that is good enough.
    pub target: Option<f64>,
    /// Rounds in a row without a better value.
    pub patience: Option<u64>,
    /// Milliseconds of all rounds together.
    pub time_ms: Option<u64>,
}

pub(super) const STOP: Schema<StopSection> = Schema {
    name: "stop",
    doc: "what ends the run before its rounds do, whichever comes first",
    keys: &[
        Key::optional(
            "target",
            "0.9",
            "a value of the leading metric that is good enough",
            |entry, stop| entry.number("a finite number", f64::is_finite).map(|value| stop.target = Some(value)),
            |stop| stop.target.map(number),
        ),
        Key::optional(
            "patience",
            "5",
            "rounds in a row in which it came to no better value",
            |entry, stop| entry.integer(1..=ROUNDS_MAX).map(|rounds| stop.patience = Some(rounds)),
            |stop| stop.patience.map(|rounds| rounds.to_string()),
        ),
        Key::optional(
            "time",
            "\"2h\"",
            "the time of all rounds together",
            |entry, stop| duration::read(entry).map(|ms| stop.time_ms = Some(ms)),
            |stop| stop.time_ms.map(|ms| quoted(&duration::written(ms))),
        ),
    ],
};
