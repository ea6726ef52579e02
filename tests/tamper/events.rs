//! Rows 2–20 of the matrix: events changed, deleted, inserted, moved, by L and by R.

use bodycam_record::kinds::Body;
use bodycam_record::{Digest, Event, SessionId};
use bodycam_verify::{Class, Options};

use super::fixture::*;

/// Sessions of a recording.
type Three = [SessionId; 3];

fn three(recording: &Recording) -> Three {
    recording.sessions().try_into().unwrap()
}

/// Lays down the recording after `change`: by L, who leaves hashes as they are, and by R, who makes those of
/// `rehashed` fit. Both refresh the commits, so that only the events can give them away.
fn attack(
    what: &str,
    change: impl Fn(&mut Recording, Three),
    rehashed: impl Fn(Three) -> Vec<SessionId>,
    lazy: impl Fn(Three) -> Vec<Found>,
    rehashing: impl Fn(Three) -> Vec<Found>,
) {
    let clean = recording();
    let ids = three(clean);
    let mut altered = clean.clone();
    change(&mut altered, ids);
    expect(&format!("L: {what}"), &verify(&altered.lake_by(&thief_key())), 2, &lazy(ids));
    for session in rehashed(ids) {
        altered.rehash(session);
    }
    let report = verify(&altered.lake_by(&thief_key()));
    expect(&format!("R: {what}"), &report, 2, &rehashing(ids));
    // With pinned keys R's commits alone give R away.
    let report = verify_with(&altered.lake_by(&thief_key()), &pinned(clean));
    assert!(report.has(Class::CommitKey), "{what}\n{}", report.to_text());
    // Nothing of it depends on which session is asked for.
    for session in rehashed(ids) {
        let only = Options { session: Some(session), ..Options::default() };
        let report = verify_with(&altered.lake_by(&thief_key()), &only);
        assert_eq!(report.exit_code, 2, "{what}\n{}", report.to_text());
    }
}

fn one(class: Class, session: SessionId, seq: i64) -> Found {
    (class, Some(session), Some(seq), None)
}

fn span(class: Class, session: SessionId, from: i64, to: i64) -> Found {
    (class, Some(session), Some(from), Some(to))
}

fn whole(class: Class, session: SessionId) -> Found {
    (class, Some(session), None, None)
}

/// The checkpoint of the first session; the last event of each.
const CHECKPOINT: i64 = 7;
const LAST: i64 = 14;

/// What R cannot hide after rewriting the first session from before its checkpoint on.
fn rewritten(a: SessionId) -> Vec<Found> {
    vec![one(Class::CheckpointMismatch, a, CHECKPOINT), one(Class::HeadMismatch, a, LAST)]
}

/// What the hashes of the first session say when one before the checkpoint is another, while the last is not.
fn other_root(a: SessionId) -> Vec<Found> {
    vec![one(Class::CheckpointMismatch, a, CHECKPOINT), one(Class::SealMismatch, a, LAST)]
}

fn remove(recording: &mut Recording, session: SessionId, seqs: impl Fn(i64) -> bool) {
    recording.events.retain(|e| e.envelope.session != session || !seqs(e.envelope.seq));
}

fn renumber(recording: &mut Recording, session: SessionId, from: i64, by: i64) {
    for event in recording.events.iter_mut().map(|e| &mut e.envelope) {
        if event.session == session && event.seq >= from {
            event.seq += by;
        }
    }
}

fn copies(recording: &Recording, session: SessionId, seqs: impl Fn(i64) -> bool) -> Vec<Event> {
    let wanted = |e: &&Event| e.envelope.session == session && seqs(e.envelope.seq);
    recording.events.iter().filter(wanted).cloned().collect()
}

/// Makes events look like those of another session.
fn adopt(recording: &Recording, events: &mut [Event], into: SessionId) {
    let model = recording.events[recording.at(into, 0)].envelope.clone();
    for event in events {
        event.envelope.session = into;
        event.envelope.principal_ref = model.principal_ref;
    }
}

