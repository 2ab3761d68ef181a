//! Two nodes meet and exchange direct messages, gossip and blobs.

mod net_common;

use std::time::{Duration, Instant};

use futures::StreamExt;
use net_common::{PATIENCE, TestNet, bootstrap, noise, pair, run_file};
use paceline::net::{AskError, BlobAnswer, BlobRequest, NetEvent};
use paceline_protocol::Hash;
use paceline_protocol::bounds::{CHUNK_BYTES, GOSSIP_BYTES_MAX, MESSAGE_BYTES_MAX};

#[tokio::test]
async fn two_nodes_meet_through_a_bootstrap_and_exchange_a_message_and_gossip() {
    let (file, (given, _stop)) = (run_file(1), bootstrap().await);
    let mut a = TestNet::of(&file, &given).await;
    let mut b = TestNet::of(&file, &given).await;
    a.net.broadcast(b"spoken before anybody listens".to_vec());
    a.until_up(b.id).await;
    a.net.send(b.id, b"hello".to_vec());
    let (mut message, mut gossip) = (None, None);
    b.until(|event| {
        match event {
            NetEvent::Message { from, bytes } => message = Some((from, bytes)),
            NetEvent::Gossip { from, bytes, .. } => gossip = Some((from, bytes)),
            _ => {}
        }
        (message.is_some() && gossip.is_some()).then_some(())
    })
    .await;
    assert_eq!(message, Some((a.id, b"hello".to_vec())));
    assert_eq!(gossip, Some((a.id, b"spoken before anybody listens".to_vec())));
}

#[tokio::test]
async fn messages_arrive_in_the_order_in_which_they_were_sent() {
    let (a, mut b) = pair(&run_file(1)).await;
    const COUNT: u32 = 400;
    (0..COUNT).for_each(|i| a.net.send(b.id, i.to_le_bytes().to_vec()));
    let mut seen = Vec::new();
    b.until(|event| {
        if let NetEvent::Message { bytes, .. } = event {
            seen.push(u32::from_le_bytes(bytes.try_into().expect("four bytes")));
        }
        (seen.len() == COUNT as usize).then_some(())
    })
    .await;
    assert!(seen.is_sorted(), "{seen:?}");
}

#[tokio::test]
async fn the_largest_message_and_the_largest_gossip_arrive_and_larger_ones_are_not_sent() {
    let (a, mut b) = pair(&run_file(1)).await;
    let (message, gossip) = (noise(1, MESSAGE_BYTES_MAX), noise(2, GOSSIP_BYTES_MAX));
    a.net.send(b.id, message.clone());
    a.net.broadcast(gossip.clone());
    a.net.send(b.id, vec![0; MESSAGE_BYTES_MAX + 1]);
    a.net.broadcast(vec![0; GOSSIP_BYTES_MAX + 1]);
    let mut left = 2;
    b.until(|event| {
        match event {
            NetEvent::Message { bytes, .. } => assert!(bytes == message),
            NetEvent::Gossip { bytes, .. } => assert!(bytes == gossip),
            _ => return None,
        }
        left -= 1;
        (left == 0).then_some(())
    })
    .await;
    assert_eq!(a.net.counters().dropped.read(), 2);
}

#[tokio::test]
async fn gossip_that_is_said_again_arrives_once() {
    let (a, mut b) = pair(&run_file(1)).await;
    let said: [&[u8]; 3] = [b"a record", b"a record", b"the next"];
    said.iter().for_each(|bytes| a.net.broadcast(bytes.to_vec()));
    let mut heard = Vec::new();
    b.until(|event| {
        heard.extend(if let NetEvent::Gossip { bytes, .. } = event { Some(bytes) } else { None });
        heard.contains(&said[2].to_vec()).then_some(())
    })
    .await;
    assert_eq!(heard, [said[0].to_vec(), said[2].to_vec()]);
}

#[tokio::test]
async fn gossip_reaches_everybody_of_eight() {
    let file = run_file(1);
    let first = TestNet::of(&file, &[]).await;
    let given = first.net.addresses();
    let mut nets = vec![first];
    for _ in 1..8 {
        nets.push(TestNet::of(&file, &given).await);
    }
    for net in &mut nets {
        let mut ups = 0;
        net.until(|event| {
            ups += usize::from(matches!(event, NetEvent::PeerUp(_)));
            (ups == 7).then_some(())
        })
        .await;
    }
    nets[3].net.broadcast(b"to all".to_vec());
    for (i, net) in nets.iter_mut().enumerate().filter(|(i, _)| *i != 3) {
        let bytes = net.until(|e| if let NetEvent::Gossip { bytes, .. } = e { Some(bytes) } else { None }).await;
        assert_eq!(bytes, b"to all", "at node {i}");
    }
}

