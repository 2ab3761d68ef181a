//! What tests break on purpose, to see that the simulator and the suite notice. Not compiled into the program.

use std::cell::RefCell;
use std::collections::BTreeSet;

/// A planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A vote is given whatever was promised before.
    VoteBelowPromise,
    /// A proposal is accepted below the own promise.
    AcceptBelowPromise,
    /// One accept commits.
    CommitOnTooFew,
    /// What the votes show as accepted is passed over, by coordinator and acceptors.
    AcceptedPassedOver,
    /// Catching up takes records without their accepts.
    RecordsWithoutProof,
    /// A roster of more than three decides like one of three.
    QuorumOfThree,
}

thread_local! {
    static PLANTED: RefCell<BTreeSet<Fault>> = const { RefCell::new(BTreeSet::new()) };
}

/// Whether a bug is planted in this thread.
pub(crate) fn is_planted(fault: Fault) -> bool {
    PLANTED.with_borrow(|planted| planted.contains(&fault))
}

/// Plants a bug in this thread until the answer is dropped.
pub(crate) fn plant(fault: Fault) -> Planted {
    PLANTED.with_borrow_mut(|planted| planted.insert(fault));
    Planted(fault)
}

/// Takes its bug out when it is dropped.
pub(crate) struct Planted(Fault);

impl Drop for Planted {
    fn drop(&mut self) {
        PLANTED.with_borrow_mut(|planted| planted.remove(&self.0));
    }
}
