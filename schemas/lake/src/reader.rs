//! Reading tables: batches of the rows that a filter lets through, file by file, in bounded memory.
//!
//! A session is found without an index: files state their sessions (or the smallest and largest), row groups
//! have statistics and Bloom filters, and inside a row group only the pages with rows that match are decoded.

use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use bodycam_record::value::Type;
use bodycam_record::{Digest, Family, Fingerprint, SessionId};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use parquet::arrow::arrow_reader::{ArrowPredicateFn, ArrowReaderMetadata, ArrowReaderOptions, RowFilter};
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::file::metadata::PageIndexPolicy;
use parquet::file::statistics::Statistics;

use crate::columns::cells::Columns;
use crate::columns::findings::{self, FindingRow};
use crate::columns::sessions::{self, SessionRow};
use crate::columns::{Decoder, RowFault, StoredEvent, StoredLedgerRecord, Table, decode_ledger, templates};
use crate::commit::FileEntry;
use crate::error::LakeError;
use crate::file::seq_column;
use crate::lake::View;
use crate::layout::HOUR_NS;

mod source;

use source::FileSource;

/// Rows in a batch.
const BATCH_ROWS: usize = 8192;
/// Files that are read ahead.
const READ_AHEAD: usize = 4;

/// Which rows, and which of their columns.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only these columns; all when empty.
    pub columns: Vec<String>,
    /// Only rows of this session.
    pub session: Option<SessionId>,
    /// Only rows with a `seq` (for content: a `content_no`) in this range, the end excluded.
    pub seq: Option<(i64, i64)>,
    /// Only rows with a wall time in this range (Unix ns), the end excluded.
    pub time: Option<(i64, i64)>,
    /// Only rows of these kinds (for content: of these content kinds).
    pub kinds: Vec<i64>,
    /// Rows in a batch; a default when zero.
    pub batch_rows: usize,
}

/// Events, and the rows that are none, with the path of their file.
#[derive(Debug, Clone, Default)]
pub struct Events {
    /// In order of `seq`.
    pub events: Vec<StoredEvent>,
    /// Rows that do not hold an event that this build knows.
    pub faults: Vec<(String, RowFault)>,
}

impl Filter {
    /// Every row.
    pub fn all() -> Self {
        Self::default()
    }

    /// The rows of a session.
    pub fn session(session: SessionId) -> Self {
        Self { session: Some(session), ..Self::default() }
    }

    /// The rows between two times.
    pub fn between(from_ns: i64, to_ns: i64) -> Self {
        Self { time: Some((from_ns, to_ns)), ..Self::default() }
    }

    /// With only these columns.
    pub fn with_columns(mut self, columns: &[&str]) -> Self {
        self.columns = columns.iter().map(|c| (*c).to_owned()).collect();
        self
    }

    fn may_match(&self, file: &FileEntry) -> bool {
        self.session.is_none_or(|s| file.may_hold(s))
            && self.time.is_none_or(|(from, to)| file.overlaps(from, to))
            && self.seq_may_match(file)
    }

    /// With the list of sessions at hand, a file whose part of the session lies elsewhere is left out.
    fn seq_may_match(&self, file: &FileEntry) -> bool {
        let (Some(session), Some((from, to)), Some(ranges)) = (self.session, self.seq, &file.sessions) else {
            return true;
        };
        let range = ranges.binary_search_by_key(&session, |r| r.session).ok().and_then(|at| ranges.get(at));
        range.is_some_and(|r| r.seq_from < to && r.seq_to >= from)
    }

