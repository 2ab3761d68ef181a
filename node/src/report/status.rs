//! A node's status: of one that runs from its machine, of one that does not from its home.

use std::collections::BTreeMap;
use std::path::Path;

use paceline_protocol::NodeId;
use paceline_protocol::base::roster::{Member, Part, Roster};
use paceline_protocol::base::timing::LET_GO_MS;
use paceline_protocol::io::{MemberView, State, View};
use paceline_protocol::membership::message::Activity;
use paceline_protocol::record::{Kind, Record};
use serde::{Deserialize, Serialize};

use super::Round;
use crate::learn::Progress;
use crate::net::NetCounters;
use crate::run_file::RunFile;
use crate::store::HistoryEntry;

/// Why a node that left does not start again, and what to do.
pub const LEFT: &str = "this node left the run for good; join anew with another --home";

/// `status --format json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The run: the hash of its canonical run file, hex.
    pub run_id: String,
    /// The run's name.
    pub run_name: String,
    /// This node, as a PeerId.
    pub node_id: String,
    /// This node's name; empty while that is unknown.
    pub name: String,
    /// The round being decided; 0 before the founding.
    pub round: u64,
    /// Rounds with contributions that the run has in all.
    pub rounds: u64,
    /// Rounds with contributions that are committed.
    pub trained: u64,
    /// The present attempt at the round, from 0.
    pub attempt: u32,
    /// founding, electing, recovering, collecting, aggregating, proposing, done; stopped.
    pub phase: String,
    /// The node that coordinates this attempt, as a PeerId; null until one is elected.
    pub coordinator: Option<String>,
    /// Whether that is this node.
    pub is_coordinator: bool,
    /// gathering, founding, joining, member, leaving, left, finished, stopped.
    pub state: String,
    /// What is in the way, in words: who is waited for and since when, who is not heard, what fails here, and what helps.
    /// Null while all is well.
    pub reason: Option<String>,
    /// Votes and accepts that a decision needs.
    pub quorum: usize,
    /// Milliseconds since a quorum of the roster was last in sight; null while one is, in no chain, and where the node does
    /// not run.
    #[serde(default)]
    pub quorum_lost_ms: Option<u64>,
    /// Hash of the chain's first record, hex; null before the founding.
    pub genesis: Option<String>,
    /// How this chain began, where a member began it alone with `roster drop`; null otherwise.
    #[serde(default)]
    pub forced: Option<ForcedChain>,
    /// Another chain of the run that was seen, hex.
    pub fork: Option<String>,
    /// This node's part of the data, `K/N`.
    pub part: Option<String>,
    /// Hash of the last committed model, hex.
    pub model_hash: Option<String>,
    /// The members; before the founding, the nodes that are here.
    pub roster: Vec<MemberStatus>,
    /// Who trains in this round.
    pub participants: Vec<ParticipantStatus>,
    /// The last committed round.
    pub last_commit: Option<LastCommit>,
    /// What this node's trainer does.
    pub training: Option<Training>,
    /// Refusals so far, by reason.
    pub refused: BTreeMap<String, u64>,
    /// What the network turned away below that; null for a node that does not run.
    #[serde(default)]
    pub network: Option<NetworkRefusals>,
}

/// That a member went on alone, because the majority of its chain was gone for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForcedChain {
    /// Who, as a PeerId.
    pub by: String,
    /// What it calls itself.
    pub name: String,
    /// The chain that it left behind, hex.
    pub chain: String,
    /// The last round of that, with those of chains that were continued before.
    pub round: u64,
}

impl ForcedChain {
    fn of(history: &[HistoryEntry]) -> Option<Self> {
        let forced = history.first()?.committed.record.forced()?;
        let (by, name) = (forced.member.node.to_string(), forced.member.name.clone());
        Some(Self { by, name, chain: forced.chain.to_string(), round: forced.round })
    }
}

/// What a node's network has refused since it started: see `docs/reliability.md`, "A hostile client".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRefusals {
    /// Requests, messages and gossip beyond what a peer may send.
    pub throttled: u64,
    /// Requests and answers that broke a protocol.
    pub malformed: u64,
    /// Messages that were begun and not ended in time.
    pub stalled: u64,
    /// Messages dropped by full queues.
    pub dropped: u64,
    /// Peers that were disconnected for breaking the rules, and refused for a while.
    pub turned_away: u64,
    /// Connections that were not let in: such a peer's, or too many of one address.
    pub not_let_in: u64,
}

