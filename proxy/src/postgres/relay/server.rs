//! What the target sends: matched with what it owes, counted, digested and recorded before it goes on.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bodycam_record::Digest;

use super::answers::{Owed, Refusal};
use super::client::Walked;
use super::end::End;
use super::pipe::Pipe;
use super::record::{Draft, Ending, Portal, Recorded};
use super::session::{Cursor, LongMessage, Passing, Session, Within};
use crate::postgres::codec::backend::{self, Backend, Kind, RowReader};
use crate::postgres::codec::{FrameError, HEADER, header};
use crate::postgres::inspect::Reference;
use crate::recording::{RecordingError, Rows};

/// Bytes walked before other sessions of the core get their turn.
const TURN: usize = 256 << 10;
/// Statements of one batch that are remembered until its commit.
const MAX_UNCOMMITTED: usize = 1000;
/// Messages up to this size are looked at as a whole, even if they could pass piece by piece.
const WHOLE: usize = 64 << 10;

impl Session {
    /// Walks what the target sent.
    pub fn walk_target(&mut self, pipe: &mut Pipe) -> Result<Walked, End> {
        let mut walked = 0;
        let outcome = loop {
            match self.step_target(pipe)? {
                0 => break Walked::All,
                n => walked += n,
            }
            if walked >= TURN {
                break Walked::More;
            }
        };
        self.put_copies()?;
        Ok(outcome)
    }

    fn step_target(&mut self, pipe: &mut Pipe) -> Result<usize, End> {
        match std::mem::take(&mut self.target_within) {
            Within::Passing { left, as_what } => self.pass_on(pipe, left, as_what),
            _ => self.target_frame(pipe),
        }
    }

    fn target_frame(&mut self, pipe: &mut Pipe) -> Result<usize, End> {
        let unread = pipe.unread();
        let Some(head) = header::<Backend>(unread).map_err(target_error)? else { return Ok(0) };
        let frame = head.frame();
        if head.kind == Kind::DataRow && unread.len() >= frame {
            return self.row_run(pipe);
        }
        if let Some(body) = unread.get(HEADER..frame) {
            match self.target_message(head.kind, body)? {
                None => pipe.pass(frame),
                Some(instead) => pipe.replace(frame, instead),
            }
            return Ok(frame);
        }
        if frame <= WHOLE || !head.kind.streams() || unread.len() < HEADER + 1024 {
            pipe.want(frame.min(if head.kind.streams() { WHOLE } else { frame }));
            return Ok(0);
        }
        self.begin_long(pipe, head.kind, head.body)
    }

    /// A message that is too long to be held begins.
    fn begin_long(&mut self, pipe: &mut Pipe, kind: Kind, whole: usize) -> Result<usize, End> {
        let frame = HEADER + whole;
        let as_what = match kind {
            Kind::DataRow => {
                self.expect_rows()?;
                let stored =
                    self.recording.rows == Rows::Clear && !self.current.cut && self.admits_row(frame);
                self.current.cut |= self.recording.rows == Rows::Clear && !stored;
                let header = pipe.unread().get(..HEADER).unwrap_or_default().to_vec();
                self.row_part(&header, 1, stored)?;
                Passing::Row { stored, reader: RowReader::default() }
            }
            Kind::CopyData => {
                if !self.copy_out_data(&[], 1)? {
                    return Err(self.unasked(kind));
                }
                Passing::CopyOut
            }
            _ => Passing::Message(Box::new(LongMessage {
                kind,
                whole,
                beginning: Vec::new(),
                hasher: self.pen.key().hasher(),
            })),
        };
        pipe.pass(HEADER);
        self.target_within = Within::Passing { left: whole, as_what };
        Ok(HEADER)
    }

    fn pass_on(&mut self, pipe: &mut Pipe, left: usize, mut as_what: Passing) -> Result<usize, End> {
        let part = pipe.unread();
        let part = part.get(..left).unwrap_or(part);
        let n = part.len();
        let left = left - n;
        let done = match &mut as_what {
            Passing::Row { stored, reader } => {
                let read = self.read_part(reader, part, left == 0);
                read.and_then(|()| self.row_part(part, 0, *stored))
            }
            Passing::CopyOut | Passing::CopyIn => self.copy_out_data(part, 0).map(drop).map_err(End::from),
            Passing::Message(message) => {
                message.hasher.update(part);
                let room = WHOLE.saturating_sub(message.beginning.len());
                message.beginning.extend_from_slice(part.get(..room).unwrap_or(part));
                match left {
                    0 => {
                        let digest = Digest(*message.hasher.finalize().as_bytes());
                        self.long_message(message.kind, &message.beginning, message.whole, digest)
                    }
                    _ => Ok(()),
                }
            }
        };
        if let Err(end) = done {
            // Its beginning has left: nothing of the gateway's own may follow.
            self.target_within = Within::Passing { left, as_what };
            return Err(end);
        }
        pipe.pass(n);
        if left > 0 {
            self.target_within = Within::Passing { left, as_what };
        }
        Ok(n)
    }

