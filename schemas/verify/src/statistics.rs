//! What a Parquet file says about its own columns, against what they hold. Readers skip row groups and pages
//! by these statements, so a false one hides rows without changing any of them: smallest and largest values,
//! numbers of nulls, Bloom filters, where pages lie and which row they begin with, and the order of rows.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, DynComparator, RecordBatch, make_comparator};
use arrow::compute::{SortOptions, cast};
use arrow::datatypes::{DataType, Int64Type};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Type as Physical;
use parquet::bloom_filter::Sbbf;
use parquet::column::page::PageReader;
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::page_index::offset_index::PageLocation;
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::file::statistics::Statistics;

use crate::fault::{Class, Fault};

/// The statements about one row group.
pub struct Claims {
    columns: Vec<Column>,
    row: u64,
    group: usize,
    /// Places of the columns by which the rows are said to be sorted, and how.
    sorted_by: Vec<(usize, SortOptions)>,
    /// The last row so far, in those columns.
    last: Vec<ArrayRef>,
}

/// The statements about one column of a row group.
struct Column {
    name: String,
    /// Place of its column in the batches.
    place: usize,
    nested: bool,
    bounds: Bounds,
    nulls: Option<u64>,
    nulls_seen: u64,
    bloom: Option<Sbbf>,
    bloom_last: Option<Vec<u8>>,
    pages: Vec<Page>,
    /// The row with which each page begins, as the offset index states it, whatever else is stated of pages.
    first_rows: Vec<u64>,
    /// Levels (values, nulls and empty lists) before each page after the first, as the pages' own headers count them.
    breaks: Vec<u64>,
    /// Levels so far, and breaks that were passed.
    levels: u64,
    passed: usize,
    /// One finding of each kind a column is enough.
    told: [bool; 2],
}

struct Page {
    from: u64,
    to: u64,
    bounds: Bounds,
    nulls: Option<u64>,
    nulls_seen: u64,
    is_null: bool,
}

/// Smallest and largest value as stated.
#[derive(Debug, Clone, Default)]
struct Bounds {
    min: Option<Bound>,
    max: Option<Bound>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Bound {
    Int(i64),
    Bytes(Vec<u8>),
}

impl Claims {
    /// The statements about row group `group`, and faults for those that cannot be read.
    pub fn of(
        builder: &ParquetRecordBatchReaderBuilder<Bytes>,
        bytes: &Bytes,
        group: usize,
        path: &str,
        faults: &mut Vec<Fault>,
    ) -> Self {
        let metadata = builder.metadata();
        let rows = metadata.row_groups().get(group);
        let descriptor = builder.parquet_schema();
        let count = rows.map_or(0, |r| r.num_columns());
        let roots: Vec<usize> = (0..count).map(|leaf| descriptor.get_column_root_idx(leaf)).collect();
        let mut columns = Vec::new();
        for (leaf, place) in roots.iter().enumerate() {
            let Some(chunk) = rows.and_then(|r| r.columns().get(leaf)) else { continue };
            if roots.iter().filter(|p| *p == place).count() > 1 {
                continue;
            }
            let name = chunk.column_path().string();
            let bloom = builder.get_row_group_column_bloom_filter(group, leaf).unwrap_or_else(|error| {
                let detail = format!("the Bloom filter of column {name} cannot be read: {error}");
                faults.push(Fault::new(Class::Bloom, detail).at(path));
                None
            });
            let physical = chunk.column_type();
            let nested = chunk.column_descr().max_rep_level() > 0;
            let end = rows.map_or(0, |r| u64::try_from(r.num_rows()).unwrap_or_default());
            let mut pages = pages(builder, group, leaf, end);
            let breaks = page_breaks(builder, bytes, group, leaf, end).unwrap_or_else(|why| {
                let detail = format!(
                    "row group {group}: the page index of column {name} is not that of its pages: {why}"
                );
                faults.push(Fault::new(Class::Statistics, detail).at(path));
                // What it says of single pages is said of others, and that has just been told.
                pages.clear();
                Vec::new()
            });
            columns.push(Column {
                name,
                place: *place,
                nested,
                bounds: chunk.statistics().map(|s| stated(s, physical)).unwrap_or_default(),
                nulls: chunk.statistics().and_then(Statistics::null_count_opt),
                nulls_seen: 0,
                bloom,
                bloom_last: None,
                pages,
                first_rows: first_rows(builder, group, leaf),
                breaks,
                levels: 0,
                passed: 0,
                told: [false; 2],
            });
        }
        for column in columns.iter_mut().filter(|c| !c.nested) {
            // A level is a row here: what the pages hold says at once which rows they begin with.
            let breaks = std::mem::take(&mut column.breaks);
            if !breaks.is_empty() && column.first_rows.get(1..) != Some(breaks.as_slice()) {
                column.denied("the first row of a page", group, path, faults);
            }
        }
        let sorted = rows.and_then(|r| r.sorting_columns()).into_iter().flatten();
        let sorted_by = sorted.filter_map(|s| {
            let place = roots.get(usize::try_from(s.column_idx).ok()?)?;
            Some((*place, SortOptions { descending: s.descending, nulls_first: s.nulls_first }))
        });
        let sorted_by = sorted_by.collect();
        Self { columns, row: 0, group, sorted_by, last: Vec::new() }
    }

