//! The protocol `/paceline/5/peer-exchange`: who else is in this run, what is its run file, which runs are there.
//!
//! Every node and every bootstrap serves it, so any of them can be the first address of a new node.

use std::io;

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::{PeerRecord, SignedEnvelope};
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use paceline_protocol::base::roster::is_name;
use paceline_protocol::bounds::{ADDRESSES_MAX, PROTOCOL_VERSION, RUN_FILE_BYTES_MAX};
use paceline_protocol::{RunId, codec};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::bounds::{
    ANSWER_BYTES_MAX, EXCHANGE_STREAMS_MAX, EXCHANGE_TIMEOUT, RECORD_BYTES_MAX, RECORDS_PER_ANSWER_MAX,
    REQUEST_BYTES_MAX, RUNS_MAX,
};
use crate::twin::{TwinAnswer, TwinQuestion};
use crate::{addresses, frame};

/// The protocol's name on the wire.
pub(crate) fn protocol() -> StreamProtocol {
    const { assert!(PROTOCOL_VERSION == 5) };
    StreamProtocol::new("/paceline/5/peer-exchange")
}

/// What a peer may ask another, whatever run either is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// I am a node of this run and here are my signed addresses; who else is there?
    Introduce {
        /// The sender's run.
        run: RunId,
        /// The sender's libp2p `PeerRecord` in its signed envelope.
        record: Vec<u8>,
    },
    /// The canonical run file with this hash.
    RunFile {
        /// The run, which is the hash of its file.
        run: RunId,
    },
    /// Which runs are known here?
    Runs,
    /// What does your clock say? No rule hangs on clocks, but people compare logs and say hours.
    Clock,
    /// You have my identity: which process are you? Asked by a node of whoever answers in its name.
    Twin(TwinQuestion),
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Signed peer records of nodes of the run, at most `RECORDS_PER_ANSWER_MAX`. One of the asker itself is what was
    /// known of it before, if it had other addresses then.
    Records(Vec<Vec<u8>>),
    /// The canonical run file.
    RunFile(Vec<u8>),
    /// The runs known here, at most `RUNS_MAX`.
    Runs(Vec<SeenRun>),
    /// The clock.
    Clock {
        /// Milliseconds since 1970.
        unix_ms: u64,
    },
    /// That is not known here.
    NotHere,
    /// The record is not the sender's, is not signed, or has no or too many addresses.
    BadRecord,
    /// Too many requests, or too many runs here.
    TooMany,
    /// Which process this is.
    Twin(TwinAnswer),
}

/// A run that somebody knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenRun {
    /// The run, which is the hash of its file.
    pub run: RunId,
    /// Its name; empty if the run file isn't known there.
    pub name: String,
    /// Nodes of it seen there lately.
    pub nodes: u32,
}

/// A request as it came. libp2p tells nobody of a request that can't be read, so a malformed one is a request, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// It could be read.
    Request(Request),
    /// It could not; what was wrong, in words.
    Malformed(String),
}

/// Reads and writes requests and answers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Codec;

pub(crate) type Behaviour = request_response::Behaviour<Codec>;
pub(crate) type Event = request_response::Event<Incoming, Answer>;

/// The protocol as a behaviour.
pub(crate) fn behaviour() -> Behaviour {
    let config = request_response::Config::default()
        .with_request_timeout(EXCHANGE_TIMEOUT)
        .with_max_concurrent_streams(EXCHANGE_STREAMS_MAX);
    request_response::Behaviour::with_codec(Codec, [(protocol(), ProtocolSupport::Full)], config)
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Incoming;
    type Response = Answer;

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Incoming> {
        let bytes = match frame::read(io, REQUEST_BYTES_MAX).await {
            Err(error) if frame::is_malformed(&error) => return Ok(Incoming::Malformed(error.to_string())),
            bytes => bytes?,
        };
        let request = codec::decode::<Request, REQUEST_BYTES_MAX>(&bytes);
        Ok(request.map_or_else(|e| Incoming::Malformed(e.to_string()), Incoming::Request))
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Answer> {
        let bytes = frame::read(io, ANSWER_BYTES_MAX).await?;
        let answer = codec::decode::<Answer, ANSWER_BYTES_MAX>(&bytes).map_err(|e| frame::malformed(e.to_string()))?;
        if answer.is_within_bounds() { Ok(answer) } else { Err(frame::malformed("an answer over a bound".to_owned())) }
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Incoming,
    ) -> io::Result<()> {
        match request {
            Incoming::Request(request) => frame::write(io, &codec::encode(&request)).await,
            Incoming::Malformed(reason) => Err(frame::malformed(reason)),
        }
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        answer: Answer,
    ) -> io::Result<()> {
        frame::write(io, &codec::encode(&answer)).await
    }
}

impl Answer {
    fn is_within_bounds(&self) -> bool {
        match self {
            Self::Records(records) => {
                records.len() <= RECORDS_PER_ANSWER_MAX && records.iter().all(|r| r.len() <= RECORD_BYTES_MAX)
            }
            Self::RunFile(bytes) => bytes.len() <= RUN_FILE_BYTES_MAX,
            Self::Runs(runs) => runs.len() <= RUNS_MAX && runs.iter().all(|r| is_name(&r.name)),
            Self::Twin(answer) => answer.is_within_bounds(),
            Self::Clock { .. } | Self::NotHere | Self::BadRecord | Self::TooMany => true,
        }
    }
}

/// A peer's own word on where it can be reached, with its signature checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Who signed it.
    pub peer: PeerId,
    /// Counts a peer's records; the larger is the newer.
    pub seq: u64,
    /// Where, without the peer at the end.
    pub addresses: Vec<Multiaddr>,
    /// The signed envelope as it came, to be passed on.
    pub bytes: Vec<u8>,
}