    /// The columns that rows are chosen by.
    fn chooses_by(&self, table: Table) -> Vec<&'static str> {
        let mut names = Vec::new();
        names.extend(self.session.map(|_| "session_id"));
        names.extend(self.seq.map(|_| seq_column(table)));
        names.extend(self.time.map(|_| time_column(table)));
        names.extend((!self.kinds.is_empty()).then_some(kind_column(table)));
        let schema = table.schema();
        names.retain(|name| schema.index_of(name).is_ok());
        names
    }

    /// Which rows of a batch with (at least) the columns of [`Filter::chooses_by`] pass.
    fn choose(&self, table: Table, batch: &RecordBatch) -> Result<BooleanArray, LakeError> {
        let columns = Columns { table: table.name(), batch };
        let session = match self.session {
            Some(id) => Some((columns.need("session_id", Type::Id16)?, id)),
            None => None,
        };
        let range = |range: Option<(i64, i64)>, name: &str| match range {
            Some(range) => columns.get(name, Type::Int).map(|cells| cells.map(|c| (c, range))),
            None => Ok(None),
        };
        let seq = range(self.seq, seq_column(table))?;
        let time = range(self.time, time_column(table))?;
        let kind = if self.kinds.is_empty() { None } else { columns.get(kind_column(table), Type::Int)? };
        let chosen = (0..batch.num_rows()).map(|row| {
            session.as_ref().is_none_or(|(cells, id)| cells.bytes(row) == Some(id.0.as_slice()))
                && [&seq, &time]
                    .into_iter()
                    .flatten()
                    .all(|(cells, (from, to))| cells.int(row).is_some_and(|v| *from <= v && v < *to))
                && kind.as_ref().is_none_or(|k| k.int(row).is_some_and(|k| self.kinds.contains(&k)))
        });
        Ok(chosen.collect::<Vec<bool>>().into())
    }
}

/// The column that a table's rows are dated by.
fn time_column(table: Table) -> &'static str {
    match table {
        Table::Sessions => "last_activity_ns",
        Table::Findings => "window_start_ns",
        _ => "ts_wall_ns",
    }
}

/// The column that says what a row is.
fn kind_column(table: Table) -> &'static str {
    if table == Table::Content { "content_kind" } else { "kind" }
}

impl View {
    /// The files of a table that can hold rows that `filter` lets through, hours ascending.
    pub fn files(&self, table: Table, filter: &Filter) -> Vec<Arc<FileEntry>> {
        self.state.files(table).filter(|f| filter.may_match(f)).cloned().collect()
    }

