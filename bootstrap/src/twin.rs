//! Two processes with one identity: a home that was copied to another machine, a disk that was cloned. Both would sign in
//! one name, and what they sign would contradict itself.
//!
//! A node hears of such a twin from a third one, which was given other addresses under its name ([`Request::Introduce`]),
//! or because its own identity answers where it dialled. That proves nothing: it may be itself at an address that it does
//! not know, or its own word from before a restart. So it asks there, from a swarm with an identity of the moment, since
//! no swarm talks to its own: the connection proves that the other end has the key, and its signature over a fresh number
//! which process it is. The one that started later stops.
//!
//! Which one that is must look the same to both, who hear of each other at different times and measure differently. So
//! one of them decides, the one with the smaller number, and tells the other.

use std::collections::VecDeque;
use std::time::Instant;

use futures::StreamExt;
use libp2p::identity::{Keypair, PublicKey};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId};
use paceline_protocol::Hash;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::addresses;
use crate::bounds::{SIGNATURE_BYTES_MAX, TWIN_TIMEOUT};
use crate::discovery::DiscoveryEvent;
use crate::peer_exchange::{Answer, Request};
use crate::seek;
use crate::swarm::fresh_secret;

/// Twins whose order is remembered: more than one is a mistake already.
const DECIDED_MAX: usize = 16;

/// Asks whoever has this node's identity who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TwinQuestion {
    /// Fresh.
    nonce: [u8; 32],
    /// The process that asks; a number drawn when it started.
    process: [u8; 32],
    /// How long it has run.
    uptime_ms: u64,
}

/// The answer to a [`TwinQuestion`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TwinAnswer {
    /// The process that answers.
    process: [u8; 32],
    /// How long it has run.
    uptime_ms: u64,
    /// Whether it stays, and the asker stops, if it is the one to decide.
    stays: Option<bool>,
    /// Over all of that and the question.
    signature: Vec<u8>,
}

impl TwinAnswer {
    pub(crate) fn is_within_bounds(&self) -> bool {
        self.signature.len() <= SIGNATURE_BYTES_MAX
    }
}

/// What an answer showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Met {
    /// It was this very process.
    Itself,
    /// A twin that started later, and stops when it hears of it.
    Later,
    /// A twin that started before this process, which therefore stops.
    Earlier,
}

/// What was heard where this node's identity was said to be.
#[derive(Debug)]
pub(crate) struct Heard {
    question: TwinQuestion,
    answer: TwinAnswer,
    /// Where it was asked.
    pub(crate) addresses: Vec<Multiaddr>,
}

/// This process among others that may have its identity.
#[derive(Debug)]
pub(crate) struct Twins {
    process: [u8; 32],
    started: Instant,
    /// Whom this process has met, and whether it stays; the newest last.
    decided: VecDeque<([u8; 32], bool)>,
}

impl Twins {
    pub(crate) fn new(now: Instant) -> Self {
        Self { process: fresh_secret(), started: now, decided: VecDeque::new() }
    }

    fn uptime_ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_millis() as u64
    }

    /// Answers whoever asks; it is told nothing that matters.
    pub(crate) fn answer(&mut self, now: Instant, key: &Keypair, question: &TwinQuestion) -> Option<TwinAnswer> {
        let stays = self.stays(now, question.process, question.uptime_ms);
        let (process, uptime_ms) = (self.process, self.uptime_ms(now));
        let signature = key.sign(signed(question, &process, uptime_ms, stays).as_bytes()).ok()?;
        Some(TwinAnswer { process, uptime_ms, stays, signature })
    }

    /// Whether this process stays beside another one, if that is for it to decide.
    fn stays(&mut self, now: Instant, other: [u8; 32], uptime_ms: u64) -> Option<bool> {
        if self.process >= other {
            return None;
        }
        if let Some((_, stays)) = self.decided.iter().find(|(process, _)| *process == other) {
            return Some(*stays);
        }
        let stays = self.uptime_ms(now) >= uptime_ms;
        self.decided.push_back((other, stays));
        if self.decided.len() > DECIDED_MAX {
            self.decided.pop_front();
        }
        Some(stays)
    }

    /// What an answer to this process's question shows; `None` if it was not signed with this node's key.
    pub(crate) fn hear(&mut self, now: Instant, key: &PublicKey, heard: &Heard) -> Option<Met> {
        let Heard { question, answer, .. } = heard;
        let signed = signed(question, &answer.process, answer.uptime_ms, answer.stays);
        if !key.verify(signed.as_bytes(), &answer.signature) {
            return None;
        }
        if answer.process == self.process {
            return Some(Met::Itself);
        }
        // One of the two decides: this process, or the other one in its answer.
        let stays = self.stays(now, answer.process, answer.uptime_ms).or(answer.stays.map(|other_stays| !other_stays));
        stays.map(|stays| if stays { Met::Later } else { Met::Earlier })
    }

    /// Asks at these addresses; `None` if nobody with this identity answers there.
    pub(crate) fn ask(
        &self,
        me: PeerId,
        addresses: Vec<Multiaddr>,
    ) -> impl Future<Output = Option<Heard>> + Send + use<> {
        let (process, started) = (self.process, self.started);
        let ask = async move {
            let at: Vec<Multiaddr> = addresses.iter().map(|a| addresses::with_peer(a, me)).collect();
            let mut swarm = seek::seeker(&at, false).ok()?;
            let mut asked = None;
            loop {
                let SwarmEvent::Behaviour(event) = swarm.select_next_some().await else { continue };
                match event {
                    DiscoveryEvent::Identified(peer) if peer == me && asked.is_none() => {
                        let uptime_ms = started.elapsed().as_millis() as u64;
                        let question = TwinQuestion { nonce: fresh_secret(), process, uptime_ms };
                        asked = Some(question);
                        swarm.behaviour_mut().ask(peer, Request::Twin(question));
                    }
                    DiscoveryEvent::Answered(_, Answer::Twin(answer)) => {
                        return Some(Heard { question: asked?, answer, addresses });
                    }
                    DiscoveryEvent::Answered(..) | DiscoveryEvent::NotAnswered(..) => return None,
                    _ => {}
                }
            }
        };
        async move { timeout(TWIN_TIMEOUT, ask).await.ok().flatten() }
    }
}

