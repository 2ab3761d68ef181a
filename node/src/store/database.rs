//! The database of one node: records, promises, foundings, votes, accepts. Every write is on disk when it returns, by the
//! rules that `paceline_protocol::io::persist` gives a store.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use paceline_protocol::base::signed::Signed;
use paceline_protocol::bounds::{ABORTED_FOUNDINGS_MAX, MESSAGE_BYTES_MAX};
use paceline_protocol::codec::{self, CodecError};
use paceline_protocol::io::{KeptAside, LocalStats, Persist, Recovered, RecoveredBallot, RecoveredFounding};
use paceline_protocol::record::{AbortProof, Bind, Committed, Contribution, Evidence, Founding, Kind, Proposal, Vote};
use paceline_protocol::{Ballot, Hash, NodeId, RunId};
use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, TableError, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::files;
use super::mark::{Mark, MarkError};

/// Grows with every change of what is stored.
const VERSION: u32 = 5;

/// `version`, `run`, `node` (whose promises these are), `store` (drawn when the file was made), `writes` (how many there were),
/// `current` (the chain that the node is in or follows), `switched` (the one that its owner moves it to), `bound`,
/// `contribution`, `leaving`, `left`.
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// For each chain and founding the highest ballot voted or accepted in, or decided. Nothing deletes one.
const PROMISES: TableDefinition<&[u8], (u64, u32)> = TableDefinition::new("promises");
/// Chains in which the node lost what it promised.
const FORGOTTEN: TableDefinition<&[u8], ()> = TableDefinition::new("forgotten");
/// The records of all chains, by genesis and round.
const RECORDS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("chains");
/// Proofs of foundings that came to nothing, in the order in which they did.
const ABORTED: TableDefinition<u64, &[u8]> = TableDefinition::new("aborted");
/// Votes and accepted proposals, by chain or founding and round.
const VOTES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("votes");
const ACCEPTED: TableDefinition<&[u8], &[u8]> = TableDefinition::new("accepted");
const EVIDENCE: TableDefinition<u64, &[u8]> = TableDefinition::new("evidence");
/// Second commits of rounds that this chain has decided.
const SECOND_COMMITS: TableDefinition<u64, &[u8]> = TableDefinition::new("second_commits");

/// Bytes of one value: a record of the largest roster, and what stands beside it.
const VALUE_BYTES_MAX: usize = 2 * MESSAGE_BYTES_MAX;

/// Bytes of the file that redb holds in memory: a node reads it once, and writes at its end.
const CACHE_BYTES: usize = 64 << 20;

/// What to do without a database that holds all that this node promised.
const START_ANEW: &str = "a node that does not know all that it promised must not go on: bring back the right file, or move the home away and join again, as another node";

/// The file beside the database that counts its confirmed writes.
const MARK: &str = "store.mark";

/// Why the database can't be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The database failed.
    #[error("{path}: {source}; if the disk is full, make room")]
    Database {
        /// The file.
        path: PathBuf,
        /// What redb says.
        source: Box<redb::Error>,
    },
    /// The file is not what was written.
    #[error("{path} is damaged: {what}; {START_ANEW}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where, and what was expected.
        what: String,
    },
    /// The file ends before what was confirmed.
    #[error(
        "{path} ends with write {found}, and {confirmed} were confirmed, as {MARK} beside it says: its end is damaged, or it is a copy from earlier; {START_ANEW}"
    )]
    Behind {
        /// The file.
        path: PathBuf,
        /// Writes in it.
        found: u64,
        /// Writes that were confirmed.
        confirmed: u64,
    },
    /// There is no file, and there was one.
    #[error("{path} is missing, and {confirmed} writes to it were confirmed, as {MARK} beside it says; {START_ANEW}")]
    Lost {
        /// The file.
        path: PathBuf,
        /// Writes that were confirmed.
        confirmed: u64,
    },
    /// Nothing says how many writes the file must hold.
    #[error(
        "{path} {what}: it says how many writes store.redb must hold, so that none is lost unnoticed; {START_ANEW}"
    )]
    Mark {
        /// The mark's file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A value that can't be read.
    #[error("{path}: table {table}: {source}; {START_ANEW}")]
    Value {
        /// The file.
        path: PathBuf,
        /// Where.
        table: &'static str,
        /// What is wrong.
        source: CodecError,
    },
    /// Written by another version.
    #[error(
        "{path} has version {found}, and this program reads version {VERSION} alone; finish the run with the program that wrote it, or move the home away and join again: all nodes of a run must be of one version"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: u32,
    },
    /// A record whose predecessor is not on disk: writing it would lose promises.
    #[error(
        "{path}: record {round} of chain {chain} came where record {expected} is due; this is a defect, please report it"
    )]
    Gap {
        /// The file.
        path: PathBuf,
        /// The chain.
        chain: String,
        /// The record that came.
        round: u64,
        /// The one that is due.
        expected: u64,
    },
    /// The home of another node: its promises are not this node's.
    #[error(
        "{path} belongs to node {found}, and identity.key is of node {wanted}: one of the two is another's, or damaged; {START_ANEW}"
    )]
    OtherNode {
        /// The file.
        path: PathBuf,
        /// The node found.
        found: NodeId,
        /// The node wanted.
        wanted: NodeId,
    },
    /// The home of another run.
    #[error(
        "{path} belongs to run {found}, and the run file is of run {wanted}; give another --home for that run; if it is run.toml of this home that is damaged, remove it and give the run file or a ticket"
    )]
    OtherRun {
        /// The file.
        path: PathBuf,
        /// The run found.
        found: RunId,
        /// The run wanted.
        wanted: RunId,
    },
}

