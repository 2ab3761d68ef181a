//! The options of `join`, and how a home remembers them for the next start.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::anyhow;
use clap::{Args, ValueEnum};
use paceline_bootstrap::Address;
use paceline_protocol::Hash;
use paceline_protocol::base::roster::{Part, is_name};
use paceline_protocol::bounds::NAME_BYTES_MAX;
use serde::{Deserialize, Serialize};

use crate::cli::error::CliError;
use crate::cli::trainer::words;
use crate::doctor::Patient;
use crate::driver::Hours;
use crate::inspect::node_id;
use crate::store::Home;
use crate::ui::log::LogOptions;

/// How a node is started. What is given is remembered in the home for the next start.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::cli) struct JoinOptions {
    /// A run file or a ticket. With neither: the run of the home, or the one that is seen on the LAN.
    #[arg(value_name = "RUN.toml | TICKET")]
    #[serde(skip)]
    pub(super) target: Option<String>,
    /// Where the node keeps its identity, records and models [default: NAME-ID of the run, under the user's data folder].
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    pub(super) home: Option<PathBuf>,
    /// Go on with the run of this name, as `paceline runs` lists it.
    #[arg(long = "run", id = "run_name", value_name = "NAME", conflicts_with_all = ["target", "home"])]
    #[serde(skip)]
    pub(super) run: Option<String>,
    /// What people call this node, at most 64 bytes [default: the machine's name].
    #[arg(long, value_parser = name)]
    pub(super) name: Option<String>,
    /// An address to dial first, host:port or a multiaddr; may be given several times.
    #[arg(long, value_name = "ADDR")]
    pub(super) bootstrap: Vec<Address>,
    /// Where to listen: host:port for TCP and QUIC, for instance 0.0.0.0:4001 where a firewall has one port open; or a
    /// multiaddr [default: every IPv4 interface, free ports that it keeps].
    #[arg(long, value_name = "ADDR")]
    pub(super) listen: Vec<Address>,
    /// Don't look for nodes on the LAN, and don't be found there.
    #[arg(long)]
    pub(super) no_mdns: bool,
    /// The data: CIFAR-10 batches (folder or tar.gz), MNIST IDX files, a folder of images, or a table (CSV).
    #[arg(long, value_name = "PATH")]
    pub(super) data: Option<PathBuf>,
    /// Take part K of N of the data, for experiments where one data set is split among nodes.
    #[arg(long, value_name = "K/N", value_parser = part)]
    pub(super) part: Option<Part>,
    /// Threads that train [default: one a core].
    #[arg(long, value_name = "N")]
    pub(super) threads: Option<NonZeroUsize>,
    /// How much training gives way to other programs, from 0 (not at all) to 19 [default: 10].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=19))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) nice: Option<u8>,
    /// The hours of the day, in local time, in which this node trains: 22:00-06:00. In all others it votes and serves alone.
    /// `all` where some were given before.
    #[arg(long, value_name = "FROM-UNTIL | all")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hours: Option<Hours>,
    /// What trains.
    #[arg(long, value_enum)]
    pub(super) device: Option<DeviceKind>,
    /// The weights that the run begins with, where its run file has their hash: a safetensors file or a home. One node needs
    /// them; the others fetch them.
    #[arg(long, value_name = "FILE | HOME")]
    #[serde(skip)]
    pub(super) model: Option<PathBuf>,
    /// A program that trains in place of the nets that come with every node (docs/trainer.md): split into words as a shell
    /// does, and run without one. Goes with `arch = "trainer"` in the run file.
    #[arg(long, value_name = "COMMAND")]
    pub(super) trainer: Option<String>,
    /// Seconds that the trainer may show no progress before it is taken for hung [default: 120].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(super) trainer_patience: Option<u64>,
    /// Where the control API and the page listen, on this machine only [default: 127.0.0.1 and a free port].
    #[arg(long, value_name = "ADDR")]
    #[serde(skip)]
    pub(super) http: Option<SocketAddr>,
    /// Where other machines may look at the page, with a token that `join` prints: 0.0.0.0:4100 for instance; or `none`, where
    /// it was given before. It only shows.
    #[arg(long, value_name = "ADDR | none")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) page: Option<PageAddress>,
    /// Lines in place of the screen that a terminal gets.
    #[arg(long)]
    #[serde(skip)]
    pub(super) plain: bool,
    /// Where the log goes, and in which form.
    #[command(flatten)]
    #[serde(skip)]
    pub(in crate::cli) log: LogOptions,
    /// End when the run is over rather than go on serving it.
    #[arg(long)]
    #[serde(skip)]
    pub(super) exit_when_done: bool,
    /// Go on with a run that stopped because training failed everywhere.
    #[arg(long)]
    #[serde(skip)]
    pub(super) resume: bool,
    /// Move this node to another chain of its run, by its genesis, as `status` shows it: the old one is kept aside.
    #[arg(long, value_name = "GENESIS", value_parser = genesis)]
    #[serde(skip)]
    pub(super) switch: Option<Hash>,
    /// End when stdin does: whoever started this node is gone.
    #[arg(long, hide = true)]
    #[serde(skip)]
    pub(super) until_stdin_ends: bool,
    /// The chain that the ticket or `--switch` named, hex: this node enters no other.
    #[arg(skip)]
    pub(super) chain: Option<String>,
}

