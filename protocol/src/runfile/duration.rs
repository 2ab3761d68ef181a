//! Durations: a whole number and a unit.

use super::source::{Entry, Result};

/// The shortest: below a second a busy machine's scheduler decides who is late.
pub(super) const MS_MIN: u64 = 1_000;

/// The longest, 30 days: longer than anybody waits.
pub(super) const MS_MAX: u64 = 30 * 24 * 3_600_000;

/// Units, the longest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];

/// A duration in milliseconds.
///
/// # Errors
/// It is none, or not from a second to 30 days.
pub fn read(entry: &Entry) -> Result<u64> {
    let wrong = || entry.wrong("a duration from \"1s\" to \"30d\": a whole number and one of ms, s, min, h, d");
    let text = entry.text().ok_or_else(wrong)?;
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = text.split_at(digits);
    let count: u64 = count.parse().map_err(|_| wrong())?;
    let (_, length_ms) = UNITS.into_iter().find(|(name, _)| *name == unit.trim()).ok_or_else(wrong)?;
    count.checked_mul(length_ms).filter(|ms| (MS_MIN..=MS_MAX).contains(ms)).ok_or_else(wrong)
}

/// A duration in the longest unit that needs no fraction.
pub fn written(ms: u64) -> String {
    let (unit, length_ms) =
        UNITS.into_iter().find(|(_, length_ms)| ms != 0 && ms.is_multiple_of(*length_ms)).unwrap_or(("ms", 1));
    format!("{}{unit}", ms / length_ms)
}
