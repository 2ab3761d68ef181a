//! The driver: the one task that owns the machine. Everything that happens becomes an [`Input`], everything that the
//! machine wants is carried out here or handed to a worker, and after each input a fresh snapshot is published.
//!
//! A write that fails ends the driver, and with it the process: after the restart everything is as on disk. While the disk is
//! behind, no messages are taken.
//!
//! Nothing in this task blocks: the disk, the trainer and the aggregator have threads of their own, fetches have tasks.

mod best;
mod fetches;
mod node_state;
mod past;
mod pauses;
mod since;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use libp2p::Multiaddr;
use paceline_bootstrap::TokenBucket;
use paceline_bootstrap::addresses::{Transport, transport};
use paceline_model::StateFormat;
use paceline_protocol::bounds::GOSSIP_BYTES_MAX;
use paceline_protocol::io::{Command, Effect, Event, Input, Persist, PersistId, Recovered};
use paceline_protocol::machine::{Config, Machine};
use paceline_protocol::message::Message;
use paceline_protocol::{Hash, NodeId, Reject, Time};
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior};

use crate::blobs::{BlobStore, serve};
use crate::learn::{Aggregator, Job, Outcome, Trainer};
use crate::net::{GossipReceipt, NetEvent, Network, port};
use crate::run_file::Metrics;
use crate::store::{HistoryEntry, Home, StoreError, Whereabouts, Writer, Written};

use best::Best;
use fetches::Fetches;
pub use node_state::NodeState;
use node_state::Obstacles;
pub use pauses::Hours;
use pauses::Pauses;

/// Results of workers that may wait for the driver. It is never away for long.
pub const INPUTS_MAX: usize = 4_096;

/// The snapshot that others look at is at most so old: making it costs as much as the roster is large.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);

/// The driver looks at the time at least as often as it shows its presence: after so long without, it was asleep.
const OVERSLEPT: Duration = Duration::from_secs(4);

/// How often others are told how far this node's training is.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Chunks that are read from disk for peers at a time.
const SERVING_MAX: usize = 64;

/// Pieces of blobs that all together may have at once who are not on the roster, and the time in which they earn another: 64
/// MiB a second. Somebody who joins needs them; somebody who only asks costs the members no more than that.
const STRANGERS_BURST: u32 = 1024;
/// See [`STRANGERS_BURST`].
const STRANGERS_EARN_EVERY: Duration = Duration::from_micros(3_906);

/// What a driver drives.
#[derive(Debug)]
pub struct Driver {
    machine: Machine,
    network: Network,
    blobs: Arc<BlobStore>,
    writer: Writer,
    trainer: Trainer,
    aggregator: Aggregator,
    fetches: Fetches,
    serving: Arc<Semaphore>,
    /// What those who are not on the roster may still ask for.
    strangers: TokenBucket,
    node_state: Arc<NodeState>,
    whereabouts: Whereabouts,
    started: Instant,
    /// Bytes sent and received when the last record was committed.
    bytes_at_commit: (u64, u64),
    /// Rounds whose updates stay on disk.
    keep_updates: usize,
    /// The weights that the run began with, where others may ask for them.
    base: Option<Hash>,
    best: Best,
    /// The ports that were told of.
    listens: BTreeSet<(Transport, u16)>,
    pauses: Pauses,
    /// Whether the machine was told that it is paused.
    is_paused: bool,
    /// When the snapshot was published last, and whether it has changed since.
    published: Instant,
    is_stale: bool,
    /// Since when this process has run without a long break.
    awake_since: Instant,
    /// How far others think that this node's training is.
    told_percent: u8,
    /// The gossip at hand, and whether the machine vouched for it.
    receipt: Option<GossipReceipt>,
    relays: bool,
    over: Option<Event>,
    /// Where a process with this node's identity is that started earlier.
    twin: Option<Vec<Multiaddr>>,
}

/// Why a node must not go on.
#[derive(Debug, Error)]
pub enum DriverError {
    /// A write failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another process has this node's identity, and started before this one.
    #[error("another process has this node's identity and started before this one: {}", list(.0))]
    Twin(
        /// It is at one of these.
        Vec<Multiaddr>,
    ),
}

