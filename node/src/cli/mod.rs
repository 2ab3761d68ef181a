//! The command line: what is stable for scripts, in one place, as the README lists it. Commands know what is below them
//! and none of each other.

mod check;
mod data;
mod demo;
mod doctor;
mod error;
mod experiment;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod init;
mod inspect;
mod join;
mod manual;
mod model;
mod output;
mod roster;
mod rounds;
mod run_file;
mod runs;
mod shutdown;
mod simulate;
mod target;
mod trainer;
mod verify;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use paceline_bootstrap::Address;

use crate::ui::log::LogOptions;
use crate::ui::{log, screen, words};

use error::{CliError, Exit};
use join::JoinOptions;
use output::Format;
use target::Target;

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
    /// Show only warnings and errors.
    #[arg(short, long, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

const HELP_TOP: &str = "Examples:
  paceline demo                          see a whole run on this machine, in a minute or two
  paceline init run.toml                 write a commented run file
  paceline join run.toml                 take part; on a LAN the nodes find each other
  paceline join paceline2:3yQ...         take part with a ticket, which needs no run file
  paceline status --watch                what the round is doing now";

#[derive(Debug, Subcommand)]
enum Command {
    /// A whole run on this machine, in real processes, on generated data.
    #[command(
        after_help = "Examples:\n  paceline demo\n  paceline demo --nodes 6 --rounds 8\n  paceline demo --run examples/cifar10.toml --data ~/cifar-10-batches-bin --keep ./demo"
    )]
    Demo(demo::Options),
    /// Write a commented run file; or one that begins with the weights of a model.
    #[command(after_help = "Examples:
  paceline init                                             writes run.toml
  paceline init --from ~/photos                             looks at a folder, and writes a run file that fits it
  paceline init lab.toml --trainer                          for a program of yours, see docs/trainer.md
  paceline init more.toml --model ~/lab                     goes on from the model of a run's home
  paceline init more.toml --model lab.safetensors           the same from a file that `model export` has written
  paceline init tune.toml --model resnet.safetensors --like base.toml    with the net of base.toml, trained elsewhere
  paceline init tune.toml --model ~/lab --like base.toml --fresh 'linear1.*'    with a new head, for other classes")]
    Init(init::Options),
    /// What a run would be on this machine: bytes and time of a round, memory, missing classes.
    #[command(after_help = "Examples:
  paceline check run.toml --data ~/photos
  paceline check run.toml --data ~/photos --format json | jq .round_s")]
    Check(check::Options),
    /// Take part in a run.
    #[command(after_help = "Examples:
  paceline join run.toml --data ./photos            found or join the run of a file
  paceline join paceline2:3yQ... --data ./photos    join with a ticket
  paceline join                                     join the one run that is seen on the LAN
  paceline join --home ~/lab                        go on after a stop, as before
  paceline join --home ~/lab --switch 3fa9...       move to another chain of the run, see `paceline roster drop --help`")]
    Join(Box<JoinOptions>),
    /// What the round is doing now: who, which phase, who is late and why.
    #[command(
        after_help = "Examples:\n  paceline status\n  paceline status --watch\n  paceline status --home ~/lab --format json"
    )]
    Status {
        #[command(flatten)]
        target: Target,
        /// Show it until interrupted: on a terminal as a screen, `?` tells its keys.
        #[arg(long)]
        watch: bool,
        /// With --watch: lines in place of the screen.
        #[arg(long, requires = "watch")]
        plain: bool,
    },
    /// The committed rounds.
    #[command(after_help = "Examples:
  paceline rounds --last 10
  paceline rounds --format json | jq .accuracy
  paceline rounds --export csv > rounds.csv
  paceline rounds --plot curves                     draws curves.svg and curves.png")]
    Rounds(rounds::Options),
    /// Two runs side by side: of nodes, or simulated.
    #[command(after_help = "Examples:
  paceline compare ~/lab ~/lab-2
  paceline compare lab-simulation ~/lab --plot both")]
    Compare(rounds::CompareOptions),
    /// The runs of this machine, and those that are seen on the LAN.
    #[command(after_help = "Examples:\n  paceline runs\n  paceline runs --no-lan --format json | jq .homes")]
    Runs(runs::Options),
    /// What on this machine or network would stop a run, and the fix.
    #[command(after_help = "Examples:
  paceline doctor                              this machine, its network, and the node that was active last
  paceline doctor run.toml --data ~/photos     before the first start
  paceline doctor --peer 192.168.1.20:4001     whether a machine can be reached by TCP and by QUIC

