//! The state of a session between its two sockets: what was asked, what is owed, what names stand for.
//!
//! The relay hands every byte of either direction to [`Session::walk_client`] or [`Session::walk_target`],
//! which pass it, replace it or end the session. Invariant: when a walk returns, everything that it passed is
//! in the pen; the relay persists the pen before any of it leaves.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bodycam_record::kinds::control::ControlLimit;
use bodycam_record::{ContentKind, Id16};

use super::answers::{Answers, Owed};
use super::copy::{Copies, CopyOut};
use super::end::End;
use super::record::{Charge, Current, Ending, Meaning, Portal, Recorded, Statement, count};
use super::slots::Slots;
use super::spill::quota::Quota;
use super::spill::{Spill, Store};
use crate::correlation;
use crate::identity::{Directory, Ended, Principal};
use crate::postgres::codec::backend::{self, RowReader};
use crate::postgres::inspect::facts::EXECUTE_UNKNOWN;
use crate::postgres::inspect::{
    CatalogSnapshot, Facts, Inspector, Reference, SearchPath, SecretParameters, SessionNames, Settings,
    SharedCatalog, redact_secrets, without_literals,
};
use crate::recording::{RecordingConfig, RecordingError, SessionPen};

/// Names of prepared statements and of portals that one session may have, each.
pub(super) const MAX_NAMES: usize = 10_000;

/// Relations that one session has looked up anew at most, until it changes the catalog itself.
const MAX_LOOKED_UP: usize = 8;
/// How long a statement waits for that.
const CATALOG_PATIENCE: Duration = Duration::from_secs(1);

/// What a session is made of.
pub(super) struct Parts {
    pub pen: SessionPen,
    pub recording: RecordingConfig,
    pub max_statement_bytes: usize,
    pub quota: Quota,
    pub inspector: Inspector,
    pub catalog: SharedCatalog,
    pub principal: Principal,
    /// Name of the target.
    pub target: Arc<str>,
    /// Who the target takes the session for, as far as is known.
    pub user: Option<String>,
    /// `search_path`, as the target spells it.
    pub search_path: Option<String>,
    /// What the target said in its greeting.
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether the client gave a correlation id that no later `application_name` may replace.
    pub correlation_fixed: bool,
    pub correlation: Option<Id16>,
}

/// Where the walk of a direction stands within a frame that does not fit the buffer.
#[derive(Default)]
pub(super) enum Within {
    /// Between two frames.
    #[default]
    Frames,
    /// In a row, COPY data or another message that passes piece by piece.
    Passing { left: usize, as_what: Passing },
    /// In a client's message that is kept aside, or refused and dropped.
    Spilling(Box<Spill>),
    /// A message that was kept aside is sent on.
    Returning(Box<Store>),
}

/// What passes piece by piece.
pub(super) enum Passing {
    Row { stored: bool, reader: RowReader },
    CopyIn,
    CopyOut,
    Message(Box<LongMessage>),
}

/// A long message of the target whose beginning tells enough.
pub(super) struct LongMessage {
    pub kind: backend::Kind,
    pub whole: usize,
    pub beginning: Vec<u8>,
    pub hasher: blake3::Hasher,
}

/// A cursor that SQL declared.
pub(super) struct Cursor {
    pub facts: Arc<Facts>,
    /// As [`Statement::epoch`].
    pub epoch: u64,
    /// Whether it outlives its transaction.
    pub holds: bool,
    /// What its facts count.
    pub _charge: Charge,
}

/// The state.
pub(super) struct Session {
    pub pen: SessionPen,
    /// Whether something was appended since the pen was persisted.
    pub dirty: bool,
    pub(super) recording: RecordingConfig,
    pub(super) max_statement_bytes: usize,
    pub(super) quota: Quota,
    pub(super) inspector: Inspector,
    pub(super) catalog: SharedCatalog,
    /// Generation of the catalog under which the last text was analysed.
    pub(super) generation: u64,
    pub(super) principal: Principal,
    target: Arc<str>,

    pub(super) settings: Settings,
    /// Whether texts are in UTF-8 (`client_encoding`).
    pub(super) utf8: bool,
    /// The last request that may have changed how texts are read.
    pub(super) lexing_changed: Option<u64>,
    /// Whether a transaction may have changed that, so that its end or failure changes it back.
    pub(super) lexing_open: bool,
    pub(super) names: SessionNames,
    pub(super) statements: Slots<Rc<Statement>>,
    pub(super) portals: Slots<Rc<Portal>>,
    /// Whether the catalog was changed and the change is not committed yet, as far as is known.
    pub(super) catalog_changed: bool,
    /// Relations that the catalog did not know although it was read anew for them.
    pub(super) looked_up: HashSet<String>,
    /// Cursors that SQL declared.
    pub(super) cursors: HashMap<Box<[u8]>, Cursor>,
    /// Parse messages of this walk whose text no event holds yet.
    pub(super) unrecorded: Vec<(Box<[u8]>, Rc<Statement>)>,

