//! Where things stand on the screen. The view draws by it, and the update reads clicks and page sizes by it.

use ratatui::layout::Rect;

use crate::app::{Pane, Screen, State};

/// Smallest terminal that the screens fit into.
pub const MIN_SIZE: (u16, u16) = (60, 16);

/// Narrowest terminal that shows events and details side by side.
const BESIDE: u16 = 100;
/// Fewest lines that show them one below the other; with fewer the pane with the focus has them all.
const BELOW: u16 = 14;

/// The parts of a screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Layout {
    /// Who, what, where.
    pub header: Rect,
    /// Heat, marks, cursor, position; in a session only.
    pub timeline: Rect,
    /// The list (its heading included).
    pub list: Rect,
    /// The details; in a session only.
    pub detail: Rect,
    /// Filter, messages and keys.
    pub footer: Rect,
}

/// The layout for a state; none when the terminal is too small.
pub fn layout(state: &State) -> Option<Layout> {
    let (width, height) = state.size;
    if width < MIN_SIZE.0 || height < MIN_SIZE.1 {
        return None;
    }
    let footer = Rect::new(0, height - 2, width, 2);
    let session = match (state.screen, &state.session) {
        (Screen::Session, Some(session)) => session,
        _ => {
            let list = Rect::new(0, 1, width, height - 3);
            let header = Rect::new(0, 0, width, 1);
            return Some(Layout { header, list, footer, ..Layout::default() });
        }
    };
    let header = Rect::new(0, 0, width, 2);
    let timeline = Rect::new(0, 2, width, 4);
    let (top, body) = (6, height - 8);
    let whole = Rect::new(0, top, width, body);
    let nothing = Rect::new(0, top, 0, 0);
    let (beside, below) = (width >= BESIDE, body >= BELOW);
    let (list, detail) = match session.pane {
        Pane::Events if session.maximised || !(beside || below) => (whole, nothing),
        Pane::Detail if session.maximised || !(beside || below) => (nothing, whole),
        _ if beside => {
            let left = width / 2;
            (Rect::new(0, top, left, body), Rect::new(left + 1, top, width - left - 1, body))
        }
        _ => {
            let above = body / 2;
            (Rect::new(0, top, width, above), Rect::new(0, top + above, width, body - above))
        }
    };
    Some(Layout { header, timeline, list, detail, footer })
}

/// Rows of a list that are in view, below its heading.
pub fn list_height(state: &State) -> usize {
    layout(state).map_or(1, |l| usize::from(l.list.height.saturating_sub(1)).max(1))
}

/// Lines of details that are in view.
pub fn detail_height(state: &State) -> usize {
    layout(state).map_or(1, |l| usize::from(l.detail.height.saturating_sub(1)).max(1))
}