/// The options in a home. A part or a path with a wrong letter is one as well: only the hash tells.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    #[serde(flatten)]
    options: JoinOptions,
    /// The node whose they are.
    #[serde(default)]
    node: String,
    /// The hash of both; older homes have none.
    #[serde(default)]
    check: Option<String>,
}

impl Remembered {
    fn hash(&self) -> Result<String, serde_json::Error> {
        Ok(Hash::of(&serde_json::to_vec(&(&self.options, &self.node))?).to_string())
    }
}

/// Where the page is for other machines, or that it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct PageAddress(pub(super) Option<SocketAddr>);

impl FromStr for PageAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no address: give IP:port, for instance 0.0.0.0:4100, or `none`");
        match text {
            "none" => Ok(Self(None)),
            text => text.parse().map(|address| Self(Some(address))).map_err(|_| wrong()),
        }
    }
}

impl TryFrom<String> for PageAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<PageAddress> for String {
    fn from(PageAddress(address): PageAddress) -> Self {
        address.map_or_else(|| "none".to_owned(), |address| address.to_string())
    }
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum DeviceKind {
    Cpu,
    Cuda,
    Metal,
}

impl JoinOptions {
    /// What was given at an earlier start holds where nothing else is given now.
    ///
    /// # Errors
    /// It can't be read, or is damaged: a node that forgot its `--part` or `--data` would train on something else.
    pub(in crate::cli) fn recall(&mut self, home: &Home) -> Result<(), CliError> {
        let Some(before) = Self::remembered(home)? else { return Ok(()) };
        self.name = self.name.take().or(before.name);
        self.part = self.part.or(before.part);
        self.data = self.data.take().or(before.data);
        self.threads = self.threads.or(before.threads);
        self.nice = self.nice.or(before.nice);
        self.hours = self.hours.or(before.hours);
        self.device = self.device.or(before.device);
        self.page = self.page.or(before.page);
        self.trainer = self.trainer.take().or(before.trainer);
        self.trainer_patience = self.trainer_patience.or(before.trainer_patience);
        // Who comes with a run file or another ticket says anew which chain it is to be.
        if self.target.is_none() {
            self.chain = before.chain;
        }
        self.no_mdns |= before.no_mdns;
        if self.listen.is_empty() {
            self.listen = before.listen;
        }
        self.bootstrap.extend(before.bootstrap);
        self.bootstrap.sort();
        self.bootstrap.dedup();
        Ok(())
    }

