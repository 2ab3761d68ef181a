//! A learner that is a program of the node's owner: `paceline join --trainer COMMAND` (docs/trainer.md).
//!
//! `line` has what goes over its stdin and stdout, `tensors` the files beside it, `process` the process. Here is what the
//! node makes of it: a [`Learner`] that asks, watches, gives up, ends and starts again. Nothing that the program does costs
//! more than this node's update of a round.

mod line;
mod process;
mod tensors;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::time::{Duration, Instant};

use paceline_model::{Layout, Learner, Measure, Progress, Task, Threads, TrainError, Trained, Watch};

use line::{Answer, Question};
pub use line::{Hello, HelloNode, HelloRun};
pub(crate) use process::end_all;
use process::{Ended, Process};

/// Reads a line of a trainer, for whoever looks for lines that break that.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn trainer_answer(line: &[u8]) -> Result<(), String> {
    Answer::parse(line).map(drop)
}

/// How long a trainer may take to say that it is ready: it imports a framework in this time.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long it may take to give a job up, and to answer a ping.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// An idle trainer is asked whether it lives this often.
const PING_EVERY: Duration = Duration::from_secs(10);

/// How often it is looked whether a job is to be given up.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The wait before a trainer that ended is started again: doubled each time, up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
/// See [`PAUSE`].
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Samples that an update may claim.
const SAMPLES_MAX: u64 = paceline_protocol::bounds::SAMPLES_MAX;

/// How a program is started.
#[derive(Debug, Clone)]
pub struct Program {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// What it is greeted with; `folder` is its own, and is emptied at each start.
    pub hello: Hello,
    /// How long it may show no progress before it is taken for hung.
    pub patience: Duration,
    /// The run's tensors, where the run begins with given weights: then it is not asked for any.
    pub layout: Option<Layout>,
}

/// A part's program, once it was started.
type Slot = Arc<Mutex<Option<Arc<ProgramLearner>>>>;

/// A program that learns.
#[derive(Debug)]
pub struct ProgramLearner {
    inner: Arc<Inner>,
    layout: Layout,
    initial: Vec<u8>,
    /// Those for parts of its data, in runs in one process.
    parts: Mutex<BTreeMap<(u32, u32), Slot>>,
}

#[derive(Debug)]
struct Inner {
    program: Program,
    running: Mutex<Running>,
}

/// The process, if it runs, and what became of those before it.
#[derive(Debug)]
struct Running {
    process: Option<Process>,
    /// As it calls itself.
    name: String,
    /// Starts and jobs that failed in a row.
    failures: u32,
    /// Whether it was stopped for good.
    is_over: bool,
    /// Before then it is not started again.
    rests_until: Instant,
    /// When it said something last, or was started.
    heard: Instant,
    next_id: u64,
}

/// Why a program can't be used at all.
#[derive(Debug, thiserror::Error)]
#[error("the trainer `{command}`: {why}")]
pub struct ProgramError {
    /// The command.
    pub command: String,
    /// What is wrong, and what to do.
    pub why: String,
}

impl ProgramLearner {
    /// Starts the program and asks it for the initial weights, whose tensors are the run's layout.
    ///
    /// # Errors
    /// It can't be started, is no trainer, or its tensors are no layout.
    pub fn start(program: Program) -> Result<Self, ProgramError> {
        let command = program.command.join(" ");
        let wrong = |why: String| ProgramError { command: command.clone(), why };
        let now = Instant::now();
        let running = Running {
            process: None,
            name: String::new(),
            failures: 0,
            is_over: false,
            rests_until: now,
            heard: now,
            next_id: 1,
        };
        let inner = Arc::new(Inner { program, running: Mutex::new(running) });
        let (layout, initial) = {
            let mut running = inner.running();
            inner.start(&mut running).map_err(wrong)?;
            let asked = match &inner.program.layout {
                Some(layout) => Ok((layout.clone(), Vec::new())),
                None => inner.initial(&mut running),
            };
            asked.map_err(|error| wrong(format!("{error}; what it wrote to stderr stands above")))?
        };
        tracing::info!(
            "the trainer {} has {} tensors, {} numbers",
            inner.running().name,
            layout.tensors().len(),
            layout.parameters()
        );
        let watched = Arc::downgrade(&inner);
        // Without its thread a dead trainer is found when its job comes.
        let _ = std::thread::Builder::new().name("trainer watch".into()).spawn(move || watch_over(&watched));
        Ok(Self { inner, layout, initial, parts: Mutex::default() })
    }
}

