//! One data file: whether it is the file that its commit names, and what its rows say. A pure function of the
//! bytes, so that a caller can check many files at once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use bodycam_lake::columns::sessions::SessionRow;
use bodycam_lake::columns::{
    Decoder, LedgerDecoder, RowFault, StoredLedgerRecord, Table, content, findings, sessions, templates,
};
use bodycam_lake::file::{RowSum, content_row_hash, sha256};
use bodycam_lake::layout::{self, Hour};
use bodycam_lake::{FileEntry, LakeError, StoredEvent};
use bodycam_record::{Digest, Family, Fingerprint, SealedChunk, SessionId, SessionKey, TenantKey, shown};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::PageIndexPolicy;

use crate::content::ContentFacts;
use crate::events::{Link, Linker, Run, Runs};
use crate::fault::{Class, Fault};
use crate::rewritten::{self, Rewritten};
use crate::statistics::Claims;
use crate::texts::TextFacts;

/// Rows that are decoded at once.
const BATCH_ROWS: usize = 16 * 1024;

/// A data file of the lake, and when it was committed.
#[derive(Debug, Clone)]
pub struct DataFile {
    /// What the commit says about it.
    pub entry: Arc<FileEntry>,
    /// Time of the commit that added it, Unix ns.
    pub committed_ns: i64,
    /// The commit that names it.
    pub named_by: Arc<str>,
}

/// What a file holds, as far as it concerns others.
#[derive(Debug, Default)]
pub struct FileFacts {
    /// What is wrong with the file itself.
    pub faults: Vec<Fault>,
    /// Rows in it.
    pub rows: u64,
    /// Runs of events.
    pub runs: Vec<Run>,
    /// Ledger records, with their rows.
    pub ledger: Vec<(u64, StoredLedgerRecord)>,
    /// Ledger records of unknown format: number and stated hash.
    pub ledger_holes: Vec<(i64, Option<Digest>)>,
    /// Content that events commit to, and content that is there.
    pub contents: ContentFacts,
    /// Sessions with rows that are not events.
    pub unreadable: HashSet<SessionId>,
    /// Hashes that heartbeats speak of: session, count, hash.
    pub heads: Vec<(SessionId, i64, Digest)>,
    /// Rows of the index of sessions, with their rows in the file.
    pub index: Vec<(u64, SessionRow)>,
    /// Statement texts that events name, and those that are there.
    pub texts: TextFacts,
    /// Set when it has other bytes than its commit says, and nothing found in it denies that the rows are the same.
    pub rewritten: Option<Rewritten>,
}

/// What [`check`] looks for beyond the file itself.
pub struct Wanted<'a> {
    /// For each session, the counts that heartbeats speak of, ascending.
    pub heads: &'a HashMap<SessionId, Vec<i64>>,
    /// Only this session, when one is asked for.
    pub session: Option<SessionId>,
    /// Gives session keys, when there is a tenant key.
    pub keys: Option<&'a (dyn Fn(SessionId) -> Option<SessionKey> + Sync)>,
    /// Makes fingerprints of statement texts.
    pub tenant: Option<&'a TenantKey>,
}

/// A row of a session that is looked at again.
#[derive(Debug)]
pub struct Row {
    /// Number of the event.
    pub seq: i64,
    /// Stated hash.
    pub hash: Digest,
    /// The file.
    pub path: Arc<str>,
    /// The row in it.
    pub row: u64,
    /// The hash on which it was seen to follow in its file.
    pub prev: Option<Digest>,
    /// The event, unless it is an ordinary one that follows on its neighbour.
    pub event: Option<Box<StoredEvent>>,
}

/// What the second look at a file gives.
#[derive(Debug, Default)]
pub struct SecondLook {
    /// Rows of the sessions asked for.
    pub rows: HashMap<SessionId, Vec<Row>>,
    /// Numbers of events whose rows are of an unknown format or damaged, and the hashes that these state.
    pub holes: HashMap<SessionId, Vec<(i64, Option<Digest>)>>,
    /// Hashes of other sessions' events beside them, to tell a spliced event from an altered one.
    pub neighbours: Vec<(SessionId, i64, Digest)>,
}

/// Hashes of neighbours that are kept of one file.
const MAX_NEIGHBOURS: usize = 100_000;

