//! COPY: data counts, is digested and, with `rows = "clear"`, stored within the limits of results.
//!
//! The client may send data before the target has said that it reads any. Invariant: data that the target
//! ignores (after an error, or outside a COPY) has an event all the same, which says `failed`.

use std::collections::VecDeque;
use std::rc::Rc;

use bodycam_record::content::MAX_CHUNK;
use bodycam_record::kinds::sql::SqlCopy;
use bodycam_record::{ContentKind, Digest};

use super::record::{MARK_EVERY, Recorded, count};
use super::session::Session;
use crate::recording::{ContentWriter, RecordingError, Rows};

/// How the client ended its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CopyEnd {
    Done,
    Failed,
}

/// Bytes that a chunk costs the spool beside its content, roughly: they count towards what a session may store.
const CHUNK_FRAME: i64 = 64;
/// Bytes of room that a stream keeps between two chunks.
const KEPT: usize = 16 << 10;
/// Streams of data on their way to the target.
const MAX_WAITING: usize = 64;

/// Data of one COPY in one direction.
struct Stream {
    hasher: Box<blake3::Hasher>,
    messages: i64,
    bytes: i64,
    stored: i64,
    /// Running digests so far.
    marks: i64,
    content: Option<ContentWriter>,
    /// Data of this walk that belongs to the content: small messages together make one chunk.
    pending: Vec<u8>,
    full: bool,
    started_ns: i64,
}

/// Data towards the target, oldest first.
#[derive(Default)]
pub(super) struct Copies {
    streams: VecDeque<CopyIn>,
}

struct CopyIn {
    stream: Stream,
    /// The statement that reads it and the format, once the target has said so.
    reader: Option<(Rc<Recorded>, i64)>,
    end: Option<CopyEnd>,
    /// Requests sent when the client ended it.
    ended_at: u64,
}

/// Data towards the client.
pub(super) struct CopyOut {
    stream: Stream,
    recorded: Rc<Recorded>,
    format: i64,
}

impl Copies {
    /// Whether nothing is being copied.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Whether the target reads COPY data that the client has not ended.
    pub fn client_copies(&self) -> bool {
        self.streams.back().is_some_and(|c| c.reader.is_some() && c.end.is_none())
    }

    /// Whether so much is waiting for statements to read it that the client must wait for answers.
    pub fn too_many(&self) -> bool {
        self.streams.len() >= MAX_WAITING && self.streams.back().is_some_and(|c| c.end.is_some())
    }

    /// The client ended its data.
    pub fn client_ended(&mut self, end: CopyEnd, sent: u64) {
        if let Some(copy) = self.streams.back_mut().filter(|c| c.end.is_none()) {
            copy.end = Some(end);
            copy.ended_at = sent;
        }
    }
}

impl Session {
    /// COPY data from the client; `messages` counts those that begin here.
    pub(super) fn copy_in_data(&mut self, bytes: &[u8], messages: i64) -> Result<(), RecordingError> {
        // While the target owes nothing it reads no data: it all counts as one.
        let nobody_reads = self.answers.is_empty();
        if let Some(stray) = self.copies.streams.back_mut().filter(|c| nobody_reads && c.reader.is_none()) {
            stray.end = None;
        }
        if self.copies.streams.back().is_none_or(|c| c.end.is_some()) {
            self.open_copy_in(None);
        }
        let Some(mut copy) = self.copies.streams.pop_back() else { return Ok(()) };
        let done = self.stream(&mut copy.stream, bytes, messages);
        self.copies.streams.push_back(copy);
        done
    }

