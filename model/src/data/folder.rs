//! A folder of PNG, JPEG and WebP images with a subfolder for each class, the labels being the classes' places in the run
//! file. Images are decoded once, turned as their EXIF says, and brought to the size that the run file gives.
//!
//! What is no image, or is broken, is passed over and told; a class may have no images here, since others may have some.

use super::files::unreadable;
use super::{DataError, DataSet, Examples, check_size};
use image::imageops::FilterType;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Bytes that decoding one image may take: a photo of 100 million pixels, and the decoders' own tables.
const DECODING_BYTES_MAX: u64 = 512 << 20;
/// What systems leave in folders of images.
const IGNORED: [&str; 2] = ["Thumbs.db", "desktop.ini"];
/// Endings of files that are taken for images.
const ENDINGS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];
/// Broken files that are named; of more their count is told.
const NAMED_MAX: usize = 5;

/// How an image is brought to the size that a net sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fit {
    /// It must have that size.
    #[default]
    Exact,
    /// It is scaled until it covers that size, and what stands out is cut off on both sides alike.
    Crop,
    /// It is scaled in each direction by itself.
    Stretch,
}

/// Loads the folder. With subfolders `train` and `test` each holds the classes; else `holdout` of the images are kept
/// for testing, chosen by a hash of class and file name, so that adding an image moves no other.
pub(super) fn load(
    path: &Path,
    classes: &[String],
    image: [usize; 3],
    holdout: f64,
    fit: Fit,
) -> Result<DataSet, DataError> {
    if !matches!(image[0], 1 | 3) {
        return Err(DataError::Invalid(format!("images have 1 or 3 channels, not {}", image[0])));
    }
    if !(0.0..1.0).contains(&holdout) {
        return Err(DataError::Invalid(format!("holdout = {holdout}: it must be at least 0 and below 1")));
    }
    let mut passed = PassedOver::default();
    let (train, test) = if path.join("train").is_dir() && path.join("test").is_dir() {
        (list(&path.join("train"), classes, &mut passed)?, list(&path.join("test"), classes, &mut passed)?)
    } else {
        list(path, classes, &mut passed)?.into_iter().partition(|file| !held_out(file, classes, holdout))
    };
    let empty = || DataError::Missing {
        path: path.to_owned(),
        missing: "every training image".to_owned(),
        fix: "add images, or lower `holdout`".to_owned(),
    };
    if train.is_empty() {
        return Err(empty());
    }
    let train = decode_all(&train, classes.len(), image, fit, &mut passed)?;
    let test = decode_all(&test, classes.len(), image, fit, &mut passed)?;
    if train.is_empty() { Err(empty()) } else { Ok(DataSet { train, test, notes: passed.notes(path) }) }
}

/// What lies in a folder and is not used.
#[derive(Debug, Default)]
pub(super) struct PassedOver {
    /// Files that are no images, by their endings.
    others: BTreeMap<String, usize>,
    /// Images that can't be read, and why.
    pub(super) broken: Vec<String>,
    /// Classes without a folder.
    absent: Vec<String>,
}

impl PassedOver {
    /// A sentence for each kind.
    pub(super) fn notes(&self, folder: &Path) -> Vec<String> {
        let (folder, mut notes) = (folder.display(), Vec::new());
        if !self.others.is_empty() {
            let kinds: Vec<String> = self.others.iter().map(|(ending, count)| format!("{count} {ending}")).collect();
            let all: usize = self.others.values().sum();
            notes.push(format!("{folder}: passed over {all} files that are no images: {}", kinds.join(", ")));
        }
        if !self.broken.is_empty() {
            let (all, named) = (self.broken.len(), self.broken.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>());
            let more = if all > NAMED_MAX { format!("; and {} more", all - NAMED_MAX) } else { String::new() };
            notes.push(format!("{folder}: passed over {all} broken images: {}{more}", named.join("; ")));
        }
        if !self.absent.is_empty() {
            notes.push(format!("{folder}: no images here of {}", self.absent.join(", ")));
        }
        notes
    }
}

/// An image file and its class.
pub(super) struct Labelled {
    pub(super) path: PathBuf,
    pub(super) label: u16,
}

fn held_out(file: &Labelled, classes: &[String], holdout: f64) -> bool {
    let name = file.path.file_name().unwrap_or_default().to_string_lossy();
    let hash = blake3::hash(format!("{}/{name}", classes[usize::from(file.label)]).as_bytes());
    let mut first = [0; 4];
    first.copy_from_slice(&hash.as_bytes()[..4]);
    f64::from(u32::from_le_bytes(first)) < holdout * 4_294_967_296.0
}

