use super::*;
use crate::blobs::serve;
use paceline_protocol::bounds::CHUNK_BYTES;
use std::sync::Mutex;

/// How a peer behaves.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum Manner {
    #[default]
    Honest,
    /// Its chunks are garbled.
    Lies,
    /// It doesn't answer in time, which passes a thousand times as fast here.
    Hangs,
    /// It has too much to do for so many chunks.
    Busy(usize),
    /// Its connection breaks at so many chunks.
    Breaks(usize),
    /// It can't be reached at all.
    Gone,
    /// It answers with what was not asked for.
    Rambles,
    /// It is frozen: connected, and nothing comes from it.
    Silent,
    /// It answers after a while that is longer than [`SILENCE`], and bytes come all the time.
    Slow,
    /// It answers after such a while, and nothing comes before.
    Late,
}

/// Stores in memory's reach: who asks, asks the store itself.
#[derive(Default)]
struct Peers {
    stores: BTreeMap<NodeId, Arc<BlobStore>>,
    manners: Mutex<BTreeMap<NodeId, Manner>>,
    /// Chunks served, in order.
    served: Mutex<Vec<(NodeId, u32)>>,
    asked: Mutex<BTreeMap<NodeId, usize>>,
    heard: Mutex<BTreeMap<NodeId, Instant>>,
    silent: SilentPeers,
}

impl Peers {
    fn of(stores: impl IntoIterator<Item = (u8, Arc<BlobStore>)>) -> Self {
        Self { stores: stores.into_iter().map(|(i, store)| (node(i), store)).collect(), ..Self::default() }
    }

    fn with(self, peer: u8, manner: Manner) -> Self {
        self.manners.lock().expect("no panic holds it").insert(node(peer), manner);
        self
    }

    fn served_by(&self, peer: u8) -> usize {
        self.served.lock().expect("no panic holds it").iter().filter(|(n, _)| *n == node(peer)).count()
    }

    fn hears(&self, peer: NodeId) {
        self.heard.lock().expect("no panic holds it").insert(peer, Instant::now());
    }

    fn asked(&self, peer: u8) -> usize {
        self.asked.lock().expect("no panic holds it").get(&node(peer)).copied().unwrap_or_default()
    }

    /// How the peer behaves this time. The busy and the broken have time for a manifest.
    fn manner(&self, peer: NodeId, request: BlobRequest) -> Manner {
        let mut manners = self.manners.lock().expect("no panic holds it");
        let manner = manners.entry(peer).or_default();
        let now = *manner;
        match (request, &mut *manner) {
            (BlobRequest::Manifest { .. }, Manner::Busy(_) | Manner::Breaks(_)) => return Manner::Honest,
            (_, Manner::Busy(n) | Manner::Breaks(n)) if *n > 1 => *n -= 1,
            (_, Manner::Busy(_) | Manner::Breaks(_)) => *manner = Manner::Honest,
            _ => {}
        }
        now
    }
}

impl Ask for &Peers {
    async fn ask(&self, to: NodeId, request: BlobRequest, timeout: Duration) -> Result<BlobAnswer, AskError> {
        *self.asked.lock().expect("no panic holds it").entry(to).or_default() += 1;
        let store = self.stores.get(&to).ok_or(AskError::Unreachable)?;
        let manner = self.manner(to, request);
        match manner {
            Manner::Hangs => {
                tokio::time::sleep(timeout / 1000).await;
                return Err(AskError::Timeout);
            }
            Manner::Busy(_) => return Ok(BlobAnswer::Busy),
            Manner::Breaks(_) => return Err(AskError::Broken("reset".into())),
            Manner::Gone => return Err(AskError::Unreachable),
            Manner::Rambles => return Ok(BlobAnswer::Manifest(vec![1, 2, 3])),
            Manner::Silent => {
                tokio::time::sleep(timeout).await;
                return Err(AskError::Timeout);
            }
            Manner::Slow | Manner::Late => tokio::time::sleep(2 * SILENCE).await,
            Manner::Honest | Manner::Lies => {}
        }
        self.hears(to);
        match (serve(store, request).await, request) {
            (BlobAnswer::Chunk(mut bytes), BlobRequest::Chunk { index, .. }) => {
                self.served.lock().expect("no panic holds it").push((to, index));
                if manner == Manner::Lies {
                    bytes[0] ^= 1;
                }
                Ok(BlobAnswer::Chunk(bytes))
            }
            (answer, _) => Ok(answer),
        }
    }

