//! A folder of PNG and JPEG images with a subfolder for each class, the labels being the classes' places in the run
//! file.

use super::files::unreadable;
use super::{DataError, DataSet, Images, check_size};
use image::{ImageReader, Limits};
use rayon::prelude::*;
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// Bytes that decoding one image may take beyond its pixels: the decoders' own tables.
const DECODING_BYTES_MAX: u64 = 64 << 20;
/// What systems leave in folders of images.
const IGNORED: [&str; 2] = ["Thumbs.db", "desktop.ini"];

/// Loads the folder. With subfolders `train` and `test` each holds the classes; else `holdout` of the images are kept
/// for testing, chosen by a hash of class and file name, so that adding an image moves no other.
pub(super) fn load(path: &Path, classes: &[String], image: [usize; 3], holdout: f64) -> Result<DataSet, DataError> {
    if !matches!(image[0], 1 | 3) {
        return Err(DataError::Invalid(format!("images have 1 or 3 channels, not {}", image[0])));
    }
    if !(0.0..1.0).contains(&holdout) {
        return Err(DataError::Invalid(format!("holdout = {holdout}: it must be at least 0 and below 1")));
    }
    let (train, test) = if path.join("train").is_dir() && path.join("test").is_dir() {
        (list(&path.join("train"), classes)?, list(&path.join("test"), classes)?)
    } else {
        list(path, classes)?.into_iter().partition(|file| !held_out(file, classes, holdout))
    };
    if train.is_empty() {
        return Err(DataError::Missing {
            path: path.to_owned(),
            missing: "every training image".to_owned(),
            fix: "add images, or lower `holdout`".to_owned(),
        });
    }
    Ok(DataSet { train: decode_all(&train, classes.len(), image)?, test: decode_all(&test, classes.len(), image)? })
}

struct Labelled {
    path: PathBuf,
    label: u16,
}

fn held_out(file: &Labelled, classes: &[String], holdout: f64) -> bool {
    let name = file.path.file_name().unwrap_or_default().to_string_lossy();
    let hash = blake3::hash(format!("{}/{name}", classes[usize::from(file.label)]).as_bytes());
    let mut first = [0; 4];
    first.copy_from_slice(&hash.as_bytes()[..4]);
    f64::from(u32::from_le_bytes(first)) < holdout * 4_294_967_296.0
}

/// The image files of every class, in the order of classes and names.
fn list(path: &Path, classes: &[String]) -> Result<Vec<Labelled>, DataError> {
    for name in names(path)? {
        if path.join(&name).is_dir() && !classes.contains(&name) {
            return Err(DataError::Unexpected {
                path: path.join(&name),
                key: Some("classes"),
                expected: format!("a folder of one of the run file's classes ({})", classes.join(", ")),
                found: format!("the class `{name}`: rename or remove it, or add it to `classes`"),
            });
        }
    }
    let mut files = Vec::new();
    for (label, class) in classes.iter().enumerate() {
        let folder = path.join(class);
        if !folder.is_dir() {
            return Err(DataError::Unexpected {
                path: path.to_owned(),
                key: Some("classes"),
                expected: format!("a folder for each of the run file's {} classes", classes.len()),
                found: format!("none of the class `{class}`: make it and fill it, or correct `classes`"),
            });
        }
        let label = u16::try_from(label).map_err(|_| DataError::Invalid("more than 65536 classes".to_owned()))?;
        for name in names(&folder)? {
            files.push(Labelled { path: image_path(&folder, &name)?, label });
        }
    }
    Ok(files)
}

