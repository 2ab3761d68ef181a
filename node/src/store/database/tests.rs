use super::*;
use crate::store::mark;
use paceline_protocol::base::roster::Member;
use paceline_protocol::base::signed::Scope;
use paceline_protocol::record::{Accept, Forced, Founding, Lie, Proposed, Record, Refusal};
use paceline_protocol::{BlobRef, Identity, NodeId};
use redb::StorageBackend;
use std::sync::{Arc, Mutex};

const RUN: Hash = Hash::from_bytes([5; 32]);
const CHAIN: Hash = Hash::from_bytes([6; 32]);

fn me() -> Identity {
    Identity::from_secret(&[1; 32])
}

fn scope() -> Scope {
    Scope { run: RUN, chain: CHAIN, parent: CHAIN }
}

fn record(round: u64) -> Record {
    let model = BlobRef { id: CHAIN, len: 4 };
    Record::plain(Kind::Empty, Ballot { round, attempt: 0 }, me().node_id(), CHAIN, model)
}

fn vote(round: u64, candidate: NodeId) -> Signed<Vote> {
    let vote = Vote { ballot: Ballot { round, attempt: 0 }, candidate, accepted: None, silent: vec![] };
    Signed::new(&me(), &scope(), vote)
}

fn proposal(round: u64) -> Proposal {
    let (record, vote) = (record(round), vote(round, me().node_id()));
    let proposed = Proposed { ballot: Ballot { round, attempt: 0 }, value: record.hash() };
    Proposal { proposed: Signed::new(&me(), &scope(), proposed), record, votes: vec![vote] }
}

fn founding(model: u8) -> Signed<Founding> {
    let model = BlobRef { id: Hash::from_bytes([model; 32]), len: 4 };
    let content = Founding { run: RUN, founders: vec![], model };
    Signed::new(&me(), &Founding::proposal_scope(RUN), content)
}

fn bound(founding: &Signed<Founding>) -> (Persist, Signed<Bind>) {
    let bind = Signed::new(&me(), &founding.scope(), Bind { consent: RUN });
    (Persist::Bound { founding: founding.clone(), bind }, bind)
}

fn abort(founding: Hash) -> (Persist, AbortProof) {
    let scope = Scope { run: RUN, chain: founding, parent: founding };
    let proof = AbortProof::Refused(Signed::new(&me(), &scope, Refusal { chain: None }));
    (Persist::Aborted { founding, proof: proof.clone() }, proof)
}

fn committed(round: u64) -> Persist {
    committed_in(CHAIN, record(round))
}

fn committed_in(chain: Hash, record: Record) -> Persist {
    Persist::Committed { chain, committed: Committed { record, accepts: vec![] }, stats: LocalStats::default() }
}

/// The record that begins a chain: it makes it the node's own.
fn genesis() -> Record {
    Record { kind: Kind::Genesis { founding: founding(1), binds: vec![] }, ..record(0) }
}

fn contribution() -> Signed<Contribution> {
    let content = Contribution {
        round: 3,
        samples: 7,
        update: BlobRef { id: RUN, len: 4 },
        train_loss: Some(0.25),
        train_ms: 9,
        evaluation: None,
        trainer: String::new(),
    };
    Signed::new(&me(), &scope(), content)
}

fn lie() -> Evidence {
    let ballot = Ballot { round: 3, attempt: 0 };
    let accept = |value| Signed::new(&me(), &scope(), Accept { ballot, coordinator: me().node_id(), value });
    Evidence { chain: CHAIN, parent: CHAIN, lie: Lie::Accepts([accept(RUN), accept(CHAIN)]) }
}

/// The chain up to a round, the genesis included.
fn chain_to(round: u64) -> Vec<Persist> {
    [committed_in(CHAIN, genesis())].into_iter().chain((1..=round).map(committed)).collect()
}

