//! The timeline: a row of heat, a row of marks, the axis with the cursor and the idle gaps, the position.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use crate::app::{SessionState, State};
use crate::theme::Role;
use crate::units;
use crate::view::put;

/// Draws the timeline.
pub fn draw(state: &State, session: &SessionState, area: Rect, buf: &mut Buffer) {
    let width = usize::from(area.width);
    let skip = session.player.skip_idle;
    let buckets = session.timeline.buckets(width, skip);
    let theme = state.theme;

    let hottest = buckets.iter().map(|b| b.totals.heat()).fold(0.0, f64::max);
    for (x, bucket) in buckets.iter().enumerate() {
        let heat = bucket.totals.heat();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 8")]
        let level = if heat > 0.0 { 1 + (heat / hottest * 7.0) as usize } else { 0 };
        set(buf, area, x, 0, theme.heat(level), Role::Heat, state);
    }

    for (x, bucket) in buckets.iter().enumerate() {
        let totals = &bucket.totals;
        let (sign, role) = match () {
            () if totals.denies > 0 => ("D", Role::Deny),
            () if totals.errors > 0 => ("E", Role::Error),
            () if totals.gaps > 0 => ("G", Role::Gap),
            () => (" ", Role::Plain),
        };
        set(buf, area, x, 1, sign, role, state);
    }
    let column = |seq: i64| {
        let at_ns = session.timeline.at(session.timeline.index_of_seq(seq));
        session.timeline.column_of(at_ns, width, skip)
    };
    for seq in &session.marks {
        set(buf, area, column(*seq), 1, "m", Role::Bound, state);
    }
    for seq in session.evidence.keys() {
        set(buf, area, column(*seq), 1, "!", Role::Alert, state);
    }

    let line = theme.sign("─", "-").repeat(width);
    put(buf, Rect { y: area.y + 2, height: 1, ..area }, 0, &[(line, Role::Dim)], state);
    for (x, bucket) in buckets.iter().enumerate() {
        if let Some(idle) = bucket.idle_ns {
            let label = format!("{}{}", theme.sign("⋯", "~"), short(idle));
            let room = Rect {
                x: area.x + u16::try_from(x).unwrap_or(0),
                y: area.y + 2,
                width: area.width - u16::try_from(x).unwrap_or(0),
                height: 1,
            };
            put(buf, room, 0, &[(label, Role::Dim)], state);
        }
    }
    let here = session.timeline.column_of(session.player.at_ns, width, skip);
    set(buf, area, here, 2, theme.sign("●", "O"), Role::Title, state);

    put(buf, Rect { y: area.y + 3, height: 1, ..area }, 0, &position(state, session), state);
}

fn position(state: &State, session: &SessionState) -> Vec<(String, Role)> {
    let events = session.timeline.len();
    let totals = session.timeline.totals(session.cursor.saturating_add(1));
    let nth = if events == 0 { 0 } else { session.cursor + 1 };
    let playing = match (session.player.playing, session.follow) {
        (true, _) => state.theme.sign("▶", ">"),
        (false, true) => "following",
        (false, false) => "paused",
    };
    let idle = if session.player.skip_idle { "idle cut" } else { "idle kept" };
    let reading = if session.scanning { "  reading" } else { "" };
    vec![
        (
            format!(
                " {} / {}",
                units::position(session.player.at_ns),
                units::position(session.timeline.end_ns())
            ),
            Role::Plain,
        ),
        (
            format!(
                "  event {}/{}  {playing} {}  {idle}{reading}",
                units::count(i64::try_from(nth).unwrap_or(0)),
                units::count(i64::try_from(events).unwrap_or(0)),
                session.player.speed_label()
            ),
            Role::Dim,
        ),
        (
            format!(
                "  so far {}, {}, {}",
                units::plural(totals.steps, "step", "steps"),
                units::plural(totals.rows, "row", "rows"),
                units::size(totals.bytes)
            ),
            Role::Dim,
        ),
    ]
}

/// `10m`, `45s`, `2h`.
fn short(ns: i64) -> String {
    let seconds = ns / 1_000_000_000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn set(buf: &mut Buffer, area: Rect, x: usize, y: u16, sign: &str, role: Role, state: &State) {
    let x = area.x.saturating_add(u16::try_from(x).unwrap_or(u16::MAX));
    if x < area.x + area.width && y < area.height {
        buf.set_string(x, area.y + y, sign, state.theme.style(role));
    }
}
