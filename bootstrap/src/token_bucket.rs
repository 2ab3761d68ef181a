//! A token bucket: so many at once, and one more each so often.

use std::time::{Duration, Instant};

/// Says whether one more is allowed now.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    tokens: u32,
    burst: u32,
    earned_every: Duration,
    counted_until: Instant,
}

impl TokenBucket {
    /// A full bucket of `burst` tokens, which earns one more every `earned_every`.
    pub fn new(now: Instant, burst: u32, earned_every: Duration) -> Self {
        Self { tokens: burst, burst, earned_every, counted_until: now }
    }

    /// Takes a token; `false` if there is none.
    pub fn take(&mut self, now: Instant) -> bool {
        self.take_many(now, 1)
    }

    /// Takes so many tokens, or none; `false` if there are too few.
    pub fn take_many(&mut self, now: Instant, many: u32) -> bool {
        let elapsed = now.saturating_duration_since(self.counted_until);
        let earned = elapsed.as_nanos() / self.earned_every.as_nanos().max(1);
        if earned >= u128::from(self.burst - self.tokens) {
            (self.tokens, self.counted_until) = (self.burst, now);
        } else {
            // Fewer than `burst`, which is a u32.
            self.tokens += earned as u32;
            self.counted_until += self.earned_every * earned as u32;
        }
        match self.tokens.checked_sub(many) {
            Some(rest) => {
                self.tokens = rest;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_what_it_earns() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut bucket = TokenBucket::new(start, 3, second);
        let taken = |bucket: &mut TokenBucket, at| (0..10).filter(|_| bucket.take(at)).count();
        assert_eq!(taken(&mut bucket, start), 3);
        assert_eq!(taken(&mut bucket, start + second * 3 / 2), 1);
        assert_eq!(taken(&mut bucket, start + second * 2), 1);
        assert_eq!(taken(&mut bucket, start + second * 100), 3);
        assert!(bucket.take_many(start + second * 200, 2));
        assert!(!bucket.take_many(start + second * 200, 2), "all or nothing");
        assert!(bucket.take(start + second * 200));
    }
}
