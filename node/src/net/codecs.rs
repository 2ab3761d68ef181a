//! The two protocols between nodes of a run, on the wire. A request that breaks the rules is a value: libp2p tells nobody
//! of one that can't be read.

use std::convert::Infallible;
use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::StreamProtocol;
use libp2p::request_response::Codec;
use paceline_bootstrap::frame;
use paceline_protocol::bounds::MESSAGE_BYTES_MAX;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::bounds::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, READ_TIMEOUT, READING_BYTES_MAX};
use super::reading::{Budget, Connection, Reading};
use super::wire::{BLOB_REQUEST_BYTES_MAX, BlobAnswer, BlobRequest};

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Incoming<R> {
    /// Well formed.
    Request(R),
    /// What was wrong.
    Malformed(String),
    /// It was begun, and did not come in time or had to give way.
    Stalled,
}

/// Messages that were sent together, in order.
pub(super) type Batch = Vec<Vec<u8>>;

/// What acknowledges a batch.
const ACK: u8 = 6;

/// Direct messages: a frame of messages, each with its length; the answer is one byte.
///
/// The behaviour clones its codec for each connection, and the connection its own for each stream: the first clone is a
/// connection's, those of it are the same connection's.
#[derive(Debug)]
pub(super) struct DirectCodec {
    /// All streams take from it.
    budget: Budget,
    connection: Option<Connection>,
}

impl Default for DirectCodec {
    fn default() -> Self {
        Self { budget: Budget::new(READING_BYTES_MAX), connection: None }
    }
}

impl Clone for DirectCodec {
    fn clone(&self) -> Self {
        let connection = self.connection.clone().or_else(|| Some(Connection::new()));
        Self { budget: self.budget.clone(), connection }
    }
}

/// A batch, and what it holds of the budget where it came from the network.
#[derive(Debug)]
pub(super) struct DirectBatch {
    pub(super) batch: Incoming<Batch>,
    pub(super) _held: Option<Reading>,
}

/// Blobs: a frame with the request; the answer is a tag, and a frame whose bound depends on it.
#[derive(Debug, Default)]
pub(super) struct BlobCodec {
    /// Of the request that this codec has written. Each stream has a codec of its own.
    asker: Option<Asker>,
}

/// A request for a piece of a blob, and who waits for its answer if it goes out.
#[derive(Debug)]
pub(super) struct BlobAsk {
    pub(super) request: Incoming<BlobRequest>,
    pub(super) asker: Option<Asker>,
}

/// Closed when nobody waits for the answer any more.
pub(super) type Asker = oneshot::Sender<Infallible>;

