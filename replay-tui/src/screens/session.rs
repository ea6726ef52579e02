//! One session: who and what, the timeline, the events, the details.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use crate::app::{Pane, SessionState, State};
use crate::event::{Direction, EventItem, Mark};
use crate::layout::Layout;
use crate::screens::sessions::state_sign;
use crate::shown::{Shown, fit, fit_right};
use crate::theme::Role;
use crate::timeline::Tick;
use crate::units;
use crate::view::{put, select_row};
use crate::widgets::{details, timeline};

/// Columns of a time.
const TIME: usize = 12;

/// Draws the screen.
pub fn draw(state: &State, session: &SessionState, layout: &Layout, buf: &mut Buffer) {
    header(state, session, layout.header, buf);
    timeline::draw(state, session, layout.timeline, buf);
    if layout.list.width > 0 {
        events(state, session, layout.list, buf);
    }
    if layout.list.width > 0 && layout.detail.x > 0 {
        let bar = state.theme.sign("│", "|");
        for y in layout.list.y..layout.list.y + layout.list.height {
            buf.set_string(layout.detail.x - 1, y, bar, state.theme.style(Role::Dim));
        }
    }
    if layout.detail.width > 0 {
        details::draw(state, session, layout.detail, buf);
    }
}

fn header(state: &State, session: &SessionState, area: Rect, buf: &mut Buffer) {
    let item = &session.item;
    let row = &item.row;
    let (sign, role) = state_sign(state, item);
    let database = if row.database.is_empty() { String::new() } else { format!("/{}", row.database) };
    let chain_role = if session.chain.fault().is_some() { Role::Alert } else { Role::Good };
    let end = match &row.end_reason {
        Some(reason) => format!("{} ({reason})", row.state),
        None => row.state.clone(),
    };
    let arrow = state.theme.sign("→", "->");
    let policy = session.chain.policy().map(|d| d.to_hex());
    let policy = policy.and_then(|p| p.get(..8).map(|p| format!("  policy {p}"))).unwrap_or_default();
    let first = [
        (format!(" {sign} "), role),
        (
            format!(
                "{} {arrow} {}",
                fit_at_most(&item.who(), 30),
                fit_at_most(&Shown::of(&format!("{}{database}", row.target)), 30)
            ),
            Role::Title,
        ),
        // The chain comes before what a narrow terminal cuts off.
        ("  chain ".to_owned(), Role::Dim),
        (session.chain.label(row.events, state.theme.ascii), chain_role),
        (
            format!("  {}, {}{policy}", Shown::limit(&row.principal_kind, 20), Shown::limit(&end, 40)),
            Role::Plain,
        ),
    ];
    put(buf, area, 0, &first, state);
    let mut second = vec![(format!("   {} UTC", units::moment(row.started_ns)), Role::Dim)];
    if row.denies > 0 {
        second.push((format!("  {} denied", units::count(row.denies)), Role::Deny));
    }
    if row.simulated_clock {
        second.push(("  SIMULATED CLOCK".to_owned(), Role::Error));
    }
    let mut rules: Vec<&str> = item.findings.iter().map(|(rule, _)| rule.as_str()).collect();
    rules.dedup();
    for rule in rules.iter().take(8) {
        second.push((format!("  !{}", Shown::limit(rule, 40)), Role::Alert));
    }
    second.push((
        format!(
            "  {}, {}, {} out  {}",
            units::plural(row.statements, "step", "steps"),
            units::plural(row.rows, "row", "rows"),
            units::size(item.bytes_left()),
            row.session_id.to_string().get(..13).unwrap_or_default(),
        ),
        Role::Dim,
    ));
    put(buf, area, 1, &second, state);
}

fn fit_at_most(text: &Shown, width: usize) -> String {
    crate::shown::cut(text.as_str(), width)
}

