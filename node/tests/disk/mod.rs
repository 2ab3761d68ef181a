//! What nodes did to their files, as record.c wrote it down, and what a kill or a power loss at any moment leaves of it.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Something that was done to files.
#[derive(Debug, Clone)]
pub(crate) enum Deed {
    /// A file came to be under this name.
    Create { name: String, file: usize },
    /// Bytes were written.
    Write { file: usize, at: u64, bytes: Vec<u8> },
    /// A file got this length.
    Length { file: usize, len: u64 },
    /// All of a file was put on the disk.
    Sync { file: usize, name: String },
    /// All names of a folder were.
    SyncDir { dir: String },
    /// A file changed its name, in place of whatever had it.
    Rename { from: String, to: String, file: usize },
    /// A name was taken away.
    Unlink { name: String },
    /// A folder was made.
    Mkdir { name: String },
}

/// What one node did, in order, and when each deed was done, in nanoseconds of this machine's monotonic clock.
pub(crate) struct Recording {
    pub(crate) deeds: Vec<(u64, Deed)>,
    root: String,
}

/// The files of a home at some moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Image {
    files: BTreeMap<usize, Vec<u8>>,
    names: BTreeMap<String, usize>,
    dirs: BTreeSet<String>,
}

/// Numbers from a seed (splitmix64).
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }
}

/// Builds the recorder; nothing where there is no C compiler or no Linux, which the caller says aloud.
pub(crate) fn recorder(dir: &Path) -> Option<PathBuf> {
    let library = dir.join("record.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/disk/record.c");
    let compiler = ["-shared", "-fPIC", "-O1", "-o"];
    let built = Command::new("cc").args(compiler).arg(&library).arg(source).arg("-ldl").output();
    (cfg!(target_os = "linux") && built.is_ok_and(|out| out.status.success())).then_some(library)
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(dir, _)| dir)
}

