//! Data files of any content. Loaders read files, so each thread has a folder of its own, in memory where there is one.

use super::cifar::{NAMES, RECORD};
use super::files::gzip;
use super::*;
use std::fs;
use tempfile::TempDir;

thread_local!(static FOLDER: TempDir = {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
    folder.expect("a temporary folder")
});

/// Calls `then` with an empty folder.
fn in_folder<T>(then: impl FnOnce(&Path) -> T) -> T {
    FOLDER.with(|folder| {
        for entry in fs::read_dir(folder.path()).expect("the folder is there").flatten() {
            fs::remove_file(entry.path()).expect("it is this thread's");
        }
        then(folder.path())
    })
}

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    fs::write(folder.join(name), bytes).expect("there is room");
}

/// What is loaded is as large as it says, and its parts are all of it.
fn is_sound(source: &Source, path: &Path, loaded: &Result<DataSet, DataError>) {
    let Ok(data) = loaded else {
        let error = loaded.as_ref().expect_err("it is no data set").to_string();
        assert!(!error.is_empty());
        return;
    };
    for examples in [&data.train, &data.test] {
        let len: usize = examples.shape().iter().product();
        let is_whole = |example: usize| match examples.input(example) {
            Input::Pixels(pixels) => pixels.len() == len,
            Input::Numbers(numbers) => numbers.len() == len && numbers.iter().all(|number| number.is_finite()),
        };
        assert!((0..examples.len()).all(is_whole));
        assert!(examples.labels().iter().all(|label| usize::from(*label) < examples.classes()));
    }
    let parts = 2.min(data.train.len());
    let sizes = (1..=parts).map(|k| load_part(source, Some(path), (k, parts), &Partition::Iid, 1));
    let sizes: usize = sizes.map(|part| part.expect("the whole could be loaded").0.train.len()).sum();
    assert_eq!(sizes, data.train.len());
}

/// CIFAR-10: the first byte says whether the others are the archive, the archive before it is packed, a script of what lies in
/// the archive, or one of what lies in the folder.
pub fn cifar(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    in_folder(|folder| {
        let path = match kind % 4 {
            0 => archive(folder, bytes),
            1 => archive(folder, &gzip(bytes)),
            2 => archive(folder, &gzip(&entries(bytes))),
            _ => {
                for (name, script) in NAMES.iter().zip(bytes.chunks(3)) {
                    write(folder, name, &batch(script));
                }
                folder.to_owned()
            }
        };
        is_sound(&Source::Cifar10, &path, &load(&Source::Cifar10, Some(&path), 1));
    });
}

fn archive(folder: &Path, bytes: &[u8]) -> PathBuf {
    write(folder, "cifar.tar.gz", bytes);
    folder.join("cifar.tar.gz")
}

/// A batch: how many records, of which label, and what is amiss with its length.
fn batch(script: &[u8]) -> Vec<u8> {
    let [count, label, amiss] = [0, 1, 2].map(|i| script.get(i).copied().unwrap_or(0));
    let mut record = vec![label % 12; RECORD];
    record[1..].fill(count);
    let mut bytes = record.repeat(1 + usize::from(count % 3));
    bytes.truncate(bytes.len().saturating_sub(usize::from(amiss / 16 * (amiss & 1))));
    bytes
}

