//! Labelled images: where they come from, how they are divided among nodes, how a net sees them.
//!
//! Pixels stay bytes in memory, four times smaller than what the net sees. Everything read from disk is checked against
//! bounds before memory is taken for it, and errors name the file, the place and what was expected.

mod augment;
mod cifar;
mod files;
mod folder;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod look;
mod mnist;
mod partition;
mod shapes;

pub use augment::Preprocess;
pub use folder::Fit;
pub use look::{FolderLook, look_at_folder};
pub use partition::{Partition, partition};
pub use shapes::{SHAPES_CLASSES, SHAPES_IMAGE};

use std::path::{Path, PathBuf};

/// Images of one data set at most, the bound on sample counts (docs/protocol.md, section 14).
pub const IMAGES_MAX: usize = 1 << 20;
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
}

impl Source {
    /// What a run file calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Shapes { .. } => "shapes",
            Self::Cifar10 => "cifar10",
            Self::Mnist => "mnist",
            Self::Folder { .. } => "folder",
        }
    }

    /// Channels, height and width of its images.
    pub fn image(&self) -> [usize; 3] {
        match self {
            Self::Shapes { .. } => SHAPES_IMAGE,
            Self::Cifar10 => cifar::IMAGE,
            Self::Mnist => mnist::IMAGE,
            Self::Folder { image, .. } => *image,
        }
    }

    /// What its classes are called, in the order of their labels: by their numbers where it has no names.
    pub fn class_names(&self) -> Vec<String> {
        match self {
            Self::Cifar10 => cifar::CLASS_NAMES.map(str::to_owned).to_vec(),
            Self::Folder { classes, .. } => classes.clone(),
            Self::Shapes { .. } | Self::Mnist => (0..self.classes()).map(|class| class.to_string()).collect(),
        }
    }

    /// How many classes it tells apart.
    pub fn classes(&self) -> usize {
        match self {
            Self::Shapes { .. } => SHAPES_CLASSES,
            Self::Cifar10 => cifar::CLASSES,
            Self::Mnist => mnist::CLASSES,
            Self::Folder { classes, .. } => classes.len(),
        }
    }
}

/// Counts over all the training images of a data set, even where only a part of them is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// How many there are.
    pub images: usize,
    /// Classes that have any.
    pub classes: usize,
}

impl Totals {
    fn of(labels: &[u16], classes: usize) -> Self {
        let mut held = vec![false; classes];
        labels.iter().for_each(|&label| held[usize::from(label)] = true);
        Self { images: labels.len(), classes: held.into_iter().filter(|held| *held).count() }
    }
}

/// Labelled images of one size, in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    shape: [usize; 3],
    classes: usize,
    pixels: Vec<u8>,
    labels: Vec<u16>,
}

/// Images to train on and images to test with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataSet {
    /// What nodes train on.
    pub train: Images,
    /// What accuracy is measured on; no node trains on it.
    pub test: Images,
    /// What was strange where they came from, in sentences for people.
    pub notes: Vec<String>,
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
            let totals = std::cell::Cell::new(Totals { images: 0, classes: 0 });
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

/// Chooses images by the labels of the training images, how many classes there are, and how many test images.
type Choose<'a> = dyn Fn(&[u16], usize, usize) -> Result<Indices, DataError> + 'a;

/// The indices of chosen images in a data set, ascending.
struct Indices {
    train: Vec<u32>,
    test: Vec<u32>,
}

/// Chooses everything.
fn all(labels: &[u16], _classes: usize, tests: usize) -> Result<Indices, DataError> {
    Ok(Indices { train: (0..labels.len() as u32).collect(), test: (0..tests as u32).collect() })
}

/// The training images of part `k` of `n`.
fn train_indices(
    labels: &[u16],
    classes: usize,
    k: usize,
    n: usize,
    rule: &Partition,
    seed: u64,
) -> Result<Vec<u32>, DataError> {
    if n == 0 || k == 0 || k > n {
        return Err(DataError::Invalid(format!(
            "there is no part {k}/{n}: the first number goes from 1 to the second"
        )));
    }
    if n > labels.len() {
        return Err(DataError::Invalid(format!(
            "{} training images can't be divided into {n} parts: use fewer parts or more data",
            labels.len()
        )));
    }
    let indices = partition(labels, classes, n, rule, seed).swap_remove(k - 1);
    if indices.is_empty() {
        return Err(DataError::Invalid(format!("part {k}/{n} has no training image under this partition")));
    }
    Ok(indices)
}

/// The test images of part `k` of `n`: dealt out in turn.
fn test_indices(tests: usize, k: usize, n: usize) -> Vec<u32> {
    (0..tests as u32).skip(k - 1).step_by(n).collect()
}

impl Images {
    /// Those of part `k` of `n`.
    ///
    /// # Errors
    /// There is no such part.
    pub fn part(&self, k: usize, n: usize, rule: &Partition, seed: u64) -> Result<Self, DataError> {
        Ok(self.select(&train_indices(&self.labels, self.classes, k, n, rule, seed)?))
    }

    /// Images from their bytes: `[image, channel, height, width]` and a label each. Lengths, labels and bounds are
    /// checked.
    pub fn new(shape: [usize; 3], classes: usize, pixels: Vec<u8>, labels: Vec<u16>) -> Result<Self, DataError> {
        check_size(shape, labels.len())?;
        let len: usize = shape.iter().product();
        if pixels.len() != len * labels.len() {
            return Err(DataError::Invalid(format!(
                "{} bytes of pixels for {} images of {len} bytes",
                pixels.len(),
                labels.len()
            )));
        }
        if let Some(label) = labels.iter().find(|&&label| usize::from(label) >= classes) {
            return Err(DataError::Invalid(format!("the label {label} is none of {classes} classes")));
        }
        Ok(Self { shape, classes, pixels, labels })
    }

