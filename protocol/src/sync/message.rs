//! How records come to whoever lacks them, and how one chain is shown to another.

use serde::{Deserialize, Serialize};

use crate::base::ids::Hash;
use crate::base::signed::Signed;
use crate::record::{Alive, Committed};

/// The envelope names the chain whose records are meant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// A decision with its proof, told to all.
    Committed(Committed),
    /// Which records follow from this round on?
    Query {
        /// The first round wanted.
        from: u64,
    },
    /// Records in order, as many as fit.
    Records(Vec<Committed>),
    /// Does your chain live? Mine would yield to it.
    QueryAlive {
        /// The genesis of the chain that would yield.
        yielding: Hash,
    },
    /// It does.
    Alive(Signed<Alive>),
}
