//! Statements and results become events.
//!
//! Invariant: every statement's event has exactly one final result event after it (any outcome but
//! `suspended`), whatever happens to the statement; only a Parse that went well has none of its own.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use bodycam_record::canonical::Writer;
use bodycam_record::content::structured;
use bodycam_record::kinds::sql::{SqlMessage, SqlResult, SqlStatement};
use bodycam_record::{ContentKind, Digest, Id16};

use crate::correlation;
use crate::identity::token;
use crate::postgres::codec::backend::{self, Columns};
use crate::postgres::codec::frontend::Formats;
use crate::postgres::inspect::facts::MAX_LISTED;
use crate::postgres::inspect::redact::{is_secret_name, is_secret_value};
use crate::postgres::inspect::{CatalogSnapshot, Facts, SecretParameters};
use crate::recording::{ContentWriter, RecordingError, Rows};

use super::end::End;
use super::session::Session;

/// A running digest follows at the latest after so many bytes of a result or COPY that content does not hold.
pub(super) const MARK_EVERY: i64 = 16 << 20;
/// Bytes of statements, texts and facts, that one session keeps for later executions. Beyond it texts are not kept;
/// beyond twice as much the session ends, for facts that are forgotten would be wrong ones.
const MAX_KEPT: usize = 16 << 20;

/// A prepared statement.
#[derive(Debug)]
pub(super) struct Statement {
    pub text: Text,
    /// What it means.
    pub meant: RefCell<Meaning>,
    /// Parameter types, of Parse and then of the target.
    pub types: RefCell<Vec<u32>>,
    /// As described; the formats are not known yet.
    pub columns: RefCell<Option<Rc<Columns>>>,
    /// Whether anybody has asked for them.
    pub described: Cell<bool>,
    /// The first event that holds its text.
    pub recorded: RefCell<Option<Rc<Recorded>>>,
    /// [`SessionNames::epoch`](crate::postgres::inspect::SessionNames::epoch) when it was sent.
    pub epoch: u64,
}

/// What a prepared statement was found to mean.
#[derive(Debug)]
pub(super) struct Meaning {
    pub facts: Arc<Facts>,
    /// Generation of the catalog that said so.
    pub generation: u64,
    /// [`meaning`](crate::postgres::inspect::CatalogSnapshot::meaning) of that catalog.
    pub catalog: u64,
    /// What the facts count.
    pub _charge: Charge,
}

impl Statement {
    /// What it means.
    pub fn facts(&self) -> Arc<Facts> {
        Arc::clone(&self.meant.borrow().facts)
    }

    /// Whether it was found to mean that under a catalog that meant something else than `meaning`.
    pub fn is_of_another_catalog(&self, meaning: u64) -> bool {
        let meant = self.meant.borrow();
        meant.catalog != meaning && meant.facts.fingerprint.is_some()
    }
}

/// A portal.
#[derive(Debug)]
pub(super) struct Portal {
    pub recorded: Rc<Recorded>,
    pub statement: Option<Rc<Statement>>,
    pub columns: RefCell<Option<Rc<Columns>>>,
    /// Whether anybody has asked for them.
    pub described: Cell<bool>,
    /// Result format codes of Bind.
    pub formats: Vec<u8>,
    /// What its facts count, when they are not its statement's.
    pub _charge: Option<Charge>,
}

/// A statement whose event is written.
#[derive(Debug)]
pub(super) struct Recorded {
    pub statement_no: i64,
    pub seq: i64,
    pub facts: Arc<Facts>,
    pub correlation: Option<Id16>,
    pub verdict: &'static str,
    /// As [`Statement::epoch`].
    pub epoch: u64,
    /// As [`Meaning::catalog`].
    pub meaning: u64,
    /// Results so far.
    pub results: Cell<i64>,
    pub executed: Cell<bool>,
    pub finished: Cell<bool>,
}

/// The text of a statement.
#[derive(Debug)]
pub(super) struct Text {
    /// What content holds: secrets replaced, at most `record.max_statement_content` bytes. None when the
    /// session keeps too much already.
    kept: Option<Kept>,
    cut: bool,
    bytes: i64,
    digest: Digest,
    /// Correlation id in a comment, as text and under the tenant key.
    correlation: Option<(String, Id16)>,
}

