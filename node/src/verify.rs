//! A home checked offline (docs/protocol.md, section 2, promise 4): every record with its signatures and accepts, what the
//! node promised, the bytes of what is kept, and, where updates are kept, the averages, bit for bit.
//!
//! It believes nothing that the node wrote: the rules are those by which members accept records (`Chain`), and whatever does
//! not hold becomes a [`Finding`] with the record and the node whose word it is.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use paceline_model::{Device, Task, Threads, Trainable};
use paceline_protocol::base::signed::{Scope, Signed, Verifier};
use paceline_protocol::chain::flaws::{Flaw, genesis_flaws};
use paceline_protocol::chain::{Chain, RunParams};
use paceline_protocol::io::{Persist, RecoveredBallot};
use paceline_protocol::record::{Committed, Forced, Kind, Proposal, Record, Vote, founding_scope};
use paceline_protocol::{Hash, NodeId};

use crate::blobs::{BlobError, BlobFolder, Manifest};
use crate::inspect;
use crate::learn::{Basis, ControlVariates, Formats, Plan, tuned};
use crate::report::{Culprit, Finding, Repeated, Verification};
use crate::run_file::{ModelSection, Net};
use crate::store::{Contents, HistoryEntry, Home};

/// How this node's own training is repeated.
#[derive(Debug)]
pub struct Retrain<'a> {
    /// Its data, as `join` takes it; none where they are generated.
    pub data: Option<&'a Path>,
    /// How many threads compute.
    pub threads: usize,
}

/// Checks a home whose node does not run. Nothing in it is changed.
///
/// # Errors
/// The node runs, there is no run file, the database or the data can't be read. What can be read and does not hold is a
/// finding.
pub fn verify(home: &Home, retrain: Option<Retrain<'_>>) -> anyhow::Result<Verification> {
    let run_file = inspect::run_file(home)?;
    let basis = Basis::of(home, &run_file)?;
    let plan = match run_file.learning.model.net() {
        Net::Trainer => None,
        Net::Preset(_) | Net::Layers(_) => Some(Plan::of(&run_file)?),
    };
    let me = inspect::node_id(home)?;
    let threads = retrain.as_ref().map(|r| Threads::new(r.threads)).transpose()?;
    let report = Verification {
        ok: true,
        run_id: run_file.run_id().to_string(),
        run_name: run_file.run.name.clone(),
        node_id: me.map(|node| node.to_string()),
        genesis: None,
        records: 0,
        rounds: 0,
        given_up: 0,
        averages: Repeated::default(),
        updates: retrain.is_some().then(Repeated::default),
        blobs: 0,
        findings: Vec::new(),
        notes: Vec::new(),
    };
    let mut check = Check {
        params: RunParams::of(&run_file, basis.formats.learned(&run_file, basis.initial_model)),
        formats: basis.formats,
        base: basis.base,
        model: run_file.learning.model.clone(),
        plan,
        blobs: BlobFolder::at(home.blobs()),
        controls: ControlVariates::at(home.controls()),
        verifier: Verifier::default(),
        me,
        retrain: retrain.zip(threads),
        names: BTreeMap::new(),
        report,
    };
    match inspect::contents(home)? {
        Some(contents) => check.contents(&contents)?,
        None => check.report.notes.push("this node was never started".to_owned()),
    }
    check.blobs()?;
    let mut report = check.report;
    report.ok = report.findings.is_empty();
    Ok(report)
}

struct Check<'a> {
    params: RunParams,
    formats: Formats,
    /// The weights that the run began with, where not its seed says them.
    base: Option<Hash>,
    model: ModelSection,
    /// What can train an update again; none of a run that trainers train.
    plan: Option<Plan>,
    blobs: BlobFolder,
    controls: ControlVariates,
    verifier: Verifier,
    me: Option<NodeId>,
    retrain: Option<(Retrain<'a>, Threads)>,
    /// What people call the nodes that were ever on a roster.
    names: BTreeMap<NodeId, String>,
    report: Verification,
}

