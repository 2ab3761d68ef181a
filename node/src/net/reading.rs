//! How much memory messages may take that are still coming, of all peers together.
//!
//! Each takes its bytes from one budget before it reads them. When that is used up the one gives way that has made no
//! progress for the longest: so whoever begins messages and does not end them, on however many streams, under however many
//! names, makes room for those who do.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures::{AsyncRead, AsyncReadExt};
use paceline_bootstrap::frame;
use tokio::sync::{Semaphore, oneshot};

use super::bounds::{CONNECTION_BATCHES_MAX, CONNECTION_KIB_MAX};

/// Bytes that are read at a time.
const STEP_BYTES: usize = 64 << 10;

/// The budget. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Budget(Arc<Mutex<Readings>>);

#[derive(Debug)]
struct Readings {
    free: usize,
    next: u64,
    /// Those that still read.
    open: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    held: usize,
    progress: Instant,
    /// Dropped to make it give way.
    _stop: oneshot::Sender<()>,
}

/// What one connection may have coming at a time. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    batches: Arc<Semaphore>,
    kib: Arc<Semaphore>,
}

impl Connection {
    pub(super) fn new() -> Self {
        let batches = Arc::new(Semaphore::new(CONNECTION_BATCHES_MAX));
        Self { batches, kib: Arc::new(Semaphore::new(CONNECTION_KIB_MAX)) }
    }
}

/// A message's part of the budget, until it is dropped.
#[derive(Debug)]
pub(super) struct Reading {
    budget: Budget,
    id: u64,
    /// What it holds since it was read to its end.
    kept: usize,
    stop: oneshot::Receiver<()>,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(Mutex::new(Readings { free: bytes, next: 0, open: BTreeMap::new() })))
    }

    /// Begins to read a message.
    fn begin(&self, now: Instant) -> Reading {
        let (stop, stopped) = oneshot::channel();
        let mut readings = self.lock();
        let id = readings.next;
        readings.next += 1;
        readings.open.insert(id, Open { held: 0, progress: now, _stop: stop });
        Reading { budget: self.clone(), id, kept: 0, stop: stopped }
    }

    /// Reads one framed message of at most `max` bytes, and the end of the stream. What it holds of the budget comes with it.
    /// While too much is coming on its connection it waits, unread.
    ///
    /// # Errors
    /// As [`frame::read`]; and [`io::ErrorKind::TimedOut`] where it had to give way, or too many are coming.
    pub(super) async fn read<T>(&self, on: &Connection, io: &mut T, max: usize) -> io::Result<(Vec<u8>, Reading)>
    where
        T: AsyncRead + Unpin + Send,
    {
        let _one = on.batches.try_acquire().map_err(|_| gave_way())?;
        let len = frame::read_len(io, max).await?;
        let kib = len.div_ceil(1024).min(CONNECTION_KIB_MAX) as u32;
        let _its_kib = on.kib.acquire_many(kib).await.map_err(|_| gave_way())?;
        let mut reading = self.begin(Instant::now());
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let start = bytes.len();
            if bytes.capacity() == start {
                // What it grows by is what it takes, so that the budget is the memory; as vectors grow, by its own size.
                let more = start.max(STEP_BYTES).min(len - start);
                if !reading.take(Instant::now(), more) {
                    return Err(gave_way());
                }
                bytes.reserve_exact(more);
            }
            bytes.resize(len.min(start + STEP_BYTES).min(bytes.capacity()), 0);
            tokio::select! {
                read = io.read_exact(&mut bytes[start..]) => read.map_err(frame::cut_short)?,
                _ = &mut reading.stop => return Err(gave_way()),
            }
            reading.goes_on(Instant::now());
        }
        tokio::select! {
            end = frame::read_end(io) => end?,
            _ = &mut reading.stop => return Err(gave_way()),
        }
        if reading.ends() { Ok((bytes, reading)) } else { Err(gave_way()) }
    }

    fn lock(&self) -> MutexGuard<'_, Readings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reading {
    /// Takes so many bytes more, if need be from who has made no progress for the longest; `false` if that is this one.
    fn take(&mut self, now: Instant, bytes: usize) -> bool {
        let mut readings = self.budget.lock();
        // Gone from there, it gave way already.
        let Some(own) = readings.open.get_mut(&self.id) else { return false };
        own.progress = now;
        while readings.free < bytes {
            let others = readings.open.iter().filter(|(id, open)| **id != self.id && open.held > 0);
            let Some(slowest) = others.min_by_key(|(_, open)| open.progress).map(|(id, _)| *id) else { return false };
            if let Some(open) = readings.open.remove(&slowest) {
                readings.free += open.held;
            }
        }
        readings.free -= bytes;
        if let Some(own) = readings.open.get_mut(&self.id) {
            own.held += bytes;
        }
        true
    }

    /// Something came.
    fn goes_on(&self, now: Instant) {
        if let Some(own) = self.budget.lock().open.get_mut(&self.id) {
            own.progress = now;
        }
    }

    /// All of it is here: it gives way no more, and holds what it has until it is dropped. `false` if it gave way before.
    fn ends(&mut self) -> bool {
        let open = self.budget.lock().open.remove(&self.id);
        self.kept = open.as_ref().map_or(0, |open| open.held);
        open.is_some()
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut readings = self.budget.lock();
        let held = readings.open.remove(&self.id).map_or(0, |open| open.held);
        readings.free += held + self.kept;
    }
}

