//! A node as a library: a home and a run are opened, a learner is given, and the node runs until it is stopped, leaves, or
//! the run is over.
//!
//! `paceline join` is this with options from the command line. A program of one's own brings its own learner:
//!
//! ```
//! # #[tokio::main]
//! # async fn main() -> anyhow::Result<()> {
//! # let folder = tempfile::tempdir()?;
//! # let home = folder.path().join("home");
//! use std::sync::Arc;
//!
//! use paceline::learn::Plan;
//! use paceline::node::{Node, Options};
//! use paceline_model::Device;
//!
//! let text = r#"
//! run = { name = "alone", rounds = 2, min_nodes = 1 }
//! model = { arch = "mlp" }
//! data = { dataset = "shapes", samples = 100 }
//! "#;
//! let run_file = paceline::run_file::parse(text, "alone.toml")?;
//! let plan = Plan::of(&run_file)?;
//! let learner = plan.learner(plan.data(None, None)?, Device::Cpu);
//!
//! let node = Node::open(home, run_file).await?;
//! let listen = vec!["/ip4/127.0.0.1/tcp/0".parse()?];
//! let options = Options { listen, no_mdns: true, exits_when_done: true, ..Options::default() };
//! let mut running = node.run(Arc::new(learner), options).await?;
//! running.ended().await?;
//! assert_eq!(running.rounds().len(), 2);
//! # Ok(())
//! # }
//! ```
//!
//! The test `library` runs three of them in one process.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures::FutureExt;
use libp2p::Multiaddr;
use paceline_bootstrap::Ticket;
use paceline_model::Learner;
use paceline_protocol::base::roster::Part;
use paceline_protocol::base::signed::Verifier;
use paceline_protocol::chain::RunParams;
use paceline_protocol::io::{Command, Event, Persist, Recovered};
use paceline_protocol::machine::Config;
use paceline_protocol::record::Kind;
use paceline_protocol::runfile::place;
use paceline_protocol::{BlobRef, Hash, Identity, NodeId};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;

use crate::blobs::{BlobStore, Manifest};
use crate::driver::{Driver, DriverError, Hours, INPUTS_MAX, NodeState, Parts, Sources, input_of};
use crate::http::{self, Api};
use crate::inspect;
use crate::learn::{Aggregator, Basis, ControlVariates, Formats, Progress, Trainer, TrainerContext, cores, tuned};
use crate::neighbours;
use crate::net::{NetOptions, Network};
use crate::report::{LEFT, NodeInfo, Round, Status};
use crate::run_file::{self, RunFile};
use crate::store::{Database, HistoryEntry, Home, HomeLock, Writer, known_addresses, known_ports};
use crate::weights;

/// How long another holder of the home's lock is waited for: long for a command that looks, short for a person.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// What a write that failed means.
const WRITE_FAILED: &str = "a write failed, so this node stops: what is not on disk must not be promised. Nothing is lost; \
                            once the disk is in order, start it again and it goes on";

/// Events of the network that may wait for the driver.
const EVENTS_MAX: usize = 4_096;

/// How much training gives way where nobody says.
const NICE: u8 = 10;

/// Commands that may wait.
const COMMANDS_MAX: usize = 16;

/// Why a node can't run, or could not go on.
#[derive(Debug, Error)]
pub enum NodeError {
    /// What was given can't be used: a home of another run, a chain that can't be entered, a learner that does not fit.
    #[error("{0:#}")]
    Unusable(anyhow::Error),
    /// It was stopped before it had begun: the weights that the run begins with had not come.
    #[error("stopped before it had begun")]
    Stopped,
    /// Something failed.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// How a node runs. The default listens on every interface, is found on the LAN, and has neither name nor part.
#[derive(Debug, Default)]
pub struct Options {
    /// What people call it.
    pub name: Option<String>,
    /// Its part of one data set.
    pub part: Option<Part>,
    /// Threads that train; as many as there are cores by default.
    pub threads: Option<usize>,
    /// How much training threads give way to others, from 0 to 19; 10 by default.
    pub nice: Option<u8>,
    /// The hours of the day in which it trains; all by default.
    pub hours: Option<Hours>,
    /// Where to listen; TCP and QUIC on every IPv4 interface by default.
    pub listen: Vec<Multiaddr>,
    /// Addresses to dial first.
    pub bootstrap: Vec<Multiaddr>,
    /// Neither to look for nodes on the LAN nor to be found there.
    pub no_mdns: bool,
    /// Where the control API and the page listen, on loopback; there are none by default.
    pub http: Option<TcpListener>,
    /// Where the page listens for other machines, which need the home's token ([`Home::http_token`]).
    pub page: Option<TcpListener>,
    /// The chain to enter, and no other.
    pub chain: Option<Chain>,
    /// Whether to move to that chain from another, which is kept aside.
    pub switches: bool,
    /// Go on with a run that stopped because training failed everywhere.
    pub resumes: bool,
    /// End when the run is over rather than go on serving it.
    pub exits_when_done: bool,
    /// The weights of all tensors that the run begins with, where its run file has their hash and they are at hand: raw
    /// little-endian f32 in the learner's order. Without them they are fetched from whoever has them.
    pub weights: Option<Vec<u8>>,
    /// Where the run file has the learning rate, for the message of a training that diverges; in its canonical form by
    /// default.
    pub lr_place: Option<String>,
}

/// A chain that a node is to be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// Its genesis.
    pub genesis: Hash,
    /// Whether that is asked now, rather than at an earlier start: a home that is in another one is refused.
    pub is_asked_now: bool,
}

