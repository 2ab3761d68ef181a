//! Examples in memory: images or rows of numbers, each with what a net should say of it, and their parts.

use super::{DataError, EXAMPLES_MAX, PIXELS_MAX, Partition, partition};

/// Counts over all the training examples of a data set, even where only a part of them is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// How many there are.
    pub examples: usize,
    /// Classes that have any.
    pub classes: usize,
}

impl Totals {
    pub(super) fn of(labels: &[u16], classes: usize) -> Self {
        let mut held = vec![false; classes];
        labels.iter().for_each(|&label| held[usize::from(label)] = true);
        Self { examples: labels.len(), classes: held.into_iter().filter(|held| *held).count() }
    }
}

/// What nets learn from, all of one shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Examples {
    shape: [usize; 3],
    inputs: Inputs,
    classes: usize,
    labels: Vec<u16>,
    numbers: Option<Numbers>,
}

/// The inputs of all examples, one after the other.
#[derive(Debug, Clone, PartialEq)]
enum Inputs {
    /// `[channel, height, width]`, four times smaller than what a net sees.
    Pixels(Vec<u8>),
    /// As a net sees them.
    Numbers(Vec<f32>),
}

/// The numbers that are learnt in place of classes.
#[derive(Debug, Clone, PartialEq)]
struct Numbers {
    values: Vec<f32>,
    unit: f64,
}

/// One example's input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Input<'a> {
    /// An image, `[channel, height, width]`.
    Pixels(&'a [u8]),
    /// A row, as a net sees it.
    Numbers(&'a [f32]),
}

/// What a net should say of each example.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// Which class it is of.
    Labels {
        /// Each below the number of classes.
        labels: Vec<u16>,
        /// How many classes there are.
        classes: usize,
    },
    /// A number.
    Numbers {
        /// The numbers, in deviations from their mean.
        values: Vec<f32>,
        /// What a deviation is, in the data's own unit.
        unit: f64,
    },
}

impl Examples {
    /// Images from their bytes: `[image, channel, height, width]` and a label each.
    ///
    /// # Errors
    /// Lengths, labels or bounds are wrong.
    pub fn new(shape: [usize; 3], classes: usize, pixels: Vec<u8>, labels: Vec<u16>) -> Result<Self, DataError> {
        check_size(shape, labels.len())?;
        Self::checked(shape, pixels.len(), Inputs::Pixels(pixels), Targets::Labels { labels, classes })
    }

    /// Rows of so many numbers each, as a net sees them.
    ///
    /// # Errors
    /// Lengths, labels or bounds are wrong.
    pub fn rows(width: usize, numbers: Vec<f32>, targets: Targets) -> Result<Self, DataError> {
        let shape = [width, 1, 1];
        let count = match &targets {
            Targets::Labels { labels, .. } => labels.len(),
            Targets::Numbers { values, .. } => values.len(),
        };
        // Four bytes each.
        check_size([width, 4, 1], count)?;
        Self::checked(shape, numbers.len(), Inputs::Numbers(numbers), targets)
    }

    fn checked(shape: [usize; 3], values: usize, inputs: Inputs, targets: Targets) -> Result<Self, DataError> {
        let (labels, classes, numbers) = match targets {
            Targets::Labels { labels, classes } => (labels, classes, None),
            // Of one class, so that they are divided like other examples.
            Targets::Numbers { values, unit } => (vec![0; values.len()], 1, Some(Numbers { values, unit })),
        };
        let (len, count) = (shape.iter().product::<usize>(), labels.len());
        if values != len * count {
            return Err(DataError::Invalid(format!("{values} values for {count} examples of {len}")));
        }
        if let Some(label) = labels.iter().find(|&&label| usize::from(label) >= classes) {
            return Err(DataError::Invalid(format!("the label {label} is none of {classes} classes")));
        }
        Ok(Self { shape, inputs, classes, labels, numbers })
    }

