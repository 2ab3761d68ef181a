//! Which run a node takes part in, and in which home.

use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use paceline_bootstrap::{Address, SeekError, Ticket, discover_runs, fetch_run_file};
use paceline_protocol::Hash;
use paceline_protocol::runfile::Published;

use super::JoinOptions;
use crate::cli::error::CliError;
use crate::cli::run_file::read_run_file;
use crate::cli::target::likeliest;
use crate::inspect;
use crate::run_file::{self, RunFile};
use crate::store::Home;

/// How long a run file is looked for with a ticket.
const FETCH_WAIT: Duration = Duration::from_secs(20);

/// How long runs are looked for on the LAN.
const DISCOVER_WAIT: Duration = Duration::from_secs(4);

/// Which run, and in which home.
pub(super) async fn resolve(options: &mut JoinOptions) -> Result<(RunFile, Home), CliError> {
    let found = find(options).await?;
    // Remembered for a start from another folder.
    options.data = options.data.take().map(std::path::absolute).transpose()?;
    Ok(found)
}

/// Whether a ticket is meant, and no file.
pub(in crate::cli) fn looks_like_ticket(text: &str) -> bool {
    text.starts_with("paceline") && text.contains(':')
}

async fn find(options: &mut JoinOptions) -> Result<(RunFile, Home), CliError> {
    let run = match options.target.clone() {
        Some(text) if looks_like_ticket(&text) => by_ticket(options, &text).await?,
        Some(file) => read_run_file(Path::new(&file))?,
        None => match resumed(options)? {
            Some(found) => return Ok(found),
            None => by_lan(options).await?,
        },
    };
    let home = home_of(options, &run.run.name, run.run_id())?;
    tell_of_others(&home, &run);
    options.recall(&home)?;
    Ok((run, home))
}

/// The home that is given, or the usual one of a run: runs of one name, with another value somewhere, have different ones.
fn home_of(options: &JoinOptions, run_name: &str, run: Hash) -> Result<Home, CliError> {
    match &options.home {
        Some(dir) => Ok(Home::at(dir)),
        None => usual_home(run_name, run),
    }
}

/// The home of a run where nobody gives one.
pub(in crate::cli) fn usual_home(run_name: &str, run: Hash) -> Result<Home, CliError> {
    let folder = Home::folder()?;
    // Homes of earlier builds have the name alone.
    let plain = Home::at(folder.join(run_name));
    let is_plain = kept(&plain, run).is_some();
    Ok(if is_plain { plain } else { Home::at(folder.join(format!("{run_name}-{}", run.short()))) })
}

/// Says how this run file differs from the one that a run of the same name had here: who changed a value on one machine has
/// to do so on all.
fn tell_of_others(home: &Home, run: &RunFile) {
    let others = Home::all().into_iter().filter(|other| other.dir() != home.dir());
    let other = others
        .filter_map(|home| Some((inspect::run_file(&home).ok()?, home)))
        .find(|(other, _)| other.run.name == run.run.name && other.run_id() != run.run_id());
    if let Some((other, there)) = other.filter(|_| !home.run_file().exists()) {
        tracing::info!(
            "a new run: {} in {} is another one ({}); all nodes of this one need this run file",
            run.run.name,
            there.dir().display(),
            run_file::differences(&other, run).join("; ")
        );
    }
}

/// Goes on in a home: the one given, or the only one there is.
fn resumed(options: &mut JoinOptions) -> Result<Option<(RunFile, Home)>, CliError> {
    let home = match &options.home {
        Some(dir) => Home::at(dir),
        None => match Home::all().as_slice() {
            [] if options.run.is_none() => return Ok(None),
            _ => likeliest(options.run.as_deref(), |home| !home.is_running())?,
        },
    };
    if !home.run_file().exists() {
        if home.database().exists() {
            let dir = home.dir().display();
            let error =
                anyhow!("{dir} has a store and no run.toml: give the run file or a ticket of its run once more");
            return Err(CliError::bad_input(error));
        }
        return Ok(None);
    }
    options.recall(&home)?;
    Ok(Some((inspect::run_file(&home)?, home)))
}

async fn by_ticket(options: &mut JoinOptions, text: &str) -> Result<RunFile, CliError> {
    let ticket: Ticket = text.parse().map_err(CliError::bad_input)?;
    let run = match kept(&home_of(options, &ticket.run_name, ticket.run)?, ticket.run) {
        Some(run) => run,
        None => {
            tracing::info!("asks for the run file of {}", ticket.run_name);
            let fetched = fetch_run_file(&ticket.addresses, ticket.run, FETCH_WAIT).await;
            let fetched = fetched.map_err(|error| match error {
                SeekError::NotFound { found, .. } => CliError::not_found(anyhow!(
                    "nobody at the {} addresses of the ticket handed out the run file of {} within {} s ({found}); see that one of its \
                     nodes runs and can be reached from here, or ask for a new ticket",
                    ticket.addresses.len(),
                    ticket.run_name,
                    FETCH_WAIT.as_secs()
                )),
                other => other.into(),
            });
            read_published(&fetched?)?
        }
    };
    options.bootstrap.extend(ticket.addresses.into_iter().map(Address::from));
    options.chain = ticket.chain.map(|genesis| genesis.to_string());
    Ok(run)
}

/// The run file of a home that belongs to this run: who has it needs nobody to start again.
fn kept(home: &Home, run: Hash) -> Option<RunFile> {
    let there = home.run_file().exists();
    there.then(|| inspect::run_file(home).ok()).flatten().filter(|file| file.run_id() == run)
}

/// A run file that others handed out: its hash is right, and what it says is to be understood here.
fn read_published(published: &Published) -> Result<RunFile, CliError> {
    let parsed = run_file::parse(&published.text, "the run file that was fetched").map_err(CliError::bad_input)?;
    match parsed.run_id() == published.run {
        true => Ok(parsed),
        false => Err(CliError::bad_input(anyhow!(
            "the run file that was fetched is not in this program's form: it comes from another version of it; all nodes of a run must be of one version"
        ))),
    }
}

async fn by_lan(options: &mut JoinOptions) -> Result<RunFile, CliError> {
    tracing::info!("looks for runs on the LAN");
    let runs = discover_runs(&Address::all(&options.bootstrap), !options.no_mdns, DISCOVER_WAIT).await?;
    match runs.as_slice() {
        [one] => {
            tracing::info!("found run {}, nodes of it seen lately: {}", one.name, one.nodes);
            let run = read_published(&fetch_run_file(&one.addresses, one.run, FETCH_WAIT).await?)?;
            options.bootstrap.extend(one.addresses.iter().cloned().map(Address::from));
            Ok(run)
        }
        [] => Err(CliError::not_found(anyhow!(
            "no run was seen on the LAN; give a run file or a ticket, or begin with `paceline init`"
        ))),
        several => {
            let names: Vec<String> = several
                .iter()
                .map(|r| format!("{} ({}, nodes seen lately: {})", r.name, r.run.short(), r.nodes))
                .collect();
            let error =
                anyhow!("several runs are seen on the LAN: {}; join one with its run file or ticket", names.join(", "));
            Err(CliError::not_found(error))
        }
    }
}
