//! `paceline join`: from a run file, a ticket, a home or the LAN to a node that runs.

mod options;
mod resolve;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use paceline_model::{DataSet, Device};
use paceline_protocol::base::roster::Part;
use paceline_protocol::base::signed::Verifier;
use paceline_protocol::chain::RunParams;
use paceline_protocol::io::Event;
use paceline_protocol::machine::Config;
use paceline_protocol::runfile::RunFile;
use paceline_protocol::{BlobRef, Identity};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::error::CliError;
use super::run_file::{at_fault, lr_place};
use super::shutdown::shutdown;
use crate::blobs::BlobStore;
use crate::driver::{Driver, DriverError, INPUTS_MAX, NodeState, Parts, Sources, input_of};
use crate::http::{self, Api};
use crate::learn::{Aggregator, ControlVariates, Plan, PlanError, StateCheck, Trainer, TrainerContext, cores};
use crate::net::{NetOptions, Network};
use crate::report::{LEFT, NodeInfo};
use crate::store::{Database, Home, Writer, known_addresses, known_ports};
use crate::ui::console;

use options::DeviceKind;
pub(super) use options::JoinOptions;
use resolve::{named_chain, resolve, same_run, switch};

/// How long another holder of the home's lock is waited for: long for a command that looks, short for a person.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// What a write that failed means.
const WRITE_FAILED: &str = "a write failed, so this node stops: what is not on disk must not be promised. Nothing is lost; \
                            once the disk is in order, start it again and it goes on";

/// Events of the network that may wait for the driver.
const EVENTS_MAX: usize = 4_096;

/// Commands that may wait.
const COMMANDS_MAX: usize = 16;

