//! From screen to screen, pane to pane.

use bodycam_record::SessionId;

use crate::app::{Cmd, DetailView, Pane, Screen, SessionState, State};
use crate::commands::Args;
use crate::layout::layout;
use crate::source::{SessionItem, attach};
use crate::update::{add_evidence, lists, playback};

/// How long ctrl-c waits for the second one.
const INTERRUPT_NS: i64 = 2_000_000_000;

fn go(state: &mut State, screen: Screen) {
    if state.screen != screen {
        state.history.retain(|s| *s != screen);
        state.history.push(state.screen);
        state.screen = screen;
    }
    lists::keep_in_view(state);
}

pub fn sessions(state: &mut State, _: &Args) -> Vec<Cmd> {
    go(state, Screen::Sessions);
    Vec::new()
}

pub fn findings(state: &mut State, _: &Args) -> Vec<Cmd> {
    go(state, Screen::Findings);
    Vec::new()
}

pub fn back(state: &mut State, _: &Args) -> Vec<Cmd> {
    if let (Screen::Session, Some(session)) = (state.screen, &mut state.session)
        && session.pane == Pane::Detail
    {
        session.pane = Pane::Events;
        session.maximised = false;
        return Vec::new();
    }
    if let (Screen::Session, Some(session)) = (state.screen, &mut state.session) {
        session.player.playing = false;
    }
    match state.history.pop() {
        Some(screen) => {
            state.screen = screen;
            lists::keep_in_view(state);
        }
        None if state.screen != Screen::Sessions => state.screen = Screen::Sessions,
        None => state.quit = true,
    }
    Vec::new()
}

pub fn quit(state: &mut State, _: &Args) -> Vec<Cmd> {
    state.quit = true;
    Vec::new()
}

/// Clears the search and the filter, one at a time.
pub fn cancel(state: &mut State, _: &Args) -> Vec<Cmd> {
    match (state.screen, &mut state.session) {
        (Screen::Session, Some(session)) if session.search.is_some() => {
            session.search = None;
            Vec::new()
        }
        (Screen::Session, Some(session)) if session.filter.is_some() => lists::apply_filter(state, ""),
        (Screen::Session, _) => Vec::new(),
        (Screen::Sessions, _) if !state.sessions.search.is_empty() => {
            state.sessions.search.clear();
            Vec::new()
        }
        (Screen::Findings, _) if !state.findings.search.is_empty() => {
            state.findings.search.clear();
            Vec::new()
        }
        _ => lists::apply_filter(state, ""),
    }
}

/// Cancels what runs: a search or filter that still looks, playing. Twice within two seconds it leaves.
pub fn interrupt(state: &mut State, _: &Args) -> Vec<Cmd> {
    let again = state.interrupted_ns.is_some_and(|at| state.now_ns - at < INTERRUPT_NS);
    state.interrupted_ns = Some(state.now_ns);
    if again {
        state.quit = true;
        return Vec::new();
    }
    state.prompt = None;
    state.overlay = None;
    // Work of an older generation is dropped by the workers.
    let generation = state.next_generation();
    if let Some(session) = &mut state.session {
        session.player.playing = false;
        for matches in [&mut session.filter, &mut session.search].into_iter().flatten().filter(|m| !m.done) {
            matches.generation = generation;
            matches.done = true;
        }
    }
    state.say("cancelled; ctrl-c again leaves");
    Vec::new()
}

pub fn suspend(state: &mut State, _: &Args) -> Vec<Cmd> {
    state.suspend = true;
    Vec::new()
}

pub fn redraw(state: &mut State, _: &Args) -> Vec<Cmd> {
    state.redraw = true;
    Vec::new()
}

pub fn toggle_time(state: &mut State, _: &Args) -> Vec<Cmd> {
    state.absolute_time = !state.absolute_time;
    Vec::new()
}

pub fn open_selected(state: &mut State, _: &Args) -> Vec<Cmd> {
    match state.selected_session().cloned() {
        Some(session) => open(state, session, None),
        None => Vec::new(),
    }
}

/// Opens a session, at an event where one is named.
pub fn open(state: &mut State, item: SessionItem, seq: Option<i64>) -> Vec<Cmd> {
    let same = state.session.as_ref().is_some_and(|s| s.item.row.session_id == item.row.session_id);
    if same {
        go(state, Screen::Session);
        if let (Some(seq), Some(session)) = (seq, &mut state.session) {
            session.wanted_seq = Some(seq);
            let generation = session.generation;
            return playback::scanned(state, generation, false);
        }
        return Vec::new();
    }
    let generation = state.next_generation();
    let mut item = item;
    attach(std::slice::from_mut(&mut item), &state.findings.all);
    state.session = Some(SessionState::new(item, generation, seq));
    go(state, Screen::Session);
    add_evidence(state);
    let Some(session) = &state.session else { return Vec::new() };
    vec![Cmd::Scan {
        generation,
        session: Box::new(session.item.clone()),
        from: 0,
        ticker: session.ticker,
        chain: Box::new(session.chain.clone()),
    }]
}

