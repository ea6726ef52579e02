//! `replay --format screen`: one frame of the terminal replay as text, for tickets, documents and measurements.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::Outcome;
use super::sessions::find;
use crate::app::{Start, State};
use crate::commands::Keymap;
use crate::error::ReplayError;
use crate::shown::Shown;
use crate::source::Source;
use crate::theme::Theme;
use crate::timeline::Goto;
use crate::update::{navigate, playback, update};
use crate::view;
use crate::worker::Worker;

/// What is on the screen.
#[derive(Debug, Clone, Default)]
pub struct Screen {
    /// The session; the list of sessions without one.
    pub session: Option<String>,
    /// The place in it (`+12:31`, `14:02:11`, `#812`, `50%`).
    pub at: Option<String>,
    /// Columns and rows.
    pub size: (u16, u16),
    /// Whether only ASCII is used for our own signs.
    pub ascii: bool,
    /// Saved filters, for `@name`.
    pub saved: BTreeMap<String, String>,
    /// Now, Unix ns.
    pub now_ns: i64,
}

/// Prints what the terminal would show.
pub fn screen(
    source: &Arc<dyn Source>,
    options: &Screen,
    out: &mut dyn Write,
) -> Result<Outcome, ReplayError> {
    let place = match options.at.as_deref() {
        None => None,
        Some(text) => match Goto::parse(text) {
            Some(place) => Some(place),
            None => return Err(ReplayError::Position(Shown::limit(text, 100).into())),
        },
    };
    let (mut state, mut waiting) = State::new(Start {
        lake: source.name(),
        theme: Theme { color: false, ascii: options.ascii },
        keymap: Keymap::default(),
        saved: options.saved.clone(),
        // The list shows no more than its height.
        max_sessions: usize::from(options.size.1),
        size: options.size,
        wall_ns: options.now_ns,
    });
    if let Some(session) = &options.session {
        let session = find(source.as_ref(), session)?;
        waiting.extend(navigate::open(&mut state, session, None));
    }
    let mut worker = Worker::inline(source.clone());
    let mut placed = place.is_none();
    loop {
        while let Some(command) = waiting.pop() {
            for msg in worker.answers_to(command) {
                waiting.extend(update(&mut state, msg));
            }
        }
        if std::mem::replace(&mut placed, true) {
            break;
        }
        if let Some(place) = place {
            waiting.extend(playback::go_to(&mut state, place));
            waiting.extend(crate::update::read_what_is_in_view(&mut state));
        }
    }
    if let Some(status) = state.status.as_ref().filter(|s| s.is_error) {
        return Err(ReplayError::Worker(status.text.to_string()));
    }
    let area = Rect::new(0, 0, options.size.0, options.size.1);
    let mut buf = Buffer::empty(area);
    view::draw(&state, &mut buf, area);
    view::censor(&mut buf);
    for row in buf.content.chunks(usize::from(area.width.max(1))) {
        let line: String = row.iter().map(|c| c.symbol()).collect();
        writeln!(out, "{}", line.trim_end())?;
    }
    out.flush()?;
    Ok(Outcome::Match)
}
