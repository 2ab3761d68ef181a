//! The database of one node: records, foundings, votes, accepts. Every write is on disk when it returns.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use paceline_protocol::bounds::{FOUNDINGS_MAX, MESSAGE_BYTES_MAX};
use paceline_protocol::codec::{self, CodecError};
use paceline_protocol::machine::{Figures, Persist, Recovered, RecoveredBallot, RecoveredFounding};
use paceline_protocol::message::Proposal;
use paceline_protocol::record::{Bind, Committed, Contribution, Evidence, Founding, Kind, Refusal, Vote};
use paceline_protocol::{Hash, RunId};
use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::files;

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

/// Bytes of the file that redb holds in memory: a node reads it once, and writes at its end.
const CACHE_BYTES: usize = 64 << 20;

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
pub struct HistoryEntry {
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
    /// Opens or makes the database of `run`. All of the file is read: one that is damaged is refused here.
    ///
    /// # Errors
    /// It can't be opened, is damaged, of another version or of another run.
    pub fn open(path: &Path, run: RunId) -> Result<Self, StoreError> {
        if !path.exists() {
            Self::make(path, run)?;
        }
        Self::prepared(path, builder().open(path), run)
    }

    /// A new file gets its name once all of it is on disk: one that is half made could never be opened.
    fn make(path: &Path, run: RunId) -> Result<(), StoreError> {
        let error = |source: io::Error| StoreError::Database { path: path.to_owned(), source: Box::new(source.into()) };
        let unfinished = path.with_extension(format!("redb.{}", files::UNFINISHED));
        match fs::remove_file(&unfinished) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(error(e)),
            _ => {}
        }
        drop(Self::prepared(&unfinished, builder().create(&unfinished), run)?);
        fs::rename(&unfinished, path).map_err(error)?;
        files::sync_dir(path.parent().unwrap_or(Path::new("."))).map_err(error)
    }

    fn prepared(
        path: &Path,
        redb: Result<redb::Database, redb::DatabaseError>,
        run: RunId,
    ) -> Result<Self, StoreError> {
        let path = path.to_owned();
        let redb = match redb {
            Ok(redb) => redb,
            Err(e) => return Err(StoreError::Database { path, source: Box::new(e.into()) }),
        };
        let database = Self { path, redb };
        database.write_all(|tx| make_tables(tx, run))?;
        database.check(run)?;
        Ok(database)
    }

    fn check(&self, run: RunId) -> Result<(), StoreError> {
        let path = || self.path.clone();
        let version = self.meta("version")?.and_then(|v| Some(u32::from_le_bytes(v.try_into().ok()?))).unwrap_or(0);
        if version != VERSION {
            return Err(StoreError::Version { path: path(), found: version });
        }
        let found = self.meta("run")?.and_then(|v| Some(Hash::from_bytes(v.try_into().ok()?))).unwrap_or(Hash::ZERO);
        if found != run {
            return Err(StoreError::OtherRun { path: path(), found, wanted: run });
        }
        Ok(())
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
    pub fn history(&self) -> Result<Vec<HistoryEntry>, StoreError> {
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
            chain: self.history()?.into_iter().map(|entry| entry.committed).collect(),
            aside: self.values::<HistoryEntry>(ASIDE, "aside")?.into_iter().map(|entry| entry.committed).collect(),
            foundings: foundings.collect(),
            ballots,
            contribution,
            evidence: self.values::<Evidence>(EVIDENCE, "evidence")?,
            left: self.meta("left")?.is_some(),
            blobs,
        })
    }
}

fn builder() -> redb::Builder {
    let mut builder = redb::Builder::new();
    // Every page is checked, so that a damaged file is refused at once and not believed, or stumbled over, later.
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

fn make_tables(tx: &WriteTransaction, run: RunId) -> Result<(), redb::Error> {
    let mut meta = tx.open_table(META)?;
    if meta.get("version")?.is_none() {
        meta.insert("version", &VERSION.to_le_bytes()[..])?;
        meta.insert("run", &run.as_bytes()[..])?;
    }
    for table in [FOUNDINGS, VOTES, ACCEPTED] {
        tx.open_table(table)?;
    }
    for table in [RECORDS, ASIDE, EVIDENCE] {
        tx.open_table(table)?;
    }
    Ok(())
}

fn write_item(tx: &WriteTransaction, item: &Persist) -> Result<(), redb::Error> {
    match item {
        Persist::Founding(founding) => {
            make_room_for_founding(tx)?;
            update_founding(tx, founding.id(), |stored| {
                stored.get_or_insert(StoredFounding {
                    founding: founding.clone(),
                    bind: None,
                    refusal: None,
                    decided: None,
                });
            })
        }
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
            let entry = HistoryEntry { committed: committed.clone(), figures: *figures };
            let mut records = tx.open_table(RECORDS)?;
            // Of a chain that could not be read to its end, what is behind the new record is of no use.
            records.retain_in(round + 1.., |_, _| false)?;
            records.insert(round, &codec::encode(&entry)[..])?;
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

/// As the machine does: beyond its bound, proofs of what came to nothing are the first to go.
fn make_room_for_founding(tx: &WriteTransaction) -> Result<(), redb::Error> {
    let mut table = tx.open_table(FOUNDINGS)?;
    if table.len()? < FOUNDINGS_MAX as u64 {
        return Ok(());
    }
    let came_to_nothing = |stored: &StoredFounding| {
        stored.decided.as_ref().is_some_and(|committed| matches!(committed.record.kind, Kind::Abort { .. }))
    };
    table.retain(|_, bytes| !codec::decode::<_, VALUE_BYTES_MAX>(bytes).is_ok_and(|s| came_to_nothing(&s)))?;
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
mod tests;
