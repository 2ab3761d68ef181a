//! The node: what ties agreement ([`paceline_protocol`]) and learning ([`paceline_model`]) to the world.
//!
//! [`driver`] is its heart: the task that owns the machine. Around it [`net`] moves messages, [`blobs`] moves and keeps
//! models and updates, [`store`] keeps records and votes, [`learn`] trains and averages. [`report`] says where a node stands
//! and [`http`] serves that; `inspect` asks it from another process. [`simulate`] is a run in one process, `cluster` one in
//! many, [`replay`] repeats one from its records, and [`verify`] checks what a node keeps. On top [`cli`] has the commands, and `ui` the words that they print:
//! nothing below knows either.

// `eprintln!` panics when nobody reads stderr any more: `ui::log` says why a node must not.
#![cfg_attr(not(test), deny(clippy::print_stderr))]

pub mod blobs;
pub mod check;
pub mod cli;
mod cluster;
pub mod doctor;
pub mod driver;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod http;
mod inspect;
pub mod learn;
mod memory;
mod model_file;
mod neighbours;
pub mod net;
pub mod node;
pub mod plot;
pub mod replay;
pub mod report;
pub mod run_file;
pub mod simulate;
pub mod store;
mod tensorboard;
pub mod trained;
mod ui;
pub mod verify;
mod weights;
