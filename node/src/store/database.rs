//! The database of one node: records, foundings, votes, accepts. Every write is on disk when it returns.

use std::path::{Path, PathBuf};

use paceline_protocol::bounds::MESSAGE_BYTES_MAX;
use paceline_protocol::codec::{self, CodecError};
use paceline_protocol::machine::{Figures, Persist, Recovered, RecoveredBallot, RecoveredFounding};
use paceline_protocol::message::Proposal;
use paceline_protocol::record::{Bind, Committed, Contribution, Evidence, Founding, Refusal, Vote};
use paceline_protocol::{Hash, RunId};
use redb::{ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Grows with every change of what is stored.
const VERSION: u32 = 1;

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const RECORDS: TableDefinition<u64, &[u8]> = TableDefinition::new("records");
const ASIDE: TableDefinition<u64, &[u8]> = TableDefinition::new("aside");
const FOUNDINGS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("foundings");
/// Votes and accepted proposals by genesis and round.
const VOTES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("votes");
const ACCEPTED: TableDefinition<&[u8], &[u8]> = TableDefinition::new("accepted");
const EVIDENCE: TableDefinition<u64, &[u8]> = TableDefinition::new("evidence");

/// Bytes of one value: a record of the largest roster, and what stands beside it.
const VALUE_BYTES_MAX: usize = 2 * MESSAGE_BYTES_MAX;

/// Why the database can't be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The database failed.
    #[error(
        "{path}: {source}; if the disk is full, make room; if the file is damaged, move the home away and join again"
    )]
    Database {
        /// The file.
        path: PathBuf,
        /// What redb says.
        source: Box<redb::Error>,
    },
    /// A value that can't be read.
    #[error("{path}: table {table}: {source}; move the home away and join again under a new identity")]
    Value {
        /// The file.
        path: PathBuf,
        /// Where.
        table: &'static str,
        /// What is wrong.
        source: CodecError,
    },
    /// Written by another version.
    #[error("{path} has version {found} where this program writes {VERSION}; use the program that wrote it")]
    Version {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: u32,
    },
    /// The home of another run.
    #[error("{path} belongs to run {found}; give another --home for run {wanted}")]
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
pub struct Row {
    /// The record and its proof.
    pub committed: Committed,
    /// What this node measured.
    pub figures: Figures,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredFounding {
    founding: Founding,
    bind: Option<Bind>,
    refusal: Option<Refusal>,
    decided: Option<Committed>,
}

/// An open database.
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    redb: redb::Database,
}

fn key(genesis: Hash, round: u64) -> Vec<u8> {
    [&genesis.as_bytes()[..], &round.to_be_bytes()].concat()
}

fn split_key(key: &[u8]) -> Option<(Hash, u64)> {
    let (genesis, round) = key.split_first_chunk::<32>()?;
    Some((Hash::from_bytes(*genesis), u64::from_be_bytes(round.try_into().ok()?)))
}

impl Database {
    /// Opens or makes the database of `run`.
    ///
    /// # Errors
    /// It can't be opened, is of another version or of another run.
    pub fn open(path: &Path, run: RunId) -> Result<Self, StoreError> {
        let error = |source: redb::Error| StoreError::Database { path: path.to_owned(), source: Box::new(source) };
        let redb = redb::Database::create(path).map_err(|e| error(e.into()))?;
        let database = Self { path: path.to_owned(), redb };
        database.write_all(|tx| {
            let mut meta = tx.open_table(META)?;
            if meta.get("version")?.is_none() {
                meta.insert("version", &VERSION.to_le_bytes()[..])?;
                meta.insert("run", &run.as_bytes()[..])?;
            }
            drop(meta);
            for table in [FOUNDINGS, VOTES, ACCEPTED] {
                tx.open_table(table)?;
            }
            for table in [RECORDS, ASIDE, EVIDENCE] {
                tx.open_table(table)?;
            }
            Ok(())
        })?;
        let found = database.meta("version")?.and_then(|v| Some(u32::from_le_bytes(v.try_into().ok()?))).unwrap_or(0);
        if found != VERSION {
            return Err(StoreError::Version { path: path.to_owned(), found });
        }
        let found =
            database.meta("run")?.and_then(|v| Some(Hash::from_bytes(v.try_into().ok()?))).unwrap_or(Hash::ZERO);
        if found != run {
            return Err(StoreError::OtherRun { path: path.to_owned(), found, wanted: run });
        }
        Ok(database)
    }

    fn error(&self, source: impl Into<redb::Error>) -> StoreError {
        StoreError::Database { path: self.path.clone(), source: Box::new(source.into()) }
    }

    fn write_all(&self, work: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>) -> Result<(), StoreError> {
        // redb's default durability: a commit returns when it is on disk.
        let tx = self.redb.begin_write().map_err(|e| self.error(e))?;
        work(&tx).map_err(|e| self.error(e))?;
        tx.commit().map_err(|e| self.error(e))
    }

    fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.redb.begin_read()?.open_table(META)?;
            Ok(table.get(name)?.map(|v| v.value().to_vec()))
        };
        read().map_err(|e| self.error(e))
    }

    /// Writes the items in one transaction: all are on disk when it returns, or none.
    ///
    /// # Errors
    /// The disk fails or is full.
    pub fn write(&self, items: &[Persist]) -> Result<(), StoreError> {
        self.write_all(|tx| items.iter().try_for_each(|item| write_item(tx, item)))
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

    /// The records of the chain with this node's figures, the genesis first.
    ///
    /// # Errors
    /// The disk fails, or the file is damaged.
    pub fn rows(&self) -> Result<Vec<Row>, StoreError> {
        self.values(RECORDS, "records")
    }

    /// Everything that a machine needs to go on; `blobs` are those that are whole on disk.
    ///
    /// # Errors
    /// The disk fails, or the file is damaged.
    pub fn recover(&self, blobs: Vec<Hash>) -> Result<Recovered, StoreError> {
        let mut ballots: Vec<RecoveredBallot> = Vec::new();
        let mut ballot = |key: &[u8], vote: Option<Vote>, accepted: Option<Proposal>| {
            let Some((genesis, round)) = split_key(key) else { return };
            match ballots.iter_mut().find(|b| (b.genesis, b.round) == (genesis, round)) {
                Some(b) => b.accepted = accepted.or(b.accepted.take()),
                None => ballots.push(RecoveredBallot { genesis, round, vote, accepted }),
            }
        };
        for (key, vote) in self.keyed::<Vote>(VOTES, "votes")? {
            ballot(&key, Some(vote), None);
        }
        for (key, accepted) in self.keyed::<Proposal>(ACCEPTED, "accepted")? {
            ballot(&key, None, Some(accepted));
        }
        let foundings = self.keyed::<StoredFounding>(FOUNDINGS, "foundings")?.into_iter().map(|(_, f)| {
            RecoveredFounding { founding: f.founding, bind: f.bind, refusal: f.refusal, decided: f.decided }
        });
        let contribution = match self.meta("contribution")? {
            Some(bytes) => Some(self.decode::<(u64, Contribution)>("meta", &bytes)?),
            None => None,
        };
        Ok(Recovered {
            chain: self.rows()?.into_iter().map(|row| row.committed).collect(),
            aside: self.values::<Row>(ASIDE, "aside")?.into_iter().map(|row| row.committed).collect(),
            foundings: foundings.collect(),
            ballots,
            contribution,
            evidence: self.values::<Evidence>(EVIDENCE, "evidence")?,
            left: self.meta("left")?.is_some(),
            blobs,
        })
    }
}

fn write_item(tx: &WriteTransaction, item: &Persist) -> Result<(), redb::Error> {
    match item {
        Persist::Founding(founding) => update_founding(tx, founding.id(), |stored| {
            stored.get_or_insert(StoredFounding {
                founding: founding.clone(),
                bind: None,
                refusal: None,
                decided: None,
            });
        }),
        Persist::Bind { founding, bind } => {
            update_founding(tx, *founding, |s| s.iter_mut().for_each(|s| s.bind = Some(*bind)))
        }
        Persist::Refusal { founding, refusal } => {
            update_founding(tx, *founding, |s| s.iter_mut().for_each(|s| s.refusal = Some(*refusal)))
        }
        Persist::Decided { founding, committed } => {
            forget_ballots(tx, *founding, 0)?;
            update_founding(tx, *founding, |s| s.iter_mut().for_each(|s| s.decided = Some(committed.clone())))
        }
        Persist::Vote { genesis, vote } => {
            tx.open_table(VOTES)?.insert(&key(*genesis, vote.ballot.round)[..], &codec::encode(vote)[..])?;
            Ok(())
        }
        Persist::Accepted { genesis, proposal } => {
            tx.open_table(ACCEPTED)?.insert(&key(*genesis, proposal.ballot.round)[..], &codec::encode(proposal)[..])?;
            Ok(())
        }
        Persist::Committed { genesis, committed, figures } => {
            let round = committed.record.round;
            let row = Row { committed: committed.clone(), figures: *figures };
            tx.open_table(RECORDS)?.insert(round, &codec::encode(&row)[..])?;
            tx.open_table(META)?.remove("contribution")?;
            forget_ballots(tx, *genesis, round)
        }
        Persist::Contribution { round, contribution, .. } => {
            tx.open_table(META)?.insert("contribution", &codec::encode(&(round, contribution))[..])?;
            Ok(())
        }
        Persist::Evidence { evidence, .. } => {
            let mut table = tx.open_table(EVIDENCE)?;
            let next = table.last()?.map_or(0, |(k, _)| k.value() + 1);
            table.insert(next, &codec::encode(evidence)[..])?;
            Ok(())
        }
        Persist::SwitchChain { .. } => {
            let mut records = tx.open_table(RECORDS)?;
            let mut aside = tx.open_table(ASIDE)?;
            aside.retain(|_, _| false)?;
            let old: Vec<(u64, Vec<u8>)> =
                records.iter()?.map(|e| e.map(|(k, v)| (k.value(), v.value().to_vec()))).collect::<Result<_, _>>()?;
            for (round, bytes) in old {
                aside.insert(round, &bytes[..])?;
            }
            records.retain(|_, _| false)?;
            tx.open_table(META)?.remove("contribution")?;
            Ok(())
        }
        Persist::Left { .. } => {
            tx.open_table(META)?.insert("left", &[1][..])?;
            Ok(())
        }
    }
}