impl Text {
    /// The statement as it was sent; none when what is kept is not that.
    pub fn as_sent(&self) -> Option<&str> {
        let kept = self.kept.as_ref().filter(|kept| !self.cut && count(kept.bytes.len()) == self.bytes)?;
        std::str::from_utf8(&kept.bytes).ok()
    }
}

/// Bytes that are kept, and count.
#[derive(Debug)]
struct Kept {
    bytes: Box<[u8]>,
    _charge: Charge,
}

/// Bytes that count towards what a session keeps, as long as this lives.
#[derive(Debug)]
pub(super) struct Charge {
    bytes: usize,
    total: Rc<Cell<usize>>,
}

impl Charge {
    fn new(bytes: usize, total: &Rc<Cell<usize>>) -> Self {
        total.set(total.get().saturating_add(bytes));
        Self { bytes, total: Rc::clone(total) }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.total.set(self.total.get().saturating_sub(self.bytes));
    }
}

/// Bind parameters or function arguments, ready to be recorded.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub count: i64,
    pub bytes: i64,
    pub digest: Option<Digest>,
    /// As content holds them: whole values, as many as fit.
    pub encoded: Vec<u8>,
    pub cut: bool,
}

/// What a statement's event is made of.
#[derive(Default)]
pub(super) struct Draft<'a> {
    pub form: &'static str,
    pub facts: Arc<Facts>,
    pub text: Option<&'a Text>,
    pub arguments: Arguments,
    pub statement_name: &'a [u8],
    pub portal_name: &'a [u8],
    pub parent: Option<i64>,
    pub refused: bool,
    /// Further facts for content.
    pub detail: &'a [(&'a str, &'a [u8])],
}

/// How an execution ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ending<'a> {
    pub outcome: &'static str,
    pub tag: &'a [u8],
    /// Body of the ErrorResponse.
    pub error: Option<&'a [u8]>,
}

impl Ending<'_> {
    pub fn plain(outcome: &'static str) -> Ending<'static> {
        Ending { outcome, tag: b"", error: None }
    }
}

/// The rows of the result that is on its way.
#[derive(Default)]
pub(super) struct Current {
    pub rows: i64,
    pub bytes: i64,
    pub columns: Option<Rc<Columns>>,
    /// Format codes of the portal, where the columns come from a statement's description.
    pub formats: Option<Rc<Portal>>,
    pub content: Option<ContentWriter>,
    pub stored_rows: i64,
    pub stored_bytes: i64,
    pub cut: bool,
    /// Running digests so far.
    marks: i64,
    /// Whether the digest of a COPY was taken over as the result's.
    pub copied: Option<Digest>,
}

impl Session {
    /// The keyed digest of `bytes`.
    pub(super) fn digest(&mut self, bytes: &[u8]) -> Digest {
        self.digester.reset();
        self.digester.update(bytes);
        Digest(*self.digester.finalize().as_bytes())
    }

    /// What is recorded of a statement's text.
    pub(super) fn text(&mut self, bytes: &[u8], facts: &Facts) -> Text {
        let digest = self.digest(bytes);
        let kept = facts.redacted.as_deref().map_or(bytes, str::as_bytes);
        self.text_of(kept, bytes.len(), digest)
    }

    /// As [`Session::text`], when only the beginning of `bytes` bytes is at hand.
    pub(super) fn text_of(&mut self, kept: &[u8], bytes: usize, digest: Digest) -> Text {
        let limit = usize::try_from(self.recording.max_statement_content).unwrap_or(usize::MAX);
        let part = kept.get(..limit).unwrap_or(kept);
        let correlation = correlation::of_statement(kept).map(|id| {
            let keyed = self.pen.tenant_key().correlation(&id);
            (id, keyed)
        });
        let fits = self.kept.get() + part.len() <= MAX_KEPT;
        let kept_part =
            fits.then(|| Kept { bytes: part.into(), _charge: Charge::new(part.len(), &self.kept) });
        let cut = kept_part.is_none() || part.len() < kept.len() || kept.len() < bytes;
        Text { kept: kept_part, cut, bytes: count(bytes), digest, correlation }
    }

