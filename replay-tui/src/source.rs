//! Where sessions come from. The screens and the twins know only this.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bodycam_lake::columns::findings::FindingRow;
use bodycam_lake::columns::sessions::SessionRow;
use bodycam_record::filter::Field;
use bodycam_record::{ContentKind, SessionId};

use crate::error::ReplayError;
use crate::event::EventItem;
use crate::matcher::{Cell, Row};
use crate::shown::Shown;

mod lake;
mod names;

pub use lake::LakeSource;

/// A place to read recordings from. Calls block; workers make them.
pub trait Source: Send + Sync {
    /// What the header calls it.
    fn name(&self) -> String;
    /// Looks for what was committed since; whether there was anything.
    fn refresh(&self) -> Result<bool, ReplayError>;
    /// The sessions with the newest activity, newest first, at most `limit`; without their findings, which
    /// [`attach`] adds.
    fn sessions(&self, limit: usize) -> Result<Vec<SessionItem>, ReplayError>;
    /// One session, without its findings.
    fn session(&self, session: SessionId) -> Result<Option<SessionItem>, ReplayError>;
    /// The events with `seq` in `[from, to)`, in order, with their texts.
    fn events(&self, session: SessionId, from: i64, to: i64) -> Result<Vec<EventItem>, ReplayError>;
    /// The events with `seq` in `[from, to)`, in order, without texts: no content is read.
    fn bare_events(&self, session: SessionId, from: i64, to: i64) -> Result<Vec<EventItem>, ReplayError>;
    /// A content of a session.
    fn content(&self, session: SessionId, no: i64) -> Result<Content, ReplayError>;
    /// All findings, highest severity first and then newest, each in its highest revision.
    fn findings(&self) -> Result<Vec<Finding>, ReplayError>;
}

/// Windows without events after which a session's events are taken to end, whatever its row claims.
const EMPTY_WINDOWS: usize = 64;

/// Events of a window without texts, at most: they come to some 50 MB.
const MAX_WINDOW: i64 = 32 * 1024;

/// Calls `each` with the events of a session, `window` numbers at a time, from `from` on; with their texts
/// where `texts` says so, else in windows that grow, so that the first comes soon and the last soon after.
/// Ends early when `each` gives false.
pub fn each_window(
    source: &dyn Source,
    session: &SessionItem,
    from: i64,
    window: i64,
    texts: bool,
    mut each: impl FnMut(Vec<EventItem>) -> Result<bool, ReplayError>,
) -> Result<(), ReplayError> {
    let id = session.row.session_id;
    let mut at = from;
    let mut empty = 0;
    let mut window = window;
    loop {
        let to = at.saturating_add(window);
        let events = if texts { source.events(id, at, to)? } else { source.bare_events(id, at, to)? };
        at = to;
        if !texts {
            window = (window * 2).min(MAX_WINDOW);
        }
        empty = if events.is_empty() { empty + 1 } else { 0 };
        // A gap in the numbers is possible in an altered lake: one empty window is not yet the end.
        let done = empty > 0 && (at >= session.row.events || empty >= EMPTY_WINDOWS);
        if done || !each(events)? {
            return Ok(());
        }
    }
}

/// A session as lists show it.
#[derive(Debug, Clone)]
pub struct SessionItem {
    /// Its row in the index.
    pub row: SessionRow,
    /// Name of its principal, when the directory could be opened.
    pub principal: Option<Arc<str>>,
    /// Rules and severities of the findings that name it.
    pub findings: Vec<(String, String)>,
}

/// Puts rules and severities of findings beside the sessions that they name.
pub fn attach(sessions: &mut [SessionItem], findings: &[Finding]) {
    let mut by_session: HashMap<&str, Vec<(String, String)>> = HashMap::new();
    for finding in findings {
        for session in &finding.row.session_ids {
            let entry = (finding.row.rule.clone(), finding.row.severity.clone());
            by_session.entry(session).or_default().push(entry);
        }
    }
    for session in sessions {
        let id = session.row.session_id.to_string();
        session.findings = by_session.get(id.as_str()).cloned().unwrap_or_default();
    }
}

