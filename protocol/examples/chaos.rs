//! Draws worlds from seeds for as long as it is told, and lets them happen: no promise may break in any, and each must go on
//! once it is healed. See docs/reliability.md.
//!
//!     cargo run --release -p paceline-protocol --features sim --example chaos -- --seconds 60
//!
//! A failure prints one line that shows it again, and is made small by itself.

#![expect(clippy::disallowed_methods, reason = "how long it runs is told by the clock, what happens in it is not")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use paceline_protocol::Hash;
use paceline_protocol::sim::{Failure, Liars, Life, Plan, Range, Tally, live, shrink};
use serde::Serialize;

const USAGE: &str = "usage: chaos [--seconds N] [--worlds N] [--from SEED] [--nodes MIN..MAX] [--liars never|sometimes|always]
             [--jobs N] [--tries N] [--format text|json]
       chaos --seed SEED [--nodes MIN..MAX] [--liars ...] [--faults all|none|N,N,...] [--present N,N,...] [--stream N]
             [--shrink] [--plan]

Without --seconds and --worlds: 60 seconds. --tries is how many worlds are tried to make a failing one small. --plan shows
what the world of a seed is made of.";

/// What a person asked for.
#[derive(Debug, Clone)]
struct Wish {
    range: Range,
    seconds: Option<u64>,
    worlds: Option<u64>,
    from: u64,
    jobs: usize,
    tries_max: u32,
    json: bool,
    seed: Option<u64>,
    faults: Option<BTreeSet<usize>>,
    present: Option<BTreeSet<usize>>,
    stream: Option<u64>,
    shrink: bool,
    plan: bool,
}

fn parsed<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{key} {value:?} is not a number that fits"))
}

fn numbers(key: &str, value: &str) -> Result<BTreeSet<usize>, String> {
    value.split(',').map(|n| parsed(key, n)).collect()
}

impl Wish {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Wish, String> {
        let mut wish = Wish {
            range: Range::default(),
            seconds: None,
            worlds: None,
            from: 0,
            jobs: 1,
            tries_max: 400,
            json: false,
            seed: None,
            faults: None,
            present: None,
            stream: None,
            shrink: false,
            plan: false,
        };
        while let Some(key) = words.next() {
            let key = key.as_str();
            if let "--shrink" | "--plan" = key {
                *(if key == "--plan" { &mut wish.plan } else { &mut wish.shrink }) = true;
                continue;
            }
            let value = words.next().ok_or_else(|| format!("{key} wants a value"))?;
            match key {
                "--seconds" => wish.seconds = Some(parsed(key, &value)?),
                "--worlds" => wish.worlds = Some(parsed(key, &value)?),
                "--from" => wish.from = parsed(key, &value)?,
                "--jobs" => wish.jobs = parsed(key, &value)?,
                "--tries" => wish.tries_max = parsed(key, &value)?,
                "--seed" => wish.seed = Some(parsed(key, &value)?),
                "--stream" => wish.stream = Some(parsed(key, &value)?),
                "--faults" if value == "all" => wish.faults = None,
                "--faults" if value == "none" => wish.faults = Some(BTreeSet::new()),
                "--faults" => wish.faults = Some(numbers(key, &value)?),
                "--present" => wish.present = Some(numbers(key, &value)?),
                "--nodes" => {
                    let (min, max) = value.split_once("..").unwrap_or((&value, &value));
                    let (min, max) = (parsed(key, min)?, parsed(key, max)?);
                    if !(3..=200).contains(&min) || !(min..=200).contains(&max) {
                        return Err(format!("--nodes {value}: from 3 to 200"));
                    }
                    (wish.range.nodes_min, wish.range.nodes_max) = (min, max);
                }
                "--liars" => {
                    wish.range.liars = match value.as_str() {
                        "never" => Liars::Never,
                        "sometimes" => Liars::Sometimes,
                        "always" => Liars::Always,
                        _ => return Err(format!("--liars {value:?}: never, sometimes or always")),
                    }
                }
                "--format" => wish.json = value == "json",
                _ => return Err(format!("{key} is not known")),
            }
        }
        if wish.seconds.is_none() && wish.worlds.is_none() {
            wish.seconds = Some(60);
        }
        Ok(wish)
    }

