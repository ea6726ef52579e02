//! Which files are merged, and why: by size in tiers, so that no row is written again and again.
//!
//! Invariant: a file of [`LARGE`] bytes is never written again; below that, each time that a row is written again it
//! comes to rest in a file at least a quarter larger than the one it was in, whatever arrives in which order. From
//! 16 KiB to `LARGE` that is 40 times at the very most, and four to five in an hour that fills as hours do, where
//! [`FAN_IN`] files of like size become one. What stays of a quiet hour is one file for each 128 to 256 MiB, and
//! below that files of which each is more than `RATIO` times the next smaller one: seven at the very most.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bodycam_lake::{FileEntry, LakeState, Table};

/// Files of this size and above are left as they are.
pub const LARGE: u64 = 128 << 20;
/// Most bytes that are merged at once, so that no file is larger: the verifier reads files whole.
const AT_ONCE: u64 = 256 << 20;
/// So many files of like size are merged even while more arrive.
pub const FAN_IN: usize = 8;
/// The largest of the files that are merged in a quiet folder has at most so many times the bytes of the others.
const RATIO: u64 = 4;
/// Memory for the inputs of a merge, and for one of them: what of a large file is unpacked at a time.
const MEMORY: u64 = 128 << 20;
const WINDOW: u64 = 8 << 20;
/// Bytes in memory for one in a file, and for its footer and the state of its columns.
const UNPACKED: u64 = 8;
const FOOTER: u64 = 512 << 10;

/// Files to be merged into one.
#[derive(Debug, Clone)]
pub struct Job {
    /// Their table.
    pub table: Table,
    /// Folder of the inputs and of the output.
    pub folder: String,
    /// The files, in the order of their size.
    pub inputs: Vec<Arc<FileEntry>>,
    /// Why now.
    pub why: Why,
}

/// Why files are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Many of like size, in a folder that still grows.
    Many,
    /// Nothing has come into the folder for a while.
    Quiet,
    /// Somebody asked for it.
    Asked,
}

/// What to look at.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Only this table.
    pub table: Option<Table>,
    /// Only files of this hour: `dt=YYYY-MM-DD/hh=HH`.
    pub hour: Option<String>,
}

/// When a folder changed last, as far as it was seen, and the number of small files in it then.
#[derive(Debug, Default)]
pub struct Quiet(HashMap<String, (usize, Instant)>);

impl Job {
    /// Bytes of the inputs.
    pub fn bytes(&self) -> u64 {
        self.inputs.iter().map(|f| f.bytes).sum()
    }

    /// Whether the largest input has at most [`RATIO`] times the bytes of the others.
    fn is_in_proportion(&self) -> bool {
        let largest = self.inputs.iter().map(|f| f.bytes).max().unwrap_or(0);
        largest <= RATIO * (self.bytes() - largest)
    }

    /// Rows of the inputs.
    pub fn rows(&self) -> u64 {
        self.inputs.iter().map(|f| f.rows).sum()
    }
}

impl Why {
    /// The reason, for people.
    pub fn text(self) -> &'static str {
        match self {
            Why::Many => "many files of like size",
            Why::Quiet => "the folder is quiet",
            Why::Asked => "asked for",
        }
    }
}

impl Selection {
    fn has(&self, file: &FileEntry) -> bool {
        self.table.is_none_or(|table| table == file.table.0)
            && self.hour.as_deref().is_none_or(|hour| folder(file).ends_with(hour))
    }
}

impl Quiet {
    /// Whether a folder has had this number of small files for a time of `every`.
    fn is_quiet(&mut self, folder: &str, files: usize, every: Duration) -> bool {
        let now = Instant::now();
        let seen = self.0.entry(folder.to_owned()).or_insert((0, now));
        if seen.0 != files {
            *seen = (files, now);
        }
        seen.1.elapsed() >= every
    }
}

/// The folder of a file.
pub fn folder(file: &FileEntry) -> &str {
    file.path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// The small files of each folder, by table and folder.
pub fn small_files<'a>(
    state: &'a LakeState,
    left_alone: &impl Fn(&str) -> bool,
) -> BTreeMap<(Table, &'a str), Vec<Arc<FileEntry>>> {
    let mut folders: BTreeMap<(Table, &str), Vec<Arc<FileEntry>>> = BTreeMap::new();
    for file in state.all_files().filter(|f| f.bytes < LARGE && !left_alone(&f.path)) {
        folders.entry((file.table.0, folder(file))).or_default().push(file.clone());
    }
    folders
}