    /// The target reads COPY data for the statement at the front.
    pub(super) fn copy_in_started(&mut self, recorded: &Rc<Recorded>, format: i64) {
        let waiting = self.copies.streams.iter_mut().find(|c| c.reader.is_none());
        match waiting {
            Some(copy) => copy.reader = Some((Rc::clone(recorded), format)),
            None => self.open_copy_in(Some((Rc::clone(recorded), format))),
        }
        let reader = |c: &&CopyIn| c.reader.as_ref().is_some_and(|(r, _)| Rc::ptr_eq(r, recorded));
        let ended = self.copies.streams.iter().find(reader).filter(|c| c.end.is_some()).map(|c| c.ended_at);
        self.answers.copying(ended.unwrap_or(u64::MAX));
    }

    /// The target sends COPY data for the statement at the front.
    pub(super) fn copy_out_started(&mut self, recorded: &Rc<Recorded>, format: i64) {
        let stream = self.new_stream();
        self.copy_out = Some(CopyOut { stream, recorded: Rc::clone(recorded), format });
    }

    /// COPY data from the target; false when none is expected.
    pub(super) fn copy_out_data(&mut self, bytes: &[u8], messages: i64) -> Result<bool, RecordingError> {
        let Some(mut copy) = self.copy_out.take() else { return Ok(false) };
        let done = self.stream(&mut copy.stream, bytes, messages);
        self.copy_out = Some(copy);
        done.map(|()| true)
    }

    /// The statement `recorded` has ended: so has its COPY, if it had one. `tag` is what the target said at the
    /// end; none when that was an error. Gives whether there was a COPY in.
    pub(super) fn copy_ended(
        &mut self,
        recorded: &Rc<Recorded>,
        tag: Option<&[u8]>,
    ) -> Result<bool, RecordingError> {
        let outcome = if tag.is_none() { "failed" } else { "done" };
        self.copy_out_ended(outcome, tag)?;
        let reader = |c: &CopyIn| c.reader.as_ref().is_some_and(|(r, _)| Rc::ptr_eq(r, recorded));
        let Some(at) = self.copies.streams.iter().position(reader) else { return Ok(false) };
        if let Some(copy) = self.copies.streams.remove(at) {
            let reader = copy.reader.as_ref().map(|(r, f)| (&**r, *f));
            self.copy_event(copy.stream, reader, "in", outcome)?;
        }
        Ok(true)
    }

    /// Data towards the client has ended: it has its event, and is what the statement's result sent as well.
    pub(super) fn copy_out_ended(&mut self, outcome: &str, tag: Option<&[u8]>) -> Result<(), RecordingError> {
        let Some(out) = self.copy_out.take() else { return Ok(()) };
        let (bytes, digest) = (out.stream.bytes, Digest(*out.stream.hasher.finalize().as_bytes()));
        // A header line and the ends of the binary form are messages as well: only the tag tells rows exactly.
        let sent = if out.format == 0 { out.stream.messages } else { 0 };
        self.current.rows = tag.and_then(copied_rows).unwrap_or(sent);
        self.current.bytes = bytes;
        self.current.copied = (bytes > 0).then_some(digest);
        self.copy_event(out.stream, Some((&out.recorded, out.format)), "out", outcome)
    }

    /// Nothing reads what is left, or the session is over: `outcome` says which.
    pub(super) fn end_copies(&mut self, outcome: &str) -> Result<(), RecordingError> {
        self.copy_out_ended(outcome, None)?;
        for copy in std::mem::take(&mut self.copies.streams) {
            let reader = copy.reader.as_ref().map(|(r, f)| (&**r, *f));
            self.copy_event(copy.stream, reader, "in", outcome)?;
        }
        Ok(())
    }

    fn open_copy_in(&mut self, reader: Option<(Rc<Recorded>, i64)>) {
        let stream = self.new_stream();
        self.copies.streams.push_back(CopyIn { stream, reader, end: None, ended_at: 0 });
    }

    fn new_stream(&self) -> Stream {
        Stream {
            hasher: Box::new(self.pen.key().hasher()),
            messages: 0,
            bytes: 0,
            stored: 0,
            marks: 0,
            content: None,
            pending: Vec::new(),
            full: self.recording.rows == Rows::Digest,
            started_ns: self.pen.lane().producer().clock().mono_ns(),
        }
    }