fn events(state: &State, session: &SessionState, area: Rect, buf: &mut Buffer) {
    let focus = if session.pane == Pane::Events { Role::Title } else { Role::Dim };
    let time = if state.absolute_time { "UTC" } else { "time" };
    let wide = seq_width(session);
    let head = format!(" {} {}   verdict event", fit_right("seq", wide), fit(time, TIME));
    put(buf, area, 0, &[(head, focus)], state);
    let cursor_row = session.row_of_cursor();
    for line in 0..usize::from(area.height.saturating_sub(1)) {
        let row = session.top + line;
        let Some(tick) = session.tick_of_row(row).and_then(|i| session.timeline.ticks().get(i)) else {
            break;
        };
        let item = session.pages.event(tick.seq);
        let y = u16::try_from(line + 1).unwrap_or(u16::MAX);
        put(buf, area, y, &event_line(state, session, wide, tick, item), state);
        if row == cursor_row {
            select_row(buf, area, y, state);
        }
    }
    if session.rows() == 0 {
        let text = match (&session.filter, session.scanning) {
            (Some(filter), _) if filter.done => "no event passes the filter; esc clears it",
            (_, true) | (Some(_), _) => "reading the events",
            (None, false) => "no events of this session are in the lake",
        };
        match &session.failed {
            Some(error) => {
                put(buf, area, 2, &[(" the events cannot be read:".to_owned(), Role::Error)], state);
                for (y, line) in (3..area.height).zip(broken(error, usize::from(area.width))) {
                    put(buf, area, y, &[(format!(" {line}"), Role::Plain)], state);
                }
            }
            None => put(buf, area, 2, &[(format!(" {text}"), Role::Dim)], state),
        }
    }
}

/// A text in lines of less than `width` columns, broken where a word ends if one does.
fn broken(text: &Shown, width: usize) -> Vec<String> {
    let width = width.saturating_sub(2).max(1);
    let mut lines = vec![String::new()];
    for word in text.as_str().split(' ') {
        let room = lines.last().map_or(0, |line| width.saturating_sub(line.chars().count() + 1));
        if word.chars().count() > room {
            lines.push(String::new());
        }
        let mut letters = word.chars().peekable();
        while letters.peek().is_some() {
            if lines.last().is_some_and(|line| line.chars().count() >= width) {
                lines.push(String::new());
            }
            let Some(line) = lines.last_mut() else { break };
            let room = width - line.chars().count();
            line.extend(letters.by_ref().take(room));
        }
        if let Some(line) = lines.last_mut() {
            line.push(' ');
        }
    }
    lines.retain(|line| !line.is_empty());
    lines
}

/// Columns that the numbers of the events take.
fn seq_width(session: &SessionState) -> usize {
    session.timeline.ticks().last().map_or(3, |t| t.seq.to_string().len().max(3))
}

fn event_line(
    state: &State,
    session: &SessionState,
    seq_width: usize,
    tick: &Tick,
    item: Option<&EventItem>,
) -> Vec<(String, Role)> {
    let theme = &state.theme;
    let time = match (item, state.absolute_time) {
        (Some(item), true) => units::clock(item.event.envelope.ts_wall_ns),
        _ => units::offset(tick.at_ns),
    };
    let marked = if session.marks.contains(&tick.seq) { "m" } else { " " };
    let arrow = match item.map(EventItem::direction) {
        Some(Direction::In) => theme.sign("→", ">"),
        Some(Direction::Out) => theme.sign("←", "<"),
        Some(Direction::Gateway) | None => " ",
    };
    let (verdict, role) = match tick.mark {
        Mark::Deny => ("DENY", Role::Deny),
        Mark::Error => ("ERROR", Role::Error),
        Mark::Gap => ("GAP", Role::Gap),
        Mark::Allow if tick.step => ("ALLOW", Role::Allow),
        Mark::Allow | Mark::None => ("", Role::Plain),
    };
    let mut pieces = vec![
        (format!("{marked}{} {} ", fit_right(&tick.seq.to_string(), seq_width), fit(&time, TIME)), Role::Dim),
        (format!("{arrow} "), Role::Plain),
        (format!("{} ", fit(verdict, 7)), role),
    ];
    // One rule leaves room for what happened; the details name them all.
    if let Some([(rule, _), others @ ..]) = session.evidence.get(&tick.seq).map(Vec::as_slice) {
        let others = if others.is_empty() { String::new() } else { format!("+{}", others.len()) };
        pieces.push((format!("!{}{others} ", Shown::limit(rule, 30)), Role::Alert));
    }
    pieces.push(match item {
        Some(item) => (item.summary().into(), Role::Plain),
        None => (theme.text("…"), Role::Dim),
    });
    pieces
}