/// What is to be merged in folders that have been quiet for a time of `every`, and in those that grow.
pub fn due(
    state: &LakeState,
    left_alone: &impl Fn(&str) -> bool,
    quiet: &mut Quiet,
    every: Duration,
) -> Vec<Job> {
    let mut jobs = Vec::new();
    let folders = small_files(state, left_alone);
    quiet.0.retain(|folder, _| Table::ALL.iter().any(|t| folders.contains_key(&(*t, folder.as_str()))));
    for ((table, folder), mut files) in folders {
        let why = if quiet.is_quiet(folder, files.len(), every) { Why::Quiet } else { Why::Many };
        files.sort_by(|a, b| (a.bytes, &a.path).cmp(&(b.bytes, &b.path)));
        let groups = if why == Why::Quiet { in_proportion(files) } else { by_size(files) };
        jobs.extend(groups.into_iter().flat_map(|group| cut(table, folder, group, why)));
    }
    jobs
}

/// Everything that can be merged, whatever that writes again.
pub fn all(state: &LakeState, left_alone: &impl Fn(&str) -> bool, selection: &Selection) -> Vec<Job> {
    let mut jobs = Vec::new();
    for ((table, folder), mut files) in small_files(state, left_alone) {
        files.retain(|file| selection.has(file));
        files.sort_by(|a, b| (a.bytes, &a.path).cmp(&(b.bytes, &b.path)));
        jobs.extend(cut(table, folder, files, Why::Asked));
    }
    jobs
}

/// Jobs of files of which each can be merged at once.
fn cut(table: Table, folder: &str, files: Vec<Arc<FileEntry>>, why: Why) -> Vec<Job> {
    let runs = bounded(files).into_iter();
    let runs: Vec<_> =
        if why == Why::Quiet { runs.flat_map(in_proportion).collect() } else { runs.collect() };
    let job = |inputs| Job { table, folder: folder.to_owned(), inputs, why };
    let enough = |job: &Job| match (why, job.inputs.len()) {
        (Why::Many, 2..FAN_IN) => job.bytes() >= LARGE && job.is_in_proportion(),
        (Why::Many, n) => n >= FAN_IN,
        (Why::Quiet | Why::Asked, n) => n >= 2,
    };
    runs.into_iter().map(job).filter(enough).collect()
}

/// Groups of files of like size: each group spans a factor of eight.
fn by_size(files: Vec<Arc<FileEntry>>) -> Vec<Vec<Arc<FileEntry>>> {
    let mut groups: BTreeMap<u32, Vec<_>> = BTreeMap::new();
    for file in files {
        groups.entry(file.bytes.max(1).ilog2() / 3).or_default().push(file);
    }
    groups.into_values().collect()
}

/// Groups of files, of which none is out of proportion to the smaller ones of its group. Files come by size.
fn in_proportion(files: Vec<Arc<FileEntry>>) -> Vec<Vec<Arc<FileEntry>>> {
    let mut groups: Vec<Vec<_>> = Vec::new();
    let mut bytes = 0;
    for file in files {
        if groups.is_empty() || file.bytes > RATIO * bytes {
            groups.push(Vec::new());
            bytes = 0;
        }
        bytes += file.bytes;
        groups.last_mut().into_iter().for_each(|group| group.push(file.clone()));
    }
    groups
}

/// Runs of files, each small enough to be merged at once.
fn bounded(files: Vec<Arc<FileEntry>>) -> Vec<Vec<Arc<FileEntry>>> {
    let mut runs: Vec<Vec<_>> = Vec::new();
    let (mut bytes, mut memory) = (0, 0);
    for file in files {
        let window = FOOTER + file.bytes.saturating_mul(UNPACKED).min(WINDOW);
        if runs.is_empty() || bytes + file.bytes > AT_ONCE || memory + window > MEMORY {
            runs.push(Vec::new());
            (bytes, memory) = (0, 0);
        }
        bytes += file.bytes;
        memory += window;
        runs.last_mut().into_iter().for_each(|run| run.push(file.clone()));
    }
    runs
}

#[cfg(test)]
mod tests {
    use bodycam_record::Digest;

    use super::*;

    fn file(bytes: u64) -> Arc<FileEntry> {
        Arc::new(FileEntry {
            path: "content/a.parquet".to_owned(),
            table: bodycam_lake::commit::TableName(Table::Content),
            rows: 1,
            bytes,
            sha256: Digest::ZERO,
            min_ts_ns: None,
            max_ts_ns: None,
            row_sum: None,
            min_session: None,
            max_session: None,
            sessions: None,
        })
    }

