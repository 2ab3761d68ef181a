//! The words of the command line: how ids and numbers look, and the lines made of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use paceline_protocol::io::Event;
use paceline_protocol::{Ballot, Hash, NodeId};

use super::status::{another_chain, ends_by, figures};
use crate::doctor::{Finding, Level};
use crate::report::{self, Figure, MemberStatus, Repeated, Round, Status, Verification, name_of, name_or_id};
use paceline_model::ACCURACY;
use paceline_model::data::{Column, ColumnKind, FolderLook, TableLook};

use crate::check::Checked;
use crate::run_file::Metrics;
use crate::simulate::Summary;
use crate::trained::{About, Measured, TensorDifference};

/// A hash in short, from its text.
pub(crate) fn short_hash(hash: &str) -> String {
    hash.parse::<Hash>().map_or_else(|_| hash.to_owned(), |hash| hash.short())
}

/// A share from 0 to 1 as percent, `-` while it is unknown.
pub(crate) fn percent(share: Option<f64>, decimals: usize) -> String {
    or_dash(share, |share| format!("{:.decimals$} %", 100.0 * share))
}

pub(crate) fn loss(nats: Option<f64>, decimals: usize) -> String {
    or_dash(nats, |nats| format!("{nats:.decimals$}"))
}

/// A number to six digits.
pub(crate) fn significant(number: f64) -> String {
    format!("{number:.5e}").parse::<f64>().unwrap_or(number).to_string()
}

pub(crate) fn seconds(ms: Option<u64>) -> String {
    or_dash(ms, |ms| format!("{:.1} s", ms as f64 / 1000.0))
}

pub(crate) fn milliseconds(ms: Option<u64>) -> String {
    or_dash(ms, |ms| format!("{ms} ms"))
}

pub(crate) fn or_dash<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), text)
}

/// So many of them: `1 node`, `3 nodes`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

pub(crate) fn yes_or_no(is_so: bool) -> &'static str {
    if is_so { "yes" } else { "no" }
}

/// An error with its causes, each of them once: many tell theirs in their own text.
pub(crate) fn error_chain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text.as_str() {
        "" => cause,
        known if known.contains(&cause) => text,
        known => format!("{known}: {cause}"),
    })
}

/// What `roster drop` would do, for who has not said `--force`.
pub(crate) fn drop_warning(s: &Status) -> String {
    let others = || s.roster.iter().filter(|member| member.node_id != s.node_id);
    let names = |here: bool| {
        let names = others().filter(|member| member.reachable == here);
        names.map(|member| name_or_id(&member.name, &member.node_id)).collect::<Vec<_>>().join(", ")
    };
    let there = match names(true) {
        names if names.is_empty() => String::new(),
        names => format!(" {names} would stay in the old chain until moved."),
    };
    format!(
        "this node would go on alone, from its last model on, without {}.{there} If those that are away come back, there are two runs, and no command makes one of them. Start them if you can; if they are gone for good, repeat this with --force",
        names(false)
    )
}

/// That a node went on alone, and how others come along.
pub(crate) fn dropped(s: &Status) -> String {
    let genesis = s.genesis.as_deref().unwrap_or_default();
    format!(
        "This node goes on alone, in chain {genesis}, from its last model on ({} of {} rounds are done).\nNew nodes come with what `paceline ticket` prints. To move a node of the old chain here, stop it and start it with:\n  paceline join --switch {genesis}",
        s.trained, s.rounds
    )
}

/// A metric, with its unit if it is a share.
pub(crate) fn metric(name: &str, value: f64) -> String {
    if name == ACCURACY { percent(Some(value), 1) } else { format!("{value:.4}") }
}

/// The same with more digits.
fn exact_metric(name: &str, value: f64) -> String {
    if name == ACCURACY { percent(Some(value), 2) } else { significant(value) }
}

/// The metrics that people judge by: all but the loss, or the loss where there is no other.
pub(crate) fn judged(metrics: &BTreeMap<String, f64>) -> Vec<(&str, f64)> {
    let all: Vec<(&str, f64)> = metrics.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let others: Vec<(&str, f64)> = all.iter().copied().filter(|(name, _)| *name != "loss").collect();
    if others.is_empty() { all } else { others }
}

