//! Files that another program wrote anew, in place, while the commits stay as the recorder signed them: no alarm
//! as long as the rows are the same, and as loud as ever when anything is not.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use bodycam_lake::Table;
use bodycam_record::Family;
use serde_json::Value;

use super::command::{check_with, found};
use super::fixture::*;
use super::foreign::{is_ready, python};

/// Rewrites the file in argument 1 with the statements in argument 2, of which `t` is its table.
const REWRITE: &str = r#"
import sys
import pyarrow as pa, pyarrow.compute as pc, pyarrow.parquet as pq
path, how = sys.argv[1], sys.argv[2]
t = pq.ParquetFile(path).read()
options = {}
def cell(column, row, value):
    global t
    at = t.column_names.index(column)
    values = t.column(at).to_pylist()
    values[row] = value
    t = t.set_column(at, t.schema.field(at), pa.array(values, t.schema.field(at).type))
def again(other):
    return pq.ParquetFile(other).read()
exec(how)
pq.write_table(t, path, **options)
"#;

const SQL: Table = Table::Events(Family::Sql);

fn rewrite(dir: &Path, path: &str, how: &str) {
    let done = python(&["-c", REWRITE, dir.join(path).to_str().unwrap(), how]);
    assert!(done.status.success(), "{how}: {}", String::from_utf8_lossy(&done.stderr));
}

fn on_disk() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    to_directory(&clean_lake(), &dir.path().join("lake"));
    fs::write(dir.path().join("tenant.key"), "01".repeat(32)).unwrap();
    dir
}

/// What the command says of the lake, with and without the tenant key.
fn judged(dir: &Path) -> [(i32, Value); 2] {
    let key = format!("file:{}", dir.join("tenant.key").display());
    [vec![], vec!["--tenant-key", key.as_str()]].map(|more| {
        let (code, report, _) = check_with(&dir.join("lake"), &more);
        (code, report)
    })
}

/// The lake after one file was rewritten, as the command judges it.
fn after(path: &str, how: &str) -> [(i32, Value); 2] {
    let dir = on_disk();
    rewrite(&dir.path().join("lake"), path, how);
    judged(dir.path())
}

/// Classes of the findings that are no notices.
fn classes(report: &Value) -> BTreeSet<&str> {
    let faults = report["faults"].as_array().unwrap().iter().filter(|f| f["gravity"] != "notice");
    faults.map(|f| f["class"].as_str().unwrap()).collect()
}

/// Whether there is a finding of this class in this session and of this number.
fn names(report: &Value, class: &str, session: bodycam_record::SessionId, seq: i64) -> bool {
    report["faults"].as_array().unwrap().iter().any(|f| {
        let covers =
            f["seq"].as_i64().is_some_and(|from| from <= seq && seq <= f["seq_to"].as_i64().unwrap_or(from));
        f["class"] == class && f["session"] == session.to_string() && covers
    })
}

fn sql_file() -> String {
    clean_lake().path_of(SQL, recording().sessions()[0], 3)
}

/// The row of an event in the file that holds it.
fn row_of(path: &str, session: bodycam_record::SessionId, seq: i64) -> usize {
    use arrow::array::AsArray;
    let batch = super::files::batch_of(&clean_lake().objects[path]);
    let ids = batch.column_by_name("session_id").unwrap().as_fixed_size_binary();
    let seqs = batch.column_by_name("seq").unwrap().as_primitive::<arrow::datatypes::Int64Type>();
    (0..batch.num_rows()).find(|row| ids.value(*row) == session.0 && seqs.value(*row) == seq).unwrap()
}

#[test]
fn files_that_pyarrow_wrote_anew_in_place_are_noticed_and_no_alarm() {
    if !is_ready() {
        return;
    }
    let data: Vec<String> =
        clean_lake().objects.keys().filter(|path| path.ends_with(".parquet")).cloned().collect();
    let ways = [
        "options = dict(compression='gzip')",
        "t = t.take(list(reversed(range(t.num_rows))))",
        "options = dict(row_group_size=2, write_page_index=True, data_page_version='2.0')",
        "by = [n for n in ('ts_mono_ns', 'seq', 'chunk_index', 'fingerprint', 'revision') if n in t.column_names]; t = t.sort_by([(by[0], 'descending')])",
        "options = dict(compression='none', use_dictionary=False, write_statistics=False)",
        "t = pq.read_table(path)",
    ];
    for how in ways {
        let dir = on_disk();
        for path in &data {
            rewrite(&dir.path().join("lake"), path, how);
        }
        for (code, report) in judged(dir.path()) {
            assert_eq!((code, classes(&report)), (4, BTreeSet::new()), "{how}: {report:#}");
            let told: BTreeSet<String> =
                found(&report).into_iter().filter(|(class, _)| class == "REWRITTEN").map(|f| f.1).collect();
            assert_eq!(told, data.iter().cloned().collect(), "{how}: {report:#}");
        }
    }
}

