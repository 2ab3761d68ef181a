//! What ends a command from outside: signals, and the end of stdin. The first signal lets it end in order, a second one ends
//! the process at once.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

use crate::learn::end_all;
use crate::ui::{log, screen};

/// The exit code of a second signal, as shells have it for SIGINT.
const AT_ONCE: i32 = 130;

/// Comes with SIGINT, SIGTERM, SIGHUP (a terminal was closed), or the end of stdin if that matters. With a log file SIGHUP opens
/// that anew, as init systems expect.
pub(super) fn shutdown(until_stdin_ends: bool) -> anyhow::Result<impl Future<Output = ()>> {
    let mut signals = Signals::listen().context("signals can't be listened to")?;
    Ok(async move {
        tokio::select! {
            () = signals.next() => {}
            () = stdin_ends(), if until_stdin_ends => {}
        }
        tracing::info!("stops; once more to stop at once");
        tokio::spawn(async move {
            signals.next().await;
            at_once();
        });
    })
}

/// Is set by SIGINT, for work that looks at it between two batches.
pub(super) fn interrupted() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            tracing::info!("stops after this batch; once more to stop at once");
            asked.store(true, Ordering::SeqCst);
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            at_once();
        }
    });
    stop
}

/// Does what Ctrl-C does where the terminal makes no signal of it.
pub(super) fn interrupt() {
    #[cfg(unix)]
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::INT);
}

/// Ends the process, and what it started.
fn at_once() -> ! {
    screen::restore();
    end_all();
    std::process::exit(AT_ONCE)
}

/// Waits until whoever holds the other end of stdin is gone.
pub(super) async fn stdin_ends() {
    use tokio::io::AsyncReadExt;
    let mut stdin = tokio::io::stdin();
    let mut byte = [0];
    while stdin.read(&mut byte).await.is_ok_and(|n| n > 0) {}
}

struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    /// None where it is ignored, which is what `nohup` is for.
    #[cfg(unix)]
    hangup: Option<tokio::signal::unix::Signal>,
}

impl Signals {
    #[cfg(unix)]
    fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        // A log file is opened anew also where a closed terminal is nothing to this process.
        let hangup = if ignores_hangup() && !log::has_file() { None } else { Some(signal(SignalKind::hangup())?) };
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, hangup })
    }

    #[cfg(unix)]
    async fn next(&mut self) {
        let hung_up = async {
            let Some(hangup) = &mut self.hangup else { return std::future::pending().await };
            while hangup.recv().await.is_some() && log::has_file() {
                log::reopen();
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = hung_up => {}
        }
    }

    #[cfg(not(unix))]
    fn listen() -> std::io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}

/// Whether whoever started this process made it ignore SIGHUP. Linux tells; elsewhere the system's own way with SIGHUP is
/// left as it is, which ends the process unless it is ignored.
#[cfg(unix)]
fn ignores_hangup() -> bool {
    const SIGHUP_BIT: u64 = 1;
    if !cfg!(target_os = "linux") {
        return true;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & SIGHUP_BIT != 0)
}