impl ProgramLearner {
    /// Lets the program end in order, or ends it; it is not started again.
    pub fn stop(&self) {
        let mut running = self.inner.running();
        running.is_over = true;
        if let Some(process) = running.process.take() {
            process.stop();
        }
        drop(running);
        for slot in lock(&self.parts).values() {
            lock(slot).iter().for_each(|part| part.stop());
        }
    }
}

/// What is behind these locks is whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn running(&self) -> MutexGuard<'_, Running> {
        lock(&self.running)
    }

    /// Starts the process and greets it.
    fn start(&self, running: &mut Running) -> Result<(), String> {
        let Program { command, hello, .. } = &self.program;
        let started = Process::start(command, &hello.folder).and_then(|mut process| {
            process.say(&Question::Hello(hello.clone()))?;
            let within = Instant::now() + READY_WITHIN;
            match process.hear(within, true).map_err(|ended| ended.why("before it was ready", READY_WITHIN))? {
                Answer::Ready { protocol, name } if protocol == line::PROTOCOL => Ok((process, name)),
                Answer::Ready { protocol, .. } => {
                    Err(format!("it speaks protocol {protocol}, and this node {}", line::PROTOCOL))
                }
                Answer::Failed { why, .. } => Err(line::cut(&why)),
                other => Err(format!("it answers a `hello` with `{}` in place of `ready`", other.name())),
            }
        });
        let (process, name) = started.inspect_err(|_| running.rest())?;
        (running.process, running.name, running.heard) = (Some(process), line::cut_name(&name), Instant::now());
        Ok(())
    }

    /// The initial weights and their layout.
    fn initial(&self, running: &mut Running) -> Result<(Layout, Vec<u8>), TrainError> {
        let id = running.next_id();
        let result = self.file(id, "result");
        let question = Question::Initial { id, result: result.clone() };
        match self.ask(running, id, &question, &mut |_| std::ops::ControlFlow::Continue(()))? {
            Answer::Initialized { .. } => {}
            other => return Err(self.unexpected(running, &question, &other)),
        }
        let read = tensors::read_all(&result);
        self.clear();
        read.map_err(TrainError::Failed)
    }

    /// Asks for a job and waits for its answer; `watch` hears of progress, and gives the job up.
    fn ask(
        &self,
        running: &mut Running,
        id: u64,
        question: &Question,
        watch: &mut Watch<'_>,
    ) -> Result<Answer, TrainError> {
        let patience = self.program.patience;
        let Some(process) = &mut running.process else {
            return Err(TrainError::Failed("the trainer does not run".to_owned()));
        };
        if let Err(why) = process.say(question) {
            return Err(self.end(running, why));
        }
        let mut alive = Instant::now();
        let mut shown = Progress { epoch: 1, epochs: 1, batch: 0, batches: 0, loss: 0.0 };
        loop {
            let Some(process) = &mut running.process else {
                return Err(TrainError::Failed("the trainer does not run".to_owned()));
            };
            // Whatever else it says: only its job's progress shows that it works.
            if alive.elapsed() >= patience {
                let why = format!("it showed no progress for {} s and was ended", patience.as_secs());
                return Err(self.end(running, why));
            }
            match process.hear(Instant::now() + LOOK_EVERY, false) {
                Ok(Answer::Progress { id: of, done, of: all, loss }) if of == id => {
                    alive = Instant::now();
                    (shown.batch, shown.batches) = (done as usize, all as usize);
                    shown.loss = loss.unwrap_or(0.0);
                }
                Ok(Answer::Failed { id: of, why }) if of.is_none_or(|of| of == id) => {
                    return Err(TrainError::Failed(line::cut(&why)));
                }
                Ok(answer) if answer.id() == Some(id) => {
                    running.heard = Instant::now();
                    return Ok(answer);
                }
                // Of a job that was given up.
                Ok(_) => {}
                Err(Ended::Silent) => {}
                Err(ended) => {
                    let why = ended.why("in the middle of its work", patience);
                    return Err(self.end(running, why));
                }
            }
            if watch(shown).is_break() {
                self.give_up(running, id);
                return Err(TrainError::Cancelled);
            }
        }
    }

    /// Gives a job up. Who does not let go is ended.
    fn give_up(&self, running: &mut Running, id: u64) {
        let Some(process) = &mut running.process else { return };
        let within = Instant::now() + ANSWER_WITHIN;
        let mut lets_go = process.say(&Question::Cancel { id }).is_ok();
        while lets_go && Instant::now() < within {
            match process.hear(within, false) {
                Ok(Answer::Cancelled { id: of }) if of == id => return,
                Ok(_) => {}
                Err(_) => lets_go = false,
            }
        }
        self.end(running, "it did not give a job up and was ended".to_owned());
    }

    /// Ends the process; it is started again after a while.
    fn end(&self, running: &mut Running, why: String) -> TrainError {
        tracing::warn!("the trainer: {why}");
        running.process = None;
        running.rest();
        TrainError::Failed(format!("its trainer: {why}"))
    }

    /// An answer that does not go with its question.
    fn unexpected(&self, running: &mut Running, question: &Question, answer: &Answer) -> TrainError {
        self.end(running, format!("it answers `{}` with `{}`", question.name(), answer.name()))
    }

    /// Waits until the process runs, which it does but after a failure.
    fn await_start(&self, running: &mut Running, watch: &mut Watch<'_>) -> Result<(), TrainError> {
        while running.process.is_none() {
            if running.is_over {
                return Err(TrainError::Cancelled);
            }
            if watch(Progress { epoch: 1, epochs: 1, batch: 0, batches: 0, loss: 0.0 }).is_break() {
                return Err(TrainError::Cancelled);
            }
            match running.rests_until.saturating_duration_since(Instant::now()) {
                Duration::ZERO => {
                    self.start(running).map_err(|why| TrainError::Failed(format!("its trainer: {why}")))?
                }
                rest => std::thread::sleep(rest.min(LOOK_EVERY)),
            }
        }
        Ok(())
    }

    /// A job's file in the trainer's folder.
    fn file(&self, id: u64, what: &str) -> PathBuf {
        self.program.hello.folder.join(format!("{id}-{what}.safetensors"))
    }

    /// Writes weights for a job.
    fn write(&self, layout: &Layout, weights: &[u8], file: &Path) -> Result<(), TrainError> {
        let written = tensors::write(layout, weights, file);
        // A full disk is not to be filled with halves.
        written.inspect_err(|_| self.clear()).map_err(TrainError::Failed)
    }

    /// Removes what jobs left.
    fn clear(&self) {
        process::empty(&self.program.hello.folder);
    }
}

