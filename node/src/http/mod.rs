//! What a node tells and takes over HTTP: JSON for the command line and for scripts, numbers for Prometheus, a page for
//! people (docs/http.md).
//!
//! On loopback it answers only to its own Host names, so that a web page that resolves its name to 127.0.0.1 gets nothing, and
//! takes commands only with a header that no web page can send without asking first. Elsewhere it only tells, and only to who
//! knows the home's token.

mod access;
mod limited;
mod live;
mod metrics;
mod page;

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use paceline_bootstrap::Ticket;
use paceline_protocol::RunId;
use paceline_protocol::io::Command;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore, mpsc};

use crate::driver::NodeState;
use crate::net::Network;
use crate::node::blocking;
use crate::report::{MemberStatus, NetworkRefusals, Peer, Status};
use crate::store::Home;

use access::Access;
use limited::Limited;

/// The header that commands need.
pub const COMMAND_HEADER: &str = "x-paceline";

/// Pages that are kept up to date at a time.
const LISTENERS_MAX: usize = 16;

/// What the API looks at.
#[derive(Debug, Clone)]
pub struct Api {
    /// Where the node stands: its status, its history, what it refused.
    pub node_state: Arc<NodeState>,
    /// The connected peers, this node's addresses, and what was counted.
    pub network: Network,
    /// Commands for the driver.
    pub commands: mpsc::Sender<Command>,
    /// The run that a ticket is for.
    pub run: RunId,
    /// The run's name, which a ticket shows to people.
    pub run_name: String,
    /// The home: what who comes from elsewhere than this machine has to know is there, and whether the node is paused.
    pub home: Home,
    /// Held by whoever pauses the node, or lets it train again.
    pub pausing: Arc<Mutex<()>>,
}

impl Api {
    /// The status, with what the network counted.
    fn status(&self) -> Option<Status> {
        let mut status = self.node_state.status()?;
        status.network = Some(NetworkRefusals::of(&self.network.counters()));
        Some(status)
    }
}

/// Serves on `listener` until the process ends.
pub async fn serve(listener: TcpListener, api: Api) -> std::io::Result<()> {
    let access = Access::at(listener.local_addr()?, || api.home.http_token()).map_err(std::io::Error::other)?;
    let telling = Router::new()
        .route("/", get(page::html))
        .route("/page.css", get(page::css))
        .route("/page.js", get(page::js))
        .route("/status", get(status))
        .route("/rounds", get(rounds))
        .route("/rounds/{round}", get(record))
        .route("/peers", get(peers))
        .route("/events", get(live::events))
        .route("/metrics", get(metrics::metrics))
        .route("/favicon.ico", get(|| async { StatusCode::NO_CONTENT }));
    let taking = Router::new()
        .route("/leave", post(leave))
        .route("/pause", post(pause))
        .route("/resume", post(resume))
        .route("/roster/drop", post(drop_roster))
        .route_layer(middleware::from_fn(with_header_only));
    // What else is nobody's business on another machine: who may join, and what other runs there are here.
    let taking = taking
        .route("/ticket", get(ticket))
        .route("/runs", get(page::runs))
        .route("/runs/{home}/rounds", get(page::rounds_of));
    let router = if access.is_loopback() { telling.merge(taking) } else { telling };
    let router = router
        .layer(axum::Extension(Arc::new(Semaphore::new(LISTENERS_MAX))))
        .layer(middleware::from_fn(move |request, next| access.clone().check(request, next)))
        .with_state(api);
    axum::serve(Limited::new(listener), router).await
}

async fn status(State(api): State<Api>) -> Response {
    match api.status() {
        Some(status) => Json(status).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the node is just starting\n").into_response(),
    }
}

async fn rounds(State(api): State<Api>) -> Response {
    Json(api.node_state.rounds().as_slice()).into_response()
}

/// The record of a round, in what `rounds` does not tell of it as well.
async fn record(State(api): State<Api>, Path(round): Path<u64>) -> Response {
    match api.node_state.record(round) {
        Some(record) => Json(record).into_response(),
        None => (StatusCode::NOT_FOUND, "no record of this round is here\n").into_response(),
    }
}

/// The members that `status` shows, with the addresses of those that are connected.
async fn peers(State(api): State<Api>) -> Response {
    let connected = api.network.peers();
    let roster = api.node_state.status().map(|s| s.roster).unwrap_or_default();
    let peer = |member: MemberStatus| {
        let addresses = connected.iter().find(|(node, _)| node.to_string() == member.node_id).map(|(_, a)| a);
        Peer { member, addresses: addresses.into_iter().flatten().map(ToString::to_string).collect() }
    };
    Json(roster.into_iter().map(peer).collect::<Vec<_>>()).into_response()
}

async fn ticket(State(api): State<Api>) -> Response {
    match Ticket::new(api.run, api.node_state.settled_chain(), &api.run_name, api.network.addresses()) {
        Some(ticket) => Json(serde_json::json!({ "ticket": ticket.to_string() })).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "this node has no address yet\n").into_response(),
    }
}

async fn leave(State(api): State<Api>) -> Response {
    command(&api, Command::Leave, serde_json::json!({ "leaving": true })).await
}

async fn pause(State(api): State<Api>) -> Response {
    set_paused(&api, true).await
}

/// A paused node trains again, and a run goes on that stopped.
async fn resume(State(api): State<Api>) -> Response {
    let Some(status) = api.node_state.status() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the node is just starting\n").into_response();
    };
    let is_halted = status.state == paceline_protocol::io::State::Halted.name();
    if is_halted && api.commands.send(Command::Resume).await.is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the node is stopping\n").into_response();
    }
    let home = api.home.clone();
    if blocking(move || home.is_paused()).await.unwrap_or(false) {
        return set_paused(&api, false).await;
    }
    let why = match status.paused {
        _ if is_halted => return Json(serde_json::json!({ "resuming": true })).into_response(),
        Some(hours) => format!("the node goes on by itself: {hours}\n"),
        None => "neither is this node paused, nor has the run stopped: there is nothing to resume\n".to_owned(),
    };
    (StatusCode::CONFLICT, why).into_response()
}

/// Remembered for the next start before the driver hears of it; one at a time, so that both know the same in the end.
async fn set_paused(api: &Api, is_paused: bool) -> Response {
    let _one = api.pausing.lock().await;
    let home = api.home.clone();
    let kept = blocking(move || home.set_paused(is_paused)).await;
    if let Err(error) = kept.and_then(|kept| Ok(kept?)) {
        return (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response();
    }
    let told = if is_paused { Command::Pause } else { Command::Unpause };
    command(api, told, serde_json::json!({ "paused": is_paused })).await
}

/// Takes the command where it may do something; whether it did shows in the status, which then has another genesis.
async fn drop_roster(State(api): State<Api>) -> Response {
    let Some(status) = api.node_state.status() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the node is just starting\n").into_response();
    };
    match status.refuses_to_drop() {
        Some(why) => (StatusCode::CONFLICT, format!("{why}\n")).into_response(),
        None => command(&api, Command::DropRoster, serde_json::json!({ "dropping": true })).await,
    }
}

/// Refuses what a web page could send without asking first.
async fn with_header_only(request: Request, next: Next) -> Response {
    match request.headers().contains_key(COMMAND_HEADER) {
        true => next.run(request).await,
        false => (StatusCode::FORBIDDEN, format!("commands need the header {COMMAND_HEADER}\n")).into_response(),
    }
}

async fn command(api: &Api, command: Command, done: serde_json::Value) -> Response {
    match api.commands.send(command).await {
        Ok(()) => Json(done).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the node is stopping\n").into_response(),
    }
}