/// What was measured, behind other words: `, accuracy 97.4 %`.
pub(crate) fn measured_behind(metrics: &BTreeMap<String, f64>) -> String {
    judged(metrics).iter().map(|(name, value)| format!(", {name} {}", metric(name, *value))).collect()
}

/// What a run came to, judged by its leading metric: that of the last round that was measured, and the best; and why it ended,
/// if that was before its rounds did.
pub(crate) fn outcome(rounds: &[Round], metrics: &Metrics, status: Option<&Status>) -> String {
    let (last, best) = Figure::last_and_best(rounds, metrics);
    let ended = status.and_then(ends_by).map(|why| format!("; {why}")).unwrap_or_default();
    match figures(last.as_ref(), best.as_ref()) {
        Some(figures) => format!("done: {figures}{ended}"),
        None => format!("done: nobody measured {}{ended}", metrics.lead),
    }
}

/// The option that takes the best model, where that is not the last one.
pub(crate) fn best_option(status: Option<&Status>) -> &'static str {
    let rounds = status.and_then(|s| Some((s.evaluated.as_ref()?.round, s.best.as_ref()?.round)));
    if rounds.is_some_and(|(last, best)| last != best) { "   (the best one with --best)" } else { "" }
}

/// A round of a run of `rounds` as it commits. What its model is worth is known only when the next round's updates tell, so
/// the accuracy is that of the round before.
pub(crate) fn committed_round(r: &Round, before: Option<&Round>, rounds: u64, name: impl Fn(&str) -> String) -> String {
    let known = before.map(|before| (before.round, judged(&before.metrics))).filter(|(_, metrics)| !metrics.is_empty());
    let measured = known.map(|(round, metrics)| {
        let told: Vec<String> = metrics
            .iter()
            .map(|(name, value)| format!("{name} after round {round}: {}", metric(name, *value)))
            .collect();
        format!("; {}", told.join(", "))
    });
    format!(
        "round {} of {rounds}: coordinated by {}, {}, loss {}, {}{}",
        r.round,
        or_dash(r.committed_by.as_deref(), name),
        counted(r.contributions.len(), "update"),
        loss(r.train_loss, 3),
        seconds(r.duration_ms),
        measured.unwrap_or_default()
    )
}

/// A round of a simulation of `rounds`.
pub(crate) fn simulated_round(r: &Round, rounds: u64, lead: &str) -> String {
    format!(
        "round {} of {rounds}: {lead} {}, loss {}, {} updates, {}",
        r.round,
        or_dash(r.metrics.get(lead), |value| exact_metric(lead, *value)),
        loss(r.train_loss, 4),
        r.contributions.len(),
        seconds(r.duration_ms)
    )
}

/// What a simulation came to, and how fast the rounds of this start were.
pub(crate) fn simulation(s: &Summary<'_>, took: Duration) -> String {
    let value = |value| exact_metric(s.lead, value);
    let mut text = format!("{} rounds, best {} {}", s.rounds, s.lead, or_dash(s.best, value));
    if let Some(target) = s.target {
        let reached = target.reached_after;
        let reached = reached.map_or("not reached".to_owned(), |rounds| format!("reached after {rounds:.1} rounds"));
        text += &format!("; {} {reached}", value(target.value));
    }
    if let Some(here) = &s.here {
        let seconds = took.as_secs_f64();
        text += &format!(
            "\n{} rounds in {seconds:.0} s, evaluation included: {:.2} client-epochs/s\nmodel {}",
            here.rounds,
            here.client_epochs as f64 / seconds,
            here.model
        );
    }
    text
}

/// Which attempt at a round this is, where it is not the first.
fn attempt(ballot: &Ballot) -> String {
    if ballot.attempt == 0 { String::new() } else { format!(" (attempt {})", u64::from(ballot.attempt) + 1) }
}

