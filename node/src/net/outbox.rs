//! Direct messages on their way to one peer. Pure.
//!
//! Streams overtake each other, so messages that were sent one by one would arrive in any order. What waits while a batch
//! is on its way goes out together, as the next batch, when that one was acknowledged: the order stays, and a slow link
//! carries as much as a fast one. A batch that is late doesn't hold the rest up.

use std::collections::VecDeque;
use std::time::Instant;

use super::bounds::{
    BATCH_BYTES, BATCH_LATE, BATCH_MESSAGES_MAX, BATCHES_IN_FLIGHT_MAX, OUTBOX_AGE_MAX, OUTBOX_BYTES_MAX,
    OUTBOX_MESSAGES_MAX,
};
use super::codecs::Batch;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    in_flight: usize,
    last_sent: Option<Instant>,
}

impl Outbox {
    /// Puts a message in. Answers how many older ones were dropped for it.
    pub(super) fn push(&mut self, now: Instant, message: Vec<u8>) -> usize {
        self.bytes += message.len();
        self.waiting.push_back((now, message));
        let mut dropped = 0;
        while self.waiting.len() > OUTBOX_MESSAGES_MAX || (self.bytes > OUTBOX_BYTES_MAX && self.waiting.len() > 1) {
            self.pop();
            dropped += 1;
        }
        dropped
    }

    /// The next batch, if it is time for one. It counts as on its way until [`Outbox::on_settled`].
    pub(super) fn next_batch(&mut self, now: Instant) -> Option<Batch> {
        let late = self.last_sent.is_none_or(|sent| now >= sent + BATCH_LATE);
        if self.in_flight > 0 && (!late || self.in_flight >= BATCHES_IN_FLIGHT_MAX) {
            return None;
        }
        let mut batch = vec![self.pop()?];
        let mut bytes = batch[0].len();
        while batch.len() < BATCH_MESSAGES_MAX
            && self.waiting.front().is_some_and(|(_, next)| bytes + next.len() <= BATCH_BYTES)
        {
            let Some(message) = self.pop() else { break };
            bytes += message.len();
            batch.push(message);
        }
        self.in_flight += 1;
        self.last_sent = Some(now);
        Some(batch)
    }

    /// A batch was acknowledged, or failed.
    pub(super) fn on_settled(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Drops what waited too long. Answers how many.
    pub(super) fn expire(&mut self, now: Instant) -> usize {
        let mut dropped = 0;
        while self.waiting.front().is_some_and(|(since, _)| now >= *since + OUTBOX_AGE_MAX) {
            self.pop();
            dropped += 1;
        }
        dropped
    }

    /// Whether there is nothing to remember.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.in_flight == 0
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let (_, message) = self.waiting.pop_front()?;
        self.bytes -= message.len();
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox(messages: u8) -> (Instant, Outbox) {
        let (now, mut outbox) = (Instant::now(), Outbox::default());
        (0..messages).for_each(|i| assert_eq!(outbox.push(now, vec![i]), 0));
        (now, outbox)
    }

    #[test]
    fn what_waits_goes_out_together_and_in_order() {
        let (now, mut outbox) = outbox(1);
        assert_eq!(outbox.next_batch(now), Some(vec![vec![0]]));
        (1..4).for_each(|i| assert_eq!(outbox.push(now, vec![i]), 0));
        assert_eq!(outbox.next_batch(now), None);
        outbox.on_settled();
        assert_eq!(outbox.next_batch(now), Some(vec![vec![1], vec![2], vec![3]]));
    }

    #[test]
    fn a_late_batch_does_not_hold_the_rest_up_forever() {
        let (mut now, mut outbox) = outbox(1);
        let mut sent = 0;
        for i in 0..2 * BATCHES_IN_FLIGHT_MAX {
            sent += usize::from(outbox.next_batch(now).is_some());
            outbox.push(now, vec![i as u8]);
            now += BATCH_LATE;
        }
        assert_eq!(sent, BATCHES_IN_FLIGHT_MAX);
    }

    #[test]
    fn a_large_message_goes_alone() {
        let (now, mut outbox) = outbox(1);
        outbox.push(now, vec![9; BATCH_BYTES]);
        assert_eq!(outbox.next_batch(now).map(|b| b.len()), Some(1));
        outbox.on_settled();
        assert_eq!(outbox.next_batch(now).map(|b| b[0].len()), Some(BATCH_BYTES));
    }

    #[test]
    fn the_oldest_are_dropped_when_it_is_full_or_they_are_too_old() {
        let (now, mut outbox) = outbox(0);
        let dropped: usize = (0..OUTBOX_MESSAGES_MAX + 3).map(|_| outbox.push(now, vec![0])).sum();
        assert_eq!(dropped, 3);
        assert_eq!(outbox.expire(now + OUTBOX_AGE_MAX), OUTBOX_MESSAGES_MAX);
        assert!(outbox.is_idle());
        assert_eq!(outbox.bytes, 0);
    }
}
