//! Values in the place of a query's `$name`s. They enter the syntax tree as literals, so a value can never
//! become SQL.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bodycam_record::rule::{ParamValue, Rule, RuleError};
use bodycam_record::shown;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Expr, Value, VisitMut, VisitorMut};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

/// The query for the windows in `[from_ns, to_ns)`.
pub(super) fn bind(
    statement: &Statement,
    rule: &Rule,
    values: &BTreeMap<String, ParamValue>,
    from_ns: i64,
    to_ns: i64,
) -> Result<Statement, RuleError> {
    let refuse = |reason: String| RuleError { id: rule.id.to_string(), reason };
    let parsed = |sql: String| {
        let parser = Parser::new(&GenericDialect {}).try_with_sql(&sql);
        parser.and_then(|mut p| p.parse_expr()).map_err(|err| refuse(shown(&err.to_string())))
    };
    let time = |ns: i64| parsed(format!("arrow_cast({ns}, 'Timestamp(Nanosecond, Some(\"+00:00\"))')"));
    let lookback = rule.lookback.nanos() / 1_000_000_000;
    let mut literals: BTreeMap<String, Expr> = [
        ("$from".to_owned(), time(from_ns)?),
        ("$to".to_owned(), time(to_ns)?),
        ("$lookback".to_owned(), parsed(format!("INTERVAL '{lookback} seconds'"))?),
    ]
    .into();
    for (name, value) in values {
        let literal = match value {
            ParamValue::Int(n) => parsed(n.to_string())?,
            ParamValue::Float(x) => parsed(format!("CAST({x} AS DOUBLE)"))?,
            ParamValue::Text(text) => Expr::Value(Value::SingleQuotedString(text.clone()).into()),
            ParamValue::TextList(_) => continue,
        };
        literals.insert(format!("${name}"), literal);
    }
    let mut bound = statement.clone();
    if let Statement::Statement(statement) = &mut bound
        && let ControlFlow::Break(unknown) = statement.visit(&mut Literals(literals))
    {
        return Err(refuse(format!("its query uses {unknown}, which is no parameter of it")));
    }
    Ok(bound)
}

struct Literals(BTreeMap<String, Expr>);

impl VisitorMut for Literals {
    type Break = String;

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<String> {
        if let Expr::Value(value) = expr
            && let Value::Placeholder(name) = &value.value
        {
            match self.0.get(name) {
                Some(literal) => *expr = literal.clone(),
                None => return ControlFlow::Break(shown(name)),
            }
        }
        ControlFlow::Continue(())
    }
}
