//! Nodes that lie. They are nodes of the world: they have keys of their own and connections like everybody, and say what
//! they like. A member that lies runs the real machine and changes what leaves it; a stranger makes everything up.

use crate::base::ids::{Ballot, BlobRef, Hash, Identity, NodeId};
use crate::base::roster::Member;
use crate::base::signed::{Scope, Signed};
use crate::chain::RunParams;
use crate::founding::message::Message as Founding;
use crate::membership::message::{Activity, Message as Membership, Presence};
use crate::message::{Body, Message};
use crate::paxos::message::{Heartbeat, Message as Paxos, Phase};
use crate::record::{
    Accept, Bind, Committed, Founder, Join, Kind, Proposal, Proposed, Record, Refusal, Vote, founding_scope,
    request_scope,
};
use crate::round::message::Message as Work;
use crate::sync::message::Message as Sync;

use super::rng::Rng;

/// How a node lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hostility {
    /// A member that signs two statements where one is allowed.
    Equivocates,
    /// A member that says again what it once heard or said.
    Replays,
    /// A member that keeps half of what it should say to itself, and serves no blobs.
    Withholds,
    /// A member that answers whoever asks it for a blob with other bytes.
    Garbles,
    /// A member that lives and brings nothing to its end: it offers no update, and proposes nothing.
    Dawdles,
    /// A stranger that makes things up.
    Stranger,
}

/// What a lying node has at hand.
#[derive(Debug)]
pub(super) struct Liar {
    pub(super) hostility: Hostility,
    identity: Identity,
    params: RunParams,
    /// Messages that it heard or said, to say them again.
    heard: Vec<Message>,
    made_up: u32,
}

/// A chain's genesis, its next round, and its last record's hash and model.
pub(super) type ChainHead = (Hash, u64, Hash, BlobRef);

/// Messages that a liar remembers.
const HEARD_MAX: usize = 256;

impl Liar {
    pub(super) fn new(hostility: Hostility, identity: Identity, params: RunParams) -> Self {
        Self { hostility, identity, params, heard: Vec::new(), made_up: 0 }
    }

    pub(super) fn hear(&mut self, rng: &mut Rng, message: &Message) {
        if self.heard.len() < HEARD_MAX {
            self.heard.push(message.clone());
        } else {
            let place = rng.below(HEARD_MAX);
            self.heard[place] = message.clone();
        }
    }

    pub(super) fn serves_blobs(&self) -> bool {
        !matches!(self.hostility, Hostility::Withholds | Hostility::Garbles)
    }

    /// What leaves in place of an honest message to `to`, and to whom: `others` are the nodes of the world.
    pub(super) fn twist(
        &mut self,
        rng: &mut Rng,
        to: NodeId,
        message: Message,
        scope: Option<Scope>,
        others: &[NodeId],
    ) -> Vec<(NodeId, Message)> {
        match self.hostility {
            Hostility::Withholds if rng.chance(0.5) => Vec::new(),
            Hostility::Dawdles if ends_something(&message) => Vec::new(),
            Hostility::Equivocates => {
                let mut all = vec![(to, message.clone())];
                if let Some(other) = scope.and_then(|scope| self.contradict(rng, &scope, &message)) {
                    all.push((others[rng.below(others.len())], other.clone()));
                    all.push((to, other));
                }
                all
            }
            Hostility::Replays => {
                self.hear(rng, &message);
                let mut all = vec![(to, message)];
                if rng.chance(0.3) {
                    let again = self.heard[rng.below(self.heard.len())].clone();
                    all.push((others[rng.below(others.len())], again));
                }
                all
            }
            Hostility::Withholds | Hostility::Garbles | Hostility::Dawdles | Hostility::Stranger => vec![(to, message)],
        }
    }

    /// A second, signed statement where one is allowed.
    fn contradict(&self, rng: &mut Rng, scope: &Scope, message: &Message) -> Option<Message> {
        let Body::Paxos { ballot, message: word } = &message.body else { return None };
        let (ballot, me) = (*ballot, &self.identity);
        let other = match word {
            Paxos::Vote(vote) if vote.by() == me.node_id() => {
                let honest = vote.vouched().clone();
                let accepted = honest.accepted.filter(|_| rng.chance(0.5));
                Paxos::Vote(Signed::new(me, scope, Vote { accepted, silent: vec![me.node_id()], ..honest }))
            }
            Paxos::Accept(accept) => {
                let value = Hash::of(&rng.draw().to_le_bytes());
                Paxos::Accept(Signed::new(me, scope, Accept { value, ..*accept.vouched() }))
            }
            Paxos::Proposal(proposal) if proposal.coordinator() == me.node_id() => {
                let record = Record { open_ms: proposal.record.open_ms + 1, ..proposal.record.clone() };
                let proposed = Signed::new(me, scope, Proposed { ballot, value: record.hash() });
                Paxos::Proposal(Proposal { proposed, record, votes: proposal.votes.clone() })
            }
            _ => return None,
        };
        Some(Message::paxos(message.chain, ballot, other))
    }

    fn make_up(&mut self) -> Identity {
        self.made_up += 1;
        let me = self.identity.node_id();
        let secret = Hash::of_parts("made up", &[me.as_bytes(), &self.made_up.to_le_bytes()]);
        Identity::from_secret(secret.as_bytes())
    }

