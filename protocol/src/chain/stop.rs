//! When a run ends before its last round: by what its records tell, so that all nodes end it with the same one.
//!
//! What a model is worth is in the record after it, and so a run that ends by its metric has trained one round more. What the
//! initial model is worth does not count.

use crate::base::timing::STUCK_MS;
use crate::record::{Kind, Record};

/// When a run ends, beside after its rounds. The default never does.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StopRule {
    /// The metric that is looked at.
    pub metric: String,
    /// Whether a higher value of it is the better one.
    pub higher_is_better: bool,
    /// The value, as the ratio of its sum to its count, that is good enough.
    pub target: Option<f64>,
    /// Rounds in a row, at least 1, in which it came to no better value.
    pub patience: Option<u64>,
    /// Milliseconds that rounds with updates have taken from their opening to their proposal, all together.
    pub time_ms: Option<u64>,
}

/// Why a run ended before its last round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// The metric came to its target.
    Target,
    /// It became no better for so many rounds.
    Patience,
    /// The time is used up.
    Time,
}

/// What the records so far say of the rule.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StopWatch {
    /// Whether a model was trained that an evaluation can be of.
    has_trained: bool,
    best: Option<f64>,
    /// Evaluations since the best one.
    since_best: u64,
    time_ms: u64,
    stopped: Option<Stopped>,
}

impl StopWatch {
    /// At the beginning of a chain, before whose records a model may have been trained: one that goes on behind another. Best
    /// value, patience and time begin anew with it.
    pub fn beginning(has_trained: bool) -> Self {
        Self { has_trained, ..Self::default() }
    }

    /// Over the records of a chain from its genesis on, in a run with this longest round.
    pub fn over<'a>(rule: &StopRule, round_timeout_ms: u64, mut records: impl Iterator<Item = &'a Record>) -> Self {
        let trained = records.next().and_then(|genesis| genesis.forced()).map_or(0, |forced| forced.trained);
        let mut watch = Self::beginning(trained > 0);
        records.for_each(|record| watch.see_record(rule, round_timeout_ms, record));
        watch
    }

    /// Why the run has ended, if it has.
    pub fn stopped(&self) -> Option<Stopped> {
        self.stopped
    }

    /// Takes a record in. Those without updates say nothing: a run whose nodes are away or paused waits, and its time with it.
    pub(super) fn see_record(&mut self, rule: &StopRule, round_timeout_ms: u64, record: &Record) {
        if matches!(record.kind, Kind::Train) && *rule != StopRule::default() {
            let total = record.evaluation_of_parent().get(&rule.metric).filter(|_| self.has_trained);
            // No honest coordinator is longer at a round.
            let took_ms = record.open_ms.min(round_timeout_ms.saturating_add(STUCK_MS));
            self.see(rule, total.and_then(|total| total.ratio()), took_ms);
            self.has_trained = true;
        }
    }

    /// Takes a round in: what the metric was in it, if it was measured, and how long the round took. What has ended stays so.
    pub fn see(&mut self, rule: &StopRule, value: Option<f64>, took_ms: u64) {
        if self.stopped.is_some() {
            return;
        }
        let rank = |value: f64| if rule.higher_is_better { value } else { -value };
        self.time_ms = self.time_ms.saturating_add(took_ms);
        if let Some(value) = value {
            match self.best {
                Some(best) if rank(value) <= rank(best) => self.since_best += 1,
                _ => (self.best, self.since_best) = (Some(value), 0),
            }
            if rule.target.is_some_and(|target| rank(value) >= rank(target)) {
                self.stopped = Some(Stopped::Target);
            } else if rule.patience.is_some_and(|patience| self.since_best >= patience) {
                self.stopped = Some(Stopped::Patience);
            }
        }
        if self.stopped.is_none() && rule.time_ms.is_some_and(|most| self.time_ms >= most) {
            self.stopped = Some(Stopped::Time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> StopRule {
        StopRule { metric: "accuracy".to_owned(), higher_is_better: true, ..StopRule::default() }
    }

    /// After how many of these rounds, of a second each, the run ends, and why.
    fn ends(rule: &StopRule, values: &[Option<f64>]) -> Option<(usize, Stopped)> {
        let mut watch = StopWatch::default();
        values.iter().enumerate().find_map(|(round, value)| {
            watch.see(rule, *value, 1_000);
            watch.stopped().map(|why| (round + 1, why))
        })
    }

    fn known(values: &[f64]) -> Vec<Option<f64>> {
        values.iter().copied().map(Some).collect()
    }

    #[test]
    fn a_target_ends_the_run_when_it_is_reached() {
        let rule = StopRule { target: Some(0.8), ..rule() };
        assert_eq!(ends(&rule, &known(&[0.5, 0.79, 0.8, 0.9])), Some((3, Stopped::Target)));
        let lower = StopRule { higher_is_better: false, target: Some(0.2), ..rule };
        assert_eq!(ends(&lower, &known(&[0.5, 0.3, 0.1])), Some((3, Stopped::Target)));
        assert_eq!(ends(&lower, &known(&[0.5, 0.3, 0.21])), None);
    }

    #[test]
    fn patience_counts_the_evaluations_that_were_no_better_than_the_best() {
        let rule = StopRule { patience: Some(2), ..rule() };
        assert_eq!(ends(&rule, &known(&[0.5, 0.4, 0.6, 0.6, 0.7, 0.6, 0.7])), Some((7, Stopped::Patience)));
        let unmeasured = [Some(0.5), None, None, None, Some(0.4)];
        assert_eq!(ends(&rule, &unmeasured), None, "a round that nobody measured says nothing");
    }

    #[test]
    fn time_is_that_of_all_rounds() {
        let rule = StopRule { time_ms: Some(2_500), ..rule() };
        assert_eq!(ends(&rule, &[None, None, None, None]), Some((3, Stopped::Time)));
    }

    #[test]
    fn without_a_rule_nothing_ends_a_run() {
        assert_eq!(ends(&StopRule::default(), &known(&[1.0, 0.0, 0.0, 0.0])), None);
    }
}
