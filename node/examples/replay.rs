//! Repeats a run in one process, from the records in a node's home and the data, and compares all hashes:
//!
//! ```text
//! cargo run --release -p paceline --example replay -- HOME [DATA]
//! ```

use anyhow::{Context, bail};
use paceline::learn::cores;
use paceline::replay::replay;
use paceline::store::Home;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let home = Home::at(arguments.next().context("usage: replay HOME [DATA]")?);
    let data = arguments.next().map(std::path::PathBuf::from);
    let mut equal = true;
    let scratch = tempfile::tempdir()?;
    replay(&home, data.as_deref(), cores(), scratch.path(), |r| {
        println!(
            "round {}: {} of {} updates equal, model equal: {}",
            r.round, r.updates_equal, r.updates, r.model_equal
        );
        equal &= r.updates == r.updates_equal && r.model_equal;
    })?;
    if equal { Ok(()) } else { bail!("the run does not repeat") }
}
