//! Who may come in. Pure: it is told the time and what happens, and says yes or no.
//!
//! An identity costs nothing, an address costs something. So whoever breaks the rules is turned away under its name for a
//! while; and an address from which several were turned away is open, until it has been quiet for a while, for those alone
//! whom this node knew before. How many connections an address may have and begin is bounded too, with room for many
//! processes behind one address. Of this machine's own processes there is no bound: they need no network to do harm.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use thiserror::Error;

use crate::bounds::{
    ARRIVAL_EARNED_EVERY, ARRIVAL_WEIGHT_IF_CLOSED, ARRIVALS_BURST, CONNECTIONS_PER_HOST_MAX, HOSTS_MAX,
    OFFENDERS_UNTIL_CLOSED, PENDING_PER_HOST_MAX, TURNED_AWAY_MAX, TURNED_AWAY_REST,
};
use crate::token_bucket::TokenBucket;

/// Why somebody may not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum Closed {
    /// It broke the rules a moment ago.
    #[error("the peer was turned away a moment ago")]
    TurnedAway,
    /// Others at its address did.
    #[error("several peers of this address were turned away a moment ago, and this one is not known")]
    BadCompany,
    /// Its address has enough connections.
    #[error("the address has as many connections as one may have")]
    TooMany,
    /// Its address begins connections faster than any need to.
    #[error("the address begins connections too fast")]
    TooFast,
}

/// Where connections come from: an IPv4 address, or the network that is one customer's in IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Host(IpAddr);

impl Host {
    /// The host of an address; `None` for this machine itself, and for relayed connections, which their relay bounds.
    pub(crate) fn of(address: &Multiaddr) -> Option<Self> {
        let ip = match address.iter().next()? {
            Protocol::Ip4(ip) => IpAddr::V4(ip),
            Protocol::Ip6(ip) => match ip.to_ipv4_mapped() {
                Some(ip) => IpAddr::V4(ip),
                None if ip.is_loopback() => return None,
                None => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
            },
            _ => return None,
        };
        let relayed = address.iter().any(|part| part == Protocol::P2pCircuit);
        (!ip.is_loopback() && !relayed).then_some(Self(ip))
    }
}

#[derive(Debug)]
struct Visits {
    pending: BTreeSet<ConnectionId>,
    open: BTreeSet<ConnectionId>,
    arrivals: TokenBucket,
    /// When each of those who were turned away last was.
    offences: Vec<Instant>,
    seen: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    hosts: BTreeMap<Host, Visits>,
    of: BTreeMap<ConnectionId, Host>,
    turned_away: BTreeMap<PeerId, Instant>,
}

impl Gate {
    /// Somebody begins a connection; nobody knows yet who.
    pub(crate) fn begins(&mut self, now: Instant, id: ConnectionId, remote: &Multiaddr) -> Result<(), Closed> {
        let Some(host) = Host::of(remote) else { return Ok(()) };
        let visits = self.visits(now, host).ok_or(Closed::TooMany)?;
        if visits.pending.len() >= PENDING_PER_HOST_MAX {
            return Err(Closed::TooMany);
        }
        let weight = if visits.is_closed_for(now, None) { ARRIVAL_WEIGHT_IF_CLOSED } else { 1 };
        if !visits.arrivals.take_many(now, weight) {
            return Err(Closed::TooFast);
        }
        visits.pending.insert(id);
        self.of.insert(id, host);
        Ok(())
    }

    /// It has shown who it is. `known_since` says since when this node has known it as one of its run.
    pub(crate) fn enters(
        &mut self,
        now: Instant,
        id: ConnectionId,
        peer: PeerId,
        known_since: Option<Instant>,
    ) -> Result<(), Closed> {
        if self.is_turned_away(now, peer) {
            return Err(Closed::TurnedAway);
        }
        let Some(visits) = self.of.get(&id).and_then(|host| self.hosts.get_mut(host)) else { return Ok(()) };
        if visits.is_closed_for(now, known_since) {
            return Err(Closed::BadCompany);
        }
        if visits.open.len() >= CONNECTIONS_PER_HOST_MAX && known_since.is_none() {
            return Err(Closed::TooMany);
        }
        visits.pending.remove(&id);
        visits.open.insert(id);
        Ok(())
    }

    /// This node has dialled somebody, who has shown who it is. How many it dials is its own affair.
    pub(crate) fn meets(
        &mut self,
        now: Instant,
        id: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        known_since: Option<Instant>,
    ) -> Result<(), Closed> {
        if self.is_turned_away(now, peer) {
            return Err(Closed::TurnedAway);
        }
        let Some(host) = Host::of(remote) else { return Ok(()) };
        let visits = self.visits(now, host).ok_or(Closed::TooMany)?;
        if visits.is_closed_for(now, known_since) {
            return Err(Closed::BadCompany);
        }
        self.of.insert(id, host);
        Ok(())
    }

