//! A run of real nodes whose every write to their homes is recorded, and a kill and a power loss played after each of them:
//! what a node had said by then is on its disk, nothing on it is wrong, and from there the run goes on.

mod cluster;
mod disk;

use std::path::Path;

use cluster::Cluster;
use disk::{Deed, Draw, Image, Recording, recorder};
use paceline::blobs::{BlobStore, Manifest};
use paceline::store::{Contents, Database, Home};
use paceline::verify::verify;
use paceline_protocol::record::{Committed, Kind};
use paceline_protocol::{Ballot, Hash, Identity, NodeId};

const NODES: usize = 3;

const RUN: &str = r#"
[run]
name = "cut"
rounds = 3
min_nodes = 3
[model]
layers = [ { type = "flatten" }, { type = "linear", out = 10 } ]
[data]
dataset = "shapes"
samples = 300
[train]
batch = 20
lr = 0.1
[round]
timeout = "1min"
min_updates = 3
"#;

/// What somebody was seen to have signed: it was on its disk before.
#[derive(Debug, Clone, Copy)]
struct Said {
    by: NodeId,
    chain: Hash,
    ballot: Ballot,
    /// When another had it on disk.
    at: u64,
}

/// What a node knew at a moment, after a write that was confirmed.
#[derive(Debug, Clone)]
struct Known {
    deeds: usize,
    promises: Vec<(Hash, Ballot)>,
    records: usize,
}

struct Recorded {
    cluster: Cluster,
    nodes: Vec<(NodeId, Recording)>,
    model: serde_json::Value,
}

/// A run from its founding to its end, recorded; nothing where that can't be done.
fn record() -> Option<Recorded> {
    let mut cluster = Cluster::new(RUN);
    let Some(library) = recorder(cluster.dir()) else {
        println!("SKIPPED: recording needs Linux and a C compiler");
        return None;
    };
    cluster.recorder = Some(library);
    cluster.start_all(NODES);
    cluster.wait_for_end();
    cluster.recorder = None;
    let node = |i: usize| {
        let home = &cluster.nodes[i].home;
        let secret = Home::at(home).identity().expect("it was started");
        (Identity::from_secret(&secret).node_id(), Recording::read(&cluster.recording(i), home))
    };
    let nodes = (0..NODES).map(node).collect();
    let model = cluster.rounds(0).last().expect("there were rounds")["model_hash"].clone();
    Some(Recorded { cluster, nodes, model })
}

fn contents(home: &Path, me: NodeId) -> Result<Contents, String> {
    let run = paceline::run_file::parse(RUN, "run.toml").expect("it is sound").run_id();
    let database = Database::open(&Home::at(home).database(), run, me).map_err(|e| e.to_string())?;
    database.contents().map_err(|e| e.to_string())
}

/// Who signed what, by a record or a proposal that was on disk at a moment.
fn signed(committed: &Committed, chain: Hash, at: u64) -> Vec<Said> {
    let record = &committed.record;
    let chain = match &record.kind {
        Kind::Genesis { founding, .. } => founding.id(),
        _ => chain,
    };
    let ballot = Ballot { round: record.round, attempt: record.attempt };
    committed.accepts.iter().map(|accept| Said { by: accept.by(), chain, ballot, at }).collect()
}

/// Walks through all that a node did, a kill after each deed, and judges what is left. Gives what others were seen to have
/// said, and what this node knew when.
fn walk(recorded: &Recorded, index: usize, home: &Path) -> (Vec<Said>, Vec<Known>) {
    let (me, recording) = &recorded.nodes[index];
    let (mut said, mut known): (Vec<Said>, Vec<Known>) = Default::default();
    let mut image = recording.empty();
    for (i, (at, deed)) in recording.deeds.iter().enumerate() {
        image.apply(deed);
        if !matches!(deed, Deed::Sync { name, .. } if name.ends_with("/store.mark")) {
            continue;
        }
        recording.put(&image, home);
        let found = contents(home, *me).unwrap_or_else(|e| panic!("node {index} after {} deeds: {e}", i + 1));
        for (chain, entries) in &found.chains {
            said.extend(entries.iter().flat_map(|e| signed(&e.committed, *chain, *at)));
        }
        for ballot in &found.ballots {
            let Some(proposal) = &ballot.accepted else { continue };
            let promised = Ballot { round: ballot.round, attempt: proposal.record.attempt };
            let votes = proposal.votes.iter().map(|vote| vote.by());
            said.extend(votes.map(|by| Said { by, chain: ballot.chain, ballot: promised, at: *at }));
        }
        let records = found.chains.iter().map(|(_, entries)| entries.len()).sum();
        known.push(Known { deeds: i + 1, promises: found.promises, records });
    }
    (said, known)
}