    /// The rows of a table that `filter` lets through, file by file, with the file that they are from.
    pub fn read<'a>(
        &'a self,
        table: Table,
        filter: &'a Filter,
    ) -> BoxStream<'a, Result<(Arc<FileEntry>, RecordBatch), LakeError>> {
        let files = self.files(table, filter);
        stream::iter(files)
            .map(move |file| async move {
                let batches = self.read_file(&file, filter).await?;
                Ok::<_, LakeError>(batches.map_ok(move |batch| (file.clone(), batch)))
            })
            .buffered(READ_AHEAD)
            .try_flatten()
            .boxed()
    }

    /// The rows of one file that `filter` lets through.
    pub async fn read_file(
        &self,
        file: &FileEntry,
        filter: &Filter,
    ) -> Result<BoxStream<'static, Result<RecordBatch, LakeError>>, LakeError> {
        let path = file.path.clone();
        let damaged = |err: parquet::errors::ParquetError| source::error(&file.path, err);
        let table = file.table.0;
        let mut source = FileSource::open(&self.store, file).await?;
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let metadata = ArrowReaderMetadata::load_async(&mut source, options).await.map_err(damaged)?;
        let groups = row_groups(&mut source, &metadata, filter.session).await.map_err(damaged)?;
        let leaves =
            |names: &[&str]| ProjectionMask::columns(metadata.parquet_schema(), names.iter().copied());
        let chosen_by = filter.chooses_by(table);
        if let Some(name) = chosen_by.iter().find(|name| metadata.schema().index_of(name).is_err()) {
            return Err(LakeError::damaged(path, format_args!("it has no column {name}")));
        }
        let projection: Vec<_> = filter.columns.iter().map(String::as_str).collect();
        let projection = if projection.is_empty() { ProjectionMask::all() } else { leaves(&projection) };
        let row_filter = (!chosen_by.is_empty()).then(|| {
            let filter = filter.clone();
            let predicate = ArrowPredicateFn::new(leaves(&chosen_by), move |batch| {
                filter
                    .choose(table, &batch)
                    .map_err(|err| arrow::error::ArrowError::ExternalError(Box::new(err)))
            });
            RowFilter::new(vec![Box::new(predicate)])
        });
        let batch_rows = if filter.batch_rows == 0 { BATCH_ROWS } else { filter.batch_rows };
        let mut builder = ParquetRecordBatchStreamBuilder::new_with_metadata(source, metadata)
            .with_row_groups(groups)
            .with_projection(projection)
            .with_batch_size(batch_rows);
        if let Some(row_filter) = row_filter {
            builder = builder.with_row_filter(row_filter);
        }
        let batches = builder.build().map_err(damaged)?;
        Ok(batches.map_err(move |err| source::error(&path, err)).boxed())
    }

    /// The events of a session, in order. Its row in the index says when it was active, which spares opening the
    /// files of other hours; should events lie outside (a clock that jumped), everything is read.
    pub async fn events_of(&self, session: SessionId) -> Result<Events, LakeError> {
        if let Some(row) = self.session(session).await? {
            let from = row.started_ns.saturating_sub(HOUR_NS);
            let to = row.last_activity_ns.saturating_add(HOUR_NS);
            let events = self.events(&Filter { time: Some((from, to)), ..Filter::session(session) }).await?;
            if i64::try_from(events.events.len() + events.faults.len()) == Ok(row.events) {
                return Ok(events);
            }
        }
        self.events(&Filter::session(session)).await
    }

    /// The events that `filter` lets through, in order of session and `seq`.
    pub async fn events(&self, filter: &Filter) -> Result<Events, LakeError> {
        let mut found = Events::default();
        for family in Family::EVENTS {
            let mut batches = self.read(Table::Events(family), filter);
            while let Some((file, batch)) = batches.try_next().await? {
                let decoder = Decoder::new(family, &batch)?;
                for row in 0..batch.num_rows() {
                    match decoder.row(row) {
                        Ok(event) => found.events.push(event),
                        Err(fault) => found.faults.push((file.path.clone(), fault)),
                    }
                }
            }
        }
        found.events.sort_by_key(|e| (e.envelope.session, e.envelope.seq));
        Ok(found)
    }

    /// The hashes of a session's events by `seq`; several for one `seq` where the chain forks.
    pub async fn event_hashes(&self, session: SessionId) -> Result<HashMap<i64, Vec<Digest>>, LakeError> {
        let filter = Filter::session(session).with_columns(&["seq", "hash"]);
        let mut hashes: HashMap<i64, Vec<Digest>> = HashMap::new();
        for family in Family::EVENTS {
            let mut batches = self.read(Table::Events(family), &filter);
            while let Some((_, batch)) = batches.try_next().await? {
                let columns = Columns { table: family.name(), batch: &batch };
                let (seq, hash) = (columns.need("seq", Type::Int)?, columns.need("hash", Type::Digest)?);
                for row in 0..batch.num_rows() {
                    if let (Some(seq), Some(hash)) = (seq.int(row), hash.digest(row)) {
                        hashes.entry(seq).or_default().push(hash);
                    }
                }
            }
        }
        Ok(hashes)
    }

    /// The newest row of every session that `filter` lets through, in order of session id.
    pub async fn sessions(&self, filter: &Filter) -> Result<Vec<SessionRow>, LakeError> {
        let mut rows = Vec::new();
        let mut batches = self.read(Table::Sessions, filter);
        while let Some((file, batch)) = batches.try_next().await? {
            rows.extend(sessions::decode(&batch).map_err(|err| LakeError::damaged(&file.path, err))?);
        }
        Ok(sessions::newest(rows))
    }

    /// The newest row of one session.
    pub async fn session(&self, session: SessionId) -> Result<Option<SessionRow>, LakeError> {
        Ok(self.sessions(&Filter::session(session)).await?.pop())
    }

    /// The `n` sessions with the newest activity, newest first. Reads no more files than that takes.
    pub async fn recent_sessions(&self, n: usize) -> Result<Vec<SessionRow>, LakeError> {
        let mut files: Vec<_> = self.state.files(Table::Sessions).cloned().collect();
        files.sort_by_key(|f| std::cmp::Reverse(f.max_ts_ns));
        let mut newest: HashMap<SessionId, SessionRow> = HashMap::new();
        for file in files {
            // A session's newest row is the one with its newest activity, so it lies in the files read so far
            // as soon as no file is left with a time beyond the n-th newest.
            if newest.len() >= n && nth_newest(newest.values(), n) > file.max_ts_ns.unwrap_or(i64::MAX) {
                break;
            }
            let mut batches = self.read_file(&file, &Filter::all()).await?;
            while let Some(batch) = batches.try_next().await? {
                for row in sessions::decode(&batch).map_err(|err| LakeError::damaged(&file.path, err))? {
                    match newest.get(&row.session_id) {
                        Some(known) if known.revision >= row.revision => {}
                        _ => drop(newest.insert(row.session_id, row)),
                    }
                }
            }
        }
        let mut rows: Vec<_> = newest.into_values().collect();
        rows.sort_unstable_by_key(|r| std::cmp::Reverse((r.last_activity_ns, r.session_id)));
        rows.truncate(n);
        Ok(rows)
    }

    /// The ledger of a producer, in order, and the rows that are no ledger record.
    pub async fn ledger(
        &self,
        producer: &str,
    ) -> Result<(Vec<StoredLedgerRecord>, Vec<(String, RowFault)>), LakeError> {
        let (mut records, mut faults) = (Vec::new(), Vec::new());
        let all = Filter::all();
        let mut batches = self.read(Table::Events(Family::Ledger), &all);
        while let Some((file, batch)) = batches.try_next().await? {
            for row in decode_ledger(&batch)? {
                match row {
                    Ok(record) if record.0.producer == producer => records.push(record),
                    Ok(_) => {}
                    Err(fault) => faults.push((file.path.clone(), fault)),
                }
            }
        }
        records.sort_by_key(|r| r.0.seq);
        Ok((records, faults))
    }

    /// Every literal-free statement text.
    pub async fn templates(&self) -> Result<HashMap<Fingerprint, String>, LakeError> {
        let mut texts = HashMap::new();
        let all = Filter::all();
        let mut batches = self.read(Table::Templates, &all);
        while let Some((file, batch)) = batches.try_next().await? {
            let rows = templates::decode(&batch).map_err(|err| LakeError::damaged(&file.path, err))?;
            texts.extend(rows.into_iter().map(|row| (row.fingerprint, row.text)));
        }
        Ok(texts)
    }

    /// The findings that commits hold (those of the recorder; rules' findings are named by window records).
    pub async fn committed_findings(&self) -> Result<Vec<FindingRow>, LakeError> {
        let mut rows = Vec::new();
        let all = Filter::all();
        let mut batches = self.read(Table::Findings, &all);
        while let Some((file, batch)) = batches.try_next().await? {
            rows.extend(findings::decode(&batch).map_err(|err| LakeError::damaged(&file.path, err))?);
        }
        Ok(rows)
    }
}