fn list(addresses: &[Multiaddr]) -> String {
    addresses.iter().map(Multiaddr::to_string).collect::<Vec<_>>().join(", ")
}

/// Where what happens comes from.
#[derive(Debug)]
pub struct Sources {
    /// What the network told before.
    pub heard: Vec<NetEvent>,
    /// The network.
    pub net: mpsc::Receiver<NetEvent>,
    /// The trainer, the aggregator and the fetches.
    pub inputs: mpsc::Receiver<Input>,
    /// The writer.
    pub written: mpsc::Receiver<Written>,
    /// People.
    pub commands: mpsc::Receiver<Command>,
}

/// What a driver is made of.
#[derive(Debug)]
pub struct Parts {
    /// What the machine is configured with: rules, identity, name, part.
    pub config: Config,
    /// What was on disk.
    pub recovered: Recovered,
    /// The network, which was started.
    pub network: Network,
    /// The models and updates on disk.
    pub blobs: Arc<BlobStore>,
    /// The writer; it confirms into `inputs`.
    pub writer: Writer,
    /// The trainer; it answers into `inputs`.
    pub trainer: Trainer,
    /// The aggregator; it answers into `inputs`.
    pub aggregator: Aggregator,
    /// What a fetched state is checked against.
    pub state: StateFormat,
    /// What others may look at.
    pub node_state: Arc<NodeState>,
    /// The home, in which addresses are kept.
    pub home: Home,
    /// Rounds whose updates stay on disk.
    pub keep_updates: usize,
    /// The blob of all weights that the run began with, where they were given or not all are trained.
    pub base: Option<Hash>,
    /// The hours of the day in which it trains; all by default.
    pub hours: Option<Hours>,
    /// By what models are judged, and the records so far.
    pub judged: (Metrics, Vec<HistoryEntry>),
    /// Where workers' answers come from.
    pub inputs: mpsc::Sender<Input>,
}

/// The input that a trainer's outcome is.
pub fn input_of(outcome: Outcome) -> Input {
    match outcome {
        Outcome::Trained { round, parent, result } => Input::Trained { round, parent, outcome: result },
        Outcome::Evaluated { round, evaluation } => Input::Evaluated { round, evaluation },
    }
}

impl Driver {
    /// Makes the machine from what was on disk.
    pub fn new(parts: Parts) -> Self {
        let started = Instant::now();
        let me = parts.config.identity.node_id();
        let seed = paceline_bootstrap::fresh_secret();
        let machine = Machine::new(parts.config, seed, Time(0), parts.recovered);
        let fetches = Fetches::new(
            me,
            parts.network.clone(),
            parts.blobs.clone(),
            parts.state,
            parts.inputs,
            parts.node_state.clone(),
        );
        Self {
            machine,
            network: parts.network,
            blobs: parts.blobs,
            writer: parts.writer,
            trainer: parts.trainer,
            aggregator: parts.aggregator,
            fetches,
            serving: Arc::new(Semaphore::new(SERVING_MAX)),
            strangers: TokenBucket::new(started.into_std(), STRANGERS_BURST, STRANGERS_EARN_EVERY),
            node_state: parts.node_state,
            listens: BTreeSet::new(),
            pauses: Pauses { by_owner: parts.home.is_paused(), hours: parts.hours },
            is_paused: false,
            whereabouts: Whereabouts::of(parts.home),
            started,
            bytes_at_commit: (0, 0),
            keep_updates: parts.keep_updates,
            base: parts.base,
            best: Best::of(parts.judged.0, &parts.judged.1),
            published: started,
            is_stale: true,
            awake_since: started,
            told_percent: 0,
            receipt: None,
            relays: false,
            over: None,
            twin: None,
        }
    }

    fn now(&self) -> Time {
        Time(self.started.elapsed().as_millis() as u64)
    }

