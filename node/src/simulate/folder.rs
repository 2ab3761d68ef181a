//! What a simulation leaves on disk, and how it goes on after an interruption.
//!
//! `run.toml` is the run file in canonical form, `clients` the number of clients, `rounds.jsonl` has a line for each
//! finished round, in the format of `paceline rounds`, and `state-R` is the global state after round R. A round counts once its
//! line is there; its state was put on disk before.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use paceline_protocol::Hash;
use paceline_protocol::base::roster::Part;

use crate::blobs::Manifest;
use crate::learn::ControlVariates;
use crate::report::Round;
use crate::run_file::RunFile;
use crate::store::files;

use super::plots::is_plot;

/// The folder of one simulation.
#[derive(Debug)]
pub(crate) struct Folder {
    dir: PathBuf,
    /// Held while this process lives: two in one folder would mix their rounds.
    _lock: File,
    /// The rounds that are finished.
    pub(crate) rounds: Vec<Round>,
    /// The state after the last of them.
    pub(crate) state: Vec<u8>,
}

impl Folder {
    /// Begins in a folder, or goes on in one of the same run with as many clients. What others keep there is left alone; a
    /// name that a simulation would write must not be taken.
    pub(crate) fn open(
        dir: &Path,
        run_file: &RunFile,
        clients: u32,
        initial: impl FnOnce() -> anyhow::Result<Vec<u8>>,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("{} can't be made", dir.display()))?;
        let lock = lock(dir)?;
        let (run, count) = (dir.join("run.toml"), dir.join("clients"));
        if run.exists() && count.exists() {
            let origin = run.display().to_string();
            let text = fs::read_to_string(&run).with_context(|| origin.clone())?;
            let before = fs::read_to_string(&count).with_context(|| count.display().to_string())?;
            if RunFile::parse(&text, &origin)? != *run_file || before.trim() != clients.to_string() {
                bail!(
                    "{} holds another simulation, of {} clients under {origin}: give another --out",
                    dir.display(),
                    before.trim()
                );
            }
        } else if let Some(taken) = taken_name(dir)? {
            bail!("{} holds `{taken}` of something else than a simulation: give another --out", dir.display());
        } else {
            write(&count, clients.to_string().as_bytes())?;
            write(&run, run_file.canonical().as_bytes())?;
        }
        let mut folder = Self { dir: dir.to_owned(), _lock: lock, rounds: Vec::new(), state: Vec::new() };
        folder.rounds = folder.read_rounds()?;
        folder.state = match folder.rounds.last() {
            Some(last) => folder.read_state(last)?,
            None => initial()?,
        };
        folder.clear_states();
        Ok(folder)
    }

    /// Puts a finished round on disk: its state, then its line, and what is needed no more is removed.
    pub(crate) fn add(&mut self, round: Round, state: Vec<u8>) -> anyhow::Result<()> {
        write(&self.state_file(round.round), &state)?;
        let path = self.rounds_file();
        let line = serde_json::to_string(&round)? + "\n";
        let append = || -> io::Result<()> {
            let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
            file.write_all(line.as_bytes())?;
            file.sync_all()
        };
        append().with_context(|| format!("{} can't be written", path.display()))?;
        self.rounds.push(round);
        self.state = state;
        self.clear_states();
        Ok(())
    }

    /// Removes every state but that of the last round. One that stays costs only space.
    fn clear_states(&self) {
        let last = self.rounds.last().map_or(0, |last| last.round);
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if round_of_state(&entry.file_name().to_string_lossy()).is_some_and(|round| round != last) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Where the clients' control variates lie.
    pub(crate) fn controls(&self) -> ControlVariates {
        ControlVariates::at(self.file("controls"))
    }

    /// A client's last update that was averaged.
    pub(crate) fn last_update_of(&self, part: Part) -> Option<Hash> {
        let name = part.to_string();
        let contributions = self.rounds.iter().rev().flat_map(|round| &round.contributions);
        let last = contributions.into_iter().find(|c| c.node_id == name)?;
        last.update_hash.parse().ok()
    }

    /// The folder's path.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn rounds_file(&self) -> PathBuf {
        self.file("rounds.jsonl")
    }

    fn state_file(&self, round: u64) -> PathBuf {
        self.file(&format!("{STATE}{round}"))
    }

    fn read_rounds(&self) -> anyhow::Result<Vec<Round>> {
        let path = self.rounds_file();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        // The last line of an interrupted write has no end: that round is not finished.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            write(&path, &text.as_bytes()[..whole])?;
        }
        let mut rounds: Vec<Round> = Vec::new();
        for (index, line) in text[..whole].lines().enumerate() {
            let at = || format!("{}:{}: expected the record of round {}", path.display(), index + 1, index + 1);
            let round: Round = serde_json::from_str(line).with_context(|| BEGIN_AGAIN).with_context(at)?;
            if round.round != index as u64 + 1 {
                return Err(anyhow!("found that of round {}: {BEGIN_AGAIN}", round.round)).with_context(at);
            }
            rounds.push(round);
        }
        Ok(rounds)
    }

    fn read_state(&self, last: &Round) -> anyhow::Result<Vec<u8>> {
        let path = self.state_file(last.round);
        let bytes = fs::read(&path).with_context(|| format!("{}: {BEGIN_AGAIN}", path.display()))?;
        let found = Manifest::of(&bytes).blob().id.to_string();
        if found != last.model_hash {
            bail!(
                "{}: expected the model {} of round {}, found {found}: {BEGIN_AGAIN}",
                path.display(),
                last.model_hash,
                last.round
            );
        }
        Ok(bytes)
    }
}

/// What the names of global states begin with; the round follows.
const STATE: &str = "state-";

/// The round of a global state by its file's name; `None` for other files.
fn round_of_state(name: &str) -> Option<u64> {
    name.strip_prefix(STATE)?.parse().ok()
}

/// A name that a simulation would write, in a folder that holds none. `clients` by itself is one that was killed as it began.
fn taken_name(dir: &Path) -> anyhow::Result<Option<String>> {
    let read = || -> io::Result<Option<String>> {
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let is_ours = ["run.toml", "rounds.jsonl", "controls"].contains(&name.as_str());
            if is_ours || is_plot(&name) || round_of_state(&name).is_some() {
                return Ok(Some(name));
            }
        }
        Ok(None)
    };
    read().with_context(|| format!("{} can't be read", dir.display()))
}

/// What to do about files that don't fit together.
const BEGIN_AGAIN: &str = "the folder is damaged; begin again with another --out";

fn lock(dir: &Path) -> anyhow::Result<File> {
    let path = dir.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("{} can't be written", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("another process simulates in {}: give another --out", dir.display()),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("{} can't be locked", path.display())),
    }
}

/// Writes a file at once or not at all.
fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let write = || {
        files::write_whole(path, bytes)?;
        path.parent().map_or(Ok(()), files::sync_dir)
    };
    write().with_context(|| format!("{} can't be written", path.display()))
}