/// The row groups that can hold rows of `session`, by statistics and Bloom filter.
async fn row_groups(
    source: &mut FileSource,
    metadata: &ArrowReaderMetadata,
    session: Option<SessionId>,
) -> Result<Vec<usize>, parquet::errors::ParquetError> {
    let all = 0..metadata.metadata().num_row_groups();
    let column = metadata.parquet_schema().columns().iter().position(|c| c.name() == "session_id");
    let (Some(session), Some(column)) = (session, column) else { return Ok(all.collect()) };
    let mut groups = Vec::new();
    for group in all {
        let chunk = metadata.metadata().row_groups().get(group).and_then(|g| g.columns().get(column));
        if chunk.and_then(|c| c.statistics()).is_some_and(|s| is_outside(s, session)) {
            continue;
        }
        let mut builder =
            ParquetRecordBatchStreamBuilder::new_with_metadata(source.clone(), metadata.clone());
        let bloom = builder.get_row_group_column_bloom_filter(group, column).await?;
        if bloom.is_none_or(|b| b.check(session.0.as_slice())) {
            groups.push(group);
        }
    }
    Ok(groups)
}

fn nth_newest<'a>(rows: impl Iterator<Item = &'a SessionRow>, n: usize) -> i64 {
    let mut newest = BinaryHeap::with_capacity(n + 1);
    for row in rows {
        newest.push(std::cmp::Reverse(row.last_activity_ns));
        if newest.len() > n {
            newest.pop();
        }
    }
    newest.peek().map_or(i64::MIN, |r| r.0)
}

/// Whether statistics rule a session out.
fn is_outside(statistics: &Statistics, session: SessionId) -> bool {
    let (min, max) = (statistics.min_bytes_opt(), statistics.max_bytes_opt());
    // Truncated bounds still bound: a cut minimum is smaller, a cut maximum is rounded up by the writer.
    min.is_some_and(|min| session.0.as_slice() < min) || max.is_some_and(|max| session.0.as_slice() > max)
}
