//! Nodes that don't exist, introduced by the hundred: each at addresses where nobody answers, so that honest nodes dial.

use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::Multiaddr;
use libp2p::core::PeerRecord;
use libp2p::identity::Keypair;
use paceline_bootstrap::{Answer, Request};
use paceline_protocol::codec;

use crate::Attack;
use crate::enemy::Enemy;
use crate::flood::framed;
use crate::target::Target;

/// Identities at a time against each target. They change each time that they were asked.
const IDENTITIES: usize = 4;

/// Records of one answer, and addresses of each: as many as there may be.
const RECORDS: u64 = 64;
const ADDRESSES: u64 = 16;

fn record(key: &Keypair, n: u64) -> Vec<u8> {
    // A part of the switch's network where nobody is.
    let address = |i: u64| -> Multiaddr {
        let (a, b) = (200 + n % 50, 1 + (n / 50 + i) % 250);
        format!("/ip4/10.77.{a}.{b}/tcp/{}", 1024 + (n * 31 + i) % 60_000).parse().expect("an address")
    };
    let record = PeerRecord::new_interop(key, (0..ADDRESSES).map(address).collect()).expect("an ed25519 key signs");
    record.into_signed_envelope().into_protobuf_encoding()
}

/// See [`crate::Kind::Junk`].
pub(crate) async fn introduce(attack: Arc<Attack>) {
    let work = |attack: Arc<Attack>, mut enemy: Enemy, target: Target, n: u64| async move {
        if !enemy.connect(&target).await {
            return;
        }
        // Itself first: at addresses where it is not.
        let own = Request::Introduce { run: attack.run.run_id(), record: record(&enemy.key, n) };
        if let Some(mut stream) = enemy.open(&target, &attack.names.exchange).await {
            let bytes = framed(&codec::encode(&own));
            let _ = stream.write_all(&bytes).await;
            let _ = stream.close().await;
            attack.tally.sent(bytes.len());
            let _ = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut [0; 4096])).await;
        }
        // Whoever is met introduces itself, and is told of others.
        let asked = tokio::time::timeout(Duration::from_secs(5), async {
            while let Some((protocol, mut stream)) = enemy.inbound.recv().await {
                if protocol == attack.names.exchange {
                    let records = (0..RECORDS).map(|i| record(&attack.key(n << 20 | i), n << 6 | i)).collect();
                    let bytes = framed(&codec::encode(&Answer::Records(records)));
                    let _ = stream.read(&mut [0; 8192]).await;
                    if stream.write_all(&bytes).await.is_ok() && stream.close().await.is_ok() {
                        attack.tally.sent(bytes.len());
                    }
                    return;
                }
            }
        });
        let _ = asked.await;
    };
    attack.with_enemies(IDENTITIES, work).await;
}
