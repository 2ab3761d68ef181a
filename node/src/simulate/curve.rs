//! How good the model is over the rounds, counted as the FedAvg paper counts (McMahan et al. 2017, section 3): the curve is
//! made monotone by taking the best value so far, and where it crosses the target is interpolated between the two rounds.
//!
//! The higher a value here is, the better. That of a metric of which less is better is its negative.

/// The best value up to each round.
pub(crate) fn best_so_far(values: impl Iterator<Item = f64>) -> impl Iterator<Item = f64> {
    values.scan(f64::NEG_INFINITY, |best, value| {
        *best = value.max(*best);
        Some(*best)
    })
}

/// The round, in fractions, at which the best value so far reaches `target`; the first value is that of round 1. `None` if it
/// never does.
pub(crate) fn rounds_to(target: f64, values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut before = f64::NEG_INFINITY;
    for (index, best) in best_so_far(values).enumerate() {
        let round = (index + 1) as f64;
        if best < target {
            before = best;
        } else if before.is_finite() {
            return Some(round - 1.0 + (target - before) / (best - before));
        } else {
            // Nothing is known of what was before.
            return Some(round);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crossing_is_interpolated() {
        assert_eq!(rounds_to(0.75, [0.25, 0.5, 1.0].into_iter()), Some(2.5));
        assert_eq!(rounds_to(0.5, [0.25, 0.5, 1.0].into_iter()), Some(2.0));
    }

    #[test]
    fn a_setback_is_passed_over() {
        // Best so far: 0.5, 0.5, 1.0.
        assert_eq!(rounds_to(0.75, [0.5, 0.25, 1.0].into_iter()), Some(2.5));
        assert_eq!(rounds_to(0.5, [0.5, 0.25, 1.0].into_iter()), Some(1.0));
    }

    #[test]
    fn a_target_that_is_not_reached_has_no_round() {
        assert_eq!(rounds_to(0.9, [0.5, 0.8].into_iter()), None);
        assert_eq!(rounds_to(0.9, std::iter::empty()), None);
    }
}
