//! Rows 37–39 and 47 of the matrix, and what files say about themselves.

use std::io::Write as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use bodycam_lake::commit::{FileEntry, StreamEntry, TableName, VERSION};
use bodycam_lake::layout::StreamName;
use bodycam_lake::{EncodedFile, Table, file, layout};
use bodycam_record::Family;
use bodycam_verify::{Class, Report};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::TrackedWrite;

use super::fixture::*;

const SQL: Table = Table::Events(Family::Sql);

/// Whole file as one batch.
pub fn batch_of(bytes: &Bytes) -> RecordBatch {
    let batches: Vec<RecordBatch> =
        file::batches("test", bytes.clone(), 1 << 20).unwrap().map(Result::unwrap).collect();
    concat_batches(&batches[0].schema(), &batches).unwrap()
}

/// A file with other settings than ours.
pub fn write(batch: &RecordBatch, properties: WriterProperties) -> Bytes {
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap().into()
}

/// The batch with a column replaced.
fn with_column(batch: &RecordBatch, name: &str, column: ArrayRef) -> RecordBatch {
    let at = batch.schema().index_of(name).unwrap();
    let mut fields: Vec<Field> = batch.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    fields[at] = Field::new(name, column.data_type().clone(), true);
    let mut columns = batch.columns().to_vec();
    columns[at] = column;
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// The rows with one row more in the count of a session's first result.
pub fn with_first_result_larger(batch: &RecordBatch, session: bodycam_record::SessionId) -> RecordBatch {
    let ids = batch.column_by_name("session_id").unwrap().as_fixed_size_binary();
    let seqs = batch.column_by_name("seq").unwrap().as_primitive::<Int64Type>();
    let rows = batch.column_by_name("rows").unwrap().as_primitive::<Int64Type>();
    let at = (0..batch.num_rows()).find(|row| ids.value(*row) == session.0 && seqs.value(*row) == 2).unwrap();
    let changed: Int64Array =
        rows.iter().enumerate().map(|(row, n)| n.map(|n| n + i64::from(row == at))).collect();
    let column = batch.schema().index_of("rows").unwrap();
    let mut columns = batch.columns().to_vec();
    columns[column] = Arc::new(changed);
    RecordBatch::try_new(batch.schema(), columns).unwrap()
}

/// The lake after `change` of the file that holds event 3 of the first session, with honest-looking commits.
fn altered(change: impl FnOnce(&RecordBatch) -> RecordBatch) -> (Lake, String) {
    let mut lake = (*clean_lake()).clone();
    let path = lake.path_of(SQL, recording().sessions()[0], 3);
    let batch = change(&batch_of(&lake.objects[&path]));
    lake.objects.insert(path.clone(), write(&batch, WriterProperties::builder().build()));
    lake.recommit();
    (lake, path)
}

fn only(report: &Report, class: Class) {
    assert_eq!(classes(report), [class].into(), "{}", report.to_text());
}

#[test]
fn row_37_files_removed_cut_exchanged_or_foreign() {
    let clean = clean_lake();
    let [a, ..] = recording().sessions()[..] else { panic!("sessions") };
    let path = clean.path_of(SQL, a, 3);

    let mut removed = (*clean).clone();
    removed.objects.remove(&path);
    let report = verify(&removed);
    expect_path(&report, Class::Manifest, &path);
    for session in recording().sessions() {
        assert!(
            found(&report).contains(&(Class::SeqGap, Some(session), Some(1), Some(5))),
            "{}",
            report.to_text()
        );
    }

    let cuts = [0, 1, 100, clean.objects[&path].len() / 2, clean.objects[&path].len() - 1];
    for keep in cuts {
        let mut cut = (*clean).clone();
        cut.objects.insert(path.clone(), clean.objects[&path].slice(..keep));
        let report = verify(&cut);
        assert_eq!(report.exit_code, 2);
        for class in [Class::Manifest, Class::File, Class::SeqGap] {
            assert!(report.has(class), "{keep} bytes: {class}\n{}", report.to_text());
        }
    }

    // A file of other rows, of another table, and of no table at all.
    let other = clean.path_of(SQL, a, 9);
    let session_file = clean.path_of(Table::Events(Family::Session), a, 0);
    for (what, foreign) in [
        ("rows", clean.objects[&other].clone()),
        ("table", clean.objects[&session_file].clone()),
        ("text", Bytes::from_static(b"PAR1 this is no file of ours PAR1")),
    ] {
        let mut replaced = (*clean).clone();
        replaced.objects.insert(path.clone(), foreign);
        let report = verify(&replaced);
        expect_path(&report, Class::Manifest, &path);
        assert_eq!(report.exit_code, 2, "{what}");
        replaced.recommit();
        let report = verify(&replaced);
        assert_eq!(report.exit_code, 2, "{what}, recommitted\n{}", report.to_text());
        assert!(report.has(Class::Manifest) || report.has(Class::File), "{what}\n{}", report.to_text());
    }

    // Rows of one file copied into another: a row group of the later into the earlier.
    let (early, late) = (batch_of(&clean.objects[&path]), batch_of(&clean.objects[&other]));
    let mut copied = (*clean).clone();
    let both = concat_batches(&early.schema(), &[early.clone(), late]).unwrap();
    copied.objects.insert(path.clone(), write(&both, WriterProperties::builder().build()));
    copied.recommit();
    let report = verify(&copied);
    expect_path(&report, Class::Manifest, &path);
    assert!(report.has(Class::Duplicate), "{}", report.to_text());
}

#[test]
fn row_38_lossy_rewrites() {
    let a = recording().sessions()[0];
    // Times in milliseconds.
    let (lake, path) = altered(|batch| {
        let times = batch.column_by_name("ts_wall_ns").unwrap().as_primitive::<Int64Type>();
        let cut: Int64Array = times.iter().map(|t| t.map(|t| t / 1_000_000 * 1_000_000)).collect();
        with_column(batch, "ts_wall_ns", Arc::new(cut))
    });
    let report = verify(&lake);
    assert!(found(&report).contains(&(Class::Hash, Some(a), Some(1), Some(5))), "{}", report.to_text());
    expect_path(&report, Class::Hash, &path);

    // Empty lists became NULL, as in tools that know no difference.
    let (lake, path) = altered(|batch| {
        let nothing = arrow::array::new_null_array(
            &batch.column_by_name("functions").unwrap().data_type().clone(),
            batch.num_rows(),
        );
        with_column(batch, "functions", nothing)
    });
    let report = verify(&lake);
    assert!(report.has(Class::Row), "{}", report.to_text());
    expect_path(&report, Class::Row, &path);
    let rows: Vec<_> =
        report.faults.iter().filter(|f| f.class == Class::Row && f.session == Some(a)).collect();
    assert_eq!(rows.iter().map(|f| f.seq).collect::<Vec<_>>(), [Some(1), Some(3), Some(5)]);

    // A column that is gone.
    let (lake, path) = altered(|batch| {
        let keep: Vec<usize> =
            (0..batch.num_columns()).filter(|i| batch.schema().field(*i).name() != "target").collect();
        batch.project(&keep).unwrap()
    });
    let report = verify(&lake);
    expect_path(&report, Class::File, &path);
    assert_eq!(report.exit_code, 2);
}

#[test]
fn row_47_unknown_versions_are_unsupported_and_never_pass() {
    // The file begins with events 1 to 5 of the session with the smallest id.
    let a = recording().sessions().into_iter().min().unwrap();
    for column in ["schema_version", "suite", "kind", "kind_version"] {
        let (lake, path) = altered(|batch| {
            let values = batch.column_by_name(column).unwrap().as_primitive::<Int64Type>();
            let mut values: Vec<i64> = values.values().to_vec();
            values[2] = 77;
            with_column(batch, column, Arc::new(Int64Array::from(values)))
        });
        let report = verify(&lake);
        expect(column, &report, 5, &[(Class::Unsupported, Some(a), Some(3), None)]);
        assert_eq!((report.faults[0].path.as_deref(), report.faults[0].row), (Some(path.as_str()), Some(2)));
    }

    // A file that a newer recorder wrote and committed, with a column that this build does not know.
    let (lake, _) = altered(|batch| {
        let mut fields: Vec<Field> = batch.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
        fields.push(Field::new("newer", DataType::Int64, true));
        let mut columns = batch.columns().to_vec();
        let mut values: Vec<Option<i64>> = vec![None; batch.num_rows()];
        values[4] = Some(1);
        columns.push(Arc::new(Int64Array::from(values)));
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
    });
    let report = verify(&lake);
    expect("newer column", &report, 5, &[(Class::Unsupported, Some(a), Some(5), None)]);

    let mut newer = (*clean_lake()).clone();
    let commit = newer.objects.keys().find(|p| p.starts_with("commits/gw-1@0/")).unwrap().clone();
    let text = String::from_utf8(newer.objects[&commit].to_vec()).unwrap();
    newer.put(&commit, text.replace("\"version\":1", "\"version\":9").into_bytes());
    let report = verify(&newer);
    expect_path(&report, Class::Unsupported, &commit);
    assert_ne!(report.exit_code, 4);
}

/// Adds a compaction of all SQL files; `change` may lose or repeat rows of it.
pub fn compacted(
    change: impl Fn(RecordBatch) -> RecordBatch,
    encode: impl Fn(&RecordBatch) -> EncodedFile,
) -> Lake {
    let mut lake = (*clean_lake()).clone();
    let stream = StreamName::compaction();
    let entry =
        StreamEntry { version: VERSION, stream: stream.clone(), generation: 0, from: 0, origin: None };
    lake.put(&layout::stream(2), entry.to_json());
    let commits = lake.commits();
    let inputs: Vec<FileEntry> =
        commits.iter().flat_map(|c| &c.files).filter(|f| f.table == TableName(SQL)).cloned().collect();
    let batches: Vec<RecordBatch> = inputs.iter().map(|f| batch_of(&lake.objects[&f.path])).collect();
    let all = sorted(&concat_batches(&batches[0].schema(), &batches).unwrap());
    let encoded = encode(&change(all));
    let hour = layout::Hour::of_ns(inputs[0].min_ts_ns.unwrap());
    let file = lake.data(&stream, 0, 0, SQL, Some(hour), encoded);
    let mut commit = commits[0].clone();
    (commit.stream, commit.from, commit.to, commit.previous) = (stream, 0, 1, None);
    (commit.files, commit.sessions, commit.ledger) = (vec![file], vec![], None);
    commit.replaces = inputs.iter().map(|f| f.path.clone()).collect();
    lake.commit(commit, &recorder_key());
    for input in inputs {
        lake.objects.remove(&input.path);
    }
    lake
}

fn sorted(batch: &RecordBatch) -> RecordBatch {
    let by = ["session_id", "seq"].map(|name| arrow::compute::SortColumn {
        values: batch.column_by_name(name).unwrap().clone(),
        options: None,
    });
    let order = arrow::compute::lexsort_to_indices(&by, None).unwrap();
    arrow::compute::take_record_batch(batch, &order).unwrap()
}

fn ours(batch: &RecordBatch) -> EncodedFile {
    file::encode(SQL, batch).unwrap()
}

#[test]
fn row_39_a_compaction_that_loses_repeats_or_changes_rows() {
    let lawful = compacted(|batch| batch, ours);
    expect("lawful", &verify(&lawful), 4, &[]);

    let lost = compacted(|batch| batch.slice(0, batch.num_rows() - 1), ours);
    let report = verify(&lost);
    assert!(report.has(Class::Compaction), "{}", report.to_text());
    let repeated = compacted(
        |batch| {
            concat_batches(&batch.schema(), &[batch.clone(), batch.slice(batch.num_rows() - 1, 1)]).unwrap()
        },
        ours,
    );
    let report = verify(&repeated);
    assert_eq!(found(&report), [(Class::Compaction, None, None, None)], "{}", report.to_text());
    let session = recording().sessions().into_iter().max().unwrap();
    assert!(report.faults.iter().any(|f| f.class == Class::Duplicate && f.session == Some(session)));
    let changed = compacted(
        |batch| {
            let mut values =
                batch.column_by_name("ts_mono_ns").unwrap().as_primitive::<Int64Type>().values().to_vec();
            values[0] += 1;
            with_column(&batch, "ts_mono_ns", Arc::new(Int64Array::from(values)))
        },
        ours,
    );
    let report = verify(&changed);
    let first = recording().sessions().into_iter().min().unwrap();
    expect("changed", &report, 2, &[(Class::Hash, Some(first), Some(1), None)]);
}

#[test]
fn files_encoded_in_another_way_do_not_alarm() {
    let reversed = |batch: RecordBatch| {
        let order: arrow::array::UInt32Array = (0..batch.num_rows() as u32).rev().collect();
        arrow::compute::take_record_batch(&batch, &order).unwrap()
    };
    let variants: [(&str, WriterProperties); 4] = [
        ("small row groups", WriterProperties::builder().set_max_row_group_row_count(Some(3)).build()),
        ("no dictionary", WriterProperties::builder().set_dictionary_enabled(false).build()),
        (
            "no statistics",
            WriterProperties::builder().set_statistics_enabled(EnabledStatistics::None).build(),
        ),
        (
            "version 2",
            WriterProperties::builder()
                .set_writer_version(parquet::file::properties::WriterVersion::PARQUET_2_0)
                .build(),
        ),
    ];
    for (what, properties) in variants {
        for order in ["sorted", "reversed"] {
            let lake = compacted(
                |batch| if order == "sorted" { batch } else { reversed(batch) },
                |batch| {
                    let entry = ours(&sorted(batch)).entry;
                    let bytes = write(batch, properties.clone());
                    let (size, sha256) = (bytes.len() as u64, file::sha256(&bytes));
                    EncodedFile { entry: FileEntry { bytes: size, sha256, ..entry }, bytes }
                },
            );
            expect(&format!("{what}, {order}"), &verify(&lake), 4, &[]);
        }
    }
    // Types that other programs make of ours.
    let (lake, _) = altered(|batch| {
        let mut out = batch.clone();
        for (name, ty) in [
            ("producer", DataType::LargeUtf8),
            ("target", DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))),
            ("hash", DataType::Binary),
            ("session_id", DataType::LargeBinary),
        ] {
            let column = out.column_by_name(name).unwrap();
            let column = match column.data_type() {
                DataType::FixedSizeBinary(_) => cast(&cast(column, &DataType::Binary).unwrap(), &ty).unwrap(),
                _ => cast(column, &ty).unwrap(),
            };
            out = with_column(&out, name, column);
        }
        out
    });
    expect("types", &verify(&lake), 4, &[]);
}

