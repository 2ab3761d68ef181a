//! The thread that writes: in the order asked, everything that waits in one transaction, each item confirmed.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use paceline_protocol::machine::{Persist, PersistId};

use super::database::Database;

/// Items that may wait. The machine has a handful under way at a time; more means that the disk stands still.
const QUEUE: usize = 1024;

/// Items in one transaction.
const GROUP: usize = 64;

/// Gives items to the thread. It ends, with everything written, when this is dropped.
#[derive(Debug)]
pub struct Writer {
    items: Option<SyncSender<(PersistId, Persist)>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread. `done` hears of every item whether it is on disk.
    pub fn start(database: Arc<Database>, done: impl Fn(PersistId, bool) + Send + 'static) -> Self {
        let (items, received) = sync_channel(QUEUE);
        let run = move || write(&database, &received, &done);
        let thread = std::thread::Builder::new().name("store".into()).spawn(run).ok();
        Self { items: Some(items), thread }
    }

    /// Hands an item over. Whether there was room; if not, it is as good as failed.
    pub fn write(&self, id: PersistId, item: Persist) -> bool {
        self.items.as_ref().is_some_and(|items| items.try_send((id, item)).is_ok())
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

fn write(database: &Database, received: &Receiver<(PersistId, Persist)>, done: &dyn Fn(PersistId, bool)) {
    while let Ok(first) = received.recv() {
        let (ids, items): (Vec<PersistId>, Vec<Persist>) =
            std::iter::once(first).chain(received.try_iter().take(GROUP - 1)).unzip();
        let result = database.write(&items);
        if let Err(error) = &result {
            tracing::error!("{error}");
        }
        ids.into_iter().for_each(|id| done(id, result.is_ok()));
    }
}