/// What a home must hold that was cut after so many deeds.
struct Due {
    promises: Vec<(Hash, Ballot)>,
    records: usize,
}

fn due(recorded: &Recorded, index: usize, deeds: usize, said: &[Said], known: &[Known]) -> Due {
    let (me, recording) = &recorded.nodes[index];
    // What others had before this node could do its next deed, it had said before.
    let until = recording.deeds.get(deeds).map_or(u64::MAX, |(at, _)| *at);
    let seen = said.iter().filter(|s| s.by == *me && s.at < until).map(|s| (s.chain, s.ballot));
    let own = known.iter().rev().find(|k| k.deeds <= deeds);
    Due {
        promises: seen.chain(own.iter().flat_map(|k| k.promises.iter().copied())).collect(),
        records: own.map_or(0, |k| k.records),
    }
}

/// Whether a home that was cut holds what is due, and nothing that is wrong.
fn judge(home: &Path, me: NodeId, due: &Due) -> Result<(), String> {
    let at = Home::at(home);
    if !at.database().exists() {
        return if due.promises.is_empty() { Ok(()) } else { Err("there is no store".to_owned()) };
    }
    let secret = at.known_identity().map_err(|e| e.to_string())?.ok_or("a store without its identity")?;
    if Identity::from_secret(&secret).node_id() != me {
        return Err("another identity".to_owned());
    }
    let found = contents(home, me)?;
    for (chain, ballot) in &due.promises {
        let kept = found.promises.iter().find(|(of, _)| of == chain).map(|(_, kept)| *kept);
        if kept.is_none_or(|kept| kept < *ballot) {
            return Err(format!("forgot its promise: {ballot} is due in {}, {kept:?} is kept", chain.short()));
        }
    }
    let records: usize = found.chains.iter().map(|(_, entries)| entries.len()).sum();
    if records < due.records {
        return Err(format!("{records} records of {}", due.records));
    }
    let blobs = BlobStore::open(&at.blobs()).map_err(|e| e.to_string())?;
    for id in blobs.whole() {
        let bytes = blobs.read(id).map_err(|e| e.to_string())?;
        if Manifest::of(&bytes).blob().id != id {
            return Err(format!("blob {} has other bytes", id.short()));
        }
    }
    for accepted in found.ballots.iter().filter_map(|b| b.accepted.as_ref()) {
        if !blobs.is_whole(accepted.record.model.id) {
            return Err("accepted a model that is not on its disk".to_owned());
        }
    }
    Ok(())
}

fn scratch() -> tempfile::TempDir {
    // In memory, where there is such a place: the disk would be asked to sync each of some thousand copies.
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary folder")
}

#[test]
fn whatever_a_node_had_said_is_on_its_disk_after_a_cut_anywhere() {
    let Some(recorded) = record() else { return };
    let dir = scratch();
    let home = dir.path().join("home");
    let walks: Vec<(Vec<Said>, Vec<Known>)> = (0..NODES).map(|i| walk(&recorded, i, &home)).collect();
    let said: Vec<Said> = walks.iter().flat_map(|(said, _)| said.iter().copied()).collect();
    // Who was too late for every quorum said nothing that others keep.
    let seen = (0..NODES).filter(|i| said.iter().any(|s| s.by == recorded.nodes[*i].0)).count();
    assert!(2 * seen > NODES, "only {seen} of {NODES} were seen to say anything");
    let (mut images, mut verified) = (0, 0);
    for (index, (me, recording)) in recorded.nodes.iter().enumerate() {
        let known = &walks[index].1;
        let mut look = |image: &Image, deeds: usize, what: &str, verifies: bool| {
            recording.put(image, &home);
            let due = due(&recorded, index, deeds, &said, known);
            judge(&home, *me, &due).unwrap_or_else(|e| panic!("node {index}, {what} after {deeds} deeds: {e}"));
            images += 1;
            if verifies && Home::at(&home).database().exists() {
                let report = verify(&Home::at(&home), None).expect("it can be read");
                assert!(report.ok, "node {index}, {what} after {deeds} deeds: {:?}", report.findings);
                verified += 1;
            }
        };
        for deeds in 1..=recording.deeds.len() {
            look(&recording.after_kill(deeds), deeds, "a kill", deeds % 8 == 0);
            if let Some(image) = recording.torn(deeds) {
                look(&image, deeds - 1, "a torn write", false);
            }
            for seed in 0..2 {
                let mut draw = Draw(seed * 1_000_000 + deeds as u64);
                let image = recording.after_power_loss(deeds, &mut draw);
                look(&image, deeds, &format!("a power loss (seed {seed})"), deeds % 8 == 4 && seed == 0);
            }
        }
        let median_us =
            |name| recording.sync_times(name).get(recording.sync_times(name).len() / 2).map(|ns| ns / 1_000);
        let (store, mark) = (median_us("/store.redb"), median_us("/store.mark"));
        println!(
            "node {index}: {} deeds; a sync takes {store:?} us (store), {mark:?} us (mark)",
            recording.deeds.len()
        );
    }
    // Were nothing put on the disk when it should be, this test would notice.
    let is_found = (0..20).any(|seed| {
        let (me, recording) = &recorded.nodes[0];
        let (mut draw, deeds) = (Draw(seed), recording.deeds.len());
        recording.put(&recording.after_power_loss_of_a_lying_disk(deeds, &mut draw), &home);
        judge(&home, *me, &due(&recorded, 0, deeds, &said, &walks[0].1)).is_err()
    });
    assert!(is_found, "a disk that syncs nothing was not found out");
    println!("{images} homes opened, {verified} of them verified");
}