    /// Compares the next rows of the row group.
    pub fn check(&mut self, batch: &RecordBatch, path: &str, faults: &mut Vec<Fault>) {
        let (from, to) = (self.row, self.row + batch.num_rows() as u64);
        self.row = to;
        for column in &mut self.columns {
            let Some(array) = batch.columns().get(column.place) else { continue };
            column.check(&plain(array), from, to, self.group, path, faults);
        }
        if !self.in_order(batch).unwrap_or(true) {
            let detail = format!("row group {}: the rows are not in the order that it states", self.group);
            faults.push(Fault::new(Class::Statistics, detail).at(path));
            self.sorted_by.clear();
        }
    }

    /// Whether the rows follow one another in the stated order. None when there is no such order.
    fn in_order(&mut self, batch: &RecordBatch) -> Option<bool> {
        if self.sorted_by.is_empty() || batch.num_rows() == 0 {
            return None;
        }
        let last = std::mem::take(&mut self.last);
        let (mut within, mut across) = (Vec::new(), Vec::new());
        for (n, (place, options)) in self.sorted_by.iter().enumerate() {
            let column = batch.columns().get(*place)?;
            within.push(make_comparator(column, column, *options).ok()?);
            if let Some(last) = last.get(n) {
                across.push(make_comparator(last, column, *options).ok()?);
            }
            self.last.push(column.slice(batch.num_rows() - 1, 1));
        }
        let after = |compare: &[DynComparator], i, j| {
            let different = compare.iter().map(|c| c(i, j)).find(|o| o.is_ne());
            different.is_none_or(|o| o.is_lt())
        };
        Some(after(&across, 0, 0) && (1..batch.num_rows()).all(|row| after(&within, row - 1, row)))
    }

    /// Compares the counts, when all rows of the row group have been seen.
    pub fn finish(mut self, path: &str, faults: &mut Vec<Fault>) {
        for column in &mut self.columns {
            let wrong = column.nulls.is_some_and(|n| n != column.nulls_seen);
            let pages = column.pages.iter().any(|p| p.nulls.is_some_and(|n| n != p.nulls_seen));
            if !column.nested && (wrong || pages) {
                column.denied("the number of nulls", self.group, path, faults);
            }
        }
    }
}

impl Column {
    fn check(
        &mut self,
        array: &ArrayRef,
        from: u64,
        to: u64,
        group: usize,
        path: &str,
        faults: &mut Vec<Fault>,
    ) {
        self.nulls_seen += array.null_count() as u64;
        let (mut outside, mut bad_page) = (false, false);
        if self.pages.is_empty() {
            outside = !self.bounds.hold(array);
        }
        for page in self.pages.iter_mut().filter(|p| p.from < to && p.to > from) {
            let (start, end) = (page.from.max(from) - from, page.to.min(to) - from);
            let part = array.slice(to_usize(start), to_usize(end.saturating_sub(start)));
            page.nulls_seen += part.null_count() as u64;
            bad_page |= page.is_null && part.null_count() < part.len() && !self.nested;
            if !page.bounds.is_empty() || !self.bounds.is_empty() {
                let extremes = extremes(&part);
                bad_page |= !page.bounds.include(extremes.as_ref());
                outside |= !self.bounds.include(extremes.as_ref());
            }
        }
        if outside {
            self.denied("smallest or largest value", group, path, faults);
        }
        if bad_page {
            self.denied("smallest or largest value of a page", group, path, faults);
        }
        if !self.breaks.is_empty() && !self.pages_begin_where_they_say(array, from) {
            self.denied("the first row of a page", group, path, faults);
        }
        let Some(bloom) = &self.bloom else { return };
        let last = &mut self.bloom_last;
        let denied = values(array).iter().any(|value| {
            let known = last.as_deref() == Some(value.as_slice());
            let denied = !known && !bloom.check(value.as_slice());
            if !known {
                *last = Some(value.clone());
            }
            denied
        });
        if denied && !std::mem::replace(&mut self.told[1], true) {
            let detail = format!(
                "row group {group}: the Bloom filter of column {} denies a value that is there",
                self.name
            );
            faults.push(Fault::new(Class::Bloom, detail).at(path));
        }
    }

