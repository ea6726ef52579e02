//! What the client sends: statements become events before they leave, everything else is noted as owed.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::answers::{MAX_OWED, Owed, Refusal, Running};
use super::copy::CopyEnd;
use super::end::End;
use super::pipe::Pipe;
use super::record::{Arguments, Draft, Ending, Portal, Recorded, Statement, Text};
use super::session::{MAX_NAMES, Passing, Session, Within};
use super::spill::{HELD, Spill};
use crate::postgres::codec::frontend::{self, Frontend, Kind, Named};
use crate::postgres::codec::{FrameError, HEADER, header};
use crate::postgres::inspect::Facts;
use crate::recording::RecordingError;

/// Bytes walked before other sessions of the core get their turn.
const TURN: usize = 256 << 10;

/// How a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Walked {
    /// Everything whole was walked.
    All,
    /// There is more; it was time for others.
    More,
}

impl Session {
    /// Walks what the client sent.
    pub async fn walk_client(&mut self, pipe: &mut Pipe) -> Result<Walked, End> {
        let mut walked = 0;
        let outcome = loop {
            if self.answers.len() >= MAX_OWED {
                break Walked::All;
            }
            match self.step_client(pipe).await? {
                0 => break Walked::All,
                n => walked += n,
            }
            if walked >= TURN {
                break Walked::More;
            }
        };
        self.record_parses()?;
        Ok(outcome)
    }

    /// Walks one frame or a part of one; gives the bytes walked.
    async fn step_client(&mut self, pipe: &mut Pipe) -> Result<usize, End> {
        if self.terminated {
            // Nothing after Terminate means anything.
            let n = pipe.unread().len();
            if n > 0 {
                pipe.replace(n, Vec::new());
            }
            return Ok(n);
        }
        match std::mem::take(&mut self.client_within) {
            Within::Frames => self.client_frame(pipe).await,
            Within::Passing { left, as_what } => {
                let part = pipe.unread();
                let part = part.get(..left).unwrap_or(part);
                let n = part.len();
                self.copy_in_data(part, 0)?;
                pipe.pass(n);
                if n < left {
                    self.client_within = Within::Passing { left: left - n, as_what };
                }
                Ok(n)
            }
            Within::Spilling(spill) => self.spill(spill, pipe),
            Within::Returning(store) => self.send_back(store, pipe),
        }
    }

    async fn client_frame(&mut self, pipe: &mut Pipe) -> Result<usize, End> {
        let unread = pipe.unread();
        let Some(head) = header::<Frontend>(unread).map_err(client_error)? else { return Ok(0) };
        let frame = head.frame();
        if let Some(body) = unread.get(HEADER..frame) {
            let refused = match head.kind {
                Kind::Query | Kind::Parse | Kind::Bind | Kind::FunctionCall => {
                    frame > self.max_statement_bytes
                }
                _ => false,
            };
            if !refused {
                self.client_message(head.kind, body).await?;
                pipe.pass(frame);
                return Ok(frame);
            }
        }
        match head.kind {
            Kind::CopyData if unread.len() >= HEADER => {
                let part = unread.get(HEADER..).unwrap_or_default();
                let (have, left) = (part.len(), head.body - part.len());
                self.copy_in_data(part, 1)?;
                pipe.pass(HEADER + have);
                self.client_within = Within::Passing { left, as_what: Passing::CopyIn };
                Ok(HEADER + have)
            }
            Kind::Query | Kind::Parse | Kind::Bind | Kind::FunctionCall
                if frame > HELD.min(self.max_statement_bytes) =>
            {
                let producer = self.pen.lane().producer().clone();
                let dir = (frame <= self.max_statement_bytes).then(|| producer.spool_dir());
                let keep = usize::try_from(self.recording.max_statement_content).unwrap_or(usize::MAX);
                let hasher = self.pen.key().hasher();
                let spill = Spill::start(head.kind, head.body, keep, hasher, dir.as_deref());
                self.spill(Box::new(spill.map_err(End::Spill)?), pipe)
            }
            _ => {
                pipe.want(frame);
                Ok(0)
            }
        }
    }

