//! The list of sessions.

use ratatui::buffer::Buffer;

use crate::app::State;
use crate::layout::Layout;
use crate::shown::{Shown, fit, fit_right};
use crate::source::SessionItem;
use crate::theme::Role;
use crate::units;
use crate::view::{put, select_row};

/// A column: its heading, its width in a wide and in a narrow terminal (0 takes a share of what is left), and
/// the narrowest terminal that shows it.
struct Column {
    name: &'static str,
    width: usize,
    narrow: usize,
    from: u16,
    right: bool,
    text: fn(&SessionItem) -> Shown,
}

const START: &str = "start (UTC)";
/// From here on columns have their wide width.
const WIDE: u16 = 90;

const COLUMNS: [Column; 10] = [
    Column { name: START, width: 14, narrow: 11, from: 0, right: false, text: start },
    Column {
        name: "lasted",
        width: 8,
        narrow: 8,
        from: 80,
        right: true,
        text: |s| Shown::of(&units::duration(s.duration_ns())),
    },
    Column { name: "principal", width: 0, narrow: 0, from: 0, right: false, text: SessionItem::who },
    Column {
        name: "target",
        width: 0,
        narrow: 0,
        from: 0,
        right: false,
        text: |s| Shown::limit(&s.row.target, 200),
    },
    Column {
        name: "proto",
        width: 8,
        narrow: 8,
        from: 90,
        right: false,
        text: |s| Shown::limit(&s.row.protocol, 20),
    },
    Column {
        name: "events",
        width: 6,
        narrow: 6,
        from: 80,
        right: true,
        text: |s| Shown::of(&units::short_count(s.row.events)),
    },
    Column {
        name: "rows",
        width: 6,
        narrow: 6,
        from: 0,
        right: true,
        text: |s| Shown::of(&units::short_count(s.row.rows)),
    },
    Column {
        name: "out",
        width: 8,
        narrow: 8,
        from: 70,
        right: true,
        text: |s| Shown::of(&units::size(s.bytes_left())),
    },
    Column { name: "deny", width: 4, narrow: 4, from: 0, right: true, text: denies },
    Column { name: "findings", width: 16, narrow: 8, from: 60, right: false, text: findings },
];

fn start(session: &SessionItem) -> Shown {
    let moment = units::moment(session.row.started_ns);
    Shown::of(moment.get(5..).unwrap_or(&moment))
}

fn denies(session: &SessionItem) -> Shown {
    match session.row.denies {
        0 => Shown::default(),
        n => Shown::of(&format!("D{}", units::short_count(n))),
    }
}

fn findings(session: &SessionItem) -> Shown {
    let rules: Vec<String> = session.findings.iter().map(|(rule, _)| format!("!{rule}")).collect();
    Shown::limit(&rules.join(" "), 100)
}

/// The sign of a session's state, with its meaning in letters for the legend.
pub(crate) fn state_sign(state: &State, session: &SessionItem) -> (&'static str, Role) {
    match session.row.state.as_str() {
        "open" => (state.theme.sign("●", "*"), Role::Live),
        "sealed" => (state.theme.sign("■", "#"), Role::Dim),
        _ => (state.theme.sign("⚠", "!"), Role::Alert),
    }
}

/// Draws the screen.
pub fn draw(state: &State, layout: &Layout, buf: &mut Buffer) {
    let list = &state.sessions;
    let shown = units::count(i64::try_from(list.shown.len()).unwrap_or(0));
    let all = units::count(i64::try_from(list.all.len()).unwrap_or(0));
    let count = match (list.loading, list.filter.is_empty(), list.truncated) {
        (true, ..) => state.theme.text("reading…"),
        (_, true, false) => format!("{all} sessions"),
        (_, true, true) => format!("the newest {all} sessions ([replay] max_sessions)"),
        (_, false, _) => format!("{shown} of {all} sessions"),
    };
    let order = if list.reversed { "ascending" } else { "descending" };
    let header = [
        (" bodycam replay  ".to_owned(), Role::Title),
        (format!("{}  ", Shown::limit(&state.lake, 100)), Role::Dim),
        (count, Role::Plain),
        (format!("  by {} {order}", list.sort.name()), Role::Dim),
    ];
    put(buf, layout.header, 0, &header, state);

    let columns: Vec<&Column> = COLUMNS.iter().filter(|c| layout.list.width >= c.from).collect();
    let narrow = layout.list.width < WIDE;
    let set = |c: &Column| if narrow { c.narrow } else { c.width };
    let fixed: usize = columns.iter().map(|c| set(c) + 1).sum::<usize>() + 2;
    let shares = columns.iter().filter(|c| c.width == 0).count().max(1);
    let share = (usize::from(layout.list.width).saturating_sub(fixed) / shares).max(6);
    let width = |c: &Column| if c.width == 0 { share } else { set(c) };
    let heads: String = columns.iter().map(|c| cell(c.name, width(c), c.right)).collect();
    put(buf, layout.list, 0, &[(format!("  {heads}"), Role::Dim)], state);

    let height = usize::from(layout.list.height.saturating_sub(1));
    for row in 0..height {
        let index = list.shown.get(list.position.top + row).and_then(|i| usize::try_from(*i).ok());
        let Some(session) = index.and_then(|i| list.all.get(i)) else { break };
        let (sign, role) = state_sign(state, session);
        let mut pieces = vec![(format!("{sign} "), role)];
        for column in &columns {
            let role = match column.name {
                "deny" => Role::Deny,
                "findings" => Role::Alert,
                _ => Role::Plain,
            };
            let text = (column.text)(session);
            // A moment loses its seconds in a narrow column, not its end.
            let text = if column.name == START {
                text.as_str().get(..width(column)).unwrap_or_default()
            } else {
                text.as_str()
            };
            pieces.push((cell(text, width(column), column.right), role));
        }
        let line = u16::try_from(row + 1).unwrap_or(u16::MAX);
        put(buf, layout.list, line, &pieces, state);
        if list.position.top + row == list.position.selected {
            select_row(buf, layout.list, line, state);
        }
    }
    if list.shown.is_empty() && !list.loading {
        let text = match list.filter.is_empty() {
            true => "  no sessions in this lake yet; it is followed, they appear as they are committed",
            false => "  no session passes the filter; esc clears it",
        };
        put(buf, layout.list, 2, &[(text.to_owned(), Role::Dim)], state);
    }
}

fn cell(text: &str, width: usize, right: bool) -> String {
    let text = if right { fit_right(text, width) } else { fit(text, width) };
    text + " "
}
