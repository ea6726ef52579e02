//! What a rule's query must be: a read of event tables, with the columns that a finding is made of, and the
//! same answer for the same rows, whenever and wherever it is asked.

use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::{DataType, Schema};
use bodycam_record::Family;
use bodycam_record::rule::{ParamValue, Rule, RuleError};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::sql::parser::Statement;

use super::bind;
use super::evaluate::{self, Batch};
use crate::engine::{Engine, Scope, families_of, timestamp};
use crate::error::AnalyzerError;
use crate::guard;

/// Memory for planning against empty tables.
const MEMORY: usize = 64 << 20;
/// Aggregates whose result depends on the order of rows.
const ORDERED: [&str; 5] = ["array_agg", "first_value", "last_value", "nth_value", "string_agg"];

/// A query that passed.
pub(super) struct Checked {
    pub statement: Statement,
    pub families: BTreeSet<Family>,
    pub tables: BTreeSet<String>,
}

/// Checks a rule's query; runs on the pool.
pub(super) async fn check(
    rule: &Rule,
    values: &BTreeMap<String, ParamValue>,
) -> Result<Checked, AnalyzerError> {
    let refuse = |reason: String| AnalyzerError::Rule(RuleError { id: rule.id.to_string(), reason });
    let statement = guard::parse_query(&rule.query).map_err(|err| refuse(err.to_string()))?;
    let scope = evaluate::scope(
        Scope::memory(BTreeMap::new(), MEMORY),
        rule,
        values,
        &Batch { from_ns: 0, to_ns: rule.window.nanos(), sensitive: &[] },
    )?;
    let context = Engine::without_store()?.context(&scope)?;
    let (families, tables) = tables(rule, values, &context, &statement)?;
    let bound = bind::bind(&statement, rule, values, 0, rule.window.nanos())?;
    let plan = guard::plan(&context, bound, &format!("the query of rule {}", rule.id)).await?;
    columns(rule, plan.schema().as_arrow()).map_err(refuse)?;
    determined(&plan).map_err(refuse)?;
    Ok(Checked { statement, families, tables })
}

/// The tables that the query reads, and the families of events behind them.
fn tables(
    rule: &Rule,
    values: &BTreeMap<String, ParamValue>,
    context: &SessionContext,
    statement: &Statement,
) -> Result<(BTreeSet<Family>, BTreeSet<String>), AnalyzerError> {
    let refuse = |reason: String| AnalyzerError::Rule(RuleError { id: rule.id.to_string(), reason });
    let what = || format!("reading the query of rule {}", rule.id);
    let named = context.state().resolve_table_references(statement);
    let named = named.map_err(|err| AnalyzerError::sql(what(), err))?;
    let (mut families, mut tables) = (BTreeSet::new(), BTreeSet::new());
    for table in named {
        let name = table.table();
        let list = matches!(values.get(name), Some(ParamValue::TextList(_)));
        if list || name == "sensitive" {
            continue;
        }
        let Some(of_table) = families_of(name) else {
            return Err(refuse(format!(
                "its query reads {}, which is not a table of events: the same events must always give the same \
                 findings",
                bodycam_record::shown(name)
            )));
        };
        families.extend(of_table);
        tables.insert(name.to_owned());
    }
    if families.is_empty() {
        return Err(refuse("its query reads no table of events".to_owned()));
    }
    Ok((families, tables))
}

/// The columns that a finding is made of.
fn columns(rule: &Rule, schema: &Schema) -> Result<(), String> {
    let ty = |name: &str| schema.field_with_name(name).ok().map(|f| f.data_type().clone());
    let integer = |ty: &DataType| ty.is_integer();
    let text = |ty: &DataType| matches!(ty, DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8);
    let texts = |ty: &DataType| matches!(ty, DataType::List(item) if text(item.data_type()));
    type Fits<'a> = &'a dyn Fn(&DataType) -> bool;
    let needed: [(&str, Fits, &str); 4] = [
        ("window_start", &|ty| *ty == timestamp(), "a time, as window_of(ts) gives it"),
        ("measure", &integer, "a whole number"),
        ("threshold", &integer, "a whole number"),
        ("evidence", &texts, "a list of event_id, as array_agg(event_id ORDER BY …) gives it"),
    ];
    for (name, fits, form) in needed {
        match ty(name) {
            Some(ty) if fits(&ty) => {}
            Some(ty) => return Err(format!("its column {name} is {ty}, not {form}")),
            None => return Err(format!("its query has no column {name}: {form}")),
        }
    }
    for name in ["principal_ref", "target", "severity"] {
        if let Some(ty) = ty(name).filter(|ty| !text(ty)) {
            return Err(format!("its column {name} is {ty}, not a text"));
        }
    }
    for name in &rule.entity {
        match ty(name) {
            Some(ty) if text(&ty) || integer(&ty) => {}
            Some(ty) => return Err(format!("its entity {name} is {ty}, not a text or a whole number")),
            None => return Err(format!("its query has no column {name}, which its entity names")),
        }
    }
    for name in evaluate::placeholders(&rule.text)? {
        if ty(&name).is_none() {
            return Err(format!("its text names {{{name}}}, which is no column of its query"));
        }
    }
    Ok(())
}

/// Refuses what makes the answer depend on anything but the rows.
fn determined(plan: &LogicalPlan) -> Result<(), String> {
    let mut fault: Option<String> = None;
    let walked = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Limit(limit) = node
            && !matches!(limit.input.as_ref(), LogicalPlan::Sort(_))
        {
            fault.get_or_insert(
                "its query has a LIMIT without ORDER BY: which rows it keeps is chance".to_owned(),
            );
        }
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Some(reason) = chance(expr) {
                    fault.get_or_insert(reason);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    match (fault, walked) {
        (Some(reason), _) => Err(reason),
        (None, Err(err)) => Err(err.strip_backtrace()),
        (None, Ok(_)) => Ok(()),
    }
}

fn chance(expr: &Expr) -> Option<String> {
    match expr {
        Expr::ScalarFunction(f) if f.func.signature().volatility != Volatility::Immutable => Some(format!(
            "its query calls {}(), which gives another value each time: use $from and $to",
            f.func.name()
        )),
        Expr::AggregateFunction(f) => {
            let name = f.func.name();
            let unordered = ORDERED.contains(&name) && f.params.order_by.is_empty();
            match (unordered, name.starts_with("approx_")) {
                (true, _) => Some(format!("its query calls {name} without ORDER BY: its result is chance")),
                (_, true) => {
                    Some(format!("its query calls {name}, whose result depends on how rows are spread"))
                }
                _ => None,
            }
        }
        Expr::WindowFunction(f) if f.params.order_by.is_empty() && f.fun.name() == "row_number" => {
            Some("its query calls row_number without ORDER BY: its result is chance".to_owned())
        }
        _ => None,
    }
}
