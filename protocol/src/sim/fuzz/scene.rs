//! One real machine among nodes whose keys are known, and what they may say to it.
//!
//! A scene begins where a node may stand, and goes on as bytes choose: messages made of nonsense, or honest answers that bring
//! the machine further; its effects carried out at once, late or never; time, crashes. After every input the laws must hold.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::fmt::{self, Write};

#[cfg(test)]
use serde::de::DeserializeOwned;

use super::bytes::Bytes;
use super::maker::{Known, make};
use crate::base::ids::{Ballot, BlobRef, Hash, Identity, NodeId, Time};
use crate::base::signed::{Scope, Signed, Verifier};
use crate::chain::Chain;
use crate::chain::fixture::{accuracy, bind, by_signer, commit, consent, empty, genesis, identities, params, votes};
use crate::founding::message::Message as Word;
use crate::io::{Command, Effect, Event, FetchFailure, Input, Persist, PersistId, TrainedUpdate};
use crate::machine::{Config, Machine};
use crate::membership::message::{Activity, Message as Membership, Presence};
use crate::message::{Body, Message};
use crate::paxos::message::{Message as Paxos, Task};
use crate::record::{Alive, Committed, Contribution, Failure, FinalEvaluation, Kind, Proposed, Record, request_scope};
use crate::round::message::Message as Work;
use crate::sim::disk::Disk;
use crate::sim::invariants::Invariants;
use crate::sync::message::Message as Sync;

/// Inputs of one scene: more teach nothing that fewer don't.
const STEPS_MAX: usize = 400;

/// Messages of the machine that may still be answered.
const SAID_MAX: usize = 32;

/// Effects that one input may bring about. The largest answer is a word to each of six, a few times over.
const EFFECTS_MAX: usize = 400;

/// Messages of a flood: each names other things that nobody has heard of.
const FLOOD: u32 = 100;

/// Floods of one scene: two of one kind show what grows.
const FLOODS_MAX: u32 = 4;

/// What a machine prints of itself, less its chain: all that it holds. Far above what six peers may fill, far below two floods
/// that are remembered.
const SIZE_MAX: usize = 96 << 10;

/// The machine under test is the first of all; the next two founded with it.
const ME: usize = 0;
const MEMBERS: usize = 3;
const NODES: usize = 6;

/// Where a node stands when a scene begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    Alone,
    Gathering,
    Bound,
    Following,
    Member,
    Coordinator,
    SecondRound,
    Trained,
    Halted,
    Over,
}

const BEGINNINGS: [Begin; 10] = [
    Begin::Alone,
    Begin::Gathering,
    Begin::Bound,
    Begin::Following,
    Begin::Member,
    Begin::Coordinator,
    Begin::SecondRound,
    Begin::Trained,
    Begin::Halted,
    Begin::Over,
];

#[derive(Debug, Clone)]
struct Scene {
    known: Known,
    verifier: Verifier,
    machine: Machine,
    now: Time,
    disk: Disk,
    life: u8,
    writing: VecDeque<(PersistId, Persist)>,
    fetching: Vec<Hash>,
    training: Option<(u64, Hash)>,
    evaluating: Option<u64>,
    folding: Vec<(Ballot, NodeId)>,
    aggregating: Option<Ballot>,
    /// What the machine said lately, and to whom.
    said: VecDeque<(NodeId, Message)>,
    /// The chain as the others have it.
    chain: Option<Chain>,
    laws: Invariants,
}

/// Plays the scene that these bytes choose.
///
/// # Panics
/// The machine does, or breaks a law.
pub(super) fn play(bytes: &[u8]) {
    let mut bytes = Bytes::new(bytes);
    let mut scene = Scene::begin(BEGINNINGS[bytes.below(BEGINNINGS.len())]);
    for _ in 0..STEPS_MAX {
        if bytes.is_empty() {
            break;
        }
        scene.step(&mut bytes);
    }
    let size = scene.size();
    assert!(size <= SIZE_MAX, "the machine holds {size}, {SIZE_MAX} at most");
}

