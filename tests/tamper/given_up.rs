//! Positions that were given up: declared in the recorder's ledger, told with their range, and worth no more than that.
//! What nobody declared, or somebody else did, is an alarm as ever.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bodycam_bus::mark::Ends;
use bodycam_bus::spool::SpoolBus;
use bodycam_bus::{Bus, BusError, Held, Progress, Record, Scope, SpoolConfig, StreamId, Subscription};
use bodycam_lake::{Commit, Store};
use bodycam_record::{EpochKey, Id16};
use bodycam_recorder::{Metrics, Recorder, RecorderConfig, RecorderError};
use bodycam_verify::{Class, Gravity, Options, Report, Trust};

use super::fixture::*;

/// Positions that the bus does not have any more, from the first to before the second.
type Hole = (&'static str, i64, i64);

/// A spool of which a bus has lost something.
#[derive(Clone)]
struct Holed {
    spool: SpoolBus,
    hole: Hole,
}

struct HoledSubscription {
    spool: <SpoolBus as Bus>::Subscription,
    stream: StreamId,
    hole: Option<(i64, i64)>,
    position: i64,
}

impl Subscription for HoledSubscription {
    async fn next(&mut self, max_bytes: usize) -> Result<Vec<(i64, Record)>, BusError> {
        if let Some((wanted, first)) = self.hole.filter(|(from, _)| *from == self.position) {
            return Err(BusError::Truncated { stream: self.stream.to_string(), first, wanted });
        }
        let mut records = self.spool.next(max_bytes).await?;
        self.position = self.spool.position();
        if let Some((from, _)) = self.hole.filter(|(from, _)| *from < self.position) {
            records.retain(|(position, _)| *position < from);
            self.position = from;
        }
        Ok(records)
    }

    fn position(&self) -> i64 {
        self.position
    }
}

impl Bus for Holed {
    type Subscription = HoledSubscription;
    type Mark = Ends;

    fn is_shared(&self) -> bool {
        false
    }
    fn holds(&self, held: BTreeMap<StreamId, Held>) -> Result<(), BusError> {
        self.spool.holds(held)
    }
    fn asks(&self) -> Result<bool, BusError> {
        self.spool.asks()
    }
    fn goes_on(&self, stream: &StreamId, held: Held) -> Result<(), BusError> {
        self.spool.goes_on(stream, held)
    }
    fn streams(&self) -> Result<Vec<StreamId>, BusError> {
        self.spool.streams()
    }
    fn subscribe(&self, stream: &StreamId, from: i64) -> Result<HoledSubscription, BusError> {
        let (name, first, to) = self.hole;
        let hole = (stream.to_string() == name && from <= first).then_some((first, to));
        let spool = self.spool.subscribe(stream, from)?;
        Ok(HoledSubscription { spool, stream: stream.clone(), hole, position: from })
    }
    fn park(&self, stream: &StreamId) -> Result<(), BusError> {
        self.spool.park(stream)
    }
    fn settle(&self, stream: &StreamId, to: i64) -> Result<(), BusError> {
        self.spool.settle(stream, to)
    }
    // What is released would be gone for the next lake.
    fn release(&self, _: &StreamId, _: i64) -> Result<(), BusError> {
        Ok(())
    }
    fn known_end(&self, stream: &StreamId) -> Result<Option<i64>, BusError> {
        self.spool.known_end(stream)
    }
    fn origin(&self, stream: &StreamId) -> Result<Option<Id16>, BusError> {
        self.spool.origin(stream)
    }
    fn mark(&self, scope: Scope<'_>) -> Result<Ends, BusError> {
        self.spool.mark(scope)
    }
    fn passed(&self, mark: &mut Ends, progress: &BTreeMap<StreamId, Progress>) -> Result<bool, BusError> {
        self.spool.passed(mark, progress)
    }
}

/// A spool with three sealed sessions.
async fn spooled(dir: &Path) -> SpoolBus {
    let spool_dir = dir.join("spool");
    std::fs::create_dir_all(&spool_dir).unwrap();
    spool(&spool_dir).await;
    SpoolBus::new(&SpoolConfig { dir: spool_dir, ..SpoolConfig::default() })
}

async fn record(bus: Holed, root: &Path, key: EpochKey, truncated: &[&str]) -> Result<(), RecorderError> {
    let store = Store::create(root.to_str().unwrap()).unwrap();
    let truncated = truncated.iter().map(|stream| (*stream).to_owned()).collect();
    let config = RecorderConfig { truncated, ..RecorderConfig::default() };
    let opened = Recorder::open(bus, store, Arc::new(key), config, Arc::new(Metrics::default())).await;
    opened?.run(async {}).await
}

/// A lake of which `hole` was given up, by a recorder with this key; what lies before was stored by the honest one.
async fn given_up(dir: &Path, n: usize, hole: Hole, by: EpochKey) -> PathBuf {
    let (spool, root) = (spooled(&dir.join(n.to_string())).await, dir.join(format!("lake-{n}")));
    let bus = Holed { spool, hole };
    let parked = record(bus.clone(), &root, recorder_key(), &[]).await.unwrap_err().to_string();
    assert!(parked.contains(&format!("records {}..{} were removed", hole.1, hole.2)), "{parked}");
    record(bus, &root, by, &[hole.0]).await.unwrap();
    root
}

fn with_everything(lake: &Lake, recorders: &[EpochKey]) -> Report {
    let mut trust = Trust::default();
    trust.recorders.extend(recorders.iter().map(EpochKey::public));
    let trust = (!recorders.is_empty()).then_some(trust);
    verify_with(lake, &Options { tenant_key: Some(tenant()), trust, ..Options::default() })
}

fn alarms(report: &Report) -> Vec<Class> {
    report.faults.iter().filter(|f| f.gravity <= Gravity::Unsupported).map(|f| f.class).collect()
}

#[tokio::test]
async fn what_was_given_up_is_declared_wherever_it_lay_and_nothing_else_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let holes = [
        ("gw-1/0", 0, 5),
        ("gw-1/0", 1, 2),
        ("gw-1/0", 3, 17),
        ("gw-1/0", 10, 11),
        ("gw-1/0", 20, 40),
        ("gw-1/0", 30, 31),
        ("gw-1/0", 2, 60),
        ("gw-1/keys", 0, 2),
        ("gw-1/keys", 2, 4),
        ("gw-1/ledger", 1, 2),
        ("gw-1/ledger", 3, 6),
    ];
    for (n, hole) in holes.into_iter().enumerate() {
        let root = given_up(dir.path(), n, hole, recorder_key()).await;
        for lake in [
            with_everything(&from_directory(&root), &[]),
            with_everything(&from_directory(&root), &[recorder_key()]),
        ] {
            assert_eq!(alarms(&lake), [], "{hole:?}: {}", lake.to_text());
            assert_eq!(lake.exit_code, 3, "{hole:?}: {}", lake.to_text());
            let range = format!("positions {} to {} of stream {}", hole.1, hole.2 - 1, hole.0);
            let declared = lake.faults.iter().filter(|f| f.class == Class::DeclaredGap);
            assert!(declared.clone().any(|f| f.detail.starts_with(&range)), "{hole:?}: {}", lake.to_text());
            assert!(declared.clone().all(|f| f.detail.contains(&range)), "{hole:?}: {}", lake.to_text());
        }
    }
}

