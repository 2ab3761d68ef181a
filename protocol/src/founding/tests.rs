//! How a chain begins, case by case: `testdata/founding.txt`.

use super::*;
use crate::base::ids::Identity;
use crate::base::signed::Verifier;
use crate::base::table::{Line, cases, none};
use crate::chain::fixture::{commit, consent, identities, member, params};
use crate::context::Parts;
use crate::io::Effect;
use crate::membership::message::{Activity, Presence};
use crate::message::Body;
use crate::record::Refusal;

const NAMES: [&str; 5] = ["A", "B", "C", "D", "E"];

/// A node among others that would found a run.
struct Hall {
    all: Vec<Identity>,
    me: usize,
    ctx: Context,
    foundings: Foundings,
    free: bool,
    counter: u64,
    /// The invitation that it sent last, and the consent that it gave last.
    invitation: Hash,
    consented: Hash,
    /// The founding that was proposed last.
    last: Option<Signed<Founding>>,
    promises: BTreeMap<Hash, Ballot>,
    disk: Vec<RecoveredFounding>,
}

#[test]
fn how_nodes_found() {
    let mut wrong = Vec::new();
    for case in cases("founding/testdata/founding.txt", include_str!("testdata/founding.txt")) {
        let mut hall = Hall::new(1);
        for mut line in case.lines {
            let got = hall.carry_out(&mut line);
            line.check(&case.name, &got, &mut wrong);
        }
    }
    none(&wrong);
}

impl Hall {
    fn new(me: usize) -> Self {
        let all = identities(1, 5);
        let mut ctx = Self::context(&all[me], Time(0), 0, BTreeMap::new());
        let foundings = Foundings::restored(&mut ctx, Vec::new(), &[]);
        Self {
            all,
            me,
            ctx,
            foundings,
            free: true,
            counter: 0,
            invitation: Hash::ZERO,
            consented: Hash::ZERO,
            last: None,
            promises: BTreeMap::new(),
            disk: Vec::new(),
        }
    }

    fn context(me: &Identity, now: Time, life: u8, promises: BTreeMap<Hash, Ballot>) -> Context {
        Context::new(Parts {
            params: params(),
            identity: me.clone(),
            name: "n".into(),
            part: None,
            verifier: Verifier::default(),
            seed: [life; 32],
            now,
            blobs: BTreeSet::from([params().initial_model.id]),
            promises,
        })
    }

    fn named(&self, line: &Line, name: &str) -> &Identity {
        match NAMES.iter().position(|n| *n == name) {
            Some(place) => &self.all[place],
            None => line.unknown(name),
        }
    }

    fn node(&self, line: &mut Line) -> &Identity {
        let name = line.word();
        self.named(line, &name)
    }

    fn several(&self, line: &mut Line) -> Vec<NodeId> {
        let names = line.word();
        names.split(',').map(|name| self.named(line, name).node_id()).collect()
    }

