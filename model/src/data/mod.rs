//! Labelled images and tables: where they come from, how they are divided among nodes, how a net sees them.
//!
//! Pixels stay bytes in memory, four times smaller than what the net sees. Everything read from disk is checked against
//! bounds before memory is taken for it, and errors name the file, the place and what was expected.

mod augment;
mod cifar;
mod examples;
mod files;
mod folder;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod look_folder;
mod look_table;
mod mnist;
mod partition;
mod shapes;
pub(crate) mod table;

pub use augment::Preprocess;
use examples::{Choose, Indices, all, check_size, test_indices, train_indices};
pub use examples::{DataSet, Examples, Input, Targets, Totals};
pub use folder::Fit;
pub use look_folder::{FolderLook, look_at_folder};
pub use look_table::{TableLook, look_at_table};
pub use partition::{Partition, partition};
pub use shapes::{SHAPES_CLASSES, SHAPES_IMAGE};
pub use table::{CATEGORIES_MAX, COLUMNS_MAX, Column, ColumnKind, DEVIATIONS_MAX, Table};

use std::path::{Path, PathBuf};

/// Images of one data set at most, the bound on sample counts (docs/protocol.md, section 14).
pub const EXAMPLES_MAX: usize = 1 << 20;
/// An image's longest side, and with it that of a kernel, a stride or a pool.
pub const IMAGE_SIDE_MAX: usize = 1024;
/// Fewest images of the `shapes` data set: one test image for each of its 10 classes needs 5 times as many.
pub const SHAPES_SAMPLES_MIN: usize = 50;
/// Bytes of pixels of one data set at most: it has to fit in the memory of an ordinary machine.
pub const PIXELS_MAX: usize = 8 << 30;

/// Where a run's data comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Generated pictures of ten shapes, 3x32x32; no file.
    Shapes {
        /// Training images; there is one test image for five of them.
        samples: usize,
    },
    /// CIFAR-10, binary version (Krizhevsky 2009): a folder or the official tar.gz.
    Cifar10,
    /// MNIST or a set in its format (LeCun et al. 1998): a folder of IDX files, gzipped or not.
    Mnist,
    /// A folder of PNG and JPEG images with a subfolder for each class.
    Folder {
        /// The classes, in the order of their labels.
        classes: Vec<String>,
        /// Channels (1 or 3), height and width that every image must have.
        image: [usize; 3],
        /// The share of images held out for testing where there are no `train` and `test` subfolders.
        holdout: f64,
        /// How images of another size are brought to that one.
        fit: Fit,
    },
    /// A table of numbers and words, one row an example.
    Table(Table),
}

impl Source {
    /// What a run file calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Shapes { .. } => "shapes",
            Self::Cifar10 => "cifar10",
            Self::Mnist => "mnist",
            Self::Folder { .. } => "folder",
            Self::Table(_) => "table",
        }
    }

    /// Channels, height and width of its images; a row is as many channels of one pixel.
    pub fn shape(&self) -> [usize; 3] {
        match self {
            Self::Shapes { .. } => SHAPES_IMAGE,
            Self::Cifar10 => cifar::IMAGE,
            Self::Mnist => mnist::IMAGE,
            Self::Folder { image, .. } => *image,
            Self::Table(table) => [table.width(), 1, 1],
        }
    }

    /// What its classes are called, in the order of their labels: by their numbers where it has no names. None where a number
    /// is learnt.
    pub fn class_names(&self) -> Vec<String> {
        match self {
            Self::Cifar10 => cifar::CLASS_NAMES.map(str::to_owned).to_vec(),
            Self::Folder { classes, .. } => classes.clone(),
            Self::Table(table) => table.target.categories().to_vec(),
            Self::Shapes { .. } | Self::Mnist => (0..self.classes()).map(|class| class.to_string()).collect(),
        }
    }

    /// How many classes it tells apart; 1 where a number is learnt.
    pub fn classes(&self) -> usize {
        match self {
            Self::Shapes { .. } => SHAPES_CLASSES,
            Self::Cifar10 => cifar::CLASSES,
            Self::Mnist => mnist::CLASSES,
            Self::Folder { classes, .. } => classes.len(),
            Self::Table(table) => table.target.categories().len().max(1),
        }
    }
}

