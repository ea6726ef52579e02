//! `events ls` and `events grep`: events of one session, or of all.

use std::io::Write;

use regex::RegexBuilder;
use serde_json::{Value, json};

use super::sessions::find;
use super::{Column, ListOptions, Outcome, print};
use crate::error::ReplayError;
use crate::event::{Direction, EventItem};
use crate::matcher::{Matcher, Row};
use crate::shown::Shown;
use crate::source::{EventInSession, EvidenceBySeq, SessionItem, Source, each_window};
use crate::units;

/// Events that are read at a time, with their texts.
const WINDOW: i64 = 2048;

/// What is listed.
#[derive(Debug, Clone, Default)]
pub struct EventsOptions {
    /// Filter, limit and format.
    pub list: ListOptions,
    /// Only events of this session.
    pub session: Option<String>,
    /// Only events with this text (statement, URL, error, host, relation …), without regard to case.
    pub pattern: Option<String>,
    /// Whether the pattern is a regex.
    pub regex: bool,
}

struct Hit {
    session: String,
    who: Shown,
    target: String,
    started_ns: i64,
    item: EventItem,
}

fn columns() -> [Column<Hit>; 11] {
    [
        Column::left("session", |h| Shown::of(&h.session), |h| json!(h.session)),
        Column::right("seq", |h| Shown::of(&h.item.seq().to_string()), |h| json!(h.item.seq())),
        Column::left(
            "at",
            |h| Shown::of(&units::moment(h.item.event.envelope.ts_wall_ns)),
            |h| json!(units::instant(h.item.event.envelope.ts_wall_ns)),
        ),
        Column::right(
            "offset",
            |h| Shown::of(&units::offset(h.item.event.envelope.ts_wall_ns.saturating_sub(h.started_ns))),
            |h| json!(h.item.event.envelope.ts_wall_ns.saturating_sub(h.started_ns) / 1_000_000),
        ),
        Column::left("principal", |h| h.who.clone(), |h| json!(h.who.as_str())),
        Column::left("target", |h| Shown::of(&h.target), |h| json!(h.target)),
        Column::left("kind", |h| Shown::of(h.item.kind()), |h| json!(h.item.kind())),
        Column::left("verdict", |h| Shown::of(h.item.verdict().unwrap_or("")), |h| json!(h.item.verdict())),
        Column::right(
            "rows",
            |h| Shown::of(&h.item.rows().map(units::count).unwrap_or_default()),
            |h| json!(h.item.rows()),
        ),
        Column::right(
            "bytes",
            |h| Shown::of(&h.item.bytes().map(units::size).unwrap_or_default()),
            |h| json!(h.item.bytes()),
        ),
        Column::left(
            "summary",
            |h| h.item.summary(),
            |h| match h.item.words() {
                Some(words) => json!(words),
                None => json!(h.item.summary().as_str()),
            },
        ),
    ]
}

/// Prints the events that pass the filter and hold the pattern: sessions oldest first, events in order.
pub fn events(
    source: &dyn Source,
    options: &EventsOptions,
    out: &mut dyn Write,
) -> Result<Outcome, ReplayError> {
    let list = &options.list;
    let matcher = Matcher::new(&list.filter, &list.saved, list.now_ns, None)?;
    let pattern = options.pattern.as_deref().map(|p| Pattern::new(p, options.regex)).transpose()?;
    let sessions = match &options.session {
        Some(id) => vec![find(source, id)?],
        None => {
            let mut all = source.sessions(usize::MAX)?;
            all.sort_by_key(|s| (s.row.started_ns, s.row.session_id));
            all
        }
    };
    let evidence = Evidence::of(source)?;
    let mut hits = Vec::new();
    let mut total = 0;
    for session in &sessions {
        let evidence = evidence.of_session(session);
        each_window(source, session, 0, WINDOW, true, |events| {
            for item in events {
                let row = EventInSession { session, event: &item, evidence: &evidence };
                let found = matcher.matches(&row) && pattern.as_ref().is_none_or(|p| p.is_in(&row));
                if found && hits.len() < list.limit {
                    hits.push(Hit {
                        session: session.row.session_id.to_string(),
                        who: session.who(),
                        target: session.row.target.clone(),
                        started_ns: session.row.started_ns,
                        item,
                    });
                }
                total += usize::from(found);
            }
            Ok(true)
        })?;
    }
    print(out, list.format, &columns(), &hits, total)
}

/// The findings, by session and event.
pub(crate) struct Evidence(Vec<crate::source::Finding>);

impl Evidence {
    pub(crate) fn of(source: &dyn Source) -> Result<Self, ReplayError> {
        source.findings().map(Evidence)
    }

    pub(crate) fn of_session(&self, session: &SessionItem) -> EvidenceBySeq {
        let id = session.row.session_id;
        let mut by_seq = EvidenceBySeq::new();
        for finding in &self.0 {
            for (_, seq) in finding.evidence.iter().filter(|(session, _)| *session == id) {
                let entry = (finding.row.rule.clone(), finding.row.severity.clone());
                let entries = by_seq.entry(*seq).or_default();
                if !entries.contains(&entry) {
                    entries.push(entry);
                }
            }
        }
        by_seq
    }
}

enum Pattern {
    Text(String),
    Regex(regex::Regex),
}

impl Pattern {
    fn new(text: &str, is_regex: bool) -> Result<Self, ReplayError> {
        if !is_regex {
            return Ok(Pattern::Text(text.to_lowercase()));
        }
        let built = RegexBuilder::new(text).case_insensitive(true).size_limit(1 << 20).build();
        built.map(Pattern::Regex).map_err(|err| {
            let reason = err.to_string();
            let reason = reason.lines().last().unwrap_or_default();
            ReplayError::Pattern(format!(
                "'{}' is not a regex: {}",
                Shown::limit(text, 200),
                Shown::of(reason)
            ))
        })
    }

    fn is_in(&self, row: &dyn Row) -> bool {
        row.words().iter().any(|word| match self {
            Pattern::Text(text) => word.to_lowercase().contains(text),
            Pattern::Regex(regex) => regex.is_match(word),
        })
    }
}

/// How a direction is drawn.
pub(crate) fn arrow(direction: Direction, ascii: bool) -> &'static str {
    match (direction, ascii) {
        (Direction::In, false) => "→",
        (Direction::Out, false) => "←",
        (Direction::In, true) => ">",
        (Direction::Out, true) => "<",
        (Direction::Gateway, _) => " ",
    }
}

/// A JSON value of a body's field.
pub(crate) fn field_json(value: bodycam_record::value::Value) -> Value {
    use bodycam_record::value::Value as Field;
    match value {
        Field::Absent => Value::Null,
        Field::Bool(b) => json!(b),
        Field::Int(n) => json!(n),
        Field::Text(text) => json!(text),
        Field::Bytes(bytes) => json!(bodycam_record::ids::to_hex(&bytes)),
        Field::Id16(id) => json!(id),
        Field::Digest(digest) => json!(digest),
        Field::IntList(list) => json!(list),
        Field::TextList(list) => json!(list),
    }
}
