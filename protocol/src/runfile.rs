//! The run file: the TOML that fixes a run for all its nodes (docs/protocol.md, section 1).
//!
//! Agreement owns two of its sections, `[run]` and `[round]`; the others are the learner's, which is a [`Learning`].
//! [`RunFile::parse`] reads what a person wrote and says where it is wrong; [`RunFile::canonical`] writes it out with every
//! key in a fixed order, so that comments, order and left-out defaults don't matter; the hash of that is the [`RunId`].
//! Text in, text out: no file is touched here.
//!
//! A key is one entry of a [`Schema`]: its name, what it is for, its range, its default. The reader, the canonical form, the
//! hints of errors and the commented file of `paceline init` come from that entry.

pub mod duration;
mod error;
mod schema;
mod source;
#[cfg(test)]
mod tests;

use crate::base::bounds::{NAME_BYTES_MAX, ROSTER_MAX, ROUNDS_MAX, RUN_FILE_BYTES_MAX};
use crate::base::ids::{Hash, RunId};

pub use error::{Problem, RunFileError};
pub use schema::{Key, Schema};
pub use source::{Document, Entry, Known, Result, Section, number, quoted};

/// Largest seed: the largest integer that every TOML reader takes.
pub const SEED_MAX: u64 = i64::MAX as u64;

/// A run file whose every value was checked.
#[derive(Debug, Clone, PartialEq)]
pub struct RunFile<L> {
    /// `[run]`
    pub run: RunSection,
    /// `[round]`
    pub round: RoundSection,
    /// All other sections.
    pub learning: L,
}

/// The learner's part of a run file.
pub trait Learning: Sized {
    /// Every section of a run file in the order of its canonical form, `run` and `round` among them.
    const SECTIONS: &'static [&'static str];

    /// The learner's sections and their keys, for hints.
    fn known() -> Vec<Known>;

    /// Reads them.
    ///
    /// # Errors
    /// The first thing that is wrong, at its place.
    fn read(document: &Document, run: &RunSection) -> Result<Self>;

    /// The lines of a section in canonical form; `None` leaves the section out.
    fn canonical(&self, section: &str) -> Option<String>;

    /// The section as a commented file begins with it, its header included. In place of an example stands the value that
    /// `given` has for a key.
    fn template(section: &str, given: &Given) -> String;
}

/// Values for a file to be written with, as TOML, by section and key.
pub type Given = [(&'static str, &'static str, String)];

/// A run that nothing is learnt in: of `[run]` and `[round]` alone.
impl Learning for () {
    const SECTIONS: &'static [&'static str] = &[RUN.name, ROUND.name];

    fn known() -> Vec<Known> {
        Vec::new()
    }

    fn read(_: &Document, _: &RunSection) -> Result<Self> {
        Ok(())
    }

    fn canonical(&self, _: &str) -> Option<String> {
        None
    }

    fn template(_: &str, _: &Given) -> String {
        String::new()
    }
}

/// `[run]`: which run this is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunSection {
    /// What people call it: letters, digits, `-`, `_`, `.`, at most `NAME_BYTES_MAX` bytes. It names directories.
    pub name: String,
    /// Rounds with contributions until the run ends, 1 to `ROUNDS_MAX`.
    pub rounds: u64,
    /// Nodes that a founding needs, 1 to `ROSTER_MAX`.
    pub min_nodes: u32,
    /// What initial values, shuffling and augmentation are drawn from, at most [`SEED_MAX`].
    pub seed: u64,
}