    /// The one line that shows a world again.
    fn line(&self, plan: &Plan, origin: &Plan) -> String {
        let mut line =
            format!("cargo run --release -p paceline-protocol --features sim --example chaos -- --seed {}", plan.seed);
        if self.range != Range::default() {
            line += &format!(" --nodes {}..{}", self.range.nodes_min, self.range.nodes_max);
            line += match self.range.liars {
                Liars::Never => " --liars never",
                Liars::Sometimes => "",
                Liars::Always => " --liars always",
            };
        }
        let join = |numbers: Vec<usize>| numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        if plan.faults.len() < origin.faults.len() {
            let faults = join(plan.faults.iter().map(|p| p.number).collect());
            line += &format!(" --faults {}", if faults.is_empty() { "none" } else { &faults });
        }
        if plan.present != origin.present {
            line += &format!(" --present {}", join(plan.present.iter().copied().collect()));
        }
        if plan.stream != origin.stream {
            line += &format!(" --stream {}", plan.stream);
        }
        line
    }
}

/// What came of many worlds.
#[derive(Debug, Default)]
struct Sum {
    worlds: u64,
    worlds_with_liars: u64,
    most_nodes: usize,
    nodes: u64,
    rounds: u64,
    virtual_ms: u64,
    commits_ms: Vec<u64>,
    second_truths: u64,
    tally: Tally,
    /// Of every world's trace, whatever the order in which they came to an end.
    trace: [u8; 32],
    failures: Vec<Found>,
}

/// A failing world.
#[derive(Debug, Clone, Serialize)]
struct Found {
    seed: u64,
    what: String,
    line: String,
    /// After shrinking.
    small: String,
    small_line: String,
}

/// What `--format json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    from: u64,
    worlds: u64,
    worlds_with_liars: u64,
    most_nodes: usize,
    mean_nodes: f64,
    rounds: u64,
    virtual_s: u64,
    wall_s: f64,
    commit_after_healing_ms: [u64; 3],
    second_truths_shown: u64,
    faults: &'a BTreeMap<&'static str, u64>,
    refusals: BTreeMap<String, u64>,
    trace: String,
    violations: usize,
    failures: &'a [Found],
}

impl Sum {
    fn take(&mut self, plan: &Plan, life: &Life) {
        self.worlds += 1;
        self.worlds_with_liars += u64::from(plan.has_liars());
        self.most_nodes = self.most_nodes.max(plan.nodes);
        self.nodes += plan.nodes as u64;
        self.rounds += life.rounds;
        self.virtual_ms += life.virtual_ms;
        self.commits_ms.extend(life.commit_ms);
        self.second_truths += u64::from(life.second_truth);
        self.tally.add(&life.tally);
        let trace = Hash::of_parts("chaos world", &[&plan.seed.to_le_bytes(), life.trace.as_bytes()]);
        self.trace.iter_mut().zip(trace.as_bytes()).for_each(|(sum, byte)| *sum ^= byte);
    }

    /// Median, 99th percentile and longest.
    fn commit_ms(&self) -> [u64; 3] {
        let mut sorted = self.commits_ms.clone();
        sorted.sort_unstable();
        let at = |share: usize| sorted.get((sorted.len() * share / 100).min(sorted.len().saturating_sub(1))).copied();
        [50, 99, 100].map(|share| at(share).unwrap_or_default())
    }

    fn report(&self, from: u64, took: Duration) -> Report<'_> {
        Report {
            from,
            worlds: self.worlds,
            worlds_with_liars: self.worlds_with_liars,
            most_nodes: self.most_nodes,
            mean_nodes: self.nodes as f64 / self.worlds.max(1) as f64,
            rounds: self.rounds,
            virtual_s: self.virtual_ms / 1_000,
            wall_s: took.as_secs_f64(),
            commit_after_healing_ms: self.commit_ms(),
            second_truths_shown: self.second_truths,
            faults: &self.tally.faults,
            refusals: self.tally.refusals.iter().map(|(reject, n)| (reject.to_string(), *n)).collect(),
            trace: Hash::of(&self.trace).to_string(),
            violations: self.failures.len(),
            failures: &self.failures,
        }
    }
}

