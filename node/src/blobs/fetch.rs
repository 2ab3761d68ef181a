//! The taking side: gets a blob from several holders at once.
//!
//! The origin has all of it. The others fetch it too, or have it already: chunk `i` "belongs" to one of the fetchers,
//! which gets it from the origin, and from which the rest get it. So the origin sends each chunk about once, however many
//! fetch. Whoever fails or lies loses its standing for this blob, and its chunks come from elsewhere.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use paceline_protocol::{BlobRef, NodeId, Reject};
use thiserror::Error;

use super::manifest::Manifest;
use super::store::{BlobError, BlobStore};
use crate::net::{AskError, BlobAnswer, BlobRequest};

/// Requests under way at once: enough to fill a link, few enough that a slow peer holds up little.
const IN_FLIGHT: usize = 6;

/// A peer that has not answered by then is asked no more for this blob. Long enough for all requests under way to share
/// 1 Mbit/s; whoever dies is noticed by its connection long before.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Rounds over all holders before a fetch is given up.
const TRIES: usize = 3;

/// Between two such rounds.
const PAUSE: Duration = Duration::from_millis(150);

/// How peers are asked; the network, or a test.
pub trait Ask: Send + Sync {
    /// Asks one peer.
    fn ask(
        &self,
        to: NodeId,
        request: BlobRequest,
        timeout: Duration,
    ) -> impl Future<Output = Result<BlobAnswer, AskError>> + Send;
}

impl Ask for crate::net::Network {
    async fn ask(&self, to: NodeId, request: BlobRequest, timeout: Duration) -> Result<BlobAnswer, AskError> {
        self.ask_blob(to, request, timeout).await
    }
}

/// Why a blob could not be fetched.
#[derive(Debug, Error)]
pub enum FetchError {
    /// No holder could be reached or has it.
    #[error("no peer serves blob {0:?}")]
    Unreachable(BlobRef),
    /// The origin sent bytes with the wrong hash.
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
}

struct Fetch<'a, A> {
    store: &'a Arc<BlobStore>,
    peers: &'a A,
    blob: BlobRef,
    origin: NodeId,
    /// All who fetch or have it, me included, ascending: chunk i belongs to the one at i modulo their number.
    fetchers: Vec<NodeId>,
    me: NodeId,
    /// Who has failed, and is not asked again.
    fallen: BTreeSet<NodeId>,
    report: Fetched,
}

/// Gets `blob` onto the disk, resuming what is there. `progress` hears the bytes that are here so far. What was learnt of
/// liars is in the report also when it fails.
pub async fn fetch<A: Ask>(
    store: &Arc<BlobStore>,
    peers: &A,
    (me, origin, others): (NodeId, NodeId, &[NodeId]),
    blob: BlobRef,
    durable: bool,
    mut progress: impl FnMut(u64),
) -> (Fetched, Result<(), FetchError>) {
    let mut fetchers: Vec<NodeId> = others.iter().copied().chain([me]).collect();
    fetchers.sort_unstable();
    fetchers.dedup();
    let mut fetch =
        Fetch { store, peers, blob, origin, fetchers, me, fallen: BTreeSet::new(), report: Fetched::default() };
    let result = fetch.run(durable, &mut progress).await;
    (fetch.report, result)
}

