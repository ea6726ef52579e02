//! How far a query is: rows read from files, of how many.

use std::time::Duration;

use datafusion::common::stats::Precision;
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_plan::ExecutionPlan;

/// How far a query is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Rows read so far from the files that can hold what the query asks for.
    pub rows_read: u64,
    /// Rows in those files; fewer are read where pages can be left out.
    pub rows_total: u64,
    /// Rows of the result so far.
    pub rows_out: u64,
    /// Time since the start.
    pub elapsed: Duration,
}

/// What the scans of `plan` have read.
pub(super) fn of(plan: &dyn ExecutionPlan) -> Progress {
    let mut progress = Progress::default();
    add(plan, &mut progress);
    progress
}

fn add(plan: &dyn ExecutionPlan, progress: &mut Progress) {
    if (plan as &dyn std::any::Any).is::<DataSourceExec>() {
        let read = plan.metrics().and_then(|m| m.output_rows()).unwrap_or(0) as u64;
        let total = plan.partition_statistics(None).map(|s| s.num_rows);
        progress.rows_read += read;
        progress.rows_total += match total {
            Ok(Precision::Exact(rows) | Precision::Inexact(rows)) => rows as u64,
            _ => read,
        };
    }
    plan.children().into_iter().for_each(|child| add(child.as_ref(), progress));
}