/// Why bytes are no record.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no signed peer record: {0}")]
pub(crate) struct BadRecord(String);

impl Record {
    /// Checks length, signature, owner and addresses.
    pub(crate) fn check(bytes: Vec<u8>) -> Result<Self, BadRecord> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(BadRecord(format!("{} bytes, at most {RECORD_BYTES_MAX} are allowed", bytes.len())));
        }
        let envelope = SignedEnvelope::from_protobuf_encoding(&bytes).map_err(|e| BadRecord(e.to_string()))?;
        let record = PeerRecord::from_signed_envelope_interop(envelope).map_err(|e| BadRecord(e.to_string()))?;
        if record.addresses().len() > ADDRESSES_MAX {
            return Err(BadRecord(format!("{} addresses", record.addresses().len())));
        }
        let useful = addresses::sorted(record.addresses().iter().map(addresses::without_peer));
        if useful.is_empty() {
            return Err(BadRecord("no useful address".to_owned()));
        }
        Ok(Self { peer: record.peer_id(), seq: record.seq(), addresses: useful, bytes })
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::io::Cursor;
    use libp2p::identity::Keypair;
    use libp2p::request_response::Codec as _;
    use proptest::prelude::*;

    use super::*;

    fn record_of(key: &Keypair, addresses: &[&str]) -> Vec<u8> {
        let addresses = addresses.iter().map(|a| a.parse().expect("a multiaddr")).collect();
        let record = PeerRecord::new_interop(key, addresses).expect("an ed25519 key signs");
        record.into_signed_envelope().into_protobuf_encoding()
    }

    #[test]
    fn a_signed_record_is_accepted() {
        let key = Keypair::generate_ed25519();
        let record = Record::check(record_of(&key, &["/ip4/10.0.0.1/tcp/1", "/memory/1"])).expect("signed");
        assert_eq!(record.peer, key.public().to_peer_id());
        assert_eq!(record.addresses, ["/ip4/10.0.0.1/tcp/1".parse().expect("a multiaddr")]);
    }

    #[test]
    fn a_record_with_a_changed_byte_is_refused() {
        let bytes = record_of(&Keypair::generate_ed25519(), &["/ip4/10.0.0.1/tcp/1"]);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(Record::check(changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_record_with_too_many_or_no_useful_addresses_is_refused() {
        let key = Keypair::generate_ed25519();
        assert!(Record::check(record_of(&key, &["/ip4/10.0.0.1/tcp/1"; ADDRESSES_MAX + 1])).is_err());
        assert!(Record::check(record_of(&key, &["/ip4/0.0.0.0/tcp/1"])).is_err());
    }

    #[test]
    fn a_full_answer_is_within_its_bound() {
        let answer = Answer::Records(vec![vec![0; RECORD_BYTES_MAX]; RECORDS_PER_ANSWER_MAX]);
        assert!(codec::encode(&answer).len() <= ANSWER_BYTES_MAX);
        let answer = Answer::RunFile(vec![0; RUN_FILE_BYTES_MAX]);
        assert!(codec::encode(&answer).len() <= ANSWER_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_codec_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut framed = (bytes.len() as u32).to_le_bytes().to_vec();
            framed.extend(&bytes);
            for wire in [&bytes, &framed] {
                let _ = block_on(Codec.read_request(&protocol(), &mut Cursor::new(wire)));
                let _ = block_on(Codec.read_response(&protocol(), &mut Cursor::new(wire)));
            }
            let _ = Record::check(bytes);
        }
    }
}
