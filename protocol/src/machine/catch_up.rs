//! How a node that is behind gets the records that it lacks, and helps others that are.

use std::collections::BTreeMap;

use crate::bounds::{MESSAGE_BYTES_MAX, RECORDS_PER_ANSWER_MAX, ROSTER_MAX};
use crate::chain::Chain;
use crate::codec;
use crate::ids::{Hash, NodeId, Time};
use crate::machine::Machine;
use crate::message::{Ask, Message};
use crate::record::Committed;
use crate::reject::Reject;
use crate::timing::RETRY_MS;

#[derive(Debug, Default)]
pub(super) struct CatchUp {
    /// The question that is out: to whom, since when.
    asked: Option<(NodeId, Time)>,
    /// When records were last sent to a peer unasked.
    helped: BTreeMap<NodeId, Time>,
}

impl CatchUp {
    /// The question that was out is answered.
    pub(super) fn clear(&mut self) {
        self.asked = None;
    }
}

impl Machine {
    /// A peer shows a round beyond this node's: asks it for the records between, one question at a time.
    pub(super) fn catch_up(&mut self, peer: NodeId, round: u64) {
        let Some(chain) = &self.chain else { return };
        let (genesis, from) = (chain.genesis(), chain.next_round());
        if round > from {
            self.ask_for_records(peer, genesis, from);
        }
    }

    pub(super) fn ask_for_records(&mut self, peer: NodeId, genesis: Hash, from: u64) {
        let now = self.core.now;
        let busy = self.catch_up.asked.is_some_and(|(_, at)| now.since_ms(at) < RETRY_MS);
        if !busy {
            self.catch_up.asked = Some((peer, now));
            self.core.send(peer, Message::Ask(Ask::Records { genesis, from }));
        }
    }

    /// A member works on a round that is decided: shows it what it lacks.
    pub(super) fn help(&mut self, peer: NodeId, round: u64) {
        let now = self.core.now;
        let recently = self.catch_up.helped.get(&peer).is_some_and(|at| now.since_ms(*at) < RETRY_MS);
        if !recently && self.chain.as_ref().is_some_and(|c| c.roster().contains(peer)) {
            if self.catch_up.helped.len() >= ROSTER_MAX {
                self.catch_up.helped.clear();
            }
            self.catch_up.helped.insert(peer, now);
            self.send_records(peer, round);
        }
    }

    /// Answers with as many records as fit into one message.
    pub(super) fn send_records(&mut self, to: NodeId, from: u64) {
        let Some(chain) = &self.chain else { return };
        let mut records: Vec<Committed> = Vec::new();
        let mut bytes = 0;
        let first = usize::try_from(from).unwrap_or(usize::MAX);
        for committed in chain.records().iter().skip(first).take(RECORDS_PER_ANSWER_MAX) {
            bytes += codec::encode(committed).len();
            if bytes > MESSAGE_BYTES_MAX / 2 && !records.is_empty() {
                break;
            }
            records.push(committed.clone());
        }
        if !records.is_empty() {
            self.core.send(to, Message::Records { genesis: chain.genesis(), records });
        }
    }

    pub(super) fn on_records(&mut self, from: NodeId, records: Vec<Committed>) {
        if records.len() > RECORDS_PER_ANSWER_MAX {
            return self.core.reject(from, Reject::OverBound);
        }
        self.catch_up.asked = None;
        let mut progress = false;
        for committed in records {
            let here = self.chain.as_ref().map_or(0, Chain::next_round);
            if committed.record.round != here {
                continue;
            }
            if let Err(reject) = self.commit(committed) {
                return self.core.reject(from, reject);
            }
            progress = true;
        }
        // There may be more. A peer that has none says nothing, and presences tell.
        if progress && let Some(chain) = &self.chain {
            let (genesis, next) = (chain.genesis(), chain.next_round());
            let ahead = self.core.peers.get(from).and_then(|p| p.presence.as_ref()).is_some_and(|p| p.round > next);
            if ahead {
                self.ask_for_records(from, genesis, next);
            }
        }
    }
}