    /// Whether the pages begin with the rows that the index says, for the next rows of the column.
    fn pages_begin_where_they_say(&mut self, array: &ArrayRef, from: u64) -> bool {
        let lists = array.as_list_opt::<i32>();
        let levels = |row: usize| match lists {
            Some(list) if !list.is_null(row) => {
                u64::try_from(list.value_length(row)).unwrap_or_default().max(1)
            }
            _ => 1,
        };
        for row in 0..array.len() {
            while let Some(at) = self.breaks.get(self.passed).filter(|at| **at <= self.levels) {
                let first = self.first_rows.get(self.passed + 1).copied();
                if *at != self.levels || first != Some(from + row as u64) {
                    return false;
                }
                self.passed += 1;
            }
            self.levels += levels(row);
        }
        true
    }

    fn denied(&mut self, what: &str, group: usize, path: &str, faults: &mut Vec<Fault>) {
        if !std::mem::replace(&mut self.told[0], true) {
            let detail =
                format!("row group {group}: {what} of column {} is not what its statistics state", self.name);
            faults.push(Fault::new(Class::Statistics, detail).at(path));
        }
    }
}

impl Bounds {
    fn is_empty(&self) -> bool {
        self.min.is_none() && self.max.is_none()
    }

    /// Whether every value of `array` is within.
    fn hold(&self, array: &ArrayRef) -> bool {
        self.is_empty() || self.include(extremes(array).as_ref())
    }

    /// Whether smallest and largest value are within.
    fn include(&self, extremes: Option<&(Bound, Bound)>) -> bool {
        let Some((min, max)) = extremes else { return true };
        self.min.as_ref().is_none_or(|stated| stated <= min)
            && self.max.as_ref().is_none_or(|stated| stated >= max)
    }
}

/// The array without dictionary.
fn plain(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Dictionary(_, values) => cast(array, values).unwrap_or_else(|_| array.clone()),
        _ => array.clone(),
    }
}

fn stated(statistics: &Statistics, physical: Physical) -> Bounds {
    // Bounds of byte strings in the deprecated fields compare signed bytes; no reader uses them.
    if statistics.is_min_max_deprecated() && !matches!(physical, Physical::INT32 | Physical::INT64) {
        return Bounds::default();
    }
    let bound = |bytes: Option<&[u8]>| bytes.and_then(|b| bound(b, physical));
    Bounds { min: bound(statistics.min_bytes_opt()), max: bound(statistics.max_bytes_opt()) }
}

fn bound(bytes: &[u8], physical: Physical) -> Option<Bound> {
    Some(match physical {
        Physical::INT64 => Bound::Int(i64::from_le_bytes(bytes.try_into().ok()?)),
        Physical::INT32 => Bound::Int(i64::from(i32::from_le_bytes(bytes.try_into().ok()?))),
        Physical::BOOLEAN => Bound::Int(i64::from(*bytes.first()?)),
        Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY => Bound::Bytes(bytes.to_vec()),
        _ => return None,
    })
}

fn first_rows(builder: &ParquetRecordBatchReaderBuilder<Bytes>, group: usize, leaf: usize) -> Vec<u64> {
    let offsets = builder.metadata().offset_index().and_then(|i| i.get(group)).and_then(|g| g.get(leaf));
    let first = |p: &PageLocation| u64::try_from(p.first_row_index).unwrap_or(u64::MAX);
    offsets.map(|o| o.page_locations().iter().map(first).collect()).unwrap_or_default()
}

fn pages(builder: &ParquetRecordBatchReaderBuilder<Bytes>, group: usize, leaf: usize, end: u64) -> Vec<Page> {
    let metadata = builder.metadata();
    let index = metadata.column_index().and_then(|i| i.get(group)).and_then(|g| g.get(leaf));
    let Some(index) = index.filter(|i| !matches!(i, ColumnIndexMetaData::NONE)) else { return Vec::new() };
    let starts = first_rows(builder, group, leaf);
    let known = usize::try_from(index.num_pages()).unwrap_or_default();
    let mut pages = Vec::new();
    for (n, from) in starts.iter().enumerate().take(known) {
        pages.push(Page {
            from: *from,
            to: starts.get(n + 1).copied().unwrap_or(end),
            bounds: page_bounds(index, n),
            nulls: index.null_count(n).and_then(|n| u64::try_from(n).ok()),
            nulls_seen: 0,
            is_null: index.is_null_page(n),
        });
    }
    pages
}

