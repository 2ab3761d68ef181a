//! Who lies: of every member the last vote, accept and proposal that were seen, and what contradicts them.
//!
//! Only what was checked comes here: whose signature holds, and what an honest member could have said on its own.

use std::collections::BTreeMap;

use crate::base::ids::NodeId;
use crate::base::signed::{Scope, Signed};
use crate::record::{Accept, Evidence, Lie, Proposed, Vote};

#[derive(Debug, Clone, Default)]
pub(super) struct Witness {
    votes: BTreeMap<NodeId, Signed<Vote>>,
    accepts: BTreeMap<NodeId, Signed<Accept>>,
    proposals: BTreeMap<NodeId, Signed<Proposed>>,
    found: Vec<Evidence>,
}

impl Witness {
    pub(super) fn take_found(&mut self) -> Vec<Evidence> {
        std::mem::take(&mut self.found)
    }

    fn note(&mut self, scope: &Scope, lie: Lie) {
        self.found.push(Evidence { chain: scope.chain, parent: scope.parent, lie });
    }

    pub(super) fn saw_vote(&mut self, scope: &Scope, vote: &Signed<Vote>) {
        let content = vote.vouched();
        if let Some(before) = self.votes.get(&vote.by()) {
            let (was, is) = (before.vouched().ballot, content.ballot);
            if was == is && before.vouched() != content {
                let votes = Box::new([before.clone(), vote.clone()]);
                return self.note(scope, Lie::Votes(votes));
            }
            if was >= is {
                return;
            }
        }
        self.votes.insert(vote.by(), vote.clone());
        self.compare(scope, vote.by());
    }

    pub(super) fn saw_accept(&mut self, scope: &Scope, accept: &Signed<Accept>) {
        let content = accept.vouched();
        if let Some(before) = self.accepts.get(&accept.by()) {
            let (was, is) = (before.vouched().ballot, content.ballot);
            if was == is && before.vouched().value != content.value {
                let accepts = [*before, *accept];
                return self.note(scope, Lie::Accepts(accepts));
            }
        }
        self.accepts.insert(accept.by(), *accept);
        self.compare(scope, accept.by());
    }

    pub(super) fn saw_proposed(&mut self, scope: &Scope, proposed: &Signed<Proposed>) {
        if let Some(before) = self.proposals.insert(proposed.by(), *proposed)
            && before.vouched().ballot == proposed.vouched().ballot
            && before.vouched().value != proposed.vouched().value
        {
            self.note(scope, Lie::Proposals([before, *proposed]));
        }
    }

    /// A vote that tells of no accept, or of an older one, after an accept was given.
    fn compare(&mut self, scope: &Scope, node: NodeId) {
        let (Some(vote), Some(accept)) = (self.votes.get(&node), self.accepts.get(&node)) else { return };
        let told = vote.vouched().accepted.map(|a| *a.vouched());
        if vote.vouched().hides(accept.vouched(), told) {
            let lie = Lie::HiddenAccept { accept: *accept, vote: Box::new(vote.clone()) };
            self.note(scope, lie);
        }
    }
}
