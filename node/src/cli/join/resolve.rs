//! Which run a node takes part in, and in which home.

use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use paceline_bootstrap::{Ticket, discover_runs, fetch_run_file};
use paceline_protocol::Hash;
use paceline_protocol::io::{Persist, Recovered};
use paceline_protocol::record::Kind;
use paceline_protocol::runfile::RunFile;

use super::JoinOptions;
use crate::cli::error::CliError;
use crate::cli::run_file::read_run_file;
use crate::cli::target::find_home;
use crate::inspect;
use crate::store::{Database, HistoryEntry, Home};

/// How long a run file is looked for with a ticket.
const FETCH_WAIT: Duration = Duration::from_secs(20);

/// How long runs are looked for on the LAN.
const DISCOVER_WAIT: Duration = Duration::from_secs(4);

/// Which run, and in which home.
pub(super) async fn resolve(options: &mut JoinOptions) -> Result<(RunFile, Home), CliError> {
    let run = match options.target.clone() {
        Some(text) if text.starts_with("paceline") && text.contains(':') => by_ticket(options, &text).await?,
        Some(file) => read_run_file(Path::new(&file))?,
        None => match resumed(options)? {
            Some(found) => return Ok(found),
            None => by_lan(options).await?,
        },
    };
    let home = home_of(options, &run.run.name)?;
    options.recall(&home)?;
    // Remembered for a start from another folder.
    options.data = options.data.take().map(std::path::absolute).transpose()?;
    Ok((run, home))
}

/// The home that is given, or the usual one of a run of this name.
fn home_of(options: &JoinOptions, run_name: &str) -> Result<Home, CliError> {
    Ok(match &options.home {
        Some(dir) => Home::at(dir),
        None => Home::at(Home::folder()?.join(run_name)),
    })
}

/// Goes on in a home: the one given, or the only one there is.
fn resumed(options: &mut JoinOptions) -> Result<Option<(RunFile, Home)>, CliError> {
    let home = match &options.home {
        Some(dir) => Home::at(dir),
        None => match Home::all().as_slice() {
            [] => return Ok(None),
            _ => find_home(None)?,
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
    let run = match kept(&home_of(options, &ticket.run_name)?, ticket.run) {
        Some(run) => run,
        None => {
            tracing::info!("asks for the run file of {}", ticket.run_name);
            fetch_run_file(&ticket.addresses, ticket.run, FETCH_WAIT).await?
        }
    };
    options.bootstrap.extend(ticket.addresses);
    options.chain = ticket.chain.map(|genesis| genesis.to_string());
    Ok(run)
}

/// The run file of a home that belongs to this run: who has it needs nobody to start again.
fn kept(home: &Home, run: Hash) -> Option<RunFile> {
    let there = home.run_file().exists();
    there.then(|| inspect::run_file(home).ok()).flatten().filter(|file| file.run_id() == run)
}

async fn by_lan(options: &mut JoinOptions) -> Result<RunFile, CliError> {
    tracing::info!("looks for runs on the LAN");
    let runs = discover_runs(&options.bootstrap, DISCOVER_WAIT).await?;
    match runs.as_slice() {
        [one] => {
            tracing::info!("found run {} with {} nodes", one.name, one.nodes);
            let run = fetch_run_file(&one.addresses, one.run, FETCH_WAIT).await?;
            options.bootstrap.extend(one.addresses.iter().cloned());
            Ok(run)
        }
        [] => Err(CliError::not_found(anyhow!(
            "no run was seen on the LAN; give a run file or a ticket, or begin with `paceline init`"
        ))),
        several => {
            let names: Vec<String> =
                several.iter().map(|r| format!("{} ({} nodes, {})", r.name, r.nodes, r.run.short())).collect();
            let error =
                anyhow!("several runs are seen on the LAN: {}; join one with its run file or ticket", names.join(", "));
            Err(CliError::not_found(error))
        }
    }
}

/// The chain that this node enters alone: the one that its owner moves it to; or that a ticket names, now or at an earlier
/// start. A home that is in another one is refused, but where it was moved away from the named one: who starts it with the
/// ticket of old need not know.
pub(super) fn named_chain(options: &JoinOptions, home: &Home, recovered: &Recovered) -> Result<Option<Hash>, CliError> {
    let Some(named) = options.chain.as_deref().and_then(|text| text.parse::<Hash>().ok()) else {
        return Ok(recovered.switched);
    };
    let own = recovered.chain.first().map(|genesis| genesis.record.hash()).or(recovered.switched);
    let was_left = recovered.kept_aside.iter().any(|aside| aside.genesis.record.hash() == named);
    match own {
        Some(own) if own != named && options.target.is_some() && !was_left => {
            let dir = home.dir().display();
            let error = anyhow!(
                "{dir} is in chain {} of this run, the ticket is for chain {}; give another --home, or move this node there: paceline join --home {dir} --switch {named}",
                own.short(),
                named.short()
            );
            Err(CliError::bad_input(error))
        }
        Some(own) if own != named => {
            tracing::warn!("this node was moved to chain {own}, and stays there; --switch {named} leads back");
            Ok(Some(own))
        }
        _ => Ok(Some(named)),
    }
}

/// Moves a home to another chain of its run; the one that it is in is kept aside.
pub(super) fn switch(database: &Database, genesis: Hash, home: &Home) -> Result<(), CliError> {
    let contents = database.contents()?;
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
        return Err(CliError::bad_input(error));
    }
    if contents.is_bound {
        let error = anyhow!(
            "this node is bound to a founding that is not decided yet; start it without --switch until it is, as `status` shows"
        );
        return Err(CliError::failed(error));
    }
    database.write(&[Persist::Switched { to: genesis }])?;
    match contents.current {
        Some(old) => tracing::info!("moves to chain {genesis}; {old} is kept aside, and --switch leads back to it"),
        None => tracing::info!("enters chain {genesis} and no other"),
    }
    Ok(())
}

/// Refuses a home that belongs to another run.
pub(super) fn same_run(home: &Home, run_file: &RunFile) -> Result<(), CliError> {
    if home.run_file().exists() {
        let before = inspect::run_file(home)?;
        if before.run_id() != run_file.run_id() {
            let error = anyhow!(
                "{} is the home of run {} ({}); give another --home for run {} ({})",
                home.dir().display(),
                before.run.name,
                before.run_id().short(),
                run_file.run.name,
                run_file.run_id().short()
            );
            return Err(CliError::bad_input(error));
        }
    }
    Ok(())
}
