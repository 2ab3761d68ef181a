//! Makes a failing world small: takes away faults and nodes for as long as it still fails in the same way (delta debugging,
//! Zeller and Hildebrandt 2002).

use std::collections::BTreeSet;

use super::chaos::{Failure, Life};
use super::plan::Plan;

/// A small world, and how it fails.
#[derive(Debug, Clone)]
pub struct Shrunk {
    /// The world.
    pub plan: Plan,
    /// How it fails.
    pub failure: Failure,
    /// Worlds that were tried.
    pub tried: u32,
}

/// Chances that a smaller world is given to fail: what was taken away changes the order of everything after it.
const STREAMS: u64 = 4;

/// Looks for a smaller world that `live` sees fail like `failure`, in so many tries at most.
pub fn shrink(plan: &Plan, failure: &Failure, tries_max: u32, live: impl Fn(&Plan) -> Life) -> Shrunk {
    let shrunk = Shrunk { plan: plan.clone(), failure: failure.clone(), tried: 0 };
    let mut shrinking = Shrinking { origin: plan.clone(), shrunk, tries_max, live };
    loop {
        let before = shrinking.size();
        shrinking.without_faults();
        shrinking.without_nodes();
        if shrinking.size() == before {
            return shrinking.shrunk;
        }
    }
}

struct Shrinking<F> {
    origin: Plan,
    shrunk: Shrunk,
    tries_max: u32,
    live: F,
}

impl<F: Fn(&Plan) -> Life> Shrinking<F> {
    fn size(&self) -> (usize, usize) {
        (self.shrunk.plan.faults.len(), self.shrunk.plan.present.len())
    }

    fn faults(&self) -> Vec<usize> {
        self.shrunk.plan.faults.iter().map(|p| p.number).collect()
    }

    /// Halves first, then smaller and smaller pieces.
    fn without_faults(&mut self) {
        let mut piece = self.faults().len().div_ceil(2);
        while piece > 0 {
            let mut at = 0;
            while at < self.faults().len() {
                let faults = self.faults();
                let kept = faults.iter().enumerate().filter(|(i, _)| *i < at || *i >= at + piece).map(|(_, f)| *f);
                let (kept, present) = (kept.collect(), self.shrunk.plan.present.clone());
                if !self.fails_with(&kept, &present) {
                    at += piece;
                }
            }
            piece = if piece == 1 { 0 } else { piece.div_ceil(2) };
        }
    }

    fn without_nodes(&mut self) {
        let mut piece = self.shrunk.plan.present.len().div_ceil(2);
        while piece > 0 {
            let present: Vec<usize> = self.shrunk.plan.present.iter().copied().collect();
            for taken in present.chunks(piece) {
                let mut kept = self.shrunk.plan.present.clone();
                kept.retain(|node| !taken.contains(node));
                let faults = self.faults().into_iter().collect();
                self.fails_with(&faults, &kept);
            }
            piece /= 2;
        }
    }

    /// Whether the world with only these faults and nodes fails alike. Then it is the one to go on from.
    fn fails_with(&mut self, faults: &BTreeSet<usize>, present: &BTreeSet<usize>) -> bool {
        for stream in 0..STREAMS {
            let stream = if stream == 0 { self.shrunk.plan.stream } else { stream };
            let plan = self.origin.only(faults, present, stream);
            if self.shrunk.tried >= self.tries_max || !plan.is_fair() {
                return false;
            }
            self.shrunk.tried += 1;
            let failure = (self.live)(&plan).failure;
            if let Some(failure) = failure.filter(|f| f.is_like(&self.shrunk.failure)) {
                (self.shrunk.plan, self.shrunk.failure) = (plan, failure);
                return true;
            }
        }
        false
    }
}
