//! Tickets, run files and runs are found by those who have nothing yet.

mod common;

use std::time::Duration;

use common::{PATIENCE, addresses, bootstrap, during, node, parse, run_file};
use futures::StreamExt;
use libp2p::Swarm;
use paceline_bootstrap::{SeekError, Ticket, discover_runs, fetch_run_file};
use paceline_protocol::Hash;

/// Lets a swarm live by itself.
fn live(mut swarm: Swarm<common::TestNode>) {
    tokio::spawn(async move { while swarm.next().await.is_some() {} });
}

#[tokio::test]
async fn a_ticket_is_all_it_takes_to_get_the_run_file() {
    let (ready, _stop) = bootstrap(Some(run_file(1)), 0).await;
    let ticket: Ticket = ready.ticket.expect("there is a run").parse().expect("its own ticket");
    let file = fetch_run_file(&ticket.addresses, ticket.run, PATIENCE).await.expect("the bootstrap has it");
    assert_eq!(file, run_file(1));
    assert_eq!(ticket.run_name, file.name);
}

#[tokio::test]
async fn any_node_hands_out_the_run_file() {
    let file = run_file(1);
    let swarm = node(&file, &[]).await;
    let given = addresses(&swarm);
    live(swarm);
    assert_eq!(fetch_run_file(&given, file.run, PATIENCE).await.expect("the node has it"), file);
}

#[tokio::test]
async fn a_bootstrap_started_without_a_run_gets_the_run_file_from_a_node() {
    let file = run_file(1);
    let (ready, _stop) = bootstrap(None, 0).await;
    let given = parse(&ready.addresses);
    let mut swarm = node(&file, &given).await;
    during(&mut [&mut swarm], Duration::from_secs(1)).await;
    assert_eq!(fetch_run_file(&given, file.run, PATIENCE).await.expect("it was handed over"), file);
}

#[tokio::test]
async fn a_run_that_nobody_has_is_named_with_what_was_found_instead() {
    let (ready, _stop) = bootstrap(Some(run_file(1)), 0).await;
    let given = parse(&ready.addresses);
    let error = fetch_run_file(&given, Hash::ZERO, Duration::from_secs(2)).await.expect_err("unknown");
    assert!(
        matches!(&error, SeekError::NotFound { found, .. } if found.contains("doesn't have the run file")),
        "{error}"
    );
}

#[tokio::test]
async fn runs_are_listed_with_name_nodes_and_an_address_to_ask() {
    let file = run_file(1);
    let (ready, _stop) = bootstrap(None, 0).await;
    let given = parse(&ready.addresses);
    let mut swarm = node(&file, &given).await;
    during(&mut [&mut swarm], Duration::from_secs(1)).await;
    live(swarm);
    let runs = discover_runs(&given, true, Duration::from_secs(2)).await.expect("a swarm");
    assert_eq!(runs.len(), 1, "{runs:?}");
    assert_eq!((runs[0].run, runs[0].name.as_str(), runs[0].nodes), (file.run, "shapes", 1));
    assert!(!runs[0].addresses.is_empty());
}
