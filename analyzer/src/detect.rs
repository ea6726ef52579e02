//! Scheduled detection: looks at the lake, evaluates the windows that are due, writes their records.
//!
//! Invariant: a window advances only by its record, which is written last and at most once under its name. So
//! a kill anywhere loses nothing and doubles nothing: what comes after evaluates the window anew and gives
//! every finding the same id.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bodycam_lake::columns::findings::FindingRow;
use bodycam_lake::commit::VERSION;
use bodycam_lake::store::Put;
use bodycam_lake::window::{WindowKey, WindowRecord};
use bodycam_lake::windows::encode_findings;
use bodycam_lake::{Lake, LakeError, Store, Windows};
use bodycam_record::Id16;
use bodycam_record::rule::{RuleId, Severity};

use crate::config::DetectConfig;
use crate::engine::{Engine, Scope, spawn};
use crate::error::AnalyzerError;
use crate::findings::{News, mark};
use crate::rules::{self, Batch, Fixture, Hit, LoadedRule, RuleSource, Sensitive, evaluate};
use crate::state::Rollups;
use crate::watermark::watermark_ns;
use crate::windows::{Due, Inputs, Seen, batches, candidates, due, has_seen, positions};

/// Most windows that one query looks at.
const WINDOWS_AT_ONCE: i64 = 24;
/// Nanoseconds in a second and in a day.
const SECOND_NS: i64 = 1_000_000_000;
const DAY_NS: i64 = 86_400 * SECOND_NS;

/// What detection works on.
#[derive(Debug, Clone)]
pub struct DetectOptions {
    /// The lake.
    pub store: Store,
    /// `[detect]`.
    pub config: DetectConfig,
    /// The relations that the targets' configuration lists as sensitive.
    pub sensitive: Vec<Sensitive>,
}

/// What came of one or more looks at the lake.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Rules that were evaluated.
    pub rules: usize,
    /// Windows evaluated.
    pub evaluated: u64,
    /// Window records written.
    pub records: u64,
    /// Findings that were not known before.
    pub found: u64,
    /// Findings taken back.
    pub retracted: u64,
    /// Rules that failed, with the reason. Their windows stay due.
    pub failures: Vec<String>,
    /// Event time up to which the lake is complete; none when nothing says so.
    pub watermark_ns: Option<i64>,
}

/// Who hears of findings.
pub type Listener<'a> = &'a mut (dyn FnMut(&News) + Send);

/// Evaluates everything that is due, once.
pub async fn run(options: DetectOptions, listener: Listener<'_>) -> Result<Summary, AnalyzerError> {
    let mut detector = Detector::open(options).await?;
    detector.cycle(listener).await
}

/// Evaluates what is due again and again, until `shutdown`; the look that is under way then is finished. A
/// store that fails is asked again at the next look.
pub async fn watch(
    options: DetectOptions,
    listener: Listener<'_>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<Summary, AnalyzerError> {
    let every = Duration::from_secs(options.config.interval_seconds);
    let mut detector = Detector::open(options).await?;
    let mut total = Summary::default();
    let mut shutdown = pin!(shutdown);
    loop {
        match detector.cycle(listener).await {
            Ok(summary) => total.add(summary),
            Err(err) => tracing::error!(event = "detect.cycle_failed", error = %err),
        }
        tokio::select! {
            () = &mut shutdown => return Ok(total),
            () = tokio::time::sleep(every) => {}
        }
    }
}

/// One fixture that was run: its rule, its name, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestOutcome {
    /// The rule.
    pub rule: RuleId,
    /// The fixture.
    pub fixture: String,
    /// What is wrong; none when it passed.
    pub failure: Option<String>,
}

