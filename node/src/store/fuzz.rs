//! A store whose file was changed behind its back.

use std::fs;
use std::path::Path;

use paceline_protocol::base::signed::{Scope, Signed};
use paceline_protocol::io::{LocalStats, Persist, Recovered};
use paceline_protocol::record::{Committed, Founding, Kind, Record, Vote};
use paceline_protocol::{Ballot, BlobRef, Hash, Identity};
use tempfile::TempDir;

use super::{Database, HistoryEntry};

const RUN: Hash = Hash::from_bytes([5; 32]);

fn me() -> Identity {
    Identity::from_secret(&[1; 32])
}

fn open(folder: &Path) -> Result<Database, super::StoreError> {
    Database::open(&folder.join("store.redb"), RUN, me().node_id())
}

/// A few of what a node keeps.
fn items() -> Vec<Persist> {
    let node = me().node_id();
    let model = BlobRef { id: RUN, len: 4 };
    let content = Founding { run: RUN, founders: Vec::new(), model };
    let founding = Signed::new(&me(), &Founding::proposal_scope(RUN), content);
    let plain = |kind, round| Record::plain(kind, Ballot { round, attempt: 0 }, node, RUN, model);
    let genesis = plain(Kind::Genesis { founding, binds: Vec::new() }, 0);
    let chain = genesis.hash();
    let records = [genesis].into_iter().chain((1..6).map(|round| plain(Kind::Empty, round)));
    let committed = records.map(|record| Persist::Committed {
        chain,
        committed: Committed { record, accepts: Vec::new() },
        stats: LocalStats::default(),
    });
    let vote = Vote { ballot: Ballot { round: 6, attempt: 1 }, candidate: node, accepted: None, silent: Vec::new() };
    let vote = Signed::new(&me(), &Scope { run: RUN, chain, parent: chain }, vote);
    committed.chain([Persist::Vote { chain, vote }]).collect()
}

thread_local!(static SOUND: (TempDir, Vec<u8>, Recovered) = {
    let folder = crate::fuzz::folder();
    let database = open(folder.path()).expect("an empty folder");
    database.write(&items()).expect("there is room");
    let recovered = database.recover(Vec::new()).expect("it was just written");
    drop(database);
    let bytes = fs::read(folder.path().join("store.redb")).expect("it was just written");
    (folder, bytes, recovered)
});

/// A store that was changed, or cut off, is refused or reads as it was. Every four bytes are a change: where, and what; the first
/// byte of all says whether it is cut off as well. What a value may hold beside what was written there is for the decoders.
///
/// # Panics
/// Otherwise.
pub fn store(bytes: &[u8]) {
    if let Ok(entry) = paceline_protocol::codec::decode::<HistoryEntry, { 1 << 20 }>(bytes) {
        assert_eq!(paceline_protocol::codec::encode(&entry), bytes, "two encodings of one entry");
    }
    let Some((cut, changes)) = bytes.split_first() else { return };
    SOUND.with(|(folder, sound, before)| {
        let mut changed = sound.clone();
        for change in changes.chunks_exact(4) {
            let place = u32::from_le_bytes([change[0], change[1], change[2], 0]) as usize;
            // Most of what matters lies in the first pages.
            let place = if place & 0x80_0000 != 0 { place & 0xFFFF } else { place };
            let len = changed.len();
            changed[place % len] ^= change[3];
        }
        if cut & 1 == 1 {
            changed.truncate(changed.len() / 256 * usize::from(*cut));
        }
        fs::write(folder.path().join("store.redb"), &changed).expect("there is room");
        let found = open(folder.path()).and_then(|database| {
            database.contents()?;
            database.recover(Vec::new())
        });
        if let Ok(found) = found {
            assert_eq!(found, *before, "damage was believed");
        }
    });
}