Exit codes: 0 no problem, warnings perhaps; 1 a problem was found.")]
    Doctor(doctor::Options),
    /// Who is there.
    #[command(after_help = "Example:\n  paceline peers")]
    Peers(Target),
    /// A ticket with which others join.
    #[command(after_help = "Example:\n  paceline ticket      on one machine, and on another: paceline join TICKET")]
    Ticket(Target),
    /// Come off the roster, for good. A node that is only stopped stays on it.
    #[command(after_help = "Example:\n  paceline leave --home ~/lab")]
    Leave {
        #[command(flatten)]
        target: Target,
        /// Don't ask.
        #[arg(long, short = 'y')]
        yes: bool,
    },
    /// Let a node train nothing for a while: it votes and serves, and the others go on without its updates.
    #[command(
        after_help = "Examples:\n  paceline pause\n  paceline pause --run lab\n  paceline resume      trains again"
    )]
    Pause(Target),
    /// Let a paused node train again; or go on with a run that stopped because training failed on all nodes.
    #[command(
        after_help = "Example:\n  paceline resume      after a pause; or, on any node, after the cause is mended"
    )]
    Resume(Target),
    /// The last resort where a majority of the members is gone for good.
    #[command(subcommand)]
    Roster(roster::Command),
    /// Check a stopped node's records, promises, averages and files, offline.
    #[command(after_help = "Examples:
  paceline verify --home ~/lab
  paceline verify --home ~/lab --data ~/photos      also trains this node's own updates again
  paceline verify --format json | jq .findings

Exit codes: 0 all holds; 5 something does not; others as for every command.")]
    Verify(verify::Options),
    /// The model that a run has come to.
    #[command(subcommand)]
    Model(model::Command),
    /// The same run in one process, with clients in place of nodes.
    #[command(after_help = "Examples:
  paceline simulate run.toml --clients 10
  paceline simulate mnist.toml --clients 100 --data ~/mnist --until 99")]
    Simulate(simulate::Options),
    /// How the run file's partition divides the data: how many examples of each class every part has.
    #[command(after_help = "Examples:
  paceline data run.toml --clients 10
  paceline data mnist.toml --clients 100 --data ~/mnist --plot labels      draws labels.svg and labels.png")]
    Data(data::Options),
    /// What a shell completes after `paceline`.
    #[command(after_help = "Examples:
  paceline completions bash > ~/.local/share/bash-completion/completions/paceline
  paceline completions zsh > ~/.zfunc/_paceline
  paceline completions fish > ~/.config/fish/completions/paceline.fish")]
    Completions(manual::CompletionOptions),
    /// The manual page.
    #[command(after_help = "Examples:
  paceline man | man -l -
  paceline man ~/.local/share/man/man1      the pages of all commands")]
    Man(manual::ManOptions),
    /// The bootstrap node, for the demo; people start `paceline-bootstrap`.
    #[command(hide = true)]
    Bootstrap {
        #[arg(long)]
        run: PathBuf,
        #[arg(long)]
        listen: Vec<Address>,
    },
}

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let log_options = match &arguments.command {
        Command::Join(options) => options.log.clone(),
        _ => LogOptions::default(),
    };
    let format = arguments.format;
    if let Err(error) = log::start(arguments.verbose, arguments.quiet, &log_options) {
        return failed(&CliError::failed(error), format);
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            log::say(format_args!("error: the system gives no threads: {error}"));
            return ExitCode::from(Exit::Failed as u8);
        }
    };
    let result = runtime.block_on(command(arguments.command, format, arguments.quiet));
    // What still blocks, a look-up of a name perhaps, is not waited for.
    runtime.shutdown_background();
    screen::restore();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, format),
    }
}

/// Says why a command failed.
fn failed(error: &CliError, format: Format) -> ExitCode {
    let (text, exit) = (words::error_chain(&error.error), error.exit as u8);
    match format {
        Format::Text => log::say(format_args!("error: {text}")),
        Format::Json => log::say(format_args!("{}", serde_json::json!({ "error": text, "exit": exit }))),
    }
    ExitCode::from(exit)
}

async fn command(command: Command, format: Format, quiet: bool) -> Result<(), CliError> {
    match command {
        Command::Demo(options) => demo::run(options, format).await,
        Command::Init(options) => init::run(&options, format),
        Command::Check(options) => check::run(&options, format),
        Command::Join(options) => join::run(*options, quiet).await,
        Command::Status { target, watch, plain } => inspect::status(&target, format, watch, plain).await,
        Command::Rounds(options) => rounds::run(&options, format),
        Command::Compare(options) => rounds::compare(&options, format),
        Command::Runs(options) => runs::run(&options, format).await,
        Command::Doctor(options) => doctor::run(options, format).await,
        Command::Peers(target) => inspect::peers(&target, format),
        Command::Ticket(target) => inspect::ticket(&target, format),
        Command::Leave { target, yes } => inspect::leave(&target, yes, format),
        Command::Pause(target) => inspect::pause(&target, format),
        Command::Resume(target) => inspect::resume(&target, format),
        Command::Roster(command) => roster::run(&command, format),
        Command::Verify(options) => verify::run(&options, format),
        Command::Model(command) => model::run(&command, format, quiet),
        Command::Simulate(options) => simulate::run(options, format, quiet).await,
        Command::Data(options) => data::run(&options, format),
        Command::Completions(options) => {
            manual::completions(&options, Arguments::command());
            Ok(())
        }
        Command::Man(options) => manual::man(&options, Arguments::command()),
        Command::Bootstrap { run, listen } => demo::bootstrap(&run, Address::all(&listen)).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