/// A home that is held for a run. Nothing runs yet.
#[derive(Debug)]
pub struct Node {
    home: Home,
    run_file: RunFile,
    lock: HomeLock,
}

/// A node that runs. It goes on when this is dropped; [`Running::stop`] ends it.
#[derive(Debug)]
pub struct Running {
    home: Home,
    id: NodeId,
    run_file: RunFile,
    node_state: Arc<NodeState>,
    network: Network,
    commands: mpsc::Sender<Command>,
    /// None where somebody else stops it.
    stop: Option<watch::Sender<bool>>,
    _serving: Serving,
    driver: JoinHandle<Result<Option<Event>, DriverError>>,
}

impl Node {
    /// Holds a home for a run; it is made if it isn't there.
    ///
    /// # Errors
    /// A node runs in it, or it is that of another run.
    pub async fn open(home: impl Into<PathBuf>, run_file: RunFile) -> Result<Self, NodeError> {
        let home = Home::at(home);
        let lock = {
            let home = home.clone();
            blocking(move || home.lock_within(LOCK_WAIT)).await?.map_err(anyhow::Error::from)?
        };
        same_run(&home, &run_file)?;
        Ok(Self { home, run_file, lock })
    }

    /// The node's id, which is made with the home's identity where it has none yet.
    ///
    /// # Errors
    /// The identity can't be read or written.
    pub fn id(&self) -> anyhow::Result<NodeId> {
        Ok(Identity::from_secret(&self.home.identity()?).node_id())
    }

    /// The home.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// The run.
    pub fn run_file(&self) -> &RunFile {
        &self.run_file
    }

    /// Runs the node: from here on it finds others, votes, trains and serves.
    ///
    /// # Errors
    /// The learner does not fit the run, the home is damaged, the chain can't be entered, or the network can't be set up.
    pub async fn run(self, learner: Arc<dyn Learner>, options: Options) -> Result<Running, NodeError> {
        let (stop, stopped) = watch::channel(false);
        let running = self.run_until(stopped, learner, options, |_| Ok(())).await?;
        Ok(Running { stop: Some(stop), ..running })
    }

