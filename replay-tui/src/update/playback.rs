//! The player: playing, stepping, seeking.

use crate::app::{Cmd, Position, SessionState, State};
use crate::commands::Args;
use crate::event::Mark;
use crate::layout::list_height;
use crate::timeline::{Goto, Tick};

const SECOND: i64 = 1_000_000_000;
/// A result of this many rows or bytes is a large one.
const BULK_ROWS: u32 = 1000;
const BULK_BYTES: i64 = 1024 * 1024;

/// Puts the cursor on tick `index`. `stop` when a person did it: the player then stands there too.
pub(crate) fn put_cursor(state: &mut State, index: usize, stop: bool) {
    let height = list_height(state);
    let Some(session) = &mut state.session else { return };
    session.cursor = index.min(session.timeline.len().saturating_sub(1));
    if stop {
        session.player.playing = false;
        session.player.seek(&session.timeline, session.timeline.at(session.cursor));
    }
    let mut position = Position { selected: session.row_of_cursor(), top: session.top };
    position.select(position.selected, session.rows(), height);
    session.top = position.top;
}

/// Puts the player at a time and the cursor on what is shown then. Playing goes on from there.
fn seek(state: &mut State, at_ns: i64) -> Vec<Cmd> {
    let Some(session) = &mut state.session else { return Vec::new() };
    session.follow = false;
    session.player.seek(&session.timeline, at_ns);
    let index = session.timeline.index_at(session.player.at_ns).unwrap_or(0);
    put_cursor(state, index, false);
    Vec::new()
}

/// The player's time has come.
pub(crate) fn tick(state: &mut State) -> Vec<Cmd> {
    let now = state.now_ns;
    let Some(session) = &mut state.session else { return Vec::new() };
    let goes_on = session.scanning || (session.item.is_live() && session.follow);
    session.player.advance(&session.timeline, now, goes_on);
    if let Some(index) = session.timeline.index_at(session.player.at_ns)
        && index != session.cursor
    {
        put_cursor(state, index, false);
    }
    Vec::new()
}

/// More events of the session were read.
pub(crate) fn scanned(state: &mut State, generation: u64, done: bool) -> Vec<Cmd> {
    let Some(session) = state.session.as_mut().filter(|s| s.generation == generation) else {
        return Vec::new();
    };
    if let Some(seq) = session.wanted_seq
        && (seq < session.next_seq || done)
    {
        session.wanted_seq = None;
        let index = session.timeline.index_of_seq(seq);
        put_cursor(state, index, true);
    } else if session.follow && !session.timeline.is_empty() {
        let last = session.timeline.len() - 1;
        put_cursor(state, last, true);
    }
    if done && let Some(place) = state.at_start.take() {
        go_to(state, place);
    }
    if done { super::lists::look_on(state) } else { Vec::new() }
}

pub fn play(state: &mut State, _: &Args) -> Vec<Cmd> {
    let now = state.now_ns;
    if let Some(session) = &mut state.session {
        session.player.toggle(&session.timeline);
        session.follow = false;
        session.player.advance(&session.timeline, now, true);
    }
    // From the end it starts anew: the cursor goes with it.
    tick(state)
}

fn by_events(state: &mut State, forward: bool) -> Vec<Cmd> {
    let Some(session) = &state.session else { return Vec::new() };
    let row = session.row_of_cursor();
    let row = if forward { row.saturating_add(1) } else { row.saturating_sub(1) };
    if let Some(tick) = session.tick_of_row(row) {
        put_cursor(state, tick, true);
    }
    Vec::new()
}

pub fn next_event(state: &mut State, _: &Args) -> Vec<Cmd> {
    by_events(state, true)
}

pub fn previous_event(state: &mut State, _: &Args) -> Vec<Cmd> {
    by_events(state, false)
}

/// Goes to the nearest tick in a direction for which `test` holds, or says that there is none.
pub(crate) fn find(
    state: &mut State,
    forward: bool,
    what: &str,
    test: impl Fn(&SessionState, &Tick) -> bool,
) -> Vec<Cmd> {
    let Some(session) = &state.session else { return Vec::new() };
    match session.timeline.find(session.cursor, forward, |tick| test(session, tick)) {
        Some(index) => put_cursor(state, index, true),
        None => state.say(&format!("no {} {what}", if forward { "later" } else { "earlier" })),
    }
    Vec::new()
}

pub fn next_step(state: &mut State, _: &Args) -> Vec<Cmd> {
    find(state, true, "statement or request", |_, t| t.step)
}

pub fn previous_step(state: &mut State, _: &Args) -> Vec<Cmd> {
    find(state, false, "statement or request", |_, t| t.step)
}

pub fn next_error(state: &mut State, _: &Args) -> Vec<Cmd> {
    find(state, true, "error", |_, t| t.mark == Mark::Error)
}

pub fn previous_error(state: &mut State, _: &Args) -> Vec<Cmd> {
    find(state, false, "error", |_, t| t.mark == Mark::Error)
}

pub fn next_bulk(state: &mut State, _: &Args) -> Vec<Cmd> {
    find(state, true, "large result", is_bulk)
}

pub fn previous_bulk(state: &mut State, _: &Args) -> Vec<Cmd> {
    find(state, false, "large result", is_bulk)
}

fn is_bulk(_: &SessionState, tick: &Tick) -> bool {
    tick.rows >= BULK_ROWS || tick.bytes >= BULK_BYTES
}

