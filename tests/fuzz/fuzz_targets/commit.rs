//! The objects by which a lake says what it holds: commits, streams, snapshots.
#![no_main]

use bodycam_lake::StreamEntry;
use bodycam_lake::commit::Commit;
use bodycam_lake::state::Snapshot;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(commit) = Commit::parse("commits/x/0/0.json", bytes) {
        let again = Commit::parse("commits/x/0/0.json", &commit.to_json()).expect("what was read can be written");
        assert_eq!(again.digest(), commit.digest());
    }
    let _ = StreamEntry::parse("streams/0.json", bytes);
    let _ = Snapshot::parse("snapshots/0.json", bytes);
});
