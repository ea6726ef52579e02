//! The correlation id that joins the sessions of one agent task across wires: from W3C `traceparent`, from a
//! sqlcommenter comment, from `application_name`.
//!
//! Invariant: a text that merely names a tool never becomes an id, or unrelated sessions would be joined.

/// Longest id that is taken.
const MAX_ID: usize = 128;
/// How much of a statement's end and beginning is searched for a comment.
const SEARCHED: usize = 2048;

/// Names that client tools give themselves.
const TOOLS: &[&str] = &[
    "psql",
    "pg_dump",
    "pg_dumpall",
    "pg_restore",
    "pgbench",
    "pg_isready",
    "vacuumdb",
    "reindexdb",
    "clusterdb",
    "createdb",
    "dropdb",
    "createuser",
    "dropuser",
    "pg_basebackup",
    "libpq",
    "psycopg",
    "psycopg2",
    "asyncpg",
    "node-postgres",
    "npgsql",
    "postgresql jdbc driver",
    "tokio-postgres",
    "sqlx",
    "unnamed",
    "unknown",
    "bodycam",
];

/// The trace id of a `traceparent` (W3C Trace Context §3.2): 32 lower-case hex digits, not all zero.
pub fn of_traceparent(text: &str) -> Option<String> {
    let mut parts = text.trim().split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |s: &str, n| s.len() == n && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let whole = hex(version, 2) && version != "ff" && hex(trace, 32) && hex(span, 16) && hex(flags, 2);
    (whole && trace.bytes().any(|b| b != b'0')).then(|| trace.to_owned())
}

/// The trace id in a sqlcommenter comment (`/*…traceparent='00-…'…*/`) at either end of a statement.
pub fn of_statement(text: &[u8]) -> Option<String> {
    const KEY: &[u8] = b"traceparent='";
    let tail = text.get(text.len().saturating_sub(SEARCHED)..).unwrap_or(text);
    let head = text.get(..SEARCHED).unwrap_or(text);
    [tail, head].into_iter().find_map(|part| {
        let open = memchr::memmem::rfind(part, b"/*")?;
        let comment = part.get(open..)?;
        let at = memchr::memmem::find(comment, KEY)?;
        let value = comment.get(at + KEY.len()..)?;
        let end = memchr::memchr(b'\'', value)?;
        of_traceparent(std::str::from_utf8(value.get(..end)?).ok()?)
    })
}

/// The id in an `application_name`: the trace id when it is a `traceparent`, else the name itself unless it is
/// a tool's.
pub fn of_application_name(name: &str) -> Option<String> {
    if let Some(trace) = of_traceparent(name) {
        return Some(trace);
    }
    let name = name.trim();
    let lower = name.to_ascii_lowercase();
    let a_tool = TOOLS.contains(&lower.as_str())
        || ["pgadmin", "dbeaver", "datagrip", "pgjdbc"].iter().any(|tool| lower.starts_with(tool));
    (!name.is_empty() && name.len() <= MAX_ID && !a_tool).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn a_trace_id_is_taken_only_from_a_whole_traceparent() {
        let good = format!("00-{TRACE}-b7ad6b7169203331-01");
        assert_eq!(of_traceparent(&good).as_deref(), Some(TRACE));
        let zero = format!("00-{}-b7ad6b7169203331-01", "0".repeat(32));
        let upper = good.to_uppercase();
        for bad in ["", "00-abc-def-01", &zero, &upper, &good[..40]] {
            assert_eq!(of_traceparent(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_statement_names_its_trace_in_a_comment_at_either_end() {
        let comment = format!("/*app='x',traceparent='00-{TRACE}-b7ad6b7169203331-01'*/");
        let long = format!("SELECT 1 {} {comment}", "x".repeat(10_000));
        for text in [format!("SELECT 1 {comment}"), format!("{comment} SELECT 1"), long] {
            assert_eq!(of_statement(text.as_bytes()).as_deref(), Some(TRACE), "{text:.60}");
        }
        for text in ["SELECT 1", "SELECT 'traceparent=''00-'", "/*traceparent='", ""] {
            assert_eq!(of_statement(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_tool_is_not_a_task() {
        for name in ["psql", "pgbench", "PostgreSQL JDBC Driver", "DBeaver 23.1 - Main", "", "  "] {
            assert_eq!(of_application_name(name), None, "{name}");
        }
        assert_eq!(of_application_name("task-4711").as_deref(), Some("task-4711"));
        let traced = format!("00-{TRACE}-b7ad6b7169203331-01");
        assert_eq!(of_application_name(&traced).as_deref(), Some(TRACE));
    }
}
