//! What must not alarm.

use bodycam_verify::{Class, Gravity, Options};

use super::fixture::*;

#[test]
fn an_untouched_lake_is_consistent_and_says_why_it_is_not_more() {
    let report = verify(&clean_lake());
    expect("clean", &report, 4, &[]);
    assert_eq!((report.sessions.sealed, report.sessions.open, report.sessions.faulty), (3, 0, 0));
    assert_eq!(report.checked.events, recording().events.len() as u64);
    assert_eq!(report.checked.ledger_records, recording().ledger.len() as u64);
    assert_eq!(report.trust.mode, "self");
    assert!(report.reasons.iter().any(|r| r.contains("not anchored")), "{:?}", report.reasons);
    assert!(report.reasons.iter().any(|r| r.contains("self-trusted")), "{:?}", report.reasons);
    assert!(report.faults.is_empty());
    assert!(report.checked.contents_not_opened > 0);
}

#[test]
fn with_pinned_keys_and_the_tenant_key_everything_is_checked() {
    let options = Options { tenant_key: Some(tenant()), ..pinned(recording()) };
    let report = verify_with(&clean_lake(), &options);
    expect("pinned", &report, 4, &[]);
    assert_eq!(report.trust.mode, "pinned");
    let with_content = recording().events.iter().filter(|e| e.envelope.content.is_some()).count();
    assert_eq!((report.checked.contents, report.checked.contents_not_opened), (with_content as u64, 0));
}

#[test]
fn a_declared_crash_is_incomplete_and_an_open_session_is_open() {
    let crashed = crashed_recording();
    let eve = crashed.sessions()[2];
    let report = verify(&crashed.lake());
    expect("crashed", &report, 3, &[(Class::Crashed, Some(eve), None, None)]);
    assert_eq!((report.sessions.crashed, report.sessions.sealed), (1, 2));

    let open = open_recording();
    let eve = open.sessions()[2];
    let lake = open.lake();
    let report = verify(&lake);
    expect("open", &report, 4, &[]);
    let shown = &report.open_sessions[0];
    assert_eq!((shown.session, shown.events), (eve, open.count(eve)));
    let beat = shown.last_heartbeat_ns.unwrap();
    let soon = Options { as_of_ns: Some(beat + 14_000_000_000), ..Options::default() };
    expect("14 seconds later", &verify_with(&lake, &soon), 4, &[]);
    let late = Options { as_of_ns: Some(beat + 16_000_000_000), ..Options::default() };
    expect("16 seconds later", &verify_with(&lake, &late), 3, &[(Class::Silent, Some(eve), None, None)]);
}

#[test]
fn events_whose_open_is_not_committed_yet_are_pending() {
    let mut recording = recording().clone();
    let eve = recording.sessions()[2];
    // The ledger has been read up to the second OPEN.
    recording.ledger.truncate(3);
    let report = verify(&recording.lake());
    expect("pending", &report, 4, &[]);
    assert_eq!(report.sessions.pending, 1);
    assert!(report.faults.iter().any(|f| f.class == Class::Pending && f.session == Some(eve)));
    assert!(report.faults.iter().all(|f| f.gravity == Gravity::Notice));
}

#[test]
fn one_session_can_be_checked_alone() {
    let recording = recording();
    let [ada, bob, _] = recording.sessions()[..] else { panic!("three sessions") };
    let mut altered = recording.clone();
    altered.events[recording.at(bob, 3)].envelope.ts_wall_ns += 1;
    let lake = altered.lake();
    let only = |session| Options { session: Some(session), ..Options::default() };
    expect("the other one", &verify_with(&lake, &only(ada)), 4, &[]);
    expect("this one", &verify_with(&lake, &only(bob)), 2, &[(Class::Hash, Some(bob), Some(3), None)]);
}

#[test]
fn the_same_events_twice_are_reported_and_harmless() {
    let mut recording = recording().clone();
    let ada = recording.sessions()[0];
    for seq in [0, 1, 5, 6] {
        recording.events.push(recording.events[recording.at(ada, seq)].clone());
    }
    let mut again = recording.ledger[2].clone();
    again.prev = bodycam_record::Digest::ZERO;
    recording.ledger.push(again);
    for tenant_key in [None, Some(tenant())] {
        let report = verify_with(&recording.lake(), &Options { tenant_key, ..Options::default() });
        expect("duplicates", &report, 4, &[]);
        let duplicates = report.faults.iter().filter(|f| f.class == Class::Duplicate).count();
        assert_eq!(duplicates, 5, "{}", report.to_text());
    }
}