/// Counts what is written.
struct Count(usize);

impl fmt::Write for Count {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.len();
        Ok(())
    }
}

fn printed(value: &impl fmt::Debug) -> usize {
    let mut count = Count(0);
    // Counting can't fail.
    let _ = write!(count, "{value:?}");
    count.0
}

/// A value of this type, of a chain of three, as the bytes choose.
#[cfg(test)]
pub(super) fn make_anything<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    make(&mut Scene::begin(Begin::Member).known, &mut Bytes::new(bytes))
}

impl Scene {
    /// A scene of this beginning. What leads there is played once in a thread.
    fn begin(begin: Begin) -> Self {
        thread_local!(static BEGUN: RefCell<Vec<Option<Scene>>> = const { RefCell::new(Vec::new()) });
        let place = begin as usize;
        let begun = BEGUN.with_borrow(|begun| begun.get(place).cloned().flatten());
        begun.unwrap_or_else(|| {
            let scene = Self::led_to(begin);
            BEGUN.with_borrow_mut(|begun| {
                begun.resize(BEGINNINGS.len(), None);
                begun[place] = Some(scene.clone());
            });
            scene
        })
    }

    fn led_to(begin: Begin) -> Self {
        match begin {
            Begin::Alone => Self::new(&[]),
            Begin::Gathering => Self::new(&[]).meets(),
            Begin::Bound => {
                let mut scene = Self::new(&[]).meets();
                scene.goes_on(|s| s.disk.is_bound());
                scene
            }
            Begin::Following => {
                let mut scene = Self::new(&[]);
                let others: Vec<Identity> = scene.known.keys[1..=MEMBERS].to_vec();
                scene.know_chain(&[genesis(&others)]);
                scene.known.members = (1..=MEMBERS).collect();
                let mut scene = scene.meets();
                scene.goes_on(|s| s.machine.chain().is_some());
                scene
            }
            Begin::Member => Self::with_rounds(&[]).meets(),
            Begin::Coordinator => {
                let mut scene = Self::with_rounds(&[]).meets();
                scene.goes_on(|s| s.training.is_some());
                scene
            }
            Begin::SecondRound => Self::with_rounds(&[Kind::Train]).meets(),
            Begin::Trained => Self::with_rounds(&[Kind::Train, Kind::Train, Kind::Train]).meets(),
            Begin::Halted => Self::with_rounds(&[Kind::Empty, Kind::Empty, Kind::Empty]).meets(),
            Begin::Over => Self::with_rounds(&[Kind::Train, Kind::Train, Kind::Train, Kind::Closing]).meets(),
        }
    }

    /// A node whose disk holds a chain with these rounds after its genesis.
    fn with_rounds(kinds: &[Kind]) -> Self {
        let keys = identities(1, NODES as u8);
        let mut chain = crate::chain::fixture::chain(&keys[..MEMBERS]);
        for kind in kinds {
            let next = next_record(&chain, &keys, kind.clone(), matches!(kind, Kind::Empty), &mut Bytes::new(&[]));
            chain.append(next).expect("an honest record may follow");
        }
        Self::new(chain.records())
    }