#[test]
fn the_sessions_are_as_the_tests_below_expect() {
    let recording = recording();
    let [a, b, c] = three(recording);
    assert_eq!([a, b, c].map(|s| recording.count(s)), [LAST + 1; 3]);
    assert_eq!(recording.events[recording.at(a, CHECKPOINT)].envelope.kind, 2);
    assert_eq!(recording.events[recording.at(a, LAST)].envelope.kind, 3);
}

#[test]
fn row_2_a_changed_header_field() {
    let policy = |r: &mut Recording, [a, ..]: Three| {
        let at = r.at(a, 3);
        r.events[at].envelope.policy_digest = Digest([0x55; 32]);
    };
    let verdict = |r: &mut Recording, [a, ..]: Three| {
        r.edit(a, 3, |body| {
            let Body::SqlStatement(statement) = body else { panic!("a statement") };
            statement.verdict = "deny".to_owned();
        });
    };
    let parent = |r: &mut Recording, [a, ..]: Three| {
        let at = r.at(a, 4);
        r.events[at].envelope.parent_seq = Some(1);
    };
    let altered = |seq| move |[a, ..]: Three| vec![one(Class::Hash, a, seq)];
    attack("policy", policy, |[a, ..]| vec![a], altered(3), |[a, ..]| rewritten(a));
    attack("verdict", verdict, |[a, ..]| vec![a], altered(3), |[a, ..]| rewritten(a));
    attack("parent", parent, |[a, ..]| vec![a], altered(4), |[a, ..]| rewritten(a));

    let actor = |r: &mut Recording, [a, b, _]: Three| {
        let (at, other) = (r.at(a, 3), r.at(b, 3));
        r.events[at].envelope.principal_ref = r.events[other].envelope.principal_ref;
    };
    let found = |[a, ..]: Three| [rewritten(a), vec![one(Class::Splice, a, 3)]].concat();
    attack("actor", actor, |[a, ..]| vec![a], altered(3), found);
    let epoch = |r: &mut Recording, [a, ..]: Three| {
        let at = r.at(a, 3);
        r.events[at].envelope.epoch = 2;
    };
    let found = |[a, ..]: Three| [rewritten(a), vec![one(Class::EpochKey, a, 3)]].concat();
    attack("epoch", epoch, |[a, ..]| vec![a], altered(3), found);
}

#[test]
fn row_3_a_shifted_time() {
    let shift = |r: &mut Recording, [a, ..]: Three| {
        let at = r.at(a, 4);
        r.events[at].envelope.ts_wall_ns -= 1_000_000;
    };
    let lazy = |[a, ..]: Three| vec![one(Class::Hash, a, 4)];
    attack("time", shift, |[a, ..]| vec![a], lazy, |[a, ..]| rewritten(a));
}

#[test]
fn a_changed_hash_cell_is_told_from_a_changed_event() {
    let mut altered = recording().clone();
    let [a, ..] = three(&altered);
    for seq in [3, LAST] {
        let at = altered.at(a, seq);
        altered.events[at].hash.0[5] ^= 1;
    }
    let report = verify(&altered.lake_by(&thief_key()));
    let wanted = [one(Class::Hash, a, 3), one(Class::Hash, a, LAST), one(Class::HeadMismatch, a, LAST)];
    expect("hash cells", &report, 2, &wanted);
    let told = report.faults.iter().find(|f| f.seq == Some(3)).unwrap();
    assert!(told.detail.contains("the stated hash was altered"), "{}", told.detail);
}

#[test]
fn row_4_a_deleted_event() {
    let delete = |r: &mut Recording, [a, ..]: Three| remove(r, a, |n| n == 4);
    let gap = |[a, ..]: Three| vec![one(Class::SeqGap, a, 4)];
    // Whoever deletes without renumbering leaves the gap; whoever rehashes what follows also breaks what signs it.
    let rehashed = |[a, ..]: Three| [rewritten(a), vec![one(Class::SeqGap, a, 4)]].concat();
    attack("deleted", delete, |[a, ..]| vec![a], gap, rehashed);

    let renumbered = |r: &mut Recording, [a, ..]: Three| {
        remove(r, a, |n| n == 4);
        renumber(r, a, 5, -1);
    };
    let rehashed = |[a, ..]: Three| {
        vec![one(Class::CheckpointMismatch, a, CHECKPOINT - 1), one(Class::TailTruncated, a, LAST)]
    };
    let mut altered = recording().clone();
    let ids = three(&altered);
    renumbered(&mut altered, ids);
    altered.rehash(ids[0]);
    expect("R: deleted and renumbered", &verify(&altered.lake_by(&thief_key())), 2, &rehashed(ids));
}

