//! Rounds, as `rounds` and `simulate` print them and a simulation's folder keeps them.

use std::collections::BTreeMap;
use std::time::Duration;

use paceline_protocol::NodeId;
use paceline_protocol::base::roster::{Member, Roster};
use paceline_protocol::record::{Committed, Contribution, Evaluation, Kind, Totals};
use serde::{Deserialize, Serialize};

use crate::blobs::Manifest;
use crate::learn::{ClientUpdate, figure};
use crate::store::HistoryEntry;

/// One line of `rounds --format json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// train or empty.
    pub kind: String,
    /// Its number; the founding is 0.
    pub round: u64,
    /// The attempt that made the record.
    pub attempt: u32,
    /// Who made it; null in a simulation, like all that comes of the nodes' agreement.
    pub coordinator: Option<String>,
    /// The attempt that committed it.
    pub committed_attempt: Option<u32>,
    /// Who got it through.
    pub committed_by: Option<String>,
    /// The model after it, hex.
    pub model_hash: String,
    /// The record's hash, hex.
    pub record_hash: Option<String>,
    /// Hash of the record before, hex.
    pub parent: Option<String>,
    /// The updates that were averaged.
    pub contributions: Vec<ContributionReport>,
    /// Mean training loss in nats, weighted by samples; null without any.
    pub train_loss: Option<f64>,
    /// Accuracy of the model after this round, from 0 to 1, from the evaluations of the next record; null while unknown.
    pub accuracy: Option<f64>,
    /// Examples that it was evaluated on.
    pub evaluated: Option<u64>,
    /// Every metric of that evaluation by name, accuracy and mean loss among them where they are measured.
    #[serde(default)]
    pub metrics: BTreeMap<String, f64>,
    /// From the commit before to this one, measured here.
    pub duration_ms: Option<u64>,
    /// `duration_ms` less the longest `train_ms`.
    pub overhead_ms: Option<u64>,
    /// From the coordinator's begin of the attempt to its proposal, on its clock; null in a simulation.
    #[serde(default)]
    pub open_ms: Option<u64>,
    /// Bytes that this node sent in that time.
    pub bytes_sent: u64,
    /// Bytes that this node received in that time.
    pub bytes_received: u64,
}

/// One update that was averaged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContributionReport {
    /// PeerId; `K/N` of a simulation's client.
    pub node_id: String,
    /// Examples trained on: the weight of the update.
    pub samples: u64,
    /// Hash of the update, hex.
    pub update_hash: String,
    /// Bytes of the update.
    #[serde(default)]
    pub update_bytes: u64,
    /// Mean training loss in nats.
    pub train_loss: Option<f64>,
    /// How long evaluation and training took.
    pub train_ms: u64,
    /// What trained, in its own words; empty for the nets that come with every node.
    #[serde(default)]
    pub trainer: String,
}

impl Round {
    /// The committed train and empty records of a node, oldest first.
    /// `unit` is that of [`figure`].
    pub fn committed(history: &[HistoryEntry], unit: f64) -> Vec<Self> {
        let shown = (0..history.len()).filter(|index| is_shown(&history[*index]));
        shown.map(|index| Self::of(history, index, unit)).collect()
    }

    /// The round of one record; `None` for one that is no round to people.
    pub(crate) fn shown(history: &[HistoryEntry], index: usize, unit: f64) -> Option<Self> {
        is_shown(&history[index]).then(|| Self::of(history, index, unit))
    }

    /// The last of them. The closing record tells of the last round; it is that round that people look for.
    pub(super) fn last_committed(history: &[HistoryEntry], unit: f64) -> Option<Self> {
        history.iter().rposition(is_shown).map(|index| Self::of(history, index, unit))
    }

    fn of(history: &[HistoryEntry], index: usize, unit: f64) -> Self {
        let HistoryEntry { committed, stats } = &history[index];
        let record = &committed.record;
        let contributions: Vec<_> = record.contributions().map(ContributionReport::signed).collect();
        // What a model is worth is in the record after it.
        let next = history.get(index + 1).map(|next| next.committed.record.evaluation_of_parent());
        let evaluation = Evaluated::of(&next.unwrap_or_default(), unit);
        Self {
            kind: record.kind.name().to_owned(),
            round: record.round,
            attempt: record.attempt,
            coordinator: Some(record.coordinator.to_string()),
            committed_attempt: committed.committed_in().map(|(ballot, _)| ballot.attempt),
            committed_by: committed.committed_in().map(|(_, by)| by.to_string()),
            model_hash: record.model.id.to_string(),
            record_hash: Some(record.hash().to_string()),
            parent: Some(record.parent.to_string()),
            train_loss: mean_loss(&contributions),
            contributions,
            accuracy: evaluation.accuracy,
            evaluated: evaluation.evaluated,
            metrics: evaluation.metrics,
            duration_ms: stats.duration_ms,
            overhead_ms: stats.overhead_ms,
            open_ms: Some(record.open_ms),
            bytes_sent: stats.bytes_sent,
            bytes_received: stats.bytes_received,
        }
    }

