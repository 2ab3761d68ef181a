//! How well a model does: named sums and counts, which add up exactly over all nodes.
//!
//! A metric is the ratio of its sum to its count. That is a mean where the count is one of examples, and more: the F1 score
//! has twice the true positives as its sum, and as its count those and all that was wrong.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::base::bounds::{METRIC_NAME_BYTES_MAX, METRICS_MAX};

/// A sum of 1 is so many units.
const UNIT: f64 = (1 << 20) as f64;

/// How well a model does on a node's held-out data.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Evaluation {
    /// At most `METRICS_MAX`, by name. None where a node holds nothing out.
    pub metrics: Vec<Metric>,
}

/// One figure of an evaluation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metric {
    /// What it is called: `a-z`, `0-9` and `_`, at most `METRIC_NAME_BYTES_MAX` bytes.
    pub name: String,
    /// In units of 2^-20.
    pub sum: i64,
    /// What the sum is divided by.
    pub count: u64,
}

impl Metric {
    /// A metric by name; `None` for a sum that is no number, or beyond 2^43.
    pub fn new(name: &str, sum: f64, count: u64) -> Option<Self> {
        let units = (sum * UNIT).round();
        // The bounds of i64 as f64: the upper one is just above.
        let fits = units >= i64::MIN as f64 && units < i64::MAX as f64;
        fits.then(|| Self { name: name.to_owned(), sum: units as i64, count })
    }

    /// Whether the numbers can be what they claim to be: of an accuracy more is known than of others.
    fn is_plausible(&self) -> bool {
        let all = i128::from(self.count) << 20;
        let fits = match self.name.as_str() {
            "accuracy" => (0..=all).contains(&i128::from(self.sum)),
            "loss" | "perplexity" | "rmse" | "mean_error" => self.sum >= 0,
            _ => true,
        };
        fits && Self::is_name(&self.name)
    }

    /// Whether a metric may be called so.
    pub fn is_name(name: &str) -> bool {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        (1..=METRIC_NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(fits)
    }
}

impl Evaluation {
    /// Of these metrics, each name once.
    pub fn of(mut metrics: Vec<Metric>) -> Self {
        metrics.sort_by(|a, b| a.name.cmp(&b.name));
        Self { metrics }
    }

    /// Whether the numbers can be what they claim to be.
    pub fn is_plausible(&self) -> bool {
        self.metrics.len() <= METRICS_MAX
            && self.metrics.iter().all(Metric::is_plausible)
            && self.metrics.is_sorted_by(|a, b| a.name < b.name)
    }
}

/// Metrics over several nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Totals(BTreeMap<String, Total>);

/// One metric over several nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Total {
    sum: i128,
    count: u128,
}

impl Total {
    /// The metric; `None` where nothing was counted.
    pub fn ratio(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum as f64 / UNIT / self.count as f64)
    }

    /// What its sums are divided by.
    pub fn count(&self) -> u128 {
        self.count
    }
}

impl Totals {
    /// A metric by name.
    pub fn get(&self, name: &str) -> Option<Total> {
        self.0.get(name).copied()
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Total)> {
        self.0.iter().map(|(name, total)| (name.as_str(), *total))
    }
}

impl<'a> FromIterator<&'a Evaluation> for Totals {
    fn from_iter<I: IntoIterator<Item = &'a Evaluation>>(evaluations: I) -> Self {
        let mut totals = Self::default();
        for metric in evaluations.into_iter().flat_map(|evaluation| &evaluation.metrics) {
            // Of 64 bits each: 2^63 of them fit.
            let total = totals.0.entry(metric.name.clone()).or_default();
            total.sum += i128::from(metric.sum);
            total.count += u128::from(metric.count);
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accuracy(correct: u64, total: u64) -> Evaluation {
        Evaluation::of(vec![Metric::new("accuracy", correct as f64, total).expect("it fits")])
    }

    #[test]
    fn a_metric_over_several_nodes_is_that_of_all_their_examples() {
        let totals: Totals = [accuracy(1, 3), accuracy(5, 7), Evaluation::default()].iter().collect();
        let total = totals.get("accuracy").expect("two tell it");
        assert_eq!((total.ratio(), total.count()), (Some(0.6), 10));
        assert_eq!(totals.get("loss"), None);
    }

    #[test]
    fn nothing_counted_is_no_metric() {
        let totals: Totals = [accuracy(0, 0)].iter().collect();
        assert_eq!(totals.get("accuracy").and_then(|total| total.ratio()), None);
    }

    #[test]
    fn a_sum_that_is_no_number_or_too_large_makes_no_metric() {
        for sum in [f64::NAN, f64::INFINITY, 1e13, -1e13] {
            assert_eq!(Metric::new("loss", sum, 1), None, "{sum}");
        }
        assert!(Metric::new("loss", -8e12, 1).is_some());
    }

    #[test]
    fn an_accuracy_is_a_share() {
        assert!(accuracy(0, 10).is_plausible() && accuracy(10, 10).is_plausible());
        assert!(!accuracy(11, 10).is_plausible());
    }

    #[test]
    fn what_can_not_be_negative_is_not() {
        for (name, fits) in
            [("loss", false), ("rmse", false), ("mean_error", false), ("perplexity", false), ("gain", true)]
        {
            let metric = Metric::new(name, -0.5, 10).expect("it fits");
            assert_eq!(Evaluation::of(vec![metric]).is_plausible(), fits, "{name}");
        }
    }

    #[test]
    fn names_are_short_plain_and_stand_once() {
        for wrong in ["", "Loss", "a b", "x".repeat(33).as_str(), "f-1"] {
            assert!(!Metric::is_name(wrong), "{wrong}");
        }
        let metric = |name: &str| Metric { name: name.to_owned(), sum: 0, count: 1 };
        let is_plausible = |names: &[&str]| Evaluation::of(names.iter().map(|n| metric(n)).collect()).is_plausible();
        assert!(is_plausible(&["loss", "f1"]));
        assert!(!is_plausible(&["loss", "loss"]));
        assert!(!is_plausible(&["a", "b", "c", "d", "e", "f", "g", "h", "i"]));
    }
}