/// A record as a node keeps it, with its own figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The record and its proof.
    pub committed: Committed,
    /// What this node measured.
    pub stats: LocalStats,
}

/// The chain of these records, its record 0 first, once it can't give itself up any more: with its first round, and from
/// the beginning if one member began it alone.
pub(crate) fn settled_chain(history: &[HistoryEntry]) -> Option<Hash> {
    let (first, rest) = history.split_first()?;
    let record = &first.committed.record;
    (!rest.is_empty() || matches!(record.kind, Kind::Forced(_))).then(|| record.hash())
}

/// Why an item was not written.
enum WriteError {
    Redb(redb::Error),
    Gap { chain: Hash, round: u64, expected: u64 },
}

impl<E: Into<redb::Error>> From<E> for WriteError {
    fn from(error: E) -> Self {
        Self::Redb(error.into())
    }
}

/// An open database.
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    redb: redb::Database,
    mark: Mutex<Mark>,
}

fn key(genesis: Hash, round: u64) -> Vec<u8> {
    [&genesis.as_bytes()[..], &round.to_be_bytes()].concat()
}

fn split_key(key: &[u8]) -> Option<(Hash, u64)> {
    let (genesis, round) = key.split_first_chunk::<32>()?;
    Some((Hash::from_bytes(*genesis), u64::from_be_bytes(round.try_into().ok()?)))
}

impl Database {
    /// Opens or makes the database of `node` in `run`. All of the file is read: one that is damaged is refused here.
    ///
    /// # Errors
    /// It can't be opened, is damaged, ends before what was confirmed, is of another version, of another run or of another
    /// node.
    pub fn open(path: &Path, run: RunId, node: NodeId) -> Result<Self, StoreError> {
        let mark_path = path.with_file_name(MARK);
        let mark = match Mark::open(&mark_path) {
            Err(MarkError::Damaged) => return Err(StoreError::Mark { path: mark_path, what: "is damaged" }),
            Err(MarkError::Disk(source)) => return Err(failure(&mark_path, source.into())),
            Ok(mark) => mark,
        };
        if !path.exists() {
            if let Some(confirmed) = mark.as_ref().map(Mark::writes).filter(|writes| *writes > 0) {
                return Err(StoreError::Lost { path: path.to_owned(), confirmed });
            }
            Self::make(path, run, node)?;
        }
        Self::prepared(path, builder().open(path), (run, node), mark, |store| Mark::make(&mark_path, store))
    }