/// A signature over this can be taken for nothing else.
fn signed(question: &TwinQuestion, process: &[u8; 32], uptime_ms: u64, stays: Option<bool>) -> Hash {
    let stays = stays.map_or(2, u8::from);
    let TwinQuestion { nonce, process: asker, uptime_ms: asker_uptime_ms } = question;
    let uptimes = [asker_uptime_ms.to_le_bytes(), uptime_ms.to_le_bytes()].concat();
    Hash::of_parts("paceline twin", &[nonce, asker, process, &uptimes, &[stays]])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Two processes of one key, the second started so much later.
    fn two(later: Duration) -> (Keypair, Twins, Twins, Instant) {
        let start = Instant::now();
        let (first, second) = (Twins::new(start), Twins::new(start + later));
        (key(7), first, second, start + later)
    }

    fn key(seed: u8) -> Keypair {
        Keypair::ed25519_from_bytes([seed; 32]).expect("32 bytes are a secret")
    }

    fn asks(now: Instant, key: &Keypair, asker: &mut Twins, other: &mut Twins) -> Option<Met> {
        let question = TwinQuestion { nonce: [9; 32], process: asker.process, uptime_ms: asker.uptime_ms(now) };
        // Half a second each way.
        let way = Duration::from_millis(500);
        let answer = other.answer(now + way, key, &question)?;
        asker.hear(now + 2 * way, &key.public(), &Heard { question, answer, addresses: Vec::new() })
    }

    #[test]
    fn of_two_processes_with_one_identity_the_later_one_stops_whoever_asks() {
        // Which of them decides is drawn anew each time.
        for _ in 0..20 {
            let (key, mut first, mut second, now) = two(Duration::from_secs(60));
            assert_eq!(asks(now, &key, &mut second, &mut first), Some(Met::Earlier));
            assert_eq!(asks(now, &key, &mut first, &mut second), Some(Met::Later));
        }
    }

    #[test]
    fn of_two_that_started_at_once_exactly_one_stops() {
        for late_ms in [0, 1, 100, 499, 500, 501, 999, 1_000] {
            for _ in 0..20 {
                let (key, mut first, mut second, now) = two(Duration::from_millis(late_ms));
                let met = [asks(now, &key, &mut first, &mut second), asks(now, &key, &mut second, &mut first)];
                assert!(met.contains(&Some(Met::Later)) && met.contains(&Some(Met::Earlier)), "{late_ms}: {met:?}");
            }
        }
    }

    #[test]
    fn a_node_that_answers_itself_has_no_twin() {
        let (key, mut node, _, now) = two(Duration::ZERO);
        let question = TwinQuestion { nonce: [9; 32], process: node.process, uptime_ms: 0 };
        let answer = node.answer(now, &key, &question).expect("the key signs");
        let heard = Heard { question, answer, addresses: Vec::new() };
        assert_eq!(node.hear(now, &key.public(), &heard), Some(Met::Itself));
    }

    #[test]
    fn an_answer_to_another_question_or_by_another_key_shows_nothing() {
        let (mine, mut first, mut second, now) = two(Duration::from_secs(60));
        let question = TwinQuestion { nonce: [9; 32], process: second.process, uptime_ms: 0 };
        let answer = first.answer(now, &mine, &question).expect("the key signs");
        let repeated = TwinQuestion { nonce: [8; 32], ..question };
        let heard = Heard { question: repeated, answer, addresses: Vec::new() };
        assert_eq!(second.hear(now, &mine.public(), &heard), None);
        let answer = first.answer(now, &key(8), &question).expect("the key signs");
        assert_eq!(second.hear(now, &mine.public(), &Heard { question, answer, addresses: Vec::new() }), None);
    }

    #[test]
    fn what_is_remembered_of_twins_is_bounded() {
        let (_, mut node, _, now) = two(Duration::ZERO);
        node.process = [0; 32];
        for i in 1..=2 * DECIDED_MAX as u8 {
            node.stays(now, [i; 32], 0);
        }
        assert_eq!(node.decided.len(), DECIDED_MAX);
    }
}
