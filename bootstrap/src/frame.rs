//! One message on a stream: its length in four bytes, little-endian, then so many bytes, then the end of the stream.
//!
//! The length is checked before anything is allocated, and memory grows with the bytes that come, not with those that are
//! promised. What breaks these rules is an error of the kind [`io::ErrorKind::InvalidData`]; [`is_malformed`] tells it from
//! a connection that broke.

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes that are read, and allocated, at a time.
const STEP_BYTES: usize = 64 << 10;

/// Up to here length and message go out in one piece: a packet costs more than a copy.
const JOINED_BYTES_MAX: usize = 16 << 10;

/// Writes one message. The caller closes the stream.
///
/// # Errors
/// Those of the stream.
pub async fn write<T: AsyncWrite + Unpin + Send>(io: &mut T, bytes: &[u8]) -> io::Result<()> {
    let len = u32::try_from(bytes.len()).map_err(|_| malformed(format!("{} bytes are no message", bytes.len())))?;
    if bytes.len() <= JOINED_BYTES_MAX {
        return io.write_all(&[&len.to_le_bytes(), bytes].concat()).await;
    }
    io.write_all(&len.to_le_bytes()).await?;
    io.write_all(bytes).await
}

/// Reads one message of at most `max` bytes, and the end of the stream.
///
/// # Errors
/// A length over `max`, a stream that ends early or goes on, or the stream's own errors.
pub async fn read<T: AsyncRead + Unpin + Send>(io: &mut T, max: usize) -> io::Result<Vec<u8>> {
    let bytes = read_part(io, max).await?;
    read_end(io).await?;
    Ok(bytes)
}

/// Reads one message of at most `max` bytes, after which the stream may go on.
///
/// # Errors
/// A length over `max`, a stream that ends early, or the stream's own errors.
pub async fn read_part<T: AsyncRead + Unpin + Send>(io: &mut T, max: usize) -> io::Result<Vec<u8>> {
    let len = read_len(io, max).await?;
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let start = bytes.len();
        bytes.resize(len.min(start + STEP_BYTES), 0);
        io.read_exact(&mut bytes[start..]).await.map_err(cut_short)?;
    }
    Ok(bytes)
}

/// Reads the length of a message of at most `max` bytes, which come next.
///
/// # Errors
/// A length over `max`, a stream that ends early, or the stream's own errors.
pub async fn read_len<T: AsyncRead + Unpin + Send>(io: &mut T, max: usize) -> io::Result<usize> {
    let mut len = [0; 4];
    io.read_exact(&mut len).await.map_err(cut_short)?;
    let len = u32::from_le_bytes(len) as usize;
    if len > max {
        return Err(malformed(format!("a message of {len} bytes, where at most {max} are allowed")));
    }
    Ok(len)
}

/// Reads the end of the stream.
///
/// # Errors
/// The stream goes on, or breaks.
pub async fn read_end<T: AsyncRead + Unpin + Send>(io: &mut T) -> io::Result<()> {
    match io.read(&mut [0]).await? {
        0 => Ok(()),
        _ => Err(malformed("bytes after the end of the message".to_owned())),
    }
}

/// The error for bytes that break the protocol.
pub fn malformed(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// Whether the peer broke the protocol, rather than the connection breaking.
pub fn is_malformed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData
}

/// The error of a read within a message: where the stream ends there, the peer broke the protocol.
pub fn cut_short(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => malformed("the stream ends within a message".to_owned()),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::io::Cursor;

    use super::*;

    fn read_bytes(bytes: &[u8], max: usize) -> io::Result<Vec<u8>> {
        block_on(read(&mut Cursor::new(bytes), max))
    }

    #[test]
    fn a_message_reads_back() {
        let message = vec![7; 3 * STEP_BYTES + 1];
        let mut wire = Cursor::new(Vec::new());
        block_on(write(&mut wire, &message)).expect("memory takes it");
        assert_eq!(read_bytes(wire.get_ref(), message.len()).expect("whole"), message);
    }

    #[test]
    fn a_length_over_the_bound_is_malformed_before_any_byte_of_it_comes() {
        let error = read_bytes(&u32::MAX.to_le_bytes(), 10).expect_err("too long");
        assert!(is_malformed(&error) && error.to_string().contains("4294967295 bytes"), "{error}");
    }

    #[test]
    fn a_message_cut_short_or_followed_by_more_is_malformed() {
        for bytes in [&b"\x02\0\0\0a"[..], b"\x01\0\0\0ab", b"\x01\0", b""] {
            assert!(is_malformed(&read_bytes(bytes, 10).expect_err("malformed")), "{bytes:?}");
        }
    }
}