impl Running {
    /// Not started again for a while: the longer, the more often it failed.
    fn rest(&mut self) {
        let pause = PAUSE.saturating_mul(1 << self.failures.min(6)).min(PAUSE_MAX);
        (self.rests_until, self.failures) = (Instant::now() + pause, self.failures.saturating_add(1));
    }

    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }
}

impl Learner for ProgramLearner {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn initial(&self, _: u64) -> Result<Vec<u8>, TrainError> {
        Ok(self.initial.clone())
    }

    fn train(&self, task: &Task<'_>, _: &Threads, watch: &mut Watch<'_>) -> Result<Trained, TrainError> {
        let inner = &self.inner;
        let running = &mut inner.running();
        inner.await_start(running, watch)?;
        let id = running.next_id();
        let (weights, result) = (inner.file(id, "weights"), inner.file(id, "result"));
        inner.write(&self.layout, task.weights(), &weights)?;
        let (round, seed) = (task.round, line::seed(task));
        let question = Question::Train { id, round, seed, weights, result: result.clone() };
        let answer = inner.ask(running, id, &question, watch);
        // What a job that failed has written is nobody's.
        let new = answer.is_ok().then(|| tensors::read(&self.layout, &result));
        inner.clear();
        let (samples, loss, new) = match (answer?, new) {
            (Answer::Trained { samples, loss, .. }, Some(new)) => (samples, loss, new),
            (other, _) => return Err(inner.unexpected(running, &question, &other)),
        };
        if !(1..=SAMPLES_MAX).contains(&samples) || loss.is_some_and(|loss| !loss.is_finite()) {
            return Err(TrainError::Failed(format!(
                "its trainer says {samples} samples and a loss of {loss:?}: from 1 to {SAMPLES_MAX}, and a number"
            )));
        }
        let trained = task.trained(&self.layout, &new.map_err(TrainError::Failed)?, samples, loss)?;
        running.failures = 0;
        Ok(trained)
    }

