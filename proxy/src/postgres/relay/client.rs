//! What the client sends: statements become events before they leave, everything else is noted as owed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::answers::{MAX_OWED, Owed, Refusal, Running};
use super::copy::CopyEnd;
use super::end::End;
use super::pipe::Pipe;
use super::record::{Arguments, Draft, Ending, Meaning, Portal, Recorded, Statement, Text};
use super::session::{MAX_NAMES, Passing, Session, Within};
use super::slots::Latest;
use super::spill::{HELD, Spill};
use crate::postgres::codec::frontend::{self, Frontend, Kind, Named};
use crate::postgres::codec::{FrameError, HEADER, header};
use crate::postgres::inspect::builtin;
use crate::postgres::inspect::facts::EXECUTE_UNKNOWN;
use crate::postgres::inspect::{Facts, Reference, SecretParameters, SettingChange};
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

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judged {
    Pass,
    /// It goes on behind a Describe of our own.
    DescribeFirst,
    /// It must wait until the target has answered more.
    Wait,
}

impl Portal {
    /// Whether its columns matter and nobody has asked for them.
    fn wants_description(&self) -> bool {
        const WITHOUT_ROWS: [&str; 9] =
            ["transaction", "set", "ddl", "dcl", "copy", "empty", "listen", "notify", "deallocate"];
        let facts = &self.recorded.facts;
        let changes = matches!(facts.statement_kind, "insert" | "update" | "delete" | "merge");
        let known = self.statement.as_ref().is_some_and(|s| s.described.get());
        !(self.described.get()
            || known
            || WITHOUT_ROWS.contains(&facts.statement_kind)
            || changes && facts.output_columns.is_empty())
    }
}

