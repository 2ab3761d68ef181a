//! `[data]`: what each node trains on.

use paceline_model::data::{Column, ColumnKind, IMAGE_SIDE_MAX, SHAPES_SAMPLES_MIN, Table};
use paceline_model::spec::CLASSES_MAX;
use paceline_model::{Fit, Partition, Source};
use paceline_protocol::bounds::{NAME_BYTES_MAX, SAMPLES_MAX};
use paceline_protocol::runfile::{Entry, Key, Result, RunFileError, Schema, number, quoted};

use super::{columns, partition};

/// `[data]`: what each node trains on.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DataSection {
    /// The data set; none where a trainer has its own.
    pub source: Option<Source>,
    /// How one data set is split among nodes started with `--part K/N`.
    pub partition: Partition,
}

pub(super) const DATA: Schema<DataSection> = Schema {
    name: "data",
    doc: "",
    keys: &[
        Key::<DataSection>::required(
            "dataset",
            "\"shapes\"",
            "\"shapes\" (generated, needs no file), \"cifar10\", \"mnist\"; \"folder\", \"table\": `paceline init --from PATH`",
            |entry, data| {
                data.source = Some(match entry.one_of(&["shapes", "cifar10", "mnist", "folder", "table"])? {
                    "shapes" => Source::Shapes { samples: 0 },
                    "cifar10" => Source::Cifar10,
                    "mnist" => Source::Mnist,
                    "table" => Source::Table(Table {
                        target: Column { name: String::new(), kind: ColumnKind::Categories(Vec::new()) },
                        columns: Vec::new(),
                        holdout: 0.0,
                    }),
                    _ => Source::Folder { classes: Vec::new(), image: [0; 3], holdout: 0.0, fit: Fit::Exact },
                });
                Ok(())
            },
            |data| data.source.as_ref().map(|source| quoted(source.name())),
        ),
        Key::<DataSection>::with_default(
            "samples",
            "5000",
            "shapes only: training images",
            |entry, data| match &mut data.source {
                Some(Source::Shapes { samples }) => {
                    let range = SHAPES_SAMPLES_MIN as u64..=SAMPLES_MAX;
                    entry.integer(range).map(|count| *samples = count as usize)
                }
                other => Err(goes_with(entry, "samples", "shapes", other.as_ref())),
            },
            |data| match &data.source {
                Some(Source::Shapes { samples }) => Some(samples.to_string()),
                _ => None,
            },
        )
        .when(|data| matches!(data.source, Some(Source::Shapes { .. }))),
        Key::<DataSection>::required(
            "classes",
            "[\"cat\", \"dog\"]",
            "folder only: the subfolders, in the order of their labels",
            |entry, data| match &mut data.source {
                Some(Source::Folder { classes, .. }) => read_classes(entry).map(|read| *classes = read),
                other => Err(goes_with(entry, "classes", "folder", other.as_ref())),
            },
            |data| match &data.source {
                Some(Source::Folder { classes, .. }) => {
                    let classes: Vec<String> = classes.iter().map(|class| quoted(class)).collect();
                    Some(format!("[{}]", classes.join(", ")))
                }
                _ => None,
            },
        )
        .when(is_folder),
        Key::<DataSection>::required(
            "image",
            "[3, 32, 32]",
            "folder only: channels, height, width",
            |entry, data| match &mut data.source {
                Some(Source::Folder { image, .. }) => read_image(entry).map(|read| *image = read),
                other => Err(goes_with(entry, "image", "folder", other.as_ref())),
            },
            |data| match &data.source {
                Some(Source::Folder { image: [channels, height, width], .. }) => {
                    Some(format!("[{channels}, {height}, {width}]"))
                }
                _ => None,
            },
        )
        .when(is_folder),
        Key::<DataSection>::required(
            "target",
            "{ name = \"kind\", categories = [\"cat\", \"dog\"] }",
            "",
            |entry, data| match &mut data.source {
                Some(Source::Table(table)) => columns::read(entry).map(|target| table.target = target),
                other => Err(goes_with(entry, "target", "table", other.as_ref())),
            },
            |data| match &data.source {
                Some(Source::Table(table)) => Some(columns::column(&table.target)),
                _ => None,
            },
        )
        .when(is_table)
        .not_in_template(),
        Key::<DataSection>::required(
            "columns",
            "[{ name = \"age\", mean = 4.0, deviation = 2.0 }]",
            "",
            |entry, data| match &mut data.source {
                Some(Source::Table(table)) => {
                    columns::read_all(entry, &table.target).map(|columns| table.columns = columns)
                }
                other => Err(goes_with(entry, "columns", "table", other.as_ref())),
            },
            |data| match &data.source {
                Some(Source::Table(table)) => Some(columns::columns(&table.columns)),
                _ => None,
            },
        )
        .when(is_table)
        .not_in_template(),
        Key::<DataSection>::with_default(
            "holdout",
            "0.1",
            "folder and table: part of the examples that is the test set",
            |entry, data| match &mut data.source {
                Some(Source::Folder { holdout, .. } | Source::Table(Table { holdout, .. })) => {
                    let share = entry.number("a number above 0 and below 1", |x| x > 0.0 && x < 1.0)?;
                    *holdout = share;
                    Ok(())
                }
                other => Err(goes_with(entry, "holdout", "folder\" or \"table", other.as_ref())),
            },
            |data| match &data.source {
                Some(Source::Folder { holdout, .. } | Source::Table(Table { holdout, .. })) => Some(number(*holdout)),
                _ => None,
            },
        )
        .when(|data| is_folder(data) || is_table(data)),
        Key::<DataSection>::with_default(
            "fit",
            "\"exact\"",
            "folder only: how images of another size are brought to it: \"crop\", \"stretch\", or an error",
            |entry, data| match &mut data.source {
                Some(Source::Folder { fit, .. }) => {
                    *fit = match entry.one_of(&["exact", "crop", "stretch"])? {
                        "crop" => Fit::Crop,
                        "stretch" => Fit::Stretch,
                        _ => Fit::Exact,
                    };
                    Ok(())
                }
                other => Err(goes_with(entry, "fit", "folder", other.as_ref())),
            },
            // Came later than the others: where it says what was so before, the run's id stays.
            |data| match &data.source {
                Some(Source::Folder { fit: Fit::Crop, .. }) => Some(quoted("crop")),
                Some(Source::Folder { fit: Fit::Stretch, .. }) => Some(quoted("stretch")),
                _ => None,
            },
        )
        .when(is_folder),
        Key::<DataSection>::with_default(
            "partition",
            "\"iid\"",
            "how one data set is split among nodes started with --part K/N; or:",
            |entry, data| partition::read(entry).map(|partition| data.partition = partition),
            |data| Some(partition::canonical(&data.partition)),
        )
        .listing(|| {
            "  { dirichlet = 0.5 }, { shards = 2 }, { labels = 2 } (classes a node), { power_law = 1.5 } (sizes);\n  \
             `paceline data` shows what comes of it"
                .to_owned()
        }),
    ],
};