fn forget_ballots(tx: &WriteTransaction, genesis: Hash, round: u64) -> Result<(), redb::Error> {
    let key = key(genesis, round);
    tx.open_table(VOTES)?.remove(&key[..])?;
    tx.open_table(ACCEPTED)?.remove(&key[..])?;
    Ok(())
}

fn update_founding(
    tx: &WriteTransaction,
    id: Hash,
    change: impl FnOnce(&mut Option<StoredFounding>),
) -> Result<(), redb::Error> {
    let mut table = tx.open_table(FOUNDINGS)?;
    let key = &id.as_bytes()[..];
    let bytes = table.get(key)?.map(|v| v.value().to_vec());
    // What this program wrote reads back; a damaged entry is replaced, or left out, rather than stopping the node.
    let mut stored = bytes.and_then(|b| codec::decode::<StoredFounding, VALUE_BYTES_MAX>(&b).ok());
    change(&mut stored);
    if let Some(stored) = stored {
        table.insert(key, &codec::encode(&stored)[..])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use paceline_protocol::record::{Kind, Record};
    use paceline_protocol::rule::Rule;
    use paceline_protocol::sign::Scope;
    use paceline_protocol::{Ballot, BlobRef, Identity, NodeId};

    const RUN: Hash = Hash::from_bytes([5; 32]);
    const GENESIS: Hash = Hash::from_bytes([6; 32]);

    fn me() -> Identity {
        Identity::from_secret(&[1; 32])
    }

    fn record(round: u64) -> Record {
        Record {
            kind: Kind::Empty,
            round,
            attempt: 0,
            coordinator: me().node_id(),
            parent: GENESIS,
            model: BlobRef { id: GENESIS, len: 4 },
            participants: vec![],
            contributions: vec![],
            evaluations: vec![],
            rule: Rule::FedAvg,
            joined: vec![],
            left: vec![],
            evicted: vec![],
            open_ms: 1,
        }
    }

    fn vote(round: u64, candidate: NodeId) -> Vote {
        let scope = Scope { run: RUN, genesis: GENESIS, parent: GENESIS };
        Vote::new(&me(), &scope, Ballot { round, attempt: 0 }, candidate, None, vec![])
    }

    fn open(dir: &tempfile::TempDir) -> Database {
        Database::open(&dir.path().join("store.redb"), RUN).expect("it opens")
    }

    #[test]
    fn votes_and_accepts_are_there_after_a_restart_until_their_round_commits() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let vote = vote(3, me().node_id());
        let proposal = Proposal {
            genesis: GENESIS,
            ballot: vote.ballot,
            coordinator: me().node_id(),
            record: record(3),
            votes: vec![vote.clone()],
        };
        let database = open(&dir);
        let items = [
            Persist::Vote { genesis: GENESIS, vote: vote.clone() },
            Persist::Accepted { genesis: GENESIS, proposal: proposal.clone() },
        ];
        database.write(&items).expect("room on the disk");
        drop(database);
        let database = open(&dir);
        let expected = RecoveredBallot { genesis: GENESIS, round: 3, vote: Some(vote), accepted: Some(proposal) };
        assert_eq!(database.recover(vec![]).expect("reads").ballots, [expected]);
        let committed = Committed { record: record(3), accepts: vec![] };
        let item = Persist::Committed { genesis: GENESIS, committed, figures: Figures::default() };
        database.write(&[item]).expect("room on the disk");
        let recovered = database.recover(vec![]).expect("reads");
        assert_eq!((recovered.ballots.len(), recovered.chain.len()), (0, 1));
    }

    #[test]
    fn a_chain_that_was_given_up_is_kept_aside() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let database = open(&dir);
        let committed = |round| Committed { record: record(round), accepts: vec![] };
        let item =
            |round| Persist::Committed { genesis: GENESIS, committed: committed(round), figures: Figures::default() };
        database.write(&[item(0), item(1), Persist::SwitchChain { from: GENESIS, to: RUN }]).expect("room");
        let recovered = database.recover(vec![]).expect("reads");
        assert_eq!((recovered.chain, recovered.aside), (vec![], vec![committed(0), committed(1)]));
    }

    #[test]
    fn the_home_of_another_run_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        drop(open(&dir));
        let error = Database::open(&dir.path().join("store.redb"), GENESIS).expect_err("another run");
        assert!(matches!(error, StoreError::OtherRun { .. }), "{error}");
    }

    #[test]
    fn a_file_that_is_no_database_is_named() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("store.redb");
        std::fs::write(&path, b"not a database at all").expect("writes");
        let error = Database::open(&path, RUN).expect_err("garbage");
        assert!(error.to_string().contains("store.redb"), "{error}");
    }
}