/// Runs the fixtures of the rules in a directory, or of those that come with the program. A rule without
/// fixtures fails.
pub async fn test(dir: Option<&Path>) -> Result<Vec<TestOutcome>, AnalyzerError> {
    let source =
        RuleSource { without_built_in: dir.is_some(), dir: dir.map(Path::to_owned), ..RuleSource::default() };
    let mut outcomes = Vec::new();
    for rule in rules::load(&source).await? {
        let outcome = |fixture: &str, failure| TestOutcome {
            rule: rule.rule.id.clone(),
            fixture: fixture.to_owned(),
            failure,
        };
        let fires = |f: &Fixture| !f.expect.is_empty();
        if !rule.fixtures.iter().any(fires) || rule.fixtures.iter().all(fires) {
            let failure = "it needs at least one fixture that fires and one that does not".to_owned();
            outcomes.push(outcome("(all)", Some(failure)));
        }
        for fixture in &rule.fixtures {
            let failure = match rules::fixtures::run(&rule, fixture).await {
                Ok(checked) => checked.err(),
                Err(err) => Some(err.to_string()),
            };
            outcomes.push(outcome(&fixture.name, failure));
        }
    }
    Ok(outcomes)
}

/// The rules that `config` names, in order of their ids.
pub async fn ls(config: &DetectConfig) -> Result<Vec<Arc<LoadedRule>>, AnalyzerError> {
    rules::load(&config.rules()?).await
}

/// Detection on one lake.
pub struct Detector {
    options: DetectOptions,
    rules: Vec<Arc<LoadedRule>>,
    lake: Lake,
    windows: Windows,
    engine: Engine,
    rollups: Rollups,
    /// Windows about which, for these rows, there is nothing to record.
    told: HashMap<WindowKey, (Seen, bool)>,
}

/// One look at the lake.
struct Look {
    inputs: Inputs,
    /// Windows that end by then are closed.
    closed_before_ns: i64,
    /// Windows that start before and were never looked at stay so.
    from_ns: i64,
}

impl Summary {
    fn add(&mut self, other: Summary) {
        self.rules = other.rules;
        self.evaluated += other.evaluated;
        self.records += other.records;
        self.found += other.found;
        self.retracted += other.retracted;
        self.failures = other.failures;
        self.watermark_ns = other.watermark_ns;
    }
}

impl Detector {
    /// Reads the rules, the lake and the list of window records.
    pub async fn open(options: DetectOptions) -> Result<Self, AnalyzerError> {
        options.config.check()?;
        let rules = rules::load(&options.config.rules()?).await?;
        let store = options.store.clone();
        let lake = Lake::open(store.clone()).await?;
        let mut windows = Windows::open(store.clone()).await?;
        for rule in &rules {
            windows.load(rule.rule.id.as_str(), i64::MIN).await?;
        }
        let engine = Engine::new(&store)?;
        let memory = usize::try_from(options.config.memory_mib << 20).unwrap_or(usize::MAX);
        let rollups = Rollups::new(store, engine.clone(), memory);
        Ok(Self { options, rules, lake, windows, engine, rollups, told: HashMap::new() })
    }

    /// Looks at the lake and evaluates everything that is due.
    pub async fn cycle(&mut self, listener: Listener<'_>) -> Result<Summary, AnalyzerError> {
        self.lake.refresh().await?;
        self.windows.refresh().await?;
        let config = &self.options.config;
        let seconds = |n: u64| i64::try_from(n).unwrap_or(i64::MAX).saturating_mul(SECOND_NS);
        let inputs = Inputs::of(self.lake.state());
        let watermark_ns = watermark_ns(self.lake.state());
        let closed_before_ns = match watermark_ns {
            // Every producer has stopped in order: nothing is late.
            Some(i64::MAX) => i64::MAX,
            Some(ns) => ns.saturating_sub(seconds(config.lateness_seconds)),
            None => i64::MIN,
        };
        let days = i64::try_from(config.backfill_days).unwrap_or(i64::MAX);
        let newest_ns = inputs.newest().map_or(i64::MIN, |hour| bodycam_lake::Hour(hour).start_ns());
        let look =
            Look { inputs, closed_before_ns, from_ns: newest_ns.saturating_sub(days.saturating_mul(DAY_NS)) };
        let mut summary = Summary { rules: self.rules.len(), watermark_ns, ..Summary::default() };
        for rule in self.rules.clone() {
            for batch in self.due(&rule, &look).await? {
                match self.evaluate(&rule, &look, &batch).await {
                    Ok(hits) => self.record(&rule, &batch, hits, &mut summary, listener).await?,
                    Err(AnalyzerError::Lake(err)) => return Err(err.into()),
                    Err(err) => {
                        tracing::error!(event = "detect.rule_failed", rule = %rule.rule.id, error = %err);
                        summary.failures.push(format!("{}: {err}", rule.rule.id));
                        break;
                    }
                }
            }
        }
        Ok(summary)
    }