/// The chain up to a round, kept aside.
fn aside_to(round: u64) -> KeptAside {
    let records: Vec<Committed> = [genesis()]
        .into_iter()
        .chain((1..=round).map(record))
        .map(|record| Committed { record, accepts: vec![] })
        .collect();
    KeptAside::of(&records, &[]).expect("it has a record 0")
}

fn open(dir: &tempfile::TempDir) -> Database {
    Database::open(&dir.path().join("store.redb"), RUN, me().node_id()).expect("it opens")
}

#[test]
fn votes_and_accepts_are_there_after_a_restart_until_their_round_commits() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (vote, proposal) = (vote(3, me().node_id()), proposal(3));
    let database = open(&dir);
    database.write(&chain_to(2)).expect("room on the disk");
    let items = [
        Persist::Vote { chain: CHAIN, vote: vote.clone() },
        Persist::Accepted { chain: CHAIN, proposal: proposal.clone() },
    ];
    database.write(&items).expect("room on the disk");
    drop(database);
    let database = open(&dir);
    let expected = RecoveredBallot { chain: CHAIN, round: 3, vote: Some(vote), accepted: Some(proposal) };
    assert_eq!(database.recover(vec![]).expect("reads").ballots, [expected]);
    database.write(&[committed(3)]).expect("room on the disk");
    let recovered = database.recover(vec![]).expect("reads");
    assert_eq!((recovered.ballots.len(), recovered.chain.len()), (0, 4));
}

#[test]
fn promises_only_grow_and_outlive_what_they_were_given_for() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let promised = || {
        let promises = open(&dir).recover(vec![]).expect("reads").promises;
        promises.into_iter().find(|(chain, _)| *chain == CHAIN).map(|(_, ballot)| ballot)
    };
    open(&dir).write(&chain_to(2)).expect("room");
    assert_eq!(promised(), Some(Ballot::end_of_round(2)));
    open(&dir).write(&[Persist::Vote { chain: CHAIN, vote: vote(3, me().node_id()) }]).expect("room");
    assert_eq!(promised(), Some(Ballot { round: 3, attempt: 0 }));
    open(&dir).write(&[Persist::Vote { chain: CHAIN, vote: vote(1, me().node_id()) }]).expect("room");
    assert_eq!(promised(), Some(Ballot { round: 3, attempt: 0 }));
    open(&dir).write(&[Persist::LetGo { chain: CHAIN }]).expect("room");
    assert_eq!(promised(), Some(Ballot { round: 3, attempt: 0 }), "the chain is gone, its promise is not");
}

#[test]
fn a_chain_whose_promises_were_lost_stays_one() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let lost = Persist::Forgotten { chain: CHAIN };
    open(&dir).write(&[lost.clone(), committed_in(CHAIN, genesis()), lost]).expect("room");
    open(&dir).write(&[Persist::LetGo { chain: CHAIN }]).expect("room");
    assert_eq!(open(&dir).recover(vec![]).expect("reads").forgotten, [CHAIN]);
}

#[test]
fn a_record_behind_a_gap_is_refused_with_all_that_is_written_with_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let database = open(&dir);
    database.write(&chain_to(2)).expect("room");
    let items = [Persist::Vote { chain: CHAIN, vote: vote(4, me().node_id()) }, committed(4)];
    let error = database.write(&items).expect_err("record 3 is missing");
    assert!(matches!(error, StoreError::Gap { round: 4, expected: 3, .. }), "{error}");
    let recovered = database.recover(vec![]).expect("reads");
    assert_eq!((recovered.chain.len(), recovered.ballots.len()), (3, 0));
}

