//! `paceline demo`: a whole run on this machine, to see what it is like.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use libp2p::Multiaddr;
use paceline_bootstrap::ServeOptions;

use super::error::CliError;
use super::output::Format;
use super::run_file::read_run_file;
use super::shutdown::{interrupt, shutdown, stdin_ends};
use super::watch;
use crate::cluster::{Cluster, NODES_END};
use crate::inspect::Node;
use crate::report::{Round, name_of};
use crate::run_file::RunFile;
use crate::store::Home;
use crate::ui::screen::{self, Ended};
use crate::ui::{log, table, words};

/// How the demo runs.
#[derive(Debug, Args)]
pub(super) struct Options {
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
    /// Lines in place of the screen that a terminal gets.
    #[arg(long)]
    plain: bool,
    /// Keep the nodes' homes and logs in this folder, which must not exist yet.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// The run of the demo: generated pictures, a small net.
const RUN: &str = include_str!("demo/run.toml");

/// The homes of the demo; the folder goes when this does, unless it is to be kept.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn new(keep: Option<PathBuf>) -> anyhow::Result<Self> {
        let keeps = keep.is_some();
        let path = keep.unwrap_or_else(|| std::env::temp_dir().join(format!("paceline-demo-{}", std::process::id())));
        if path.exists() {
            bail!("{} exists and is left alone; give another folder", path.display());
        }
        std::fs::create_dir_all(&path).with_context(|| format!("{} can't be made", path.display()))?;
        Ok(Self { path, keep: keeps })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

pub(super) async fn run(options: Options, format: Format) -> Result<(), CliError> {
    let mut run_file = match &options.run {
        Some(path) => read_run_file(path)?,
        None => RunFile::parse(RUN, "the demo's run file")?,
    };
    run_file.run.rounds = options.rounds.unwrap_or(run_file.run.rounds);
    run_file.run.min_nodes = options.nodes;
    let mut folder = Folder::new(options.keep.clone())?;
    let interrupted = shutdown(false)?;
    let result = tokio::select! {
        result = show(&options, &run_file, &folder.path, format) => result,
        () = interrupted => {
            screen::restore();
            // Their stdin has ended, and so do they; what they still write must not outlive the folder.
            tokio::time::sleep(NODES_END).await;
            return Err(CliError::failed(anyhow!("interrupted")));
        }
    };
    if result.is_err() && !folder.keep {
        folder.keep = true;
        log::say(format_args!("The homes and logs of the nodes are left in {}", folder.path.display()));
    }
    Ok(result?)
}

/// Runs it and shows it: with text each round as it commits, then what it came to; with JSON the rounds, at the end.
async fn show(options: &Options, run_file: &RunFile, dir: &Path, format: Format) -> anyhow::Result<()> {
    let began = Instant::now();
    let (name, in_all, is_text) = (&run_file.run.name, run_file.run.rounds, format == Format::Text);
    if is_text {
        println!(
            "{} nodes and a bootstrap on this machine train {name}, {in_all} rounds. Each node is a process with a part of the data.",
            options.nodes
        );
    }
    let mut cluster = Cluster::start(run_file, options.nodes, options.data.as_deref(), dir).await?;
    let has_screen = Arc::new(AtomicBool::new(is_text && screen::is_possible(options.plain)));
    let is_over = Arc::new(AtomicBool::new(false));
    let shown = has_screen.load(Ordering::SeqCst).then(|| {
        let (home, is_over, has_screen) = (cluster.first_home().to_owned(), is_over.clone(), has_screen.clone());
        tokio::task::spawn_blocking(move || {
            let ended = watch::demo(&home, is_over);
            has_screen.store(false, Ordering::SeqCst);
            if ended.is_ok_and(|ended| ended == Ended::Interrupted) {
                interrupt();
            }
        })
    });
    let first = cluster.first_home().to_owned();
    let on_round = |round: &Round, before: Option<&Round>| {
        if is_text && !has_screen.load(Ordering::SeqCst) {
            // Its node has just committed, and may have ended since.
            let status = Node::of(Home::at(&first)).and_then(|node| node.status());
            let roster = status.map(|status| status.roster).unwrap_or_default();
            println!("{}", words::committed_round(round, before, in_all, |id| name_of(&roster, id)));
        }
    };
    let followed = cluster.follow(on_round).await;
    is_over.store(true, Ordering::SeqCst);
    if let Some(shown) = shown {
        shown.await?;
    }
    let rounds = followed?;
    let roster = Node::of(Home::at(cluster.first_home())).and_then(|node| node.status())?.roster;
    let model = cluster.agreed_model(&rounds)?;
    if !is_text {
        rounds.iter().try_for_each(|round| serde_json::to_string(round).map(|line| println!("{line}")))?;
        return Ok(());
    }
    println!("\n{}\n", table::rounds(&rounds, |id| name_of(&roster, id)));
    println!("All {} nodes hold the same model: {model}", options.nodes);
    println!(
        "It took {:.0} s. Now on real machines: `paceline init run.toml`, then `paceline join run.toml` on each.",
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

/// The hidden command behind the demo's bootstrap: prints the ticket, and serves until its stdin ends.
pub(super) async fn bootstrap(run: &Path, listen: Vec<Multiaddr>) -> Result<(), CliError> {
    let options = ServeOptions { run: Some(read_run_file(run)?.published()), listen, home: None, mdns: false };
    let on_ready = |ready: paceline_bootstrap::Ready| println!("{}", ready.ticket.unwrap_or_default());
    Ok(paceline_bootstrap::serve(options, on_ready, stdin_ends()).await?)
}
