//! CIFAR-10, binary version (Krizhevsky 2009): records of a label byte and 3x32x32 pixels, channel by channel.

use super::files::{drain, malformed, read, unreadable};
use super::{Choose, DataError, DataSet, Examples, check_size};
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

pub(super) const IMAGE: [usize; 3] = [3, 32, 32];
pub(super) const CLASSES: usize = 10;
/// As in the data set's `batches.meta.txt`.
pub(super) const CLASS_NAMES: [&str; CLASSES] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
pub(super) const RECORD: usize = 1 + 3 * 32 * 32;
const FOLDER: &str = "cifar-10-batches-bin";
const BATCHES: usize = 6;
/// The training batches, then the test batch.
pub(super) const NAMES: [&str; BATCHES] = [
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
    "test_batch.bin",
];
const TEST_NUMBER: usize = BATCHES - 1;
/// Entries of the archive at most: the official one has 10.
const ENTRIES_MAX: usize = 1000;
/// Bytes of the archive at most, after decompression: the official one has 184 MB.
const ARCHIVE_BYTES_MAX: u64 = 2 << 30;

/// Loads a folder of batches, a folder that holds that folder, or the official tar.gz; of the images only those that
/// `choose` picks.
///
/// The files are read twice, for the labels and then for the chosen pixels: a part of the data set never takes the
/// memory of the whole.
pub(super) fn load(path: &Path, choose: &Choose<'_>) -> Result<DataSet, DataError> {
    let mut labels: [Vec<u16>; BATCHES] = Default::default();
    each_batch(path, &mut |number, file, bytes| {
        labels[number] = check(file, bytes)?;
        Ok(())
    })?;
    let [train @ .., test] = &labels;
    let train = train.concat();
    check_size(IMAGE, train.len().max(test.len()))?;
    let indices = choose(&train, CLASSES, test.len())?;
    let mut train = Chosen::new(&indices.train, &train);
    let mut test_images = Chosen::new(&indices.test, test);
    let starts: Vec<usize> =
        labels.iter().scan(0, |sum, batch| Some(std::mem::replace(sum, *sum + batch.len()))).collect();
    each_batch(path, &mut |number, file, bytes| {
        if bytes.len() != labels[number].len() * RECORD {
            return Err(malformed(file, 0, "the bytes that were there a moment ago", format!("{} bytes", bytes.len())));
        }
        match number {
            TEST_NUMBER => test_images.take(0, bytes),
            _ => train.take(starts[number], bytes),
        }
        Ok(())
    })?;
    Ok(DataSet { train: train.images()?, test: test_images.images()?, notes: Vec::new() })
}

/// Hears of a batch: its number, its name, its bytes.
type EachBatch<'a> = dyn FnMut(usize, &Path, &[u8]) -> Result<(), DataError> + 'a;

/// Calls `each` with the number, the name and the bytes of every batch, the test batch's number being the last.
fn each_batch(path: &Path, each: &mut EachBatch<'_>) -> Result<(), DataError> {
    if path.is_file() {
        return unpack(path, each);
    }
    let folder = folder(path)?;
    for (number, name) in NAMES.into_iter().enumerate() {
        each(number, &folder.join(name), &batch(&folder, name)?)?;
    }
    Ok(())
}

/// The folder that the batches lie in.
fn folder(path: &Path) -> Result<PathBuf, DataError> {
    std::fs::metadata(path).map_err(unreadable(path))?;
    let inner = path.join(FOLDER);
    Ok(if inner.is_dir() { inner } else { path.to_owned() })
}

fn missing(path: &Path, name: &str) -> DataError {
    DataError::Missing {
        path: path.to_owned(),
        missing: name.to_owned(),
        fix: format!("point --data at the official cifar-10-binary.tar.gz or its folder {FOLDER}"),
    }
}

fn batch(folder: &Path, name: &str) -> Result<Vec<u8>, DataError> {
    let path = folder.join(name);
    if path.is_file() { read(&path) } else { Err(missing(folder, name)) }
}

/// The batches of the archive, in the order in which they lie there.
fn unpack(path: &Path, each: &mut EachBatch<'_>) -> Result<(), DataError> {
    let file = BufReader::new(File::open(path).map_err(unreadable(path))?);
    let mut archive = tar::Archive::new(MultiGzDecoder::new(file).take(ARCHIVE_BYTES_MAX));
    let broken = |error: std::io::Error| malformed(path, 0, "a tar archive packed with gzip", error.to_string());
    let mut seen = [false; BATCHES];
    for entry in archive.entries().map_err(broken)?.take(ENTRIES_MAX) {
        let entry = entry.map_err(broken)?;
        let name = entry.path().map_err(broken)?.file_name().map(|name| name.to_string_lossy().into_owned());
        let Some(name) = name else { continue };
        if let Some(number) = NAMES.iter().position(|batch| *batch == name) {
            let name = path.join(name);
            each(number, &name, &drain(entry, &name)?)?;
            seen[number] = true;
        }
    }
    match seen.iter().position(|seen| !seen) {
        Some(number) => Err(missing(path, NAMES[number])),
        None => Ok(()),
    }
}

/// The labels of a batch, whose records must be whole.
fn check(path: &Path, bytes: &[u8]) -> Result<Vec<u16>, DataError> {
    let whole = bytes.len() / RECORD * RECORD;
    if whole != bytes.len() || bytes.is_empty() {
        let found = format!("{} bytes", bytes.len() - whole);
        return Err(malformed(path, whole as u64, format!("a whole record of {RECORD} bytes"), found));
    }
    let label = |(i, record): (usize, &[u8])| match record[0] {
        label if usize::from(label) < CLASSES => Ok(u16::from(label)),
        label => Err(malformed(path, (i * RECORD) as u64, "a label from 0 to 9", label.to_string())),
    };
    bytes.chunks_exact(RECORD).enumerate().map(label).collect()
}