    fn new(records: &[Committed]) -> Self {
        let keys = identities(1, NODES as u8);
        let params = params();
        let scope = Scope { run: params.run, chain: Hash::ZERO, parent: Hash::ZERO };
        let known = Known {
            members: (0..MEMBERS).collect(),
            scope,
            scopes: vec![scope],
            hashes: vec![Hash::ZERO, params.run, params.initial_model.id],
            blobs: vec![params.initial_model],
            round: 0,
            attempt: 0,
            salt: 0,
            unforgeable: keys[ME].node_id(),
            keys,
        };
        let verifier = Verifier::default();
        let mut disk = Disk::default();
        disk.blobs.insert(params.initial_model.id);
        for committed in records {
            let chain = records[0].record.hash();
            let item = Persist::Committed { chain, committed: committed.clone(), stats: Default::default() };
            disk.write(item).expect("records follow each other");
            disk.blobs.insert(committed.record.model.id);
        }
        let machine = machine(&known, &verifier, &disk, Time(0), 0);
        let mut laws = Invariants::new(0);
        known.keys[1..].iter().for_each(|key| laws.distrust(key.node_id()));
        let mut scene = Self {
            known,
            verifier,
            machine,
            now: Time(0),
            disk,
            life: 0,
            writing: VecDeque::new(),
            fetching: Vec::new(),
            training: None,
            evaluating: None,
            folding: Vec::new(),
            aggregating: None,
            said: VecDeque::new(),
            chain: None,
            laws,
        };
        scene.know_chain(records);
        scene.carry_out();
        scene
    }

    /// What the machine holds beside its chain.
    fn size(&self) -> usize {
        printed(&self.machine) - self.machine.chain().map_or(0, printed)
    }

    fn me(&self) -> NodeId {
        self.known.keys[ME].node_id()
    }

    /// A chain that the others are in.
    fn know_chain(&mut self, records: &[Committed]) {
        let Some((genesis, rest)) = records.split_first() else { return };
        let mut chain = Chain::begin(params(), genesis.clone(), self.verifier.clone()).expect("the genesis holds");
        rest.iter().for_each(|c| chain.append(c.clone()).expect("an honest record may follow"));
        self.chain = Some(chain);
        self.learn();
    }

    /// What the machine's chain, or else the others', names from now on.
    fn learn(&mut self) {
        let own = self.machine.chain();
        if let Some(own) = own
            && self.chain.as_ref().is_none_or(|c| c.genesis() != own.genesis() || c.next_round() < own.next_round())
        {
            self.chain = Some(own.clone());
        }
        let Some(chain) = own.or(self.chain.as_ref()) else { return };
        if self.known.scope == chain.scope() {
            self.known.attempt = self.machine.view(self.now, |_| 0).attempt;
            return;
        }
        let founding = Scope { run: params().run, chain: chain.founding(), parent: chain.founding() };
        let (scope, head, round) = (chain.scope(), chain.head().model, chain.next_round());
        self.known.scope(self.known.scope);
        self.known.scope(founding);
        self.known.scope(scope);
        for hash in [scope.chain, founding.chain, scope.parent] {
            self.known.hash(hash);
        }
        self.known.blob(head);
        let chain_of = |node: &NodeId| self.known.keys.iter().position(|key| key.node_id() == *node);
        self.known.members = chain.roster().nodes().filter_map(|node| chain_of(&node)).collect();
        (self.known.scope, self.known.round) = (scope, round);
    }

    /// The others connect and show where they stand.
    fn meets(mut self) -> Self {
        for place in 1..NODES {
            self.input(Input::PeerUp(self.known.keys[place].node_id()));
        }
        self.show();
        self
    }

    /// Everybody shows where it stands: members in their chain, the others in none.
    fn show(&mut self) {
        for place in 1..NODES {
            let chain = self.chain.as_ref().filter(|c| c.roster().contains(self.known.keys[place].node_id()));
            let (genesis, round) = chain.map_or((Hash::ZERO, 0), |c| (c.genesis(), c.next_round()));
            let presence = Presence {
                counter: self.now.0 + 1,
                name: "p".into(),
                part: None,
                round,
                held: round.checked_sub(1),
                founding: None,
                activity: Activity::Idle,
                at_rest: false,
            };
            let message = Message::membership(genesis, Membership::Presence(presence));
            self.input(Input::Received { from: self.known.keys[place].node_id(), message });
        }
    }

