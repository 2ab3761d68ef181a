//! The taking side: gets a blob from several holders at once.
//!
//! The origin has all of it. The others fetch it too, or have it already: chunk `i` "belongs" to one of the fetchers,
//! which gets it from the origin, and from which the rest get it. So the origin sends each chunk about once, however many
//! fetch. Whoever lies loses its standing for this blob, whoever fails is tried again a few times at most, and their
//! chunks come from elsewhere.
//!
//! Nobody waits for a peer that is silent: a laptop that was closed keeps its connections. Where nothing at all has come
//! from a peer for [`SILENCE`] the next one is asked as well, and who answers first counts. A chunk that is only slow to
//! come is left alone, so that no link carries it twice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use paceline_protocol::{BlobRef, NodeId, Reject};
use thiserror::Error;
use tokio::time::{Instant, sleep_until};

use super::manifest::Manifest;
use super::store::{BlobError, BlobStore};
use crate::net::{AskError, BlobAnswer, BlobRequest};

/// Requests under way at once: enough to fill a link, few enough that a slow peer holds up little.
const IN_FLIGHT: usize = 6;

/// A peer that has not answered by then is asked no more for this blob. Long enough for all requests under way to share
/// 1 Mbit/s; whoever dies is noticed by its connection long before.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// A peer that was asked and from which nothing has come for so long is not waited for. Long for a busy machine, short
/// beside a round; across the world twice the quickest answer to this fetch counts, if that is longer.
pub(super) const SILENCE: Duration = Duration::from_millis(300);

/// How long a peer that was silent is asked last, if it is not heard before.
const SILENT_REST: Duration = Duration::from_secs(30);

/// Passes over what is missing, one after another without a single chunk, before a fetch is given up.
const IDLE_PASSES_MAX: u32 = 3;

/// The same where its origin lied: nobody who has it right got it from there.
const LIED_PASSES_MAX: u32 = 1;

/// The same while somebody who has it has too much to do: half a minute with the pauses.
const BUSY_PASSES_MAX: u32 = 30;

/// Between two passes; longer with each idle one, up to `PAUSES_MAX` times.
const PAUSE: Duration = Duration::from_millis(150);
/// See [`PAUSE`].
const PAUSES_MAX: u32 = 7;

/// Peers that are asked for one chunk in one pass. Each may keep the asker waiting before it says that it lacks it.
const ASKED_MAX: usize = 3;

/// How peers are asked; the network, or a test.
pub trait Ask: Send + Sync {
    /// Asks one peer. Who drops this wants the answer no more, and what is on its way is cut off.
    fn ask(
        &self,
        to: NodeId,
        request: BlobRequest,
        timeout: Duration,
    ) -> impl Future<Output = Result<BlobAnswer, AskError>> + Send;

    /// When anything last came from a peer; `None` where that is not known.
    fn last_heard(&self, peer: NodeId) -> Option<Instant>;
}

impl Ask for crate::net::Network {
    async fn ask(&self, to: NodeId, request: BlobRequest, timeout: Duration) -> Result<BlobAnswer, AskError> {
        self.ask_blob(to, request, timeout).await
    }

    fn last_heard(&self, peer: NodeId) -> Option<Instant> {
        self.last_heard(peer).map(Instant::from_std)
    }
}

/// Peers that were silent when something was asked of them, and since when. All fetches of a node share it.
#[derive(Debug, Clone, Default)]
pub struct SilentPeers(Arc<Mutex<BTreeMap<NodeId, Instant>>>);

impl SilentPeers {
    fn add(&self, peer: NodeId) {
        let mut silent = self.lock();
        silent.retain(|_, since| since.elapsed() < SILENT_REST);
        silent.insert(peer, Instant::now());
    }