    /// A connection is over, or came to nothing.
    pub(crate) fn ends(&mut self, id: ConnectionId) {
        if let Some(visits) = self.of.remove(&id).and_then(|host| self.hosts.get_mut(&host)) {
            visits.pending.remove(&id);
            visits.open.remove(&id);
        }
    }

    /// A peer is turned away from now on, for a while, and so is a part of its address's good name.
    pub(crate) fn turn_away(&mut self, now: Instant, peer: PeerId, connections: impl Iterator<Item = ConnectionId>) {
        self.turned_away.retain(|_, until| now < *until);
        if self.turned_away.len() >= TURNED_AWAY_MAX {
            self.turned_away.pop_first();
        }
        self.turned_away.insert(peer, now + TURNED_AWAY_REST);
        let hosts: BTreeSet<Host> = connections.filter_map(|id| self.of.get(&id).copied()).collect();
        for host in hosts {
            let Some(visits) = self.hosts.get_mut(&host) else { continue };
            visits.forget_offences(now);
            if visits.offences.len() >= OFFENDERS_UNTIL_CLOSED {
                visits.offences.remove(1);
            }
            visits.offences.push(now);
        }
    }

    /// Whether the peer was turned away, and not long ago.
    pub(crate) fn is_turned_away(&self, now: Instant, peer: PeerId) -> bool {
        self.turned_away.get(&peer).is_some_and(|until| now < *until)
    }

    /// What is remembered of an address; `None` if there is no room for one more.
    fn visits(&mut self, now: Instant, host: Host) -> Option<&mut Visits> {
        if !self.hosts.contains_key(&host) && self.hosts.len() >= HOSTS_MAX {
            self.hosts.retain(|_, visits| !visits.is_over(now));
            if self.hosts.len() >= HOSTS_MAX {
                return None;
            }
        }
        let visits = self.hosts.entry(host).or_insert_with(|| Visits {
            pending: BTreeSet::new(),
            open: BTreeSet::new(),
            arrivals: TokenBucket::new(now, ARRIVALS_BURST, ARRIVAL_EARNED_EVERY),
            offences: Vec::new(),
            seen: now,
        });
        visits.seen = now;
        Some(visits)
    }
}

impl Visits {
    /// An address is forgiven when nobody there was turned away for so long.
    fn forget_offences(&mut self, now: Instant) {
        if self.offences.last().is_some_and(|last| now >= *last + TURNED_AWAY_REST) {
            self.offences.clear();
        }
    }

    /// Whether several were turned away here, and this one was not known before.
    fn is_closed_for(&mut self, now: Instant, known_since: Option<Instant>) -> bool {
        self.forget_offences(now);
        let is_known = |first: &Instant| known_since.is_some_and(|since| since < *first);
        self.offences.len() >= OFFENDERS_UNTIL_CLOSED && !self.offences.first().is_some_and(is_known)
    }

    fn is_over(&self, now: Instant) -> bool {
        let refilled = self.seen + ARRIVAL_EARNED_EVERY * ARRIVALS_BURST;
        self.pending.is_empty() && self.open.is_empty() && now >= refilled.max(self.seen + TURNED_AWAY_REST)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().expect("a multiaddr")
    }

    fn connection(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }

    /// A gate, and a host at which so many peers were turned away.
    fn after_offences(now: Instant, offenders: usize) -> (Gate, Multiaddr) {
        let (mut gate, host) = (Gate::default(), address("/ip4/10.0.0.1/tcp/5"));
        for n in 0..offenders {
            let (id, peer) = (connection(n), PeerId::random());
            assert_eq!(gate.begins(now, id, &host).and_then(|()| gate.enters(now, id, peer, None)), Ok(()));
            gate.turn_away(now, peer, [id].into_iter());
            gate.ends(id);
            assert!(gate.is_turned_away(now, peer));
        }
        (gate, host)
    }

    #[test]
    fn who_was_turned_away_may_come_again_after_a_while() {
        let (now, mut gate, peer) = (Instant::now(), Gate::default(), PeerId::random());
        gate.turn_away(now, peer, [].into_iter());
        assert_eq!(gate.enters(now, connection(1), peer, Some(now)), Err(Closed::TurnedAway));
        assert_eq!(gate.enters(now + TURNED_AWAY_REST, connection(2), peer, None), Ok(()));
    }

    #[test]
    fn one_bad_peer_does_not_close_an_address_and_several_do_for_those_who_are_not_known() {
        let now = Instant::now();
        let (mut gate, host) = after_offences(now, OFFENDERS_UNTIL_CLOSED - 1);
        let stranger = PeerId::random();
        assert_eq!(gate.begins(now, connection(50), &host), Ok(()));
        assert_eq!(gate.enters(now, connection(50), stranger, None), Ok(()));
        let (mut gate, host) = after_offences(now, OFFENDERS_UNTIL_CLOSED);
        let (before, after) = (now - Duration::from_secs(1), now + Duration::from_secs(1));
        for (n, known_since, answer) in [
            (50, None, Err(Closed::BadCompany)),
            (51, Some(after), Err(Closed::BadCompany)),
            (52, Some(before), Ok(())),
        ] {
            assert_eq!(gate.begins(now, connection(n), &host), Ok(()));
            assert_eq!(gate.enters(after, connection(n), PeerId::random(), known_since), answer);
        }
        let later = now + TURNED_AWAY_REST;
        assert_eq!(gate.enters(later, connection(50), stranger, None), Ok(()));
    }