/// The lake with one file encoded after `lie` about a column: true rows, false statistics.
fn lying(
    lie: impl FnOnce(&RecordBatch) -> RecordBatch,
    properties: WriterProperties,
    parts: &[&str],
) -> Lake {
    let mut lake = (*clean_lake()).clone();
    let path = lake.path_of(SQL, recording().sessions()[0], 3);
    let truth = batch_of(&lake.objects[&path]);
    let lied = lie(&truth);
    let (truth, lied) = (write(&truth, properties.clone()), write(&lied, properties));
    let bytes = grafted(&truth, &lied, parts);
    assert_eq!(batch_of(&bytes), batch_of(&truth), "the rows are the true ones");
    lake.objects.insert(path, bytes);
    lake.recommit();
    lake
}

/// The file `truth` with statistics, column index or Bloom filters of `lied`.
fn grafted(truth: &Bytes, lied: &Bytes, parts: &[&str]) -> Bytes {
    use parquet::file::metadata::{
        ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader, ParquetMetaDataWriter, RowGroupMetaData,
    };
    let read = |bytes: &Bytes| {
        ParquetMetaDataReader::new()
            .with_page_index_policy(parquet::file::metadata::PageIndexPolicy::Required)
            .parse_and_finish(bytes)
            .unwrap()
    };
    let (good, bad) = (read(truth), read(lied));
    let footer = u32::from_le_bytes(truth[truth.len() - 8..truth.len() - 4].try_into().unwrap()) as usize;
    let mut out = truth[..truth.len() - 8 - footer].to_vec();
    let mut groups = Vec::new();
    for (group, other) in good.row_groups().iter().zip(bad.row_groups()) {
        let mut builder = RowGroupMetaData::builder(group.schema_descr_ptr())
            .set_num_rows(group.num_rows())
            .set_total_byte_size(group.total_byte_size());
        for (column, other) in group.columns().iter().zip(other.columns()) {
            let mut changed: parquet::file::metadata::ColumnChunkMetaDataBuilder =
                column.clone().into_builder();
            if parts.contains(&"statistics")
                && let Some(statistics) = other.statistics()
            {
                changed = changed.set_statistics(statistics.clone());
            }
            if parts.contains(&"bloom")
                && let (Some(offset), Some(length)) =
                    (other.bloom_filter_offset(), other.bloom_filter_length())
            {
                let at = out.len() as i64;
                out.extend_from_slice(&lied[offset as usize..(offset + i64::from(length)) as usize]);
                changed = changed.set_bloom_filter_offset(Some(at)).set_bloom_filter_length(Some(length));
            }
            let built: ColumnChunkMetaData = changed.build().unwrap();
            builder = builder.add_column_metadata(built);
        }
        groups.push(builder.build().unwrap());
    }
    let mut offsets = good.offset_index().cloned();
    if parts.contains(&"offsets") {
        offsets = bad.offset_index().cloned();
    }
    if parts.contains(&"first rows") {
        for column in offsets.iter_mut().flatten().flatten() {
            // Each page but the first is said to begin a row later than it does.
            let pages = column.page_locations().clone();
            let mut builder = parquet::file::metadata::OffsetIndexBuilder::new();
            for (n, page) in pages.iter().enumerate() {
                let next = pages.get(n + 1).map_or(page.first_row_index + 1, |p| p.first_row_index);
                builder.append_row_count(next - page.first_row_index + i64::from(n == 0));
                builder.append_offset_and_size(page.offset, page.compressed_page_size);
            }
            *column = builder.build();
        }
    }
    let index = if parts.contains(&"pages") { bad.column_index() } else { good.column_index() };
    let metadata = ParquetMetaData::new(good.file_metadata().clone(), groups)
        .into_builder()
        .set_column_index(index.cloned())
        .set_offset_index(offsets)
        .build();
    let mut whole = Vec::new();
    let mut tracked = TrackedWrite::new(&mut whole);
    tracked.write_all(&out).unwrap();
    ParquetMetaDataWriter::new_with_tracked(tracked, &metadata).finish().unwrap();
    whole.into()
}