/// A finding with the name of its principal.
#[derive(Debug, Clone)]
pub struct Finding {
    /// Its row.
    pub row: FindingRow,
    /// Name of its principal, when the directory could be opened.
    pub principal: Option<Arc<str>>,
    /// Its evidence, in the order that the rule gave.
    pub evidence: Vec<(SessionId, i64)>,
}

/// A content, as far as it could be opened.
#[derive(Debug, Clone, Default)]
pub struct Content {
    /// Its parts by kind, chunks joined.
    pub parts: BTreeMap<ContentKind, Vec<u8>>,
    /// Why there are none.
    pub closed: Option<Closed>,
    /// The commitment of the chunks as read, to compare with the event's.
    pub commitment: Option<bodycam_record::Digest>,
}

/// Why content stays closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// No tenant key was given.
    NoTenantKey,
    /// The session's key is wrapped under another tenant key.
    WrongTenantKey,
    /// The session's key is not in the lake: erased, or not yet committed.
    NoSessionKey,
    /// A chunk was altered or belongs elsewhere.
    Altered,
}

impl Closed {
    /// What the reader is told.
    pub fn message(self) -> &'static str {
        match self {
            Closed::NoTenantKey => "content not opened: no tenant key was given (--tenant-key FILE)",
            Closed::WrongTenantKey => "content not opened: the tenant key does not open this session's key",
            Closed::NoSessionKey => {
                "content not opened: the session's key is not in the lake (erased, or not yet committed)"
            }
            Closed::Altered => "content does not open with the session's key: ALTERED, run `bodycam verify`",
        }
    }
}

impl SessionItem {
    /// Name of the principal, or the start of its pseudonym.
    pub fn who(&self) -> Shown {
        who(self.principal.as_deref(), &self.row.principal_ref)
    }

    /// How long it lasted or has lasted.
    pub fn duration_ns(&self) -> i64 {
        let end = self.row.ended_ns.unwrap_or(self.row.last_activity_ns);
        end.saturating_sub(self.row.started_ns).max(0)
    }

    /// Bytes that left: to the client for SQL, from the client to the target for HTTP.
    pub fn bytes_left(&self) -> i64 {
        match self.row.protocol.as_str() {
            "http" => self.row.bytes_in,
            _ => self.row.bytes_out,
        }
    }

    /// Whether it goes on.
    pub fn is_live(&self) -> bool {
        self.row.state == "open"
    }

    /// The fields that a filter can ask of sessions.
    pub const FIELDS: &'static [Field] = &[
        Field::Principal,
        Field::Target,
        Field::Proto,
        Field::Database,
        Field::Session,
        Field::Correlation,
        Field::State,
        Field::Reason,
        Field::Rows,
        Field::Bytes,
        Field::Dur,
        Field::Events,
        Field::Denies,
        Field::Errors,
        Field::Finding,
        Field::Severity,
        Field::At,
    ];
}

impl Finding {
    /// Name of the principal, or the start of its pseudonym.
    pub fn who(&self) -> Shown {
        match &self.row.principal_ref {
            Some(reference) => who(self.principal.as_deref(), reference),
            None => Shown::default(),
        }
    }
}

fn who(name: Option<&str>, reference: &bodycam_record::PrincipalRef) -> Shown {
    match name {
        Some(name) => Shown::limit(name, 200),
        None => Shown::of(&format!("~{}", reference.to_hex().get(..12).unwrap_or_default())),
    }
}

