//! The commands that look at a node: `status`, `rounds`, `peers`, `ticket`, and `leave`. They ask the node if it runs, and
//! read its home if it does not.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use comfy_table::{ContentArrangement, Table, presets};
use paceline_bootstrap::Ticket;
use paceline_protocol::runfile::RunFile;
use paceline_protocol::{Identity, NodeId};
use serde::de::DeserializeOwned;

use super::{Coded, Exit, Format, Which, print};
use crate::http::COMMAND_HEADER;
use crate::report::{Peer, Round, Status};
use crate::store::{Database, Home, HomeError, HomeLock, Row};

/// A node on this machine answers at once; whatever takes longer is no node.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Another command that looks holds a home's lock for some milliseconds, a node for as long as it runs.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// Where answers come from.
enum Source {
    Running { url: String },
    Stopped { home: Home },
}

/// Nodes are on this machine: a proxy that the environment names could not reach them.
fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).proxy(None).build().into()
}

fn get<T: DeserializeOwned>(url: &str, path: &str) -> anyhow::Result<T> {
    let url = format!("{}{path}", url.trim_end_matches('/'));
    let mut response = agent().get(&url).call().with_context(|| format!("{url} does not answer"))?;
    // A node of this machine is trusted not to fill its memory: a history has no bound of its own.
    let body = response.body_mut().with_config().limit(u64::MAX);
    body.read_json().with_context(|| format!("{url} is no paceline node"))
}

fn source(from: &Which) -> Result<Source, Coded> {
    if let Some(url) = &from.node {
        get::<Status>(url, "/status").map_err(|e| Coded::new(Exit::NotFound, e))?;
        return Ok(Source::Running { url: url.clone() });
    }
    let home = find_home(from.home.as_deref())?;
    let Some(me) = node_id(&home)? else { return Ok(Source::Stopped { home }) };
    // The address of a node that was killed may be another's by now.
    let url = std::fs::read_to_string(home.http()).ok().map(|address| format!("http://{}", address.trim()));
    match url.filter(|url| get::<Status>(url, "/status").is_ok_and(|s| s.node_id == me.to_string())) {
        Some(url) => Ok(Source::Running { url }),
        // Its database is the node's own while it runs.
        None if stays_taken(&home) => {
            Err(anyhow!("the node on {} is just starting, or busy; try again", home.dir().display()).into())
        }
        None => Ok(Source::Stopped { home }),
    }
}

/// Whether a node is on a home, and not just another command that looks at it.
fn stays_taken(home: &Home) -> bool {
    home.is_running() && matches!(home.lock_within(LOCK_WAIT), Err(HomeError::Locked(_)))
}

/// The node of a home, once it was started.
fn node_id(home: &Home) -> Result<Option<NodeId>, Coded> {
    Ok(home.known_identity()?.map(|secret| Identity::from_secret(&secret).node_id()))
}

/// The home that is meant: the one given, or the only one there is.
pub(super) fn find_home(given: Option<&Path>) -> Result<Home, Coded> {
    if let Some(dir) = given {
        let home = Home::at(dir);
        if !home.run_file().exists() {
            let error = anyhow!("{} is no home of a node: it has no run.toml", dir.display());
            return Err(Coded::new(Exit::NotFound, error));
        }
        return Ok(home);
    }
    let mut homes = Home::all();
    match (homes.pop(), homes.is_empty()) {
        (Some(home), true) => Ok(home),
        (None, _) => {
            let error = anyhow!("no node was ever started here; begin with `paceline join`, or give --home or --node");
            Err(Coded::new(Exit::NotFound, error))
        }
        (Some(last), false) => {
            let names: Vec<String> = homes.iter().chain([&last]).map(|h| h.dir().display().to_string()).collect();
            let error = anyhow!("there is more than one home; give one of them with --home: {}", names.join(", "));
            Err(Coded::new(Exit::NotFound, error))
        }
    }
}

/// The run file of a home.
pub(super) fn run_file(home: &Home) -> Result<RunFile, Coded> {
    let path = home.run_file();
    let name = path.display().to_string();
    let text = std::fs::read_to_string(&path).with_context(|| format!("{name} can't be read"))?;
    RunFile::parse(&text, &name).map_err(|e| Coded::new(Exit::BadInput, e))
}

/// Opens the database of a home whose node does not run; `None` before its first start.
///
/// The home's lock is held meanwhile: a node that starts just now waits for it rather than finds its database taken.
fn database(home: &Home) -> Result<Option<(HomeLock, Database)>, Coded> {
    if !home.database().exists() {
        return Ok(None);
    }
    let lock = match home.lock_within(LOCK_WAIT) {
        Err(HomeError::Locked(dir)) => {
            return Err(
                anyhow!("the node of {} does not answer: it starts or stops; ask again soon", dir.display()).into()
            );
        }
        result => result?,
    };
    Ok(Some((lock, Database::open(&home.database(), run_file(home)?.run_id())?)))
}