/// All rows with the same value in a column, so that statistics and filters know no other.
fn flattened(batch: &RecordBatch, name: &str, row: usize) -> RecordBatch {
    let column = batch.column_by_name(name).unwrap();
    let rows = arrow::array::UInt32Array::from(vec![row as u32; batch.num_rows()]);
    let column = arrow::compute::take(column, &rows, None).unwrap();
    with_column(batch, name, column)
}

#[test]
fn false_statistics_are_found_wherever_readers_would_believe_them() {
    let paged = || WriterProperties::builder().set_statistics_enabled(EnabledStatistics::Page);
    for column in ["seq", "rows", "target", "session_id", "verdict", "relations_read", "has_predicate"] {
        for part in ["statistics", "pages"] {
            let lie = |batch: &RecordBatch| match column {
                // Something that is not in the file at all.
                "target" => with_column(
                    batch,
                    column,
                    Arc::new(arrow::array::StringArray::from(vec!["zzz"; batch.num_rows()])),
                ),
                "has_predicate" => with_column(
                    batch,
                    column,
                    Arc::new(arrow::array::BooleanArray::from(vec![Some(true); batch.num_rows()])),
                ),
                "verdict" => with_column(
                    batch,
                    column,
                    Arc::new(arrow::array::StringArray::from(vec!["deny"; batch.num_rows()])),
                ),
                "relations_read" => {
                    let mut lists = arrow::array::ListBuilder::new(arrow::array::StringBuilder::new());
                    for _ in 0..batch.num_rows() {
                        lists.values().append_value("a");
                        lists.append(true);
                    }
                    with_column(batch, column, Arc::new(lists.finish()))
                }
                _ => flattened(batch, column, 1),
            };
            let report = verify(&lying(lie, paged().build(), &[part]));
            only(&report, Class::Statistics);
            assert!(report.faults[0].detail.contains(column), "{}", report.to_text());
            assert_eq!(report.exit_code, 2);
        }
    }
    // Nulls are counted, too: whoever asks for rows with a fingerprint would be sent away.
    let nulls = |batch: &RecordBatch| {
        let column = batch.column_by_name("rows").unwrap();
        with_column(
            batch,
            "rows",
            arrow::array::new_null_array(&column.data_type().clone(), batch.num_rows()),
        )
    };
    for part in ["statistics", "pages"] {
        only(&verify(&lying(nulls, paged().build(), &[part])), Class::Statistics);
    }
}