#[test]
fn a_chain_that_gave_itself_up_is_remembered_as_that() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let database = open(&dir);
    let yielded = Record { kind: Kind::Yield { to: RUN, alive: vec![] }, ..record(1) };
    database.write(&[committed_in(CHAIN, genesis()), committed_in(CHAIN, yielded.clone())]).expect("room");
    let recovered = database.recover(vec![]).expect("reads");
    let pair = [genesis(), yielded].map(|record| Committed { record, accepts: vec![] });
    assert_eq!((recovered.chain, recovered.given_up), (vec![], vec![pair]));
    assert!(database.history().expect("reads").is_empty());
    // Another chain is the node's from now on; the first stays what it is.
    database.write(&[committed_in(RUN, genesis())]).expect("room");
    let recovered = database.recover(vec![]).expect("reads");
    assert_eq!((recovered.chain.len(), recovered.given_up.len()), (1, 1));
}

#[test]
fn a_chain_that_the_node_was_moved_away_from_is_kept_and_goes_on_where_it_ended() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let database = open(&dir);
    database.write(&chain_to(2)).expect("room");
    database.write(&[Persist::Switched { to: RUN }]).expect("room");
    let recovered = database.recover(vec![]).expect("reads");
    assert_eq!((recovered.chain, recovered.kept_aside, recovered.switched), (vec![], vec![aside_to(2)], Some(RUN)));
    database.write(&[committed_in(RUN, genesis())]).expect("room");
    assert_eq!(database.recover(vec![]).expect("reads").switched, None);
    database.write(&[Persist::Switched { to: CHAIN }]).expect("room");
    assert_eq!(database.recover(vec![]).expect("reads").chain.len(), 3);
    database.write(&[committed(3)]).expect("it grows where it ended");
    assert_eq!(database.history().expect("reads").len(), 4);
}

#[test]
fn a_chain_that_is_begun_alone_is_the_node_s_from_then_on() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let database = open(&dir);
    database.write(&chain_to(2)).expect("room");
    let member = Member { node: me().node_id(), name: String::new(), part: None };
    let content = Forced {
        chain: CHAIN,
        head: record(2).hash(),
        round: 2,
        trained: 2,
        model: record(2).model,
        member,
        nonce: RUN,
    };
    let forced = Signed::new(&me(), &Founding::proposal_scope(RUN), content);
    let id = forced.id();
    database.write(&[committed_in(RUN, Record { kind: Kind::Forced(forced), ..record(0) })]).expect("room");
    let recovered = database.recover(vec![]).expect("reads");
    assert_eq!((recovered.chain.len(), recovered.kept_aside), (1, vec![aside_to(2)]));
    assert!(recovered.promises.contains(&(id, Ballot::end_of_round(0))), "{:?}", recovered.promises);
}

#[test]
fn a_chain_that_was_let_go_of_is_gone() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let database = open(&dir);
    database.write(&chain_to(2)).expect("room");
    database.write(&[Persist::LetGo { chain: CHAIN }]).expect("room");
    assert!(database.recover(vec![]).expect("reads").chain.is_empty());
    database.write(&chain_to(1)).expect("it can be entered again from its beginning");
}

#[test]
fn the_home_of_another_run_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    drop(open(&dir));
    let error = Database::open(&dir.path().join("store.redb"), CHAIN, me().node_id()).expect_err("another run");
    assert!(matches!(error, StoreError::OtherRun { .. }), "{error}");
}

#[test]
fn the_store_of_another_node_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    drop(open(&dir));
    let other = Identity::from_secret(&[2; 32]).node_id();
    let error = Database::open(&dir.path().join("store.redb"), RUN, other).expect_err("another node");
    assert!(matches!(error, StoreError::OtherNode { .. }), "{error}");
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("store.redb");
    std::fs::write(&path, b"not a database at all").expect("writes");
    let error = Database::open(&path, RUN, me().node_id()).expect_err("garbage");
    assert!(error.to_string().contains("store.redb"), "{error}");
}

