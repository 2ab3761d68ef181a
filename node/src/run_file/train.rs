//! `[train]`: a participant's local training.

use paceline_model::TrainConfig;
use paceline_protocol::bounds::SAMPLES_MAX;
use paceline_protocol::runfile::{Key, Schema, number};

use super::range::{ABOVE_0, FACTOR, FROM_0, SHARE};

/// Local epochs of a round; beyond that the nodes' models have long drifted apart.
const EPOCHS_MAX: u64 = 10_000;

/// `[train]`: a participant's local training.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TrainSection {
    /// What the nets that come with every node train with.
    pub config: TrainConfig,
    /// The table `settings` as canonical TOML, for trainers.
    pub settings: Option<String>,
}

/// A number of the built-in nets' training, under the name of its field.
macro_rules! setting {
    ($field:ident, $default:literal, $range:ident, $doc:literal) => {
        Key::with_default(
            stringify!($field),
            $default,
            $doc,
            |entry, train| $range.read(entry).map(|value| train.config.$field = value),
            |train| Some(number(train.config.$field)),
        )
    };
}

pub(super) const TRAIN: Schema<TrainSection> = Schema {
    name: "train",
    doc: "",
    keys: &[
        Key::with_default(
            "epochs",
            "1",
            "passes over the local data in a round",
            |entry, train| entry.integer(1..=EPOCHS_MAX).map(|epochs| train.config.epochs = epochs as usize),
            |train| Some(train.config.epochs.to_string()),
        ),
        Key::with_default(
            "batch",
            "50",
            "examples in a step",
            |entry, train| entry.integer(1..=SAMPLES_MAX).map(|batch| train.config.batch = batch as usize),
            |train| Some(train.config.batch.to_string()),
        ),
        setting!(lr, "0.05", ABOVE_0, "learning rate"),
        setting!(lr_decay, "1.0", FACTOR, "factor on it from each round to the next"),
        setting!(momentum, "0.0", SHARE, ""),
        setting!(weight_decay, "0.0", FROM_0, ""),
        setting!(clip_norm, "0.0", FROM_0, "above 0: the largest norm of a step's gradient"),
        setting!(prox_mu, "0.0", FROM_0, "above 0: FedProx"),
        Key::with_default(
            "augment",
            "true",
            "crop, flip and so on at random (cifar-cnn alone)",
            |entry, train| entry.boolean().map(|augment| train.config.augment = augment),
            |train| Some(train.config.augment.to_string()),
        ),
        Key::optional(
            "settings",
            "{ hidden = 64 }",
            "for trainers: handed over as it stands",
            |entry, train| {
                if !entry.is_table() {
                    return Err(entry.wrong("a table"));
                }
                entry.verbatim().map(|table| train.settings = Some(table))
            },
            |train| train.settings.clone(),
        ),
    ],
};