    /// Whether the peer was silent lately, and has not been heard since.
    fn contains(&self, peer: NodeId, last_heard: Option<Instant>) -> bool {
        let since = self.lock().get(&peer).copied();
        since.is_some_and(|since| since.elapsed() < SILENT_REST && last_heard.is_none_or(|heard| heard <= since))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a blob could not be fetched.
#[derive(Debug, Error)]
pub enum FetchError {
    /// No holder could be reached or has it.
    #[error("no peer serves blob {0:?}")]
    Unreachable(BlobRef),
    /// Its origin sent bytes with the wrong hash, and nobody else has it.
    #[error("blob {0:?} was served with bytes that fail their hash")]
    WrongHash(BlobRef),
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] BlobError),
}

/// What a fetch took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes of chunks received, wasted ones included.
    pub bytes: u64,
    /// Peers that sent what fails its hash.
    pub liars: Vec<(NodeId, Reject)>,
    /// Peers that could not be asked, each with its last failure.
    pub failed: BTreeMap<NodeId, AskError>,
}

struct Fetch<'a, A> {
    store: &'a Arc<BlobStore>,
    peers: &'a A,
    silent: &'a SilentPeers,
    /// The quickest answer so far.
    quickest: Option<Duration>,
    blob: BlobRef,
    origin: NodeId,
    /// All who fetch or have it, me included, ascending: chunk i belongs to the one at i modulo their number.
    fetchers: Vec<NodeId>,
    me: NodeId,
    /// Who lied or is too slow, and is not asked again.
    excluded: BTreeSet<NodeId>,
    /// Who does not know the blob or could not be reached, and is not asked again in this pass.
    absent: BTreeSet<NodeId>,
    /// Whether somebody said in this pass that it has too much to do.
    is_busy: bool,
    /// Passes since the last one with a chunk in which nobody was busy.
    idle: u32,
    /// Those in which somebody was.
    busy: u32,
    report: Fetched,
}

/// A chunk that is missing, and who was asked for it in this pass.
struct Want {
    index: u32,
    asked: Vec<NodeId>,
}

/// Gets `blob` onto the disk, resuming what is there. `progress` hears the bytes that are here so far. What was learnt of
/// liars is in the report also when it fails.
pub async fn fetch<A: Ask>(
    store: &Arc<BlobStore>,
    (peers, silent): (&A, &SilentPeers),
    (me, origin, others): (NodeId, NodeId, &[NodeId]),
    blob: BlobRef,
    durable: bool,
    mut progress: impl FnMut(u64),
) -> (Fetched, Result<(), FetchError>) {
    let mut fetchers: Vec<NodeId> = others.iter().copied().chain([me]).collect();
    fetchers.sort_unstable();
    fetchers.dedup();
    let mut fetch = Fetch {
        store,
        peers,
        silent,
        quickest: None,
        blob,
        origin,
        fetchers,
        me,
        excluded: BTreeSet::new(),
        absent: BTreeSet::new(),
        is_busy: false,
        idle: 0,
        busy: 0,
        report: Fetched::default(),
    };
    let result = fetch.run(durable, &mut progress).await;
    (fetch.report, result)
}