    /// A round of a simulation: the updates that were averaged, the global state after it, and what that is worth. Nobody
    /// agreed on it, so what comes of agreement is null; the bytes are those that all clients would have moved.
    pub fn simulated(
        round: u64,
        updates: &[ClientUpdate],
        state: &[u8],
        (evaluation, unit): (&Evaluation, f64),
        took: Duration,
    ) -> Self {
        let contributions: Vec<_> = updates.iter().map(ContributionReport::simulated).collect();
        let evaluation = Evaluated::of(&[evaluation].into_iter().collect(), unit);
        Self {
            kind: Kind::Train.name().to_owned(),
            round,
            attempt: 0,
            coordinator: None,
            committed_attempt: None,
            committed_by: None,
            model_hash: Manifest::of(state).blob().id.to_string(),
            record_hash: None,
            parent: None,
            train_loss: mean_loss(&contributions),
            contributions,
            accuracy: evaluation.accuracy,
            evaluated: evaluation.evaluated,
            metrics: evaluation.metrics,
            duration_ms: Some(took.as_millis() as u64),
            overhead_ms: None,
            open_ms: None,
            bytes_sent: updates.iter().map(|update| update.update.len).sum(),
            bytes_received: (updates.len() * state.len()) as u64,
        }
    }
}

/// What the time of a round went into, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// The longest training of those whose updates are in.
    pub train_ms: u64,
    /// What else there was until the average was proposed: the model and the updates on their way.
    pub transfer_ms: u64,
    /// The election before, and the agreement behind.
    pub agree_ms: u64,
}

impl Round {
    /// What its time went into; `None` where that was not measured here.
    pub fn split(&self) -> Option<Split> {
        let whole = self.duration_ms?;
        let train_ms = self.contributions.iter().map(|c| c.train_ms).max().unwrap_or(0).min(whole);
        // Another node's clock may run at another speed.
        let open = self.open_ms?.clamp(train_ms, whole);
        Some(Split { train_ms, transfer_ms: open - train_ms, agree_ms: whole - open })
    }

    /// Examples that all participants together trained on, over the round's duration; `None` where none is known.
    pub fn examples_per_second(&self) -> Option<f64> {
        let samples = self.contributions.iter().map(|c| c.samples).fold(0, u64::saturating_add);
        let ms = self.duration_ms.filter(|ms| *ms > 0)?;
        Some(samples as f64 * 1_000.0 / ms as f64)
    }
}

/// What the record of a round tells beside what `rounds` shows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecordReport {
    /// As in `rounds`.
    #[serde(flatten)]
    pub round: Round,
    /// The rule that made the model of the updates, with its numbers.
    pub rule: String,
    /// Members that decided it.
    pub members: usize,
    /// Those whose accepts prove it, as PeerIds.
    pub accepted_by: Vec<String>,
    /// Who came onto the roster with it.
    pub joined: Vec<Newcomer>,
    /// Who left, as PeerIds.
    pub left: Vec<String>,
    /// Who was taken off, as PeerIds.
    pub evicted: Vec<String>,
}

/// A node that came onto the roster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Newcomer {
    /// As a PeerId.
    pub node_id: String,
    /// The name that it gave itself.
    pub name: String,
    /// Its part of the data, `K/N`.
    pub part: Option<String>,
}

impl RecordReport {
    /// That of a round; `None` where its record is not in the history, or is none that people call a round.
    pub fn of(history: &[HistoryEntry], round: u64, unit: f64) -> Option<Self> {
        let index = history.iter().position(|entry| is_shown(entry) && entry.committed.record.round == round)?;
        let Committed { record, accepts } = &history[index].committed;
        let before = history[..index].iter().map(|entry| &entry.committed.record);
        let roster = before.fold(Roster::default(), |roster, record| record.roster_after(&roster));
        let joined = record.joined.iter().map(|join| join.member());
        Some(Self {
            round: Round::of(history, index, unit),
            rule: record.aggregation.0.clone(),
            members: roster.len(),
            accepted_by: accepts.iter().map(|accept| accept.by().to_string()).collect(),
            joined: joined.map(Newcomer::of).collect(),
            left: record.left.iter().map(|leave| leave.by().to_string()).collect(),
            evicted: record.evicted.iter().map(|eviction| eviction.node().to_string()).collect(),
        })
    }
}