#[test]
fn row_5_deleted_first_events() {
    let delete = |r: &mut Recording, [a, ..]: Three| remove(r, a, |n| n < 2);
    let lazy = |[a, ..]: Three| vec![span(Class::GenesisMissing, a, 0, 1)];
    let rehashed = |[a, ..]: Three| [rewritten(a), vec![span(Class::GenesisMissing, a, 0, 1)]].concat();
    attack("first events", delete, |[a, ..]| vec![a], lazy, rehashed);

    let mut altered = recording().clone();
    let ids = three(&altered);
    delete(&mut altered, ids);
    renumber(&mut altered, ids[0], 0, -2);
    altered.rehash(ids[0]);
    let a = ids[0];
    let wanted = [
        one(Class::GenesisMissing, a, 0),
        one(Class::CheckpointMismatch, a, CHECKPOINT - 2),
        span(Class::TailTruncated, a, LAST - 1, LAST),
    ];
    expect("R: first events, renumbered", &verify(&altered.lake_by(&thief_key())), 2, &wanted);
}

#[test]
fn row_6_a_cut_tail() {
    let delete = |r: &mut Recording, [a, ..]: Three| remove(r, a, |n| n >= 12);
    let cut = |[a, ..]: Three| vec![span(Class::TailTruncated, a, 12, LAST)];
    attack("tail", delete, |[a, ..]| vec![a], cut, cut);
    let delete = |r: &mut Recording, [a, ..]: Three| remove(r, a, |n| n == LAST);
    let cut = |[a, ..]: Three| vec![one(Class::TailTruncated, a, LAST)];
    attack("last event", delete, |[a, ..]| vec![a], cut, cut);
}

#[test]
fn a_cut_tail_of_an_open_session_is_seen_by_its_heartbeat() {
    let mut altered = open_recording().clone();
    let eve = altered.sessions()[2];
    let count = altered.count(eve);
    remove(&mut altered, eve, |n| n >= count - 2);
    let report = verify(&altered.lake_by(&thief_key()));
    expect("open tail", &report, 2, &[span(Class::TailTruncated, eve, count - 2, count - 1)]);
    remove(&mut altered, eve, |_| true);
    let report = verify(&altered.lake_by(&thief_key()));
    expect("open session", &report, 2, &[whole(Class::MissingSession, eve)]);
}

#[test]
fn a_rewritten_open_session_is_seen_by_its_heartbeats() {
    let mut altered = open_recording().clone();
    let eve = altered.sessions()[2];
    // After the last checkpoint, so that only heartbeats speak of it.
    altered.edit(eve, 11, |body| {
        let Body::SqlResult(result) = body else { panic!("a result") };
        result.rows += 1;
    });
    altered.rehash(eve);
    let report = verify(&altered.lake_by(&thief_key()));
    assert_eq!(report.exit_code, 2, "{}", report.to_text());
    assert!(found(&report).iter().all(|f| f.0 == Class::Heartbeat), "{}", report.to_text());
}

#[test]
fn a_crashed_session_must_end_where_its_crash_record_says() {
    let clean = crashed_recording();
    let eve = clean.sessions()[2];
    let last = clean.count(eve) - 1;
    let mut cut = clean.clone();
    remove(&mut cut, eve, |n| n == last);
    let crashed = whole(Class::Crashed, eve);
    expect("cut", &verify(&cut.lake_by(&thief_key())), 2, &[crashed, one(Class::TailTruncated, eve, last)]);
    let mut gone = clean.clone();
    remove(&mut gone, eve, |_| true);
    expect("gone", &verify(&gone.lake_by(&thief_key())), 2, &[crashed, whole(Class::MissingSession, eve)]);
    let mut longer = clean.clone();
    let mut more = copies(clean, eve, |n| n == last);
    more[0].envelope.seq += 1;
    longer.events.extend(more);
    longer.rehash(eve);
    expect(
        "longer",
        &verify(&longer.lake_by(&thief_key())),
        2,
        &[crashed, one(Class::AfterSeal, eve, last + 1)],
    );
    let mut rewritten = clean.clone();
    let at = rewritten.at(eve, last);
    rewritten.events[at].envelope.ts_mono_ns += 1;
    rewritten.rehash(eve);
    expect(
        "rewritten",
        &verify(&rewritten.lake_by(&thief_key())),
        2,
        &[crashed, one(Class::HeadMismatch, eve, last)],
    );
}

