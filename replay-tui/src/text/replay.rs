//! `replay SESSION --format text|jsonl`: a session, told from beginning to end.

use std::io::Write;

use bodycam_record::ContentKind;
use bodycam_record::content::structured;
use bodycam_record::kinds::Body;
use serde_json::{Map, Value, json};

use super::events::{Evidence, arrow, field_json};
use super::sessions::{check_chain, find, lines};
use super::{Outcome, json_line};
use crate::detail;
use crate::error::ReplayError;
use crate::event::{EventItem, Mark};
use crate::shown::{Shown, fit, fit_right};
use crate::source::{Content, EvidenceBySeq, SessionItem, Source, each_window};
use crate::table::ResultTable;
use crate::timeline::{Goto, IDLE_NS, Ticker, Timeline};
use crate::{units, values};

/// Events that are read at a time.
const WINDOW: i64 = 1024;
/// Where the text below an event's line starts.
const INDENT: &str = "            ";
/// Widest line of a result's rows.
const ROW_WIDTH: usize = 160;

/// How a replay is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplayFormat {
    /// For people.
    #[default]
    Text,
    /// One event a line, with everything that is known.
    Jsonl,
}

/// What is replayed.
#[derive(Debug, Clone, Default)]
pub struct ReplayText {
    /// The session, or the beginning of its id.
    pub session: String,
    /// From here (`+12:31`, `14:02:11`, `#812`, `50%`); from the start without.
    pub at: Option<String>,
    /// To here, included; to the end without.
    pub to: Option<String>,
    /// How it is printed.
    pub format: ReplayFormat,
    /// Rows of each result that are printed.
    pub rows: usize,
    /// Whether only ASCII is used for our own signs.
    pub ascii: bool,
}

impl std::str::FromStr for ReplayFormat {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(ReplayFormat::Text),
            "jsonl" => Ok(ReplayFormat::Jsonl),
            _ => Err(format!("'{}' is not a format: text or jsonl", Shown::of(text))),
        }
    }
}

/// Prints a session from its first event (or `at`) to its last (or `to`).
pub fn replay(
    source: &dyn Source,
    options: &ReplayText,
    out: &mut dyn Write,
) -> Result<Outcome, ReplayError> {
    let session = find(source, &options.session)?;
    let timeline = timeline(source, &session)?;
    let place = |text: &Option<String>, otherwise: i64| match text {
        None => Ok(otherwise),
        Some(text) => match Goto::parse(text) {
            Some(place) => Ok(place.at_ns(&timeline, session.row.started_ns)),
            None => Err(ReplayError::Position(Shown::limit(text, 100).into())),
        },
    };
    if let Some(at) = options.at.as_deref().and_then(Goto::parse) {
        at.check(&timeline)?;
    }
    let (from_ns, to_ns) = (place(&options.at, i64::MIN)?, place(&options.to, i64::MAX)?);
    let evidence = Evidence::of(source)?.of_session(&session);
    let mut teller = Teller { source, session: &session, options, evidence, last_ns: None, told: 0 };
    if options.format == ReplayFormat::Text {
        teller.header(out)?;
    }
    let mut index = 0;
    each_window(source, &session, 0, WINDOW, true, |events| {
        for item in events {
            let at_ns = timeline.at(index);
            index += 1;
            if from_ns <= at_ns && at_ns <= to_ns {
                teller.tell(&item, at_ns, out)?;
            }
        }
        Ok(true)
    })?;
    out.flush()?;
    Ok(if teller.told == 0 { Outcome::NoMatch } else { Outcome::Match })
}

/// The timeline of a whole session.
pub(crate) fn timeline(source: &dyn Source, session: &SessionItem) -> Result<Timeline, ReplayError> {
    let mut timeline = Timeline::default();
    let mut ticker = Ticker::default();
    each_window(source, session, 0, super::sessions::WINDOW, false, |events| {
        timeline.extend(ticker.ticks(&events));
        Ok(true)
    })?;
    Ok(timeline)
}