pub(super) async fn run(mut options: JoinOptions, quiet: bool) -> Result<(), CliError> {
    let (run_file, home) = resolve(&mut options).await?;
    let origin = options.origin(&home);
    let plan = Plan::of(&run_file).map_err(|e| at_fault(e, &origin))?;
    let device = device(options.device.unwrap_or(DeviceKind::Cpu)).map_err(CliError::usage)?;
    let listener = listen(options.http).await?;
    let _lock = {
        let home = home.clone();
        blocking(move || home.lock_within(LOCK_WAIT)).await??
    };
    same_run(&home, &run_file)?;
    let part = options.part;
    let data = read_data(&plan, options.data.clone(), part, &origin).await?;
    // Only now: what can't be used must not be remembered for the next start.
    if !home.run_file().exists() {
        home.write("run.toml", run_file.canonical().as_bytes())?;
    }
    home.free_reserve()?;
    let identity = home.identity()?;
    options.chain = options.switch.map(|genesis| genesis.to_string()).or(options.chain);
    let blobs = Arc::new(BlobStore::open(&home.blobs())?);
    let initial_model = put_initial_model(&plan, &blobs).await?;
    let me = Identity::from_secret(&identity).node_id();
    let database = Arc::new(Database::open(&home.database(), run_file.run_id(), me)?);
    let mut recovered = database.recover(blobs.whole())?;
    if recovered.left {
        return Err(anyhow!(LEFT).into());
    }
    if let Some(genesis) = options.switch {
        switch(&database, genesis, &home)?;
        recovered = database.recover(blobs.whole())?;
    }
    let pinned = named_chain(&options, &home, &recovered)?;
    // Only now: a chain that can't be entered must not be remembered either.
    options.remember(&home)?;
    let history = database.history()?;
    {
        let home = home.clone();
        blocking(move || home.take_reserve()).await??;
    }

    let (events_in, events) = mpsc::channel(EVENTS_MAX);
    let (inputs_in, inputs) = mpsc::channel(INPUTS_MAX);
    let (commands_in, commands) = mpsc::channel(COMMANDS_MAX);
    let network = Network::start(net_options(&options, &run_file, &home, identity), events_in).await?;

    let config = Config {
        params: RunParams::of(&run_file, initial_model, plan.update_len()),
        identity: Identity::from_secret(&identity),
        name: name(&options, &identity),
        part,
        pinned,
        resumes: options.resume,
        verifier: Verifier::default(),
    };
    let threads = options.threads.map_or_else(cores, NonZeroUsize::get);
    let (written_in, written) = mpsc::channel(INPUTS_MAX);
    let writer = Writer::start(database, move |write| {
        let _ = written_in.blocking_send(write);
    });
    let tell = inputs_in.clone();
    let context = TrainerContext {
        plan: plan.clone(),
        data,
        device,
        blobs: blobs.clone(),
        controls: ControlVariates::at(home.controls()),
        // Others read it, too: the folder is nothing to them.
        lr_place: Path::new(&lr_place(&origin)).file_name().map_or_else(String::new, |p| p.display().to_string()),
    };
    let trainer = Trainer::start(context, threads, move |outcome| {
        let _ = tell.blocking_send(input_of(outcome));
    })?;
    let tell = inputs_in.clone();
    let aggregator = Aggregator::start(plan.rule, plan.parameters, blobs.clone(), move |input| {
        let _ = tell.blocking_send(input);
    });
    let info = NodeInfo::of(&run_file, &config.name, part);
    let node_state = Arc::new(NodeState::new(info, history, trainer.progress()));

    home.write("http", listener.local_addr()?.to_string().as_bytes())?;
    let api = Api {
        node_state: node_state.clone(),
        network: network.clone(),
        commands: commands_in,
        run: run_file.run_id(),
        run_name: run_file.run.name.clone(),
    };
    tokio::spawn(http::serve(listener, api));
    tokio::spawn(console::follow(node_state.clone(), quiet));
    announce(&run_file, &config, &home);

    let shutdown = shutdown(options.until_stdin_ends)?;
    let driver = Driver::new(Parts {
        config,
        recovered,
        network,
        blobs,
        writer,
        trainer,
        aggregator,
        state: StateCheck { rule: plan.rule, parameters: plan.parameters },
        node_state,
        home: home.clone(),
        keep_updates: run_file.round.keep_updates as usize,
        inputs: inputs_in,
    });
    let exit_when_done = options.exit_when_done;
    let ends = move |event: &Event| match event {
        Event::Left => true,
        Event::Finished { .. } | Event::Halted { .. } => exit_when_done,
        _ => false,
    };
    let sources = Sources { net: events, inputs, written, commands };
    let over = driver.run(sources, shutdown, ends).await;
    let _ = std::fs::remove_file(home.http());
    match over {
        Ok(over) => say_goodbye(over, &home),
        Err(DriverError::Store(error)) => Err(anyhow::Error::from(error).context(WRITE_FAILED).into()),
        Err(error @ DriverError::Twin(_)) => Err(CliError::bad_input(anyhow!("{error}; {}", twin_fix(&home)))),
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

/// The node's images. What is wrong with the run file, given them, is told with its line.
async fn read_data(
    plan: &Plan,
    path: Option<PathBuf>,
    part: Option<Part>,
    run_file: &Path,
) -> Result<DataSet, CliError> {
    tracing::info!("reads the data");
    let reader = plan.clone();
    let data = blocking(move || reader.data(path.as_deref(), part)).await?.map_err(|e| at_fault(e, run_file))?;
    tracing::info!("{} training images, {} held out", data.train.len(), data.test.len());
    if plan.config.batch > data.train.len() {
        tracing::warn!("fewer images than `batch` in [train], {}: a step takes all of them", plan.config.batch);
    }
    Ok(data)
}

/// The model that the run begins with, put on disk: every node makes it for itself.
async fn put_initial_model(plan: &Plan, blobs: &Arc<BlobStore>) -> anyhow::Result<BlobRef> {
    let (plan, blobs) = (plan.clone(), blobs.clone());
    blocking(move || Ok(blobs.put(&plan.initial_state()?)?)).await?
}

/// What a node that ended did, and how to go on.
fn say_goodbye(over: Option<Event>, home: &Home) -> Result<(), CliError> {
    let dir = home.dir().display();
    match over {
        Some(Event::Left) => tracing::info!("left the run"),
        Some(Event::Halted { round, why }) => {
            return Err(CliError::failed(anyhow!(
                "the run stopped after round {round}, since training failed on all nodes, several times in a row ({why}); mend that, then go on, on every node, with: paceline join --home {dir} --resume"
            )));
        }
        Some(Event::Finished { complete: false }) => {
            return Err(CliError::failed(anyhow!(
                "the run is over, and its last model is not in {dir}: nobody that has it was in sight; while a node that does runs, start this one again: paceline join --home {dir} --exit-when-done"
            )));
        }
        Some(_) => tracing::info!(
            "done; the model and the records are in {dir}. How good it is: paceline model eval --home {dir}   For PyTorch: paceline model export --home {dir}"
        ),
        None => tracing::info!(
            "stopped; this node stays on the roster. Go on with: paceline join --home {dir}   Or, while it runs, take it off with: paceline leave --home {dir}"
        ),
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("a worker thread failed")
}

fn net_options(options: &JoinOptions, run_file: &RunFile, home: &Home, identity: [u8; 32]) -> NetOptions {
    NetOptions {
        identity,
        run: run_file.run_id(),
        run_file: run_file.canonical().into_bytes(),
        name: run_file.run.name.clone(),
        listen: options.listen.clone(),
        bootstrap: options.bootstrap.clone(),
        mdns: !options.no_mdns,
        known: known_addresses(home),
        ports: known_ports(home),
    }
}

fn name(options: &JoinOptions, identity: &[u8; 32]) -> String {
    let own = || format!("node-{}", Identity::from_secret(identity).node_id().short());
    options.name.clone().unwrap_or_else(own)
}

fn device(kind: DeviceKind) -> Result<Device, PlanError> {
    let made = match kind {
        DeviceKind::Cpu => return Ok(Device::Cpu),
        DeviceKind::Cuda => Device::new_cuda(0),
        DeviceKind::Metal => Device::new_metal(0),
    };
    let name = if kind == DeviceKind::Cuda { "cuda" } else { "metal" };
    made.map_err(|e| {
        PlanError::Device(format!(
            "--device {name}: {e}; build with `--features {name}` on a machine that has it, or use cpu"
        ))
    })
}

async fn listen(address: Option<SocketAddr>) -> Result<TcpListener, CliError> {
    let address = address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    if !address.ip().is_loopback() {
        let error = anyhow!("--http {address}: the control API is for this machine alone; give a loopback address");
        return Err(CliError::usage(error));
    }
    Ok(TcpListener::bind(address).await.with_context(|| format!("--http {address} can't be listened on"))?)
}

fn announce(run_file: &RunFile, config: &Config, home: &Home) {
    tracing::info!(
        "{} joins run {} ({}), home {}",
        config.name,
        run_file.run.name,
        run_file.run_id().short(),
        home.dir().display()
    );
    tracing::info!("whoever reaches this node's port may join the run");
}
