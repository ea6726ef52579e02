//! Message bodies in any framing, piece by piece.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use thiserror::Error;
use tokio::time::timeout;

use super::chunked::{ChunkDecoder, ChunkError, Decoded};
use super::head::Framing;
use super::source::Source;

/// Reads one body from a source.
#[derive(Debug)]
pub struct BodyReader {
    state: State,
    stall: Duration,
}

#[derive(Debug)]
enum State {
    Done,
    Length(u64),
    Chunked(Box<ChunkDecoder>),
    UntilClose,
}

/// Some bytes of a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// The bytes, without any coding; may be empty in the last piece.
    pub data: Bytes,
    /// Whether the body ends with it.
    pub last: bool,
}

/// A body that cannot be read to its end.
#[derive(Debug, Error)]
pub enum BodyError {
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The connection ended before the body.
    #[error("the connection ended before the body did")]
    Cut,
    /// Nothing came for too long.
    #[error("no byte of the body came for {0} s")]
    Stalled(u64),
    /// The coding is malformed.
    #[error("{0}")]
    Chunk(#[from] ChunkError),
}

impl BodyReader {
    /// A reader of a body with this framing, which may stand still for `stall`.
    pub fn new(framing: Framing, stall: Duration) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked(Box::default()),
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, stall }
    }

    /// Whether the whole body was read.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// The next piece; after the last one, empty last pieces. Safe to cancel.
    pub async fn next(&mut self, source: &mut Source) -> Result<Piece, BodyError> {
        loop {
            if let Some(piece) = self.take(source)? {
                return Ok(piece);
            }
            let filled = timeout(self.stall, source.fill()).await;
            if filled.map_err(|_| BodyError::Stalled(self.stall.as_secs()))?? == 0 {
                if !matches!(self.state, State::UntilClose) {
                    return Err(BodyError::Cut);
                }
                self.state = State::Done;
            }
        }
    }

    /// What the waiting bytes hold.
    fn take(&mut self, source: &mut Source) -> Result<Option<Piece>, BodyError> {
        let piece = match &mut self.state {
            State::Done => Some(Piece { data: Bytes::new(), last: true }),
            State::Length(_) | State::UntilClose if source.buf.is_empty() => None,
            State::Length(left) => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(source.buf.len());
                *left -= take as u64;
                Some(Piece { data: source.buf.split_to(take).freeze(), last: *left == 0 })
            }
            State::UntilClose => Some(Piece { data: source.buf.split().freeze(), last: false }),
            State::Chunked(decoder) => chunked(decoder, &mut source.buf)?,
        };
        if piece.as_ref().is_some_and(|p| p.last) {
            self.state = State::Done;
        }
        Ok(piece)
    }
}

/// All that the waiting bytes hold in one piece: whether the body ends with it matters to the relay, which
/// holds the last bytes back.
fn chunked(decoder: &mut ChunkDecoder, buf: &mut BytesMut) -> Result<Option<Piece>, ChunkError> {
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    let last = loop {
        match decoder.decode(buf)? {
            Decoded::Data(data) if first.is_empty() => first = data,
            Decoded::Data(data) => {
                if joined.is_empty() {
                    joined.extend_from_slice(&first);
                }
                joined.extend_from_slice(&data);
            }
            Decoded::NeedMore => break false,
            Decoded::End => break true,
        }
    };
    let data = if joined.is_empty() { first } else { joined.freeze() };
    Ok((last || !data.is_empty()).then_some(Piece { data, last }))
}
