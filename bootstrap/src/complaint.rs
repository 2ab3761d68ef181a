//! When a failure that repeats is worth a line in the log: the first time, and after waits that grow.

use std::time::{Duration, Instant};

/// The wait between the first two lines of one cause; it doubles each time.
const FIRST_WAIT: Duration = Duration::from_secs(60);

/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Causes that are told apart: an address is refused, times out, and has no route. More of them are told as one.
const CAUSES_MAX: usize = 4;

/// What was told of one peer that doesn't answer.
#[derive(Debug, Default)]
pub(crate) struct Complaint {
    /// Each cause, when it is told next, and the wait after that.
    told: Vec<(String, Instant, Duration)>,
}

impl Complaint {
    /// Whether this cause is worth a line now.
    pub(crate) fn is_due(&mut self, now: Instant, cause: &str) -> bool {
        let known = self.told.iter().position(|(told, ..)| told == cause);
        let full = (self.told.len() == CAUSES_MAX).then_some(CAUSES_MAX - 1);
        let Some(at) = known.or(full) else {
            self.told.push((cause.to_owned(), now + FIRST_WAIT, 2 * FIRST_WAIT));
            return true;
        };
        let (_, next, wait) = &mut self.told[at];
        let is_due = now >= *next;
        if is_due {
            (*next, *wait) = (now + *wait, (2 * *wait).min(LONGEST_WAIT));
        }
        is_due
    }

    /// Whether it was tried in vain since it was last reached.
    pub(crate) fn is_open(&self) -> bool {
        !self.told.is_empty()
    }

    /// It was reached: the next failure is news.
    pub(crate) fn settle(&mut self) {
        self.told.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_told_once_and_again_after_waits_that_grow() {
        let start = Instant::now();
        let mut complaint = Complaint::default();
        let mut told_s = |cause: &str, from_s: u64, to_s: u64| -> Vec<u64> {
            (from_s..to_s).filter(|s| complaint.is_due(start + Duration::from_secs(*s), cause)).collect()
        };
        assert_eq!(told_s("refused", 0, 1_000), [0, 60, 180, 420, 900]);
        assert_eq!(told_s("no route", 1_000, 1_100), [1_000, 1_060]);
    }

    #[test]
    fn many_causes_are_not_many_lines() {
        let now = Instant::now();
        let mut complaint = Complaint::default();
        let told = (0..100).filter(|n| complaint.is_due(now, &n.to_string())).count();
        assert_eq!(told, CAUSES_MAX);
        complaint.settle();
        assert!(complaint.is_due(now, "0"));
    }
}