    /// The same, until `stopped` holds; `ready` is called with the node's name once all was checked, before anybody hears of
    /// the node.
    pub(crate) async fn run_until(
        self,
        stopped: watch::Receiver<bool>,
        learner: Arc<dyn Learner>,
        options: Options,
        ready: impl FnOnce(&str) -> anyhow::Result<()>,
    ) -> Result<Running, NodeError> {
        let Self { home, run_file, lock } = self;
        check(learner.as_ref(), &run_file)?;
        let OnDisk { identity, blobs, database, recovered, pinned, history } =
            OnDisk::read(&home, &run_file, &options).await?;
        let me = Identity::from_secret(&identity).node_id();
        let name = options.name.unwrap_or_else(|| format!("node-{}", me.short()));
        let begun = Beginning { learner, run_file: &run_file, blobs: &blobs, home: &home, given: options.weights };
        let missing = begun.missing()?;
        ready(&name)?;
        let (events_in, mut events) = mpsc::channel(EVENTS_MAX);
        let (inputs_in, inputs) = mpsc::channel(INPUTS_MAX);
        let (commands_in, commands) = mpsc::channel(COMMANDS_MAX);
        let net_options = NetOptions {
            identity,
            run: run_file.published(),
            listen: options.listen,
            bootstrap: options.bootstrap.clone(),
            mdns: !options.no_mdns,
            known: known_addresses(&home),
            ports: known_ports(&home),
        };
        let network = Network::start(net_options, events_in).await.map_err(anyhow::Error::from)?;
        let info = NodeInfo::of(&run_file, me, &name, options.part);
        let (progress_in, progress) = watch::channel(Progress::default());
        let node_state = Arc::new(NodeState::new(info, history.clone(), progress));
        let search =
            neighbours::Search { run_file: run_file.clone(), at: options.bootstrap.clone(), mdns: !options.no_mdns };
        let mut serving = Serving(vec![tokio::spawn(search.run(node_state.clone()).map(Ok))]);
        if let Some(listener) = &options.http {
            let address = listener.local_addr().map_err(anyhow::Error::from)?;
            home.write("http", address.to_string().as_bytes()).map_err(anyhow::Error::from)?;
        }
        let pausing = Arc::default();
        for listener in [options.http, options.page].into_iter().flatten() {
            let api = Api {
                pausing: Arc::clone(&pausing),
                node_state: node_state.clone(),
                network: network.clone(),
                commands: commands_in.clone(),
                run: run_file.run_id(),
                run_name: run_file.run.name.clone(),
                home: home.clone(),
            };
            serving.0.push(tokio::spawn(http::serve(listener, api)));
        }
        let mut heard = Vec::new();
        let begins = async {
            if let Some(blob) = missing {
                let search = weights::Search { network: &network, blobs: &blobs, node_state: &node_state, me, blob };
                heard = tokio::select! {
                    found = search.fetch(&mut events) => found?,
                    () = holds(stopped.clone()) => return Err(NodeError::Stopped),
                };
            }
            begun.begin().await
        };
        let Begun { learner, basis } = match begins.await {
            Ok(begun) => begun,
            Err(error) => {
                network.shutdown().await;
                return Err(error);
            }
        };
        let formats = basis.formats;
        let config = Config {
            params: RunParams::of(&run_file, formats.learned(&run_file, basis.initial_model)),
            identity: Identity::from_secret(&identity),
            name: name.clone(),
            part: options.part,
            pinned,
            resumes: options.resumes,
            verifier: Verifier::default(),
        };
        let (written_in, written) = mpsc::channel(INPUTS_MAX);
        let writer = Writer::start(database, move |write| {
            let _ = written_in.blocking_send(write);
        });
        let context = TrainerContext {
            learner,
            formats,
            seed: run_file.run.seed,
            blobs: blobs.clone(),
            controls: ControlVariates::at(home.controls()),
            lr_place: options.lr_place.unwrap_or_else(|| place(&run_file.canonical(), "run.toml", "train", "lr", None)),
        };
        let tell = inputs_in.clone();
        let threads = options.threads.unwrap_or_else(cores);
        let trainer = Trainer::start(context, (threads, options.nice.unwrap_or(NICE)), progress_in, move |outcome| {
            let _ = tell.blocking_send(input_of(outcome));
        });
        let trainer = trainer.map_err(anyhow::Error::from)?;
        let tell = inputs_in.clone();
        let aggregator = Aggregator::start(formats, blobs.clone(), move |input| {
            let _ = tell.blocking_send(input);
        });
        let driver = Driver::new(Parts {
            config,
            recovered,
            network: network.clone(),
            blobs,
            writer,
            trainer,
            aggregator,
            state: formats.state,
            node_state: node_state.clone(),
            home: home.clone(),
            hours: options.hours,
            keep_updates: run_file.round.keep_updates as usize,
            base: basis.base,
            judged: (run_file.learning.metrics.clone(), history),
            inputs: inputs_in,
        });
        let exits_when_done = options.exits_when_done;
        let ends = move |event: &Event| match event {
            Event::Left => true,
            Event::Finished { .. } | Event::Halted { .. } => exits_when_done,
            _ => false,
        };
        let sources = Sources { heard, net: events, inputs, written, commands };
        let driver = tokio::spawn(async move {
            // Held for as long as it runs, whoever looks.
            let _lock = lock;
            driver.run(sources, holds(stopped), ends).await
        });
        let (id, commands, stop) = (me, commands_in, None);
        Ok(Running { home, id, run_file, node_state, network, commands, stop, driver, _serving: serving })
    }
}

impl Running {
    /// Its id.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The run.
    pub fn run_file(&self) -> &RunFile {
        &self.run_file
    }

