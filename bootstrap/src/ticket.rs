//! Tickets: one line of text with which another machine joins a run, without a run file.

use std::fmt;
use std::str::FromStr;

use libp2p::Multiaddr;
use paceline_protocol::base::roster::is_name;
use paceline_protocol::bounds::{ADDRESS_BYTES_MAX, NAME_BYTES_MAX};
use paceline_protocol::{Hash, RunId, codec};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::addresses;
use crate::bounds::{TICKET_ADDRESSES_MAX, TICKET_CHARS_MAX};

/// What a ticket begins with; the digit is its version.
const PREFIX: &str = "paceline2:";

/// Bytes of the checksum at the end.
const CHECKSUM_BYTES: usize = 4;

/// Bytes of a ticket's content: run, chain, name, addresses, and their lengths.
const CONTENT_BYTES_MAX: usize = 32 + 1 + 32 + 8 + NAME_BYTES_MAX + 8 + TICKET_ADDRESSES_MAX * (8 + ADDRESS_BYTES_MAX);

/// Names a run and where to ask for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The run.
    pub run: RunId,
    /// The chain that its maker is in, once no other can take its place: who joins enters this one, however long its
    /// members sleep, and founds no other.
    pub chain: Option<Hash>,
    /// What people call it, for show.
    pub run_name: String,
    /// Where a node of the run, or a bootstrap, can be reached: each ends with its `/p2p/` id. At least one, at most
    /// `TICKET_ADDRESSES_MAX`.
    pub addresses: Vec<Multiaddr>,
}

/// Text that is no ticket.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TicketError {
    /// It doesn't begin like one.
    #[error("this is no ticket: it should begin with `{PREFIX}`; copy the whole line that `paceline ticket` prints")]
    Prefix,
    /// One of another version of the program.
    #[error(
        "this ticket was made by another version of paceline: it should begin with `{PREFIX}`; run the same version on all machines"
    )]
    Version,
    /// Longer than any ticket.
    #[error("this is no ticket: it has {0} characters, a ticket has at most {TICKET_CHARS_MAX}")]
    TooLong(usize),
    /// A character that no ticket has.
    #[error("the ticket is damaged: {0}; copy it again, as a whole")]
    Base58(String),
    /// The checksum doesn't fit.
    #[error("the ticket is damaged: its checksum doesn't fit; copy it again, as a whole")]
    Checksum,
    /// The checksum fits and the content doesn't.
    #[error("the ticket can't be read ({0}); was it made by another version of paceline?")]
    Content(String),
}

#[derive(Serialize, Deserialize)]
struct Content {
    run: RunId,
    chain: Option<Hash>,
    run_name: String,
    addresses: Vec<Vec<u8>>,
}

impl Ticket {
    /// A ticket with the best of these addresses; `None` if none of them is of use to others. Those of this machine alone
    /// come last, and stay if there is room: on one machine they are what works.
    pub fn new(
        run: RunId,
        chain: Option<Hash>,
        run_name: &str,
        addresses: impl IntoIterator<Item = Multiaddr>,
    ) -> Option<Self> {
        let mut addresses = addresses::sorted(addresses);
        addresses.retain(|address| addresses::peer_of(address).is_some());
        addresses.truncate(TICKET_ADDRESSES_MAX);
        (!addresses.is_empty()).then(|| Self { run, chain, run_name: run_name.to_owned(), addresses })
    }

    /// The bytes under the checksum.
    pub(crate) fn content(&self) -> Vec<u8> {
        let addresses = self.addresses.iter().map(|a| a.to_vec()).collect();
        let Self { run, chain, .. } = *self;
        codec::encode(&Content { run, chain, run_name: self.run_name.clone(), addresses })
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&sealed(self.content()))
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let text = text.trim();
        // Base58 of long text is slow, so that is not even tried.
        if text.len() > TICKET_CHARS_MAX {
            return Err(TicketError::TooLong(text.len()));
        }
        let body = text.strip_prefix(PREFIX).ok_or_else(|| without_prefix(text))?;
        let bytes = bs58::decode(body).into_vec().map_err(|e| TicketError::Base58(e.to_string()))?;
        let (content, found) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(TicketError::Checksum)?;
        if checksum(content) != *found {
            return Err(TicketError::Checksum);
        }
        let content: Content = codec::decode::<_, CONTENT_BYTES_MAX>(content).map_err(content_error)?;
        if !is_name(&content.run_name) || content.addresses.len() > TICKET_ADDRESSES_MAX {
            return Err(content_error("over a bound"));
        }
        let addresses: Vec<Multiaddr> =
            content.addresses.into_iter().map(Multiaddr::try_from).collect::<Result<_, _>>().map_err(content_error)?;
        if addresses.is_empty() || addresses.iter().any(|a| addresses::peer_of(a).is_none()) {
            return Err(content_error("it has no address, or one without a peer"));
        }
        Ok(Self { run: content.run, chain: content.chain, run_name: content.run_name, addresses })
    }
}

