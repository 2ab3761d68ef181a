//! The process of a trainer: its lines, its log, its end. It leads a process group of its own, so that what it started ends
//! with it, and Ctrl-C in a terminal is the node's alone.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::line::{Answer, LINE_BYTES_MAX, Question};

/// Lines that may wait to be heard: who writes more waits.
const LINES_MAX: usize = 64;

/// How long a process may take to end after it was told to.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// A process that runs.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Vec<u8>>,
    /// Held while it runs, so that no other works in its folder.
    _folder: File,
}

/// The process groups that were started and not ended yet, for a node that ends at once.
static GROUPS: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn groups() -> MutexGuard<'static, BTreeSet<u32>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends all trainers of this process, and what they started, at once.
pub(crate) fn end_all() {
    groups().iter().for_each(|group| kill(*group));
}

fn kill(group: u32) {
    #[cfg(unix)]
    if let Some(group) = rustix::process::Pid::from_raw(group as i32) {
        // Who is gone already is no trouble.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    #[cfg(not(unix))]
    let _ = group;
}

/// The file in a trainer's folder by which it is known for one.
const MARK: &str = ".paceline-trainer";

/// Makes a trainer's folder, or empties it of what is left of one before. One that is somebody else's is left alone.
fn take_folder(folder: &Path) -> Result<File, String> {
    let disk = |error: std::io::Error| format!("its folder {} can't be made: {error}", folder.display());
    std::fs::create_dir_all(folder).map_err(disk)?;
    let mark = folder.join(MARK);
    if !mark.exists() && std::fs::read_dir(folder).map_err(disk)?.next().is_some() {
        return Err(format!(
            "its folder {} holds files that are no trainer's: move them away, or take another folder for the node",
            folder.display()
        ));
    }
    let file = File::options().create(true).truncate(false).write(true).open(&mark).map_err(disk)?;
    if file.try_lock().is_err() {
        return Err(format!("another trainer works in its folder {}", folder.display()));
    }
    empty(folder);
    Ok(file)
}

/// Empties a trainer's folder.
pub(super) fn empty(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        // What stays costs space alone.
        let _ = match entry.file_type() {
            _ if entry.file_name() == MARK => Ok(()),
            Ok(kind) if kind.is_dir() => std::fs::remove_dir_all(entry.path()),
            _ => std::fs::remove_file(entry.path()),
        };
    }
}

/// Why nothing was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// Nothing came in time.
    Silent,
    /// It ended, as this says.
    Gone(String),
    /// What it wrote is no answer.
    Rubbish(String),
}

impl Ended {
    /// In words; `when` says at which moment, and `waited` how long it was waited for.
    pub(super) fn why(&self, when: &str, waited: Duration) -> String {
        match self {
            Self::Silent => format!("it said nothing for {} s {when}", waited.as_secs()),
            Self::Gone(status) => format!("it ended {when} ({status})"),
            Self::Rubbish(what) => what.clone(),
        }
    }
}

impl Process {
    /// Starts it; its folder is made, and emptied of what is left of one before.
    pub(super) fn start(command: &[String], folder: &Path) -> Result<Self, String> {
        let Some((program, arguments)) = command.split_first() else { return Err("no command was given".to_owned()) };
        let held = take_folder(folder)?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(|error| format!("`{program}` can't be started: {error}"))?;
        let (heard, lines) = sync_channel(LINES_MAX);
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        groups().insert(child.id());
        let process = Self { child, stdin, lines, _folder: held };
        let thread = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
        };
        let listens = stdout.map(|out| thread("trainer stdout", Box::new(move || listen(out, &heard))));
        let logs = stderr.map(|err| thread("trainer stderr", Box::new(move || log(err))));
        match [listens, logs].into_iter().flatten().collect::<Result<Vec<()>, _>>() {
            Ok(_) => Ok(process),
            Err(error) => Err(format!("the system gives no threads: {error}")),
        }
    }

    /// Says a line.
    pub(super) fn say(&mut self, question: &Question) -> Result<(), String> {
        let said = self.stdin.as_mut().map(|stdin| {
            stdin.write_all(question.line().as_bytes())?;
            stdin.flush()
        });
        match said {
            Some(Ok(())) => Ok(()),
            _ => Err(format!("it ended ({})", self.status())),
        }
    }

    /// Hears an answer until then. What is no object goes into the log where `skips` says so: a greeting of the program's own,
    /// before it knows that it is a trainer.
    pub(super) fn hear(&mut self, until: Instant, skips: bool) -> Result<Answer, Ended> {
        loop {
            let wait = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(wait) {
                Ok(line) if skips && line.first() != Some(&b'{') => {
                    tracing::info!(target: "trainer", "{}", String::from_utf8_lossy(&line).trim_end());
                }
                Ok(line) if line.len() > LINE_BYTES_MAX => {
                    return Err(Ended::Rubbish(format!("it wrote a line of more than {LINE_BYTES_MAX} bytes")));
                }
                Ok(line) => return Answer::parse(&line).map_err(Ended::Rubbish),
                Err(RecvTimeoutError::Timeout) => return Err(Ended::Silent),
                Err(RecvTimeoutError::Disconnected) => return Err(Ended::Gone(self.status())),
            }
        }
    }

    /// Whether it answers a ping in time.
    pub(super) fn is_alive(&mut self, within: Duration) -> Result<(), String> {
        self.say(&Question::Ping)?;
        let until = Instant::now() + within;
        loop {
            if Instant::now() >= until {
                return Err(Ended::Silent.why("while it was idle", within));
            }
            match self.hear(until, false) {
                Ok(Answer::Pong) => return Ok(()),
                // Of a job that was given up.
                Ok(_) => {}
                Err(ended) => return Err(ended.why("while it was idle", within)),
            }
        }
    }

    /// How it ended, once its stdout has: it is waited for a moment.
    fn status(&mut self) -> String {
        let until = Instant::now() + Duration::from_millis(500);
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return status.to_string(),
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
                Ok(None) => return "it closed its stdout".to_owned(),
                Err(error) => return error.to_string(),
            }
        }
    }

    /// Lets it end in order; what is left of it then is ended when this is gone.
    pub(super) fn stop(mut self) {
        let _ = self.say(&Question::Stop);
        self.stdin = None;
        let until = Instant::now() + STOP_WITHIN;
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// It ends, and what it started, when nobody holds it any more.
impl Drop for Process {
    fn drop(&mut self) {
        kill(self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
        groups().remove(&self.child.id());
    }
}

/// Takes lines from its stdout, none longer than the bound and a byte.
fn listen(stdout: impl Read, heard: &SyncSender<Vec<u8>>) {
    let mut reader = BufReader::new(stdout);
    loop {
        let mut line = Vec::new();
        match reader.by_ref().take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) if line.trim_ascii().is_empty() => {}
            Ok(_) if heard.send(line).is_err() => return,
            Ok(_) => {}
        }
    }
}

/// What it writes to stderr goes into the log.
fn log(stderr: impl Read) {
    let mut reader = BufReader::new(stderr);
    loop {
        let mut line = Vec::new();
        match reader.by_ref().take(4096).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => tracing::info!(target: "trainer", "{}", String::from_utf8_lossy(&line).trim_end()),
        }
    }
}