/// The sorted names in a folder, without hidden ones and what systems leave there.
fn names(folder: &Path) -> Result<Vec<String>, DataError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable(folder))? {
        let name = entry.map_err(unreadable(folder))?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !IGNORED.contains(&name.as_str()) {
            names.push(name);
        }
        if names.len() > super::IMAGES_MAX {
            return Err(DataError::Invalid(format!(
                "{}: more than {} files: divide the data among more nodes",
                folder.display(),
                super::IMAGES_MAX
            )));
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn image_path(folder: &Path, name: &str) -> Result<PathBuf, DataError> {
    let path = folder.join(name);
    let known = path
        .extension()
        .is_some_and(|extension| ["png", "jpg", "jpeg"].iter().any(|known| extension.eq_ignore_ascii_case(known)));
    if known {
        return Ok(path);
    }
    Err(DataError::Unexpected {
        path,
        key: None,
        expected: "a .png, .jpg or .jpeg file".to_owned(),
        found: "another name: convert or remove it".to_owned(),
    })
}

/// Decodes all the files; of several bad ones the first in order is named.
fn decode_all(files: &[Labelled], classes: usize, image: [usize; 3]) -> Result<Images, DataError> {
    check_size(image, files.len())?;
    let len: usize = image.iter().product();
    let mut pixels = vec![0u8; files.len() * len];
    let results: Vec<Result<(), DataError>> =
        files.par_iter().zip(pixels.par_chunks_mut(len)).map(|(file, to)| decode(&file.path, image, to)).collect();
    results.into_iter().collect::<Result<(), _>>()?;
    Images::new(image, classes, pixels, files.iter().map(|file| file.label).collect())
}

/// Decodes one image into `[channel, height, width]`. The size is read from the header and checked before decoding.
pub(super) fn decode(path: &Path, [channels, height, width]: [usize; 3], to: &mut [u8]) -> Result<(), DataError> {
    let expected = format!("an image {width} wide and {height} high, as the run file says");
    let open = || -> Result<ImageReader<BufReader<std::fs::File>>, DataError> {
        let reader = ImageReader::open(path).map_err(unreadable(path))?;
        reader.with_guessed_format().map_err(unreadable(path))
    };
    let broken = |error: image::ImageError| DataError::Unexpected {
        path: path.to_owned(),
        key: None,
        expected: expected.clone(),
        found: format!("a broken file ({error}): write it again or remove it"),
    };
    let (found_width, found_height) = open()?.into_dimensions().map_err(broken)?;
    if (found_width as usize, found_height as usize) != (width, height) {
        return Err(DataError::Unexpected {
            path: path.to_owned(),
            key: Some("image"),
            expected,
            found: format!("{found_width} wide and {found_height} high: scale it, or correct `image`"),
        });
    }
    let mut reader = open()?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(DECODING_BYTES_MAX + 16 * (width * height) as u64);
    reader.limits(limits);
    let decoded = reader.decode().map_err(broken)?;
    if channels == 1 {
        to.copy_from_slice(&decoded.to_luma8());
    } else {
        for (i, pixel) in decoded.to_rgb8().pixels().enumerate() {
            for (channel, &value) in pixel.0.iter().enumerate() {
                to[channel * height * width + i] = value;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Rgb, RgbImage};

    fn classes() -> Vec<String> {
        vec!["dog".to_owned(), "cat".to_owned()]
    }

    fn save(path: &Path, side: u32, red: u8) {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a temporary folder");
        RgbImage::from_pixel(side, side, Rgb([red, 2, 3])).save(path).expect("a temporary file");
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for i in 0..20u8 {
            save(&folder.path().join(format!("dog/{i}.png")), 4, i);
            save(&folder.path().join(format!("cat/{i}.png")), 4, 100 + i);
        }
        folder
    }

    fn error(folder: &Path) -> String {
        load(folder, &classes(), [3, 4, 4], 0.2).expect_err("must be refused").to_string()
    }

    #[test]
    fn labels_follow_the_run_files_order_and_pixels_are_channel_by_channel() {
        let folder = folder();
        let data = load(folder.path(), &classes(), [3, 4, 4], 0.0).expect("good data");
        assert_eq!((data.train.len(), data.test.len()), (40, 0));
        assert_eq!((data.train.labels()[0], data.train.labels()[39]), (0, 1));
        assert_eq!(data.train.pixels(0)[15..17], [0, 2]);
    }

    #[test]
    fn the_held_out_images_stay_when_others_come() {
        let folder = folder();
        let before = load(folder.path(), &classes(), [3, 4, 4], 0.3).expect("good data");
        assert!((4..=20).contains(&before.test.len()), "{}", before.test.len());
        let reds = |images: &Images| (0..images.len()).map(|i| images.pixels(i)[0]).collect::<Vec<_>>();
        save(&folder.path().join("dog/new.png"), 4, 77);
        let after = load(folder.path(), &classes(), [3, 4, 4], 0.3).expect("good data");
        assert!(reds(&before.test).iter().all(|red| reds(&after.test).contains(red)));
    }

    #[test]
    fn train_and_test_subfolders_are_taken_as_they_are() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (split, count) in [("train", 3u8), ("test", 2)] {
            for class in classes() {
                (0..count).for_each(|i| save(&folder.path().join(format!("{split}/{class}/{i}.jpg")), 4, i));
            }
        }
        let data = load(folder.path(), &classes(), [1, 4, 4], 0.5).expect("good data");
        assert_eq!((data.train.len(), data.test.len()), (6, 4));
    }

    #[test]
    fn an_image_of_another_size_is_named_with_both_sizes() {
        let folder = folder();
        save(&folder.path().join("cat/large.png"), 5, 1);
        let error = error(folder.path());
        assert!(error.contains("large.png") && error.contains("4 wide") && error.contains("5 wide"), "{error}");
    }

    #[test]
    fn broken_and_foreign_files_are_named() {
        let folder = folder();
        let path = folder.path().join("cat/broken.png");
        std::fs::write(&path, b"\x89PNG\r\n\x1a\nnothing").expect("a temporary file");
        assert!(error(folder.path()).contains("broken.png"));
        std::fs::rename(&path, folder.path().join("cat/notes.txt")).expect("a temporary file");
        assert!(error(folder.path()).contains("notes.txt"));
    }

    #[test]
    fn unknown_and_missing_classes_are_named() {
        let folder = folder();
        std::fs::create_dir(folder.path().join("cow")).expect("a temporary folder");
        assert!(error(folder.path()).contains("`cow`"));
        std::fs::rename(folder.path().join("dog"), folder.path().join(".dog")).expect("a temporary folder");
        std::fs::remove_dir(folder.path().join("cow")).expect("a temporary folder");
        assert!(error(folder.path()).contains("`dog`"));
    }

    #[test]
    fn impossible_settings_and_empty_folders_are_refused() {
        let folder = folder();
        assert!(load(folder.path(), &classes(), [2, 4, 4], 0.1).is_err());
        assert!(load(folder.path(), &classes(), [3, 4, 4], 1.0).is_err());
        let empty = tempfile::tempdir().expect("a temporary folder");
        classes().iter().for_each(|class| std::fs::create_dir(empty.path().join(class)).expect("a temporary folder"));
        assert!(error(empty.path()).contains("every training image"));
        assert!(error(&empty.path().join("nowhere")).contains("nowhere"));
    }
}