impl NetworkRefusals {
    /// As counted by now.
    pub fn of(counters: &NetCounters) -> Self {
        Self {
            throttled: counters.refused.read(),
            malformed: counters.malformed.read(),
            stalled: counters.stalled.read(),
            dropped: counters.dropped.read(),
            turned_away: counters.turned_away.read(),
            not_let_in: counters.not_let_in.read(),
        }
    }
}

/// A member of the roster, or before the founding a node that was met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// As a PeerId.
    pub node_id: String,
    /// The name that it gave itself.
    pub name: String,
    /// What it says it does: idle, fetching, training, uploading, done, coordinating, joining; unknown.
    pub state: String,
    /// Whether it is connected to this node, and in no other chain.
    pub reachable: bool,
    /// Milliseconds since its connection was lost, or since it was heard over one, from 4 s on; null while it is heard, and
    /// for this node.
    pub silent_ms: Option<u64>,
    /// Its part of the data, `K/N`.
    pub part: Option<String>,
}

/// A member and where it can be reached: one of `peers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// As in the roster.
    #[serde(flatten)]
    pub member: MemberStatus,
    /// Its addresses, the best first; none where it is not connected.
    pub addresses: Vec<String>,
}

/// A participant of the round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParticipantStatus {
    /// As a PeerId.
    pub node_id: String,
    /// As in the roster; `done` when its update is in.
    pub state: String,
}

/// The last committed round in short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastCommit {
    /// Its number.
    pub round: u64,
    /// The model after it, hex.
    pub model_hash: String,
    /// Its own hash, hex.
    pub record_hash: String,
    /// Accuracy of that model, from 0 to 1, once the next record tells it.
    pub accuracy: Option<f64>,
    /// Mean training loss in nats, weighted by samples.
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

/// How far this node's trainer is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Whether it evaluates rather than trains.
    pub evaluating: bool,
    /// Batches done, of all epochs.
    pub done: u64,
    /// Batches in all, of all epochs.
    pub of: u64,
    /// Loss of the last batch.
    pub loss: f64,
}

/// What is fixed about a node while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// The run: the hash of its canonical run file, hex.
    pub run_id: String,
    /// The run's name.
    pub run_name: String,
    /// Rounds with contributions that the run has in all.
    pub rounds: u64,
    /// The node's name.
    pub name: String,
    /// Its part of the data, `K/N`.
    pub part: Option<String>,
}

impl NodeInfo {
    /// A node of this run with a name and perhaps a part.
    pub fn of(run_file: &RunFile, name: &str, part: Option<Part>) -> Self {
        Self {
            run_id: run_file.run_id().to_string(),
            run_name: run_file.run.name.clone(),
            rounds: run_file.run.rounds,
            name: name.to_owned(),
            part: part.map(|p| p.to_string()),
        }
    }
}

impl Status {
    /// The status of a node that runs. What its trainer does and what it refused, its owner adds.
    pub fn running(info: &NodeInfo, view: &View, history: &[HistoryEntry]) -> Self {
        Self {
            run_id: info.run_id.clone(),
            run_name: info.run_name.clone(),
            node_id: view.me.to_string(),
            name: info.name.clone(),
            round: view.round,
            rounds: info.rounds,
            trained: view.trained,
            attempt: view.attempt,
            phase: view.phase.name().to_owned(),
            coordinator: view.coordinator.map(|c| c.to_string()),
            is_coordinator: view.coordinator == Some(view.me),
            state: view.state.name().to_owned(),
            reason: view.reason.clone(),
            quorum: view.quorum,
            quorum_lost_ms: view.quorum_lost_ms,
            genesis: view.genesis.map(|g| g.to_string()),
            forced: ForcedChain::of(history),
            fork: view.forks.first().map(|f| f.to_string()),
            part: info.part.clone(),
            model_hash: view.model.map(|m| m.id.to_string()),
            roster: view.roster.iter().map(MemberStatus::seen).collect(),
            participants: view.participants.iter().map(ParticipantStatus::of).collect(),
            last_commit: LastCommit::of(history),
            training: None,
            refused: BTreeMap::new(),
            network: None,
        }
    }