#[tokio::test]
async fn a_gap_of_keys_explains_those_that_can_have_lain_in_it_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    // Ada's key and name, Bob's, and Eve's lie in this order.
    for (n, hole, lost) in
        [(0, ("gw-1/keys", 2, 4), 2), (1, ("gw-1/keys", 2, 3), 1), (2, ("gw-1/keys", 0, 1), 1)]
    {
        let clean = from_directory(&given_up(dir.path(), n, hole, recorder_key()).await);
        let of_keys = |path: &&String| path.starts_with("keys/") || path.starts_with("directory/");
        let there: Vec<String> = clean.objects.keys().filter(of_keys).cloned().collect();
        assert_eq!(there.len(), 6 - lost);
        let declared = |report: &Report| {
            let gone = |f: &&bodycam_verify::Fault| f.detail.contains(&Class::UndeclaredErasure.to_string());
            report.faults.iter().filter(|f| f.class == Class::DeclaredGap).filter(gone).count()
        };
        assert_eq!(declared(&with_everything(&clean, &[])), lost, "{hole:?}");
        for path in &there {
            let mut lake = clean.clone();
            lake.objects.remove(path);
            let report = with_everything(&lake, &[recorder_key()]);
            assert_eq!(alarms(&report), [Class::UndeclaredErasure], "{hole:?} {path}: {}", report.to_text());
            assert_eq!(report.exit_code, 2);
            let alarm = report.faults.iter().find(|f| f.class == Class::UndeclaredErasure).unwrap();
            assert_eq!(alarm.path.as_ref(), Some(path), "{hole:?}");
            assert_eq!(declared(&report), lost, "{hole:?} {path}");
        }
    }
}

