//! Scheduled detection: looks at the lake, evaluates the windows that are due, writes their records.
//!
//! Invariant: a window advances only by its record, which is written last and at most once under its name. So
//! a kill anywhere loses nothing and doubles nothing: what comes after evaluates the window anew and gives
//! every finding the same id. A record is told before the list of records names it, and one that no entry names
//! is told by whoever finds it: an alert comes at least once, and carries id and revision.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bodycam_lake::columns::findings::{self, FindingRow};
use bodycam_lake::commit::VERSION;
use bodycam_lake::layout;
use bodycam_lake::store::Put;
use bodycam_lake::window::{WindowKey, WindowRecord};
use bodycam_lake::windows::encode_findings;
use bodycam_lake::{Commit, Filter, Hour, Lake, LakeError, Store, Windows};
use bodycam_record::rule::{RuleId, Severity};
use bodycam_record::{Id16, TenantKey};
use futures::TryStreamExt;

use crate::config::DetectConfig;
use crate::engine::{Elsewhere, Engine, Scope, spawn};
use crate::error::AnalyzerError;
use crate::findings::{News, mark};
use crate::rules::{self, Batch, Fixture, Hit, LoadedRule, RuleSource, Sensitive, SharedSteps, evaluate};
use crate::state::Rollups;
use crate::watermark::watermark_ns;
use crate::windows::{Due, Inputs, Seen, batches, candidates, due, has_seen, positions};

mod claims;
mod litter;
mod metrics;
mod watch;
mod work;

pub use metrics::Metrics;
pub use watch::watch;

use claims::Claims;
use litter::Litter;

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
    /// The tenant key, under which roll-ups are kept in the lake. Without it they are kept in memory only.
    pub tenant: Option<TenantKey>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where queries run; here without one.
    pub elsewhere: Option<Arc<dyn Elsewhere>>,
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
    /// The rules that failed.
    failed: BTreeSet<RuleId>,
    /// Windows that were due and left to other workers.
    with_others: u64,
    /// Events that are dated after the newest commit, if there are any: a clock is wrong, or somebody lies.
    pub ahead: Option<Ahead>,
}

/// Events of a time that had not come when they were stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ahead {
    /// Hours with such events.
    pub hours: u64,
    /// Start of the newest, Unix ns.
    pub newest_ns: i64,
    /// When the newest commit was made, Unix ns.
    pub committed_ns: i64,
}

/// Who hears of findings.
pub type Listener<'a> = &'a mut (dyn FnMut(&News) + Send);

/// Evaluates everything that is due, once.
pub async fn run(options: DetectOptions, listener: Listener<'_>) -> Result<Summary, AnalyzerError> {
    let mut detector = Detector::open(options).await?;
    detector.lake.expect_recorded().await?;
    detector.cycle(listener).await
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
    /// Windows with a record that no entry of the list is known to name.
    unlisted: BTreeSet<WindowKey>,
    /// Records that could not be read, and were said to be so.
    unreadable: BTreeSet<(WindowKey, u64)>,
    /// When the newest commit of each stream was made, by its path.
    commits: HashMap<String, i64>,
    /// What was last said about events of the future.
    ahead: Option<Ahead>,
    /// What rules have in common in this look.
    shared: Arc<SharedSteps>,
    /// Claims on windows, where others may work on the same lake.
    claims: Option<Claims>,
    litter: Litter,
}

/// One look at the lake.
struct Look {
    inputs: Inputs,
    /// Windows that end by then are closed.
    closed_before_ns: i64,
    /// The time that the lake has reached, but for the events themselves.
    reached_ns: Option<i64>,
    /// How far back windows are evaluated that were never looked at.
    backfill_ns: i64,
}

impl Look {
    /// Windows of `rule` that start before and were never looked at stay so. One event that is dated in the future
    /// must not move it: it is counted from the newest event, from what producers say, or from the newest commit,
    /// whichever is oldest.
    fn starts_at(&self, rule: &LoadedRule) -> i64 {
        let newest = self.inputs.newest(&rule.families).map(|hour| Hour(hour).start_ns());
        let from = newest.into_iter().chain(self.reached_ns).min();
        from.map_or(i64::MIN, |ns| ns.saturating_sub(self.backfill_ns))
    }
}

