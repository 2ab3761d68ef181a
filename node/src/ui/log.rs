//! What goes to stderr or into a log file: logs, and what people are told. stdout is for results.
//!
//! Whoever reads stderr may be gone: a pipe into `head`, a terminal that was closed, a shipper of logs that starts again.
//! That must not end a node, so nothing here may fail, and nothing elsewhere writes to stderr.
//!
//! While the screen has the terminal nothing is written there; its last lines are kept, for the screen to show.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use clap::{Args, ValueEnum};
use tracing::Subscriber;
use tracing_subscriber::fmt::time::ChronoLocal;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Bytes of a log file before the next one begins.
const FILE_BYTES: u64 = 10 << 20;

/// Older log files that are kept beside it.
const FILES_KEPT: usize = 5;

/// Lines that are kept for the screen.
const LINES_KEPT: usize = 200;

/// The time of a line for who watches, and for who reads later.
const CLOCK: &str = "%H:%M:%S";
const STAMP: &str = "%Y-%m-%d %H:%M:%S%.3f %:z";

/// Where the log goes, and in which form.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub(crate) struct LogOptions {
    /// Write the log into a file in place of stderr. At 10 MiB it becomes FILE.1, of which five are kept; SIGHUP opens it anew.
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// How log lines are written: text, or a JSON object a line.
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    log_format: LogFormat,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

/// The log file, where there is one.
static FILE: Mutex<Option<LogFile>> = Mutex::new(None);

/// Whether the screen has the terminal.
static HAS_SCREEN: AtomicBool = AtomicBool::new(false);

/// The last lines.
static LINES: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// Sets up logging. `RUST_LOG` has the last word.
///
/// # Errors
/// The log file can't be written.
pub(crate) fn start(verbose: u8, quiet: bool, options: &LogOptions) -> anyhow::Result<()> {
    let level = match (quiet, verbose) {
        (true, _) => "warn",
        (false, 0) => "warn,paceline=info,trainer=info",
        (false, 1) => "info,paceline=debug,paceline_bootstrap=debug",
        // What libp2p tells at `debug` is for who works on it: RUST_LOG=debug.
        (false, _) => "info,paceline=trace,paceline_bootstrap=trace,paceline_protocol=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    if let Some(path) = &options.log_file {
        *lock(&FILE) = Some(LogFile::open(path)?);
    }
    let is_watched = options.log_file.is_none() && io::stderr().is_terminal();
    let is_coloured = is_watched && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let output = layer(options.log_format, if is_watched { CLOCK } else { STAMP }, is_coloured, || Out);
    let kept = layer(LogFormat::Text, CLOCK, false, || Kept);
    tracing_subscriber::registry().with(filter).with(output).with(kept).init();
    Ok(())
}

/// Lines of a form with the time, to a writer.
fn layer<S, W>(
    format: LogFormat,
    time: &str,
    ansi: bool,
    writer: impl Fn() -> W + Send + Sync + 'static,
) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: Write + 'static,
{
    let layer = tracing_subscriber::fmt::layer()
        .with_timer(ChronoLocal::new(time.to_owned()))
        .with_writer(writer)
        .with_ansi(ansi)
        .with_target(false)
        // It would tell stderr that stderr can't be written to, and panic.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => Box::new(layer),
        LogFormat::Json => Box::new(layer.json().flatten_event(true)),
    }
}

/// Says a line to whoever reads stderr, if anybody does.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Whether somebody reads the log as it is written, rather than a file or another program.
pub(crate) fn is_watched() -> bool {
    !has_file() && io::stderr().is_terminal()
}

/// Whether there is a log file, which [`reopen`] opens anew.
pub(crate) fn has_file() -> bool {
    lock(&FILE).is_some()
}

/// Opens the log file anew: whoever rotates logs has moved it.
pub(crate) fn reopen() {
    if let Some(file) = lock(&FILE).as_mut() {
        file.reopen();
    }
}

/// Leaves the terminal to the screen, until that is dropped.
pub(crate) fn leave_to_screen() -> ScreenHasTerminal {
    HAS_SCREEN.store(true, Ordering::SeqCst);
    ScreenHasTerminal
}

/// While it lives the screen has the terminal.
pub(crate) struct ScreenHasTerminal;

impl Drop for ScreenHasTerminal {
    fn drop(&mut self) {
        HAS_SCREEN.store(false, Ordering::SeqCst);
    }
}