/// Checks the bytes of a data file against its entry and against themselves.
pub fn check(file: &DataFile, bytes: &Bytes, wanted: &Wanted<'_>) -> FileFacts {
    let mut facts = FileFacts::default();
    let entry = &file.entry;
    let differs = differs(file, bytes);
    let table = entry.table.0;
    let mut collect = Collector::new(table, &entry.path, wanted);
    let mut plain = true;
    facts.rows = read(&entry.path, bytes, &mut facts.faults, |batch, row, faults| {
        // What other readers make of the columns is asked only where the bytes are not the recorder's.
        plain = plain && (!differs || rewritten::is_plain(table, &entry.path, batch));
        collect.batch(batch, row, faults)
    });
    let standing = collect.finish(entry, &file.named_by, differs, &mut facts);
    if differs {
        let fault = identity_fault(file, bytes);
        let known = facts.faults.iter().all(|f| f.class == Class::Unsupported);
        let fits = plain && known && standing.fits && (!standing.by_sum || rewritten::is_same(file, bytes));
        match fits {
            true => facts.rewritten = Some(Rewritten { entry: Arc::clone(entry), fault }),
            false => facts.faults.push(fault),
        }
    }
    facts
}

fn differs(file: &DataFile, bytes: &Bytes) -> bool {
    file.entry.bytes != bytes.len() as u64 || file.entry.sha256 != sha256(bytes)
}

fn identity_fault(file: &DataFile, bytes: &Bytes) -> Fault {
    let (want, got) = (file.entry.bytes, bytes.len() as u64);
    let how = match got.cmp(&want) {
        std::cmp::Ordering::Less => format!("{got} bytes of {want}: it was cut or replaced"),
        std::cmp::Ordering::Greater => format!("more than its {want} bytes: it was replaced or added to"),
        std::cmp::Ordering::Equal => "its SHA-256 is another: it was changed or replaced".to_owned(),
    };
    Fault::new(Class::Manifest, format!("not the file that {} names: {how}", file.named_by))
        .at(&file.entry.path)
}

/// Gives every batch of a file, with the number of its first row; the number of rows.
fn read(
    path: &str,
    bytes: &Bytes,
    faults: &mut Vec<Fault>,
    mut each: impl FnMut(&RecordBatch, u64, &mut Vec<Fault>) -> Result<(), LakeError>,
) -> u64 {
    let bad = |detail: String| Fault::new(Class::File, detail).at(path);
    // Rows are read in the order of the pages, as readers do that ignore the page index; what the index says
    // is compared with that.
    let open = |policy| {
        let options = ArrowReaderOptions::new().with_page_index_policy(policy);
        ParquetRecordBatchReaderBuilder::try_new_with_options(bytes.clone(), options)
    };
    let indexed = match open(PageIndexPolicy::Optional) {
        Ok(builder) => builder,
        Err(error) => {
            faults.push(bad(format!("not a readable Parquet file: {error}")));
            return 0;
        }
    };
    let groups = indexed.metadata().num_row_groups();
    let mut row = 0;
    for group in 0..groups {
        let mut claims = Claims::of(&indexed, bytes, group, path, faults);
        let reader = open(PageIndexPolicy::Skip)
            .and_then(|builder| builder.with_row_groups(vec![group]).with_batch_size(BATCH_ROWS).build());
        let reader = match reader {
            Ok(reader) => reader,
            Err(error) => {
                faults.push(bad(format!("row group {group} cannot be read: {error}")));
                continue;
            }
        };
        for batch in reader {
            let checked = batch.map_err(|e| e.to_string()).and_then(|batch| {
                claims.check(&batch, path, faults);
                each(&batch, row, faults).map_err(|e| e.to_string())?;
                row += batch.num_rows() as u64;
                Ok(())
            });
            if let Err(error) = checked {
                faults.push(bad(format!("row group {group} cannot be read: {error}")));
                break;
            }
        }
        claims.finish(path, faults);
    }
    row
}

/// Smallest and largest number, and head, of a session in a file.
type Range = (i64, i64, Option<Digest>);

/// The session whose rows are being read.
struct Current<'a> {
    session: SessionId,
    range: Range,
    /// Counts that heartbeats speak of.
    heads: Option<&'a [i64]>,
}