impl Summary {
    fn add(&mut self, other: Summary) {
        self.rules = other.rules;
        self.evaluated += other.evaluated;
        self.records += other.records;
        self.found += other.found;
        self.retracted += other.retracted;
        self.failures = other.failures;
        self.failed = other.failed;
        self.watermark_ns = other.watermark_ns;
        self.ahead = other.ahead;
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
        let engine = Engine::new(&store)?.running(options.elsewhere.clone());
        let memory = options.config.memory_bytes();
        let (tenant, metrics) = (options.tenant.clone(), Arc::clone(&options.metrics));
        let rollups = Rollups::new(store, engine.clone(), memory, tenant, metrics);
        Ok(Self {
            options,
            rules,
            lake,
            windows,
            engine,
            rollups,
            told: HashMap::new(),
            unlisted: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            commits: HashMap::new(),
            ahead: None,
            shared: Arc::default(),
            claims: None,
            litter: Litter::default(),
        })
    }

    /// The same, as one worker of several on a lake: each window is left to the one that claims it.
    async fn into_worker(mut self) -> Result<Self, AnalyzerError> {
        let (store, tenant) = (self.options.store.clone(), self.options.tenant.clone());
        let lease = Duration::from_secs(self.options.config.lease_seconds.max(1));
        let metrics = Arc::clone(&self.options.metrics);
        self.claims = Some(Claims::open(store, tenant, lease, metrics).await?);
        Ok(self)
    }

    /// Whether something was committed since it was last asked or looked: asks for the next commit of every stream.
    async fn has_news(&mut self) -> Result<bool, LakeError> {
        Ok(self.lake.follow().await? > 0)
    }

    /// Leaves what it has claimed to others.
    async fn close(self) {
        if let Some(claims) = self.claims {
            claims.close().await;
        }
    }

    /// Looks at the lake and evaluates everything that is due.
    pub async fn cycle(&mut self, listener: Listener<'_>) -> Result<Summary, AnalyzerError> {
        self.lake.refresh().await?;
        self.shared = Arc::default();
        self.windows.refresh().await?;
        self.list().await?;
        let committed_ns = self.committed_ns().await;
        let config = &self.options.config;
        let seconds = |n: u64| i64::try_from(n).unwrap_or(i64::MAX).saturating_mul(SECOND_NS);
        let inputs = Inputs::of(self.lake.state())?;
        let watermark_ns = watermark_ns(self.lake.state());
        let closed_before_ns = match watermark_ns {
            // Every producer has stopped in order: nothing is late. A window that is not over goes on when one
            // starts again.
            Some(i64::MAX) => wall_ns(),
            Some(ns) => ns.saturating_sub(seconds(config.lateness_seconds)),
            None => i64::MIN,
        };
        let days = i64::try_from(config.backfill_days).unwrap_or(i64::MAX);
        let ahead = committed_ns.and_then(|committed_ns| {
            let (hours, newest) = inputs.ahead_of(committed_ns)?;
            Some(Ahead { hours, newest_ns: newest.start_ns(), committed_ns })
        });
        let look = Look {
            inputs,
            closed_before_ns,
            reached_ns: watermark_ns.filter(|ns| *ns != i64::MAX).into_iter().chain(committed_ns).min(),
            backfill_ns: days.saturating_mul(DAY_NS),
        };
        self.say_ahead(ahead);
        let mut summary = Summary { rules: self.rules.len(), watermark_ns, ahead, ..Summary::default() };
        let mut rules = self.rules.clone();
        if let Some(claims) = &mut self.claims {
            let windows = &self.windows;
            claims.look(|(key, n)| windows.revision(key).is_some_and(|newest| newest >= *n));
            rules.sort_by_key(|rule| claims.order(&rule.rule.id));
        }
        // What another worker is at is looked at again in the end: it may leave some of it.
        let mut left = Vec::new();
        for rule in &rules {
            for batch in self.due(rule, &look).await? {
                let rest = self.work(rule, &look, batch, true, &mut summary, listener).await?;
                left.extend((!rest.is_empty()).then(|| (Arc::clone(rule), rest)));
            }
        }
        for (rule, mut batch) in left {
            while !batch.is_empty() {
                batch = self.work(&rule, &look, batch, false, &mut summary, listener).await?;
            }
        }
        self.options.metrics.stands(&summary, closed_before_ns);
        self.options.metrics.claims_held(self.claims.as_ref().map_or(0, Claims::held));
        if let Some(claims) = &self.claims {
            let removed = self.litter.collect(claims, &self.windows, &self.rollups, &look.inputs).await;
            self.options.metrics.litter_removed(removed);
        }
        Ok(summary)
    }