fn print(report: &Report) {
    let next = report.from + report.worlds;
    println!(
        "{} worlds (seeds {} to {}), {} of them with nodes that lie; {:.1} nodes on average, {} at most",
        report.worlds,
        report.from,
        next.saturating_sub(1),
        report.worlds_with_liars,
        report.mean_nodes,
        report.most_nodes
    );
    println!(
        "{} rounds committed in {} h of virtual time; {:.0} s of this machine",
        report.rounds,
        report.virtual_s / 3_600,
        report.wall_s
    );
    let [median, p99, most] = report.commit_after_healing_ms;
    println!("healed, a world commits within {median} ms (median), {p99} ms (p99), {most} ms (longest)");
    println!("second truths, in rosters where a liar can bring one about: {}, all shown", report.second_truths_shown);
    println!("faults:");
    report.faults.iter().for_each(|(name, n)| println!("  {n:>10}  {name}"));
    println!("refusals:");
    report.refusals.iter().for_each(|(name, n)| println!("  {n:>10}  {name}"));
    println!("trace of all worlds: {}", report.trace);
    println!("violations: {}; go on with --from {next}", report.violations);
}

/// Makes a failing world small, and tells of it at once.
fn found(wish: &Wish, plan: &Plan, failure: &Failure) -> Found {
    let line = wish.line(plan, plan);
    eprintln!("FAILED: seed {}: {failure}\n  again: {line}", plan.seed);
    let small = shrink(plan, failure, wish.tries_max, live);
    let small_line = wish.line(&small.plan, plan);
    eprintln!("smaller, after {} tries: {}{}\n  again: {small_line}", small.tried, small.plan, small.failure);
    Found {
        seed: plan.seed,
        what: failure.to_string(),
        line,
        small: format!("{}{}", small.plan, small.failure),
        small_line,
    }
}

fn sweep(wish: &Wish) -> ExitCode {
    let (began, next) = (Instant::now(), AtomicU64::new(0));
    let sum = Mutex::new(Sum::default());
    let is_over = |done: u64| {
        let late = wish.seconds.is_some_and(|s| began.elapsed() >= Duration::from_secs(s));
        late || wish.worlds.is_some_and(|worlds| done >= worlds)
    };
    std::thread::scope(|scope| {
        for _ in 0..wish.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let done = next.load(Ordering::SeqCst);
                    if is_over(done) {
                        break;
                    }
                    // Whoever takes a seed lives it, so that the seeds of a sweep have no gap.
                    if next.compare_exchange(done, done + 1, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                        continue;
                    }
                    let plan = Plan::draw(wish.from + done, wish.range);
                    let life = live(&plan);
                    let found = life.failure.as_ref().map(|failure| found(wish, &plan, failure));
                    let mut sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    sum.take(&plan, &life);
                    sum.failures.extend(found);
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let report = sum.report(wish.from, began.elapsed());
    if wish.json {
        println!("{}", serde_json::to_string_pretty(&report).unwrap_or_default());
    } else {
        print(&report);
    }
    if sum.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One world, again.
fn one(wish: &Wish, seed: u64) -> ExitCode {
    let origin = Plan::draw(seed, wish.range);
    let all = origin.faults.iter().map(|p| p.number).collect();
    let plan = origin.only(
        wish.faults.as_ref().unwrap_or(&all),
        wish.present.as_ref().unwrap_or(&origin.present),
        wish.stream.unwrap_or(origin.stream),
    );
    if wish.plan {
        print!("{plan}");
    }
    let life = live(&plan);
    println!(
        "{} rounds in {} ms of virtual time; next commit after the healing: {:?} ms; trace {}",
        life.rounds, life.virtual_ms, life.commit_ms, life.trace
    );
    let Some(failure) = life.failure else { return ExitCode::SUCCESS };
    println!("FAILED: {failure}");
    if wish.shrink {
        let small = shrink(&plan, &failure, wish.tries_max, live);
        println!("smaller, after {} tries: {}{}", small.tried, small.plan, small.failure);
        println!("  again: {}", wish.line(&small.plan, &origin));
    }
    ExitCode::FAILURE
}

fn main() -> ExitCode {
    match Wish::read(std::env::args().skip(1)) {
        Err(why) => {
            eprintln!("{why}\n\n{USAGE}");
            ExitCode::from(2)
        }
        Ok(wish) => match wish.seed {
            Some(seed) => one(&wish, seed),
            None => sweep(&wish),
        },
    }
}