impl Newcomer {
    fn of(member: Member) -> Self {
        let part = member.part.map(|part| part.to_string());
        Self { node_id: member.node.to_string(), name: member.name, part }
    }
}

impl ContributionReport {
    fn signed((node, contribution): (NodeId, &Contribution)) -> Self {
        Self {
            node_id: node.to_string(),
            samples: contribution.samples,
            update_hash: contribution.update.id.to_string(),
            update_bytes: contribution.update.len,
            train_loss: contribution.train_loss,
            train_ms: contribution.train_ms,
            trainer: contribution.trainer.clone(),
        }
    }

    fn simulated(update: &ClientUpdate) -> Self {
        Self {
            node_id: update.part.to_string(),
            samples: update.samples,
            update_hash: update.update.id.to_string(),
            update_bytes: update.update.len,
            train_loss: update.train_loss,
            train_ms: update.train_ms,
            trainer: update.trainer.clone(),
        }
    }
}

/// Whether a record is a round to people: a founding is none, nor is the record that closes the run.
fn is_shown(entry: &HistoryEntry) -> bool {
    matches!(entry.committed.record.kind, Kind::Train | Kind::Empty)
}

/// The mean loss over the samples of those that tell one; `None` without any.
fn mean_loss(contributions: &[ContributionReport]) -> Option<f64> {
    // Nobody has checked what lies in a home.
    let told = || contributions.iter().filter_map(|c| Some((c.train_loss?, c.samples)));
    let samples = told().fold(0u64, |sum, (_, samples)| sum.saturating_add(samples));
    let sum: f64 = told().map(|(loss, samples)| loss * samples as f64).sum();
    (samples > 0).then(|| sum / samples as f64)
}

/// An evaluation in figures.
struct Evaluated {
    accuracy: Option<f64>,
    evaluated: Option<u64>,
    metrics: BTreeMap<String, f64>,
}

impl Evaluated {
    fn of(totals: &Totals, unit: f64) -> Self {
        let metrics: BTreeMap<String, f64> =
            totals.iter().filter_map(|(name, total)| Some((name.to_owned(), figure(name, total, unit)?))).collect();
        let counts = totals.iter().map(|(_, total)| u64::try_from(total.count()).unwrap_or(u64::MAX));
        Self { accuracy: metrics.get("accuracy").copied(), evaluated: counts.max(), metrics }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contribution(samples: u64, train_loss: f64) -> ContributionReport {
        let (node_id, update_hash, trainer) = (String::new(), String::new(), String::new());
        let (train_loss, train_ms, update_bytes) = (Some(train_loss), 0, 0);
        ContributionReport { node_id, samples, update_hash, update_bytes, train_loss, train_ms, trainer }
    }

    #[test]
    fn a_rounds_time_is_split_without_rest() {
        let mut round: Round = serde_json::from_value(serde_json::json!({
            "kind": "train", "round": 1, "attempt": 0, "model_hash": "", "contributions": [], "bytes_sent": 0,
            "bytes_received": 0, "duration_ms": 1_000, "open_ms": 900,
        }))
        .expect("what is null may be left out");
        let split = |round: &Round| round.split().map(|s| [s.train_ms, s.transfer_ms, s.agree_ms]);
        assert_eq!(split(&round), Some([0, 900, 100]));
        round.contributions = vec![ContributionReport { train_ms: 700, ..contribution(1, 1.0) }];
        assert_eq!(split(&round), Some([700, 200, 100]));
        round.open_ms = Some(5_000);
        assert_eq!(split(&round), Some([700, 300, 0]), "a clock that runs faster");
        round.duration_ms = None;
        assert_eq!(split(&round), None);
    }

    #[test]
    fn a_rounds_loss_is_weighted_by_samples() {
        assert_eq!(mean_loss(&[contribution(30, 1.0), contribution(10, 2.0)]), Some(1.25));
        let silent = ContributionReport { train_loss: None, ..contribution(1_000, 0.0) };
        assert_eq!(mean_loss(&[contribution(10, 2.0), silent]), Some(2.0), "who tells none does not count");
        assert_eq!(mean_loss(&[]), None);
    }
}