    /// When the newest commit was made. One that cannot be read says nothing.
    async fn committed_ns(&mut self) -> Option<i64> {
        let streams = self.lake.state().streams.iter();
        let newest: Vec<String> =
            streams.filter_map(|s| Some(layout::commit(&s.stream, s.generation, s.last_from?))).collect();
        self.commits.retain(|path, _| newest.contains(path));
        for path in newest {
            if self.commits.contains_key(&path) {
                continue;
            }
            let read = self.options.store.need(&path, "the list of streams").await;
            match read.and_then(|bytes| Commit::parse(&path, &bytes)) {
                Ok(commit) => drop(self.commits.insert(path, commit.created_ns)),
                Err(err) => {
                    tracing::warn!(event = "detect.commit_unreadable", error = %err, "its time is not known")
                }
            }
        }
        self.commits.values().copied().max()
    }

    /// Says once that there are events of the future.
    fn say_ahead(&mut self, ahead: Option<Ahead>) {
        self.options.metrics.ahead(ahead.map_or(0, |ahead| ahead.hours));
        if let Some(now) = ahead.filter(|now| self.ahead.is_none_or(|said| said.newest_ns != now.newest_ns)) {
            tracing::warn!(
                event = "detect.events_ahead",
                hours = now.hours,
                newest_ns = now.newest_ns,
                committed_ns = now.committed_ns,
                "events are dated after the newest commit: a clock is wrong, or somebody lies"
            );
        }
        self.ahead = ahead;
    }

    /// Has the list name every record that was told and that it may not name yet.
    async fn list(&mut self) -> Result<(), LakeError> {
        self.windows.announce(&self.unlisted).await?;
        self.unlisted.clear();
        Ok(())
    }

    /// The newest record of a window. One that is damaged or gone is none: the window is due again, and its next
    /// record takes the place of that one.
    async fn known(&mut self, key: &WindowKey) -> Result<Option<Arc<WindowRecord>>, LakeError> {
        let err = match self.windows.record(key).await {
            Err(err @ (LakeError::Damaged { .. } | LakeError::Missing { .. })) => err,
            read => return read,
        };
        if self.unreadable.insert((key.clone(), self.windows.revision(key).unwrap_or_default())) {
            self.options.metrics.record_unreadable();
            tracing::error!(event = "detect.record_unreadable", error = %err, "its window is evaluated anew");
        }
        Ok(None)
    }

