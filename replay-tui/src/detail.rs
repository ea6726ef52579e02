//! Everything that is known about one event: facts, statement with binds, result, messages, bytes.

use bodycam_record::ContentKind;
use bodycam_record::content::{postgres, structured};
use bodycam_record::kinds::Body;
use bodycam_record::value::Value;

use crate::error::ReplayError;
use crate::event::EventItem;
use crate::shown::Shown;
use crate::source::{Content, SessionItem, Source};
use crate::statement::{self, Line};
use crate::table::ResultTable;
use crate::{units, values};

/// Events after a statement among which its result is looked for.
const RESULT_WITHIN: i64 = 64;
/// Longest value of a fact, in characters.
const FACT_LIMIT: usize = 2000;

/// The details of one event.
#[derive(Debug, Clone, Default)]
pub struct Detail {
    /// Number of the event.
    pub seq: i64,
    /// Name of its kind.
    pub kind: &'static str,
    /// The verdict, when there is one: what the decision card shows.
    pub decision: Option<Decision>,
    /// The statement, laid out; of the statement that it answers, for a result.
    pub statement: Vec<Line>,
    /// Names and values.
    pub facts: Vec<(&'static str, Shown)>,
    /// Names and values that were recorded as content (heads, startup parameters), and messages.
    pub content: Vec<(Shown, Shown)>,
    /// The result's rows, where they were recorded.
    pub table: Option<ResultTable>,
    /// What is to be said about content that is not shown.
    pub notes: Vec<String>,
    /// The content as bytes, for the raw and hex views.
    pub raw: Vec<u8>,
    /// Whether the content fits the commitment in the event; none without content.
    pub committed: Option<bool>,
}

/// What was decided, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// `allow` or `deny`.
    pub verdict: Shown,
    /// Why, for a refusal.
    pub reason: Option<Shown>,
    /// The first digits of the policy's digest.
    pub policy: Shown,
}

/// The details of event `seq` of a session; none when it is not there.
pub fn of(source: &dyn Source, session: &SessionItem, seq: i64) -> Result<Option<Detail>, ReplayError> {
    let id = session.row.session_id;
    let Some(item) = source.events(id, seq, seq.saturating_add(1))?.into_iter().next() else {
        return Ok(None);
    };
    let mut detail = Detail { seq, kind: item.kind(), ..Detail::default() };
    detail.decision = decision(&item);
    detail.facts = facts(&item);
    let content = content_of(source, session, &item)?;
    detail.take_content(&item, content.as_ref());
    match &item.body {
        Some(Body::SqlStatement(b)) => {
            detail.statement = statement_lines(&item, content.as_ref());
            if b.content_cut {
                detail.notes.push("only a prefix of the statement or its binds was recorded".into());
            }
            let to = seq.saturating_add(RESULT_WITHIN);
            let answers = source.bare_events(id, seq.saturating_add(1), to)?;
            let answer = answers.iter().find(|e| {
                e.event.envelope.parent_seq == Some(seq)
                    && matches!(e.body, Some(Body::SqlResult(_) | Body::SqlCopy(_)))
            });
            if let Some(answer) = answer {
                let content = content_of(source, session, answer)?;
                detail.facts.push(("answered by", Shown::of(&format!("#{}", answer.seq()))));
                detail.facts.extend(outcome_facts(answer));
                detail.take_result(answer, content.as_ref());
            }
        }
        Some(Body::SqlResult(_) | Body::SqlCopy(_)) => {
            if let Some(parent) = item.event.envelope.parent_seq {
                let parents = source.events(id, parent, parent.saturating_add(1))?;
                if let Some(parent) = parents.first() {
                    let content = content_of(source, session, parent)?;
                    detail.statement = statement_lines(parent, content.as_ref());
                }
            }
            detail.take_result(&item, content.as_ref());
        }
        _ => {}
    }
    Ok(Some(detail))
}

