//! What each peer may ask of this node, and when it has broken the rules too often. Pure.
//!
//! Over its allowance a peer is refused, which costs it little; who goes on regardless, or sends what no honest node sends,
//! is turned away. A single mistake, a slow link or a burst never comes near that.

use std::collections::BTreeMap;
use std::time::Instant;

use libp2p::PeerId;
use paceline_bootstrap::TokenBucket;

use super::bounds::{
    BLOB_BURST, BLOB_EARNED_EVERY, BYTES_EARNED_EVERY, DIRECT_BURST, DIRECT_EARNED_EVERY, KIB_BURST,
    MESSAGE_EARNED_EVERY, MESSAGES_BURST, OFFENCE_FORGIVEN_EVERY, OFFENCES_MAX, PEERS_MAX, REMEMBERED,
};

/// How a peer breaks the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offence {
    /// It asks, or sends, more than it may.
    TooMuch,
    /// It began a message and did not end it in time.
    Stalled,
    /// It sent bytes that no honest node sends.
    Malformed,
}

impl Offence {
    /// Slow links stall and busy nodes ask too much; what is malformed was made on purpose, or by another program.
    fn weight(self) -> u32 {
        match self {
            Self::TooMuch => 1,
            Self::Stalled => 2,
            Self::Malformed => 4,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Conduct(BTreeMap<PeerId, Peer>);

#[derive(Debug)]
struct Peer {
    batches: TokenBucket,
    messages: TokenBucket,
    kib: TokenBucket,
    blobs: TokenBucket,
    offences: TokenBucket,
    seen: Instant,
}

impl Conduct {
    fn of(&mut self, now: Instant, peer: PeerId) -> &mut Peer {
        if self.0.len() >= PEERS_MAX && !self.0.contains_key(&peer) {
            let oldest = self.0.iter().min_by_key(|(_, of)| of.seen).map(|(peer, _)| *peer);
            oldest.and_then(|oldest| self.0.remove(&oldest));
        }
        let of = self.0.entry(peer).or_insert_with(|| Peer {
            batches: TokenBucket::new(now, DIRECT_BURST, DIRECT_EARNED_EVERY),
            messages: TokenBucket::new(now, MESSAGES_BURST, MESSAGE_EARNED_EVERY),
            kib: TokenBucket::new(now, KIB_BURST, BYTES_EARNED_EVERY),
            blobs: TokenBucket::new(now, BLOB_BURST, BLOB_EARNED_EVERY),
            offences: TokenBucket::new(now, OFFENCES_MAX, OFFENCE_FORGIVEN_EVERY),
            seen: now,
        });
        of.seen = now;
        of
    }

    /// Whether the peer may send one more batch of so many messages and bytes.
    pub(super) fn may_send(&mut self, now: Instant, peer: PeerId, messages: usize, bytes: usize) -> bool {
        self.of(now, peer).batches.take(now) && self.may_say(now, peer, messages, bytes)
    }

    /// Whether the peer may say so many messages more, in whatever way.
    pub(super) fn may_say(&mut self, now: Instant, peer: PeerId, messages: usize, bytes: usize) -> bool {
        let of = self.of(now, peer);
        // What comes together is bounded, far below a u32.
        let (messages, kib) = (messages as u32, bytes.div_ceil(1024) as u32);
        of.messages.take_many(now, messages) && of.kib.take_many(now, kib)
    }

    /// Whether the peer may ask for one more piece of a blob.
    pub(super) fn may_ask(&mut self, now: Instant, peer: PeerId) -> bool {
        self.of(now, peer).blobs.take(now)
    }

    /// Notes an offence, and says whether it was one too many.
    pub(super) fn offends(&mut self, now: Instant, peer: PeerId, offence: Offence) -> bool {
        !self.of(now, peer).offences.take_many(now, offence.weight())
    }

    /// Forgets peers that are not connected and were not for a while, so that coming back is no new beginning.
    pub(super) fn forget(&mut self, now: Instant, is_connected: impl Fn(&PeerId) -> bool) {
        self.0.retain(|peer, of| now < of.seen + REMEMBERED || is_connected(peer));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::net::bounds::{BATCHES_IN_FLIGHT_MAX, DIRECT_TIMEOUT};

    #[test]
    fn a_peer_that_stops_is_refused_no_more_and_one_that_goes_on_is_turned_away() {
        let (now, mut conduct, peer) = (Instant::now(), Conduct::default(), PeerId::random());
        let sent = (0..10_000).take_while(|_| conduct.may_send(now, peer, 1, 100)).count();
        assert_eq!(sent, DIRECT_BURST as usize);
        assert!(conduct.may_send(now + DIRECT_EARNED_EVERY, peer, 1, 100));
        let offences = (0..10_000).take_while(|_| !conduct.offends(now, peer, Offence::TooMuch)).count();
        assert_eq!(offences, OFFENCES_MAX as usize);
        assert!(!conduct.offends(now, PeerId::random(), Offence::TooMuch), "another one is not blamed");
    }

    #[test]
    fn many_messages_in_few_batches_are_too_many_and_so_are_large_ones() {
        let (now, mut conduct) = (Instant::now(), Conduct::default());
        let (many, large) = (PeerId::random(), PeerId::random());
        assert!((0..DIRECT_BURST).any(|_| !conduct.may_send(now, many, 64, 6_400)));
        assert!((0..DIRECT_BURST).any(|_| !conduct.may_send(now, large, 1, 4 << 20)));
    }

    #[test]
    fn a_link_so_slow_that_every_message_stalls_is_never_an_offender() {
        let (start, mut conduct, peer) = (Instant::now(), Conduct::default(), PeerId::random());
        for n in 0..10_000u32 {
            let now = start + DIRECT_TIMEOUT * n / BATCHES_IN_FLIGHT_MAX as u32;
            assert!(!conduct.offends(now, peer, Offence::Stalled), "after {n}");
        }
    }

    #[test]
    fn coming_back_is_no_new_beginning_and_in_the_end_it_is() {
        let (now, mut conduct, peer) = (Instant::now(), Conduct::default(), PeerId::random());
        while !conduct.offends(now, peer, Offence::Malformed) {}
        conduct.forget(now + Duration::from_secs(1), |_| false);
        assert!(conduct.offends(now + Duration::from_secs(1), peer, Offence::Malformed));
        conduct.forget(now + REMEMBERED * 2, |_| false);
        assert!(conduct.0.is_empty());
    }
}