struct Teller<'a> {
    source: &'a dyn Source,
    session: &'a SessionItem,
    options: &'a ReplayText,
    evidence: EvidenceBySeq,
    last_ns: Option<i64>,
    told: usize,
}

impl Teller<'_> {
    fn header(&self, out: &mut dyn Write) -> Result<(), ReplayError> {
        let check = check_chain(self.source, self.session)?;
        for (name, value) in lines(self.session, &check) {
            let value = if self.options.ascii { ascii(value.as_str()) } else { value.into() };
            writeln!(out, "{name:<12} {value}")?;
        }
        writeln!(out)?;
        Ok(())
    }

    fn tell(&mut self, item: &EventItem, at_ns: i64, out: &mut dyn Write) -> Result<(), ReplayError> {
        self.told += 1;
        let content = match item.event.envelope.content_no {
            Some(no) => Some(self.source.content(self.session.row.session_id, no)?),
            None => None,
        };
        match self.options.format {
            ReplayFormat::Jsonl => self.json(item, at_ns, content.as_ref(), out),
            ReplayFormat::Text => self.text(item, at_ns, content.as_ref(), out),
        }
    }

    fn text(
        &mut self,
        item: &EventItem,
        at_ns: i64,
        content: Option<&Content>,
        out: &mut dyn Write,
    ) -> Result<(), ReplayError> {
        let ascii = self.options.ascii;
        if let Some(idle) = self.last_ns.replace(at_ns).map(|last| at_ns - last)
            && idle > IDLE_NS
        {
            let dots = if ascii { "..." } else { "⋯" };
            writeln!(out, "{INDENT}{dots} idle {} {dots}", units::duration(idle))?;
        }
        let verdict = match item.mark() {
            Mark::Deny => "DENY ",
            Mark::Error => "ERROR",
            Mark::Gap => "GAP  ",
            Mark::Allow if item.is_step() => "ALLOW",
            _ => "     ",
        };
        let flags = self.flags(item.seq());
        let line = match &item.body {
            Some(Body::SqlStatement(b)) => statement_head(b, ascii),
            _ => item.summary().to_string(),
        };
        let line = format!("{line}{flags}");
        writeln!(
            out,
            "{:>9} {:>5} {} {verdict} {}",
            units::offset(at_ns),
            format!("#{}", item.seq()),
            arrow(item.direction(), ascii),
            line.trim_end()
        )?;
        self.below(item, content, out)
    }

    /// What stands below an event's line: statement, rows, messages, heads.
    fn below(
        &self,
        item: &EventItem,
        content: Option<&Content>,
        out: &mut dyn Write,
    ) -> Result<(), ReplayError> {
        if matches!(item.body, Some(Body::SqlStatement(_))) {
            for line in detail::statement_lines(item, content) {
                let line = line.plain();
                let line = if self.options.ascii { line.replace('←', "<-") } else { line };
                writeln!(out, "{INDENT}    {line}")?;
            }
            if item.text.is_none() && item.template.is_some() {
                writeln!(out, "{INDENT}    (without literals: the text itself was not opened)")?;
            }
        }
        let Some(content) = content else { return Ok(()) };
        if let Some(closed) = content.closed {
            writeln!(out, "{INDENT}    {}", closed.message())?;
            return Ok(());
        }
        if content.commitment != item.event.envelope.content {
            writeln!(
                out,
                "{INDENT}    CONTENT DOES NOT FIT ITS COMMITMENT: altered or missing, run `bodycam verify`"
            )?;
        }
        for (kind, bytes) in &content.parts {
            match kind {
                ContentKind::SessionFacts
                | ContentKind::RequestHead
                | ContentKind::ResponseHead
                | ContentKind::Detail => {
                    for (name, value) in structured::decode_pairs(bytes).unwrap_or_default() {
                        let (name, value) = (Shown::limit(&name, 200), Shown::bytes_limit(&value, 1000));
                        writeln!(out, "{INDENT}    {name}: {value}")?;
                    }
                }
                ContentKind::CopyData => {
                    let lines: Vec<&[u8]> = bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()).collect();
                    for line in lines.iter().take(self.options.rows) {
                        writeln!(out, "{INDENT}    {}", Shown::bytes_limit(line, ROW_WIDTH))?;
                    }
                    if lines.len() > self.options.rows {
                        let more = lines.len() - self.options.rows;
                        writeln!(out, "{INDENT}    ({more} more lines stored; raise --rows to see them)")?;
                    }
                }
                _ => {}
            }
        }
        if let Some(Body::SqlResult(b)) = &item.body
            && let Some(rows) = content.parts.get(&ContentKind::Rows)
        {
            let description = content.parts.get(&ContentKind::Columns).map(Vec::as_slice);
            let table = ResultTable::new(
                description,
                rows.clone(),
                &b.column_formats,
                &b.column_types,
                b.rows,
                b.rows_cut,
            );
            self.rows(&table, out)?;
        }
        Ok(())
    }

    fn rows(&self, table: &ResultTable, out: &mut dyn Write) -> Result<(), ReplayError> {
        let shown = table.rows().min(self.options.rows);
        let bar = if self.options.ascii { " | " } else { " │ " };
        let mut line = |cells: &[Shown]| -> std::io::Result<()> {
            let mut text = String::new();
            for (i, column) in table.columns().iter().enumerate() {
                let cell = cells.get(i).map_or("", Shown::as_str);
                if i > 0 {
                    text.push_str(bar);
                }
                text.push_str(&match column.numeric {
                    true => fit_right(cell, column.width),
                    false => fit(cell, column.width),
                });
            }
            writeln!(out, "{INDENT}    {}", crate::shown::cut(text.trim_end(), ROW_WIDTH))
        };
        line(&table.columns().iter().map(|c| c.name.clone()).collect::<Vec<_>>())?;
        for row in 0..shown {
            line(&table.row(row))?;
        }
        let hint = match table.rows() > shown {
            true => {
                format!("; {} shown, raise --rows for more", units::count(i64::try_from(shown).unwrap_or(0)))
            }
            false => String::new(),
        };
        writeln!(out, "{INDENT}    ({}{hint})", table.caption())?;
        Ok(())
    }

    fn flags(&self, seq: i64) -> String {
        let found = self.evidence.get(&seq).map(Vec::as_slice).unwrap_or_default();
        found
            .iter()
            .map(|(rule, severity)| format!("  !{} ({})", Shown::of(rule), Shown::of(severity)))
            .collect()
    }

    fn json(
        &self,
        item: &EventItem,
        at_ns: i64,
        content: Option<&Content>,
        out: &mut dyn Write,
    ) -> Result<(), ReplayError> {
        let mut object = event_json(item, at_ns, &self.evidence);
        if let Some(content) = content {
            object.insert("content".into(), content_json(item, content));
        }
        json_line(out, &Value::Object(object))
    }
}

