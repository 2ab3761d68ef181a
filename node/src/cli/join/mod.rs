//! `paceline join`: from a run file, a ticket, a home or the LAN to a node that runs.

mod options;
mod resolve;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use paceline_bootstrap::Address;
use paceline_model::{DataSet, Device, Learner};
use paceline_protocol::base::roster::{Part, is_name};
use paceline_protocol::io::{Event, State};
use tokio::net::TcpListener;
use tokio::sync::watch as watched;

use super::error::CliError;
use super::run_file::{at_fault, given_weights, lr_place};
use super::shutdown::shutdown;
use super::trainer::{self, Wanted};
use super::watch;
use crate::driver::NodeState;
use crate::learn::{HelloNode, Plan, PlanError, ProgramLearner, end_all};
use crate::node::{self, Chain, Node, NodeError, Running, blocking};
use crate::run_file::{Net, RunFile};
use crate::store::Home;
use crate::ui::screen::Ended;
use crate::ui::{bar, console, log, screen, words};

use options::DeviceKind;
use options::PageAddress;
pub(super) use options::{JoinOptions, part};
use resolve::resolve;
pub(super) use resolve::{looks_like_ticket, usual_home};

/// How long data may still be read once the node was told to stop.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// The screen looks whether the node is over a few times a second.
const SCREEN_END: Duration = Duration::from_secs(2);

pub(super) async fn run(mut options: JoinOptions, quiet: bool) -> Result<(), CliError> {
    let (run_file, home) = resolve(&mut options).await?;
    let origin = options.origin(&home);
    let learning = match (run_file.learning.model.net(), &options.trainer) {
        (Net::Trainer, Some(command)) => Learning::Program(command.clone()),
        (Net::Trainer, None) => return Err(at_fault(PlanError::Trainer, &origin)),
        (Net::Preset(_) | Net::Layers(_), None) => {
            Learning::Plan(Plan::of(&run_file).map_err(|e| at_fault(e, &origin))?)
        }
        (Net::Preset(_) | Net::Layers(_), Some(_)) => return Err(trainer::needless()),
    };
    // Before a trainer is started: nothing that a node has started outlives it.
    let shutdown = shutdown(options.until_stdin_ends)?;
    let (stop, stopped) = watched::channel(false);
    tokio::spawn(async move {
        shutdown.await;
        stop.send_replace(true);
    });
    let device = device(options.device.unwrap_or(DeviceKind::Cpu)).map_err(CliError::usage)?;
    let listener = listen(options.http).await?;
    let page = match options.page.and_then(|PageAddress(address)| address) {
        Some(address) if address.ip().is_loopback() => {
            let error = anyhow!(
                "--page {address}: on this machine the page is where --http is; give an address that others reach"
            );
            return Err(CliError::usage(error));
        }
        Some(address) => Some(bind("--page", address).await?),
        None => None,
    };
    let node = Node::open(home.dir(), run_file).await?;
    // Drawn before anybody serves by it.
    let token = page.is_some().then(|| home.http_token()).transpose()?;
    let mut started = None;
    let learner: Arc<dyn Learner> = match learning {
        Learning::Plan(plan) => {
            let mut is_stopped = stopped.clone();
            let stops = async {
                let _ = is_stopped.wait_for(|stopped| *stopped).await;
                // What the home has against a start is told, if it comes to that within a moment.
                tokio::time::sleep(STOP_GRACE).await;
            };
            let data = tokio::select! {
                data = read_data(&plan, options.data.clone(), options.part, &origin) => data?,
                () = stops => return Ok(()),
            };
            Arc::new(plan.learner(data, device))
        }
        Learning::Program(command) => {
            let part = options.part.map(|part| (part.index, part.of));
            let wanted = Wanted {
                command,
                node: HelloNode { id: node.id()?.to_string(), name: options.name.clone().or_else(host_name), part },
                data: options.data.clone(),
                threads: options.threads,
                patience: options.trainer_patience,
            };
            let program = wanted.program(node.run_file(), &node.home().trainer())?;
            tracing::info!("starts the trainer {}", program.command.join(" "));
            let mut is_stopped = stopped.clone();
            let learner = tokio::select! {
                learner = blocking(move || ProgramLearner::start(program)) => learner?.map_err(CliError::bad_input)?,
                _ = is_stopped.wait_for(|stopped| *stopped) => {
                    end_all();
                    return Ok(());
                }
            };
            started.insert(Arc::new(learner)).clone()
        }
    };
    let weights = options.model.as_deref().map(|from| given_weights(from, node.run_file(), learner.layout()));
    let weights = weights.transpose().map_err(CliError::bad_input)?;
    options.chain = options.switch.map(|genesis| genesis.to_string()).or(options.chain);
    let run_file = node.run_file().clone();
    // Only once all was checked: what can't be used must not be remembered for the next start.
    let ready = |name: &str| {
        options.remember(&home)?;
        announce(name, &run_file, &home);
        Ok(())
    };
    let (http_at, page_at) = (listener.local_addr()?, page.as_ref().map(TcpListener::local_addr).transpose()?);
    let node_options = node::Options { page, ..node_options(&options, weights, listener, &origin) };
    let mut running = match node.run_until(stopped, learner, node_options, ready).await {
        Err(NodeError::Stopped) => return Ok(()),
        running => running?,
    };
    tell_of_page(http_at, page_at.zip(token), &home);
    let is_over = Arc::new(AtomicBool::new(false));
    let shown = tokio::spawn(show(running.state(), quiet, (options.plain, !options.exit_when_done), is_over.clone()));
    let over = running.ended().await;
    is_over.store(true, Ordering::SeqCst);
    // The terminal is given back before anything is said.
    let _ = tokio::time::timeout(SCREEN_END, shown).await;
    if let Some(trainer) = started {
        // Nothing that a node has started outlives it.
        blocking(move || trainer.stop()).await?;
    }
    say_goodbye(over?, &running, &home)
}