    fn evaluate(&self, weights: &[u8], _: &Threads, watch: &mut Watch<'_>) -> Result<Vec<Measure>, TrainError> {
        let inner = &self.inner;
        let running = &mut inner.running();
        inner.await_start(running, watch)?;
        let id = running.next_id();
        let file = inner.file(id, "weights");
        inner.write(&self.layout, weights, &file)?;
        let question = Question::Evaluate { id, weights: file };
        let answer = inner.ask(running, id, &question, watch);
        inner.clear();
        // It says that it failed, and lives: the update does not hang on what it measures.
        if let (Err(TrainError::Failed(why)), true) = (&answer, running.process.is_some()) {
            tracing::warn!("the trainer can't evaluate: {why}");
            return Ok(Vec::new());
        }
        match answer? {
            Answer::Evaluated { metrics, .. } => {
                let measure = |(name, line::MetricLine { sum, count })| match count {
                    count if count >= 0.0 && count.fract() == 0.0 => Ok(Measure::new(name, sum, count as u64)),
                    count => Err(TrainError::Failed(format!(
                        "its trainer counts {count} in the metric `{name}`: a whole number from 0 on"
                    ))),
                };
                metrics.into_iter().map(measure).collect()
            }
            other => Err(inner.unexpected(running, &question, &other)),
        }
    }

    /// A process of its own, with one thread, which is started once.
    fn part(&self, k: usize, n: usize) -> Result<Box<dyn Learner>, TrainError> {
        let (Ok(k), Ok(n)) = (u32::try_from(k), u32::try_from(n)) else {
            return Err(TrainError::Invalid(format!("there is no part {k}/{n}")));
        };
        let slot = lock(&self.parts).entry((k, n)).or_default().clone();
        let mut slot = lock(&slot);
        let part = match &*slot {
            Some(there) => there.clone(),
            None => {
                let mut program = Program { layout: Some(self.layout.clone()), ..self.inner.program.clone() };
                let hello = &mut program.hello;
                // Beside the whole's: each program's folder is its own.
                let folder = hello.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
                hello.folder.set_file_name(format!("{folder}-{k}-of-{n}"));
                (hello.node.id, hello.node.part, hello.threads) = (format!("{k}/{n}"), Some((k, n)), 1);
                let started = Self::start(program).map_err(|error| TrainError::Failed(error.to_string()))?;
                slot.insert(Arc::new(started)).clone()
            }
        };
        Ok(Box::new(part))
    }

    fn name(&self) -> String {
        // A program that calls itself nothing is none of those that every node has.
        let name = self.inner.running().name.clone();
        if name.is_empty() { "trainer".to_owned() } else { name }
    }
}

impl Drop for ProgramLearner {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Between jobs: starts a trainer that ended, and asks an idle one whether it lives.
fn watch_over(watched: &Weak<Inner>) {
    loop {
        std::thread::sleep(PAUSE);
        let Some(inner) = watched.upgrade() else { return };
        let mut running = match inner.running.try_lock() {
            Ok(running) => running,
            // A job is under way, and is watched over itself.
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        if running.is_over {
            return;
        }
        if running.process.is_none() && running.rests_until <= Instant::now() {
            match inner.start(&mut running) {
                Ok(()) => tracing::info!("the trainer was started again"),
                Err(why) => tracing::warn!("the trainer: {why}"),
            }
        } else if running.heard.elapsed() >= PING_EVERY {
            let Some(process) = &mut running.process else { continue };
            match process.is_alive(ANSWER_WITHIN) {
                Ok(()) => running.heard = Instant::now(),
                Err(why) => drop(inner.end(&mut running, why)),
            }
        }
    }
}