/// An event as JSON, without its content. `at_ns` counts from the session's start.
pub(crate) fn event_json(item: &EventItem, at_ns: i64, evidence: &EvidenceBySeq) -> Map<String, Value> {
    let envelope = &item.event.envelope;
    let mut object = Map::new();
    object.insert("session".into(), json!(envelope.session));
    object.insert("seq".into(), json!(envelope.seq));
    object.insert("at".into(), json!(units::instant(envelope.ts_wall_ns)));
    object.insert("offset_ms".into(), json!(at_ns / 1_000_000));
    object.insert("kind".into(), json!(item.kind()));
    object.insert("parent_seq".into(), json!(envelope.parent_seq));
    object.insert("hash".into(), json!(item.event.hash));
    if let Some(body) = &item.body {
        let fields = body.table().fields.iter().zip(body.values());
        let fields: Map<_, _> = fields.map(|(f, v)| (f.name.to_owned(), field_json(v))).collect();
        object.insert("body".into(), Value::Object(fields));
    }
    if let Some(found) = evidence.get(&envelope.seq) {
        let rules: Vec<_> = found.iter().map(|(rule, _)| rule.as_str()).collect();
        object.insert("findings".into(), json!(rules));
    }
    if let Some(template) = &item.template {
        object.insert("template".into(), json!(template));
    }
    object
}

