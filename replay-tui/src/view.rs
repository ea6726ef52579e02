//! The view: a state gives a frame. Pure: no I/O, no clock; every list draws only what is in view.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Widget};

use crate::app::{Overlay, Screen, State};
use crate::layout::{self, MIN_SIZE};
use crate::screens;
use crate::theme::Role;

/// Draws the state.
pub fn view(state: &State, frame: &mut Frame<'_>) {
    let area = frame.area();
    draw(state, frame.buffer_mut(), area);
}

/// Draws the state into a buffer.
pub fn draw(state: &State, buf: &mut Buffer, area: Rect) {
    Clear.render(area, buf);
    let Some(layout) =
        layout::layout(state).filter(|_| area.width >= MIN_SIZE.0 && area.height >= MIN_SIZE.1)
    else {
        let (width, height) = state.size;
        let text = format!("{}x{} needed, {width}x{height} here", MIN_SIZE.0, MIN_SIZE.1);
        put(buf, area, 0, &[(text, Role::Plain)], state);
        return;
    };
    match state.screen {
        Screen::Sessions => screens::sessions::draw(state, &layout, buf),
        Screen::Findings => screens::findings::draw(state, &layout, buf),
        Screen::Session => match &state.session {
            Some(session) => screens::session::draw(state, session, &layout, buf),
            None => screens::sessions::draw(state, &layout, buf),
        },
    }
    screens::footer::draw(state, layout.footer, buf);
    match &state.overlay {
        Some(Overlay::Help(top)) => screens::overlays::help(state, *top, area, buf),
        Some(Overlay::Palette(text, chosen)) => screens::overlays::palette(state, text, *chosen, area, buf),
        Some(Overlay::Integrity) => screens::overlays::integrity(state, area, buf),
        None => {}
    }
}

/// The last line of defence before the terminal: a cell that holds what a terminal would act upon is replaced.
/// Nothing should reach it; the tests look at buffers before it.
pub fn censor(buf: &mut Buffer) {
    for cell in &mut buf.content {
        if cell.symbol().chars().any(bodycam_record::shown::is_hostile) {
            cell.set_symbol("?");
        }
    }
}

/// Puts one line of pieces at row `row` of `area`; what is too long is cut.
pub(crate) fn put(buf: &mut Buffer, area: Rect, row: u16, pieces: &[(String, Role)], state: &State) {
    if row >= area.height || area.width == 0 {
        return;
    }
    let spans = pieces.iter().map(|(text, role)| Span::styled(text.as_str(), state.theme.style(*role)));
    let line = Line::from(spans.collect::<Vec<_>>());
    buf.set_line(area.x, area.y + row, &line, area.width);
}

/// Reverses row `row` of `area`: it is chosen.
pub(crate) fn select_row(buf: &mut Buffer, area: Rect, row: u16, state: &State) {
    if row < area.height {
        let line = Rect::new(area.x, area.y + row, area.width, 1);
        buf.set_style(line, state.theme.style(Role::Selected));
    }
}

#[cfg(test)]
mod tests;