/// The text of content, with its checksum.
pub(crate) fn sealed(mut content: Vec<u8>) -> String {
    let checksum = checksum(&content);
    content.extend(checksum);
    format!("{PREFIX}{}", bs58::encode(content).into_string())
}

fn without_prefix(text: &str) -> TicketError {
    let version = text.strip_prefix("paceline").and_then(|rest| rest.split_once(':')).map(|(version, _)| version);
    let is_version = |v: &str| !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit());
    if version.is_some_and(is_version) { TicketError::Version } else { TicketError::Prefix }
}

fn content_error(reason: impl fmt::Display) -> TicketError {
    TicketError::Content(reason.to_string())
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = Hash::of_parts("paceline ticket checksum", &[bytes]);
    let mut checksum = [0; CHECKSUM_BYTES];
    checksum.copy_from_slice(&hash.as_bytes()[..CHECKSUM_BYTES]);
    checksum
}

#[cfg(test)]
mod tests {
    use libp2p::PeerId;
    use proptest::prelude::*;

    use super::*;

    fn ticket() -> Ticket {
        let peer: PeerId = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN".parse().expect("a peer id");
        let address = |text: &str| addresses::with_peer(&text.parse().expect("a multiaddr"), peer);
        let listed = ["/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/udp/2/quic-v1", "/ip4/10.0.0.1/tcp/2"].map(address);
        Ticket::new(Hash::of(b"run"), Some(Hash::of(b"genesis")), "shapes", listed).expect("the addresses are of use")
    }

    #[test]
    fn a_ticket_reads_back() {
        assert_eq!(ticket().to_string().parse(), Ok(ticket()));
        assert_eq!(format!(" {}\n", ticket()).parse(), Ok(ticket()));
    }

    #[test]
    fn addresses_beyond_this_machine_come_first_and_loopback_stays() {
        let ticket = ticket();
        assert!(!addresses::is_loopback(&ticket.addresses[0]));
        assert!(addresses::is_loopback(&ticket.addresses[2]));
    }

    #[test]
    fn a_ticket_without_a_useful_address_is_not_made() {
        assert_eq!(Ticket::new(Hash::ZERO, None, "a", ["/ip4/0.0.0.0/tcp/0".parse().expect("a multiaddr")]), None);
    }

    #[test]
    fn a_changed_character_is_told_from_the_checksum() {
        let mut text = ticket().to_string();
        let last = text.pop().expect("not empty");
        text.push(if last == 'a' { 'b' } else { 'a' });
        assert_eq!(text.parse::<Ticket>(), Err(TicketError::Checksum));
    }

    #[test]
    fn what_is_no_ticket_is_told_apart() {
        assert_eq!("run.toml".parse::<Ticket>(), Err(TicketError::Prefix));
        assert_eq!("paceline:3yQ".parse::<Ticket>(), Err(TicketError::Prefix));
        assert_eq!("paceline1:3yQ".parse::<Ticket>(), Err(TicketError::Version));
        assert_eq!("paceline2:".parse::<Ticket>(), Err(TicketError::Checksum));
        assert!(matches!("paceline2:0OIl".parse::<Ticket>(), Err(TicketError::Base58(_))));
        assert_eq!("paceline2:".repeat(9999).parse::<Ticket>(), Err(TicketError::TooLong(99_990)));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = format!("{PREFIX}{}", bs58::encode(&bytes).into_string()).parse::<Ticket>();
            let _ = sealed(bytes).parse::<Ticket>();
        }
    }
}
