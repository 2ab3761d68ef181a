//! How far a round is, counted in batches.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The batches of a round as all its clients do them, from all threads.
pub(super) struct Progress<'a> {
    done: AtomicU64,
    of: u64,
    stop: &'a AtomicBool,
    show: &'a (dyn Fn(f64) + Sync),
}

impl<'a> Progress<'a> {
    /// A round of about so many batches, which ends early once `stop` is set. `show` hears the share that is done.
    pub(super) fn new(of: u64, stop: &'a AtomicBool, show: &'a (dyn Fn(f64) + Sync)) -> Self {
        Self { done: AtomicU64::new(0), of: of.max(1), stop, show }
    }

    pub(super) fn batch_done(&self) -> ControlFlow<()> {
        let done = (self.done.fetch_add(1, Ordering::Relaxed) + 1).min(self.of);
        (self.show)(done as f64 / self.of as f64);
        if self.stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn more_batches_than_were_reckoned_are_no_more_than_the_round() {
        let (stop, shares) = (AtomicBool::new(false), Mutex::new(Vec::new()));
        let show = |share| shares.lock().expect("one thread").push(share);
        let progress = Progress::new(2, &stop, &show);
        assert!((0..3).all(|_| progress.batch_done().is_continue()));
        assert_eq!(*shares.lock().expect("one thread"), [0.5, 1.0, 1.0]);
        stop.store(true, Ordering::SeqCst);
        assert!(progress.batch_done().is_break());
    }
}