    fn sizes(groups: Vec<Vec<Arc<FileEntry>>>) -> Vec<Vec<u64>> {
        groups.iter().map(|g| g.iter().map(|f| f.bytes).collect()).collect()
    }

    fn files(sizes: &[u64]) -> Vec<Arc<FileEntry>> {
        sizes.iter().map(|n| file(*n)).collect()
    }

    #[test]
    fn files_are_grouped_by_size_in_proportion_and_bounded() {
        let mib = |n: &[u64]| files(&n.iter().map(|n| n << 20).collect::<Vec<_>>());
        let in_mib = |groups: Vec<Vec<_>>| -> Vec<Vec<u64>> {
            sizes(groups).into_iter().map(|g| g.into_iter().map(|n| n >> 20).collect()).collect()
        };
        assert_eq!(in_mib(by_size(mib(&[2, 3, 8, 16, 20]))), [vec![2, 3, 8], vec![16, 20]]);
        assert_eq!(in_mib(in_proportion(mib(&[1, 4, 20, 101, 110]))), [vec![1, 4, 20], vec![101, 110]]);
        assert_eq!(in_mib(bounded(mib(&[100, 100, 100]))), [vec![100, 100], vec![100]]);
        let small = vec![file(1 << 20); 40];
        assert_eq!(bounded(small).iter().map(Vec::len).collect::<Vec<_>>(), [15, 15, 10]);
        let tiny = vec![file(4 << 10); 5000];
        assert_eq!(
            bounded(tiny).iter().map(Vec::len).collect::<Vec<_>>(),
            [240; 20].into_iter().chain([200]).collect::<Vec<_>>()
        );
        assert!(bounded(vec![]).is_empty());
    }

    #[test]
    fn a_late_file_does_not_have_a_large_one_written_again() {
        let names = |sizes: &[u64], why| -> Vec<usize> {
            let groups = if why == Why::Quiet { in_proportion(files(sizes)) } else { by_size(files(sizes)) };
            groups
                .into_iter()
                .flat_map(|g| cut(Table::Content, "f", g, why))
                .map(|j| j.inputs.len())
                .collect()
        };
        let none: Vec<usize> = Vec::new();
        assert_eq!(names(&[10_000, 100 << 20], Why::Quiet), none);
        assert_eq!(names(&[10_000, 10_000, 100 << 20], Why::Quiet), [2]);
        assert_eq!(names(&[20 << 20, 120 << 20], Why::Many), none);
        assert_eq!(names(&[30 << 20, 100 << 20], Why::Quiet), [2]);
        assert_eq!(names(&[10_000; 7], Why::Many), none);
        assert_eq!(names(&[10_000; 8], Why::Many), [8]);
        assert_eq!(
            names(&[100 << 20, 110 << 20, 120 << 20], Why::Many),
            [2],
            "what will be large need not wait"
        );
    }

    /// Merges until nothing is due.
    fn play(live: &mut Vec<u64>, why: Why) -> Result<(), proptest::test_runner::TestCaseError> {
        loop {
            live.sort_unstable();
            let groups = if why == Why::Quiet { in_proportion(files(live)) } else { by_size(files(live)) };
            let jobs: Vec<_> = groups.into_iter().flat_map(|g| cut(Table::Content, "f", g, why)).collect();
            if jobs.is_empty() {
                return Ok(());
            }
            for job in jobs {
                for input in &job.inputs {
                    proptest::prop_assert!(4 * job.bytes() >= 5 * input.bytes, "{:?}", job.inputs);
                    let at = live.iter().position(|n| *n == input.bytes);
                    live.remove(at.unwrap());
                }
                live.push(job.bytes());
            }
            live.retain(|n| *n < LARGE);
        }
    }

    proptest::proptest! {
        /// The law of the module, played through: files of any size arrive, the folder is now busy and now quiet.
        #[test]
        fn no_row_is_written_again_without_its_file_growing_by_a_quarter(
            arrivals in proptest::collection::vec((1u64..40_000_000, proptest::bool::ANY), 1..200),
        ) {
            let mut live: Vec<u64> = Vec::new();
            for (bytes, quiet) in arrivals {
                live.push(bytes);
                play(&mut live, if quiet { Why::Quiet } else { Why::Many })?;
            }
            play(&mut live, Why::Quiet)?;
            proptest::prop_assert!(live.is_sorted_by(|a, b| *b > RATIO * a), "{live:?}");
        }
    }
}