    /// Runs until `shutdown` comes or `is_over` says of an event that it ends the node; that event is returned.
    ///
    /// # Errors
    /// A write failed, or the node's identity is at work elsewhere: it must not go on.
    pub async fn run(
        mut self,
        sources: Sources,
        shutdown: impl Future<Output = ()>,
        is_over: impl Fn(&Event) -> bool,
    ) -> Result<Option<Event>, DriverError> {
        let Sources { heard, mut net, mut inputs, mut written, mut commands } = sources;
        tokio::pin!(shutdown);
        self.pause_if_due();
        heard.into_iter().for_each(|event| self.on_net(event));
        self.drain(&is_over);
        self.publish();
        let mut failed = None;
        let mut progress = tokio::time::interval(PROGRESS_EVERY);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.over.is_none() && self.twin.is_none() && failed.is_none() {
            let deadline = self.machine.deadline().unwrap_or_default();
            let alarm = tokio::time::sleep_until(self.started + Duration::from_millis(deadline.0));
            let publish = tokio::time::sleep_until(self.published + PUBLISH_EVERY);
            tokio::select! {
                () = &mut shutdown => break,
                Some(write) = written.recv() => match write {
                    Written::Done(id) => self.give(Input::Persisted(id)),
                    Written::Failed(error) => failed = Some(error),
                },
                Some(event) = net.recv(), if !self.writer.is_behind() => self.on_net(event),
                Some(input) = inputs.recv() => self.on_input(input),
                Some(command) = commands.recv() => self.on_command(command),
                () = alarm => self.give(Input::Tick),
                _ = progress.tick() => {
                    self.tell_progress();
                    self.pause_if_due();
                }
                () = publish, if self.is_stale => {}
            }
            self.drain(&is_over);
        }
        // Workers that still have something to say must not wait for a driver that listens no more.
        drop((net, inputs, written, commands));
        let twin = self.twin.take();
        let over = self.stop().await;
        match (failed, twin) {
            (Some(error), _) => Err(error.into()),
            (None, Some(addresses)) => Err(DriverError::Twin(addresses)),
            (None, None) => Ok(over),
        }
    }

    /// Stops the workers and waits until everything that was to be written is.
    async fn stop(mut self) -> Option<Event> {
        self.publish();
        self.trainer.stop();
        self.save_peers();
        self.fetches.stop();
        self.network.shutdown().await;
        let writer = self.writer;
        let _ = tokio::task::spawn_blocking(move || drop(writer)).await;
        self.over.take()
    }