impl Row for SessionItem {
    fn cell(&self, field: Field) -> Cell<'_> {
        let row = &self.row;
        match field {
            Field::Principal => {
                let mut names = vec![Cow::Owned(row.principal_ref.to_hex())];
                names.extend(self.principal.as_deref().map(Cow::Borrowed));
                Cell::Text(names)
            }
            Field::Target => Cell::text(&row.target),
            Field::Proto => Cell::text(&row.protocol),
            Field::Database => Cell::text(&row.database),
            Field::Session => Cell::Text(vec![row.session_id.to_string().into()]),
            Field::Correlation => match row.correlation {
                Some(id) => Cell::Text(vec![id.to_hex().into()]),
                None => Cell::Absent,
            },
            Field::State => Cell::text(&row.state),
            Field::Reason => Cell::optional(row.end_reason.as_deref()),
            Field::Rows => Cell::Int(row.rows),
            Field::Bytes => Cell::Int(self.bytes_left()),
            Field::Dur => Cell::Int(self.duration_ns()),
            Field::Events => Cell::Int(row.events),
            Field::Denies => Cell::Int(row.denies),
            Field::Errors => Cell::Int(row.errors),
            Field::Finding => findings(&self.findings, |f| &f.0),
            Field::Severity => findings(&self.findings, |f| &f.1),
            Field::At => Cell::Int(row.started_ns),
            _ => Cell::Absent,
        }
    }

    fn words(&self) -> Vec<Cow<'_, str>> {
        let row = &self.row;
        let mut words: Vec<Cow<'_, str>> = vec![
            row.target.as_str().into(),
            row.protocol.as_str().into(),
            row.database.as_str().into(),
            row.state.as_str().into(),
            row.session_id.to_string().into(),
        ];
        words.extend(self.principal.as_deref().map(Cow::Borrowed));
        words.extend(self.findings.iter().map(|(rule, _)| Cow::Borrowed(rule.as_str())));
        words
    }

    fn session_start_ns(&self) -> i64 {
        self.row.started_ns
    }
}

fn findings<'a>(all: &'a [(String, String)], part: impl Fn(&'a (String, String)) -> &'a String) -> Cell<'a> {
    match all {
        [] => Cell::Absent,
        all => Cell::Text(all.iter().map(|f| Cow::Borrowed(part(f).as_str())).collect()),
    }
}

/// Rules and severities of the findings that have an event as evidence, by `seq`.
pub type EvidenceBySeq = HashMap<i64, Vec<(String, String)>>;

/// An event in its session, as a filter sees it.
pub struct EventInSession<'a> {
    /// The session.
    pub session: &'a SessionItem,
    /// The event.
    pub event: &'a EventItem,
    /// The findings of the session's events.
    pub evidence: &'a EvidenceBySeq,
}

impl Row for EventInSession<'_> {
    fn cell(&self, field: Field) -> Cell<'_> {
        use bodycam_record::kinds::Body;
        let item = self.event;
        let body = item.body.as_ref();
        match field {
            Field::Principal
            | Field::Target
            | Field::Proto
            | Field::Database
            | Field::Session
            | Field::State => self.session.cell(field),
            Field::Kind => Cell::text(item.kind()),
            Field::Seq => Cell::Int(item.seq()),
            Field::At => Cell::Int(item.event.envelope.ts_wall_ns),
            Field::Verdict => Cell::optional(item.verdict()),
            Field::Rows => Cell::int(item.rows()),
            Field::Bytes => Cell::int(item.bytes()),
            Field::Dur => Cell::int(item.duration_ns()),
            Field::Sql => match body {
                Some(Body::SqlStatement(_)) => Cell::optional(item.words()),
                _ => Cell::Absent,
            },
            Field::Finding | Field::Severity => match self.evidence.get(&item.seq()) {
                Some(all) if field == Field::Finding => findings(all, |f| &f.0),
                Some(all) => findings(all, |f| &f.1),
                None => Cell::Absent,
            },
            _ => body.map_or(Cell::Absent, |body| names::cell(body, item, field)),
        }
    }

    fn words(&self) -> Vec<Cow<'_, str>> {
        let mut words: Vec<Cow<'_, str>> = vec![self.event.kind().into()];
        words.extend(self.event.words().map(Cow::Borrowed));
        let binds = self.event.binds.iter().enumerate();
        words.extend(binds.map(|(i, bind)| Cow::Owned(format!("${}←{bind}", i + 1))));
        for field in
            [Field::Table, Field::Host, Field::Reason, Field::Outcome, Field::Sqlstate, Field::Finding]
        {
            if let Cell::Text(texts) = self.cell(field) {
                words.extend(texts);
            }
        }
        words
    }

    fn session_start_ns(&self) -> i64 {
        self.session.row.started_ns
    }
}
