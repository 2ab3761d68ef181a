//! Tables without lines, as wide as their content.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use comfy_table::{ContentArrangement, Table, presets};

use super::status;
use super::words::{loss, metric, milliseconds, or_dash, percent, seconds, short_hash, significant, yes_or_no};
use crate::report::{HomeLine, PartLabels, Peer, Round, SeenLine, Status, name_of, short_id};
use crate::trained::{Measured, Prediction, TensorDifference};

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    table
}

/// The rounds of a run, with what `name` makes of the ids of nodes. What is the same in every round has no column: that a round
/// has updates, and was done at the first attempt.
pub(crate) fn rounds(rounds: &[Round], name: impl Fn(&str) -> String) -> Table {
    // What a trainer measures beside or in place of the accuracy.
    let others: BTreeSet<&str> = rounds.iter().flat_map(|r| r.metrics.keys().map(String::as_str)).collect();
    let others: Vec<&str> = others.into_iter().filter(|name| !["accuracy", "loss"].contains(name)).collect();
    type Cell<'a> = Box<dyn Fn(&Round) -> String + 'a>;
    fn column<'a>(name: &'a str, cell: impl Fn(&Round) -> String + 'a) -> (&'a str, Cell<'a>) {
        (name, Box::new(cell))
    }
    let attempt = |r: &Round| r.committed_attempt.unwrap_or(r.attempt);
    let mut columns = vec![column("round", |r| r.round.to_string())];
    if rounds.iter().any(|r| r.kind != "train") {
        columns.push(column("kind", |r| r.kind.clone()));
    }
    if rounds.iter().any(|r| attempt(r) > 0) {
        columns.push(column("attempt", |r| (u64::from(attempt(r)) + 1).to_string()));
    }
    columns.push(column("by", |r| r.committed_by.as_deref().map_or_else(String::new, &name)));
    columns.push(column("updates", |r| r.contributions.len().to_string()));
    columns.push(column("loss", |r| loss(r.train_loss, 3)));
    if others.is_empty() || rounds.iter().any(|r| r.accuracy.is_some()) {
        columns.push(column("accuracy", |r| percent(r.accuracy, 1)));
    }
    for &name in &others {
        columns.push(column(name, move |r| or_dash(r.metrics.get(name), |value| metric(name, *value))));
    }
    columns.push(column("duration", |r| seconds(r.duration_ms)));
    columns.push(column("overhead", |r| milliseconds(r.overhead_ms)));
    columns.push(column("model", |r| short_hash(&r.model_hash)));
    let header: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let mut table = table(&header);
    for round in rounds {
        table.add_row(columns.iter().map(|(_, cell)| cell(round)));
    }
    table
}

/// Two runs, round by round, by a metric; with the bytes that each had received by then.
pub(crate) fn compared(one: &[Round], other: &[Round], names: [&str; 2], lead: &str) -> Table {
    let [a, b] = names;
    let header =
        ["round".to_owned(), format!("{lead} of {a}"), format!("of {b}"), format!("seconds of {a}"), format!("of {b}")];
    let mut table = table(&header.each_ref().map(String::as_str));
    let all: BTreeSet<u64> = one.iter().chain(other).map(|r| r.round).collect();
    for round in all {
        let find = |rounds: &[Round]| rounds.iter().find(|r| r.round == round).cloned();
        let (a, b) = (find(one), find(other));
        let value = |r: &Option<Round>| or_dash(r.as_ref().and_then(|r| r.metrics.get(lead)), |v| metric(lead, *v));
        let took = |r: &Option<Round>| seconds(r.as_ref().and_then(|r| r.duration_ms));
        table.add_row([round.to_string(), value(&a), value(&b), took(&a), took(&b)]);
    }
    table
}

/// What images or rows are taken for: the three most probable classes of each, or the number.
pub(crate) fn predictions(predictions: &[Prediction]) -> String {
    let is_number = predictions.iter().any(|p| p.number.is_some());
    let is_row = predictions.iter().any(|p| p.line.is_some());
    let what = if is_row { "row" } else { "image" };
    let mut table = if is_number { table(&[what, "told"]) } else { table(&[what, "label", "probability", "or"]) };
    for p in predictions {
        let file = p.file.display();
        let what = p.line.map_or(file.to_string(), |line| format!("{file}:{line}"));
        if let Some(number) = p.number {
            table.add_row([what, significant(number)]);
            continue;
        }
        let shown = |(name, share): &(String, f32)| format!("{name} {}", percent(Some(f64::from(*share)), 1));
        let first = p.probabilities.first().map(|(_, share)| f64::from(*share));
        let others: Vec<String> = p.probabilities.iter().skip(1).take(2).map(shown).collect();
        table.add_row([what, p.label.clone().unwrap_or_default(), percent(first, 1), others.join(", ")]);
    }
    table.to_string()
}