    pub(super) answers: Answers,
    pub(super) copies: Copies,
    pub(super) copy_out: Option<CopyOut>,
    /// The last Execute that no ReadyForQuery has followed yet: until then an error undoes what it did.
    pub(super) uncertain: Option<u64>,
    /// Transaction status of the last ReadyForQuery.
    pub(super) status: u8,
    pub(super) client_within: Within,
    pub(super) target_within: Within,
    /// Whether the client said goodbye.
    pub terminated: bool,
    /// Messages of the target that were walked, without rows.
    pub heard: u64,
    /// The same when the walk of the client met what it cannot judge before the target has answered more.
    pub waits_since: Option<u64>,

    /// Statements of the current batch that have ended well; its commit can still fail.
    pub(super) uncommitted: Vec<Rc<Recorded>>,
    pub(super) statement_no: i64,
    pub(super) correlation: Option<Id16>,
    correlation_fixed: bool,
    pub(super) current: Current,
    pub(super) stored_rows: i64,
    pub(super) stored_bytes: i64,
    pub(super) kept: Rc<Cell<usize>>,
    pub(super) digester: blake3::Hasher,
    pub(super) row_digester: blake3::Hasher,
    pub(super) scratch: Vec<u8>,
}

impl Session {
    /// The state of a session that is ready for its first query.
    pub fn new(parts: Parts) -> Self {
        let hasher = parts.pen.key().hasher();
        let search_path = match &parts.search_path {
            Some(path) => SearchPath::parse(path, parts.user.as_deref()),
            None => SearchPath::Unknown,
        };
        let user = parts.user.map(Into::into);
        let temporary = Arc::default();
        let settings =
            Settings { search_path, user, temporary, own_code: false, standard_conforming_strings: true };
        let mut session = Self {
            dirty: true,
            recording: parts.recording,
            max_statement_bytes: parts.max_statement_bytes,
            quota: parts.quota,
            inspector: parts.inspector,
            catalog: parts.catalog,
            generation: 0,
            principal: parts.principal,
            target: parts.target,
            settings,
            utf8: false,
            lexing_changed: None,
            lexing_open: false,
            names: SessionNames::default(),
            statements: Slots::default(),
            portals: Slots::default(),
            catalog_changed: false,
            looked_up: HashSet::new(),
            cursors: HashMap::new(),
            unrecorded: Vec::new(),
            answers: Answers::default(),
            copies: Copies::default(),
            copy_out: None,
            uncertain: None,
            status: b'I',
            client_within: Within::Frames,
            target_within: Within::Frames,
            terminated: false,
            heard: 0,
            waits_since: None,
            uncommitted: Vec::new(),
            statement_no: 0,
            correlation: parts.correlation,
            correlation_fixed: parts.correlation_fixed,
            current: Current::default(),
            stored_rows: 0,
            stored_bytes: 0,
            kept: Rc::default(),
            digester: hasher.clone(),
            row_digester: hasher,
            scratch: Vec::new(),
            pen: parts.pen,
        };
        for (name, value) in &parts.parameters {
            session.parameter(name, value);
        }
        session
    }

    /// Whether the target owes nothing and no transaction is open.
    pub fn is_idle(&self) -> bool {
        self.answers.is_empty() && self.status == b'I' && self.copies.is_empty()
    }

    /// Whether the target owes nothing.
    pub fn is_quiet(&self) -> bool {
        self.answers.is_empty()
    }

    /// Whether a message of the gateway's own may follow what the target has sent.
    pub fn at_boundary(&self) -> bool {
        matches!(self.target_within, Within::Frames)
    }

    /// Whether every message of the client has come whole, as far as it was walked.
    pub fn is_between_messages(&self) -> bool {
        matches!(self.client_within, Within::Frames)
    }

    /// Whether a long message of the client has come in part.
    pub fn spills(&self) -> bool {
        matches!(self.client_within, Within::Spilling(_))
    }

    /// Whether a message of the gateway's own may follow what the client has sent.
    pub fn at_client_boundary(&self) -> bool {
        matches!(self.client_within, Within::Frames | Within::Spilling(_))
    }

