//! The text of `status`: what the node is about in lines, then who is there as a table.

use super::table;
use super::words::{counted, loss, metric, or_dash, seconds, short_hash};
use crate::report::{Figure, ForcedChain, LastCommit, MemberStatus, NewcomerStatus, Status, Training, name_or_id};

/// A member is late when it trains for so many times as long as it usually does, and for so much longer.
const LATE_TIMES: u64 = 2;
/// See [`LATE_TIMES`].
const LATE_MS: u64 = 5_000;

/// All of it.
pub(crate) fn status(s: &Status) -> String {
    let mut lines = vec![headline(s)];
    lines.extend(s.reason.as_ref().map(|reason| format!("  {reason}")));
    lines.extend(present_round(s));
    lines.extend(s.training.map(training));
    lines.extend(figures(s.evaluated.as_ref(), s.best.as_ref()));
    lines.extend(ends_by(s));
    lines.extend(s.last_commit.as_ref().map(last_commit));
    lines.extend(s.forced.as_ref().map(forced_chain));
    lines.extend(s.fork.as_ref().map(|fork| another_chain(fork)));
    if !s.roster.is_empty() {
        lines.push(table::members(s).to_string());
    }
    lines.extend(s.newcomers.iter().map(newcomer));
    lines.join("\n").trim_end().to_owned()
}

fn headline(s: &Status) -> String {
    let (run, me) = (short_hash(&s.run_id), name_or_id(&s.name, &s.node_id));
    format!("run {} ({run}): {} of {} rounds, this node {me} is {}", s.run_name, s.trained, s.rounds, state(&s.state))
}

/// What a node is to its run, in a few words.
pub(crate) fn state(name: &str) -> &str {
    match name {
        "gathering" => "waiting for enough nodes to begin",
        "founding" => "beginning the run with the others",
        "member" => "a member",
        "halted" => "a member of a run that stopped",
        "left" => "off the run for good",
        other => other,
    }
}

