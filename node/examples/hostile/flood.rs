//! Everything that may be said, said as fast as it goes.

use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::StreamProtocol;
use paceline::net::BlobRequest;
use paceline_bootstrap::Request;
use paceline_protocol::{Hash, codec};

use crate::Attack;
use crate::enemy::Enemy;
use crate::target::Target;

/// Identities at a time against each target.
const IDENTITIES: usize = 4;

/// Streams at a time of one identity, which is more than it may have.
const AT_A_TIME: usize = 16;

/// What comes before bytes on a stream.
pub(crate) fn framed(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_le_bytes(), bytes].concat()
}

/// A batch of messages as it goes out.
pub(crate) fn batch(messages: &[Vec<u8>]) -> Vec<u8> {
    framed(&messages.iter().flat_map(|m| framed(m)).collect::<Vec<u8>>())
}

/// A field of Protocol Buffers that has a length.
pub(crate) fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    varint(&mut out, bytes.len() as u64);
    out.extend(bytes);
    out
}

/// A number of Protocol Buffers.
pub(crate) fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// A gossip frame with these fields.
pub(crate) fn gossip_frame(fields: &[Vec<u8>]) -> Vec<u8> {
    let fields = fields.concat();
    let mut out = Vec::with_capacity(fields.len() + 5);
    varint(&mut out, fields.len() as u64);
    out.extend(fields);
    out
}

/// A gossip message.
pub(crate) fn gossip_message(topic: &str, data: &[u8]) -> Vec<u8> {
    field(2, &[field(2, data), field(4, topic.as_bytes())].concat())
}

/// Opens a stream for each piece of bytes, `AT_A_TIME` at once, until nothing goes any more.
async fn streams_of(
    attack: Arc<Attack>,
    enemy: Enemy,
    target: Target,
    n: u64,
    next: impl Fn(u64) -> (StreamProtocol, Vec<u8>) + Send + Sync + 'static,
) {
    if !enemy.connect(&target).await {
        return;
    }
    let next = &next;
    let one = |i: u64| {
        let (attack, enemy, target) = (&attack, &enemy, &target);
        async move {
            let mut k = i;
            let mut failures = 0;
            while attack.goes_on() && failures < 3 {
                k += AT_A_TIME as u64;
                let (protocol, bytes) = next(n << 40 | k);
                let Some(mut stream) = enemy.open(target, &protocol).await else {
                    failures += 1;
                    continue;
                };
                let talk = async {
                    stream.write_all(&bytes).await?;
                    stream.close().await?;
                    attack.tally.sent(bytes.len());
                    let mut answer = [0; 64 << 10];
                    stream.read(&mut answer).await
                };
                match tokio::time::timeout(Duration::from_secs(1), talk).await {
                    Ok(Ok(1..)) => attack.tally.answered(),
                    // Refused, or no answer: the next.
                    _ => tokio::task::yield_now().await,
                }
            }
        }
    };
    futures::future::join_all((0..AT_A_TIME as u64).map(one)).await;
}

/// See [`crate::Kind::FloodMessages`].
pub(crate) async fn messages(attack: Arc<Attack>) {
    let work = |attack: Arc<Attack>, enemy, target, n| {
        let (names, source) = (attack.names.clone(), attack.clone());
        streams_of(attack, enemy, target, n, move |k| {
            let large = k % 8 == 0;
            let noise = source.noise(k, if large { 1 << 20 } else { 64 });
            let messages = if large { vec![noise] } else { vec![noise; 64] };
            (names.direct.clone(), batch(&messages))
        })
    };
    attack.with_enemies(IDENTITIES, work).await;
}

/// See [`crate::Kind::FloodRequests`].
pub(crate) async fn requests(attack: Arc<Attack>) {
    let work = |attack: Arc<Attack>, enemy, target, n| {
        let (names, run, there) = (attack.names.clone(), attack.run.run_id(), attack.blob);
        streams_of(attack, enemy, target, n, move |k| {
            let blob = there.unwrap_or(Hash::of(&k.to_le_bytes()));
            let unknown = Hash::of(&k.to_le_bytes());
            // Half of the identities ask for chunks alone, as an honest node may.
            let kind = if n % 2 == 0 { 2 + k % 6 } else { k % 8 };
            match kind {
                0 => (names.exchange.clone(), framed(&codec::encode(&Request::RunFile { run }))),
                1 => (names.exchange.clone(), framed(&codec::encode(&Request::Runs))),
                2 => (names.blobs.clone(), framed(&BlobRequest::Manifest { blob }.encode())),
                3 => (names.blobs.clone(), framed(&BlobRequest::Chunk { blob: unknown, index: k as u32 }.encode())),
                _ => (names.blobs.clone(), framed(&BlobRequest::Chunk { blob, index: (k / 8 % 2) as u32 }.encode())),
            }
        })
    };
    attack.with_enemies(IDENTITIES, work).await;
}