/// How tensors differ between two models.
pub(crate) fn tensors(tensors: &[TensorDifference]) -> Table {
    let mut table = table(&["tensor", "shape", "norm", "difference", "largest", "changed"]);
    for t in tensors {
        table.add_row([
            t.name.clone(),
            format!("{:?}", t.shape),
            format!("{:.4}", t.norm),
            format!("{:.4}", t.difference),
            format!("{:.4}", t.largest),
            t.changed.to_string(),
        ]);
    }
    table
}

/// How good a model is at each class, and what it takes most of the others for.
pub(crate) fn classes(m: &Measured) -> Table {
    let mut table = table(&["class", m.noun.as_str(), "right", "taken for"]);
    for (label, class) in m.classes.iter().enumerate() {
        let mut others: Vec<(u64, &str)> = class
            .taken_for
            .iter()
            .zip(&m.classes)
            .enumerate()
            .filter(|(answer, (n, _))| *answer != label && **n > 0)
            .map(|(_, (n, other))| (*n, other.name.as_str()))
            .collect();
        others.sort_by_key(|(n, _)| Reverse(*n));
        let most: Vec<String> = others.iter().take(3).map(|(n, name)| format!("{name} {n}")).collect();
        let share = (class.examples > 0).then(|| class.correct as f64 / class.examples as f64);
        table.add_row([class.name.clone(), class.examples.to_string(), percent(share, 1), most.join(", ")]);
    }
    table
}

/// The roster of a status: who takes part in the round is shown by that.
pub(crate) fn members(s: &Status) -> Table {
    let mut table = table(&["node", "part", "does", "for", "heard of"]);
    for m in &s.roster {
        table.add_row([
            name_of(&s.roster, &m.node_id),
            m.part.clone().unwrap_or_default(),
            status::does(m),
            status::lasts(m),
            status::heard(m, &s.node_id),
        ]);
    }
    table
}

/// This machine's homes.
pub(crate) fn homes(homes: &[HomeLine]) -> Table {
    let mut table = table(&["run", "id", "node", "rounds", "best", "home"]);
    for line in homes {
        let status = line.status.as_ref();
        let best = status.and_then(|s| s.best.as_ref());
        table.add_row([
            line.run.clone(),
            short_hash(&line.run_id),
            status.map_or_else(|| "busy".to_owned(), |s| s.state.clone()),
            status.map_or_else(String::new, |s| format!("{} of {}", s.trained, s.rounds)),
            or_dash(best, |f| format!("{} {}", f.metric, metric(&f.metric, f.value))),
            line.home.clone(),
        ]);
    }
    table
}

/// Runs on the LAN.
pub(crate) fn seen(runs: &[SeenLine]) -> Table {
    let mut table = table(&["run", "id", "nodes seen lately"]);
    for run in runs {
        table.add_row([run.run.clone(), short_hash(&run.run_id), run.nodes.to_string()]);
    }
    table
}

/// Who is there, each with its best address.
pub(crate) fn peers(peers: &[Peer]) -> Table {
    let mut table = table(&["node", "name", "does", "reachable", "addresses"]);
    for peer in peers {
        table.add_row([
            short_id(&peer.member.node_id),
            peer.member.name.clone(),
            peer.member.state.clone(),
            yes_or_no(peer.member.reachable).to_owned(),
            // Whose it is stands before it.
            peer.addresses.first().map(|a| a.split("/p2p/").next().unwrap_or(a).to_owned()).unwrap_or_default(),
        ]);
    }
    table
}

/// Heights of the columns that `parts` draws, from nothing to all.
const COLUMNS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Classes that a line has room to draw.
const CLASSES_DRAWN: usize = 40;

/// What each part has of each of so many classes.
pub(crate) fn parts(parts: &[PartLabels], classes: usize, noun: &str) -> Table {
    let mut table = table(&["part", noun, "classes", "of each class, drawn", "of each class"]);
    let largest = parts.iter().flat_map(|part| &part.labels).copied().max().unwrap_or(0).max(1);
    for part in parts {
        // A class that is there is drawn, however few its examples are.
        let column = |count: &u64| COLUMNS[((count * 8).div_ceil(largest)) as usize];
        let drawn: String = part.labels.iter().take(CLASSES_DRAWN).map(column).collect();
        let held = part.labels.iter().filter(|count| **count > 0).count();
        let counts: Vec<String> = part.labels.iter().take(CLASSES_DRAWN).map(u64::to_string).collect();
        table.add_row([
            part.part.clone(),
            part.examples.to_string(),
            format!("{held} of {classes}"),
            format!("|{drawn}|"),
            counts.join(" "),
        ]);
    }
    table
}