    fn stream(&mut self, stream: &mut Stream, bytes: &[u8], messages: i64) -> Result<(), RecordingError> {
        stream.hasher.update(bytes);
        stream.messages += messages;
        stream.bytes += count(bytes.len());
        if !stream.full {
            let limit = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            let room = (limit(self.recording.max_bytes_per_result) - stream.stored)
                .min(limit(self.recording.max_bytes_per_session) - self.stored_bytes);
            let fitting = usize::try_from(room.max(0)).unwrap_or(usize::MAX);
            let part = bytes.get(..fitting).unwrap_or(bytes);
            stream.full = part.len() < bytes.len();
            stream.stored += count(part.len());
            self.stored_bytes += count(part.len());
            stream.pending.extend_from_slice(part);
            if stream.pending.len() >= MAX_CHUNK {
                self.put_pending(stream)?;
            }
        }
        let due = (stream.bytes - stream.stored) / MARK_EVERY;
        if due > stream.marks {
            stream.marks = due;
            let digest = Digest(*stream.hasher.finalize().as_bytes());
            self.mark(stream.bytes, digest)?;
        }
        Ok(())
    }

    /// Appends the data that came since the last time. What was walked leaves only after it.
    pub(super) fn put_copies(&mut self) -> Result<(), RecordingError> {
        if let Some(mut out) = self.copy_out.take() {
            let done = self.put_pending(&mut out.stream);
            self.copy_out = Some(out);
            done?;
        }
        let mut streams = std::mem::take(&mut self.copies.streams);
        let done = streams.iter_mut().try_for_each(|copy| self.put_pending(&mut copy.stream));
        self.copies.streams = streams;
        done
    }

    fn put_pending(&mut self, stream: &mut Stream) -> Result<(), RecordingError> {
        if stream.pending.is_empty() {
            return Ok(());
        }
        let mut content = stream.content.take().unwrap_or_else(|| self.pen.content());
        let put = self.pen.put(&mut content, ContentKind::CopyData, &stream.pending);
        stream.content = Some(content);
        stream.pending.clear();
        stream.pending.shrink_to(KEPT);
        // A chunk of a few bytes costs the spool its frame as well.
        self.stored_bytes += CHUNK_FRAME;
        self.dirty = true;
        put
    }

    fn copy_event(
        &mut self,
        mut stream: Stream,
        reader: Option<(&Recorded, i64)>,
        direction: &str,
        outcome: &str,
    ) -> Result<(), RecordingError> {
        self.put_pending(&mut stream)?;
        let now = self.pen.lane().producer().clock().mono_ns();
        let statement = reader.map(|(r, _)| r);
        let body = SqlCopy {
            statement_no: statement.map_or(0, |r| r.statement_no),
            direction: direction.to_owned(),
            format: reader.map_or(0, |(_, format)| format),
            messages: stream.messages,
            bytes: stream.bytes,
            outcome: if statement.is_some() { outcome } else { "failed" }.to_owned(),
            data_digest: (stream.bytes > 0).then(|| Digest(*stream.hasher.finalize().as_bytes())),
            bytes_stored: stream.stored,
            main_relation: statement.and_then(|r| r.facts.main_relation.clone()),
            fingerprint: statement.and_then(|r| r.facts.fingerprint),
            duration_us: (now - stream.started_ns) / 1000,
        };
        self.pen.event(body.into(), statement.map(|r| r.seq), stream.content)?;
        self.dirty = true;
        Ok(())
    }
}

/// The rows that the tag of a COPY names.
fn copied_rows(tag: &[u8]) -> Option<i64> {
    std::str::from_utf8(tag.strip_prefix(b"COPY ")?).ok()?.parse().ok().filter(|rows| *rows >= 0)
}
