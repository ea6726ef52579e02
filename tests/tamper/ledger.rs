//! Rows 7 and 21–28 of the matrix: ledgers with records removed, moved, altered or forged.

use bodycam_record::kinds::Body;
use bodycam_record::ledger::{LedgerEnd, Start};
use bodycam_record::{Digest, EpochKey, Ledger, LedgerRecord, ProducerKey, SessionId};
use bodycam_verify::{Class, Options, Trust};

use super::fixture::*;

/// What R does to a ledger: numbers and hashes fit again; signatures cannot.
fn renumber(recording: &mut Recording) {
    let mut prev = Digest::ZERO;
    for (seq, record) in (0..).zip(&mut recording.ledger) {
        record.seq = seq;
        record.prev = prev;
        record.hash = record.compute_hash();
        prev = record.hash;
    }
}

fn position(recording: &Recording, wanted: impl Fn(&Body) -> bool) -> i64 {
    recording.ledger.iter().find(|r| wanted(&r.decode_body().unwrap())).unwrap().seq
}

fn seal_of(session: SessionId) -> impl Fn(&Body) -> bool {
    move |body| matches!(body, Body::LedgerSeal(seal) if seal.session_id == session)
}

fn at(class: Class, seq: i64) -> Found {
    (class, None, Some(seq), None)
}

fn check(what: &str, recording: &Recording, wanted: &[Found]) {
    expect(what, &verify(&recording.lake_by(&thief_key())), 2, wanted);
}

#[test]
fn row_7_a_dropped_seal() {
    let clean = recording();
    let a = clean.sessions()[0];
    let seal = position(clean, seal_of(a));
    let mut dropped = clean.clone();
    dropped.ledger.retain(|r| r.seq != seal);
    let no_seal = (Class::NoSeal, Some(a), None, None);
    check("L: no seal", &dropped, &[at(Class::LedgerSeq, seal), no_seal]);

    // The last events and the seal, and no gap in the ledger: every later signature fails.
    dropped.events.retain(|e| e.envelope.session != a || e.envelope.seq < 12);
    renumber(&mut dropped);
    let mut wanted: Vec<Found> =
        (seal..dropped.ledger.len() as i64).map(|n| at(Class::LedgerSig, n)).collect();
    // Heartbeats have seen the session further than that.
    wanted.extend([no_seal, (Class::TailTruncated, Some(a), Some(12), Some(13))]);
    check("R: no seal", &dropped, &wanted);
}

#[test]
fn row_21_a_session_removed_with_its_ledger_lines() {
    let clean = recording();
    let b = clean.sessions()[1];
    let mut gone = clean.clone();
    gone.events.retain(|e| e.envelope.session != b);
    let speaks = |r: &LedgerRecord| match r.decode_body().unwrap() {
        Body::LedgerOpen(open) => open.session_id == b,
        Body::LedgerSeal(seal) => seal.session_id == b,
        _ => false,
    };
    let lines: Vec<i64> = clean.ledger.iter().filter(|r| speaks(r)).map(|r| r.seq).collect();
    gone.ledger.retain(|r| !speaks(r));
    check("L: lines", &gone, &[at(Class::LedgerSeq, lines[0]), at(Class::LedgerSeq, lines[1])]);
    renumber(&mut gone);
    let report = verify(&gone.lake_by(&thief_key()));
    assert_eq!(report.exit_code, 2);
    for class in [Class::LedgerSig, Class::LedgerRecord] {
        assert!(report.has(class), "{class}\n{}", report.to_text());
    }
}

#[test]
fn row_22_a_forged_session_has_no_open() {
    let clean = recording();
    let [a, ..] = clean.sessions()[..] else { panic!("sessions") };
    let mut forged = clean.clone();
    let new = foreign_session();
    let mut events: Vec<_> =
        clean.events.iter().filter(|e| e.envelope.session == a && e.envelope.kind != 2).cloned().collect();
    for (seq, event) in (0..).zip(&mut events) {
        (event.envelope.session, event.envelope.seq) = (new, seq);
        (event.envelope.content_no, event.envelope.content) = (None, None);
    }
    forged.events.extend(events);
    forged.rehash(new);
    check("R: forged", &forged, &[(Class::Orphan, Some(new), None, None)]);
}

