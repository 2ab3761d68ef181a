//! Ranges of numbers, and what they are called in errors.

use paceline_protocol::runfile::{Entry, Result};

/// What a number must be, and in words.
pub(super) struct Range(&'static str, fn(f64) -> bool);

impl Range {
    /// Reads a number that must be in it.
    pub(super) fn read(&self, entry: &Entry) -> Result<f64> {
        entry.number(self.0, self.1)
    }
}

pub(super) const ABOVE_0: Range = Range("a finite number above 0", |x| x > 0.0);
pub(super) const FROM_0: Range = Range("a finite number from 0 on", |x| x >= 0.0);
pub(super) const SHARE: Range = Range("a number from 0 to below 1", |x| (0.0..1.0).contains(&x));
pub(super) const FACTOR: Range = Range("a number above 0, at most 1", |x| x > 0.0 && x <= 1.0);
pub(super) const RATE: Range = Range("a number from 1e-9 to 1e6", |x| (1e-9..=1e6).contains(&x));
