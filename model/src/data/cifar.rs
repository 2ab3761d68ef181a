//! CIFAR-10, binary version (Krizhevsky 2009): records of a label byte and 3x32x32 pixels, channel by channel.

use super::files::{drain, malformed, read, unreadable};
use super::{DataError, DataSet, Images, check_size};
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

const SHAPE: [usize; 3] = [3, 32, 32];
const CLASSES: usize = 10;
const RECORD: usize = 1 + 3 * 32 * 32;
const FOLDER: &str = "cifar-10-batches-bin";
const TRAIN: [&str; 5] =
    ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];
const TEST: &str = "test_batch.bin";
/// Entries of the archive at most: the official one has 10.
const ENTRIES_MAX: usize = 1000;
/// Bytes of the archive at most, after decompression: the official one has 184 MB.
const ARCHIVE_BYTES_MAX: u64 = 2 << 30;

/// Loads a folder of batches, a folder that holds that folder, or the official tar.gz.
pub(super) fn load(path: &Path) -> Result<DataSet, DataError> {
    let mut train = Records::default();
    let mut test = Records::default();
    if path.is_file() {
        let batches = unpack(path)?;
        for (name, bytes) in TRAIN.iter().zip(&batches) {
            train.add(&path.join(name), bytes)?;
        }
        test.add(&path.join(TEST), &batches[TRAIN.len()])?;
    } else {
        let folder = folder(path)?;
        for name in TRAIN {
            train.add(&folder.join(name), &batch(&folder, name)?)?;
        }
        test.add(&folder.join(TEST), &batch(&folder, TEST)?)?;
    }
    Ok(DataSet { train: train.images()?, test: test.images()? })
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

/// The batches of the archive, training batches first.
fn unpack(path: &Path) -> Result<Vec<Vec<u8>>, DataError> {
    let file = BufReader::new(File::open(path).map_err(unreadable(path))?);
    let mut archive = tar::Archive::new(MultiGzDecoder::new(file).take(ARCHIVE_BYTES_MAX));
    let broken = |error: std::io::Error| malformed(path, 0, "a tar archive packed with gzip", error.to_string());
    let mut batches: Vec<Option<Vec<u8>>> = vec![None; TRAIN.len() + 1];
    for entry in archive.entries().map_err(broken)?.take(ENTRIES_MAX) {
        let entry = entry.map_err(broken)?;
        let name = entry.path().map_err(broken)?.file_name().map(|name| name.to_string_lossy().into_owned());
        let Some(name) = name else { continue };
        if let Some(place) = TRAIN.iter().chain(&[TEST]).position(|batch| *batch == name) {
            batches[place] = Some(drain(entry, &path.join(name))?);
        }
    }
    let names = TRAIN.iter().chain(&[TEST]);
    names.zip(batches).map(|(name, batch)| batch.ok_or_else(|| missing(path, name))).collect()
}

#[derive(Default)]
struct Records {
    pixels: Vec<u8>,
    labels: Vec<u16>,
}

impl Records {
    fn add(&mut self, path: &Path, bytes: &[u8]) -> Result<(), DataError> {
        let whole = bytes.len() / RECORD * RECORD;
        if whole != bytes.len() || bytes.is_empty() {
            let found = format!("{} bytes", bytes.len() - whole);
            return Err(malformed(path, whole as u64, format!("a whole record of {RECORD} bytes"), found));
        }
        check_size(SHAPE, self.labels.len() + bytes.len() / RECORD)?;
        self.pixels.reserve(bytes.len());
        for (i, record) in bytes.chunks_exact(RECORD).enumerate() {
            let label = record[0];
            if usize::from(label) >= CLASSES {
                return Err(malformed(path, (i * RECORD) as u64, "a label from 0 to 9", label.to_string()));
            }
            self.labels.push(u16::from(label));
            self.pixels.extend_from_slice(&record[1..]);
        }
        Ok(())
    }

    fn images(self) -> Result<Images, DataError> {
        Images::new(SHAPE, CLASSES, self.pixels, self.labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::files::gzip;

    fn record(label: u8) -> Vec<u8> {
        let mut record = vec![label];
        record.extend((0..RECORD - 1).map(|i| i as u8 ^ label));
        record
    }

    fn batches() -> Vec<(&'static str, Vec<u8>)> {
        TRAIN.iter().chain(&[TEST]).enumerate().map(|(i, name)| (*name, record(i as u8).repeat(2))).collect()
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
        load(folder.path()).expect_err("must be refused").to_string()
    }

    #[test]
    fn the_folder_its_parent_and_the_archive_hold_the_same_data() {
        let parent = tempfile::tempdir().expect("a temporary folder");
        write(&parent.path().join(FOLDER), &batches());
        let packed = parent.path().join("cifar-10-binary.tar.gz");
        std::fs::write(&packed, archive(&batches())).expect("a temporary file");
        let data = load(parent.path()).expect("good data");
        assert_eq!((data.train.len(), data.test.len()), (10, 2));
        assert_eq!(data.train.labels(), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
        assert_eq!(data.test.pixels(1), &record(5)[1..]);
        assert_eq!(load(&parent.path().join(FOLDER)).expect("good data"), data);
        assert_eq!(load(&packed).expect("good data"), data);
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
            let error = load(&path).expect_err("must be refused").to_string();
            assert!(error.contains("broken.tar.gz"), "{error}");
        }
        let error = load(&folder.path().join("nowhere")).expect_err("must be refused").to_string();
        assert!(error.contains("nowhere"), "{error}");
    }
}