/// Gathers what a file holds.
struct Collector<'a> {
    table: Table,
    path: &'a str,
    wanted: &'a Wanted<'a>,
    runs: Runs,
    sum: RowSum,
    ranges: BTreeMap<SessionId, Range>,
    current: Option<Current<'a>>,
    ledger: Vec<(u64, StoredLedgerRecord)>,
    ledger_holes: Vec<(i64, Option<Digest>)>,
    contents: ContentFacts,
    key: Option<(SessionId, Option<SessionKey>)>,
    unreadable: HashSet<SessionId>,
    /// Whether rows are of an unknown format, so that what the commit sums up cannot be made again.
    unsupported: bool,
    /// Whether there are rows whose values are not known.
    unknown: bool,
    /// Whether there are rows that no build understands, or that do not state a hash.
    damaged: bool,
    /// Whether there is content that no key opened.
    closed: bool,
    heads: Vec<(SessionId, i64, Digest)>,
    index: Vec<(u64, SessionRow)>,
    texts: TextFacts,
    /// Smallest and largest time of the rows.
    times: Option<(i64, i64)>,
    /// First and last hour in which the rows belong.
    hours: Option<(Hour, Hour)>,
}

impl<'a> Collector<'a> {
    fn new(table: Table, path: &'a str, wanted: &'a Wanted<'a>) -> Self {
        Self {
            table,
            path,
            wanted,
            runs: Runs::default(),
            sum: RowSum::default(),
            ranges: BTreeMap::new(),
            current: None,
            ledger: Vec::new(),
            ledger_holes: Vec::new(),
            contents: ContentFacts::default(),
            key: None,
            unreadable: HashSet::new(),
            unsupported: false,
            unknown: false,
            damaged: false,
            closed: false,
            heads: Vec::new(),
            index: Vec::new(),
            texts: TextFacts::default(),
            times: None,
            hours: None,
        }
    }

    fn batch(&mut self, batch: &RecordBatch, first: u64, faults: &mut Vec<Fault>) -> Result<(), LakeError> {
        match self.table {
            Table::Events(Family::Ledger) => {
                let decoder = LedgerDecoder::new(batch)?;
                for row in 0..batch.num_rows() {
                    self.record(first + row as u64, decoder.row(row), faults);
                }
            }
            Table::Events(family) => {
                let decoder = Decoder::new(family, batch)?;
                for row in 0..batch.num_rows() {
                    self.event(first + row as u64, decoder.row(row), decoder.fingerprint(row), faults);
                }
            }
            Table::Content => {
                for (row, chunk) in content::decode(batch)?.into_iter().enumerate() {
                    self.chunk(first + row as u64, chunk, faults);
                }
            }
            Table::Sessions => {
                for (row, session) in sessions::decode(batch)?.into_iter().enumerate() {
                    self.sum.add(session.row_hash());
                    self.at(session.last_activity_ns);
                    self.range(session.session_id, 0, None);
                    if self.is_wanted(Some(session.session_id)) {
                        self.index.push((first + row as u64, session));
                    }
                }
            }
            Table::Templates => {
                for (row, template) in templates::decode(batch)?.into_iter().enumerate() {
                    self.sum.add(template.row_hash());
                    self.texts.is_there(template.fingerprint);
                    let fits = |key: &TenantKey| key.fingerprint(&template.text) == template.fingerprint;
                    if !self.wanted.tenant.is_none_or(fits) {
                        let detail = format!("the text of fingerprint {} has another", template.fingerprint);
                        faults.push(Fault::new(Class::Index, detail).at_row(self.path, first + row as u64));
                    }
                }
            }
            Table::Findings => {
                for finding in findings::decode(batch)? {
                    self.sum.add(finding.row_hash());
                    self.at(finding.window_start_ns);
                }
            }
        }
        Ok(())
    }

    /// Takes note of the time of a row.
    fn at(&mut self, ts_ns: i64) {
        self.times = Some(self.times.map_or((ts_ns, ts_ns), |(min, max)| (min.min(ts_ns), max.max(ts_ns))));
    }