    /// Everybody is honest, and all is quick, until the scene is where it should be.
    fn goes_on(&mut self, is_there: impl Fn(&Self) -> bool) {
        for _ in 0..400 {
            if is_there(self) {
                self.said.clear();
                return;
            }
            self.write(usize::MAX);
            if self.said.is_empty() {
                self.pass(0);
            }
            while !is_there(self) && !self.said.is_empty() {
                self.answer();
            }
        }
        panic!("it never comes there");
    }

    /// One thing that happens.
    fn step(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.byte() % 32 {
            // What anybody may send.
            0 => {
                if let Ok(message) = Message::decode(bytes.piece()) {
                    self.say(bytes, message);
                }
            }
            1..=6 => {
                if let Some(body) = make(&mut self.known, bytes) {
                    let chain = bytes.pick(&self.known.hashes).filter(|_| bytes.byte() >= 0x80);
                    let message =
                        Message { chain: chain.unwrap_or(self.known.scope.chain), body: self.mend(bytes, body) };
                    self.say(bytes, message);
                }
            }
            7..=12 => self.answer(),
            13 => {
                // Its own words, from another.
                if let Some((_, message)) = bytes.pick(self.said.make_contiguous()) {
                    self.say(bytes, message);
                }
            }
            14 | 15 => self.others_commit(bytes),
            16 => self.input(Input::PeerUp(self.another(bytes))),
            17 => self.input(Input::PeerDown(self.another(bytes))),
            18 => self.show(),
            19..=21 => self.pass(0),
            22 => {
                let choice = bytes.byte();
                self.pass(1u64 << (choice % 18));
            }
            23..=25 => {
                let count = bytes.below(4);
                self.write(if count == 0 { usize::MAX } else { count });
            }
            26 => self.fetch(bytes),
            27 => self.train(bytes),
            28 => self.compute(bytes),
            29 => self.input(Input::Command(match bytes.byte() & 3 {
                0 => Command::Leave,
                1 => Command::Resume,
                2 => Command::Pause,
                _ => Command::Unpause,
            })),
            30 => self.crash(bytes),
            _ if bytes.byte() >= 0xE0 && self.known.salt < FLOODS_MAX * FLOOD => self.flood(bytes),
            _ => {
                self.write(usize::MAX);
                for _ in 0..SAID_MAX {
                    self.answer();
                }
            }
        }
    }

    /// The same thing is said over and over, of something else each time.
    fn flood(&mut self, bytes: &mut Bytes<'_>) {
        let begin = bytes.clone();
        for _ in 0..FLOOD {
            self.known.salt = self.known.salt.wrapping_add(1);
            *bytes = begin.clone();
            let Some(body) = make(&mut self.known, bytes) else { return };
            let chain = self.known.scope.chain;
            self.say(bytes, Message { chain, body });
            self.said.clear();
        }
    }

    fn another(&self, bytes: &mut Bytes<'_>) -> NodeId {
        self.known.keys[1 + bytes.below(NODES - 1)].node_id()
    }

    fn say(&mut self, bytes: &mut Bytes<'_>, message: Message) {
        let choice = bytes.byte();
        // The transport authenticates: nobody speaks as this node.
        let from = self.known.keys[1 + usize::from(choice & 0x7F) % (NODES - 1)].node_id();
        let gossiped = choice & 0x80 != 0;
        self.input(if gossiped { Input::Gossiped { from, message } } else { Input::Received { from, message } });
    }

    /// A proposal is of the record that comes with it.
    fn mend(&self, bytes: &mut Bytes<'_>, body: Body) -> Body {
        let Body::Paxos { ballot, message: Paxos::Proposal(mut proposal) } = body else { return body };
        let key = self.known.keys.iter().find(|key| key.node_id() == proposal.coordinator());
        if let Some(key) = key.filter(|key| key.node_id() != self.me())
            && bytes.byte() < 0xC0
        {
            let record = &mut proposal.record;
            record.parent = self.known.scope.parent;
            record.round = self.known.round;
            record.coordinator = key.node_id();
            let proposed = Proposed { ballot, value: record.hash() };
            proposal.proposed = Signed::new(key, &self.known.scope, proposed);
        }
        Body::Paxos { ballot, message: Paxos::Proposal(proposal) }
    }

