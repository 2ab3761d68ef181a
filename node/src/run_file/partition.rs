//! `partition` in `[data]`: how one data set is split among nodes.

use paceline_model::Partition;
use paceline_model::spec::CLASSES_MAX;
use paceline_protocol::runfile::{Entry, Key, Result, Schema, number, quoted};

/// Shards that one node gets under `partition = { shards = S }`.
const SHARDS_MAX: u64 = 1000;

/// The partitions that have a parameter, each as a table of one key.
const PARTITION: Schema<Option<Partition>> = Schema {
    name: "partition",
    doc: "",
    keys: &[
        Key::optional(
            "dirichlet",
            "0.5",
            "",
            |entry, partition| {
                let alpha = entry.number("a number from 0.01 to 1e6", |x| (0.01..=1e6).contains(&x))?;
                one(entry, partition, Partition::Dirichlet(alpha))
            },
            |partition| match partition {
                Some(Partition::Dirichlet(alpha)) => Some(number(*alpha)),
                _ => None,
            },
        ),
        Key::optional(
            "shards",
            "2",
            "",
            |entry, partition| {
                let shards = entry.integer(1..=SHARDS_MAX)?;
                one(entry, partition, Partition::Shards(shards as usize))
            },
            |partition| match partition {
                Some(Partition::Shards(shards)) => Some(shards.to_string()),
                _ => None,
            },
        ),
        Key::optional(
            "labels",
            "2",
            "",
            |entry, partition| {
                let labels = entry.integer(1..=CLASSES_MAX as u64)?;
                one(entry, partition, Partition::Labels(labels as usize))
            },
            |partition| match partition {
                Some(Partition::Labels(labels)) => Some(labels.to_string()),
                _ => None,
            },
        ),
        Key::optional(
            "power_law",
            "1.5",
            "",
            |entry, partition| {
                let exponent = entry.number("a number from 0 to 10", |x| (0.0..=10.0).contains(&x))?;
                one(entry, partition, Partition::PowerLaw(exponent))
            },
            |partition| match partition {
                Some(Partition::PowerLaw(exponent)) => Some(number(*exponent)),
                _ => None,
            },
        ),
    ],
};

fn one(entry: &Entry, partition: &mut Option<Partition>, read: Partition) -> Result<()> {
    match partition.replace(read) {
        None => Ok(()),
        Some(_) => Err(entry.conflict("`partition` in [data] has two keys: keep the one that is meant")),
    }
}

/// Reads it.
pub(super) fn read(entry: &Entry) -> Result<Partition> {
    if entry.is_text() {
        return entry.one_of(&["iid"]).map(|_| Partition::Iid);
    }
    let expected = "\"iid\", { dirichlet = ALPHA }, { shards = COUNT }, { labels = COUNT } or { power_law = EXPONENT }";
    if !entry.is_table() {
        return Err(entry.wrong(expected));
    }
    let mut partition = None;
    PARTITION.read_keys(&entry.table("dirichlet", PARTITION.examples())?, &mut partition)?;
    partition.ok_or_else(|| entry.wrong(expected))
}

/// It in canonical form.
pub(super) fn canonical(partition: &Partition) -> String {
    match partition {
        Partition::Iid => quoted("iid"),
        other => format!("{{ {} }}", PARTITION.inline(&Some(*other))),
    }
}