#[test]
fn a_page_index_that_leads_to_other_rows_is_found() {
    // Pages of two rows, against an index made for pages of three: the same column, cut elsewhere.
    let paged = |rows| {
        let properties =
            WriterProperties::builder().set_write_batch_size(1).set_data_page_row_count_limit(rows);
        properties.set_statistics_enabled(EnabledStatistics::Page).set_dictionary_enabled(false).build()
    };
    let mut lake = (*clean_lake()).clone();
    let path = lake.path_of(SQL, recording().sessions()[0], 3);
    let batch = batch_of(&lake.objects[&path]);
    let (truth, other) = (write(&batch, paged(2)), write(&batch, paged(3)));
    for (part, wanted) in [("offsets", "page index of column"), ("first rows", "first row of a page")] {
        lake.objects.insert(path.clone(), grafted(&truth, &other, &[part]));
        lake.recommit();
        let report = verify(&lake);
        only(&report, Class::Statistics);
        assert!(report.faults.iter().all(|f| f.detail.contains(wanted)), "{part}\n{}", report.to_text());
        for column in ["seq", "relations_read"] {
            let named = |f: &bodycam_verify::Fault| f.detail.contains(&format!("column {column}"));
            assert!(report.faults.iter().any(named), "{part} {column}\n{}", report.to_text());
        }
    }
}