#[test]
fn row_37_without_new_commits_is_still_a_file_that_no_commit_names() {
    if !is_ready() {
        return;
    }
    let (path, a) = (sql_file(), recording().sessions()[0]);
    let other = clean_lake().path_of(SQL, a, 9);
    let cases = [
        "t = t.slice(0, t.num_rows - 1)".to_owned(),
        "t = pa.concat_tables([t, t.slice(0, 1)])".to_owned(),
        // One row of the file for another of it: as many, and all genuine.
        "t = pa.concat_tables([t.slice(0, t.num_rows - 1), t.slice(0, 1)])".to_owned(),
        format!("t = again(path.replace({path:?}, {other:?}))"),
        format!("t = pa.concat_tables([t, again(path.replace({path:?}, {other:?}))])"),
        format!(
            "o = again(path.replace({path:?}, {other:?})); t = pa.concat_tables([t.slice(0, t.num_rows - 1), o.slice(0, 1)])"
        ),
    ];
    for how in &cases {
        for (code, report) in after(&path, how) {
            assert_eq!(code, 2, "{how}: {report:#}");
            assert!(found(&report).contains(&("MANIFEST".to_owned(), path.clone())), "{how}: {report:#}");
            assert!(!found(&report).iter().any(|f| f.0 == "REWRITTEN"), "{how}: {report:#}");
        }
    }
    for how in ["removed", "cut", "another file"] {
        let dir = on_disk();
        let file = dir.path().join("lake").join(&path);
        match how {
            "removed" => fs::remove_file(&file).unwrap(),
            "cut" => fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(500).unwrap(),
            _ => drop(fs::copy(dir.path().join("lake").join(&other), &file).unwrap()),
        }
        for (code, report) in judged(dir.path()) {
            assert_eq!(code, 2, "{how}: {report:#}");
            assert!(found(&report).contains(&("MANIFEST".to_owned(), path.clone())), "{how}: {report:#}");
        }
    }
}

#[test]
fn row_38_without_new_commits_names_the_rows_that_lost_something() {
    if !is_ready() {
        return;
    }
    let (path, a) = (sql_file(), recording().sessions()[0]);
    let cut = "at = t.column_names.index('ts_wall_ns'); t = t.set_column(at, 'ts_wall_ns', pc.multiply(pc.divide(t.column(at), 1_000_000), 1_000_000))";
    for (code, report) in after(&path, cut) {
        assert_eq!(code, 2, "{report:#}");
        assert!(names(&report, "HASH", a, 3), "{report:#}");
        assert!(found(&report).contains(&("MANIFEST".to_owned(), path.clone())), "{report:#}");
    }
    let cell = format!("cell('rows', {}, 3)", row_of(&path, a, 4));
    for (code, report) in after(&path, &cell) {
        assert_eq!(code, 2, "{report:#}");
        assert!(names(&report, "HASH", a, 4) && !names(&report, "HASH", a, 3), "{report:#}");
    }
    // A hash that fits what the row now says is not the one that the commit summed up.
    let stated = format!("cell('hash', {}, b'x' * 32)", row_of(&path, a, 4));
    for (code, report) in after(&path, &stated) {
        assert_eq!(code, 2, "{report:#}");
        assert!(found(&report).contains(&("MANIFEST".to_owned(), path.clone())), "{report:#}");
    }
}