const RUN: Schema<RunSection> = Schema {
    name: "run",
    doc: "",
    keys: &[
        Key::required(
            "name",
            "\"shapes\"",
            "names the run and its directory: letters, digits, \"-\", \"_\", \".\"",
            |entry, run| {
                let expected = "letters, digits, `-`, `_` or `.`, a letter or digit first, at most 64 bytes";
                entry.text_where(expected, is_name).map(|name| run.name = name.to_owned())
            },
            |run| Some(quoted(&run.name)),
        ),
        Key::required(
            "rounds",
            "10",
            "rounds until the run ends",
            |entry, run| entry.integer(1..=ROUNDS_MAX).map(|rounds| run.rounds = rounds),
            |run| Some(run.rounds.to_string()),
        ),
        Key::with_default(
            "min_nodes",
            "3",
            "nodes that must be there before it begins",
            |entry, run| entry.integer(1..=ROSTER_MAX as u64).map(|nodes| run.min_nodes = nodes as u32),
            |run| Some(run.min_nodes.to_string()),
        ),
        Key::with_default(
            "seed",
            "1",
            "the initial model, shuffling and augmentation follow from it",
            |entry, run| entry.integer(0..=SEED_MAX).map(|seed| run.seed = seed),
            |run| Some(run.seed.to_string()),
        ),
    ],
};

fn is_name(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// `[round]`: who trains and how long they are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RoundSection {
    /// C of FedAvg: the part of the roster that trains in a round, above 0 and at most 1.
    pub fraction: f64,
    /// Updates that a round needs; `None` is a majority of the participants.
    pub min_updates: Option<u32>,
    /// Longest collection of an attempt, in milliseconds.
    pub timeout_ms: u64,
    /// Rounds whose updates are kept on disk, for those who want to recompute an average.
    pub keep_updates: u32,
}

const ROUND: Schema<RoundSection> = Schema {
    name: "round",
    doc: "",
    keys: &[
        Key::with_default(
            "fraction",
            "1.0",
            "part of the nodes that trains in a round",
            |entry, round| {
                let is_share = |x: f64| x > 0.0 && x <= 1.0;
                entry.number("a number above 0, at most 1", is_share).map(|fraction| round.fraction = fraction)
            },
            |round| Some(number(round.fraction)),
        ),
        Key::with_default(
            "min_updates",
            "\"majority\"",
            "updates that a round needs: a number, or a majority",
            |entry, round| {
                round.min_updates = match entry.is_text() {
                    true => entry.one_of(&["majority"]).map(|_| None)?,
                    false => Some(entry.integer(1..=ROSTER_MAX as u64)? as u32),
                };
                Ok(())
            },
            |round| Some(round.min_updates.map_or_else(|| quoted("majority"), |count| count.to_string())),
        ),
        Key::with_default(
            "timeout",
            "\"10min\"",
            "longest wait for updates: \"90s\", \"10min\", \"2h\"",
            |entry, round| duration::read(entry).map(|ms| round.timeout_ms = ms),
            |round| Some(quoted(&duration::written(round.timeout_ms))),
        ),
        Key::with_default(
            "keep_updates",
            "2",
            "rounds whose updates stay on disk",
            |entry, round| entry.integer(0..=ROUNDS_MAX).map(|rounds| round.keep_updates = rounds as u32),
            |round| Some(round.keep_updates.to_string()),
        ),
    ],
};

/// How many of a roster train in a round, and how many of their updates it needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quota {
    /// C of FedAvg: the part of the roster that trains in a round, in (0, 1].
    pub fraction: f64,
    /// Updates that a round needs; `None` is a majority of the participants.
    pub min_updates: Option<usize>,
}

impl Quota {
    /// How many of a roster of so many train in a round: the fraction rounded up, at least one.
    pub fn participants_of(&self, roster: usize) -> usize {
        ((self.fraction * roster as f64).ceil() as usize).clamp(1, roster.max(1))
    }

    /// How many updates a round with so many participants needs: those asked for, at most all; or else a majority.
    pub fn min_updates_of(&self, participants: usize) -> usize {
        self.min_updates.unwrap_or(participants / 2 + 1).clamp(1, participants.max(1))
    }
}

