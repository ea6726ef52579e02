//! The chunked transfer coding (RFC 9112 §7.1), decoded as it arrives.
//!
//! Chunk extensions and trailers are data channels beside the body that is recorded. A strict decoder, for what
//! leaves, refuses both; the other one checks them, bounds them, leaves them out and says that it did.
//! Invariant: the decoded bytes and the verdict do not depend on how the input was split.

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use super::fields::{Fields, Limits, Scanner, Section};
use super::head::HeadError;

/// Size digits of a chunk.
const MAX_DIGITS: usize = 16;
/// Longest line with a chunk size and its extensions.
const MAX_LINE: usize = 256;
/// Extension bytes in a whole body.
const MAX_EXTENSIONS: usize = 64 << 10;
/// Size of the trailer section.
const TRAILERS: Limits = Limits { bytes: 8 << 10, fields: 32, url: 8 << 10 };

/// A body in this coding is malformed, or has too much beside its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ChunkError {
    #[error("a chunk size line is malformed")]
    Size,
    #[error("a chunk size line or the chunk extensions are too long")]
    Extensions,
    #[error("a chunk has an extension, which is not relayed")]
    Extension,
    #[error("the body has trailers, which are not relayed")]
    Trailer,
    #[error("a chunk is not followed by CRLF")]
    DataEnd,
    #[error("the trailer section is refused: {0}")]
    Trailers(HeadError),
}

/// What the decoder made of the bytes so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// Bytes of the body.
    Data(Bytes),
    /// Nothing yet.
    NeedMore,
    /// The body is whole.
    End,
}

/// Decodes one body.
#[derive(Debug, Clone)]
pub struct ChunkDecoder {
    state: State,
    strict: bool,
    extensions: usize,
    trailers: bool,
}

#[derive(Debug, Clone)]
enum State {
    Size,
    Data(u64),
    DataEnd,
    Trailers(Scanner),
    Done,
}

impl Default for ChunkDecoder {
    fn default() -> Self {
        Self { state: State::Size, strict: false, extensions: 0, trailers: false }
    }
}

impl ChunkDecoder {
    /// A decoder that takes a body and nothing beside it.
    pub fn strict() -> Self {
        Self { strict: true, ..Self::default() }
    }

    /// What came beside the body and was left out: chunk extensions, trailers.
    pub fn left_out(&self) -> (bool, bool) {
        (self.extensions > 0, self.trailers)
    }

