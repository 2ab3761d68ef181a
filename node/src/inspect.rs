//! A node as other processes see it: through its control API while it runs, from its home while it does not.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use paceline_bootstrap::Ticket;
use paceline_protocol::{Identity, NodeId};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::http::COMMAND_HEADER;
use crate::report::{Peer, Round, Status};
use crate::run_file::{self, RunFile};
use crate::store::{Contents, Database, HistoryEntry, Home, HomeError, HomeLock, known_addresses, settled_chain};

/// A node on this machine answers at once; whatever takes longer is no node.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Another command that looks holds a home's lock for some milliseconds, a node for as long as it runs.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// A node that may go on alone does so at once, but for a write.
const DROP_WAIT: Duration = Duration::from_secs(5);

/// How often it is looked whether it has.
const POLL: Duration = Duration::from_millis(50);

/// Where a node's answers come from.
pub(crate) enum Node {
    /// From the control API at this address.
    Running { url: String },
    /// From this home, whose node does not run.
    Stopped { home: Home },
}

impl Node {
    /// The node whose control API is at an address.
    ///
    /// # Errors
    /// No node answers there.
    pub(crate) fn at(url: &str) -> anyhow::Result<Self> {
        get::<Status>(url, "/status")?;
        Ok(Self::Running { url: url.to_owned() })
    }

    /// The node of a home, whether it runs or not.
    ///
    /// # Errors
    /// It runs and does not answer, or its identity can't be read.
    pub(crate) fn of(home: Home) -> anyhow::Result<Self> {
        let me = node_id(&home)?.map(|me| me.to_string());
        // The address of a node that was killed may be another's by now.
        let url = std::fs::read_to_string(home.http()).ok().map(|address| format!("http://{}", address.trim()));
        match url.filter(|url| get::<Status>(url, "/status").is_ok_and(|s| Some(s.node_id) == me)) {
            Some(url) => Ok(Self::Running { url }),
            // Its database is the node's own while it runs; in its first moments it has not even an identity.
            None if stays_taken(&home) => {
                bail!(
                    "the node on {} is just starting (reads its data perhaps), or busy; try again",
                    home.dir().display()
                )
            }
            None => Ok(Self::Stopped { home }),
        }
    }

    /// Whether it runs.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }

    pub(crate) fn status(&self) -> anyhow::Result<Status> {
        match self {
            Self::Running { url } => get(url, "/status"),
            Self::Stopped { home } => stopped(home),
        }
    }

    /// The committed rounds, oldest first.
    pub(crate) fn rounds(&self) -> anyhow::Result<Vec<Round>> {
        match self {
            Self::Running { url } => get(url, "/rounds"),
            Self::Stopped { home } => Ok(Round::committed(&history(home)?, run_file(home)?.learning.unit())),
        }
    }

    /// The members; where they can be reached only a node that runs knows.
    pub(crate) fn peers(&self) -> anyhow::Result<Vec<Peer>> {
        match self {
            Self::Running { url } => get(url, "/peers"),
            Self::Stopped { home } => {
                let unreached = |member| Peer { member, addresses: Vec::new() };
                Ok(stopped(home)?.roster.into_iter().map(unreached).collect())
            }
        }
    }

    /// A ticket with which others join.
    pub(crate) fn ticket(&self) -> anyhow::Result<String> {
        #[derive(Deserialize)]
        struct Answer {
            ticket: String,
        }
        match self {
            Self::Running { url } => Ok(get::<Answer>(url, "/ticket")?.ticket),
            Self::Stopped { home } => {
                // The others' addresses do as well: any node introduces a new one.
                let run_file = run_file(home)?;
                let (run, chain) = (run_file.run_id(), settled_chain(&history(home)?));
                let ticket = Ticket::new(run, chain, &run_file.run.name, known_addresses(home));
                let ticket = ticket.context("this node does not run and knows no other's address; start it, or ask for a ticket on another node")?;
                Ok(ticket.to_string())
            }
        }
    }

    /// Has the node come off the roster, which it signs itself.
    pub(crate) fn leave(&self) -> anyhow::Result<()> {
        let Self::Running { url } = self else {
            bail!(
                "the node does not run, and only it can sign that it leaves; start it with `paceline join --home DIR`, then leave"
            );
        };
        command(url, "leave").map(drop)
    }

    /// Has the node train nothing, now and after its next starts.
    pub(crate) fn pause(&self) -> anyhow::Result<()> {
        match self {
            Self::Running { url } => command(url, "pause").map(drop),
            Self::Stopped { home } => Ok(home.set_paused(true)?),
        }
    }

    /// Has a paused node train again, or the run go on that stopped because training failed everywhere.
    pub(crate) fn resume(&self) -> anyhow::Result<Resumed> {
        match self {
            Self::Running { url } => {
                let answer = command(url, "resume")?;
                Ok(if answer.get("paused").is_some() { Resumed::Node } else { Resumed::Run })
            }
            Self::Stopped { home } if home.is_paused() => {
                home.set_paused(false)?;
                Ok(Resumed::Node)
            }
            Self::Stopped { home } => {
                bail!("the node does not run; start it with `paceline join --home {} --resume`", home.dir().display())
            }
        }
    }

