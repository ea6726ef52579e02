//! Any byte of any object changed: the verifier says so, or the byte provably means nothing.

use std::collections::BTreeSet;

use bodycam_record::SessionId;
use bodycam_verify::{Class, Options, Report};
use bytes::Bytes;
use proptest::prelude::*;

use super::fixture::*;

/// Bytes that are changed in each object, unless `BODYCAM_ALL_FLIPS` asks for all.
const SAMPLE: usize = 12;

fn flipped(path: &str, at: usize, bit: u8) -> Lake {
    let mut lake = (*clean_lake()).clone();
    let mut bytes = lake.objects[path].to_vec();
    bytes[at] ^= 1 << bit;
    lake.objects.insert(path.to_owned(), bytes.into());
    lake
}

/// Numbers that look like chance and are the same in every run.
fn sampled(path: &str, len: usize) -> Vec<(usize, u8)> {
    if std::env::var_os("BODYCAM_ALL_FLIPS").is_some() {
        return (0..len).flat_map(|at| (0..8).map(move |bit| (at, bit))).collect();
    }
    let digest = |n: usize| bodycam_record::digest::EVENT.digest(format!("{path} {n}").as_bytes()).0;
    (0..SAMPLE)
        .map(|n| {
            let d = digest(n);
            (usize::from(u16::from_le_bytes([d[0], d[1]])) * len / 65_536, d[2] % 8)
        })
        .collect()
}

#[test]
fn every_flipped_bit_of_data_files_commits_and_keys_is_seen() {
    let options = Options { tenant_key: Some(tenant()), ..Options::default() };
    for (path, bytes) in &clean_lake().objects {
        for (at, bit) in sampled(path, bytes.len()) {
            let lake = flipped(path, at, bit);
            let report = verify_with(&lake, &options);
            if path.starts_with("commits/") && same_commit(&lake.objects[path], bytes) {
                // A hex digit in the other case, say.
                continue;
            }
            if report.exit_code == 4 && report.has(Class::Rewritten) {
                // Other bytes, and readers get the same rows.
                is_seen_or_means_nothing(path, at, bit, &report, &lake).unwrap();
                continue;
            }
            assert!(
                matches!(report.exit_code, 1 | 2 | 5),
                "{path} byte {at} bit {bit}\n{}",
                report.to_text()
            );
        }
    }
}

fn same_commit(one: &Bytes, other: &Bytes) -> bool {
    let read = |bytes| bodycam_lake::Commit::parse("commit", bytes).ok();
    read(one).is_some_and(|commit| Some(commit) == read(other))
}

/// What a changed byte of a Parquet file can still be when R commits the file as it now is.
fn is_seen_or_means_nothing(
    path: &str,
    at: usize,
    bit: u8,
    report: &Report,
    lake: &Lake,
) -> Result<(), String> {
    if report.exit_code != 4 {
        return Ok(());
    }
    // Not seen: then every reader gets the rows of the clean file from it.
    let rows = |bytes: &Bytes| super::files::batch_of(bytes);
    if rows(&lake.objects[path]).columns() == rows(&clean_lake().objects[path]).columns() {
        return Ok(());
    }
    Err(format!("{path} byte {at} bit {bit} changed rows unseen"))
}

#[test]
fn a_flipped_bit_that_is_committed_again_is_seen_or_changes_no_row() {
    let options = Options { tenant_key: Some(tenant()), ..Options::default() };
    let mut unseen = 0;
    for (path, bytes) in clean_lake().objects.iter().filter(|(p, _)| p.ends_with(".parquet")) {
        for (at, bit) in sampled(path, bytes.len()) {
            let mut lake = flipped(path, at, bit);
            lake.recommit();
            let report = verify_with(&lake, &options);
            is_seen_or_means_nothing(path, at, bit, &report, &lake).unwrap();
            unseen += usize::from(report.exit_code == 4);
        }
    }
    println!("{unseen} flips changed no row");
}

