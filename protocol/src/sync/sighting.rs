//! What is known of a chain that this node is not in, and the one judgement of it.
//!
//! A peer may mention any chain. It is *shown* once records came that hold, *proven* once all that its members have were
//! checked, and *alive* while a quorum of its newest roster is connected here and shows it. A node follows and yields to
//! nothing but what is alive. A chain that gave itself up is remembered with its yield and never entered again; whoever
//! shows it is shown the yield.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::bounds::{PASSED_OVER_MAX, RECORDS_PER_ANSWER_MAX};
use crate::base::ids::{Hash, NodeId, Time};
use crate::base::reject::Reject;
use crate::base::signed::Signed;
use crate::base::timing::{RETRY_MS, SIGHTING_MS};
use crate::chain::Chain;
use crate::context::Context;
use crate::io::KeptAside;
use crate::message::Message;
use crate::peers::Peers;
use crate::record::{Alive, Committed, Forced, Kind, Record, request_scope};
use crate::sync::Questions;
use crate::sync::message::Message as Sync;

/// How far another chain is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Judgement {
    /// A peer says that there is one.
    Mentioned,
    /// Some of its records came and hold.
    Shown,
    /// All records that its connected members have were checked.
    Proven,
    /// And a quorum of its newest roster is connected here and shows it.
    Alive,
}

/// Another chain.
#[derive(Debug, Clone)]
struct Sighting {
    genesis: Hash,
    chain: Option<Chain>,
    questions: Questions,
    /// When records last came, or it was first looked at.
    progress_at: Time,
    /// Its members' words that it lives, for this node's chain that would yield.
    alive: BTreeMap<NodeId, Signed<Alive>>,
    asked_alive: Option<Time>,
    /// Whether a coordinator proposes to yield to it: it may be in nobody else's sight here.
    proposed: bool,
}

impl Sighting {
    fn new(genesis: Hash, now: Time) -> Self {
        Self {
            genesis,
            chain: None,
            questions: Questions::default(),
            progress_at: now,
            alive: BTreeMap::new(),
            asked_alive: None,
            proposed: false,
        }
    }

    fn judge(&self, peers: &Peers) -> Judgement {
        let Some(chain) = &self.chain else { return Judgement::Mentioned };
        let mut rounds = Vec::new();
        for node in chain.roster().nodes() {
            if let Some(peer) = peers.get(node).filter(|p| p.chain() == Some(self.genesis)) {
                rounds.extend(peer.presence.as_ref().map(|(_, p)| p.round));
            }
        }
        // Rounds go on while records travel: one more is not behind. A quorum decides, so that one member that shows rounds
        // which nobody has holds nothing up.
        let level = rounds.iter().filter(|round| **round <= chain.next_round() + 1).count();
        if level >= chain.roster().quorum() && chain.yielded_to().is_none() {
            return Judgement::Alive;
        }
        if level == rounds.len() { Judgement::Proven } else { Judgement::Shown }
    }

    /// How one member began it alone, if one did. Nobody enters it, and nothing gives way to it, but at its owner's wish.
    fn forced(&self) -> Option<&Forced> {
        self.chain.as_ref().and_then(Chain::forced)
    }

    /// Asks one of those who show it for the records that follow.
    fn ask(&mut self, ctx: &mut Context) {
        let from = self.chain.as_ref().map_or(0, Chain::next_round);
        let genesis = self.genesis;
        let has_more = |p: &crate::peers::Peer| p.presence.as_ref().is_some_and(|(_, p)| p.round > from);
        let shows = ctx.peers.connected().filter(|(_, p)| p.chain() == Some(genesis) && has_more(p));
        if let Some(peer) = self.questions.pick(ctx.now, shows.map(|(node, _)| node)) {
            ctx.send(peer, Message::sync(genesis, Sync::Query { from }));
        }
    }

    fn take(&mut self, ctx: &Context, records: Vec<Committed>) -> Result<(), Reject> {
        for committed in records {
            match &mut self.chain {
                Some(chain) if committed.record.round < chain.next_round() => continue,
                Some(chain) => chain.append(committed)?,
                None if committed.record.hash() != self.genesis => return Err(Reject::OtherChain),
                None => self.chain = Some(Chain::begin(ctx.params.clone(), committed, ctx.verifier.clone())?),
            }
            self.progress_at = ctx.now;
        }
        Ok(())
    }
}

