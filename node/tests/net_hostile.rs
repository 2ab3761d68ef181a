//! Who breaks the rules again and again is disconnected and not let in, and nobody else is.

mod net_common;

use std::time::Duration;

use net_common::{PATIENCE, TestNet, beside, hostile, noise, options, pair, run_file};
use paceline::net::NetEvent;
use paceline_bootstrap::{node_id, peer_id};

/// Waits until `is_so`, while the hostile node says `words` on the direct protocol again and again.
async fn says_until(
    a: &mut TestNet,
    enemy: &mut libp2p::Swarm<net_common::HostileNode>,
    words: &[u8],
    is_so: impl Fn(&TestNet) -> bool,
) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while !is_so(a) {
        assert!(tokio::time::Instant::now() < until, "it does not happen");
        enemy.behaviour_mut().direct.send_request(&peer_id(a.id), words.to_vec());
        beside(enemy, a.during(Duration::from_millis(10))).await;
    }
}

#[tokio::test]
async fn who_breaks_the_protocol_again_and_again_is_turned_away_and_not_let_in_and_a_friend_stays() {
    let file = run_file(1);
    let mut a = TestNet::of(&file, &[]).await;
    let friend = TestNet::of(&file, &a.net.addresses()).await;
    a.until_up(friend.id).await;
    let mut enemy = hostile(&file, &a.net.addresses());
    let enemy_id = node_id(enemy.local_peer_id()).expect("an ed25519 key");
    beside(&mut enemy, a.until_up(enemy_id)).await;
    let counters = a.net.counters();
    says_until(&mut a, &mut enemy, &noise(1, 100), |_| counters.turned_away.read() > 0).await;
    // It dials again by itself.
    says_until(&mut a, &mut enemy, &noise(1, 100), |_| counters.not_let_in.read() > 0).await;
    assert!(!a.net.peers().iter().any(|(peer, _)| *peer == enemy_id));
    friend.net.send(a.id, b"still here".to_vec());
    a.until(|event| matches!(event, NetEvent::Message { from, .. } if from == friend.id).then_some(())).await;
    assert_eq!(counters.turned_away.read(), 1);
}

#[tokio::test]
async fn who_is_complained_of_again_and_again_is_turned_away() {
    let file = run_file(1);
    let (mut a, b) = pair(&file).await;
    // What came was well formed for the network, and nonsense for whoever read it.
    (0..100).for_each(|_| a.net.complain(b.id));
    a.until(|event| matches!(event, NetEvent::PeerDown(peer) if peer == b.id).then_some(())).await;
    assert_eq!(a.net.counters().turned_away.read(), 1);
}

#[tokio::test]
async fn fifty_nodes_on_one_machine_are_all_up_for_each_other() {
    let file = run_file(1);
    let mut first = TestNet::start(options(&file, &[])).await;
    let mut others = Vec::new();
    for _ in 0..50 {
        others.push(TestNet::of(&file, &first.net.addresses()).await);
    }
    let mut up = 0;
    while up < others.len() {
        first.until(|event| matches!(event, NetEvent::PeerUp(_)).then_some(())).await;
        up += 1;
    }
    assert_eq!((first.net.counters().not_let_in.read(), first.net.counters().turned_away.read()), (0, 0));
}