#[test]
fn row_23_a_ledger_without_its_tail() {
    let clean = recording();
    let full = clean.ledger.len() as i64;
    let mut cut = clean.clone();
    cut.ledger.truncate(clean.ledger.len() - 2);
    // A lazy editor leaves the commit, which knows better.
    let mut lake = cut.lake();
    for (path, bytes) in clean.lake().objects.iter().filter(|(p, _)| p.starts_with("commits/")) {
        lake.objects.insert(path.clone(), bytes.clone());
    }
    let report = verify(&lake);
    let tail = (Class::LedgerTail, None, Some(full - 2), Some(full - 1));
    assert!(found(&report).contains(&tail), "{}", report.to_text());
    assert!(report.has(Class::Manifest), "{}", report.to_text());

    let stop = clean.ledger.len() - 1;
    let mut kept = clean.clone();
    kept.ledger.remove(stop - 1);
    check("tail but STOP", &kept, &[at(Class::LedgerSeq, stop as i64 - 1)]);
}

#[test]
fn a_ledger_that_ends_long_before_its_producers_commits() {
    let clean = recording();
    let mut cut = clean.clone();
    let eve = clean.sessions()[2];
    cut.ledger.truncate(3);
    let mut lake = cut.lake_by(&thief_key());
    for mut commit in lake.commits() {
        if commit.from == 50 {
            commit.created_ns += 61_000_000_000;
            lake.commit(commit, &thief_key());
        }
    }
    expect("ledger far behind", &verify(&lake), 2, &[(Class::LedgerTail, Some(eve), None, None)]);

    let lake = cut.lake();
    let late = Options { as_of_ns: Some(i64::MAX), ..Options::default() };
    let report = verify_with(&lake, &late);
    assert_eq!(report.exit_code, 3, "{}", report.to_text());
    assert!(found(&report).contains(&(Class::PendingLong, Some(eve), None, None)), "{}", report.to_text());
}

#[test]
fn rows_24_and_25_heartbeats_deleted_records_reordered() {
    let clean = recording();
    let beat = position(clean, |b| matches!(b, Body::LedgerHeartbeat(_)));
    let mut deleted = clean.clone();
    deleted.ledger.retain(|r| r.seq != beat);
    check("L: heartbeat", &deleted, &[at(Class::LedgerSeq, beat)]);

    let mut swapped = clean.clone();
    let n = beat as usize;
    swapped.ledger[n].seq += 1;
    swapped.ledger[n + 1].seq -= 1;
    let report = verify(&swapped.lake_by(&thief_key()));
    for seq in [beat, beat + 1, beat + 2] {
        assert!(found(&report).contains(&at(Class::LedgerHash, seq)), "{seq}\n{}", report.to_text());
    }
}

#[test]
fn an_altered_record_breaks_its_hash_and_a_rehashed_one_its_signature() {
    let clean = recording();
    let beat = position(clean, |b| matches!(b, Body::LedgerHeartbeat(_)));
    let mut altered = clean.clone();
    let record = &mut altered.ledger[beat as usize];
    let Body::LedgerHeartbeat(mut body) = record.decode_body().unwrap() else { panic!("a heartbeat") };
    body.dropped = 7;
    let body = Body::from(body);
    record.body = body.canonical();
    record.body_digest = body.table().body_digest(&record.body);
    check("L", &altered, &[at(Class::LedgerHash, beat)]);
    renumber(&mut altered);
    let wanted: Vec<Found> = (beat..altered.ledger.len() as i64).map(|n| at(Class::LedgerSig, n)).collect();
    check("R", &altered, &wanted);
}

#[test]
fn an_altered_seal_is_seen_by_its_own_signature_too() {
    let clean = recording();
    let a = clean.sessions()[0];
    let seal = position(clean, seal_of(a));
    let mut altered = clean.clone();
    let record = &mut altered.ledger[seal as usize];
    let Body::LedgerSeal(mut body) = record.decode_body().unwrap() else { panic!("a seal") };
    body.bytes_out += 1;
    let body = Body::from(body);
    record.body = body.canonical();
    record.body_digest = body.table().body_digest(&record.body);
    let wanted = [
        at(Class::LedgerHash, seal),
        (Class::SealSig, Some(a), Some(seal), None),
        (Class::SealMismatch, Some(a), Some(14), None),
    ];
    check("L: seal", &altered, &wanted);
}

