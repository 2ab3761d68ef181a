//! A whole run on this machine: a bootstrap and the nodes as processes of their own, started like anybody would start them.
//! This process only watches.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::inspect;
use crate::learn::cores;
use crate::report::Round;
use crate::run_file::RunFile;
use crate::store::Home;

/// The bootstrap listens within this time, or something is wrong.
const BOOTSTRAP_WAIT: Duration = Duration::from_secs(20);

/// How often the first node is looked at.
const LOOK: Duration = Duration::from_millis(300);

/// Lines of a log that are shown of a node that failed.
const LOG_LINES: usize = 12;

/// Nodes of whose stdin the other end is closed are gone within this time.
pub(crate) const NODES_END: Duration = Duration::from_secs(1);

/// The processes of a run. They end when this does.
pub(crate) struct Cluster {
    _bootstrap: Child,
    nodes: Vec<Node>,
}

/// One node. Its stdin is its lifeline: when this process ends, however it does, the child's stdin does too.
struct Node {
    name: String,
    home: PathBuf,
    child: Child,
}

impl Cluster {
    /// Starts a bootstrap and so many nodes, whose homes and logs lie in `dir`. Node K of N has the part K/N of `data`.
    ///
    /// # Errors
    /// A process can't be started, or a file can't be written.
    pub(crate) async fn start(run_file: &RunFile, nodes: u32, data: Option<&Path>, dir: &Path) -> anyhow::Result<Self> {
        let file = dir.join("run.toml");
        std::fs::write(&file, run_file.canonical()).with_context(|| format!("{} can't be written", file.display()))?;
        let (bootstrap, ticket) = start_bootstrap(&file).await?;
        let start = |k| Node::start(dir, &ticket, data, k, nodes);
        Ok(Self { _bootstrap: bootstrap, nodes: (1..=nodes).map(start).collect::<anyhow::Result<_>>()? })
    }

    /// Waits until all nodes have ended, and gives the rounds. `on_round` hears of each when it has committed, with the one
    /// before.
    ///
    /// # Errors
    /// A node failed; the error has the end of its log.
    pub(crate) async fn follow(
        &mut self,
        mut on_round: impl FnMut(&Round, Option<&Round>),
    ) -> anyhow::Result<Vec<Round>> {
        let first = self.nodes.first().map(|node| node.home.clone()).context("there is no node")?;
        let mut shown = 0;
        loop {
            tokio::time::sleep(LOOK).await;
            let home = first.clone();
            // Until its home is complete there is nothing to see.
            let rounds = tokio::task::spawn_blocking(move || rounds_of(&home)).await?.unwrap_or_default();
            for (index, round) in rounds.iter().enumerate().skip(shown) {
                on_round(round, index.checked_sub(1).and_then(|before| rounds.get(before)));
            }
            shown = rounds.len();
            if !self.any_runs()? {
                return rounds_of(&first);
            }
        }
    }

    /// The home of the first node.
    pub(crate) fn first_home(&self) -> &Path {
        &self.nodes[0].home
    }

    fn any_runs(&mut self) -> anyhow::Result<bool> {
        let mut any = false;
        for node in &mut self.nodes {
            any |= node.runs()?;
        }
        Ok(any)
    }

    /// The hash of the model that all nodes hold after these rounds.
    ///
    /// # Errors
    /// They do not all hold the same records.
    pub(crate) fn agreed_model<'a>(&self, rounds: &'a [Round]) -> anyhow::Result<&'a str> {
        let last = rounds.last().context("no round was committed")?;
        for node in &self.nodes {
            let theirs = rounds_of(&node.home)?;
            if theirs.last().map(|round| &round.record_hash) != Some(&last.record_hash) {
                bail!("{} does not hold the same last record as {}", node.name, self.nodes[0].name);
            }
        }
        Ok(&last.model_hash)
    }
}

impl Node {
    /// Starts node `k` of `of`.
    fn start(dir: &Path, ticket: &str, data: Option<&Path>, k: u32, of: u32) -> anyhow::Result<Self> {
        let name = format!("node-{k}");
        let home = dir.join(&name);
        std::fs::create_dir_all(&home).with_context(|| format!("{} can't be made", home.display()))?;
        let log = std::fs::File::create(home.join("log")).context("a log can't be made")?;
        let threads = (cores() / of as usize).max(1);
        let mut command = this_program()?;
        command
            .args(["join", ticket, "--name", &name, "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"])
            .args(["--exit-when-done", "--until-stdin-ends", "--part", &format!("{k}/{of}")])
            .args(["--threads", &threads.to_string(), "--home"])
            .arg(&home);
        if let Some(data) = data {
            command.arg("--data").arg(data);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        Ok(Self { name, home, child: command.spawn().context("a node can't be started")? })
    }

    /// Whether it still runs.
    fn runs(&mut self) -> anyhow::Result<bool> {
        match self.child.try_wait()? {
            None => Ok(true),
            Some(status) if status.success() => Ok(false),
            Some(status) => bail!("{} ended with {status}:\n{}", self.name, last_lines(&self.home.join("log"))),
        }
    }
}

/// Starts the bootstrap and waits for its ticket.
async fn start_bootstrap(run_file: &Path) -> anyhow::Result<(Child, String)> {
    let mut command = this_program()?;
    command.args(["--quiet", "bootstrap", "--listen", "/ip4/127.0.0.1/tcp/0", "--run"]).arg(run_file);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("the bootstrap can't be started")?;
    let out = child.stdout.take().context("the bootstrap has no output")?;
    let mut lines = BufReader::new(out).lines();
    let line = tokio::time::timeout(BOOTSTRAP_WAIT, lines.next_line()).await;
    let ticket = line.ok().and_then(|l| l.ok().flatten()).ok_or_else(|| anyhow!("the bootstrap did not start"))?;
    Ok((child, ticket))
}

fn this_program() -> anyhow::Result<Command> {
    Ok(Command::new(std::env::current_exe().context("this program's own file can't be found")?))
}

fn rounds_of(home: &Path) -> anyhow::Result<Vec<Round>> {
    inspect::Node::of(Home::at(home))?.rounds()
}

/// The end of a log file.
fn last_lines(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}
