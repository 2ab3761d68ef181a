//! Bytes on the streams between nodes of a run.

use futures::io::Cursor;
use libp2p::StreamProtocol;
use libp2p::request_response::Codec;

use super::bounds::BATCH_BYTES_MAX;
use super::codecs::{BlobAsk, BlobCodec, DirectCodec, Incoming};
use super::wire::{BLOB_REQUEST_BYTES_MAX, BlobAnswer};

/// What a peer sends on a stream for messages or for blobs: a request or an answer, framed or not; the first byte says which.
/// What is read and written again is the same.
pub fn streams(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let framed = [&(bytes.len() as u32).to_le_bytes(), bytes].concat();
    let (wire, is_framed) = if kind & 1 == 0 { (bytes, false) } else { (&framed[..], true) };
    let written = match kind >> 1 & 3 {
        0 => messages(wire),
        1 => ack(bytes),
        2 => blob_request(wire),
        _ => blob_answer(kind >> 3, wire),
    };
    if let (Some(written), true) = (written, is_framed) {
        assert!(written.ends_with(&framed), "two encodings of one thing");
    }
}

/// The codecs wait for a peer so long and no longer, for which they need a clock.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime without threads").block_on(future)
}

fn protocol() -> StreamProtocol {
    StreamProtocol::new("/fuzz")
}

/// Many small messages go into one frame.
fn messages(wire: &[u8]) -> Option<Vec<u8>> {
    let mut codec = DirectCodec::default();
    let request = block_on(codec.read_request(&protocol(), &mut Cursor::new(wire))).ok()?;
    let Incoming::Request(batch) = &request.batch else { return None };
    assert!(!batch.is_empty() && batch.iter().map(|m| m.len() + 4).sum::<usize>() <= BATCH_BYTES_MAX);
    let mut written = Cursor::new(Vec::new());
    block_on(codec.write_request(&protocol(), &mut written, request)).expect("memory takes it");
    Some(written.into_inner())
}

fn ack(wire: &[u8]) -> Option<Vec<u8>> {
    let read = block_on(DirectCodec::default().read_response(&protocol(), &mut Cursor::new(wire)));
    assert_eq!(read.is_ok(), wire == [6]);
    None
}

fn blob_request(wire: &[u8]) -> Option<Vec<u8>> {
    let mut codec = BlobCodec::default();
    let ask = block_on(codec.read_request(&protocol(), &mut Cursor::new(wire))).ok()?;
    let BlobAsk { request: Incoming::Request(request), .. } = &ask else { return None };
    assert!(request.encode().len() <= BLOB_REQUEST_BYTES_MAX);
    let mut written = Cursor::new(Vec::new());
    block_on(codec.write_request(&protocol(), &mut written, ask)).expect("memory takes it");
    Some(written.into_inner())
}

/// The tag goes before the frame.
fn blob_answer(tag: u8, wire: &[u8]) -> Option<Vec<u8>> {
    let mut codec = BlobCodec::default();
    let tagged = [&[tag], wire].concat();
    let answer = block_on(codec.read_response(&protocol(), &mut Cursor::new(&tagged))).ok()?;
    assert!(Some(answer.payload().len()) <= BlobAnswer::payload_max(tag));
    let mut written = Cursor::new(Vec::new());
    block_on(codec.write_response(&protocol(), &mut written, answer)).expect("memory takes it");
    Some(written.into_inner())
}