    async fn client_message(&mut self, kind: Kind, body: &[u8]) -> Result<(), End> {
        match kind {
            Kind::Query => {
                let text = frontend::query(body).map_err(client_error)?;
                let facts = self.analyse(text).await;
                let text = self.text(text, &facts);
                self.query(facts, &text, None)
            }
            Kind::Parse => {
                let parse = frontend::parse(body).map_err(client_error)?;
                let facts = self.analyse(parse.text).await;
                let text = self.text(parse.text, &facts);
                self.parse(parse.name, parse.types, facts, text, None)
            }
            Kind::Bind => {
                let bind = frontend::bind(body).map_err(client_error)?;
                let types = self.statements.latest(bind.statement).map(|s| s.types.borrow().clone());
                let arguments = self.arguments(&types.unwrap_or_default(), bind.formats, &bind.values);
                let formats = bind.result_formats.as_bytes().to_vec();
                self.bind(bind.portal, bind.statement, formats, arguments, None)
            }
            Kind::FunctionCall => {
                let call = frontend::function_call(body).map_err(client_error)?;
                let arguments = self.arguments(&[], call.formats, &call.values);
                self.call(call.function, arguments, None)
            }
            Kind::Describe => {
                let owed = match frontend::named("Describe", body).map_err(client_error)? {
                    Named::Statement(name) => Owed::DescribeStatement(self.statements.latest(name).cloned()),
                    Named::Portal(name) => Owed::DescribePortal(self.portals.latest(name).cloned()),
                };
                self.owe(owed)
            }
            Kind::Execute => {
                let portal = frontend::execute(body).map_err(client_error)?;
                self.execute(portal)
            }
            Kind::Close => match frontend::named("Close", body).map_err(client_error)? {
                Named::Statement(name) => {
                    self.statements.send(name, None);
                    self.owe(Owed::CloseStatement(name.into()))
                }
                Named::Portal(name) => {
                    self.portals.send(name, None);
                    self.owe(Owed::ClosePortal(name.into()))
                }
            },
            Kind::Sync if self.copies.client_copies() => self.owe(Owed::MaybeSync),
            Kind::Sync => {
                self.answers.skipping = false;
                self.owe(Owed::Sync)
            }
            Kind::Flush => Ok(()),
            Kind::CopyData => Ok(self.copy_in_data(body, 1)?),
            Kind::CopyDone => {
                self.copies.client_ended(CopyEnd::Done, self.answers.sent());
                Ok(())
            }
            Kind::CopyFail => {
                frontend::copy_fail(body).map_err(client_error)?;
                self.copies.client_ended(CopyEnd::Failed, self.answers.sent());
                Ok(())
            }
            Kind::Terminate => {
                self.terminated = true;
                Ok(())
            }
            Kind::Password => Err(client_error(FrameError::Unknown { from: "client", tag: b'p' })),
        }
    }

    pub(super) fn query(
        &mut self,
        facts: Arc<Facts>,
        text: &Text,
        refusal: Option<Box<Refusal>>,
    ) -> Result<(), End> {
        let refused = refusal.is_some();
        let draft = Draft { form: "simple", facts, text: Some(text), refused, ..Draft::default() };
        let recorded = self.statement(draft)?;
        self.follow_settings(&recorded.facts.clone());
        recorded.executed.set(true);
        self.statements.send(b"", None);
        self.portals.send(b"", None);
        let run = self.run(recorded, None, refusal);
        self.owe(Owed::Query(run))
    }

    pub(super) fn parse(
        &mut self,
        name: &[u8],
        types: Vec<u32>,
        facts: Arc<Facts>,
        text: Text,
        refusal: Option<Box<Refusal>>,
    ) -> Result<(), End> {
        if self.statements.len() >= MAX_NAMES {
            return Err(End::Names { limit: MAX_NAMES });
        }
        let statement = Rc::new(Statement {
            text,
            facts,
            types: RefCell::new(types),
            columns: RefCell::default(),
            recorded: RefCell::default(),
        });
        if refusal.is_some() {
            self.record_parse(name, &statement, true)?;
        } else {
            if !name.is_empty() {
                self.names.prepared(&String::from_utf8_lossy(name), &statement.facts);
            }
            self.unrecorded.push((name.into(), Rc::clone(&statement)));
        }
        self.statements.send(name, Some(Rc::clone(&statement)));
        self.owe(Owed::Parse { name: name.into(), statement, refusal })
    }

    pub(super) fn bind(
        &mut self,
        name: &[u8],
        statement_name: &[u8],
        formats: Vec<u8>,
        arguments: Arguments,
        refusal: Option<Box<Refusal>>,
    ) -> Result<(), End> {
        if self.portals.len() >= MAX_NAMES {
            return Err(End::Names { limit: MAX_NAMES });
        }
        let statement = self.statements.latest(statement_name).cloned();
        let facts = match &statement {
            Some(statement) => Arc::clone(&statement.facts),
            None => unknown("execute"),
        };
        let facts = if facts.references.is_empty() { facts } else { self.names.follow(&facts) };
        let recorded = self.statement(Draft {
            form: "extended",
            facts,
            text: statement.as_ref().map(|s| &s.text),
            arguments,
            // The name tells what is executed where the text does not.
            statement_name: if statement.is_none() { statement_name } else { b"" },
            portal_name: name,
            parent: statement.as_ref().and_then(|s| s.recorded.borrow().as_ref().map(|r| r.seq)),
            refused: refusal.is_some(),
            detail: &[],
        })?;
        if let Some(statement) = &statement {
            statement.recorded.borrow_mut().get_or_insert_with(|| Rc::clone(&recorded));
        }
        if !name.is_empty() {
            self.names.bound(&String::from_utf8_lossy(name), &recorded.facts);
        }
        let portal = Rc::new(Portal { recorded, statement, columns: RefCell::default(), formats });
        self.portals.send(name, Some(Rc::clone(&portal)));
        self.owe(Owed::Bind { name: name.into(), portal, refusal })
    }