#[test]
fn rows_that_are_not_in_the_stated_order_are_found() {
    let reversed = |batch: &RecordBatch| {
        let order: arrow::array::UInt32Array = (0..batch.num_rows() as u32).rev().collect();
        arrow::compute::take_record_batch(batch, &order).unwrap()
    };
    let mut lake = (*clean_lake()).clone();
    let path = lake.path_of(SQL, recording().sessions()[0], 3);
    let batch = reversed(&batch_of(&lake.objects[&path]));
    lake.objects.insert(path.clone(), write(&batch, file::properties(SQL)));
    lake.recommit();
    let report = verify(&lake);
    only(&report, Class::Statistics);
    assert!(report.faults[0].detail.contains("not in the order"), "{}", report.to_text());
}

#[test]
fn a_bloom_filter_that_denies_a_value_is_found() {
    let properties = WriterProperties::builder()
        .set_column_bloom_filter_enabled("session_id".into(), true)
        .set_column_bloom_filter_enabled("fingerprint".into(), true)
        .build();
    let honest = lying(RecordBatch::clone, properties.clone(), &["bloom"]);
    expect("honest", &verify(&honest), 4, &[]);
    let report = verify(&lying(|batch| flattened(batch, "session_id", 0), properties.clone(), &["bloom"]));
    only(&report, Class::Bloom);
    assert!(report.faults[0].detail.contains("session_id"), "{}", report.to_text());
    let other = |batch: &RecordBatch| {
        let mut ids = arrow::array::FixedSizeBinaryBuilder::new(16);
        (0..batch.num_rows()).for_each(|_| ids.append_value([0x5a; 16]).unwrap());
        with_column(batch, "fingerprint", Arc::new(ids.finish()))
    };
    let report = verify(&lying(other, properties, &["bloom"]));
    only(&report, Class::Bloom);
    assert_eq!(report.exit_code, 2);
}