#[tokio::test]
async fn an_answer_that_nobody_waits_for_any_more_is_cut_off() {
    let (mut a, b) = pair(&run_file(1)).await;
    let (request, chunk) = (BlobRequest::Chunk { blob: Hash::of(b"blob"), index: 0 }, CHUNK_BYTES as usize);
    let asked = b.net.ask_blob(a.id, request, PATIENCE);
    let to = tokio::select! {
        _ = asked => panic!("it was answered"),
        to = a.until(|e| if let NetEvent::BlobRequested { answer, .. } = e { Some(answer) } else { None }) => to,
    };
    // The question was dropped with its answer still to come.
    let _ = to.send(BlobAnswer::Chunk(noise(1, chunk)));
    let (holder, _lives) = (a.id, a.net.clone());
    a.serve(move |_| BlobAnswer::Chunk(noise(2, chunk)));
    let second = b.net.ask_blob(holder, request, PATIENCE).await;
    assert_eq!(second, Ok(BlobAnswer::Chunk(noise(2, chunk))));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(b.net.counters().blobs_received.read(), CHUNK_BYTES);
}

#[tokio::test]
async fn a_blob_of_20_mib_comes_over_in_chunks() {
    let (a, b) = pair(&run_file(1)).await;
    const CHUNKS: u32 = 80;
    let chunk = |index: u32| noise(u64::from(index) + 1, CHUNK_BYTES as usize);
    let (blob, holder) = (Hash::of(b"blob"), a.id);
    let source = a.net.clone();
    a.serve(move |request| match request {
        BlobRequest::Manifest { .. } => BlobAnswer::Manifest(vec![7; 100]),
        BlobRequest::Chunk { index, .. } if index < CHUNKS => BlobAnswer::Chunk(chunk(index)),
        BlobRequest::Chunk { .. } => BlobAnswer::Lacks { have: vec![0xff; 10] },
    });
    let manifest = b.net.ask_blob(holder, BlobRequest::Manifest { blob }, PATIENCE).await;
    assert_eq!(manifest, Ok(BlobAnswer::Manifest(vec![7; 100])));
    let started = Instant::now();
    let fetched: Vec<_> = futures::stream::iter(0..CHUNKS)
        .map(|index| b.net.ask_blob(holder, BlobRequest::Chunk { blob, index }, PATIENCE))
        .buffered(8)
        .collect()
        .await;
    println!("20 MiB in {:?}", started.elapsed());
    for (index, answer) in fetched.into_iter().enumerate() {
        assert!(answer == Ok(BlobAnswer::Chunk(chunk(index as u32))), "chunk {index}");
    }
    let past_the_end = b.net.ask_blob(holder, BlobRequest::Chunk { blob, index: CHUNKS }, PATIENCE).await;
    assert_eq!(past_the_end, Ok(BlobAnswer::Lacks { have: vec![0xff; 10] }));
    let bytes = u64::from(CHUNKS) * CHUNK_BYTES + 100;
    assert_eq!((source.counters().blobs_sent.read(), b.net.counters().blobs_received.read()), (bytes, bytes));
}

#[tokio::test]
async fn who_asks_for_too_much_at_once_is_told_so() {
    let (mut a, b) = pair(&run_file(1)).await;
    let request = BlobRequest::Manifest { blob: Hash::ZERO };
    let asks: Vec<_> = (0..70).map(|_| b.net.ask_blob(a.id, request, Duration::from_secs(2))).collect();
    // The owner of `a` takes the requests and answers none of them.
    let mut held = Vec::new();
    let hold = a.until(|event| {
        if let NetEvent::BlobRequested { answer, .. } = event {
            held.push(answer);
        }
        None::<()>
    });
    let answers = tokio::select! {
        answers = futures::future::join_all(asks) => answers,
        () = hold => unreachable!("it never ends"),
    };
    let count = |what: &AskError| answers.iter().filter(|answer| answer.as_ref().err() == Some(what)).count();
    assert_eq!((count(&AskError::Timeout), count(&AskError::Overloaded)), (64, 6));
}

#[tokio::test]
async fn an_answer_that_the_owner_forgets_is_busy() {
    let (mut a, b) = pair(&run_file(1)).await;
    let ask = b.net.ask_blob(a.id, BlobRequest::Manifest { blob: Hash::ZERO }, PATIENCE);
    let forget = a.until(|event| matches!(event, NetEvent::BlobRequested { .. }).then_some(()));
    let (answer, ()) = tokio::join!(ask, forget);
    assert_eq!(answer, Ok(BlobAnswer::Busy));
}

#[tokio::test]
async fn a_node_that_is_not_there_is_unreachable_at_once() {
    let (a, b) = pair(&run_file(1)).await;
    let stranger = paceline_protocol::Identity::from_secret(&[9; 32]).node_id();
    let answer = a.net.ask_blob(stranger, BlobRequest::Manifest { blob: Hash::ZERO }, PATIENCE).await;
    assert_eq!(answer, Err(AskError::Unreachable));
    drop(b);
}

#[tokio::test]
async fn an_owner_that_does_not_look_blocks_nobody() {
    let (a, b) = pair(&run_file(1)).await;
    // Nobody takes b's events, far more than its channel holds.
    for i in 0..400u32 {
        a.net.send(b.id, i.to_le_bytes().to_vec());
        a.net.broadcast(i.to_le_bytes().to_vec());
    }
    let peers = tokio::time::timeout(PATIENCE, async {
        while b.net.counters().direct_received.read() < 4 * 400 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        b.net.peers()
    });
    assert_eq!(peers.await.expect("the messages arrive").len(), 1);
}
