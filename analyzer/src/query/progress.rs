//! How far a query is: rows read from files, of how many.

use std::any::Any;
use std::time::Duration;

use datafusion::datasource::physical_plan::FileScanConfig;
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
    if let Some(scan) = (plan as &dyn Any).downcast_ref::<DataSourceExec>() {
        progress.rows_read += plan.metrics().and_then(|m| m.output_rows()).unwrap_or(0) as u64;
        let files = (scan.data_source().as_ref() as &dyn Any).downcast_ref::<FileScanConfig>();
        let files = files.into_iter().flat_map(|config| &config.file_groups).flat_map(|group| group.iter());
        progress.rows_total +=
            files.filter_map(|f| f.statistics.as_ref()?.num_rows.get_value()).sum::<usize>() as u64;
    }
    plan.children().into_iter().for_each(|child| add(child.as_ref(), progress));
}
