//! Copying: what is chosen, as a line, a link, a statement or JSON, to the terminal's clipboard.
//!
//! Invariant: what is copied is as safe to show as what is on the screen; a paste runs no escape of a recording.

use bodycam_record::SessionId;

use crate::app::{Cmd, Screen, SessionState, State};
use crate::commands::Args;
use crate::event::EventItem;
use crate::shown::Shown;
use crate::text::event_json;
use crate::{clipboard, units};

pub fn line(state: &mut State, _: &Args) -> Vec<Cmd> {
    let line = match state.screen {
        Screen::Sessions => state.selected_session().map(|s| {
            let row = &s.row;
            let (started, target) = (units::moment(row.started_ns), Shown::of(&row.target));
            let (events, rows) = (units::count(row.events), units::count(row.rows));
            format!("{started} UTC  {} → {target}  {events} events, {rows} rows  {}", s.who(), row.session_id)
        }),
        Screen::Findings => state.selected_finding().map(|f| {
            let [severity, rule, text] = [&f.row.severity, &f.row.rule, &f.row.text].map(|t| Shown::of(t));
            format!("{severity} {rule}  {}  {text}", f.who())
        }),
        Screen::Session => at_cursor(state).map(|(session, event)| {
            let envelope = &event.event.envelope;
            let verdict = event.verdict().map(|v| format!("  {}", Shown::of(v))).unwrap_or_default();
            let (at, id) = (units::moment(envelope.ts_wall_ns), session.item.row.session_id);
            format!("{at} UTC  {id}#{}{verdict}  {}", envelope.seq, event.summary())
        }),
    };
    copy(state, line, "the line")
}

pub fn link(state: &mut State, _: &Args) -> Vec<Cmd> {
    let link = |session: SessionId, seq: Option<i64>| {
        let seq = seq.map(|seq| format!("#{seq}")).unwrap_or_default();
        format!("bodycam://session/{session}{seq}")
    };
    let text = match state.screen {
        Screen::Sessions => state.selected_session().map(|s| link(s.row.session_id, None)),
        Screen::Findings => {
            let evidence = state.selected_finding().and_then(|f| f.evidence.first());
            evidence.map(|(session, seq)| link(*session, Some(*seq)))
        }
        Screen::Session => state.session.as_ref().map(|s| link(s.item.row.session_id, s.seq())),
    };
    copy(state, text, "the link; `:open` takes it")
}

pub fn statement(state: &mut State, _: &Args) -> Vec<Cmd> {
    let session = state.session.as_ref();
    let detail = session.and_then(|s| s.detail.as_ref().filter(|d| Some(d.seq) == s.seq()));
    let lines = detail.map(|d| d.statement.iter().map(|line| line.plain()).collect::<Vec<_>>());
    let text = lines.filter(|lines| !lines.is_empty()).map(|lines| lines.join("\n"));
    copy(state, text, "the statement")
}

pub fn json(state: &mut State, _: &Args) -> Vec<Cmd> {
    let text = at_cursor(state).map(|(session, event)| {
        let at_ns = event.event.envelope.ts_wall_ns.saturating_sub(session.item.row.started_ns);
        let object = event_json(event, at_ns, &session.evidence);
        bodycam_record::shown::shown_json(&serde_json::Value::Object(object).to_string())
    });
    copy(state, text, "the event as JSON, without its content")
}

fn at_cursor(state: &State) -> Option<(&SessionState, &EventItem)> {
    let session = state.session.as_ref()?;
    Some((session, session.pages.event(session.seq()?)?))
}

/// Hands `text` to the terminal. Whether that takes it, nobody is told.
fn copy(state: &mut State, text: Option<String>, what: &str) -> Vec<Cmd> {
    match text {
        None => state.say("there is nothing of this kind to copy here"),
        Some(text) if text.len() > clipboard::MAX_BYTES => state.complain(&format!(
            "{} are too many bytes for a terminal's clipboard; `bodycam replay SESSION --format text` prints them",
            units::count(i64::try_from(text.len()).unwrap_or(i64::MAX)),
        )),
        Some(text) => {
            state.say(&format!("sent to the terminal's clipboard: {what}"));
            state.copy = Some(text);
        }
    }
    Vec::new()
}