    /// A chain that this node made up with keys of its own.
    fn forged_genesis(&mut self) -> Committed {
        let mut keys: Vec<Identity> = (0..3).map(|_| self.make_up()).collect();
        keys.sort_by_key(Identity::node_id);
        let founder = |i: &Identity| Founder {
            member: Member { node: i.node_id(), name: "forged".into(), part: None },
            consent: Hash::ZERO,
        };
        let content = crate::record::Founding {
            run: self.params.run,
            founders: keys.iter().map(founder).collect(),
            model: self.params.initial_model,
        };
        let scope = crate::record::Founding::proposal_scope(self.params.run);
        let founding = Signed::new(&keys[0], &scope, content);
        let (id, scope) = (founding.id(), founding.scope());
        let binds = keys.iter().map(|k| Signed::new(k, &scope, Bind { consent: Hash::ZERO })).collect();
        let (ballot, coordinator) = (Ballot::of_round(0), keys[0].node_id());
        let kind = Kind::Genesis { founding, binds };
        let record = Record::plain(kind, ballot, coordinator, id, self.params.initial_model);
        let value = record.hash();
        let accepts = keys.iter().map(|k| Signed::new(k, &scope, Accept { ballot, coordinator, value })).collect();
        Committed { record, accepts }
    }

    /// Something that a stranger says to one of `others`. It knows of their chain what everybody may ask for.
    pub(super) fn mischief(&mut self, rng: &mut Rng, chain: Option<ChainHead>, others: &[NodeId]) -> Message {
        let (chain, round, head, model) = chain.unwrap_or((Hash::ZERO, 1, Hash::ZERO, self.params.initial_model));
        let (me, name) = (self.identity.node_id(), "stranger".to_owned());
        let member = |node| Member { node, name: "x".repeat(8), part: None };
        let nonsense = Hash::of(&rng.draw().to_le_bytes());
        let victim = others[rng.below(others.len())];
        let ballot = Ballot { round: rng.draw() % 4, attempt: (rng.draw() % 9) as u32 };
        match rng.below(13) {
            0 => {
                let presence = Presence {
                    counter: rng.draw() >> 1,
                    name,
                    part: None,
                    round: rng.draw() % 12,
                    held: None,
                    founding: None,
                    activity: Activity::Idle,
                    at_rest: rng.chance(0.2),
                };
                let genesis = [Hash::ZERO, chain, nonsense][rng.below(3)];
                Message::membership(genesis, Membership::Presence(presence))
            }
            1 => {
                let mut members: Vec<Member> = (0..3).map(|_| member(self.make_up().node_id())).collect();
                members.extend([member(victim), member(me)]);
                members.sort();
                Message::founding(nonsense, Founding::Invite { members })
            }
            2 => {
                let forged = [self.make_up(), self.make_up()];
                let nodes = [forged[0].node_id(), forged[1].node_id(), victim, me];
                let founder = |node| Founder { member: member(node), consent: nonsense };
                let mut founders: Vec<Founder> = nodes.into_iter().map(founder).collect();
                founders.sort();
                let (run, model) = (self.params.run, self.params.initial_model);
                let content = crate::record::Founding { run, founders, model };
                let scope = crate::record::Founding::proposal_scope(run);
                let founding = Signed::new(&self.identity, &scope, content);
                Message::founding(founding.id(), Founding::Founding(founding))
            }
            3 => {
                let forged = self.forged_genesis();
                Message::sync(forged.record.hash(), Sync::Records(vec![forged]))
            }
            4 => Message::sync(chain, Sync::Query { from: rng.draw() % 3 }),
            5 => Message::sync(chain, Sync::QueryAlive { yielding: nonsense }),
            6 => {
                let scope = request_scope(self.params.run, chain);
                let join = Join { name, part: None, round: rng.draw() % 8 };
                Message::membership(chain, Membership::Join(Signed::new(&self.identity, &scope, join)))
            }
            7 => Message::paxos(chain, ballot, Paxos::VoteRequest),
            8 => {
                let proposal = Some(nonsense);
                let heartbeat = Heartbeat { phase: Phase::Proposing, plan: nonsense, proposal, progress: Vec::new() };
                Message::paxos(chain, ballot, Paxos::Heartbeat(heartbeat))
            }
            9 => {
                let scope = founding_scope(self.params.run, chain);
                Message::founding(
                    chain,
                    Founding::Refusal(Signed::new(&self.identity, &scope, Refusal { chain: None })),
                )
            }
            10 => Message::paxos(nonsense, Ballot::of_round(0), Paxos::VoteRequest),
            11 => {
                // A record that fits, but for the accepts that nobody gave.
                let mut record = Record::plain(Kind::Empty, Ballot::of_round(round), victim, head, model);
                record.aggregation.clone_from(&self.params.aggregation);
                let committed = Committed { record, accepts: Vec::new() };
                let told = rng.chance(0.5);
                Message::sync(chain, if told { Sync::Committed(committed) } else { Sync::Records(vec![committed]) })
            }
            _ => match self.heard.len() {
                0 => Message::founding(nonsense, Founding::Decline { because_of: Some(victim) }),
                n => self.heard[rng.below(n)].clone(),
            },
        }
    }
}

/// What others wait for.
fn ends_something(message: &Message) -> bool {
    match &message.body {
        Body::Paxos { message, .. } => matches!(message, Paxos::Proposal(_) | Paxos::StepDown),
        Body::Round { message, .. } => matches!(message, Work::UpdateReady(_) | Work::Evaluated(_)),
        _ => false,
    }
}
