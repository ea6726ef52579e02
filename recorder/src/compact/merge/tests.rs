//! The law of a merge: what comes out is what sorting all rows would give, byte for byte.

use arrow::compute::concat_batches;
use bodycam_lake::columns::{content, sessions, templates};
use bodycam_lake::{EncodedFile, file};
use bodycam_record::{Id16, SealedChunk, SessionId};
use proptest::prelude::*;

use super::*;

fn chunk(session: u8, content_no: i64, index: u32, bytes: usize) -> SealedChunk {
    let sealed = (0..bytes).map(|i| (i as u8).wrapping_mul(session ^ index as u8)).collect();
    SealedChunk { session: SessionId([session; 16]), content_no, index, kind: 1, sealed }
}

fn contents(mut chunks: Vec<SealedChunk>) -> EncodedFile {
    chunks.sort_by_key(|c| (c.session, c.content_no, c.index));
    file::encode(Table::Content, &content::encode(&chunks).unwrap()).unwrap()
}

fn input(n: usize, file: &EncodedFile, batch_rows: usize) -> Input {
    let path = format!("content/{n}.parquet");
    let batches = file::batches(&path, file.bytes.clone(), batch_rows).unwrap();
    Input { path, batches: Box::new(batches), row_bytes: 100 }
}

fn merged(table: Table, files: &[EncodedFile], batch_rows: usize) -> Result<EncodedFile, Unmerged> {
    let inputs = files.iter().enumerate().map(|(n, file)| input(n, file, batch_rows)).collect();
    let (bytes, entry) = merge(table, inputs, Vec::new(), &AtomicBool::new(false))?;
    Ok(EncodedFile { bytes: bytes.into(), entry })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_merge_gives_the_very_bytes_that_sorting_all_rows_would(
        rows in proptest::collection::vec((0u8..6, 0i64..40, 0u32..3, 0usize..300, 0usize..5), 0..600),
        batch_rows in 1usize..70,
    ) {
        // Which of two rows of one key comes first is another test.
        let mut seen = std::collections::HashSet::new();
        let mut rows = rows;
        rows.retain(|(s, no, index, ..)| seen.insert((*s, *no, *index)));
        let chunks = |n: Option<usize>| {
            let mine = rows.iter().filter(|row| n.is_none_or(|n| n == row.4));
            mine.map(|(s, no, index, bytes, _)| chunk(*s, *no, *index, *bytes)).collect::<Vec<_>>()
        };
        let files: Vec<_> = (0..5).map(|n| contents(chunks(Some(n)))).collect();
        let all = contents(chunks(None));
        let merged = merged(Table::Content, &files, batch_rows).unwrap();
        prop_assert_eq!(&merged.entry, &all.entry);
        prop_assert_eq!(merged.bytes, all.bytes);
    }
}

#[test]
fn rows_of_equal_key_stay_in_the_order_of_their_files() {
    let files: Vec<_> = (1..=3usize).map(|n| contents(vec![chunk(1, 7, 0, n), chunk(2, 7, 0, n)])).collect();
    let merged = merged(Table::Content, &files, 1).unwrap();
    let batches: Vec<_> = file::batches("f", merged.bytes, 100).unwrap().map(Result::unwrap).collect();
    let rows = content::decode(&concat_batches(&Table::Content.schema(), &batches).unwrap()).unwrap();
    let rows: Vec<_> =
        rows.into_iter().map(|r| r.unwrap()).map(|r| (r.session.0[0], r.sealed.len())).collect();
    assert_eq!(rows, [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]);
}

#[test]
fn of_a_session_the_newest_revision_stays_wherever_the_batches_end() {
    let row = |session: u8, revision: i64| {
        let mut row = crate::scene::session_row(SessionId([session; 16]));
        row.revision = revision;
        row
    };
    let file = |rows: &[SessionRow]| file::encode(Table::Sessions, &sessions::encode(rows).unwrap()).unwrap();
    let files = [
        file(&(0..100).map(|n| row(n, 1)).collect::<Vec<_>>()),
        file(&(0..100).step_by(2).map(|n| row(n, 4)).collect::<Vec<_>>()),
        file(&(0..100).step_by(3).map(|n| row(n, 3)).collect::<Vec<_>>()),
    ];
    for batch_rows in [1, 7, 64, 1000] {
        let merged = merged(Table::Sessions, &files, batch_rows).unwrap();
        let expected = |n: u8| match (n % 2, n % 3) {
            (0, _) => 4,
            (_, 0) => 3,
            _ => 1,
        };
        let mut rows = Vec::new();
        for batch in file::batches("f", merged.bytes, 1000).unwrap() {
            rows.extend(sessions::decode(&batch.unwrap()).unwrap());
        }
        assert_eq!(rows, (0..100).map(|n| row(n, expected(n))).collect::<Vec<_>>());
        assert_eq!(merged.entry.rows, 100);
    }
}

#[test]
fn a_file_that_is_not_sorted_is_found_in_any_batch_and_merged_after_it_was_sorted() {
    let texts = |order: &[u8]| {
        let row =
            |n: &u8| templates::TemplateRow { fingerprint: Id16([*n; 16]), text: format!("SELECT {n}") };
        let rows: Vec<_> = order.iter().map(row).collect();
        file::encode(Table::Templates, &templates::encode(&rows).unwrap()).unwrap()
    };
    let sorted_file = texts(&[1, 3, 5, 7, 9]);
    for bad in [[2, 1, 4, 6, 8], [1, 2, 4, 8, 6]] {
        for batch_rows in [1, 2, 10] {
            let files = [sorted_file.clone(), texts(&bad)];
            let err = merged(Table::Templates, &files, batch_rows).unwrap_err();
            assert!(matches!(err, Unmerged::Unsorted(path) if path == "content/1.parquet"));
        }
        let inputs =
            vec![input(0, &sorted_file, 2), sorted(Table::Templates, input(1, &texts(&bad), 2)).unwrap()];
        let (bytes, _) = merge(Table::Templates, inputs, Vec::new(), &AtomicBool::new(false)).unwrap();
        let mut all: Vec<u8> = [1, 3, 5, 7, 9].into_iter().chain(bad).collect();
        all.sort_unstable();
        assert_eq!(bytes::Bytes::from(bytes), texts(&all).bytes);
    }
}

#[test]
fn a_merge_ends_when_the_process_is_to_stop_and_refuses_columns_that_it_does_not_know() {
    let stop = AtomicBool::new(true);
    let files = [contents(vec![chunk(1, 1, 0, 5)])];
    let inputs = vec![input(0, &files[0], 1)];
    assert!(matches!(merge(Table::Content, inputs, Vec::new(), &stop), Err(Unmerged::Stopped)));
    let Err(Unmerged::Lake(err)) = merged(Table::Templates, &files, 1) else { panic!("merged") };
    assert!(err.to_string().contains("column session_id is not known"), "{err}");
}

#[test]
fn a_column_that_an_older_file_has_not_is_null() {
    let file = contents(vec![chunk(1, 1, 0, 5), chunk(1, 2, 0, 5)]);
    let batch = file::batches("f", file.bytes, 10).unwrap().next().unwrap().unwrap();
    let kept: Vec<_> = (0..batch.num_columns()).filter(|i| *i != 3).collect();
    let older = batch.project(&kept).unwrap();
    let err = in_schema(Table::Content, "f", &older).unwrap_err().to_string();
    assert!(err.contains("content_kind"), "a column of every row cannot be made up: {err}");
}
