//! Bytes that break a protocol cost a counter and nothing else.

mod net_common;

use net_common::{PATIENCE, TestNet, beside, hostile, noise, run_file};
use paceline::net::{BlobRequest, NetEvent};
use paceline_bootstrap::{node_id, peer_id};
use paceline_protocol::Hash;

/// Bytes that are no message of either protocol.
fn nonsense() -> Vec<Vec<u8>> {
    let whole = BlobRequest::Manifest { blob: Hash::ZERO }.encode();
    vec![
        Vec::new(),
        vec![1, 2],
        u32::MAX.to_le_bytes().to_vec(),
        [&(5u32 << 20).to_le_bytes()[..], &noise(1, 100)].concat(),
        [&8u32.to_le_bytes()[..], &[0xff; 8]].concat(),
        [&33u32.to_le_bytes()[..], &whole[..20]].concat(),
        [&33u32.to_le_bytes()[..], &[9; 33], &[0]].concat(),
        noise(2, 100_000),
    ]
}

#[tokio::test]
async fn malformed_bytes_on_the_direct_and_the_blob_protocol_are_counted_and_the_node_goes_on() {
    let file = run_file(1);
    let mut a = TestNet::of(&file, &[]).await;
    let mut enemy = hostile(&file, &a.net.addresses());
    let enemy_id = node_id(enemy.local_peer_id()).expect("an ed25519 key");
    beside(&mut enemy, a.until_up(enemy_id)).await;
    let mut sent = 0;
    for bytes in nonsense() {
        for protocol in ["direct", "blobs"] {
            let node = enemy.behaviour_mut();
            let raw = if protocol == "direct" { &mut node.direct } else { &mut node.blobs };
            raw.send_request(&peer_id(a.id), bytes.clone());
            sent += 1;
            let from = beside(
                &mut enemy,
                a.until(|event| match event {
                    NetEvent::Malformed { from, protocol: named, .. } if named == protocol => Some(from),
                    NetEvent::Message { .. } | NetEvent::BlobRequested { .. } => panic!("taken for good: {bytes:?}"),
                    _ => None,
                }),
            )
            .await;
            assert_eq!(from, enemy_id);
        }
    }
    assert_eq!(a.net.counters().malformed.read(), sent);
    let mut friend = TestNet::of(&file, &a.net.addresses()).await;
    friend.until_up(a.id).await;
    a.net.send(friend.id, b"still here".to_vec());
    friend.until(|event| matches!(event, NetEvent::Message { .. }).then_some(())).await;
}

#[tokio::test]
async fn a_malformed_answer_is_an_error_of_the_one_who_asked() {
    let file = run_file(1);
    let mut a = TestNet::of(&file, &[]).await;
    let mut enemy = hostile(&file, &a.net.addresses());
    let enemy_id = node_id(enemy.local_peer_id()).expect("an ed25519 key");
    beside(&mut enemy, a.until_up(enemy_id)).await;
    for reply in [vec![9, 0, 0, 0, 0], [&[1][..], &u32::MAX.to_le_bytes()].concat(), vec![2, 0, 0, 0, 0, 1]] {
        let ask = a.net.ask_blob(enemy_id, BlobRequest::Manifest { blob: Hash::ZERO }, PATIENCE);
        let answer = answering(&mut enemy, ask, reply.clone()).await;
        assert!(matches!(&answer, Err(paceline::net::AskError::Malformed(_))), "{reply:?} gave {answer:?}");
    }
}

#[tokio::test]
async fn a_flood_of_batches_is_refused_beyond_the_allowance() {
    let file = run_file(1);
    let mut a = TestNet::of(&file, &[]).await;
    let mut enemy = hostile(&file, &a.net.addresses());
    let enemy_id = node_id(enemy.local_peer_id()).expect("an ed25519 key");
    beside(&mut enemy, a.until_up(enemy_id)).await;
    let counters = a.net.counters();
    let flooded = async {
        while counters.refused.read() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::pin!(flooded);
    let one = [&5u32.to_le_bytes()[..], &1u32.to_le_bytes(), &[7]].concat();
    let work = async {
        loop {
            for _ in 0..8 {
                enemy.behaviour_mut().direct.send_request(&peer_id(a.id), one.clone());
            }
            let mut settled = 0;
            while settled < 8 {
                if let libp2p::swarm::SwarmEvent::Behaviour(net_common::HostileNodeEvent::Direct(_)) =
                    futures::StreamExt::select_next_some(&mut enemy).await
                {
                    settled += 1;
                }
            }
        }
    };
    tokio::select! {
        () = &mut flooded => {}
        () = work => {}
        () = async { while a.events.recv().await.is_some() {} } => panic!("the network ended"),
        () = tokio::time::sleep(PATIENCE) => panic!("nothing was refused"),
    }
}

/// Lets the hostile node answer every request for a blob with `reply` until `work` is done.
async fn answering<T>(
    enemy: &mut libp2p::Swarm<net_common::HostileNode>,
    work: impl Future<Output = T>,
    reply: Vec<u8>,
) -> T {
    use futures::StreamExt;
    use libp2p::request_response::{Event, Message};
    use libp2p::swarm::SwarmEvent;
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            event = enemy.select_next_some() => {
                if let SwarmEvent::Behaviour(net_common::HostileNodeEvent::Blobs(Event::Message {
                    message: Message::Request { channel, .. }, ..
                })) = event
                {
                    let _ = enemy.behaviour_mut().blobs.send_response(channel, reply.clone());
                }
            }
        }
    }
}
