//! Help, palette, integrity.

use crossterm::event::KeyCode;

use crate::app::{Cmd, Overlay, State};
use crate::commands::{Args, Command, Context, REGISTRY};
use crate::key::Key;
use crate::update::open;

pub fn help(state: &mut State, _: &Args) -> Vec<Cmd> {
    open(state, Overlay::Help(0))
}

pub fn palette(state: &mut State, _: &Args) -> Vec<Cmd> {
    open(state, Overlay::Palette(String::new(), 0))
}

pub fn integrity(state: &mut State, _: &Args) -> Vec<Cmd> {
    match state.session.is_some() {
        true => open(state, Overlay::Integrity),
        false => {
            state.say("open a session first; `bodycam verify` checks the whole lake");
            Vec::new()
        }
    }
}

/// A key while an overlay is open.
pub(crate) fn key(state: &mut State, overlay: Overlay, key: Key) -> Vec<Cmd> {
    let closes = matches!(key.code, KeyCode::Esc)
        || (!matches!(overlay, Overlay::Palette(..)) && matches!(key.char(), Some('q' | '?')));
    if closes {
        state.overlay = None;
        return Vec::new();
    }
    match overlay {
        Overlay::Integrity => Vec::new(),
        Overlay::Help(top) => {
            let top = match key.code {
                KeyCode::Down | KeyCode::Char('j' | ' ') => top.saturating_add(1),
                KeyCode::Up | KeyCode::Char('k') => top.saturating_sub(1),
                KeyCode::PageDown | KeyCode::Char('d' | 'f') if key.ctrl || key.char().is_none() => {
                    top.saturating_add(10)
                }
                KeyCode::PageUp | KeyCode::Char('u' | 'b') if key.ctrl || key.char().is_none() => {
                    top.saturating_sub(10)
                }
                _ => top,
            };
            let last = help_commands(state.context()).len().saturating_sub(1);
            open(state, Overlay::Help(top.min(last)))
        }
        Overlay::Palette(mut text, mut chosen) => {
            let found = palette_commands(&text, state.context());
            match key.code {
                KeyCode::Enter => {
                    state.overlay = None;
                    return match found.get(chosen) {
                        Some(command) => (command.run)(state, &Args::default()),
                        None => Vec::new(),
                    };
                }
                KeyCode::Down | KeyCode::Tab => chosen = (chosen + 1).min(found.len().saturating_sub(1)),
                KeyCode::Up | KeyCode::BackTab => chosen = chosen.saturating_sub(1),
                KeyCode::Char('n') if key.ctrl => chosen = (chosen + 1).min(found.len().saturating_sub(1)),
                KeyCode::Char('p') if key.ctrl => chosen = chosen.saturating_sub(1),
                KeyCode::Backspace => {
                    text.pop();
                    chosen = 0;
                }
                _ => {
                    text.extend(key.char());
                    chosen = 0;
                }
            }
            open(state, Overlay::Palette(text, chosen))
        }
    }
}

/// The commands that can be given in a context, its own first.
pub fn help_commands(context: Context) -> Vec<&'static Command> {
    let (mut own, mut global): (Vec<_>, Vec<_>) =
        REGISTRY.iter().filter(|c| c.is_for(context)).partition(|c| !c.contexts.contains(&Context::Global));
    own.append(&mut global);
    own
}

/// The commands that the palette offers for what is written, best first.
pub fn palette_commands(text: &str, context: Context) -> Vec<&'static Command> {
    let mut found: Vec<(i32, &'static Command)> = help_commands(context)
        .into_iter()
        .filter_map(|c| {
            let id = score(text, c.id);
            let title = score(text, c.title).map(|s| s - 5);
            Some((id.max(title)?, c))
        })
        .collect();
    found.sort_by_key(|(score, _)| -score);
    found.into_iter().map(|(_, c)| c).collect()
}

/// How well the characters of `text` are found in `in_text`, in order; none when they are not. Adjacent
/// characters and beginnings of words count more.
fn score(text: &str, in_text: &str) -> Option<i32> {
    let mut score = 0;
    let mut chars = in_text.chars();
    let mut before = ' ';
    let mut adjacent = false;
    for wanted in text.to_lowercase().chars().filter(|c| !c.is_whitespace()) {
        loop {
            let c = chars.next()?;
            let starts_word = !before.is_alphanumeric();
            before = c;
            if c.to_lowercase().eq(wanted.to_lowercase()) {
                score += 1 + i32::from(adjacent) * 3 + i32::from(starts_word) * 4;
                adjacent = true;
                break;
            }
            adjacent = false;
        }
    }
    Some(score)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_palette_finds_commands_by_parts_of_their_names() {
        let first = |text: &str| palette_commands(text, Context::Session).first().map(|c| c.id);
        assert_eq!(first("goto"), Some("goto"));
        assert_eq!(first("nst"), Some("next-step"));
        assert_eq!(first("idle"), Some("idle-skip"));
        assert_eq!(first("large"), Some("next-bulk"));
        assert_eq!(first("xyzzy"), None);
        assert!(palette_commands("", Context::Sessions).iter().all(|c| c.is_for(Context::Sessions)));
    }
}
