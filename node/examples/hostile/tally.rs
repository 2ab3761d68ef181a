//! What an attack did, and what became of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Counted while it goes on.
#[derive(Debug)]
pub(crate) struct Tally {
    began: Instant,
    /// Messages, requests or streams that went out.
    pub(crate) sent: AtomicU64,
    /// Their bytes.
    pub(crate) bytes: AtomicU64,
    /// Answers of use that came back.
    pub(crate) answered: AtomicU64,
    connected: AtomicU64,
    closed: AtomicU64,
    refused: AtomicU64,
    first_closed_ms: AtomicU64,
    reasons: Mutex<BTreeMap<String, u64>>,
}

/// Reasons that are kept apart.
const REASONS_MAX: usize = 8;

impl Tally {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            sent: AtomicU64::default(),
            bytes: AtomicU64::default(),
            answered: AtomicU64::default(),
            connected: AtomicU64::default(),
            closed: AtomicU64::default(),
            refused: AtomicU64::default(),
            first_closed_ms: AtomicU64::new(u64::MAX),
            reasons: Mutex::default(),
        }
    }

    /// Something went out.
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Something came back.
    pub(crate) fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection is there.
    pub(crate) fn connected(&self) {
        self.connected.fetch_add(1, Ordering::Relaxed);
    }

    /// The other end closed a connection.
    pub(crate) fn closed(&self) {
        self.closed.fetch_add(1, Ordering::Relaxed);
        self.cut_off();
    }

    /// A connection could not be made.
    pub(crate) fn dial_failed(&self, why: &str) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.cut_off();
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        let short: String = why.chars().filter(|c| !c.is_ascii_digit()).take(80).collect();
        if reasons.len() < REASONS_MAX || reasons.contains_key(&short) {
            *reasons.entry(short).or_default() += 1;
        }
    }

    fn cut_off(&self) {
        self.first_closed_ms.fetch_min(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// As JSON.
    pub(crate) fn report(&self) -> serde_json::Value {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let first = read(&self.first_closed_ms);
        serde_json::json!({
            "sent": read(&self.sent),
            "bytes": read(&self.bytes),
            "answered": read(&self.answered),
            "connected": read(&self.connected),
            "closed": read(&self.closed),
            "refused": read(&self.refused),
            "cut_off_ms": (first != u64::MAX).then_some(first),
            "reasons": *self.reasons.lock().unwrap_or_else(PoisonError::into_inner),
        })
    }
}
