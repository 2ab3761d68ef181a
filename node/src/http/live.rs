//! What happens, as server-sent events: the status, whose clocks go on all the time, and each round when it is committed or more of it is
//! known.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, stream};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Api;
use crate::report::{Round, Status};

/// How often it is looked whether there is news.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(super) async fn events(State(api): State<Api>, Extension(listeners): Extension<Arc<Semaphore>>) -> Response {
    match listeners.try_acquire_owned() {
        Ok(permit) => Sse::new(news(Listener { api, told: Told::default(), _permit: permit }))
            .keep_alive(KeepAlive::default())
            .into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "too many pages are open already\n").into_response(),
    }
}

/// Who listens, and what it was told.
struct Listener {
    api: Api,
    told: Told,
    _permit: OwnedSemaphorePermit,
}

fn news(listener: Listener) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold((listener, Vec::<Event>::new().into_iter()), |(mut listener, mut due)| async move {
        loop {
            if let Some(event) = due.next() {
                return Some((Ok(event), (listener, due)));
            }
            // The first look is at once.
            if !listener.told.is_new() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            let Listener { api, told, .. } = &mut listener;
            let news = told.news(api.status(), api.node_state.committed(), || api.node_state.rounds());
            due = news.into_iter().filter_map(|news| news.event()).collect::<Vec<_>>().into_iter();
        }
    })
}

/// What a listener was told so far.
#[derive(Debug, Default)]
struct Told {
    status: Option<Status>,
    /// The chain and how many of its records the rounds were made of.
    committed: Option<(String, usize)>,
    rounds: Arc<Vec<Round>>,
}

/// Something that a listener does not know yet.
#[derive(Debug, PartialEq)]
enum News {
    /// What it knows of rounds is of another chain.
    Reset,
    Rounds(Vec<Round>),
    Status(Box<Status>),
}

impl Told {
    fn is_new(&self) -> bool {
        self.status.is_none() && self.committed.is_none()
    }

    /// What is new. The rounds are looked at only when a record came.
    fn news(
        &mut self,
        status: Option<Status>,
        committed: (String, usize),
        rounds: impl FnOnce() -> Arc<Vec<Round>>,
    ) -> Vec<News> {
        let mut news = Vec::new();
        if self.committed.as_ref() != Some(&committed) {
            if self.committed.as_ref().is_some_and(|(chain, _)| !chain.is_empty() && *chain != committed.0) {
                self.rounds = Arc::default();
                news.push(News::Reset);
            }
            let rounds = rounds();
            let is_new = |(place, round): &(usize, &Round)| self.rounds.get(*place) != Some(*round);
            let changed: Vec<Round> =
                rounds.iter().enumerate().filter(is_new).map(|(_, round)| round.clone()).collect();
            (self.rounds, self.committed) = (rounds, Some(committed));
            if !changed.is_empty() {
                news.push(News::Rounds(changed));
            }
        }
        if status.is_some() && status != self.status {
            self.status = status.clone();
            news.extend(status.map(|status| News::Status(Box::new(status))));
        }
        news
    }
}

impl News {
    fn event(&self) -> Option<Event> {
        fn of(name: &str, data: &impl Serialize) -> Option<Event> {
            Event::default().event(name).json_data(data).ok()
        }
        match self {
            Self::Reset => of("reset", &serde_json::json!({})),
            Self::Rounds(rounds) => of("rounds", rounds),
            Self::Status(status) => of("status", status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(number: u64, accuracy: Option<f64>) -> Round {
        let known = serde_json::json!({
            "kind": "train", "round": number, "attempt": 0, "model_hash": "", "contributions": [], "train_loss": 0.5,
            "accuracy": accuracy, "duration_ms": 1500, "bytes_sent": 0, "bytes_received": 0,
        });
        serde_json::from_value(known).expect("what is null may be left out")
    }

    fn at(records: usize) -> (String, usize) {
        ("chain".to_owned(), records)
    }

    #[test]
    fn a_listener_hears_of_rounds_that_are_new_or_changed_and_of_no_others() {
        let mut told = Told::default();
        let first = vec![round(1, None)];
        assert_eq!(told.news(None, at(2), || Arc::new(first.clone())), [News::Rounds(first)]);
        let second = vec![round(1, Some(0.5)), round(2, None)];
        assert_eq!(told.news(None, at(3), || Arc::new(second.clone())), [News::Rounds(second.clone())]);
        let third = vec![round(1, Some(0.5)), round(2, Some(0.6)), round(3, None)];
        assert_eq!(told.news(None, at(4), || Arc::new(third.clone())), [News::Rounds(third[1..].to_vec())]);
        assert!(told.news(None, at(4), || panic!("no record came")).is_empty());
    }

    #[test]
    fn another_chain_begins_anew() {
        let mut told = Told::default();
        told.news(None, at(2), || Arc::new(vec![round(1, None)]));
        let news = told.news(None, ("another".to_owned(), 2), || Arc::new(vec![round(1, None)]));
        assert_eq!(news, [News::Reset, News::Rounds(vec![round(1, None)])]);
    }

    #[test]
    fn a_status_is_told_when_it_changed() {
        let mut told = Told::default();
        let status = Status { round: 3, ..Status::default() };
        assert_eq!(told.news(Some(status.clone()), at(0), Arc::default), [News::Status(Box::new(status.clone()))]);
        assert!(told.news(Some(status), at(0), Arc::default).is_empty());
    }
}
