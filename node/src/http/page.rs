//! The page: three files that need nothing from elsewhere, and what it asks for beside the node's own state.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Api;
use crate::inspect;
use crate::node::blocking;
use crate::report::Round;
use crate::store::Home;

pub(super) async fn html() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], include_str!("../page/page.html"))
}

pub(super) async fn css() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("../page/page.css"))
}

pub(super) async fn js() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("../page/page.js"))
}

/// A run of this machine whose node does not run.
#[derive(Debug, Serialize)]
struct EarlierRun {
    /// The name of its home's folder.
    home: String,
    run: String,
    run_id: String,
    trained: u64,
    rounds: u64,
    metric: String,
}

/// Other runs of this machine, which the page can draw beside this one.
pub(super) async fn runs(State(api): State<Api>) -> Response {
    let own = api.node_state.info().node_id.clone();
    let earlier = move || -> Vec<EarlierRun> { Home::all().iter().filter_map(|home| earlier(home, &own)).collect() };
    match blocking(earlier).await {
        Ok(runs) => Json(runs).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
    }
}

fn earlier(home: &Home, own: &str) -> Option<EarlierRun> {
    if home.is_running() {
        return None;
    }
    let status = inspect::stopped(home).ok().filter(|status| status.node_id != own && status.trained > 0)?;
    Some(EarlierRun {
        home: folder(home)?,
        run: status.run_name,
        run_id: status.run_id,
        trained: status.trained,
        rounds: status.rounds,
        metric: inspect::run_file(home).ok()?.learning.metrics.lead,
    })
}

/// The rounds of one of them. Only what is listed can be asked for, so that no path leads elsewhere.
pub(super) async fn rounds_of(Path(name): Path<String>) -> Response {
    let rounds = move || -> Option<Vec<Round>> {
        let is_it = |home: &Home| folder(home).is_some_and(|folder| folder == name) && !home.is_running();
        let home = Home::all().into_iter().find(is_it)?;
        let unit = inspect::run_file(&home).ok()?.learning.unit();
        Some(Round::committed(&inspect::history(&home).ok()?, unit))
    };
    match blocking(rounds).await {
        Ok(Some(rounds)) => Json(rounds).into_response(),
        _ => (StatusCode::NOT_FOUND, "no such run is here, or its node runs\n").into_response(),
    }
}

fn folder(home: &Home) -> Option<String> {
    Some(home.dir().file_name()?.to_str()?.to_owned())
}
