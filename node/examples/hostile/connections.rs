//! Connections without end.

use std::sync::Arc;
use std::time::Duration;

use crate::Attack;
use crate::enemy::Enemy;
use crate::target::Target;

/// Connections at a time against each target.
const CONNECTIONS: usize = 1_000;

/// See [`crate::Kind::Connections`].
pub(crate) async fn many(attack: Arc<Attack>) {
    let work = |attack: Arc<Attack>, enemy: Enemy, target: Target, _| async move {
        // All at once is what a queue of connections drops by itself.
        if enemy.connect(&target).await {
            attack.tally.sent(0);
            while attack.goes_on() && enemy.open(&target, &attack.names.exchange).await.is_some() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        } else {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    attack.with_enemies(CONNECTIONS, work).await;
}

/// See [`crate::Kind::Reconnect`].
pub(crate) async fn again_and_again(attack: Arc<Attack>) {
    let mut tasks = tokio::task::JoinSet::new();
    for (t, target) in attack.targets.clone().into_iter().enumerate() {
        for i in 0..attack.identities.unwrap_or(8) as u64 {
            let (attack, target) = (attack.clone(), target.clone());
            tasks.spawn(async move {
                for k in 0.. {
                    if !attack.goes_on() {
                        return;
                    }
                    let enemy = attack.enemy((t as u64) << 48 | i << 32 | k);
                    // The enemy's end is the connection's.
                    enemy.connect(&target).await;
                }
            });
        }
    }
    while tasks.join_next().await.is_some() {}
}