/// Whether this node is on the roster of a chain that began with a founding which it was bound to, and remembers that. Whoever
/// is in no chain and bound to nothing was then led to abort it, by one who bound itself and refused.
pub(crate) fn is_founder(chain: &Chain, ctx: &Context) -> bool {
    let is_on = chain.yielded_to().is_none() && chain.roster().contains(ctx.me);
    is_on && ctx.promise(chain.founding()).is_some()
}

/// A chain that gave itself up, by its genesis and its yield.
type GivenUp = [Committed; 2];

/// A chain that is not looked at for a while.
#[derive(Debug, Clone)]
struct PassedOver {
    until: Time,
    /// How it began, if a member began it alone.
    forced: Option<Forced>,
}

/// All that a node knows of chains that it is not in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sightings {
    /// The chain that is being looked at: one at a time, so that nobody can fill the memory with chains.
    present: Option<Sighting>,
    /// Chains that nobody could prove, or that a member began alone.
    passed_over: BTreeMap<Hash, PassedOver>,
    given_up: BTreeMap<Hash, GivenUp>,
    /// Chains that this node was moved away from: only its owner leads it back.
    kept_aside: BTreeMap<Hash, KeptAside>,
    /// The only chain that this node may enter, if its ticket names one.
    pinned: Option<Hash>,
    /// Forks that were told of.
    told: BTreeSet<Hash>,
}

impl Sightings {
    pub(crate) fn new(given_up: Vec<GivenUp>, kept_aside: Vec<KeptAside>, pinned: Option<Hash>) -> Self {
        let given_up = given_up.into_iter().map(|pair| (pair[0].record.hash(), pair)).collect();
        let kept_aside = kept_aside.into_iter().map(|aside| (aside.genesis.record.hash(), aside)).collect();
        Self { given_up, kept_aside, pinned, ..Self::default() }
    }

    /// This node is in that chain no more.
    pub(crate) fn keep_aside(&mut self, aside: KeptAside) {
        self.kept_aside.insert(aside.genesis.record.hash(), aside);
    }

    /// The models that are kept with chains that this node was moved away from.
    pub(crate) fn models_aside(&self) -> impl Iterator<Item = Hash> {
        self.kept_aside.values().flat_map(|aside| aside.models.iter().copied())
    }

    /// Whether a node is a member of such a chain.
    pub(crate) fn is_member_aside(&self, node: NodeId) -> bool {
        self.kept_aside.values().any(|aside| aside.roster.contains(node))
    }

    /// A chain in sight that this node was moved away from.
    pub(crate) fn aside_in_sight(&self, ctx: &Context) -> Option<Hash> {
        self.shown(ctx, None).into_keys().find(|genesis| self.kept_aside.contains_key(genesis))
    }

    /// Other chains that connected peers show, and who shows them.
    fn shown(&self, ctx: &Context, own: Option<Hash>) -> BTreeMap<Hash, Vec<NodeId>> {
        let mut shown: BTreeMap<Hash, Vec<NodeId>> = BTreeMap::new();
        for (node, peer) in ctx.peers.connected() {
            if let Some(genesis) = peer.chain().filter(|g| Some(*g) != own && !self.given_up.contains_key(g)) {
                shown.entry(genesis).or_default().push(node);
            }
        }
        shown
    }

    /// Other chains of this run that are in sight.
    pub(crate) fn forks(&self, ctx: &Context, own: Option<Hash>) -> Vec<Hash> {
        self.shown(ctx, own).into_keys().collect()
    }

    /// Forks that were not told of before.
    pub(crate) fn new_forks(&mut self, ctx: &Context, own: Hash) -> Vec<Hash> {
        let shown: BTreeSet<Hash> = self.shown(ctx, Some(own)).into_keys().collect();
        self.told.retain(|g| shown.contains(g));
        let fresh: Vec<Hash> = shown.difference(&self.told).copied().collect();
        self.told.extend(&fresh);
        fresh
    }

