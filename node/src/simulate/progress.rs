//! How far a round is, over all its clients.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Parts that a client's training is counted in.
const PARTS: f64 = 1e6;

/// The trainings of a round as all its clients do them, from all threads.
pub(super) struct Progress<'a> {
    done: AtomicU64,
    clients: usize,
    stop: &'a AtomicBool,
    show: &'a (dyn Fn(f64) + Sync),
}

impl<'a> Progress<'a> {
    /// A round of so many clients, which ends early once `stop` is set. `show` hears the share that is done.
    pub(super) fn new(clients: usize, stop: &'a AtomicBool, show: &'a (dyn Fn(f64) + Sync)) -> Self {
        Self { done: AtomicU64::new(0), clients, stop, show }
    }

    /// So much more of one client's training is done.
    pub(super) fn step(&self, share: f64) -> ControlFlow<()> {
        let more = (share * PARTS) as u64;
        let done = (self.done.fetch_add(more, Ordering::Relaxed) + more) as f64;
        (self.show)((done / PARTS / self.clients as f64).min(1.0));
        if self.stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_round_is_done_when_all_its_clients_are() {
        let (stop, shares) = (AtomicBool::new(false), Mutex::new(Vec::new()));
        let show = |share| shares.lock().expect("one thread").push(share);
        let progress = Progress::new(2, &stop, &show);
        assert!([0.5, 1.0, 0.5, 0.5].into_iter().all(|share| progress.step(share).is_continue()));
        assert_eq!(*shares.lock().expect("one thread"), [0.25, 0.75, 1.0, 1.0]);
        stop.store(true, Ordering::SeqCst);
        assert!(progress.step(0.0).is_break());
    }
}
