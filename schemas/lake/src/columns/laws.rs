//! Laws of the columns: whatever was encoded comes back with the same hash, however the file was rewritten.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{cast, concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema};
use bodycam_record::{Event, Family};
use proptest::prelude::*;

use super::samples::{canonical, event, ledger_record};
use super::*;
use crate::file;

fn through_parquet(table: Table, batch: &RecordBatch) -> RecordBatch {
    let file = file::encode(table, batch).unwrap();
    let batches: Vec<_> = file::batches("f", file.bytes, 7).unwrap().map(Result::unwrap).collect();
    concat_batches(&batches.first().map_or_else(|| table.schema(), |b| b.schema()), &batches).unwrap()
}

/// `batch` as another program could have written it: other types, other order of columns and rows.
fn rewritten(batch: &RecordBatch, salt: usize) -> RecordBatch {
    let mut columns: Vec<(Field, ArrayRef)> = Vec::new();
    for (i, (field, array)) in batch.schema().fields().iter().zip(batch.columns()).enumerate() {
        let dictionary =
            |ty: &DataType| DataType::Dictionary(Box::new(DataType::Int32), Box::new(ty.clone()));
        let forms = match array.data_type() {
            DataType::Utf8 => vec![DataType::LargeUtf8, DataType::Utf8View, dictionary(&DataType::Utf8)],
            DataType::Binary | DataType::FixedSizeBinary(_) => {
                vec![DataType::Binary, DataType::LargeBinary, DataType::BinaryView]
            }
            DataType::List(item) => vec![DataType::LargeList(item.clone()), DataType::List(item.clone())],
            other => vec![other.clone()],
        };
        let ty = &forms[(i + salt) % forms.len()];
        let array = cast(array, ty).unwrap();
        columns.push((Field::new(field.name(), ty.clone(), true), array));
    }
    let n = columns.len();
    columns.rotate_left(salt % n);
    let (fields, arrays): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
    let rows = batch.num_rows() as u64;
    let order: arrow::array::UInt64Array = (0..rows).map(|i| (i + salt as u64) % rows).collect();
    take_record_batch(&batch, &order).unwrap()
}

fn assert_same(stored: StoredEvent, original: &Event) {
    assert_eq!(stored.body, original.body);
    assert_eq!(stored.envelope.body_digest, original.envelope.body_digest);
    let event = stored.after(original.envelope.prev);
    assert_eq!(canonical(&event.envelope), canonical(&original.envelope));
    assert_eq!(event.envelope.hash(), original.hash);
    assert_eq!(event.hash, original.hash);
    event.decode_body().unwrap();
}

