//! The last two lines: the filter or the line that is being written, and messages or keys.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Modifier;
use unicode_width::UnicodeWidthStr;

use crate::app::{Prompt, PromptKind, Screen, State};
use crate::shown::Shown;
use crate::theme::Role;
use crate::view::put;

/// Draws the footer.
pub fn draw(state: &State, area: Rect, buf: &mut Buffer) {
    match &state.prompt {
        Some(prompt) => draw_prompt(state, prompt, area, buf),
        None => {
            put(buf, area, 0, &in_force(state), state);
            put(buf, area, 1, &message(state), state);
        }
    }
}

/// The filter and search in force, with their hits.
fn in_force(state: &State) -> Vec<(String, Role)> {
    let mut pieces = Vec::new();
    let mut say = |name: &str, text: &str, hits: String| {
        pieces.push((format!(" {name} "), Role::Dim));
        pieces.push((Shown::limit(text, 300).into(), Role::Title));
        pieces.push((format!("  {hits} "), Role::Dim));
    };
    match (state.screen, &state.session) {
        (Screen::Session, Some(session)) => {
            for (name, matches) in [("filter", &session.filter), ("search", &session.search)] {
                if let Some(matches) = matches {
                    let more = if matches.done { "" } else { ", looking on" };
                    say(name, &matches.text, format!("{} hits{more}", matches.seqs.len()));
                }
            }
        }
        (Screen::Findings, _) => {
            let list = &state.findings;
            if !list.filter.is_empty() {
                say("filter", &list.filter, format!("{} hits", list.shown.len()));
            }
            if !list.search.is_empty() {
                say("search", &list.search, String::new());
            }
        }
        _ => {
            let list = &state.sessions;
            if !list.filter.is_empty() {
                say("filter", &list.filter, format!("{} hits", list.shown.len()));
            }
            if !list.search.is_empty() {
                say("search", &list.search, String::new());
            }
        }
    }
    pieces
}

fn message(state: &State) -> Vec<(String, Role)> {
    if let Some(status) = &state.status {
        let role = if status.is_error { Role::Alert } else { Role::Plain };
        return vec![(format!(" {}", status.text), role)];
    }
    if !state.pending.is_empty() {
        let keys: Vec<_> = state.pending.iter().map(ToString::to_string).collect();
        return vec![(format!(" {} …", Shown::of(&keys.join(" "))), Role::Dim)];
    }
    let hints = match (state.screen, &state.session) {
        (Screen::Session, Some(_)) => {
            "? help  space play  j k events  J K steps  tab pane  } evidence  t goto  f filter  / search  q back"
        }
        (Screen::Findings, _) => {
            "? help  enter evidence  f filter  / search  g s sessions  : command  q back"
        }
        _ => "? help  enter open  f filter  / search  s sort  g f findings  : command  q quit",
    };
    vec![(format!(" {hints}"), Role::Dim)]
}

fn draw_prompt(state: &State, prompt: &Prompt, area: Rect, buf: &mut Buffer) {
    let label = match prompt.kind {
        PromptKind::Filter => " filter: ",
        PromptKind::Search => " /",
        PromptKind::Command => " :",
        PromptKind::Goto => " go to: ",
    };
    let before: String = prompt.text.chars().take(prompt.cursor).collect();
    let (before, text) = (shown(&before), shown(&prompt.text));
    let role = if prompt.error.is_some() { Role::Error } else { Role::Plain };
    let room = usize::from(area.width).saturating_sub(label.len() + 1).max(1);
    // A line longer than the terminal is shown around the cursor.
    let cursor = before.width();
    let skipped = cursor.saturating_sub(room.saturating_sub(1));
    let visible = skip_columns(&text, skipped);
    put(buf, area, 0, &[(label.to_owned(), Role::Title), (visible, role)], state);
    let x = area.x + u16::try_from(label.len() + cursor - skipped).unwrap_or(0);
    if let Some(cell) = buf.cell_mut((x.min(area.x + area.width.saturating_sub(1)), area.y)) {
        cell.modifier.toggle(Modifier::REVERSED);
    }
    let below = match &prompt.error {
        Some((message, column)) => {
            let up_to: String = prompt.text.chars().take(*column).collect();
            let indent = (label.len() + shown(&up_to).width()).saturating_sub(skipped);
            let indent = indent.min(usize::from(area.width) / 2);
            (format!("{}^ {}", " ".repeat(indent), Shown::limit(message, 300)), Role::Error)
        }
        None => (format!(" {}", hint(prompt.kind)), Role::Dim),
    };
    put(buf, area, 1, &[below], state);
}

fn hint(kind: PromptKind) -> &'static str {
    match kind {
        PromptKind::Filter => {
            "e.g. principal:etl verdict:deny rows>10k -2h..   enter applies, empty clears, esc cancels"
        }
        PromptKind::Search => "text, anywhere   enter searches, n and N go on",
        PromptKind::Command => "tab completes, enter does it, esc cancels",
        PromptKind::Goto => "+12:31, 14:02:11, #812 or 50%",
    }
}

fn shown(text: &str) -> String {
    Shown::of(text).into()
}

fn skip_columns(text: &str, columns: usize) -> String {
    let mut skipped = 0;
    let mut rest = text.chars();
    while skipped < columns {
        match rest.next() {
            Some(c) => skipped += unicode_width::UnicodeWidthChar::width(c).unwrap_or(0),
            None => break,
        }
    }
    rest.collect()
}