    /// The windows of a rule that are due, in batches, newest first.
    async fn due(&mut self, rule: &LoadedRule, look: &Look) -> Result<Vec<Vec<Due>>, LakeError> {
        let (id, major) = (&rule.rule.id, rule.rule.version.major);
        if self.claims.is_some() {
            // What others have listed since.
            self.windows.refresh().await?;
        }
        let known = self.windows.known().map(|(key, _)| key);
        let recorded: BTreeSet<i64> =
            known.filter(|key| key.rule == *id && key.major == major).map(|key| key.start_ns).collect();
        let mut found = Vec::new();
        for start_ns in candidates(rule, &look.inputs, look.starts_at(rule), &recorded) {
            let key = window_key(rule, start_ns);
            let record = match recorded.contains(&start_ns) {
                true => self.known(&key).await?,
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
        let memory = self.options.config.memory_bytes();
        let mut scope = Scope::lake(view.clone(), Vec::new(), memory);
        let history = (from_ns.saturating_sub(rule.rule.lookback.nanos()), to_ns);
        for table in &rule.tables {
            let rollup = self.rollups.table(table, &view, &look.inputs, history, look.closed_before_ns);
            if let Some(rollup) = rollup.await? {
                scope = scope.with_table(table, rollup);
            }
        }
        let (engine, rule, sensitive) = (self.engine.clone(), rule.clone(), self.options.sensitive.clone());
        let shared = Arc::clone(&self.shared);
        spawn(async move {
            let batch = Batch { from_ns, to_ns, sensitive: &sensitive };
            evaluate(&engine, scope, &rule, &batch, &shared).await
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
        let mut news = Vec::new();
        let outcome = self.write(rule, batch, hits, summary, &mut news).await;
        // Told before it is listed, and also when a later record of the batch failed: what is listed counts as told.
        self.tell(news, summary, listener);
        outcome?;
        Ok(self.list().await?)
    }

    fn tell(&self, news: Vec<News>, summary: &mut Summary, listener: Listener<'_>) {
        for news in &news {
            match news {
                News::Found { is_new: true, finding, .. } => {
                    summary.found += 1;
                    self.options.metrics.found(&finding.rule);
                }
                News::Found { .. } => {}
                News::Retracted { .. } => summary.retracted += 1,
            }
            listener(news);
        }
    }

    /// Writes the records of a batch; gives what is new.
    async fn write(
        &mut self,
        rule: &LoadedRule,
        batch: &[Due],
        hits: Vec<Hit>,
        summary: &mut Summary,
        news: &mut Vec<News>,
    ) -> Result<(), AnalyzerError> {
        for window in batch {
            summary.evaluated += 1;
            let key = window_key(rule, window.start_ns);
            let known = self.known(&key).await?;
            if known.as_deref().is_some_and(|record| window.is_done_by(record)) {
                // Learned since: someone else has evaluated and listed it.
                continue;
            }
            let hits = hits.iter().filter(|hit| hit.window_start_ns == window.start_ns);
            let n = self.windows.revision(&key).map_or(0, |n| n + 1);
            let drafted = Draft::of(rule, window, hits, known.as_deref(), n);
            if !drafted.is_worth_a_record {
                self.told.insert(key, (window.seen, window.closes));
                continue;
            }
            let Draft { rows, mut record, .. } = drafted;
            record.read = positions(self.lake.state());
            let file = if rows.is_empty() { None } else { Some(encode_findings(&rows)?) };
            let retracted = record.retracted.clone();
            if self.windows.put(record, file).await? == Put::Exists {
                // Someone else was first. If it saw other rows, the window is due again at the next look.
                self.windows.refresh().await?;
                if !self.windows.is_listed(&key) {
                    news.extend(self.untold(rule, &key, known.as_deref()).await?);
                    self.unlisted.insert(key);
                }
                continue;
            }
            summary.records += 1;
            self.told.remove(&key);
            self.unlisted.insert(key);
            news.extend(news_of(rule, rows, known.as_deref()));
            news.extend(taken_back(rule, retracted, n));
        }
        Ok(())
    }

    /// What is new in a record of someone else that no entry of the list names. Whoever wrote it may have been
    /// killed before it could tell; if it lives, the same is told twice.
    async fn untold(
        &mut self,
        rule: &LoadedRule,
        key: &WindowKey,
        before: Option<&WindowRecord>,
    ) -> Result<Vec<News>, AnalyzerError> {
        let Some(record) = self.known(key).await? else { return Ok(Vec::new()) };
        let view = self.lake.view();
        let mut rows = Vec::new();
        for file in &record.files {
            let mut batches = view.read_file(file, &Filter::all()).await?;
            while let Some(batch) = batches.try_next().await? {
                rows.extend(findings::decode(&batch).map_err(|err| LakeError::Damaged {
                    path: file.path.clone(),
                    reason: bodycam_record::shown(&err.to_string()),
                })?);
            }
        }
        let retracted = record.retracted.clone();
        Ok(news_of(rule, rows, before).chain(taken_back(rule, retracted, record.n)).collect())
    }
}

/// A window of a rule.
fn window_key(rule: &LoadedRule, start_ns: i64) -> WindowKey {
    WindowKey { rule: rule.rule.id.clone(), major: rule.rule.version.major, start_ns }
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
        n: u64,
    ) -> Self {
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

/// What is told about findings that a record takes back.
fn taken_back(rule: &LoadedRule, ids: Vec<Id16>, revision: u64) -> impl Iterator<Item = News> {
    ids.into_iter().map(move |id| News::Retracted { id, rule: rule.rule.id.to_string(), revision })
}

/// The wall clock, Unix nanoseconds.
fn wall_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