/// An archive: an entry for every five bytes, whose header may say something else than what follows.
fn entries(script: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in script.chunks(5).take(16) {
        let [name, kind, size] = [0, 1, 2].map(|i| entry.get(i).copied().unwrap_or(0));
        let content = batch(entry.get(2..).unwrap_or_default());
        let mut header = tar::Header::new_gnu();
        let name = NAMES.get(usize::from(name % 8)).copied().unwrap_or("other");
        // A name that the header can't hold stays empty.
        let _ = header.set_path(format!("cifar-10-batches-bin/{name}"));
        header.set_size(if size & 0x80 == 0 { content.len() as u64 } else { u64::from(size) << (size & 0x3F) });
        header.set_entry_type(match kind {
            0xC0.. => tar::EntryType::new(kind & 0x7F),
            _ => tar::EntryType::Regular,
        });
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(&content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// MNIST: four files, whose lengths the first bytes say; the first of all says which of them are gzipped.
pub fn mnist(bytes: &[u8]) {
    let [packed, a, b, c, bytes @ ..] = bytes else { return };
    let mut rest = bytes;
    let mut files = Vec::new();
    for len in [usize::from(*a), usize::from(*b), usize::from(*c), usize::MAX] {
        let (file, after) = rest.split_at(len.min(rest.len()));
        files.push(file);
        rest = after;
    }
    in_folder(|folder| {
        let names =
            ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels.idx1-ubyte"];
        for (index, (name, file)) in names.iter().zip(files).enumerate() {
            match packed >> index & 1 {
                1 => write(folder, &format!("{name}.gz"), &gzip(file)),
                _ => write(folder, name, file),
            }
        }
        is_sound(&Source::Mnist, folder, &load(&Source::Mnist, Some(folder), 1));
    });
}

/// A picture in a folder of pictures: PNG or JPEG, of the size that its header says. The first byte says how many channels the
/// run file wants.
pub fn picture(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    in_folder(|folder| {
        write(folder, "picture.png", bytes);
        let path = folder.join("picture.png");
        let size = image::ImageReader::open(&path).ok().and_then(|reader| reader.with_guessed_format().ok());
        let size = size.and_then(|reader| reader.into_dimensions().ok()).unwrap_or((4, 4));
        let [width, height] = [size.0, size.1].map(|side| (side as usize).clamp(1, 256));
        let channels = if kind & 1 == 0 { 1 } else { 3 };
        let mut pixels = vec![0; channels * height * width];
        for fit in [Fit::Exact, Fit::Crop, Fit::Stretch] {
            let decoded = folder::decode(&path, [channels, height, width], fit, &mut pixels);
            assert!(decoded.is_ok() || !decoded.expect_err("it is no picture").of(&path).to_string().is_empty());
        }
    });
}

/// A table of any text: what is seen in it makes a description by which it can be loaded again, and that gives as many rows.
pub fn table(bytes: &[u8]) {
    in_folder(|folder| {
        write(folder, "table.csv", bytes);
        let path = folder.join("table.csv");
        let look = match look_at_table(&path, None) {
            Ok(look) => look,
            Err(error) => return assert!(!error.to_string().is_empty()),
        };
        let source = Source::Table(Table { target: look.target, columns: look.columns, holdout: 0.25 });
        let loaded = load(&source, Some(&path), 1);
        is_sound(&source, &path, &loaded);
        let data = loaded.expect("it fits what was seen in it");
        assert_eq!(data.train.len() + data.test.len(), look.rows);
    });
}

/// Real values for each target to begin with.
#[cfg(test)]
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let all = [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 3, 0, 0, 0, 0, 4, 0, 0, 0, 0, 5, 0, 0, 0, 0];
    let mut seeds = vec![
        ("cifar", [&[0], &gzip(&entries(&all))[..]].concat()),
        ("cifar", [&[1], &entries(&all[..5])[..1024]].concat()),
        ("cifar", [&[2], &all[..]].concat()),
        ("cifar", [&[3], &[0, 1, 0].repeat(6)[..]].concat()),
    ];
    let word = |n: u32| n.to_be_bytes();
    let images =
        |count: u32| [&word(0x0803)[..], &word(count), &word(2), &word(2), &vec![7; 4 * count as usize]].concat();
    let labels = |count: u32| [&word(0x0801)[..], &word(count), &vec![3; count as usize]].concat();
    let files = [images(3), labels(3), images(1), labels(1)];
    let lengths = [files[0].len() as u8, files[1].len() as u8, files[2].len() as u8];
    for packed in [0, 5] {
        seeds.push(("mnist", [&[packed], &lengths[..], &files.concat()].concat()));
    }
    for text in [
        "a,b,kind\n1,x,cat\n2.5,\"y, z\",dog\n,x,cat\n",
        "a;b\r\n1;2\r\n3;4e9\r\n-7;NA\r\n",
        "\u{feff}\"a\"\t\"b\"\n1\t0\n2\t1\n5\t1\n",
    ] {
        seeds.push(("table", text.as_bytes().to_vec()));
    }
    for side in [1u32, 4, 9] {
        for format in [image::ImageFormat::Png, image::ImageFormat::Jpeg] {
            let pictures = [
                image::DynamicImage::from(image::RgbImage::from_fn(side, side, |x, y| {
                    image::Rgb([x as u8 * 9, y as u8, 3])
                })),
                image::DynamicImage::from(image::GrayImage::from_fn(side, side, |x, y| image::Luma([(x * y) as u8]))),
            ];
            for (kind, picture) in pictures.iter().enumerate() {
                let mut bytes = std::io::Cursor::new(Vec::new());
                picture.write_to(&mut bytes, format).expect("memory takes it");
                seeds.push(("picture", [&[kind as u8], &bytes.into_inner()[..]].concat()));
            }
        }
    }
    seeds
}