    /// Takes note of the hour in which a row belongs.
    fn belongs(&mut self, hour: Hour) {
        self.hours = Some(self.hours.map_or((hour, hour), |(min, max)| (min.min(hour), max.max(hour))));
    }

    fn event(
        &mut self,
        row: u64,
        event: Result<StoredEvent, RowFault>,
        fingerprint: Option<Fingerprint>,
        faults: &mut Vec<Fault>,
    ) {
        let event = match event {
            Ok(event) => event,
            Err(fault) => {
                self.runs.interrupt();
                self.not_known(&fault);
                if let (Some(session), Some(seq)) = (fault.session, fault.seq) {
                    self.range(session, seq, fault.hash);
                }
                self.unreadable.extend(fault.session);
                if self.is_wanted(fault.session) {
                    faults.push(row_fault(self.path, row, &fault));
                }
                return;
            }
        };
        let e = &event.envelope;
        let (session, seq) = (e.session, e.seq);
        self.sum.add(event.hash);
        self.at(e.ts_wall_ns);
        self.belongs(Hour::of_ns(e.ts_wall_ns));
        self.range(session, seq, Some(event.hash));
        if !self.is_wanted(Some(session)) {
            return;
        }
        if let (Some(no), Some(commitment)) = (e.content_no, e.content) {
            self.contents.commits(session, no, seq, commitment, self.wanted.keys.is_some());
        }
        if let Some(fingerprint) = fingerprint {
            self.texts.is_named(fingerprint, e, row);
        }
        let count = seq.checked_add(1);
        let wanted = self.current.as_ref().and_then(|c| c.heads).zip(count);
        if let Some((_, count)) = wanted.filter(|(counts, count)| counts.binary_search(count).is_ok()) {
            self.heads.push((session, count, event.hash));
        }
        self.runs.add(event);
    }

    fn record(&mut self, row: u64, record: Result<StoredLedgerRecord, RowFault>, faults: &mut Vec<Fault>) {
        match record {
            Ok(record) => {
                self.sum.add(record.0.hash);
                self.at(record.0.ts_wall_ns);
                self.belongs(Hour::of_ns(record.0.ts_wall_ns));
                self.ledger.push((row, record));
            }
            Err(fault) => {
                self.not_known(&fault);
                self.ledger_holes.extend(fault.seq.map(|seq| (seq, fault.hash)));
                faults.push(row_fault(self.path, row, &fault));
            }
        }
    }

    fn chunk(&mut self, row: u64, chunk: Result<SealedChunk, RowFault>, faults: &mut Vec<Fault>) {
        match chunk {
            Ok(chunk) => {
                self.sum.add(content_row_hash(&chunk));
                self.belongs(Hour::of_session(chunk.session));
                self.range(chunk.session, chunk.content_no, None);
                if self.is_wanted(Some(chunk.session)) {
                    self.content(row, &chunk, faults);
                }
            }
            Err(fault) => {
                self.not_known(&fault);
                faults.push(row_fault(self.path, row, &fault));
            }
        }
    }

    /// Takes note of a row that does not hold what its table holds.
    fn not_known(&mut self, fault: &RowFault) {
        self.unknown = true;
        self.unsupported |= fault.error.is_unsupported();
        match fault.hash {
            // What the row states enters the sum, whoever may understand the rest of it.
            Some(hash) if fault.error.is_unsupported() => self.sum.add(hash),
            _ => self.damaged = true,
        }
    }

    fn content(&mut self, row: u64, chunk: &SealedChunk, faults: &mut Vec<Fault>) {
        let Some(keys) = self.wanted.keys else {
            self.closed = true;
            return self.contents.is_there(chunk.session, chunk.content_no);
        };
        if self.key.as_ref().is_none_or(|(session, _)| *session != chunk.session) {
            self.key = Some((chunk.session, keys(chunk.session)));
        }
        // A key that is missing or wrong is reported once, with its session.
        let Some((_, Some(key))) = &self.key else {
            self.closed = true;
            return self.contents.is_closed(chunk.session);
        };
        if let Err(error) = self.contents.opened(key, chunk) {
            let detail = format!("content {} chunk {}: {error}", chunk.content_no, chunk.index);
            faults.push(Fault::new(Class::Payload, detail).of(chunk.session).at_row(self.path, row));
        }
    }

