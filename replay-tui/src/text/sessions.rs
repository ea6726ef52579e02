//! `sessions ls` and `sessions show`.

use std::collections::BTreeMap;
use std::io::Write;

use bodycam_record::SessionId;
use bodycam_record::kinds::Body;
use bodycam_record::kinds::session::SessionOpened;
use serde_json::{Value, json};

use super::{Column, Format, Outcome, json_line, print};
use crate::chain::ChainCheck;
use crate::error::ReplayError;
use crate::matcher::Matcher;
use crate::shown::Shown;
use crate::source::{SessionItem, Source, attach, each_window};
use crate::units;

/// Events that are read at a time.
pub(crate) const WINDOW: i64 = 16 * 1024;

/// What a list shows.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Only what passes this filter.
    pub filter: String,
    /// Saved filters, for `@name`.
    pub saved: BTreeMap<String, String>,
    /// At most this many.
    pub limit: usize,
    /// How it is printed.
    pub format: Format,
    /// Now, for times before now in filters, Unix ns.
    pub now_ns: i64,
}

pub(crate) const SESSIONS_ONLY: &str = "the sessions index; open a session, or use `bodycam events grep`";

fn columns() -> [Column<SessionItem>; 16] {
    [
        Column::left("session", |s| Shown::of(&s.row.session_id.to_string()), |s| json!(s.row.session_id)),
        Column::left("state", |s| Shown::of(&s.row.state), |s| json!(s.row.state)),
        Column::left(
            "started",
            |s| Shown::of(&units::moment(s.row.started_ns)),
            |s| json!(units::instant(s.row.started_ns)),
        ),
        Column::right(
            "duration",
            |s| Shown::of(&units::duration(s.duration_ns())),
            |s| json!(s.duration_ns() / 1_000_000),
        ),
        Column::left("principal", SessionItem::who, |s| match &s.principal {
            Some(name) => json!(&**name),
            None => json!(s.row.principal_ref),
        }),
        Column::left("target", |s| Shown::of(&s.row.target), |s| json!(s.row.target)),
        Column::left("proto", |s| Shown::of(&s.row.protocol), |s| json!(s.row.protocol)),
        Column::right("events", |s| count(s.row.events), |s| json!(s.row.events)),
        Column::right("statements", |s| count(s.row.statements), |s| json!(s.row.statements)),
        Column::right("rows", |s| count(s.row.rows), |s| json!(s.row.rows)),
        Column::right("bytes_in", |s| Shown::of(&units::size(s.row.bytes_in)), |s| json!(s.row.bytes_in)),
        Column::right("bytes_out", |s| Shown::of(&units::size(s.row.bytes_out)), |s| json!(s.row.bytes_out)),
        Column::right("denies", |s| count(s.row.denies), |s| json!(s.row.denies)),
        Column::right("errors", |s| count(s.row.errors), |s| json!(s.row.errors)),
        Column::left(
            "reason",
            |s| Shown::of(s.row.end_reason.as_deref().unwrap_or("")),
            |s| json!(s.row.end_reason),
        ),
        Column::left("findings", findings, |s| {
            json!(s.findings.iter().map(|(rule, _)| rule.as_str()).collect::<Vec<_>>())
        }),
    ]
}

fn count(n: i64) -> Shown {
    Shown::of(&units::count(n))
}

fn findings(session: &SessionItem) -> Shown {
    let rules: Vec<_> = session.findings.iter().map(|(rule, _)| rule.as_str()).collect();
    Shown::of(&rules.join(" "))
}

/// Prints the sessions that pass the filter, newest activity first.
pub fn sessions(
    source: &dyn Source,
    options: &ListOptions,
    out: &mut dyn Write,
) -> Result<Outcome, ReplayError> {
    let known = Some((SessionItem::FIELDS, SESSIONS_ONLY));
    let matcher = Matcher::new(&options.filter, &options.saved, options.now_ns, known)?;
    let mut found = source.sessions(usize::MAX)?;
    attach(&mut found, &source.findings()?);
    found.retain(|s| matcher.matches(s));
    let total = found.len();
    found.truncate(options.limit);
    print(out, options.format, &columns(), &found, total)
}

/// The session that `text` names, with its findings: an id, or the beginning of one that names one session.
pub fn find(source: &dyn Source, text: &str) -> Result<SessionItem, ReplayError> {
    let mut found = [named(source, text)?];
    attach(&mut found, &source.findings()?);
    let [found] = found;
    Ok(found)
}

fn named(source: &dyn Source, text: &str) -> Result<SessionItem, ReplayError> {
    let missing = || ReplayError::NoSession(Shown::limit(text, 100).into());
    if let Ok(id) = text.parse::<SessionId>() {
        return source.session(id)?.ok_or_else(missing);
    }
    let many = || ReplayError::ManySessions(Shown::limit(text, 100).into());
    if text.len() < 4 {
        return Err(many());
    }
    let all = source.sessions(usize::MAX)?;
    let mut named = all.into_iter().filter(|s| s.row.session_id.to_string().starts_with(text));
    match (named.next(), named.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(missing()),
        _ => Err(many()),
    }
}

/// Checks the chain of a session; gives its opening, too.
pub(crate) fn check_chain(source: &dyn Source, session: &SessionItem) -> Result<Checked, ReplayError> {
    let mut chain = ChainCheck::default();
    let mut opened = None;
    each_window(source, session, 0, WINDOW, false, |events| {
        if let (None, Some(Body::SessionOpened(body))) =
            (&opened, events.first().and_then(|e| e.body.as_ref()))
        {
            opened = Some(body.clone());
        }
        chain.extend(&events);
        Ok(true)
    })?;
    Ok(Checked { chain, opened })
}