/// Starts nodes with these homes, those without one with what they had at the end, and waits for the end of the run.
fn goes_on(recorded: &Recorded, images: &[Option<Image>], what: &str) {
    let mut cluster = Cluster::new(RUN);
    cluster.place_all(NODES);
    for (index, image) in images.iter().enumerate() {
        let recording = &recorded.nodes[index].1;
        let image = image.clone().unwrap_or_else(|| recording.after_kill(recording.deeds.len()));
        recording.put(&image, &cluster.nodes[index].home);
    }
    let (cut, at_end): (Vec<usize>, Vec<usize>) = (0..NODES).partition(|index| images[*index].is_some());
    // Who is at the end already would go before anybody has asked it.
    at_end.iter().for_each(|index| cluster.start_to_stay(*index));
    cut.iter().for_each(|index| cluster.start(*index, &["--part", &format!("{}/{NODES}", index + 1)]));
    for index in cut {
        assert!(cluster.wait_for_exit(index), "{what}: node {index} ended in failure\n{}", cluster.logs());
    }
    for index in at_end {
        assert!(cluster.terminate(index), "{what}\n{}", cluster.logs());
    }
    for index in 0..NODES {
        let rounds = cluster.rounds(index);
        let model = rounds.last().map(|round| &round["model_hash"]);
        assert_eq!(model, Some(&recorded.model), "{what}: node {index} has another model\n{}", cluster.logs());
        let out = cluster.command(index, &["verify"]);
        assert!(out.status.success(), "{what}: {}", String::from_utf8_lossy(&out.stdout));
    }
}

#[test]
fn a_run_that_was_cut_anywhere_goes_on_to_the_same_model() {
    let Some(recorded) = record() else { return };
    let ends: Vec<u64> = recorded.nodes.iter().map(|(_, r)| r.deeds.last().expect("it wrote").0).collect();
    let begin = recorded.nodes.iter().map(|(_, r)| r.deeds[0].0).max().expect("there are nodes");
    let end = ends.into_iter().min().expect("there are nodes");
    for seed in 0..4 {
        let mut draw = Draw(seed);
        // The power goes for all at once; every disk keeps what it had to and more or less of the rest.
        let moment = begin + draw.below((end - begin) as usize) as u64;
        let cut = |(_, recording): &(NodeId, Recording)| {
            Some(recording.after_power_loss(recording.until(moment), &mut Draw(seed)))
        };
        let images: Vec<Option<Image>> = recorded.nodes.iter().map(cut).collect();
        goes_on(&recorded, &images, &format!("power loss of all, seed {seed}"));
    }
    // One node is thrown back; the others are where they were.
    for seed in 4..6 {
        let mut draw = Draw(seed);
        let victim = draw.below(NODES);
        let recording = &recorded.nodes[victim].1;
        let image =
            recording.after_power_loss(recording.deeds.len() / 4 + draw.below(recording.deeds.len() / 2), &mut draw);
        let images: Vec<Option<Image>> = (0..NODES).map(|i| (i == victim).then(|| image.clone())).collect();
        goes_on(&recorded, &images, &format!("power loss of node {victim}, seed {seed}"));
    }
    drop(recorded.cluster);
}
