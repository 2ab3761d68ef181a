//! An address book to which anything may happen, in any order.

use super::*;
use crate::bounds::CONNECTIONS_MAX;
use crate::peer_id;
use paceline_protocol::NodeId;

/// Things that happen in one story: more teach nothing that fewer don't.
const STEPS_MAX: usize = 500;

/// Peers of a story, some of them known from before.
const PEERS: u8 = 16;

fn peer(byte: u8) -> PeerId {
    peer_id(NodeId::from_public_key([byte % PEERS; 32]))
}

fn address(byte: u8) -> Multiaddr {
    let (host, port) = (byte & 3, byte >> 4);
    let text = match byte >> 2 & 3 {
        0 => format!("/ip4/10.0.0.{host}/tcp/{port}"),
        1 => format!("/ip4/127.0.0.1/udp/{port}/quic-v1"),
        2 => format!("/ip6/fe80::{host}/tcp/{port}"),
        _ => format!("/dns4/h{host}/tcp/{port}"),
    };
    let address: Multiaddr = text.parse().expect("a multiaddr");
    match byte & 0x11 {
        0x11 => address.with(Protocol::P2p(peer(byte))).with(Protocol::P2pCircuit),
        _ => address,
    }
}

/// Whatever peers do and say, nobody is up twice or down twice, few are dialled at a time, and no more is kept than the bounds
/// allow.
///
/// # Panics
/// Otherwise.
pub fn address_book(bytes: &[u8]) {
    let mut bytes = bytes.iter().copied();
    let role = if bytes.next().unwrap_or(0) & 1 == 0 { Role::Node } else { Role::Bootstrap };
    let mut book = AddressBook::new(peer(0), role);
    book.random = Random(1);
    let mut now = Instant::now();
    let start = now;
    let (mut up, mut open, mut dials) = (Vec::<PeerId>::new(), Vec::new(), Vec::<ConnectionId>::new());
    let mut ids = 0;
    for _ in 0..STEPS_MAX {
        let Some(deed) = bytes.next() else { break };
        let mut byte = || bytes.next().unwrap_or(0);
        let (who, what) = (byte(), byte());
        let peer = peer(who);
        match deed % 16 {
            0 => book.keep(now, &addresses::with_peer(&address(what), peer)),
            1 if book.unknown.len() < 8 => book.keep(now, &address(what)),
            2 => book.learn(now, peer, &[address(what), address(byte())]),
            3 => {
                let seq = if what > 0xF0 { u64::MAX } else { u64::from(byte()) };
                book.learn_signed(now, peer, &[address(what), address(what ^ 0x24)], seq);
            }
            4 | 5 => {
                // A dial of ours, or a connection that comes in.
                let dialled = dials.pop().filter(|_| what & 1 == 0);
                let id = dialled.unwrap_or_else(|| {
                    ids += 1;
                    ConnectionId::new_unchecked(1 << 40 | ids)
                });
                let heard = (what & 2 != 0).then_some(start);
                book.on_connected(now, peer, id, &address(what), dialled.is_some(), heard);
                open.push((peer, id));
            }
            6 if !open.is_empty() => {
                let (peer, id) = open.swap_remove(usize::from(what) % open.len());
                book.on_closed(now, peer, id);
            }
            7 if !dials.is_empty() => {
                let id = dials.swap_remove(usize::from(what) % dials.len());
                book.on_dial_failed(now, id, ["refused", "no route"][usize::from(what & 1)]);
            }
            8 if !dials.is_empty() => book.on_dialled_itself(dials.swap_remove(0)),
            9 | 10 => {
                let [ours, other_run, introduces, relays] = [1, 2, 4, 8].map(|bit| what & bit != 0);
                let capabilities = Capabilities { ours, other_run, introduces, relays };
                book.on_identified(now, peer, capabilities, &[address(byte())]);
            }
            11 => book.on_own_addresses(now),
            12 => book.want(now, peer),
            13 => book.turn_away(now, peer),
            14 => {
                book.may_ask(now, peer);
                assert!(book.addresses_of(peer).len() <= ADDRESSES_MAX);
            }
            _ => {
                now += Duration::from_millis(1 << (what % 20));
                let heard = (who & 0x80 != 0).then_some(start);
                book.tick(now, |_| heard);
            }
        }
        while let Some(action) = book.poll_action() {
            match action {
                Action::Up(peer) => {
                    assert!(!up.contains(&peer), "up twice");
                    up.push(peer);
                }
                Action::Down(peer) => {
                    assert!(up.contains(&peer), "down without being up");
                    up.retain(|p| *p != peer);
                }
                Action::Dial(opts) => dials.push(opts.connection_id()),
                Action::Reserve(address) => assert!(addresses::peer_of(&address).is_some()),
                _ => {}
            }
        }
        assert!(up.iter().all(|peer| book.is_up(*peer)) && book.up().count() == up.len());
        assert!(book.contacts.len() <= CONTACTS_MAX + CONNECTIONS_MAX as usize);
        assert!(book.contacts.values().all(|c| c.addresses.len() <= ADDRESSES_MAX));
    }
}
