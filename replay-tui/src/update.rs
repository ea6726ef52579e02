//! The update: a message and a state give the next state and what is to be done outside. Pure: no I/O, no
//! clock, no randomness.

use std::sync::Arc;

use crate::app::{Cmd, Matches, Msg, Overlay, PAGE, Screen, SessionState, State};
use crate::commands::{Args, Meaning};
use crate::key::Key;
use crate::layout::{layout, list_height};
use crate::matcher::Matcher;
use crate::source::{EvidenceBySeq, SessionItem, attach};
use crate::text::SESSIONS_ONLY;

pub mod copy;
pub mod evidence;
pub mod lists;
pub mod navigate;
pub mod overlays;
pub mod playback;
pub mod prompts;

/// Rows beyond the view whose pages are read ahead, in screens.
const AHEAD: usize = 2;

/// The next state, and what is to be done.
pub fn update(state: &mut State, msg: Msg) -> Vec<Cmd> {
    let mut commands = match msg {
        Msg::Key(key) => on_key(state, key),
        Msg::Resize(width, height) => {
            state.size = (width, height);
            state.redraw = true;
            lists::keep_in_view(state);
            Vec::new()
        }
        Msg::Click(x, y) => navigate::click(state, x, y),
        Msg::Wheel(lines) => lists::wheel(state, lines),
        Msg::Tick => playback::tick(state),
        Msg::Quit => navigate::quit(state, &Args::default()),
        Msg::Suspend => navigate::suspend(state, &Args::default()),
        Msg::Refreshed => refreshed(state),
        Msg::Sessions { generation, sessions, truncated } if generation == state.sessions.generation => {
            state.sessions.loading = false;
            state.sessions.truncated = truncated;
            state.sessions.all = Arc::new(sessions);
            with_findings(state)
        }
        Msg::SessionsShown { generation, shown } if generation == state.sessions.shown_generation => {
            lists::sessions_shown(state, shown);
            Vec::new()
        }
        Msg::Session { generation, session, seq } => navigate::found(state, generation, *session, seq),
        Msg::Scanned { generation, ticks, ticker, chain, next_seq, done } => {
            with_session(state, generation, |session| {
                session.timeline.extend(ticks);
                session.ticker = ticker;
                session.chain = *chain;
                session.next_seq = next_seq;
                session.scanning = !done;
                session.failed = None;
            });
            playback::scanned(state, generation, done)
        }
        Msg::Page { generation, page, events } => {
            with_session(state, generation, |session| session.pages.put(page, events));
            Vec::new()
        }
        Msg::PageFailed { generation, page, error } => {
            with_session(state, generation, |session| session.pages.failed(page));
            state.complain(&error);
            return Vec::new();
        }
        Msg::Detail { generation, detail } => {
            if let Some(session) = state.session.as_mut().filter(|s| s.detail_generation == generation) {
                session.detail = detail.map(|d| Arc::new(*d));
                session.detail_scroll = (0, 0);
            }
            Vec::new()
        }
        Msg::Matched { generation, seqs, scanned, done } => matched(state, generation, seqs, scanned, done),
        Msg::Findings { generation, findings } if generation == state.findings.generation => {
            let chosen = lists::chosen_finding(state);
            state.findings.all = Arc::new(findings);
            lists::show_findings(state, chosen);
            add_evidence(state);
            with_findings(state)
        }
        Msg::Failed { generation, error } => {
            if generation == state.sessions.generation {
                state.sessions.loading = false;
            }
            with_session(state, generation, |session| {
                session.scanning = false;
                session.failed = Some(crate::shown::Shown::limit(&error, 1000));
            });
            state.complain(&error);
            Vec::new()
        }
        // An answer to a question that is no longer asked.
        Msg::Sessions { .. } | Msg::SessionsShown { .. } | Msg::Findings { .. } => Vec::new(),
    };
    commands.extend(read_what_is_in_view(state));
    commands
}

fn on_key(state: &mut State, key: Key) -> Vec<Cmd> {
    state.status = None;
    if key.ctrl && key == (Key { code: crossterm::event::KeyCode::Char('c'), ..key }) {
        state.pending.clear();
        return navigate::interrupt(state, &Args::default());
    }
    if state.prompt.is_some() {
        return prompts::key(state, key);
    }
    if let Some(overlay) = state.overlay.clone() {
        return overlays::key(state, overlay, key);
    }
    state.pending.push(key);
    let pending = state.pending.clone();
    match state.keymap.meaning(state.context(), &pending) {
        Meaning::Prefix => Vec::new(),
        Meaning::Command(command) => {
            state.pending.clear();
            (command.run)(state, &Args { text: String::new(), key: Some(key) })
        }
        Meaning::Nothing => {
            state.pending.clear();
            let keys: Vec<_> = pending.iter().map(Key::to_string).collect();
            state.say(&format!("'{}' does nothing here; ? lists what does", keys.join(" ")));
            Vec::new()
        }
    }
}

/// Runs `act` on the open session when `generation` is its own.
fn with_session(state: &mut State, generation: u64, act: impl FnOnce(&mut SessionState)) {
    if let Some(session) = state.session.as_mut().filter(|s| s.generation == generation) {
        act(session);
    }
}

/// Asks anew for what the lake may now have more of.
fn refreshed(state: &mut State) -> Vec<Cmd> {
    let mut commands = vec![state.load_sessions(), state.load_findings()];
    commands.extend(scan_on(state));
    commands
}

