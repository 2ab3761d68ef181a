//! Accuracy over the rounds, counted as the FedAvg paper counts (McMahan et al. 2017, section 3): the curve is made
//! monotone by taking the best accuracy so far, and where it crosses the target is interpolated between the two rounds.

/// The best accuracy up to each round.
pub(crate) fn best_so_far(accuracies: impl Iterator<Item = f64>) -> impl Iterator<Item = f64> {
    accuracies.scan(0.0, |best, accuracy| {
        *best = accuracy.max(*best);
        Some(*best)
    })
}

/// The round, in fractions, at which the best accuracy so far reaches `target`; the first accuracy is that of round 1.
/// `None` if it never does.
pub(crate) fn rounds_to(target: f64, accuracies: impl Iterator<Item = f64>) -> Option<f64> {
    let mut before = None;
    for (index, best) in best_so_far(accuracies).enumerate() {
        let round = (index + 1) as f64;
        match before {
            _ if best < target => before = Some(best),
            // Nothing is known of what was before round 1.
            None => return Some(round),
            Some(before) => return Some(round - 1.0 + (target - before) / (best - before)),
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
