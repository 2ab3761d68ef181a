//! A node's status: of one that runs from its machine, of one that does not from its home.

use std::collections::BTreeMap;
use std::path::Path;

use paceline_protocol::NodeId;
use paceline_protocol::base::roster::{Member, Part, Roster};
use paceline_protocol::base::timing::LET_GO_MS;
use paceline_protocol::chain::{StopWatch, Stopped};
use paceline_protocol::io::{MemberView, NewcomerView, State, View};
use paceline_protocol::membership::message::Activity;
use paceline_protocol::record::{Kind, Record};
use serde::{Deserialize, Serialize};

use super::Round;
use crate::learn::{Progress, stop_rule};
use crate::net::NetCounters;
use crate::run_file::{Better, Metrics, RunFile};
use crate::store::{HistoryEntry, Home};

/// Rounds that tell how long a node usually trains.
const USUAL_ROUNDS: usize = 9;

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
    /// How a paused node goes on, in words; null for one that is not.
    #[serde(default)]
    pub paused: Option<String>,
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
    /// Milliseconds since this node has been at this round; null where it does not run.
    #[serde(default)]
    pub round_ms: Option<u64>,
    /// Updates that are in the average of this round; null while none are collected.
    #[serde(default)]
    pub updates_in: Option<usize>,
    /// Updates that a record of it needs.
    #[serde(default)]
    pub updates_needed: Option<usize>,
    /// Milliseconds until the round goes on without those that are late.
    #[serde(default)]
    pub collected_in_ms: Option<u64>,
    /// The members; before the founding, the nodes that are here.
    pub roster: Vec<MemberStatus>,
    /// What those who were members and are no more called themselves, by their PeerIds: records still name them.
    #[serde(default)]
    pub former: BTreeMap<String, String>,
    /// Nodes in sight that want to come onto the roster.
    #[serde(default)]
    pub newcomers: Vec<NewcomerStatus>,
    /// Who trains in this round.
    pub participants: Vec<ParticipantStatus>,
    /// Why the run ends before its rounds do: target, patience, time; null where it does not.
    #[serde(default)]
    pub ends_by: Option<String>,
    /// By what models are judged.
    #[serde(default)]
    pub lead: Option<Lead>,
    /// The metric that leads, as it was measured last.
    #[serde(default)]
    pub evaluated: Option<Figure>,
    /// Its best value.
    #[serde(default)]
    pub best: Option<Figure>,
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

/// The metric that says how good a model is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lead {
    /// Its name.
    pub metric: String,
    /// Whether a higher value is the better one.
    pub higher_is_better: bool,
}

impl Lead {
    fn of(metrics: &Metrics) -> Self {
        Self { metric: metrics.lead.clone(), higher_is_better: metrics.better == Better::Higher }
    }
}

/// The leading metric of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The round that it is the model after.
    pub round: u64,
    /// The metric's name.
    pub metric: String,
    /// Its value.
    pub value: f64,
}

impl Figure {
    /// The metric that leads after the last round in which it was measured, and the best value that it had.
    pub fn last_and_best(rounds: &[Round], metrics: &Metrics) -> (Option<Self>, Option<Self>) {
        let figure = |round: &Round| {
            let value = *round.metrics.get(&metrics.lead)?;
            Some(Self { round: round.round, metric: metrics.lead.clone(), value })
        };
        let all = || rounds.iter().filter_map(figure);
        let better = |best: Self, this: Self| if metrics.is_better(this.value, best.value) { this } else { best };
        (all().next_back(), all().reduce(better))
    }
}

/// What the committed records come to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Records<'a> {
    pub(crate) history: &'a [HistoryEntry],
    /// The rounds that people see.
    pub(crate) rounds: &'a [Round],
    /// What everybody who ever was a member called itself, by PeerId.
    pub(crate) names: &'a BTreeMap<String, String>,
}

/// Who came onto a roster, and what it called itself.
pub(crate) struct Named;

impl Named {
    /// By these records.
    pub(crate) fn all(history: &[HistoryEntry]) -> BTreeMap<String, String> {
        history.iter().flat_map(Self::by).collect()
    }

    /// By one record.
    pub(crate) fn by(entry: &HistoryEntry) -> BTreeMap<String, String> {
        let record = &entry.committed.record;
        let first = if record.round == 0 { record.roster_after(&Roster::default()) } else { Roster::default() };
        let joined = record.joined.iter().map(|join| join.member());
        first.members().iter().cloned().chain(joined).map(|member| (member.node.to_string(), member.name)).collect()
    }
}

/// How long things have been as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ages {
    /// Milliseconds since this node has been at its round.
    pub round_ms: u64,
    /// Milliseconds since each member does what it does.
    pub members: BTreeMap<NodeId, u64>,
}

