//! Progress bars, on stderr and only where it is a terminal.

use std::fmt::Write;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::report::Training;

/// How often a bar moves.
pub(crate) const INTERVAL: Duration = Duration::from_millis(200);

/// Steps of a bar for one round of a simulation.
const STEPS_PER_ROUND: u64 = 1_000;

/// Whether bars are shown.
pub(crate) fn is_shown(quiet: bool) -> bool {
    std::io::stderr().is_terminal() && !quiet
}

fn target(is_shown: bool) -> ProgressDrawTarget {
    if is_shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() }
}

/// The batches of a node's trainer; hidden while it does nothing.
pub(crate) struct TrainingBar(ProgressBar);

impl TrainingBar {
    pub(crate) fn hidden() -> Self {
        let bar = ProgressBar::with_draw_target(None, target(false));
        if let Ok(style) = ProgressStyle::with_template("  {msg:12} {bar:32} {pos}/{len} batches, {eta} left") {
            bar.set_style(style);
        }
        Self(bar)
    }

    pub(crate) fn show(&self, training: Option<Training>) {
        let Some(training) = training else { return self.0.set_draw_target(target(false)) };
        if self.0.is_hidden() {
            self.0.set_draw_target(target(true));
            self.0.reset();
        }
        self.0.set_length(training.of);
        self.0.set_position(training.done);
        self.0.set_message(match training.evaluating {
            true => "evaluating".to_owned(),
            false => format!("loss {:.3}", training.loss),
        });
    }

    /// Prints something without drawing over it.
    pub(crate) fn suspend(&self, print: impl FnOnce()) {
        self.0.suspend(print);
    }
}

/// The batches of an evaluation.
pub(crate) fn evaluation(is_shown: bool) -> impl FnMut(u64, u64) {
    let bar = ProgressBar::with_draw_target(None, target(is_shown));
    if let Ok(style) = ProgressStyle::with_template("  evaluating {bar:32} {pos}/{len} batches, {eta} left") {
        bar.set_style(style);
    }
    move |done, of| {
        bar.set_length(of);
        bar.set_position(done);
        if done == of {
            bar.finish_and_clear();
        }
    }
}

/// The rounds of a simulation.
pub(crate) struct RoundsBar(ProgressBar);

impl RoundsBar {
    /// The bar after so many rounds. What is left is estimated from those to come: earlier ones ran at another time.
    pub(crate) fn new(rounds: u64, before: u64, quiet: bool) -> Self {
        let bar = ProgressBar::with_draw_target(Some(rounds * STEPS_PER_ROUND), target(is_shown(quiet)));
        if let Ok(style) = ProgressStyle::with_template("  {bar:40} {percent} % of the rounds, {left}") {
            bar.set_style(style.with_key("left", left));
        }
        bar.set_position(before * STEPS_PER_ROUND);
        bar.reset_eta();
        bar.enable_steady_tick(INTERVAL);
        Self(bar)
    }

    /// Moves to where so many rounds, and this share of another, are done.
    pub(crate) fn show(&self, rounds: u64, share: f64) {
        self.0.set_position(rounds * STEPS_PER_ROUND + (share * STEPS_PER_ROUND as f64) as u64);
    }

    /// Prints something without drawing over it.
    pub(crate) fn suspend(&self, print: impl FnOnce()) {
        self.0.suspend(print);
    }

    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

/// What is left, once anything is known of it.
fn left(state: &ProgressState, out: &mut dyn Write) {
    let _ = match state.per_sec() > 0.0 {
        true => write!(out, "{:#} left", HumanDuration(state.eta())),
        false => write!(out, "begins"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rounds_of_an_earlier_start_count_nothing_towards_the_time_that_is_left() {
        let RoundsBar(bar) = RoundsBar::new(100, 20, true);
        assert_eq!((bar.position(), bar.per_sec()), (20 * STEPS_PER_ROUND, 0.0));
    }
}
