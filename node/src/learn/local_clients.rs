//! Many clients in one process: those of a round train side by side, one on each thread, and each update goes into the
//! exact sum as soon as it is there. Memory is the sum and one update a thread, whatever the number of clients; a trainer
//! is a process for each of them, though.
//!
//! A thread to itself is what a client trains fastest on, counted over all threads: two clients on two threads share
//! nothing. Those that are left over when the rest is done evenly divide all threads among them.

use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use paceline_model::{ExactSum, Learner, Progress, Task, Threads, ThreadsError, TrainError, Trainable};
use paceline_protocol::base::roster::Part;
use paceline_protocol::{BlobRef, Hash};

use super::Formats;
use super::control_variates::{ControlVariateError, ControlVariates};
use crate::blobs::Manifest;

/// The clients of one process, by what they share.
#[derive(Debug)]
pub struct LocalClients<'a> {
    /// What learns, over the whole of the data; each client has a part of it.
    pub learner: &'a dyn Learner,
    /// What states and updates are.
    pub formats: Formats,
    /// The run's seed.
    pub seed: u64,
    /// Where they compute.
    pub workers: &'a Workers,
    /// Where their control variates lie, for rules that have any.
    pub controls: &'a ControlVariates,
}

/// A client that trains in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Its part of the data.
    pub part: Part,
    /// Its last update that was averaged.
    pub last_update: Option<Hash>,
}

/// The threads of a process that clients share.
#[derive(Debug)]
pub struct Workers {
    /// All of them together.
    pub all: Threads,
    /// As many pools of one.
    singles: Vec<Threads>,
}

impl Workers {
    /// So many threads, from 1 on.
    ///
    /// # Errors
    /// The system gives no threads.
    pub fn new(count: usize) -> Result<Self, ThreadsError> {
        let all = Threads::new(count)?;
        let singles = (0..all.count()).map(|_| Threads::new(1)).collect::<Result<_, _>>()?;
        Ok(Self { all, singles })
    }

    /// A pool for each of so many clients, together as many threads as there are; none for a single client, which gets
    /// all, or where the system gives no more threads.
    fn shares(&self, clients: usize) -> Vec<Threads> {
        let pools = if clients > 1 { clients } else { 0 };
        (0..pools).map(|i| Threads::new((self.all.count() + i) / pools)).collect::<Result<_, _>>().unwrap_or_default()
    }
}

/// What one client's training came to.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientUpdate {
    /// Its part of the data.
    pub part: Part,
    /// Examples it has: the weight of its update.
    pub samples: u64,
    /// Its update.
    pub update: BlobRef,
    /// What trained, as records would say.
    pub trainer: String,
    /// Mean loss.
    pub train_loss: Option<f64>,
    /// How long it took.
    pub train_ms: u64,
}

/// Why a client has no update.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Its training failed or was stopped.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// Its control variate can't be read or written.
    #[error(transparent)]
    Control(#[from] ControlVariateError),
    /// Its update can't be averaged.
    #[error(transparent)]
    Exact(#[from] paceline_model::ExactError),
}

impl LocalClients<'_> {
    /// Trains these clients on a global state. Gives the sum of their updates, and for each in order what it came to; one that
    /// failed is not in the sum. `on_step` hears, from all threads, what share of a client's training was done since it heard of
    /// that client last, and stops them.
    pub fn train(
        &self,
        state: &[u8],
        round: u64,
        clients: &[Client],
        on_step: &(dyn Fn(f64) -> ControlFlow<()> + Sync),
    ) -> (ExactSum, Vec<Result<ClientUpdate, ClientError>>) {
        let sum = Mutex::new(self.formats.update.sum());
        let Workers { all, singles } = self.workers;
        let (even, left) = clients.split_at(clients.len() / singles.len() * singles.len());
        let train = |client, threads: &Threads| self.client(state, round, client, threads, &sum, on_step);
        let mut updates = side_by_side(even, singles, &train);
        let shares = self.workers.shares(left.len());
        let pools = if shares.is_empty() { std::slice::from_ref(all) } else { &shares };
        updates.extend(side_by_side(left, pools, &train));
        (sum.into_inner().unwrap_or_else(PoisonError::into_inner), updates)
    }

    fn client(
        &self,
        state: &[u8],
        round: u64,
        client: Client,
        threads: &Threads,
        sum: &Mutex<ExactSum>,
        on_step: &(dyn Fn(f64) -> ControlFlow<()> + Sync),
    ) -> Result<ClientUpdate, ClientError> {
        let began = Instant::now();
        let (rule, part) = (self.formats.rule(), client.part);
        let control = match rule.has_controls() {
            true => self.controls.read(client.last_update, self.formats.parameters())?,
            false => None,
        };
        // Whoever stops the others stops this one before it begins.
        if on_step(0.0).is_break() {
            return Err(TrainError::Cancelled.into());
        }
        let learner = self.learner.part(part.index as usize, part.of as usize)?;
        let (seed, node_key) = (self.seed, &part.key());
        let task =
            Task { round, seed, node_key, rule, state, control: control.as_deref(), trainable: Trainable::all() };
        let mut done = 0.0;
        let mut watch = |progress: Progress| {
            let before = std::mem::replace(&mut done, progress.share());
            on_step(done - before)
        };
        let trained = learner.train(&task, threads, &mut watch)?;
        let update = Manifest::of(&trained.update).blob();
        if let Some(control) = &trained.control {
            self.controls.put(update.id, control)?;
        }
        lock(sum).add(&trained.update, trained.samples)?;
        Ok(ClientUpdate {
            part,
            samples: trained.samples,
            trainer: learner.name(),
            update,
            train_loss: trained.train_loss,
            train_ms: began.elapsed().as_millis() as u64,
        })
    }
}

/// Does `work` for every client, on as many at a time as there are pools; the results are in the clients' order.
fn side_by_side<T: Send>(
    clients: &[Client],
    pools: &[Threads],
    work: &(dyn Fn(Client, &Threads) -> T + Sync),
) -> Vec<T> {
    let waiting = Mutex::new(clients.iter().enumerate());
    let done = Mutex::new(Vec::with_capacity(clients.len()));
    let next = || lock(&waiting).next();
    std::thread::scope(|scope| {
        for threads in pools {
            scope.spawn(|| {
                while let Some((place, &client)) = next() {
                    let result = work(client, threads);
                    lock(&done).push((place, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, result)| result).collect()
}

/// What is behind these locks is whole between any two statements, so a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
