//! Other programs: pyarrow rewrites a lake without alarm, and a verifier in Python that shares no code with
//! ours agrees with it.

use std::path::Path;
use std::process::{Command, Output};

use bodycam_record::kinds::Body;
use bodycam_verify::{Class, Options};

use super::fixture::*;

/// Rewrites every Parquet file below the folder in argument 1 in the way that argument 2 names.
const REWRITE: &str = r#"
import glob, sys
import pyarrow as pa, pyarrow.compute as pc, pyarrow.parquet as pq
root, how = sys.argv[1], sys.argv[2]
for path in glob.glob(root + "/**/*.parquet", recursive=True):
    table = pq.read_table(path, partitioning=None)
    if how == "snappy":
        pq.write_table(table, path, compression="snappy", use_dictionary=True, row_group_size=7)
    elif how == "plain":
        pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False)
    elif how == "reversed":
        order = pa.array(range(table.num_rows - 1, -1, -1))
        pq.write_table(table.take(order), path, compression="gzip", data_page_version="2.0", write_page_index=True)
    elif how == "milliseconds":
        if "ts_wall_ns" in table.column_names:
            at = table.column_names.index("ts_wall_ns")
            cut = pc.multiply(pc.divide(table.column(at), 1_000_000), 1_000_000)
            table = table.set_column(at, "ts_wall_ns", cut)
        pq.write_table(table, path)
    else:
        sys.exit("unknown way " + how)
"#;

pub fn python(args: &[&str]) -> Output {
    let python = std::env::var("BODYCAM_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    Command::new(python).args(args).output().unwrap()
}

/// Whether Python has what these tests need; with CI it must.
pub fn is_ready() -> bool {
    let ready = python(&["-c", "import pyarrow.parquet, blake3, cryptography, zstandard"]).status.success();
    let ci = std::env::var_os("CI").is_some_and(|v| !v.is_empty());
    assert!(
        ready || !ci,
        "Python lacks pyarrow, blake3, cryptography or zstandard (`make python` installs them)"
    );
    if !ready {
        eprintln!("skipped: Python lacks pyarrow, blake3, cryptography or zstandard");
    }
    ready
}

fn rewritten(recording: &Recording, how: &str) -> Lake {
    let dir = tempfile::tempdir().unwrap();
    to_directory(&recording.lake(), dir.path());
    let done = python(&["-c", REWRITE, dir.path().to_str().unwrap(), how]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let mut lake = from_directory(dir.path());
    lake.recommit();
    lake
}

#[test]
fn a_lake_that_pyarrow_wrote_anew_does_not_alarm() {
    if !is_ready() {
        return;
    }
    for how in ["snappy", "plain", "reversed"] {
        let options = Options { tenant_key: Some(tenant()), ..Options::default() };
        expect(how, &verify_with(&rewritten(recording(), how), &options), 4, &[]);
    }
    let report = verify(&rewritten(recording(), "milliseconds"));
    assert!(report.has(Class::Hash) && report.has(Class::LedgerHash), "{}", report.to_text());
}

fn second_opinion(dir: &Path) -> Output {
    let check = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/vectors/check.py");
    python(&[check.to_str().unwrap(), "--lake", dir.to_str().unwrap()])
}

/// The second opinion is a named mismatch and exit code 1, never a traceback.
fn disagrees(what: &str, dir: &Path, names: &str) {
    let told = second_opinion(dir);
    let (said, error) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert_eq!(told.status.code(), Some(1), "{what}: {said}{error}");
    assert!(said.contains("MISMATCH") && said.contains(names) && error.is_empty(), "{what}: {said}{error}");
}

#[test]
fn a_verifier_that_shares_no_code_with_ours_agrees() {
    if !is_ready() {
        return;
    }
    for recording in [recording(), crashed_recording(), open_recording()] {
        let dir = tempfile::tempdir().unwrap();
        to_directory(&recording.lake(), dir.path());
        let told = second_opinion(dir.path());
        let said = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(told.status.success(), "{said}{}", String::from_utf8_lossy(&told.stderr));
        assert!(said.contains(&format!("{} events", recording.events.len())), "{said}");
        assert!(said.contains(&format!("{} ledger records", recording.ledger.len())), "{said}");
    }
    for gone in ["streams", "commits", "tables/sql", "tables/ledger", "streams/1.json"] {
        let dir = tempfile::tempdir().unwrap();
        to_directory(&recording().lake(), dir.path());
        let path = dir.path().join(gone);
        let removed =
            if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.unwrap();
        disagrees(gone, dir.path(), "");
    }
    let first = "commits/gw-1@0/0/0.json";
    for (what, text) in [("no JSON", "{"), ("no commit", "{}"), ("a list", "[]"), ("a number", "7")] {
        let dir = tempfile::tempdir().unwrap();
        to_directory(&recording().lake(), dir.path());
        std::fs::write(dir.path().join(first), text).unwrap();
        disagrees(what, dir.path(), "streams/0.json");
    }
    let dir = tempfile::tempdir().unwrap();
    to_directory(&recording().lake(), dir.path());
    let path = recording().lake().path_of(bodycam_lake::Table::Content, recording().sessions()[0], 0);
    std::fs::write(dir.path().join(&path), "PAR1").unwrap();
    disagrees("no Parquet", dir.path(), &path);
    let clean = recording();
    let a = clean.sessions()[0];
    let mut cell = clean.clone();
    cell.edit(a, 4, |body| {
        let Body::SqlResult(result) = body else { panic!("a result") };
        result.rows += 1;
    });
    let mut rewritten = cell.clone();
    rewritten.rehash(a);
    let mut cut = clean.clone();
    cut.events.retain(|e| e.envelope.session != a || e.envelope.seq < 12);
    for (what, altered) in [("cell", cell), ("rewritten", rewritten), ("cut", cut)] {
        let dir = tempfile::tempdir().unwrap();
        to_directory(&altered.lake_by(&thief_key()), dir.path());
        let told = second_opinion(dir.path());
        let said = String::from_utf8_lossy(&told.stdout).into_owned();
        assert_eq!(told.status.code(), Some(1), "{what}: {said}{}", String::from_utf8_lossy(&told.stderr));
        assert!(said.contains(&a.to_string()), "{what}: {said}");
    }
}