/// The image files of every class, in the order of classes and names.
pub(super) fn list(path: &Path, classes: &[String], passed: &mut PassedOver) -> Result<Vec<Labelled>, DataError> {
    let wrong = |found: String| DataError::Unexpected {
        path: path.to_owned(),
        key: Some("classes"),
        expected: format!("folders of the run file's classes ({})", classes.join(", ")),
        found,
    };
    for name in names(path)? {
        if path.join(&name).is_dir() && !classes.contains(&name) {
            return Err(wrong(format!("the class `{name}`: rename or remove it, or add it to `classes`")));
        }
    }
    let mut files = Vec::new();
    for (label, class) in classes.iter().enumerate() {
        let folder = path.join(class);
        if !folder.is_dir() {
            passed.absent.push(class.clone());
            continue;
        }
        let label = u16::try_from(label).map_err(|_| DataError::Invalid("more than 65536 classes".to_owned()))?;
        for name in names(&folder)? {
            let path = folder.join(name);
            match ending(&path) {
                Ok(()) => files.push(Labelled { path, label }),
                Err(other) => *passed.others.entry(other).or_default() += 1,
            }
        }
    }
    if passed.absent.len() >= classes.len() {
        return Err(wrong("none of them: give the folder that they are in, or correct `classes`".to_owned()));
    }
    Ok(files)
}

/// Whether a file's name says that it is an image; else what it is.
fn ending(path: &Path) -> Result<(), String> {
    match path.extension().map(|ending| ending.to_string_lossy().to_lowercase()) {
        _ if path.is_dir() => Err("folders".to_owned()),
        _ if path.is_symlink() && !path.exists() => Err("links that lead nowhere".to_owned()),
        Some(ending) if ENDINGS.contains(&ending.as_str()) => Ok(()),
        Some(ending) => Err(format!(".{ending}")),
        None => Err("without an ending".to_owned()),
    }
}

