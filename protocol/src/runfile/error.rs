//! What can be wrong with a run file, and where.

use thiserror::Error;

/// Something wrong in a run file: where it is, what it is, what was expected, and the way to put it right.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{origin}:{line}:{column}: {problem}")]
pub struct RunFileError {
    /// The file's name, as the caller gave it.
    pub origin: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong there.
    pub problem: Box<Problem>,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Problem {
    /// More bytes than a run file may have.
    #[error("{len} bytes {form}, where a run file has at most {max}: shorten it")]
    TooLong {
        /// Bytes found.
        len: usize,
        /// Bytes allowed.
        max: usize,
        /// "of text", or "in canonical form".
        form: &'static str,
    },
    /// No TOML.
    #[error("this is no TOML: {0}")]
    Syntax(String),
    /// A section, a key of a section, or a key of a layer that doesn't exist.
    #[error("unknown {what} `{name}`{place}: {hint}")]
    Unknown {
        /// "section" or "key".
        what: &'static str,
        /// The name found, cut if it is long.
        name: String,
        /// `" in [train]"`.
        place: String,
        /// "did you mean `lr_decay`?", or where it belongs, or what there is.
        hint: String,
    },
    /// Something that has no default was left out.
    #[error("{what} is missing: add `{example}`")]
    Missing {
        /// ``"`rounds` in [run]"``.
        what: String,
        /// A line that would do.
        example: String,
    },
    /// A value of another type, or out of range.
    #[error("{what} is {found}: expected {expected}, for example `{example}`")]
    Value {
        /// ``"`lr` in [train]"``.
        what: String,
        /// The value found, cut if it is long.
        found: String,
        /// What is allowed.
        expected: String,
        /// A line that would do.
        example: String,
    },
    /// Two things that exclude each other, or one that needs another.
    #[error("{0}")]
    Conflict(String),
}
