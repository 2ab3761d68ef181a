//! When this node trains nothing, since its owner said so: until it goes on, or outside of its hours.

use std::fmt;
use std::str::FromStr;

use chrono::Timelike;
use serde::{Deserialize, Serialize};

/// Minutes of a day.
const DAY: u32 = 24 * 60;

/// A part of every day, in local time, that may go over midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hours {
    /// Minutes since midnight.
    from: u32,
    /// The first minute that is not in it any more.
    until: u32,
}

impl Hours {
    /// Whether a minute of the day is in them.
    pub fn contain(&self, minute: u32) -> bool {
        match self.from < self.until {
            true => (self.from..self.until).contains(&minute),
            false => minute >= self.from || minute < self.until,
        }
    }
}

impl FromStr for Hours {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` are no hours: give from-until, for instance 22:00-06:00, or `all`");
        if text == "all" {
            return Ok(Self { from: 0, until: DAY });
        }
        let minute = |clock: &str, most: u32| {
            let (hour, minute) = clock.trim().split_once(':')?;
            let (hour, minute): (u32, u32) = (hour.parse().ok()?, minute.parse().ok()?);
            (minute < 60 && hour <= 24 && 60 * hour + minute <= most).then(|| 60 * hour + minute)
        };
        let (from, until) = text.split_once('-').ok_or_else(wrong)?;
        let from = minute(from, DAY - 1).ok_or_else(wrong)?;
        let until = minute(until, DAY).ok_or_else(wrong)?;
        if from == until { Err(wrong()) } else { Ok(Self { from, until }) }
    }
}

impl TryFrom<String> for Hours {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Hours> for String {
    fn from(hours: Hours) -> Self {
        hours.to_string()
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, until } = self;
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, until / 60, until % 60)
    }
}

/// Why this node trains nothing, if that is so.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pauses {
    /// Its owner has paused it.
    pub(super) by_owner: bool,
    /// When it may train.
    pub(super) hours: Option<Hours>,
}

impl Pauses {
    /// What to do about it, in words, while it holds; now.
    pub(super) fn advice(&self) -> Option<String> {
        self.advice_at(chrono::Local::now().time().num_seconds_from_midnight() / 60)
    }

    /// The same at a minute of the day.
    fn advice_at(&self, minute: u32) -> Option<String> {
        let outside = self.hours.filter(|hours| !hours.contain(minute));
        match (self.by_owner, outside) {
            (true, _) => Some("`paceline resume` goes on".to_owned()),
            (false, Some(hours)) => Some(format!("it trains from {}", hours.to_string().replace('-', " to "))),
            (false, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_may_go_over_midnight() {
        let night: Hours = "22:00-06:30".parse().expect("they are some");
        let at = |hour: u32, minute: u32| night.contain(60 * hour + minute);
        assert!(at(22, 0) && at(0, 0) && at(6, 29) && !at(6, 30) && !at(12, 0) && !at(21, 59));
        let all: Hours = "all".parse().expect("they are some");
        assert!((0..DAY).all(|minute| all.contain(minute)));
        let day: Hours = "08:00-24:00".parse().expect("they are some");
        assert!(day.contain(8 * 60) && day.contain(DAY - 1) && !day.contain(8 * 60 - 1));
    }

    #[test]
    fn what_are_no_hours_is_told_with_some_that_are() {
        for wrong in ["", "22:00", "22-6", "22:00-22:00", "25:00-26:00", "22:60-23:00", "a:b-c:d", "71582789:00-06:00"]
        {
            assert!(wrong.parse::<Hours>().is_err_and(|e| e.contains("22:00-06:00")), "{wrong}");
        }
    }

    #[test]
    fn an_owners_pause_goes_before_the_hours() {
        let (hours, noon) = ("22:00-06:00".parse().ok(), 12 * 60);
        assert_eq!(Pauses::default().advice_at(noon), None);
        let by_hours = Pauses { by_owner: false, hours };
        assert_eq!(by_hours.advice_at(noon).as_deref(), Some("it trains from 22:00 to 06:00"));
        assert_eq!(by_hours.advice_at(0), None);
        let both = Pauses { by_owner: true, hours };
        assert_eq!(both.advice_at(noon).as_deref(), Some("`paceline resume` goes on"));
    }
}
