//! The clock of a simulated node: it runs at a rate of its own and jumps, and never goes back.

use crate::base::ids::Time;

/// What a node takes for the time. It begins at 0 with each life, as a process's own clock does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// When in the world it was last set, and what it showed then.
    since: Time,
    shows: Time,
    /// Milliseconds that it goes on in a second of the world.
    per_mille: u64,
}

/// A clock that goes as the world does.
pub(super) const TRUE_PER_MILLE: u64 = 1_000;

impl Clock {
    pub(super) fn new() -> Self {
        Self { since: Time::default(), shows: Time::default(), per_mille: TRUE_PER_MILLE }
    }

    /// A process begins.
    pub(super) fn begin(&mut self, now: Time) {
        (self.since, self.shows) = (now, Time::default());
    }

    /// What it shows.
    pub(super) fn read(&self, now: Time) -> Time {
        let gone = u128::from(now.since_ms(self.since)) * u128::from(self.per_mille) / 1_000;
        self.shows.plus_ms(u64::try_from(gone).unwrap_or(u64::MAX))
    }

    /// When it will show this; now, if it does already.
    pub(super) fn when(&self, shown: Time, now: Time) -> Time {
        let to_go = u128::from(shown.since_ms(self.shows)) * 1_000;
        let ms = to_go.div_ceil(u128::from(self.per_mille.max(1)));
        self.since.plus_ms(u64::try_from(ms).unwrap_or(u64::MAX)).max(now)
    }

    /// From now on it runs at this rate.
    pub(super) fn set_rate(&mut self, now: Time, per_mille: u64) {
        (self.shows, self.since) = (self.read(now), now);
        self.per_mille = per_mille.max(1);
    }

    /// It jumps forward.
    pub(super) fn jump(&mut self, ms: u64) {
        self.shows = self.shows.plus_ms(ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_finds_what_it_was_set_for_whatever_the_rate() {
        for per_mille in [1, 250, 999, 1_000, 1_001, 4_000] {
            let mut clock = Clock::new();
            clock.begin(Time(70));
            clock.set_rate(Time(123), per_mille);
            for shown in [0, 1, 52, 54, 1_000, 12_345] {
                let at = clock.when(Time(shown), Time(123));
                assert!(clock.read(at) >= Time(shown), "{shown} at {per_mille}");
            }
        }
    }

    #[test]
    fn a_clock_never_goes_back() {
        let mut clock = Clock::new();
        let mut before = Time::default();
        for step in 0..1_000u64 {
            let now = Time(step * 7);
            match step % 5 {
                0 => clock.set_rate(now, 1 + step * 13 % 3_000),
                1 => clock.jump(step % 3),
                _ => {}
            }
            assert!(clock.read(now) >= before);
            before = clock.read(now);
        }
    }
}
