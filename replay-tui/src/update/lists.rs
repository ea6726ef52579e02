//! Moving in lists, ordering, filtering, searching.

use std::sync::Arc;

use bodycam_record::Id16;

use crate::app::{Cmd, MatchRequest, Matches, Pane, Position, Screen, SortBy, State};
use crate::commands::Args;
use crate::layout::{detail_height, list_height};
use crate::matcher::{Matcher, Row};
use crate::update::{self, show_sessions};

/// Moves the choice (or the details) by so many lines.
fn step(state: &mut State, by: i64) -> Vec<Cmd> {
    let height = list_height(state);
    match state.screen {
        Screen::Sessions => {
            let list = &mut state.sessions;
            list.position.select(list.position.moved(by), list.shown.len(), height);
        }
        Screen::Findings => {
            let list = &mut state.findings;
            list.position.select(list.position.moved(by), list.shown.len(), height);
            list.walking = None;
        }
        Screen::Session => {
            let Some(session) = &mut state.session else { return Vec::new() };
            if session.pane == Pane::Detail {
                let (line, _) = &mut session.detail_scroll;
                let moved = i64::try_from(*line).unwrap_or(0).saturating_add(by).max(0);
                *line = usize::try_from(moved).unwrap_or(0);
                return Vec::new();
            }
            let row = Position { selected: session.row_of_cursor(), top: session.top }.moved(by);
            to_row(state, row);
        }
    }
    Vec::new()
}

/// Puts the cursor of the session on row `row` of the event list; playing stops.
fn to_row(state: &mut State, row: usize) {
    let Some(session) = &mut state.session else { return };
    let row = row.min(session.rows().saturating_sub(1));
    if let Some(tick) = session.tick_of_row(row) {
        session.follow = false;
        update::playback::put_cursor(state, tick, true);
    }
}

/// Moves the views so that what is chosen is in them.
pub(crate) fn keep_in_view(state: &mut State) {
    let height = list_height(state);
    let list = &mut state.sessions;
    list.position.select(list.position.selected, list.shown.len(), height);
    let list = &mut state.findings;
    list.position.select(list.position.selected, list.shown.len(), height);
    if let Some(session) = &mut state.session {
        let mut position = Position { selected: session.row_of_cursor(), top: session.top };
        position.select(position.selected, session.rows(), height);
        session.top = position.top;
    }
}

pub fn down(state: &mut State, _: &Args) -> Vec<Cmd> {
    step(state, 1)
}

pub fn up(state: &mut State, _: &Args) -> Vec<Cmd> {
    step(state, -1)
}

pub fn half_down(state: &mut State, _: &Args) -> Vec<Cmd> {
    let by = page(state) / 2;
    step(state, by.max(1))
}

pub fn half_up(state: &mut State, _: &Args) -> Vec<Cmd> {
    let by = page(state) / 2;
    step(state, -by.max(1))
}

pub fn page_down(state: &mut State, _: &Args) -> Vec<Cmd> {
    let by = page(state);
    step(state, by)
}

pub fn page_up(state: &mut State, _: &Args) -> Vec<Cmd> {
    let by = page(state);
    step(state, -by)
}

pub fn top(state: &mut State, _: &Args) -> Vec<Cmd> {
    step(state, i64::MIN / 2)
}

pub fn bottom(state: &mut State, _: &Args) -> Vec<Cmd> {
    if let (Screen::Session, Some(session)) = (state.screen, &mut state.session)
        && session.pane == Pane::Detail
    {
        // The view knows how long the details are: it clamps.
        session.detail_scroll.0 = usize::MAX / 2;
        return Vec::new();
    }
    step(state, i64::MAX / 2)
}

fn page(state: &State) -> i64 {
    let in_detail = state.session.as_ref().is_some_and(|s| s.pane == Pane::Detail);
    let lines = match state.screen == Screen::Session && in_detail {
        true => detail_height(state),
        false => list_height(state),
    };
    i64::try_from(lines.saturating_sub(1).max(1)).unwrap_or(1)
}

