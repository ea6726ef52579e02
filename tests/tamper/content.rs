//! Rows 1 and 41 of the matrix: content altered, swapped, removed; keys exchanged.

use bodycam_record::{SessionKey, content};
use bodycam_verify::{Class, Options};

use super::fixture::*;

fn opened() -> Options {
    Options { tenant_key: Some(tenant()), ..Options::default() }
}

#[test]
fn row_1_a_changed_payload_byte() {
    let clean = recording();
    let a = clean.sessions()[0];
    let mut altered = clean.clone();
    let chunk = altered.chunks.iter_mut().find(|c| (c.session, c.content_no) == (a, 3)).unwrap();
    chunk.sealed[4] ^= 1;
    let lake = altered.lake_by(&thief_key());
    // Content 3 belongs to the statement of the third round.
    let seq =
        clean.events.iter().find(|e| (e.envelope.session, e.envelope.content_no) == (a, Some(3))).unwrap();
    let wanted =
        [(Class::Payload, Some(a), None, None), (Class::Payload, Some(a), Some(seq.envelope.seq), None)];
    let report = verify_with(&lake, &opened());
    let cell: Vec<_> =
        report.faults.iter().filter(|f| f.class == Class::Payload && f.row.is_some()).collect();
    assert!(
        cell.len() == 1 && cell[0].path.as_ref().unwrap().starts_with("content/"),
        "{}",
        report.to_text()
    );
    assert_eq!(report.exit_code, 2);
    let mut found = found(&report);
    found.dedup();
    assert!(wanted.iter().any(|w| found.contains(w)), "{}", report.to_text());

    // Without the key nothing is opened; whoever left the commit alone is seen by the file's digest.
    expect("no key", &verify(&lake), 4, &[]);
    let mut lazy = clean.lake();
    let path = lake.objects.keys().find(|p| p.starts_with("content/")).unwrap().clone();
    lazy.objects.insert(path.clone(), lake.objects[&path].clone());
    let report = verify(&lazy);
    assert!(report.has(Class::Manifest), "{}", report.to_text());
    expect_path(&report, Class::Manifest, &path);
}

#[test]
fn row_41_content_of_another_event_or_under_another_salt() {
    let clean = recording();
    let [a, b, _] = clean.sessions()[..] else { panic!("sessions") };
    let key = |session| {
        let (_, wrapped) = clean.keys.iter().find(|(s, _)| *s == session).unwrap();
        tenant().unwrap(session, wrapped).unwrap()
    };
    let (from, to) = (1, 2);
    let mut swapped = clean.clone();
    let other =
        clean.chunks.iter().find(|c| (c.session, c.content_no) == (a, from)).unwrap().open(&key(a)).unwrap();
    let place = swapped.chunks.iter_mut().find(|c| (c.session, c.content_no) == (a, to)).unwrap();
    // Even sealed with the right key for its new place, it is not what the event commits to.
    *place = content::seal_chunk(&key(a), a, to, 0, other.kind, &other.bytes);
    let seq =
        clean.events.iter().find(|e| (e.envelope.session, e.envelope.content_no) == (a, Some(to))).unwrap();
    let wanted = [(Class::Payload, Some(a), Some(seq.envelope.seq), None)];
    expect("swapped", &verify_with(&swapped.lake_by(&thief_key()), &opened()), 2, &wanted);

    let mut foreign = clean.clone();
    let place = foreign.chunks.iter_mut().find(|c| (c.session, c.content_no) == (a, to)).unwrap();
    *place = content::seal_chunk(&SessionKey::new([1; 32]), a, to, 0, other.kind, &other.bytes);
    let report = verify_with(&foreign.lake_by(&thief_key()), &opened());
    assert!(report.has(Class::Payload) && report.exit_code == 2, "{}", report.to_text());
    assert!(report.faults.iter().all(|f| f.session != Some(b)));
}

#[test]
fn removed_content_is_missed_with_and_without_the_key() {
    let clean = recording();
    let a = clean.sessions()[0];
    let mut gone = clean.clone();
    gone.chunks.retain(|c| (c.session, c.content_no) != (a, 2));
    let seq =
        clean.events.iter().find(|e| (e.envelope.session, e.envelope.content_no) == (a, Some(2))).unwrap();
    let lake = gone.lake_by(&thief_key());
    let wanted = (Class::PayloadMissing, Some(a), Some(seq.envelope.seq), None);
    expect("key", &verify_with(&lake, &opened()), 2, &[wanted]);
    expect("no key", &verify(&lake), 2, &[(Class::PayloadMissing, Some(a), None, None)]);
}

#[test]
fn a_key_that_is_gone_or_another_is_seen() {
    let clean = recording();
    let [a, b, _] = clean.sessions()[..] else { panic!("sessions") };
    let mut gone = clean.clone();
    gone.keys.retain(|(session, _)| *session != a);
    let report = verify_with(&gone.lake_by(&thief_key()), &opened());
    expect("gone", &report, 2, &[(Class::UndeclaredErasure, Some(a), None, None)]);
    assert!(report.checked.contents_not_opened > 0 && report.checked.contents > 0);

    let mut swapped = clean.clone();
    let key = tenant().wrap(a, &SessionKey::new([9; 32]));
    swapped.keys.iter_mut().find(|(session, _)| *session == a).unwrap().1 = key;
    let report = verify_with(&swapped.lake_by(&thief_key()), &opened());
    expect("another key", &report, 2, &[(Class::Key, Some(a), None, None)]);

    let mut moved = clean.clone();
    let of_b = clean.keys.iter().find(|(session, _)| *session == b).unwrap().1.clone();
    moved.keys.iter_mut().find(|(session, _)| *session == a).unwrap().1 = of_b;
    let report = verify_with(&moved.lake_by(&thief_key()), &opened());
    expect("another session's", &report, 2, &[(Class::Key, Some(a), None, None)]);

    let wrong = Options { tenant_key: Some(bodycam_record::TenantKey::new([2; 32])), ..Options::default() };
    let report = verify_with(&clean.lake(), &wrong);
    assert_eq!(found(&report).iter().filter(|f| f.0 == Class::Key).count(), 6, "{}", report.to_text());
}