    fn give(&mut self, input: Input) {
        let now = self.now();
        self.machine.handle(now, input);
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Pause | Command::Unpause => {
                self.pauses.by_owner = command == Command::Pause;
                self.pause_if_due();
            }
            _ => self.give(Input::Command(command)),
        }
    }

    /// Tells the machine when a pause begins or ends.
    fn pause_if_due(&mut self) {
        let is_due = self.pauses.advice().is_some();
        if is_due != self.is_paused {
            self.is_paused = is_due;
            tracing::info!("{}", if is_due { "paused: trains nothing for a while" } else { "trains again" });
            self.give(Input::Command(if is_due { Command::Pause } else { Command::Unpause }));
        }
    }

    fn tell_progress(&mut self) {
        let percent = self.node_state.progress().borrow().percent();
        if percent != self.told_percent {
            self.told_percent = percent;
            self.give(Input::Progress { percent });
        }
    }

    fn on_input(&mut self, input: Input) {
        let blob = match &input {
            Input::Fetched { blob } | Input::FetchFailed { blob, .. } => Some(*blob),
            _ => None,
        };
        self.give(input);
        // Only now the machine knows that it has it, and says so when blobs are cleared away.
        if let Some(blob) = blob {
            self.fetches.ended(blob);
        }
    }

    fn on_net(&mut self, event: NetEvent) {
        match event {
            NetEvent::Message { from, bytes } => {
                if let Some(message) = self.decode(from, &bytes) {
                    self.give(Input::Received { from, message });
                }
            }
            NetEvent::Gossip { from, bytes, receipt } => {
                let message = self.decode(from, &bytes);
                self.relays = false;
                message.into_iter().for_each(|message| self.give(Input::Gossiped { from, message }));
                self.receipt = Some(receipt);
            }
            NetEvent::PeerUp(peer) => {
                tracing::debug!(%peer, "up");
                self.give(Input::PeerUp(peer));
            }
            NetEvent::PeerDown(peer) => {
                tracing::debug!(%peer, "down");
                self.give(Input::PeerDown(peer));
            }
            NetEvent::BlobRequested { from, request, answer } => {
                let is_member = self.machine.chain().is_some_and(|chain| chain.roster().contains(from));
                if !is_member && !self.strangers.take(std::time::Instant::now()) {
                    return;
                }
                // Without a permit the answer is dropped, which the asker hears as `Busy`.
                if let Ok(permit) = self.serving.clone().try_acquire_owned() {
                    let blobs = self.blobs.clone();
                    tokio::spawn(async move {
                        let _ = answer.send(serve(&blobs, request).await);
                        drop(permit);
                    });
                }
            }
            NetEvent::Malformed { from, protocol, reason } => {
                self.refuse(from, Reject::Malformed, &format!("{protocol}: {reason}"));
            }
            NetEvent::Listening(address) => {
                tracing::debug!("listens on {address}");
                let (link, port) = (transport(&address), port(&address));
                if let (Some(link), Some(port)) = (link, port)
                    && self.listens.insert((link, port))
                {
                    let name = if link == Transport::Tcp { "TCP" } else { "UDP" };
                    tracing::info!("listens on {name} port {port}");
                }
                self.whereabouts.keep_ports(self.network.ports());
            }
            NetEvent::Twin { addresses, is_earlier: true } => self.twin = Some(addresses),
            NetEvent::Twin { addresses, is_earlier: false } => tracing::warn!(
                "another process has this node's identity, at {}: a copy of its home. It started later, and stops",
                list(&addresses)
            ),
        }
    }

    fn decode(&self, from: NodeId, bytes: &[u8]) -> Option<Message> {
        let refused = |error: &_| {
            self.refuse(from, Reject::Malformed, &format!("{error}"));
            // Nobody passes on what can't be read.
            self.network.complain(from);
        };
        Message::decode(bytes).inspect_err(refused).ok()
    }

    fn refuse(&self, peer: NodeId, reject: Reject, why: &str) {
        tracing::debug!(%peer, "refused: {why}");
        self.node_state.count_refusal(reject);
    }

    /// Carries out what the machine wants, and publishes where it stands.
    fn drain(&mut self, is_over: &impl Fn(&Event) -> bool) {
        while let Some(effect) = self.machine.poll_effect() {
            self.carry_out(effect, is_over);
        }
        // Gossip is passed on if the machine vouched for it, and by nobody else.
        if let Some(receipt) = self.receipt.take() {
            self.network.judge(receipt, std::mem::take(&mut self.relays));
        }
        self.is_stale = true;
        if self.published.elapsed() >= PUBLISH_EVERY {
            self.publish();
        }
    }

    /// Shows where the node stands to those who only look.
    fn publish(&mut self) {
        let now = Instant::now();
        // After a sleep of its own this node has heard nobody for long, which says nothing of them.
        if now >= self.published + OVERSLEPT {
            self.awake_since = now;
        }
        let silent_ms = |node| {
            let heard = self.network.last_heard(node).map(|at| self.awake_since.max(at.into()));
            heard.map_or(0, |at| now.saturating_duration_since(at).as_millis() as u64)
        };
        self.node_state.publish(self.machine.view(self.now(), silent_ms), self.obstacles());
        (self.published, self.is_stale) = (now, false);
    }

    /// What is in the way of this node outside of the protocol.
    fn obstacles(&self) -> Obstacles {
        let first = self.network.unanswered();
        let unanswered = first.first().map(|address| {
            let others = if first.len() > 1 { " and the other first addresses" } else { "" };
            let advice = match self.network.peers().is_empty() {
                true => "see whether a node runs there, and whether the network leads to it",
                false => "newcomers need what `paceline ticket` prints now",
            };
            format!("nobody answers at {address}{others}: {advice}")
        });
        let disk =
            self.blobs.trouble().map(|why| format!("this node's disk fails ({why}): make room on it, or mend it"));
        Obstacles { disk, unanswered, paused: self.pauses.advice() }
    }

    fn carry_out(&mut self, effect: Effect, is_over: &impl Fn(&Event) -> bool) {
        match effect {
            Effect::Send { to, message } => self.network.send(to, message.encode()),
            Effect::Broadcast(message) => {
                let bytes = message.encode();
                // Too large for gossip, it is asked for after the next heartbeat.
                if bytes.len() <= GOSSIP_BYTES_MAX {
                    self.network.broadcast(bytes);
                }
            }
            Effect::Persist { id, item } => self.persist(id, item),
            Effect::Fetch { blob, purpose, origin, others } => self.fetches.begin(blob, purpose, origin, others),
            Effect::CancelFetch { blob } => self.fetches.cancel(blob),
            Effect::Train { round, training_round, parent, model, node_key, last_update } => {
                if !self.trainer.begin(Job::Train { round, training_round, parent, model, node_key, last_update }) {
                    self.give(Input::Trained { round, parent, outcome: Err("the trainer is not there".into()) });
                }
            }
            Effect::Evaluate { round, model } => {
                if !self.trainer.begin(Job::Evaluate { round, model }) {
                    self.give(Input::Evaluated { round, evaluation: None });
                }
            }
            Effect::StopTraining => self.trainer.stop(),
            Effect::Fold { ballot, node, update, samples } => {
                if !self.aggregator.fold(ballot, node, update, samples) {
                    self.give(Input::Folded { ballot, node, result: Err(Reject::TooMany) });
                }
            }
            Effect::Aggregate { ballot, parent_model, updates, roster_samples } => {
                if !self.aggregator.aggregate(ballot, parent_model, updates, roster_samples) {
                    self.give(Input::Aggregated { ballot, result: Err("the aggregator is not there".into()) });
                }
            }
            Effect::Keep { blobs } => self.keep(blobs),
            Effect::Relay => self.relays = true,
            Effect::Emit(event) => {
                self.node_state.tell(&event);
                if is_over(&event) {
                    self.over = Some(event);
                }
            }
        }
    }

    fn persist(&mut self, id: PersistId, mut item: Persist) {
        match &mut item {
            Persist::Committed { committed, stats, .. } => {
                let counters = self.network.counters();
                let (sent, received) = (counters.bytes_sent(), counters.bytes_received());
                stats.bytes_sent = sent - self.bytes_at_commit.0;
                stats.bytes_received = received - self.bytes_at_commit.1;
                self.bytes_at_commit = (sent, received);
                self.best.committed(&committed.record);
                self.node_state.add_entry(HistoryEntry { committed: committed.clone(), stats: *stats });
                self.save_peers();
            }
            Persist::LetGo { .. } => self.node_state.clear_history(),
            _ => {}
        }
        self.writer.write(id, item);
    }

    /// Clears away what nobody needs: of old rounds only the updates stay, for those who want to recompute an average.
    fn keep(&self, blobs: Vec<Hash>) {
        let mut keep: BTreeSet<Hash> = blobs.into_iter().chain(self.base).chain(self.best.models()).collect();
        if let Some(chain) = self.machine.chain() {
            let recent = chain.records().iter().rev().filter(|c| !c.record.contributions.is_empty());
            let contributions = recent.take(self.keep_updates).flat_map(|c| c.record.contributions());
            keep.extend(contributions.map(|(_, c)| c.update.id));
        }
        self.blobs.retain(&keep);
    }

    /// Addresses for the next start, in case nobody is found otherwise.
    fn save_peers(&mut self) {
        let (machine, has_chain) = (&self.machine, self.machine.chain().is_some());
        self.whereabouts.keep_peers(self.network.peers(), |node| !has_chain || machine.is_of_interest(node));
    }
}