impl Clone for BlobCodec {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Codec for DirectCodec {
    type Protocol = StreamProtocol;
    type Request = DirectBatch;
    type Response = ();

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<DirectBatch> {
        let on = self.connection.get_or_insert_with(Connection::new);
        let Ok(read) = timeout(READ_TIMEOUT, self.budget.read(on, io, BATCH_BYTES_MAX)).await else {
            return Ok(DirectBatch { batch: Incoming::Stalled, _held: None });
        };
        let (read, held) = read.map_or_else(|e| (Err(e), None), |(bytes, held)| (Ok(bytes), Some(held)));
        let batch = incoming(read.and_then(|bytes| split(&bytes).map_err(frame::malformed)))?;
        Ok(DirectBatch { batch, _held: held })
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<()> {
        let mut ack = [0];
        io.read_exact(&mut ack).await?;
        frame::read_end(io).await?;
        if ack == [ACK] { Ok(()) } else { Err(frame::malformed(format!("{} is no acknowledgement", ack[0]))) }
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: DirectBatch,
    ) -> io::Result<()> {
        frame::write(io, &join(&outgoing(request.batch)?)).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        (): (),
    ) -> io::Result<()> {
        io.write_all(&[ACK]).await
    }
}

impl Codec for BlobCodec {
    type Protocol = StreamProtocol;
    type Request = BlobAsk;
    type Response = BlobAnswer;

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<BlobAsk> {
        let decode = |bytes: Vec<u8>| {
            BlobRequest::decode(&bytes).ok_or_else(|| frame::malformed("no request for a blob".to_owned()))
        };
        let request = match timeout(READ_TIMEOUT, frame::read(io, BLOB_REQUEST_BYTES_MAX)).await {
            Ok(read) => incoming(read.and_then(decode))?,
            Err(_) => Incoming::Stalled,
        };
        Ok(BlobAsk { request, asker: None })
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<BlobAnswer> {
        let Some(mut asker) = self.asker.take() else { return read_answer(io).await };
        // The stream is dropped with the error, and the other end stops sending.
        tokio::select! {
            answer = read_answer(io) => answer,
            () = asker.closed() => Err(nobody_waits()),
        }
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        ask: BlobAsk,
    ) -> io::Result<()> {
        self.asker = ask.asker;
        if self.asker.as_ref().is_some_and(Asker::is_closed) {
            return Err(nobody_waits());
        }
        frame::write(io, &outgoing(ask.request)?.encode()).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        answer: BlobAnswer,
    ) -> io::Result<()> {
        io.write_all(&[answer.tag()]).await?;
        frame::write(io, answer.payload()).await
    }
}

async fn read_answer<T: AsyncRead + Unpin + Send>(io: &mut T) -> io::Result<BlobAnswer> {
    let mut tag = [0];
    io.read_exact(&mut tag).await?;
    let unknown = || frame::malformed(format!("{} is no kind of answer", tag[0]));
    let payload = frame::read(io, BlobAnswer::payload_max(tag[0]).ok_or_else(unknown)?).await?;
    BlobAnswer::from_parts(tag[0], payload).ok_or_else(unknown)
}

fn nobody_waits() -> io::Error {
    io::Error::other("nobody waits for the answer any more")
}

fn incoming<R>(read: io::Result<R>) -> io::Result<Incoming<R>> {
    match read {
        Ok(request) => Ok(Incoming::Request(request)),
        Err(error) if frame::is_malformed(&error) => Ok(Incoming::Malformed(error.to_string())),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(Incoming::Stalled),
        Err(error) => Err(error),
    }
}

fn outgoing<R>(request: Incoming<R>) -> io::Result<R> {
    match request {
        Incoming::Request(request) => Ok(request),
        Incoming::Malformed(reason) => Err(frame::malformed(reason)),
        Incoming::Stalled => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// The messages one after the other, each preceded by its length.
fn join(batch: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(batch.iter().map(|message| 4 + message.len()).sum());
    for message in batch {
        bytes.extend((message.len() as u32).to_le_bytes());
        bytes.extend(message);
    }
    bytes
}

/// The messages of a batch.
fn split(bytes: &[u8]) -> Result<Batch, String> {
    let (mut batch, mut rest) = (Batch::new(), bytes);
    while !rest.is_empty() {
        let (len, after) = rest.split_first_chunk::<4>().ok_or("a length cut short")?;
        let len = u32::from_le_bytes(*len) as usize;
        if len > MESSAGE_BYTES_MAX || batch.len() == BATCH_MESSAGES_MAX {
            return Err(format!("a message of {len} bytes as number {} of a batch", batch.len() + 1));
        }
        let (message, after) = after.split_at_checked(len).ok_or("a message cut short")?;
        batch.push(message.to_vec());
        rest = after;
    }
    if batch.is_empty() { Err("an empty batch".to_owned()) } else { Ok(batch) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_comes_apart_as_it_was_put_together() {
        let batch = vec![vec![1; 3], Vec::new(), vec![2; 70_000]];
        assert_eq!(split(&join(&batch)), Ok(batch));
    }

    #[test]
    fn a_batch_that_is_empty_cut_short_or_over_a_bound_is_refused() {
        assert!(split(&[]).is_err());
        assert!(split(&[1, 0]).is_err());
        assert!(split(&[2, 0, 0, 0, 7]).is_err());
        assert!(split(&join(&vec![Vec::new(); BATCH_MESSAGES_MAX + 1])).is_err());
        assert!(split(&u32::MAX.to_le_bytes()).is_err());
    }
}
