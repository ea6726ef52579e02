//! `bodycam verify` as a command: its exit codes, and a lake directory into which somebody put things that no
//! recorder writes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use super::fixture::*;

fn command(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bodycam"));
    command.env_remove("BODYCAM_CONFIG").current_dir(std::env::temp_dir());
    command.arg("verify").args(args).output().unwrap()
}

pub fn check(dir: &Path) -> (i32, Value, String) {
    check_with(dir, &[])
}

pub fn check_with(dir: &Path, more: &[&str]) -> (i32, Value, String) {
    let args: Vec<&str> =
        ["--json", "--lake", dir.to_str().unwrap()].into_iter().chain(more.iter().copied()).collect();
    let output = command(&args);
    let text = String::from_utf8(output.stdout).unwrap();
    let report: Value = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    let code = output.status.code().unwrap();
    assert_eq!(report["exit_code"], code);
    (code, report, text)
}

fn recorded() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    to_directory(&recording().lake(), dir.path());
    dir
}

/// Classes and paths of the findings.
pub fn found(report: &Value) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    report["faults"].as_array().unwrap().iter().map(|f| (text(&f["class"]), text(&f["path"]))).collect()
}

/// A data file of the lake at `dir`, from its root.
fn data_file(dir: &Path) -> String {
    let lake = from_directory(dir);
    lake.objects.keys().find(|p| p.starts_with("tables/sql/") && p.ends_with(".parquet")).unwrap().clone()
}

#[test]
fn what_could_not_run_exits_with_1_and_never_with_the_code_of_tampering() {
    let empty = tempfile::tempdir().unwrap();
    let foreign = tempfile::tempdir().unwrap();
    fs::write(foreign.path().join("data.parquet"), b"PAR1").unwrap();
    let file = foreign.path().join("data.parquet");
    let trust = foreign.path().join("trust.toml");
    fs::write(&trust, "[producers\nbroken").unwrap();
    let lake = recorded();
    let at = |path: &Path| path.to_str().unwrap().to_owned();
    let cases: [(&str, Vec<String>, &str); 7] = [
        ("an empty directory", vec![at(empty.path())], "no lake here"),
        ("a directory that is no lake", vec![at(foreign.path())], "no lake here"),
        ("a file", vec![at(&file)], "is not a directory"),
        ("nothing", vec!["/does/not/exist".into()], "cannot open the lake /does/not/exist"),
        ("a time", vec![at(lake.path()), "--as-of".into(), "soon".into()], "RFC 3339"),
        ("a broken trust file", vec![at(lake.path()), "--trust".into(), at(&trust)], "is not a trust file"),
        ("an unknown option", vec![at(lake.path()), "--perhaps".into()], "--perhaps"),
    ];
    for (what, args, says) in cases {
        let args: Vec<&str> = ["--lake"].into_iter().chain(args.iter().map(String::as_str)).collect();
        let output = command(&args);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert_eq!(output.status.code(), Some(1), "{what}: {said}");
        assert!(said.contains(says), "{what}: {said}");
        assert!(!said.contains("\\n"), "{what}: lines of a message stay lines: {said}");
    }
}

#[test]
fn the_report_as_json_keeps_its_fields() {
    let dir = recorded();
    let (code, report, _) = check(dir.path());
    assert_eq!(code, 4, "{report:#}");
    let keys = |v: &Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(
        keys(&report),
        "exit_code verdict reasons properties trust checked sessions open_sessions strays faults faults_not_listed"
    );
    assert_eq!(keys(&report["properties"][0]), "aspect state detail");
    let aspects: Vec<&str> =
        report["properties"].as_array().unwrap().iter().map(|p| p["aspect"].as_str().unwrap()).collect();
    assert_eq!(
        aspects.join(" "),
        "integrity order session-completeness population-completeness authenticity freshness content findings support"
    );
    assert_eq!(keys(&report["trust"]), "mode producers recorders");
    assert_eq!(
        keys(&report["trust"]["producers"][0]),
        "name key pinned epochs last_ns stopped simulated_clock"
    );
    assert_eq!(
        keys(&report["checked"]),
        "streams commits files bytes rows events ledger_records contents contents_not_opened windows findings"
    );
    assert_eq!(keys(&report["sessions"]), "sealed crashed open pending orphaned faulty");
    let open = tempfile::tempdir().unwrap();
    to_directory(&open_recording().lake(), open.path());
    let (code, report, _) = check(open.path());
    assert_eq!((code, report["sessions"]["open"].as_i64()), (4, Some(1)), "{report:#}");
    assert_eq!(keys(&report["open_sessions"][0]), "session producer target events last_heartbeat_ns");
    let mut altered = recording().clone();
    let session = altered.sessions()[0];
    altered
        .events
        .iter_mut()
        .find(|e| e.envelope.session == session && e.envelope.seq == 4)
        .unwrap()
        .hash
        .0[0] ^= 1;
    let dir = tempfile::tempdir().unwrap();
    to_directory(&altered.lake(), dir.path());
    let (code, report, _) = check(dir.path());
    let fault = report["faults"].as_array().unwrap().iter().find(|f| f["seq"] == 4).unwrap();
    assert_eq!((code, keys(fault).as_str()), (2, "class gravity session seq path row detail"), "{report:#}");
    assert_eq!((&fault["session"], &fault["gravity"]), (&session.to_string().into(), &"tamper".into()));
}

