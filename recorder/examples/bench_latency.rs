//! How long it takes from an event to a row that can be queried: follows a lake that is being written and reads every
//! data file of statements and results as soon as a commit names it. The latency of an event is the time at which its
//! row was read, less the time that the event carries.
//!
//! `cargo run --release -p bodycam-recorder --example bench_latency -- LAKE SECONDS`

use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use bodycam_lake::{Filter, Lake, Store, Table};
use bodycam_record::Family;
use futures::TryStreamExt;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Between two looks at the lake, as a reader that follows it has.
const LOOK: Duration = Duration::from_millis(100);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let store = Store::open(&args.next().ok_or("bench_latency LAKE SECONDS")?)?;
    let seconds: f64 = args.next().ok_or("bench_latency LAKE SECONDS")?.parse()?;
    let table = Table::Events(Family::Sql);
    let mut lake = Lake::open(store).await?;
    // What was there before is not measured, nor what compaction makes of it.
    let mut seen: HashSet<String> = lake.state().files(table).map(|file| file.path.clone()).collect();
    let filter = Filter::all().with_columns(&["ts_wall_ns"]);
    let (started, mut latencies) = (Instant::now(), Vec::new());
    while started.elapsed().as_secs_f64() < seconds {
        lake.follow().await?;
        let view = lake.view();
        let new = view.state().files(table).filter(|file| seen.insert(file.path.clone()));
        for file in new.filter(|file| !file.path.contains("/compaction-")) {
            let mut batches = view.read_file(file, &filter).await?;
            while let Some(batch) = batches.try_next().await? {
                let now_ns = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
                let times = batch.column_by_name("ts_wall_ns").ok_or("no time")?.as_primitive::<Int64Type>();
                latencies.extend(times.values().iter().map(|ts| (now_ns - ts) as f64 / 1e9));
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    latencies.sort_by(f64::total_cmp);
    let at =
        |share: f64| latencies.get((latencies.len() as f64 * share) as usize).copied().unwrap_or_default();
    println!("events            {} ({:.0}/s)", latencies.len(), latencies.len() as f64 / seconds);
    println!(
        "event to row      {:.2} s median, {:.2} s p99, {:.2} s most",
        at(0.5),
        at(0.99),
        latencies.last().copied().unwrap_or_default()
    );
    Ok(())
}