/// The wheel moves the choice, or the details when they have the focus.
pub(crate) fn wheel(state: &mut State, lines: i64) -> Vec<Cmd> {
    step(state, lines)
}

pub fn column_left(state: &mut State, _: &Args) -> Vec<Cmd> {
    if let Some(session) = &mut state.session {
        session.detail_scroll.1 = session.detail_scroll.1.saturating_sub(1);
    }
    Vec::new()
}

pub fn column_right(state: &mut State, _: &Args) -> Vec<Cmd> {
    if let Some(session) = &mut state.session {
        let columns = session.detail.as_ref().and_then(|d| d.table.as_ref()).map_or(1, |t| t.columns().len());
        session.detail_scroll.1 = (session.detail_scroll.1 + 1).min(columns.saturating_sub(1));
    }
    Vec::new()
}

pub fn sort(state: &mut State, _: &Args) -> Vec<Cmd> {
    let at = SortBy::ALL.iter().position(|s| *s == state.sessions.sort).unwrap_or(0);
    state.sessions.sort = SortBy::ALL.get(at + 1).copied().unwrap_or_default();
    reorder(state)
}

pub fn reverse(state: &mut State, _: &Args) -> Vec<Cmd> {
    state.sessions.reversed = !state.sessions.reversed;
    reorder(state)
}

fn reorder(state: &mut State) -> Vec<Cmd> {
    let order = if state.sessions.reversed { "ascending" } else { "descending" };
    let text = format!("sorted by {}, {order}", state.sessions.sort.name());
    state.say(&text);
    state.sessions.generation = state.next_generation();
    show_sessions(state)
}

/// Takes over the filtered list; the chosen session stays chosen.
pub(crate) fn sessions_shown(state: &mut State, shown: Vec<u32>) {
    let height = list_height(state);
    let list = &mut state.sessions;
    let all = list.all.clone();
    let id = |index: Option<&u32>| {
        index.and_then(|i| all.get(usize::try_from(*i).ok()?)).map(|s| s.row.session_id)
    };
    let chosen = list.chosen.or_else(|| id(list.shown.get(list.position.selected)));
    let row = chosen.and_then(|chosen| shown.iter().position(|i| id(Some(i)) == Some(chosen)));
    list.shown = Arc::new(shown);
    // At the top of the list new sessions come into view; elsewhere what is chosen stays chosen.
    let selected = if list.position.selected == 0 { 0 } else { row.unwrap_or(list.position.selected) };
    list.position.select(selected, list.shown.len(), height);
    list.chosen = None;
}

/// Filters and orders the findings again; the `chosen` one stays so.
pub(crate) fn show_findings(state: &mut State, chosen: Option<Id16>) {
    let height = list_height(state);
    let known = Some((crate::text::FINDING_FIELDS, "findings"));
    let matcher =
        Matcher::new(&state.findings.filter, &state.saved, state.wall_ns, known).unwrap_or_default();
    let list = &mut state.findings;
    let shown = list.all.iter().enumerate().filter(|(_, f)| matcher.matches(*f)).map(|(i, _)| i);
    list.shown = shown.collect();
    if list.newest_first {
        // Stable: of the same window the highest severity stays first.
        list.shown.sort_by_key(|i| list.all.get(*i).map(|f| std::cmp::Reverse(f.row.window_end_ns)));
    }
    let is_chosen = |i: &usize| chosen.is_some() && list.all.get(*i).map(|f| f.row.id) == chosen;
    let row = list.shown.iter().position(is_chosen);
    // At the top of the list new findings come into view; elsewhere what is chosen stays chosen.
    let selected = if list.position.selected == 0 { 0 } else { row.unwrap_or(list.position.selected) };
    list.position.select(selected, list.shown.len(), height);
}

/// The id of the chosen finding.
pub(crate) fn chosen_finding(state: &State) -> Option<Id16> {
    state.selected_finding().map(|f| f.row.id)
}

