//! Records, for whoever lacks them: whom to ask, what to answer, and what is known of chains that this node is not in.

pub mod message;
pub(crate) mod sighting;

use std::collections::BTreeMap;

use crate::base::bounds::{MESSAGE_BYTES_MAX, RECORDS_PER_ANSWER_MAX};
use crate::base::codec;
use crate::base::ids::{NodeId, Time};
use crate::base::timing::RETRY_MS;
use crate::chain::Chain;
use crate::context::Context;
use crate::message::Message;
use crate::record::Committed;
use crate::sync::message::Message as Sync;

/// Whom to ask for records. One question is out at a time; who does not answer it is asked again after the others.
#[derive(Debug, Clone, Default)]
pub(crate) struct Questions {
    asked: BTreeMap<NodeId, Time>,
    out: Option<Time>,
}

impl Questions {
    /// Whom of these to ask now: the one asked longest ago. Nobody, while an answer may still come.
    pub(crate) fn pick(&mut self, now: Time, candidates: impl Iterator<Item = NodeId>) -> Option<NodeId> {
        if self.out.is_some_and(|at| now.since_ms(at) < RETRY_MS) {
            return None;
        }
        let pick = candidates.min_by_key(|node| (self.asked.get(node).copied(), *node))?;
        self.asked.insert(pick, now);
        self.out = Some(now);
        Some(pick)
    }

    /// An answer has come. Answers whether its sender was asked.
    pub(crate) fn answered(&mut self, by: NodeId) -> bool {
        self.out = None;
        self.asked.contains_key(&by)
    }

    /// A peer is gone.
    pub(crate) fn forget(&mut self, peer: NodeId) {
        if self.asked.remove(&peer).is_some() {
            self.out = None;
        }
    }

    /// When the question that is out has no answer.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.out.map(|at| at.plus_ms(RETRY_MS))
    }
}

/// Sends a peer records of a chain from a round on: as many as fit into one message, at the rate that it is served.
pub(crate) fn send_records(ctx: &mut Context, chain: &Chain, to: NodeId, from: u64) {
    let mut records: Vec<Committed> = Vec::new();
    let mut bytes = 0;
    let first = usize::try_from(from).unwrap_or(usize::MAX);
    for committed in chain.records().iter().skip(first).take(RECORDS_PER_ANSWER_MAX) {
        let len = codec::encode(committed).len();
        if bytes + len > MESSAGE_BYTES_MAX / 2 && !records.is_empty() {
            break;
        }
        bytes += len;
        records.push(committed.clone());
    }
    if !records.is_empty() && ctx.peers.may_serve(to, ctx.now, bytes as u64) {
        ctx.send(to, Message::sync(chain.genesis(), Sync::Records(records)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(i: u8) -> NodeId {
        NodeId::from_public_key([i; 32])
    }

    #[test]
    fn who_does_not_answer_is_asked_again_after_the_others() {
        let mut questions = Questions::default();
        let all = || [node(1), node(2)].into_iter();
        assert_eq!(questions.pick(Time(0), all()), Some(node(1)));
        assert_eq!(questions.pick(Time(RETRY_MS - 1), all()), None);
        assert_eq!(questions.pick(Time(RETRY_MS), all()), Some(node(2)));
        assert_eq!(questions.pick(Time(2 * RETRY_MS), all()), Some(node(1)));
    }

    #[test]
    fn an_answer_nobody_asked_for_is_known_as_such() {
        let mut questions = Questions::default();
        questions.pick(Time(0), [node(1)].into_iter());
        assert!(!questions.answered(node(2)));
        assert!(questions.answered(node(1)));
    }
}