    /// Whole row messages, as many as lie together.
    fn row_run(&mut self, pipe: &mut Pipe) -> Result<usize, End> {
        self.expect_rows()?;
        let unread = pipe.unread();
        let (mut end, mut rows) = (0, 0);
        while let Some(head) = unread.get(end..).map(header::<Backend>) {
            let Some(head) = head.map_err(target_error)?.filter(|h| h.kind == Kind::DataRow) else { break };
            let Some(body) = unread.get(end + HEADER..end + head.frame()) else { break };
            self.expect_columns(backend::row(body).map_err(target_error)?)?;
            end += head.frame();
            rows += 1;
            if end >= TURN {
                break;
            }
        }
        self.rows(unread.get(..end).unwrap_or_default(), rows)?;
        pipe.pass(end);
        Ok(end)
    }

    /// Judges part of a row that is too long to be held.
    fn read_part(&self, reader: &mut RowReader, part: &[u8], last: bool) -> Result<(), End> {
        reader.feed(part).map_err(target_error)?;
        if let Some(columns) = reader.columns() {
            self.expect_columns(columns)?;
        }
        if last {
            reader.end().map_err(target_error)?;
        }
        Ok(())
    }

    /// A row has as many columns as the target has announced.
    fn expect_columns(&self, found: usize) -> Result<(), End> {
        match &self.current.columns {
            Some(columns) if columns.types.len() != found => {
                let what = "another number of columns than its RowDescription";
                Err(target_error(FrameError::Malformed { message: "DataRow", what }))
            }
            _ => Ok(()),
        }
    }

    /// Part of a row that is too long to be held.
    fn row_part(&mut self, bytes: &[u8], rows: i64, stored: bool) -> Result<(), End> {
        let cut = std::mem::replace(&mut self.current.cut, !stored);
        let done = self.rows(bytes, rows);
        self.current.cut = cut;
        Ok(done?)
    }

    fn expect_rows(&mut self) -> Result<(), End> {
        let (run, simple) = match self.answers.front_but_sync() {
            Some(Owed::Query(run)) => (run, true),
            Some(Owed::Execute(run)) => (run, false),
            _ => return Err(self.unasked(Kind::DataRow)),
        };
        // The rows of a simple query follow their RowDescription.
        let undescribed = simple && self.current.columns.is_none();
        if run.failed || run.refusal.is_some() || undescribed {
            return Err(self.unasked(Kind::DataRow));
        }
        if self.current.columns.is_none()
            && let Some(portal) = &run.portal
        {
            let described = portal.columns.borrow().clone();
            let columns = match described {
                Some(columns) => Some(columns),
                None => {
                    self.current.formats = Some(Rc::clone(portal));
                    portal.statement.as_ref().and_then(|s| s.columns.borrow().clone())
                }
            };
            self.current.columns = columns;
        }
        Ok(())
    }