    /// A new file gets its name once all of it is on disk: one that is half made could never be opened.
    fn make(path: &Path, run: RunId, node: NodeId) -> Result<(), StoreError> {
        let error = |source: io::Error| failure(path, source.into());
        let unfinished = path.with_extension(format!("redb.{}", files::UNFINISHED));
        match fs::remove_file(&unfinished) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(error(e)),
            _ => {}
        }
        let redb = builder().create(&unfinished).map_err(|e| failure(&unfinished, e.into()))?;
        fill(&redb, run, node).map_err(|e| failure(&unfinished, e))?;
        drop(redb);
        fs::rename(&unfinished, path).map_err(error)?;
        files::sync_dir(path.parent().unwrap_or(Path::new("."))).map_err(error)
    }

    /// Checks what was opened before anything is written to it: whose it is, and whether it has all that was confirmed.
    fn prepared(
        path: &Path,
        redb: Result<redb::Database, redb::DatabaseError>,
        (run, node): (RunId, NodeId),
        mark: Option<Mark>,
        make_mark: impl FnOnce(Hash) -> io::Result<Mark>,
    ) -> Result<Self, StoreError> {
        let redb = redb.map_err(|e| failure(path, e.into()))?;
        let error = |e: redb::Error| failure(path, e);
        check(path, &redb, run, node)?;
        let mark_error = |what| StoreError::Mark { path: path.with_file_name(MARK), what };
        let (store, writes) = counted(&redb).map_err(error)?;
        match &mark {
            Some(mark) if mark.writes() > writes => {
                return Err(StoreError::Behind { path: path.to_owned(), found: writes, confirmed: mark.writes() });
            }
            Some(mark) if Some(mark.store()) != store && writes > 0 => return Err(mark_error("is of another store")),
            None if writes > 0 => return Err(mark_error("is missing")),
            _ => {}
        }
        fill(&redb, run, node).map_err(error)?;
        let (store, writes) = counted(&redb).map_err(error)?;
        // One that was made by a start which came no further counts for nothing.
        let mut mark = match mark.filter(|mark| Some(mark.store()) == store) {
            Some(mark) => mark,
            None => make_mark(store.unwrap_or(Hash::ZERO)).map_err(|e| error(e.into()))?,
        };
        // What is read back counts as confirmed from now on.
        if mark.writes() < writes {
            mark.confirm(writes).map_err(|e| error(e.into()))?;
        }
        Ok(Self { path: path.to_owned(), redb, mark: Mutex::new(mark) })
    }

    fn error(&self, source: impl Into<redb::Error>) -> StoreError {
        failure(&self.path, source.into())
    }

    fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        meta(&self.redb, name).map_err(|e| self.error(e))
    }

    /// Writes the items in one transaction: all are on disk when it returns, or none.
    ///
    /// # Errors
    /// The disk fails or is full, or a record is not the next one. Nothing that was to be written may be acted on.
    pub fn write(&self, items: &[Persist]) -> Result<(), StoreError> {
        let mut mark = self.mark.lock().unwrap_or_else(PoisonError::into_inner);
        // redb's default durability: a commit returns when it is on disk.
        let tx = self.redb.begin_write().map_err(|e| self.error(e))?;
        let write = || -> Result<u64, WriteError> {
            items.iter().try_for_each(|item| write_item(&tx, item))?;
            let writes = mark.writes() + 1;
            set_meta(&tx, "writes", &writes.to_le_bytes())?;
            Ok(writes)
        };
        let writes = write().map_err(|error| match error {
            WriteError::Redb(error) => self.error(error),
            WriteError::Gap { chain, round, expected } => {
                StoreError::Gap { path: self.path.clone(), chain: chain.to_string(), round, expected }
            }
        })?;
        tx.commit().map_err(|e| self.error(e))?;
        mark.confirm(writes).map_err(|source| failure(&self.path.with_file_name(MARK), source.into()))
    }

    fn values<T: DeserializeOwned>(
        &self,
        table: TableDefinition<u64, &[u8]>,
        name: &'static str,
    ) -> Result<Vec<T>, StoreError> {
        let read = || -> Result<Vec<Vec<u8>>, redb::Error> {
            let table = self.redb.begin_read()?.open_table(table)?;
            table.iter()?.map(|entry| Ok(entry?.1.value().to_vec())).collect()
        };
        read().map_err(|e| self.error(e))?.iter().map(|bytes| self.decode(name, bytes)).collect()
    }

    fn keyed<T: DeserializeOwned>(
        &self,
        table: TableDefinition<&[u8], &[u8]>,
        name: &'static str,
    ) -> Result<Vec<(Vec<u8>, T)>, StoreError> {
        type Entries = Vec<(Vec<u8>, Vec<u8>)>;
        let read = || -> Result<Entries, redb::Error> {
            let table = self.redb.begin_read()?.open_table(table)?;
            table
                .iter()?
                .map(|entry| entry.map(|(k, v)| (k.value().to_vec(), v.value().to_vec())).map_err(Into::into))
                .collect()
        };
        let entries = read().map_err(|e| self.error(e))?;
        entries.into_iter().map(|(k, bytes)| Ok((k, self.decode(name, &bytes)?))).collect()
    }

    fn decode<T: DeserializeOwned>(&self, table: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
        codec::decode::<T, VALUE_BYTES_MAX>(bytes).map_err(|source| StoreError::Value {
            path: self.path.clone(),
            table,
            source,
        })
    }

    /// The records of the node's chain with its own figures, the genesis first.
    ///
    /// # Errors
    /// The disk fails, or the file is damaged.
    pub fn history(&self) -> Result<Vec<HistoryEntry>, StoreError> {
        let Some(current) = self.current()? else { return Ok(Vec::new()) };
        Ok(self.chains()?.into_iter().filter(|(chain, _)| *chain == current).flat_map(|(_, entries)| entries).collect())
    }

    fn current(&self) -> Result<Option<Hash>, StoreError> {
        self.hash("current")
    }

    fn hash(&self, name: &str) -> Result<Option<Hash>, StoreError> {
        Ok(self.meta(name)?.and_then(|v| Some(Hash::from_bytes(v.try_into().ok()?))))
    }

    /// The records of every chain, each from its genesis on.
    fn chains(&self) -> Result<Vec<(Hash, Vec<HistoryEntry>)>, StoreError> {
        let mut chains: Vec<(Hash, Vec<HistoryEntry>)> = Vec::new();
        for (key, entry) in self.keyed::<HistoryEntry>(RECORDS, "chains")? {
            let Some((chain, _)) = split_key(&key) else { continue };
            match chains.last_mut() {
                Some((last, entries)) if *last == chain => entries.push(entry),
                _ => chains.push((chain, vec![entry])),
            }
        }
        Ok(chains)
    }

    fn promises(&self) -> Result<Vec<(Hash, Ballot)>, StoreError> {
        let read = || -> Result<Vec<(Hash, Ballot)>, redb::Error> {
            let table = self.redb.begin_read()?.open_table(PROMISES)?;
            let promise = |key: &[u8], (round, attempt)| {
                Some((Hash::from_bytes(key.try_into().ok()?), Ballot { round, attempt }))
            };
            let mut promises = Vec::new();
            for entry in table.iter()? {
                let (key, value) = entry?;
                promises.extend(promise(key.value(), value.value()));
            }
            Ok(promises)
        };
        read().map_err(|e| self.error(e))
    }

    fn forgotten(&self) -> Result<Vec<Hash>, StoreError> {
        let read = || -> Result<Vec<Hash>, redb::Error> {
            let mut forgotten = Vec::new();
            for entry in self.redb.begin_read()?.open_table(FORGOTTEN)?.iter()? {
                forgotten.extend(entry?.0.value().try_into().ok().map(Hash::from_bytes));
            }
            Ok(forgotten)
        };
        read().map_err(|e| self.error(e))
    }

    /// What this node voted and accepted, of rounds that are not decided.
    fn ballots(&self) -> Result<Vec<RecoveredBallot>, StoreError> {
        let mut ballots: Vec<RecoveredBallot> = Vec::new();
        let mut add = |key: &[u8], vote: Option<Signed<Vote>>, accepted: Option<Proposal>| {
            let Some((chain, round)) = split_key(key) else { return };
            match ballots.iter_mut().find(|b| (b.chain, b.round) == (chain, round)) {
                Some(b) => b.accepted = accepted.or(b.accepted.take()),
                None => ballots.push(RecoveredBallot { chain, round, vote, accepted }),
            }
        };
        for (key, vote) in self.keyed::<Signed<Vote>>(VOTES, "votes")? {
            add(&key, Some(vote), None);
        }
        for (key, accepted) in self.keyed::<Proposal>(ACCEPTED, "accepted")? {
            add(&key, None, Some(accepted));
        }
        Ok(ballots)
    }

    fn foundings(&self) -> Result<Vec<RecoveredFounding>, StoreError> {
        let aborted = self.values::<(Hash, AbortProof)>(ABORTED, "aborted")?;
        let aborted = aborted.into_iter().map(|(founding, proof)| RecoveredFounding::Aborted { founding, proof });
        let bound = match self.meta("bound")? {
            Some(bytes) => Some(self.decode::<(Signed<Founding>, Signed<Bind>)>("meta", &bytes)?),
            None => None,
        };
        let bound = bound.map(|(founding, bind)| RecoveredFounding::Bound { founding, bind });
        Ok(aborted.chain(bound).collect())
    }

    /// Everything that a machine needs to go on; `blobs` are those that are whole on disk.
    ///
    /// # Errors
    /// The disk fails, or the file is damaged.
    pub fn recover(&self, blobs: Vec<Hash>) -> Result<Recovered, StoreError> {
        let current = self.current()?;
        let ballots = self.ballots()?;
        let (mut chain, mut given_up, mut kept_aside) = (Vec::new(), Vec::new(), Vec::new());
        for (genesis, entries) in self.chains()? {
            let records: Vec<Committed> = entries.into_iter().map(|entry| entry.committed).collect();
            match records.as_slice() {
                [first, yielded] if matches!(yielded.record.kind, Kind::Yield { .. }) => {
                    given_up.push([first.clone(), yielded.clone()]);
                }
                _ if Some(genesis) == current => chain = records,
                _ => kept_aside.extend(KeptAside::of(&records, &ballots)),
            }
        }
        let contribution = match self.meta("contribution")? {
            Some(bytes) => Some(self.decode::<Signed<Contribution>>("meta", &bytes)?),
            None => None,
        };
        Ok(Recovered {
            promises: self.promises()?,
            forgotten: self.forgotten()?,
            chain,
            kept_aside,
            switched: self.hash("switched")?,
            given_up,
            foundings: self.foundings()?,
            ballots,
            contribution,
            evidence: self.values::<Evidence>(EVIDENCE, "evidence")?,
            leaving: self.meta("leaving")?.is_some(),
            left: self.meta("left")?.is_some(),
            blobs,
        })
    }
}

