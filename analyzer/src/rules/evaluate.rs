//! One evaluation: a rule's query over some consecutive windows, and what it found in each.
//!
//! Invariant: the query sees events of `[start − reach, end)` and roll-ups of `[start − lookback, end)`, and whether windows are
//! evaluated together or one by one makes no difference; `detect test` checks the latter for every rule.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimestampNanosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bodycam_lake::columns::findings::FindingRow;
use bodycam_record::rule::{ParamValue, Rule, RuleError, Severity, finding_id};
use bodycam_record::{Id16, SessionId};
use datafusion::common::DFSchema;
use datafusion::datasource::{MemTable, TableProvider, ViewTable};
use datafusion::logical_expr::{EmptyRelation, LogicalPlan};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Statement as SqlStatement, With};

use super::{LoadedRule, bind};
use crate::engine::{Bounds, Engine, Scope, physical};
use crate::error::AnalyzerError;
use crate::guard;

/// A relation whose rows are sensitive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sensitive {
    /// Name of the target in the configuration.
    pub target: String,
    /// `schema.name` as the target's catalog spells it.
    pub relation: String,
}

/// Consecutive windows to evaluate together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch<'a> {
    /// Start of the first.
    pub from_ns: i64,
    /// End of the last.
    pub to_ns: i64,
    /// The sensitive relations.
    pub sensitive: &'a [Sensitive],
}

/// Results of steps that name tables of the lake alone, for other rules with the same step. One lives as long as one
/// look at the lake: what they read must not change.
#[derive(Debug, Default)]
pub(crate) struct SharedSteps {
    known: Mutex<HashMap<StepKey, Arc<dyn TableProvider>>>,
    bytes: AtomicUsize,
}

/// The text of a step, what it sees, and the length of the windows.
type StepKey = (String, Bounds, i64);

/// Share of an evaluation's memory that shared steps may take.
const SHARED_PART: usize = 4;

/// What a rule found in a window.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hit {
    /// Start of the window.
    pub window_start_ns: i64,
    /// Values of the rule's entity columns.
    pub entity: Vec<Option<String>>,
    /// How bad it is.
    pub severity: Severity,
    /// What was measured.
    pub measure: Option<i64>,
    /// What it crossed.
    pub threshold: Option<i64>,
    /// Principal concerned.
    pub principal_ref: Option<Id16>,
    /// Target concerned.
    pub target: Option<String>,
    /// The evidence.
    pub evidence: Vec<(SessionId, i64)>,
    /// What it says.
    pub text: String,
}

impl Hit {
    /// The finding, in its first revision.
    pub fn finding(&self, rule: &Rule) -> FindingRow {
        let mut sessions: Vec<_> = self.evidence.iter().map(|(session, _)| session.to_string()).collect();
        sessions.sort();
        sessions.dedup();
        FindingRow {
            id: finding_id(&rule.id, rule.version.major, self.window_start_ns, &self.entity),
            rule: rule.id.to_string(),
            rule_version: rule.version.to_string(),
            severity: self.severity.name().to_owned(),
            window_start_ns: self.window_start_ns,
            window_end_ns: self.window_start_ns.saturating_add(rule.window.nanos()),
            principal_ref: self.principal_ref,
            target: self.target.clone(),
            session_ids: sessions,
            measure: self.measure,
            threshold: self.threshold,
            evidence_sessions: self.evidence.iter().map(|(session, _)| session.to_string()).collect(),
            evidence_seqs: self.evidence.iter().map(|(_, seq)| *seq).collect(),
            revision: 0,
            is_final: false,
            text: self.text.clone(),
        }
    }
}