    /// Gives an input, carries out what needs no time, and sees that the laws hold.
    fn input(&mut self, input: Input) {
        self.machine.handle(self.now, input);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        let mut count = 0;
        while let Some(effect) = self.machine.poll_effect() {
            count += 1;
            assert!(count <= EFFECTS_MAX, "one input has no end of effects");
            self.carry_out_one(effect);
        }
        self.laws.now = self.now;
        assert!(self.laws.violation.is_none(), "{:?}", self.laws.violation);
        let view = self.machine.view(self.now, |_| 0);
        assert!(view.roster.len() <= NODES + self.known.keys.len() + 8, "more members than anybody named");
        self.learn();
    }

    fn carry_out_one(&mut self, effect: Effect) {
        match effect {
            Effect::Send { to, message } => self.sent(to, message),
            Effect::Broadcast(message) => {
                let others: Vec<usize> = self.known.members.iter().copied().filter(|place| *place != ME).collect();
                for place in others {
                    self.sent(self.known.keys[place].node_id(), message.clone());
                }
            }
            Effect::Persist { id, item } => self.writing.push_back((id, item)),
            Effect::Fetch { blob, .. } => {
                self.known.blob(blob);
                self.fetching.push(blob.id);
            }
            Effect::CancelFetch { blob } => self.fetching.retain(|b| *b != blob),
            Effect::Train { round, parent, .. } => {
                self.laws.trains(self.known.keys[ME].node_id(), round, &self.disk);
                self.training = Some((round, parent));
            }
            Effect::StopTraining => self.training = None,
            Effect::Evaluate { round, .. } => self.evaluating = Some(round),
            Effect::Fold { ballot, node, .. } => self.folding.push((ballot, node)),
            Effect::Aggregate { ballot, .. } => self.aggregating = Some(ballot),
            Effect::Keep { blobs } => {
                let keep: BTreeSet<Hash> = blobs.into_iter().collect();
                self.disk.blobs.retain(|b| keep.contains(b));
            }
            Effect::Emit(Event::Liar { node }) => assert_ne!(node, self.me(), "this node is not called a liar"),
            Effect::Emit(_) | Effect::Relay => {}
        }
    }

    /// The machine said something: it reads back, it says no two things where one is allowed, and what binds is on disk.
    fn sent(&mut self, to: NodeId, message: Message) {
        let me = self.me();
        self.laws.sent(me, &message, &self.disk);
        let bytes = message.encode();
        let read = Message::decode(&bytes).map(|m| m.encode());
        assert_eq!(read.as_ref(), Ok(&bytes), "what a node says can be read: {message:?}");
        let promised = match &message.body {
            Body::Paxos { ballot, message: Paxos::Vote(vote) } if vote.by() == me => Some(*ballot),
            Body::Paxos { ballot, message: Paxos::Accept(accept) } if accept.by() == me => Some(*ballot),
            _ => None,
        };
        if let Some(ballot) = promised {
            let on_disk = self.disk.promise(message.chain);
            assert!(on_disk >= Some(ballot), "{ballot} is promised and not on disk: {on_disk:?}");
        }
        if self.said.len() == SAID_MAX {
            self.said.pop_front();
        }
        self.said.push_back((to, message));
    }

    /// Time goes on, by so much or to the next thing that is due.
    fn pass(&mut self, ms: u64) {
        let due = self.machine.deadline();
        self.now = match ms {
            0 => due.unwrap_or(self.now).max(self.now.plus_ms(1)),
            ms => self.now.plus_ms(ms),
        };
        self.input(Input::Tick);
    }

