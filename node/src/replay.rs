//! A run repeated in one process from its records and data: every update trained again, every average made again, and
//! their hashes compared (docs/protocol.md, section 2, promise 5).

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use paceline_model::Device;
use paceline_protocol::base::signed::Verifier;
use paceline_protocol::chain::{Chain, RunParams};
use paceline_protocol::record::{Kind, Record};
use paceline_protocol::{Hash, NodeId};

use crate::blobs::{BlobFolder, Manifest};
use crate::inspect;
use crate::learn::{Basis, Client, ControlVariates, LocalClients, Plan, Workers, tuned};
use crate::store::Home;

/// What came of repeating a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repeated {
    /// The round.
    pub round: u64,
    /// Updates in its record.
    pub updates: usize,
    /// Those whose hash came out the same.
    pub updates_equal: usize,
    /// Whether the hash of the state after it did.
    pub model_equal: bool,
}

/// Repeats the run whose records are in `home`. Every participant must have had a `--part`; `data` is what they were
/// given; SCAFFOLD's control variates go to `scratch`. `on_round` hears of each round.
///
/// # Errors
/// The home or the data can't be read, a record does not follow from those before it, or a node had data of its own.
pub fn replay(
    home: &Home,
    data: Option<&Path>,
    threads: usize,
    scratch: &Path,
    mut on_round: impl FnMut(Repeated),
) -> anyhow::Result<()> {
    let run_file = inspect::run_file(home)?;
    let plan = Plan::of(&run_file)?;
    let history = inspect::history(home)?;
    let (workers, controls) = (Workers::new(threads)?, ControlVariates::at(scratch));
    let (basis, blobs) = (Basis::of(home, &run_file)?, BlobFolder::at(home.blobs()));
    let base = basis.base.map_or_else(|| Ok(plan.drawn_weights()?), |base| anyhow::Ok(blobs.read(base)?))?;
    let initial = plan.initial_state(&base);
    let learner = tuned(Arc::new(plan.learner(plan.examples(data)?, Device::Cpu)), base, &run_file.learning.model)?;
    let (formats, seed, learner) = (plan.formats, plan.seed, learner.as_ref());
    let local_clients = LocalClients { learner, formats, seed, workers: &workers, controls: &controls };
    let params = RunParams::of(&run_file, formats.learned(&run_file, Manifest::of(&initial).blob()));
    let mut records = history.into_iter().map(|entry| entry.committed);
    let genesis = records.next().with_context(|| format!("{} holds no records", home.dir().display()))?;
    let mut chain = Chain::begin(params, genesis, Verifier::default()).context("the genesis is refused")?;
    let mut state = match chain.forced() {
        Some(forced) => blobs.read(forced.model.id)?,
        None => initial,
    };
    for committed in records {
        let record = &committed.record;
        let round = record.round;
        if matches!(record.kind, Kind::Train) {
            let (sum, updates) =
                local_clients
                    .train(&state, chain.training_round(), &clients(record, &chain)?, &|_| ControlFlow::Continue(()));
            let samples = chain.samples_of_roster(record.contributions().map(|(node, c)| (node, c.samples)));
            state = formats.rule().step(&state, &sum, samples).with_context(|| format!("round {round}"))?;
            let pairs = record.contributions().zip(&updates);
            let equal =
                pairs.filter(|((_, theirs), ours)| ours.as_ref().is_ok_and(|ours| ours.update == theirs.update));
            on_round(Repeated {
                round,
                updates: record.contributions.len(),
                updates_equal: equal.count(),
                model_equal: Manifest::of(&state).blob() == record.model,
            });
        }
        chain.append(committed).with_context(|| format!("the record of round {round} is refused"))?;
        let last = chain.roster().nodes().filter_map(|node| last_update_of(&chain, node));
        controls.retain(&last.collect::<Vec<_>>());
    }
    Ok(())
}

/// Those who contributed to the chain's next record.
fn clients(record: &Record, chain: &Chain) -> anyhow::Result<Vec<Client>> {
    let client = |node| {
        let member = chain.roster().get(node).context("a contribution of a stranger")?;
        let part = member.part.ok_or_else(|| anyhow!("{} has data of its own", member.name))?;
        Ok(Client { part, last_update: last_update_of(chain, node) })
    };
    record.contributions().map(|(node, _)| client(node)).collect()
}

/// The last update of a node that was averaged.
fn last_update_of(chain: &Chain, node: NodeId) -> Option<Hash> {
    chain.last_contribution_of(node).map(|c| c.update.id)
}