/// The round that is being decided, if this node takes part in it.
fn present_round(s: &Status) -> Option<String> {
    let all: Vec<String> = [round_now(s), coordination(s)].into_iter().flatten().collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// The round, its clock, and what it has.
pub(crate) fn round_now(s: &Status) -> Option<String> {
    if !is_in_round(s) {
        return None;
    }
    if s.state == "joining" {
        return Some(format!("round {} is under way, and this node joins behind it", s.round));
    }
    let since = s.round_ms.map(|ms| format!(" for {}", clock(ms))).unwrap_or_default();
    let mut line = format!("round {}{since}: {}", s.round, phase(&s.phase));
    if let (Some(count), Some(needed)) = (s.updates_in, s.updates_needed) {
        line += &format!(", {count} of {} are in, {needed} are needed", s.participants.len());
    }
    Some(line)
}

/// Who coordinates and why it, and until when it waits.
pub(crate) fn coordination(s: &Status) -> Option<String> {
    let id = s.coordinator.as_ref().filter(|_| is_in_round(s) && s.phase != "done")?;
    let name = if s.is_coordinator { "this node".to_owned() } else { s.name_of(id) };
    let why = match s.attempt {
        0 => "whose turn it is".to_owned(),
        again => format!("which took over: attempt {}", u64::from(again) + 1),
    };
    let until = s.collected_in_ms.map(|ms| format!("; goes on without the late ones in {}", clock(ms)));
    Some(format!("coordinated by {name}, {why}{}", until.unwrap_or_default()))
}

fn is_in_round(s: &Status) -> bool {
    s.round > 0 && !["stopped", "left", "finished"].contains(&s.state.as_str())
}

/// What goes on in a round, for people.
fn phase(name: &str) -> &str {
    match name {
        "electing" => "the nodes choose who coordinates",
        "recovering" => "takes up what an earlier coordinator began",
        "collecting" => "updates are collected",
        "aggregating" => "the updates are averaged",
        "proposing" => "the members agree on the average",
        "done" => "is over",
        other => other,
    }
}

fn training(t: Training) -> String {
    let what = if t.evaluating { "evaluates" } else { "trains" };
    format!("this node {what}: batch {} of {}, loss {:.3}", t.done, t.of, t.loss)
}

/// How good the model is, and how good it was at best.
pub(crate) fn figures(last: Option<&Figure>, best: Option<&Figure>) -> Option<String> {
    let (last, best) = (last?, best?);
    let told = |f: &Figure| format!("{} after round {}", metric(&f.metric, f.value), f.round);
    let best =
        if best.value == last.value { "the best so far".to_owned() } else { format!("the best was {}", told(best)) };
    Some(format!("{} {}, {best}", last.metric, told(last)))
}

/// Why the run ends before its rounds do.
pub(crate) fn ends_by(s: &Status) -> Option<String> {
    let metric = s.lead.as_ref().map_or("the metric", |lead| lead.metric.as_str());
    let why = match s.ends_by.as_deref()? {
        "target" => format!("{metric} came to the target of [stop]"),
        "patience" => format!("{metric} became no better for as many rounds as [stop] allows"),
        _ => "the time of [stop] is used up".to_owned(),
    };
    Some(format!("the run ends before its {} rounds, since {why}", s.rounds))
}

fn last_commit(c: &LastCommit) -> String {
    format!(
        "last round: {}, {}, loss {}, {}, model {}",
        c.round,
        counted(c.updates, "update"),
        loss(c.train_loss, 3),
        seconds(c.duration_ms),
        short_hash(&c.model_hash)
    )
}

fn forced_chain(c: &ForcedChain) -> String {
    format!(
        "this chain was begun by {} alone, with `paceline roster drop`: it goes on behind round {} with chain {}, whose majority was gone",
        name_or_id(&c.name, &c.by),
        c.round,
        short_hash(&c.chain)
    )
}

/// That there are two runs in place of one.
pub(crate) fn another_chain(genesis: &str) -> String {
    format!(
        "another chain of this run was seen: {genesis}; the two stay apart. If you know that it is the right one, stop this node and start it once with: paceline join --switch {genesis}"
    )
}

/// Who wants to come, and whether that may be.
pub(crate) fn newcomer(n: &NewcomerStatus) -> String {
    let name = name_or_id(&n.name, &n.node_id);
    match &n.refused {
        Some(why) => format!("{name} wants to join and can't: {why}"),
        None => format!("{name} joins with the next round that is done"),
    }
}

/// What a member does, as far as it is known: of one that was not heard of lately, what it did then.
pub(crate) fn does(m: &MemberStatus) -> String {
    let doing = match (m.state.as_str(), m.percent) {
        ("training", Some(percent)) => format!("training {percent} %"),
        ("uploading", _) => "sends its update".to_owned(),
        ("done", _) => "update is in".to_owned(),
        ("fetching", _) => "fetches the model".to_owned(),
        ("failed", _) => "its training failed".to_owned(),
        (other, _) => other.to_owned(),
    };
    match m.silent_ms {
        Some(_) if m.state == "unknown" => "silent".to_owned(),
        Some(_) => format!("silent, was: {doing}"),
        None => doing,
    }
}

/// How long a member does what it does; of training, how long it usually takes.
pub(crate) fn lasts(m: &MemberStatus) -> String {
    let Some(since) = m.since_ms.filter(|_| m.silent_ms.is_none()) else { return String::new() };
    match m.usual_ms.filter(|_| m.state == "training") {
        Some(usual) if is_late(since, usual) => format!("{}, usually {}: LATE", clock(since), clock(usual)),
        Some(usual) => format!("{}, usually {}", clock(since), clock(usual)),
        None => clock(since),
    }
}

/// Whether a training takes far longer than it usually does.
pub(crate) fn is_late(since_ms: u64, usual_ms: u64) -> bool {
    since_ms > usual_ms.saturating_mul(LATE_TIMES) && since_ms > usual_ms.saturating_add(LATE_MS)
}

/// When a member was heard of last.
pub(crate) fn heard(m: &MemberStatus, me: &str) -> String {
    match m.silent_ms {
        _ if m.node_id == me => "this node".to_owned(),
        Some(ms) => format!("{} ago", clock(ms)),
        None => or_dash(m.reachable.then_some("now"), str::to_owned),
    }
}

/// A time as a clock has it: `4 s`, `3 min 20 s`, `2 h 5 min`.
pub(crate) fn clock(ms: u64) -> String {
    let s = ms / 1_000;
    match s {
        0..60 => format!("{s} s"),
        60..3_600 => format!("{} min {} s", s / 60, s % 60),
        _ => format!("{} h {} min", s / 3_600, s / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(state: &str) -> MemberStatus {
        MemberStatus {
            node_id: "b".to_owned(),
            name: "pc2".to_owned(),
            state: state.to_owned(),
            percent: Some(40),
            since_ms: Some(19_000),
            usual_ms: Some(7_000),
            reachable: true,
            silent_ms: None,
            part: None,
        }
    }

    #[test]
    fn a_member_shows_what_it_does_how_far_and_whether_that_is_late() {
        let m = member("training");
        assert_eq!([does(&m), lasts(&m), heard(&m, "a")], ["training 40 %", "19 s, usually 7 s: LATE", "now"]);
        let m = MemberStatus { since_ms: Some(11_900), ..m };
        assert_eq!(lasts(&m), "11 s, usually 7 s");
        assert_eq!(lasts(&member("uploading")), "19 s");
    }

    #[test]
    fn what_is_only_remembered_is_shown_as_such() {
        let m = MemberStatus { silent_ms: Some(72_000), reachable: false, ..member("training") };
        assert_eq!([does(&m), lasts(&m), heard(&m, "a")], ["silent, was: training 40 %", "", "1 min 12 s ago"]);
    }

    #[test]
    fn a_round_tells_its_clock_what_is_in_and_when_patience_ends() {
        let status = Status {
            round: 12,
            state: "member".to_owned(),
            phase: "collecting".to_owned(),
            attempt: 1,
            coordinator: Some("b".to_owned()),
            round_ms: Some(65_000),
            updates_in: Some(1),
            updates_needed: Some(2),
            collected_in_ms: Some(540_000),
            roster: vec![member("training")],
            participants: Vec::new(),
            ..Status::default()
        };
        assert_eq!(
            present_round(&status).expect("it takes part"),
            "round 12 for 1 min 5 s: updates are collected, 1 of 0 are in, 2 are needed; coordinated by pc2, which took over: \
             attempt 2; goes on without the late ones in 9 min 0 s"
        );
    }

    #[test]
    fn a_node_that_does_not_run_has_no_present_round() {
        let mut s = Status { round: 3, state: "member".into(), phase: "electing".into(), ..Status::default() };
        assert!(status(&s).contains("round 3: the nodes choose who coordinates"));
        s.state = "stopped".into();
        assert!(!status(&s).contains("round 3"));
    }

    #[test]
    fn the_best_figure_is_told_beside_the_last() {
        let figure = |round, value| Figure { round, metric: "accuracy".to_owned(), value };
        let told = |last: &Figure, best: &Figure| figures(Some(last), Some(best)).expect("both are known");
        assert_eq!(
            told(&figure(11, 0.412), &figure(9, 0.43)),
            "accuracy 41.2 % after round 11, the best was 43.0 % after round 9"
        );
        assert_eq!(told(&figure(3, 0.5), &figure(3, 0.5)), "accuracy 50.0 % after round 3, the best so far");
    }
}
