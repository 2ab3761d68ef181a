//! A digest of all that a node holds, by which the search knows a state that it has seen.
//!
//! It is taken from what `Debug` prints, so that a field which is added to the machine counts without anybody thinking of
//! it. Two things are left out, since they change nothing within the bounds of a search and would keep states apart that
//! go on alike:
//!
//! * When. A moment counts by its distance from the node's present, and what is further back than any wait is just "long
//!   ago".
//! * How much a peer was given of late: the limit is far from what a search asks for; and since when a phase lasts, which
//!   only people ask.
//!
//! Hashes print as their first ten digits, so two could look alike: among the thousands of a search that is a chance of one
//! in a hundred thousand.

use std::fmt::{self, Debug, Write};

use crate::base::ids::{Hash, Time};
use crate::base::timing::{SILENT_MS, STUCK_MS};

/// Longer ago than every wait that a search lets pass.
const LONG_AGO_MS: u64 = 2 * (SILENT_MS + STUCK_MS);

/// Fields that don't count.
const LEFT_OUT: [&str; 2] = ["served_until", "phase_since"];

/// The digest of what `value` prints, with its times as seen at `now`.
pub(super) fn digest(now: Time, value: &impl Debug) -> Hash {
    let mut hashing = Hashing { now, hasher: blake3::Hasher::new(), text: Vec::new(), time: None, left_out: false };
    // Writing into a hash can't fail.
    let _ = write!(hashing, "{value:?}");
    hashing.flush();
    Hash::from_bytes(*hashing.hasher.finalize().as_bytes())
}

struct Hashing {
    now: Time,
    hasher: blake3::Hasher,
    text: Vec<u8>,
    /// The digits of a time that is being printed.
    time: Option<String>,
    /// Whether the next time is one that does not count.
    left_out: bool,
}

impl Hashing {
    fn take(&mut self, bytes: &[u8]) {
        self.text.extend_from_slice(bytes);
        if self.text.len() >= 1 << 14 {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.hasher.update(&self.text);
        self.text.clear();
    }

    /// A time was printed: what counts of it is how far away it is.
    fn take_time(&mut self, digits: &str) {
        let at = Time(digits.trim_start_matches('(').parse().unwrap_or(0));
        if std::mem::take(&mut self.left_out) {
            return;
        }
        match at > self.now {
            true => self.take(format!("in {}", at.since_ms(self.now)).as_bytes()),
            false => self.take(format!("for {}", self.now.since_ms(at).min(LONG_AGO_MS)).as_bytes()),
        }
    }
}

impl Write for Hashing {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        match self.time.take() {
            Some(digits) if piece == ")" => self.take_time(&digits),
            Some(digits) => self.time = Some(digits + piece),
            None if piece == "Time" => self.time = Some(String::new()),
            None => {
                self.left_out |= LEFT_OUT.contains(&piece);
                self.take(piece.as_bytes());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    #[expect(dead_code, reason = "it is only printed")]
    struct Waits {
        until: Option<Time>,
        served_until: Time,
        tries: u32,
    }

    fn waits(until: u64, served_until: u64, tries: u32) -> Waits {
        Waits { until: Some(Time(until)), served_until: Time(served_until), tries }
    }

    #[test]
    fn a_moment_counts_by_its_distance() {
        let there = digest(Time(100), &waits(150, 0, 1));
        assert_eq!(there, digest(Time(900), &waits(950, 0, 1)));
        assert_ne!(there, digest(Time(100), &waits(151, 0, 1)));
        assert_ne!(there, digest(Time(200), &waits(150, 0, 1)));
        assert_eq!(digest(Time(LONG_AGO_MS), &Time(0)), digest(Time(2 * LONG_AGO_MS), &Time(9)));
    }

    #[test]
    fn what_is_no_time_counts_as_it_is_printed() {
        assert_ne!(digest(Time(1), &waits(2, 0, 1)), digest(Time(1), &waits(2, 0, 2)));
        assert_eq!(digest(Time(1), &waits(2, 5, 1)), digest(Time(1), &waits(2, 7, 1)));
    }
}