/// One thing that somebody can do to a recording.
#[derive(Debug, Clone)]
enum Deed {
    Drop(usize),
    Copy(usize, i64),
    Move(usize, usize),
    Number(usize, i64),
    Time(usize),
    Hash(usize, u8),
    Rehash(usize),
    DropLedger(usize),
    SwapLedger(usize, usize),
}

fn deed() -> impl Strategy<Value = Deed> {
    let n = 0usize..45;
    prop_oneof![
        n.clone().prop_map(Deed::Drop),
        (n.clone(), 0i64..20).prop_map(|(i, seq)| Deed::Copy(i, seq)),
        (n.clone(), 0usize..3).prop_map(|(i, s)| Deed::Move(i, s)),
        (n.clone(), -2i64..20).prop_map(|(i, seq)| Deed::Number(i, seq)),
        n.clone().prop_map(Deed::Time),
        (n, any::<u8>()).prop_map(|(i, byte)| Deed::Hash(i, byte)),
        (0usize..3).prop_map(Deed::Rehash),
        (0usize..15).prop_map(Deed::DropLedger),
        (0usize..15, 0usize..15).prop_map(|(i, j)| Deed::SwapLedger(i, j)),
    ]
}

fn apply(recording: &mut Recording, sessions: &[SessionId], deed: &Deed) {
    let n = recording.events.len().max(1);
    let records = recording.ledger.len();
    match *deed {
        Deed::Drop(i) if i % n < recording.events.len() => drop(recording.events.remove(i % n)),
        Deed::Copy(i, seq) => {
            let mut event = recording.events[i % n].clone();
            event.envelope.seq = seq;
            recording.events.push(event);
        }
        Deed::Move(i, s) => recording.events[i % n].envelope.session = sessions[s],
        Deed::Number(i, seq) => recording.events[i % n].envelope.seq = seq,
        Deed::Time(i) => recording.events[i % n].envelope.ts_mono_ns ^= 1,
        Deed::Hash(i, byte) => recording.events[i % n].hash.0[usize::from(byte) % 32] ^= 1,
        Deed::Rehash(s) => recording.rehash(sessions[s]),
        // Never the last: that a ledger was cut at its end is seen only by a checkpoint held elsewhere (row 23).
        Deed::DropLedger(i) if records > 1 => drop(recording.ledger.remove(i % (records - 1))),
        Deed::SwapLedger(i, j) if records > 1 => recording.ledger.swap(i % records, j % records),
        _ => {}
    }
}

/// What a verifier can compare without being clever: the rows, in order.
fn rows_of(recording: &Recording) -> BTreeSet<(SessionId, i64, [u8; 32], Vec<u8>)> {
    let row = |e: &bodycam_record::Event| {
        let mut envelope = e.envelope.clone();
        envelope.prev = bodycam_record::Digest::ZERO;
        (e.envelope.session, e.envelope.seq, e.hash.0, [envelope.hash().0.to_vec(), e.body.clone()].concat())
    };
    recording.events.iter().map(row).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_to_events_and_ledger_is_seen_and_named(deeds in proptest::collection::vec(deed(), 1..5)) {
        let clean = recording();
        let sessions = clean.sessions();
        let mut altered = clean.clone();
        for deed in &deeds {
            apply(&mut altered, &sessions, deed);
        }
        let lake = altered.lake_by(&thief_key());
        let report = verify(&lake);
        let same_ledger = {
            let mut records = altered.ledger.clone();
            records.sort_by_key(|r| r.seq);
            records == clean.ledger
        };
        if rows_of(&altered) == rows_of(clean) && same_ledger {
            prop_assert_eq!(report.exit_code, 4, "{:?}\n{}", deeds, report.to_text());
        } else {
            prop_assert_eq!(report.exit_code, 2, "{:?}\n{}", deeds, report.to_text());
            // The second look always finds what the first one noticed.
            let vague = report.faults.iter().find(|f| f.detail.contains("no row of it could be named"));
            prop_assert!(vague.is_none(), "{:?}\n{}", deeds, report.to_text());
        }
        // Every finding in a file says which one.
        prop_assert!(report.faults.iter().all(|f| f.class != Class::Hash || f.path.is_some()));
    }
}