    /// This chain gave itself up: it is remembered for good.
    pub(crate) fn give_up(&mut self, chain: &Chain) {
        if let [genesis, .., yielded] = chain.records() {
            self.given_up.insert(chain.genesis(), [genesis.clone(), yielded.clone()]);
        }
    }

    pub(crate) fn is_given_up(&self, genesis: Hash) -> bool {
        self.given_up.contains_key(&genesis)
    }

    /// The genesis of a chain that this node is in no more, and that began with this founding.
    fn founded_by(&self, founding: Hash) -> Option<&Committed> {
        let is_it = |genesis: &Committed| matches!(&genesis.record.kind, Kind::Genesis { founding: f, .. } if f.id() == founding);
        let given_up = self.given_up.values().map(|[genesis, _]| genesis);
        given_up.chain(self.kept_aside.values().map(|aside| &aside.genesis)).find(|genesis| is_it(genesis))
    }

    /// Whether a chain that this node is in no more began with this founding.
    pub(crate) fn was_founded_by(&self, founding: Hash) -> bool {
        self.founded_by(founding).is_some()
    }

    /// Whoever is still bound to that founding is shown what became of it.
    pub(crate) fn show_genesis(&self, ctx: &mut Context, to: NodeId, founding: Hash) {
        if let Some(genesis) = self.founded_by(founding).cloned()
            && ctx.peers.may_answer(to, ctx.now)
        {
            ctx.send(to, Message::founding(founding, crate::founding::message::Message::Decided(genesis)));
        }
    }

    /// Whoever shows a chain that gave itself up has missed that: member or not, it is shown the yield.
    pub(crate) fn show_yield(&self, ctx: &mut Context, to: NodeId, genesis: Hash) {
        if let Some([_, yielded]) = self.given_up.get(&genesis)
            && ctx.peers.may_answer(to, ctx.now)
        {
            ctx.send(to, Message::sync(genesis, Sync::Records(vec![yielded.clone()])));
        }
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        let present = self.present.as_ref()?;
        let asked_alive = present.asked_alive.map(|at| at.plus_ms(RETRY_MS));
        let patience = present.progress_at.plus_ms(SIGHTING_MS);
        [present.questions.deadline(), asked_alive, Some(patience)].into_iter().flatten().min()
    }

    /// A peer is gone.
    pub(crate) fn peer_down(&mut self, peer: NodeId) {
        if let Some(present) = &mut self.present {
            present.questions.forget(peer);
        }
    }

    /// Nothing is looked at any more: this node is in a chain that does not yield.
    pub(crate) fn look_away(&mut self) {
        self.present = None;
        self.passed_over.clear();
    }

    /// Looks at the chain that most peers show, of those that this node may enter, and asks for what it lacks of it.
    pub(crate) fn look(&mut self, ctx: &mut Context, own: Option<Hash>) {
        let now = ctx.now;
        let shown = self.shown(ctx, own);
        self.passed_over.retain(|_, passed| now < passed.until);
        let named = self.pinned;
        let is_over = |present: &mut Sighting| {
            let judgement = present.judge(&ctx.peers);
            let is_stale = now.since_ms(present.progress_at) >= SIGHTING_MS && judgement < Judgement::Alive;
            let is_in_sight = present.proposed || shown.contains_key(&present.genesis);
            // There is no other to look at instead of the one that is named.
            let is_useless = named != Some(present.genesis) && (is_stale || present.forced().is_some());
            !is_in_sight || is_useless
        };
        if let Some(over) = self.present.take_if(is_over).filter(|over| named != Some(over.genesis)) {
            if self.passed_over.len() >= PASSED_OVER_MAX
                && let Some(first) = self.passed_over.iter().min_by_key(|(_, passed)| passed.until).map(|(g, _)| *g)
            {
                self.passed_over.remove(&first);
            }
            let passed = PassedOver { until: now.plus_ms(10 * SIGHTING_MS), forced: over.forced().cloned() };
            self.passed_over.insert(over.genesis, passed);
        }
        if self.present.is_none() {
            let is_named = |g: &Hash| self.pinned.is_none_or(|pinned| pinned == *g);
            let may_enter =
                |g: &Hash| !self.passed_over.contains_key(g) && !self.kept_aside.contains_key(g) && is_named(g);
            let best = shown
                .iter()
                .filter(|(g, _)| may_enter(g))
                .max_by_key(|(g, nodes)| (nodes.len(), std::cmp::Reverse(**g)));
            self.present = best.map(|(genesis, _)| Sighting::new(*genesis, now));
        }
        if let Some(present) = &mut self.present {
            present.ask(ctx);
        }
    }