/// A node that wants to come onto the roster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewcomerStatus {
    /// As a PeerId.
    pub node_id: String,
    /// The name that it gave itself.
    pub name: String,
    /// Its part of the data, `K/N`.
    pub part: Option<String>,
    /// Why it may not come, where this node told it so.
    pub refused: Option<String>,
}

/// A member of the roster, or before the founding a node that was met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// As a PeerId.
    pub node_id: String,
    /// The name that it gave itself.
    pub name: String,
    /// What it said last that it does: idle, fetching, training, uploading, done, coordinating, joining; unknown.
    pub state: String,
    /// How much of its training is done, from 0 to 100, while it trains.
    #[serde(default)]
    pub percent: Option<u8>,
    /// Milliseconds since it does that; null where this node does not run.
    #[serde(default)]
    pub since_ms: Option<u64>,
    /// Milliseconds that it usually trains: the median of its last rounds.
    #[serde(default)]
    pub usual_ms: Option<u64>,
    /// Whether it is connected to this node, in no other chain, and was heard within the last seconds.
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
#[derive(Debug, Clone, PartialEq)]
pub struct NodeInfo {
    /// The run: the hash of its canonical run file, hex.
    pub run_id: String,
    /// The run's name.
    pub run_name: String,
    /// Rounds with contributions that the run has in all.
    pub rounds: u64,
    /// What it is judged by.
    pub metrics: Metrics,
    /// In which unit errors are told.
    pub unit: f64,
    /// The node, as a PeerId.
    pub node_id: String,
    /// Its name.
    pub name: String,
    /// Its part of the data, `K/N`.
    pub part: Option<String>,
}

impl NodeInfo {
    /// A node of this run with a name and perhaps a part.
    pub fn of(run_file: &RunFile, me: NodeId, name: &str, part: Option<Part>) -> Self {
        Self {
            run_id: run_file.run_id().to_string(),
            run_name: run_file.run.name.clone(),
            rounds: run_file.run.rounds,
            metrics: run_file.learning.metrics.clone(),
            unit: run_file.learning.unit(),
            node_id: me.to_string(),
            name: name.to_owned(),
            part: part.map(|p| p.to_string()),
        }
    }
}

