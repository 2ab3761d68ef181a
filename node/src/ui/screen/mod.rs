//! The live screen of `status --watch`, `join` and `demo`: the round, its clock and its members at the top, curves and times
//! below, what happened at the bottom.
//!
//! [`State`] is what it shows and what keys change, `draw` makes a frame of it, and [`show`] has the terminal while it lasts.
//! It asks nobody: whoever opens it brings snapshots.

mod draw;
mod members;
#[cfg(test)]
mod tests;

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::Context;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::report::{Round, Status};
use crate::ui::log;
use members::Sort;

/// Between two looks.
const REFRESH: Duration = Duration::from_millis(250);

/// How long a key is waited for before it is drawn anew.
const KEYS_EVERY: Duration = Duration::from_millis(100);

/// Whether a screen has the terminal.
static IS_SHOWN: AtomicBool = AtomicBool::new(false);

/// What there is to show.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    /// The node's status; none before it has begun.
    pub(crate) status: Option<Status>,
    /// The committed rounds, oldest first.
    pub(crate) rounds: Arc<Vec<Round>>,
    /// What happened, the newest last.
    pub(crate) events: Vec<String>,
    /// Why the above is old, if it is.
    pub(crate) trouble: Option<String>,
}

/// How the screen ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By the key that quits.
    Quit,
    /// By Ctrl-C.
    Interrupted,
    /// There is nothing to show any more.
    Over,
}

/// What is on the screen beside the snapshot.
#[derive(Debug, Default)]
struct State {
    snapshot: Snapshot,
    sort: Sort,
    /// The place of the chosen member in the table.
    chosen: usize,
    shows_details: bool,
    shows_help: bool,
    /// No new snapshots are taken.
    is_paused: bool,
    /// What `q` does here, for the help.
    quits: &'static str,
}

/// What a key asks of who shows the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Nothing,
    Quit,
    Interrupt,
}

impl State {
    fn on_key(&mut self, key: KeyEvent) -> Asked {
        if key.kind == KeyEventKind::Release {
            return Asked::Nothing;
        }
        let members = self.snapshot.status.as_ref().map_or(0, |status| status.roster.len());
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Asked::Interrupt,
            KeyCode::Char('q') => return Asked::Quit,
            KeyCode::Esc if self.shows_help || self.shows_details => {
                (self.shows_help, self.shows_details) = (false, false);
            }
            KeyCode::Esc => return Asked::Quit,
            KeyCode::Char('?' | 'h') => self.shows_help = !self.shows_help,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('d') | KeyCode::Enter => self.shows_details = !self.shows_details,
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Down | KeyCode::Char('j') => self.chosen = (self.chosen + 1).min(members.saturating_sub(1)),
            KeyCode::Up | KeyCode::Char('k') => self.chosen = self.chosen.saturating_sub(1),
            KeyCode::Home => self.chosen = 0,
            KeyCode::End => self.chosen = members.saturating_sub(1),
            _ => {}
        }
        Asked::Nothing
    }
}

/// Whether a screen can be shown: this process has the terminal, which can move its cursor, and nobody asked for plain lines.
pub(crate) fn is_possible(plain: bool) -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    let has_terminal = std::io::stdout().is_terminal() && is_in_front();
    !plain && has_terminal && !is_set("NO_COLOR") && (!is_dumb || cfg!(windows))
}

/// Whether keys come to this process: one behind a shell's `&` would be stopped if it took the terminal.
fn is_in_front() -> bool {
    #[cfg(unix)]
    return std::io::stdin().is_terminal()
        && rustix::termios::tcgetpgrp(std::io::stdout()).is_ok_and(|front| front == rustix::process::getpgrp());
    #[cfg(not(unix))]
    return std::io::stdin().is_terminal();
}

/// Shows what `look` finds until somebody quits or it finds nothing more. Blocks its thread; looks have one of their own, so that
/// keys are answered while one takes long.
///
/// # Errors
/// The terminal fails, or the first look does.
pub(crate) fn show(
    mut look: impl FnMut() -> anyhow::Result<Option<Snapshot>> + Send + 'static,
    quits: &'static str,
) -> anyhow::Result<Ended> {
    let Some(snapshot) = look()? else { return Ok(Ended::Over) };
    let mut state = State { snapshot, quits, ..State::default() };
    let (found, looks) = mpsc::sync_channel(1);
    // It ends with the first look that nobody takes.
    std::thread::spawn(move || {
        while found.send(look()).is_ok() {
            std::thread::sleep(REFRESH);
        }
    });
    let _has = log::leave_to_screen();
    let mut terminal = ratatui::try_init().context("the terminal can't show a screen; --plain shows lines")?;
    let _restored = Restored;
    IS_SHOWN.store(true, Ordering::SeqCst);
    loop {
        terminal.draw(|frame| draw::draw(frame, &state)).context("the terminal fails")?;
        if event::poll(KEYS_EVERY).context("the terminal fails")?
            && let Event::Key(key) = event::read().context("the terminal fails")?
        {
            match state.on_key(key) {
                Asked::Quit => return Ok(Ended::Quit),
                Asked::Interrupt => return Ok(Ended::Interrupted),
                Asked::Nothing => {}
            }
        }
        match looks.try_recv() {
            Ok(Ok(None)) => return Ok(Ended::Over),
            Ok(Ok(Some(snapshot))) if !state.is_paused => state.snapshot = snapshot,
            Ok(Err(error)) => state.snapshot.trouble = Some(super::words::error_chain(&error)),
            Ok(Ok(Some(_))) | Err(_) => {}
        }
    }
}

/// Gives the terminal back when it goes.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back, where a screen has it: for who ends the process in its own way.
pub(crate) fn restore() {
    if IS_SHOWN.swap(false, Ordering::SeqCst) {
        let _ = ratatui::try_restore();
    }
}
