//! What the screen shows, in the sizes that it is made for.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::members::{Sort, sorted};
use super::*;
use crate::report::{Figure, Lead, MemberStatus, NewcomerStatus, ParticipantStatus};

fn member(name: &str, state: &str, since_s: u64, silent_s: Option<u64>) -> MemberStatus {
    MemberStatus {
        node_id: name.to_owned(),
        name: name.to_owned(),
        state: state.to_owned(),
        percent: (state == "training").then_some(62),
        since_ms: Some(since_s * 1_000),
        usual_ms: Some(7_000),
        reachable: silent_s.is_none(),
        silent_ms: silent_s.map(|s| s * 1_000),
        part: None,
    }
}

fn round(number: u64) -> Round {
    let accuracy = 0.2 + 0.05 * number as f64;
    let known = serde_json::json!({
        "kind": "train", "round": number, "attempt": 0, "model_hash": "", "train_loss": 2.0 / number as f64,
        "contributions": [{ "node_id": "pc1", "samples": 500, "update_hash": "", "train_ms": 6_000 }],
        "accuracy": accuracy, "metrics": { "accuracy": accuracy }, "duration_ms": 8_000, "overhead_ms": 2_000,
        "open_ms": 7_000, "bytes_sent": 0, "bytes_received": 0,
    });
    serde_json::from_value(known).expect("what is null may be left out")
}

fn state() -> State {
    let figure = |round, value| Figure { round, metric: "accuracy".to_owned(), value };
    let participant = |name: &str| ParticipantStatus { node_id: name.to_owned(), state: "training".to_owned() };
    let status = Status {
        run_name: "photos".to_owned(),
        name: "pc1".to_owned(),
        node_id: "pc1".to_owned(),
        state: "member".to_owned(),
        phase: "collecting".to_owned(),
        round: 8,
        rounds: 20,
        trained: 7,
        coordinator: Some("pc2".to_owned()),
        round_ms: Some(19_000),
        updates_in: Some(1),
        updates_needed: Some(2),
        participants: vec![participant("pc1"), participant("pc2"), participant("pc3")],
        reason: Some("pc3 is not heard since 12 s".to_owned()),
        lead: Some(Lead { metric: "accuracy".to_owned(), higher_is_better: true }),
        evaluated: Some(figure(6, 0.5)),
        best: Some(figure(5, 0.52)),
        roster: vec![
            member("pc1", "done", 3, None),
            member("pc2", "training", 19, None),
            member("pc3", "training", 9, Some(12)),
        ],
        newcomers: vec![NewcomerStatus {
            node_id: "x".to_owned(),
            name: "pc6".to_owned(),
            part: None,
            refused: Some("the part is taken".to_owned()),
        }],
        ..Status::default()
    };
    let snapshot = Snapshot {
        status: Some(status),
        rounds: Arc::new((1..=7).map(round).collect()),
        events: (1..=30).map(|n| format!("event {n}")).collect(),
        trouble: None,
    };
    State { snapshot, quits: "quit", ..State::default() }
}

/// The screen as text, lines that end where their content does.
fn drawn(state: &State, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("memory");
    terminal.draw(|frame| draw::draw(frame, state)).expect("memory");
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect::<Vec<_>>().join("\n")
}

fn key(state: &mut State, code: KeyCode) -> Asked {
    state.on_key(KeyEvent::new(code, KeyModifiers::NONE))
}

#[test]
fn a_small_and_a_large_terminal_show_everything_that_matters() {
    for (width, height) in [(80, 24), (120, 40)] {
        let text = drawn(&state(), width, height);
        for wanted in [
            "photos",
            "pc1: a member",
            "round 8 for 19 s: updates are collected, 1 of 3 are in, 2 are needed",
            "coordinated by pc2, whose turn it is",
            "pc3 is not heard since 12 s",
            "7 of 20 rounds, about 1 min 44 s left",
            "training 62 %",
            "19 s, usually 7 s: LATE",
            "silent, was: training 62 %",
            "pc6 wants to join and can't: the part is taken",
            "accuracy 50.0 % after round 6, the best was 52.0 % after round 5",
            "training loss",
            "train transfer agree",
            "event 30",
            "? help",
        ] {
            assert!(text.contains(wanted), "{wanted:?} is not on a screen of {width}x{height}:\n{text}");
        }
    }
}