fn families() -> impl Strategy<Value = (Family, Vec<Event>)> {
    proptest::sample::select(Family::EVENTS.to_vec())
        .prop_flat_map(|family| (Just(family), proptest::collection::vec(event(family), 1..12)))
        .prop_map(|(family, mut events)| {
            events.sort_by_key(|e| (e.envelope.session, e.envelope.seq));
            (family, events)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_event_comes_back_from_parquet_with_its_hash((family, events) in families()) {
        let batch = through_parquet(Table::Events(family), &encode(family, &events).unwrap());
        let rows = decode(family, &batch).unwrap();
        prop_assert_eq!(rows.len(), events.len());
        for (row, original) in rows.into_iter().zip(&events) {
            assert_same(row.unwrap(), original);
        }
    }

    #[test]
    fn a_rewritten_file_holds_the_same_events((family, events) in families(), salt in 0usize..40) {
        let batch = rewritten(&encode(family, &events).unwrap(), salt);
        let rows = decode(family, &batch).unwrap();
        for (i, row) in rows.into_iter().enumerate() {
            assert_same(row.unwrap(), &events[(i + salt) % events.len()]);
        }
    }

    #[test]
    fn every_ledger_record_comes_back_with_its_hash(
        records in proptest::collection::vec(ledger_record(), 1..8), salt in 0usize..40,
    ) {
        let batch = through_parquet(Table::Events(Family::Ledger), &encode_ledger(&records).unwrap());
        for batch in [batch.clone(), rewritten(&batch, salt)] {
            for row in decode_ledger(&batch).unwrap() {
                let row = row.unwrap();
                let original = records.iter().find(|r| r.hash == row.0.hash).unwrap();
                let record = row.after(original.prev);
                prop_assert_eq!(record.compute_hash(), original.hash);
                prop_assert_eq!(&record, original);
            }
        }
    }

    #[test]
    fn a_cell_that_was_altered_never_gives_the_same_hash(
        (family, events) in families(), column in any::<proptest::sample::Index>(), row in any::<proptest::sample::Index>(),
    ) {
        // Swap one cell with that of another row: whatever differs must be seen, as an error or in the hash.
        let batch = encode(family, &events).unwrap();
        let (rows, n) = (batch.num_rows(), batch.num_columns());
        let (row, column) = (row.index(rows), column.index(n));
        let other = (row + 1) % rows;
        let order: arrow::array::UInt64Array = (0..rows).map(|i| if i == row { other as u64 } else { i as u64 }).collect();
        let moved = arrow::compute::take(batch.column(column), &order, None).unwrap();
        let same = moved.slice(row, 1) == batch.column(column).slice(row, 1);
        let mut columns = batch.columns().to_vec();
        columns[column] = moved;
        let altered = RecordBatch::try_new(batch.schema(), columns).unwrap();
        let name = batch.schema().field(column).name().clone();
        match decode(family, &altered).unwrap().swap_remove(row) {
            Err(_) => prop_assert!(!same, "{name}"),
            Ok(stored) => {
                let event = stored.after(events[row].envelope.prev);
                prop_assert_eq!(event.envelope.hash() == event.hash, same, "{}", name);
            }
        }
    }
}

#[test]
fn a_row_that_is_not_an_event_is_named_and_stops_no_other() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let gap = || bodycam_record::kinds::gap::Gap { reason: "x".into(), dropped_events: 1, opaque_bytes: 2 };
    let mut good = event(Family::Gap).new_tree(&mut runner).unwrap().current();
    good.body = bodycam_record::Body::from(gap()).canonical();
    let batch = encode(Family::Gap, [&good, &good, &good]).unwrap();
    let set = |name: &str, array: ArrayRef| {
        let mut columns = batch.columns().to_vec();
        let mut fields: Vec<Field> = batch.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
        let nullable = Field::new(name, array.data_type().clone(), true);
        match batch.schema().index_of(name) {
            Ok(at) => (columns[at], fields[at]) = (array, nullable),
            Err(_) => {
                columns.push(array);
                fields.push(nullable);
            }
        }
        let altered = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        let rows = decode(Family::Gap, &altered).unwrap();
        assert!(rows[0].is_ok() && rows[2].is_ok(), "{name}");
        let fault = rows[1].clone().unwrap_err();
        assert_eq!((fault.row, fault.session), (1, Some(good.envelope.session)));
        fault.error
    };
    let ints = |good: i64, bad: Option<i64>| -> ArrayRef {
        Arc::new(arrow::array::Int64Array::from(vec![Some(good), bad, Some(good)]))
    };
    let texts = |good: Option<&str>, bad: Option<&str>| -> ArrayRef {
        Arc::new(arrow::array::StringArray::from(vec![good, bad, good]))
    };
    assert_eq!(set("suite", ints(1, Some(9))), RowError::Unsupported { what: "hash suite", value: 9 });
    assert_eq!(
        set("schema_version", ints(1, Some(2))),
        RowError::Unsupported { what: "schema version", value: 2 }
    );
    assert_eq!(set("kind", ints(40, Some(41))), RowError::Unsupported { what: "event kind", value: 41 });
    assert_eq!(
        set("kind_version", ints(1, Some(3))),
        RowError::Unsupported { what: "version of its kind", value: 3 }
    );
    assert_eq!(set("dropped_events", ints(1, None)), RowError::MissingValue { column: "dropped_events" });
    assert_eq!(set("seq", ints(1, None)), RowError::MissingValue { column: "seq" });
    assert_eq!(
        set("added", Arc::new(arrow::array::Int64Array::from(vec![None, Some(1), None]))),
        RowError::UnknownColumn { column: "added".into() }
    );
    assert_eq!(
        set("kind_name", texts(Some("gap"), Some("sql.result"))),
        RowError::Malformed { column: "kind_name", expected: "the name of the row's kind" }
    );
    assert!(matches!(set("producer", texts(Some("a"), None)), RowError::MissingValue { column: "producer" }));
}

#[test]
fn a_value_in_a_column_of_another_kind_is_an_error_of_that_row() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let table = bodycam_record::KindTable::named("control.limit").unwrap();
    let mut event = event(Family::Control).new_tree(&mut runner).unwrap().current();
    let body = samples::body(table).new_tree(&mut runner).unwrap().current();
    (event.envelope.kind, event.envelope.kind_version) = (table.code, table.version);
    event.body = body.canonical();
    let batch = encode(Family::Control, [&event]).unwrap();
    assert!(decode(Family::Control, &batch).unwrap()[0].is_ok());
    let at = batch.schema().index_of("verdict").unwrap();
    let mut columns = batch.columns().to_vec();
    columns[at] = Arc::new(arrow::array::StringArray::from(vec!["allow"]));
    let altered = RecordBatch::try_new(batch.schema(), columns).unwrap();
    let fault = decode(Family::Control, &altered).unwrap().remove(0).unwrap_err();
    assert_eq!(fault.error, RowError::ExtraValue { column: "verdict", kind: "control.limit" });
}

#[test]
fn a_file_without_a_needed_column_or_with_a_wrong_type_is_refused_with_its_name() {
    let batch = encode(Family::Gap, &[]).unwrap();
    let without = batch.project(&[1, 2, 3, 4, 5, 6]).unwrap();
    let message = decode(Family::Gap, &without).err().unwrap().to_string();
    assert!(message.contains("no column suite"), "{message}");
    let mut columns = batch.columns().to_vec();
    let mut fields: Vec<Field> = batch.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    columns[0] = Arc::new(arrow::array::Float64Array::from(Vec::<f64>::new()));
    fields[0] = Field::new("suite", DataType::Float64, true);
    let wrong = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    let message = decode(Family::Gap, &wrong).err().unwrap().to_string();
    assert!(message.contains("suite is Float64"), "{message}");
}
