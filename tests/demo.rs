//! `bodycam demo`, as `make demo` runs it: its exit code says that everything it tells of has happened.

use crate::support::stack::bodycam;

#[test]
fn the_demonstration_tells_its_whole_story() {
    let dir = tempfile::tempdir().unwrap();
    let output = bodycam().args(["demo", "--no-replay", "--dir"]).arg(dir.path()).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{error}");
    for part in [
        "EXF-001",
        "EXF-002",
        "EXF-014",
        "consistent, not anchored",
        "exit code 2, HASH session",
        "bodycam replay",
    ] {
        assert!(told.contains(part), "no '{part}' in:\n{told}");
    }
    // Whoever looks into the altered copy sees the event, and that it is not what was recorded.
    let named = told.split_once(" in event ").unwrap().1;
    let (seq, session) = named.split_once(" of session ").unwrap();
    let session = session.split_whitespace().next().unwrap();
    let lake = dir.path().join("lake-altered");
    let shown = bodycam().args(["replay", session, "--format", "text", "--lake"]).arg(lake).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains(&format!("✘ BROKEN at #{seq}:")) && shown.contains("3 rows"), "{shown}");
    // The theft is two reads: each is told once.
    assert_eq!(told.matches("EXF-002:").count(), 2, "{told}");
}