/// Levels before each page after the first, by the pages' own headers; or how the index differs from them.
/// Empty without an index, or when the levels of a page are more than rows and lists.
fn page_breaks(
    builder: &ParquetRecordBatchReaderBuilder<Bytes>,
    bytes: &Bytes,
    group: usize,
    leaf: usize,
    rows: u64,
) -> Result<Vec<u64>, String> {
    let metadata = builder.metadata();
    let offsets = metadata.offset_index().and_then(|i| i.get(group)).and_then(|g| g.get(leaf));
    let chunk = metadata.row_groups().get(group).and_then(|g| g.columns().get(leaf));
    let (Some(offsets), Some(chunk)) = (offsets, chunk) else { return Ok(Vec::new()) };
    let locations = offsets.page_locations();
    let mut at = chunk.data_page_offset();
    for location in locations {
        if location.offset != at {
            return Err(format!("a page is said to lie at {}, and lies at {at}", location.offset));
        }
        at = at.saturating_add(i64::from(location.compressed_page_size));
    }
    let (start, length) = chunk.byte_range();
    if u64::try_from(at).ok() != start.checked_add(length) {
        return Err("the pages that it knows are not all of the column".to_owned());
    }
    let rows = usize::try_from(rows).unwrap_or(usize::MAX);
    let unreadable = |e: parquet::errors::ParquetError| e.to_string();
    let mut pages =
        SerializedPageReader::new(Arc::new(bytes.clone()), chunk, rows, None).map_err(unreadable)?;
    let (mut levels, mut breaks, mut found) = (0u64, Vec::new(), 0);
    while let Some(page) = pages.peek_next_page().map_err(unreadable)? {
        if !page.is_dict {
            if found > 0 {
                breaks.push(levels);
            }
            found += 1;
            levels += page.num_levels.or(page.num_rows).unwrap_or_default() as u64;
        }
        pages.skip_next_page().map_err(unreadable)?;
    }
    if found != locations.len() {
        return Err(format!("it knows {} pages of {found}", locations.len()));
    }
    Ok(if chunk.column_descr().max_rep_level() > 1 { Vec::new() } else { breaks })
}

fn page_bounds(index: &ColumnIndexMetaData, n: usize) -> Bounds {
    let int = |v: Option<&i64>| v.copied().map(Bound::Int);
    let small = |v: Option<&i32>| v.map(|v| Bound::Int(i64::from(*v)));
    let bytes = |v: Option<&[u8]>| v.map(|v| Bound::Bytes(v.to_vec()));
    match index {
        ColumnIndexMetaData::INT64(i) => Bounds { min: int(i.min_value(n)), max: int(i.max_value(n)) },
        ColumnIndexMetaData::INT32(i) => Bounds { min: small(i.min_value(n)), max: small(i.max_value(n)) },
        ColumnIndexMetaData::BOOLEAN(i) => {
            let flag = |v: Option<&bool>| v.map(|v| Bound::Int(i64::from(*v)));
            Bounds { min: flag(i.min_value(n)), max: flag(i.max_value(n)) }
        }
        ColumnIndexMetaData::BYTE_ARRAY(i) | ColumnIndexMetaData::FIXED_LEN_BYTE_ARRAY(i) => {
            Bounds { min: bytes(i.min_value(n)), max: bytes(i.max_value(n)) }
        }
        _ => Bounds::default(),
    }
}

/// Smallest and largest value of an array; none when it has no values, or values of a type whose order the
/// statistics do not follow.
fn extremes(array: &ArrayRef) -> Option<(Bound, Bound)> {
    if let Some(list) = array.as_list_opt::<i32>() {
        let (start, end) = (*list.value_offsets().first()?, *list.value_offsets().last()?);
        let (start, end) = (usize::try_from(start).ok()?, usize::try_from(end).ok()?);
        return extremes(&list.values().slice(start, end.checked_sub(start)?));
    }
    if let Some(ints) = integers(array) {
        let ints = ints.as_primitive_opt::<Int64Type>()?;
        return Some((Bound::Int(arrow::compute::min(ints)?), Bound::Int(arrow::compute::max(ints)?)));
    }
    let mut found: Option<(&[u8], &[u8])> = None;
    each_bytes(array, |value| {
        found = Some(found.map_or((value, value), |(min, max)| (min.min(value), max.max(value))));
    });
    found.map(|(min, max)| (Bound::Bytes(min.to_vec()), Bound::Bytes(max.to_vec())))
}