/// Why data can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A data set that lies in files was asked for without a path.
    #[error("the data set `{dataset}` needs the path of its files: give it with --data")]
    NoPath {
        /// Its name in the run file.
        dataset: &'static str,
    },
    /// A file or folder can't be read.
    #[error("{}: can't be read: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file or folder that must be there isn't.
    #[error("{}: {missing} is missing: {fix}", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
        /// The name of the file or the kind of files.
        missing: String,
        /// How to get it.
        fix: String,
    },
    /// A file's contents are not what its format demands.
    #[error("{}: at offset {offset}: expected {expected}, found {found}: fetch or write the file again", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Bytes from its beginning, after decompression.
        offset: u64,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A line of a table is not what it should be.
    #[error("{}:{line}: expected {expected}, found {found}", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// What is there is not what the run file describes, or can't be used.
    #[error("{}: expected {expected}, found {found}", path.display())]
    Unexpected {
        /// Which file or folder.
        path: PathBuf,
        /// The key in the run file's `[data]` that is contradicted, if one is.
        key: Option<&'static str>,
        /// What should be there.
        expected: String,
        /// What is there, and what to do.
        found: String,
    },
    /// The description of the data contradicts itself or a bound.
    #[error("{0}")]
    Invalid(String),
}

/// Loads or generates a whole data set. `seed` matters only to generated data.
pub fn load(source: &Source, path: Option<&Path>, seed: u64) -> Result<DataSet, DataError> {
    let path_for = |dataset| path.ok_or(DataError::NoPath { dataset });
    match source {
        Source::Shapes { samples } => shapes::generate(*samples, seed),
        Source::Cifar10 => cifar::load(path_for("cifar10")?, &all),
        Source::Mnist => mnist::load(path_for("mnist")?),
        Source::Folder { classes, image, holdout, fit } => {
            folder::load(path_for("folder")?, classes, *image, *holdout, *fit)
        }
        Source::Table(table) => table.load(path_for("table")?),
    }
}

/// Loads part `k` of `n` of a data set, as [`DataSet::part`] divides it; where images lie one by one in large files,
/// without ever holding the others. Gives with it what all parts have together.
pub fn load_part(
    source: &Source,
    path: Option<&Path>,
    (k, n): (usize, usize),
    rule: &Partition,
    seed: u64,
) -> Result<(DataSet, Totals), DataError> {
    match (source, path) {
        (Source::Cifar10, Some(path)) => {
            let totals = std::cell::Cell::new(Totals { examples: 0, classes: 0 });
            let part = cifar::load(path, &|labels, classes, tests| {
                totals.set(Totals::of(labels, classes));
                Ok(Indices {
                    train: train_indices(labels, classes, k, n, rule, seed)?,
                    test: test_indices(tests, k, n),
                })
            })?;
            Ok((part, totals.get()))
        }
        _ => {
            let whole = load(source, path, seed)?;
            Ok((whole.part(k, n, rule, seed)?, whole.train.totals()))
        }
    }
}

/// Image files without labels, turned and brought to that size, as the net of a data set with this shape and so many classes sees them.
///
/// # Errors
/// A file can't be read, is no image, or has another size: it is named.
pub fn image_files(paths: &[PathBuf], shape: [usize; 3], classes: usize, fit: Fit) -> Result<Examples, DataError> {
    check_size(shape, paths.len())?;
    let len = shape.iter().product();
    let mut pixels = vec![0; len * paths.len()];
    for (path, to) in paths.iter().zip(pixels.chunks_exact_mut(len)) {
        folder::decode(path, shape, fit, to).map_err(|error| error.of(path))?;
    }
    Examples::new(shape, classes, pixels, vec![0; paths.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_in_files_needs_a_path() {
        let error = load(&Source::Mnist, None, 1).expect_err("no path").to_string();
        assert!(error.contains("mnist") && error.contains("--data"), "{error}");
    }
}