pub fn sort_findings(state: &mut State, _: &Args) -> Vec<Cmd> {
    state.findings.newest_first = !state.findings.newest_first;
    let order = if state.findings.newest_first { "newest first" } else { "highest severity first" };
    state.say(order);
    let chosen = chosen_finding(state);
    show_findings(state, chosen);
    Vec::new()
}

pub fn only_principal(state: &mut State, _: &Args) -> Vec<Cmd> {
    add_principal(state, "")
}

pub fn without_principal(state: &mut State, _: &Args) -> Vec<Cmd> {
    add_principal(state, "not ")
}

fn add_principal(state: &mut State, prefix: &str) -> Vec<Cmd> {
    let Some(session) = state.selected_session() else { return Vec::new() };
    let name = match &session.principal {
        Some(name) => quoted(name),
        None => session.row.principal_ref.to_hex(),
    };
    let filter = format!("{} {prefix}principal={name}", state.sessions.filter);
    apply_filter(state, filter.trim())
}

/// Puts a filter in force on the screen in front. It was parsed before.
pub(crate) fn apply_filter(state: &mut State, text: &str) -> Vec<Cmd> {
    match state.screen {
        Screen::Sessions => {
            state.sessions.chosen = state.selected_session().map(|s| s.row.session_id);
            state.sessions.filter = text.to_owned();
            state.sessions.generation = state.next_generation();
            show_sessions(state)
        }
        Screen::Findings => {
            state.findings.filter = text.to_owned();
            let chosen = chosen_finding(state);
            show_findings(state, chosen);
            Vec::new()
        }
        Screen::Session => {
            let Ok(matcher) = Matcher::new(text, &state.saved, state.wall_ns, None) else {
                return Vec::new();
            };
            let generation = state.next_generation();
            let Some(session) = &mut state.session else { return Vec::new() };
            session.filter = (!matcher.is_empty()).then(|| Matches {
                text: text.to_owned(),
                generation,
                ..Matches::default()
            });
            session.top = 0;
            keep_in_view(state);
            if matcher.is_empty() {
                return Vec::new();
            }
            look_for(state, matcher, generation, 0, false)
        }
    }
}

fn look_for(state: &State, matcher: Matcher, generation: u64, from: i64, search: bool) -> Vec<Cmd> {
    let Some(session) = &state.session else { return Vec::new() };
    let (item, evidence) = (session.item.clone(), session.evidence.clone());
    vec![Cmd::Match(Box::new(MatchRequest { generation, session: item, matcher, evidence, from, search }))]
}

/// The session has grown: its filter and its search look at what is new.
pub(crate) fn look_on(state: &mut State) -> Vec<Cmd> {
    let (saved, wall_ns) = (state.saved.clone(), state.wall_ns);
    let Some(session) = &mut state.session else { return Vec::new() };
    let mut requests = Vec::new();
    let next_seq = session.next_seq;
    for (matches, search) in [(&mut session.filter, false), (&mut session.search, true)] {
        let Some(matches) = matches.as_mut().filter(|m| m.done && m.scanned < next_seq) else { continue };
        let text = if search { quoted(&matches.text) } else { matches.text.clone() };
        if let Ok(matcher) = Matcher::new(&text, &saved, wall_ns, None) {
            matches.done = false;
            requests.push((matcher, matches.generation, matches.scanned, search));
        }
    }
    requests
        .into_iter()
        .flat_map(|(m, generation, from, search)| look_for(state, m, generation, from, search))
        .collect()
}

/// Text as a filter that looks for it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Starts a search on the screen in front.
pub(crate) fn apply_search(state: &mut State, text: &str) -> Vec<Cmd> {
    match state.screen {
        Screen::Sessions => {
            state.sessions.search = text.to_lowercase();
            next_hit(state, &Args::default())
        }
        Screen::Findings => {
            state.findings.search = text.to_lowercase();
            next_hit(state, &Args::default())
        }
        Screen::Session => {
            let generation = state.next_generation();
            let Some(session) = &mut state.session else { return Vec::new() };
            session.search = None;
            let Ok(matcher) = Matcher::new(&quoted(text), &state.saved, state.wall_ns, None) else {
                return Vec::new();
            };
            session.search = Some(Matches { text: text.to_owned(), generation, ..Matches::default() });
            look_for(state, matcher, generation, 0, true)
        }
    }
}