impl<A: Ask> Fetch<'_, A> {
    async fn run(&mut self, durable: bool, progress: &mut impl FnMut(u64)) -> Result<(), FetchError> {
        let _fetching = self.store.fetching(self.blob.id);
        let manifest = self.manifest().await?;
        if !self.store.is_whole(self.blob.id) {
            let (store, begun) = (self.store.clone(), manifest.clone());
            let missing = blocking(move || store.begin(begun)).await?;
            self.passes(&manifest, missing, progress).await?;
        }
        let (store, id) = (self.store.clone(), self.blob.id);
        Ok(blocking(move || store.seal(id, durable)).await?)
    }

    /// Goes over what is missing until nothing is, or nothing comes any more.
    async fn passes(
        &mut self,
        manifest: &Manifest,
        mut missing: Vec<u32>,
        progress: &mut impl FnMut(u64),
    ) -> Result<(), FetchError> {
        for pass in 0.. {
            let before = missing.len();
            missing = self.chunks(manifest, missing, pass, progress).await?;
            if missing.is_empty() {
                break;
            }
            self.pause(missing.len() < before).await?;
        }
        Ok(())
    }

    /// Waits before everybody who is not excluded is asked again.
    async fn pause(&mut self, something_came: bool) -> Result<(), FetchError> {
        match (something_came, std::mem::take(&mut self.is_busy)) {
            (true, _) => (self.idle, self.busy) = (0, 0),
            (false, true) => self.busy += 1,
            (false, false) => self.idle += 1,
        }
        self.absent.clear();
        let idle_max = if self.origin_lied() { LIED_PASSES_MAX } else { IDLE_PASSES_MAX };
        let in_vain = self.idle >= idle_max || self.busy >= BUSY_PASSES_MAX;
        if in_vain || self.holders().next().is_none() {
            return Err(self.failure());
        }
        tokio::time::sleep(PAUSE * (1 + self.idle + self.busy).min(PAUSES_MAX)).await;
        Ok(())
    }

    fn failure(&self) -> FetchError {
        // A lying bystander says nothing about the origin.
        if self.origin_lied() { FetchError::WrongHash(self.blob) } else { FetchError::Unreachable(self.blob) }
    }

    fn origin_lied(&self) -> bool {
        self.report.liars.iter().any(|(peer, _)| *peer == self.origin)
    }

    /// Holders that may still be asked: the origin, then the others.
    fn holders(&self) -> impl Iterator<Item = NodeId> + '_ {
        let others = self.fetchers.iter().copied().filter(|n| *n != self.origin);
        [self.origin].into_iter().chain(others).filter(|n| *n != self.me && self.may_be_asked(*n))
    }

    fn may_be_asked(&self, peer: NodeId) -> bool {
        !self.excluded.contains(&peer) && !self.absent.contains(&peer)
    }

    async fn manifest(&mut self) -> Result<Manifest, FetchError> {
        let (store, id) = (self.store.clone(), self.blob.id);
        if let Some(manifest) = blocking(move || Ok(store.manifest(id))).await? {
            // Who speaks of it with another length is wrong, as these bytes show.
            let right = manifest.blob() == self.blob;
            return if right { Ok(Manifest::clone(&manifest)) } else { Err(FetchError::WrongHash(self.blob)) };
        }
        let request = BlobRequest::Manifest { blob: self.blob.id };
        loop {
            let mut holders: VecDeque<NodeId> = self.silent_last(self.holders()).into();
            while let Some(first) = holders.pop_front() {
                let others = holders.make_contiguous().iter().copied().take(ASKED_MAX - 1).collect();
                let asked = ask(self.peers, (first, others), request, self.patience()).await;
                self.learn(&asked);
                for (holder, answer) in asked.answers {
                    holders.retain(|h| *h != holder);
                    match answer {
                        Ok(BlobAnswer::Manifest(bytes)) => match Manifest::parse(&bytes, self.blob) {
                            Some(manifest) => return Ok(manifest),
                            None => self.lies(holder),
                        },
                        Ok(BlobAnswer::Chunk(_)) => self.lies(holder),
                        Ok(answer) => self.is_busy |= answer == BlobAnswer::Busy,
                        Err(error) => self.fails(holder, error),
                    }
                }
            }
            self.pause(false).await?;
        }
    }

    fn lies(&mut self, peer: NodeId) {
        if self.excluded.insert(peer) {
            self.report.liars.push((peer, Reject::WrongHash));
        }
    }

    fn fails(&mut self, peer: NodeId, error: AskError) {
        tracing::debug!(%peer, blob = %self.blob.id, "can't be asked for a blob: {error}");
        match error {
            // A connection can be made anew, and this node's own queue empties.
            AskError::Unreachable | AskError::Broken(_) | AskError::Overloaded => self.absent.insert(peer),
            AskError::Timeout | AskError::Unsupported | AskError::Malformed(_) => self.excluded.insert(peer),
        };
        self.report.failed.insert(peer, error);
    }

    /// Asks for all of `missing`; those that did not come in this pass are returned.
    async fn chunks(
        &mut self,
        manifest: &Manifest,
        missing: Vec<u32>,
        pass: usize,
        progress: &mut impl FnMut(u64),
    ) -> Result<Vec<u32>, FetchError> {
        let mut here = self.blob.len
            - missing.iter().filter_map(|i| manifest.range(*i)).map(|range| range.end - range.start).sum::<u64>();
        // Begin with the own chunks: others wait for them.
        let (own, other): (Vec<u32>, Vec<u32>) = missing.into_iter().partition(|i| self.owner(*i) == self.me);
        let mut waiting: VecDeque<Want> =
            own.into_iter().chain(other).map(|index| Want { index, asked: Vec::new() }).collect();
        let mut failed = Vec::new();
        let mut under_way = FuturesUnordered::new();
        loop {
            while under_way.len() < IN_FLIGHT
                && let Some(want) = waiting.pop_front()
            {
                let mut holders = self.holders_of(&want, pass).into_iter();
                let Some(first) = holders.next() else {
                    failed.push(want.index);
                    continue;
                };
                let request = BlobRequest::Chunk { blob: self.blob.id, index: want.index };
                let (peers, patience) = (self.peers, self.patience());
                under_way.push(async move { (want, ask(peers, (first, holders.collect()), request, patience).await) });
            }
            let Some((mut want, asked)) = under_way.next().await else { return Ok(failed) };
            self.learn(&asked);
            let mut is_here = false;
            for (holder, answer) in asked.answers {
                if let Some(bytes) = self.take(want.index, holder, answer).await? {
                    here += bytes;
                    progress(here);
                    is_here = true;
                }
                want.asked.push(holder);
            }
            if !is_here {
                waiting.push_back(want);
            }
        }
    }

    /// Takes a peer's answer: the bytes of the chunk, if that is what it is.
    async fn take(
        &mut self,
        index: u32,
        holder: NodeId,
        answer: Result<BlobAnswer, AskError>,
    ) -> Result<Option<u64>, FetchError> {
        match answer {
            Ok(BlobAnswer::Chunk(bytes)) => {
                let len = bytes.len() as u64;
                self.report.bytes += len;
                let (store, id) = (self.store.clone(), self.blob.id);
                if blocking(move || store.write_chunk(id, index, &bytes)).await? {
                    return Ok(Some(len));
                }
                self.lies(holder);
            }
            Ok(BlobAnswer::Unknown) => {
                self.absent.insert(holder);
            }
            Ok(BlobAnswer::Manifest(_)) => self.lies(holder),
            // It lacks this chunk, or has too much to do; it may have others.
            Ok(answer) => self.is_busy |= answer == BlobAnswer::Busy,
            Err(error) => self.fails(holder, error),
        }
        Ok(None)
    }

    /// The fetcher that a chunk belongs to.
    fn owner(&self, index: u32) -> NodeId {
        self.fetchers.get(index as usize % self.fetchers.len().max(1)).copied().unwrap_or(self.me)
    }

    /// Whom to ask next for a chunk, and whom else if that one is silent: the one that it belongs to, then the origin, then
    /// the others in turn, each chunk and each pass another one first. Who was silent a moment ago comes last.
    fn holders_of(&self, want: &Want, pass: usize) -> Vec<NodeId> {
        // Those who are excluded, or said that they don't know the blob, kept nobody waiting.
        let left = ASKED_MAX.saturating_sub(want.asked.iter().filter(|n| self.may_be_asked(**n)).count());
        let owner = self.owner(want.index);
        let (origin, others): (Vec<NodeId>, Vec<NodeId>) = self.holders().partition(|n| *n == self.origin);
        let turn = (want.index as usize + pass) % others.len().max(1);
        let in_turn = others.iter().cycle().skip(turn).take(others.len());
        let owner = self.holders().find(|n| *n == owner);
        let mut all: Vec<NodeId> = Vec::new();
        for holder in owner.iter().chain(&origin).chain(in_turn) {
            if !want.asked.contains(holder) && !all.contains(holder) {
                all.push(*holder);
            }
        }
        let mut all = self.silent_last(all.into_iter());
        all.truncate(left);
        all
    }

    /// The same, in the same order, those behind who were silent a moment ago.
    fn silent_last(&self, holders: impl Iterator<Item = NodeId>) -> Vec<NodeId> {
        let (silent, mut heard): (Vec<_>, Vec<_>) =
            holders.partition(|n| self.silent.contains(*n, self.peers.last_heard(*n)));
        heard.extend(silent);
        heard
    }

    /// How long a peer may be silent.
    fn patience(&self) -> Duration {
        self.quickest.map_or(SILENCE, |quickest| SILENCE.max(2 * quickest))
    }

    fn learn(&mut self, asked: &Asked) {
        if let Some(peer) = asked.silent {
            tracing::debug!(%peer, blob = %self.blob.id, "is silent: another one was asked");
            self.silent.add(peer);
        }
        self.quickest = self.quickest.into_iter().chain(asked.took).min();
    }
}