#[test]
fn row_26_a_ledger_removed_leaves_sessions_that_nobody_announces() {
    let clean = recording();
    let mut gone = clean.clone();
    gone.ledger.clear();
    let report = verify(&gone.lake_by(&thief_key()));
    assert_eq!(report.sessions.pending, 3, "{}", report.to_text());
    let wanted: Vec<Found> =
        clean.sessions().into_iter().map(|s| (Class::NoLedger, Some(s), None, None)).collect();
    expect("a ledger that is only listed, after two commits", &report, 3, &wanted);
    let mut not_listed = gone.lake_by(&thief_key());
    not_listed.objects.remove("streams/1.json");
    let wanted: Vec<Found> =
        clean.sessions().into_iter().map(|s| (Class::LedgerTail, Some(s), None, None)).collect();
    expect("no ledger", &verify(&not_listed), 2, &wanted);

    // The ledger's commits are there, and the list of streams does not name them.
    let mut unlisted = (*clean_lake()).clone();
    unlisted.objects.remove("streams/1.json");
    let report = verify(&unlisted);
    assert_eq!(report.exit_code, 2, "{}", report.to_text());
    expect_path(&report, Class::CommitGap, "commits/gw-1@ledger/0");
}

/// A ledger of a forger who makes up a whole epoch, after the clean one or instead of it.
fn forged_epoch(clean: &Recording, key: &ProducerKey, epoch_offset: i64) -> Vec<LedgerRecord> {
    let last = clean.ledger.last().unwrap();
    let end = LedgerEnd { epoch: last.epoch + epoch_offset, next_seq: last.seq + 1, head: last.hash };
    let start = Start {
        config_digest: Digest::ZERO,
        inherited: vec![],
        simulated_clock: true,
        software: "bodycam 0.1.0".to_owned(),
    };
    let epoch_key = EpochKey::from_seed(&[3; 32]);
    vec![Ledger::start(PRODUCER, key, epoch_key, Some(end), start, last.ts_wall_ns + 1).1]
}

#[test]
fn a_second_key_for_a_known_producer_is_a_fault() {
    let clean = recording();
    let mut forged = clean.clone();
    forged.ledger.extend(forged_epoch(clean, &ProducerKey::from_seed(&[4; 32]), 0));
    let seq = clean.ledger.len() as i64;
    check("second key", &forged, &[at(Class::ProducerKey, seq)]);

    // A pinned key settles which of the two it is; a wrong pin refuses both.
    let other = ProducerKey::from_seed(&[4; 32]).public();
    let trust = Trust::parse(&format!("producer {PRODUCER} {other}")).unwrap();
    let options = Options { trust: Some(trust), ..Options::default() };
    let report = verify_with(&clean.lake(), &options);
    expect("another key pinned", &report, 2, &[at(Class::ProducerKey, 0)]);
}

#[test]
fn row_28_a_skipped_epoch() {
    let clean = recording();
    let Body::LedgerStart(start) = clean.ledger[0].decode_body().unwrap() else { panic!("START") };
    let mut forged = clean.clone();
    // The forger does not have the producer's key either; what is asked here is the epoch.
    forged.ledger.extend(forged_epoch(clean, &ProducerKey::from_seed(&[4; 32]), 1));
    let seq = clean.ledger.len() as i64;
    check("skipped", &forged, &[at(Class::EpochGap, seq), at(Class::ProducerKey, seq)]);

    // Naming the real key does not help: it did not certify the epoch's.
    let record = forged.ledger.last_mut().unwrap();
    let Body::LedgerStart(mut body) = record.decode_body().unwrap() else { panic!("START") };
    body.producer_key = start.producer_key;
    let body = Body::from(body);
    record.body = body.canonical();
    record.body_digest = body.table().body_digest(&record.body);
    record.hash = record.compute_hash();
    record.signature = EpochKey::from_seed(&[3; 32]).sign(record.hash);
    check("certificate", &forged, &[at(Class::EpochGap, seq), at(Class::Certificate, seq)]);
}

#[test]
fn a_record_after_stop_and_a_record_of_another_epoch() {
    let clean = recording();
    let mut more = clean.clone();
    let last = clean.ledger.last().unwrap();
    let mut beat = clean.ledger.iter().find(|r| r.kind == 103).unwrap().clone();
    (beat.seq, beat.prev, beat.epoch) = (last.seq + 1, last.hash, 2);
    beat.hash = beat.compute_hash();
    more.ledger.push(beat);
    let seq = last.seq + 1;
    let wanted = [at(Class::LedgerRecord, seq), at(Class::EpochKey, seq), at(Class::LedgerSig, seq)];
    check("after STOP", &more, &wanted);
}

