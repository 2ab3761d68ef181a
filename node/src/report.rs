//! What `status` and `rounds` print, as JSON and for people. The one place where the words of the command line are made
//! from the machine's.

use paceline_protocol::machine::View;
use paceline_protocol::message::Activity;
use paceline_protocol::record::Kind;
use serde::{Deserialize, Serialize};

use crate::store::Row;

/// `status --format json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The run, hex.
    pub run_id: String,
    /// What people call it.
    pub run_name: String,
    /// This node, as a PeerId.
    pub node_id: String,
    /// What people call it.
    pub name: String,
    /// The round being decided; 0 before the founding.
    pub round: u64,
    /// Rounds with contributions that the run has in all.
    pub rounds: u64,
    /// Rounds with contributions that are committed.
    pub trained: u64,
    /// The present attempt at the round, from 0.
    pub attempt: u32,
    /// founding, electing, recovering, collecting, aggregating, proposing, done.
    pub phase: String,
    /// The elected coordinator.
    pub coordinator: Option<String>,
    /// Whether that is this node.
    pub is_coordinator: bool,
    /// gathering, founding, joining, member, leaving, left, finished, stopped.
    pub state: String,
    /// What is in the way, in words.
    pub reason: Option<String>,
    /// Votes and accepts that a decision needs.
    pub quorum: usize,
    /// The chain, hex.
    pub genesis: Option<String>,
    /// Another chain of the run that was seen, hex.
    pub fork: Option<String>,
    /// This node's part, `K/N`.
    pub part: Option<String>,
    /// The last committed model, hex.
    pub model_hash: Option<String>,
    /// The members.
    pub roster: Vec<MemberStatus>,
    /// Who trains in this round.
    pub participants: Vec<ParticipantStatus>,
    /// The last record.
    pub last_commit: Option<LastCommit>,
    /// What this node's trainer does.
    pub training: Option<Training>,
    /// Refusals so far, by reason.
    pub refused: std::collections::BTreeMap<String, u64>,
}

/// A member of the roster, or before the founding a node that was met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// PeerId.
    pub node_id: String,
    /// What people call it.
    pub name: String,
    /// What it says it does: idle, fetching, training, uploading, done, coordinating, joining; unknown.
    pub state: String,
    /// Whether it is connected to this node.
    pub reachable: bool,
    /// Milliseconds since it was last heard of; null for this node.
    pub silent_ms: Option<u64>,
    /// Its part, `K/N`.
    pub part: Option<String>,
}

/// A participant of the round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParticipantStatus {
    /// PeerId.
    pub node_id: String,
    /// As in the roster; `done` when its update is in.
    pub state: String,
}

/// The last record in short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastCommit {
    /// Its round.
    pub round: u64,
    /// The model after it, hex.
    pub model_hash: String,
    /// Its own hash, hex.
    pub record_hash: String,
    /// Accuracy of that model, once it is known.
    pub accuracy: Option<f64>,
    /// Mean training loss in nats.
    pub train_loss: Option<f64>,
    /// How many updates were averaged.
    pub updates: usize,
    /// From the commit before to this one, measured here.
    pub duration_ms: Option<u64>,
    /// Bytes that this node sent in that time.
    pub bytes_sent: u64,
    /// Bytes that this node received in that time.
    pub bytes_received: u64,
}

/// The trainer's progress.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Whether it evaluates rather than trains.
    pub evaluating: bool,
    /// Batches done.
    pub done: u64,
    /// Batches in all.
    pub of: u64,
    /// Loss of the last batch.
    pub loss: f64,
}

/// One line of `rounds --format json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// train or empty.
    pub kind: String,
    /// The round.
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
    /// Mean training loss in nats, weighted by samples.
    pub train_loss: Option<f64>,
    /// Accuracy of the model after this round, from the evaluations of the next record; null while unknown.
    pub accuracy: Option<f64>,
    /// Images that it was evaluated on.
    pub evaluated: Option<u64>,
    /// From the commit before to this one, measured here.
    pub duration_ms: Option<u64>,
    /// `duration_ms` less the longest `train_ms`.
    pub overhead_ms: Option<u64>,
    /// Bytes that this node sent in that time.
    pub bytes_sent: u64,
    /// Bytes that this node received in that time.
    pub bytes_received: u64,
}

/// One contribution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContributionReport {
    /// PeerId; `K/N` of a simulation's client.
    pub node_id: String,
    /// Samples trained on.
    pub samples: u64,
    /// The update, hex.
    pub update_hash: String,
    /// In nats.
    pub train_loss: f64,
    /// Evaluation and training.
    pub train_ms: u64,
}

