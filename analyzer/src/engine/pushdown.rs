//! Filters on the text of ids and on timestamps, as filters on the columns that the files hold: only those
//! reach statistics, page indexes and Bloom filters.
//!
//! Invariant: a translated filter lets through exactly the rows that the original does.

use std::any::Any;

use arrow::datatypes::{DataType, Schema, TimeUnit};
use bodycam_record::SessionId;
use bodycam_record::ids::from_hex;
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{BinaryExpr, Cast, Expr, Operator};
use datafusion::scalar::ScalarValue;

use super::functions::{IdForm, IdText};

/// Columns whose equality picks few rows: with one of them a scan filters inside the Parquet reader.
const NEEDLES: [&str; 5] = ["session_id", "principal_ref", "fingerprint", "host", "hash"];

/// `filter`, translated where it can be.
pub(super) fn translate(filter: Expr, schema: &Schema) -> Result<Expr> {
    let translated = filter.transform_up(|expr| {
        let better = match &expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                comparison(left, *op, right, schema).or_else(|| comparison(right, op.swap()?, left, schema))
            }
            Expr::InList(InList { expr, list, negated }) => in_list(expr, list, *negated, schema),
            _ => None,
        };
        Ok(better.map_or_else(|| Transformed::no(expr), Transformed::yes))
    })?;
    Ok(translated.data)
}

/// Whether `filter` (translated) picks few rows by an id or a host.
pub(super) fn is_needle(filter: &Expr) -> bool {
    let needle = |expr: &Expr| matches!(expr, Expr::Column(c) if NEEDLES.contains(&c.name.as_str()));
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
            (needle(left) && matches!(**right, Expr::Literal(..)))
                || (needle(right) && matches!(**left, Expr::Literal(..)))
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            is_needle(left) || is_needle(right)
        }
        Expr::InList(InList { expr, negated: false, .. }) => needle(expr),
        _ => false,
    }
}

fn comparison(left: &Expr, op: Operator, right: &Expr, schema: &Schema) -> Option<Expr> {
    let Expr::Literal(literal, _) = right else { return None };
    let (column, literal) = match (id_column(left, schema), op) {
        (Some((column, width)), Operator::Eq | Operator::NotEq) => (column, id_literal(width, literal)?),
        _ => (time_column(left)?, time_literal(literal)?),
    };
    let right = Box::new(Expr::Literal(literal, None));
    Some(Expr::BinaryExpr(BinaryExpr { left: Box::new(column.clone()), op, right }))
}

fn in_list(expr: &Expr, list: &[Expr], negated: bool, schema: &Schema) -> Option<Expr> {
    let (column, width) = id_column(expr, schema)?;
    let literals: Option<Vec<Expr>> = list
        .iter()
        .map(|item| match item {
            Expr::Literal(literal, _) => Some(Expr::Literal(id_literal(width, literal)?, None)),
            _ => None,
        })
        .collect();
    Some(Expr::InList(InList { expr: Box::new(column.clone()), list: literals?, negated }))
}

/// How an id is spelled, and how many bytes it has.
type Shape = (IdForm, i32);

/// The column in `hex(column)` or `uuid_text(column)`, when it is one of fixed width.
fn id_column<'a>(expr: &'a Expr, schema: &Schema) -> Option<(&'a Expr, Shape)> {
    let Expr::ScalarFunction(call) = expr else { return None };
    let function: &IdText = (call.func.inner().as_ref() as &dyn Any).downcast_ref()?;
    let [expr @ Expr::Column(column)] = call.args.as_slice() else { return None };
    match schema.field_with_name(&column.name).ok()?.data_type() {
        DataType::FixedSizeBinary(width) => Some((expr, (function.form, *width))),
        _ => None,
    }
}

/// The bytes that the text of an id names. Only the one spelling that the function writes: any other text
/// equals no id.
fn id_literal((form, width): Shape, literal: &ScalarValue) -> Option<ScalarValue> {
    let text = literal.try_as_str()??;
    let bytes: Vec<u8> = match (form, width) {
        (IdForm::Uuid, 16) => text.parse::<SessionId>().ok().filter(|id| id.to_string() == text)?.0.to_vec(),
        (IdForm::Hex, _) if text.bytes().any(|b| b.is_ascii_uppercase()) => return None,
        (IdForm::Hex, 16) => from_hex::<16>(text)?.to_vec(),
        (IdForm::Hex, 32) => from_hex::<32>(text)?.to_vec(),
        _ => return None,
    };
    Some(ScalarValue::FixedSizeBinary(width, Some(bytes)))
}

/// The column of `CAST(column AS timestamp in nanoseconds)`.
fn time_column(expr: &Expr) -> Option<&Expr> {
    match expr {
        Expr::Cast(Cast { expr, field })
            if matches!(field.data_type(), DataType::Timestamp(TimeUnit::Nanosecond, _)) =>
        {
            matches!(**expr, Expr::Column(_)).then_some(expr)
        }
        _ => None,
    }
}

fn time_literal(literal: &ScalarValue) -> Option<ScalarValue> {
    match literal {
        ScalarValue::TimestampNanosecond(Some(ns), _) => Some(ScalarValue::Int64(Some(*ns))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::functions::id_text_of;
    use super::*;
    use datafusion::logical_expr::{cast, col, lit};

    fn nanos(ns: i64) -> Expr {
        Expr::Literal(ScalarValue::TimestampNanosecond(Some(ns), Some("+00:00".into())), None)
    }

    #[test]
    fn filters_on_text_become_filters_on_bytes() {
        let uuid = "01934f00-0000-7000-8000-000000000001";
        let hex = "00112233445566778899aabbccddeeff";
        let session = || id_text_of(IdForm::Uuid, col("session_id"));
        let principal = || id_text_of(IdForm::Hex, col("principal_ref"));
        let ts = || cast(col("ts_wall_ns"), DataType::Timestamp(TimeUnit::Nanosecond, Some("+00:00".into())));
        let schema = bodycam_lake::Table::Events(bodycam_record::Family::Sql).schema();
        let same = |expr: Expr| (expr.clone(), expr.to_string(), false);
        for (filter, expected, needle) in [
            (session().eq(lit(uuid)), "session_id = FixedSizeBinary(16".to_owned(), true),
            (lit(hex).eq(principal()), "principal_ref = FixedSizeBinary(16".to_owned(), true),
            (principal().not_eq(lit(hex)), "principal_ref != FixedSizeBinary(16".to_owned(), false),
            (
                principal().in_list(vec![lit(hex)], false),
                "principal_ref IN ([FixedSizeBinary(16".to_owned(),
                true,
            ),
            (ts().gt_eq(nanos(7)), "ts_wall_ns >= Int64(7)".to_owned(), false),
            (nanos(7).gt(ts()), "ts_wall_ns < Int64(7)".to_owned(), false),
            (session().eq(lit(uuid)).and(col("rows").gt(lit(1))), "session_id = Fixed".to_owned(), true),
            same(principal().eq(lit("00112233445566778899AABBCCDDEEFF"))),
            same(principal().eq(lit("not an id"))),
            same(principal().eq(lit(hex.repeat(2)))),
            same(session().eq(lit("01934F00-0000-7000-8000-000000000001"))),
            same(session().gt(lit(uuid))),
            same(principal().in_list(vec![lit(hex), lit("x")], false)),
        ] {
            let translated = translate(filter, &schema).unwrap();
            assert!(translated.to_string().starts_with(&expected), "{translated}");
            assert_eq!(is_needle(&translated), needle, "{translated}");
        }
    }
}