/// The sorted names in a folder, without hidden ones and what systems leave there.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, DataError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable(folder))? {
        let name = entry.map_err(unreadable(folder))?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !IGNORED.contains(&name.as_str()) {
            names.push(name);
        }
        if names.len() > super::EXAMPLES_MAX {
            return Err(DataError::Invalid(format!(
                "{}: more than {} files: divide the data among more nodes",
                folder.display(),
                super::EXAMPLES_MAX
            )));
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Decodes all the files; broken ones are passed over. Of several of another size, where they must have one, the first in
/// order is named.
fn decode_all(
    files: &[Labelled],
    classes: usize,
    image: [usize; 3],
    fit: Fit,
    passed: &mut PassedOver,
) -> Result<Examples, DataError> {
    check_size(image, files.len())?;
    let len: usize = image.iter().product();
    let mut pixels = vec![0u8; files.len() * len];
    let decoded: Vec<Result<(), DecodeError>> =
        files.par_iter().zip(pixels.par_chunks_mut(len)).map(|(file, to)| decode(&file.path, image, fit, to)).collect();
    let (mut labels, mut kept) = (Vec::with_capacity(files.len()), 0);
    for (i, (file, result)) in files.iter().zip(decoded).enumerate() {
        match result {
            Ok(()) => {
                pixels.copy_within(i * len..(i + 1) * len, kept * len);
                labels.push(file.label);
                kept += 1;
            }
            Err(DecodeError::Broken(why)) => passed.broken.push(format!("{} ({why})", file.path.display())),
            Err(DecodeError::Refused(error)) => return Err(error),
        }
    }
    pixels.truncate(kept * len);
    Examples::new(image, classes, pixels, labels)
}

/// Why a file gives no image.
#[derive(Debug)]
pub(super) enum DecodeError {
    /// It can't be read as one.
    Broken(String),
    /// It is one, and not as the run file says.
    Refused(DataError),
}

impl DecodeError {
    /// As the error of a file that was asked for.
    pub(super) fn of(self, path: &Path) -> DataError {
        match self {
            Self::Refused(error) => error,
            Self::Broken(why) => DataError::Unexpected {
                path: path.to_owned(),
                key: None,
                expected: "an image".to_owned(),
                found: format!("a broken file ({why}): write it again or remove it"),
            },
        }
    }
}

/// Decodes one image into `[channel, height, width]`, turned as its EXIF says. What it claims to be large is checked before
/// it is decoded.
pub(super) fn decode(
    path: &Path,
    [channels, height, width]: [usize; 3],
    fit: Fit,
    to: &mut [u8],
) -> Result<(), DecodeError> {
    let broken = |error: image::ImageError| DecodeError::Broken(error.to_string());
    let unreadable = |error| DecodeError::Refused(unreadable(path)(error));
    let reader = ImageReader::open(path).map_err(unreadable)?.with_guessed_format().map_err(unreadable)?;
    let mut decoder = reader.into_decoder().map_err(broken)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let is_turned = matches!(
        orientation,
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
    );
    let (found_width, found_height) = match decoder.dimensions() {
        (across, down) if is_turned => (down as usize, across as usize),
        (across, down) => (across as usize, down as usize),
    };
    let is_right = (found_width, found_height) == (width, height);
    if fit == Fit::Exact && !is_right {
        return Err(DecodeError::Refused(DataError::Unexpected {
            path: path.to_owned(),
            key: Some("image"),
            expected: format!("an image {width} wide and {height} high, as the run file says"),
            found: format!(
                "{found_width} wide and {found_height} high: say `fit = \"crop\"` in [data], or correct `image`"
            ),
        }));
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(DECODING_BYTES_MAX);
    decoder.set_limits(limits).map_err(broken)?;
    let mut decoded = DynamicImage::from_decoder(decoder).map_err(broken)?;
    decoded.apply_orientation(orientation);
    let (across, down) = (width as u32, height as u32);
    let fitting = match fit {
        _ if is_right => decoded,
        Fit::Exact | Fit::Stretch => decoded.resize_exact(across, down, FilterType::Triangle),
        Fit::Crop => {
            let [left, top, wide, high] = middle([decoded.width(), decoded.height()], [across, down]);
            decoded.crop_imm(left, top, wide, high).resize_exact(across, down, FilterType::Triangle)
        }
    };
    if channels == 1 {
        to.copy_from_slice(&fitting.to_luma8());
    } else {
        for (i, pixel) in fitting.to_rgb8().pixels().enumerate() {
            for (channel, &value) in pixel.0.iter().enumerate() {
                to[channel * height * width + i] = value;
            }
        }
    }
    Ok(())
}

/// The largest piece in the middle of an image that has the shape of the wanted size: left, top, width, height. Cut out before
/// it is scaled, so that a strip of a pixel's width does not become a large image on the way.
fn middle([width, height]: [u32; 2], [across, down]: [u32; 2]) -> [u32; 4] {
    let scaled =
        |side: u32, by: u32, over: u32| (u64::from(side) * u64::from(by) / u64::from(over.max(1))).max(1) as u32;
    let wide = scaled(height, across, down).min(width);
    let high = scaled(width, down, across).min(height);
    [(width - wide) / 2, (height - high) / 2, wide, high]
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
        load(folder, &classes(), [3, 4, 4], 0.2, Fit::Exact).expect_err("must be refused").to_string()
    }

    #[test]
    fn labels_follow_the_run_files_order_and_pixels_are_channel_by_channel() {
        let folder = folder();
        let data = load(folder.path(), &classes(), [3, 4, 4], 0.0, Fit::Exact).expect("good data");
        assert_eq!((data.train.len(), data.test.len()), (40, 0));
        assert_eq!((data.train.labels()[0], data.train.labels()[39]), (0, 1));
        assert_eq!(data.train.pixels(0)[15..17], [0, 2]);
    }

    #[test]
    fn the_held_out_images_stay_when_others_come() {
        let folder = folder();
        let before = load(folder.path(), &classes(), [3, 4, 4], 0.3, Fit::Exact).expect("good data");
        assert!((4..=20).contains(&before.test.len()), "{}", before.test.len());
        let reds = |images: &Examples| (0..images.len()).map(|i| images.pixels(i)[0]).collect::<Vec<_>>();
        save(&folder.path().join("dog/new.png"), 4, 77);
        let after = load(folder.path(), &classes(), [3, 4, 4], 0.3, Fit::Exact).expect("good data");
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
        let data = load(folder.path(), &classes(), [1, 4, 4], 0.5, Fit::Exact).expect("good data");
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
    fn the_middle_of_an_image_has_the_wanted_shape() {
        assert_eq!(middle([640, 480], [32, 32]), [80, 0, 480, 480]);
        assert_eq!(middle([480, 640], [64, 32]), [0, 200, 480, 240]);
        assert_eq!(middle([1, 400_000], [32, 32]), [0, 199_999, 1, 1]);
        assert_eq!(middle([u32::MAX, 1], [1, 1024]), [u32::MAX / 2, 0, 1, 1]);
    }

    #[test]
    fn what_is_broken_or_no_image_is_passed_over_and_told() {
        let folder = folder();
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).expect("room");
        write("cat/broken.png", b"\x89PNG\r\n\x1a\nnothing");
        write("cat/notes.txt", b"of mine");
        write("cat/film.MOV", b"");
        let whole = std::fs::read(folder.path().join("dog/3.png")).expect("it is there");
        write("dog/3.png", &whole[..whole.len() / 2]);
        let data = load(folder.path(), &classes(), [3, 4, 4], 0.0, Fit::Exact).expect("the others are good");
        assert_eq!((data.train.len(), data.train.labels()[18], data.train.labels()[19]), (39, 0, 1));
        let mut reds: Vec<u8> = (0..19).map(|i| data.train.pixels(i)[0]).collect();
        reds.sort_unstable();
        assert_eq!(reds, (0..20).filter(|i| *i != 3).collect::<Vec<u8>>(), "what comes behind a broken one moves up");
        let [others, broken] = data.notes.as_slice() else { panic!("{:?}", data.notes) };
        assert!(others.ends_with("passed over 2 files that are no images: 1 .mov, 1 .txt"), "{others}");
        assert!(broken.contains("passed over 2 broken images") && broken.contains("3.png ("), "{broken}");
    }

    #[test]
    fn unknown_classes_are_named_and_a_class_may_have_no_images_here() {
        let folder = folder();
        std::fs::create_dir(folder.path().join("cow")).expect("a temporary folder");
        assert!(error(folder.path()).contains("`cow`"));
        std::fs::remove_dir(folder.path().join("cow")).expect("a temporary folder");
        std::fs::rename(folder.path().join("dog"), folder.path().join(".dog")).expect("a temporary folder");
        let data = load(folder.path(), &classes(), [3, 4, 4], 0.0, Fit::Exact).expect("cats are enough");
        assert!(
            data.train.labels().iter().all(|label| *label == 1) && data.notes[0].ends_with("no images here of dog")
        );
        std::fs::rename(folder.path().join("cat"), folder.path().join(".cat")).expect("a temporary folder");
        assert!(error(folder.path()).contains("none of them"));
    }

    #[test]
    fn photos_of_any_size_are_cropped_or_stretched_to_the_size_of_the_run() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir_all(folder.path().join("dog")).expect("a temporary folder");
        // Twelve wide: red, green, blue, four each.
        let wide =
            RgbImage::from_fn(12, 4, |x, _| Rgb(std::array::from_fn(|c| if x / 4 == c as u32 { 255 } else { 0 })));
        wide.save(folder.path().join("dog/wide.png")).expect("room");
        wide.save(folder.path().join("dog/wide.webp")).expect("room");
        let load = |fit| load(folder.path(), &classes(), [3, 4, 4], 0.0, fit).expect("it is an image").train;
        let (cropped, stretched) = (load(Fit::Crop), load(Fit::Stretch));
        assert_eq!(cropped.len(), 2);
        let means = |images: &Examples| -> Vec<u32> {
            images.pixels(0).chunks(16).map(|channel| channel.iter().map(|v| u32::from(*v)).sum::<u32>() / 16).collect()
        };
        assert_eq!(means(&cropped), [0, 255, 0], "its middle is green");
        assert!(means(&stretched).iter().all(|mean| (60..=110).contains(mean)), "{:?}", means(&stretched));
    }

    #[test]
    fn photos_are_turned_as_their_exif_says() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir_all(folder.path().join("dog")).expect("a temporary folder");
        let path = folder.path().join("dog/turned.jpg");
        RgbImage::from_fn(16, 8, |x, _| Rgb([if x < 8 { 255 } else { 0 }; 3])).save(&path).expect("room");
        let plain = std::fs::read(&path).expect("it is there");
        // An EXIF segment that says: turn it by a quarter, clockwise.
        let mut exif =
            b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0".to_vec();
        exif.splice(0..0, plain[..2].iter().copied());
        exif.extend_from_slice(&plain[2..]);
        std::fs::write(&path, exif).expect("room");
        let images = load(folder.path(), &classes(), [1, 16, 8], 0.0, Fit::Exact).expect("it is high now").train;
        let (top, bottom) = (images.pixels(0)[4], images.pixels(0)[15 * 8 + 4]);
        assert!(top > 200 && bottom < 50, "the left is on top: {top} {bottom}");
    }

    #[test]
    fn impossible_settings_and_empty_folders_are_refused() {
        let folder = folder();
        assert!(load(folder.path(), &classes(), [2, 4, 4], 0.1, Fit::Exact).is_err());
        assert!(load(folder.path(), &classes(), [3, 4, 4], 1.0, Fit::Exact).is_err());
        let empty = tempfile::tempdir().expect("a temporary folder");
        classes().iter().for_each(|class| std::fs::create_dir(empty.path().join(class)).expect("a temporary folder"));
        assert!(error(empty.path()).contains("every training image"));
        assert!(error(&empty.path().join("nowhere")).contains("nowhere"));
    }
}