/// Chosen images, as their pixels come in.
struct Chosen<'a> {
    /// Their indices in the data set, ascending.
    indices: &'a [u32],
    labels: Vec<u16>,
    pixels: Vec<u8>,
}

impl<'a> Chosen<'a> {
    fn new(indices: &'a [u32], labels: &[u16]) -> Self {
        let labels = indices.iter().map(|&index| labels[index as usize]).collect();
        Self { indices, labels, pixels: vec![0; indices.len() * (RECORD - 1)] }
    }

    /// Copies the chosen images of a batch whose first image has the index `start`.
    fn take(&mut self, start: usize, bytes: &[u8]) {
        let records = bytes.chunks_exact(RECORD);
        let from = self.indices.partition_point(|&index| (index as usize) < start);
        let to = self.indices.partition_point(|&index| (index as usize) < start + records.len());
        let pixels = self.pixels[from * (RECORD - 1)..to * (RECORD - 1)].chunks_exact_mut(RECORD - 1);
        for (pixels, &index) in pixels.zip(&self.indices[from..to]) {
            let at = (index as usize - start) * RECORD;
            pixels.copy_from_slice(&bytes[at + 1..at + RECORD]);
        }
    }

    fn images(self) -> Result<Examples, DataError> {
        Examples::new(IMAGE, CLASSES, self.pixels, self.labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::files::gzip;
    use crate::data::{Partition, Source, all, load_part};

    fn record(label: u8) -> Vec<u8> {
        let mut record = vec![label];
        record.extend((0..RECORD - 1).map(|i| i as u8 ^ label));
        record
    }

    fn batches() -> Vec<(&'static str, Vec<u8>)> {
        NAMES.iter().enumerate().map(|(i, name)| (*name, record(i as u8).repeat(2))).collect()
    }

    fn write(folder: &Path, batches: &[(&str, Vec<u8>)]) {
        std::fs::create_dir_all(folder).expect("a temporary folder");
        for (name, bytes) in batches {
            std::fs::write(folder.join(name), bytes).expect("a temporary file");
        }
    }

    fn archive(batches: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in batches {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, format!("{FOLDER}/{name}"), bytes.as_slice()).expect("memory");
        }
        gzip(&builder.into_inner().expect("memory"))
    }

    fn error(batches: &[(&str, Vec<u8>)]) -> String {
        let folder = tempfile::tempdir().expect("a temporary folder");
        write(folder.path(), batches);
        load(folder.path(), &all).expect_err("must be refused").to_string()
    }

    #[test]
    fn the_folder_its_parent_and_the_archive_hold_the_same_data() {
        let parent = tempfile::tempdir().expect("a temporary folder");
        write(&parent.path().join(FOLDER), &batches());
        let packed = parent.path().join("cifar-10-binary.tar.gz");
        std::fs::write(&packed, archive(&batches())).expect("a temporary file");
        let data = load(parent.path(), &all).expect("good data");
        assert_eq!((data.train.len(), data.test.len()), (10, 2));
        assert_eq!(data.train.labels(), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
        assert_eq!(data.test.pixels(1), &record(5)[1..]);
        assert_eq!(load(&parent.path().join(FOLDER), &all).expect("good data"), data);
        assert_eq!(load(&packed, &all).expect("good data"), data);
    }

    #[test]
    fn a_part_loaded_by_itself_is_the_part_of_the_whole() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        write(folder.path(), &batches());
        let packed = folder.path().join("packed.tar.gz");
        std::fs::write(&packed, archive(&batches())).expect("a temporary file");
        let whole = load(folder.path(), &all).expect("good data");
        for k in 1..=3 {
            let expected = whole.part(k, 3, &Partition::Iid, 7).expect("a part");
            for path in [folder.path(), &packed] {
                let part = load_part(&Source::Cifar10, Some(path), (k, 3), &Partition::Iid, 7).expect("a part");
                assert_eq!(part, (expected.clone(), whole.train.totals()));
            }
        }
    }

    #[test]
    fn a_truncated_batch_names_the_file_and_the_offset() {
        let mut batches = batches();
        batches[2].1.truncate(RECORD + 100);
        let error = error(&batches);
        assert!(error.contains("data_batch_3.bin: at offset 3073") && error.contains("100 bytes"), "{error}");
    }

    #[test]
    fn a_wrong_label_names_the_file_and_the_offset() {
        let mut batches = batches();
        batches[5].1[RECORD] = 10;
        let error = error(&batches);
        assert!(error.contains("test_batch.bin: at offset 3073") && error.contains("found 10"), "{error}");
    }

    #[test]
    fn an_empty_and_a_missing_batch_are_named() {
        let mut batches = batches();
        batches[0].1.clear();
        assert!(error(&batches).contains("data_batch_1.bin: at offset 0"));
        assert!(error(&batches[1..]).contains("data_batch_1.bin is missing"));
    }

    #[test]
    fn a_broken_archive_is_refused_without_a_panic() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("broken.tar.gz");
        let good = archive(&batches());
        for bytes in [&b"no archive"[..], &good[..good.len() / 2], &gzip(b"no tar"), &archive(&batches()[..3])] {
            std::fs::write(&path, bytes).expect("a temporary file");
            let error = load(&path, &all).expect_err("must be refused").to_string();
            assert!(error.contains("broken.tar.gz"), "{error}");
        }
        let error = load(&folder.path().join("nowhere"), &all).expect_err("must be refused").to_string();
        assert!(error.contains("nowhere"), "{error}");
    }
}
