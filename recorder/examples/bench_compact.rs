//! How many rows a second compaction reads, merges and encodes, per core: files of statement events on disk, as flushes
//! leave them, become one. Only compaction is measured, with its digests, its writes and its fsyncs.
//!
//! Each file has a part of every session, so that the merge goes from file to file all the time: the fewer rows of a
//! session stand together, the more it costs.
//!
//! `cargo run --release -p bodycam-recorder --example bench_compact -- [ROWS] [FILES] [TOGETHER]`: rows of all files, the
//! number of files, and rows of a session that stand together in a file.

use std::sync::Arc;
use std::time::Instant;

use bodycam_lake::commit::{Signature, VERSION};
use bodycam_lake::layout::{self, FileName};
use bodycam_lake::{Commit, FileEntry, Hour, Lake, Store, Table, columns, file};
use bodycam_record::{Chain, Digest, Draft, EpochKey, Event, Family, TenantKey};
use bodycam_recorder::compact::{Compactor, Selection};
use bodycam_recorder::{Metrics, RecorderConfig};

use event::{PRODUCER, T0, TARGET};
use process::{cpu_seconds, peak_kib};

#[expect(dead_code, reason = "its sessions do not end")]
#[path = "../../tests/bench/event.rs"]
mod event;
#[path = "../../tests/bench/process.rs"]
mod process;

type Error = Box<dyn std::error::Error>;

/// Between two events of a session.
const STEP_NS: i64 = 1_000_000;

fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let mut number = |default: usize| args.next().map_or(Ok(default), |n| n.parse());
    let (rows, files, together) = (number(2_000_000)?, number(8)?.max(1), number(25)?.max(1));
    let scratch = tempfile::tempdir()?;
    let store = Store::create(&scratch.path().join("lake").display().to_string())?;
    let key = Arc::new(EpochKey::from_seed(&[7; 32]));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let written = runtime.block_on(fill(&store, &key, rows, files, together))?;
    let input_peak = peak_kib();
    // The peak from here on is that of compaction.
    std::fs::write("/proc/self/clear_refs", "5")?;
    let config = RecorderConfig::default();
    let mut compactor = Compactor::new(store.clone(), key, &config, Arc::new(Metrics::default()));
    let (wall, cpu) = (Instant::now(), cpu_seconds());
    let done = runtime.block_on(compactor.compact_all(&Selection::default()))?;
    let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let lake = runtime.block_on(Lake::open(store))?;
    let left: Vec<_> = lake.state().files(Table::Events(Family::Sql)).collect();
    let bytes: u64 = left.iter().map(|f| f.bytes).sum();
    println!("rows              {written} in {files} files, {together} of a session together");
    println!("wall              {wall:.2} s, {:.0} rows/s", written as f64 / wall);
    println!("processor         {cpu:.2} s, {:.0} rows/s a core", written as f64 / cpu);
    println!("read              {} bytes, {:.0} MB/s a core", done.bytes, done.bytes as f64 / 1e6 / cpu);
    println!(
        "left              {} files, {bytes} bytes, {:.1} a row",
        left.len(),
        bytes as f64 / written as f64
    );
    println!("peak memory       {} KiB (making the files: {input_peak} KiB)", peak_kib());
    Ok(())
}

/// Writes the files and their commits; gives the number of rows.
async fn fill(
    store: &Store,
    key: &EpochKey,
    rows: usize,
    files: usize,
    together: usize,
) -> Result<usize, Error> {
    let tenant = TenantKey::new([1; 32]);
    let mut lake = Lake::open(store.clone()).await?;
    let sessions = u64::try_from((rows / files / together).max(1))?;
    let mut chains = Vec::new();
    for n in 0..sessions {
        let session = event::session_id(n, T0 + i64::try_from(n)? * STEP_NS)?;
        let opened = event::opened(n, Digest([1; 32]), 0);
        chains.push(Chain::start(
            &event::genesis(session, &opened),
            event::principal_ref(&tenant, n),
            TARGET,
        ));
    }
    let mut written = 0;
    for n in 0..u64::try_from(files)? {
        let mut events: Vec<Event> = Vec::new();
        for (session, chain) in chains.iter_mut().enumerate() {
            for _ in 0..together {
                let i = u64::try_from(chain.next_seq())?;
                let ts_wall_ns = T0 + i64::try_from(i)? * STEP_NS;
                let body = event::statement(&tenant, session as u64, i).into();
                let draft =
                    Draft { ts_wall_ns, ts_mono_ns: ts_wall_ns - T0, parent_seq: None, body, content: None };
                events.push(chain.append(&draft));
            }
        }
        events.sort_by_key(|e| (e.envelope.session, e.envelope.seq));
        let encoded =
            file::encode(Table::Events(Family::Sql), &columns::encode(Family::Sql, events.iter())?)?;
        let stream = format!("{PRODUCER}/0").parse()?;
        lake.add_stream(&stream, 0, 0).await?;
        let name = FileName { stream: &stream, generation: 0, from: n, n: 0, writer: 1 };
        let path = layout::data_file(Table::Events(Family::Sql), Some(Hour::of_ns(T0)), name);
        store.put_new(&path, encoded.bytes).await?;
        written += events.len();
        let commit = Commit {
            version: VERSION,
            stream,
            generation: 0,
            from: n,
            to: n + 1,
            created_ns: T0,
            previous: None,
            files: vec![FileEntry { path, ..encoded.entry }],
            replaces: Vec::new(),
            deleted_to: 0,
            sessions: Vec::new(),
            ledger: None,
            duplicates: 0,
            recorder: Digest::ZERO,
            signature: Signature::NONE,
        };
        lake.commit(commit, key).await?;
    }
    Ok(written)
}
