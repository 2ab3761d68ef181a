//! What the committed records come to, for those who look: made once for each record, since looks are many and a history
//! long.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::report::{Named, Records, Round};
use crate::store::HistoryEntry;

/// A history, and what it comes to.
#[derive(Debug, Default)]
pub(super) struct Past {
    pub(super) history: Vec<HistoryEntry>,
    /// The rounds that people see, oldest first. Who looked before keeps what it has.
    rounds: Arc<Vec<Round>>,
    /// What everybody who ever was a member called itself.
    names: BTreeMap<String, String>,
    unit: f64,
}

impl Past {
    /// Of the records that were on disk. `unit` is that of the run's errors.
    pub(super) fn of(history: Vec<HistoryEntry>, unit: f64) -> Self {
        let (rounds, names) = (Arc::new(Round::committed(&history, unit)), Named::all(&history));
        Self { history, rounds, names, unit }
    }

    /// A record more. It also tells what the model before it is worth.
    pub(super) fn push(&mut self, entry: HistoryEntry) {
        // A genesis begins anew.
        if entry.committed.record.round == 0 {
            *self = Self { unit: self.unit, ..Self::default() };
        }
        self.history.push(entry);
        let last = self.history.len() - 1;
        let rounds = Arc::make_mut(&mut self.rounds);
        if let Some(told) = last.checked_sub(1).and_then(|before| Round::shown(&self.history, before, self.unit)) {
            rounds.pop();
            rounds.push(told);
        }
        rounds.extend(Round::shown(&self.history, last, self.unit));
        self.names.extend(Named::by(&self.history[last]));
    }

    pub(super) fn clear(&mut self) {
        *self = Self { unit: self.unit, ..Self::default() };
    }

    pub(super) fn rounds(&self) -> Arc<Vec<Round>> {
        self.rounds.clone()
    }

    pub(super) fn records(&self) -> Records<'_> {
        Records { history: &self.history, rounds: &self.rounds, names: &self.names }
    }
}
