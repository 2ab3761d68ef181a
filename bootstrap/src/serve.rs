//! The bootstrap node: introduces, hands out run files, relays. It trains nothing, votes nowhere, and is never needed once
//! nodes know each other.

use std::future::Future;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, Swarm};
use paceline_protocol::runfile::Published;
use thiserror::Error;
use tokio::time::{Instant, sleep_until};

use crate::discovery::{Discovery, DiscoveryOptions, Role};
use crate::swarm::{BuildError, build_swarm, default_listen, fresh_secret};
use crate::ticket::Ticket;

/// Interfaces report their addresses one after the other; after so long without a new one they are complete.
const ADDRESSES_SETTLED: Duration = Duration::from_millis(150);

/// How a bootstrap is started.
#[derive(Debug, Clone, Default)]
pub struct ServeOptions {
    /// The run to make a ticket for and whose run file to hand out; without one it serves any run.
    pub run: Option<Published>,
    /// Where to listen; empty for TCP and QUIC on every IPv4 interface, on ports that the system chooses.
    pub listen: Vec<Multiaddr>,
    /// Where the identity is kept, so that tickets stay valid; without it every start has another one.
    pub home: Option<PathBuf>,
    /// Whether to be seen on the local network.
    pub mdns: bool,
}

/// What is known once the bootstrap listens.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Ready {
    /// Its peer id.
    pub peer_id: String,
    /// Its addresses, the best first, for `--bootstrap`.
    pub addresses: Vec<String>,
    /// The join ticket, if it was started with a run file.
    pub ticket: Option<String>,
}

/// Why a bootstrap can't serve.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The network can't be set up.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// An address can't be listened on.
    #[error("can't listen on {address}: {reason}; give another --listen address")]
    Listen {
        /// The address that was asked for.
        address: Multiaddr,
        /// What the system says.
        reason: String,
    },
    /// The identity can't be read or kept.
    #[error("{path}: {reason}")]
    Identity {
        /// The file of the identity.
        path: PathBuf,
        /// What is wrong, and the fix.
        reason: String,
    },
}

/// Serves until `shutdown` comes. `on_ready` is called once, when it listens.
///
/// # Errors
/// The identity can't be read or kept, or the network can't be set up.
pub async fn serve(
    options: ServeOptions,
    on_ready: impl FnOnce(Ready),
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let secret = options.home.as_deref().map_or_else(|| Ok(fresh_secret()), identity)?;
    let discovery = DiscoveryOptions {
        role: Role::Bootstrap,
        run: options.run.clone(),
        bootstrap: Vec::new(),
        known: Vec::new(),
        mdns: options.mdns,
    };
    let mut swarm = build_swarm(&secret, |key, relay| Discovery::new(discovery, key, relay))?;
    listen(&mut swarm, options.listen)?;
    let mut on_ready = Some(on_ready);
    let mut settled = Instant::now() + ADDRESSES_SETTLED;
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            () = sleep_until(settled), if on_ready.is_some() => {
                let addresses = swarm.behaviour().addresses();
                if addresses.is_empty() {
                    settled = Instant::now() + ADDRESSES_SETTLED;
                } else if let Some(on_ready) = on_ready.take() {
                    on_ready(ready(*swarm.local_peer_id(), addresses, options.run.as_ref()));
                }
            }
            event = swarm.select_next_some() => match event {
                SwarmEvent::NewListenAddr { address, .. } => {
                    settled = Instant::now() + ADDRESSES_SETTLED;
                    // Whoever has a place at the relay is reached at these.
                    swarm.add_external_address(address);
                }
                SwarmEvent::Behaviour(event) => tracing::debug!(?event),
                _ => {}
            },
        }
    }
}

fn listen(swarm: &mut Swarm<Discovery>, addresses: Vec<Multiaddr>) -> Result<(), ServeError> {
    let addresses = if addresses.is_empty() { default_listen() } else { addresses };
    for address in addresses {
        let listening = swarm.listen_on(address.clone());
        listening.map_err(|e| ServeError::Listen { address, reason: e.to_string() })?;
    }
    Ok(())
}

fn ready(me: PeerId, addresses: Vec<Multiaddr>, run: Option<&Published>) -> Ready {
    let ticket = run.and_then(|own| Ticket::new(own.run, None, &own.name, addresses.clone()));
    Ready {
        peer_id: me.to_string(),
        addresses: addresses.iter().map(Multiaddr::to_string).collect(),
        ticket: ticket.map(|t| t.to_string()),
    }
}

/// The secret kept in a home; made at the first start. 64 hex digits in `bootstrap.key`, readable by its owner alone.
fn identity(home: &Path) -> Result<[u8; 32], ServeError> {
    let path = home.join("bootstrap.key");
    let error = |reason: String| ServeError::Identity { path: path.clone(), reason };
    match std::fs::read_to_string(&path) {
        Ok(text) => parse_secret(&text).ok_or_else(|| {
            error("expected 64 hexadecimal digits; move the file away to get a new identity".to_owned())
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let secret = fresh_secret();
            keep(home, &path, &secret).map_err(|e| error(format!("the identity can't be kept: {e}")))?;
            Ok(secret)
        }
        Err(e) => Err(error(format!("the identity can't be read: {e}"))),
    }
}

fn parse_secret(text: &str) -> Option<[u8; 32]> {
    text.trim().parse::<paceline_protocol::Hash>().ok().map(|bytes| *bytes.as_bytes())
}

/// Written aside and renamed, so that no half of it is ever found.
fn keep(home: &Path, path: &Path, secret: &[u8; 32]) -> io::Result<()> {
    std::fs::create_dir_all(home)?;
    let aside = path.with_extension("key.new");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&aside)?;
    writeln!(file, "{}", paceline_protocol::Hash::from_bytes(*secret))?;
    file.sync_all()?;
    std::fs::rename(aside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_once_and_is_its_owners_alone() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let first = identity(home.path()).expect("made");
        assert_eq!(identity(home.path()).expect("read"), first);
        #[cfg(unix)]
        {
            let file = std::fs::metadata(home.path().join("bootstrap.key")).expect("it is there");
            assert_eq!(std::os::unix::fs::PermissionsExt::mode(&file.permissions()) & 0o777, 0o600);
        }
    }

    #[test]
    fn a_damaged_identity_is_named_and_not_replaced() {
        let home = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(home.path().join("bootstrap.key"), "half").expect("written");
        let error = identity(home.path()).expect_err("damaged").to_string();
        assert!(error.contains("bootstrap.key: expected 64 hexadecimal digits"), "{error}");
    }
}