    /// Looks at this chain next, and asks this peer for it: it proposes to yield to it.
    pub(crate) fn look_at(&mut self, ctx: &mut Context, genesis: Hash, peer: NodeId) {
        if self.present.as_ref().is_none_or(|p| p.genesis != genesis) {
            self.present = Some(Sighting::new(genesis, ctx.now));
        }
        let Some(present) = &mut self.present else { return };
        present.proposed = true;
        if let Some(peer) = present.questions.pick(ctx.now, [peer].into_iter()) {
            let from = present.chain.as_ref().map_or(0, Chain::next_round);
            ctx.send(peer, Message::sync(genesis, Sync::Query { from }));
        }
    }

    /// Records of another chain: taken from whom they were asked of, and for the chain that is looked at.
    pub(crate) fn on_records(
        &mut self,
        ctx: &mut Context,
        from: NodeId,
        genesis: Hash,
        records: Vec<Committed>,
    ) -> Result<(), Reject> {
        let present = self.present.as_mut().filter(|p| p.genesis == genesis).ok_or(Reject::Unasked)?;
        if records.len() > RECORDS_PER_ANSWER_MAX {
            return Err(Reject::OverBound);
        }
        if !present.questions.answered(from) {
            return Err(Reject::Unasked);
        }
        present.take(ctx, records)?;
        present.ask(ctx);
        Ok(())
    }

    /// The chain that is looked at, for a peer to whom this node proposes to yield to it.
    pub(crate) fn chain(&self, genesis: Hash) -> Option<&Chain> {
        self.present.as_ref().filter(|p| p.genesis == genesis)?.chain.as_ref()
    }

    /// The only chain that this node enters, if there is one.
    pub(crate) fn pinned(&self) -> Option<Hash> {
        self.pinned
    }

    /// Whether a chain is in sight that lives, or may yet prove that it does, or this node is meant for one: no time to found
    /// another. While chains were passed over lately the next one mentioned does not count, so that nobody holds others
    /// back by making chains up.
    pub(crate) fn holds_back(&self, ctx: &Context) -> bool {
        let present = self.present.as_ref();
        let lives = present.is_some_and(|p| p.judge(&ctx.peers) == Judgement::Alive);
        let is_moved = self.pinned.is_some() || !self.kept_aside.is_empty();
        is_moved || lives || (present.is_some() && self.passed_over.is_empty())
    }

    /// The chain that is looked at, how many members of its newest roster show it here, and how many would have to; `None`
    /// while its records are not all checked.
    pub(crate) fn quorum_in_sight(&self, ctx: &Context) -> Option<(Hash, usize, usize)> {
        let present = self.present.as_ref().filter(|p| p.judge(&ctx.peers) >= Judgement::Proven)?;
        let roster = present.chain.as_ref()?.roster();
        let shows = |n: &NodeId| ctx.peers.get(*n).is_some_and(|p| p.chain() == Some(present.genesis));
        Some((present.genesis, roster.nodes().filter(shows).count(), roster.quorum()))
    }

    /// A chain in sight that one member began alone, and that this node does not enter unasked.
    pub(crate) fn forced_in_sight(&self, ctx: &Context) -> Option<(Hash, &Forced)> {
        let shown = self.shown(ctx, None);
        self.passed_over.iter().filter(|(g, _)| shown.contains_key(g)).find_map(|(g, p)| Some((*g, p.forced.as_ref()?)))
    }

