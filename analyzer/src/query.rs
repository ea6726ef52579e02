//! The guarded SQL door: one statement that only reads, under a memory limit and a time limit, over the lake as
//! of one moment.
//!
//! Invariant: the result reaches the writer batch by batch; when an error, the time limit or the caller ends
//! the query early, no Parquet file with a footer and no complete-looking table is left behind silently: the
//! error says so.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bodycam_lake::{Lake, LakeError, Store, View, file};
use bodycam_record::TenantKey;
use futures::StreamExt;
use tokio::sync::mpsc;

use crate::engine::{Elsewhere, Engine, Scope, physical, spawn};
use crate::error::{AnalyzerError, plain};
use crate::guard;
use bodycam_lake::Windows;

mod output;
mod progress;

pub use output::Format;
pub use progress::Progress;

use output::Output;

/// How often the caller hears of a query that runs.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// A query.
#[derive(Debug, Clone)]
pub struct QueryOptions {
    /// The statement.
    pub sql: String,
    /// How the result is written.
    pub format: Format,
    /// Longest time that it may take.
    pub timeout: Duration,
    /// Most memory that it may use, in bytes.
    pub memory_bytes: usize,
    /// The key that opens content; without it the columns that need it are refused.
    pub tenant: Option<TenantKey>,
    /// Where it runs; here without one.
    pub elsewhere: Option<Arc<dyn Elsewhere>>,
}

/// What came of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueryOutcome {
    /// Rows written.
    pub rows: u64,
    /// How long it took.
    pub elapsed: Duration,
}

impl Default for QueryOptions {
    fn default() -> Self {
        Self {
            sql: String::new(),
            format: Format::Table,
            timeout: Duration::from_secs(300),
            memory_bytes: 512 << 20,
            tenant: None,
            elsewhere: None,
        }
    }
}

/// Runs a query on the lake in `store` and writes its result. `progress` is called a few times a second;
/// dropping the future stops the query.
pub async fn run(
    store: &Store,
    options: &QueryOptions,
    out: &mut (dyn Write + Send),
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<QueryOutcome, AnalyzerError> {
    let started = Instant::now();
    let statement = guard::parse(&options.sql)?;
    let (send, mut receive) = mpsc::channel(2);
    let job = spawn(produce(store.clone(), statement, options.clone(), send))?;
    let mut writer = Output::new(options.format, out);
    let mut last = Progress::default();
    let drain = async {
        while let Some(message) = receive.recv().await {
            match message {
                Message::Schema(schema) => writer.start(schema)?,
                Message::Batch(batch) => writer.write(&batch)?,
                Message::Progress(read) => {
                    last = Progress { rows_out: writer.rows(), elapsed: started.elapsed(), ..read };
                    progress(last);
                }
            }
        }
        job.await
    };
    let outcome = tokio::time::timeout(options.timeout, drain).await;
    if let Some(elsewhere) = options.elsewhere.as_ref().filter(|_| !matches!(outcome, Ok(Ok(())))) {
        elsewhere.settle().await;
    }
    match outcome {
        Err(_) => Err(AnalyzerError::TimedOut(options.timeout)),
        Ok(Err(err)) => Err(err),
        Ok(Ok(())) => {
            let rows = writer.finish()?;
            Ok(QueryOutcome { rows, elapsed: started.elapsed() })
        }
    }
}

/// Runs a query and gives its batches: what another part of the program asks, under the same guard.
pub async fn collect(
    store: &Store,
    options: &QueryOptions,
) -> Result<(SchemaRef, Vec<RecordBatch>), AnalyzerError> {
    let statement = guard::parse(&options.sql)?;
    let (send, mut receive) = mpsc::channel(2);
    let job = spawn(produce(store.clone(), statement, options.clone(), send))?;
    let drain = async {
        let (mut schema, mut batches) = (None, Vec::new());
        while let Some(message) = receive.recv().await {
            match message {
                Message::Schema(s) => schema = Some(s),
                Message::Batch(batch) => batches.push(batch),
                Message::Progress(_) => {}
            }
        }
        job.await?;
        Ok((schema.unwrap_or_else(|| SchemaRef::new(arrow::datatypes::Schema::empty())), batches))
    };
    tokio::time::timeout(options.timeout, drain)
        .await
        .map_err(|_| AnalyzerError::TimedOut(options.timeout))?
}

/// What the pool tells the caller.
enum Message {
    Schema(SchemaRef),
    Batch(RecordBatch),
    Progress(Progress),
}

/// Plans and runs the statement; ends early when nobody listens any more.
async fn produce(
    store: Store,
    statement: datafusion::sql::parser::Statement,
    options: QueryOptions,
    send: mpsc::Sender<Message>,
) -> Result<(), AnalyzerError> {
    let lake = Lake::open_recorded(store.clone()).await?;
    let findings = Windows::open(store.clone()).await?.finding_files().await?;
    let view = lake.view();
    let scope = Scope::lake(view.clone(), findings, options.memory_bytes).with_tenant(options.tenant);
    let engine = Engine::new(&store)?.running(options.elsewhere);
    let context = engine.context(&scope)?;
    let limit = options.memory_bytes as u64 >> 20;
    let failed = |err| AnalyzerError::ran(limit, "the query", err);
    let plan = guard::plan(&context, statement, "the query").await?;
    let plan = physical(&context, &plan).await.map_err(failed)?;
    if send.send(Message::Schema(plan.schema())).await.is_err() {
        return Ok(());
    }
    let mut batches = engine.run(plan.clone(), &context).await.map_err(failed)?;
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    loop {
        let message = tokio::select! {
            batch = batches.next() => match batch {
                Some(Ok(batch)) => Message::Batch(batch),
                Some(Err(err)) if AnalyzerError::is_about_a_file(&err) => {
                    return Err(match changed_file(&view).await {
                        Some(path) => LakeError::not_as_committed(&path, plain(&err)).into(),
                        None => failed(err),
                    });
                }
                Some(Err(err)) => return Err(failed(err)),
                None => return Ok(()),
            },
            _ = tick.tick() => Message::Progress(progress::of(plan.as_ref())),
        };
        if send.send(message).await.is_err() {
            return Ok(());
        }
    }
}

/// The first file of the lake that is not what its commit says. For the moment in which one of them did not decode.
async fn changed_file(view: &View) -> Option<String> {
    for entry in view.state().all_files() {
        match view.store().get(&entry.path).await {
            Ok(Some(bytes)) if file::sha256(&bytes) == entry.sha256 => {}
            _ => return Some(entry.path.clone()),
        }
    }
    None
}
