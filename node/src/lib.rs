//! The node: what ties agreement ([`paceline_protocol`]) and learning ([`paceline_model`]) to the world.
//!
//! [`driver`] is its heart: the task that owns the machine. Around it [`net`] moves messages, [`blobs`] moves and keeps
//! models and updates, [`store`] keeps records and votes, [`learn`] trains and averages. [`http`], [`cli`] and `console`
//! let people look and command; `demo` starts a whole run of processes; [`simulate`] is a run in one process, [`replay`]
//! repeats one from its records.

pub mod blobs;
pub mod cli;
mod console;
mod demo;
pub mod driver;
pub mod http;
pub mod learn;
pub mod net;
pub mod plot;
pub mod replay;
pub mod report;
pub mod simulate;
pub mod store;
