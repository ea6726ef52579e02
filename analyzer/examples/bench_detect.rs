//! How long one look of detection takes: the rules that come with the program, under ids and parameters of their own
//! until there are 40, on a lake with 28 days of history at the level of roll-ups (an event for each of their rows)
//! and two days of single events. Every ten seconds of events are committed, and the look after that is measured.
//!
//! `cargo run --release -p bodycam-analyzer --example bench_detect -- [EVENTS A DAY] [RULES] [LOOKS] [DIRECTORY] [DAYS OF HISTORY]`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bodycam_analyzer::DetectConfig;
use bodycam_analyzer::detect::{DetectOptions, Detector, Metrics};
use bodycam_lake::{Hour, Store, Table};
use bodycam_record::{Family, TenantKey};
use history::{Error, Row, Writer, batch, session};
use process::{cpu_seconds, peak_kib};

#[path = "../../tests/bench/history.rs"]
mod history;
#[path = "../../tests/bench/process.rs"]
mod process;

/// The first hour: 2026-10-22T00Z.
const FIRST: i64 = 497_952;
/// Days at the level of roll-ups, unless told otherwise, and hours of single events; the last one is not over.
const HISTORY: u64 = 28;
const RAW: i64 = 48;
/// Who reads, of what, and where to.
const PRINCIPALS: u64 = 1000;
const RELATIONS: u64 = 8;
const HOSTS: u64 = 5;
const SQL: Table = Table::Events(Family::Sql);
const HTTP: Table = Table::Events(Family::Http);

const RULES: [(&str, &str); 4] = [
    ("EXF-001", include_str!("../rules/EXF-001-bulk-pull.yaml")),
    ("EXF-002", include_str!("../rules/EXF-002-single-huge-result.yaml")),
    ("EXF-014", include_str!("../rules/EXF-014-new-destination-after-read.yaml")),
    ("EXF-019", include_str!("../rules/EXF-019-drop-site-after-read.yaml")),
];

#[tokio::main]
async fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| args.get(at).map_or(Ok(default), |n| n.parse());
    if args.first().is_some_and(|arg| arg == "fill") {
        let dir = args.get(2).ok_or("fill EVENTS DIRECTORY")?;
        return fill(Path::new(dir), number(1, 0)?, i64::try_from(number(3, HISTORY)?)? * 24).await;
    }
    let (events, rules, looks) = (number(0, 10_000_000)?, number(1, 40)?, number(2, 20)?);
    let days = number(4, HISTORY)?;
    let scratch = tempfile::tempdir()?;
    let dir = args.get(3).map_or_else(|| scratch.path().to_owned(), PathBuf::from);
    // In a process of its own, so that its memory does not count.
    let filled = std::process::Command::new(std::env::current_exe()?)
        .args(["fill", &events.to_string()])
        .arg(&dir)
        .arg(days.to_string())
        .status()?;
    if !filled.success() {
        return Err("the lake could not be filled".into());
    }
    let store = Store::open(&dir.join("lake").display().to_string())?;
    let options = options(store.clone(), &dir, rules)?;

    let started = Instant::now();
    let mut detector = Detector::open(options.clone()).await?;
    let summary = detector.cycle(&mut |_| {}).await?;
    println!("rules             {} on {events} events a day", summary.rules);
    println!("from nothing      {:.2} s, {} windows", started.elapsed().as_secs_f64(), summary.evaluated);
    drop(detector);
    let started = Instant::now();
    let mut detector = Detector::open(options).await?;
    detector.cycle(&mut |_| {}).await?;
    println!("after a restart   {:.2} s", started.elapsed().as_secs_f64());

    let mut writer = Writer::open(store, "bench/1").await?;
    let hour = FIRST + i64::try_from(days)? * 24 + RAW - 1;
    let (mut walls, mut cpu, mut windows, mut found) = (Vec::new(), 0.0, 0, 0);
    for look in 0..looks {
        let seconds = 1800 + 10 * look;
        let now = single_events(hour, events / 8640, (seconds, seconds + 10), 1_000_000 + look)?;
        let watermark_ns = Hour(hour).start_ns() + i64::try_from(seconds + 10)? * 1_000_000_000;
        writer.commit(&now, watermark_ns).await?;
        let (wall, before) = (Instant::now(), cpu_seconds());
        let summary = detector.cycle(&mut |_| {}).await?;
        walls.push(wall.elapsed().as_secs_f64());
        cpu += cpu_seconds() - before;
        windows += summary.evaluated;
        found += summary.found;
        if let Some(failure) = summary.failures.first() {
            return Err(failure.clone().into());
        }
    }
    walls.sort_by(f64::total_cmp);
    let median = walls.get(walls.len() / 2).copied().unwrap_or_default();
    let most = walls.last().copied().unwrap_or_default();
    println!(
        "one look          {median:.2} s median, {most:.2} s most, {:.2} s processor",
        cpu / looks as f64
    );
    println!("windows           {} a look, {found} findings in all", windows / looks.max(1));
    println!("peak memory       {} KiB", peak_kib());
    Ok(())
}