impl<L: Learning> RunFile<L> {
    /// Reads a run file. `origin` is the file's name, for errors.
    ///
    /// # Errors
    /// The first thing that is wrong: syntax, an unknown section or key, a missing one, a value out of range, or more
    /// than `RUN_FILE_BYTES_MAX` bytes as text or in canonical form. The error says where and how to put it right.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        let mut known = L::known();
        known.extend([RUN.known(), ROUND.known()]);
        let document = Document::parse(text, origin, known)?;
        document.check_sections(L::SECTIONS)?;
        let run = RUN.read(&document)?;
        let learning = L::read(&document, &run)?;
        let file = Self { run, round: ROUND.read(&document)?, learning };
        document.check_length(file.canonical().len(), "in canonical form")?;
        Ok(file)
    }

    /// TOML with every key, in fixed order, numbers in their shortest form. Parsing it gives this run file again.
    pub fn canonical(&self) -> String {
        let lines = |section: &&str| match *section {
            "run" => Some(RUN.canonical(&self.run)),
            "round" => Some(ROUND.canonical(&self.round)),
            section => self.learning.canonical(section),
        };
        let sections = L::SECTIONS.iter().filter_map(|section| Some(format!("[{section}]\n{}", lines(section)?)));
        sections.collect::<Vec<_>>().join("\n")
    }

    /// The commented run file that `paceline init` writes: every key with what it is for, those that have a default as a
    /// comment unless `given` has a value for them.
    pub fn template(given: &Given) -> String {
        let section = |name: &&str| match *name {
            "run" => RUN.template(given),
            "round" => ROUND.template(given),
            name => L::template(name, given),
        };
        let sections = L::SECTIONS.iter().map(section).filter(|text| !text.is_empty());
        format!("{TEMPLATE_HEAD}\n{}", sections.collect::<Vec<_>>().join("\n"))
    }

    /// BLAKE3 of the canonical form's bytes: the name of the run.
    pub fn run_id(&self) -> RunId {
        Hash::of(self.canonical().as_bytes())
    }

    /// How many train in a round, and how many updates it needs.
    pub fn quota(&self) -> Quota {
        Quota { fraction: self.round.fraction, min_updates: self.round.min_updates.map(|m| m as usize) }
    }

    /// What nodes hand to others who have no run file.
    pub fn published(&self) -> Published {
        let text = self.canonical();
        Published { run: Hash::of(text.as_bytes()), name: self.run.name.clone(), text }
    }
}

const TEMPLATE_HEAD: &str = "\
# A Paceline run file. Every node of a run has the same one; whoever joins with a ticket fetches it.
# Lines that begin with \"#\" show the defaults; take the \"#\" away to change them.
";

/// Where a key of a section, or an item of its list, stands in a run file that [`RunFile::parse`] takes:
/// `origin:line:column`. Where the key was left out, its section; where that was too, the file's end.
pub fn place(text: &str, origin: &str, section: &str, key: &str, item: Option<usize>) -> String {
    source::place(text, origin, section, key, item)
}

/// A run file in canonical form as nodes hand it out, whatever is learnt in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Its hash.
    pub run: RunId,
    /// What people call the run.
    pub name: String,
    /// The canonical form.
    pub text: String,
}

impl Published {
    /// Checks bytes of a peer that claim to be the run file of this run. Whether its other sections make sense, whoever
    /// learns from it finds out.
    ///
    /// # Errors
    /// Too many bytes, another hash, or no `[run]` in it.
    pub fn check(run: RunId, bytes: &[u8]) -> std::result::Result<Self, String> {
        if bytes.len() > RUN_FILE_BYTES_MAX {
            return Err(format!("{} bytes, at most {RUN_FILE_BYTES_MAX} are allowed", bytes.len()));
        }
        if Hash::of(bytes) != run {
            return Err(format!("it has the hash {}, expected {run}", Hash::of(bytes)));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| "it is no text".to_owned())?;
        let document = Document::parse(text, "the peer's run file", vec![RUN.known()]).map_err(|e| e.to_string())?;
        let section = RUN.read(&document).map_err(|e| e.to_string())?;
        Ok(Self { run, name: section.name, text: text.to_owned() })
    }
}