    /// A whole message that is no row; gives what the client sees instead, if anything.
    fn target_message(&mut self, kind: Kind, body: &[u8]) -> Result<Option<Vec<u8>>, End> {
        self.heard += 1;
        match kind {
            Kind::Notice => {
                backend::fields("NoticeResponse", body).map_err(target_error)?;
                let digest = self.digest(body);
                self.side_message("notice", body, body.len(), digest)?;
            }
            Kind::Notification => {
                let digest = self.digest(body);
                self.side_message("notification", body, body.len(), digest)?;
            }
            Kind::ParameterStatus => {
                let (name, value) = backend::parameter(body).map_err(target_error)?;
                let digest = self.digest(body);
                self.side_message("parameter", body, body.len(), digest)?;
                self.parameter(name, value);
            }
            Kind::Error => {
                backend::fields("ErrorResponse", body).map_err(target_error)?;
                let digest = self.digest(body);
                return self.error(body, body.len(), digest);
            }
            Kind::ReadyForQuery => {
                self.status = backend::ready(body).map_err(target_error)?;
                self.ready()?;
            }
            Kind::RowDescription | Kind::NoData
                if matches!(self.answers.front_but_sync(), Some(Owed::OwnDescribe(_))) =>
            {
                if let Some(Owed::OwnDescribe(portal)) = self.answers.pop()
                    && kind == Kind::RowDescription
                {
                    let columns = backend::columns(body).map_err(target_error)?;
                    *portal.columns.borrow_mut() = Some(Rc::new(columns));
                }
                return Ok(Some(Vec::new()));
            }
            Kind::RowDescription => self.row_description(body)?,
            Kind::CommandComplete => {
                let tag = backend::tag(body).map_err(target_error)?;
                self.complete(kind, Ending { outcome: "complete", tag, error: None })?;
            }
            Kind::EmptyQuery => self.complete(kind, Ending::plain("empty"))?,
            Kind::PortalSuspended => self.complete(kind, Ending::plain("suspended"))?,
            Kind::ParseComplete => match self.answers.front_but_sync() {
                // What was refused cannot succeed: the poison was something to the target after all.
                Some(Owed::Parse { refusal: None, .. }) => {
                    if let Some(Owed::Parse { name, statement, .. }) = self.answers.pop() {
                        self.statements.settle(&name, true);
                        if !name.is_empty() {
                            let name = String::from_utf8_lossy(&name);
                            let meaning = statement.meant.borrow().catalog;
                            self.names.is_statement(&name, &statement.facts(), statement.epoch, meaning);
                        }
                    }
                }
                _ => return Err(self.unasked(kind)),
            },
            Kind::BindComplete => match self.answers.front_but_sync() {
                Some(Owed::Bind { refusal: None, .. }) => {
                    if let Some(Owed::Bind { name, portal, .. }) = self.answers.pop() {
                        if !name.is_empty() {
                            let (facts, epoch) = (&portal.recorded.facts, portal.recorded.epoch);
                            self.names.is_cursor(&String::from_utf8_lossy(&name), facts, epoch, false);
                        }
                        self.bound(&name)?;
                    }
                }
                _ => return Err(self.unasked(kind)),
            },
            Kind::CloseComplete => self.closed()?,
            Kind::ParameterDescription => match self.answers.front_but_sync() {
                Some(Owed::DescribeStatement(statement)) => {
                    let types = backend::parameter_types(body).map_err(target_error)?;
                    if let Some(statement) = statement {
                        *statement.types.borrow_mut() = types;
                    }
                }
                _ => return Err(self.unasked(kind)),
            },
            Kind::NoData => match self.answers.front_but_sync() {
                Some(Owed::DescribeStatement(_) | Owed::DescribePortal(_)) => {
                    self.answers.pop();
                }
                _ => return Err(self.unasked(kind)),
            },
            Kind::CopyIn | Kind::CopyOut => {
                let format = backend::copy_format(body).map_err(target_error)?;
                let recorded = match self.answers.front_but_sync() {
                    Some(Owed::Query(run) | Owed::Execute(run)) if !run.failed => Rc::clone(&run.recorded),
                    _ => return Err(self.unasked(kind)),
                };
                match kind {
                    Kind::CopyIn => self.copy_in_started(&recorded, format),
                    _ => self.copy_out_started(&recorded, format),
                }
            }
            Kind::CopyData => {
                if !self.copy_out_data(body, 1)? {
                    return Err(self.unasked(kind));
                }
            }
            Kind::CopyDone => {
                if self.copy_out.is_none() {
                    return Err(self.unasked(kind));
                }
            }
            Kind::FunctionResult => {
                let digest = self.digest(body);
                self.function_result(body.len(), digest)?;
            }
            Kind::CopyBoth => {
                let what = "replication over COPY in both directions".to_owned();
                return Err(End::Refused { reason: "copy-both", what });
            }
            // A row that fits the buffer is walked in runs; the rest belongs before the first query.
            Kind::DataRow | Kind::Authentication | Kind::BackendKeyData | Kind::NegotiateVersion => {
                return Err(self.unasked(kind));
            }
        }
        Ok(None)
    }

    fn long_message(
        &mut self,
        kind: Kind,
        beginning: &[u8],
        whole: usize,
        digest: Digest,
    ) -> Result<(), End> {
        match kind {
            Kind::Error => {
                // Its beginning has left already: a long error cannot be an answer to our own poison, which
                // the target answers in a few words.
                self.error(beginning, whole, digest)?;
            }
            Kind::FunctionResult => self.function_result(whole, digest)?,
            _ => self.side_message("notice", beginning, whole, digest)?,
        }
        Ok(())
    }

