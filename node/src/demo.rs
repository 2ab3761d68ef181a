//! `paceline demo`: a whole run on this machine. A bootstrap and the nodes are processes of their own, started like
//! anybody would start them; this one only watches.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use libp2p::Multiaddr;
use paceline_bootstrap::ServeOptions;
use paceline_protocol::runfile::RunFile;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::cli::{Coded, Exit, read_run_file, rounds_of, rounds_table, short, stdin_ends};
use crate::report::Round;

/// How the demo runs.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Nodes that train.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    nodes: u32,
    /// Rounds [default: 5, or what the run file says].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: Option<u64>,
    /// Another run file than the built-in one.
    #[arg(long, value_name = "FILE")]
    run: Option<PathBuf>,
    /// The data for it, if it needs any.
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Keep the nodes' homes and logs in this folder, which must not exist yet.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// The run of the demo: generated pictures, a small net.
const RUN: &str = include_str!("demo/run.toml");

/// The bootstrap listens within this time, or something is wrong.
const BOOTSTRAP_WAIT: Duration = Duration::from_secs(20);

/// Nodes whose stdin has ended are gone within this time.
const NODES_END: Duration = Duration::from_secs(1);

/// How often the demo looks at the first node.
const LOOK: Duration = Duration::from_millis(300);

/// The homes of the demo; the folder goes when this does, unless it is to be kept.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// One child process. Its stdin is its lifeline: when this process ends, however it does, the child's stdin does too.
struct Node {
    name: String,
    home: PathBuf,
    child: Child,
}

pub(crate) async fn run(options: Options, json: bool) -> Result<(), Coded> {
    let mut run_file = match &options.run {
        Some(path) => read_run_file(path)?,
        None => RunFile::parse(RUN, "the demo's run file")?,
    };
    run_file.run.rounds = options.rounds.unwrap_or(run_file.run.rounds);
    run_file.run.min_nodes = options.nodes;
    let mut folder = folder(options.keep.clone())?;
    let result = tokio::select! {
        result = watch(&options, &run_file, &folder.path, json) => result,
        _ = tokio::signal::ctrl_c() => {
            // Their stdin has ended, and so do they; what they still write must not outlive the folder.
            tokio::time::sleep(NODES_END).await;
            return Err(Coded::new(Exit::Failed, anyhow!("interrupted")));
        }
    };
    if result.is_err() && !folder.keep {
        folder.keep = true;
        eprintln!("The homes and logs of the nodes are left in {}", folder.path.display());
    }
    Ok(result?)
}

fn folder(keep: Option<PathBuf>) -> anyhow::Result<Folder> {
    let keeps = keep.is_some();
    let path = keep.unwrap_or_else(|| std::env::temp_dir().join(format!("paceline-demo-{}", std::process::id())));
    if path.exists() {
        bail!("{} exists and is left alone; give another folder", path.display());
    }
    std::fs::create_dir_all(&path).with_context(|| format!("{} can't be made", path.display()))?;
    Ok(Folder { path, keep: keeps })
}