    /// So many writes are on disk.
    fn write(&mut self, count: usize) {
        for _ in 0..count {
            let Some((id, item)) = self.writing.pop_front() else { break };
            self.put(item);
            self.input(Input::Persisted(id));
        }
    }

    fn put(&mut self, item: Persist) {
        self.laws.written(self.known.keys[ME].node_id(), &item);
        if let Err(why) = self.disk.write(item) {
            panic!("{why}");
        }
    }

    /// Of the writes under way the first few are done; then it starts again with what is on its disk.
    fn crash(&mut self, bytes: &mut Bytes<'_>) {
        let done = bytes.below(self.writing.len() + 1);
        for _ in 0..done {
            if let Some((_, item)) = self.writing.pop_front() {
                self.put(item);
            }
        }
        self.life = self.life.wrapping_add(1);
        self.writing.clear();
        self.fetching.clear();
        self.folding.clear();
        (self.training, self.evaluating, self.aggregating) = (None, None, None);
        self.machine = machine(&self.known, &self.verifier, &self.disk, self.now, self.life);
        self.carry_out();
    }

    fn fetch(&mut self, bytes: &mut Bytes<'_>) {
        let choice = bytes.byte();
        let Some(blob) = bytes.pick(&self.fetching) else { return };
        self.fetching.retain(|b| *b != blob);
        if choice < 0xC0 {
            self.disk.blobs.insert(blob);
            return self.input(Input::Fetched { blob });
        }
        let reject = crate::base::reject::Reject::WrongHash;
        let failure = [FetchFailure::Unreachable, FetchFailure::Invalid(reject), FetchFailure::Disk];
        self.input(Input::FetchFailed { blob, failure: failure[usize::from(choice) % 3] });
    }

    fn train(&mut self, bytes: &mut Bytes<'_>) {
        let choice = bytes.byte();
        if let Some(round) = self.evaluating.take() {
            let evaluation = (choice & 1 == 0).then_some(accuracy(1, 2));
            return self.input(Input::Evaluated { round, evaluation });
        }
        let Some((round, parent)) = self.training.take() else { return };
        let update = BlobRef { id: Hash::of(&[1, choice]), len: params().update_len };
        self.disk.blobs.insert(update.id);
        let trained = TrainedUpdate {
            update,
            samples: 10,
            train_loss: Some(0.5),
            train_ms: 7,
            evaluation: None,
            trainer: String::new(),
        };
        let outcome = if choice < 0xC0 { Ok(trained) } else { Err("it diverged".to_owned()) };
        self.input(Input::Trained { round, parent, outcome });
    }

    fn compute(&mut self, bytes: &mut Bytes<'_>) {
        let choice = bytes.byte();
        if let Some(ballot) = self.aggregating.take() {
            let model = BlobRef { id: Hash::of(&[2, choice]), len: params().initial_model.len };
            self.disk.blobs.insert(model.id);
            let result = if choice < 0xE0 { Ok(model) } else { Err("it overflowed".to_owned()) };
            return self.input(Input::Aggregated { ballot, result });
        }
        let Some((ballot, node)) = bytes.pick(&self.folding) else { return };
        self.folding.retain(|f| *f != (ballot, node));
        let result = if choice < 0xC0 { Ok(()) } else { Err(crate::base::reject::Reject::NotFinite) };
        self.input(Input::Folded { ballot, node, result });
    }