#[test]
fn a_founding_binds_over_restarts_until_its_outcome_is_known() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let founding = founding(1);
    let (item, bind) = bound(&founding);
    open(&dir).write(&[item]).expect("room on the disk");
    let expected = RecoveredFounding::Bound { founding: founding.clone(), bind };
    assert_eq!(open(&dir).recover(vec![]).expect("reads").foundings, [expected]);
    let (item, proof) = abort(founding.id());
    open(&dir).write(&[item]).expect("room on the disk");
    let expected = RecoveredFounding::Aborted { founding: founding.id(), proof };
    assert_eq!(open(&dir).recover(vec![]).expect("reads").foundings, [expected]);
}

#[test]
fn a_genesis_ends_the_founding_that_led_to_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let database = open(&dir);
    let id = founding(1).id();
    let vote = |chain| Persist::Vote { chain, vote: vote(0, me().node_id()) };
    database.write(&[bound(&founding(1)).0, vote(id), vote(RUN), committed_in(CHAIN, genesis())]).expect("room");
    let recovered = database.recover(vec![]).expect("reads");
    assert!(recovered.foundings.is_empty());
    assert_eq!(recovered.ballots.iter().map(|b| b.chain).collect::<Vec<_>>(), [RUN]);
    assert!(recovered.promises.contains(&(id, Ballot::end_of_round(0))), "nobody votes in it again");
}

#[test]
fn proofs_of_foundings_that_came_to_nothing_are_bounded_and_the_oldest_go_first() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let database = open(&dir);
    let number = |n: usize| Hash::of(&n.to_le_bytes());
    let aborts: Vec<Persist> = (0..ABORTED_FOUNDINGS_MAX + 3).map(|n| abort(number(n)).0).collect();
    database.write(&aborts).expect("room");
    let recovered = database.recover(vec![]).expect("reads");
    let ids = |f: &RecoveredFounding| match f {
        RecoveredFounding::Aborted { founding, .. } => *founding,
        RecoveredFounding::Bound { founding, .. } => founding.id(),
    };
    let ids: Vec<Hash> = recovered.foundings.iter().map(ids).collect();
    assert_eq!((ids.len(), ids[0]), (ABORTED_FOUNDINGS_MAX, number(3)));
    assert_eq!(recovered.promises.len(), ABORTED_FOUNDINGS_MAX + 3, "their promises stay");
}

#[test]
fn a_contribution_is_there_after_a_restart_until_its_round_commits() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    open(&dir).write(&chain_to(2)).expect("room on the disk");
    let item = Persist::Contribution { chain: CHAIN, contribution: contribution() };
    open(&dir).write(&[item]).expect("room on the disk");
    assert_eq!(open(&dir).recover(vec![]).expect("reads").contribution, Some(contribution()));
    open(&dir).write(&[committed(3)]).expect("room on the disk");
    assert_eq!(open(&dir).recover(vec![]).expect("reads").contribution, None);
}

#[test]
fn evidence_and_leaving_are_there_after_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let proof = || Persist::Evidence(lie());
    open(&dir).write(&[proof(), proof(), Persist::Left]).expect("room on the disk");
    let recovered = open(&dir).recover(vec![RUN]).expect("reads");
    assert_eq!((recovered.evidence, recovered.left, recovered.blobs), (vec![lie(), lie()], true, vec![RUN]));
}

#[test]
fn a_record_comes_with_this_node_s_figures() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let committed = Committed { record: genesis(), accepts: vec![] };
    let stats = LocalStats { duration_ms: Some(5), overhead_ms: Some(2), bytes_sent: 3, bytes_received: 4 };
    let item = Persist::Committed { chain: CHAIN, committed: committed.clone(), stats };
    open(&dir).write(&[item]).expect("room on the disk");
    assert_eq!(open(&dir).history().expect("reads"), [HistoryEntry { committed, stats }]);
}