fn is_folder(data: &DataSection) -> bool {
    matches!(data.source, Some(Source::Folder { .. }))
}

fn is_table(data: &DataSection) -> bool {
    matches!(data.source, Some(Source::Table(_)))
}

fn goes_with(entry: &Entry, key: &str, dataset: &str, found: Option<&Source>) -> RunFileError {
    let found = found.map_or("none", Source::name);
    entry.conflict(format!("`{key}` in [data] goes with `dataset = \"{dataset}\"` and this is \"{found}\": remove one"))
}

fn read_classes(entry: &Entry) -> Result<Vec<String>> {
    let mut classes: Vec<String> = Vec::new();
    for item in entry.array(2..=CLASSES_MAX)? {
        let expected = "the name of a subfolder, at most 64 bytes, without `/`, `\\` and control characters";
        let class = item.text_where(expected, is_folder_name)?;
        if classes.iter().any(|other| other == class) {
            return Err(item.conflict(format!("class {class:?} is listed twice: remove one")));
        }
        classes.push(class.to_owned());
    }
    Ok(classes)
}

fn is_folder_name(name: &str) -> bool {
    !["", ".", ".."].contains(&name)
        && name.len() <= NAME_BYTES_MAX
        && !name.chars().any(|c| c.is_control() || c == '/' || c == '\\')
}

fn read_image(entry: &Entry) -> Result<[usize; 3]> {
    let sides = entry.array(3..=3)?;
    let [channels, height, width] = sides.as_slice() else { return Err(entry.wrong("a list of 3")) };
    let side = |entry: &Entry| Ok(entry.integer(1..=IMAGE_SIDE_MAX as u64)? as usize);
    match channels.integer(1..=3)? {
        2 => Err(channels.wrong("1 (grey) or 3 (colour) channels")),
        count => Ok([count as usize, side(height)?, side(width)?]),
    }
}