    /// The status of a node that takes no part yet, since something is missing.
    pub fn waiting(info: &NodeInfo, why: String) -> Self {
        Self {
            run_id: info.run_id.clone(),
            run_name: info.run_name.clone(),
            name: info.name.clone(),
            rounds: info.rounds,
            part: info.part.clone(),
            phase: "idle".to_owned(),
            state: "gathering".to_owned(),
            reason: Some(why),
            ..Self::default()
        }
    }

    /// The status of node `me`, which does not run, from the records in its `home`. What others do it can't know.
    pub fn stopped(run_file: &RunFile, me: NodeId, history: &[HistoryEntry], home: &Path, has_left: bool) -> Self {
        let records = || history.iter().map(|entry| &entry.committed.record);
        let roster = records().fold(Roster::default(), |roster, record| record.roster_after(&roster));
        let own = roster.get(me);
        let head = records().next_back();
        let is_over = head.is_some_and(|head| matches!(head.kind, Kind::Closing));
        let go_on = format!("the node does not run; go on with: paceline join --home {}", home.display());
        Self {
            run_id: run_file.run_id().to_string(),
            run_name: run_file.run.name.clone(),
            node_id: me.to_string(),
            name: own.map(|m| m.name.clone()).unwrap_or_default(),
            round: history.len() as u64,
            rounds: run_file.run.rounds,
            trained: records().map(trained_by).sum(),
            phase: if is_over { "done" } else { "stopped" }.to_owned(),
            state: if has_left { "left" } else { "stopped" }.to_owned(),
            reason: Some(if has_left { LEFT.to_owned() } else { go_on }),
            quorum: roster.quorum(),
            genesis: records().next().map(|genesis| genesis.hash().to_string()),
            forced: ForcedChain::of(history),
            part: own.and_then(|m| m.part).map(|p| p.to_string()),
            model_hash: head.map(|head| head.model.id.to_string()),
            roster: roster.members().iter().map(MemberStatus::unseen).collect(),
            last_commit: LastCommit::of(history),
            ..Self::default()
        }
    }

    /// Why this node can't go on alone, as far as its status tells.
    pub fn refuses_to_drop(&self) -> Option<String> {
        if ![State::Member, State::Halted, State::Leaving].iter().any(|state| state.name() == self.state) {
            return Some(format!("this node is {}: only a member of a chain can go on without the others", self.state));
        }
        let (members, quorum) = (self.roster.len(), self.quorum);
        match self.quorum_lost_ms {
            None => Some(format!(
                "{quorum} of {members} members decide, and as many are there: the run goes on by itself, and members that stay away are taken off the roster"
            )),
            Some(ms) if ms < LET_GO_MS => Some(format!(
                "{quorum} of {members} members were there {} s ago, and may be back soon; try again when they have been away for {} s",
                ms / 1_000,
                LET_GO_MS / 1_000
            )),
            Some(_) => None,
        }
    }
}

impl MemberStatus {
    fn seen(member: &MemberView) -> Self {
        Self {
            node_id: member.node.to_string(),
            name: member.name.clone(),
            state: member.activity.map_or(UNKNOWN, activity).to_owned(),
            reachable: member.reachable,
            silent_ms: member.silent_ms,
            part: member.part.map(|p| p.to_string()),
        }
    }

    /// A member of the roster of a node that does not run.
    fn unseen(member: &Member) -> Self {
        Self {
            node_id: member.node.to_string(),
            name: member.name.clone(),
            state: UNKNOWN.to_owned(),
            reachable: false,
            silent_ms: None,
            part: member.part.map(|p| p.to_string()),
        }
    }
}

impl ParticipantStatus {
    fn of((node, does): &(NodeId, Activity)) -> Self {
        Self { node_id: node.to_string(), state: activity(*does).to_owned() }
    }
}

impl LastCommit {
    fn of(history: &[HistoryEntry]) -> Option<Self> {
        let round = Round::last_committed(history)?;
        Some(Self {
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
}

impl Training {
    /// What the trainer does; `None` while it does nothing.
    pub fn of(progress: Progress) -> Option<Self> {
        let Progress { evaluating, done, of, loss } = progress;
        (of > 0).then_some(Self { evaluating, done, of, loss })
    }
}

/// Rounds with contributions that a record stands for.
fn trained_by(record: &Record) -> u64 {
    record.forced().map_or(u64::from(matches!(record.kind, Kind::Train)), |forced| forced.trained)
}

/// The word for what a member does of which nothing was heard.
const UNKNOWN: &str = "unknown";

/// The word for what a node does.
fn activity(activity: Activity) -> &'static str {
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