/// An event in words; `None` for those that only programs care for. `roster` is asked for names when one is needed.
pub(crate) fn event(event: &Event, roster: impl Fn() -> Vec<MemberStatus>) -> Option<String> {
    let name = |node: &NodeId| name_of(&roster(), &node.to_string());
    Some(match event {
        // Of what comes before the first round its outcome is enough.
        Event::Elected { ballot } | Event::CoordinatorSeen { ballot, .. } | Event::AttemptOver { ballot, .. }
            if ballot.round == 0 =>
        {
            return None;
        }
        Event::FoundingBegun { members, .. } => {
            format!("proposes to the {} here to begin the run", counted(*members, "node"))
        }
        Event::FoundingAborted { .. } => "not all of them agreed in time; looks for nodes again".to_owned(),
        Event::Founded { members, .. } => format!("the run begins with {}", counted(*members, "node")),
        Event::GoesOnAlone { genesis, round } => {
            format!("goes on alone behind round {round}, in chain {genesis}")
        }
        Event::Elected { ballot } => format!("round {}: this node coordinates{}", ballot.round, attempt(ballot)),
        Event::CoordinatorSeen { ballot, coordinator } => {
            format!("round {}: {} coordinates{}", ballot.round, name(coordinator), attempt(ballot))
        }
        Event::AttemptOver { ballot, why } => format!("round {}: begins again, since {why}", ballot.round),
        Event::UpdateIn { ballot, node } => format!("round {}: the update of {} is in", ballot.round, name(node)),
        Event::Committed { round, model, .. } => format!("round {round}: committed, model {}", model.id.short()),
        Event::Liar { node } => {
            format!("{} signed two statements that contradict each other, and will be evicted", name(node))
        }
        Event::SecondCommit { round, ours, theirs, suspects } => format!(
            "round {round} was committed twice, {} here and {} elsewhere: somebody lied. Both are kept; accepted by both: {}",
            ours.short(),
            theirs.short(),
            suspects.iter().map(name).collect::<Vec<_>>().join(", ")
        ),
        Event::Yielded { from, to } => {
            format!("chain {} had no round yet and gave itself up for chain {}", from.short(), to.short())
        }
        Event::Following { .. } => "found the run under way, and asks to join it".to_owned(),
        Event::LetGo { genesis } => {
            format!("let go of chain {}: no quorum of it was in sight; looks for nodes again", genesis.short())
        }
        Event::Fork { genesis } => another_chain(&genesis.to_string()),
        Event::Joined { round } => format!("takes part from round {round} on"),
        Event::TrainingFailed { round, why } => format!("round {round}: training failed here: {why}"),
        Event::Left => "is off the roster".to_owned(),
        Event::Evicted => "was taken off the roster; joins again".to_owned(),
        Event::Halted { round, why } => {
            format!("the run stops after round {round}: training failed on all nodes, several times in a row ({why})")
        }
        Event::Finished { complete: true } => "the run is over".to_owned(),
        Event::Finished { complete: false } => "the run is over; nobody in sight has its last model".to_owned(),
        Event::Accepted { .. } | Event::Rejected { .. } => return None,
    })
}

/// What `model export` wrote.
pub(crate) fn exported(about: &About, tensors: &Path, module: Option<&Path>) -> String {
    let About { run, round, model_hash, metrics, parameters, classes, .. } = about;
    let (model, tensors) = (short_hash(model_hash), tensors.display());
    let measured = measured_behind(metrics);
    let Some(module) = module else {
        return format!(
            "Wrote {tensors}: model {model} after round {round} of {run}, {parameters} parameters under the names that its \
             trainer gave them{measured}"
        );
    };
    let name = module.file_stem().unwrap_or_default().display();
    let told = if classes.is_empty() { "a number".to_owned() } else { format!("{} classes", classes.len()) };
    format!(
        "Wrote {tensors} and {}: model {model} after round {round} of {run}, {parameters} parameters, {told}{measured}.\nIn \
         Python, with torch and safetensors: import {name}; net = {name}.load()",
        module.display()
    )
}

/// That an event file was written, and how it is looked at.
pub(crate) fn events_written(file: &Path) -> String {
    let dir = file.parent().unwrap_or(Path::new("."));
    format!("Wrote {}. Look at it with: tensorboard --logdir {}", file.display(), dir.display())
}

