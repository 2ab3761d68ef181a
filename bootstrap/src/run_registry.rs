//! What a node tells others: which nodes introduced themselves to it, for which run, and the run files that it has.

use std::collections::BTreeMap;
use std::time::Instant;

use libp2p::PeerId;
use paceline_protocol::RunId;

use crate::bounds::{RECORD_LIFE, RECORDS_PER_ANSWER_MAX, RECORDS_PER_RUN_MAX, RUNS_MAX};
use crate::peer_exchange::{Record, SeenRun};

/// The runs and their nodes, as far as they showed themselves here.
#[derive(Debug, Default)]
pub(crate) struct RunRegistry {
    runs: BTreeMap<RunId, Run>,
}

#[derive(Debug, Default)]
struct Run {
    /// Never forgotten: the run of this node.
    own: bool,
    name: String,
    file: Option<Vec<u8>>,
    nodes: BTreeMap<PeerId, Entry>,
    /// Where the next answer begins, so that a large run is introduced in turns.
    next: usize,
}

#[derive(Debug)]
struct Entry {
    record: Record,
    seen: Instant,
}

impl RunRegistry {
    /// The run of this node, with its run file.
    pub(crate) fn keep(&mut self, run: RunId, name: &str, file: Vec<u8>) {
        let entry = self.runs.entry(run).or_default();
        (entry.own, entry.name, entry.file) = (true, name.to_owned(), Some(file));
    }

    /// Takes a checked record in; `false` if there is no room for another run.
    pub(crate) fn introduce(&mut self, now: Instant, run: RunId, record: Record) -> bool {
        if !self.runs.contains_key(&run) && self.runs.len() >= RUNS_MAX {
            return false;
        }
        let nodes = &mut self.runs.entry(run).or_default().nodes;
        if !nodes.contains_key(&record.peer) && nodes.len() >= RECORDS_PER_RUN_MAX {
            let oldest = nodes.iter().min_by_key(|(_, entry)| entry.seen).map(|(peer, _)| *peer);
            oldest.and_then(|peer| nodes.remove(&peer));
        }
        nodes.insert(record.peer, Entry { record, seen: now });
        true
    }

    /// The record that is known of a node of the run.
    pub(crate) fn record_of(&self, run: RunId, peer: PeerId) -> Option<&Record> {
        self.runs.get(&run)?.nodes.get(&peer).map(|entry| &entry.record)
    }

    /// Whether this very record is known.
    pub(crate) fn knows(&self, run: RunId, bytes: &[u8]) -> bool {
        self.runs.get(&run).is_some_and(|r| r.nodes.values().any(|entry| entry.record.bytes == bytes))
    }

    /// Records of the run's nodes other than `asker`, at most `RECORDS_PER_ANSWER_MAX`.
    pub(crate) fn records(&mut self, run: RunId, asker: PeerId) -> Vec<Vec<u8>> {
        let Some(run) = self.runs.get_mut(&run) else { return Vec::new() };
        let start = run.next % run.nodes.len().max(1);
        let others = run.nodes.iter().cycle().skip(start).take(run.nodes.len()).filter(|(peer, _)| **peer != asker);
        let records = others.take(RECORDS_PER_ANSWER_MAX).map(|(_, entry)| entry.record.bytes.clone()).collect();
        if run.nodes.len() > RECORDS_PER_ANSWER_MAX {
            run.next = start + RECORDS_PER_ANSWER_MAX;
        }
        records
    }

    /// The canonical run file, if it is known here.
    pub(crate) fn file(&self, run: RunId) -> Option<&Vec<u8>> {
        self.runs.get(&run)?.file.as_ref()
    }

    /// Whether nodes of the run are known, but not its run file.
    pub(crate) fn lacks_file(&self, run: RunId) -> bool {
        self.runs.get(&run).is_some_and(|r| r.file.is_none())
    }

    /// Takes in the run file, which was checked, of a run whose nodes are known.
    pub(crate) fn set_file(&mut self, run: RunId, name: &str, file: Vec<u8>) {
        if let Some(entry) = self.runs.get_mut(&run) {
            (entry.name, entry.file) = (name.to_owned(), Some(file));
        }
    }