#[test]
fn row_8_truncated_then_appended() {
    let graft = |r: &mut Recording, [a, b, _]: Three| {
        let mut planted = copies(r, b, |n| n >= 10);
        remove(r, a, |n| n >= 10);
        for event in &mut planted {
            event.envelope.session = a;
        }
        r.events.extend(planted);
    };
    let lazy = |[a, ..]: Three| {
        vec![span(Class::Splice, a, 10, 13), one(Class::Splice, a, LAST), one(Class::HeadMismatch, a, LAST)]
    };
    let clean = recording();
    let ids = three(clean);
    let mut altered = clean.clone();
    graft(&mut altered, ids);
    expect("L: grafted", &verify(&altered.lake_by(&thief_key())), 2, &lazy(ids));
    let mut planted: Vec<Event> = copies(&altered, ids[0], |n| n >= 10);
    remove(&mut altered, ids[0], |n| n >= 10);
    adopt(clean, &mut planted, ids[0]);
    altered.events.extend(planted);
    altered.rehash(ids[0]);
    expect(
        "R: grafted",
        &verify(&altered.lake_by(&thief_key())),
        2,
        &[one(Class::HeadMismatch, ids[0], LAST)],
    );
}

#[test]
fn row_9_a_rewritten_tail_of_the_same_length() {
    let rewrite = |r: &mut Recording, [a, ..]: Three| {
        for seq in [12, 13] {
            let at = r.at(a, seq);
            r.events[at].envelope.ts_mono_ns += 7;
        }
    };
    let lazy = |[a, ..]: Three| vec![span(Class::Hash, a, 12, 13)];
    attack("tail", rewrite, |[a, ..]| vec![a], lazy, |[a, ..]| vec![one(Class::HeadMismatch, a, LAST)]);
}

#[test]
fn row_10_a_planted_event() {
    let plant = |r: &mut Recording, [a, ..]: Three| {
        let mut planted = copies(r, a, |n| n == 3);
        renumber(r, a, 5, 1);
        planted[0].envelope.seq = 5;
        planted[0].envelope.ts_mono_ns += 1;
        planted[0].hash = Digest([0x77; 32]);
        r.events.extend(planted);
    };
    let mut altered = recording().clone();
    let ids = three(&altered);
    let a = ids[0];
    plant(&mut altered, ids);
    let report = verify(&altered.lake_by(&thief_key()));
    assert!(found(&report).contains(&one(Class::Hash, a, 5)), "{}", report.to_text());
    for (from, to) in [(6, 7), (9, 14)] {
        assert!(found(&report).contains(&span(Class::Link, a, from, to)), "{}", report.to_text());
    }
    assert_eq!(report.exit_code, 2);
    altered.rehash(a);
    let wanted = [
        one(Class::CheckpointMismatch, a, CHECKPOINT + 1),
        one(Class::HeadMismatch, a, LAST),
        one(Class::AfterSeal, a, LAST + 1),
    ];
    expect("R: planted", &verify(&altered.lake_by(&thief_key())), 2, &wanted);
}

#[test]
fn row_12_two_events_with_one_number() {
    let mut altered = recording().clone();
    let a = altered.sessions()[0];
    let mut other = copies(&altered, a, |n| n == 4);
    other[0].envelope.ts_mono_ns += 1;
    altered.events.extend(other);
    expect("L: fork", &verify(&altered.lake_by(&thief_key())), 2, &[one(Class::Fork, a, 4)]);
    // R gives the planted twin a hash that fits after its predecessor.
    let at = altered.events.len() - 1;
    altered.events[at].hash = altered.events[at].envelope.hash();
    expect("R: fork", &verify(&altered.lake_by(&thief_key())), 2, &[one(Class::Fork, a, 4)]);
    // Nor does it matter which of the two lies first.
    altered.events.reverse();
    expect("R: fork, other order", &verify(&altered.lake_by(&thief_key())), 2, &[one(Class::Fork, a, 4)]);
}