    fn is_wanted(&self, session: Option<SessionId>) -> bool {
        self.wanted.session.is_none() || self.wanted.session == session
    }

    fn range(&mut self, session: SessionId, seq: i64, head: Option<Digest>) {
        if self.current.as_ref().is_none_or(|c| c.session != session) {
            self.leave();
            let heads = self.wanted.heads.get(&session).map(Vec::as_slice);
            let range = self.ranges.get(&session).copied().unwrap_or((seq, seq, head));
            self.current = Some(Current { session, range, heads });
        }
        if let Some(Current { range, .. }) = &mut self.current {
            range.0 = range.0.min(seq);
            if seq >= range.1 {
                (range.1, range.2) = (seq, head.or(range.2));
            }
        }
    }

    /// Keeps the range of the session whose rows end here.
    fn leave(&mut self) {
        if let Some(current) = self.current.take() {
            self.ranges.insert(current.session, current.range);
        }
    }

    fn finish(mut self, entry: &FileEntry, named_by: &str, differs: bool, facts: &mut FileFacts) -> Standing {
        self.leave();
        let found = facts.faults.len();
        // In a file that a newer recorder wrote, what its commit sums up may be made in another way.
        let comparable = !self.unsupported || (differs && !self.damaged);
        let mut wrong = |what: String| {
            let detail = format!("{named_by} states {what}");
            facts.faults.push(Fault::new(Class::Manifest, detail).at(&entry.path));
        };
        if entry.rows != facts.rows {
            wrong(format!("{} rows; there are {}", entry.rows, facts.rows));
        }
        if comparable && entry.row_sum.is_some_and(|sum| sum != self.sum.digest()) {
            wrong("another sum of row hashes: its rows are not the ones that were committed".to_owned());
        }
        if let Some(stated) = &entry.sessions
            && matches!(self.table, Table::Events(_))
            && comparable
        {
            let stated: BTreeMap<SessionId, Range> =
                stated.iter().map(|r| (r.session, (r.seq_from, r.seq_to, r.head))).collect();
            let differs = |s: &&SessionId| stated.get(*s) != self.ranges.get(*s);
            let session = stated.keys().chain(self.ranges.keys()).find(differs);
            if let Some(session) = session {
                wrong(format!("other events of session {session} than the file holds"));
            }
        }
        let mut fits = !self.damaged && facts.faults.len() == found && entry.row_sum.is_some();
        if !self.unknown
            && facts.faults.len() == found
            && let Some(what) = self.bounds(entry)
        {
            fits = false;
            // Of a file that is another than the committed one nothing more is said; its rows are judged as they are.
            if !differs {
                let detail = format!("{named_by} states {what}: readers would pass over rows that are there");
                facts.faults.push(Fault::new(Class::Manifest, detail).at(&entry.path));
            }
        }
        let standing = Standing { fits, by_sum: self.is_by_sum() };
        facts.index = self.index;
        facts.runs = self.runs.finish();
        facts.ledger = self.ledger;
        facts.ledger_holes = self.ledger_holes;
        facts.contents = self.contents;
        facts.unreadable = self.unreadable;
        facts.heads = self.heads;
        facts.texts = self.texts;
        standing
    }

    /// Whether nothing but the sum of their hashes says that the rows are the committed ones. Whoever chooses many
    /// rows can reach any sum. Events and ledger records are bound by their chains, rows of the index by the events,
    /// opened content by its key, and texts by their fingerprints.
    fn is_by_sum(&self) -> bool {
        match self.table {
            Table::Events(_) | Table::Sessions => false,
            Table::Content => self.closed || self.wanted.session.is_some(),
            Table::Templates => self.wanted.tenant.is_none(),
            Table::Findings => true,
        }
    }
}

/// How the rows of a file stand to what its commit says of them.
struct Standing {
    /// Number, sum, sessions, times and place are those that the commit states.
    fits: bool,
    /// The sum is all that speaks for them.
    by_sum: bool,
}

