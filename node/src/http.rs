//! The control API: JSON over HTTP on loopback, for the command line and for scripts.
//!
//! It answers only to its own Host names, so that a web page that resolves its name to 127.0.0.1 gets nothing, and takes
//! commands only with a header that no web page can send without asking first.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use paceline_bootstrap::Ticket;
use paceline_protocol::RunId;
use paceline_protocol::io::Command;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::driver::NodeState;
use crate::memory;
use crate::net::Network;
use crate::report::{MemberStatus, NetworkRefusals, Peer};

/// The header that commands need.
pub const COMMAND_HEADER: &str = "x-paceline";

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
}

/// Serves on `listener` until the process ends.
pub async fn serve(listener: TcpListener, api: Api) -> std::io::Result<()> {
    let address = listener.local_addr()?;
    let router = Router::new()
        .route("/status", get(status))
        .route("/rounds", get(rounds))
        .route("/peers", get(peers))
        .route("/ticket", get(ticket))
        .route("/metrics", get(metrics))
        .route("/leave", post(leave))
        .route("/resume", post(resume))
        .route("/roster/drop", post(drop_roster))
        .layer(middleware::from_fn(move |request, next| own_hosts_only(address, request, next)))
        .with_state(api);
    axum::serve(listener, router).await
}

async fn own_hosts_only(address: SocketAddr, request: Request, next: Next) -> Response {
    let port = address.port();
    let own = [format!("{address}"), format!("127.0.0.1:{port}"), format!("localhost:{port}"), format!("[::1]:{port}")];
    let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    if own.iter().any(|o| o == host) {
        next.run(request).await
    } else {
        (StatusCode::FORBIDDEN, "this name is not mine\n").into_response()
    }
}

async fn status(State(api): State<Api>) -> Response {
    match api.node_state.status() {
        Some(mut status) => {
            status.network = Some(NetworkRefusals::of(&api.network.counters()));
            Json(status).into_response()
        }
        None => (StatusCode::SERVICE_UNAVAILABLE, "the node is just starting\n").into_response(),
    }
}

async fn rounds(State(api): State<Api>) -> Response {
    Json(api.node_state.rounds()).into_response()
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

async fn leave(State(api): State<Api>, headers: HeaderMap) -> Response {
    command(&api, &headers, Command::Leave, serde_json::json!({ "leaving": true })).await
}

async fn resume(State(api): State<Api>, headers: HeaderMap) -> Response {
    let halted =
        api.node_state.status().is_some_and(|status| status.state == paceline_protocol::io::State::Halted.name());
    if !halted {
        return (StatusCode::CONFLICT, "the run has not stopped: there is nothing to resume\n").into_response();
    }
    command(&api, &headers, Command::Resume, serde_json::json!({ "resuming": true })).await
}

/// Takes the command where it may do something; whether it did shows in the status, which then has another genesis.
async fn drop_roster(State(api): State<Api>, headers: HeaderMap) -> Response {
    let Some(status) = api.node_state.status() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the node is just starting\n").into_response();
    };
    match status.refuses_to_drop() {
        Some(why) => (StatusCode::CONFLICT, format!("{why}\n")).into_response(),
        None => command(&api, &headers, Command::DropRoster, serde_json::json!({ "dropping": true })).await,
    }
}

async fn command(api: &Api, headers: &HeaderMap, command: Command, done: serde_json::Value) -> Response {
    if !headers.contains_key(COMMAND_HEADER) {
        return (StatusCode::FORBIDDEN, format!("commands need the header {COMMAND_HEADER}\n")).into_response();
    }
    match api.commands.send(command).await {
        Ok(()) => Json(done).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the node is stopping\n").into_response(),
    }
}

/// Everything that is counted, in Prometheus' text format.
async fn metrics(State(api): State<Api>) -> Response {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::metrics::counter::ConstCounter;
    use prometheus_client::metrics::family::Family;
    use std::sync::atomic::AtomicU64;

    use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
    use prometheus_client::registry::Registry;

    let mut registry = Registry::with_prefix("paceline");
    let refused = Family::<Vec<(String, String)>, prometheus_client::metrics::counter::Counter>::default();
    for (reject, n) in api.node_state.refused().iter() {
        refused.get_or_create(&vec![("reason".to_owned(), reject.to_string())]).inc_by(*n);
    }
    registry.register("refused", "What peers sent and was refused, by reason", refused);
    let counters = api.network.counters();
    let totals = [
        ("sent_bytes", "Payload bytes sent", counters.bytes_sent()),
        ("received_bytes", "Payload bytes received", counters.bytes_received()),
        ("blob_sent_bytes", "Bytes of models and updates sent", counters.blobs_sent.read()),
        ("blob_received_bytes", "Bytes of models and updates received", counters.blobs_received.read()),
        ("throttled", "Requests refused for their number or size", counters.refused.read()),
        // Named before the counter was; dashboards know it by this name.
        ("garbage", "Requests and answers that broke a protocol", counters.malformed.read()),
        ("dropped", "Messages dropped by full queues", counters.dropped.read()),
        ("stalled", "Messages that were begun and not ended in time", counters.stalled.read()),
        ("turned_away", "Peers refused for a while since they broke the rules", counters.turned_away.read()),
        ("not_let_in", "Connections of such peers, or too many of one address", counters.not_let_in.read()),
    ];
    for (name, help, value) in totals {
        registry.register(name, help, ConstCounter::new(value));
    }
    if let Some(status) = api.node_state.status() {
        registry.register("round", "The round being decided", ConstGauge::new(status.round as i64));
        registry.register("roster", "Members", ConstGauge::new(status.roster.len() as i64));
        let reachable = status.roster.iter().filter(|m| m.reachable).count();
        registry.register("reachable", "Members that are heard", ConstGauge::new(reachable as i64));
        registry.register(
            "rounds_trained",
            "Rounds with updates that are committed",
            ConstGauge::new(status.trained as i64),
        );
        let seconds = |ms: Option<u64>| ms.map(|ms| ms as f64 / 1_000.0);
        let last = status.last_commit.as_ref();
        let gauges = [
            ("round_age_seconds", "Time since this node has been at its round", seconds(status.round_ms)),
            (
                "last_round_duration_seconds",
                "From the commit before to the last one",
                seconds(last.and_then(|c| c.duration_ms)),
            ),
            ("last_round_train_loss", "Mean training loss of the last round", last.and_then(|c| c.train_loss)),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                registry.register(name, help, ConstGauge::new(value));
            }
        }
        // By name, since a learner brings its own.
        let metrics = Family::<Vec<(String, String)>, Gauge<f64, AtomicU64>>::default();
        let rounds = api.node_state.rounds();
        for (name, value) in
            rounds.iter().rev().find(|r| !r.metrics.is_empty()).map(|r| &r.metrics).into_iter().flatten()
        {
            metrics.get_or_create(&vec![("metric".to_owned(), name.clone())]).set(*value);
        }
        registry.register("evaluation", "What the members measured last", metrics);
    }
    if let Some(bytes) = memory::resident() {
        registry.register("resident_memory_bytes", "Memory of this process", ConstGauge::new(bytes as i64));
    }
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => text.into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