    /// The members but this one commit the next record, or one that differs from it in a field.
    fn others_commit(&mut self, bytes: &mut Bytes<'_>) {
        let Some(chain) = self.chain.clone().filter(|c| !c.is_over()) else { return };
        let choice = bytes.byte();
        let kind = match choice % 4 {
            _ if chain.is_trained() => Kind::Closing,
            0 | 1 => Kind::Train,
            2 => Kind::Empty,
            _ => {
                let to = bytes.pick(&self.known.hashes).unwrap_or(Hash::ZERO);
                let yielding = chain.genesis();
                let scope = request_scope(params().run, to);
                let alive =
                    self.known.keys[1..].iter().map(|key| Signed::new(key, &scope, Alive { yielding })).collect();
                Kind::Yield { to, alive: by_signer(alive) }
            }
        };
        let mut next = next_record(&chain, &self.known.keys, kind, choice & 0x40 != 0, bytes);
        if choice & 0x20 != 0 {
            next.record = self.twist(next.record, bytes);
            let acceptors: Vec<&Identity> =
                self.known.keys[1..].iter().filter(|k| chain.roster().contains(k.node_id())).collect();
            let ballot = Ballot { round: next.record.round, attempt: next.record.attempt };
            let coordinator = next.record.coordinator;
            next = commit(&acceptors, &chain.scope(), ballot, coordinator, next.record);
        }
        let mut extended = chain.clone();
        if extended.append(next.clone()).is_ok() {
            self.chain = Some(extended);
        }
        let message = Message::sync(chain.genesis(), Sync::Committed(next));
        self.say(bytes, message);
    }

    /// A record with one field as the bytes choose.
    fn twist(&mut self, mut record: Record, bytes: &mut Bytes<'_>) -> Record {
        macro_rules! fields {
            ($($number:pat => $field:ident),*) => {
                match bytes.byte() % 16 {
                    $($number => if let Some(made) = make(&mut self.known, bytes) { record.$field = made },)*
                }
            };
        }
        fields!(
            0 => kind, 1 => round, 2 => attempt, 3 => coordinator, 4 => parent, 5 => model, 6 => participants,
            7 => contributions, 8 => evaluations, 9 => failures, 10 => resumed, 11 => joined, 12 => left, 13 => evicted,
            14 => open_ms, _ => aggregation
        );
        record
    }

    /// Somebody answers what the machine said first, as an honest node would.
    fn answer(&mut self) {
        let Some((to, message)) = self.said.pop_front() else { return };
        for message in self.answers_to(to, &message) {
            self.input(Input::Received { from: to, message });
        }
    }

    fn answers_to(&self, to: NodeId, message: &Message) -> Vec<Message> {
        let Some(key) = self.known.keys.iter().find(|key| key.node_id() == to) else { return Vec::new() };
        let chain = message.chain;
        let founding = Scope { run: params().run, chain, parent: chain };
        match &message.body {
            Body::Founding(Word::Invite { .. }) => {
                vec![Message::founding(chain, Word::Consent { consent: consent(to) })]
            }
            Body::Founding(Word::Founding(founding)) => {
                vec![Message::founding(chain, Word::Bind(bind(key, founding)))]
            }
            Body::Paxos { ballot, message } => {
                let scope = if ballot.round == 0 { founding } else { self.known.scope };
                let answer = match message {
                    Paxos::PreVote => Paxos::PreVoteGranted,
                    Paxos::VoteRequest => {
                        let all = votes(&[key], &scope, *ballot, self.me());
                        Paxos::Vote(all[0].clone())
                    }
                    Paxos::RoundOpened(opened) => return self.work_of(key, &scope, *ballot, &opened.plan),
                    Paxos::Heartbeat(_) => Paxos::HeartbeatAck { promised: *ballot },
                    Paxos::Proposal(proposal) => {
                        let value = proposal.record.hash();
                        let coordinator = proposal.coordinator();
                        let accept = crate::record::Accept { ballot: *ballot, coordinator, value };
                        Paxos::Accept(Signed::new(key, &scope, accept))
                    }
                    _ => return Vec::new(),
                };
                vec![Message::paxos(chain, *ballot, answer)]
            }
            Body::Round { ballot, message: Work::UpdateReady(contribution) } => {
                let update = contribution.vouched().update.id;
                vec![Message::round(chain, *ballot, Work::UpdateAck { update, result: Ok(()) })]
            }
            Body::Sync(Sync::Query { from }) => {
                let Some(known) = self.chain.as_ref().filter(|c| c.genesis() == chain) else { return Vec::new() };
                let first = usize::try_from(*from).unwrap_or(usize::MAX);
                vec![Message::sync(chain, Sync::Records(known.records().iter().skip(first).cloned().collect()))]
            }
            Body::Sync(Sync::QueryAlive { yielding }) => {
                let alive = Signed::new(key, &request_scope(params().run, chain), Alive { yielding: *yielding });
                vec![Message::sync(chain, Sync::Alive(alive))]
            }
            _ => Vec::new(),
        }
    }