fn options(store: Store, dir: &Path, rules: u64) -> Result<DetectOptions, Error> {
    let own = dir.join("rules");
    std::fs::create_dir_all(&own)?;
    for n in RULES.len() as u64..rules {
        let (id, text) = RULES.get(n as usize % RULES.len()).ok_or("no rules")?;
        let text = text
            .replace(&format!("id: {id}"), &format!("id: BENCH-{n:03}"))
            .replace("{ default: 5000,", &format!("{{ default: {},", 5000 + n))
            .replace("{ default: 10000,", &format!("{{ default: {},", 10_000 + n));
        std::fs::write(own.join(format!("BENCH-{n:03}.yaml")), text)?;
    }
    let rules_dir = (rules > RULES.len() as u64).then_some(own);
    Ok(DetectOptions {
        store,
        config: DetectConfig { backfill_days: 2, rules_dir, ..DetectConfig::default() },
        sensitive: Vec::new(),
        tenant: Some(TenantKey::new([1; 32])),
        metrics: Arc::new(Metrics::default()),
        elsewhere: None,
    })
}

/// The history, and the two days.
async fn fill(dir: &Path, events: u64, history: i64) -> Result<(), Error> {
    let mut writer = Writer::open(Store::create(&dir.join("lake").display().to_string())?, "bench/0").await?;
    for hour in FIRST..FIRST + history {
        writer.commit(&rolled_up(hour)?, Hour(hour + 1).start_ns()).await?;
    }
    for hour in FIRST + history..FIRST + history + RAW {
        let last = hour + 1 == FIRST + history + RAW;
        // Of the last hour half is over.
        let (part, until) = if last { (events / 48, 1800) } else { (events / 24, 3600) };
        let watermark_ns = Hour(hour).start_ns() + i64::try_from(until)? * 1_000_000_000;
        writer.commit(&single_events(hour, part, (0, until), hour as u64)?, watermark_ns).await?;
    }
    Ok(())
}

type Batches = Vec<(Table, Hour, arrow::array::RecordBatch)>;

/// A pull for every principal and relation, and a contact for every principal and host.
fn rolled_up(hour: i64) -> Result<Batches, Error> {
    let (mut pulls, mut contacts) = (Vec::new(), Vec::new());
    for principal in 0..PRINCIPALS {
        for n in 0..RELATIONS {
            pulls.push(pull(hour, principal, n, n, 0, 400 + (principal * 7 + n * 13 + hour as u64) % 300));
        }
        for n in 0..HOSTS {
            contacts.push(contact(hour, principal, n, n, 0));
        }
    }
    let salt = hour as u64;
    Ok(vec![(SQL, Hour(hour), batch(SQL, &pulls, salt)?), (HTTP, Hour(hour), batch(HTTP, &contacts, !salt)?)])
}

/// `events` between two seconds of an hour: two in five are results, two statements, one a request. One result in
/// 20,000 is large.
fn single_events(hour: i64, events: u64, seconds: (u64, u64), salt: u64) -> Result<Batches, Error> {
    let (mut sql, mut http) = (Vec::new(), Vec::new());
    let per = (events / PRINCIPALS).max(5);
    for n in 0..events {
        // The events of a session follow on one another, as they rest.
        let (principal, i) = ((n / per) % PRINCIPALS, n % per);
        let ms = seconds.0 * 1000 + i * (seconds.1 - seconds.0) * 1000 / per;
        let seq = salt.wrapping_mul(1000) % 1_000_000_000 + i;
        let chance = (n ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        match i % 5 {
            0 | 2 => {
                let row = pull(hour, principal, seq, chance % RELATIONS, ms, 0);
                sql.push(Row { kind: "sql.statement", rows: 0, bytes: 0, ..row });
            }
            1 | 3 => {
                let rows = if chance.is_multiple_of(20_000) { 12_000 } else { 1 + chance % 40 };
                sql.push(pull(hour, principal, seq, chance % RELATIONS, ms, rows));
            }
            _ => http.push(contact(hour, principal, seq, chance % HOSTS, ms)),
        }
    }
    Ok(vec![(SQL, Hour(hour), batch(SQL, &sql, salt)?), (HTTP, Hour(hour), batch(HTTP, &http, !salt)?)])
}

fn pull(hour: i64, principal: u64, seq: u64, relation: u64, ms: u64, rows: u64) -> Row {
    Row {
        kind: "sql.result",
        target: format!("db-{}", principal % 5),
        statement_no: (seq / 2) as i64,
        rows: rows as i64,
        bytes: rows as i64 * 90,
        relation: format!("public.table_{}", (principal + relation) % 40),
        ..event(hour, principal, seq, ms)
    }
}

fn contact(hour: i64, principal: u64, seq: u64, host: u64, ms: u64) -> Row {
    Row {
        kind: "http.request",
        target: "egress".to_owned(),
        host: format!("api-{}.example.com", (principal * 3 + host) % 200),
        ..event(hour, principal, seq, ms)
    }
}

fn event(hour: i64, principal: u64, seq: u64, ms: u64) -> Row {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&principal.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    Row {
        session: session(hour, principal),
        seq: seq as i64,
        ts_ns: Hour(hour).start_ns() + ms as i64 * 1_000_000,
        principal: id,
        ..Row::default()
    }
}