#[test]
fn a_ledger_without_its_start() {
    let mut headless = recording().clone();
    headless.ledger.remove(0);
    check("no START", &headless, &[at(Class::LedgerSeq, 0)]);
}

#[test]
fn a_declared_crash_that_nobody_declared() {
    // START lists no session, so the CRASH has no ground; and dropping the CRASH abandons the session.
    let clean = crashed_recording();
    let eve = clean.sessions()[2];
    let crash = position(clean, |b| matches!(b, Body::LedgerCrash(_)));
    let mut dropped = clean.clone();
    dropped.ledger.retain(|r| r.seq != crash);
    let report = verify(&dropped.lake_by(&thief_key()));
    assert!(found(&report).contains(&at(Class::LedgerSeq, crash)), "{}", report.to_text());
    assert_eq!(report.exit_code, 2);
    let mut unlisted = clean.clone();
    let start = unlisted.ledger.iter_mut().rfind(|r| r.kind == 100).unwrap();
    let Body::LedgerStart(mut body) = start.decode_body().unwrap() else { panic!("START") };
    body.inherited.clear();
    let body = Body::from(body);
    start.body = body.canonical();
    start.body_digest = body.table().body_digest(&start.body);
    let report = verify(&unlisted.lake_by(&thief_key()));
    for class in [Class::LedgerHash, Class::LedgerRecord] {
        assert!(report.has(class), "{class}\n{}", report.to_text());
    }
    assert!(report.faults.iter().any(|f| f.session == Some(eve) || f.detail.contains(&eve.to_string())));
}

#[test]
fn a_session_left_open_at_stop_is_the_next_starts_to_declare() {
    // The crashed recording, with a STOP of the first epoch before the START of the second.
    let clean = crashed_recording();
    let eve = clean.sessions()[2];
    let epoch_key = |seed| EpochKey::from_seed(&[seed; 32]);
    let (long_term, first) = (ProducerKey::from_seed(&[4; 32]), &clean.ledger);
    let start = |inherited: Vec<String>| Start {
        config_digest: Digest::ZERO,
        inherited,
        simulated_clock: true,
        software: "x".to_owned(),
    };
    let (mut ledger, started) = Ledger::start(PRODUCER, &long_term, epoch_key(5), None, start(vec![]), 1);
    let mut records = vec![started];
    let of_first = first.iter().skip(1).take_while(|r| r.epoch == 1).map(|r| r.decode_body().unwrap());
    // Only the session in question: seals of the others are signed with a key that is gone.
    let only = of_first.filter(|body| matches!(body, Body::LedgerOpen(open) if open.session_id == eve));
    records.extend(only.collect::<Vec<_>>().into_iter().map(|body| ledger.append(body, 2)));
    let stop =
        bodycam_record::kinds::ledger::LedgerStop { reason: "drain".to_owned(), events: 0, accepted: 1 };
    records.push(ledger.append(stop.into(), 3));
    let mut altered = clean.clone();
    altered.events.retain(|e| e.envelope.session == eve);
    altered.chunks.retain(|c| c.session == eve);
    altered.ledger.clone_from(&records);
    let classes_of = |recording: &Recording| classes(&verify(&recording.lake()));
    assert!(classes_of(&altered).contains(&Class::NoSeal), "nothing follows the STOP");
    let last = records.last().unwrap();
    let end = LedgerEnd { epoch: 1, next_seq: last.seq + 1, head: last.hash };
    let (mut second, started) =
        Ledger::start(PRODUCER, &long_term, epoch_key(6), Some(end), start(vec![eve.to_string()]), 4);
    altered.ledger.push(started);
    let crash = clean.ledger.iter().find(|r| r.kind == 105).unwrap().decode_body().unwrap();
    altered.ledger.push(second.append(crash, 5));
    let found = classes_of(&altered);
    assert!(!found.contains(&Class::NoSeal) && found.contains(&Class::Crashed), "{found:?}");
}

#[test]
fn row_27_events_signed_by_a_newer_epoch() {
    // The crash record names epoch 1 for a session of epoch 1; moved to epoch 2, its events do not fit.
    let clean = crashed_recording();
    let eve = clean.sessions()[2];
    let mut moved = clean.clone();
    for event in moved.events.iter_mut().filter(|e| e.envelope.session == eve) {
        event.envelope.epoch = 2;
    }
    moved.rehash(eve);
    let report = verify(&moved.lake_by(&thief_key()));
    assert!(found(&report).contains(&(Class::EpochKey, Some(eve), Some(0), None)), "{}", report.to_text());
}