    /// What the home remembers; nothing before its first start.
    fn remembered(home: &Home) -> Result<Option<Self>, CliError> {
        let path = home.options();
        let damaged = |what: String| {
            let path = path.display();
            CliError::bad_input(anyhow!(
                "{path}: {what}; remove it, and give once more what this node was started with (--part, --data, --name and the like)"
            ))
        };
        let json = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                if home.database().exists() {
                    tracing::warn!("{} is missing: this start knows only what it is given itself", path.display());
                }
                return Ok(None);
            }
            json => json.map_err(|e| damaged(e.to_string()))?,
        };
        let found: Remembered = serde_json::from_slice(&json).map_err(|e| damaged(format!("it is damaged: {e}")))?;
        let Some(check) = &found.check else { return Ok(Some(found.options)) };
        if *check != found.hash().map_err(|e| damaged(e.to_string()))? {
            return Err(damaged("it is damaged, or was edited: its hash is another".to_owned()));
        }
        match node_id(home)?.map(|me| me.to_string()) {
            Some(me) if me != found.node => Err(CliError::bad_input(anyhow!(
                "{} is of node {}, and identity.key is of node {me}: one of the two is another's, or damaged; bring back the right file, or move the home away and join again, as another node",
                path.display(),
                found.node
            ))),
            _ => Ok(Some(found.options)),
        }
    }

    /// The run file that the node was started with, or the one in its home.
    pub(super) fn origin(&self, home: &Home) -> PathBuf {
        let given = self.target.as_ref().map(PathBuf::from).filter(|path| path.is_file());
        given.unwrap_or_else(|| home.run_file())
    }

    /// What of them `doctor` looks at.
    pub(in crate::cli) fn examined(self, patient: &mut Patient) -> Result<(), CliError> {
        patient.data = self.data;
        patient.part = self.part;
        patient.trainer = self.trainer.as_deref().map(words).transpose()?;
        patient.listen = Address::all(&self.listen);
        patient.peers.extend(Address::all(&self.bootstrap));
        patient.mdns &= !self.no_mdns;
        Ok(())
    }

    /// Puts them into the home.
    pub(super) fn remember(&self, home: &Home) -> anyhow::Result<()> {
        let node = node_id(home)?.map(|me| me.to_string()).unwrap_or_default();
        let mut remembered = Remembered { options: self.clone(), node, check: None };
        remembered.check = Some(remembered.hash()?);
        let json = serde_json::to_vec_pretty(&remembered)?;
        Ok(home.write("options.json", &json)?)
    }
}

fn genesis(text: &str) -> Result<Hash, String> {
    text.parse().map_err(|_| format!("`{text}` is no genesis: give the 64 hex digits that `paceline status` shows"))
}

/// Reads `K/N`.
pub(in crate::cli) fn part(text: &str) -> Result<Part, String> {
    let error = || format!("`{text}` is no part: give K/N, for instance 1/5, with K from 1 to N");
    let (index, of) = text.split_once('/').ok_or_else(error)?;
    let part = Part { index: index.parse().map_err(|_| error())?, of: of.parse().map_err(|_| error())? };
    if part.is_valid() { Ok(part) } else { Err(error()) }
}

fn name(text: &str) -> Result<String, String> {
    match is_name(text) && !text.is_empty() {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "a name has 1 to {NAME_BYTES_MAX} bytes and no control characters, this one has {} bytes",
            text.len()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_bounds() {
        assert_eq!(name("lab 3"), Ok("lab 3".to_owned()));
        for wrong in ["", "two\nlines", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert!(name(wrong).is_err_and(|e| e.contains("1 to 64 bytes")), "{wrong:?}");
        }
    }

    #[test]
    fn a_part_is_k_of_n() {
        assert_eq!(part("2/5"), Ok(Part { index: 2, of: 5 }));
        for wrong in ["0/5", "6/5", "2", "a/b", "2/5/7", "-1/5"] {
            assert!(part(wrong).is_err_and(|e| e.contains("K/N")), "{wrong}");
        }
    }
}
