//! The command line: what is stable for scripts, in one place (design section 6).

mod data;
mod experiment;
mod init;
mod join;
mod read;

pub(crate) use experiment::{Experiment, Prepared};
pub(crate) use join::{at_fault, lr_place, read_run_file, stdin_ends};
pub(crate) use read::{rounds_of, rounds_table, short};

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use libp2p::Multiaddr;
use paceline_protocol::bounds::NAME_BYTES_MAX;
use paceline_protocol::roster::Part;
use serde::{Deserialize, Serialize};

use crate::store::{HomeError, StoreError};
use crate::{console, demo, simulate};

/// How a command ends; the README lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It did what it should.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// Wrong usage; clap ends with it too.
    Usage = 2,
    /// There is no such node or home.
    NotFound = 3,
    /// The run file, the data or a file of the home is not usable.
    BadInput = 4,
}

/// A failure with the exit code that it deserves.
#[derive(Debug)]
pub struct Coded {
    exit: Exit,
    error: anyhow::Error,
}

impl Coded {
    /// With this exit code.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into() }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Coded {
    fn from(error: E) -> Self {
        let error = error.into();
        let home = error.downcast_ref::<HomeError>().is_some_and(|e| matches!(e, HomeError::Identity { .. }));
        let store = error.downcast_ref::<StoreError>().is_some_and(|e| !matches!(e, StoreError::Database { .. }));
        Self::new(if home || store { Exit::BadInput } else { Exit::Failed }, error)
    }
}

/// Many machines train one model together; their data stays where it is, and there is no server.
#[derive(Debug, Parser)]
#[command(name = "paceline", version = env!("PACELINE_VERSION"), after_help = HELP_TOP, max_term_width = 110)]
struct Arguments {
    /// How results are printed on stdout. Logs go to stderr.
    #[arg(long, value_enum, default_value_t = Format::Text, global = true)]
    format: Format,
    /// Show more of what happens; twice for even more.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// Show warnings and errors alone.
    #[arg(short, long, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

const HELP_TOP: &str = "Examples:
  paceline demo                          see a whole run on this machine, in a minute or two
  paceline init run.toml                 write a commented run file
  paceline join run.toml                 take part; on a LAN the nodes find each other
  paceline join paceline1:3yQ...         take part with a ticket, which needs no run file
  paceline status --watch                what the round is doing now";

/// Text for people, JSON for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A whole run on this machine, in real processes, on generated data.
    #[command(
        after_help = "Examples:\n  paceline demo\n  paceline demo --nodes 6 --rounds 8\n  paceline demo --run examples/cifar10.toml --data ~/cifar-10-batches-bin --keep ./demo"
    )]
    Demo(demo::Options),
    /// Write a commented run file.
    #[command(after_help = "Examples:\n  paceline init             writes run.toml\n  paceline init lab.toml")]
    Init {
        /// Where to; an existing file is left alone.
        #[arg(default_value = "run.toml")]
        file: PathBuf,
    },
    /// Take part in a run.
    #[command(after_help = "Examples:
  paceline join run.toml --data ./photos            found or join the run of a file
  paceline join paceline1:3yQ... --data ./photos    join with a ticket
  paceline join                                     join the one run that is seen on the LAN
  paceline join --home ~/lab                        go on after a stop, as before")]
    Join(Box<JoinOptions>),
    /// What the round is doing now: who, which phase, who is late and why.
    #[command(
        after_help = "Examples:\n  paceline status\n  paceline status --watch\n  paceline status --home ~/lab --format json"
    )]
    Status {
        #[command(flatten)]
        from: Which,
        /// Show it again every second until interrupted.
        #[arg(long)]
        watch: bool,
    },
    /// The committed rounds.
    #[command(after_help = "Examples:\n  paceline rounds\n  paceline rounds --format json | jq .accuracy")]
    Rounds(Which),
    /// Who is there.
    #[command(after_help = "Example:\n  paceline peers")]
    Peers(Which),
    /// A ticket with which others join.
    #[command(after_help = "Example:\n  paceline ticket      on one machine, and on another: paceline join TICKET")]
    Ticket(Which),
    /// Come off the roster, for good. A node that is only stopped stays on it.
    #[command(after_help = "Example:\n  paceline leave --home ~/lab")]
    Leave(Which),
    /// The same run in one process, with clients in place of nodes.
    #[command(after_help = "Examples:
  paceline simulate run.toml --clients 10
  paceline simulate mnist.toml --clients 100 --data ~/mnist --until 99")]
    Simulate(simulate::Options),
    /// How the run file's partition divides the data: images and labels of each part.
    #[command(after_help = "Examples:
  paceline data run.toml --clients 10
  paceline data mnist.toml --clients 100 --data ~/mnist --plot labels      draws labels.svg and labels.png")]
    Data(data::Options),
    /// The bootstrap node, for the demo; people start `paceline-bootstrap`.
    #[command(hide = true)]
    Bootstrap {
        #[arg(long)]
        run: PathBuf,
        #[arg(long)]
        listen: Vec<Multiaddr>,
    },
}

/// Which node a command asks.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// The node's home; not needed where there is one alone.
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
    /// Or the address of its control API, for instance http://127.0.0.1:4100
    #[arg(long, value_name = "URL", conflicts_with = "home")]
    node: Option<String>,
}

