//! The objects by which a lake says what it holds. Laws: a commit that is read was signed over everything that it
//! says, lies in its place and names only files of their tables; two commits with one digest are one commit;
//! once signed, every commit either reads back or is refused; folding one moves its stream to its end.
#![no_main]

use bodycam_lake::StreamEntry;
use bodycam_lake::commit::{Commit, Signature};
use bodycam_lake::state::{LakeState, Snapshot};
use bodycam_record::EpochKey;
use libfuzzer_sys::fuzz_target;

const PATH: &str = "commits/x/0/0.json";

fuzz_target!(|bytes: &[u8]| {
    if let Ok(commit) = Commit::parse(PATH, bytes) {
        assert!(commit.signature_is_valid());
        holds(&commit);
    }
    // Past the signature, which no mutation gets right.
    if let Ok(mut commit) = serde_json::from_slice::<Commit>(bytes) {
        let unsigned = commit.digest();
        commit.signature = Signature::NONE;
        assert_eq!(commit.digest(), unsigned, "the signature is not part of what is signed");
        commit.sign(&EpochKey::from_seed(&[7; 32]));
        match Commit::parse(PATH, &commit.to_json()) {
            Ok(read) => {
                assert_eq!((&read, read.digest()), (&commit, commit.digest()));
                holds(&read);
            }
            Err(error) => assert!(error.to_string().contains(PATH), "{error}"),
        }
        let mut other = commit.clone();
        other.to ^= 1;
        assert_ne!(other.digest(), commit.digest());
    }
    if let Ok(entry) = StreamEntry::parse("streams/0.json", bytes) {
        assert_eq!(StreamEntry::parse("streams/0.json", &entry.to_json()).ok(), Some(entry));
    }
    if let Ok(snapshot) = Snapshot::parse("snapshots/0.json", bytes) {
        assert_eq!(Snapshot::parse("snapshots/0.json", &snapshot.to_json()).ok(), Some(snapshot.clone()));
        assert!(snapshot.clone().into_state().all_files().all(|f| inside(&f.path)));
    }
});

/// What every commit that was read has.
fn holds(commit: &Commit) {
    assert!(commit.from < commit.to && commit.version == 1);
    assert!(commit.path().starts_with("commits/") && inside(&commit.path()), "{}", commit.path());
    assert!(commit.files.iter().all(|f| inside(&f.path) && f.path.starts_with("tables/")));
    let mut lake = LakeState::default();
    let (stream, generation, from) = (commit.stream.clone(), commit.generation, commit.from);
    lake.add_stream(PATH, StreamEntry { version: 1, stream, generation, from, origin: None })
        .expect("the first of its name");
    if lake.apply(0, commit).is_ok() {
        assert_eq!(lake.stream(&commit.stream, commit.generation).map(|(_, s)| s.position), Some(commit.to));
        assert!(commit.files.iter().all(|f| lake.file(&f.path).is_some()));
        assert!(lake.check(0, commit).is_err(), "a commit follows on itself");
    }
}

/// Whether a path stays below the root.
fn inside(path: &str) -> bool {
    !path.starts_with('/') && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}
