//! Message bodies in any framing, piece by piece.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use thiserror::Error;
use tokio::time::{Instant, timeout};

use super::chunked::{ChunkDecoder, ChunkError, Decoded};
use super::head::Framing;
use super::source::Source;

/// Reads one body from a source.
#[derive(Debug)]
pub struct BodyReader {
    state: State,
    stall: Duration,
    /// Bytes that must come in every stretch of waiting as long as `stall`.
    least: usize,
    /// Waited, and come, since `least` was last reached.
    waited: Duration,
    came: usize,
    left_out: (bool, bool),
}

/// Bytes of an upload that must come while it is waited for as long as it may stand still: one byte now and then
/// would hold a target's connection for ever.
const LEAST_UPLOAD: usize = 1024;

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
    #[error("the body came too slowly, or not at all, for {0} s")]
    Stalled(u64),
    /// The coding is malformed.
    #[error("{0}")]
    Chunk(#[from] ChunkError),
}

impl BodyReader {
    /// A reader of a body that comes from a client: nothing may come beside it, and it may neither stand still
    /// for `stall` nor trickle.
    pub fn upload(framing: Framing, stall: Duration) -> Self {
        Self::new(framing, ChunkDecoder::strict(), stall, LEAST_UPLOAD)
    }

    /// A reader of a body that comes from a target, which may stand still for `stall`. Streams of events trickle.
    pub fn download(framing: Framing, stall: Duration) -> Self {
        Self::new(framing, ChunkDecoder::default(), stall, 1)
    }

    fn new(framing: Framing, decoder: ChunkDecoder, stall: Duration, least: usize) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked(Box::new(decoder)),
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, stall, least, waited: Duration::ZERO, came: 0, left_out: (false, false) }
    }

    /// What came beside the body and was left out: chunk extensions, trailers.
    pub fn left_out(&self) -> (bool, bool) {
        match &self.state {
            State::Chunked(decoder) => decoder.left_out(),
            _ => self.left_out,
        }
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
            let begun = Instant::now();
            let filled = timeout(self.stall.saturating_sub(self.waited), source.fill()).await;
            let n = filled.map_err(|_| BodyError::Stalled(self.stall.as_secs()))??;
            // Only waiting counts: what the other side does not take is not this side's fault.
            self.waited += begun.elapsed();
            self.came = self.came.saturating_add(n);
            if self.came >= self.least {
                (self.came, self.waited) = (0, Duration::ZERO);
            }
            if n == 0 {
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
            self.left_out = self.left_out();
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
