//! How many bench events a second are verified: a lake of sealed sessions is written first, then verified by
//! as many threads as there are cores.
//!
//! A bench event has about 300 bytes of envelope and body; every session has 1,000 of them, a checkpoint in the
//! middle, an OPEN and a SEAL.
//!
//! `cargo run --release -p bodycam-verify --example bench_verify -- [EVENTS] [DIRECTORY]`

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bodycam_lake::columns::sessions::{self, SessionRow};
use bodycam_lake::columns::templates::{self, TemplateRow};
use bodycam_lake::columns::{self, Table};
use bodycam_lake::commit::{Commit, FileEntry, LedgerState, SessionState, Signature, StreamEntry, VERSION};
use bodycam_lake::layout::{self, FileName, Hour, StreamName};
use bodycam_lake::{EncodedFile, file};
use bodycam_record::kinds::ledger::{LedgerOpen, LedgerSeal, LedgerStop};
use bodycam_record::kinds::session::SessionCheckpoint;
use bodycam_record::ledger::Start;
use bodycam_record::{
    Chain, Digest, Draft, EpochKey, Event, Family, Ledger, LedgerRecord, ProducerKey, Seal, SealReason,
    SessionKey, TenantKey,
};
use bodycam_verify::{Files, Options, Pool};
use bytes::Bytes;

use event::{PRODUCER, T0, TARGET, TEXTS, text};
use process::{cpu_seconds, peak_kib};

#[path = "../../../tests/bench/event.rs"]
mod event;
#[path = "../../../tests/bench/process.rs"]
mod process;

type Error = Box<dyn std::error::Error>;

/// Events in a session.
const SESSION: u64 = 1000;
/// Sessions in a commit.
const COMMIT: u64 = 100;
/// Between two events: ten thousand a second.
const STEP_NS: i64 = 100_000;

fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let events: u64 = args.next().map_or(Ok(1_000_000), |n| n.parse())?;
    let given = args.next().map(PathBuf::from);
    let dir = given
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("bench-verify-{}", std::process::id())));
    if !dir.join("streams").exists() {
        fill(&dir, events.div_ceil(SESSION))?;
    }
    let threads = Threads(std::thread::available_parallelism()?.get());
    let (wall, cpu) = (Instant::now(), cpu_seconds());
    let report = bodycam_verify::run(&Directory(dir.clone()), &Options::default(), &threads, &|_| {});
    let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let n = report.checked.events as f64;
    println!("verdict           {} (exit code {})", report.verdict, report.exit_code);
    println!("events            {n}, in {} sessions, {} bytes", report.sessions.sealed, report.checked.bytes);
    println!("wall              {wall:.2} s on {} threads, {:.0} events/s", threads.0, n / wall);
    println!("processor         {cpu:.2} s, {:.0} events/s a core", n / cpu);
    println!("peak memory       {} KiB", peak_kib());
    if given.is_none() {
        std::fs::remove_dir_all(dir)?;
    }
    Ok(())
}

struct Threads(usize);

impl Pool for Threads {
    fn each(&self, n: usize, work: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..self.0.min(n) {
                scope.spawn(|| {
                    while let Some(i) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|i| *i < n) {
                        work(i);
                    }
                });
            }
        });
    }
}

struct Directory(PathBuf);

