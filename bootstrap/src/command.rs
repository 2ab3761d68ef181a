//! The command line of the bootstrap node. Its binary is built with the node, which knows what run files may say; nothing
//! here does.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use paceline_protocol::runfile::Published;
use tracing_subscriber::EnvFilter;

use crate::address::Address;
use crate::serve::{Ready, ServeOptions, serve};

/// The address that a new node dials first. It introduces nodes to each other, hands out the run file and relays; it trains
/// nothing and is never needed once the nodes know each other.
#[derive(Parser)]
#[command(name = "paceline-bootstrap", version)]
struct Arguments {
    /// The run to print a join ticket for, and whose run file to hand out.
    #[arg(long, value_name = "RUN.toml")]
    run: Option<PathBuf>,
    /// Where to listen: host:port for TCP and QUIC (0.0.0.0:4001 for every IPv4 interface), or a multiaddr [default: every IPv4
    /// interface, any free port].
    #[arg(long, value_name = "ADDR")]
    listen: Vec<Address>,
    /// Directory for the identity, so that addresses and tickets stay valid after a restart.
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
    /// Don't announce this bootstrap on the local network.
    #[arg(long)]
    no_mdns: bool,
    /// How to print addresses and ticket.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// How it ends, as `paceline` does: it failed; the run file is not usable.
const FAILED: u8 = 1;
/// See [`FAILED`].
const BAD_INPUT: u8 = 4;

/// Runs `paceline-bootstrap` with the process's arguments, and says on stderr what fails. `read` reads the run file of `--run`.
pub fn run(read: impl FnOnce(&Path) -> anyhow::Result<Published>) -> ExitCode {
    let arguments = Arguments::parse();
    let published = match arguments.run.as_deref().map(read).transpose() {
        Ok(published) => published,
        Err(error) => return failed(&error, BAD_INPUT),
    };
    match serve_as_told(arguments, published) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, FAILED),
    }
}

fn failed(error: &anyhow::Error, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "error: {error:#}");
    ExitCode::from(code)
}

fn serve_as_told(arguments: Arguments, run: Option<Published>) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,paceline_bootstrap=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Whoever reads stderr may be gone. To tell it so would be a panic.
        .log_internal_errors(false)
        .init();
    let options =
        ServeOptions { run, listen: Address::all(&arguments.listen), home: arguments.home, mdns: !arguments.no_mdns };
    let format = arguments.format;
    let runtime = tokio::runtime::Runtime::new().context("the system gives no threads")?;
    runtime.block_on(async {
        // Asked for before it serves, so that no signal is missed.
        let shutdown = stop_signal().context("signals can't be listened to")?;
        Ok(serve(options, |ready| print(&ready, format), shutdown).await?)
    })
}

/// Nobody reads any more: that is no reason to stop serving, so errors of stdout are left alone.
fn print(ready: &Ready, format: Format) {
    let mut out = std::io::stdout().lock();
    match format {
        Format::Json => {
            let line = serde_json::json!({
                "peer_id": ready.peer_id, "addresses": ready.addresses, "ticket": ready.ticket,
            });
            let _ = writeln!(out, "{line}");
        }
        Format::Text => {
            for address in &ready.addresses {
                let _ = writeln!(out, "address {address}");
            }
            if let Some(ticket) = &ready.ticket {
                let _ = writeln!(out, "ticket  {ticket}");
            }
            let _ = writeln!(std::io::stderr(), "It serves until Ctrl-C.");
        }
    }
    let _ = out.flush();
}

#[cfg(unix)]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    Ok(async {
        // Without the signal there is nothing to wait for but the end of the process.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}