    fn last_heard(&self, peer: NodeId) -> Option<Instant> {
        if self.manners.lock().expect("no panic holds it").get(&peer) == Some(&Manner::Slow) {
            return Some(Instant::now());
        }
        // Everybody was heard when it was connected.
        let heard = self.heard.lock().expect("no panic holds it").get(&peer).copied();
        heard.or_else(|| Instant::now().checked_sub(Duration::from_secs(1)))
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

const MODEL_CHUNKS: usize = 18;

fn model() -> Vec<u8> {
    (0..17 * CHUNK_BYTES + 99).map(|i| (i.wrapping_mul(0x9E37_79B9) >> 11) as u8).collect()
}

/// One fetch by node 9 into `mine`.
async fn fetch_from(
    peers: &Peers,
    mine: &Arc<BlobStore>,
    origin: u8,
    others: &[u8],
    blob: BlobRef,
) -> (Fetched, Result<(), FetchError>) {
    let others: Vec<NodeId> = others.iter().copied().map(node).collect();
    fetch(mine, (&peers, &peers.silent), (node(9), node(origin), &others), blob, true, |_| {}).await
}

#[tokio::test]
async fn four_fetchers_take_little_more_than_one_copy_from_the_origin() {
    let data = model();
    let (dirs, stores): (Vec<_>, Vec<_>) = (0..5).map(|_| store()).unzip();
    let blob = stores[0].put(&data).expect("room");
    let peers = &Peers::of((0..).zip(stores));
    let others: &Vec<NodeId> = &(1..5).map(node).collect();
    // All have begun: who is asked for a chunk that is on its way waits for it, whatever the order in which they run.
    let begun = |me| {
        peers.stores[me].begin(Manifest::of(&data)).expect("room");
        peers.stores[me].fetching(blob.id)
    };
    let _begun: Vec<_> = others.iter().map(begun).collect();
    let fetches = others.iter().map(|me| async move {
        let (report, result) =
            fetch(&peers.stores[me], (&peers, &peers.silent), (*me, node(0), others), blob, true, |_| {}).await;
        result.expect("everybody serves");
        report.bytes
    });
    let received = futures::future::join_all(fetches).await;
    assert!(received.iter().all(|bytes| *bytes == blob.len), "a chunk came twice: {received:?}");
    let served = peers.served_by(0);
    assert!(served <= MODEL_CHUNKS * 3 / 2, "the origin served {served} chunks of a blob of {MODEL_CHUNKS}");
    for me in others {
        assert_eq!(peers.stores[me].read(blob.id).expect("it is whole"), data);
    }
    drop(dirs);
}

#[tokio::test]
async fn of_three_holders_one_that_lies_is_named_and_costs_nothing_else() {
    let data = model();
    let ((_d0, honest), (_d1, lying), (_d2, other), (_d3, mine)) = (store(), store(), store(), store());
    let blob = honest.put(&data).expect("room");
    lying.put(&data).expect("room");
    other.put(&data).expect("room");
    let peers = Peers::of([(0, honest), (1, lying), (2, other)]).with(1, Manner::Lies);
    let (report, result) = fetch_from(&peers, &mine, 0, &[1, 2], blob).await;
    result.expect("the origin is honest");
    assert_eq!(report.liars, [(node(1), Reject::WrongHash)]);
    assert!(peers.served_by(1) <= IN_FLIGHT, "it was asked again after its lie was known");
    assert_eq!(mine.read(blob.id).expect("it is whole"), data);
}

#[tokio::test]
async fn of_three_holders_one_that_hangs_is_asked_no_more_and_its_chunks_come_from_the_others() {
    let data = model();
    let ((_d0, a), (_d1, b), (_d2, c), (_d3, mine)) = (store(), store(), store(), store());
    let blob = a.put(&data).expect("room");
    b.put(&data).expect("room");
    c.put(&data).expect("room");
    let peers = Peers::of([(0, a), (1, b), (2, c)]).with(1, Manner::Hangs);
    let (report, result) = fetch_from(&peers, &mine, 0, &[1, 2], blob).await;
    result.expect("two of them serve");
    assert_eq!(report.failed.get(&node(1)), Some(&AskError::Timeout));
    assert!(peers.asked(1) <= IN_FLIGHT, "asked {} times", peers.asked(1));
    assert_eq!(report.bytes, blob.len);
    assert_eq!(mine.read(blob.id).expect("it is whole"), data);
}

#[tokio::test]
async fn a_silent_owner_costs_one_moment_in_all_fetches_together() {
    let (first, second) = (model(), model().into_iter().rev().collect::<Vec<u8>>());
    let ((_d0, origin), (_d1, mine)) = (store(), store());
    let blobs = [&first, &second].map(|data| origin.put(data).expect("room"));
    let peers = Peers::of([(0, origin), (1, store().1)]).with(1, Manner::Silent);
    let began = Instant::now();
    let (report, result) = fetch_from(&peers, &mine, 0, &[1], blobs[0]).await;
    result.expect("the origin serves");
    assert_eq!(report.bytes, blobs[0].len);
    assert!(began.elapsed() < ANSWER_TIMEOUT, "it was waited for");
    let asked = peers.asked(1);
    assert!((1..=IN_FLIGHT).contains(&asked), "it was asked {asked} times");
    let (_, result) = fetch_from(&peers, &mine, 0, &[1], blobs[1]).await;
    result.expect("the origin serves");
    assert_eq!(peers.asked(1), asked, "it was asked first again");
    assert_eq!(mine.read(blobs[1].id).expect("it is whole"), second);
}

#[tokio::test]
async fn a_silent_peer_that_is_heard_again_is_asked_again() {
    let data = model();
    let ((_d0, origin), (_d1, mine)) = (store(), store());
    let blob = origin.put(&data).expect("room");
    let peers = Peers::of([(0, origin.clone()), (1, origin)]);
    peers.silent.add(node(1));
    tokio::time::sleep(Duration::from_millis(10)).await;
    peers.hears(node(1));
    fetch_from(&peers, &mine, 0, &[1], blob).await.1.expect("both serve");
    assert_eq!(peers.served_by(1), MODEL_CHUNKS / 2);
}

#[tokio::test]
async fn a_chunk_that_is_slow_to_come_is_asked_of_nobody_else() {
    let data = model();
    let ((_d0, a), (_d1, b), (_d2, mine)) = (store(), store(), store());
    let blob = a.put(&data).expect("room");
    b.put(&data).expect("room");
    let peers = Peers::of([(0, a), (1, b)]).with(0, Manner::Slow).with(1, Manner::Slow);
    let (report, result) = fetch_from(&peers, &mine, 0, &[1], blob).await;
    result.expect("both serve");
    assert_eq!(report.bytes, blob.len);
    assert_eq!(peers.asked(0) + peers.asked(1), MODEL_CHUNKS + 1, "the manifest and each chunk once");
}

#[tokio::test]
async fn a_late_origin_is_waited_for_where_nobody_else_has_the_blob() {
    let data = model();
    let ((_d0, origin), (_d1, other), (_d2, mine)) = (store(), store(), store());
    let blob = origin.put(&data).expect("room");
    let peers = Peers::of([(0, origin), (1, other)]).with(0, Manner::Late);
    let (report, result) = fetch_from(&peers, &mine, 0, &[1], blob).await;
    result.expect("the origin serves");
    assert_eq!((report.bytes, peers.asked(0)), (blob.len, MODEL_CHUNKS + 1));
}

#[tokio::test]
async fn a_busy_origin_is_asked_again_later() {
    let data = model();
    let ((_d0, origin), (_d1, mine)) = (store(), store());
    let blob = origin.put(&data).expect("room");
    // More passes in vain than one that fails would have.
    let peers = Peers::of([(0, origin)]).with(0, Manner::Busy(4 * MODEL_CHUNKS));
    let (report, result) = fetch_from(&peers, &mine, 0, &[], blob).await;
    result.expect("it has time in the end");
    assert_eq!((report.bytes, report.failed.len()), (blob.len, 0));
}

#[tokio::test]
async fn an_upload_whose_connection_breaks_goes_on_from_where_it_was() {
    let data = model();
    let ((_d0, origin), (_d1, mine)) = (store(), store());
    let blob = origin.put(&data).expect("room");
    let peers = Peers::of([(0, origin)]).with(0, Manner::Breaks(3));
    let (report, result) = fetch_from(&peers, &mine, 0, &[], blob).await;
    result.expect("the connection is made anew");
    assert_eq!(report.bytes, blob.len, "a chunk came twice");
}

#[tokio::test]
async fn a_fetch_that_nobody_answers_ends() {
    let ((_d0, origin), (_d1, other), (_d2, mine)) = (store(), store(), store());
    let blob = origin.put(&model()).expect("room");
    for manner in [Manner::Hangs, Manner::Gone, Manner::Breaks(usize::MAX), Manner::Rambles] {
        let peers = Peers::of([(0, origin.clone()), (1, other.clone())]).with(0, manner).with(1, manner);
        let (_, result) = fetch_from(&peers, &mine, 0, &[1], blob).await;
        let right = match manner {
            Manner::Rambles => matches!(result, Err(FetchError::WrongHash(_))),
            _ => matches!(result, Err(FetchError::Unreachable(_))),
        };
        assert!(right, "{manner:?}: {result:?}");
    }
}

#[tokio::test]
async fn a_blob_that_only_a_liar_has_is_refused() {
    let ((_d0, lying), (_d1, mine)) = (store(), store());
    let blob = lying.put(&model()).expect("room");
    let peers = Peers::of([(0, lying)]).with(0, Manner::Lies);
    let (_, result) = fetch_from(&peers, &mine, 0, &[], blob).await;
    assert!(matches!(result, Err(FetchError::WrongHash(_))), "{result:?}");
    assert!(!mine.is_whole(blob.id));
}

/// Who proposes a model and garbles it costs a round as long as somebody looks for it.
#[tokio::test]
async fn where_the_origin_lies_the_others_are_asked_once() {
    let ((_d0, lying), (_d1, other), (_d2, mine)) = (store(), store(), store());
    // A single chunk, for which each pass asks once.
    let blob = lying.put(&[7; 100]).expect("room");
    let peers = Peers::of([(0, lying), (1, other)]).with(0, Manner::Lies);
    let (_, result) = fetch_from(&peers, &mine, 0, &[1], blob).await;
    assert!(matches!(result, Err(FetchError::WrongHash(_))), "{result:?}");
    assert_eq!(peers.asked(1), 1, "it said that it does not know it");
}

#[tokio::test]
async fn a_lie_of_another_is_not_held_against_an_origin_that_is_away() {
    let ((_d0, lying), (_d1, mine)) = (store(), store());
    let blob = lying.put(&model()).expect("room");
    let peers = Peers::of([(1, lying)]).with(1, Manner::Lies);
    let (report, result) = fetch_from(&peers, &mine, 0, &[1], blob).await;
    assert!(matches!(result, Err(FetchError::Unreachable(_))), "{result:?}");
    assert_eq!(report.liars, [(node(1), Reject::WrongHash)]);
}

#[tokio::test]
async fn with_its_origin_gone_a_blob_comes_from_the_others() {
    let data = model();
    let ((_d0, other), (_d1, mine)) = (store(), store());
    let blob = other.put(&data).expect("room");
    let peers = Peers::of([(1, other)]);
    let (_, result) = fetch_from(&peers, &mine, 0, &[1], blob).await;
    result.expect("node 1 has it");
    assert_eq!(mine.read(blob.id).expect("it is whole"), data);
}

#[tokio::test]
async fn the_one_holder_among_many_is_found() {
    let (dirs, stores): (Vec<_>, Vec<_>) = (0..50).map(|_| store()).unzip();
    let blob = stores[37].put(b"one chunk").expect("room");
    let (_d, mine) = store();
    let peers = Peers::of((100..).zip(stores));
    let others: Vec<u8> = (100..150).collect();
    let (_, result) = fetch_from(&peers, &mine, 0, &others, blob).await;
    result.expect("node 137 has it");
    drop(dirs);
}

#[tokio::test]
async fn an_interrupted_fetch_asks_only_for_what_is_missing() {
    let data = model();
    let ((_d0, origin), (dir, before)) = (store(), store());
    let blob = origin.put(&data).expect("room");
    before.begin(Manifest::of(&data)).expect("begins");
    for i in 0..10 {
        let bytes = origin.chunk(blob.id, i).expect("it is whole");
        assert!(before.write_chunk(blob.id, i, &bytes).expect("writes"));
    }
    drop(before);
    let mine = Arc::new(BlobStore::open(dir.path()).expect("it opens again"));
    // The machine says what to keep before it hears of the proposal again.
    mine.retain(&BTreeSet::new());
    let peers = Peers::of([(0, origin)]);
    let (report, result) = fetch_from(&peers, &mine, 0, &[], blob).await;
    result.expect("the origin serves");
    assert_eq!(report.bytes, blob.len - 10 * CHUNK_BYTES);
    assert_eq!(peers.asked(0), MODEL_CHUNKS - 10, "the manifest and ten chunks were on disk");
}

#[tokio::test]
async fn a_blob_that_is_whole_costs_no_request() {
    let (_d, mine) = store();
    let blob = mine.put(&model()).expect("room");
    let peers = Peers::default();
    let (report, result) = fetch_from(&peers, &mine, 0, &[1], blob).await;
    result.expect("it is here");
    assert_eq!((report, peers.asked(0)), (Fetched::default(), 0));
}

#[tokio::test]
async fn a_blob_spoken_of_with_another_length_is_refused() {
    let (_d, mine) = store();
    let blob = mine.put(&model()).expect("room");
    let peers = Peers::default();
    let (_, result) = fetch_from(&peers, &mine, 0, &[], BlobRef { len: blob.len + 1, ..blob }).await;
    assert!(matches!(result, Err(FetchError::WrongHash(_))), "{result:?}");
}

#[tokio::test]
async fn progress_grows_to_the_length_of_the_blob() {
    let ((_d0, origin), (_d1, mine)) = (store(), store());
    let blob = origin.put(&model()).expect("room");
    let peers = &Peers::of([(0, origin)]);
    let mut seen = vec![0];
    let (_, result) =
        fetch(&mine, (&peers, &peers.silent), (node(9), node(0), &[]), blob, true, |bytes| seen.push(bytes)).await;
    result.expect("the origin serves");
    assert!(seen.windows(2).all(|w| w[0] < w[1]), "{seen:?}");
    assert_eq!(seen.last(), Some(&blob.len));
}

#[tokio::test]
async fn who_does_not_fetch_a_blob_says_what_it_lacks() {
    let (_d, store) = store();
    let manifest = Manifest::of(&model());
    let blob = manifest.blob().id;
    assert_eq!(serve(&store, BlobRequest::Chunk { blob, index: 0 }).await, BlobAnswer::Unknown);
    assert!(store.chunk_signal(blob).is_none(), "there is nothing to wait for");
    store.begin(manifest).expect("begins");
    let answer = serve(&store, BlobRequest::Chunk { blob, index: 0 }).await;
    assert_eq!(answer, BlobAnswer::Lacks { have: vec![0; 3] });
}

#[tokio::test]
async fn who_fetches_a_blob_serves_a_chunk_as_soon_as_it_is_there() {
    let data = model();
    let (_d, store) = store();
    let manifest = Manifest::of(&data);
    let blob = manifest.blob().id;
    let fetching = store.fetching(blob);
    let asked = tokio::spawn({
        let store = store.clone();
        async move { serve(&store, BlobRequest::Chunk { blob, index: 3 }).await }
    });
    tokio::task::yield_now().await;
    store.begin(manifest).expect("begins");
    let chunk = &data[3 * CHUNK_BYTES as usize..4 * CHUNK_BYTES as usize];
    assert!(store.write_chunk(blob, 3, chunk).expect("writes"));
    assert_eq!(asked.await.expect("it ends"), BlobAnswer::Chunk(chunk.to_vec()));
    drop(fetching);
}

#[tokio::test]
async fn who_waits_for_a_fetch_that_is_given_up_hears_it() {
    let (_d, store) = store();
    let manifest = Manifest::of(&model());
    let blob = manifest.blob().id;
    let fetching = store.fetching(blob);
    store.begin(manifest).expect("begins");
    let mut signal = store.chunk_signal(blob).expect("it is being fetched");
    drop(fetching);
    signal.changed().await;
    assert!(store.chunk_signal(blob).is_none());
}
