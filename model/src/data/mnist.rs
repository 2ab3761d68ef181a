//! IDX files, as MNIST and sets in its format come in (LeCun et al. 1998): big-endian header, then bytes.

use super::files::{malformed, read, unreadable};
use super::{DataError, DataSet, Examples, check_size};
use std::path::{Path, PathBuf};

/// The digits.
pub(super) const CLASSES: usize = 10;
/// Channels, height and width of MNIST's images.
pub(super) const IMAGE: [usize; 3] = [1, 28, 28];
/// Unsigned bytes in three dimensions.
const IMAGES_MAGIC: u32 = 0x0803;
/// Unsigned bytes in one dimension.
const LABELS_MAGIC: u32 = 0x0801;

/// Loads the four files from a folder, gzipped or not, with `-` or `.` before `idx` in their names.
pub(super) fn load(path: &Path) -> Result<DataSet, DataError> {
    std::fs::metadata(path).map_err(unreadable(path))?;
    let train = split(path, "train")?;
    let test = split(path, "t10k")?;
    if train.shape() != test.shape() {
        return Err(DataError::Unexpected {
            path: path.to_owned(),
            key: None,
            expected: format!("test images of {:?} as in the training set", train.shape()),
            found: format!("{:?}", test.shape()),
        });
    }
    Ok(DataSet { train, test, notes: Vec::new() })
}

fn split(folder: &Path, prefix: &str) -> Result<Examples, DataError> {
    let path = find(folder, &format!("{prefix}-images"), "idx3-ubyte")?;
    let bytes = read(&path)?;
    let [count, height, width] = header(&path, &bytes, IMAGES_MAGIC)?;
    let shape = [1, height, width];
    check_size(shape, count)?;
    let pixels = body(&path, &bytes, 16, count * height * width)?.to_vec();
    let path = find(folder, &format!("{prefix}-labels"), "idx1-ubyte")?;
    let bytes = read(&path)?;
    let [labels] = header(&path, &bytes, LABELS_MAGIC)?;
    if labels != count {
        return Err(malformed(&path, 4, format!("{count} labels, as there are images"), labels.to_string()));
    }
    let labels = body(&path, &bytes, 8, count)?;
    if let Some(i) = labels.iter().position(|&label| usize::from(label) >= CLASSES) {
        return Err(malformed(&path, 8 + i as u64, "a label from 0 to 9", labels[i].to_string()));
    }
    Examples::new(shape, CLASSES, pixels, labels.iter().map(|&label| u16::from(label)).collect())
}

/// The file of this name, however it is spelt.
fn find(folder: &Path, stem: &str, kind: &str) -> Result<PathBuf, DataError> {
    let names = [format!("{stem}-{kind}"), format!("{stem}.{kind}")];
    let candidates = names.iter().flat_map(|name| [folder.join(name), folder.join(format!("{name}.gz"))]);
    candidates.into_iter().find(|path| path.is_file()).ok_or_else(|| DataError::Missing {
        path: folder.to_owned(),
        missing: format!("{stem}-{kind}(.gz)"),
        fix: "point --data at the folder of the four IDX files".to_owned(),
    })
}

/// Checks the magic number and reads the dimensions.
fn header<const N: usize>(path: &Path, bytes: &[u8], magic: u32) -> Result<[usize; N], DataError> {
    let word = |i: usize| match bytes.get(4 * i..4 * i + 4) {
        Some(&[a, b, c, d]) => Ok(u32::from_be_bytes([a, b, c, d])),
        _ => Err(malformed(
            path,
            4 * i as u64,
            "a word of the IDX header",
            format!("the end after {} bytes", bytes.len()),
        )),
    };
    let found = word(0)?;
    if found != magic {
        return Err(malformed(path, 0, format!("the magic number {magic:#010x}"), format!("{found:#010x}")));
    }
    let mut dimensions = [0; N];
    for (i, dimension) in dimensions.iter_mut().enumerate() {
        *dimension = word(i + 1)? as usize;
        if *dimension == 0 {
            return Err(malformed(path, 4 * (i as u64 + 1), "a dimension above 0", "0"));
        }
    }
    Ok(dimensions)
}