#[test]
fn no_size_of_the_terminal_is_too_small_to_be_drawn() {
    let mut state = state();
    for shown in [false, true] {
        (state.shows_help, state.shows_details) = (shown, shown);
        for (width, height) in [(1, 1), (10, 3), (20, 10), (79, 23), (300, 100)] {
            drawn(&state, width, height);
        }
    }
}

#[test]
fn a_narrow_terminal_keeps_the_names_and_a_low_one_says_that_there_are_more_members() {
    let mut state = state();
    let text = drawn(&state, 50, 24);
    assert!(["pc1", "pc2", "pc3"].iter().all(|name| text.contains(&format!("\n{name}"))), "{text}");
    let status = state.snapshot.status.as_mut().expect("it has one");
    status.roster = (1..=12).map(|n| member(&format!("pc{n}"), "idle", 1, None)).collect();
    let text = drawn(&state, 80, 24);
    assert!(text.contains("of 12 members, more with the arrows"), "{text}");
}

#[test]
fn a_long_reason_and_a_long_event_are_told_whole() {
    let mut state = state();
    let long = "another node is here with another run file named photos (43a9): [data] samples: 500 there, 501 here; all \
                nodes of a run need the same file";
    state.snapshot.status.as_mut().expect("it has one").reason = Some(long.to_owned());
    state.snapshot.events = vec![long.replace("photos", "events")];
    let text = drawn(&state, 80, 24);
    assert_eq!(text.matches("501 here").count(), 2, "{text}");
}

#[test]
fn a_node_that_is_just_starting_or_alone_is_drawn() {
    assert!(drawn(&State::default(), 80, 24).contains("the node is just starting"));
    let gathering = Status { run_name: "photos".to_owned(), state: "gathering".to_owned(), ..Status::default() };
    let snapshot = Snapshot { status: Some(gathering), ..Snapshot::default() };
    let text = drawn(&State { snapshot, ..State::default() }, 80, 24);
    assert!(text.contains("waiting for enough nodes to begin") && text.contains("not measured yet"), "{text}");
}

#[test]
fn members_who_hold_the_round_up_come_first() {
    let state = state();
    let status = state.snapshot.status.as_ref().expect("it has one");
    let names = |sort| sorted(status, sort).iter().map(|m| m.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(Sort::Lateness), ["pc3", "pc2", "pc1"]);
    assert_eq!(names(Sort::Name), ["pc1", "pc2", "pc3"]);
    assert_eq!(names(Sort::Progress), ["pc2", "pc3", "pc1"]);
}

#[test]
fn keys_sort_choose_pause_help_and_quit() {
    let mut s = state();
    assert_eq!(key(&mut s, KeyCode::Char('s')), Asked::Nothing);
    assert_eq!(s.sort, Sort::Name);
    for _ in 0..5 {
        key(&mut s, KeyCode::Down);
    }
    assert_eq!(s.chosen, 2, "the last of three");
    key(&mut s, KeyCode::Enter);
    assert!(drawn(&s, 80, 24).contains("no update"), "pc3 sent none in these rounds");
    key(&mut s, KeyCode::Char('p'));
    assert!(s.is_paused && drawn(&s, 80, 24).contains("paused; the node goes on"));
    key(&mut s, KeyCode::Char('?'));
    assert!(drawn(&s, 80, 24).contains("sort members: the late first"));
    assert_eq!(key(&mut s, KeyCode::Esc), Asked::Nothing, "it closes the help");
    assert_eq!(key(&mut s, KeyCode::Esc), Asked::Quit);
    assert_eq!(key(&mut s, KeyCode::Char('q')), Asked::Quit);
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(s.on_key(interrupt), Asked::Interrupt);
}