/// The array as Int64, when its type is an integer that statistics order as such, or a boolean.
fn integers(array: &ArrayRef) -> Option<ArrayRef> {
    use DataType::{Boolean, Int8, Int16, Int32, Int64};
    match array.data_type() {
        Int64 => Some(array.clone()),
        Boolean | Int8 | Int16 | Int32 => cast(array, &Int64).ok(),
        _ => None,
    }
}

fn each_bytes<'a>(array: &'a ArrayRef, mut f: impl FnMut(&'a [u8])) {
    match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().iter().flatten().for_each(|v| f(v.as_bytes())),
        DataType::LargeUtf8 => array.as_string::<i64>().iter().flatten().for_each(|v| f(v.as_bytes())),
        DataType::Utf8View => array.as_string_view().iter().flatten().for_each(|v| f(v.as_bytes())),
        DataType::Binary => array.as_binary::<i32>().iter().flatten().for_each(f),
        DataType::LargeBinary => array.as_binary::<i64>().iter().flatten().for_each(f),
        DataType::BinaryView => array.as_binary_view().iter().flatten().for_each(f),
        DataType::FixedSizeBinary(_) => array.as_fixed_size_binary().iter().flatten().for_each(f),
        _ => {}
    }
}

/// The values as a Bloom filter knows them.
fn values(array: &ArrayRef) -> Vec<Vec<u8>> {
    let mut out: Vec<Vec<u8>> = Vec::new();
    let mut push = |value: &[u8]| {
        if out.last().map(Vec::as_slice) != Some(value) {
            out.push(value.to_vec());
        }
    };
    match array.as_primitive_opt::<Int64Type>() {
        Some(ints) => ints.iter().flatten().for_each(|v| push(&v.to_le_bytes())),
        None => each_bytes(array, push),
    }
    out
}

fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{FixedSizeBinaryBuilder, Int64Array, ListBuilder, StringBuilder};
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ArrowReaderOptions;
    use parquet::file::metadata::PageIndexPolicy;
    use parquet::file::properties::{EnabledStatistics, WriterProperties};

    /// Ten thousand rows, nulls and lists among them.
    fn batch() -> RecordBatch {
        let (mut digests, mut lists) =
            (FixedSizeBinaryBuilder::new(32), ListBuilder::new(StringBuilder::new()));
        for i in 0..10_000u32 {
            digests.append_value([i as u8; 32]).unwrap();
            for n in 0..i % 4 {
                lists.values().append_value(format!("{i}-{n}"));
            }
            lists.append(i % 5 != 0);
        }
        let ints: Int64Array = (0..10_000i64).map(|i| (i % 7 != 0).then_some(i * i)).collect();
        let columns: Vec<(&str, ArrayRef, bool)> = vec![
            ("hash", Arc::new(digests.finish()), false),
            ("rows", Arc::new(ints), true),
            ("relations", Arc::new(lists.finish()), true),
        ];
        RecordBatch::try_from_iter_with_nullable(columns).unwrap()
    }

    fn faults(properties: WriterProperties, batch_rows: usize) -> Vec<Fault> {
        let mut writer = ArrowWriter::try_new(Vec::new(), batch().schema(), Some(properties)).unwrap();
        writer.write(&batch()).unwrap();
        let bytes: Bytes = writer.into_inner().unwrap().into();
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let open =
            || ParquetRecordBatchReaderBuilder::try_new_with_options(bytes.clone(), options.clone()).unwrap();
        let mut faults = Vec::new();
        for group in 0..open().metadata().num_row_groups() {
            let mut claims = Claims::of(&open(), &bytes, group, "f", &mut faults);
            for batch in open().with_row_groups(vec![group]).with_batch_size(batch_rows).build().unwrap() {
                claims.check(&batch.unwrap(), "f", &mut faults);
            }
            claims.finish("f", &mut faults);
        }
        faults
    }

    #[test]
    fn what_honest_writers_state_is_believed_whatever_they_leave_out() {
        for statistics in [EnabledStatistics::Page, EnabledStatistics::Chunk, EnabledStatistics::None] {
            for (pages, groups) in [(37, 10_000), (1000, 3001), (20_000, 20_000)] {
                let properties = WriterProperties::builder()
                    .set_statistics_enabled(statistics)
                    .set_column_statistics_enabled("hash".into(), EnabledStatistics::None)
                    .set_column_bloom_filter_enabled("rows".into(), true)
                    .set_write_batch_size(13)
                    .set_data_page_row_count_limit(pages)
                    .set_max_row_group_row_count(Some(groups))
                    .build();
                let found = faults(properties, 777);
                assert!(found.is_empty(), "{statistics:?} {pages} {groups}: {found:?}");
            }
        }
    }
}
