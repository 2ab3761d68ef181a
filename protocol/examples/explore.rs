//! Searches through all that can happen to three machines, within bounds that are larger than those of the tests, and
//! prints how many states that are.
//!
//!     cargo run --release -p paceline-protocol --features sim --example explore -- [NAME] [STATES_MAX]
//!
//! Ends with 1 when a law is broken. A state takes about 50 bytes.

use std::process::ExitCode;

use paceline_protocol::sim::explore::{Scene, Story};

/// States of a search at most, unless it is told.
const STATES_MAX: usize = 40_000_000;

fn scenes() -> Vec<(String, Scene)> {
    let round = || Scene::new(Story::Round);
    let founding = |min_nodes| Scene::new(Story::Founding { min_nodes, nodes: 3 });
    let founding_of_two = || Scene::new(Story::Founding { min_nodes: 2, nodes: 2 });
    let mut scenes = vec![
        ("round: two ballots".to_owned(), round().wakes([0, 0, 1]).sleeps([1, 0, 1])),
        ("round: two ballots, any may stand".to_owned(), round().wakes([1, 1, 1]).sleeps([1, 1, 1])),
        (
            "round: two ballots, chatter".to_owned(),
            Scene { chatter: true, ..round().wakes([0, 0, 1]).sleeps([1, 0, 1]) },
        ),
        ("founding of three".to_owned(), founding(3)),
        ("founding of three: time".to_owned(), founding(3).wakes([1, 0, 0]).sleeps([1, 0, 0])),
        ("founding of two or three".to_owned(), founding(2).wakes([0, 1, 0])),
        ("founding of two or three: more time".to_owned(), founding(2).wakes([1, 1, 0])),
    ];
    for node in 0..2 {
        scenes.push((format!("founding of two: crash of {node}"), founding_of_two().crash(node)));
        let time = founding_of_two().wakes([1, 1, 0]).sleeps([1, 1, 0]);
        scenes.push((format!("founding of two: time, crash of {node}"), time.crash(node)));
    }
    for node in 0..3 {
        scenes.push((format!("round: crash of {node}"), round().crash(node)));
        let two_ballots = round().wakes([0, 0, 1]).sleeps([1, 0, 1]);
        scenes.push((format!("round: two ballots, crash of {node}"), two_ballots.crash(node)));
        scenes.push((
            format!("founding of three: one ballot, crash of {node}"),
            Scene { attempt_max: 0, ..founding(3).crash(node) },
        ));
        scenes.push((format!("founding of three: crash of {node}"), founding(3).crash(node)));
    }
    for alone_yields in [true, false] {
        let yields = || Scene::new(Story::Yield { alone_yields });
        let which = if alone_yields { "the smaller" } else { "the larger" };
        scenes.push((format!("yield of {which}"), yields()));
        scenes.push((format!("yield of {which}: a late trainer"), Scene { trains_later: true, ..yields() }));
        scenes.push((format!("yield of {which}: time"), yields().wakes([1, 1, 1])));
        scenes.push((format!("yield of {which}: crash"), yields().crash(if alone_yields { 0 } else { 1 })));
    }
    scenes
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_default();
    let states_max = args.next().and_then(|s| s.parse().ok()).unwrap_or(STATES_MAX);
    let mut holds = true;
    for (what, scene) in scenes().into_iter().filter(|(what, _)| what.contains(&name)) {
        let report = scene.explore(states_max);
        print!("{what}: {report}");
        holds &= report.violation.is_none();
    }
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