/// What `model eval` found, above the table of classes.
pub(crate) fn measured(m: &Measured) -> String {
    let About { run, round, model_hash, .. } = &m.about;
    let (model, loss, examples, noun) = (short_hash(model_hash), loss(Some(m.loss), 4), m.examples, &m.noun);
    let quality = match (m.correct, m.mean_error) {
        (Some(correct), _) => format!("{correct} of {examples} {noun} right, {}", percent(m.accuracy, 2)),
        (None, error) => format!("off by {} in the mean of {examples} {noun}", or_dash(error, significant)),
    };
    format!("model {model} after round {round} of {run}: {quality}, loss {loss}")
}

/// What `model diff` compares.
pub(crate) fn compared(one: &About, other: &About, tensors: &[TensorDifference]) -> String {
    let model =
        |about: &About| format!("{} after round {} of {}", short_hash(&about.model_hash), about.round, about.run);
    let changed: u64 = tensors.iter().map(|tensor| tensor.changed).sum();
    let (one_is, other_is, of) = (model(one), model(other), one.parameters);
    format!("model {one_is}, and {other_is}: {changed} of {of} numbers differ")
}

/// What `check` found.
pub(crate) fn checked(run: &str, c: &Checked) -> String {
    let mut lines = vec![format!(
        "{run}: {} parameters, of which {} are trained and travel\ndata here: {} {} to train on, {} held out",
        c.parameters, c.trained, c.examples, c.noun, c.held_out
    )];
    if !c.missing_classes.is_empty() {
        lines.push(format!("nothing to train on here of: {}", c.missing_classes.join(", ")));
    }
    lines.extend(c.notes.iter().cloned());
    lines.push(format!(
        "a round here: {} steps of {:.0} ms on {} threads, {:.1} s of training\neach node sends {} and receives {} a round; \
         whoever coordinates receives {} of each participant",
        c.steps,
        1000.0 * c.step_s,
        c.threads,
        c.round_s,
        bytes(c.update_bytes),
        bytes(c.model_bytes),
        bytes(c.update_bytes)
    ));
    lines.extend(c.memory_bytes.map(|most| format!("memory: {} at most so far, data included", bytes(most))));
    lines.join("\n")
}

/// A count of bytes for people.
fn bytes(count: u64) -> String {
    match count {
        0..=9_999 => format!("{count} bytes"),
        10_000..=9_999_999 => format!("{:.0} kB", count as f64 / 1e3),
        _ => format!("{:.0} MB", count as f64 / 1e6),
    }
}

/// What `init --from` found in a table.
pub(crate) fn looked_at_table(look: &TableLook) -> Vec<String> {
    let (rows, target) = (look.rows, &look.target);
    let (numbers, words): (Vec<&Column>, Vec<&Column>) =
        look.columns.iter().partition(|column| column.categories().is_empty());
    let told = match &target.kind {
        ColumnKind::Number { mean, deviation } => {
            format!("`{}`, a number: mean {mean}, deviation {deviation}", target.name)
        }
        ColumnKind::Categories(classes) => {
            let counts: Vec<String> = classes.iter().zip(&look.counts).map(|(c, n)| format!("{c} {n}")).collect();
            format!("`{}`, {} classes: {}", target.name, classes.len(), counts.join(", "))
        }
    };
    let mut lines = vec![
        format!("{rows} rows; to predict is {told}"),
        format!("from {} columns of numbers and {} of categories", numbers.len(), words.len()),
    ];
    lines.extend(look.notes.iter().cloned());
    lines
}

/// What `init --from` found in a folder of images.
pub(crate) fn looked_at_folder(look: &FolderLook) -> Vec<String> {
    let classes: Vec<String> = look.classes.iter().map(|(name, count)| format!("{name} {count}")).collect();
    let all: usize = look.classes.iter().map(|(_, count)| count).sum();
    let size = |(width, height): (u32, u32)| format!("{width}x{height}");
    let sizes = match look.is_uniform {
        true => format!("all {}", size(look.middle)),
        false => {
            let [smallest, largest] = look.range.map(size);
            format!("from {smallest} to {largest}, the middle one {}", size(look.middle))
        }
    };
    let colour = if look.is_grey { "grey" } else { "coloured" };
    let mut lines = vec![
        format!("{all} images of {} classes: {}", look.classes.len(), classes.join(", ")),
        format!("{colour}, {sizes}"),
    ];
    lines.extend(look.notes.iter().cloned());
    lines
}