    /// The facts of what the session keeps under a name, and what counts them. Texts go when there is no room; the
    /// template is recorded now, for later nobody has it.
    pub(super) fn keep(&mut self, facts: Arc<Facts>) -> Result<(Arc<Facts>, Charge), End> {
        let weight = facts.weight();
        if self.kept.get().saturating_add(weight) <= MAX_KEPT {
            return Ok((facts, Charge::new(weight, &self.kept)));
        }
        if let (Some(fingerprint), Some(template)) = (facts.fingerprint, &facts.template) {
            self.pen.template(fingerprint, template)?;
        }
        let lean = facts.lean();
        let weight = lean.weight();
        let (limit, observed) = (2 * MAX_KEPT, self.kept.get().saturating_add(weight));
        if observed > limit {
            return Err(End::Facts { limit, observed });
        }
        Ok((Arc::new(lean), Charge::new(weight, &self.kept)))
    }

    /// What is recorded of parameters: all count and are digested, but content holds no secret.
    pub(super) fn arguments(
        &mut self,
        types: &[u32],
        secret: &SecretParameters,
        formats: Formats<'_>,
        values: &[Option<&[u8]>],
    ) -> Arguments {
        if values.is_empty() {
            return Arguments::default();
        }
        let limit = usize::try_from(self.recording.max_statement_content).unwrap_or(usize::MAX);
        let mut w = Writer::reusing(std::mem::take(&mut self.scratch));
        let (mut whole, mut bytes) = (0, 0);
        for (i, value) in values.iter().enumerate() {
            w.int(types.get(i).copied().map_or(0, i64::from));
            w.int(formats.at(i));
            w.field(|out| match value {
                None => out.push(0),
                Some(value) => {
                    out.push(1);
                    out.extend_from_slice(value);
                }
            });
            bytes += value.map_or(0, <[u8]>::len);
            if w.as_slice().len() <= limit {
                whole = w.as_slice().len();
            }
        }
        let digest = self.digest(w.as_slice());
        let hidden = hidden(secret, values);
        let encoded = if hidden.contains(&true) {
            let mut safe = Writer::new();
            for (i, (value, hidden)) in values.iter().zip(&hidden).enumerate() {
                safe.int(types.get(i).copied().map_or(0, i64::from));
                safe.int(if *hidden { 0 } else { formats.at(i) });
                safe.field(|out| match value {
                    None => out.push(0),
                    Some(value) => {
                        out.push(1);
                        out.extend_from_slice(if *hidden { b"***" } else { value });
                    }
                });
            }
            if safe.as_slice().len() <= limit { safe.into_vec() } else { Vec::new() }
        } else {
            w.as_slice().get(..whole).unwrap_or_default().to_vec()
        };
        let cut = whole < w.as_slice().len() || encoded.is_empty();
        self.scratch = w.into_vec();
        self.scratch.clear();
        self.scratch.shrink_to(1 << 16);
        Arguments { count: count(values.len()), bytes: count(bytes), digest: Some(digest), encoded, cut }
    }