#[test]
fn objects_that_are_no_plain_files_inside_the_lake_are_never_opened() {
    let outside = tempfile::tempdir().unwrap();
    for how in ["a link to a copy outside", "a pipe", "a folder", "a link to nowhere", "an endless device"] {
        let dir = recorded();
        let name = data_file(dir.path());
        let path = dir.path().join(&name);
        let copy = outside.path().join("copy");
        fs::rename(&path, &copy).unwrap();
        let (code, class) = match how {
            "a link to a copy outside" => {
                symlink(&copy, &path).unwrap();
                (1, "UNREADABLE")
            }
            "a pipe" => {
                assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
                (1, "UNREADABLE")
            }
            "a folder" => {
                fs::create_dir(&path).unwrap();
                (1, "UNREADABLE")
            }
            "a link to nowhere" => {
                symlink("nowhere", &path).unwrap();
                (2, "MANIFEST")
            }
            _ => {
                symlink("/dev/zero", &path).unwrap();
                (1, "UNREADABLE")
            }
        };
        let (told, report, _) = check(dir.path());
        assert_eq!(told, code, "{how}: {report:#}");
        assert!(found(&report).contains(&(class.to_owned(), name)), "{how}: {report:#}");
    }
}

#[test]
fn a_file_that_grew_is_told_without_reading_all_of_it() {
    let dir = recorded();
    let name = data_file(dir.path());
    let commits = from_names(dir.path(), "commits/");
    // A tebibyte that take no space: to read them would take hours.
    fs::OpenOptions::new().write(true).open(dir.path().join(&name)).unwrap().set_len(1 << 40).unwrap();
    fs::OpenOptions::new().write(true).open(dir.path().join(&commits[0])).unwrap().set_len(1 << 40).unwrap();
    let (code, report, text) = check(dir.path());
    assert_eq!(code, 2, "{report:#}");
    assert!(found(&report).contains(&("COMMIT".to_owned(), commits[0].clone())), "{report:#}");
    assert!(text.contains("more than any commit has"), "{text}");
}

/// Paths of the lake's objects below a folder.
fn from_names(dir: &Path, folder: &str) -> Vec<String> {
    from_directory(dir).objects.keys().filter(|p| p.starts_with(folder)).cloned().collect()
}

#[test]
fn commits_of_a_stream_that_is_not_listed_are_found_in_a_directory_too() {
    let dir = recorded();
    let commits = from_names(dir.path(), "commits/");
    let stray = dir.path().join("commits/evil@0/0");
    fs::create_dir_all(&stray).unwrap();
    fs::copy(dir.path().join(&commits[0]), stray.join("0.json")).unwrap();
    let (code, report, _) = check(dir.path());
    assert_eq!(code, 2, "{report:#}");
    assert!(found(&report).contains(&("COMMIT_GAP".to_owned(), "commits/evil@0/0".to_owned())), "{report:#}");
}

#[test]
fn a_folder_where_everything_was_replaced_by_files_is_reported_in_full() {
    let dir = recorded();
    let lost = from_names(dir.path(), "tables/sql/").len();
    fs::remove_dir_all(dir.path().join("tables/sql")).unwrap();
    fs::write(dir.path().join("tables/sql"), b"not a folder").unwrap();
    let (code, report, _) = check(dir.path());
    let missing =
        found(&report).iter().filter(|(c, p)| c == "MANIFEST" && p.starts_with("tables/sql/")).count();
    assert_eq!((code, missing), (2, lost), "{report:#}");
}

#[test]
fn a_reader_that_goes_away_does_not_turn_tampering_into_success() {
    let dir = recorded();
    fs::remove_file(dir.path().join(data_file(dir.path()))).unwrap();
    let line = format!(
        "set -o pipefail; '{}' verify --lake '{}' | true; exit ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_bodycam"),
        dir.path().display()
    );
    let status = Command::new("bash").args(["-c", &line]).status().unwrap();
    assert_eq!(status.code(), Some(2));
}

#[test]
fn a_folder_that_cannot_be_read_could_not_be_verified() {
    for folder in ["keys", "directory", "windows", "snapshots", "commits/gw-1@0", "windows/index"] {
        let dir = recorded();
        let path = dir.path().join(folder);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Nobody can follow it, whoever runs this; a folder without rights root would read.
        symlink(path.file_name().unwrap(), &path).unwrap();
        let (code, report, _) = check(dir.path());
        // What is no folder is no part of a listing; whatever lies in it is asked for by name.
        let (classes, _): (Vec<_>, Vec<_>) = found(&report).into_iter().unzip();
        assert_eq!(code, 1, "{folder}: {report:#}");
        // A link in a folder of objects is besides one that is no part of the lake.
        let told = |class: &String| class == "UNREADABLE" || class == "STRAY";
        assert!(classes.iter().all(told), "{folder}: {report:#}");
    }
}