fn gave_way() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "too many messages that don't end: this one gave way")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::executor::block_on;
    use futures::io::Cursor;

    use super::*;

    const BUDGET: usize = 4 * STEP_BYTES;

    fn free(budget: &Budget) -> usize {
        budget.lock().free
    }

    fn second(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn what_was_read_holds_its_bytes_until_it_is_dropped() {
        let (budget, message) = (Budget::new(BUDGET), vec![7; 2 * STEP_BYTES + 1]);
        let mut wire = Cursor::new(Vec::new());
        block_on(frame::write(&mut wire, &message)).expect("memory takes it");
        wire.set_position(0);
        let (bytes, reading) = block_on(budget.read(&Connection::new(), &mut wire, BUDGET)).expect("whole");
        assert_eq!((bytes, free(&budget)), (message.clone(), BUDGET - message.len()));
        drop(reading);
        assert_eq!(free(&budget), BUDGET);
    }

    #[test]
    fn a_message_cut_short_or_too_long_holds_nothing() {
        let budget = Budget::new(BUDGET);
        for bytes in [&b"\x02\0\0\0a"[..], b"\xff\xff\xff\xff", b"\x01\0\0\0ab", b""] {
            let error = block_on(budget.read(&Connection::new(), &mut Cursor::new(bytes), 10)).expect_err("malformed");
            assert!(frame::is_malformed(&error), "{error}");
            assert_eq!(free(&budget), BUDGET);
        }
    }

    #[test]
    fn the_one_that_stands_still_for_the_longest_gives_way_and_no_byte_is_counted_twice() {
        let (start, budget) = (Instant::now(), Budget::new(BUDGET));
        let mut stalled = budget.begin(start);
        assert!(stalled.take(start, 2 * STEP_BYTES));
        let mut slow = budget.begin(start);
        // It comes a little at a time, and each bit counts.
        for n in 1..3 {
            assert!(slow.take(start + second(n), STEP_BYTES));
        }
        let mut fresh = budget.begin(start + second(3));
        assert!(fresh.take(start + second(3), STEP_BYTES));
        assert!(stalled.stop.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Closed), "it was told");
        assert!(!stalled.take(start + second(4), 1) && !stalled.ends());
        assert!(slow.ends() && fresh.ends());
        drop((stalled, slow, fresh));
        assert_eq!(free(&budget), BUDGET);
    }

    #[test]
    fn what_waits_to_be_taken_does_not_give_way() {
        let (now, budget) = (Instant::now(), Budget::new(BUDGET));
        let mut whole = budget.begin(now);
        assert!(whole.take(now, BUDGET) && whole.ends());
        let mut late = budget.begin(now);
        assert!(!late.take(now, 1), "there is nobody to give way");
        drop(whole);
        assert!(late.take(now, BUDGET));
    }

    #[test]
    fn a_connection_has_so_many_messages_coming_and_no_more_and_another_one_its_own() {
        let (budget, on) = (Budget::new(BUDGET), Connection::new());
        let _coming: Vec<_> = (0..CONNECTION_BATCHES_MAX).map(|_| on.batches.try_acquire().expect("room")).collect();
        let wire = || Cursor::new(&b"\x01\0\0\0a"[..]);
        let error = block_on(budget.read(&on, &mut wire(), 10)).expect_err("one too many");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(block_on(budget.read(&Connection::new(), &mut wire(), 10)).is_ok());
    }

    #[test]
    fn a_thousand_messages_that_do_not_end_never_hold_more_than_the_budget_nor_an_honest_one_up() {
        let (start, budget) = (Instant::now(), Budget::new(BUDGET));
        let mut stalled: Vec<Reading> = Vec::new();
        let mut honest = budget.begin(start);
        for n in 0..1_000u64 {
            let mut reading = budget.begin(start + second(n));
            reading.take(start + second(n), STEP_BYTES);
            stalled.push(reading);
            if n % 400 == 0 {
                assert!(honest.take(start + second(n), 1), "step {n}");
            }
            honest.goes_on(start + second(n));
        }
        assert!(honest.ends());
        drop((stalled, honest));
        assert_eq!(free(&budget), BUDGET);
    }
}