#[tokio::test]
async fn a_declaration_that_is_removed_altered_or_anothers_leaves_the_alarm() {
    let dir = tempfile::tempdir().unwrap();
    let hole = ("gw-1/0", 20, 40);
    let root = given_up(dir.path(), 0, hole, recorder_key()).await;
    let clean = from_directory(&root);
    let of_events = |report: &Report| {
        let lost = [Class::SeqGap, Class::TailTruncated, Class::GenesisMissing, Class::MissingSession];
        report.faults.iter().any(|fault| lost.contains(&fault.class))
    };
    assert!(!of_events(&with_everything(&clean, &[])));
    let name = bodycam_verify::recorder_name(recorder_key().public());
    let of_ledger = |path: &String| path.contains(&format!("{name}@ledger"));
    type Change<'a> = Box<dyn Fn(&mut Lake) + 'a>;
    let changes: Vec<(&str, Change<'_>)> = vec![
        (
            "the ledger of the recorder removed",
            Box::new(|lake| lake.objects.retain(|path, _| !of_ledger(path))),
        ),
        (
            "its file removed",
            Box::new(|lake| lake.objects.retain(|p, _| !(of_ledger(p) && p.starts_with("tables/")))),
        ),
        (
            "its commit removed",
            Box::new(|lake| lake.objects.retain(|p, _| !(of_ledger(p) && p.starts_with("commits/")))),
        ),
        (
            "it is no more in the list of streams",
            Box::new(|lake| {
                let is_it = |bytes: &bytes::Bytes| String::from_utf8_lossy(bytes).contains(&name);
                lake.objects.retain(|path, bytes| !(path.starts_with("streams/") && is_it(bytes)));
            }),
        ),
        (
            "another generation begins elsewhere",
            Box::new(|lake| {
                let path = "commits/gw-1@0/1/40.json";
                let commit = Commit::parse(path, &lake.objects[path]).unwrap();
                let mut later = commit.clone();
                later.from = 41;
                lake.objects.remove(path);
                lake.commit(later, &thief_key());
                let entries: Vec<_> =
                    lake.objects.keys().filter(|p| p.starts_with("streams/")).cloned().collect();
                for entry in entries {
                    let text = String::from_utf8(lake.objects[&entry].to_vec()).unwrap();
                    lake.put(&entry, text.replace("\"from\":40", "\"from\":41").into_bytes());
                }
            }),
        ),
    ];
    for (what, change) in changes {
        let mut lake = clean.clone();
        change(&mut lake);
        for recorders in [&[][..], &[recorder_key()]] {
            let report = with_everything(&lake, recorders);
            assert_eq!(report.exit_code, 2, "{what}: {}", report.to_text());
            assert!(of_events(&report), "{what}: {}", report.to_text());
        }
    }
    // By someone who has a key of his own: where keys are pinned, his word is none.
    let root = given_up(dir.path(), 1, hole, thief_key()).await;
    let report = with_everything(&from_directory(&root), &[recorder_key()]);
    assert_eq!(report.exit_code, 2, "{}", report.to_text());
    assert!(of_events(&report) && report.has(Class::CommitKey), "{}", report.to_text());
    // Both are recorders of the group.
    let report = with_everything(&from_directory(&root), &[recorder_key(), thief_key()]);
    assert_eq!((report.exit_code, alarms(&report)), (3, vec![]), "{}", report.to_text());
}
