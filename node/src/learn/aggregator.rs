//! The aggregator: one thread that checks updates, adds them to the exact sum of the ballot (docs/protocol.md,
//! section 14), and makes the next state of it.
//!
//! Memory is the sum and one update, whatever the number of participants.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use paceline_model::{ExactError, ExactSum, Rule};
use paceline_protocol::io::Input;
use paceline_protocol::{Ballot, BlobRef, NodeId, Reject};

use super::{Formats, reject_of};
use crate::blobs::BlobStore;

/// Jobs that may wait: one for each member of a large roster.
const QUEUE: usize = 4096;

#[derive(Debug)]
enum Job {
    Fold { ballot: Ballot, node: NodeId, update: BlobRef, samples: u64 },
    Aggregate { ballot: Ballot, parent_model: BlobRef, updates: Vec<(NodeId, BlobRef, u64)>, roster_samples: u64 },
}

/// Gives jobs to the aggregator's thread.
#[derive(Debug)]
pub struct Aggregator {
    jobs: SyncSender<Job>,
}

/// The sum of one ballot, and what is in it.
#[derive(Debug)]
struct Sum {
    ballot: Ballot,
    exact: ExactSum,
    folded: BTreeMap<NodeId, (BlobRef, u64)>,
}

impl Aggregator {
    /// Starts the thread for states and updates of these formats. `done` hears `Folded` and `Aggregated`.
    pub fn start(formats: Formats, blobs: Arc<BlobStore>, done: impl Fn(Input) + Send + 'static) -> Self {
        let (jobs, received) = sync_channel(QUEUE);
        let run = move || {
            let mut sum = None;
            while let Ok(job) = received.recv() {
                done(work(&mut sum, &formats, &blobs, job));
            }
        };
        // Without its thread nothing is ever done, which the queue's end shows.
        let _ = std::thread::Builder::new().name("aggregator".into()).spawn(run);
        Self { jobs }
    }

    /// Adds an update to the ballot's sum. The first of a ballot begins it.
    pub fn fold(&self, ballot: Ballot, node: NodeId, update: BlobRef, samples: u64) -> bool {
        self.jobs.try_send(Job::Fold { ballot, node, update, samples }).is_ok()
    }

    /// Makes the state after the ballot's sum, which must hold exactly these updates, of a roster with so many samples.
    pub fn aggregate(
        &self,
        ballot: Ballot,
        parent_model: BlobRef,
        updates: Vec<(NodeId, BlobRef, u64)>,
        roster_samples: u64,
    ) -> bool {
        self.jobs.try_send(Job::Aggregate { ballot, parent_model, updates, roster_samples }).is_ok()
    }
}

fn work(sum: &mut Option<Sum>, formats: &Formats, blobs: &BlobStore, job: Job) -> Input {
    match job {
        Job::Fold { ballot, node, update, samples } => {
            if sum.as_ref().is_none_or(|s| s.ballot != ballot) {
                *sum = Some(Sum { ballot, exact: formats.update.sum(), folded: BTreeMap::new() });
            }
            let result = sum.as_mut().map_or(Err(Reject::NotCollecting), |s| fold(s, blobs, node, update, samples));
            Input::Folded { ballot, node, result }
        }
        Job::Aggregate { ballot, parent_model, updates, roster_samples } => {
            let result = match sum.as_ref().filter(|s| s.ballot == ballot) {
                Some(sum) => aggregate(sum, formats.rule(), blobs, parent_model, &updates, roster_samples),
                None => Err("no update of this ballot was folded".to_owned()),
            };
            if let Err(why) = &result {
                tracing::warn!("round {}: the average can't be made: {why}", ballot.round);
            }
            Input::Aggregated { ballot, result }
        }
    }
}

fn fold(sum: &mut Sum, blobs: &BlobStore, node: NodeId, update: BlobRef, samples: u64) -> Result<(), Reject> {
    // Folded twice it would count twice, which no comparison of the lists would show.
    if let Some(before) = sum.folded.get(&node) {
        return if *before == (update, samples) { Ok(()) } else { Err(Reject::Twice) };
    }
    // Its bytes were right when they were written: what is wrong now is this node's disk.
    let delta = blobs.read(update.id).map_err(|error| {
        tracing::error!("an update can't be folded: {error}");
        Reject::ModelMissing
    })?;
    sum.exact.add(&delta, samples).map_err(|error| match error {
        ExactError::Delta(error) => reject_of(&error),
        ExactError::Samples { .. } => Reject::BadMetrics,
        _ => Reject::OverBound,
    })?;
    sum.folded.insert(node, (update, samples));
    Ok(())
}