    fn function_result(&mut self, bytes: usize, digest: Digest) -> Result<(), End> {
        let (recorded, started) = match self.answers.front_but_sync() {
            Some(Owed::Call(run)) if !run.failed && run.refusal.is_none() && !run.recorded.finished.get() => {
                (Rc::clone(&run.recorded), run.started_ns)
            }
            _ => return Err(self.unasked(Kind::FunctionResult)),
        };
        self.current.rows = 1;
        self.current.bytes = super::record::count(bytes);
        self.current.copied = Some(digest);
        self.result(&recorded, Ending::plain("complete"), Some(started))?;
        Ok(())
    }

    fn row_description(&mut self, body: &[u8]) -> Result<(), End> {
        let columns = Rc::new(backend::columns(body).map_err(target_error)?);
        match self.answers.front_but_sync() {
            Some(Owed::Query(run)) if !run.failed && run.refusal.is_none() => {
                self.current.columns = Some(columns);
            }
            Some(Owed::DescribeStatement(statement)) => {
                if let Some(statement) = statement {
                    *statement.columns.borrow_mut() = Some(columns);
                }
                self.answers.pop();
            }
            Some(Owed::DescribePortal(portal)) => {
                if let Some(portal) = portal {
                    *portal.columns.borrow_mut() = Some(columns);
                }
                self.answers.pop();
            }
            _ => return Err(self.unasked(Kind::RowDescription)),
        }
        Ok(())
    }

    /// A statement of the request at the front has ended, or its portal is suspended.
    fn complete(&mut self, kind: Kind, ending: Ending<'_>) -> Result<(), End> {
        let mut ending = ending;
        let (recorded, portal, started, ends) = match self.answers.front_but_sync() {
            Some(Owed::Query(run))
                if !run.failed && run.refusal.is_none() && kind != Kind::PortalSuspended =>
            {
                (Rc::clone(&run.recorded), None, run.started_ns, false)
            }
            Some(Owed::Execute(run)) => {
                if kind == Kind::PortalSuspended && !run.goes_on() {
                    // The rest is fetched by a statement of its own, as with FETCH.
                    ending.outcome = "complete";
                }
                (Rc::clone(&run.recorded), run.portal.clone(), run.started_ns, true)
            }
            _ => return Err(self.unasked(kind)),
        };
        let recorded = if ends { self.again(recorded, portal.as_deref())? } else { recorded };
        if self.current.columns.is_none() && ends {
            self.expect_rows()?;
        }
        let copied_in = self.copy_ended(&recorded, Some(ending.tag))?;
        let changes = [&b"CREATE"[..], b"ALTER", b"DROP", b"IMPORT"];
        self.catalog_changed |= recorded.facts.statement_kind == "ddl"
            || changes.iter().any(|change| ending.tag.starts_with(change));
        self.result(&recorded, ending, Some(started))?;
        if copied_in {
            self.answers.copied();
        }
        if ends {
            self.answers.pop();
            if self.status == b'I' && self.uncommitted.len() < MAX_UNCOMMITTED {
                self.uncommitted.push(Rc::clone(&recorded));
            }
            self.confirm_names(&recorded, true)?;
        }
        Ok(())
    }

    /// The statement that an Execute runs: the portal's own, or one more when that has ended before.
    pub(super) fn again(
        &mut self,
        recorded: Rc<Recorded>,
        portal: Option<&Portal>,
    ) -> Result<Rc<Recorded>, RecordingError> {
        if !recorded.finished.get() {
            return Ok(recorded);
        }
        let (facts, parent) = (Arc::clone(&recorded.facts), Some(recorded.seq));
        let text = portal.and_then(|p| p.statement.as_ref()).map(|s| &s.text);
        self.statement(Draft { form: "extended", facts, text, parent, ..Draft::default() })
    }

