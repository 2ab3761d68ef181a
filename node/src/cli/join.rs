//! `paceline join`: from a run file, a ticket, a home or the LAN to a node that runs.

use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use paceline_bootstrap::{Ticket, discover_runs, fetch_run_file};
use paceline_model::Device;
use paceline_protocol::Identity;
use paceline_protocol::bounds::RUN_FILE_BYTES_MAX;
use paceline_protocol::chain::Rules;
use paceline_protocol::machine::{Config, Event};
use paceline_protocol::runfile::RunFile;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::read::{find_home, known_addresses, run_file};
use super::{Coded, DeviceKind, Exit, JoinOptions, cores};
use crate::blobs::BlobStore;
use crate::console;
use crate::driver::{Driver, INPUTS_MAX, Parts, Shared, input_of, input_of_write};
use crate::http::{self, Api};
use crate::learn::{Averager, Controls, Material, Plan, PlanError, StateCheck, Trainer};
use crate::net::{NetOptions, Network};
use crate::report::{LEFT, NodeInfo};
use crate::store::{Database, Home, Writer};

/// How long a run file is looked for with a ticket.
const FETCH_WAIT: Duration = Duration::from_secs(20);

/// How long runs are looked for on the LAN.
const DISCOVER_WAIT: Duration = Duration::from_secs(4);

/// How long another holder of the home's lock is waited for: long for a command that looks, short for a person.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Events of the network that may wait for the driver.
const EVENTS_MAX: usize = 4_096;

/// Commands that may wait.
const COMMANDS_MAX: usize = 16;

pub(super) async fn run(mut options: JoinOptions, quiet: bool) -> Result<(), Coded> {
    let (run_file, home) = resolve(&mut options).await?;
    let origin = origin(&options, &home);
    let plan = Plan::of(&run_file).map_err(|e| at_fault(e, &origin))?;
    let device = device(options.device.unwrap_or(DeviceKind::Cpu)).map_err(usage)?;
    let listener = listen(options.http).await?;
    let _lock = {
        let home = home.clone();
        blocking(move || home.lock_within(LOCK_WAIT)).await??
    };
    same_run(&home, &run_file)?;
    let part = options.part;
    let data = {
        let (plan, path) = (plan.clone(), options.data.clone());
        tracing::info!("reads the data");
        blocking(move || plan.data(path.as_deref(), part)).await?.map_err(|e| at_fault(e, &origin))?
    };
    tracing::info!("{} training images, {} held out", data.train.len(), data.test.len());
    if plan.config.batch > data.train.len() {
        tracing::warn!("fewer images than `batch` in [train], {}: a step takes all of them", plan.config.batch);
    }
    // Only now: what can't be used must not be remembered for the next start.
    remember(&home, &run_file, &options)?;
    let identity = home.identity()?;
    let blobs = Arc::new(BlobStore::open(&home.blobs())?);
    let initial_model = {
        let (plan, blobs) = (plan.clone(), blobs.clone());
        let make = move || -> anyhow::Result<_> { Ok(blobs.put(&plan.initial_state()?)?) };
        blocking(make).await??
    };
    let database = Arc::new(Database::open(&home.database(), run_file.run_id())?);
    let recovered = database.recover(blobs.whole())?;
    if recovered.left {
        return Err(anyhow!(LEFT).into());
    }
    let rows = database.rows()?;

    let (events_in, events) = mpsc::channel(EVENTS_MAX);
    let (inputs_in, inputs) = mpsc::channel(INPUTS_MAX);
    let (commands_in, commands) = mpsc::channel(COMMANDS_MAX);
    let network = Network::start(net_options(&options, &run_file, &home, identity), events_in).await?;

    let config = Config {
        rules: Rules::of(&run_file, initial_model, plan.update_len()),
        identity: Identity::from_secret(&identity),
        name: name(&options, &identity),
        part,
    };
    let threads = options.threads.map_or_else(cores, NonZeroUsize::get);
    let tell = inputs_in.clone();
    let writer = Writer::start(database, move |id, written| {
        let _ = tell.blocking_send(input_of_write(id, written));
    });
    let tell = inputs_in.clone();
    let material = Material {
        plan: plan.clone(),
        data,
        device,
        blobs: blobs.clone(),
        controls: Controls::at(home.controls()),
        lr_place: lr_place(&origin),
    };
    let trainer = Trainer::start(material, threads, move |outcome| {
        let _ = tell.blocking_send(input_of(outcome));
    })?;
    let tell = inputs_in.clone();
    let averager = Averager::start(plan.rule, plan.parameters, blobs.clone(), move |input| {
        let _ = tell.blocking_send(input);
    });
    let info = NodeInfo::of(&run_file, &config.name, part);
    let shared = Arc::new(Shared::new(info, rows, trainer.progress()));

    home.write("http", listener.local_addr()?.to_string().as_bytes())?;
    let api = Api {
        shared: shared.clone(),
        network: network.clone(),
        commands: commands_in,
        run: run_file.run_id(),
        run_name: run_file.run.name.clone(),
    };
    tokio::spawn(http::serve(listener, api));
    tokio::spawn(console::follow(shared.clone(), quiet));
    announce(&run_file, &config, &home);

    let shutdown = shutdown(options.until_stdin_ends)?;
    let driver = Driver::new(Parts {
        config,
        recovered,
        network,
        blobs,
        writer,
        trainer,
        averager,
        state: StateCheck { rule: plan.rule, parameters: plan.parameters },
        shared,
        home: home.clone(),
        keep_updates: run_file.round.keep_updates as usize,
        inputs: inputs_in,
    });
    let exit_when_done = options.exit_when_done;
    let ends = move |event: &Event| match event {
        Event::Left => true,
        Event::Finished => exit_when_done,
        _ => false,
    };
    let over = driver.run(events, inputs, commands, shutdown, ends).await;
    let _ = std::fs::remove_file(home.http());
    let dir = home.dir().display();
    match over {
        Some(Event::Left) => tracing::info!("left the run"),
        Some(_) => tracing::info!("done; the model and the records are in {dir}"),
        None => tracing::info!(
            "stopped; this node stays on the roster. Go on with: paceline join --home {dir}   Or, while it runs, take it off with: paceline leave --home {dir}"
        ),
    }
    Ok(())
}

