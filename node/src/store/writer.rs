//! The thread that writes: in the order asked, everything that waits in one transaction, each item confirmed. A write that
//! fails is the end: nothing after it is written or confirmed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use paceline_protocol::io::{Persist, PersistId};

use super::database::{Database, StoreError};

/// Items that wait before the node takes no more messages: the machine has a handful under way at a time, and one that
/// catches up makes records faster than a slow disk takes them.
const BACKLOG_MAX: usize = 512;

/// Items in one transaction.
const GROUP: usize = 64;

/// What became of a write.
#[derive(Debug)]
pub enum Written {
    /// The item is on disk.
    Done(PersistId),
    /// It is not, and nothing more will be: the process must end.
    Failed(StoreError),
}

/// Gives items to the thread. It ends, with everything written, when this is dropped.
#[derive(Debug)]
pub struct Writer {
    items: Option<Sender<(PersistId, Persist)>>,
    waiting: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread. `tell` hears of every item.
    pub fn start(database: Arc<Database>, tell: impl Fn(Written) + Send + 'static) -> Self {
        let (items, received) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let counter = waiting.clone();
        let run = move || write(&database, &received, &counter, &tell);
        let thread = std::thread::Builder::new().name("store".into()).spawn(run).ok();
        Self { items: Some(items), waiting, thread }
    }

    /// Hands an item over. After a failed write it goes nowhere; that the write failed was told.
    pub fn write(&self, id: PersistId, item: Persist) {
        if let Some(items) = &self.items
            && items.send((id, item)).is_ok()
        {
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether so much waits for the disk that the node should take no more messages for now.
    pub fn is_behind(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= BACKLOG_MAX
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.items = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write(
    database: &Database,
    received: &Receiver<(PersistId, Persist)>,
    waiting: &AtomicUsize,
    tell: &dyn Fn(Written),
) {
    while let Ok(first) = received.recv() {
        let (ids, items): (Vec<PersistId>, Vec<Persist>) =
            std::iter::once(first).chain(received.try_iter().take(GROUP - 1)).unzip();
        if let Err(error) = database.write(&items) {
            return tell(Written::Failed(error));
        }
        waiting.fetch_sub(items.len(), Ordering::Relaxed);
        ids.into_iter().for_each(|id| tell(Written::Done(id)));
    }
}