    /// Appends the event of a statement that is about to leave.
    pub(super) fn statement(&mut self, draft: Draft<'_>) -> Result<Rc<Recorded>, RecordingError> {
        self.statement_no += 1;
        self.pen.totals().statements = self.statement_no;
        let text_correlation = draft.text.and_then(|t| t.correlation.as_ref());
        let correlation = text_correlation.map(|(_, id)| *id).or(self.correlation);
        let verdict = if draft.refused { "deny" } else { "allow" };
        let statement_digest = match draft.text {
            Some(text) => text.digest,
            None => self.digest(b""),
        };
        let portal = (!draft.portal_name.is_empty()).then(|| self.pen.key().keyed_id(draft.portal_name));
        let mut body = SqlStatement {
            statement_no: self.statement_no,
            form: draft.form.to_owned(),
            statement_kind: String::new(),
            verdict: verdict.to_owned(),
            fingerprint: None,
            main_relation: None,
            relations_read: Vec::new(),
            relations_written: Vec::new(),
            output_columns: Vec::new(),
            functions: Vec::new(),
            has_predicate: false,
            limit_rows: None,
            offset_rows: None,
            statement_count: 0,
            opaque: Vec::new(),
            est_rows: None,
            statement_bytes: draft.text.map_or(0, |t| t.bytes),
            statement_digest,
            bind_count: draft.arguments.count,
            bind_bytes: draft.arguments.bytes,
            binds_digest: draft.arguments.digest,
            portal,
            content_cut: draft.arguments.cut || draft.text.is_some_and(|t| t.cut),
            correlation,
        };
        draft.facts.fill(&mut body);
        if let (Some(fingerprint), Some(template)) = (draft.facts.fingerprint, &draft.facts.template) {
            self.pen.template(fingerprint, template)?;
        }
        let mut content = self.pen.content();
        if let Some(kept) = draft.text.and_then(|t| t.kept.as_ref()) {
            self.pen.put(&mut content, ContentKind::SqlText, &kept.bytes)?;
        }
        self.pen.put(&mut content, ContentKind::Binds, &draft.arguments.encoded)?;
        let names = [("statement", draft.statement_name), ("portal", draft.portal_name)];
        let names = names.map(|(what, name)| (what, token::redact(name)));
        let named =
            names.iter().filter(|(_, name)| !name.is_empty()).map(|(what, name)| (*what, name.as_ref()));
        let names = structured::encode_pairs(named);
        self.pen.put(&mut content, ContentKind::Names, &names)?;
        if let Some((id, _)) = text_correlation {
            self.pen.put(&mut content, ContentKind::Correlation, id.as_bytes())?;
        }
        let detail = structured::encode_pairs(draft.detail.iter().copied());
        self.pen.put(&mut content, ContentKind::Detail, &detail)?;
        let seq = self.pen.event(body.into(), draft.parent, Some(content))?;
        self.dirty = true;
        Ok(Rc::new(Recorded {
            statement_no: self.statement_no,
            seq,
            facts: draft.facts,
            correlation,
            verdict,
            epoch: self.names.epoch(),
            meaning: self.names.meaning(),
            results: Cell::new(0),
            executed: Cell::new(false),
            finished: Cell::new(false),
        }))
    }

    /// Appends the event of an end of `recorded`, with the rows that were counted since the last.
    pub(super) fn result(
        &mut self,
        recorded: &Recorded,
        ending: Ending<'_>,
        started_ns: Option<i64>,
    ) -> Result<(), RecordingError> {
        let mut current = std::mem::take(&mut self.current);
        let rows_digest = match current.copied {
            Some(digest) => Some(digest),
            None => (current.rows > 0).then(|| Digest(*self.row_digester.finalize().as_bytes())),
        };
        let columns = current.columns.as_deref();
        let list = |of: fn(&Columns) -> &Vec<i64>| columns.map(|c| of(c).clone()).unwrap_or_default();
        let column_formats = match (&current.formats, columns) {
            (Some(portal), Some(columns)) => {
                let formats = Formats::of(&portal.formats);
                (0..columns.types.len()).map(|i| formats.at(i)).collect()
            }
            _ => list(|c| &c.formats),
        };
        let now = self.pen.lane().producer().clock().mono_ns();
        let facts = &recorded.facts;
        let seen = columns.map(|columns| unforeseen(columns, facts, || self.catalog.current()));
        let body = SqlResult {
            statement_no: recorded.statement_no,
            result_no: recorded.results.replace(recorded.results.get() + 1),
            statement_kind: facts.statement_kind.to_owned(),
            verdict: recorded.verdict.to_owned(),
            fingerprint: facts.fingerprint,
            main_relation: facts.main_relation.clone(),
            relations_seen: seen.unwrap_or_default(),
            outcome: ending.outcome.to_owned(),
            sqlstate: ending.error.and_then(backend::sqlstate),
            tag: String::from_utf8_lossy(ending.tag).into_owned(),
            rows: current.rows,
            bytes: current.bytes,
            column_tables: list(|c| &c.tables),
            column_attributes: list(|c| &c.attributes),
            column_types: list(|c| &c.types),
            column_formats,
            rows_digest,
            rows_stored: current.stored_rows,
            rows_cut: current.cut,
            duration_us: started_ns.map_or(0, |started| (now - started) / 1000),
            correlation: recorded.correlation,
        };
        let mut content = current.content.take();
        // The message of an error can quote what was cut out of the statement.
        if let Some(error) = ending.error.filter(|_| !facts.holds_secrets()) {
            let content = content.get_or_insert_with(|| self.pen.content());
            self.pen.put(content, ContentKind::Error, &token::redact(error))?;
        }
        if ending.outcome != "suspended" {
            recorded.finished.set(true);
        }
        self.pen.totals().rows += current.rows;
        self.pen.event(body.into(), Some(recorded.seq), content)?;
        self.dirty = true;
        Ok(())
    }