fn content_of(
    source: &dyn Source,
    session: &SessionItem,
    item: &EventItem,
) -> Result<Option<Content>, ReplayError> {
    match item.event.envelope.content_no {
        Some(no) => source.content(session.row.session_id, no).map(Some),
        None => Ok(None),
    }
}

impl Detail {
    /// Takes over what content says beside statements and rows.
    fn take_content(&mut self, item: &EventItem, content: Option<&Content>) {
        let Some(content) = content else { return };
        if let Some(closed) = content.closed {
            self.notes.push(closed.message().to_owned());
            return;
        }
        self.committed = Some(content.commitment == item.event.envelope.content);
        if content.parts.is_empty() {
            self.notes.push("its content is not in the lake (yet, or erased)".into());
        }
        for (kind, bytes) in &content.parts {
            match kind {
                ContentKind::SqlText | ContentKind::Rows | ContentKind::CopyData | ContentKind::Columns => {}
                ContentKind::Binds => {}
                ContentKind::Url => {
                    self.content.push((Shown::of("url"), Shown::bytes_limit(bytes, FACT_LIMIT)))
                }
                ContentKind::Correlation => {
                    self.content.push((Shown::of("correlation id"), Shown::bytes_limit(bytes, FACT_LIMIT)));
                }
                ContentKind::Error | ContentKind::Message => self.content.extend(message(bytes)),
                ContentKind::RequestHead
                | ContentKind::ResponseHead
                | ContentKind::SessionFacts
                | ContentKind::Detail
                | ContentKind::Names => match structured::decode_pairs(bytes) {
                    Ok(pairs) => self.content.extend(pairs.into_iter().map(|(name, value)| {
                        (Shown::limit(&name, 200), Shown::bytes_limit(&value, FACT_LIMIT))
                    })),
                    Err(_) => self.notes.push(format!("its {} does not decode", kind.name())),
                },
            }
            self.raw.extend_from_slice(bytes);
        }
    }

    /// Takes over a result's rows or what was said instead of them.
    fn take_result(&mut self, item: &EventItem, content: Option<&Content>) {
        let parts = content.filter(|c| c.closed.is_none()).map(|c| &c.parts);
        let part = |kind| parts.and_then(|p| p.get(&kind));
        match &item.body {
            Some(Body::SqlResult(b)) => {
                if let Some(rows) = part(ContentKind::Rows) {
                    let description = part(ContentKind::Columns).map(Vec::as_slice);
                    let (formats, types) = (&b.column_formats, &b.column_types);
                    let table =
                        ResultTable::new(description, rows.clone(), formats, types, b.rows, b.rows_cut);
                    self.table = Some(table);
                } else if b.statement_kind == "copy" {
                    self.notes.push("what was copied is the COPY event before this one".to_owned());
                } else if b.rows > 0 {
                    self.notes.push(match b.rows_stored {
                        0 => format!(
                            "{} not stored (record.rows = \"digest\"): counts and a keyed digest only",
                            units::plural(b.rows, "row", "rows")
                        ),
                        _ => "the stored rows cannot be opened".to_owned(),
                    });
                }
                if let Some(error) = part(ContentKind::Error)
                    && self.seq != item.seq()
                {
                    self.content.extend(message(error));
                }
                if let Some(closed) = content.and_then(|c| c.closed)
                    && self.seq != item.seq()
                {
                    self.notes.push(closed.message().to_owned());
                }
            }
            Some(Body::SqlCopy(b)) => {
                if let Some(data) = part(ContentKind::CopyData) {
                    self.notes.push(format!(
                        "{} of {} COPY data stored; press p for it",
                        units::size(b.bytes_stored),
                        units::size(b.bytes)
                    ));
                    self.raw.clone_from(data);
                }
            }
            _ => {}
        }
    }
}

