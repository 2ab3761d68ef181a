//! The numbers of a node in Prometheus' text format (docs/http.md lists them).

use std::sync::atomic::AtomicU64;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use super::Api;
use crate::memory;
use crate::net::NetCounters;
use crate::report::{Round, Status};

/// What Prometheus asks for, as it names it.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(String, String)>;

/// Everything that is counted.
pub(super) async fn metrics(State(api): State<Api>) -> Response {
    let mut registry = Registry::with_prefix("paceline");
    let build = Family::<Labels, Gauge>::default();
    build.get_or_create(&vec![label("version", env!("PACELINE_VERSION"))]).set(1);
    registry.register("build_info", "This program", build);
    let refused = Family::<Labels, Counter>::default();
    for (reject, n) in api.node_state.refused().iter() {
        refused.get_or_create(&vec![label("reason", reject)]).inc_by(*n);
    }
    registry.register("refused", "What peers sent and was refused, by reason", refused);
    network(&mut registry, &api.network.counters());
    if let Some(status) = api.node_state.status() {
        run(&mut registry, &status, &api.node_state.rounds());
    }
    if let Some(bytes) = memory::resident() {
        registry.register("resident_memory_bytes", "Memory of this process", ConstGauge::new(bytes as i64));
    }
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn label(name: &str, value: impl ToString) -> (String, String) {
    (name.to_owned(), value.to_string())
}

/// What the network counts.
fn network(registry: &mut Registry, counters: &NetCounters) {
    let bytes = Family::<Labels, Counter>::default();
    let by_protocol = [
        ("direct", "sent", &counters.direct_sent),
        ("direct", "received", &counters.direct_received),
        ("gossip", "sent", &counters.gossip_sent),
        ("gossip", "received", &counters.gossip_received),
        ("blobs", "sent", &counters.blobs_sent),
        ("blobs", "received", &counters.blobs_received),
    ];
    for (protocol, direction, counter) in by_protocol {
        bytes.get_or_create(&vec![label("protocol", protocol), label("direction", direction)]).inc_by(counter.read());
    }
    registry.register("protocol_bytes", "Payload bytes, by protocol and direction", bytes);
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
}

/// Where the run stands.
fn run(registry: &mut Registry, status: &Status, rounds: &[Round]) {
    let gauges = [
        ("round", "The round being decided", status.round as i64),
        ("rounds_trained", "Rounds with updates that are committed", status.trained as i64),
        ("roster", "Members", status.roster.len() as i64),
        ("reachable", "Members that are heard", status.roster.iter().filter(|m| m.reachable).count() as i64),
    ];
    for (name, help, value) in gauges {
        registry.register(name, help, ConstGauge::new(value));
    }
    let phases = Family::<Labels, Gauge>::default();
    for phase in PHASES.iter().copied().chain([status.phase.as_str()]) {
        phases.get_or_create(&vec![label("phase", phase)]).set(i64::from(phase == status.phase));
    }
    registry.register("phase", "1 for the phase that the round is in", phases);
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
        (
            "examples_per_second",
            "What all members together trained on in the last round, over its duration",
            rounds.last().and_then(Round::examples_per_second),
        ),
    ];
    for (name, help, value) in gauges {
        value.into_iter().for_each(|value| registry.register(name, help, ConstGauge::new(value)));
    }
    // By name, since a learner brings its own.
    let metrics = Family::<Labels, Gauge<f64, AtomicU64>>::default();
    let measured = rounds.iter().rev().find(|round| !round.metrics.is_empty()).map(|round| &round.metrics);
    for (name, value) in measured.into_iter().flatten() {
        metrics.get_or_create(&vec![label("metric", name)]).set(*value);
    }
    registry.register("evaluation", "What the members measured last", metrics);
}

/// The phases that a round has.
const PHASES: [&str; 6] = ["founding", "electing", "recovering", "collecting", "aggregating", "proposing"];