    /// The windows of a rule that are due, in batches, newest first.
    async fn due(&mut self, rule: &LoadedRule, look: &Look) -> Result<Vec<Vec<Due>>, LakeError> {
        let (id, major) = (&rule.rule.id, rule.rule.version.major);
        let known = self.windows.known().map(|(key, _)| key);
        let recorded: BTreeSet<i64> =
            known.filter(|key| key.rule == *id && key.major == major).map(|key| key.start_ns).collect();
        let mut found = Vec::new();
        for start_ns in candidates(rule, &look.inputs, look.from_ns, &recorded) {
            let key = WindowKey { rule: id.clone(), major, start_ns };
            let record = match recorded.contains(&start_ns) {
                true => self.windows.record(&key).await?,
                false => None,
            };
            let Some(due) = due(rule, &look.inputs, start_ns, look.closed_before_ns, record.as_deref())
            else {
                continue;
            };
            let told = self.told.get(&key) == Some(&(due.seen, due.closes));
            if told || record.is_some_and(|record| !has_seen(self.lake.state(), &record)) {
                continue;
            }
            found.push(due);
        }
        Ok(batches(found, rule.rule.window.nanos(), WINDOWS_AT_ONCE))
    }

    /// What a rule finds in a batch of windows.
    async fn evaluate(
        &mut self,
        rule: &Arc<LoadedRule>,
        look: &Look,
        batch: &[Due],
    ) -> Result<Vec<Hit>, AnalyzerError> {
        let (Some(newest), Some(oldest)) = (batch.first(), batch.last()) else { return Ok(Vec::new()) };
        let from_ns = oldest.start_ns;
        let to_ns = newest.start_ns.saturating_add(rule.rule.window.nanos());
        let view = self.lake.view();
        let memory = usize::try_from(self.options.config.memory_mib << 20).unwrap_or(usize::MAX);
        let mut scope = Scope::lake(view.clone(), Vec::new(), memory);
        let history = (from_ns.saturating_sub(rule.rule.lookback.nanos()), to_ns);
        for table in &rule.tables {
            let rollup = self.rollups.table(table, &view, &look.inputs, history, look.closed_before_ns);
            if let Some(rollup) = rollup.await? {
                scope = scope.with_table(table, rollup);
            }
        }
        let (engine, rule, sensitive) = (self.engine.clone(), rule.clone(), self.options.sensitive.clone());
        spawn(async move {
            evaluate(&engine, scope, &rule, &Batch { from_ns, to_ns, sensitive: &sensitive }).await
        })?
        .await
    }