/// `ID`, `ID#SEQ` or `bodycam://session/ID#SEQ`.
pub fn open_by_id(state: &mut State, args: &Args) -> Vec<Cmd> {
    let text = args.text.trim();
    let text = text.strip_prefix("bodycam://session/").unwrap_or(text);
    let (id, seq) = match text.split_once('#') {
        Some((id, seq)) => (id, seq.parse::<i64>().ok()),
        None => (text, None),
    };
    match id.parse::<SessionId>() {
        Ok(session) => open_at(state, session, seq),
        Err(_) => {
            let all = state.sessions.all.clone();
            let mut named =
                all.iter().filter(|s| id.len() >= 4 && s.row.session_id.to_string().starts_with(id));
            match (named.next(), named.next()) {
                (Some(only), None) => open(state, only.clone(), seq),
                _ => {
                    state.complain(&format!("'{id}' names no session (or several)"));
                    Vec::new()
                }
            }
        }
    }
}

/// Opens a session that is perhaps not in the list.
pub(crate) fn open_at(state: &mut State, session: SessionId, seq: Option<i64>) -> Vec<Cmd> {
    let open_one = state.session.as_ref().map(|s| &s.item).filter(|s| s.row.session_id == session).cloned();
    let listed = || state.sessions.all.iter().find(|s| s.row.session_id == session).cloned();
    match open_one.or_else(listed) {
        Some(item) => open(state, item, seq),
        None => vec![Cmd::Session { generation: state.next_generation(), session, seq }],
    }
}

/// A session that was looked for was found.
pub(crate) fn found(state: &mut State, _generation: u64, item: SessionItem, seq: Option<i64>) -> Vec<Cmd> {
    open(state, item, seq)
}

pub fn other_pane(state: &mut State, _: &Args) -> Vec<Cmd> {
    if let Some(session) = &mut state.session {
        session.pane = match session.pane {
            Pane::Events => Pane::Detail,
            Pane::Detail => Pane::Events,
        };
    }
    lists::keep_in_view(state);
    Vec::new()
}

pub fn into_detail(state: &mut State, _: &Args) -> Vec<Cmd> {
    if let Some(session) = &mut state.session {
        session.pane = Pane::Detail;
    }
    Vec::new()
}

pub fn maximise(state: &mut State, _: &Args) -> Vec<Cmd> {
    if let Some(session) = &mut state.session {
        session.maximised = !session.maximised;
    }
    lists::keep_in_view(state);
    Vec::new()
}

pub fn raw(state: &mut State, _: &Args) -> Vec<Cmd> {
    show_as(state, DetailView::Raw)
}

pub fn hex(state: &mut State, _: &Args) -> Vec<Cmd> {
    show_as(state, DetailView::Hex)
}

fn show_as(state: &mut State, view: DetailView) -> Vec<Cmd> {
    if let Some(session) = &mut state.session {
        session.detail_view = if session.detail_view == view { DetailView::Pretty } else { view };
        session.detail_scroll = (0, 0);
    }
    Vec::new()
}

/// A click chooses a row, or a place on the timeline.
pub(crate) fn click(state: &mut State, x: u16, y: u16) -> Vec<Cmd> {
    let Some(layout) = layout(state) else { return Vec::new() };
    let inside = |r: ratatui::layout::Rect| {
        x >= r.x && y >= r.y && x < r.x.saturating_add(r.width) && y < r.y.saturating_add(r.height)
    };
    if state.overlay.is_some() || state.prompt.is_some() {
        return Vec::new();
    }
    if inside(layout.timeline) {
        let column = usize::from(x.saturating_sub(layout.timeline.x));
        return playback::to_column(state, column, usize::from(layout.timeline.width));
    }
    if inside(layout.detail) {
        return match state.session.as_ref().is_some_and(|s| s.pane == Pane::Events) {
            true => other_pane(state, &Args::default()),
            false => Vec::new(),
        };
    }
    if inside(layout.list) && y > layout.list.y {
        let row = usize::from(y - layout.list.y - 1);
        return lists::click_row(state, row);
    }
    Vec::new()
}