    /// What a statement of SQL did to names that the protocol shares. Of several statements that failed at one
    /// of them, those before it may have changed names for good.
    fn confirm_names(&mut self, recorded: &Recorded, done: bool) -> Result<(), End> {
        let facts = Arc::clone(&recorded.facts);
        if !done && facts.statement_count == 1 {
            return Ok(());
        }
        for reference in &facts.references {
            match reference {
                Reference::Prepares(name, inner) if done => {
                    let text = self.text(b"", inner);
                    let (inner, charge) = self.keep(Arc::clone(inner))?;
                    let statement = super::record::Statement {
                        text,
                        meant: RefCell::new(super::record::Meaning {
                            facts: Arc::clone(&inner),
                            // Its text is that of PREPARE: it is not judged by itself again.
                            generation: 0,
                            catalog: recorded.meaning,
                            _charge: charge,
                        }),
                        types: Default::default(),
                        columns: Default::default(),
                        described: Default::default(),
                        recorded: Default::default(),
                        epoch: recorded.epoch,
                    };
                    self.statements.set(name.as_bytes(), Some(Rc::new(statement)));
                    self.names.is_statement(name, &inner, recorded.epoch, recorded.meaning);
                }
                Reference::Prepares(name, _) | Reference::Deallocates(Some(name)) => {
                    self.statements.set(name.as_bytes(), None);
                    self.names.closed_statement(Some(name));
                }
                Reference::Deallocates(None) => {
                    self.statements.clear_named();
                    self.names.closed_statement(None);
                }
                Reference::Declares(name, inner, holds) if done => {
                    let (inner, charge) = self.keep(Arc::clone(inner))?;
                    self.names.is_cursor(name, &inner, recorded.epoch, *holds);
                    if self.cursors.len() < super::session::MAX_NAMES {
                        let epoch = recorded.epoch;
                        let cursor = Cursor { facts: inner, epoch, holds: *holds, _charge: charge };
                        self.cursors.insert(name.as_bytes().into(), cursor);
                    }
                }
                Reference::Declares(name, ..) | Reference::Closes(Some(name)) => {
                    self.cursors.remove(name.as_bytes());
                    self.names.closed_cursor(Some(name));
                    if let Some(portal) = self.portals.set(name.as_bytes(), None) {
                        self.abandon(&portal.recorded)?;
                    }
                }
                Reference::Closes(None) => {
                    self.cursors.clear();
                    self.names.closed_cursor(None);
                }
                Reference::Executes(_) | Reference::Fetches(_) => {}
            }
        }
        Ok(())
    }

    fn bound(&mut self, name: &[u8]) -> Result<(), End> {
        if let Some(before) = self.portals.settle(name, true) {
            self.abandon(&before.recorded)?;
        }
        Ok(())
    }