    /// Channels, height and width; a row is as many channels of one pixel.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// How many classes there are, and labels are below it; 1 where a number is learnt.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// How many examples there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// What people call several of them.
    pub fn noun(&self) -> &'static str {
        match self.inputs {
            Inputs::Pixels(_) => "images",
            Inputs::Numbers(_) => "rows",
        }
    }

    /// The label of every example, each below [`Examples::classes`].
    pub fn labels(&self) -> &[u16] {
        &self.labels
    }

    /// Where a number is learnt: those of all examples in deviations from their mean, and what a deviation is.
    pub fn numbers(&self) -> Option<(&[f32], f64)> {
        self.numbers.as_ref().map(|numbers| (numbers.values.as_slice(), numbers.unit))
    }

    /// How many there are, of how many classes.
    pub fn totals(&self) -> Totals {
        Totals::of(&self.labels, self.classes)
    }

    /// The input of an example; an empty one for an example that there isn't.
    pub fn input(&self, example: usize) -> Input<'_> {
        let len: usize = self.shape.iter().product();
        let range = example * len..(example + 1) * len;
        match &self.inputs {
            Inputs::Pixels(pixels) => Input::Pixels(pixels.get(range).unwrap_or_default()),
            Inputs::Numbers(numbers) => Input::Numbers(numbers.get(range).unwrap_or_default()),
        }
    }

    /// The pixels of an image.
    #[cfg(test)]
    pub(crate) fn pixels(&self, image: usize) -> &[u8] {
        match self.input(image) {
            Input::Pixels(pixels) => pixels,
            Input::Numbers(_) => panic!("a row has no pixels"),
        }
    }

    /// The examples of these indices, in this order; an index that none has is left out.
    pub fn select(&self, indices: &[u32]) -> Self {
        let indices: Vec<usize> = indices.iter().map(|&i| i as usize).filter(|&i| i < self.len()).collect();
        let mut inputs = match &self.inputs {
            Inputs::Pixels(_) => Inputs::Pixels(Vec::new()),
            Inputs::Numbers(_) => Inputs::Numbers(Vec::new()),
        };
        let room = indices.len() * self.shape.iter().product::<usize>();
        match &mut inputs {
            Inputs::Pixels(pixels) => pixels.reserve_exact(room),
            Inputs::Numbers(numbers) => numbers.reserve_exact(room),
        }
        for &index in &indices {
            match (&mut inputs, self.input(index)) {
                (Inputs::Pixels(all), Input::Pixels(own)) => all.extend_from_slice(own),
                (Inputs::Numbers(all), Input::Numbers(own)) => all.extend_from_slice(own),
                // An example's input is of the kind that all are.
                (Inputs::Pixels(_), Input::Numbers(_)) | (Inputs::Numbers(_), Input::Pixels(_)) => {}
            }
        }
        let labels = indices.iter().map(|&index| self.labels[index]).collect();
        let of = |all: &Numbers| Numbers { values: indices.iter().map(|&i| all.values[i]).collect(), unit: all.unit };
        Self { shape: self.shape, inputs, classes: self.classes, labels, numbers: self.numbers.as_ref().map(of) }
    }

    /// Those of part `k` of `n`.
    ///
    /// # Errors
    /// There is no such part.
    pub fn part(&self, k: usize, n: usize, rule: &Partition, seed: u64) -> Result<Self, DataError> {
        Ok(self.select(&train_indices(&self.labels, self.classes, k, n, rule, seed)?))
    }
}

/// Examples to train on and examples to test with.
#[derive(Debug, Clone, PartialEq)]
pub struct DataSet {
    /// What nodes train on.
    pub train: Examples,
    /// What accuracy is measured on; no node trains on it.
    pub test: Examples,
    /// What was strange where they came from, in sentences for people.
    pub notes: Vec<String>,
}

impl DataSet {
    /// Part `k` of `n`, from 1: the training examples under `rule`, the test examples dealt out in turn, so that the parts
    /// together are the whole data set. The same for every node that has the same data and seed.
    ///
    /// # Errors
    /// There is no such part.
    pub fn part(&self, k: usize, n: usize, rule: &Partition, seed: u64) -> Result<Self, DataError> {
        Ok(Self {
            train: self.train.part(k, n, rule, seed)?,
            test: self.test.select(&test_indices(self.test.len(), k, n)),
            notes: self.notes.clone(),
        })
    }
}

/// Chooses examples by the labels of the training examples, how many classes there are, and how many test examples.
pub(super) type Choose<'a> = dyn Fn(&[u16], usize, usize) -> Result<Indices, DataError> + 'a;

/// The indices of chosen examples in a data set, ascending.
pub(super) struct Indices {
    pub(super) train: Vec<u32>,
    pub(super) test: Vec<u32>,
}