#[test]
fn a_later_vote_replaces_the_one_before_in_its_round_alone() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let other = Identity::from_secret(&[2; 32]).node_id();
    let items = [vote(3, me().node_id()), vote(4, me().node_id()), vote(3, other)];
    let items = items.map(|vote| Persist::Vote { chain: CHAIN, vote });
    open(&dir).write(&items).expect("room on the disk");
    let ballots = open(&dir).recover(vec![]).expect("reads").ballots;
    let votes: Vec<_> = ballots.iter().map(|b| (b.round, b.vote.clone())).collect();
    assert_eq!(votes, [(3, Some(vote(3, other))), (4, Some(vote(4, me().node_id())))]);
}

#[test]
fn another_version_is_named() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let database = open(&dir);
    let tx = database.redb.begin_write().expect("room");
    tx.open_table(META).expect("it is there").insert("version", &9u32.to_le_bytes()[..]).expect("room");
    tx.commit().expect("room");
    drop(database);
    let error = Database::open(&dir.path().join("store.redb"), RUN, me().node_id()).expect_err("version 9");
    assert!(matches!(error, StoreError::Version { found: 9, .. }), "{error}");
}

#[test]
fn a_value_that_is_no_record_is_named_with_its_file_and_table() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let database = open(&dir);
    let tx = database.redb.begin_write().expect("room");
    tx.open_table(RECORDS).expect("it is there").insert(&key(CHAIN, 0)[..], &b"no record"[..]).expect("room");
    tx.commit().expect("room");
    let error = database.recover(vec![]).expect_err("it is none").to_string();
    assert!(error.contains("store.redb") && error.contains("chains"), "{error}");
}

/// Numbers from a seed, for where to damage and what to lose (splitmix64).
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// What was done to a file of a disk.
#[derive(Debug, Clone)]
enum Done {
    Length(u64),
    Write(u64, Vec<u8>),
    Sync,
}

/// The bytes of a disk's files.
type Image = [Vec<u8>; 2];

/// The files of a disk.
const STORE: usize = 0;
const MARKS: usize = 1;

/// A disk that remembers what was done to it, so that a power loss can be played at any moment.
#[derive(Debug, Clone, Default)]
struct Disk {
    image: Arc<Mutex<Image>>,
    log: Arc<Mutex<Vec<(usize, Done)>>>,
}

/// One file of a disk.
#[derive(Debug)]
struct DiskFile(Disk, usize);

fn apply(bytes: &mut Vec<u8>, done: &Done) {
    match done {
        Done::Length(len) => bytes.resize(*len as usize, 0),
        Done::Write(offset, data) => {
            let range = *offset as usize..*offset as usize + data.len();
            if range.end > bytes.len() {
                bytes.resize(range.end, 0);
            }
            bytes[range].copy_from_slice(data);
        }
        Done::Sync => {}
    }
}

impl Disk {
    fn with(image: Image) -> Self {
        Self { image: Arc::new(Mutex::new(image)), ..Self::default() }
    }

    /// How much was done so far.
    fn mark(&self) -> usize {
        self.log.lock().expect("no panic holds it").len()
    }

    fn image(&self) -> Image {
        self.image.lock().expect("no panic holds it").clone()
    }

    /// What a kill after `mark` leaves: all that was done.
    fn after_kill(&self, mark: usize) -> Image {
        let mut image = Image::default();
        self.log.lock().expect("no panic holds it")[..mark].iter().for_each(|(f, done)| apply(&mut image[*f], done));
        image
    }

    /// What a power loss after `mark` leaves: of each file all that was synced, and of the rest some, the last write perhaps
    /// in part.
    fn after_power_loss(&self, mark: usize, draw: &mut Draw) -> Image {
        let log = self.log.lock().expect("no panic holds it");
        let mut image = Image::default();
        for (file, bytes) in image.iter_mut().enumerate() {
            let done: Vec<&Done> = log[..mark].iter().filter(|(f, _)| *f == file).map(|(_, done)| done).collect();
            let synced = done.iter().rposition(|d| matches!(d, Done::Sync)).map_or(0, |i| i + 1);
            done[..synced].iter().for_each(|done| apply(bytes, done));
            for done in &done[synced..] {
                match (draw.below(3), done) {
                    (0, _) => apply(bytes, done),
                    (1, Done::Write(at, data)) => {
                        apply(bytes, &Done::Write(*at, data[..draw.below(data.len() + 1)].to_vec()));
                    }
                    _ => {}
                }
            }
        }
        image
    }