#[test]
fn row_13_swapped_events() {
    let swap = |r: &mut Recording, [a, ..]: Three| {
        let (x, y) = (r.at(a, 3), r.at(a, 5));
        r.events[x].envelope.seq = 5;
        r.events[y].envelope.seq = 3;
    };
    // The hashes in another order have another Merkle root, too.
    let lazy =
        |[a, ..]: Three| [[3, 4, 5, 6].map(|n| one(Class::Link, a, n)).to_vec(), other_root(a)].concat();
    attack("swap", swap, |[a, ..]| vec![a], lazy, |[a, ..]| rewritten(a));
}

#[test]
fn row_14_an_event_after_the_seal() {
    let append = |r: &mut Recording, [a, ..]: Three| {
        let mut more = copies(r, a, |n| n == 13);
        more[0].envelope.seq = LAST + 1;
        r.events.extend(more);
    };
    let lazy = |[a, ..]: Three| vec![one(Class::Link, a, LAST + 1), one(Class::AfterSeal, a, LAST + 1)];
    attack("append", append, |[a, ..]| vec![a], lazy, |[a, ..]| vec![one(Class::AfterSeal, a, LAST + 1)]);
}

#[test]
fn row_15_an_event_of_another_session() {
    let splice = |r: &mut Recording, [a, b, _]: Three| {
        remove(r, a, |n| n == 5);
        let at = r.at(b, 5);
        r.events[at].envelope.session = a;
    };
    let lazy = |[a, b, _]: Three| {
        [vec![one(Class::Splice, a, 5), one(Class::Link, a, 6), one(Class::SeqGap, b, 5)], other_root(a)]
            .concat()
    };
    let rehashed = |[a, b, _]: Three| {
        let mut all = rewritten(a);
        // The principal is another session's: R did not think of it.
        all.push(one(Class::Splice, a, 5));
        all.extend([
            one(Class::SeqGap, b, 5),
            one(Class::CheckpointMismatch, b, 8),
            one(Class::HeadMismatch, b, LAST),
        ]);
        all
    };
    attack("splice", splice, |[a, b, _]| vec![a, b], lazy, rehashed);
}

#[test]
fn row_16_sessions_swapped_or_a_genesis_altered() {
    let nonce = |r: &mut Recording, [a, ..]: Three| {
        r.edit(a, 0, |body| {
            let Body::SessionOpened(opened) = body else { panic!("the opening") };
            opened.nonce = Digest([0x66; 32]);
        });
    };
    let lazy = |[a, ..]: Three| vec![one(Class::Genesis, a, 0)];
    let rehashed = |[a, ..]: Three| [rewritten(a), vec![one(Class::Genesis, a, 0)]].concat();
    attack("nonce", nonce, |[a, ..]| vec![a], lazy, rehashed);

    let mut altered = recording().clone();
    let ids @ [a, b, _] = three(&altered);
    for event in &mut altered.events {
        let session = &mut event.envelope.session;
        *session = if *session == a {
            b
        } else if *session == b {
            a
        } else {
            *session
        };
    }
    let report = verify(&altered.lake_by(&thief_key()));
    for session in [a, b] {
        assert!(found(&report).contains(&one(Class::Genesis, session, 0)), "{}", report.to_text());
        let spliced = |f: &&bodycam_verify::Fault| f.session == Some(session) && f.class == Class::Splice;
        let rows: i64 = report
            .faults
            .iter()
            .filter(spliced)
            .map(|f| f.seq_to.unwrap_or(f.seq.unwrap()) - f.seq.unwrap() + 1)
            .sum();
        assert_eq!(rows, LAST, "{}", report.to_text());
    }
    assert!(report.faults.iter().all(|f| f.session != Some(ids[2])), "{}", report.to_text());
    altered.rehash(a);
    altered.rehash(b);
    let report = verify(&altered.lake_by(&thief_key()));
    for session in [a, b] {
        for class in [Class::Genesis, Class::CheckpointMismatch, Class::HeadMismatch] {
            assert!(
                found(&report).iter().any(|f| (f.0, f.1) == (class, Some(session))),
                "{}",
                report.to_text()
            );
        }
    }
}