    /// Whether the principal may go on.
    pub fn still_valid(&self, directory: &Directory, now_ns: i64) -> Result<(), Ended> {
        directory.may_still_reach(&self.principal, &self.target, now_ns)
    }

    /// The pen, for the end.
    pub fn into_pen(self) -> SessionPen {
        self.pen
    }

    /// Appends that a limit was reached.
    pub(super) fn limit_reached(
        &mut self,
        name: &str,
        limit: usize,
        observed: usize,
        action: &str,
    ) -> Result<(), RecordingError> {
        let event = ControlLimit {
            limit_name: name.to_owned(),
            limit_value: count(limit),
            observed: count(observed),
            action: action.to_owned(),
        };
        self.pen.event(event.into(), None, None)?;
        self.dirty = true;
        Ok(())
    }

    /// The statement that runs now.
    pub(super) fn running(&self) -> Option<Rc<Recorded>> {
        self.answers.running()
    }

    /// Follows a parameter that the target reports.
    pub(super) fn parameter(&mut self, name: &[u8], value: &[u8]) {
        match name {
            b"standard_conforming_strings" => self.settings.standard_conforming_strings = value == b"on",
            b"client_encoding" => self.utf8 = value == b"UTF8",
            // Reported from PostgreSQL 18 on.
            b"search_path" => {
                self.settings.search_path = match std::str::from_utf8(value) {
                    Ok(path) => SearchPath::parse(path, self.settings.user.as_deref()),
                    Err(_) => SearchPath::Unknown,
                };
            }
            b"application_name" if !self.correlation_fixed => {
                let id = std::str::from_utf8(value).ok().and_then(correlation::of_application_name);
                self.correlation = id.map(|id| self.pen.tenant_key().correlation(&id));
            }
            _ => {}
        }
    }

    /// Gives every statement that has none its final result. Nothing follows but the end.
    pub fn conclude(&mut self) -> Result<(), RecordingError> {
        self.end_copies("cut")?;
        while let Some(owed) = self.answers.pop() {
            match owed {
                Owed::Query(run) | Owed::Call(run) | Owed::Execute(run) => {
                    let several = run.portal.is_none();
                    // A text with several statements has a result for each.
                    let left = several && run.recorded.results.get() < run.recorded.facts.statement_count;
                    let unended = !run.recorded.finished.get() || self.current.bytes > 0 || left;
                    if unended && !run.failed {
                        let recorded = match left {
                            true => run.recorded,
                            false => self.again(run.recorded, run.portal.as_deref())?,
                        };
                        self.result(&recorded, Ending::plain("cut"), Some(run.started_ns))?;
                    }
                }
                Owed::Bind { portal, .. } if !portal.recorded.finished.get() => {
                    self.result(&portal.recorded, Ending::plain("cut"), None)?;
                }
                _ => {}
            }
        }
        let portals: Vec<_> = self.portals.drain().collect();
        for portal in portals {
            self.abandon(&portal.recorded)?;
        }
        Ok(())
    }

    /// Appends what ended the session, where that is more than a goodbye.
    pub fn explain(&mut self, end: &End) -> Result<(), RecordingError> {
        let Some((event, detail)) = end.event() else { return Ok(()) };
        let mut content = self.pen.content();
        let pairs = [("explanation", detail.as_bytes())];
        let bytes = bodycam_record::content::structured::encode_pairs(pairs);
        self.pen.put(&mut content, ContentKind::Detail, &bytes)?;
        self.pen.event(event, None, Some(content))?;
        self.dirty = true;
        Ok(())
    }

    /// What a prepared statement means now: the target plans it anew when its catalog has changed, and so its text
    /// is judged anew. Where only another text is at hand, [`Session::bind`] doubts it.
    pub(super) async fn judge_anew(&mut self, statement: &Statement) -> Result<(), End> {
        let (before, meaning) = {
            let meant = statement.meant.borrow();
            (meant.generation, meant.catalog)
        };
        if before != 0 && before == self.catalog.generation() {
            self.names.catalog_means(meaning);
            return Ok(());
        }
        let catalog = self.catalog.current();
        self.names.catalog_means(catalog.meaning());
        if before == 0 {
            return Ok(());
        }
        let facts = statement.facts();
        let whole = facts.redacted.is_none() && facts.references.is_empty() && facts.fingerprint.is_some();
        let text = statement.text.as_sent().filter(|text| {
            // Its constants were read when it was prepared, under settings of that time.
            whole && !text.contains('\\') && (self.utf8 || text.is_ascii())
        });
        if let Some(text) = text {
            let facts = self.inspect_with(text, &catalog).await;
            let (facts, charge) = self.keep(facts)?;
            let (generation, catalog) = (catalog.generation(), catalog.meaning());
            *statement.meant.borrow_mut() = Meaning { facts, generation, catalog, _charge: charge };
        }
        Ok(())
    }