impl Recording {
    /// Reads what the recorder wrote of a node with this home.
    pub(crate) fn read(log: &Path, home: &Path) -> Self {
        let bytes = std::fs::read(log).expect("the recorder wrote it");
        let mut deeds = Vec::new();
        let (mut names, mut inodes): (BTreeMap<String, usize>, BTreeMap<u64, usize>) = Default::default();
        let (mut files, mut rest) = (0, &bytes[..]);
        while let Some((head, more)) = rest.split_at_checked(33) {
            let word = |at: usize| u64::from_ne_bytes(head[at..at + 8].try_into().expect("eight bytes"));
            let length = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().expect("four bytes")) as usize;
            let (now, inode, at) = (word(1), word(9), word(17));
            let (one, more) = more.split_at(length(25));
            let (two, more) = more.split_at(length(29));
            rest = more;
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("names are text");
            let file = inodes.get(&inode).copied();
            match head[0] {
                1 => {
                    let name = text(one);
                    let is_new = !names.contains_key(&name);
                    let file = *names.entry(name.clone()).or_insert_with(|| {
                        files += 1;
                        files
                    });
                    inodes.insert(inode, file);
                    if is_new {
                        deeds.push((now, Deed::Create { name, file }));
                    } else if at & 2 != 0 {
                        deeds.push((now, Deed::Length { file, len: 0 }));
                    }
                }
                2 => deeds.push((now, Deed::Write { file: file.expect("it was opened"), at, bytes: one.to_vec() })),
                3 => deeds.push((now, Deed::Length { file: file.expect("it was opened"), len: at })),
                4 => {
                    let file = file.expect("it was opened");
                    let name = names.iter().find(|(_, f)| **f == file).map(|(name, _)| name.clone());
                    deeds.push((now, Deed::Sync { file, name: name.unwrap_or_default() }));
                }
                5 => deeds.push((now, Deed::SyncDir { dir: text(one) })),
                6 => {
                    let (from, to) = (text(one), text(two));
                    let file = names.remove(&from).expect("it was opened");
                    names.insert(to.clone(), file);
                    deeds.push((now, Deed::Rename { from, to, file }));
                }
                7 => {
                    let name = text(one);
                    names.remove(&name);
                    deeds.push((now, Deed::Unlink { name }));
                }
                8 => deeds.push((now, Deed::Mkdir { name: text(one) })),
                kind => panic!("the recorder knows no {kind}"),
            }
        }
        Self { deeds, root: home.to_str().expect("it is text").to_owned() }
    }

    /// How long a file took from its last write to being on the disk, in nanoseconds, each time that it was synced.
    pub(crate) fn sync_times(&self, end: &str) -> Vec<u64> {
        let (mut written, mut times) = (BTreeMap::new(), Vec::new());
        for (at, deed) in &self.deeds {
            match deed {
                Deed::Write { file, .. } => drop(written.insert(*file, *at)),
                Deed::Sync { file, name } if name.ends_with(end) => {
                    times.extend(written.remove(file).map(|since| at - since));
                }
                _ => {}
            }
        }
        times.sort_unstable();
        times
    }

    /// The home before anything was done.
    pub(crate) fn empty(&self) -> Image {
        Image { dirs: [self.root.clone()].into(), ..Image::default() }
    }

    /// How many deeds were done until a moment.
    pub(crate) fn until(&self, moment: u64) -> usize {
        self.deeds.partition_point(|(at, _)| *at <= moment)
    }

    /// What kill -9 after so many deeds leaves: all of them.
    pub(crate) fn after_kill(&self, deeds: usize) -> Image {
        let mut image = self.empty();
        self.deeds[..deeds].iter().for_each(|(_, deed)| image.apply(deed));
        image
    }

    /// What a power loss after so many deeds leaves: what was synced, and of the rest any, writes perhaps in part.
    pub(crate) fn after_power_loss(&self, deeds: usize, draw: &mut Draw) -> Image {
        self.left_of(deeds, draw, true)
    }

    /// The same of a disk that confirms each sync and does none.
    pub(crate) fn after_power_loss_of_a_lying_disk(&self, deeds: usize, draw: &mut Draw) -> Image {
        self.left_of(deeds, draw, false)
    }

    fn left_of(&self, deeds: usize, draw: &mut Draw, is_honest: bool) -> Image {
        let done = &self.deeds[..deeds];
        let (mut synced, mut synced_dirs) = (BTreeMap::new(), BTreeMap::new());
        for (i, (_, deed)) in done.iter().enumerate() {
            match deed {
                _ if !is_honest => {}
                Deed::Sync { file, .. } => drop(synced.insert(*file, i)),
                Deed::SyncDir { dir } => drop(synced_dirs.insert(dir.clone(), i)),
                _ => {}
            }
        }
        let mut image = self.empty();
        for (i, (_, deed)) in done.iter().enumerate() {
            let is_durable = match deed {
                Deed::Write { file, .. } | Deed::Length { file, .. } => synced.get(file).is_some_and(|at| i < *at),
                Deed::Create { name, .. } | Deed::Unlink { name } | Deed::Mkdir { name } => {
                    synced_dirs.get(parent(name)).is_some_and(|at| i < *at)
                }
                Deed::Rename { to, .. } => synced_dirs.get(parent(to)).is_some_and(|at| i < *at),
                Deed::Sync { .. } | Deed::SyncDir { .. } => true,
            };
            match (is_durable, draw.below(3), deed) {
                (true, _, _) | (false, 0, _) => image.apply(deed),
                (false, 1, Deed::Write { file, at, bytes }) => {
                    let bytes = bytes[..draw.below(bytes.len() + 1)].to_vec();
                    image.apply(&Deed::Write { file: *file, at: *at, bytes });
                }
                _ => {}
            }
        }
        image
    }

    /// The same as after a kill, but the last write is torn in half.
    pub(crate) fn torn(&self, deeds: usize) -> Option<Image> {
        let (_, Deed::Write { file, at, bytes }) = &self.deeds[deeds - 1] else { return None };
        let mut image = self.after_kill(deeds - 1);
        image.apply(&Deed::Write { file: *file, at: *at, bytes: bytes[..bytes.len() / 2].to_vec() });
        Some(image)
    }

    /// Puts an image into a folder.
    pub(crate) fn put(&self, image: &Image, home: &Path) {
        let place = |name: &str| home.join(name[self.root.len()..].trim_start_matches('/'));
        let _ = std::fs::remove_dir_all(home);
        image.dirs.iter().for_each(|dir| std::fs::create_dir_all(place(dir)).expect("room"));
        for (name, file) in image.names.iter().filter(|(name, _)| image.dirs.contains(parent(name))) {
            // The room that is kept has bytes of no meaning.
            let bytes = if name.contains("/reserve") { &[][..] } else { image.files.get(file).map_or(&[][..], |b| b) };
            std::fs::write(place(name), bytes).expect("room");
        }
    }
}

impl Image {
    pub(crate) fn apply(&mut self, deed: &Deed) {
        match deed {
            Deed::Create { name, file } => drop(self.names.insert(name.clone(), *file)),
            Deed::Write { file, at, bytes } => {
                let (content, range) = (self.files.entry(*file).or_default(), *at as usize..*at as usize + bytes.len());
                if range.end > content.len() {
                    content.resize(range.end, 0);
                }
                content[range].copy_from_slice(bytes);
            }
            Deed::Length { file, len } => self.files.entry(*file).or_default().resize(*len as usize, 0),
            Deed::Rename { from, to, file } => {
                self.names.remove(from);
                self.names.insert(to.clone(), *file);
            }
            Deed::Unlink { name } => drop(self.names.remove(name)),
            Deed::Mkdir { name } => drop(self.dirs.insert(name.clone())),
            Deed::Sync { .. } | Deed::SyncDir { .. } => {}
        }
    }
}