    /// A statement that the target will not run any more: `skipped` if it never did, else `cut`.
    pub(super) fn abandon(&mut self, recorded: &Recorded) -> Result<(), RecordingError> {
        if recorded.finished.get() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.current);
        let outcome = if recorded.executed.get() { "cut" } else { "skipped" };
        self.result(recorded, Ending::plain(outcome), None)?;
        self.current = rows;
        Ok(())
    }

    /// Takes note of whole row messages, or of parts of one that is too long to be held: `rows` counts those
    /// that begin here.
    pub(super) fn rows(&mut self, bytes: &[u8], rows: i64) -> Result<(), RecordingError> {
        if self.current.rows == 0 && self.current.bytes == 0 {
            self.row_digester.reset();
        }
        self.row_digester.update(bytes);
        self.current.rows += rows;
        self.current.bytes += count(bytes.len());
        if self.recording.rows == Rows::Clear && !self.current.cut {
            self.store_rows(bytes, rows)?;
        }
        let due = (self.current.bytes - self.current.stored_bytes) / MARK_EVERY;
        if due > self.current.marks {
            self.current.marks = due;
            let digest = Digest(*self.row_digester.finalize().as_bytes());
            self.mark(self.current.bytes, digest)?;
        }
        Ok(())
    }

    /// Stores as many whole rows as the limits allow. Parts of a long row were admitted by its first.
    fn store_rows(&mut self, mut bytes: &[u8], mut rows: i64) -> Result<(), RecordingError> {
        if self.running().is_some_and(|running| running.facts.returns_settings()) {
            self.current.cut = true;
            return Ok(());
        }
        let room = self.room();
        if rows > 0 && (rows > room.rows || count(bytes.len()) > room.bytes) {
            let (fitting, length) = fitting(bytes, room);
            (bytes, rows) = (bytes.get(..length).unwrap_or_default(), fitting);
            self.current.cut = true;
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let mut content = match self.current.content.take() {
            Some(content) => content,
            None => {
                let mut content = self.pen.content();
                if let Some(columns) = self.current.columns.clone() {
                    self.pen.put(&mut content, ContentKind::Columns, &columns.body)?;
                }
                content
            }
        };
        self.pen.put(&mut content, ContentKind::Rows, bytes)?;
        self.dirty = true;
        self.current.content = Some(content);
        self.current.stored_rows += rows;
        self.current.stored_bytes += count(bytes.len());
        self.stored_rows += rows;
        self.stored_bytes += count(bytes.len());
        Ok(())
    }

    /// Whether a row message of `length` bytes that is too long to be held may be stored.
    pub(super) fn admits_row(&self, length: usize) -> bool {
        let room = self.room();
        room.rows > 0 && count(length) <= room.bytes
    }

    /// What may still be stored of the current result.
    fn room(&self) -> Room {
        let limit = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let of = &self.recording;
        Room {
            rows: (limit(of.max_rows_per_result) - self.current.stored_rows)
                .min(limit(of.max_rows_per_session) - self.stored_rows),
            bytes: (limit(of.max_bytes_per_result) - self.current.stored_bytes)
                .min(limit(of.max_bytes_per_session) - self.stored_bytes),
        }
    }

    /// Appends a running digest of what streams past.
    pub(super) fn mark(&mut self, bytes: i64, digest: Digest) -> Result<(), RecordingError> {
        let body =
            SqlMessage { message: "progress".to_owned(), sqlstate: None, parameter: None, bytes, digest };
        let parent = self.running().map(|r| r.seq);
        self.pen.event(body.into(), parent, None)?;
        self.dirty = true;
        Ok(())
    }

    /// Appends the event of a message beside results. `whole` says how long it is when `body` is only its
    /// beginning; `digest` is that of the whole.
    pub(super) fn side_message(
        &mut self,
        message: &'static str,
        body: &[u8],
        whole: usize,
        digest: Digest,
    ) -> Result<(), RecordingError> {
        let parameter = (message == "parameter")
            .then(|| backend::parameter(body).ok())
            .flatten()
            .map(|(name, _)| String::from_utf8_lossy(name).into_owned());
        let sqlstate = if matches!(message, "notice" | "error") { backend::sqlstate(body) } else { None };
        let event =
            SqlMessage { message: message.to_owned(), sqlstate, parameter, bytes: count(whole), digest };
        let running = self.running();
        let mut content = self.pen.content();
        if running.as_ref().is_none_or(|r| !r.facts.holds_secrets()) {
            // Words of the client come back here: a name that was too long, a value that was not understood.
            self.pen.put(&mut content, ContentKind::Message, &token::redact(body))?;
        }
        self.pen.event(event.into(), running.map(|r| r.seq), Some(content))?;
        self.dirty = true;
        Ok(())
    }
}