/// Chooses everything.
pub(super) fn all(labels: &[u16], _classes: usize, tests: usize) -> Result<Indices, DataError> {
    Ok(Indices { train: (0..labels.len() as u32).collect(), test: (0..tests as u32).collect() })
}

/// The training examples of part `k` of `n`.
pub(super) fn train_indices(
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
            "{} training examples can't be divided into {n} parts: use fewer parts or more data",
            labels.len()
        )));
    }
    let indices = partition(labels, classes, n, rule, seed).swap_remove(k - 1);
    if indices.is_empty() {
        return Err(DataError::Invalid(format!("part {k}/{n} has no training example under this partition")));
    }
    Ok(indices)
}

/// The test examples of part `k` of `n`: dealt out in turn.
pub(super) fn test_indices(tests: usize, k: usize, n: usize) -> Vec<u32> {
    (0..tests as u32).skip(k - 1).step_by(n).collect()
}

/// Checks the size of a data set before memory is taken for it.
pub(super) fn check_size(shape: [usize; 3], examples: usize) -> Result<(), DataError> {
    let bytes = shape.iter().try_fold(examples.max(1), |bytes, &side| bytes.checked_mul(side));
    if examples > EXAMPLES_MAX || !bytes.is_some_and(|bytes| (1..=PIXELS_MAX).contains(&bytes)) {
        let [channels, height, width] = shape;
        return Err(DataError::Invalid(format!(
            "{examples} examples of {channels}x{height}x{width} bytes: at most {EXAMPLES_MAX} examples and {PIXELS_MAX} \
             bytes are possible, and no side may be 0: divide the data among more nodes"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(count: usize) -> Examples {
        let labels = (0..count).map(|i| (i % 3) as u16).collect();
        Examples::new([1, 1, 2], 3, (0..count * 2).map(|i| i as u8).collect(), labels).expect("consistent")
    }

    fn rows(count: usize) -> Examples {
        let numbers = (0..count * 2).map(|i| i as f32).collect();
        let targets = Targets::Numbers { values: (0..count).map(|i| i as f32 / 7.0).collect(), unit: 7.0 };
        Examples::rows(2, numbers, targets).expect("consistent")
    }

    /// Everything that is in one of them, in an order that tells equal ones.
    fn content(examples: &[&Examples]) -> Vec<String> {
        let one = |e: &Examples, i: usize| format!("{:?} {:?}", e.input(i), e.numbers().map(|(values, _)| values[i]));
        let mut all: Vec<String> = examples.iter().flat_map(|e| (0..e.len()).map(|i| one(e, i))).collect();
        all.sort();
        all
    }

    #[test]
    fn parts_together_are_the_whole_data_set() {
        for (train, test) in [(images(20), images(7)), (rows(20), rows(7))] {
            let whole = DataSet { train, test, notes: Vec::new() };
            let parts: Vec<DataSet> = (1..=3).map(|k| whole.part(k, 3, &Partition::Iid, 5).expect("a part")).collect();
            let all = |of: fn(&DataSet) -> &Examples| content(&parts.iter().map(of).collect::<Vec<_>>());
            assert_eq!(all(|part| &part.train), content(&[&whole.train]));
            assert_eq!(all(|part| &part.test), content(&[&whole.test]));
        }
    }

    #[test]
    fn a_part_that_there_is_not_is_refused() {
        let whole = DataSet { train: images(20), test: images(7), notes: Vec::new() };
        for (k, n) in [(0, 3), (4, 3), (1, 0), (1, 21)] {
            assert!(whole.part(k, n, &Partition::Iid, 5).is_err(), "{k}/{n}");
        }
    }

    #[test]
    fn inconsistent_examples_are_refused() {
        assert!(Examples::new([1, 1, 2], 3, vec![0; 3], vec![0, 1]).is_err());
        assert!(Examples::new([1, 1, 2], 3, vec![0; 2], vec![3]).is_err());
        assert!(Examples::new([usize::MAX, 2, 2], 3, vec![], vec![]).is_err());
        let targets = || Targets::Numbers { values: vec![0.5], unit: 1.0 };
        assert!(Examples::rows(2, vec![0.0; 3], targets()).is_err());
        assert!(Examples::rows(0, vec![], targets()).is_err());
    }
}
