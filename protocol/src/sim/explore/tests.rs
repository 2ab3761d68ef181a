use super::*;

fn show(name: &str, report: &Report) {
    println!(
        "{name}: {} states, {} transitions, depth {}, {} nodes, {} handled, {} words, complete {}",
        report.states, report.transitions, report.depth, report.nodes, report.handled, report.words, report.complete
    );
    report.outcomes.iter().for_each(|o| println!("    {o}"));
    if let Some((what, way)) = &report.violation {
        println!("  {what}");
        way.iter().for_each(|w| println!("    {w}"));
    }
}

#[test]
fn try_it() {
    let word = std::env::var("S").unwrap_or_default();
    let n: Vec<u8> = word.split(',').filter_map(|s| s.parse().ok()).collect();
    let n = |i: usize| n.get(i).copied().unwrap_or(0);
    let story = match n(0) {
        0 => Story::Round,
        1 => Story::Founding { min_nodes: 3 },
        2 => Story::Founding { min_nodes: 2 },
        3 => Story::Yield { alone_yields: true },
        _ => Story::Yield { alone_yields: false },
    };
    let mut scene = Scene::new(story);
    scene.wakes = [n(1), n(2), n(3)];
    scene.sleeps = [n(4), n(5), n(6)];
    scene.crashes = (n(7) > 0).then(|| n(7) as usize - 1);
    scene.chatter = n(8) > 0;
    scene.trains_later = n(9) > 0;
    if std::env::var("ROOT").is_ok() {
        let (world, nodes) = scene.begin();
        for node in &nodes {
            let m = node.machine.as_ref().expect("it runs");
            println!("{:?} now {:?} due {:?} said {}", m.view(node.now), node.now, m.deadline(), node.said.len());
            for w in &node.said {
                println!("   to {} {}", world.words[*w as usize].to, world.describe(super::node::Act::Hear(*w)));
            }
        }
    }
    let _planted = std::env::var("PLANT").ok().map(|p| {
        use crate::base::plant::{Fault, plant};
        plant(match p.as_str() {
            "vote" => Fault::VoteBelowPromise,
            "accept" => Fault::AcceptBelowPromise,
            "few" => Fault::CommitOnTooFew,
            _ => Fault::AcceptedPassedOver,
        })
    });
    scene.early = match std::env::var("EARLY").unwrap_or_default().as_str() {
        "vote" => Some(|i| matches!(i, crate::io::Persist::Vote { .. })),
        "accept" => Some(|i| matches!(i, crate::io::Persist::Accepted { .. })),
        "bound" => Some(|i| matches!(i, crate::io::Persist::Bound { .. })),
        _ => None,
    };
    scene.forgets_accepts = std::env::var("FORGET").is_ok();
    scene.attempt_max = std::env::var("A").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let at = std::process::id();
    let max = std::env::var("MAX").ok().and_then(|s| s.parse().ok()).unwrap_or(2_000_000);
    show(&format!("{word} {at}"), &scene.explore(max));
}