    /// The chain to follow: alive, never given up, and none that this node was moved away from; one that a member began alone
    /// only if it is pinned. One that is closed and pinned need not live: nothing more is decided in it. Nor need one that
    /// this node is a founder of: it may be what the others lack for a quorum.
    pub(crate) fn take_followed(&mut self, ctx: &Context) -> Option<Chain> {
        let (pinned, kept_aside) = (self.pinned, &self.kept_aside);
        let may_follow = |p: &mut Sighting| {
            let is_pinned = pinned == Some(p.genesis);
            if kept_aside.contains_key(&p.genesis) || (!is_pinned && p.forced().is_some()) {
                return false;
            }
            let is_over = is_pinned && p.chain.as_ref().is_some_and(Chain::is_closed);
            let judgement = p.judge(&ctx.peers);
            let is_own = judgement == Judgement::Proven && p.chain.as_ref().is_some_and(|chain| is_founder(chain, ctx));
            is_over || is_own || judgement == Judgement::Alive
        };
        let chain = self.present.take_if(may_follow)?.chain?;
        (!self.is_given_up(chain.genesis())).then_some(chain)
    }

    /// The chain that `own`, without a round of its own yet, should give way to, with its members' words that it lives: one
    /// that has a round, or else the smaller hash.
    pub(crate) fn yields_to(&mut self, ctx: &mut Context, own: &Chain) -> Option<(Hash, Vec<Signed<Alive>>)> {
        let present = self.present.as_mut()?;
        let is_alive = present.judge(&ctx.peers) == Judgement::Alive;
        let chain = present.chain.as_ref().filter(|_| is_alive)?;
        let is_stronger = chain.next_round() > 1 || chain.genesis() < own.genesis();
        let is_forced = own.forced().is_some() || chain.forced().is_some();
        if own.next_round() != 1 || !is_stronger || is_forced {
            return None;
        }
        let roster = chain.roster();
        let words: Vec<_> = present.alive.values().filter(|w| roster.contains(w.by())).copied().collect();
        if words.len() >= roster.quorum() {
            return Some((present.genesis, words));
        }
        if present.asked_alive.is_none_or(|at| ctx.now.since_ms(at) >= RETRY_MS) {
            present.asked_alive = Some(ctx.now);
            let message = Message::sync(present.genesis, Sync::QueryAlive { yielding: own.genesis() });
            let members: Vec<NodeId> = roster.nodes().filter(|n| !present.alive.contains_key(n)).collect();
            members.into_iter().filter(|n| ctx.peers.is_connected(*n)).collect::<Vec<_>>().into_iter().for_each(|n| {
                ctx.send(n, message.clone());
            });
        }
        None
    }

    /// A member of the chain that is looked at says that it lives.
    pub(crate) fn on_alive(
        &mut self,
        ctx: &Context,
        genesis: Hash,
        word: Signed<Alive>,
        own: Hash,
    ) -> Result<(), Reject> {
        let present = self.present.as_mut().filter(|p| p.genesis == genesis).ok_or(Reject::Unasked)?;
        let chain = present.chain.as_ref().ok_or(Reject::Unasked)?;
        if !chain.roster().contains(word.by()) {
            return Err(Reject::Stranger);
        }
        let scope = request_scope(ctx.params.run, genesis);
        if word.open(&scope, &ctx.verifier)?.yielding != own {
            return Err(Reject::OtherChain);
        }
        present.alive.insert(word.by(), word);
        Ok(())
    }

    /// Whether what a yield says of the other chain holds, as far as it was shown here: the words in it are of a quorum of
    /// its newest roster.
    ///
    /// # Errors
    /// [`Reject::NotAlive`]: it was not shown here, or its words are of no quorum.
    pub(crate) fn vouch_for(&self, record: &Record) -> Result<(), Reject> {
        let Kind::Yield { to, alive } = &record.kind else { return Ok(()) };
        let chain = self.chain(*to).ok_or(Reject::NotAlive)?;
        let members = alive.iter().filter(|w| chain.roster().contains(w.by())).count();
        if members >= chain.roster().quorum() { Ok(()) } else { Err(Reject::NotAlive) }
    }
}