/// Shows the node on the terminal, if there is one, until it is over.
async fn show(node_state: Arc<NodeState>, quiet: bool, (plain, serves_on): (bool, bool), is_over: Arc<AtomicBool>) {
    let has_bar = bar::is_shown(quiet) && !log::has_file();
    if quiet || !screen::is_possible(plain) {
        tokio::spawn(console::follow(node_state, has_bar, serves_on));
        return;
    }
    let lines = tokio::spawn(console::follow(node_state.clone(), false, serves_on));
    match watch::own(node_state.clone(), is_over).await {
        Ok(Ended::Interrupted | Ended::Over) => return,
        Ok(Ended::Quit) => {}
        Err(error) => tracing::warn!("{error:#}"),
    }
    lines.abort();
    tracing::info!("the node goes on; Ctrl-C stops it");
    tokio::spawn(console::follow(node_state, true, serves_on));
}

/// Who learns.
enum Learning {
    /// A net of the run file.
    Plan(Plan),
    /// A program, by its command.
    Program(String),
}

/// What this machine is called, if a node may be called so.
fn host_name() -> Option<String> {
    #[cfg(unix)]
    let name = rustix::system::uname().nodename().to_str().ok()?.split('.').next()?.to_owned();
    #[cfg(not(unix))]
    let name = std::env::var("COMPUTERNAME").ok()?;
    (!name.is_empty() && name != "localhost" && is_name(&name)).then_some(name)
}

fn node_options(
    options: &JoinOptions,
    weights: Option<Vec<u8>>,
    listener: TcpListener,
    origin: &Path,
) -> node::Options {
    let named = options.chain.as_deref().and_then(|text| text.parse().ok());
    node::Options {
        name: options.name.clone().or_else(host_name),
        part: options.part,
        threads: options.threads.map(NonZeroUsize::get),
        nice: options.nice,
        hours: options.hours,
        listen: Address::all(&options.listen),
        bootstrap: Address::all(&options.bootstrap),
        no_mdns: options.no_mdns,
        http: Some(listener),
        page: None,
        chain: named.map(|genesis| Chain { genesis, is_asked_now: options.target.is_some() }),
        switches: options.switch.is_some(),
        resumes: options.resume,
        exits_when_done: options.exit_when_done,
        weights,
        // Others read it, too: the folder is nothing to them.
        lr_place: origin.exists().then(|| {
            Path::new(&lr_place(origin)).file_name().map_or_else(String::new, |place| place.display().to_string())
        }),
    }
}