    /// Takes what it can from the front of `buf`.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Decoded, ChunkError> {
        loop {
            match &mut self.state {
                State::Size => match self.size_line(buf)? {
                    None => return Ok(Decoded::NeedMore),
                    Some(0) => self.state = State::Trailers(Scanner::new(Section::Trailers)),
                    Some(size) => self.state = State::Data(size),
                },
                State::Data(_) if buf.is_empty() => return Ok(Decoded::NeedMore),
                State::Data(left) => {
                    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
                    *left -= take as u64;
                    if *left == 0 {
                        self.state = State::DataEnd;
                    }
                    return Ok(Decoded::Data(buf.split_to(take).freeze()));
                }
                State::DataEnd => match (buf.first(), buf.get(1)) {
                    (None, _) | (Some(b'\r'), None) => return Ok(Decoded::NeedMore),
                    (Some(b'\r'), Some(b'\n')) => {
                        drop(buf.split_to(2));
                        self.state = State::Size;
                    }
                    _ => return Err(ChunkError::DataEnd),
                },
                State::Trailers(scanner) => {
                    let Some(end) = scanner.end(buf, TRAILERS).map_err(ChunkError::Trailers)? else {
                        return Ok(Decoded::NeedMore);
                    };
                    let fields =
                        Fields::parse(&buf.split_to(end), TRAILERS.fields).map_err(ChunkError::Trailers)?;
                    self.trailers = fields.iter().next().is_some();
                    if self.strict && self.trailers {
                        return Err(ChunkError::Trailer);
                    }
                    self.state = State::Done;
                }
                State::Done => return Ok(Decoded::End),
            }
        }
    }

    fn size_line(&mut self, buf: &mut BytesMut) -> Result<Option<u64>, ChunkError> {
        let Some(lf) = buf.iter().take(MAX_LINE).position(|b| *b == b'\n') else {
            return if buf.len() < MAX_LINE { Ok(None) } else { Err(ChunkError::Extensions) };
        };
        let line = buf.split_to(lf + 1);
        let line = line.strip_suffix(b"\r\n").ok_or(ChunkError::Size)?;
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let (size, extensions) = line.split_at_checked(digits).ok_or(ChunkError::Size)?;
        let clean = |b: &u8| *b == b'\t' || (*b >= 0x20 && *b != 0x7f);
        if !(extensions.is_empty() || extensions.starts_with(b";")) || !extensions.iter().all(clean) {
            return Err(ChunkError::Size);
        }
        if self.strict && !extensions.is_empty() {
            return Err(ChunkError::Extension);
        }
        self.extensions += extensions.len();
        if self.extensions > MAX_EXTENSIONS {
            return Err(ChunkError::Extensions);
        }
        if digits == 0 || digits > MAX_DIGITS {
            return Err(ChunkError::Size);
        }
        let text = std::str::from_utf8(size).map_err(|_| ChunkError::Size)?;
        let size = u64::from_str_radix(text, 16).map_err(|_| ChunkError::Size)?;
        if size > i64::MAX as u64 {
            return Err(ChunkError::Size);
        }
        Ok(Some(size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decodes `input` handed over in the given pieces: the data, and how it ended.
    fn run(input: &[u8], cuts: &[usize]) -> (Vec<u8>, Result<bool, ChunkError>) {
        let (mut decoder, mut buf, mut out) = (ChunkDecoder::default(), BytesMut::new(), Vec::new());
        let mut from = 0;
        for cut in cuts.iter().copied().chain([input.len()]) {
            let cut = cut.clamp(from, input.len());
            buf.extend_from_slice(&input[from..cut]);
            from = cut;
            loop {
                match decoder.decode(&mut buf) {
                    Ok(Decoded::Data(data)) => out.extend_from_slice(&data),
                    Ok(Decoded::NeedMore) => break,
                    Ok(Decoded::End) => return (out, Ok(true)),
                    Err(error) => return (out, Err(error)),
                }
            }
        }
        (out, Ok(false))
    }

    #[test]
    fn well_formed_bodies_decode_without_extensions_and_trailers() {
        for (input, want) in [
            (&b"0\r\n\r\n"[..], &b""[..]),
            (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
            (b"00005\r\nhello\r\n1\r\n!\r\n000\r\n\r\n", b"hello!"),
            (b"a;name=value;x=\"y\"\r\n0123456789\r\n0;last\r\nX-Sum: 1\r\nB: 2\r\n\r\n", b"0123456789"),
            (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
        ] {
            assert_eq!(run(input, &[]), (want.to_vec(), Ok(true)), "{}", input.escape_ascii());
        }
    }

    #[test]
    fn what_comes_beside_a_body_is_refused_by_a_strict_decoder_and_told_by_the_other() {
        for (input, error, left_out) in [
            (&b"2\r\nab\r\n0\r\n\r\n"[..], None, (false, false)),
            (b"2;x=y\r\nab\r\n0\r\n\r\n", Some(ChunkError::Extension), (true, false)),
            (b"2\r\nab\r\n0;x\r\n\r\n", Some(ChunkError::Extension), (true, false)),
            (b"2\r\nab\r\n0\r\nX: y\r\n\r\n", Some(ChunkError::Trailer), (false, true)),
        ] {
            let all = |mut decoder: ChunkDecoder| {
                let mut buf = BytesMut::from(input);
                loop {
                    match decoder.decode(&mut buf) {
                        Ok(Decoded::End) => return Ok(decoder.left_out()),
                        Ok(_) => {}
                        Err(error) => return Err(error),
                    }
                }
            };
            assert_eq!(all(ChunkDecoder::default()), Ok(left_out), "{}", input.escape_ascii());
            assert_eq!(all(ChunkDecoder::strict()).err(), error, "{}", input.escape_ascii());
        }
    }

    #[test]
    fn hostile_chunks_are_refused() {
        let long_extension = [b"1;".as_slice(), &[b'x'; 300], b"\r\n"].concat();
        let many_extensions =
            [b"1;".as_slice(), &[b'x'; 200], b"\r\nA\r\n"].concat().repeat(MAX_EXTENSIONS / 200 + 1);
        let many_trailers = [b"0\r\n".as_slice(), &b"A: b\r\n".repeat(40), b"\r\n"].concat();
        for (input, want) in [
            (&b"5\nhello"[..], ChunkError::Size),
            (b"\r\n", ChunkError::Size),
            (b"0x5\r\nhello\r\n", ChunkError::Size),
            (b"+5\r\nhello\r\n", ChunkError::Size),
            (b"-1\r\n", ChunkError::Size),
            (b" 5\r\nhello\r\n", ChunkError::Size),
            (b"5 \r\nhello\r\n", ChunkError::Size),
            (b"5 ;a\r\nhello\r\n", ChunkError::Size),
            (b"5;a\rb\r\nhello\r\n", ChunkError::Size),
            (b"5;\0\r\nhello\r\n", ChunkError::Size),
            (b"g\r\n", ChunkError::Size),
            (b"ffffffffffffffff\r\n", ChunkError::Size),
            (b"10000000000000005\r\nhello\r\n", ChunkError::Size),
            (b"5\r\nhelloXX", ChunkError::DataEnd),
            (b"5\r\nhello\n0\r\n\r\n", ChunkError::DataEnd),
            (b"5\r\nhello\rX", ChunkError::DataEnd),
            (b"0\r\nno colon\r\n\r\n", ChunkError::Trailers(HeadError::NoColon)),
            (b"0\r\nA: b\n\r\n", ChunkError::Trailers(HeadError::BareLf)),
            (b"0\r\nA: b\r\n c\r\n\r\n", ChunkError::Trailers(HeadError::ObsFold)),
            (&long_extension, ChunkError::Extensions),
            (&many_extensions, ChunkError::Extensions),
            (&many_trailers, ChunkError::Trailers(HeadError::TooManyFields)),
        ] {
            assert_eq!(run(input, &[]).1, Err(want), "{}", input.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_bytes_and_verdict(
            input in proptest::collection::vec(prop_oneof![
                Just("3\r\nabc\r\n"), Just("0\r\n\r\n"), Just("0\r\nA: b\r\n\r\n"), Just("2;x\r\nab\r\n"),
                Just("\r\n"), Just("\n"), Just("\r"), Just(";"), Just("f"), Just("\0"),
            ], 0..8),
            cuts in proptest::collection::vec(0usize..60, 0..12),
        ) {
            let input = input.concat().into_bytes();
            let mut cuts = cuts;
            cuts.sort_unstable();
            let whole = run(&input, &[]);
            prop_assert_eq!(&run(&input, &cuts), &whole);
            prop_assert_eq!(run(&input, &(0..input.len()).collect::<Vec<_>>()), whole);
        }
    }
}