impl Files for Directory {
    fn read(&self, path: &str, _limit: u64) -> Result<Option<Bytes>, String> {
        match std::fs::read(self.0.join(path)) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    fn list(&self, _: &str) -> Result<Option<Vec<String>>, String> {
        Ok(None)
    }
}

/// Writes the lake.
fn fill(dir: &Path, count: u64) -> Result<(), Error> {
    let (lane, ledger_lane): (StreamName, StreamName) =
        (format!("{PRODUCER}/0").parse()?, format!("{PRODUCER}/ledger").parse()?);
    for (n, stream) in [&lane, &ledger_lane].into_iter().enumerate() {
        let entry =
            StreamEntry { version: VERSION, stream: stream.clone(), generation: 0, from: 0, origin: None };
        put(dir, &layout::stream(n as u64), &entry.to_json())?;
    }
    let start = Start {
        config_digest: Digest::ZERO,
        inherited: vec![],
        simulated_clock: true,
        software: "bench".into(),
    };
    let long_term = ProducerKey::from_seed(&[1; 32]);
    let (mut ledger, started) =
        Ledger::start(PRODUCER, &long_term, EpochKey::from_seed(&[2; 32]), None, start, T0);
    let (mut records, tenant, mut previous) = (vec![started.clone()], TenantKey::new([1; 32]), None);
    for (n, first) in (0..count).step_by(usize::try_from(COMMIT)?).enumerate() {
        let (mut events, mut index) = (Vec::new(), Vec::new());
        for session in first..(first + COMMIT).min(count) {
            let (mut of_session, mut of_ledger) = session_events(&mut ledger, &tenant, session)?;
            let mut row: Option<SessionRow> = None;
            for Event { envelope: e, body, hash } in &of_session {
                row.get_or_insert_with(|| SessionRow::blank(e.session)).take(e, body, *hash);
            }
            if let Some(row) = row {
                let (session, principal) = (row.session_id, row.principal_ref);
                let key = tenant.wrap(session, &SessionKey::new([3; 32]));
                put(dir, &layout::session_key(session), &key)?;
                put(dir, &layout::directory_entry(principal), &tenant.wrap_name(principal, "bench"))?;
                index.push(row);
            }
            events.append(&mut of_session);
            records.append(&mut of_ledger);
        }
        let mut files = Vec::new();
        if first == 0 {
            let mut texts: Vec<TemplateRow> = (0..TEXTS)
                .map(|n| TemplateRow { fingerprint: tenant.fingerprint(&text(n)), text: text(n) })
                .collect();
            texts.sort_by_key(|row| row.fingerprint);
            let encoded = file::encode(Table::Templates, &templates::encode(&texts)?)?;
            files.push(data(dir, &lane, n as u64, 0, Table::Templates, encoded)?);
        }
        for family in [Family::Session, Family::Sql] {
            let mut rows: Vec<&Event> =
                events.iter().filter(|e| e.table().is_ok_and(|t| t.family == family)).collect();
            rows.sort_by_key(|e| (e.envelope.session, e.envelope.seq));
            let encoded = file::encode(Table::Events(family), &columns::encode(family, rows)?)?;
            files.push(data(dir, &lane, n as u64, files.len(), Table::Events(family), encoded)?);
        }
        index.sort_by_key(|row| row.session_id);
        let encoded = file::encode(Table::Sessions, &sessions::encode(&index)?)?;
        files.push(data(dir, &lane, n as u64, files.len(), Table::Sessions, encoded)?);
        let stand = |row: &SessionRow| SessionState {
            session: row.session_id,
            next_seq: row.events,
            head: row.head,
            open: false,
        };
        let stand = index.iter().map(stand).collect();
        previous = Some(commit(dir, &lane, n as u64, previous, files, (stand, None))?);
    }
    let stop = LedgerStop { reason: "drain".into(), events: 0, accepted: 0 };
    records.push(ledger.append(stop.into(), T0));
    let table = Table::Events(Family::Ledger);
    let encoded = file::encode(table, &columns::encode_ledger(&records)?)?;
    let files = vec![data(dir, &ledger_lane, 0, 0, table, encoded)?];
    let state = records.last().map(|last| LedgerState {
        producer: PRODUCER.into(),
        epoch: 1,
        producer_key: long_term.public(),
        epoch_key: EpochKey::from_seed(&[2; 32]).public(),
        next_seq: last.seq + 1,
        head: last.hash,
        watermark_ns: records.iter().map(|r| r.ts_wall_ns).max().unwrap_or(T0),
        stopped: true,
    });
    commit(dir, &ledger_lane, 0, None, files, (vec![], state))?;
    Ok(())
}

fn session_events(
    ledger: &mut Ledger,
    tenant: &TenantKey,
    n: u64,
) -> Result<(Vec<Event>, Vec<LedgerRecord>), Error> {
    let start = T0 + i64::try_from(n * SESSION)? * STEP_NS;
    let session = event::session_id(n, start)?;
    let opened = event::opened(n, Digest([4; 32]), ledger.next_seq());
    let genesis = event::genesis(session, &opened);
    let principal_ref = event::principal_ref(tenant, n);
    let open = LedgerOpen {
        session_id: session,
        genesis: genesis.digest(),
        key_digest: opened.key_digest,
        principal_ref,
        target: TARGET.into(),
    };
    let open_seq = opened.ledger_seq;
    let mut records = vec![ledger.append(open.into(), start)];
    let mut chain = Chain::start(&genesis, principal_ref, TARGET);
    let mut events = Vec::new();
    for i in 0..SESSION {
        let ts_wall_ns = start + i64::try_from(i)? * STEP_NS;
        let body = match i {
            0 => opened.clone().into(),
            i if i == SESSION / 2 => {
                let (count, head, root) = (chain.next_seq(), chain.head(), chain.root());
                let seal = Seal::checkpoint(session, PRODUCER, 1, count, head, root, open_seq);
                SessionCheckpoint { count, head, root, signature: ledger.sign(seal.digest()) }.into()
            }
            i if i == SESSION - 1 => event::closed(998).into(),
            i => event::statement(tenant, n, i).into(),
        };
        let draft = Draft { ts_wall_ns, ts_mono_ns: ts_wall_ns - T0, parent_seq: None, body, content: None };
        events.push(chain.append(&draft));
    }
    let last_ts_ns = events.last().map_or(start, |e| e.envelope.ts_wall_ns);
    let (count, head, root) = (chain.next_seq(), chain.head(), chain.root());
    let seal = Seal {
        session,
        producer: PRODUCER,
        epoch: 1,
        count,
        head,
        root,
        first_ts_ns: start,
        last_ts_ns,
        bytes_in: 0,
        bytes_out: 0,
        reason: SealReason::Closed,
        open_seq,
    };
    let signature = ledger.sign(seal.digest());
    let sealed = LedgerSeal {
        session_id: session,
        count,
        head,
        root,
        first_ts_ns: start,
        last_ts_ns,
        bytes_in: 0,
        bytes_out: 0,
        reason: "closed".into(),
        open_seq,
        signature,
    };
    records.push(ledger.append(sealed.into(), last_ts_ns));
    Ok((events, records))
}

fn put(dir: &Path, path: &str, bytes: &[u8]) -> Result<(), Error> {
    let path = dir.join(path);
    std::fs::create_dir_all(path.parent().ok_or("a path without folder")?)?;
    std::fs::write(path, bytes)?;
    Ok(())
}

fn data(
    dir: &Path,
    stream: &StreamName,
    from: u64,
    n: usize,
    table: Table,
    encoded: EncodedFile,
) -> Result<FileEntry, Error> {
    let hour = table.has_hours().then(|| Hour::of_ns(encoded.entry.min_ts_ns.unwrap_or(T0)));
    let path = layout::data_file(table, hour, FileName { stream, generation: 0, from, n, writer: 1 });
    put(dir, &path, &encoded.bytes)?;
    Ok(FileEntry { path, ..encoded.entry })
}

fn commit(
    dir: &Path,
    stream: &StreamName,
    from: u64,
    previous: Option<Digest>,
    files: Vec<FileEntry>,
    (sessions, ledger): (Vec<SessionState>, Option<LedgerState>),
) -> Result<Digest, Error> {
    let mut commit = Commit {
        version: VERSION,
        stream: stream.clone(),
        generation: 0,
        from,
        to: from + 1,
        created_ns: T0,
        previous,
        files,
        replaces: vec![],
        deleted_to: 0,
        sessions,
        ledger,
        duplicates: 0,
        recorder: Digest::ZERO,
        signature: Signature::NONE,
    };
    commit.sign(&EpochKey::from_seed(&[3; 32]));
    put(dir, &commit.path(), &commit.to_json())?;
    Ok(commit.digest())
}