    fn name_of(&self, node: NodeId) -> &'static str {
        let place = self.all.iter().position(|i| i.node_id() == node).expect("it is one of the five");
        NAMES[place]
    }

    fn standing(&self) -> Standing<'static> {
        if self.free { Standing::Free } else { Standing::Busy }
    }

    fn present(&mut self, node: NodeId, chain: Hash, founding: Option<Hash>) {
        self.counter += 1;
        let presence = Presence {
            counter: self.counter,
            name: "n".into(),
            part: None,
            round: 0,
            held: None,
            founding,
            activity: Activity::Idle,
            at_rest: false,
        };
        self.ctx.peers.set_connected(node, true, self.ctx.now, 0);
        self.ctx.peers.present(node, chain, presence, self.ctx.now, 0);
    }

    fn receive(&mut self, from: NodeId, id: Hash, word: Word) -> String {
        let standing = self.standing();
        self.foundings.receive(&mut self.ctx, from, id, word, standing);
        self.said()
    }

    fn carry_out(&mut self, line: &mut Line) -> String {
        match line.word().as_str() {
            "me" => {
                let me = self.node(line).node_id();
                *self = Hall::new(self.all.iter().position(|i| i.node_id() == me).expect("it is one of the five"));
            }
            "here" => self.several(line).into_iter().for_each(|node| self.present(node, Hash::ZERO, None)),
            "busy" => {
                let node = self.node(line).node_id();
                self.present(node, Hash::of(b"a chain"), None);
            }
            "bound" => {
                let node = self.node(line).node_id();
                self.present(node, Hash::ZERO, Some(Hash::of(b"a founding")));
            }
            "gone" => {
                let node = self.node(line).node_id();
                self.ctx.peers.set_connected(node, false, self.ctx.now, 0);
                self.foundings.peer_down(&mut self.ctx, node);
            }
            "stand" => match line.word().as_str() {
                "free" => self.free = true,
                "busy" => self.free = false,
                word => line.unknown(word),
            },
            "wait" => {
                let ms = line.number();
                let said = self.wait(ms);
                return match line.next().as_deref() {
                    Some("quietly") => "nothing".to_owned(),
                    Some(word) => line.unknown(word),
                    None => said,
                };
            }
            "invite" => {
                let from = self.node(line).node_id();
                line.keyword("members");
                let members = self.several(line).into_iter().map(member).collect();
                match line.next().as_deref() {
                    Some("again") => {}
                    Some(word) => line.unknown(word),
                    None => self.counter += 1,
                }
                let id = Hash::of(&self.counter.to_le_bytes());
                let before = self.consented;
                let said = self.receive(from, id, Word::Invite { members });
                let again = self.invitation == id && before != self.consented;
                assert!(!again, "it gives another consent to the same invitation");
                self.invitation = id;
                return said;
            }
            "consent" => {
                let from = self.node(line).node_id();
                return self.receive(from, self.invitation, Word::Consent { consent: consent(from) });
            }
            "decline" => {
                let from = self.node(line).node_id();
                let because_of = match line.next().as_deref() {
                    Some("because") => Some(self.node(line).node_id()),
                    Some(word) => line.unknown(word),
                    None => None,
                };
                return self.receive(from, self.invitation, Word::Decline { because_of });
            }
            "found" => return self.found(line),
            "bind" => {
                let (from, founding) = (self.node(line).clone(), self.last(line));
                let bind = Signed::new(&from, &founding.scope(), Bind { consent: consent(from.node_id()) });
                return self.receive(from.node_id(), founding.id(), Word::Bind(bind));
            }
            "refuse" => {
                let (from, founding) = (self.node(line).clone(), self.last(line));
                let refusal = Signed::new(&from, &founding.scope(), Refusal { chain: None });
                return self.receive(from.node_id(), founding.id(), Word::Refusal(refusal));
            }
            "genesis" => return self.decide(line, true),
            "abort" => return self.decide(line, false),
            "restart" => {
                self.ctx = Self::context(&self.all[self.me], self.ctx.now, 9, self.promises.clone());
                self.foundings = Foundings::restored(&mut self.ctx, self.disk.clone(), &[]);
                return self.said();
            }
            "candidates" => {
                let names = self.foundings.candidates(&self.ctx).into_iter().map(|n| self.name_of(n));
                return names.collect::<Vec<_>>().join(" ");
            }
            word => line.unknown(word),
        }
        "nothing".to_owned()
    }

    fn last(&self, line: &Line) -> Signed<Founding> {
        self.last.clone().unwrap_or_else(|| line.fail("no founding was proposed"))
    }

    fn found(&mut self, line: &mut Line) -> String {
        let proposer = self.node(line).clone();
        line.keyword("members");
        let members = self.several(line);
        let me = self.ctx.me;
        let (mut consented, mut from) = (self.consented, proposer.node_id());
        match line.next().as_deref() {
            Some("stale") => consented = Hash::of(b"made up"),
            Some("passed-on") => from = *members.iter().rev().find(|n| **n != me).unwrap_or(&from),
            Some(word) => line.unknown(word),
            None => {}
        }
        let given = |node: NodeId| if node == me { consented } else { consent(node) };
        let founder = |node: NodeId| Founder { member: member(node), consent: given(node) };
        let founders = members.into_iter().map(founder).collect();
        let content = Founding { run: params().run, founders, model: params().initial_model };
        let founding = Signed::new(&proposer, &Founding::proposal_scope(params().run), content);
        let said = self.receive(from, founding.id(), Word::Founding(founding.clone()));
        // Words on a founding are about the one that it is bound to, if it is.
        if self.foundings.bound().is_none_or(|id| id == founding.id()) {
            self.last = Some(founding);
        }
        said
    }

    /// The proposed roster has decided.
    fn decide(&mut self, line: &Line, comes_about: bool) -> String {
        let founding = self.last(line);
        let (id, scope, content) = (founding.id(), founding.scope(), founding.vouched().clone());
        let of = |node: NodeId| self.all.iter().find(|i| i.node_id() == node).expect("it is one of the five");
        let members: Vec<&Identity> = content.founders.iter().map(|f| of(f.member.node)).collect();
        let words = content.founders.iter().map(|f| Bind { consent: f.consent });
        let binds = members.iter().zip(words).map(|(i, word)| Signed::new(i, &scope, word)).collect();
        let (kind, model) = match comes_about {
            true => (Kind::Genesis { founding, binds }, content.model),
            false => (Kind::Abort, BlobRef::NONE),
        };
        let (ballot, coordinator) = (Ballot::of_round(0), members[0].node_id());
        let record = Record::plain(kind, ballot, coordinator, id, model);
        let committed = commit(&members, &scope, ballot, coordinator, record);
        self.receive(coordinator, id, Word::Decided(committed))
    }

    fn wait(&mut self, ms: u64) -> String {
        let end = self.ctx.now.plus_ms(ms);
        let mut said = Vec::new();
        loop {
            self.foundings.tick(&mut self.ctx, self.free && self.foundings.bound().is_none());
            let words = self.said();
            if words != "nothing" && !said.contains(&words) {
                said.push(words);
            }
            if self.ctx.now == end {
                break;
            }
            let due = self.foundings.deadline(&self.ctx, self.free).unwrap_or(end);
            self.ctx.now = due.clamp(self.ctx.now.plus_ms(1), end);
        }
        if said.is_empty() { "nothing".to_owned() } else { said.join("; ") }
    }

    /// What it does and says, ordered; what it writes is on disk at once.
    fn said(&mut self) -> String {
        let mut said = Vec::new();
        loop {
            while let Some(message) = self.ctx.take_loopback() {
                if let Body::Founding(word) = message.body {
                    let (me, standing) = (self.ctx.me, self.standing());
                    self.foundings.receive(&mut self.ctx, me, message.chain, word, standing);
                }
            }
            if self.foundings.take_decided(&mut self.ctx).is_some() {
                said.push("founds".to_owned());
                break;
            }
            match self.ctx.poll_effect() {
                Some(Effect::Persist { id, item }) => {
                    said.extend(self.write(item));
                    self.ctx.persisted(id);
                }
                Some(Effect::Send { to, message }) => said.extend(self.in_words(to, message)),
                Some(Effect::Emit(Event::Rejected { reject, .. })) => said.push(format!("rejects {reject:?}")),
                Some(_) => {}
                None => break,
            }
        }
        said.sort();
        said.dedup();
        if said.is_empty() { "nothing".to_owned() } else { said.join(", ") }
    }

    fn write(&mut self, item: Persist) -> Option<String> {
        for (chain, ballot) in item.promises() {
            self.promises.insert(chain, ballot);
        }
        match item {
            Persist::Bound { founding, bind } => {
                self.last = Some(founding.clone());
                self.disk = vec![RecoveredFounding::Bound { founding, bind }];
                Some("binds itself".to_owned())
            }
            Persist::Aborted { founding, proof } => {
                self.disk = vec![RecoveredFounding::Aborted { founding, proof }];
                Some("comes free".to_owned())
            }
            _ => None,
        }
    }

    fn in_words(&mut self, to: NodeId, message: Message) -> Option<String> {
        let name = self.name_of(to);
        let Body::Founding(word) = message.body else { return None };
        Some(match word {
            Word::Invite { .. } => {
                self.invitation = message.chain;
                format!("invites {name}")
            }
            Word::Consent { consent } => {
                self.consented = consent;
                format!("consents to {name}")
            }
            Word::Decline { because_of: Some(node) } => {
                format!("declines {name} because of {}", self.name_of(node))
            }
            Word::Decline { because_of: None } => format!("declines {name}"),
            Word::Founding(_) => format!("proposes to {name}"),
            Word::Bind(_) => format!("says its bind to {name}"),
            Word::Refusal(refusal) if refusal.by() == self.ctx.me => format!("refuses {name}"),
            Word::Refusal(_) => format!("passes on a refusal to {name}"),
            Word::Decided(_) => format!("says the outcome to {name}"),
        })
    }
}
