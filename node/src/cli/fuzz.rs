//! Words on the command line, and those that a home remembers.

use clap::Parser;

use super::Arguments;
use super::join::JoinOptions;

/// Lines as words of a command line, or all of it as remembered options: they are taken, or refused with something to read.
pub(crate) fn options(bytes: &[u8]) {
    let _ = serde_json::from_slice::<JoinOptions>(bytes);
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Err(error) = Arguments::try_parse_from(std::iter::once("paceline").chain(text.lines()))
    {
        assert!(!error.to_string().is_empty());
    }
}
