//! What a node keeps between its lives: the home folder, and in it the database of records, votes and accepts.

mod database;
pub(crate) mod files;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod home;
mod mark;
mod whereabouts;
mod writer;

pub(crate) use database::settled_chain;
pub use database::{Contents, Database, HistoryEntry, StoreError};
pub(crate) use files::write_whole;
pub use home::{Home, HomeError, HomeLock};
pub(crate) use whereabouts::{Whereabouts, known_addresses, known_ports};
pub use writer::{Writer, Written};