/// All that a database holds, for who looks into it from outside.
#[derive(Debug, Clone)]
pub struct Contents {
    /// The chain that the node is in or follows.
    pub current: Option<Hash>,
    /// Whether the node is bound to a founding that is not decided.
    pub is_bound: bool,
    /// The records of every chain, each from its genesis on.
    pub chains: Vec<(Hash, Vec<HistoryEntry>)>,
    /// For each chain and founding the highest ballot that the node voted or accepted in, or saw decided.
    pub promises: Vec<(Hash, Ballot)>,
    /// What it voted and accepted in rounds that are not decided.
    pub ballots: Vec<RecoveredBallot>,
    /// Lies that it was shown.
    pub evidence: Vec<Evidence>,
    /// Second commits of rounds that its chain has decided.
    pub second_commits: Vec<Committed>,
}

impl Database {
    /// Everything, read once.
    ///
    /// # Errors
    /// The disk fails, or the file is damaged.
    pub fn contents(&self) -> Result<Contents, StoreError> {
        Ok(Contents {
            current: self.current()?,
            is_bound: self.meta("bound")?.is_some(),
            chains: self.chains()?,
            promises: self.promises()?,
            ballots: self.ballots()?,
            evidence: self.values::<Evidence>(EVIDENCE, "evidence")?,
            second_commits: self.values::<Committed>(SECOND_COMMITS, "second_commits")?,
        })
    }
}

