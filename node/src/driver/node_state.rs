//! What others may look at while the driver drives: the snapshot, the history, the counters, and what just happened.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use paceline_protocol::io::{Event, View};
use paceline_protocol::{Hash, Reject};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::past::Past;
use super::since::Since;
use crate::learn::Progress;
use crate::report::{NodeInfo, RecordReport, Round, Status, Training};
use crate::store::{HistoryEntry, settled_chain};

/// Events that a slow listener may be behind before it misses some.
const EVENTS_MAX: usize = 256;

/// What is in the way of this node outside of the protocol, in words.
#[derive(Debug, Clone, Default)]
pub(super) struct Obstacles {
    /// What its disk fails with.
    pub(super) disk: Option<String>,
    /// How it goes on, while it is paused.
    pub(super) paused: Option<String>,
    /// That nobody answers at the addresses that it was given.
    pub(super) unanswered: Option<String>,
}

/// Read by the control API and the console, written by the driver only.
#[derive(Debug)]
pub struct NodeState {
    info: NodeInfo,
    view: watch::Sender<Option<View>>,
    since: Mutex<Since>,
    obstacles: Mutex<Obstacles>,
    /// Who is here with another run file of the same name.
    neighbours: Mutex<Option<String>>,
    /// What the driver can't begin without.
    waits_for: Mutex<Option<String>>,
    past: RwLock<Past>,
    refused: Mutex<BTreeMap<Reject, u64>>,
    progress: watch::Receiver<Progress>,
    events: broadcast::Sender<Event>,
}

impl NodeState {
    /// With the history that was on disk.
    pub fn new(info: NodeInfo, history: Vec<HistoryEntry>, progress: watch::Receiver<Progress>) -> Self {
        let (view, _) = watch::channel(None);
        let (events, _) = broadcast::channel(EVENTS_MAX);
        let past = Past::of(history, info.unit);
        Self {
            info,
            view,
            since: Mutex::default(),
            obstacles: Mutex::default(),
            neighbours: Mutex::default(),
            waits_for: Mutex::default(),
            past: RwLock::new(past),
            refused: Mutex::default(),
            progress,
            events,
        }
    }

    /// The status now; `None` until the driver has begun.
    pub fn status(&self) -> Option<Status> {
        let Some(view) = self.view.borrow().clone() else {
            let why = self.waits_for.lock().unwrap_or_else(PoisonError::into_inner).clone();
            return why.map(|why| Status::waiting(&self.info, why));
        };
        let past = self.past();
        let ages = self.since.lock().unwrap_or_else(PoisonError::into_inner).ages(Instant::now());
        let mut status = Status::running(&self.info, &view, &ages, &past.records());
        drop(past);
        let obstacles = self.obstacles.lock().unwrap_or_else(PoisonError::into_inner).clone();
        status.paused = obstacles.paused.clone();
        let neighbours = self.neighbours.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let reasons = [obstacles.disk, status.reason.take(), neighbours, obstacles.paused, obstacles.unanswered];
        let reasons: Vec<String> = reasons.into_iter().flatten().collect();
        status.reason = (!reasons.is_empty()).then(|| reasons.join("; "));
        status.training = Training::of(*self.progress.borrow());
        status.refused = self.refused().iter().map(|(reject, n)| (reject.to_string(), *n)).collect();
        Some(status)
    }

    /// The committed rounds, oldest first.
    pub fn rounds(&self) -> Arc<Vec<Round>> {
        self.past().rounds()
    }

    /// What is fixed about this node.
    pub fn info(&self) -> &NodeInfo {
        &self.info
    }

    /// The record of a round.
    pub fn record(&self, round: u64) -> Option<RecordReport> {
        RecordReport::of(&self.past().history, round, self.info.unit)
    }

    /// The chain's genesis, hex, and how many records of it are committed.
    pub fn committed(&self) -> (String, usize) {
        let past = self.past();
        let genesis = past.history.first().map(|entry| entry.committed.record.hash().to_string());
        (genesis.unwrap_or_default(), past.history.len())
    }

    /// Rounds that the run has in all.
    pub fn rounds_in_all(&self) -> u64 {
        self.info.rounds
    }

    /// The chain that this node is in, once it can't give itself up any more.
    pub fn settled_chain(&self) -> Option<Hash> {
        settled_chain(&self.past().history)
    }

    /// How often peers were refused, by reason.
    pub fn refused(&self) -> MutexGuard<'_, BTreeMap<Reject, u64>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// How far the trainer is.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// The driver has not begun, since this is missing; or nothing is any more.
    pub(crate) fn wait_for(&self, why: Option<String>) {
        *self.waits_for.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Others are here with another run file of the same name; or none are any more.
    pub(crate) fn set_neighbours(&self, who: Option<String>) {
        *self.neighbours.lock().unwrap_or_else(PoisonError::into_inner) = who;
    }

    pub(super) fn publish(&self, view: View, obstacles: Obstacles) {
        *self.obstacles.lock().unwrap_or_else(PoisonError::into_inner) = obstacles;
        self.since.lock().unwrap_or_else(PoisonError::into_inner).see(&view, Instant::now());
        self.view.send_replace(Some(view));
    }

    pub(crate) fn count_refusal(&self, reject: Reject) {
        *self.refused().entry(reject).or_default() += 1;
    }

    pub(super) fn tell(&self, event: &Event) {
        if let Event::Rejected { peer, reject } = event {
            tracing::debug!(%peer, "refused: {reject}");
            self.count_refusal(*reject);
        }
        // Nobody may be listening.
        let _ = self.events.send(event.clone());
    }

    pub(super) fn add_entry(&self, entry: HistoryEntry) {
        self.past.write().unwrap_or_else(PoisonError::into_inner).push(entry);
    }

    pub(super) fn clear_history(&self) {
        self.past.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn past(&self) -> RwLockReadGuard<'_, Past> {
        self.past.read().unwrap_or_else(PoisonError::into_inner)
    }
}