    /// The runs, each with the number of its nodes, of which `this` counts itself into its own run.
    pub(crate) fn runs(&self, this_is_a_node: bool) -> Vec<SeenRun> {
        let seen = |(run, entry): (&RunId, &Run)| SeenRun {
            run: *run,
            name: entry.name.clone(),
            nodes: entry.nodes.len() as u32 + u32::from(this_is_a_node && entry.own),
        };
        self.runs.iter().map(seen).collect()
    }

    /// A connected node doesn't run out.
    pub(crate) fn refresh(&mut self, now: Instant, peer: PeerId) {
        for run in self.runs.values_mut() {
            if let Some(entry) = run.nodes.get_mut(&peer) {
                entry.seen = now;
            }
        }
    }

    /// Forgets nodes that were not seen for `RECORD_LIFE`, and runs without nodes.
    pub(crate) fn expire(&mut self, now: Instant) {
        for run in self.runs.values_mut() {
            run.nodes.retain(|_, entry| now.saturating_duration_since(entry.seen) < RECORD_LIFE);
        }
        self.runs.retain(|_, run| run.own || !run.nodes.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use paceline_protocol::Hash;

    use super::*;

    fn record(peer: PeerId) -> Record {
        Record { peer, seq: 1, addresses: Vec::new(), bytes: peer.to_bytes() }
    }

    fn run(i: usize) -> RunId {
        Hash::of(&i.to_le_bytes())
    }

    #[test]
    fn a_node_is_told_of_the_others_of_its_run_and_not_of_itself() {
        let (now, mut registry) = (Instant::now(), RunRegistry::default());
        let [a, b, c] = std::array::from_fn(|_| PeerId::random());
        for (i, peer) in [(1, a), (1, b), (2, c)] {
            assert!(registry.introduce(now, run(i), record(peer)));
        }
        assert_eq!(registry.records(run(1), a), [b.to_bytes()]);
        assert_eq!(registry.records(run(3), a), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn a_large_run_is_introduced_in_turns_until_all_were_named() {
        let (now, mut registry) = (Instant::now(), RunRegistry::default());
        for _ in 0..3 * RECORDS_PER_ANSWER_MAX {
            registry.introduce(now, run(1), record(PeerId::random()));
        }
        let asker = PeerId::random();
        let mut named: Vec<Vec<u8>> = (0..3).flat_map(|_| registry.records(run(1), asker)).collect();
        named.sort();
        named.dedup();
        assert_eq!(named.len(), 3 * RECORDS_PER_ANSWER_MAX);
    }

    #[test]
    fn runs_and_records_are_bounded() {
        let (now, mut registry) = (Instant::now(), RunRegistry::default());
        registry.keep(run(0), "own", Vec::new());
        for i in 1..RUNS_MAX {
            assert!(registry.introduce(now, run(i), record(PeerId::random())));
        }
        assert!(!registry.introduce(now, run(RUNS_MAX), record(PeerId::random())));
        for _ in 0..2 * RECORDS_PER_RUN_MAX {
            assert!(registry.introduce(now, run(0), record(PeerId::random())));
        }
        assert_eq!(registry.runs.get(&run(0)).map(|r| r.nodes.len()), Some(RECORDS_PER_RUN_MAX));
    }

    #[test]
    fn who_is_silent_is_forgotten_and_who_is_connected_stays() {
        let (start, mut registry) = (Instant::now(), RunRegistry::default());
        let [silent, connected] = std::array::from_fn(|_| PeerId::random());
        registry.keep(run(1), "own", Vec::new());
        registry.introduce(start, run(1), record(silent));
        registry.introduce(start, run(1), record(connected));
        registry.introduce(start, run(2), record(silent));
        let later = start + RECORD_LIFE - Duration::from_secs(1);
        registry.refresh(later, connected);
        registry.expire(later + Duration::from_secs(2));
        assert_eq!(registry.records(run(1), silent), [connected.to_bytes()]);
        assert_eq!(registry.runs(true), [SeenRun { run: run(1), name: "own".to_owned(), nodes: 2 }]);
    }
}
