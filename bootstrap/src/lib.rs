//! How nodes find each other: transports, identify, mDNS, peer exchange, addresses, tickets.
//!
//! The way of a node that comes up: it dials the addresses that it was given ([`DiscoveryOptions::bootstrap`]), those that
//! it knew from before, and what mDNS shows. Identify tells what the other one is: a node of the same run is kept and
//! reported ([`DiscoveryEvent::PeerUp`]); one that introduces is asked who else is there; a node of another run, or another
//! libp2p program, is left alone. Whoever is introduced is dialled in turn, so that soon all know each other, and no
//! bootstrap is needed any more.
//!
//! [`Discovery`] is a libp2p behaviour that does all of this by itself; the node composes it with its own protocols.
//! [`serve`] is the bootstrap node: the same behaviour alone. [`fetch_run_file`] and [`discover_runs`] ask around with a
//! swarm that lives for a moment.

#![forbid(unsafe_code)]

mod address;
pub mod addresses;
pub mod bounds;
pub mod frame;

mod address_book;
pub mod command;
mod complaint;
mod discovery;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod gate;
mod hearing;
mod peer_exchange;
mod run_registry;
mod seek;
mod serve;
mod survey;
mod swarm;
mod ticket;
mod token_bucket;
mod twin;

pub use address::{Address, is_host_name};
pub use discovery::{Discovery, DiscoveryEvent, DiscoveryOptions, Role};
pub use hearing::Hearing;
pub use peer_exchange::{Answer, Request, SeenRun};
pub use seek::{FoundRun, SeekError, discover_runs, fetch_run_file};
pub use serve::{Ready, ServeError, ServeOptions, serve};
pub use survey::{Dialled, Met, dial, hears_own_multicast, survey};
pub use swarm::{BuildError, Links, build_swarm, default_listen, fresh_secret, node_id, peer_id};
pub use ticket::{Ticket, TicketError};
pub use token_bucket::TokenBucket;
pub use twin::{TwinAnswer, TwinQuestion};

use libp2p::StreamProtocol;
use paceline_protocol::RunId;
use paceline_protocol::bounds::PROTOCOL_VERSION;

/// The name of a protocol of one run: `/paceline/5/<run id>/<what>`.
pub fn run_protocol(run: RunId, what: &str) -> StreamProtocol {
    StreamProtocol::try_from_owned(format!("/paceline/{PROTOCOL_VERSION}/{run}/{what}"))
        .expect("the name begins with a slash")
}