/// What redb says, as an error of this file.
fn failure(path: &Path, source: redb::Error) -> StoreError {
    let path = path.to_owned();
    match source {
        redb::Error::Corrupted(what) => StoreError::Damaged { path, what },
        redb::Error::UpgradeRequired(found) => StoreError::Damaged {
            path,
            what: format!("its database has format {found}, which this program does not read"),
        },
        // It has no beginning of a database, or ends too early.
        redb::Error::Io(source)
            if matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            StoreError::Damaged { path, what: source.to_string() }
        }
        source => StoreError::Database { path, source: Box::new(source) },
    }
}

fn meta(redb: &redb::Database, name: &str) -> Result<Option<Vec<u8>>, redb::Error> {
    let table = match redb.begin_read()?.open_table(META) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        table => table?,
    };
    Ok(table.get(name)?.map(|v| v.value().to_vec()))
}

/// Whether a database is of this program's version, of this run and this node; one without tables is.
fn check(path: &Path, redb: &redb::Database, run: RunId, node: NodeId) -> Result<(), StoreError> {
    let meta = |name| meta(redb, name).map_err(|e| failure(path, e));
    let Some(version) = meta("version")? else { return Ok(()) };
    let path = || path.to_owned();
    let found = version.try_into().map_or(0, u32::from_le_bytes);
    if found != VERSION {
        return Err(StoreError::Version { path: path(), found });
    }
    let found = meta("run")?.and_then(|v| Some(Hash::from_bytes(v.try_into().ok()?))).unwrap_or(Hash::ZERO);
    if found != run {
        return Err(StoreError::OtherRun { path: path(), found, wanted: run });
    }
    let found = meta("node")?.and_then(|v| Some(NodeId::from_public_key(v.try_into().ok()?)));
    if let Some(found) = found.filter(|found| *found != node) {
        return Err(StoreError::OtherNode { path: path(), found, wanted: node });
    }
    Ok(())
}

