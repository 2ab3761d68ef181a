//! How a command ends: exit codes, and failures that carry one.

use paceline_protocol::runfile::RunFileError;

use crate::node::NodeError;
use crate::store::{HomeError, StoreError};

/// How a command ends; the README lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
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
    /// `verify` found what does not hold.
    Unsound = 5,
}

/// A failure with the exit code that it deserves. What is below the commands knows no exit codes: an error of the library
/// gets its own by what it is.
#[derive(Debug)]
pub(crate) struct CliError {
    pub(super) exit: Exit,
    pub(super) error: anyhow::Error,
}

impl CliError {
    pub(super) fn failed(error: impl Into<anyhow::Error>) -> Self {
        Self { exit: Exit::Failed, error: error.into() }
    }

    pub(super) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self { exit: Exit::Usage, error: error.into() }
    }

    pub(super) fn not_found(error: impl Into<anyhow::Error>) -> Self {
        Self { exit: Exit::NotFound, error: error.into() }
    }

    pub(super) fn unsound(error: impl Into<anyhow::Error>) -> Self {
        Self { exit: Exit::Unsound, error: error.into() }
    }

    pub(super) fn bad_input(error: impl Into<anyhow::Error>) -> Self {
        Self { exit: Exit::BadInput, error: error.into() }
    }
}

impl<E: Into<anyhow::Error>> From<E> for CliError {
    fn from(error: E) -> Self {
        let error = match error.into().downcast() {
            Ok(NodeError::Unusable(error)) => return Self::bad_input(error),
            Ok(NodeError::Failed(error)) => error,
            Ok(stopped @ NodeError::Stopped) => stopped.into(),
            Err(other) => other,
        };
        let is_damaged = matches!(error.downcast_ref(), Some(HomeError::Identity { .. } | HomeError::IdentityLost(_)))
            || error.downcast_ref::<StoreError>().is_some_and(|e| !matches!(e, StoreError::Database { .. }))
            || error.is::<RunFileError>();
        if is_damaged { Self::bad_input(error) } else { Self::failed(error) }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use anyhow::Context;

    use super::*;

    #[test]
    fn a_file_of_the_home_that_is_not_usable_is_bad_input_whatever_is_said_about_it() {
        let damaged = || HomeError::Identity { path: "identity.key".into(), found: 31 };
        assert_eq!(CliError::from(damaged()).exit, Exit::BadInput);
        assert_eq!(
            CliError::from(Err::<(), _>(damaged()).context("node 1").expect_err("it is one")).exit,
            Exit::BadInput
        );
        assert_eq!(CliError::from(HomeError::Locked(PathBuf::new())).exit, Exit::Failed);
    }
}