fn aggregate(
    sum: &Sum,
    rule: &Rule,
    blobs: &BlobStore,
    parent_model: BlobRef,
    updates: &[(NodeId, BlobRef, u64)],
    roster_samples: u64,
) -> Result<BlobRef, String> {
    let wanted: BTreeMap<NodeId, (BlobRef, u64)> = updates.iter().map(|(n, u, s)| (*n, (*u, *s))).collect();
    if wanted != sum.folded {
        return Err("the sum does not hold the updates of the record".to_owned());
    }
    let parent = blobs.read(parent_model.id).map_err(|e| e.to_string())?;
    let state = rule.step(&parent, &sum.exact, roster_samples).map_err(|e| e.to_string())?;
    blobs.put(&state).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    struct Bench {
        _dir: tempfile::TempDir,
        blobs: BlobStore,
        sum: Option<Sum>,
    }

    const BALLOT: Ballot = Ballot { round: 1, attempt: 0 };

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let blobs = BlobStore::open(dir.path()).expect("it opens");
            Self { _dir: dir, blobs, sum: None }
        }

        fn fold(&mut self, node: u8, delta: &[f32], samples: u64) -> (Result<(), Reject>, (NodeId, BlobRef, u64)) {
            let node = NodeId::from_public_key([node; 32]);
            let update = self.blobs.put(&floats(delta)).expect("room");
            let job = Job::Fold { ballot: BALLOT, node, update, samples };
            let Input::Folded { result, .. } =
                work(&mut self.sum, &Formats::of(Rule::FedAvg, 2).expect("it is small"), &self.blobs, job)
            else {
                panic!("a fold is answered as one")
            };
            (result, (node, update, samples))
        }

        fn aggregate(&mut self, updates: Vec<(NodeId, BlobRef, u64)>) -> Result<Vec<u8>, String> {
            let parent_model = self.blobs.put(&floats(&[1.0, 1.0])).expect("room");
            let job = Job::Aggregate { ballot: BALLOT, parent_model, updates, roster_samples: 4 };
            let Input::Aggregated { result, .. } =
                work(&mut self.sum, &Formats::of(Rule::FedAvg, 2).expect("it is small"), &self.blobs, job)
            else {
                panic!("an aggregation is answered as one")
            };
            result.map(|blob| self.blobs.read(blob.id).expect("it was just put"))
        }
    }

    #[test]
    fn updates_are_averaged_by_their_samples() {
        let mut bench = Bench::new();
        let (_, one) = bench.fold(1, &[1.0, 0.0], 3);
        let (_, two) = bench.fold(2, &[0.0, 4.0], 1);
        assert_eq!(bench.aggregate(vec![one, two]), Ok(floats(&[1.75, 2.0])));
    }

    #[test]
    fn bad_updates_are_refused_with_their_reason_and_change_nothing() {
        let mut bench = Bench::new();
        let (_, good) = bench.fold(1, &[0.5, 0.5], 2);
        assert_eq!(bench.fold(2, &[f32::NAN, 0.0], 1).0, Err(Reject::NotFinite));
        assert_eq!(bench.fold(3, &[1.0], 1).0, Err(Reject::WrongShape));
        assert_eq!(bench.fold(4, &[17.0, 0.0], 1).0, Err(Reject::OutOfRange));
        assert_eq!(bench.fold(5, &[1.0, 1.0], 0).0, Err(Reject::BadMetrics));
        assert_eq!(bench.aggregate(vec![good]), Ok(floats(&[1.5, 1.5])));
    }

    #[test]
    fn an_update_folded_again_counts_once_and_another_of_its_node_is_refused() {
        let mut bench = Bench::new();
        let (_, one) = bench.fold(1, &[1.0, 0.0], 3);
        assert_eq!(bench.fold(1, &[1.0, 0.0], 3).0, Ok(()));
        assert_eq!(bench.fold(1, &[1.0, 0.0], 4).0, Err(Reject::Twice));
        assert_eq!(bench.fold(1, &[0.0, 1.0], 3).0, Err(Reject::Twice));
        let (_, two) = bench.fold(2, &[0.0, 4.0], 1);
        assert_eq!(bench.aggregate(vec![one, two]), Ok(floats(&[1.75, 2.0])));
    }

    #[test]
    fn the_average_does_not_depend_on_the_order_of_arrival() {
        let deltas: [(u8, [f32; 2], u64); 3] = [(1, [0.1, -15.9], 7), (2, [1e-7, 16.0], 1 << 20), (3, [-0.3, 2e-8], 3)];
        let averages = [[0, 1, 2], [2, 0, 1], [1, 2, 0], [2, 1, 0]].map(|order| {
            let mut bench = Bench::new();
            let updates = order.map(|i: usize| bench.fold(deltas[i].0, &deltas[i].1, deltas[i].2).1);
            bench.aggregate(updates.to_vec()).expect("all are in")
        });
        assert!(averages.iter().all(|average| *average == averages[0]));
    }

    #[test]
    fn a_new_ballot_begins_a_new_sum() {
        let mut bench = Bench::new();
        bench.fold(1, &[1.0, 0.0], 3).0.expect("it is sound");
        let later = Ballot { round: 1, attempt: 1 };
        let update = bench.blobs.put(&floats(&[0.5, 0.5])).expect("room");
        let node = NodeId::from_public_key([2; 32]);
        work(
            &mut bench.sum,
            &Formats::of(Rule::FedAvg, 2).expect("it is small"),
            &bench.blobs,
            Job::Fold { ballot: later, node, update, samples: 1 },
        );
        let sum = bench.sum.as_ref().expect("a sum was begun");
        assert_eq!((sum.ballot, sum.exact.samples()), (later, 1));
    }

    #[test]
    fn an_update_that_is_damaged_or_gone_is_refused_and_changes_nothing() {
        let mut bench = Bench::new();
        let (_, good) = bench.fold(1, &[0.5, 0.5], 2);
        let node = NodeId::from_public_key([2; 32]);
        let update = BlobRef { id: paceline_protocol::Hash::ZERO, len: 8 };
        let job = Job::Fold { ballot: BALLOT, node, update, samples: 1 };
        let Input::Folded { result, .. } =
            work(&mut bench.sum, &Formats::of(Rule::FedAvg, 2).expect("it is small"), &bench.blobs, job)
        else {
            panic!("a fold is answered as one")
        };
        assert_eq!(result, Err(Reject::ModelMissing));
        assert_eq!(bench.aggregate(vec![good]), Ok(floats(&[1.5, 1.5])));
    }

    #[test]
    fn a_sum_that_holds_something_else_than_the_record_is_not_averaged() {
        let mut bench = Bench::new();
        let (_, one) = bench.fold(1, &[1.0, 0.0], 3);
        bench.fold(2, &[0.0, 4.0], 1).0.expect("it is sound");
        assert!(bench.aggregate(vec![one]).is_err());
    }
}