async fn watch(options: &Options, run_file: &RunFile, dir: &Path, json: bool) -> anyhow::Result<()> {
    let began = Instant::now();
    let file = dir.join("run.toml");
    std::fs::write(&file, run_file.canonical()).with_context(|| format!("{} can't be written", file.display()))?;
    let say = |line: String| {
        if !json {
            println!("{line}")
        }
    };
    say(format!(
        "{} nodes and a bootstrap on this machine train {} for {} rounds. Each node is a process with a part of the data.",
        options.nodes, run_file.run.name, run_file.run.rounds
    ));
    let (_bootstrap, ticket) = bootstrap_process(&file).await?;
    let mut nodes: Vec<Node> =
        (1..=options.nodes).map(|k| start(options, dir, &ticket, k)).collect::<anyhow::Result<_>>()?;
    let rounds = follow(&mut nodes, run_file, &say).await?;
    let model = agreement(&nodes, &rounds)?;
    if json {
        rounds.iter().try_for_each(|r| serde_json::to_string(r).map(|line| println!("{line}")))?;
        return Ok(());
    }
    println!("\n{}\n", rounds_table(&rounds));
    println!("All {} nodes hold the same model: {model}", nodes.len());
    println!(
        "It took {:.0} s. Now on real machines: `paceline init run.toml`, then `paceline join run.toml` on each.",
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Starts the bootstrap and waits for its ticket.
async fn bootstrap_process(run_file: &Path) -> anyhow::Result<(Child, String)> {
    let mut child = Command::new(std::env::current_exe().context("this program's own file can't be found")?)
        .args(["--quiet", "bootstrap", "--listen", "/ip4/127.0.0.1/tcp/0", "--run"])
        .arg(run_file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("the bootstrap can't be started")?;
    let out = child.stdout.take().context("the bootstrap has no output")?;
    let mut lines = BufReader::new(out).lines();
    let line = tokio::time::timeout(BOOTSTRAP_WAIT, lines.next_line()).await;
    let ticket = line.ok().and_then(|l| l.ok().flatten()).ok_or_else(|| anyhow!("the bootstrap did not start"))?;
    Ok((child, ticket))
}

fn start(options: &Options, dir: &Path, ticket: &str, k: u32) -> anyhow::Result<Node> {
    let name = format!("node-{k}");
    let home = dir.join(&name);
    std::fs::create_dir_all(&home).with_context(|| format!("{} can't be made", home.display()))?;
    let log = std::fs::File::create(home.join("log")).context("a log can't be made")?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (cores / options.nodes as usize).max(1);
    let mut command = Command::new(std::env::current_exe().context("this program's own file can't be found")?);
    command
        .args(["join", ticket, "--name", &name, "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0", "--exit-when-done"])
        .args(["--until-stdin-ends", "--part", &format!("{k}/{}", options.nodes), "--threads", &threads.to_string()])
        .arg("--home")
        .arg(&home);
    if let Some(data) = &options.data {
        command.arg("--data").arg(data);
    }
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .context("a node can't be started")?;
    Ok(Node { name, home, child })
}

/// Shows each round as it commits, until all nodes have ended.
async fn follow(nodes: &mut [Node], run_file: &RunFile, say: &impl Fn(String)) -> anyhow::Result<Vec<Round>> {
    let first = nodes.first().map(|n| n.home.clone()).context("there is no node")?;
    let mut shown = 0;
    loop {
        tokio::time::sleep(LOOK).await;
        let home = first.clone();
        // Until its home is complete there is nothing to see.
        let rounds = tokio::task::spawn_blocking(move || rounds_of(&home)).await?.unwrap_or_default();
        for (index, round) in rounds.iter().enumerate().skip(shown) {
            let before = index.checked_sub(1).and_then(|i| rounds.get(i));
            say(round_line(round, before, run_file.run.rounds));
        }
        shown = rounds.len();
        let mut running = 0;
        for node in nodes.iter_mut() {
            match node.child.try_wait()? {
                None => running += 1,
                Some(status) if status.success() => {}
                Some(status) => bail!("{} ended with {status}:\n{}", node.name, last_lines(&node.home.join("log"))),
            }
        }
        if running == 0 {
            return rounds_of(&first);
        }
    }
}

/// A round as it commits. What its model is worth is known only when the next round's updates tell.
fn round_line(r: &Round, before: Option<&Round>, of: u64) -> String {
    let known = before.and_then(|b| Some((b.round, b.accuracy?)));
    format!(
        "round {} of {of}: coordinated by {}, {} updates, loss {}, {}{}",
        r.round,
        r.committed_by.as_deref().map_or("-".into(), short),
        r.contributions.len(),
        r.train_loss.map_or("-".into(), |l| format!("{l:.3}")),
        r.duration_ms.map_or("-".into(), |ms| format!("{:.1} s", ms as f64 / 1000.0)),
        known.map_or(String::new(), |(round, a)| format!("; accuracy after round {round}: {:.1} %", 100.0 * a))
    )
}

/// The end of a log file.
fn last_lines(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// Whether all nodes hold the same records; their model's hash.
fn agreement(nodes: &[Node], rounds: &[Round]) -> anyhow::Result<String> {
    let last = rounds.last().context("no round was committed")?;
    for node in nodes {
        let theirs = rounds_of(&node.home)?;
        if theirs.last().map(|r| &r.record_hash) != Some(&last.record_hash) {
            bail!("{} does not hold the same last record as {}", node.name, nodes[0].name);
        }
    }
    Ok(last.model_hash.clone())
}

/// The hidden command behind the demo's bootstrap: prints the ticket, and serves until its stdin ends.
pub(crate) async fn bootstrap(run: &Path, listen: Vec<Multiaddr>) -> Result<(), Coded> {
    let options = ServeOptions { run: Some(read_run_file(run)?), listen, home: None, mdns: false };
    let on_ready = |ready: paceline_bootstrap::Ready| println!("{}", ready.ticket.unwrap_or_default());
    Ok(paceline_bootstrap::serve(options, on_ready, stdin_ends()).await?)
}