    /// Writes the records of a batch and tells what is new.
    async fn record(
        &mut self,
        rule: &LoadedRule,
        batch: &[Due],
        hits: Vec<Hit>,
        summary: &mut Summary,
        listener: Listener<'_>,
    ) -> Result<(), AnalyzerError> {
        let mut announced = BTreeSet::new();
        let mut news = Vec::new();
        for window in batch {
            summary.evaluated += 1;
            let key = WindowKey {
                rule: rule.rule.id.clone(),
                major: rule.rule.version.major,
                start_ns: window.start_ns,
            };
            let known = self.windows.record(&key).await?;
            let hits = hits.iter().filter(|hit| hit.window_start_ns == window.start_ns);
            let drafted = Draft::of(rule, window, hits, known.as_deref());
            if !drafted.is_worth_a_record {
                self.told.insert(key, (window.seen, window.closes));
                continue;
            }
            let Draft { rows, mut record, .. } = drafted;
            record.read = positions(self.lake.state());
            let file = if rows.is_empty() { None } else { Some(encode_findings(&rows)?) };
            let retracted = record.retracted.clone();
            announced.insert(key.clone());
            let n = record.n;
            if self.windows.put(record, file).await? == Put::Exists {
                // Someone else was first. If it saw other rows, the window is due again at the next look.
                continue;
            }
            summary.records += 1;
            self.told.remove(&key);
            news.extend(news_of(rule, rows, known.as_deref()));
            news.extend(retracted.into_iter().map(|id| News::Retracted {
                id,
                rule: rule.rule.id.to_string(),
                revision: n,
            }));
        }
        self.windows.announce(&announced).await?;
        for news in &news {
            match news {
                News::Found { is_new: true, .. } => summary.found += 1,
                News::Found { .. } => {}
                News::Retracted { .. } => summary.retracted += 1,
            }
            listener(news);
        }
        Ok(())
    }
}

/// A record before it is written.
struct Draft {
    rows: Vec<FindingRow>,
    record: WindowRecord,
    /// A window that closes or was touched is always recorded, an open one when something new or worse can be
    /// told, and one whose history alone has changed when it now says something else.
    is_worth_a_record: bool,
}

impl Draft {
    fn of<'a>(
        rule: &LoadedRule,
        window: &Due,
        hits: impl Iterator<Item = &'a Hit>,
        known: Option<&WindowRecord>,
    ) -> Self {
        let n = known.map_or(0, |record| record.n + 1);
        let revision = i64::try_from(n).unwrap_or(i64::MAX);
        let mut rows: Vec<_> = hits
            .map(|hit| FindingRow { revision, is_final: window.closes, ..hit.finding(&rule.rule) })
            .collect();
        rows.sort_by_key(|row| row.id);
        let findings: Vec<_> = rows.iter().map(mark).collect();
        let before = known.map(|record| record.findings.as_slice()).unwrap_or_default();
        let severity_before = |id: Id16| before.iter().find(|m| m.id == id).map(|m| m.severity);
        let retracted: Vec<Id16> =
            before.iter().map(|m| m.id).filter(|id| !findings.iter().any(|m| m.id == *id)).collect();
        let is_news = |severity: Severity, id| severity_before(id).is_none_or(|before| before < severity);
        let is_worth_a_record = match (window.closes, window.is_recheck) {
            (true, true) => findings != before,
            (true, false) => true,
            (false, _) => findings.iter().any(|m| is_news(m.severity, m.id)),
        };
        let record = WindowRecord {
            version: VERSION,
            rule: rule.rule.id.clone(),
            rule_version: rule.rule.version,
            rule_digest: rule.digest,
            window_start_ns: window.start_ns,
            window_end_ns: window.start_ns.saturating_add(rule.rule.window.nanos()),
            n,
            closed: window.closes,
            input: window.seen.input,
            history: window.seen.history,
            read: Vec::new(),
            files: Vec::new(),
            findings,
            retracted,
        };
        Self { rows, record, is_worth_a_record }
    }
}

/// What is told about the findings of a record: what is new, and what says something else than before.
fn news_of(
    rule: &LoadedRule,
    rows: Vec<FindingRow>,
    known: Option<&WindowRecord>,
) -> impl Iterator<Item = News> {
    let before = known.map(|record| record.findings.clone()).unwrap_or_default();
    rows.into_iter().filter_map(move |row| {
        let said = before.iter().find(|m| m.id == row.id).map(|m| m.said);
        let is_new = said.is_none();
        let changed = said != Some(mark(&row).said);
        changed.then(|| News::found(row, &rule.rule, is_new))
    })
}

#[cfg(test)]
mod tests;