    /// Where it stands; `None` until it has begun.
    pub fn status(&self) -> Option<Status> {
        self.node_state.status()
    }

    /// The committed rounds, oldest first.
    pub fn rounds(&self) -> Vec<Round> {
        self.node_state.rounds().to_vec()
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.node_state.events()
    }

    /// What others may look at.
    pub(crate) fn state(&self) -> Arc<NodeState> {
        self.node_state.clone()
    }

    /// Where it listens, each address with its id at the end; empty until it does.
    pub fn addresses(&self) -> Vec<Multiaddr> {
        self.network.addresses()
    }

    /// A ticket with which others join; none until it listens.
    pub fn ticket(&self) -> Option<Ticket> {
        let chain = self.node_state.settled_chain();
        Ticket::new(self.run_file.run_id(), chain, &self.run_file.run.name, self.addresses())
    }

    /// Asks to come off the roster, for good. The node ends once that is committed and others hold what it held.
    ///
    /// # Errors
    /// It has ended.
    pub async fn leave(&self) -> Result<(), NodeError> {
        self.command(Command::Leave).await
    }

    /// Goes on with a run that stopped because training failed everywhere.
    ///
    /// # Errors
    /// It has ended.
    pub async fn resume(&self) -> Result<(), NodeError> {
        self.command(Command::Resume).await
    }

    /// Trains nothing, now and after later starts; the node votes and serves as before.
    ///
    /// # Errors
    /// It has ended, or the disk fails.
    pub async fn pause(&self) -> Result<(), NodeError> {
        let home = self.home.clone();
        blocking(move || home.set_paused(true)).await?.map_err(anyhow::Error::from)?;
        self.command(Command::Pause).await
    }

    /// Trains again after a pause.
    ///
    /// # Errors
    /// As [`Running::pause`].
    pub async fn unpause(&self) -> Result<(), NodeError> {
        let home = self.home.clone();
        blocking(move || home.set_paused(false)).await?.map_err(anyhow::Error::from)?;
        self.command(Command::Unpause).await
    }

    async fn command(&self, command: Command) -> Result<(), NodeError> {
        Ok(self.commands.send(command).await.map_err(|_| anyhow!("the node has ended"))?)
    }

    /// Waits until it ends by itself; gives the event that ended it, which is none after [`Running::stop`].
    ///
    /// # Errors
    /// A write failed, or its identity is at work elsewhere.
    pub async fn ended(&mut self) -> Result<Option<Event>, NodeError> {
        let over = (&mut self.driver).await.context("the driver failed")?;
        let _ = std::fs::remove_file(self.home.http());
        match over {
            Ok(over) => Ok(over),
            Err(DriverError::Store(error)) => Err(anyhow::Error::from(error).context(WRITE_FAILED).into()),
            Err(error @ DriverError::Twin(_)) => Err(NodeError::Unusable(anyhow!("{error}; {}", twin_fix(&self.home)))),
        }
    }

    /// Stops it in order. It stays on the roster, and goes on when its home is run again.
    ///
    /// # Errors
    /// As [`Running::ended`].
    pub async fn stop(mut self) -> Result<(), NodeError> {
        if let Some(stop) = &self.stop {
            stop.send_replace(true);
        }
        self.ended().await.map(drop)
    }
}

