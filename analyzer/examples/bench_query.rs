//! How long queries take on a lake, as `bodycam query` runs them: each is run some times, and the shortest counts. The lake
//! is opened by its newest snapshot for every query.
//!
//! `cargo run --release -p bodycam-analyzer --example bench_query -- LAKE RUNS < QUERIES`: names and queries, a JSON object.
//! Writes one JSON object of `{ "seconds", "processor", "rows", "last" }` by name (`last` is the sum of the last column), with
//! the peak memory as `peak`, KiB.

use std::collections::BTreeMap;
use std::time::Instant;

use arrow::array::AsArray;
use arrow::compute::{cast, sum};
use arrow::datatypes::{DataType, Float64Type};
use bodycam_analyzer::query::{QueryOptions, collect};
use bodycam_lake::Store;
use process::{cpu_seconds, peak_kib};

#[path = "../../tests/bench/process.rs"]
mod process;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let store = Store::open(&args.next().ok_or("bench_query LAKE RUNS")?)?;
    let runs: u32 = args.next().ok_or("bench_query LAKE RUNS")?.parse()?;
    let queries: BTreeMap<String, String> = serde_json::from_reader(std::io::stdin())?;
    let mut results = serde_json::Map::new();
    for (name, sql) in queries {
        let options = QueryOptions { sql, ..QueryOptions::default() };
        let (mut wall, mut cpu, mut rows, mut last) = (f64::INFINITY, f64::INFINITY, 0, 0.0);
        for _ in 0..runs {
            let (started, before) = (Instant::now(), cpu_seconds());
            let (_, batches) = collect(&store, &options).await?;
            wall = wall.min(started.elapsed().as_secs_f64());
            cpu = cpu.min(cpu_seconds() - before);
            (rows, last) = (0, 0.0);
            for batch in &batches {
                rows += batch.num_rows();
                let column = batch.columns().last().ok_or("a query without columns")?;
                let column = cast(column, &DataType::Float64)?;
                last += sum(column.as_primitive::<Float64Type>()).unwrap_or_default();
            }
        }
        results.insert(
            name,
            serde_json::json!({ "seconds": wall, "processor": cpu, "rows": rows, "last": last }),
        );
    }
    results.insert("peak".to_owned(), peak_kib().into());
    println!("{}", serde_json::Value::Object(results));
    Ok(())
}