/// The word for what a node does.
pub fn activity(activity: Activity) -> &'static str {
    match activity {
        Activity::Idle => "idle",
        Activity::Fetching => "fetching",
        Activity::Training => "training",
        Activity::Uploading => "uploading",
        Activity::Done => "done",
        Activity::Coordinating => "coordinating",
        Activity::Joining => "joining",
        Activity::Failed => "failed",
    }
}

/// The accuracy after the record at `index`, which the next record tells.
fn accuracy(rows: &[Row], index: usize) -> Option<(f64, u64)> {
    let (correct, total) = rows.get(index + 1)?.committed.record.evaluation_of_parent()?;
    Some((correct as f64 / total as f64, total))
}

/// The committed train and empty records, oldest first.
pub fn rounds(rows: &[Row]) -> Vec<Round> {
    let shown = |row: &&Row| matches!(row.committed.record.kind, Kind::Train | Kind::Empty);
    (0..rows.len()).filter(|i| rows.get(*i).as_ref().is_some_and(shown)).map(|i| round(rows, i)).collect()
}

fn round(rows: &[Row], index: usize) -> Round {
    let Row { committed, figures } = &rows[index];
    let record = &committed.record;
    let accuracy = accuracy(rows, index);
    let contributions = record.contributions.iter().map(|c| ContributionReport {
        node_id: c.node.to_string(),
        samples: c.samples,
        update_hash: c.update.id.to_string(),
        train_loss: c.train_loss,
        train_ms: c.train_ms,
    });
    Round {
        kind: record.kind.name().to_owned(),
        round: record.round,
        attempt: record.attempt,
        coordinator: Some(record.coordinator.to_string()),
        committed_attempt: committed.committed_in().map(|(ballot, _)| ballot.attempt),
        committed_by: committed.committed_in().map(|(_, by)| by.to_string()),
        model_hash: record.model.id.to_string(),
        record_hash: Some(record.hash().to_string()),
        parent: Some(record.parent.to_string()),
        contributions: contributions.collect(),
        train_loss: record.train_loss(),
        accuracy: accuracy.map(|(a, _)| a),
        evaluated: accuracy.map(|(_, total)| total),
        duration_ms: figures.duration_ms,
        overhead_ms: figures.overhead_ms,
        bytes_sent: figures.bytes_sent,
        bytes_received: figures.bytes_received,
    }
}

/// The last committed record in short.
pub fn last_commit(rows: &[Row]) -> Option<LastCommit> {
    // The closing record tells of the last round; it is that round that people look for.
    let index = rows.iter().rposition(|r| matches!(r.committed.record.kind, Kind::Train | Kind::Empty))?;
    let round = round(rows, index);
    Some(LastCommit {
        round: round.round,
        updates: round.contributions.len(),
        model_hash: round.model_hash,
        record_hash: round.record_hash.unwrap_or_default(),
        accuracy: round.accuracy,
        train_loss: round.train_loss,
        duration_ms: round.duration_ms,
        bytes_sent: round.bytes_sent,
        bytes_received: round.bytes_received,
    })
}

/// What is fixed about this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// The run, hex.
    pub run_id: String,
    /// What people call it.
    pub run_name: String,
    /// Rounds with contributions in all.
    pub rounds: u64,
    /// What people call this node.
    pub name: String,
    /// Its part, `K/N`.
    pub part: Option<String>,
}

/// The status of a node that runs.
pub fn status(about: &About, view: &View, rows: &[Row]) -> Status {
    let member = |m: &paceline_protocol::machine::MemberView| MemberStatus {
        node_id: m.node.to_string(),
        name: m.name.clone(),
        state: m.activity.map_or("unknown", activity).to_owned(),
        reachable: m.reachable,
        silent_ms: m.silent_ms,
        part: m.part.map(|p| p.to_string()),
    };
    let participant = |(node, a): &(paceline_protocol::NodeId, Activity)| ParticipantStatus {
        node_id: node.to_string(),
        state: activity(*a).to_owned(),
    };
    Status {
        run_id: about.run_id.clone(),
        run_name: about.run_name.clone(),
        node_id: view.me.to_string(),
        name: about.name.clone(),
        round: view.round,
        rounds: about.rounds,
        trained: view.trained,
        attempt: view.attempt,
        phase: view.phase.name().to_owned(),
        coordinator: view.coordinator.map(|c| c.to_string()),
        is_coordinator: view.coordinator == Some(view.me),
        state: view.state.name().to_owned(),
        reason: view.reason.clone(),
        quorum: view.quorum,
        genesis: view.genesis.map(|g| g.to_string()),
        fork: view.forks.first().map(|f| f.to_string()),
        part: about.part.clone(),
        model_hash: view.model.map(|m| m.id.to_string()),
        roster: view.roster.iter().map(member).collect(),
        participants: view.participants.iter().map(participant).collect(),
        last_commit: last_commit(rows),
        training: None,
        refused: Default::default(),
    }
}
