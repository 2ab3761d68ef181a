//! A run repeated in one process from its records and data: every update trained again, every average made again, and
//! their hashes compared (promise 5: faithful).

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, anyhow};
use paceline_protocol::chain::samples_of_all;
use paceline_protocol::record::{Kind, Record};
use paceline_protocol::roster::Roster;
use paceline_protocol::runfile::RunFile;

use crate::blobs::Manifest;
use crate::learn::{Client, Cohort, Controls, Plan, Workers};
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
    /// Whether the hash of the state after it did.
    pub model_equal: bool,
}

/// Repeats the run whose records are in `home`. Every participant must have had a `--part`; `data` is what they were
/// given; SCAFFOLD's control variates go to `scratch`. `on_round` hears of each round.
///
/// # Errors
/// The home or the data can't be read, or a node had data of its own.
pub fn replay(
    home: &Home,
    data: Option<&Path>,
    threads: usize,
    scratch: &Path,
    mut on_round: impl FnMut(Repeated),
) -> anyhow::Result<()> {
    let path = home.run_file();
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let run_file = RunFile::parse(&text, &path.display().to_string())?;
    let plan = Plan::of(&run_file)?;
    let rows = Database::open(&home.database(), run_file.run_id())?.rows()?;
    let (data, workers, controls) = (plan.data(data, None)?, Workers::new(threads)?, Controls::at(scratch));
    let cohort = Cohort { plan: &plan, data: &data, workers: &workers, controls: &controls };
    let mut state = plan.initial_state()?;
    let mut roster = Roster::default();
    let records: Vec<&Record> = rows.iter().map(|row| &row.committed.record).collect();
    for (index, record) in records.iter().enumerate() {
        if matches!(record.kind, Kind::Train) {
            let clients = clients(record, &records[..index], &roster)?;
            let (sum, locals) = cohort.train(&state, record.round, &clients, &|| ControlFlow::Continue(()));
            let told = records[..=index].iter().flat_map(|record| &record.contributions);
            let known: BTreeMap<_, _> = told.filter(|c| roster.contains(c.node)).map(|c| (c.node, c.samples)).collect();
            let samples = samples_of_all(known.into_values(), roster.len());
            state = plan.rule.step(&state, &sum, samples).with_context(|| format!("round {}", record.round))?;
            let contributions = || records[..=index].iter().rev().flat_map(|record| &record.contributions);
            let last = roster.nodes().filter_map(|n| contributions().find(|c| c.node == n)).map(|c| c.update.id);
            controls.retain(&last.collect::<Vec<_>>());
            let pairs = record.contributions.iter().zip(&locals);
            let equal = pairs.filter(|(theirs, ours)| ours.as_ref().is_ok_and(|ours| ours.update == theirs.update));
            on_round(Repeated {
                round: record.round,
                updates: record.contributions.len(),
                updates_equal: equal.count(),
                model_equal: Manifest::of(&state).blob() == record.model,
            });
        }
        roster = record.roster_after(&roster);
    }
    Ok(())
}

/// Those who contributed to a record.
fn clients(record: &Record, before: &[&Record], roster: &Roster) -> anyhow::Result<Vec<Client>> {
    let contributions = || before.iter().rev().flat_map(|record| &record.contributions);
    let client = |node| {
        let member = roster.get(node).context("a contribution of a stranger")?;
        let part = member.part.ok_or_else(|| anyhow!("{} has data of its own", member.name))?;
        Ok(Client { part, last_update: contributions().find(|c| c.node == node).map(|c| c.update.id) })
    };
    record.contributions.iter().map(|contribution| client(contribution.node)).collect()
}