    #[test]
    fn fifty_processes_behind_one_address_come_in_at_once_and_twice() {
        let (now, mut gate, host) = (Instant::now(), Gate::default(), address("/ip4/10.0.0.1/tcp/5"));
        for n in 0..100 {
            assert_eq!(gate.begins(now, connection(n), &host), Ok(()));
            assert_eq!(gate.enters(now, connection(n), PeerId::random(), None), Ok(()));
        }
    }

    #[test]
    fn an_address_has_so_many_connections_and_another_one_its_own() {
        let (now, mut gate, host) = (Instant::now(), Gate::default(), address("/ip4/10.0.0.1/tcp/5"));
        for n in 0..CONNECTIONS_PER_HOST_MAX {
            assert_eq!(gate.begins(now, connection(n), &host), Ok(()));
            assert_eq!(gate.enters(now, connection(n), PeerId::random(), None), Ok(()));
        }
        // Not too fast, only too many.
        let now = now + ARRIVAL_EARNED_EVERY * 10;
        let mut comes = |n, host: &Multiaddr, known_since| {
            gate.begins(now, connection(n), host)?;
            gate.enters(now, connection(n), PeerId::random(), known_since)
        };
        assert_eq!(comes(1000, &host, None), Err(Closed::TooMany));
        assert_eq!(comes(1001, &host, Some(now)), Ok(()));
        assert_eq!(comes(1002, &address("/ip4/10.0.0.2/tcp/5"), None), Ok(()));
        (0..2).for_each(|n| gate.ends(connection(n)));
        assert_eq!(gate.enters(now, connection(1000), PeerId::random(), None), Ok(()));
    }

    #[test]
    fn handshakes_that_do_not_end_are_few() {
        let (now, mut gate, host) = (Instant::now(), Gate::default(), address("/ip4/10.0.0.1/tcp/5"));
        let begun = (0..1000).filter(|n| gate.begins(now, connection(*n), &host).is_ok()).count();
        assert_eq!(begun, PENDING_PER_HOST_MAX);
    }

    #[test]
    fn connections_that_come_and_go_are_slowed_down() {
        let (now, mut gate, host) = (Instant::now(), Gate::default(), address("/ip4/10.0.0.1/tcp/5"));
        let mut come = |now| {
            (0..1000)
                .filter(|n| {
                    let comes = gate.begins(now, connection(*n), &host).is_ok();
                    gate.ends(connection(*n));
                    comes
                })
                .count()
        };
        assert_eq!(come(now), ARRIVALS_BURST as usize);
        assert_eq!(come(now + ARRIVAL_EARNED_EVERY * 20), 20);
    }

    #[test]
    fn an_address_that_is_closed_costs_few_handshakes() {
        let now = Instant::now();
        let (mut gate, host) = after_offences(now, OFFENDERS_UNTIL_CLOSED);
        let begun = (100..1_000).filter(|n| {
            let begins = gate.begins(now, connection(*n), &host).is_ok();
            gate.ends(connection(*n));
            begins
        });
        assert!(begun.count() <= (ARRIVALS_BURST / ARRIVAL_WEIGHT_IF_CLOSED) as usize);
    }

    #[test]
    fn this_machine_and_relays_are_not_counted_and_a_customer_of_ipv6_is_one() {
        for text in ["/ip4/127.0.0.1/tcp/5", "/ip6/::1/tcp/5", "/ip4/10.0.0.1/tcp/5/p2p-circuit"] {
            assert_eq!(Host::of(&address(text)), None, "{text}");
        }
        let host = |text| Host::of(&address(text));
        assert_eq!(host("/ip6/2001:db8::1/tcp/1"), host("/ip6/2001:db8::2:3/udp/9/quic-v1"));
        assert_ne!(host("/ip6/2001:db8::1/tcp/1"), host("/ip6/2001:db8:0:1::1/tcp/1"));
        assert_eq!(host("/ip6/::ffff:10.0.0.1/tcp/1"), host("/ip4/10.0.0.1/tcp/1"));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (now, mut gate) = (Instant::now(), Gate::default());
        for n in 0..2 * HOSTS_MAX {
            let host = address(&format!("/ip4/10.{}.{}.{}/tcp/5", n >> 16, n >> 8 & 255, n & 255));
            let _ = gate.begins(now, connection(n), &host).map(|()| gate.ends(connection(n)));
        }
        (0..2 * TURNED_AWAY_MAX).for_each(|_| gate.turn_away(now, PeerId::random(), [].into_iter()));
        assert!(gate.hosts.len() <= HOSTS_MAX && gate.turned_away.len() <= TURNED_AWAY_MAX && gate.of.is_empty());
    }
}