    fn open(&self) -> Result<Database, StoreError> {
        let mark = self.image()[MARKS].clone();
        let file = || Box::new(DiskFile(self.clone(), MARKS));
        let mark = if mark.is_empty() { None } else { Some(Mark::read(file()).expect("no power loss harms it")) };
        Database::prepared(
            Path::new("a disk in memory"),
            builder().create_with_backend(DiskFile(self.clone(), STORE)),
            (RUN, me().node_id()),
            mark,
            |store| {
                file().write(0, &mark::image(store))?;
                file().sync_data()?;
                Ok(Mark::read(file()).expect("it was just made"))
            },
        )
    }

    fn recover(image: &Image) -> Result<Recovered, StoreError> {
        Self::with(image.clone()).open()?.recover(vec![])
    }
}

type Io<T> = Result<T, std::io::Error>;

impl DiskFile {
    fn does(&self, done: Done) -> Io<()> {
        apply(&mut self.0.image.lock().expect("no panic holds it")[self.1], &done);
        self.0.log.lock().expect("no panic holds it").push((self.1, done));
        Ok(())
    }
}

impl StorageBackend for DiskFile {
    fn len(&self) -> Io<u64> {
        Ok(self.0.image.lock().expect("no panic holds it")[self.1].len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Io<()> {
        let image = self.0.image.lock().expect("no panic holds it");
        let bytes = image[self.1].get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(bytes.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Io<()> {
        self.does(Done::Length(len))
    }

    fn sync_data(&self) -> Io<()> {
        self.does(Done::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Io<()> {
        self.does(Done::Write(offset, data.to_vec()))
    }
}

/// A disk on which a node wrote a record and its vote of the round after it, twelve times; where the first write began, and
/// where each was confirmed.
fn twelve_rounds() -> (Disk, usize, Vec<usize>) {
    let disk = Disk::default();
    let database = disk.open().expect("an empty disk");
    let begun = disk.mark();
    let write = |round| {
        let vote = Persist::Vote { chain: CHAIN, vote: vote(round + 1, me().node_id()) };
        let record = if round == 0 { committed_in(CHAIN, genesis()) } else { committed(round) };
        database.write(&[record, vote]).expect("room");
        disk.mark()
    };
    let confirmed = (0..12).map(write).collect();
    (disk, begun, confirmed)
}

/// Whether a database holds what was confirmed, and perhaps one write more.
fn holds(recovered: &Recovered, confirmed: usize) -> Result<(), String> {
    let found = recovered.chain.len();
    if !(confirmed..=confirmed + 1).contains(&found) {
        return Err(format!("{found} records of {confirmed} confirmed"));
    }
    // Record, vote and promise were written together: there is one with the others.
    let next = recovered.chain.last().map(|c| c.record.round + 1);
    let votes: Vec<u64> = recovered.ballots.iter().map(|b| b.round).collect();
    let promised = recovered.promises.iter().find(|(chain, _)| *chain == CHAIN).map(|(_, ballot)| ballot.round);
    let wanted = next.into_iter().collect::<Vec<_>>();
    if votes != wanted || promised != next {
        return Err(format!("{found} records, and the votes are {votes:?}, the promise {promised:?}"));
    }
    Ok(())
}

#[test]
fn what_was_confirmed_survives_a_kill_after_each_single_write() {
    let (disk, begun, confirmed) = twelve_rounds();
    for mark in begun..=disk.mark() {
        let recovered = Disk::recover(&disk.after_kill(mark)).unwrap_or_else(|e| panic!("write {mark}: {e}"));
        let due = confirmed.iter().filter(|at| **at <= mark).count();
        holds(&recovered, due).unwrap_or_else(|e| panic!("write {mark}: {e}"));
    }
}

#[test]
fn what_was_confirmed_survives_a_power_loss_at_any_moment() {
    let (disk, begun, confirmed) = twelve_rounds();
    for mark in begun..=disk.mark() {
        for seed in 0..4 {
            let mut draw = Draw(seed * 1_000 + mark as u64);
            let recovered = Disk::recover(&disk.after_power_loss(mark, &mut draw));
            let recovered = recovered.unwrap_or_else(|e| panic!("write {mark}, seed {seed}: {e}"));
            let due = confirmed.iter().filter(|at| **at <= mark).count();
            holds(&recovered, due).unwrap_or_else(|e| panic!("write {mark}, seed {seed}: {e}"));
        }
    }
}

/// Opens damaged files as a node does. What was confirmed is there, or what is wrong is said with the file's name.
fn named_or_harmless(image: &Image, before: &Recovered, what: &str) -> Option<StoreError> {
    match Disk::recover(image) {
        Ok(found) => {
            assert_eq!(&found, before, "{what}: damage was believed");
            None
        }
        Err(error) => {
            assert!(error.to_string().contains("a disk in memory"), "{what}: {error}");
            Some(error)
        }
    }
}

#[test]
fn a_flipped_bit_in_a_killed_node_s_store_is_named_or_harmless() {
    let (disk, _, confirmed) = twelve_rounds();
    // What a kill leaves: a database that was not closed.
    let sound = disk.after_kill(confirmed[11]);
    let before = Disk::recover(&sound).expect("it is sound");
    let mut named = Vec::new();
    // All bits of the header, which has the word on which commit counts, and many of the pages.
    let header = (0..320 * 8).map(|bit| bit as usize);
    let mut draw = Draw(7);
    let elsewhere: Vec<usize> = (0..2_000).map(|_| draw.below(sound[STORE].len() * 8)).collect();
    for bit in header.chain(elsewhere) {
        let mut image = sound.clone();
        image[STORE][bit / 8] ^= 1 << (bit % 8);
        named.extend(named_or_harmless(&image, &before, &format!("bit {bit}")));
    }
    let of_kind = |kind: fn(&StoreError) -> bool| named.iter().filter(|e| kind(e)).count();
    let damaged = of_kind(|e| matches!(e, StoreError::Damaged { .. }));
    // redb takes these for a write that a power loss tore, and opens with what was before.
    let behind = of_kind(|e| matches!(e, StoreError::Behind { found: 11, confirmed: 12, .. }));
    println!("{damaged} damaged, {behind} behind, of {}", named.len());
    assert!(damaged > 0 && behind > 0, "{damaged} damaged, {behind} behind, of {}", named.len());
}

#[test]
fn a_store_cut_anywhere_is_named_or_harmless() {
    let (disk, _, confirmed) = twelve_rounds();
    // What a kill leaves: a database that was not closed.
    let sound = disk.after_kill(confirmed[11]);
    let before = Disk::recover(&sound).expect("it is sound");
    let mut draw = Draw(3);
    let whole = sound[STORE].len();
    let cuts: Vec<usize> = (0..200).map(|_| draw.below(whole)).chain([1, 64, 319, 320, 4096, whole - 1]).collect();
    for cut in cuts {
        let mut image = sound.clone();
        image[STORE].truncate(cut);
        named_or_harmless(&image, &before, &format!("cut at {cut}"));
    }
}

#[test]
fn a_store_of_an_earlier_moment_is_refused() {
    let (disk, _, confirmed) = twelve_rounds();
    let now = disk.image();
    for at in &confirmed[..11] {
        let [store, _] = disk.after_kill(*at);
        let error = Disk::recover(&[store, now[MARKS].clone()]).expect_err("it forgot");
        assert!(matches!(error, StoreError::Behind { confirmed: 12, .. }), "{error}");
    }
    // Store and mark of one earlier moment are a home of that moment: nothing on this disk tells.
    assert!(Disk::recover(&disk.after_kill(confirmed[5])).is_ok());
}

#[test]
fn a_damaged_mark_is_named_or_the_store_holds_all_anyway() {
    let (disk, _, confirmed) = twelve_rounds();
    let sound = disk.after_kill(confirmed[11]);
    let before = Disk::recover(&sound).expect("it is sound");
    // The slots; between them there is nothing.
    let slots = (0..72 * 8).flat_map(|bit| [bit, 4096 * 8 + bit]);
    for bit in slots {
        let mut image = sound.clone();
        image[MARKS][bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Disk::recover(&image).expect("the other slot is whole"), before, "bit {bit}");
    }
    // A mark from earlier: the store has more, which is no loss.
    let [_, earlier] = disk.after_kill(confirmed[3]);
    assert_eq!(Disk::recover(&[sound[STORE].clone(), earlier]).expect("nothing is lost"), before);
    let [_, other] = twelve_rounds().0.image();
    let error = Disk::recover(&[sound[STORE].clone(), other]).expect_err("another store's");
    assert!(matches!(error, StoreError::Mark { what: "is of another store", .. }), "{error}");
    let error = Disk::recover(&[sound[STORE].clone(), vec![]]).expect_err("it is gone");
    assert!(matches!(error, StoreError::Mark { what: "is missing", .. }), "{error}");
}

#[test]
fn a_store_without_its_mark_or_a_mark_without_its_store_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let open_again = || Database::open(&dir.path().join("store.redb"), RUN, me().node_id());
    let (store, mark) = (dir.path().join("store.redb"), dir.path().join("store.mark"));
    open(&dir).write(&chain_to(2)).expect("room");
    let kept = std::fs::read(&mark).expect("it is there");
    std::fs::write(&mark, []).expect("room");
    assert!(matches!(open_again(), Err(StoreError::Mark { what: "is damaged", .. })));
    std::fs::remove_file(&mark).expect("it is there");
    assert!(matches!(open_again(), Err(StoreError::Mark { what: "is missing", .. })));
    std::fs::write(&mark, kept).expect("room");
    std::fs::remove_file(&store).expect("it is there");
    assert!(matches!(open_again(), Err(StoreError::Lost { confirmed: 1, .. })));
}

#[test]
fn a_store_from_before_writes_were_counted_gets_its_mark() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let database = open(&dir);
    database.write(&chain_to(2)).expect("room");
    let tx = database.redb.begin_write().expect("room");
    for name in ["store", "writes"] {
        tx.open_table(META).expect("it is there").remove(name).expect("room");
    }
    tx.commit().expect("room");
    drop(database);
    std::fs::remove_file(dir.path().join("store.mark")).expect("it is there");
    open(&dir).write(&[committed(3)]).expect("room");
    assert_eq!(open(&dir).history().expect("reads").len(), 4);
    std::fs::remove_file(dir.path().join("store.mark")).expect("it is there");
    assert!(Database::open(&dir.path().join("store.redb"), RUN, me().node_id()).is_err());
}

#[test]
fn a_database_that_was_half_made_in_an_earlier_life_is_made_anew() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    // What a kill or a power loss leaves while the file is made.
    let disk = Disk::default();
    drop(disk.open().expect("an empty disk"));
    let [image, _] = disk.after_power_loss(disk.mark() / 2, &mut Draw(1));
    std::fs::write(dir.path().join("store.redb.new"), image).expect("writes");
    open(&dir).write(&chain_to(0)).expect("room on the disk");
    assert_eq!(open(&dir).history().expect("reads").len(), 1);
    assert_eq!(std::fs::read_dir(dir.path()).expect("reads").count(), 2, "nothing is left behind but store and mark");
}