#[test]
fn commits_removed_altered_or_out_of_order() {
    let clean = clean_lake();
    let first = "commits/gw-1@0/0/0.json";
    let mut gap = (*clean).clone();
    gap.objects.remove(first);
    let report = verify(&gap);
    assert!(found(&report).contains(&(Class::CommitGap, None, None, None)), "{}", report.to_text());
    expect_path(&report, Class::CommitGap, first);

    // The last commits of a lane: its sessions lack their ends.
    let mut tail = (*clean).clone();
    tail.objects.remove("commits/gw-1@0/0/50.json");
    let report = verify(&tail);
    for session in recording().sessions() {
        assert!(
            found(&report).contains(&(Class::TailTruncated, Some(session), Some(6), Some(14))),
            "{}",
            report.to_text()
        );
    }

    let text = |lake: &Lake, path: &str| String::from_utf8(lake.objects[path].to_vec()).unwrap();
    let mut edited = (*clean).clone();
    let changed = text(&edited, first).replace("\"rows\":15", "\"rows\":14");
    assert_ne!(changed, text(&edited, first));
    edited.put(first, changed.into_bytes());
    let report = verify(&edited);
    expect_path(&report, Class::Commit, first);
    expect_path(&report, Class::Manifest, &clean.path_of(SQL, recording().sessions()[0], 3));

    let mut broken = (*clean).clone();
    broken.put(first, b"{".to_vec());
    expect_path(&verify(&broken), Class::Commit, first);

    // The second commit signed again by R, naming no commit before it.
    let mut unlinked = (*clean).clone();
    let mut commit = unlinked.commits().into_iter().find(|c| c.from == 50).unwrap();
    commit.previous = None;
    unlinked.commit(commit, &thief_key());
    let report = verify(&unlinked);
    assert_eq!(found(&report), [(Class::Commit, None, None, None)], "{}", report.to_text());
    assert!(verify_with(&unlinked, &pinned(recording())).has(Class::CommitKey));

    let mut streams = (*clean).clone();
    streams.objects.remove("streams/0.json");
    let report = verify(&streams);
    expect_path(&report, Class::CommitGap, "streams/0.json");
    for session in recording().sessions() {
        assert!(
            found(&report).contains(&(Class::MissingSession, Some(session), None, None)),
            "{}",
            report.to_text()
        );
    }
}