#[test]
fn row_47_without_new_commits_is_unsupported_and_hides_no_alteration_beside_it() {
    if !is_ready() {
        return;
    }
    let (path, a) = (sql_file(), recording().sessions()[0]);
    let row = row_of(&path, a, 3);
    for column in ["schema_version", "suite", "kind", "kind_version"] {
        let unknown = format!("cell('{column}', {row}, 77)");
        for (code, report) in after(&path, &unknown) {
            assert_eq!((code, classes(&report)), (5, ["UNSUPPORTED"].into()), "{unknown}: {report:#}");
            assert!(names(&report, "UNSUPPORTED", a, 3), "{report:#}");
        }
    }
    let newer = format!(
        "t = t.append_column('newer', pa.array([1 if i == {row} else None for i in range(t.num_rows)]))"
    );
    for (code, report) in after(&path, &newer) {
        assert_eq!((code, classes(&report)), (5, ["UNSUPPORTED"].into()), "{report:#}");
    }
    // The event after it follows on the hash that it states, and cannot be altered in its shadow.
    let shadow = format!("cell('schema_version', {row}, 77); cell('rows', {}, 3)", row_of(&path, a, 4));
    for (code, report) in after(&path, &shadow) {
        assert_eq!(code, 2, "{report:#}");
        assert!(names(&report, "HASH", a, 4) && names(&report, "UNSUPPORTED", a, 3), "{report:#}");
    }
    // Nor can it leave, or state another hash.
    for how in [
        format!("cell('schema_version', {row}, 77); cell('hash', {row}, b'x' * 32)"),
        format!("cell('schema_version', {row}, 77); cell('seq', {row}, 200)"),
        format!("cell('schema_version', {row}, 77); t = t.slice(0, t.num_rows - 1)"),
    ] {
        for (code, report) in after(&path, &how) {
            assert_eq!(code, 2, "{how}: {report:#}");
            assert!(found(&report).contains(&("MANIFEST".to_owned(), path.clone())), "{how}: {report:#}");
        }
    }
}

#[test]
fn row_47_in_a_ledger_is_unsupported_and_the_record_after_it_is_still_checked() {
    if !is_ready() {
        return;
    }
    let clean = clean_lake();
    let path = clean.objects.keys().find(|path| path.starts_with("tables/ledger/")).unwrap();
    let last = recording().ledger.len() - 1;
    let heartbeats: Vec<usize> = (0..last).filter(|n| recording().ledger[*n].kind == 103).collect();
    for row in [heartbeats[1], last] {
        for (code, report) in after(path, &format!("cell('schema_version', {row}, 77)")) {
            assert_eq!((code, classes(&report)), (5, ["UNSUPPORTED"].into()), "{row}: {report:#}");
        }
    }
    let row = heartbeats[1];
    let shadow = format!(
        "cell('schema_version', {row}, 77); cell('ts_wall_ns', {}, t.column('ts_wall_ns')[{}].as_py() + 1)",
        row + 1,
        row + 1
    );
    for (code, report) in after(path, &shadow) {
        assert_eq!(code, 2, "{report:#}");
        assert!(
            classes(&report).contains("LEDGER_HASH") && classes(&report).contains("MANIFEST"),
            "{report:#}"
        );
    }
}

#[test]
fn columns_that_other_readers_would_see_otherwise_are_no_same_rows() {
    if !is_ready() {
        return;
    }
    let path = sql_file();
    for how in [
        "t = t.append_column('rows', pa.array([3] * t.num_rows))",
        "at = t.column_names.index('rows'); t = t.set_column(at, 'rows', t.column(at).cast(pa.timestamp('ns')))",
        "t = t.append_column('dt', pa.array(['2020-01-01'] * t.num_rows))",
        "t = t.append_column('hh', pa.array([77] * t.num_rows))",
        "t = t.append_column('note', pa.nulls(t.num_rows, pa.int64()))",
    ] {
        for (code, report) in after(&path, how) {
            assert_eq!(code, 2, "{how}: {report:#}");
            assert!(found(&report).contains(&("MANIFEST".to_owned(), path.clone())), "{how}: {report:#}");
        }
    }
}

#[test]
fn rows_that_only_a_sum_speaks_for_must_be_the_committed_bytes_when_encoded_again() {
    if !is_ready() {
        return;
    }
    let clean = clean_lake();
    for (folder, column, value) in [
        ("content/", "sealed", "b'x' * 40"),
        ("templates/", "text", "'SELECT nothing'"),
        ("sessions/", "statements", "9"),
    ] {
        let path = clean.objects.keys().find(|path| path.starts_with(folder)).unwrap();
        for (code, report) in after(path, &format!("cell('{column}', 0, {value})")) {
            assert_eq!(code, 2, "{path}: {report:#}");
            assert!(found(&report).contains(&("MANIFEST".to_owned(), path.clone())), "{path}: {report:#}");
        }
    }
}
