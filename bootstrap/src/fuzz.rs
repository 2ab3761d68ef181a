//! What must hold for any bytes that come to this crate: a function a target. `fuzz/` looks for bytes that break it, and the
//! tests below try those that are kept there.
//!
//! Each takes bytes, and panics where the crate does or something does not hold that must.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::executor::block_on;
use futures::io::Cursor;
use futures::{AsyncRead, FutureExt};
use libp2p::core::SignedEnvelope;
use libp2p::identity::Keypair;
use libp2p::request_response::Codec as _;
use libp2p::{Multiaddr, PeerId};
use paceline_protocol::bounds::{ADDRESS_BYTES_MAX, ADDRESSES_MAX};
use paceline_protocol::runfile::Published;
use paceline_protocol::{Hash, NodeId};

use crate::bounds::{ANSWER_BYTES_MAX, RECORD_BYTES_MAX, REQUEST_BYTES_MAX};
use crate::peer_exchange::{Codec, Incoming, Record, protocol};
use crate::ticket::{self, Ticket};
use crate::{addresses, frame, peer_id};

pub use crate::address_book::fuzz::address_book;

/// A ticket, as a person pastes it: as text, and as content under a checksum that fits, which text alone would never have. What
/// is read is written and read again as the same.
pub fn ticket(bytes: &[u8]) {
    let sealed = ticket::sealed(bytes.to_vec());
    for text in [String::from_utf8_lossy(bytes).as_ref(), &sealed] {
        if let Ok(ticket) = text.parse::<Ticket>() {
            let again = ticket.to_string();
            assert_eq!(again.parse(), Ok(ticket), "{again}");
        }
    }
}

/// Addresses, as peers tell them, and names of nodes and runs, as people copy them.
pub fn address(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        names(text);
    }
    let me = peer_id(NodeId::from_public_key([7; 32]));
    let from_text = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<Multiaddr>().ok());
    let from_bytes = Multiaddr::try_from(bytes.to_vec()).ok();
    let all: Vec<Multiaddr> = from_text.into_iter().chain(from_bytes).collect();
    for address in &all {
        let is_of_use = addresses::transport(address).is_some();
        assert!(!is_of_use || address.len() <= ADDRESS_BYTES_MAX);
        let _ = (addresses::is_public(address), addresses::is_loopback(address), address.to_string());
        let with = addresses::with_peer(address, me);
        assert_eq!(addresses::peer_of(&with), Some(me));
        assert_eq!(addresses::without_peer(&with), addresses::without_peer(address));
        assert!(addresses::have_same_port(address, address) <= is_of_use);
    }
    let sorted = addresses::sorted(all.iter().chain(&all).cloned());
    assert!(sorted.len() <= all.len(), "doubles are dropped");
}

/// What reads back is what is written.
fn names(text: &str) {
    if let Ok(hash) = text.parse::<Hash>() {
        assert_eq!(hash.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(node) = text.parse::<NodeId>() {
        assert_eq!(node.to_string(), text);
        assert_eq!(crate::node_id(&peer_id(node)), Some(node));
    }
}

/// What a peer sends on a stream of peer exchange, and the parts of it that are looked at later: requests, answers, records
/// with their signatures, run files. The first byte says which.
pub fn exchange(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind % 8 {
        0 => {
            request(bytes);
        }
        1 => is_canonical(request(&framed(bytes)), bytes),
        2 => {
            answer(bytes);
        }
        3 => is_canonical(answer(&framed(bytes)), bytes),
        4 => record(bytes.to_vec()),
        5 => record(signed(bytes)),
        6 => {
            let file = Published::check(Hash::of(bytes), bytes);
            assert!(file.is_err() || file.is_ok_and(|file| file.text.as_bytes() == bytes));
        }
        _ => pieces(bytes),
    }
}

/// What was read of a frame with these bytes, if it could be read, is written as that frame.
fn is_canonical(written: Option<Vec<u8>>, bytes: &[u8]) {
    assert!(written.is_none_or(|written| written == framed(bytes)), "two encodings of one thing");
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_le_bytes(), bytes].concat()
}

/// The request in these bytes, written again.
fn request(bytes: &[u8]) -> Option<Vec<u8>> {
    let request = block_on(Codec.read_request(&protocol(), &mut Cursor::new(bytes))).ok()?;
    if matches!(request, Incoming::Malformed(_)) {
        return None;
    }
    let mut written = Cursor::new(Vec::new());
    block_on(Codec.write_request(&protocol(), &mut written, request)).expect("memory takes it");
    assert!(written.get_ref().len() <= 4 + REQUEST_BYTES_MAX);
    Some(written.into_inner())
}

/// The answer in these bytes, written again.
fn answer(bytes: &[u8]) -> Option<Vec<u8>> {
    let answer = block_on(Codec.read_response(&protocol(), &mut Cursor::new(bytes))).ok()?;
    let mut written = Cursor::new(Vec::new());
    block_on(Codec.write_response(&protocol(), &mut written, answer)).expect("memory takes it");
    assert!(written.get_ref().len() <= 4 + ANSWER_BYTES_MAX);
    Some(written.into_inner())
}

fn record(bytes: Vec<u8>) {
    let len = bytes.len();
    if let Ok(record) = Record::check(bytes) {
        assert!(len <= RECORD_BYTES_MAX && record.addresses.len() <= ADDRESSES_MAX);
        assert!(record.addresses.iter().all(|a| addresses::transport(a).is_some() && addresses::peer_of(a).is_none()));
    }
}

/// A record with this payload, signed: bytes alone never come past the signature.
fn signed(payload: &[u8]) -> Vec<u8> {
    let key = key();
    // The peer is the signer's, unless the payload says so itself: else nothing would come past that either.
    let mut with_peer = vec![0x0A, 38];
    with_peer.extend(PeerId::from(key.public()).to_bytes());
    with_peer.extend(payload);
    let payload = if payload.first() == Some(&0x0A) { payload.to_vec() } else { with_peer };
    let envelope = SignedEnvelope::new(&key, "libp2p-peer-record".to_owned(), vec![0x03, 0x01], payload);
    envelope.expect("an ed25519 key signs").into_protobuf_encoding()
}

fn key() -> Keypair {
    Keypair::ed25519_from_bytes([3; 32]).expect("any 32 bytes are a key")
}

/// A stream that gives what it has in pieces, and breaks off where the bytes say so.
struct Pieces<'a> {
    sizes: &'a [u8],
    rest: &'a [u8],
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let size = match self.sizes.split_first() {
            Some((0, _)) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Some((size, rest)) => {
                self.sizes = rest;
                usize::from(*size)
            }
            None => usize::MAX,
        };
        let (piece, rest) = self.rest.split_at(size.min(buffer.len()).min(self.rest.len()));
        buffer[..piece.len()].copy_from_slice(piece);
        self.rest = rest;
        Poll::Ready(Ok(piece.len()))
    }
}

