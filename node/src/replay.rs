//! A run repeated in one process from its records and data: every update trained again, every average made again, and
//! their hashes compared (promise 5: faithful).

use std::path::Path;

use anyhow::{Context, anyhow};
use paceline_model::{Device, ExactSum, Threads, TrainJob};
use paceline_protocol::record::Kind;
use paceline_protocol::roster::Roster;
use paceline_protocol::runfile::RunFile;

use crate::blobs::Manifest;
use crate::learn::Plan;
use crate::store::{Database, Home};

/// What came of repeating a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repeated {
    /// The round.
    pub round: u64,
    /// Updates in its record.
    pub updates: usize,
    /// Those whose hash came out the same.
    pub updates_equal: usize,
    /// Whether the model's hash did.
    pub model_equal: bool,
}

/// Repeats the run whose records are in `home`. Every participant must have had a `--part`; `data` is what they were
/// given. `on_round` hears of each round.
///
/// # Errors
/// The home or the data can't be read, or a node had data of its own.
pub fn replay(
    home: &Home,
    data: Option<&Path>,
    threads: usize,
    mut on_round: impl FnMut(Repeated),
) -> anyhow::Result<()> {
    let path = home.run_file();
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let run_file = RunFile::parse(&text, &path.display().to_string())?;
    let plan = Plan::of(&run_file)?;
    let rows = Database::open(&home.database(), run_file.run_id())?.rows()?;
    let threads = Threads::new(threads)?;
    let mut model = plan.initial_model()?;
    let mut roster = Roster::default();
    for record in rows.iter().map(|row| &row.committed.record) {
        if matches!(record.kind, Kind::Train) {
            let mut sum = ExactSum::new(plan.parameters);
            let mut updates_equal = 0;
            for contribution in &record.contributions {
                let member = roster.get(contribution.node).context("a contribution of a stranger")?;
                let part = member.part.ok_or_else(|| anyhow!("{} has data of its own", member.name))?;
                let images = plan.data(data, Some(part))?;
                let trained = train(&plan, &model, &images, record.round, &member.key(), &threads)?;
                sum.add(&trained, contribution.samples)?;
                updates_equal += usize::from(Manifest::of(&trained).blob() == contribution.update);
            }
            model = sum.average(&model)?;
            let model_equal = Manifest::of(&model).blob() == record.model;
            on_round(Repeated { round: record.round, updates: record.contributions.len(), updates_equal, model_equal });
        }
        roster = record.roster_after(&roster);
    }
    Ok(())
}

fn train(
    plan: &Plan,
    parent: &[u8],
    images: &paceline_model::DataSet,
    round: u64,
    node_key: &[u8],
    threads: &Threads,
) -> anyhow::Result<Vec<u8>> {
    let job = TrainJob {
        spec: &plan.spec,
        preprocess: plan.preprocess,
        parent,
        data: &images.train,
        config: &plan.config,
        round,
        seed: plan.seed,
        node_key,
        device: &Device::Cpu,
    };
    let go_on = &mut |_| std::ops::ControlFlow::Continue(());
    Ok(paceline_model::train(&job, threads, go_on)?.delta)
}