fn rows(home: &Home) -> Result<Vec<Row>, Coded> {
    Ok(match database(home)? {
        Some((_lock, database)) => database.rows()?,
        None => Vec::new(),
    })
}

/// Whether the node of a home left the run.
fn has_left(home: &Home) -> Result<bool, Coded> {
    Ok(match database(home)? {
        Some((_lock, database)) => database.recover(Vec::new())?.left,
        None => false,
    })
}

/// The status of a home whose node does not run.
fn stopped(home: &Home) -> Result<Status, Coded> {
    let run_file = run_file(home)?;
    let rows = rows(home)?;
    let me = node_id(home)?;
    let me = me.with_context(|| format!("{} has no identity yet: its node was never started", home.dir().display()))?;
    Ok(Status::stopped(&run_file, me, &rows, home.dir(), has_left(home)?))
}

fn look(from: &Which) -> Result<Status, Coded> {
    match source(from)? {
        Source::Running { url } => Ok(get(&url, "/status")?),
        Source::Stopped { home } => stopped(&home),
    }
}

pub(super) async fn status(from: &Which, format: Format, watch: bool) -> Result<(), Coded> {
    loop {
        let status = look(from)?;
        match format {
            Format::Json => print(&serde_json::to_string(&status)?),
            Format::Text => {
                // Clears the screen and goes to its top.
                let clear = if watch && std::io::stdout().is_terminal() { "\x1b[2J\x1b[H" } else { "" };
                print(&format!("{clear}{}", describe(&status).trim_end()));
            }
        }
        if !watch {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// A table without lines, as wide as its content.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    table
}

/// The last six characters of a node id tell nodes apart.
pub(crate) fn short(id: &str) -> String {
    id.get(id.len().saturating_sub(6)..).unwrap_or(id).to_owned()
}

fn percent(accuracy: Option<f64>) -> String {
    accuracy.map_or_else(|| "-".into(), |a| format!("{:.1} %", 100.0 * a))
}

fn seconds(ms: Option<u64>) -> String {
    ms.map_or_else(|| "-".into(), |ms| format!("{:.1} s", ms as f64 / 1000.0))
}

fn describe(s: &Status) -> String {
    let name_of = |id: &str| {
        let member = s.roster.iter().find(|m| m.node_id == id).filter(|m| !m.name.is_empty());
        member.map_or_else(|| short(id), |m| m.name.clone())
    };
    let mut lines = vec![format!(
        "run {} ({}): {} of {} rounds, this node {} is {}",
        s.run_name,
        s.run_id.get(..10).unwrap_or_default(),
        s.trained,
        s.rounds,
        if s.name.is_empty() { short(&s.node_id) } else { s.name.clone() },
        s.state
    )];
    if let Some(reason) = &s.reason {
        lines.push(format!("  {reason}"));
    }
    let coordinator = s.coordinator.as_deref().map_or("nobody yet".to_owned(), &name_of);
    if s.round > 0 && !["stopped", "left"].contains(&s.state.as_str()) {
        let attempt = if s.attempt > 0 { format!(", attempt {}", s.attempt) } else { String::new() };
        lines.push(format!("round {}{attempt}: {}, coordinator {coordinator}", s.round, s.phase));
    }
    if let Some(t) = &s.training {
        let what = if t.evaluating { "evaluates" } else { "trains" };
        lines.push(format!("this node {what}: batch {} of {}, loss {:.3}", t.done, t.of, t.loss));
    }
    if let Some(c) = &s.last_commit {
        lines.push(format!(
            "last commit: round {}, {} updates, loss {}, accuracy {}, {}, model {}",
            c.round,
            c.updates,
            c.train_loss.map_or("-".into(), |l| format!("{l:.3}")),
            percent(c.accuracy),
            seconds(c.duration_ms),
            c.model_hash.get(..10).unwrap_or_default()
        ));
    }
    if let Some(fork) = &s.fork {
        lines.push(format!("another chain of this run was seen: {fork}"));
    }
    let mut members = table(&["node", "name", "part", "does", "reachable", "last heard of"]);
    for m in &s.roster {
        let late = s.participants.iter().find(|p| p.node_id == m.node_id).map_or(&m.state, |p| &p.state);
        members.add_row([
            short(&m.node_id),
            m.name.clone(),
            m.part.clone().unwrap_or_default(),
            late.clone(),
            if m.reachable { "yes" } else { "no" }.into(),
            m.silent_ms.map_or(String::new(), |ms| format!("{} s ago", ms / 1000)),
        ]);
    }
    if !s.roster.is_empty() {
        lines.push(members.to_string());
    }
    lines.join("\n") + "\n"
}

/// The rounds that a home's node has, whether it runs or not.
pub(crate) fn rounds_of(home: &Path) -> anyhow::Result<Vec<Round>> {
    let from = Which { home: Some(home.to_owned()), node: None };
    look_at_rounds(&from).map_err(|coded| coded.error)
}

fn look_at_rounds(from: &Which) -> Result<Vec<Round>, Coded> {
    match source(from)? {
        Source::Running { url } => Ok(get(&url, "/rounds")?),
        Source::Stopped { home } => Ok(Round::committed(&rows(&home)?)),
    }
}

pub(super) fn rounds(from: &Which, format: Format) -> Result<(), Coded> {
    let rounds = look_at_rounds(from)?;
    match format {
        Format::Json => {
            for round in &rounds {
                print(&serde_json::to_string(round)?);
            }
        }
        Format::Text if rounds.is_empty() => print("No round is committed yet."),
        Format::Text => print(&rounds_table(&rounds).to_string()),
    }
    Ok(())
}

/// The table of `rounds`.
pub(crate) fn rounds_table(rounds: &[Round]) -> Table {
    let mut table = table(&[
        "round",
        "kind",
        "attempt",
        "committed by",
        "updates",
        "loss",
        "accuracy",
        "duration",
        "overhead",
        "model",
    ]);
    for r in rounds {
        table.add_row([
            r.round.to_string(),
            r.kind.clone(),
            r.committed_attempt.unwrap_or(r.attempt).to_string(),
            r.committed_by.as_deref().map_or_else(String::new, short),
            r.contributions.len().to_string(),
            r.train_loss.map_or("-".into(), |l| format!("{l:.3}")),
            percent(r.accuracy),
            seconds(r.duration_ms),
            r.overhead_ms.map_or("-".into(), |ms| format!("{ms} ms")),
            r.model_hash.get(..10).unwrap_or_default().to_owned(),
        ]);
    }
    table
}

pub(super) fn peers(from: &Which, format: Format) -> Result<(), Coded> {
    let peers: Vec<Peer> = match source(from)? {
        Source::Running { url } => get(&url, "/peers")?,
        Source::Stopped { home } => {
            let unreached = |member| Peer { member, addresses: Vec::new() };
            stopped(&home)?.roster.into_iter().map(unreached).collect()
        }
    };
    if format == Format::Json {
        print(&serde_json::to_string(&peers)?);
        return Ok(());
    }
    let mut table = table(&["node", "name", "does", "reachable", "addresses"]);
    for Peer { member, addresses } in &peers {
        table.add_row([
            short(&member.node_id),
            member.name.clone(),
            member.state.clone(),
            if member.reachable { "yes" } else { "no" }.into(),
            addresses.first().cloned().unwrap_or_default(),
        ]);
    }
    print(&table.to_string());
    Ok(())
}

pub(super) fn ticket(from: &Which, format: Format) -> Result<(), Coded> {
    let ticket = match source(from)? {
        Source::Running { url } => {
            let answer: serde_json::Value = get(&url, "/ticket")?;
            answer["ticket"].as_str().context("the node gave no ticket")?.to_owned()
        }
        Source::Stopped { home } => {
            // The others' addresses do as well: any node introduces a new one.
            let known = known_addresses(&home);
            let run_file = run_file(&home)?;
            Ticket::new(run_file.run_id(), &run_file.run.name, known)
                .context("this node does not run and knows no other's address; start it, or ask for a ticket on another node")?
                .to_string()
        }
    };
    match format {
        Format::Json => print(&serde_json::json!({ "ticket": ticket }).to_string()),
        Format::Text => print(&ticket),
    }
    Ok(())
}

/// Addresses of nodes that a home's node has met.
pub(super) fn known_addresses(home: &Home) -> Vec<libp2p::Multiaddr> {
    let json = std::fs::read(home.peers()).unwrap_or_default();
    let texts: Vec<String> = serde_json::from_slice(&json).unwrap_or_default();
    texts.iter().filter_map(|t| t.parse().ok()).collect()
}

pub(super) fn leave(from: &Which, format: Format) -> Result<(), Coded> {
    let Source::Running { url } = source(from)? else {
        return Err(anyhow!(
            "the node does not run, and only it can sign that it leaves; start it with `paceline join --home DIR`, then leave"
        )
        .into());
    };
    let url = format!("{}/leave", url.trim_end_matches('/'));
    let sent = agent().post(&url).header(COMMAND_HEADER, "1").send_empty();
    if let Err(error) = sent {
        return Err(anyhow::Error::from(error).context(format!("{url} does not answer")).into());
    }
    match format {
        Format::Json => print(&serde_json::json!({ "leaving": true }).to_string()),
        Format::Text => print("The node leaves with the next record, and ends when the others can do without it."),
    }
    Ok(())
}
