//! What is said before there is a chain.

use serde::{Deserialize, Serialize};

use crate::base::ids::{Hash, NodeId};
use crate::base::roster::Member;
use crate::base::signed::Signed;
use crate::record::{Bind, Committed, Founding, Refusal};

/// The envelope names the invitation for the first three, the founding for the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// Would you found a run with these? Binds nobody.
    Invite {
        /// The roster that would be proposed, ascending.
        members: Vec<Member>,
    },
    /// I would: a founding that carries this binds me.
    Consent {
        /// Drawn for this invitation.
        consent: Hash,
    },
    /// I would not, now.
    Decline {
        /// A member that is not here, or not free, as far as the sender sees.
        because_of: Option<NodeId>,
    },
    /// A founding is proposed to those who said that they would, or shown to a member that asks.
    Founding(Signed<Founding>),
    /// I bind myself.
    Bind(Signed<Bind>),
    /// I refuse, for good.
    Refusal(Signed<Refusal>),
    /// The proposed roster has decided.
    Decided(Committed),
}