impl Collector<'_> {
    /// What an entry states, by which readers choose files, and is not so. What it must not leave out is asked for
    /// with its commit.
    fn bounds(&self, entry: &FileEntry) -> Option<String> {
        let wrong = |stated: bool, fits: bool, what: &str| (stated && !fits).then(|| what.to_owned());
        let (min, max) = (self.times.map(|t| t.0), self.times.map(|t| t.1));
        let sessions = (self.ranges.keys().next(), self.ranges.keys().next_back());
        let listed = entry.sessions.as_ref().is_none_or(|stated| {
            let found = self.ranges.iter().map(|(session, (from, to, head))| (*session, *from, *to, *head));
            stated.iter().map(|r| (r.session, r.seq_from, r.seq_to, r.head)).eq(found)
        });
        let dir = layout::table_dir(self.table);
        let here = |hour: Hour| entry.path.starts_with(&format!("{dir}/{}/", hour.partition()));
        let hours = self.hours.is_none_or(|(first, last)| here(first) && here(last));
        wrong(entry.min_ts_ns.is_some(), entry.min_ts_ns == min, "another smallest time")
            .or_else(|| wrong(entry.max_ts_ns.is_some(), entry.max_ts_ns == max, "another largest time"))
            .or_else(|| {
                let fits = entry.min_session.as_ref() == sessions.0;
                wrong(entry.min_session.is_some(), fits, "another smallest session")
            })
            .or_else(|| {
                let fits = entry.max_session.as_ref() == sessions.1;
                wrong(entry.max_session.is_some(), fits, "another largest session")
            })
            .or_else(|| wrong(true, listed, "other sessions"))
            .or_else(|| wrong(true, hours, "a path in another hour than that of its rows"))
    }
}

fn row_fault(path: &str, row: u64, fault: &RowFault) -> Fault {
    let class = if fault.error.is_unsupported() { Class::Unsupported } else { Class::Row };
    let mut found = Fault::new(class, &fault.error).at_row(path, row);
    found.session = fault.session;
    found.seq = fault.seq;
    found
}

/// Looks again at a file of events: the rows of `sessions`, one by one.
pub fn look_again(file: &DataFile, bytes: &Bytes, sessions: &HashSet<SessionId>) -> SecondLook {
    let mut look = SecondLook::default();
    let Table::Events(family) = file.entry.table.0 else { return look };
    let path: Arc<str> = file.entry.path.as_str().into();
    let mut linker = Linker::default();
    // Whatever cannot be read was reported the first time.
    let mut known = Vec::new();
    read(&file.entry.path, bytes, &mut known, |batch, first, _| {
        let decoder = Decoder::new(family, batch)?;
        for row in 0..batch.num_rows() {
            match decoder.row(row) {
                Ok(mut event) => {
                    let link = linker.link(&mut event);
                    let session = event.envelope.session;
                    if sessions.contains(&session) {
                        let ordinary = matches!(link, Link::Follows(_)) && family != Family::Session;
                        let found = Row {
                            seq: event.envelope.seq,
                            hash: event.hash,
                            path: Arc::clone(&path),
                            row: first + row as u64,
                            prev: if let Link::Follows(prev) = link { Some(prev) } else { None },
                            event: (!ordinary).then(|| Box::new(event.clone())),
                        };
                        look.rows.entry(session).or_default().push(found);
                    } else if look.neighbours.len() < MAX_NEIGHBOURS {
                        look.neighbours.push((session, event.envelope.seq, event.hash));
                    }
                    linker.passed(event);
                }
                Err(fault) => {
                    linker.interrupt();
                    if let (Some(session), Some(seq)) = (fault.session, fault.seq) {
                        look.holes.entry(session).or_default().push((seq, fault.hash));
                    }
                }
            }
        }
        Ok(())
    });
    look
}

/// The fault of a file that is not there.
pub fn missing(file: &DataFile) -> Fault {
    let detail = format!("missing, though {} names it", file.named_by);
    Fault::new(Class::Manifest, detail).at(&file.entry.path)
}

/// The fault of a file that the Parquet library cannot survive.
pub fn hostile(file: &DataFile) -> Fault {
    let detail = "not a readable Parquet file: decoding it fails in a way that no writer's file does";
    Fault::new(Class::File, detail).at(&file.entry.path)
}

/// The fault of an object that could not be read.
pub fn unreadable(path: &str, why: &str) -> Fault {
    Fault::new(Class::Unreadable, format!("cannot be read: {}", shown(why))).at(path)
}