/// Goes on reading the open session where it stopped.
pub(crate) fn scan_on(state: &mut State) -> Option<Cmd> {
    let session = state.session.as_mut().filter(|s| !s.scanning)?;
    session.scanning = true;
    session.pages.forget_from(session.next_seq);
    Some(Cmd::Scan {
        generation: session.generation,
        session: Box::new(session.item.clone()),
        from: session.next_seq,
        ticker: session.ticker,
        chain: Box::new(session.chain.clone()),
    })
}

/// Puts the findings beside the sessions, and has them filtered and ordered anew.
fn with_findings(state: &mut State) -> Vec<Cmd> {
    let findings = state.findings.all.clone();
    attach(Arc::make_mut(&mut state.sessions.all).as_mut_slice(), &findings);
    if let Some(session) = &mut state.session {
        attach(std::slice::from_mut(&mut session.item), &findings);
    }
    refresh_open(state);
    show_sessions(state)
}

/// Takes over the newer row of the open session.
fn refresh_open(state: &mut State) {
    let Some(session) = &mut state.session else { return };
    let id = session.item.row.session_id;
    if let Some(newer) = state.sessions.all.iter().find(|s| s.row.session_id == id) {
        session.item = newer.clone();
    }
}

/// Asks for the sessions to be filtered and ordered.
pub(crate) fn show_sessions(state: &mut State) -> Vec<Cmd> {
    let text = state.sessions.filter.clone();
    let matcher = sessions_matcher(state, &text).unwrap_or_default();
    // Each has a generation of its own: findings can be there before the sessions, and what is made of those that
    // were there then may be answered last.
    state.sessions.shown_generation = state.next_generation();
    vec![Cmd::ShowSessions {
        generation: state.sessions.shown_generation,
        all: state.sessions.all.clone(),
        matcher,
        sort: state.sessions.sort,
        reversed: state.sessions.reversed,
    }]
}

/// The matcher of a filter over sessions.
pub(crate) fn sessions_matcher(state: &State, text: &str) -> Result<Matcher, crate::error::ReplayError> {
    Matcher::new(text, &state.saved, state.wall_ns, Some((SessionItem::FIELDS, SESSIONS_ONLY)))
}

fn matched(state: &mut State, generation: u64, seqs: Vec<i64>, scanned: i64, done: bool) -> Vec<Cmd> {
    let Some(session) = &mut state.session else { return Vec::new() };
    let add = |matches: &mut Matches| {
        matches.seqs.extend(seqs);
        matches.scanned = scanned;
        matches.done = done;
    };
    if let Some(filter) = session.filter.as_mut().filter(|m| m.generation == generation) {
        add(filter);
        lists::keep_in_view(state);
        return Vec::new();
    }
    if let Some(search) = session.search.as_mut().filter(|m| m.generation == generation) {
        let first = search.seqs.is_empty();
        add(search);
        let found = !search.seqs.is_empty();
        if done && !found {
            let text = format!("'{}' is not in this session", search.text);
            state.say(&text);
        } else if first && found {
            return lists::next_hit(state, &Args::default());
        }
    }
    Vec::new()
}

/// Puts the findings beside the events of the open session.
pub(crate) fn add_evidence(state: &mut State) {
    let Some(session) = &mut state.session else { return };
    let id = session.item.row.session_id;
    let mut by_seq = EvidenceBySeq::new();
    for finding in state.findings.all.iter() {
        for (_, seq) in finding.evidence.iter().filter(|(session, _)| *session == id) {
            let entry = (finding.row.rule.clone(), finding.row.severity.clone());
            let entries = by_seq.entry(*seq).or_default();
            if !entries.contains(&entry) {
                entries.push(entry);
            }
        }
    }
    session.evidence = Arc::new(by_seq);
}

/// Asks for the pages and details that the screen shows and that are not here.
pub(crate) fn read_what_is_in_view(state: &mut State) -> Vec<Cmd> {
    if state.screen != Screen::Session || layout(state).is_none() {
        return Vec::new();
    }
    let height = list_height(state);
    let generation = state.next_generation();
    let Some(session) = &mut state.session else { return Vec::new() };
    let mut commands = Vec::new();
    let from = session.top.saturating_sub(height);
    let to = session.top.saturating_add(height * (1 + AHEAD)).min(session.rows());
    // What is in view comes first.
    let rows = (session.top..to).chain(from..session.top);
    let seqs =
        rows.filter_map(|row| session.tick_of_row(row)).filter_map(|i| session.timeline.ticks().get(i));
    let mut pages: Vec<i64> = Vec::new();
    for page in session.seq().into_iter().chain(seqs.map(|t| t.seq)).map(|seq| seq.div_euclid(PAGE)) {
        if !pages.contains(&page) {
            pages.push(page);
        }
    }
    let (id, session_generation) = (session.item.row.session_id, session.generation);
    for page in pages {
        if session.pages.want(page) {
            commands.push(Cmd::Page { generation: session_generation, session: id, page });
        }
    }
    // While the session plays fast, details follow when it rests on an event.
    let seq = session.seq();
    if seq.is_some() && seq != session.detail_seq {
        session.detail_seq = seq;
        session.detail_generation = generation;
        commands.extend(seq.map(|seq| Cmd::Detail {
            generation,
            session: Box::new(session.item.clone()),
            seq,
        }));
    }
    commands
}

/// Opens an overlay.
pub(crate) fn open(state: &mut State, overlay: Overlay) -> Vec<Cmd> {
    state.overlay = Some(overlay);
    Vec::new()
}

#[cfg(test)]
mod tests;