#[test]
fn row_17_an_old_session_under_a_new_name() {
    let new = foreign_session();
    let replay = |r: &mut Recording, [a, ..]: Three| {
        let mut again = copies(r, a, |_| true);
        again.iter_mut().for_each(|e| e.envelope.session = new);
        r.events.extend(again);
    };
    let clean = recording();
    let ids = three(clean);
    let mut altered = clean.clone();
    replay(&mut altered, ids);
    let report = verify(&altered.lake_by(&thief_key()));
    assert!(found(&report).contains(&whole(Class::Orphan, new)), "{}", report.to_text());
    assert!(found(&report).iter().all(|f| f.1 == Some(new)), "{}", report.to_text());
    assert!(report.has(Class::Splice), "{}", report.to_text());
    altered.rehash(new);
    let wanted = [
        whole(Class::Orphan, new),
        one(Class::CheckpointMismatch, new, CHECKPOINT),
        one(Class::CheckpointSig, new, CHECKPOINT),
    ];
    expect("R: replayed", &verify(&altered.lake_by(&thief_key())), 2, &wanted);
}

#[test]
fn row_18_a_session_moved_to_another_producer() {
    let moved = |r: &mut Recording, [a, ..]: Three| {
        for event in r.events.iter_mut().filter(|e| e.envelope.session == a) {
            event.envelope.producer = "gw-2".to_owned();
        }
    };
    let mut altered = recording().clone();
    let ids @ [a, ..] = three(&altered);
    moved(&mut altered, ids);
    let report = verify(&altered.lake_by(&thief_key()));
    for wanted in [one(Class::Genesis, a, 0), one(Class::Orphan, a, 0)] {
        assert!(found(&report).contains(&wanted), "{}", report.to_text());
    }
    altered.rehash(a);
    let wanted = [rewritten(a), vec![one(Class::Genesis, a, 0), one(Class::Orphan, a, 0)]].concat();
    expect("R: moved", &verify(&altered.lake_by(&thief_key())), 2, &wanted);
}

#[test]
fn row_19_sessions_merged_and_split() {
    let clean = recording();
    let [a, b, _] = three(clean);
    let mut merged = clean.clone();
    let mut more = copies(&merged, b, |_| true);
    remove(&mut merged, b, |_| true);
    adopt(clean, &mut more, a);
    more.iter_mut().for_each(|e| e.envelope.seq += LAST + 1);
    merged.events.extend(more);
    merged.rehash(a);
    let report = verify(&merged.lake_by(&thief_key()));
    assert!(found(&report).contains(&whole(Class::MissingSession, b)), "{}", report.to_text());
    let after: i64 = report
        .faults
        .iter()
        .filter(|f| f.class == Class::AfterSeal && f.session == Some(a))
        .map(|f| f.seq_to.or(f.seq).unwrap() - f.seq.unwrap() + 1)
        .sum();
    assert_eq!(after, LAST + 1, "{}", report.to_text());

    let new = foreign_session();
    let mut split = clean.clone();
    for event in split.events.iter_mut().filter(|e| e.envelope.session == a && e.envelope.seq >= 8) {
        event.envelope.session = new;
        event.envelope.seq -= 8;
    }
    split.rehash(new);
    let wanted = [
        span(Class::TailTruncated, a, 8, LAST),
        whole(Class::Orphan, new),
        one(Class::GenesisMissing, new, 0),
    ];
    expect("R: split", &verify(&split.lake_by(&thief_key())), 2, &wanted);
}

#[test]
fn row_20_a_whole_session_removed() {
    let delete = |r: &mut Recording, [_, b, _]: Three| remove(r, b, |_| true);
    let missing = |[_, b, _]: Three| vec![whole(Class::MissingSession, b)];
    attack("session", delete, |[_, b, _]| vec![b], missing, missing);
}