/// Waits until it holds. Without whoever could say so it never does.
async fn holds(mut stopped: watch::Receiver<bool>) {
    if stopped.wait_for(|stopped| *stopped).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What to do about a home that was copied.
fn twin_fix(home: &Home) -> String {
    let dir = home.dir().display();
    format!(
        "a home is one node's alone, and this one is a copy or was copied, so this node stops. Stop the other one for \
         good; or make this one a node of its own: move identity.key, options.json, store.redb and \
         store.mark out of {dir} and start it again with the options that it had (but another --part, if it has one)"
    )
}

/// The tasks that serve the control API and the page, and the one that looks for mistaken neighbours; they end with whoever
/// holds this.
#[derive(Debug, Default)]
struct Serving(Vec<JoinHandle<std::io::Result<()>>>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// What a home holds of a run, all of it checked.
struct OnDisk {
    identity: [u8; 32],
    blobs: Arc<BlobStore>,
    database: Arc<Database>,
    recovered: Recovered,
    /// The chain to enter, and no other.
    pinned: Option<Hash>,
    history: Vec<HistoryEntry>,
}

impl OnDisk {
    /// Reads a home, and makes what it lacks.
    async fn read(home: &Home, run_file: &RunFile, options: &Options) -> Result<Self, NodeError> {
        // Only once the learner fits: what can't be used must not be remembered for the next start.
        if !home.run_file().exists() {
            home.write("run.toml", run_file.canonical().as_bytes()).map_err(anyhow::Error::from)?;
        }
        home.free_reserve().map_err(anyhow::Error::from)?;
        let identity = home.identity().map_err(anyhow::Error::from)?;
        let blobs = Arc::new(BlobStore::open(&home.blobs()).map_err(anyhow::Error::from)?);
        let me = Identity::from_secret(&identity).node_id();
        let open = || Database::open(&home.database(), run_file.run_id(), me);
        let database = Arc::new(open().map_err(anyhow::Error::from)?);
        let recover = || database.recover(blobs.whole()).map_err(anyhow::Error::from);
        let mut recovered = recover()?;
        if recovered.left {
            return Err(anyhow!(LEFT).into());
        }
        if let Some(chain) = options.chain.filter(|_| options.switches) {
            switch(&database, chain.genesis, home)?;
            recovered = recover()?;
        }
        let pinned = named_chain(options.chain, home, &recovered)?;
        let history = database.history().map_err(anyhow::Error::from)?;
        let home = home.clone();
        blocking(move || home.take_reserve()).await?.map_err(anyhow::Error::from)?;
        Ok(Self { identity, blobs, database, recovered, pinned, history })
    }
}

/// Refuses a learner that does not go with the run file.
fn check(learner: &dyn Learner, run_file: &RunFile) -> Result<(), NodeError> {
    let (rule, model) = (run_file.learning.rule, &run_file.learning.model);
    if !learner.takes(&rule) {
        let error = anyhow!("`rule = \"{}\"` in [aggregate] asks for what this learner can't do", rule.name());
        return Err(NodeError::Unusable(error));
    }
    let unusable = |error: anyhow::Error| NodeError::Unusable(error);
    let travels = model.trainable.of(learner.layout()).context("`trainable` in [model]").map_err(unusable)?;
    Formats::of(rule, travels.parameters()).map(drop).map_err(|error| unusable(error.into()))
}

/// What a run begins with: made from its seed, given, or fetched before.
struct Beginning<'a> {
    learner: Arc<dyn Learner>,
    run_file: &'a RunFile,
    blobs: &'a Arc<BlobStore>,
    /// What it begins with is known here from the first start on.
    home: &'a Home,
    /// All weights, if they are at hand.
    given: Option<Vec<u8>>,
}

/// What a run began with.
struct Begun {
    /// Who learns, from those weights on.
    learner: Arc<dyn Learner>,
    basis: Basis,
}

impl Beginning<'_> {
    /// The blob of the weights, if they are nowhere here.
    fn missing(&self) -> Result<Option<BlobRef>, NodeError> {
        let Some(id) = self.run_file.learning.model.weights else { return Ok(None) };
        let blob = BlobRef { id, len: 4 * self.learner.layout().parameters() as u64 };
        match &self.given {
            Some(given) if Manifest::of(given).blob() != blob => Err(NodeError::Unusable(anyhow!(
                "the weights that were given are {}, and the run begins with {}: give those that its run file was made of",
                Manifest::of(given).blob().id.short(),
                id.short()
            ))),
            Some(_) => Ok(None),
            None => Ok((!self.blobs.is_whole(id)).then_some(blob)),
        }
    }

    /// Puts the state that the run begins with on disk, and beside it the weights that are not trained.
    async fn begin(self) -> Result<Begun, NodeError> {
        let Self { learner, run_file, blobs, home, given } = self;
        let (model, rule, seed) = (run_file.learning.model.clone(), run_file.learning.rule, run_file.run.seed);
        let blobs = blobs.clone();
        let begun = blocking(move || {
            let layout = learner.layout().clone();
            let travels = model.trainable.of(&layout)?;
            let formats = Formats::of(rule, travels.parameters())?;
            let weights = match (given, model.weights) {
                (Some(given), _) => given,
                (None, Some(hash)) => blobs.read(hash)?,
                (None, None) => learner.initial(seed).context("the initial model")?,
            };
            let is_whole = model.weights.is_none() && model.trainable.is_all();
            let base = if is_whole { None } else { Some(blobs.put(&weights)?.id) };
            let learner = tuned(learner, weights.clone(), &model)?;
            let state = formats.state.initial(model.trainable.select(&layout, &weights));
            formats.state.check(&state).context("the initial model")?;
            let initial_model = blobs.put(&state)?;
            anyhow::Ok(Begun { learner, basis: Basis { layout, formats, initial_model, base } })
        });
        let begun = begun.await??;
        if Basis::is_kept(run_file) {
            // A trainer may draw other weights than at its first start, and the home's records would be another run's.
            match Basis::of(home, run_file) {
                Ok(before) if before != begun.basis => {
                    return Err(NodeError::Unusable(other_basis(home, &before, &begun.basis)));
                }
                Ok(_) => {}
                Err(_) => begun.basis.keep(home)?,
            }
        }
        Ok(begun)
    }
}