    /// Has the node go on alone, in a chain of its own, and gives its status from then on.
    ///
    /// # Errors
    /// It does not run, a quorum of its roster is in sight, or it does nothing within `DROP_WAIT`.
    pub(crate) fn drop_roster(&self) -> anyhow::Result<Status> {
        let Self::Running { url } = self else {
            bail!(
                "the node does not run; start it with `paceline join --home DIR`, see who is there, then drop the others"
            );
        };
        let before = self.status()?;
        command(url, "roster/drop")?;
        let began = Instant::now();
        while began.elapsed() < DROP_WAIT {
            let status = self.status()?;
            if status.genesis != before.genesis {
                return Ok(status);
            }
            std::thread::sleep(POLL);
        }
        bail!(
            "the node stays in its chain: a quorum came back, or this node has neither the last model nor the one before ({})",
            self.status()?.reason.unwrap_or_else(|| "nothing is in the way now".to_owned())
        )
    }
}

/// What went on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resumed {
    /// A node's training.
    Node,
    /// The run.
    Run,
}

/// Asks a node for something; what it answers instead of doing it is the error.
fn command(url: &str, what: &str) -> anyhow::Result<serde_json::Value> {
    let url = format!("{}/{what}", url.trim_end_matches('/'));
    let sent = agent().post(&url).header(COMMAND_HEADER, "1").config().http_status_as_error(false).build().send_empty();
    let mut response = sent.with_context(|| format!("{url} does not answer"))?;
    match response.status().is_success() {
        true => Ok(response.body_mut().read_json()?),
        false => bail!("{}", response.body_mut().read_to_string()?.trim()),
    }
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

/// Whether a node is on a home, and not just another command that looks at it.
fn stays_taken(home: &Home) -> bool {
    home.is_running() && matches!(home.lock_within(LOCK_WAIT), Err(HomeError::Locked(_)))
}

/// The node of a home, once it was started.
pub(crate) fn node_id(home: &Home) -> Result<Option<NodeId>, HomeError> {
    Ok(home.known_identity()?.map(|secret| Identity::from_secret(&secret).node_id()))
}

/// The run file of a home.
///
/// # Errors
/// It can't be read, or is none.
pub(crate) fn run_file(home: &Home) -> anyhow::Result<RunFile> {
    let path = home.run_file();
    let name = path.display().to_string();
    let bytes = std::fs::read(&path).with_context(|| format!("{name} can't be read"))?;
    // A damaged letter may be none: where, the parser says.
    let parsed = run_file::parse(&String::from_utf8_lossy(&bytes), &name);
    parsed.with_context(|| {
        format!("{name} was written by this program and is damaged; remove it, and give the run file or a ticket of the run once more")
    })
}

/// Opens the database of a home whose node does not run; `None` before its first start.
///
/// The home's lock is held meanwhile: a node that starts just now waits for it rather than finds its database taken.
fn database(home: &Home) -> anyhow::Result<Option<(HomeLock, Database)>> {
    if !home.database().exists() {
        return Ok(None);
    }
    let lock = match home.lock_within(LOCK_WAIT) {
        Err(HomeError::Locked(dir)) => {
            bail!("the node of {} does not answer: it starts or stops; ask again soon", dir.display())
        }
        result => result?,
    };
    let me = node_id(home)?.ok_or_else(|| HomeError::IdentityLost(home.dir().to_owned()))?;
    Ok(Some((lock, Database::open(&home.database(), run_file(home)?.run_id(), me)?)))
}

/// All that the database of a home whose node does not run holds; `None` before its first start.
pub(crate) fn contents(home: &Home) -> anyhow::Result<Option<Contents>> {
    Ok(match database(home)? {
        Some((_lock, database)) => Some(database.contents()?),
        None => None,
    })
}

/// The records of the chain of a home whose node does not run, the genesis first.
pub(crate) fn history(home: &Home) -> anyhow::Result<Vec<HistoryEntry>> {
    Ok(match database(home)? {
        Some((_lock, database)) => database.history()?,
        None => Vec::new(),
    })
}

/// Whether the node of a home left the run.
fn has_left(home: &Home) -> anyhow::Result<bool> {
    Ok(match database(home)? {
        Some((_lock, database)) => database.recover(Vec::new())?.left,
        None => false,
    })
}

/// The name that a node was started with.
fn remembered_name(home: &Home) -> Option<String> {
    let options: serde_json::Value = serde_json::from_slice(&std::fs::read(home.options()).ok()?).ok()?;
    Some(options.get("name")?.as_str()?.to_owned())
}

/// The status of a home whose node does not run.
pub(crate) fn stopped(home: &Home) -> anyhow::Result<Status> {
    let run_file = run_file(home)?;
    let history = history(home)?;
    let never_started = || anyhow!("{} has no identity yet: its node was never started", home.dir().display());
    let me = node_id(home)?.ok_or_else(never_started)?;
    let mut status = Status::stopped(&run_file, me, &history, home.dir(), has_left(home)?);
    if status.name.is_empty() {
        status.name = remembered_name(home).unwrap_or_default();
    }
    Ok(status)
}