/// The name that a database drew when it was made, and how many writes it holds. One that was made before writes were
/// counted has neither.
fn counted(redb: &redb::Database) -> Result<(Option<Hash>, u64), redb::Error> {
    let store = meta(redb, "store")?.and_then(|v| Some(Hash::from_bytes(v.try_into().ok()?)));
    let writes = meta(redb, "writes")?.and_then(|v| Some(u64::from_le_bytes(v.try_into().ok()?)));
    Ok((store, writes.unwrap_or(0)))
}

/// Gives a database what it lacks: tables, and whose it is.
fn fill(redb: &redb::Database, run: RunId, node: NodeId) -> Result<(), redb::Error> {
    let tx = redb.begin_write()?;
    make_tables(&tx, run, node)?;
    Ok(tx.commit()?)
}

fn builder() -> redb::Builder {
    let mut builder = redb::Builder::new();
    // Every page is checked, so that a damaged file is refused at once and not believed, or stumbled over, later.
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

fn make_tables(tx: &WriteTransaction, run: RunId, node: NodeId) -> Result<(), redb::Error> {
    let mut meta = tx.open_table(META)?;
    if meta.get("version")?.is_none() {
        meta.insert("version", &VERSION.to_le_bytes()[..])?;
        meta.insert("run", &run.as_bytes()[..])?;
        meta.insert("node", &node.as_bytes()[..])?;
    }
    if meta.get("store")?.is_none() {
        meta.insert("store", &paceline_bootstrap::fresh_secret()[..])?;
    }
    tx.open_table(PROMISES)?;
    tx.open_table(FORGOTTEN)?;
    for table in [RECORDS, VOTES, ACCEPTED] {
        tx.open_table(table)?;
    }
    for table in [ABORTED, EVIDENCE, SECOND_COMMITS] {
        tx.open_table(table)?;
    }
    Ok(())
}

fn write_item(tx: &WriteTransaction, item: &Persist) -> Result<(), WriteError> {
    for (chain, ballot) in item.promises() {
        promise(tx, chain, ballot)?;
    }
    match item {
        Persist::Bound { founding, bind } => set_meta(tx, "bound", &codec::encode(&(founding, bind))),
        Persist::Aborted { founding, proof } => {
            tx.open_table(META)?.remove("bound")?;
            forget_ballots(tx, *founding, 0)?;
            append(tx, ABORTED, &codec::encode(&(founding, proof)))?;
            let mut table = tx.open_table(ABORTED)?;
            while table.len()? > ABORTED_FOUNDINGS_MAX as u64 {
                table.pop_first()?;
            }
            Ok(())
        }
        Persist::Vote { chain, vote } => {
            let round = item.promises().first().map_or(0, |(_, ballot)| ballot.round);
            tx.open_table(VOTES)?.insert(&key(*chain, round)[..], &codec::encode(vote)[..])?;
            Ok(())
        }
        Persist::Accepted { chain, proposal } => {
            let round = item.promises().first().map_or(0, |(_, ballot)| ballot.round);
            tx.open_table(ACCEPTED)?.insert(&key(*chain, round)[..], &codec::encode(proposal)[..])?;
            Ok(())
        }
        Persist::Committed { chain, committed, stats } => write_record(tx, *chain, committed, *stats),
        Persist::Contribution { contribution, .. } => set_meta(tx, "contribution", &codec::encode(contribution)),
        Persist::Evidence(evidence) => append(tx, EVIDENCE, &codec::encode(evidence)),
        Persist::SecondCommit(committed) => append(tx, SECOND_COMMITS, &codec::encode(committed)),
        Persist::LetGo { chain } => {
            tx.open_table(META)?.remove("current")?;
            forget_chain(tx, *chain)
        }
        Persist::Switched { to } => {
            let is_here = tx.open_table(RECORDS)?.get(&key(*to, 0)[..])?.is_some();
            let mut meta = tx.open_table(META)?;
            meta.remove("contribution")?;
            meta.remove("leaving")?;
            let [set, removed] = if is_here { ["current", "switched"] } else { ["switched", "current"] };
            meta.insert(set, &to.as_bytes()[..])?;
            meta.remove(removed)?;
            Ok(())
        }
        Persist::Forgotten { chain } => {
            tx.open_table(FORGOTTEN)?.insert(&chain.as_bytes()[..], ())?;
            Ok(())
        }
        Persist::Leaving => set_meta(tx, "leaving", &[1]),
        Persist::Left => set_meta(tx, "left", &[1]),
    }
}

/// A promise only grows.
fn promise(tx: &WriteTransaction, chain: Hash, ballot: Ballot) -> Result<(), WriteError> {
    let mut table = tx.open_table(PROMISES)?;
    let before = table.get(&chain.as_bytes()[..])?.map(|v| v.value());
    if before.is_none_or(|before| before < (ballot.round, ballot.attempt)) {
        table.insert(&chain.as_bytes()[..], (ballot.round, ballot.attempt))?;
    }
    Ok(())
}

/// A record goes behind its predecessor, or nowhere. A record 0 begins a chain, and a genesis ends the founding that led to
/// it; a yield ends the node's time in it.
fn write_record(
    tx: &WriteTransaction,
    chain: Hash,
    committed: &Committed,
    stats: LocalStats,
) -> Result<(), WriteError> {
    let round = committed.record.round;
    let entry = HistoryEntry { committed: committed.clone(), stats };
    {
        let mut records = tx.open_table(RECORDS)?;
        let (first, last) = (key(chain, 0), key(chain, u64::MAX));
        let expected = match records.range(&first[..]..=&last[..])?.next_back() {
            Some(found) => split_key(found?.0.value()).map_or(0, |(_, round)| round + 1),
            None => 0,
        };
        if round != expected {
            return Err(WriteError::Gap { chain, round, expected });
        }
        records.insert(&key(chain, round)[..], &codec::encode(&entry)[..])?;
    }
    let mut meta = tx.open_table(META)?;
    meta.remove("contribution")?;
    if round == 0 {
        meta.remove("switched")?;
    }
    match &committed.record.kind {
        Kind::Genesis { founding, .. } => {
            meta.remove("bound")?;
            meta.insert("current", &chain.as_bytes()[..])?;
            forget_ballots(tx, founding.id(), 0)?;
        }
        Kind::Forced(_) => {
            meta.remove("leaving")?;
            meta.insert("current", &chain.as_bytes()[..])?;
        }
        Kind::Yield { .. } => {
            meta.remove("current")?;
        }
        Kind::Abort | Kind::Train | Kind::Empty | Kind::Closing => {}
    }
    forget_ballots(tx, chain, round)
}

fn set_meta(tx: &WriteTransaction, name: &str, value: &[u8]) -> Result<(), WriteError> {
    tx.open_table(META)?.insert(name, value)?;
    Ok(())
}

fn append(tx: &WriteTransaction, table: TableDefinition<u64, &[u8]>, value: &[u8]) -> Result<(), WriteError> {
    let mut table = tx.open_table(table)?;
    let next = table.last()?.map_or(0, |(k, _)| k.value() + 1);
    table.insert(next, value)?;
    Ok(())
}

fn forget_chain(tx: &WriteTransaction, chain: Hash) -> Result<(), WriteError> {
    let (first, last) = (key(chain, 0), key(chain, u64::MAX));
    tx.open_table(RECORDS)?.retain_in(&first[..]..=&last[..], |_, _| false)?;
    Ok(())
}

fn forget_ballots(tx: &WriteTransaction, chain: Hash, round: u64) -> Result<(), WriteError> {
    let key = key(chain, round);
    tx.open_table(VOTES)?.remove(&key[..])?;
    tx.open_table(ACCEPTED)?.remove(&key[..])?;
    Ok(())
}

#[cfg(test)]
mod tests;