/// That a learner does not begin as it did when the home was new.
fn other_basis(home: &Home, before: &Basis, now: &Basis) -> anyhow::Error {
    let dir = home.dir().display();
    let what = if before.layout == now.layout { "weights" } else { "tensors" };
    anyhow!(
        "the run in {dir} began with other {what} than the trainer gives now ({} then, {} now): bring back the trainer and its seed \
         as they were, or take another --home for another run",
        before.initial_model.id.short(),
        now.initial_model.id.short()
    )
}

pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("a worker thread failed")
}

/// The chain that this node enters alone: the one that its owner moves it to; or that a ticket names, now or at an earlier
/// start. A home that is in another one is refused, but where it was moved away from the named one: who starts it with the
/// ticket of old need not know.
fn named_chain(chain: Option<Chain>, home: &Home, recovered: &Recovered) -> Result<Option<Hash>, NodeError> {
    let Some(Chain { genesis: named, is_asked_now }) = chain else { return Ok(recovered.switched) };
    let own = recovered.chain.first().map(|genesis| genesis.record.hash()).or(recovered.switched);
    let was_left = recovered.kept_aside.iter().any(|aside| aside.genesis.record.hash() == named);
    match own {
        Some(own) if own != named && is_asked_now && !was_left => {
            let dir = home.dir().display();
            let error = anyhow!(
                "{dir} is in chain {} of this run, the ticket is for chain {}; give another --home, or move this node there: paceline join --home {dir} --switch {named}",
                own.short(),
                named.short()
            );
            Err(NodeError::Unusable(error))
        }
        Some(own) if own != named => {
            tracing::warn!("this node was moved to chain {own}, and stays there; --switch {named} leads back");
            Ok(Some(own))
        }
        _ => Ok(Some(named)),
    }
}

/// Moves a home to another chain of its run; the one that it is in is kept aside.
fn switch(database: &Database, genesis: Hash, home: &Home) -> Result<(), NodeError> {
    let contents = database.contents().map_err(anyhow::Error::from)?;
    if contents.current == Some(genesis) {
        tracing::info!("this node is in chain {} already", genesis.short());
        return Ok(());
    }
    let records = contents.chains.iter().find(|(chain, _)| *chain == genesis).map(|(_, records)| records);
    let has_yielded = |records: &Vec<HistoryEntry>| {
        records.last().is_some_and(|last| matches!(last.committed.record.kind, Kind::Yield { .. }))
    };
    if records.is_some_and(has_yielded) {
        let dir = home.dir().display();
        let error = anyhow!("{dir}: chain {} gave itself up for another, so nobody enters it again", genesis.short());
        return Err(NodeError::Unusable(error));
    }
    if contents.is_bound {
        let error = anyhow!(
            "this node is bound to a founding that is not decided yet; start it without --switch until it is, as `status` shows"
        );
        return Err(error.into());
    }
    database.write(&[Persist::Switched { to: genesis }]).map_err(anyhow::Error::from)?;
    match contents.current {
        Some(old) => tracing::info!("moves to chain {genesis}; {old} is kept aside, and --switch leads back to it"),
        None => tracing::info!("enters chain {genesis} and no other"),
    }
    Ok(())
}

/// Refuses a home that belongs to another run.
fn same_run(home: &Home, run_file: &RunFile) -> Result<(), NodeError> {
    if home.run_file().exists() {
        let before = inspect::run_file(home)?;
        if before.run_id() != run_file.run_id() {
            let error = anyhow!(
                "{} is the home of run {} ({}), and this is run {} ({}); they differ in {}. Without --home it gets a home of its own",
                home.dir().display(),
                before.run.name,
                before.run_id().short(),
                run_file.run.name,
                run_file.run_id().short(),
                run_file::differences(&before, run_file).join("; ")
            );
            return Err(NodeError::Unusable(error));
        }
    }
    Ok(())
}