/// A session that was read from its first event to its last.
pub(crate) struct Checked {
    chain: ChainCheck,
    /// What its opening says.
    opened: Option<SessionOpened>,
}

/// Prints one session: who, what, when, and whether its chain holds.
pub fn show(
    source: &dyn Source,
    id: &str,
    format: Format,
    out: &mut dyn Write,
) -> Result<Outcome, ReplayError> {
    let session = find(source, id)?;
    let check = check_chain(source, &session)?;
    match format {
        Format::Table => {
            for (name, value) in lines(&session, &check) {
                writeln!(out, "{name:<12} {value}")?;
            }
            out.flush()?;
        }
        Format::Csv => drop(print(out, format, &columns(), &[session], 1)?),
        Format::Json | Format::Jsonl => {
            let mut object = serde_json::Map::new();
            for column in columns() {
                object.insert(column.name.to_owned(), (column.json)(&session));
            }
            let row = &session.row;
            object.insert("principal_ref".into(), json!(row.principal_ref));
            object.insert("principal_kind".into(), json!(row.principal_kind));
            object.insert("database".into(), json!(row.database));
            object.insert("producer".into(), json!(row.producer));
            object.insert("epoch".into(), json!(row.epoch));
            object.insert("simulated_clock".into(), json!(row.simulated_clock));
            object.insert("head".into(), json!(row.head));
            if let Some(opened) = &check.opened {
                object.insert("auth_method".into(), json!(opened.auth_method));
                object.insert("credential".into(), json!(opened.credential));
                object.insert("credential_addresses".into(), json!(opened.credential_addresses));
                object.insert("client_tls".into(), json!(opened.client_tls));
                object.insert("upstream_tls".into(), json!(opened.upstream_tls));
                object.insert("upstream_role".into(), json!(opened.upstream_role));
            }
            object.insert("chain".into(), chain_json(&check.chain, row.events));
            json_line(out, &Value::Object(object))?;
            out.flush()?;
        }
    }
    Ok(Outcome::Match)
}

fn chain_json(check: &ChainCheck, events: i64) -> Value {
    let fault = check
        .fault()
        .map(|f| json!({ "seq": f.seq, "what": f.what, "computed": f.computed, "stored": f.stored }));
    json!({ "verified": check.verified(), "events": events, "fault": fault })
}

/// Names and values that say what a session was.
pub(crate) fn lines(session: &SessionItem, check: &Checked) -> Vec<(&'static str, Shown)> {
    let row = &session.row;
    let end = match (&row.ended_ns, &row.end_reason) {
        (None, _) => format!("{}, last event {}", row.state, units::moment(row.last_activity_ns)),
        (Some(_), None) => row.state.clone(),
        (Some(_), Some(reason)) => format!("{} ({reason})", row.state),
    };
    let clock = if row.simulated_clock { ", SIMULATED CLOCK" } else { "" };
    let database =
        if row.database.is_empty() { String::new() } else { format!(", database {}", row.database) };
    let mut lines = vec![
        ("session", row.session_id.to_string()),
        ("principal", format!("{} ({}, {})", session.who(), row.principal_kind, row.principal_ref)),
        ("target", format!("{} ({}{database})", row.target, row.protocol)),
        (
            "when",
            format!(
                "{} UTC, {}, {end}{clock}",
                units::moment(row.started_ns),
                units::duration(session.duration_ns())
            ),
        ),
        (
            "traffic",
            format!(
                "{}, {}, {} in, {} out",
                units::plural(row.statements, "statement or request", "statements or requests"),
                units::plural(row.rows, "row", "rows"),
                units::size(row.bytes_in),
                units::size(row.bytes_out)
            ),
        ),
        (
            "refused",
            format!(
                "{}, {}",
                units::plural(row.denies, "refusal", "refusals"),
                units::plural(row.errors, "error", "errors")
            ),
        ),
        ("recorded by", format!("{} epoch {}", row.producer, row.epoch)),
        ("chain", chain_line(&check.chain, row.events)),
    ];
    if let Some(opened) = &check.opened {
        lines.splice(3..3, opening_lines(opened));
    }
    if !session.findings.is_empty() {
        let found: Vec<_> =
            session.findings.iter().map(|(rule, severity)| format!("{rule} ({severity})")).collect();
        lines.push(("findings", found.join(", ")));
    }
    lines.into_iter().map(|(name, value)| (name, Shown::of(&value))).collect()
}

/// What a session's opening says of the login and the connection.
fn opening_lines(opened: &SessionOpened) -> [(&'static str, String); 2] {
    let tls = |is: bool| if is { "TLS" } else { "no TLS" };
    let addresses = units::plural(opened.credential_addresses, "client address", "client addresses");
    let role = match opened.upstream_role.as_str() {
        "" => String::new(),
        role => format!(", role {role} there"),
    };
    [
        (
            "login",
            format!(
                "{}, credential {}, used from {addresses} in 24 h",
                opened.auth_method,
                opened.credential.to_hex()
            ),
        ),
        (
            "connection",
            format!("client {}, target {}{role}", tls(opened.client_tls), tls(opened.upstream_tls)),
        ),
    ]
}

fn chain_line(check: &ChainCheck, events: i64) -> String {
    match check.fault() {
        None => format!("{} events verified", check.label(events, false)),
        Some(fault) => {
            let hashes = match (fault.computed, fault.stored) {
                (Some(computed), Some(stored)) => format!(": computed {computed}, stored {stored}"),
                _ => String::new(),
            };
            format!("{}: {}{hashes}; run `bodycam verify`", check.label(events, false), fault.what)
        }
    }
}