    /// What a participant says to a plan.
    fn work_of(
        &self,
        key: &Identity,
        scope: &Scope,
        ballot: Ballot,
        plan: &Signed<crate::paxos::message::RoundPlan>,
    ) -> Vec<Message> {
        let answer = match &plan.vouched().task {
            Some(Task::Train { .. }) => Work::UpdateReady(contribution(key, scope, ballot.round)),
            Some(Task::Evaluate) => Work::Evaluated(evaluation(key, scope, ballot.round)),
            None => return Vec::new(),
        };
        vec![Message::round(scope.chain, ballot, answer)]
    }
}

fn machine(known: &Known, verifier: &Verifier, disk: &Disk, now: Time, life: u8) -> Machine {
    let config = Config {
        resumes: false,
        params: params(),
        identity: known.keys[ME].clone(),
        name: "under test".into(),
        part: None,
        pinned: None,
        verifier: verifier.clone(),
    };
    Machine::new(config, [life; 32], now, disk.read())
}

fn contribution(key: &Identity, scope: &Scope, round: u64) -> Signed<Contribution> {
    let update = BlobRef { id: Hash::of(key.node_id().as_bytes()), len: params().update_len };
    let content = Contribution {
        round,
        samples: 10,
        update,
        train_loss: Some(0.5),
        train_ms: 7,
        evaluation: None,
        trainer: String::new(),
    };
    Signed::new(key, scope, content)
}

fn evaluation(key: &Identity, scope: &Scope, round: u64) -> Signed<FinalEvaluation> {
    Signed::new(key, scope, FinalEvaluation { round, evaluation: accuracy(1, 2) })
}

/// An honest record of this kind that may follow, accepted by all members but this node; with everybody's failure, if
/// training failed.
fn next_record(chain: &Chain, keys: &[Identity], kind: Kind, fails: bool, bytes: &mut Bytes<'_>) -> Committed {
    let (scope, round) = (chain.scope(), chain.next_round());
    let members: Vec<&Identity> = keys.iter().filter(|key| chain.roster().contains(key.node_id())).collect();
    let others: Vec<&Identity> = members.iter().copied().filter(|key| key.node_id() != keys[ME].node_id()).collect();
    let coordinator = others.first().map_or(keys[1].node_id(), |key| key.node_id());
    let mut record = empty(chain, u32::from(bytes.byte() % 4), coordinator);
    record.kind = kind;
    record.aggregation = params().aggregation;
    match &record.kind {
        Kind::Train => {
            record.participants = chain.roster().participant_order(chain.head().model.id, round);
            record.contributions = by_signer(others.iter().map(|key| contribution(key, &scope, round)).collect());
            record.model = BlobRef { id: Hash::of(&[3, round as u8]), ..record.model };
        }
        Kind::Empty if fails => {
            let failure = |key: &&Identity| Signed::new(key, &scope, Failure { round, why: "no data".into() });
            record.failures = by_signer(others.iter().map(failure).collect());
        }
        Kind::Closing => {
            record.evaluations = by_signer(others.iter().map(|key| evaluation(key, &scope, round)).collect())
        }
        _ => {}
    }
    let ballot = Ballot { round, attempt: record.attempt };
    commit(&others, &scope, ballot, coordinator, record)
}