impl Session {
    /// Walks what the client sent.
    pub async fn walk_client(&mut self, pipe: &mut Pipe) -> Result<Walked, End> {
        if self.waits() {
            return Ok(Walked::All);
        }
        self.waits_since = None;
        let mut walked = 0;
        let outcome = loop {
            if self.answers.len() >= MAX_OWED {
                self.waits_since = Some(self.heard);
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
        self.put_copies()?;
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
                match self.client_message(head.kind, body).await? {
                    Judged::Wait => {
                        self.waits_since = Some(self.heard);
                        return Ok(0);
                    }
                    Judged::Pass => pipe.pass(frame),
                    Judged::DescribeFirst => {
                        let portal = frontend::execute(body).map_err(client_error)?;
                        let mut instead = Vec::new();
                        frontend::put_describe_portal(&mut instead, portal);
                        instead.extend_from_slice(unread.get(..frame).unwrap_or_default());
                        pipe.replace(frame, instead);
                    }
                }
                return Ok(frame);
            }
        }
        match head.kind {
            Kind::CopyData if self.copies.too_many() && !self.answers.is_empty() => {
                self.waits_since = Some(self.heard);
                Ok(0)
            }
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
                // It is read while it comes in: what its names and its text mean must be clear before.
                let window = self.answers.window();
                if window.oldest < window.batch && !self.copies.client_copies() {
                    self.waits_since = Some(self.heard);
                    return Ok(0);
                }
                let producer = self.pen.lane().producer().clone();
                let dir = (frame <= self.max_statement_bytes).then(|| producer.spool_dir());
                let keep = usize::try_from(self.recording.max_statement_content).unwrap_or(usize::MAX);
                let hasher = self.pen.key().hasher();
                let (principal, greatest) = (self.principal.principal_ref, self.max_statement_bytes);
                let room = dir.is_some().then(|| self.quota.take(principal, frame, greatest)).flatten();
                let spill = Spill::start(head.kind, head.body, keep, hasher, dir.as_deref(), room);
                self.spill(Box::new(spill.map_err(End::Spill)?), pipe)
            }
            _ => {
                pipe.want(frame);
                Ok(0)
            }
        }
    }

    async fn client_message(&mut self, kind: Kind, body: &[u8]) -> Result<Judged, End> {
        if kind == Kind::Execute {
            return self.execute(frontend::execute(body).map_err(client_error)?);
        }
        Ok(if self.other_message(kind, body).await? { Judged::Pass } else { Judged::Wait })
    }

    /// Judges a whole message that is no Execute; false when it must wait until the target has answered more.
    async fn other_message(&mut self, kind: Kind, body: &[u8]) -> Result<bool, End> {
        match kind {
            Kind::Query => {
                let text = frontend::query(body).map_err(client_error)?;
                let Some(facts) = self.analyse(text).await else { return Ok(false) };
                let text = self.text(text, &facts);
                self.query(facts, &text, None)?;
            }
            Kind::Parse => {
                let parse = frontend::parse(body).map_err(client_error)?;
                let Some(facts) = self.analyse(parse.text).await else { return Ok(false) };
                let text = self.text(parse.text, &facts);
                self.parse(parse.name, parse.types, facts, text, None)?;
            }
            Kind::Bind => {
                let bind = frontend::bind(body).map_err(client_error)?;
                let Some(statement) = self.statement_named(bind.statement) else { return Ok(false) };
                if statement.as_ref().is_some_and(|s| self.must_wait_for_names_of(&s.facts())) {
                    return Ok(false);
                }
                if let Some(statement) = &statement {
                    self.judge_anew(statement).await?;
                }
                let types = statement.as_ref().map(|s| s.types.borrow().clone()).unwrap_or_default();
                let secret = match statement {
                    Some(statement) => statement.facts().secret_parameters.clone(),
                    None => SecretParameters::All,
                };
                let arguments = self.arguments(&types, &secret, bind.formats, &bind.values);
                let formats = bind.result_formats.as_bytes().to_vec();
                self.bind(bind.portal, bind.statement, formats, arguments, None)?;
            }
            Kind::FunctionCall => {
                let call = frontend::function_call(body).map_err(client_error)?;
                let secret = secret_arguments(call.function);
                let arguments = self.arguments(&[], &secret, call.formats, &call.values);
                self.call(call.function, arguments, None)?;
            }
            Kind::Describe => {
                let owed = match frontend::named("Describe", body).map_err(client_error)? {
                    Named::Statement(name) => match self.statement_named(name) {
                        Some(statement) => {
                            statement.iter().for_each(|s| s.described.set(true));
                            Owed::DescribeStatement(statement)
                        }
                        None => return Ok(false),
                    },
                    Named::Portal(name) => match self.portal_named(name) {
                        Some(portal) => {
                            portal.iter().for_each(|p| p.described.set(true));
                            Owed::DescribePortal(portal)
                        }
                        None => return Ok(false),
                    },
                };
                self.owe(owed)?;
            }
            Kind::Execute => {}
            Kind::Close => match frontend::named("Close", body).map_err(client_error)? {
                Named::Statement(name) => {
                    self.statements.send(name, self.answers.sent(), None);
                    self.owe(Owed::CloseStatement(name.into()))?;
                }
                Named::Portal(name) => {
                    self.portals.send(name, self.answers.sent(), None);
                    self.owe(Owed::ClosePortal(name.into()))?;
                }
            },
            Kind::Sync if self.copies.client_copies() => self.owe(Owed::MaybeSync)?,
            Kind::Sync => {
                self.answers.skipping = false;
                self.owe(Owed::Sync)?;
            }
            Kind::Flush => {}
            Kind::CopyData if self.copies.too_many() && !self.answers.is_empty() => return Ok(false),
            Kind::CopyData => self.copy_in_data(body, 1)?,
            Kind::CopyDone => self.copies.client_ended(CopyEnd::Done, self.answers.sent()),
            Kind::CopyFail => {
                frontend::copy_fail(body).map_err(client_error)?;
                self.copies.client_ended(CopyEnd::Failed, self.answers.sent());
            }
            Kind::Terminate => self.terminated = true,
            Kind::Password => return Err(client_error(FrameError::Unknown { from: "client", tag: b'p' })),
        }
        Ok(true)
    }

    /// Whether nothing has changed since the walk of the client had to wait.
    pub fn waits(&self) -> bool {
        self.waits_since == Some(self.heard)
    }

    /// The statement of a name, if any is known; the outer none says that only an answer on its way tells.
    pub(super) fn statement_named(&self, name: &[u8]) -> Option<Option<Rc<Statement>>> {
        match self.statements.latest(name, self.answers.window()) {
            Latest::Wait if !self.copies.client_copies() => None,
            latest => Some(latest.known().cloned()),
        }
    }

    /// The portal of a name, likewise.
    fn portal_named(&self, name: &[u8]) -> Option<Option<Rc<Portal>>> {
        match self.portals.latest(name, self.answers.window()) {
            // A target that reads COPY data answers nothing before the client ends it.
            Latest::Wait if !self.copies.client_copies() => None,
            latest => Some(latest.known().cloned()),
        }
    }

    /// Whether a statement runs something by a name that only an answer on its way tells.
    pub(super) fn must_wait_for_names_of(&self, facts: &Facts) -> bool {
        facts.references.iter().any(|reference| match reference {
            Reference::Executes(name) => self.statement_named(name.as_bytes()).is_none(),
            Reference::Fetches(name) => self.portal_named(name.as_bytes()).is_none(),
            _ => false,
        })
    }

    /// Notes what a statement that is sent on may change: settings, and what names stand for.
    fn follow_changes(&mut self, facts: &Facts) {
        self.follow_settings(facts);
        let window = self.answers.window();
        for reference in &facts.references {
            match reference {
                Reference::Prepares(name, _) => self.statements.touch(Some(name.as_bytes()), window),
                Reference::Deallocates(name) => {
                    self.statements.touch(name.as_deref().map(str::as_bytes), window);
                }
                Reference::Declares(name, ..) => self.portals.touch(Some(name.as_bytes()), window),
                Reference::Closes(name) => {
                    self.portals.touch(name.as_deref().map(str::as_bytes), window);
                }
                Reference::Executes(_) | Reference::Fetches(_) => {}
            }
        }
        self.settings.made_temporary(&facts.temporary);
        self.settings.own_code |= facts.attaches_code || facts.may_define_names();
        let renames = facts.setting_changes.iter().any(|c| !matches!(c, SettingChange::Lexing));
        if facts.may_define_names() || facts.attaches_code || renames || !facts.temporary.is_empty() {
            // A new path, a temporary relation or a trigger gives prepared statements another meaning, too. What it runs can prepare, deallocate, open and close by any name.
            self.names.doubt();
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
        if !refused {
            self.follow_changes(&recorded.facts.clone());
        }
        recorded.executed.set(true);
        self.statements.send(b"", self.answers.sent(), None);
        self.portals.send(b"", self.answers.sent(), None);
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
        let (facts, charge) = self.keep(facts)?;
        let statement = Rc::new(Statement {
            text,
            meant: RefCell::new(Meaning {
                facts: Arc::clone(&facts),
                generation: self.generation,
                catalog: self.names.meaning(),
                _charge: charge,
            }),
            types: RefCell::new(types),
            columns: RefCell::default(),
            described: Cell::default(),
            recorded: RefCell::default(),
            epoch: self.names.epoch(),
        });
        if refusal.is_some() {
            self.record_parse(name, &statement, true)?;
        } else {
            if !name.is_empty() {
                self.names.prepared(&String::from_utf8_lossy(name), &facts);
            }
            self.unrecorded.push((name.into(), Rc::clone(&statement)));
        }
        self.statements.send(name, self.answers.sent(), Some(Rc::clone(&statement)));
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
        let statement = self.statement_named(statement_name).flatten();
        let facts = match &statement {
            // The target plans it anew under another path, the unnamed one as well.
            Some(s) if s.epoch < self.names.epoch() => doubted(&s.facts()),
            // Likewise under another catalog; what no analysis understood depends on none.
            Some(s) if s.is_of_another_catalog(self.names.meaning()) => doubted(&s.facts()),
            Some(statement) => statement.facts(),
            None => unknown("execute"),
        };
        let judged = |facts: &Arc<Facts>| {
            statement.as_ref().is_some_and(|s| Arc::ptr_eq(&s.meant.borrow().facts, facts))
        };
        let certain = judged(&facts);
        let facts = if facts.references.is_empty() { facts } else { self.names.follow(&facts) };
        let (facts, charge) = if !judged(&facts) {
            let (facts, charge) = self.keep(facts)?;
            (facts, Some(charge))
        } else {
            (facts, None)
        };
        let recorded = self.statement(Draft {
            form: "extended",
            facts,
            text: statement.as_ref().map(|s| &s.text),
            arguments,
            // The name tells what is executed where the text does not.
            statement_name: if certain { b"" } else { statement_name },
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
        let (columns, described) = (RefCell::default(), Cell::default());
        let portal = Rc::new(Portal { recorded, statement, columns, described, formats, _charge: charge });
        self.portals.send(name, self.answers.sent(), Some(Rc::clone(&portal)));
        self.owe(Owed::Bind { name: name.into(), portal, refusal })
    }

    fn execute(&mut self, name: &[u8]) -> Result<Judged, End> {
        let Some(portal) = self.portal_named(name) else { return Ok(Judged::Wait) };
        let doubtful = |portal: &Portal| !name.is_empty() && portal.recorded.epoch < self.names.epoch();
        let recorded = match &portal {
            Some(portal) if doubtful(portal) => {
                // Something ran since that may have closed it and opened another.
                let facts = doubted(&portal.recorded.facts);
                let parent = Some(portal.recorded.seq);
                let draft = Draft { form: "extended", facts, portal_name: name, parent, ..Draft::default() };
                self.statement(draft)?
            }
            Some(portal) => Rc::clone(&portal.recorded),
            None => {
                // A cursor of SQL, or nothing that we know: the statement is this Execute.
                let facts = match self.cursors.get(name) {
                    Some(cursor) if cursor.epoch == self.names.epoch() => Arc::clone(&cursor.facts),
                    Some(cursor) => doubted(&cursor.facts),
                    None => unknown("cursor"),
                };
                let draft = Draft { form: "extended", facts, portal_name: name, ..Draft::default() };
                self.statement(draft)?
            }
        };
        // An error before the Sync undoes it, even when everything sent so far is answered.
        self.uncertain = Some(self.answers.sent());
        self.follow_changes(&recorded.facts.clone());
        recorded.executed.set(true);
        // Who does not ask for the columns of what it fetches has them recorded all the same.
        let unknown_columns = portal.clone().filter(|portal| portal.wants_description());
        // Right behind its Bind, where a Describe can fail only with it: the client sees every error as it is.
        let describes = unknown_columns.filter(|portal| self.answers.just_bound(portal));
        if let Some(portal) = &describes {
            portal.described.set(true);
            self.owe(Owed::OwnDescribe(Rc::clone(portal)))?;
        }
        let run = self.run(recorded, portal, None);
        self.owe(Owed::Execute(run))?;
        Ok(if describes.is_some() { Judged::DescribeFirst } else { Judged::Pass })
    }

    pub(super) fn call(
        &mut self,
        function: u32,
        arguments: Arguments,
        refusal: Option<Box<Refusal>>,
    ) -> Result<(), End> {
        let catalog = self.catalog.current();
        let (named, mut opaque) = (catalog.function(function), vec!["function-call"]);
        if named.is_some_and(|(_, name)| builtin::runs_sql(name)) {
            opaque.push("dynamic-sql");
        }
        if named.is_none_or(|(schema, _)| schema != "pg_catalog") {
            opaque.push("unknown-function");
        }
        let label = named.map(|(schema, name)| match schema {
            "pg_catalog" => name.to_owned(),
            schema => format!("{schema}.{name}"),
        });
        let facts = Facts {
            statement_kind: "function-call",
            statement_count: 1,
            functions: label.into_iter().collect(),
            opaque,
            secret_parameters: secret_arguments(function),
            setting_changes: match LARGE_OBJECT_FUNCTIONS.contains(&function) {
                true => Vec::new(),
                false => vec![SettingChange::Unknown],
            },
            ..Facts::default()
        };
        let oid = function.to_string();
        let is_refused = refusal.is_some();
        let recorded = self.statement(Draft {
            form: "function-call",
            facts: Arc::new(facts),
            arguments,
            refused: refusal.is_some(),
            detail: &[("function_oid", oid.as_bytes())],
            ..Draft::default()
        })?;
        if !is_refused {
            self.settings.own_code |= !recorded.facts.setting_changes.is_empty();
            self.follow_settings(&recorded.facts.clone());
        }
        recorded.executed.set(true);
        self.names.doubt();
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
        if self.answers.is_empty() && !self.copies.is_empty() {
            // What came before was read by nothing.
            self.end_copies("failed")?;
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
            Owed::Execute(run) if run.goes_on() => Ok(()),
            Owed::Execute(run) => self.result(&run.recorded, Ending::plain("skipped"), None),
            Owed::Parse { name, statement, .. } => {
                self.statements.settle(&name, false);
                if statement.recorded.borrow().is_none() {
                    self.record_parse(&name, &statement, false)?;
                }
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
            Owed::DescribeStatement(_)
            | Owed::DescribePortal(_)
            | Owed::OwnDescribe(_)
            | Owed::Sync
            | Owed::MaybeSync => Ok(()),
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
            facts: statement.facts(),
            text: Some(&statement.text),
            statement_name: name,
            refused,
            ..Draft::default()
        })?;
        *statement.recorded.borrow_mut() = Some(recorded);
        Ok(())
    }
}

/// OIDs (`pg_proc.dat`) of the functions that clients call by FunctionCall, those for large objects: `lo_open`,
/// `lo_create` and the like. They set nothing; any other may be, or may call, `set_config`.
const LARGE_OBJECT_FUNCTIONS: [u32; 13] =
    [715, 952, 953, 954, 955, 956, 957, 958, 964, 1004, 3170, 3171, 3172];

/// Arguments that content must not hold of a function that is called by its OID: of `set_config`, and of all that
/// are not the server's own (their OIDs begin at 16384, `FirstNormalObjectId`).
pub(super) fn secret_arguments(function: u32) -> SecretParameters {
    const SET_CONFIG: u32 = 2078;
    if function == SET_CONFIG || function >= 16_384 { SecretParameters::All } else { SecretParameters::None }
}

/// The facts of something that runs under a name that nobody here knows.
fn unknown(kind: &'static str) -> Arc<Facts> {
    Arc::new(Facts { statement_kind: kind, ..Facts::unparsed(EXECUTE_UNKNOWN) })
}

/// Facts of what a name stood for before something ran that may have changed it.
fn doubted(facts: &Facts) -> Arc<Facts> {
    Arc::new(facts.using(&Facts { opaque: vec![EXECUTE_UNKNOWN], has_predicate: true, ..Facts::default() }))
}

pub(super) fn client_error(error: FrameError) -> End {
    End::Frame { from: "client", error }
}
