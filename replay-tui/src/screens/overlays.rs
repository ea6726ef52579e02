//! What lies over a screen: help, palette, integrity.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::widgets::{Clear, Widget};

use crate::app::State;
use crate::shown::{Shown, fit, wrap};
use crate::theme::Role;
use crate::units;
use crate::update::overlays::{help_commands, palette_commands};
use crate::view::{put, select_row};

/// Clears a box in the middle, draws its frame and title, and gives the room inside.
fn frame(state: &State, title: &str, area: Rect, width: u16, height: u16, buf: &mut Buffer) -> Rect {
    let width = width.min(area.width.saturating_sub(4));
    let height = height.min(area.height.saturating_sub(2));
    let x = area.x + (area.width - width) / 2;
    let y = area.y + (area.height - height) / 2;
    let outer = Rect::new(x, y, width, height);
    Clear.render(outer, buf);
    let (horizontal, vertical) = (state.theme.sign("─", "-"), state.theme.sign("│", "|"));
    let line = horizontal.repeat(usize::from(width));
    put(buf, outer, 0, &[(line.clone(), Role::Dim)], state);
    put(buf, outer, height.saturating_sub(1), &[(line, Role::Dim)], state);
    for row in 1..height.saturating_sub(1) {
        put(buf, outer, row, &[(vertical.to_owned(), Role::Dim)], state);
        let right = Rect { x: outer.x + width.saturating_sub(1), width: 1, ..outer };
        put(buf, right, row, &[(vertical.to_owned(), Role::Dim)], state);
    }
    let heading = Rect { x: outer.x + 2, width: width.saturating_sub(4), ..outer };
    put(buf, heading, 0, &[(format!(" {title} "), Role::Title)], state);
    Rect::new(x + 2, y + 1, width.saturating_sub(4), height.saturating_sub(2))
}

/// The commands of the context with their keys.
pub fn help(state: &State, top: usize, area: Rect, buf: &mut Buffer) {
    let context = state.context();
    let commands = help_commands(context);
    let height = u16::try_from(commands.len() + 2).unwrap_or(u16::MAX);
    let title = format!("help: {} (j k scroll, q closes)", context.name());
    let inside = frame(state, &title, area, 84, height, buf);
    for (row, command) in commands.iter().skip(top).take(usize::from(inside.height)).enumerate() {
        let pieces = [
            (fit(&state.keymap.keys_of(command), 20), Role::Keyword),
            (format!(" {} ", fit(&format!(":{}", command.id), 19)), Role::Dim),
            (command.title.to_owned(), Role::Plain),
        ];
        put(buf, inside, u16::try_from(row).unwrap_or(u16::MAX), &pieces, state);
    }
}

/// The commands that match what is written.
pub fn palette(state: &State, text: &str, chosen: usize, area: Rect, buf: &mut Buffer) {
    let inside = frame(state, "commands", area, 72, 18, buf);
    put(
        buf,
        inside,
        0,
        &[("> ".to_owned(), Role::Title), (Shown::limit(text, 100).into(), Role::Plain)],
        state,
    );
    let found = palette_commands(text, state.context());
    let height = usize::from(inside.height.saturating_sub(1)).max(1);
    let top = (chosen + 1).saturating_sub(height);
    for (row, command) in found.iter().skip(top).take(height).enumerate() {
        let pieces = [
            (fit(command.id, 20), Role::Keyword),
            (format!(" {} ", fit(command.title, 34)), Role::Plain),
            (state.keymap.keys_of(command), Role::Dim),
        ];
        let y = u16::try_from(row + 1).unwrap_or(u16::MAX);
        put(buf, inside, y, &pieces, state);
        if top + row == chosen {
            select_row(buf, inside, y, state);
        }
    }
}

/// What was verified of the open session, and what was not.
pub fn integrity(state: &State, area: Rect, buf: &mut Buffer) {
    let Some(session) = &state.session else { return };
    let row = &session.item.row;
    let inside = frame(state, "integrity (q closes)", area, 90, 18, buf);
    let mut lines: Vec<(String, Role)> = Vec::new();
    let role = if session.chain.fault().is_some() { Role::Alert } else { Role::Good };
    lines.push((format!("chain {}", session.chain.label(row.events, state.theme.ascii)), role));
    lines.push((
        format!(
            "session {}  producer {} epoch {}",
            row.session_id,
            Shown::limit(&row.producer, 40),
            row.epoch
        ),
        Role::Plain,
    ));
    match session.chain.fault() {
        None => lines.push((
            "Each event's hash was recomputed from the columns, each links to the one before, the first to the \
             genesis; numbers have no gaps, checkpoints fit."
                .to_owned(),
            Role::Plain,
        )),
        Some(fault) => {
            lines.push((format!("event #{}: {}", fault.seq, fault.what), Role::Alert));
            for (name, digest) in [("computed", fault.computed), ("stored  ", fault.stored)] {
                if let Some(digest) = digest {
                    lines.push((format!("{name} {digest}"), Role::Plain));
                }
            }
            lines.push((format!("{} events before it fit.", units::count(session.chain.verified())), Role::Plain));
        }
    }
    let head_fits = session.timeline.len() == usize::try_from(row.events).unwrap_or(usize::MAX);
    if !session.scanning && !head_fits {
        let text = format!(
            "the index says {} events, the tables hold {}",
            units::count(row.events),
            units::count(i64::try_from(session.timeline.len()).unwrap_or(0))
        );
        lines.push((text, Role::Error));
    }
    if let Some(fits) = session.detail.as_ref().and_then(|d| d.committed.map(|c| (d.seq, c))) {
        let (seq, fits) = fits;
        lines.push(match fits {
            true => (format!("the content of event #{seq} fits the commitment in its envelope"), Role::Good),
            false => (
                format!("the content of event #{seq} DOES NOT fit the commitment in its envelope"),
                Role::Alert,
            ),
        });
    }
    lines.push((
        "Not checked here: signatures of checkpoints and seal, the ledger, commits, files. `bodycam verify` does."
            .to_owned(),
        Role::Dim,
    ));
    let mut y = 0;
    for (text, role) in lines {
        for line in wrap(&text, usize::from(inside.width)) {
            put(buf, inside, y, &[(line, role)], state);
            y += 1;
        }
    }
}
