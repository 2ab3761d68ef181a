//! Draws several simulations into common plots, `accuracy-rounds`, `accuracy-bytes` and `accuracy-time` as SVG and PNG:
//!
//! ```text
//! cargo run --release -p paceline --example curves -- TITLE OUT NAME=FOLDER...
//! ```
//!
//! where each FOLDER has the `rounds.jsonl` of a simulation.

use anyhow::{Context, bail};
use paceline::report::Round;
use std::path::Path;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [title, out, runs @ ..] = arguments.as_slice() else { bail!("usage: curves TITLE OUT NAME=FOLDER...") };
    let mut read = Vec::new();
    for run in runs {
        let (name, folder) = run.rsplit_once('=').with_context(|| format!("{run}: expected NAME=FOLDER"))?;
        let path = Path::new(folder).join("rounds.jsonl");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let rounds = text.lines().map(serde_json::from_str).collect::<Result<Vec<Round>, _>>();
        read.push((name.to_owned(), rounds.with_context(|| path.display().to_string())?));
    }
    let runs: Vec<(String, &[Round])> = read.iter().map(|(name, rounds)| (name.clone(), rounds.as_slice())).collect();
    std::fs::create_dir_all(out).with_context(|| out.clone())?;
    for file in paceline::simulate::plot(title, "accuracy", &runs, Path::new(out))? {
        println!("wrote {}", file.display());
    }
    Ok(())
}