fn statement_head(b: &bodycam_record::kinds::sql::SqlStatement, ascii: bool) -> String {
    let mut parts = vec![b.statement_kind.clone()];
    let relations: Vec<&str> =
        b.relations_read.iter().chain(&b.relations_written).map(String::as_str).collect();
    if !relations.is_empty() {
        parts.push(relations.join(", "));
    }
    if let Some(rows) = b.est_rows {
        parts.push(format!("{}{} rows estimated", if ascii { "~" } else { "≈" }, units::count(rows)));
    }
    if !b.opaque.is_empty() {
        parts.push(format!("opaque: {}", b.opaque.join(", ")));
    }
    Shown::limit(&parts.join("  "), 600).into()
}

/// Content as JSON: text as text, rows as arrays, what is neither as escaped text.
fn content_json(item: &EventItem, content: &Content) -> Value {
    if let Some(closed) = content.closed {
        return json!({ "closed": closed.message() });
    }
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "hex": bodycam_record::ids::to_hex(bytes) }),
    };
    let mut object = Map::new();
    object.insert("fits_commitment".into(), json!(content.commitment == item.event.envelope.content));
    for (kind, bytes) in &content.parts {
        let value = match kind {
            ContentKind::Binds => {
                let binds = structured::decode_binds(bytes);
                json!(binds.iter().map(|b| values::bind(b).to_string()).collect::<Vec<_>>())
            }
            ContentKind::RequestHead
            | ContentKind::ResponseHead
            | ContentKind::SessionFacts
            | ContentKind::Detail
            | ContentKind::Names => {
                let pairs = structured::decode_pairs(bytes).unwrap_or_default();
                json!(pairs.iter().map(|(name, value)| json!([name, text(value)])).collect::<Vec<_>>())
            }
            ContentKind::Columns => {
                let columns = bodycam_record::content::postgres::columns(bytes).unwrap_or_default();
                json!(columns.iter().map(|c| text(&c.name)).collect::<Vec<_>>())
            }
            ContentKind::Rows => rows_json(item, content, bytes),
            ContentKind::Error | ContentKind::Message => {
                let fields = bodycam_record::content::postgres::error_fields(bytes);
                let fields =
                    fields.into_iter().map(|(code, value)| (char::from(code).to_string(), text(&value)));
                Value::Object(fields.collect())
            }
            _ => text(bytes),
        };
        object.insert(kind.name().replace('-', "_"), value);
    }
    Value::Object(object)
}

fn rows_json(item: &EventItem, content: &Content, frames: &[u8]) -> Value {
    let Some(Body::SqlResult(b)) = &item.body else { return Value::Null };
    let description = content.parts.get(&ContentKind::Columns).map(Vec::as_slice);
    let table = ResultTable::new(
        description,
        frames.to_vec(),
        &b.column_formats,
        &b.column_types,
        b.rows,
        b.rows_cut,
    );
    let rows = (0..table.rows()).map(|row| {
        let cells = table.cells(row).into_iter().map(|cell| match cell {
            None => Value::Null,
            Some(text) => json!(text),
        });
        Value::Array(cells.collect())
    });
    Value::Array(rows.collect())
}

fn ascii(text: &str) -> String {
    text.replace('✔', "ok").replace('✘', "x").replace('…', "...")
}