/// See [`crate::Kind::FloodGossip`].
pub(crate) async fn gossip(attack: Arc<Attack>) {
    let work = |attack: Arc<Attack>, enemy: Enemy, target: Target, n: u64| {
        let topic = attack.names.topic.clone();
        let source = attack.clone();
        on_one_stream(attack, enemy, target, n, move |k| {
            let len = if k % 4 == 0 { 40 << 10 } else { 100 };
            gossip_frame(&[gossip_message(&topic, &source.noise(k, len))])
        })
    };
    attack.with_enemies(IDENTITIES, work).await;
}

/// See [`crate::Kind::FloodControl`].
pub(crate) async fn control(attack: Arc<Attack>) {
    let work = |attack: Arc<Attack>, enemy: Enemy, target: Target, n: u64| {
        let topic = attack.names.topic.clone();
        let source = attack.clone();
        on_one_stream(attack, enemy, target, n, move |k| {
            let ids: Vec<Vec<u8>> = (0..200).map(|i| source.noise(k << 8 | i, 32)).collect();
            let topic = field(1, topic.as_bytes());
            match k % 5 {
                // Topics of its own, by the hundred.
                0 => {
                    let subscribe = |id: &Vec<u8>| {
                        let name: String = id.iter().map(|b| format!("{b:02x}")).collect();
                        field(1, &[vec![8, 1], field(2, name.as_bytes())].concat())
                    };
                    gossip_frame(&ids.iter().map(subscribe).collect::<Vec<_>>())
                }
                1 => {
                    let ihave = [topic, ids.iter().flat_map(|id| field(2, id)).collect()].concat();
                    gossip_frame(&[field(3, &field(1, &ihave))])
                }
                2 => {
                    let iwant: Vec<u8> = ids.iter().flat_map(|id| field(1, id)).collect();
                    gossip_frame(&[field(3, &field(2, &iwant))])
                }
                3 => gossip_frame(&[field(3, &field(3, &topic).repeat(100))]),
                _ => gossip_frame(&[field(
                    1,
                    &[vec![8, (k / 5 % 2) as u8], field(2, source.names.topic.as_bytes())].concat(),
                )]),
            }
        })
    };
    attack.with_enemies(IDENTITIES, work).await;
}

/// Frames on one stream that stays, as gossip has it.
async fn on_one_stream(
    attack: Arc<Attack>,
    enemy: Enemy,
    target: Target,
    n: u64,
    next: impl Fn(u64) -> Vec<u8> + Send + 'static,
) {
    if !enemy.connect(&target).await {
        return;
    }
    let Some(mut stream) = enemy.open(&target, &attack.names.gossip).await else { return };
    for k in 0.. {
        let bytes = next(n << 40 | k);
        if !attack.goes_on() || stream.write_all(&bytes).await.is_err() {
            return;
        }
        attack.tally.sent(bytes.len());
    }
}

/// See [`crate::Kind::FloodStreams`].
pub(crate) async fn streams(attack: Arc<Attack>) {
    let work = |attack: Arc<Attack>, enemy: Enemy, target: Target, n: u64| async move {
        if !enemy.connect(&target).await {
            return;
        }
        let all = attack.names.all();
        let mut failures = 0;
        for k in n.. {
            if !attack.goes_on() || failures > 3 {
                return;
            }
            enemy.push_identity(&target);
            let opened = (0..AT_A_TIME).map(|i| enemy.open(&target, &all[(k as usize + i) % all.len()]));
            let opened = futures::future::join_all(opened).await.into_iter().flatten().count();
            failures = if opened == 0 { failures + 1 } else { 0 };
            (0..opened).for_each(|_| attack.tally.sent(0));
        }
    };
    attack.with_enemies(IDENTITIES, work).await;
}