/// The statement with its binds in place, from content; from the literal-free text when that is all there is.
pub fn statement_lines(item: &EventItem, content: Option<&Content>) -> Vec<Line> {
    let parts = content.filter(|c| c.closed.is_none()).map(|c| &c.parts);
    let binds: Vec<Shown> = parts
        .and_then(|p| p.get(&ContentKind::Binds))
        .map(|b| structured::decode_binds(b).iter().map(values::bind).collect())
        .unwrap_or_default();
    match parts.and_then(|p| p.get(&ContentKind::SqlText)) {
        Some(text) => statement::layout(&String::from_utf8_lossy(text), &binds),
        None => item.words().map(|t| statement::layout(t, &binds)).unwrap_or_default(),
    }
}

/// The fields of a server's message that say something.
fn message(body: &[u8]) -> Vec<(Shown, Shown)> {
    let name = |code: u8| match code {
        b'V' => Some("severity"),
        b'C' => Some("sqlstate"),
        b'M' => Some("message"),
        b'D' => Some("detail"),
        b'H' => Some("hint"),
        b'W' => Some("where"),
        b's' => Some("schema"),
        b't' => Some("table"),
        b'c' => Some("column"),
        b'n' => Some("constraint"),
        _ => None,
    };
    let fields = postgres::error_fields(body);
    fields
        .into_iter()
        .filter_map(|(code, text)| Some((Shown::of(name(code)?), Shown::bytes_limit(&text, FACT_LIMIT))))
        .collect()
}

/// What was decided about an event.
pub fn decision(item: &EventItem) -> Option<Decision> {
    let verdict = item.verdict()?;
    let reason = match item.body.as_ref()? {
        Body::HttpRequest(b) => b.refusal.clone(),
        Body::HttpTunnelOpened(b) => b.refusal.clone(),
        Body::ControlDecision(b) => Some(format!("{} ({})", b.reason, b.code)),
        _ => None,
    };
    Some(Decision {
        verdict: Shown::of(verdict),
        reason: reason.map(|r| Shown::of(&r)),
        policy: Shown::of(item.event.envelope.policy_digest.to_hex().get(..12).unwrap_or_default()),
    })
}

/// The facts of an event: the fields of its body that say something to a person, in their order.
pub fn facts(item: &EventItem) -> Vec<(&'static str, Shown)> {
    let Some(body) = &item.body else { return Vec::new() };
    let table = body.table();
    table
        .fields
        .iter()
        .zip(body.values())
        .filter_map(|(field, value)| Some((field.name, fact(field.name, value)?)))
        .collect()
}

/// The facts of a result that its statement's details repeat.
fn outcome_facts(item: &EventItem) -> Vec<(&'static str, Shown)> {
    let wanted = ["outcome", "sqlstate", "tag", "rows", "bytes", "relations_seen", "duration_us"];
    facts(item).into_iter().filter(|(name, _)| wanted.contains(name)).collect()
}

/// A field's value for a person; none when it says nothing.
fn fact(name: &str, value: Value) -> Option<Shown> {
    let text = match value {
        Value::Absent => return None,
        Value::Bool(b) => if b { "yes" } else { "no" }.to_owned(),
        Value::Int(n) if name.ends_with("_us") => units::micros(n),
        Value::Int(n) if name.ends_with("bytes") || name.starts_with("bytes") || name == "content_length" => {
            match n {
                0 => "0".to_owned(),
                1..1024 => units::size(n),
                n => format!("{} ({})", units::size(n), units::count(n)),
            }
        }
        Value::Int(n) if name == "port" || name == "status" => n.to_string(),
        Value::Int(n) => units::count(n),
        Value::Text(text) if text.is_empty() => return None,
        Value::Text(text) => text,
        Value::Bytes(_) | Value::Digest(_) => return None,
        Value::Id16(id) if name == "fingerprint" || name == "correlation" || name == "credential" => {
            id.to_hex()
        }
        Value::Id16(_) => return None,
        Value::IntList(list) if list.is_empty() || name.starts_with("column_") => return None,
        Value::IntList(list) => list.iter().map(|n| n.to_string()).collect::<Vec<_>>().join(", "),
        Value::TextList(list) if list.is_empty() => return None,
        Value::TextList(list) => list.join(", "),
    };
    Some(Shown::limit(&text, FACT_LIMIT))
}