pub fn next_hit(state: &mut State, _: &Args) -> Vec<Cmd> {
    hit(state, true)
}

pub fn previous_hit(state: &mut State, _: &Args) -> Vec<Cmd> {
    hit(state, false)
}

fn hit(state: &mut State, forward: bool) -> Vec<Cmd> {
    let found = match state.screen {
        Screen::Sessions => {
            let list = &state.sessions;
            let row = |i: usize| list.shown.get(i).and_then(|i| list.all.get(usize::try_from(*i).ok()?));
            let holds = |i: usize| row(i).is_some_and(|s| has_words(s, &list.search));
            next_row(list.position.selected, list.shown.len(), forward, &list.search, holds)
        }
        Screen::Findings => {
            let list = &state.findings;
            let row = |i: usize| list.shown.get(i).and_then(|i| list.all.get(*i));
            let holds = |i: usize| row(i).is_some_and(|f| has_words(f, &list.search));
            next_row(list.position.selected, list.shown.len(), forward, &list.search, holds)
        }
        Screen::Session => return hit_in_session(state, forward),
    };
    match found {
        Some(row) => {
            let here = match state.screen {
                Screen::Sessions => state.sessions.position.selected,
                _ => state.findings.position.selected,
            };
            let to = i64::try_from(row).unwrap_or(0) - i64::try_from(here).unwrap_or(0);
            step(state, to)
        }
        None => {
            state.say("no hit; / searches");
            Vec::new()
        }
    }
}

fn has_words(row: &dyn Row, search: &str) -> bool {
    row.words().iter().any(|w| w.to_lowercase().contains(search))
}

/// The next row that holds, around the end of the list.
fn next_row(
    at: usize,
    count: usize,
    forward: bool,
    search: &str,
    holds: impl Fn(usize) -> bool,
) -> Option<usize> {
    if search.is_empty() {
        return None;
    }
    (1..=count)
        .map(|n| if forward { (at + n) % count } else { (at + count - n) % count })
        .find(|row| holds(*row))
}

fn hit_in_session(state: &mut State, forward: bool) -> Vec<Cmd> {
    let Some(session) = &state.session else { return Vec::new() };
    let Some(search) = &session.search else {
        state.say("nothing was searched for; / searches");
        return Vec::new();
    };
    let here = session.seq().unwrap_or(0);
    let around = match forward {
        true => search.seqs.iter().find(|s| **s > here).or(search.seqs.first()),
        false => search.seqs.iter().rev().find(|s| **s < here).or(search.seqs.last()),
    };
    let Some(seq) = around.copied() else {
        let text = if search.done { "no hit" } else { "no hit yet" };
        state.say(text);
        return Vec::new();
    };
    let nth = search.seqs.partition_point(|s| *s <= seq);
    let more = if search.done { "" } else { "+" };
    let text = format!("hit {nth} of {}{more}", search.seqs.len());
    let tick = session.timeline.index_of_seq(seq);
    update::playback::put_cursor(state, tick, true);
    state.say(&text);
    Vec::new()
}

/// Chooses the row that is `row` lines below the first in view.
pub(crate) fn click_row(state: &mut State, row: usize) -> Vec<Cmd> {
    let height = list_height(state);
    match state.screen {
        Screen::Sessions => {
            let list = &mut state.sessions;
            list.position.select(list.position.top + row, list.shown.len(), height);
        }
        Screen::Findings => {
            let list = &mut state.findings;
            list.position.select(list.position.top + row, list.shown.len(), height);
        }
        Screen::Session => {
            let top = state.session.as_mut().map_or(0, |session| {
                session.pane = Pane::Events;
                session.top
            });
            to_row(state, top + row);
        }
    }
    Vec::new()
}