/// The last lines of the log, the newest last.
pub(crate) fn last_lines() -> Vec<String> {
    lock(&LINES).iter().cloned().collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A log file that is rotated by its size. The crates that do so panic, or lose what is written, where a folder goes away.
struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl LogFile {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let open = || {
            let mut options = OpenOptions::new();
            options.create(true).append(true);
            #[cfg(unix)]
            {
                use std::os::unix::fs::OpenOptionsExt;
                // Addresses and names stand in it. A pipe that nobody reads must be an error, not a wait.
                options.mode(0o600).custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
            }
            let file = options.open(path)?;
            let bytes = file.metadata()?.len();
            Ok::<_, io::Error>(Self { path: path.to_owned(), file, bytes })
        };
        open().with_context(|| format!("--log-file {} can't be written", path.display()))
    }

    fn write(&mut self, line: &[u8]) {
        if self.bytes >= FILE_BYTES {
            self.rotate();
        }
        let _ = self.file.write_all(line);
        self.bytes += line.len() as u64;
    }

    /// FILE becomes FILE.1, that FILE.2, and so on; the last one goes. What is no file, or can't be moved, stays as it is.
    fn rotate(&mut self) {
        self.bytes = 0;
        let numbered = |number: usize| PathBuf::from(format!("{}.{number}", self.path.display()));
        let is_file = std::fs::symlink_metadata(&self.path).is_ok_and(|about| about.is_file());
        let aside = PathBuf::from(format!("{}.0", self.path.display()));
        if !is_file || std::fs::rename(&self.path, &aside).is_err() {
            return;
        }
        for number in (1..FILES_KEPT).rev() {
            let _ = std::fs::rename(numbered(number), numbered(number + 1));
        }
        let _ = std::fs::rename(&aside, numbered(1));
        self.reopen();
    }

    fn reopen(&mut self) {
        match Self::open(&self.path) {
            Ok(file) => *self = file,
            Err(error) => {
                self.bytes = 0;
                say(format_args!("warning: {error:#}; the log goes on where it was"));
            }
        }
    }
}

/// Into the file, else to stderr unless the screen is there. What can't be written is lost, and that is all.
struct Out;

impl Write for Out {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match lock(&FILE).as_mut() {
            Some(file) => file.write(line),
            None if HAS_SCREEN.load(Ordering::SeqCst) && io::stderr().is_terminal() => {}
            None => drop(io::stderr().write_all(line)),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Into the memory of the last lines.
struct Kept;

impl Write for Kept {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut lines = lock(&LINES);
        if lines.len() == LINES_KEPT {
            lines.pop_front();
        }
        lines.push_back(String::from_utf8_lossy(line).trim_end().to_owned());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_file_goes_on_where_it_was_and_is_opened_anew_when_it_was_moved() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("log");
        std::fs::write(&path, "before\n").expect("a file");
        let mut file = LogFile::open(&path).expect("it can be written");
        file.write(b"first\n");
        std::fs::rename(&path, dir.path().join("moved")).expect("it can be moved");
        file.reopen();
        file.write(b"second\n");
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).expect("it is there");
        assert_eq!((read("moved"), read("log")), ("before\nfirst\n".to_owned(), "second\n".to_owned()));
    }

    #[test]
    fn a_log_file_that_is_full_becomes_the_first_of_the_older_ones() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("log");
        let mut file = LogFile::open(&path).expect("it can be written");
        for number in 0..FILES_KEPT + 3 {
            file.bytes = FILE_BYTES;
            file.write(format!("{number}\n").as_bytes());
        }
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).ok();
        let last = FILES_KEPT + 2;
        assert_eq!([read("log"), read("log.1")], [last, last - 1].map(|number| Some(format!("{number}\n"))));
        assert!(read(&format!("log.{FILES_KEPT}")).is_some() && read(&format!("log.{}", FILES_KEPT + 1)).is_none());
    }

    #[test]
    #[cfg(unix)]
    fn what_is_no_file_is_never_moved() {
        let dir = tempfile::tempdir().expect("a folder");
        let link = dir.path().join("log");
        std::os::unix::fs::symlink("/dev/null", &link).expect("a link");
        let mut file = LogFile::open(&link).expect("it can be written");
        file.bytes = FILE_BYTES;
        file.write(b"lost\n");
        assert!(link.is_symlink() && !dir.path().join("log.1").exists());
    }

    #[test]
    fn a_log_file_that_can_not_be_written_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("nowhere").join("log");
        let error = LogFile::open(&path).err().expect("there is no such folder");
        assert!(format!("{error:#}").contains("nowhere"), "{error:#}");
    }
}
