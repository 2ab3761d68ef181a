//! The node: what ties agreement ([`paceline_protocol`]) and learning ([`paceline_model`]) to the world.

pub mod blobs;
pub mod driver;
pub mod http;
pub mod learn;
pub mod net;
pub mod report;
pub mod store;