fn bad_input(error: impl Into<anyhow::Error>) -> Coded {
    Coded::new(Exit::BadInput, error)
}

/// An error of a plan, which names the place in the run file if that is at fault.
pub(crate) fn at_fault(error: PlanError, run_file: &Path) -> Coded {
    let place =
        std::fs::read_to_string(run_file).ok().and_then(|text| error.place(&text, &run_file.display().to_string()));
    match place {
        Some(place) => bad_input(anyhow!("{place}: {error}")),
        None => bad_input(error),
    }
}

/// Where a run file has the learning rate, which a training that diverges is about.
pub(crate) fn lr_place(run_file: &Path) -> String {
    let text = std::fs::read_to_string(run_file).unwrap_or_default();
    RunFile::place(&text, &run_file.display().to_string(), "train", "lr", None)
}

/// The run file that the node was started with, or the one in its home.
fn origin(options: &JoinOptions, home: &Home) -> PathBuf {
    let given = options.target.as_ref().map(PathBuf::from).filter(|path| path.is_file());
    given.unwrap_or_else(|| home.run_file())
}

fn usage(error: impl Into<anyhow::Error>) -> Coded {
    Coded::new(Exit::Usage, error)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("a worker thread failed")
}

/// Which run, and in which home.
async fn resolve(options: &mut JoinOptions) -> Result<(RunFile, Home), Coded> {
    let run = match options.target.clone() {
        Some(text) if text.starts_with("paceline") && text.contains(':') => by_ticket(options, &text).await?,
        Some(file) => read_run_file(Path::new(&file))?,
        None => match resumed(options)? {
            Some(found) => return Ok(found),
            None => by_lan(options).await?,
        },
    };
    let home = match &options.home {
        Some(dir) => Home::at(dir),
        None => Home::at(Home::folder()?.join(&run.run.name)),
    };
    recall(options, &home);
    // Remembered for a start from another folder.
    options.data = options.data.take().map(std::path::absolute).transpose()?;
    Ok((run, home))
}

/// Goes on in a home: the one given, or the only one there is.
fn resumed(options: &mut JoinOptions) -> Result<Option<(RunFile, Home)>, Coded> {
    let home = match &options.home {
        Some(dir) => Home::at(dir),
        None => match Home::all().as_slice() {
            [] => return Ok(None),
            _ => find_home(None)?,
        },
    };
    if !home.run_file().exists() {
        return Ok(None);
    }
    recall(options, &home);
    Ok(Some((run_file(&home)?, home)))
}

/// What was given at an earlier start holds where nothing else is given now.
fn recall(options: &mut JoinOptions, home: &Home) {
    let Ok(json) = std::fs::read(home.options()) else { return };
    let Ok(before) = serde_json::from_slice::<JoinOptions>(&json) else { return };
    options.name = options.name.take().or(before.name);
    options.part = options.part.or(before.part);
    options.data = options.data.take().or(before.data);
    options.threads = options.threads.or(before.threads);
    options.device = options.device.or(before.device);
    options.no_mdns |= before.no_mdns;
    if options.listen.is_empty() {
        options.listen = before.listen;
    }
    options.bootstrap.extend(before.bootstrap);
    options.bootstrap.sort();
    options.bootstrap.dedup();
}