/// A lake of which some objects and folders cannot be read.
struct Broken<'a> {
    lake: &'a Lake,
    reads: &'a (dyn Fn(&str) -> bool + Sync),
    lists: &'a (dyn Fn(&str) -> bool + Sync),
    can_list: bool,
}

impl bodycam_verify::Files for Broken<'_> {
    fn read(&self, path: &str, limit: u64) -> Result<Option<Bytes>, String> {
        match (self.reads)(path) {
            true => Err("permission denied \u{1b}[31m".to_owned()),
            false => self.lake.read(path, limit),
        }
    }

    fn list(&self, folder: &str) -> Result<Option<Vec<String>>, String> {
        match (self.lists)(folder) {
            true => Err("permission denied".to_owned()),
            false if self.can_list => self.lake.list(folder),
            false => Ok(None),
        }
    }
}

impl Broken<'_> {
    fn report(&self) -> Report {
        bodycam_verify::run(self, &Default::default(), &bodycam_verify::Sequential, &|_| {})
    }
}

#[test]
fn an_empty_place_and_an_unreadable_object_cannot_be_verified() {
    let report = verify(&Lake::default());
    assert_eq!((report.exit_code, report.has(Class::Unreadable)), (1, true));
    for can_list in [false, true] {
        // What is only looked for is not read where folders can be listed.
        let read = |p: &&String| !p.starts_with("keys/") && (!can_list || !p.starts_with("directory/"));
        let clean = clean_lake();
        for path in clean.objects.keys().filter(read) {
            let reads = |asked: &str| asked == path;
            let report = Broken { lake: &clean, reads: &reads, lists: &|_| false, can_list }.report();
            assert_eq!(report.exit_code, 1, "{path}\n{}", report.to_text());
            expect_path(&report, Class::Unreadable, path);
            assert!(!report.to_text().contains('\u{1b}'));
            // What follows from it is not told as if somebody had altered the record.
            let others: Vec<_> = found(&report).into_iter().filter(|f| f.0 != Class::Unreadable).collect();
            assert!(others.is_empty(), "{path}\n{}", report.to_text());
        }
    }
}