/// A frame that comes in pieces is the frame that comes at once.
fn pieces(bytes: &[u8]) {
    let Some((count, rest)) = bytes.split_first() else { return };
    let (sizes, rest) = rest.split_at((usize::from(*count) % 16).min(rest.len()));
    let read =
        frame::read(&mut Pieces { sizes, rest }, REQUEST_BYTES_MAX).now_or_never().expect("nothing is waited for");
    let at_once = block_on(frame::read(&mut Cursor::new(rest), REQUEST_BYTES_MAX));
    if let Ok(bytes) = read {
        assert_eq!(framed(&bytes), rest);
        assert_eq!(at_once.ok(), Some(bytes));
    } else if !sizes.contains(&0) {
        assert!(at_once.is_err());
    }
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use libp2p::core::PeerRecord;
    use paceline_protocol::codec;
    use paceline_protocol::runfile::RunFile;

    use super::*;
    use crate::peer_exchange::{Answer, Request, SeenRun};

    replay::tests!(seeds(), ticket, address, exchange, address_book);

    /// Real values for each target to begin with.
    fn seeds() -> Vec<(&'static str, Vec<u8>)> {
        let me = peer_id(NodeId::from_public_key([7; 32]));
        let texts =
            ["/ip4/10.0.0.1/tcp/4001", "/ip4/127.0.0.1/udp/2/quic-v1", "/dns4/example.org/tcp/1", "/ip6/fe80::1/tcp/9"];
        let listed: Vec<Multiaddr> = texts.iter().map(|text| text.parse().expect("a multiaddr")).collect();
        let with_peer: Vec<Multiaddr> = listed.iter().map(|address| addresses::with_peer(address, me)).collect();
        let run = Hash::of(b"run");
        let mut all = Vec::new();
        for chain in [None, Some(Hash::of(b"chain"))] {
            let ticket = Ticket::new(run, chain, "shapes", with_peer.clone()).expect("the addresses are of use");
            all.push(("ticket", ticket.to_string().into_bytes()));
            all.push(("ticket", ticket.content()));
        }
        for address in listed.iter().chain(&with_peer) {
            all.push(("address", address.to_string().into_bytes()));
            all.push(("address", address.to_vec()));
        }
        all.push(("address", run.to_string().into_bytes()));
        all.push(("address", NodeId::from_public_key([7; 32]).to_string().into_bytes()));
        let key = key();
        let record = PeerRecord::new_interop(&key, listed).expect("an ed25519 key signs").into_signed_envelope();
        let file = RunFile::<()>::parse(&RunFile::<()>::template(&[]), "the template")
            .expect("the template parses")
            .canonical()
            .into_bytes();
        let (payload, _) = record
            .payload_and_signing_key("libp2p-peer-record".to_owned(), &[0x03, 0x01])
            .expect("it was signed for this");
        let payload = payload.to_vec();
        let record = record.into_protobuf_encoding();
        let requests = [Request::Introduce { run, record: record.clone() }, Request::RunFile { run }, Request::Runs];
        let seen = SeenRun { run, name: "shapes".into(), nodes: 3 };
        let answers = [
            Answer::Records(vec![record.clone()]),
            Answer::RunFile(file.clone()),
            Answer::Runs(vec![seen]),
            Answer::NotHere,
            Answer::BadRecord,
            Answer::TooMany,
        ];
        let mut exchange = |kind: u8, bytes: &[u8]| all.push(("exchange", [&[kind], bytes].concat()));
        for request in requests {
            exchange(1, &codec::encode(&request));
            exchange(0, &framed(&codec::encode(&request)));
        }
        for answer in answers {
            exchange(3, &codec::encode(&answer));
            exchange(2, &framed(&codec::encode(&answer)));
        }
        exchange(4, &record);
        exchange(5, &payload);
        exchange(6, &file);
        exchange(7, &[&[3, 1, 2, 9], &framed(b"in three pieces")[..]].concat());
        for seed in 0..8u8 {
            let story =
                (0..200u8).map(|i| i.wrapping_mul(seed.wrapping_mul(2).wrapping_add(83)).rotate_left(u32::from(seed)));
            all.push(("address_book", [seed].into_iter().chain(story).collect()));
        }
        all
    }
}