async fn by_ticket(options: &mut JoinOptions, text: &str) -> Result<RunFile, Coded> {
    let ticket: Ticket = text.parse().map_err(bad_input)?;
    tracing::info!("asks for the run file of {}", ticket.run_name);
    let run = fetch_run_file(&ticket.addresses, ticket.run, FETCH_WAIT).await?;
    options.bootstrap.extend(ticket.addresses);
    Ok(run)
}

async fn by_lan(options: &mut JoinOptions) -> Result<RunFile, Coded> {
    tracing::info!("looks for runs on the LAN");
    let runs = discover_runs(&options.bootstrap, DISCOVER_WAIT).await?;
    match runs.as_slice() {
        [one] => {
            tracing::info!("found run {} with {} nodes", one.name, one.nodes);
            let run = fetch_run_file(&one.addresses, one.run, FETCH_WAIT).await?;
            options.bootstrap.extend(one.addresses.iter().cloned());
            Ok(run)
        }
        [] => Err(Coded::new(
            Exit::NotFound,
            anyhow!("no run was seen on the LAN; give a run file or a ticket, or begin with `paceline init`"),
        )),
        several => {
            let names: Vec<String> =
                several.iter().map(|r| format!("{} ({} nodes, {})", r.name, r.nodes, r.run.short())).collect();
            let error =
                anyhow!("several runs are seen on the LAN: {}; join one with its run file or ticket", names.join(", "));
            Err(Coded::new(Exit::NotFound, error))
        }
    }
}

/// Reads a run file that a person wrote.
pub(crate) fn read_run_file(path: &Path) -> Result<RunFile, Coded> {
    let name = path.display().to_string();
    let read = || -> std::io::Result<String> {
        let len = std::fs::metadata(path)?.len();
        if len > RUN_FILE_BYTES_MAX as u64 {
            return Err(std::io::Error::other(format!("{len} bytes, a run file has at most {RUN_FILE_BYTES_MAX}")));
        }
        std::fs::read_to_string(path)
    };
    let text = read()
        .with_context(|| format!("{name}: the run file can't be read; `paceline init` writes one"))
        .map_err(|e| Coded::new(Exit::BadInput, e))?;
    RunFile::parse(&text, &name).map_err(bad_input)
}

/// Refuses a home that belongs to another run.
fn same_run(home: &Home, run_file: &RunFile) -> Result<(), Coded> {
    if home.run_file().exists() {
        let before = self::run_file(home)?;
        if before.run_id() != run_file.run_id() {
            let error = anyhow!(
                "{} is the home of run {} ({}); give another --home for run {} ({})",
                home.dir().display(),
                before.run.name,
                before.run_id().short(),
                run_file.run.name,
                run_file.run_id().short()
            );
            return Err(bad_input(error));
        }
    }
    Ok(())
}

/// Puts the run file and the options into the home.
fn remember(home: &Home, run_file: &RunFile, options: &JoinOptions) -> Result<(), Coded> {
    if !home.run_file().exists() {
        home.write("run.toml", run_file.canonical().as_bytes())?;
    }
    let json = serde_json::to_vec_pretty(options)?;
    Ok(home.write("options.json", &json)?)
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

async fn listen(address: Option<SocketAddr>) -> Result<TcpListener, Coded> {
    let address = address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    if !address.ip().is_loopback() {
        let error = anyhow!("--http {address}: the control API is for this machine alone; give a loopback address");
        return Err(usage(error));
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

/// Comes with SIGINT, SIGTERM, or the end of stdin if that matters. A second signal ends the process at once.
fn shutdown(until_stdin_ends: bool) -> anyhow::Result<impl Future<Output = ()>> {
    let mut signals = Signals::listen().context("signals can't be listened to")?;
    Ok(async move {
        tokio::select! {
            () = signals.next() => {}
            () = stdin_ends(), if until_stdin_ends => {}
        }
        tracing::info!("stops; once more to stop at once");
        tokio::spawn(async move {
            signals.next().await;
            std::process::exit(130);
        });
    })
}

/// Waits until whoever holds the other end of stdin is gone.
pub(crate) async fn stdin_ends() {
    use tokio::io::AsyncReadExt;
    let mut stdin = tokio::io::stdin();
    let mut byte = [0];
    while stdin.read(&mut byte).await.is_ok_and(|n| n > 0) {}
}

struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    #[cfg(unix)]
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    #[cfg(not(unix))]
    fn listen() -> std::io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}