pub fn next_mark(state: &mut State, _: &Args) -> Vec<Cmd> {
    find(state, true, "mark; m sets one", |s, t| s.marks.contains(&t.seq))
}

pub fn previous_mark(state: &mut State, _: &Args) -> Vec<Cmd> {
    find(state, false, "mark; m sets one", |s, t| s.marks.contains(&t.seq))
}

pub fn mark(state: &mut State, _: &Args) -> Vec<Cmd> {
    if let Some(session) = &mut state.session
        && let Some(seq) = session.seq()
        && !session.marks.remove(&seq)
    {
        session.marks.insert(seq);
    }
    Vec::new()
}

/// Moves along the axis that is drawn: idle time counts only where it is shown.
fn by_time(state: &mut State, by_ns: i64) -> Vec<Cmd> {
    let Some(session) = &state.session else { return Vec::new() };
    let skip = session.player.skip_idle;
    let here = session.timeline.play_ns(session.player.at_ns, skip);
    let there = session.timeline.real_ns(here.saturating_add(by_ns).max(0), skip);
    seek(state, there)
}

pub fn back_5s(state: &mut State, _: &Args) -> Vec<Cmd> {
    by_time(state, -5 * SECOND)
}

pub fn forward_5s(state: &mut State, _: &Args) -> Vec<Cmd> {
    by_time(state, 5 * SECOND)
}

pub fn back_30s(state: &mut State, _: &Args) -> Vec<Cmd> {
    by_time(state, -30 * SECOND)
}

pub fn forward_30s(state: &mut State, _: &Args) -> Vec<Cmd> {
    by_time(state, 30 * SECOND)
}

fn tenth_of(state: &State) -> i64 {
    let axis =
        state.session.as_ref().map_or(0, |s| s.timeline.play_ns(s.timeline.end_ns(), s.player.skip_idle));
    axis / 10
}

pub fn back_tenth(state: &mut State, _: &Args) -> Vec<Cmd> {
    let tenth = tenth_of(state);
    by_time(state, -tenth)
}

pub fn forward_tenth(state: &mut State, _: &Args) -> Vec<Cmd> {
    let tenth = tenth_of(state);
    by_time(state, tenth)
}

pub fn tenth(state: &mut State, args: &Args) -> Vec<Cmd> {
    let digit = args.key.and_then(|k| k.char()).and_then(|c| c.to_digit(10)).unwrap_or(0);
    let Some(session) = &state.session else { return Vec::new() };
    let axis = session.timeline.play_ns(session.timeline.end_ns(), session.player.skip_idle);
    let there = i64::try_from(i128::from(axis) * i128::from(digit) / 10).unwrap_or(0);
    let real = session.timeline.real_ns(there, session.player.skip_idle);
    seek(state, real)
}

/// Goes to a place that was written.
pub(crate) fn go_to(state: &mut State, place: Goto) -> Vec<Cmd> {
    let Some(session) = &state.session else { return Vec::new() };
    if !session.scanning
        && let Err(past_end) = place.check(&session.timeline)
    {
        state.complain(&past_end.to_string());
        return Vec::new();
    }
    if let Goto::Seq(seq) = place {
        let index = session.timeline.index_of_seq(seq);
        put_cursor(state, index, true);
        return Vec::new();
    }
    let at_ns = place.at_ns(&session.timeline, session.item.row.started_ns);
    seek(state, at_ns)
}

/// Goes to a column of the timeline.
pub(crate) fn to_column(state: &mut State, column: usize, width: usize) -> Vec<Cmd> {
    let Some(session) = &state.session else { return Vec::new() };
    let skip = session.player.skip_idle;
    let axis = i128::from(session.timeline.play_ns(session.timeline.end_ns(), skip));
    let (column, width) =
        (i128::try_from(column).unwrap_or(0), i128::try_from(width.max(2) - 1).unwrap_or(1));
    let there = i64::try_from(axis * column / width).unwrap_or(0);
    let real = session.timeline.real_ns(there, skip);
    seek(state, real)
}

pub fn live_edge(state: &mut State, _: &Args) -> Vec<Cmd> {
    if let Some(session) = &mut state.session {
        session.follow = true;
        let last = session.timeline.len().saturating_sub(1);
        put_cursor(state, last, true);
    }
    Vec::new()
}

pub fn follow(state: &mut State, args: &Args) -> Vec<Cmd> {
    match &mut state.session {
        Some(session) if session.follow => {
            session.follow = false;
            Vec::new()
        }
        _ => live_edge(state, args),
    }
}

pub fn faster(state: &mut State, _: &Args) -> Vec<Cmd> {
    if let Some(session) = &mut state.session {
        session.player.change_speed(true);
    }
    Vec::new()
}

pub fn slower(state: &mut State, _: &Args) -> Vec<Cmd> {
    if let Some(session) = &mut state.session {
        session.player.change_speed(false);
    }
    Vec::new()
}

pub fn real_time(state: &mut State, _: &Args) -> Vec<Cmd> {
    if let Some(session) = &mut state.session {
        session.player.reset_speed();
    }
    Vec::new()
}

pub fn idle_skip(state: &mut State, _: &Args) -> Vec<Cmd> {
    if let Some(session) = &mut state.session {
        session.player.skip_idle = !session.player.skip_idle;
    }
    Vec::new()
}
