//! What on this machine or on its network would stop a run, and the fix: what `paceline doctor` finds.
//!
//! `machine` looks at this machine alone, `network` at what is around it. Each finding says what was looked at and, where it
//! is not in order, what to do, as a command where there is one.

mod machine;
mod network;

use std::collections::BTreeMap;
use std::path::PathBuf;

use libp2p::Multiaddr;
use paceline_protocol::base::roster::Part;
use serde::{Deserialize, Serialize};

use crate::run_file::RunFile;
use crate::store::Home;

/// What is examined.
#[derive(Debug, Clone, Default)]
pub struct Patient {
    /// A node's home; without one the machine and its network alone are looked at.
    pub home: Option<Home>,
    /// The run that is, or is to be.
    pub run_file: Option<RunFile>,
    /// The node's data.
    pub data: Option<PathBuf>,
    /// Its part of them.
    pub part: Option<Part>,
    /// The program that trains for it, as words.
    pub trainer: Option<Vec<String>>,
    /// Where it listens, if that was said.
    pub listen: Vec<Multiaddr>,
    /// Addresses that it dials first, and that its home knows.
    pub peers: Vec<Multiaddr>,
    /// Addresses that must answer: somebody asks for them.
    pub asked: Vec<Multiaddr>,
    /// What is known of nodes: their names, by their PeerIds.
    pub names: BTreeMap<String, String>,
    /// Whether it looks for others on the local network.
    pub mdns: bool,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It is in order.
    Ok,
    /// A run works, and not as well as it could.
    Warning,
    /// A run won't work.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at, in a word: `multicast`, `disk`.
    pub about: String,
    /// How it is.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// What to do, where it is not in order.
    pub fix: Option<String>,
}

impl Finding {
    fn ok(about: &str, what: impl AsRef<str>) -> Self {
        Self { about: about.to_owned(), level: Level::Ok, what: printable(what), fix: None }
    }

    fn warning(about: &str, what: impl AsRef<str>, fix: impl AsRef<str>) -> Self {
        Self { level: Level::Warning, fix: Some(printable(fix)), ..Self::ok(about, what) }
    }

    fn problem(about: &str, what: impl AsRef<str>, fix: impl AsRef<str>) -> Self {
        Self { level: Level::Problem, ..Self::warning(about, what, fix) }
    }
}

/// A text without what would move a terminal's cursor: parts of it come from other machines.
fn printable(text: impl AsRef<str>) -> String {
    text.as_ref().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Looks at everything. It asks the network for some seconds, and changes nothing.
///
/// # Errors
/// The network can't be set up.
pub async fn examine(patient: Patient) -> anyhow::Result<Vec<Finding>> {
    let mut findings = vec![Finding::ok("version", format!("paceline {}", env!("PACELINE_VERSION")))];
    let here = patient.clone();
    findings.extend(crate::node::blocking(move || machine::examine(&here)).await?);
    findings.extend(network::examine(&patient).await?);
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_machine_without_a_home_is_examined() {
        let findings = examine(Patient::default()).await.expect("loopback is there");
        let about: Vec<&str> = findings.iter().map(|f| f.about.as_str()).collect();
        assert!(["version", "interfaces", "memory"].iter().all(|name| about.contains(name)), "{about:?}");
        for finding in &findings {
            assert_eq!(finding.fix.is_some(), finding.level != Level::Ok, "{finding:?}");
        }
    }
}