/// What became of a question.
#[derive(Debug, Default)]
struct Asked {
    /// What came, in order; all but the last are of no use.
    answers: Vec<(NodeId, Result<BlobAnswer, AskError>)>,
    /// Who was silent while another one answered.
    silent: Option<NodeId>,
    /// How long the last answer took.
    took: Option<Duration>,
}

/// Asks the first, and when nothing has come from it for a while the others as well, one at a time. The first useful
/// answer ends it.
async fn ask<A: Ask>(
    peers: &A,
    (first, others): (NodeId, Vec<NodeId>),
    request: BlobRequest,
    patience: Duration,
) -> Asked {
    let (mut asked, began) = (Asked::default(), Instant::now());
    let mut answer = pin!(peers.ask(first, request, ANSWER_TIMEOUT));
    let last_heard = tokio::select! {
        answer = &mut answer => {
            asked.take(first, answer, began);
            return asked;
        }
        last_heard = silence(peers, first, patience), if !others.is_empty() => last_heard,
    };
    let mut has_answered = false;
    for other in others {
        let began_other = Instant::now();
        let mut hedge = pin!(peers.ask(other, request, ANSWER_TIMEOUT));
        let is_useful = loop {
            tokio::select! {
                answer = &mut answer, if !has_answered => {
                    has_answered = true;
                    if asked.take(first, answer, began) {
                        return asked;
                    }
                }
                answer = &mut hedge => break asked.take(other, answer, began_other),
            }
        };
        if is_useful {
            let heard_since = peers.last_heard(first).is_some_and(|heard| heard > last_heard);
            asked.silent = (!has_answered && !heard_since).then_some(first);
            return asked;
        }
    }
    if !has_answered {
        asked.take(first, answer.await, began);
    }
    asked
}

impl Asked {
    /// Keeps an answer, and says whether it is of use.
    fn take(&mut self, from: NodeId, answer: Result<BlobAnswer, AskError>, began: Instant) -> bool {
        let is_useful = matches!(answer, Ok(BlobAnswer::Manifest(_) | BlobAnswer::Chunk(_)));
        if is_useful {
            self.took = Some(began.elapsed());
        }
        self.answers.push((from, answer));
        is_useful
    }
}

/// Waits until nothing has come from a peer for so long, and says when something last did. Where that can't be known it
/// waits for ever.
async fn silence<A: Ask>(peers: &A, peer: NodeId, patience: Duration) -> Instant {
    let began = Instant::now();
    loop {
        let Some(heard) = peers.last_heard(peer) else { return std::future::pending().await };
        let last = heard.max(began);
        if last.elapsed() >= patience {
            return last;
        }
        sleep_until(last + patience).await;
    }
}

/// Disk work off the runtime.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(BlobError::Disk { path: "blobs".into(), source: std::io::Error::other(error) }),
    }
}

#[cfg(test)]
mod tests;