/// The node's examples. What is wrong with the run file, given them, is told with its line.
async fn read_data(
    plan: &Plan,
    path: Option<PathBuf>,
    part: Option<Part>,
    run_file: &Path,
) -> Result<DataSet, CliError> {
    tracing::info!("reads the data");
    let reader = plan.clone();
    let data = blocking(move || reader.data(path.as_deref(), part)).await?.map_err(|e| at_fault(e, run_file))?;
    data.notes.iter().for_each(|note| tracing::warn!("{note}"));
    tracing::info!("{} {} to train on, {} held out", data.train.len(), data.train.noun(), data.test.len());
    if plan.config.batch > data.train.len() {
        tracing::warn!(
            "fewer {} than `batch` in [train], {}: a step takes all of them",
            data.train.noun(),
            plan.config.batch
        );
    }
    Ok(data)
}

/// What a node that ended did, and how to go on.
fn say_goodbye(over: Option<Event>, running: &Running, home: &Home) -> Result<(), CliError> {
    let dir = home.dir().display();
    let status = running.status();
    // It may have gone on serving until somebody stopped it.
    let is_finished = over.is_some() || status.as_ref().is_some_and(|s| s.state == State::Finished.name());
    match over {
        Some(Event::Left) => {
            tracing::info!("left the run for good; to take part again, as another node, join with another --home")
        }
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
        _ if is_finished => tracing::info!(
            "{}; the model and the records are in {dir}. To take it away: paceline model export --home {dir}{}",
            words::outcome(&running.rounds(), &running.run_file().learning.metrics, status.as_ref()),
            words::best_option(status.as_ref())
        ),
        _ if status.as_ref().is_none_or(|s| s.state != State::Member.name()) => {
            tracing::info!("stopped; go on with: paceline join --home {dir}");
        }
        _ => tracing::info!(
            "stopped; this node stays on the roster. Go on with: paceline join --home {dir}   Or, while it runs, take it off with: paceline leave --home {dir}"
        ),
    }
    Ok(())
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
        let error = anyhow!(
            "--http {address}: the control API is for this machine alone; give a loopback address. To look at the node from other machines: --page {address}"
        );
        return Err(CliError::usage(error));
    }
    bind("--http", address).await
}

/// Listens on an address that an option gives.
async fn bind(option: &str, address: SocketAddr) -> Result<TcpListener, CliError> {
    let bound = TcpListener::bind(address).await;
    Ok(bound.with_context(|| format!("{option} {address} can't be listened on; give another port"))?)
}

/// Where the page is, for this machine and for others. The token is for eyes, not for logs that are kept and shipped.
fn tell_of_page(http: SocketAddr, page: Option<(SocketAddr, String)>, home: &Home) {
    tracing::info!("the page of this node: http://{http}/");
    let Some((page, token)) = page else { return };
    let host = if page.ip().is_unspecified() { host_name() } else { None };
    let at = host.map_or_else(|| page.to_string(), |host| format!("{host}:{}", page.port()));
    match log::is_watched() {
        true => tracing::info!("and for other machines: http://{at}/?token={token}"),
        false => tracing::info!(
            "and for other machines: http://{at}/?token=TOKEN, with what stands in {}",
            home.dir().join("http-token").display()
        ),
    }
}

fn announce(name: &str, run_file: &RunFile, home: &Home) {
    tracing::info!(
        "{name} joins run {} ({}), home {}",
        run_file.run.name,
        run_file.run_id().short(),
        home.dir().display()
    );
    tracing::info!("whoever reaches this node's port may join the run");
    if let Some(needed) = run_file.round.min_updates.filter(|needed| *needed > run_file.run.min_nodes) {
        tracing::warn!(
            "`min_updates` in [round] is {needed}, and the run begins with {} nodes: while fewer than {needed} train, all of them are needed",
            run_file.run.min_nodes
        );
    }
}
