//! When each peer was last heard: whoever is connected and says nothing is asleep, or behind a cable that is out.
//!
//! It is noted where bytes come out of a connection, whatever protocol they are of, so that a peer that sends a large
//! chunk over a slow link counts as heard while it comes. Every peer says something now and then: it pings.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::{AsyncRead, AsyncWrite, FutureExt};
use libp2p::PeerId;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent, StreamMuxerExt, SubstreamBox};

use crate::bounds::CLOSE_TIMEOUT;

/// When each connected peer was last heard. Clones are the same.
#[derive(Debug, Clone)]
pub struct Hearing {
    start: Instant,
    ears: Arc<Mutex<BTreeMap<PeerId, Weak<Ear>>>>,
}

/// One peer; all its connections share it.
#[derive(Debug)]
struct Ear {
    start: Instant,
    /// Milliseconds from `start` to when something was last heard.
    last_ms: AtomicU64,
}

impl Default for Hearing {
    fn default() -> Self {
        Self { start: Instant::now(), ears: Arc::default() }
    }
}

impl Hearing {
    /// When something last came from the peer, or its first connection was made; `None` if there is no connection that is
    /// listened to.
    pub fn last(&self, peer: &PeerId) -> Option<Instant> {
        let ear = self.ears().get(peer)?.upgrade()?;
        Some(self.start + Duration::from_millis(ear.last_ms.load(Ordering::Relaxed)))
    }

    /// Listens to a connection that has just been made.
    pub(crate) fn listen(&self, peer: PeerId, muxer: StreamMuxerBox) -> Heard {
        let mut ears = self.ears();
        // As many as there are connections: a bound of its own is not needed.
        ears.retain(|_, ear| ear.strong_count() > 0);
        // That another connection was made says nothing about the one that is there.
        let ear = ears.get(&peer).and_then(Weak::upgrade).unwrap_or_else(|| {
            let ear = Arc::new(Ear { start: self.start, last_ms: AtomicU64::new(0) });
            ear.hears();
            ear
        });
        ears.insert(peer, Arc::downgrade(&ear));
        Heard { muxer, ear, closing: None }
    }

    fn ears(&self) -> MutexGuard<'_, BTreeMap<PeerId, Weak<Ear>>> {
        self.ears.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ear {
    fn hears(&self) {
        self.last_ms.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}

/// A connection that is listened to.
///
/// It also closes in time, whatever the other end does: a connection whose peer has lost its cable would wait for minutes
/// until what it still has to say was acknowledged, and count as open all that time.
pub(crate) struct Heard {
    muxer: StreamMuxerBox,
    ear: Arc<Ear>,
    closing: Option<BoxFuture<'static, ()>>,
}

impl StreamMuxer for Heard {
    type Substream = HeardStream;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<HeardStream>> {
        let stream = ready!(self.muxer.poll_inbound_unpin(cx))?;
        self.ear.hears();
        Poll::Ready(Ok(HeardStream { stream, ear: self.ear.clone() }))
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<HeardStream>> {
        let stream = ready!(self.muxer.poll_outbound_unpin(cx))?;
        Poll::Ready(Ok(HeardStream { stream, ear: self.ear.clone() }))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(closed) = self.muxer.poll_close_unpin(cx) {
            return Poll::Ready(closed);
        }
        let closing = self.closing.get_or_insert_with(|| tokio::time::sleep(CLOSE_TIMEOUT).boxed());
        closing.poll_unpin(cx).map(Ok)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        self.muxer.poll_unpin(cx)
    }
}

/// A stream of such a connection.
pub(crate) struct HeardStream {
    stream: SubstreamBox,
    ear: Arc<Ear>,
}

impl AsyncRead for HeardStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, into))?;
        if read > 0 {
            self.ear.hears();
        }
        Poll::Ready(Ok(read))
    }
}

impl AsyncWrite for HeardStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
