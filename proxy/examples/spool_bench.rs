//! Spool + chain in bench events per second on one core: 300 B of envelope, body and statement, and 1 KiB of
//! content on one event in four; one persist (write to the operating system) a statement, as the relay does.
//!
//! `cargo run --release --example spool_bench -p bodycam-proxy -- [events] [directory]`

use std::time::Instant;

use bodycam_bus::SpoolConfig;
use bodycam_proxy::clock::Clock;
use bodycam_proxy::recording::{Opening, Producer, ProducerOptions};
use bodycam_record::kinds::sql::SqlResult;
use bodycam_record::{ContentKind, Digest, Id16, TenantKey};

use process::cpu_seconds;

#[allow(dead_code)]
#[path = "../../tests/bench/process.rs"]
mod process;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let events: u64 = args.next().map_or(Ok(500_000), |a| a.parse())?;
    let dir = args.next().map_or_else(std::env::temp_dir, Into::into).join("bodycam-spool-bench");
    let _ = std::fs::remove_dir_all(&dir);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(events, dir.clone()))?;
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

async fn run(events: u64, dir: std::path::PathBuf) -> Result<(), Failure> {
    let producer = Producer::start(ProducerOptions {
        producer: "bench".to_owned(),
        tenant: "bench".to_owned(),
        tenant_key: TenantKey::new([7; 32]),
        spool: SpoolConfig { dir, max_bytes: 64 << 30, ..SpoolConfig::default() },
        policy_digest: Digest::ZERO,
        config_digest: Digest::ZERO,
        hold_seconds: 1,
        clock: Clock::system(),
    })?;
    let lane = producer.lane(0)?;
    let opening = Opening {
        protocol: "postgres",
        principal: "bench".to_owned(),
        target: "bench".to_owned(),
        ..Opening::default()
    };
    let mut pen = lane.open_session(opening)?;
    let text = vec![b'x'; 1024];
    let started = Instant::now();
    let (cpu, mut n) = (cpu_seconds(), 0);
    while n < events {
        let content = if n % 4 == 0 {
            let mut content = pen.content();
            pen.put(&mut content, ContentKind::SqlText, &text)?;
            Some(content)
        } else {
            None
        };
        pen.event(result(n).into(), Some(i64::try_from(n)?), content)?;
        n += 1;
        if n % 2 == 0 {
            pen.persist().await?;
        }
    }
    pen.close("client").await?;
    let (wall, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    println!(
        "spool+chain: {events} bench events, {wall:.2} s wall, {cpu:.2} s CPU, {:.0} events/s of CPU",
        events as f64 / cpu
    );
    Ok(())
}

fn result(n: u64) -> SqlResult {
    SqlResult {
        statement_no: i64::try_from(n).unwrap_or(0),
        result_no: 0,
        statement_kind: "select".to_owned(),
        verdict: "allow".to_owned(),
        fingerprint: Some(Id16([1; 16])),
        main_relation: Some("public.customers".to_owned()),
        relations_seen: Vec::new(),
        outcome: "complete".to_owned(),
        sqlstate: None,
        tag: "SELECT 1".to_owned(),
        rows: 1,
        bytes: 120,
        column_tables: vec![16400],
        column_attributes: vec![1],
        column_types: vec![23],
        column_formats: vec![0],
        rows_digest: Some(Digest([2; 32])),
        rows_stored: 0,
        rows_cut: false,
        duration_us: 90,
        correlation: None,
    }
}
