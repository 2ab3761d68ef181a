//! Reading files with a bound, gzipped or not.

use super::DataError;
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes of one data file at most, after decompression: MNIST's largest has 47 MB, CIFAR-10's 31 MB.
pub(super) const FILE_BYTES_MAX: u64 = 1 << 30;

/// The error of a file that can't be read.
pub(super) fn unreadable(path: &Path) -> impl Fn(std::io::Error) -> DataError + '_ {
    move |source| DataError::Read { path: path.to_owned(), source }
}

/// The error of a file that isn't what it should be.
pub(super) fn malformed(path: &Path, offset: u64, expected: impl Into<String>, found: impl Into<String>) -> DataError {
    DataError::Malformed { path: path.to_owned(), offset, expected: expected.into(), found: found.into() }
}

/// The bytes of a file, decompressed where it is gzipped (told by its first bytes, not its name).
pub(super) fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    let mut file = File::open(path).map_err(unreadable(path))?;
    let mut magic = Vec::new();
    file.by_ref().take(2).read_to_end(&mut magic).map_err(unreadable(path))?;
    let whole = std::io::Cursor::new(magic.clone()).chain(file);
    if magic == [0x1f, 0x8b] { drain(MultiGzDecoder::new(whole), path) } else { drain(whole, path) }
}

/// Reads to the end, or to the bound.
pub(super) fn drain(reader: impl Read, path: &Path) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    if let Err(error) = reader.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes) {
        return Err(match error.kind() {
            std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData => {
                malformed(path, bytes.len() as u64, "the rest of the compressed data", error.to_string())
            }
            _ => unreadable(path)(error),
        });
    }
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(malformed(path, FILE_BYTES_MAX, format!("at most {FILE_BYTES_MAX} bytes"), "more"));
    }
    Ok(bytes)
}

#[cfg(any(test, feature = "fuzz"))]
pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes every byte")
}