impl<A: Ask> Fetch<'_, A> {
    async fn run(&mut self, durable: bool, progress: &mut impl FnMut(u64)) -> Result<(), FetchError> {
        if self.store.is_whole(self.blob.id) {
            return Ok(());
        }
        let manifest = self.manifest().await?;
        let (store, begun) = (self.store.clone(), manifest.clone());
        let mut missing = blocking(move || store.begin(begun)).await?;
        for round in 0..TRIES {
            if missing.is_empty() {
                break;
            }
            if round > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            missing = self.chunks(&manifest, missing, progress).await?;
        }
        if !missing.is_empty() {
            return Err(self.failure());
        }
        let (store, id) = (self.store.clone(), self.blob.id);
        Ok(blocking(move || store.seal(id, durable)).await?)
    }

    fn failure(&self) -> FetchError {
        // A lying bystander says nothing about the origin.
        let origin_lied = self.report.liars.iter().any(|(peer, _)| *peer == self.origin);
        if origin_lied { FetchError::WrongHash(self.blob) } else { FetchError::Unreachable(self.blob) }
    }

    /// Holders that may still be asked: the origin, then the others.
    fn holders(&self) -> impl Iterator<Item = NodeId> + '_ {
        let others = self.fetchers.iter().copied().filter(|n| *n != self.me && *n != self.origin);
        [self.origin].into_iter().chain(others).filter(|n| !self.fallen.contains(n))
    }

    async fn manifest(&mut self) -> Result<Manifest, FetchError> {
        if let Some(manifest) = self.store.manifest(self.blob.id) {
            return Ok(Manifest::clone(&manifest));
        }
        let request = BlobRequest::Manifest { blob: self.blob.id };
        for holder in self.holders().collect::<Vec<_>>() {
            match self.peers.ask(holder, request, ANSWER_TIMEOUT).await {
                Ok(BlobAnswer::Manifest(bytes)) => match Manifest::parse(&bytes, self.blob) {
                    Some(manifest) => return Ok(manifest),
                    None => self.lies(holder),
                },
                Ok(_) => {}
                Err(_) => {
                    self.fallen.insert(holder);
                }
            }
        }
        Err(self.failure())
    }

    fn lies(&mut self, peer: NodeId) {
        if self.fallen.insert(peer) {
            self.report.liars.push((peer, Reject::WrongHash));
        }
    }

    /// Asks for all of `missing` once; those that did not come are returned.
    async fn chunks(
        &mut self,
        manifest: &Manifest,
        missing: Vec<u32>,
        progress: &mut impl FnMut(u64),
    ) -> Result<Vec<u32>, FetchError> {
        // Begin with the own chunks: others wait for them.
        let (own, other): (Vec<u32>, Vec<u32>) = missing.into_iter().partition(|i| self.owner(*i) == self.me);
        let mut waiting = own.into_iter().chain(other).map(|i| (i, false)).collect::<std::collections::VecDeque<_>>();
        let mut failed = Vec::new();
        let mut under_way = FuturesUnordered::new();
        let mut here = self.blob.len
            - waiting.iter().filter_map(|(i, _)| manifest.range(*i)).map(|r| r.end - r.start).sum::<u64>();
        loop {
            while under_way.len() < IN_FLIGHT
                && let Some((index, again)) = waiting.pop_front()
            {
                let Some(holder) = self.holder(index, again) else {
                    failed.push(index);
                    continue;
                };
                let request = BlobRequest::Chunk { blob: self.blob.id, index };
                let peers = self.peers;
                under_way.push(async move { (index, again, holder, peers.ask(holder, request, ANSWER_TIMEOUT).await) });
            }
            let Some((index, again, holder, answer)) = under_way.next().await else { return Ok(failed) };
            let came = match answer {
                Ok(BlobAnswer::Chunk(bytes)) => {
                    let len = bytes.len() as u64;
                    self.report.bytes += len;
                    let (store, id) = (self.store.clone(), self.blob.id);
                    let right = blocking(move || store.write_chunk(id, index, &bytes)).await?;
                    if right {
                        here += len;
                        progress(here);
                    } else {
                        self.lies(holder);
                    }
                    right
                }
                // It has not got it (yet), or has too much to do; it may have other chunks.
                Ok(_) => false,
                Err(_) => {
                    self.fallen.insert(holder);
                    false
                }
            };
            match (came, again) {
                (true, _) => {}
                // Whoever it belongs to failed: the origin, or if that fell, any other.
                (false, false) => waiting.push_back((index, true)),
                (false, true) => failed.push(index),
            }
        }
    }

    /// The fetcher that a chunk belongs to.
    fn owner(&self, index: u32) -> NodeId {
        self.fetchers.get(index as usize % self.fetchers.len().max(1)).copied().unwrap_or(self.me)
    }

    fn holder(&self, index: u32, again: bool) -> Option<NodeId> {
        let owner = self.owner(index);
        if !again && owner != self.me && !self.fallen.contains(&owner) {
            return Some(owner);
        }
        // With the origin gone the others are asked in turn, each chunk another one first.
        let holders: Vec<NodeId> = self.holders().collect();
        match holders.first() {
            Some(first) if *first == self.origin => Some(*first),
            _ => holders.get(index as usize % holders.len().max(1)).copied(),
        }
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
mod tests {
    use super::*;
    use crate::blobs::serve;
    use paceline_protocol::bounds::CHUNK_BYTES;
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    /// Stores in memory's reach: who asks, asks the store itself. Some send wrong bytes, some are down.
    #[derive(Default)]
    struct Peers {
        stores: BTreeMap<NodeId, Arc<BlobStore>>,
        liars: BTreeSet<NodeId>,
        chunks_served: Mutex<BTreeMap<NodeId, usize>>,
    }

    impl Ask for &Peers {
        async fn ask(&self, to: NodeId, request: BlobRequest, _: Duration) -> Result<BlobAnswer, AskError> {
            let store = self.stores.get(&to).ok_or(AskError::Unreachable)?;
            let answer = serve(store, request).await;
            match answer {
                BlobAnswer::Chunk(mut bytes) => {
                    *self.chunks_served.lock().expect("no panic holds it").entry(to).or_default() += 1;
                    if self.liars.contains(&to) {
                        bytes[0] ^= 1;
                    }
                    Ok(BlobAnswer::Chunk(bytes))
                }
                answer => Ok(answer),
            }
        }
    }

    fn node(i: u8) -> NodeId {
        NodeId::from_public_key([i; 32])
    }

    fn store() -> (tempfile::TempDir, Arc<BlobStore>) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = Arc::new(BlobStore::open(dir.path()).expect("it opens"));
        (dir, store)
    }

    fn model() -> Vec<u8> {
        (0..17 * CHUNK_BYTES + 99).map(|i| (i.wrapping_mul(0x9E37_79B9) >> 11) as u8).collect()
    }

    #[tokio::test]
    async fn four_fetchers_take_little_more_than_one_copy_from_the_origin() {
        let data = model();
        let mut dirs = Vec::new();
        let mut peers = Peers::default();
        for i in 0..5 {
            let (dir, store) = store();
            dirs.push(dir);
            peers.stores.insert(node(i), store);
        }
        let origin = node(0);
        let blob = peers.stores[&origin].put(&data).expect("room");
        let others: Vec<NodeId> = (1..5).map(node).collect();
        // All have begun: who is asked for a chunk that is on its way waits for it, whatever the order in which they run.
        for me in &others {
            peers.stores[me].begin(Manifest::of(&data)).expect("room");
        }
        let (peers, others) = (&peers, &others);
        let fetches = others.iter().map(|me| async move {
            let (report, result) = fetch(&peers.stores[me], &peers, (*me, origin, others), blob, true, |_| {}).await;
            result.expect("everybody serves");
            report.bytes
        });
        let received = futures::future::join_all(fetches).await;
        assert!(received.iter().all(|bytes| *bytes == blob.len), "a chunk came twice: {received:?}");
        let served = peers.chunks_served.lock().expect("no panic holds it")[&origin];
        assert!(served <= 27, "the origin served {served} chunks of a blob of 18");
        for me in others {
            assert_eq!(peers.stores[me].read(blob.id).expect("it is whole"), data);
        }
    }

    #[tokio::test]
    async fn a_holder_that_lies_is_named_and_costs_nothing_else() {
        let data = model();
        let (_d0, honest) = store();
        let (_d1, lying) = store();
        let (_d2, mine) = store();
        let blob = honest.put(&data).expect("room");
        lying.put(&data).expect("room");
        let mut peers = Peers::default();
        peers.stores.extend([(node(0), honest), (node(1), lying)]);
        peers.liars.insert(node(1));
        let peers = &peers;
        let (report, result) = fetch(&mine, &peers, (node(2), node(0), &[node(1)]), blob, true, |_| {}).await;
        result.expect("the origin is honest");
        assert_eq!(report.liars, [(node(1), Reject::WrongHash)]);
        assert_eq!(mine.read(blob.id).expect("it is whole"), data);
    }

    #[tokio::test]
    async fn a_blob_that_only_liars_have_is_refused() {
        let (_d0, lying) = store();
        let (_d1, mine) = store();
        let blob = lying.put(&model()).expect("room");
        let mut peers = Peers::default();
        peers.stores.insert(node(0), lying);
        peers.liars.insert(node(0));
        let peers = &peers;
        let (_, result) = fetch(&mine, &peers, (node(2), node(0), &[]), blob, true, |_| {}).await;
        assert!(matches!(result, Err(FetchError::WrongHash(_))), "{result:?}");
        assert!(!mine.is_whole(blob.id));
    }

    #[tokio::test]
    async fn with_its_origin_gone_a_blob_comes_from_the_others() {
        let data = model();
        let (_d0, other) = store();
        let (_d1, mine) = store();
        let blob = other.put(&data).expect("room");
        let mut peers = Peers::default();
        peers.stores.insert(node(1), other);
        let peers = &peers;
        let (_, result) = fetch(&mine, &peers, (node(2), node(0), &[node(1)]), blob, true, |_| {}).await;
        result.expect("node 1 has it");
        assert_eq!(mine.read(blob.id).expect("it is whole"), data);
    }

    #[tokio::test]
    async fn an_interrupted_fetch_asks_only_for_what_is_missing() {
        let data = model();
        let (_d0, origin) = store();
        let (_d1, mine) = store();
        let blob = origin.put(&data).expect("room");
        mine.begin(Manifest::of(&data)).expect("begins");
        for i in 0..10 {
            let bytes = origin.chunk(blob.id, i).expect("it is whole");
            assert!(mine.write_chunk(blob.id, i, &bytes).expect("writes"));
        }
        let mut peers = Peers::default();
        peers.stores.insert(node(0), origin);
        let peers = &peers;
        let (report, result) = fetch(&mine, &peers, (node(2), node(0), &[]), blob, true, |_| {}).await;
        result.expect("the origin serves");
        assert_eq!(report.bytes, blob.len - 10 * CHUNK_BYTES);
    }
}