    fn execute(&mut self, name: &[u8]) -> Result<(), End> {
        let portal = self.portals.latest(name).cloned();
        let recorded = match &portal {
            Some(portal) => Rc::clone(&portal.recorded),
            None => {
                // A cursor of SQL, or nothing that we know: the statement is this Execute.
                let facts = self.cursors.get(name).cloned().unwrap_or_else(|| unknown("cursor"));
                let draft = Draft { form: "extended", facts, portal_name: name, ..Draft::default() };
                self.statement(draft)?
            }
        };
        self.follow_settings(&recorded.facts.clone());
        recorded.executed.set(true);
        let run = self.run(recorded, portal, None);
        self.owe(Owed::Execute(run))
    }

    pub(super) fn call(
        &mut self,
        function: u32,
        arguments: Arguments,
        refusal: Option<Box<Refusal>>,
    ) -> Result<(), End> {
        let facts = Facts {
            statement_kind: "function-call",
            statement_count: 1,
            opaque: vec!["function-call"],
            ..Facts::default()
        };
        let oid = function.to_string();
        let recorded = self.statement(Draft {
            form: "function-call",
            facts: Arc::new(facts),
            arguments,
            refused: refusal.is_some(),
            detail: &[("function_oid", oid.as_bytes())],
            ..Draft::default()
        })?;
        recorded.executed.set(true);
        let run = self.run(recorded, None, refusal);
        self.owe(Owed::Call(run))
    }

    fn run(
        &self,
        recorded: Rc<Recorded>,
        portal: Option<Rc<Portal>>,
        refusal: Option<Box<Refusal>>,
    ) -> Running {
        let started_ns = self.pen.lane().producer().clock().mono_ns();
        Running { recorded, portal, started_ns, failed: false, refusal }
    }

    /// Notes what the target owes; while it skips to a Sync, it owes nothing.
    fn owe(&mut self, owed: Owed) -> Result<(), End> {
        if self.answers.skipping {
            return Ok(self.skipped(owed)?);
        }
        self.answers.push(owed);
        Ok(())
    }

    /// The target skips this request because of an earlier error.
    pub(super) fn skipped(&mut self, owed: Owed) -> Result<(), RecordingError> {
        match owed {
            Owed::Query(run) => {
                self.statements.settle(b"", false);
                self.portals.settle(b"", false);
                self.result(&run.recorded, Ending::plain("skipped"), None)
            }
            Owed::Call(run) => self.result(&run.recorded, Ending::plain("skipped"), None),
            // Its portal goes on, or goes away with the Bind that was skipped before.
            Owed::Execute(run) if run.portal.is_some() => Ok(()),
            Owed::Execute(run) => self.result(&run.recorded, Ending::plain("skipped"), None),
            Owed::Parse { name, statement, .. } => {
                self.statements.settle(&name, false);
                let recorded = statement.recorded.borrow().clone();
                recorded.map_or(Ok(()), |recorded| self.skip_recorded(&recorded))
            }
            Owed::Bind { name, portal, .. } => {
                self.portals.settle(&name, false);
                self.skip_recorded(&portal.recorded)
            }
            Owed::CloseStatement(name) => {
                self.statements.settle(&name, false);
                Ok(())
            }
            Owed::ClosePortal(name) => {
                self.portals.settle(&name, false);
                Ok(())
            }
            Owed::DescribeStatement(_) | Owed::DescribePortal(_) | Owed::Sync | Owed::MaybeSync => Ok(()),
        }
    }

    fn skip_recorded(&mut self, recorded: &Recorded) -> Result<(), RecordingError> {
        if recorded.finished.get() {
            return Ok(());
        }
        self.result(recorded, Ending::plain("skipped"), None)
    }

    /// Writes the events of Parse messages that leave before any Bind that holds their text.
    fn record_parses(&mut self) -> Result<(), RecordingError> {
        for (name, statement) in std::mem::take(&mut self.unrecorded) {
            if statement.recorded.borrow().is_none() {
                self.record_parse(&name, &statement, false)?;
            }
        }
        Ok(())
    }

    fn record_parse(
        &mut self,
        name: &[u8],
        statement: &Statement,
        refused: bool,
    ) -> Result<(), RecordingError> {
        let recorded = self.statement(Draft {
            form: "parse",
            facts: Arc::clone(&statement.facts),
            text: Some(&statement.text),
            statement_name: name,
            refused,
            ..Draft::default()
        })?;
        *statement.recorded.borrow_mut() = Some(recorded);
        Ok(())
    }
}

/// The facts of something that runs under a name that nobody here knows.
fn unknown(kind: &'static str) -> Arc<Facts> {
    Arc::new(Facts { statement_kind: kind, ..Facts::unparsed("execute-unknown") })
}

pub(super) fn client_error(error: FrameError) -> End {
    End::Frame { from: "client", error }
}
