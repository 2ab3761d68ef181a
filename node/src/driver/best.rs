//! The model that did best so far, as the chain says: it is kept beside the last.

use paceline_protocol::Hash;
use paceline_protocol::record::Record;

use crate::learn::figure;
use crate::run_file::Metrics;
use crate::store::HistoryEntry;

/// Follows the chain.
#[derive(Debug)]
pub(super) struct Best {
    metrics: Metrics,
    /// Its value and its model.
    best: Option<(f64, Hash)>,
    /// The model of the last record, which the next one measures; none of the one that the run began with, which is no
    /// round's.
    head: Option<Hash>,
}

impl Best {
    pub(super) fn of(metrics: Metrics, history: &[HistoryEntry]) -> Self {
        let mut best = Self { metrics, best: None, head: None };
        history.iter().for_each(|entry| best.committed(&entry.committed.record));
        best
    }

    /// The next record of the chain; a genesis begins anew.
    pub(super) fn committed(&mut self, record: &Record) {
        if record.round == 0 {
            (self.best, self.head) = (None, None);
        }
        let lead = &self.metrics.lead;
        let value = record.evaluation_of_parent().get(lead).and_then(|total| figure(lead, total, 1.0));
        if let (Some(value), Some(model)) = (value, self.head)
            && self.best.is_none_or(|(best, _)| self.metrics.is_better(value, best))
        {
            self.best = Some((value, model));
        }
        self.head = (record.round > 0).then_some(record.model.id);
    }

    /// The models to keep: the best, and the last, of which it is not known yet.
    pub(super) fn models(&self) -> impl Iterator<Item = Hash> {
        self.best.map(|(_, model)| model).into_iter().chain(self.head)
    }
}