/// Evaluates a rule over a batch of windows; runs on the pool. Hits come in order.
pub(crate) async fn evaluate(
    engine: &Engine,
    scope: Scope,
    rule: &LoadedRule,
    batch: &Batch<'_>,
    shared: &SharedSteps,
) -> Result<Vec<Hit>, AnalyzerError> {
    let scope = self::scope(scope, &rule.rule, &rule.values, batch)?;
    let limit = scope.memory_bytes() as u64 >> 20;
    let what = format!("rule {}", rule.rule.id);
    let failed = |err| match AnalyzerError::ran(limit, &what, err) {
        AnalyzerError::OutOfMemory { limit, reason } => {
            AnalyzerError::OutOfMemory { limit, reason: format!("{what}: {reason}") }
        }
        err => err,
    };
    let context = engine.context(&scope)?;
    let statement = bind::bind(&rule.statement, &rule.rule, &rule.values, batch.from_ns, batch.to_ns)?;
    let (steps, last) = steps(statement);
    let mut left = scope.memory_bytes();
    let lists = rule.values.iter().filter(|(_, value)| matches!(value, ParamValue::TextList(_)));
    let mut own: BTreeSet<String> = lists.map(|(name, _)| name.clone()).collect();
    let bounds = bounds(&rule.rule, batch);
    for (name, statement) in steps {
        let named = context.state().resolve_table_references(&statement).map_err(failed)?;
        let may_be_shared = named.iter().all(|table| !own.contains(table.table()));
        let key = (statement.to_string(), bounds, rule.rule.window.nanos());
        own.insert(name.clone());
        if let Some(table) = may_be_shared.then(|| shared.get(&key)).flatten() {
            scope.add_step(&name, table);
            continue;
        }
        let plan = guard::plan(&context, statement, &what).await?;
        let schema = plan.schema().as_ref().clone();
        let physical = physical(&context, &plan).await.map_err(failed)?;
        let batches = engine.collect(physical, &context).await.map_err(failed)?;
        let bytes = batches.iter().map(RecordBatch::get_array_memory_size).sum::<usize>();
        left = left.checked_sub(bytes).ok_or_else(|| AnalyzerError::OutOfMemory {
            limit,
            reason: format!("{what}, WITH {}", bodycam_record::shown(&name)),
        })?;
        let table = step(schema, batches).map_err(failed)?;
        if may_be_shared {
            shared.keep(key, &table, bytes, scope.memory_bytes() / SHARED_PART);
        }
        scope.add_step(&name, table);
    }
    let plan = guard::plan(&context, last, &what).await?;
    let physical = physical(&context, &plan).await.map_err(failed)?;
    let mut hits = Vec::new();
    for batch in engine.collect(physical, &context).await.map_err(failed)? {
        hits.extend(
            decode(&rule.rule, &batch)
                .map_err(|reason| RuleError { id: rule.rule.id.to_string(), reason })?,
        );
    }
    hits.sort();
    let asked = |hit: &&Hit| (batch.from_ns..batch.to_ns).contains(&hit.window_start_ns);
    if let Some(hit) = hits.iter().find(|hit| !asked(hit)) {
        let reason = format!(
            "its query found something in the window at {} ns, which was not asked for: with a reach, the events \
             that open a window must have ts >= $from",
            hit.window_start_ns
        );
        return Err(RuleError { id: rule.rule.id.to_string(), reason }.into());
    }
    if let Some([a, _]) =
        hits.array_windows().find(|[a, b]| (a.window_start_ns, &a.entity) == (b.window_start_ns, &b.entity))
    {
        let reason = format!(
            "its query gave two rows for one entity ({}): group by the entity columns",
            a.entity
                .iter()
                .map(|v| bodycam_record::shown(v.as_deref().unwrap_or("NULL")))
                .collect::<Vec<_>>()
                .join(", ")
        );
        return Err(RuleError { id: rule.rule.id.to_string(), reason }.into());
    }
    Ok(hits)
}

impl SharedSteps {
    fn get(&self, key: &StepKey) -> Option<Arc<dyn TableProvider>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn keep(&self, key: StepKey, table: &Arc<dyn TableProvider>, bytes: usize, limit: usize) {
        if self.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= limit {
            self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key, table.clone());
        }
    }
}

/// The result of a step as a table. An empty one is a plan that says so: whatever depends on it alone is then
/// left out.
fn step(schema: DFSchema, batches: Vec<RecordBatch>) -> datafusion::common::Result<Arc<dyn TableProvider>> {
    if batches.iter().all(|batch| batch.num_rows() == 0) {
        let schema = Arc::new(schema.strip_qualifiers());
        let nothing = LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: false, schema });
        return Ok(Arc::new(ViewTable::new(nothing, None)));
    }
    Ok(Arc::new(MemTable::try_new(Arc::new(schema.as_arrow().clone()), vec![batches])?))
}

/// The queries of a statement's WITH clause, in order, and what is left of it. Each is evaluated once and kept:
/// the engine would evaluate it anew at every mention, and plan it as often.
fn steps(statement: Statement) -> (Vec<(String, Statement)>, Statement) {
    let Statement::Statement(inner) = statement else { return (Vec::new(), statement) };
    let SqlStatement::Query(mut query) = *inner else { return (Vec::new(), Statement::Statement(inner)) };
    let as_statement = |query| Statement::Statement(Box::new(SqlStatement::Query(query)));
    // A recursive one sees itself, and column aliases would be lost.
    let plain = |with: &With| !with.recursive && with.cte_tables.iter().all(|c| c.alias.columns.is_empty());
    let Some(with) = query.with.take_if(|with| plain(with)) else {
        return (Vec::new(), as_statement(query));
    };
    let steps = with.cte_tables.into_iter().map(|cte| {
        let name = &cte.alias.name;
        let name = if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() };
        (name, as_statement(cte.query))
    });
    (steps.collect(), as_statement(query))
}

/// `scope` with what a rule's query is given: its windows, its lists, the sensitive relations.
pub(super) fn scope(
    scope: Scope,
    rule: &Rule,
    values: &BTreeMap<String, ParamValue>,
    batch: &Batch<'_>,
) -> Result<Scope, AnalyzerError> {
    let column = |texts: Vec<&str>| -> ArrayRef { Arc::new(StringArray::from(texts)) };
    let sensitive = vec![
        ("target", column(batch.sensitive.iter().map(|s| s.target.as_str()).collect())),
        ("relation", column(batch.sensitive.iter().map(|s| s.relation.as_str()).collect())),
    ];
    let mut scope = scope
        .within(bounds(rule, batch))
        .with_window(rule.window.nanos())
        .with_table("sensitive", texts(sensitive)?);
    for (name, value) in values {
        if let ParamValue::TextList(items) = value {
            let items = column(items.iter().map(String::as_str).collect());
            scope = scope.with_table(name, texts(vec![("value", items)])?);
        }
    }
    Ok(scope)
}