/// Relations that columns come from although the facts do not name them: by another search path than was followed, by a
/// name that was changed on the way, through a statement that nobody knows.
fn unforeseen(
    columns: &Columns,
    facts: &Facts,
    catalog: impl FnOnce() -> Arc<CatalogSnapshot>,
) -> Vec<String> {
    if columns.tables.iter().all(|oid| *oid == 0) {
        return Vec::new();
    }
    let (catalog, mut before, mut seen) = (catalog(), 0, BTreeSet::new());
    for oid in &columns.tables {
        // Columns of one relation mostly stand together.
        if *oid == 0 || std::mem::replace(&mut before, *oid) == *oid {
            continue;
        }
        let Some(relation) = u32::try_from(*oid).ok().and_then(|oid| catalog.relation(oid)) else { continue };
        let mut named = facts.relations_read.iter().chain(&facts.relations_written);
        if !named.any(|label| relation.is_called(label)) {
            seen.insert(relation.label());
        }
    }
    seen.into_iter().take(MAX_LISTED).collect()
}

/// Which values content must not hold: those that stand where a secret does, those that are one by
/// themselves, and all beside one that is a secret's name.
fn hidden(secret: &SecretParameters, values: &[Option<&[u8]>]) -> Vec<bool> {
    let names: Vec<bool> = values.iter().map(|v| v.is_some_and(is_secret_name)).collect();
    let named = |at: usize| names.iter().enumerate().any(|(other, name)| *name && other != at);
    let of = |(at, value): (usize, &Option<&[u8]>)| {
        value.is_some_and(|value| secret.contains(at + 1) || is_secret_value(value)) || named(at)
    };
    values.iter().enumerate().map(of).collect()
}

#[derive(Debug, Clone, Copy)]
struct Room {
    rows: i64,
    bytes: i64,
}

/// How many of the whole row messages in `bytes` fit, and their length.
fn fitting(bytes: &[u8], room: Room) -> (i64, usize) {
    let (mut rows, mut length) = (0, 0);
    while let Some(body) = bytes.get(length + 1..).and_then(<[u8]>::first_chunk::<4>) {
        let frame = 1 + usize::try_from(i32::from_be_bytes(*body)).unwrap_or(usize::MAX / 2);
        if rows >= room.rows || count(length + frame) > room.bytes || length + frame > bytes.len() {
            break;
        }
        rows += 1;
        length += frame;
    }
    (rows, length)
}

/// A count as the record holds it.
pub(super) fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::codec::frame;

    #[test]
    fn rows_are_stored_whole_or_not_at_all() {
        let mut bytes = Vec::new();
        for n in 0..3 {
            frame(&mut bytes, b'D', |out| out.extend_from_slice(&[n; 10]));
        }
        for (rows, limit, want) in
            [(3, 45, (3, 45)), (3, 44, (2, 30)), (1, 45, (1, 15)), (0, 45, (0, 0)), (9, 14, (0, 0))]
        {
            assert_eq!(fitting(&bytes, Room { rows, bytes: limit }), want, "{rows} rows, {limit} bytes");
        }
    }
}