/// How a node is started. What is given is remembered in the home for the next start.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default)]
pub struct JoinOptions {
    /// A run file or a ticket. With neither: the run of the home, or the one that is seen on the LAN.
    #[arg(value_name = "RUN.toml | TICKET")]
    #[serde(skip)]
    target: Option<String>,
    /// Where the node keeps its identity, records and models [default: under the user's data folder].
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    home: Option<PathBuf>,
    /// What people call this node, at most 64 bytes.
    #[arg(long, value_parser = name)]
    name: Option<String>,
    /// An address to dial first; may be given several times.
    #[arg(long, value_name = "ADDR")]
    bootstrap: Vec<Multiaddr>,
    /// Where to listen [default: TCP and QUIC on every IPv4 interface, any free port].
    #[arg(long, value_name = "ADDR")]
    listen: Vec<Multiaddr>,
    /// Don't look for nodes on the LAN, and don't be found there.
    #[arg(long)]
    no_mdns: bool,
    /// The data: CIFAR-10 batches (folder or tar.gz), MNIST IDX files, or a folder of images.
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Take part K of N of the data, for experiments where one data set is split among nodes.
    #[arg(long, value_name = "K/N", value_parser = part)]
    part: Option<Part>,
    /// Threads that train [default: one a core].
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// What trains.
    #[arg(long, value_enum)]
    device: Option<DeviceKind>,
    /// Where the control API listens, on this machine alone [default: 127.0.0.1 and a free port].
    #[arg(long, value_name = "ADDR")]
    #[serde(skip)]
    http: Option<std::net::SocketAddr>,
    /// End when the run is over rather than go on serving it.
    #[arg(long)]
    #[serde(skip)]
    exit_when_done: bool,
    /// End when stdin does: whoever started this node is gone.
    #[arg(long, hide = true)]
    #[serde(skip)]
    until_stdin_ends: bool,
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DeviceKind {
    Cpu,
    Cuda,
    Metal,
}

fn part(text: &str) -> Result<Part, String> {
    let error = || format!("`{text}` is no part: give K/N, for instance 1/5, with K from 1 to N");
    let (index, of) = text.split_once('/').ok_or_else(error)?;
    let part = Part { index: index.parse().map_err(|_| error())?, of: of.parse().map_err(|_| error())? };
    if part.is_valid() { Ok(part) } else { Err(error()) }
}

fn name(text: &str) -> Result<String, String> {
    match text.len() {
        1..=NAME_BYTES_MAX if !text.contains(char::is_control) => Ok(text.to_owned()),
        found => {
            Err(format!("a name has 1 to {NAME_BYTES_MAX} bytes and no control characters, this one has {found} bytes"))
        }
    }
}

/// Threads that train where nothing else is asked for: one a core.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// Prints a result on stdout, with an end of line.
pub(crate) fn print(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        // Whoever reads has seen enough (`paceline rounds | head -1`), which is no failure; the commands that print hold
        // nothing that would have to be closed.
        std::process::exit(Exit::Done as i32);
    }
}

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    console::log(arguments.verbose, arguments.quiet);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the system gives no threads: {error}");
            return ExitCode::from(Exit::Failed as u8);
        }
    };
    let result = runtime.block_on(command(arguments.command, arguments.format, arguments.quiet));
    // What still blocks, a look-up of a name perhaps, is not waited for.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Coded { exit, error }) => {
            eprintln!("error: {}", told(&error));
            ExitCode::from(exit as u8)
        }
    }
}

/// An error with its causes, each of them once: many tell theirs in their own text.
fn told(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text.as_str() {
        "" => cause,
        known if known.contains(&cause) => text,
        known => format!("{known}: {cause}"),
    })
}

async fn command(command: Command, format: Format, quiet: bool) -> Result<(), Coded> {
    match command {
        Command::Demo(options) => demo::run(options, format == Format::Json).await,
        Command::Init { file } => init::run(&file, format),
        Command::Join(options) => join::run(*options, quiet).await,
        Command::Status { from, watch } => read::status(&from, format, watch).await,
        Command::Rounds(from) => read::rounds(&from, format),
        Command::Peers(from) => read::peers(&from, format),
        Command::Ticket(from) => read::ticket(&from, format),
        Command::Leave(from) => read::leave(&from, format),
        Command::Simulate(options) => simulate::run(options, format == Format::Json, quiet).await,
        Command::Data(options) => data::run(&options, format),
        Command::Bootstrap { run, listen } => demo::bootstrap(&run, listen).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn a_cause_is_told_once() {
        let cause = std::io::Error::other("no such file");
        let error = paceline_model::DataError::Read { path: "nope".into(), source: cause };
        let error = anyhow::Error::from(error).context("part 1/2");
        assert_eq!(told(&error), "part 1/2: nope: can't be read: no such file");
    }

    #[test]
    fn a_name_has_bounds() {
        assert_eq!(name("lab 3"), Ok("lab 3".to_owned()));
        for wrong in ["", "two\nlines", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert!(name(wrong).is_err_and(|e| e.contains("1 to 64 bytes")), "{wrong:?}");
        }
    }

    #[test]
    fn a_part_is_k_of_n() {
        assert_eq!(part("2/5"), Ok(Part { index: 2, of: 5 }));
        for wrong in ["0/5", "6/5", "2", "a/b", "2/5/7", "-1/5"] {
            assert!(part(wrong).is_err_and(|e| e.contains("K/N")), "{wrong}");
        }
    }
}