/// What an evaluation sees of event time.
fn bounds(rule: &Rule, batch: &Batch<'_>) -> Bounds {
    Bounds {
        events_from_ns: batch.from_ns.saturating_sub(rule.reach.nanos()),
        rollups_from_ns: batch.from_ns.saturating_sub(rule.lookback.nanos()),
        to_ns: batch.to_ns,
    }
}

/// Texts as a table. An empty one is a plan that says so, as an empty step is.
fn texts(columns: Vec<(&str, ArrayRef)>) -> Result<Arc<dyn TableProvider>, AnalyzerError> {
    let fields: Vec<Field> =
        columns.iter().map(|(name, _)| Field::new(*name, DataType::Utf8, false)).collect();
    let schema = Arc::new(Schema::new(fields));
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    let table = RecordBatch::try_new(schema.clone(), arrays)
        .map_err(Into::into)
        .and_then(|batch| step(DFSchema::try_from(schema)?, vec![batch]));
    table.map_err(|err| AnalyzerError::sql("preparing a rule's lists", err))
}

/// The columns that a finding's text names.
pub(super) fn placeholders(text: &str) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or("its text has a { without }")?;
        names.push(name.to_owned());
        rest = after;
    }
    Ok(names)
}

/// The hits in a batch of the query's output.
fn decode(rule: &Rule, batch: &RecordBatch) -> Result<Vec<Hit>, String> {
    let column = |name: &str| batch.column_by_name(name).ok_or_else(|| format!("no column {name}"));
    let wrong = |name: &str| format!("column {name} has another type than when the rule was checked");
    let integer = |name: &str| cast(column(name)?, &DataType::Int64).map_err(|e| e.to_string());
    let starts = column("window_start")?;
    let starts = starts.as_primitive_opt::<TimestampNanosecondType>().ok_or_else(|| wrong("window_start"))?;
    let (measure, threshold) = (integer("measure")?, integer("threshold")?);
    let whole = |array: &ArrayRef, row: usize| {
        array.as_primitive_opt::<Int64Type>().filter(|a| a.is_valid(row)).map(|a| a.value(row))
    };
    let mut named: BTreeMap<String, ArrayFormatter<'_>> = BTreeMap::new();
    let options = FormatOptions::new();
    for name in rule.entity.iter().cloned().chain(placeholders(&rule.text)?) {
        let formatter = ArrayFormatter::try_new(column(&name)?, &options).map_err(|e| e.to_string())?;
        named.insert(name, formatter);
    }
    for name in ["principal_ref", "target", "severity"] {
        if let Some(array) = batch.column_by_name(name) {
            named.insert(
                name.to_owned(),
                ArrayFormatter::try_new(array, &options).map_err(|e| e.to_string())?,
            );
        }
    }
    let evidence = column("evidence")?.as_list_opt::<i32>().ok_or_else(|| wrong("evidence"))?;
    let text = |name: &str, row: usize| {
        let array = batch.column_by_name(name).filter(|a| a.is_valid(row))?;
        let _ = array;
        named.get(name)?.value(row).try_to_string().ok()
    };
    let mut hits = Vec::new();
    for row in 0..batch.num_rows() {
        if starts.is_null(row) {
            return Err("window_start is NULL".to_owned());
        }
        let severity = match text("severity", row) {
            Some(name) => Severity::named(&name)
                .ok_or_else(|| format!("'{}' is not a severity", bodycam_record::shown(&name)))?,
            None => rule.severity,
        };
        let principal = text("principal_ref", row);
        hits.push(Hit {
            window_start_ns: starts.value(row),
            entity: rule.entity.iter().map(|name| text(name, row)).collect(),
            severity,
            measure: whole(&measure, row),
            threshold: whole(&threshold, row),
            principal_ref: principal.as_deref().and_then(Id16::from_hex),
            target: text("target", row),
            evidence: events(&evidence.value(row))?,
            text: fill(&rule.text, |name| text(name, row)),
        });
    }
    Ok(hits)
}

/// `text` with the values of its placeholders.
fn fill(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        out.push_str(before);
        out.push_str(&value(name).unwrap_or_else(|| "?".to_owned()));
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The events that a list of `<session>:<seq>` names.
fn events(list: &ArrayRef) -> Result<Vec<(SessionId, i64)>, String> {
    let list = cast(list, &DataType::Utf8).map_err(|e| e.to_string())?;
    let list = list.as_string_opt::<i32>().ok_or("evidence is not a list of texts")?;
    list.iter()
        .flatten()
        .map(|id| {
            let parsed = id.rsplit_once(':').and_then(|(session, seq)| {
                Some((session.parse::<SessionId>().ok()?, seq.parse::<i64>().ok()?))
            });
            parsed.ok_or_else(|| format!("evidence '{}' is not an event_id", bodycam_record::shown(id)))
        })
        .collect()
}