impl Status {
    /// The status of a node that runs. What its trainer does and what it refused, its owner adds.
    pub(crate) fn running(info: &NodeInfo, view: &View, ages: &Ages, records: &Records<'_>) -> Self {
        let Records { history, rounds, names } = *records;
        let (evaluated, best) = Figure::last_and_best(rounds, &info.metrics);
        let seen = |member: &MemberView| MemberStatus::seen(member, ages, rounds);
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
            paused: None,
            quorum: view.quorum,
            quorum_lost_ms: view.quorum_lost_ms,
            genesis: view.genesis.map(|g| g.to_string()),
            forced: ForcedChain::of(history),
            fork: view.forks.first().map(|f| f.to_string()),
            part: info.part.clone(),
            model_hash: view.model.map(|m| m.id.to_string()),
            round_ms: Some(ages.round_ms),
            updates_in: view.updates.map(|(count, _)| count),
            updates_needed: view.updates.map(|(_, needed)| needed),
            collected_in_ms: view.collected_in_ms,
            roster: view.roster.iter().map(seen).collect(),
            former: former(names, |id| view.roster.iter().any(|member| member.node.to_string() == id)),
            newcomers: view.newcomers.iter().map(NewcomerStatus::of).collect(),
            ends_by: view.stopped.map(ends_by),
            lead: Some(Lead::of(&info.metrics)),
            evaluated,
            best,
            participants: view.participants.iter().map(ParticipantStatus::of).collect(),
            last_commit: LastCommit::of(history, info.unit),
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
            node_id: info.node_id.clone(),
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
        let unit = run_file.learning.unit();
        let (evaluated, best) = Figure::last_and_best(&Round::committed(history, unit), &run_file.learning.metrics);
        let roster = records().fold(Roster::default(), |roster, record| record.roster_after(&roster));
        let own = roster.get(me);
        let head = records().next_back();
        let is_over = head.is_some_and(|head| matches!(head.kind, Kind::Closing));
        let paused = Home::at(home).is_paused().then(|| "it is paused: `paceline resume` goes on".to_owned());
        let go_on = format!(
            "the node does not run; go on with: paceline join --home {}{}",
            home.display(),
            paused.as_ref().map(|why| format!("; {why}")).unwrap_or_default()
        );
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
            paused,
            quorum: roster.quorum(),
            genesis: records().next().map(|genesis| genesis.hash().to_string()),
            forced: ForcedChain::of(history),
            part: own.and_then(|m| m.part).map(|p| p.to_string()),
            model_hash: head.map(|head| head.model.id.to_string()),
            roster: roster.members().iter().map(MemberStatus::unseen).collect(),
            former: former(&Named::all(history), |id| roster.nodes().any(|node| node.to_string() == id)),
            last_commit: LastCommit::of(history, unit),
            ends_by: StopWatch::over(&stop_rule(run_file), run_file.round.timeout_ms, records()).stopped().map(ends_by),
            lead: Some(Lead::of(&run_file.learning.metrics)),
            evaluated,
            best,
            ..Self::default()
        }
    }

    /// What people call a node that is a member, or was one.
    pub(crate) fn name_of(&self, id: &str) -> String {
        match self.former.get(id) {
            Some(name) => name_or_id(name, id),
            None => name_of(&self.roster, id),
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
    fn seen(member: &MemberView, ages: &Ages, rounds: &[Round]) -> Self {
        let node_id = member.node.to_string();
        let percent = match member.activity {
            Some(Activity::Training { percent }) => Some(percent.min(100)),
            _ => None,
        };
        Self {
            name: member.name.clone(),
            state: member.activity.map_or(UNKNOWN, activity).to_owned(),
            percent,
            since_ms: ages.members.get(&member.node).copied(),
            usual_ms: usual_ms(rounds, &node_id),
            reachable: member.reachable && member.silent_ms.is_none(),
            node_id,
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
            percent: None,
            since_ms: None,
            usual_ms: None,
            reachable: false,
            silent_ms: None,
            part: member.part.map(|p| p.to_string()),
        }
    }
}

impl NewcomerStatus {
    fn of(newcomer: &NewcomerView) -> Self {
        Self {
            node_id: newcomer.node.to_string(),
            name: newcomer.name.clone(),
            part: newcomer.part.map(|p| p.to_string()),
            refused: newcomer.refused.map(|reject| reject.to_string()),
        }
    }
}

/// How long a node trained in the middle one of its last rounds; `None` where it has not yet.
fn usual_ms(rounds: &[Round], node_id: &str) -> Option<u64> {
    let own = |round: &Round| round.contributions.iter().find(|c| c.node_id == node_id).map(|c| c.train_ms);
    let mut last: Vec<u64> = rounds.iter().rev().filter_map(own).take(USUAL_ROUNDS).collect();
    last.sort_unstable();
    last.get(last.len() / 2).copied()
}

impl ParticipantStatus {
    fn of((node, does): &(NodeId, Activity)) -> Self {
        Self { node_id: node.to_string(), state: activity(*does).to_owned() }
    }
}

impl LastCommit {
    fn of(history: &[HistoryEntry], unit: f64) -> Option<Self> {
        let round = Round::last_committed(history, unit)?;
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

/// What people call a node: its name, or its id in short; both where others have the same name.
pub(crate) fn name_of(roster: &[MemberStatus], id: &str) -> String {
    let name = roster.iter().find(|m| m.node_id == id).map_or("", |m| &m.name);
    let is_one_of_several = !name.is_empty() && roster.iter().filter(|m| m.name == name).count() > 1;
    if is_one_of_several { format!("{name} ({})", short_id(id)) } else { name_or_id(name, id) }
}

/// A name, or the id in short where there is none.
pub(crate) fn name_or_id(name: &str, id: &str) -> String {
    if name.is_empty() { short_id(id) } else { name.to_owned() }
}

/// The end of a node's id, which differs where the beginning does not.
pub(crate) fn short_id(id: &str) -> String {
    id.parse::<NodeId>().map_or_else(|_| id.to_owned(), |node| node.short())
}

/// Rounds with contributions that a record stands for.
fn trained_by(record: &Record) -> u64 {
    record.forced().map_or(u64::from(matches!(record.kind, Kind::Train)), |forced| forced.trained)
}

/// The names of those who are members no more.
fn former(names: &BTreeMap<String, String>, is_member: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
    names.iter().filter(|(id, _)| !is_member(id)).map(|(id, name)| (id.clone(), name.clone())).collect()
}

/// Why a run ends before its rounds do, in a word.
fn ends_by(stopped: Stopped) -> String {
    match stopped {
        Stopped::Target => "target",
        Stopped::Patience => "patience",
        Stopped::Time => "time",
    }
    .to_owned()
}

/// The word for what a member does of which nothing was heard.
const UNKNOWN: &str = "unknown";

/// The word for what a node does.
fn activity(activity: Activity) -> &'static str {
    match activity {
        Activity::Idle => "idle",
        Activity::Fetching => "fetching",
        Activity::Training { .. } => "training",
        Activity::Uploading => "uploading",
        Activity::Done => "done",
        Activity::Coordinating => "coordinating",
        Activity::Joining => "joining",
        Activity::Failed => "failed",
        Activity::Paused => "paused",
    }
}
