//! What lies in a folder of images, before anybody has said what it is: its classes, how many images each has, their sizes.

use super::DataError;
use super::folder::{self, PassedOver};
use image::{ColorType, ImageDecoder, ImageReader};
use std::path::Path;

/// Images whose size is looked at, spread over all.
const LOOKED_AT_MAX: usize = 400;

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct FolderLook {
    /// The subfolders that hold images, by name, each with how many.
    pub classes: Vec<(String, usize)>,
    /// Width and height of the middle image, by its shorter side.
    pub middle: (u32, u32),
    /// Width and height of the one with the shortest side, and of the one with the longest.
    pub range: [(u32, u32); 2],
    /// Whether all that were looked at are grey.
    pub is_grey: bool,
    /// Whether all that were looked at have one size.
    pub is_uniform: bool,
    /// Whether it is divided into `train` and `test`.
    pub is_split: bool,
    /// What is strange, in sentences.
    pub notes: Vec<String>,
}

/// Looks at a folder with a subfolder for each class.
///
/// # Errors
/// It can't be read, has fewer than two classes, or no image in them that can be read.
pub fn look_at_folder(path: &Path) -> Result<FolderLook, DataError> {
    let is_split = path.join("train").is_dir() && path.join("test").is_dir();
    let within = if is_split { path.join("train") } else { path.to_owned() };
    let names: Vec<String> = folder::names(&within)?.into_iter().filter(|name| within.join(name).is_dir()).collect();
    if names.len() < 2 {
        return Err(DataError::Unexpected {
            path: within,
            key: None,
            expected: "a subfolder of images for each class, two at least".to_owned(),
            found: format!("{} subfolders: put the images of each class into one of its own", names.len()),
        });
    }
    let mut passed = PassedOver::default();
    let files = folder::list(&within, &names, &mut passed)?;
    let count = |label: usize| files.iter().filter(|file| usize::from(file.label) == label).count();
    let counts: Vec<(String, usize)> = names.into_iter().enumerate().map(|(i, name)| (name, count(i))).collect();
    let (mut sizes, mut is_grey) = (Vec::new(), true);
    let every = files.len().div_ceil(LOOKED_AT_MAX).max(1);
    for file in files.iter().step_by(every) {
        let decoder = ImageReader::open(&file.path).and_then(ImageReader::with_guessed_format).ok();
        match decoder.map(ImageReader::into_decoder) {
            Some(Ok(decoder)) => {
                sizes.push(decoder.dimensions());
                is_grey &=
                    matches!(decoder.color_type(), ColorType::L8 | ColorType::L16 | ColorType::La8 | ColorType::La16);
            }
            Some(Err(error)) => passed.broken.push(format!("{} ({error})", file.path.display())),
            None => passed.broken.push(format!("{} (it can't be read)", file.path.display())),
        }
    }
    let mut by_shorter = sizes.clone();
    by_shorter.sort_by_key(|(width, height)| (*width).min(*height));
    let Some(middle) = by_shorter.get(by_shorter.len() / 2).copied() else {
        return Err(DataError::Missing {
            path: within,
            missing: "every image".to_owned(),
            fix: "PNG, JPEG and WebP files are taken".to_owned(),
        });
    };
    let longest = sizes.iter().copied().max_by_key(|(width, height)| (*width).max(*height)).unwrap_or(middle);
    let mut notes = passed.notes(path);
    let (classes, empty): (Vec<_>, Vec<_>) = counts.into_iter().partition(|(_, count)| *count > 0);
    if !empty.is_empty() {
        let names: Vec<&str> = empty.iter().map(|(name, _)| name.as_str()).collect();
        notes.push(format!("{}: no images in {}", path.display(), names.join(", ")));
    }
    let (most, fewest) = (classes.iter().map(|(_, n)| *n).max(), classes.iter().map(|(_, n)| *n).min());
    if let (Some(most), Some(fewest)) = (most, fewest)
        && most >= 10 * fewest
    {
        notes.push(format!("one class has {most} images and another {fewest}: the net will favour the larger one"));
    }
    let is_uniform = sizes.iter().all(|size| *size == middle);
    let range = [by_shorter.first().copied().unwrap_or(middle), longest];
    Ok(FolderLook { classes, middle, range, is_grey, is_uniform, is_split, notes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, RgbImage};

    #[test]
    fn a_folder_tells_its_classes_their_counts_and_sizes() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let save = |class: &str, name: &str, width, height| {
            std::fs::create_dir_all(folder.path().join(class)).expect("room");
            RgbImage::new(width, height).save(folder.path().join(class).join(name)).expect("room");
        };
        (0..20).for_each(|i| save("cat", &format!("{i}.png"), 40, 30));
        save("dog", "0.jpg", 100, 20);
        std::fs::create_dir(folder.path().join("cow")).expect("room");
        std::fs::write(folder.path().join("dog/notes.txt"), "of mine").expect("room");
        std::fs::write(folder.path().join("dog/broken.png"), "no image").expect("room");
        let look = look_at_folder(folder.path()).expect("it can be read");
        assert_eq!(look.classes, [("cat".to_owned(), 20), ("dog".to_owned(), 2)]);
        assert_eq!((look.middle, look.range), ((40, 30), [(100, 20), (100, 20)]));
        assert!(!look.is_grey && !look.is_uniform && !look.is_split);
        let told = look.notes.join("\n");
        for expected in ["1 .txt", "broken.png", "no images in cow", "the net will favour"] {
            assert!(told.contains(expected), "{expected}: {told}");
        }
    }

    #[test]
    fn grey_images_of_one_size_are_seen_as_such() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for class in ["train/a", "train/b", "test/a"] {
            std::fs::create_dir_all(folder.path().join(class)).expect("room");
            GrayImage::new(28, 28).save(folder.path().join(class).join("0.png")).expect("room");
        }
        let look = look_at_folder(folder.path()).expect("it can be read");
        assert!(look.is_grey && look.is_uniform && look.is_split);
        assert_eq!(look.classes.len(), 2);
    }

    #[test]
    fn a_folder_without_classes_or_images_is_told_what_is_expected() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let error = look_at_folder(folder.path()).expect_err("there is nothing").to_string();
        assert!(error.contains("a subfolder of images for each class"), "{error}");
        ["a", "b"].iter().for_each(|class| std::fs::create_dir(folder.path().join(class)).expect("room"));
        assert!(look_at_folder(folder.path()).expect_err("no image").to_string().contains("every image"));
    }
}