impl Check<'_> {
    fn contents(&mut self, contents: &Contents) -> anyhow::Result<()> {
        let mut chains = Vec::new();
        for (genesis, entries) in &contents.chains {
            chains.extend(self.chain(*genesis, entries, contents.current == Some(*genesis))?);
            self.promised(*genesis, entries, contents);
        }
        if let Some(wanted) = contents.current
            && !contents.chains.iter().any(|(genesis, _)| *genesis == wanted)
        {
            self.find(
                Some(wanted),
                None,
                None,
                "the node is in this chain, and none of its records is here".to_owned(),
            );
        }
        contents.ballots.iter().for_each(|ballot| self.ballot(ballot, &chains, contents));
        self.lies(&chains, contents);
        if let Some(chain) = chains.iter().find(|chain| contents.current == Some(chain.genesis())) {
            self.continued(chain, &chains);
        }
        Ok(())
    }

    /// Whether a chain that a member began alone goes on where the one that it left ends, as far as that is here.
    fn continued(&mut self, chain: &Chain, chains: &[Chain]) {
        let Some(Forced { chain: old, head, round, trained, model, member, .. }) = chain.forced() else { return };
        self.report.notes.push(format!(
            "{} ({}) began this chain alone, with `paceline roster drop`, behind round {round} of chain {}",
            member.name,
            member.node,
            old.short()
        ));
        let Some(left) = chains.iter().find(|c| c.genesis() == *old) else { return };
        let record = left.records().iter().map(|c| &c.record).find(|record| record.hash() == *head);
        let is_it = |r: &Record| r.model == *model && left.progress_at(r.round) == (*round, *trained);
        if !record.is_some_and(is_it) {
            let what = "what it says that it continues is not what its old chain, kept here, has: a record with another model, or in another place, or none";
            self.find(Some(chain.genesis()), Some(0), Some(member.node), what.to_owned());
        }
    }

    fn find(&mut self, genesis: Option<Hash>, round: Option<u64>, by: Option<NodeId>, what: String) {
        let culprit = by.map(|node| self.culprit(node));
        let genesis = genesis.map(|genesis| genesis.to_string());
        self.report.findings.push(Finding { genesis, round, culprit, file: None, what });
    }

    fn find_flaw(&mut self, genesis: Hash, round: u64, flaw: Flaw) {
        let what = format!("{}: {}", flaw.part.name(), flaw.reject);
        self.find(Some(genesis), Some(round), Some(flaw.by), what);
    }

    fn culprit(&self, node: NodeId) -> Culprit {
        Culprit { node_id: node.to_string(), name: self.names.get(&node).cloned().unwrap_or_default() }
    }

    fn learn_names(&mut self, chain: &Chain) {
        self.names.extend(chain.roster().members().iter().map(|m| (m.node, m.name.clone())));
    }

    /// Every record of a chain. Gives the chain as far as its records follow from each other.
    fn chain(&mut self, genesis: Hash, entries: &[HistoryEntry], is_current: bool) -> anyhow::Result<Option<Chain>> {
        let Some((first, rest)) = entries.split_first() else { return Ok(None) };
        let hash = first.committed.record.hash();
        if hash != genesis {
            let what = format!("the genesis has the hash {hash}, which is not the chain's name");
            self.find(Some(genesis), Some(0), Some(first.committed.record.coordinator), what);
        }
        let flaws = genesis_flaws(&self.params, &first.committed, &self.verifier);
        flaws.iter().for_each(|flaw| self.find_flaw(genesis, 0, *flaw));
        let begun = Chain::begin(self.params.clone(), first.committed.clone(), self.verifier.clone());
        let Ok(mut chain) = begun else {
            self.report.notes.push(format!("{} records after the genesis can't be judged without it", rest.len()));
            return Ok(None);
        };
        if is_current {
            self.report.genesis = Some(genesis.to_string());
        }
        for HistoryEntry { committed, .. } in rest {
            self.learn_names(&chain);
            if !self.record(&mut chain, committed, is_current)? {
                break;
            }
        }
        self.learn_names(&chain);
        match is_current {
            true => {
                self.report.records = chain.records().len() as u64;
                self.report.rounds = chain.trained();
                self.head(&chain);
            }
            false => self.report.given_up += u64::from(chain.yielded_to().is_some()),
        }
        Ok(Some(chain))
    }

    /// The next record. Says whether the one after it can be judged.
    fn record(&mut self, chain: &mut Chain, committed: &Committed, is_current: bool) -> anyhow::Result<bool> {
        let (genesis, round) = (chain.genesis(), committed.record.round);
        let flaws = chain.flaws(committed);
        flaws.iter().for_each(|flaw| self.find_flaw(genesis, chain.next_round(), *flaw));
        if is_current && matches!(committed.record.kind, Kind::Train) && flaws.is_empty() {
            self.average(chain, &committed.record);
            self.retrain(chain, &committed.record)?;
        }
        // A record whose signatures fail still says what follows from it.
        let follows = chain.append_stored(committed.clone()).is_ok();
        if !follows {
            self.report
                .notes
                .push(format!("records after round {round} can't be judged: this one has no place in the chain"));
        }
        Ok(follows)
    }

    /// Makes a record's model again, if the model before it and all of its updates are kept.
    fn average(&mut self, chain: &Chain, record: &Record) {
        self.report.averages.all += 1;
        let Ok(parent) = self.blobs.read(chain.head().model.id) else { return };
        let mut sum = self.formats.update.sum();
        for (node, contribution) in record.contributions() {
            let Ok(update) = self.blobs.read(contribution.update.id) else { return };
            if let Err(error) = sum.add(&update, contribution.samples) {
                let what = format!("its update can't be averaged ({error}), and was");
                return self.find(Some(chain.genesis()), Some(record.round), Some(node), what);
            }
        }
        let samples = chain.samples_of_roster(record.contributions().map(|(node, c)| (node, c.samples)));
        self.report.averages.repeated += 1;
        let made = self.formats.rule().step(&parent, &sum, samples).map(|state| Manifest::of(&state).blob());
        match made {
            Ok(blob) if blob == record.model => self.report.averages.equal += 1,
            Ok(blob) => {
                let (ours, theirs) = (blob.id.short(), record.model.id.short());
                let what = format!("the average of its updates is {ours}, its coordinator made {theirs} of them");
                self.find(Some(chain.genesis()), Some(record.round), Some(record.coordinator), what);
            }
            Err(error) => {
                let what = format!("its updates have no average ({error}), and its coordinator made one");
                self.find(Some(chain.genesis()), Some(record.round), Some(record.coordinator), what);
            }
        }
    }

    /// Trains this node's update again, if the model before it is kept.
    fn retrain(&mut self, chain: &Chain, record: &Record) -> anyhow::Result<()> {
        let Some((retrain, threads)) = &self.retrain else { return Ok(()) };
        let Some(repeated) = &mut self.report.updates else { return Ok(()) };
        let mine = record.contributions().find(|(node, _)| Some(*node) == self.me);
        let Some((me, contribution)) = mine else { return Ok(()) };
        repeated.all += 1;
        let (Some(member), Ok(parent)) = (chain.roster().get(me), self.blobs.read(chain.head().model.id)) else {
            return Ok(());
        };
        let last_update = chain.last_contribution_of(me).map(|c| c.update.id);
        // A trainer is its owner's: nobody here could start it, and its arithmetic is not promised to repeat.
        let Some(plan) = self.plan.as_ref().filter(|_| contribution.trainer.is_empty()) else { return Ok(()) };
        let rule = self.formats.rule();
        let control = match rule.has_controls() {
            true => self.controls.read(last_update, self.formats.parameters()).ok().flatten(),
            false => None,
        };
        if rule.has_controls() && control.is_none() && last_update.is_some() {
            return Ok(());
        }
        tracing::info!("trains round {} again", record.round);
        let images = plan.learner(plan.data(retrain.data, member.part)?, Device::Cpu);
        let base = self.base.map_or_else(|| Ok(plan.drawn_weights()?), |base| anyhow::Ok(self.blobs.read(base)?))?;
        let learner = tuned(Arc::new(images), base, &self.model)?;
        let (round, seed, node_key, state) = (chain.training_round(), plan.seed, &member.key(), parent.as_slice());
        let task =
            Task { round, seed, node_key, rule, state, control: control.as_deref(), trainable: Trainable::all() };
        repeated.repeated += 1;
        let trained = learner.train(&task, threads, &mut |_| ControlFlow::Continue(()));
        let ours = trained.map(|trained| Manifest::of(&trained.update).blob());
        let what = match ours {
            Ok(ours) if ours == contribution.update => {
                repeated.equal += 1;
                return Ok(());
            }
            Ok(ours) => format!(
                "this node's update comes out as {} and was {}: other data than then, another kind of CPU, or not its training",
                ours.id.short(),
                contribution.update.id.short()
            ),
            Err(error) => format!("this node's training fails, and did not then: {error}"),
        };
        self.find(Some(chain.genesis()), Some(record.round), Some(me), what);
        Ok(())
    }

    /// Whether the model that the chain ends with is here.
    fn head(&mut self, chain: &Chain) {
        let model = chain.head().model;
        if matches!(self.blobs.read(model.id), Err(BlobError::Missing(_))) {
            let text = format!("the model of the last record, {}, is not here; a start fetches it", model.id.short());
            self.report.notes.push(text);
        }
    }

    /// Whether the node still knows that its rounds are decided: one that forgets votes twice.
    fn promised(&mut self, genesis: Hash, entries: &[HistoryEntry], contents: &Contents) {
        let Some(HistoryEntry { committed, stats }) = entries.last() else { return };
        let (committed, stats) = (committed.clone(), *stats);
        let round = committed.record.round;
        let due = Persist::Committed { chain: genesis, committed, stats }.promises();
        for (chain, ballot) in due {
            let kept = contents.promises.iter().find(|(of, _)| *of == chain).map(|(_, kept)| *kept);
            if kept.is_none_or(|kept| kept < ballot) {
                let what = format!(
                    "the promise that goes with this record is gone: kept is {}, due is {ballot}; the node must not vote again",
                    kept.map_or_else(|| "none".to_owned(), |kept| kept.to_string())
                );
                self.find(Some(genesis), Some(round), self.me, what);
            }
        }
    }

    /// A vote and an accepted proposal of a round that is not decided: this node's own, and within its promise.
    fn ballot(&mut self, ballot: &RecoveredBallot, chains: &[Chain], contents: &Contents) {
        let RecoveredBallot { chain, round, vote, accepted } = ballot;
        let scope = match chains.iter().find(|c| c.genesis() == *chain && c.next_round() == *round) {
            Some(current) => current.scope(),
            None if *round == 0 => founding_scope(self.params.run, *chain),
            None => return,
        };
        let wrong = self.vote_flaw(vote.as_ref(), &scope).or_else(|| self.accepted_flaw(accepted.as_ref(), &scope));
        if let Some(what) = wrong {
            self.find(Some(*chain), Some(*round), self.me, what);
        }
        let vote = vote.clone().map(|vote| Persist::Vote { chain: *chain, vote });
        let accepted = accepted.clone().map(|proposal| Persist::Accepted { chain: *chain, proposal });
        let said = vote.iter().chain(&accepted).flat_map(Persist::promises).map(|(_, ballot)| ballot).max();
        let kept = contents.promises.iter().find(|(of, _)| of == chain).map(|(_, kept)| *kept);
        if said > kept {
            self.find(
                Some(*chain),
                Some(*round),
                self.me,
                "a vote or accept is above the promise that is kept".to_owned(),
            );
        }
    }

    fn vote_flaw(&self, vote: Option<&Signed<Vote>>, scope: &Scope) -> Option<String> {
        let vote = vote?;
        if Some(vote.by()) != self.me {
            return Some(
                "the vote in this store is another node's: the store and the identity don't belong together".to_owned(),
            );
        }
        vote.open(scope, &self.verifier).err().map(|reject| format!("this node's vote: {reject}"))
    }

    fn accepted_flaw(&self, accepted: Option<&Proposal>, scope: &Scope) -> Option<String> {
        accepted?
            .open(scope, &self.verifier)
            .err()
            .map(|reject| format!("the proposal that this node accepted: {reject}"))
    }

    /// Lies that the node was shown, and second truths, each of its own chain.
    fn lies(&mut self, chains: &[Chain], contents: &Contents) {
        for evidence in &contents.evidence {
            // One of a chain that the node let go of can't be judged any more.
            let Some(chain) = chains.iter().find(|c| [c.genesis(), c.founding()].contains(&evidence.chain)) else {
                continue;
            };
            match chain.liar(evidence) {
                Ok(liar) => {
                    let name = self.names.get(&liar).cloned().unwrap_or_else(|| liar.short());
                    self.report
                        .notes
                        .push(format!("{name} ({liar}) signed what no honest node signs; the proof is kept"));
                }
                Err(reject) => {
                    self.find(
                        Some(chain.genesis()),
                        None,
                        None,
                        format!("a proof of a lie that proves nothing: {reject}"),
                    );
                }
            }
        }
        for second in &contents.second_commits {
            let round = second.record.round;
            let place = |chain: &Chain| chain.records().get(usize::try_from(round).ok()?).cloned();
            let follows = |own: &Committed| own.record.parent == second.record.parent;
            let Some((chain, own)) = chains.iter().find_map(|c| Some((c, place(c).filter(follows)?))) else { continue };
            let accepted_own = |node: NodeId| own.accepts.iter().any(|a| a.by() == node);
            let both: Vec<NodeId> = second.accepts.iter().map(|a| a.by()).filter(|node| accepted_own(*node)).collect();
            let what =
                format!("this round has a second commit, {}: members accepted both", second.record.hash().short());
            if both.is_empty() {
                self.find(Some(chain.genesis()), Some(round), None, what.clone());
            }
            both.into_iter().for_each(|node| self.find(Some(chain.genesis()), Some(round), Some(node), what.clone()));
        }
    }

    /// The bytes of everything that calls itself whole.
    fn blobs(&mut self) -> anyhow::Result<()> {
        for id in self.blobs.ids()? {
            match self.blobs.read(id) {
                Ok(_) => self.report.blobs += 1,
                Err(error @ (BlobError::Damaged(_) | BlobError::Disk { .. })) => {
                    let (BlobError::Damaged(path) | BlobError::Disk { path, .. }) = &error else { continue };
                    let file = Some(path.display().to_string());
                    let what = error.to_string();
                    self.report.findings.push(Finding { genesis: None, round: None, culprit: None, file, what });
                }
                Err(BlobError::Missing(_)) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