    /// The facts of a text, with those of the names that it uses; none when what it means depends on an
    /// answer on its way.
    pub(super) async fn analyse(&mut self, text: &[u8]) -> Option<Arc<Facts>> {
        let mut readable = std::str::from_utf8(text).ok().filter(|t| self.utf8 || t.is_ascii());
        if let Some(changed) = self.lexing_changed
            && !self.copies.client_copies()
        {
            let window = self.answers.window();
            let ambiguous = text.contains(&b'\\') || !text.is_ascii();
            if window.oldest >= window.batch && changed < window.batch {
                // Everything up to the last ReadyForQuery was heard, parameters as well.
                self.lexing_changed = None;
            } else if ambiguous && changed < window.batch {
                return None;
            } else if ambiguous {
                readable = None;
            }
        }
        let facts = match readable {
            Some(text) => {
                let facts = self.inspect(text).await;
                if self.wants_catalog(&facts) {
                    self.catalog.outdated();
                    self.catalog.up_to_date(CATALOG_PATIENCE).await;
                    self.inspect(text).await
                } else {
                    facts
                }
            }
            None => {
                // Another encoding may lex differently; only what must not be stored is looked for.
                let text = String::from_utf8_lossy(text);
                let mut redacted = self.inspect(&text).await.redacted.clone();
                let other = !self.settings.standard_conforming_strings;
                if redact_secrets(&text, other, false, &|_| Vec::new()).text != text {
                    // Read the other way it holds secrets in other places.
                    redacted = Some("".into());
                }
                Arc::new(Facts { redacted, ..Facts::unparsed("unparsed") })
            }
        };
        if facts.references.is_empty() {
            return Some(facts);
        }
        if self.must_wait_for_names_of(&facts) {
            return None;
        }
        let mut facts = self.names.follow(&facts);
        let executes = facts.references.iter().any(|r| matches!(r, Reference::Executes(_)));
        let doubtful = facts.opaque.contains(&EXECUTE_UNKNOWN);
        if executes && (doubtful || facts.secret_parameters != SecretParameters::None) {
            // What it hands over stands where a secret does, as far as anybody can tell.
            let text = String::from_utf8_lossy(text);
            let safe = without_literals(&text, self.settings.standard_conforming_strings);
            Arc::make_mut(&mut facts).redacted = Some(safe.into());
        }
        Some(facts)
    }

    /// Whether the catalog should be read anew for a relation that it does not know. Each is looked up once,
    /// and not while only this session's own transaction can see it.
    fn wants_catalog(&mut self, facts: &Facts) -> bool {
        let relations = facts.relations_read.iter().chain(&facts.relations_written);
        let unknown = relations.filter(|name| name.starts_with('?'));
        let mut wanted = false;
        for name in unknown {
            if self.looked_up.len() < MAX_LOOKED_UP && !self.looked_up.contains(name) {
                self.looked_up.insert(name.clone());
                wanted = true;
            }
        }
        wanted && !self.catalog_changed
    }

    async fn inspect(&mut self, text: &str) -> Arc<Facts> {
        let catalog = self.catalog.current();
        self.names.catalog_means(catalog.meaning());
        self.generation = catalog.generation();
        self.inspect_with(text, &catalog).await
    }

    async fn inspect_with(&self, text: &str, catalog: &Arc<CatalogSnapshot>) -> Arc<Facts> {
        self.inspector.analyse(text, &self.settings, catalog, self.principal.principal_ref).await
    }

    /// Follows a statement that is sent on into the settings.
    pub(super) fn follow_settings(&mut self, facts: &Facts) {
        self.lexing_open |= facts.changes_lexing();
        if self.lexing_open {
            self.lexing_changed = Some(self.answers.sent());
        }
        if !facts.setting_changes.is_empty() {
            // While it skips to a Sync, the target does not even run it.
            let in_transaction = self.status != b'I'
                || !self.answers.is_empty()
                || self.answers.skipping
                || self.uncertain.is_some();
            self.settings.follow(facts, in_transaction);
        }
        if facts.opaque.contains(&EXECUTE_UNKNOWN) {
            self.settings.anything_changed();
        }
    }
}