/// What follows the header, which must be as long as the header says.
fn body<'a>(path: &Path, bytes: &'a [u8], start: usize, len: usize) -> Result<&'a [u8], DataError> {
    let body = &bytes[start..];
    if body.len() == len {
        return Ok(body);
    }
    let offset = (start + body.len().min(len)) as u64;
    Err(malformed(path, offset, format!("{len} bytes after the header"), format!("{} bytes", body.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::files::gzip;

    fn idx(magic: u32, dimensions: &[u32], body: &[u8]) -> Vec<u8> {
        let words = std::iter::once(magic).chain(dimensions.iter().copied());
        words.flat_map(u32::to_be_bytes).chain(body.iter().copied()).collect()
    }

    fn good() -> Vec<(&'static str, Vec<u8>)> {
        vec![
            ("train-images-idx3-ubyte", idx(IMAGES_MAGIC, &[3, 2, 2], &(0..12).collect::<Vec<u8>>())),
            ("train-labels-idx1-ubyte", idx(LABELS_MAGIC, &[3], &[7, 8, 9])),
            ("t10k-images-idx3-ubyte", idx(IMAGES_MAGIC, &[1, 2, 2], &[4, 3, 2, 1])),
            ("t10k-labels-idx1-ubyte", idx(LABELS_MAGIC, &[1], &[0])),
        ]
    }

    fn loaded(files: &[(&str, Vec<u8>)]) -> Result<DataSet, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, bytes) in files {
            std::fs::write(folder.path().join(name), bytes).expect("a temporary file");
        }
        load(folder.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn plain_and_gzipped_files_hold_the_same_data() {
        let plain = loaded(&good()).expect("good data");
        assert_eq!(plain.train.labels(), [7, 8, 9]);
        assert_eq!(plain.train.pixels(1), [4, 5, 6, 7]);
        let mut packed = good();
        packed.iter_mut().for_each(|(_, bytes)| *bytes = gzip(bytes));
        assert_eq!(loaded(&packed), Ok(plain));
    }

    #[test]
    fn a_truncated_idx_file_names_the_offset() {
        let mut files = good();
        files[0].1.truncate(20);
        let error = loaded(&files).expect_err("truncated");
        assert!(error.contains("train-images-idx3-ubyte: at offset 20") && error.contains("12 bytes"), "{error}");
        files[0].1.truncate(9);
        let error = loaded(&files).expect_err("truncated");
        assert!(error.contains("train-images-idx3-ubyte: at offset 8"), "{error}");
        files[0].1.clear();
        let error = loaded(&files).expect_err("empty");
        assert!(error.contains("train-images-idx3-ubyte: at offset 0"), "{error}");
    }

    #[test]
    fn bytes_after_the_end_are_refused() {
        let mut files = good();
        files[3].1.push(0);
        let error = loaded(&files).expect_err("too long");
        assert!(error.contains("t10k-labels-idx1-ubyte: at offset 9"), "{error}");
    }

    #[test]
    fn wrong_magic_numbers_counts_and_labels_name_the_offset() {
        let cases = [
            (1, idx(IMAGES_MAGIC, &[3], &[7, 8, 9]), "offset 0"),
            (1, idx(LABELS_MAGIC, &[2], &[7, 8]), "offset 4"),
            (1, idx(LABELS_MAGIC, &[3], &[7, 10, 9]), "offset 9"),
            (0, idx(IMAGES_MAGIC, &[3, 0, 2], &[]), "offset 8"),
        ];
        for (file, bytes, place) in cases {
            let mut files = good();
            files[file].1 = bytes;
            let error = loaded(&files).expect_err("malformed");
            assert!(error.contains(files[file].0) && error.contains(place), "{error}");
        }
    }

    #[test]
    fn dimensions_that_would_fill_the_memory_are_refused() {
        let mut files = good();
        files[0].1 = idx(IMAGES_MAGIC, &[u32::MAX, u32::MAX, u32::MAX], &[]);
        assert!(loaded(&files).expect_err("too large").contains("at most"));
    }

    #[test]
    fn a_missing_file_and_a_cut_gzip_stream_are_named() {
        let error = loaded(&good()[..3]).expect_err("missing");
        assert!(error.contains("t10k-labels-idx1-ubyte"), "{error}");
        let mut files = good();
        files[2].1 = gzip(&files[2].1);
        let half = files[2].1.len() / 2;
        files[2].1.truncate(half);
        let error = loaded(&files).expect_err("cut");
        assert!(error.contains("t10k-images-idx3-ubyte"), "{error}");
    }
}