    fn closed(&mut self) -> Result<(), End> {
        match self.answers.front_but_sync() {
            Some(Owed::CloseStatement(_) | Owed::ClosePortal(_)) => {}
            _ => return Err(self.unasked(Kind::CloseComplete)),
        }
        match self.answers.pop() {
            Some(Owed::CloseStatement(name)) => {
                self.statements.settle(&name, true);
                self.names.closed_statement(Some(&String::from_utf8_lossy(&name)));
            }
            Some(Owed::ClosePortal(name)) => {
                self.names.closed_cursor(Some(&String::from_utf8_lossy(&name)));
                self.cursors.remove(&name);
                self.bound(&name)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn ready(&mut self) -> Result<(), End> {
        let Some(owed) = self.answers.ready() else { return Err(self.unasked(Kind::ReadyForQuery)) };
        self.copy_out_ended("failed", None)?;
        match owed {
            Owed::Query(run) => {
                self.statements.settle(b"", true);
                if let Some(portal) = self.portals.settle(b"", true) {
                    self.abandon(&portal.recorded)?;
                }
                if !run.recorded.finished.get() {
                    self.result(&run.recorded, Ending::plain("cut"), Some(run.started_ns))?;
                }
                self.confirm_names(&run.recorded, !run.failed)?;
            }
            Owed::Call(run) if !run.recorded.finished.get() => {
                self.result(&run.recorded, Ending::plain("cut"), Some(run.started_ns))?;
            }
            _ => {}
        }
        self.uncommitted.clear();
        let answered = self.answers.window().oldest;
        self.uncertain = self.uncertain.filter(|at| *at >= answered);
        if self.status == b'I' {
            if std::mem::take(&mut self.catalog_changed) {
                self.catalog.outdated();
                self.looked_up.clear();
            }
            for portal in self.portals.clear() {
                self.abandon(&portal.recorded)?;
            }
            if self.answers.is_empty() {
                self.names.transaction_over();
                self.cursors.retain(|_, cursor| cursor.holds);
                self.lexing_open = false;
            }
        }
        if self.answers.is_empty() && !self.copies.is_empty() {
            // Data that nothing read.
            self.end_copies("failed")?;
        }
        Ok(())
    }

    /// An ErrorResponse, of which `body` is at least the beginning; gives what the client sees instead.
    fn error(&mut self, body: &[u8], whole: usize, digest: Digest) -> Result<Option<Vec<u8>>, End> {
        let ending = Ending { outcome: "error", tag: b"", error: Some(body) };
        if matches!(self.answers.front(), Some(Owed::OwnDescribe(_))) {
            // It is what the Execute behind would have been told.
            self.answers.pop();
        }
        let mut portal = None;
        let (recorded, started, refusal, stays) = match self.answers.front() {
            Some(Owed::Query(run) | Owed::Call(run)) if !run.failed => {
                run.failed = true;
                (Some(Rc::clone(&run.recorded)), Some(run.started_ns), run.refusal.take(), true)
            }
            Some(Owed::Execute(run)) => {
                portal = run.portal.clone();
                (Some(Rc::clone(&run.recorded)), Some(run.started_ns), run.refusal.take(), false)
            }
            Some(Owed::Bind { portal, refusal, .. }) => {
                (Some(Rc::clone(&portal.recorded)), None, refusal.take(), false)
            }
            Some(Owed::Parse { statement, refusal, .. }) => {
                (statement.recorded.borrow().clone(), None, refusal.take(), false)
            }
            Some(Owed::DescribePortal(Some(portal))) => {
                let recorded = Some(Rc::clone(&portal.recorded));
                (recorded.filter(|r| !r.finished.get()), None, None, false)
            }
            Some(Owed::DescribeStatement(_) | Owed::DescribePortal(None)) => (None, None, None, false),
            Some(Owed::CloseStatement(_) | Owed::ClosePortal(_)) => (None, None, None, false),
            Some(Owed::OwnDescribe(_)) => return Err(self.unasked(Kind::Error)),
            // Of a commit at Sync, or of the connection as a whole.
            Some(Owed::Query(_) | Owed::Call(_) | Owed::Sync | Owed::MaybeSync) | None => {
                (None, None, None, true)
            }
        };
        match recorded {
            Some(recorded) => {
                let recorded = if stays { recorded } else { self.again(recorded, portal.as_deref())? };
                self.copy_ended(&recorded, None)?;
                self.result(&recorded, ending, started)?;
            }
            None => {
                let at_commit = matches!(self.answers.front(), Some(Owed::Sync | Owed::MaybeSync));
                let undone = std::mem::take(&mut self.uncommitted);
                self.side_message("error", body, whole, digest)?;
                // The commit at Sync failed: nothing of its batch has happened.
                for recorded in undone.into_iter().filter(|_| at_commit) {
                    self.result(&recorded, Ending { outcome: "rolled-back", ..ending }, None)?;
                }
            }
        }
        if !stays {
            if let Some(failed) = self.answers.pop() {
                self.failed(failed)?;
            }
            while let Some(owed) = self.answers.skip() {
                self.skipped(owed)?;
            }
        }
        Ok(refusal.map(|refusal| refusal.message()))
    }

    /// The names that a failed request would have changed.
    fn failed(&mut self, owed: Owed) -> Result<(), End> {
        match owed {
            Owed::Parse { name, .. } => {
                self.statements.settle(&name, false);
                if name.is_empty() {
                    // The target drops the unnamed statement before it looks at the new one.
                    self.statements.set(b"", None);
                }
            }
            Owed::Bind { name, .. } => {
                self.portals.settle(&name, false);
            }
            Owed::CloseStatement(name) => {
                self.statements.settle(&name, false);
            }
            Owed::ClosePortal(name) => {
                self.portals.settle(&name, false);
            }
            _ => {}
        }
        Ok(())
    }

    fn unasked(&mut self, kind: Kind) -> End {
        let owed = match self.answers.front() {
            Some(owed) => owed.name(),
            None => "nothing",
        };
        End::Accounting { what: format!("the target sent {kind:?} when {owed} was owed") }
    }
}

impl Refusal {
    /// The ErrorResponse that the client sees.
    fn message(&self) -> Vec<u8> {
        let mut out = Vec::new();
        backend::put_error(&mut out, "ERROR", self.sqlstate, &self.message, Some(self.hint));
        out
    }
}

fn target_error(error: FrameError) -> End {
    End::Frame { from: "target", error }
}
