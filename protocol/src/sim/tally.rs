//! What is counted in a world: what befell it, and what its nodes refused.

use std::collections::BTreeMap;

use crate::base::reject::Reject;

/// Counts of a world, or of many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// What befell nodes, disks, trainers, clocks and messages, by name.
    pub faults: BTreeMap<&'static str, u64>,
    /// Messages that were refused with an event, by reason.
    pub refusals: BTreeMap<Reject, u64>,
}

impl Tally {
    /// Counts one fault.
    pub fn fault(&mut self, name: &'static str) {
        *self.faults.entry(name).or_default() += 1;
    }

    pub(super) fn refusal(&mut self, reject: Reject) {
        *self.refusals.entry(reject).or_default() += 1;
    }

    /// Counts all that another counted.
    pub fn add(&mut self, other: &Tally) {
        for (name, n) in &other.faults {
            *self.faults.entry(name).or_default() += n;
        }
        for (reject, n) in &other.refusals {
            *self.refusals.entry(*reject).or_default() += n;
        }
    }
}