    /// Channels, height and width.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// How many classes there are; labels are below it.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// How many images there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The label of every image, each below [`Images::classes`].
    pub fn labels(&self) -> &[u16] {
        &self.labels
    }

    /// How many there are, of how many classes.
    pub fn totals(&self) -> Totals {
        Totals::of(&self.labels, self.classes)
    }

    /// The pixels of an image, `[channel, height, width]`; empty for an image that there isn't.
    pub fn pixels(&self, image: usize) -> &[u8] {
        let len: usize = self.shape.iter().product();
        self.pixels.get(image * len..(image + 1) * len).unwrap_or_default()
    }

    /// The images of these indices, in this order; an index that no image has is left out.
    pub fn select(&self, indices: &[u32]) -> Self {
        let indices = indices.iter().map(|&index| index as usize).filter(|&index| index < self.len());
        let mut pixels = Vec::with_capacity(indices.clone().count() * self.shape.iter().product::<usize>());
        indices.clone().for_each(|index| pixels.extend_from_slice(self.pixels(index)));
        let labels = indices.map(|index| self.labels[index]).collect();
        Self { shape: self.shape, classes: self.classes, pixels, labels }
    }
}

impl DataSet {
    /// Part `k` of `n`, from 1: the training images under `rule`, the test images dealt out in turn, so that the parts
    /// together are the whole data set. The same for every node that has the same data and seed.
    pub fn part(&self, k: usize, n: usize, rule: &Partition, seed: u64) -> Result<Self, DataError> {
        Ok(Self {
            train: self.train.part(k, n, rule, seed)?,
            test: self.test.select(&test_indices(self.test.len(), k, n)),
            notes: self.notes.clone(),
        })
    }
}

/// Image files without labels, turned and brought to that size, as the net of a data set with this shape and so many classes sees them.
///
/// # Errors
/// A file can't be read, is no image, or has another size: it is named.
pub fn image_files(paths: &[PathBuf], shape: [usize; 3], classes: usize, fit: Fit) -> Result<Images, DataError> {
    check_size(shape, paths.len())?;
    let len = shape.iter().product();
    let mut pixels = vec![0; len * paths.len()];
    for (path, to) in paths.iter().zip(pixels.chunks_exact_mut(len)) {
        folder::decode(path, shape, fit, to).map_err(|error| error.of(path))?;
    }
    Images::new(shape, classes, pixels, vec![0; paths.len()])
}

/// Checks the size of a data set before memory is taken for it.
fn check_size(shape: [usize; 3], images: usize) -> Result<(), DataError> {
    let bytes = shape.iter().try_fold(images.max(1), |bytes, &side| bytes.checked_mul(side));
    if images > IMAGES_MAX || !bytes.is_some_and(|bytes| (1..=PIXELS_MAX).contains(&bytes)) {
        let [channels, height, width] = shape;
        return Err(DataError::Invalid(format!(
            "{images} images of {channels}x{height}x{width}: at most {IMAGES_MAX} images and {PIXELS_MAX} bytes are \
             possible, and no side may be 0: divide the data among more nodes"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(count: usize) -> Images {
        let labels = (0..count).map(|i| (i % 3) as u16).collect();
        Images::new([1, 1, 2], 3, (0..count * 2).map(|i| i as u8).collect(), labels).expect("consistent")
    }

    #[test]
    fn parts_together_are_the_whole_data_set() {
        let whole = DataSet { train: images(20), test: images(7), notes: Vec::new() };
        let mut train: Vec<Vec<u8>> = Vec::new();
        let mut test: Vec<Vec<u8>> = Vec::new();
        for k in 1..=3 {
            let part = whole.clone().part(k, 3, &Partition::Iid, 5).expect("a part");
            train.extend((0..part.train.len()).map(|i| part.train.pixels(i).to_vec()));
            test.extend((0..part.test.len()).map(|i| part.test.pixels(i).to_vec()));
        }
        train.sort();
        test.sort();
        assert_eq!(train, (0..20).map(|i| whole.train.pixels(i).to_vec()).collect::<Vec<_>>());
        assert_eq!(test, (0..7).map(|i| whole.test.pixels(i).to_vec()).collect::<Vec<_>>());
    }

    #[test]
    fn a_part_that_there_is_not_is_refused() {
        let whole = DataSet { train: images(20), test: images(7), notes: Vec::new() };
        for (k, n) in [(0, 3), (4, 3), (1, 0), (1, 21)] {
            assert!(whole.clone().part(k, n, &Partition::Iid, 5).is_err(), "{k}/{n}");
        }
    }

    #[test]
    fn inconsistent_images_are_refused() {
        assert!(Images::new([1, 1, 2], 3, vec![0; 3], vec![0, 1]).is_err());
        assert!(Images::new([1, 1, 2], 3, vec![0; 2], vec![3]).is_err());
        assert!(Images::new([usize::MAX, 2, 2], 3, vec![], vec![]).is_err());
    }

    #[test]
    fn data_in_files_needs_a_path() {
        let error = load(&Source::Mnist, None, 1).expect_err("no path").to_string();
        assert!(error.contains("mnist") && error.contains("--data"), "{error}");
    }
}