#[test]
fn what_is_wrong_is_told_beside_what_cannot_be_read() {
    let (clean, a) = (recording(), recording().sessions()[0]);
    let mut altered = clean.clone();
    altered.events[clean.at(a, 3)].envelope.ts_mono_ns += 1;
    let lake = altered.lake();
    let unread = lake.path_of(SQL, a, 9);
    let reads = |asked: &str| asked == unread;
    let report = Broken { lake: &lake, reads: &reads, lists: &|_| false, can_list: true }.report();
    assert_eq!(report.exit_code, 1, "{}", report.to_text());
    assert!(found(&report).contains(&(Class::Hash, Some(a), Some(3), None)), "{}", report.to_text());
}

#[test]
fn a_folder_that_cannot_be_read_is_no_folder_that_was_emptied() {
    let clean = clean_lake();
    for folder in ["keys/", "directory/", "commits/", "streams/", "snapshots/", "windows/"] {
        for deep in [true, false] {
            let reads = |asked: &str| deep && asked.starts_with(folder);
            let lists = |asked: &str| asked.starts_with(folder);
            let report = Broken { lake: &clean, reads: &reads, lists: &lists, can_list: true }.report();
            assert_eq!(report.exit_code, 1, "{folder}\n{}", report.to_text());
            let classes: std::collections::BTreeSet<_> = found(&report).into_iter().map(|f| f.0).collect();
            assert_eq!(classes, [Class::Unreadable].into(), "{folder}\n{}", report.to_text());
            expect_path(&report, Class::Unreadable, folder);
        }
    }
}

#[test]
fn a_list_of_which_nothing_can_be_read_ends() {
    let clean = clean_lake();
    for folder in ["windows/index/", "streams/", "commits/"] {
        for can_list in [true, false] {
            let reads = |asked: &str| asked.starts_with(folder);
            let report = Broken { lake: &clean, reads: &reads, lists: &|_| false, can_list }.report();
            assert_eq!(report.exit_code, 1, "{folder}\n{}", report.to_text());
        }
    }
}
