//! Nodes meet, through a bootstrap or each other, and part.

mod common;

use std::time::Duration;

use common::{addresses, bootstrap, during, is_up, node, node_speaking, parse, peer, run_file, until};
use libp2p::StreamProtocol;
use paceline_bootstrap::DiscoveryEvent::{Malformed, PeerDown, PeerUp};
use paceline_bootstrap::node_id;

#[tokio::test]
async fn nodes_meet_through_a_bootstrap_and_stay_when_it_goes_away() {
    let file = run_file(1);
    let (ready, stop) = bootstrap(None, 0).await;
    let given = parse(&ready.addresses);
    let (mut a, mut b, mut c) = (node(&file, &given).await, node(&file, &given).await, node(&file, &given).await);
    let mut ups = 0;
    until(&mut [&mut a, &mut b, &mut c], |_, event| {
        ups += usize::from(matches!(event, PeerUp(_)));
        (ups == 6).then_some(())
    })
    .await;
    drop(stop);
    let after = during(&mut [&mut a, &mut b, &mut c], Duration::from_secs(1)).await;
    assert!(!after.iter().any(|(_, e)| e.contains("PeerDown") || e.contains("PeerUp")), "{after:?}");
}

#[tokio::test]
async fn a_node_serves_as_first_address() {
    let file = run_file(1);
    let mut a = node(&file, &[]).await;
    let mut b = node(&file, &addresses(&a)).await;
    let mut c = node(&file, &addresses(&a)).await;
    let mut ups = 0;
    until(&mut [&mut a, &mut b, &mut c], |_, event| {
        ups += usize::from(matches!(event, PeerUp(_)));
        (ups == 6).then_some(())
    })
    .await;
    assert!(is_up(&b, &c) && is_up(&c, &b));
}

#[tokio::test]
async fn nodes_that_dial_each_other_at_once_are_up_once() {
    let file = run_file(1);
    let (mut a, mut b) = (node(&file, &[]).await, node(&file, &[]).await);
    let (of_a, of_b) = (addresses(&a), addresses(&b));
    let (id_a, id_b) = (peer(&a), peer(&b));
    a.behaviour_mut().discovery.learn(id_b, &of_b);
    b.behaviour_mut().discovery.learn(id_a, &of_a);
    let events = during(&mut [&mut a, &mut b], Duration::from_secs(2)).await;
    let count = |what: &str| events.iter().filter(|(_, e)| e.contains(what)).count();
    assert_eq!((count("PeerUp"), count("PeerDown")), (2, 0), "{events:?}");
}

#[tokio::test]
async fn a_node_that_dies_is_down() {
    let file = run_file(1);
    let mut a = node(&file, &[]).await;
    let mut b = node(&file, &addresses(&a)).await;
    let mut ups = 0;
    until(&mut [&mut a, &mut b], |_, event| {
        ups += usize::from(matches!(event, PeerUp(_)));
        (ups == 2).then_some(())
    })
    .await;
    // A connection that ends as soon as it began is another matter.
    during(&mut [&mut a, &mut b], Duration::from_secs(1)).await;
    let gone = node_id(&peer(&b));
    drop(b);
    until(&mut [&mut a], |_, event| matches!(event, PeerDown(node) if Some(*node) == gone).then_some(())).await;
}

#[tokio::test]
async fn a_node_of_another_run_is_never_up() {
    let mut a = node(&run_file(1), &[]).await;
    let mut b = node(&run_file(2), &addresses(&a)).await;
    let events = during(&mut [&mut a, &mut b], Duration::from_secs(2)).await;
    assert!(!events.iter().any(|(_, e)| e.contains("PeerUp")), "{events:?}");
    assert!(!is_up(&a, &b) && !is_up(&b, &a));
}

#[tokio::test]
async fn a_bootstrap_that_comes_late_is_found() {
    let file = run_file(1);
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let given = vec![format!("/ip4/127.0.0.1/tcp/{port}").parse().expect("a multiaddr")];
    let (mut a, mut b) = (node(&file, &given).await, node(&file, &given).await);
    let before = during(&mut [&mut a, &mut b], Duration::from_secs(1)).await;
    assert!(!before.iter().any(|(_, e)| e.contains("PeerUp")), "{before:?}");
    let (_, _stop) = bootstrap(None, port).await;
    until(&mut [&mut a, &mut b], |_, event| matches!(event, PeerUp(_)).then_some(())).await;
}

#[tokio::test]
async fn who_is_turned_away_is_down_and_does_not_come_in_again() {
    let file = run_file(1);
    let mut a = node(&file, &[]).await;
    let mut b = node(&file, &addresses(&a)).await;
    until(&mut [&mut a, &mut b], |i, event| (i == 0 && matches!(event, PeerUp(_))).then_some(())).await;
    during(&mut [&mut a, &mut b], Duration::from_secs(1)).await;
    let unwanted = peer(&b);
    a.behaviour_mut().discovery.turn_away(unwanted);
    let events = during(&mut [&mut a, &mut b], Duration::from_secs(2)).await;
    let of_a: Vec<_> = events.iter().filter(|(i, e)| *i == 0 && e.contains("Peer")).collect();
    assert_eq!(of_a.len(), 1, "{events:?}");
    assert!(of_a[0].1.contains("PeerDown"), "{events:?}");
}

#[tokio::test]
async fn malformed_bytes_on_peer_exchange_cost_a_refusal_and_nothing_else() {
    let file = run_file(1);
    let mut a = node(&file, &[]).await;
    let peer_exchange = StreamProtocol::new("/paceline/5/peer-exchange");
    let mut hostile = node_speaking(&file, &addresses(&a), peer_exchange).await;
    // It speaks no run, so it isn't told apart from a bootstrap.
    during(&mut [&mut a, &mut hostile], Duration::from_secs(1)).await;
    let huge = [&u32::MAX.to_le_bytes()[..], &[0; 100]].concat();
    let nonsense = [&8u32.to_le_bytes()[..], &[0xff; 8]].concat();
    let trailing = [&4u32.to_le_bytes()[..], &2u32.to_le_bytes(), &[7]].concat();
    for bytes in [huge, nonsense, trailing, b"ab".to_vec()] {
        hostile.behaviour_mut().raw.send_request(&peer(&a), bytes);
        until(&mut [&mut a, &mut hostile], |i, event| {
            (i == 0 && matches!(event, Malformed { protocol: "peer exchange", .. })).then_some(())
        })
        .await;
    }
    let mut friend = node(&file, &addresses(&a)).await;
    until(&mut [&mut a, &mut friend], |_, event| matches!(event, PeerUp(_)).then_some(())).await;
}
