//! A hostile client: real libp2p, real handshakes, and the run's own protocols, abused. `e2e/hostile` starts it against
//! nodes of its own making and says what they make of it:
//!
//! ```text
//! cargo run -p paceline --example hostile -- flood-gossip --run run.toml --target /ip4/10.77.0.2/tcp/4001/p2p/12D3...
//! ```
//!
//! Only against nodes that you have started yourself.

mod announce;
mod connections;
mod enemy;
mod flood;
mod junk;
mod replay;
mod rubbish;
mod stall;
mod tally;
mod target;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use libp2p::identity::Keypair;
use paceline::run_file::RunFile;
use paceline_protocol::Hash;

use enemy::Enemy;
use tally::Tally;
use target::{Names, Target};

/// What it does.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// Batches of messages, small and large, as fast as they go.
    FloodMessages,
    /// Gossip that is new each time, small and large.
    FloodGossip,
    /// Gossip's own messages: subscriptions, offers, questions, grafts.
    FloodControl,
    /// Requests for chunks that are there and that are not, for run files, for who else is there.
    FloodRequests,
    /// Streams that are opened and dropped, identities that are said again.
    FloodStreams,
    /// Messages of which all but the last byte come, on as many streams as there may be.
    Stall,
    /// Connections whose handshake goes on for ever, a byte at a time.
    StallHandshake,
    /// A thousand connections, negotiated, each with its own identity.
    Connections,
    /// Connections that are made and dropped, each with a fresh identity.
    Reconnect,
    /// Lengths of a terabyte and more, wherever a length is said.
    Announce,
    /// Joins the run, takes part, and answers every request for a chunk with wrong bytes.
    Rubbish,
    /// The same with right bytes: what a member that may compute so little costs by itself.
    Member,
    /// Says again what honest nodes said, to everybody, for ever.
    Replay,
    /// Introduces nodes that don't exist, so that others dial them.
    Junk,
    /// Computes, and sends nothing: what an attacker on the same machine costs by itself.
    Burn,
}

/// A hostile client. Only against nodes that you have started yourself.
#[derive(Debug, Parser)]
struct Options {
    /// The attack.
    kind: Kind,
    /// The run file.
    #[arg(long)]
    run: PathBuf,
    /// Nodes, each an address that ends with its /p2p/.
    #[arg(long, required = true)]
    target: Vec<Target>,
    /// For how long.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Identities at a time, for each target; connections where those are what it is about.
    #[arg(long)]
    identities: Option<usize>,
    /// What identities and bytes are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A blob that is there, in hex: its chunks are asked for.
    #[arg(long)]
    blob: Option<Hash>,
    /// Where `rubbish` and `member` keep their home.
    #[arg(long, default_value = "hostile-home")]
    home: PathBuf,
}

/// What every attack is given.
#[derive(Debug)]
struct Attack {
    run: RunFile,
    targets: Vec<Target>,
    names: Names,
    identities: Option<usize>,
    seed: u64,
    blob: Option<Hash>,
    home: PathBuf,
    until: Instant,
    tally: Arc<Tally>,
}

impl Attack {
    /// Whether it is to go on.
    fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    /// The `n`th identity.
    fn key(&self, n: u64) -> Keypair {
        let secret = Hash::of_parts("hostile identity", &[&self.seed.to_le_bytes(), &n.to_le_bytes()]);
        Keypair::ed25519_from_bytes(*secret.as_bytes()).expect("any 32 bytes are a secret")
    }

    /// A node of the run, as far as it says.
    fn enemy(&self, n: u64) -> Enemy {
        Enemy::new(self.key(n), self.names.all(), self.tally.clone())
    }

    /// Bytes that nobody has seen before.
    fn noise(&self, n: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&self.seed.to_le_bytes()).update(&n.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    /// Against each target, `many` enemies at a time, each with a connection; who is cut off comes back as somebody else.
    /// `work` says `None` when nothing goes any more.
    async fn with_enemies<F>(self: &Arc<Self>, many: usize, work: impl Fn(Arc<Self>, Enemy, Target, u64) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let many = self.identities.unwrap_or(many) as u64;
        let mut tasks = tokio::task::JoinSet::new();
        let work = &work;
        let mut n = 0;
        let mut begin = |tasks: &mut tokio::task::JoinSet<Target>, target: Target| {
            n += 1;
            let (attack, enemy) = (self.clone(), self.enemy(n));
            if n > many * self.targets.len() as u64 {
                // Back at once, but not in a busy loop.
                let again = async move { tokio::time::sleep(Duration::from_millis(100)).await };
                let task = (attack, enemy, target.clone(), n);
                let future = work(task.0.clone(), task.1, task.2, task.3);
                tasks.spawn(async move {
                    again.await;
                    future.await;
                    target
                });
            } else {
                let future = work(attack, enemy, target.clone(), n);
                tasks.spawn(async move {
                    future.await;
                    target
                });
            }
        };
        for target in &self.targets {
            (0..many).for_each(|_| begin(&mut tasks, target.clone()));
        }
        while self.goes_on() {
            tokio::select! {
                Some(Ok(target)) = tasks.join_next() => begin(&mut tasks, target),
                () = tokio::time::sleep_until(self.until.into()) => {}
            }
        }
    }
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let text =
        std::fs::read_to_string(&options.run).with_context(|| format!("{} can't be read", options.run.display()))?;
    let run = paceline::run_file::parse(&text, "run.toml").map_err(|e| anyhow::anyhow!("{e}"))?;
    let attack = Arc::new(Attack {
        names: Names::of(run.run_id()),
        run,
        targets: options.target,
        identities: options.identities,
        seed: options.seed,
        blob: options.blob,
        home: options.home,
        until: Instant::now() + Duration::from_secs_f64(options.seconds),
        tally: Arc::new(Tally::new()),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let going = carry_out(options.kind, attack.clone());
        // An attack that waits for an answer must end as well.
        match tokio::time::timeout_at(attack.until.into(), going).await {
            Ok(done) => done,
            Err(_) => Ok(()),
        }
    })?;
    println!("{}", attack.tally.report());
    // What still hangs on to a target is of no use.
    runtime.shutdown_background();
    Ok(())
}

async fn carry_out(kind: Kind, attack: Arc<Attack>) -> anyhow::Result<()> {
    match kind {
        Kind::FloodMessages => flood::messages(attack).await,
        Kind::FloodGossip => flood::gossip(attack).await,
        Kind::FloodControl => flood::control(attack).await,
        Kind::FloodRequests => flood::requests(attack).await,
        Kind::FloodStreams => flood::streams(attack).await,
        Kind::Stall => stall::messages(attack).await,
        Kind::StallHandshake => stall::handshakes(attack).await,
        Kind::Connections => connections::many(attack).await,
        Kind::Reconnect => connections::again_and_again(attack).await,
        Kind::Announce => announce::announce(attack).await,
        Kind::Rubbish => return rubbish::take_part(attack, true).await,
        Kind::Member => return rubbish::take_part(attack, false).await,
        Kind::Replay => return replay::replay(attack).await,
        Kind::Junk => junk::introduce(attack).await,
        Kind::Burn => burn(&attack),
    }
    Ok(())
}

fn burn(attack: &Attack) {
    let mut n = 0u64;
    while attack.goes_on() {
        n = n.wrapping_add(attack.noise(n, 1 << 16).iter().map(|b| u64::from(*b)).sum());
        attack.tally.bytes.store(n & 1, Ordering::Relaxed);
    }
}