/// What `doctor` found, a line each, and below what is not in order the fix.
pub(crate) fn findings(all: &[Finding]) -> String {
    let line = |finding: &Finding| {
        let mark = match finding.level {
            Level::Ok => "ok     ",
            Level::Warning => "warning",
            Level::Problem => "PROBLEM",
        };
        let fix = finding.fix.as_ref().map(|fix| format!("\n           fix: {fix}")).unwrap_or_default();
        format!("{mark}  {}: {}{fix}", finding.about, finding.what)
    };
    all.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// What `verify` found.
pub(crate) fn verification(v: &Verification) -> String {
    let mut lines = vec![format!("run {} ({})", v.run_name, short_hash(&v.run_id))];
    if let Some(genesis) = &v.genesis {
        let (genesis, records, rounds) = (short_hash(genesis), v.records, v.rounds);
        lines.push(format!("chain {genesis}: {records} records, {rounds} of them with updates"));
        lines.push(repeated("averages", v.averages, "made again from the updates that are kept here"));
    }
    if v.given_up > 0 {
        lines.push(format!("{} chains that gave themselves up", v.given_up));
    }
    if let Some(updates) = v.updates {
        lines.push(repeated("this node's updates", updates, "trained again from the models that are kept here"));
    }
    lines.push(format!("{} models and updates on disk have the bytes that their names say", v.blobs));
    lines.extend(v.notes.iter().map(|note| format!("note: {note}")));
    lines.extend(v.findings.iter().map(finding));
    if v.ok {
        lines.push("all of it holds".to_owned());
    }
    lines.join("\n")
}

fn repeated(what: &str, r: Repeated, how: &str) -> String {
    format!("{what}: {} of {} {how}, {} of these equal", r.repeated, r.all, r.equal)
}

/// Where, whose, what.
fn finding(f: &report::Finding) -> String {
    let round = f.round.map(|round| format!("record {round}: "));
    let by = f.culprit.as_ref().map(|c| format!("{} ({}): ", name_or_id(&c.name, &c.node_id), c.node_id));
    let (round, by) = (round.unwrap_or_default(), by.unwrap_or_default());
    format!("DOES NOT HOLD: {round}{by}{}", f.what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::short_id;

    #[test]
    fn a_cause_is_told_once() {
        let cause = std::io::Error::other("no such file");
        let error = paceline_model::DataError::Read { path: "nope".into(), source: cause };
        let error = anyhow::Error::from(error).context("part 1/2");
        assert_eq!(error_chain(&error), "part 1/2: nope: can't be read: no such file");
    }

    #[test]
    fn ids_are_short_whatever_their_text_is() {
        let (node, hash) = (NodeId::from_public_key([7; 32]), Hash::of(b"model"));
        assert_eq!((short_id(&node.to_string()), short_hash(&hash.to_string())), (node.short(), hash.short()));
        assert_eq!((short_id("1/3"), short_hash("")), ("1/3".to_owned(), String::new()));
    }

    #[test]
    fn a_committed_round_tells_the_accuracy_of_the_one_before() {
        let mut before = Round { round: 1, ..round() };
        let line = |before: Option<&Round>| committed_round(&Round { round: 2, ..round() }, before, 5, short_id);
        assert_eq!(line(Some(&before)), "round 2 of 5: coordinated by -, 0 updates, loss 0.500, 1.5 s");
        before.metrics.insert("accuracy".to_owned(), 0.25);
        assert_eq!(
            line(Some(&before)),
            "round 2 of 5: coordinated by -, 0 updates, loss 0.500, 1.5 s; accuracy after round 1: 25.0 %"
        );
    }

    fn round() -> Round {
        let known = serde_json::json!({
            "kind": "train", "round": 1, "attempt": 0, "model_hash": "", "contributions": [], "train_loss": 0.5,
            "duration_ms": 1500, "bytes_sent": 0, "bytes_received": 0,
        });
        serde_json::from_value(known).expect("what is null may be left out")
    }
}
