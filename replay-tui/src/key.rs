//! Keys and key sequences, as the registry writes them: `j`, `ctrl-d`, `shift-left`, `g s`.

use std::fmt;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// A key with its modifiers. For characters shift is in the character itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The key.
    pub code: KeyCode,
    /// Whether control is held.
    pub ctrl: bool,
    /// Whether alt is held.
    pub alt: bool,
    /// Whether shift is held, for keys that are no characters.
    pub shift: bool,
}

const NAMED: &[(&str, KeyCode)] = &[
    ("space", KeyCode::Char(' ')),
    ("enter", KeyCode::Enter),
    ("esc", KeyCode::Esc),
    ("tab", KeyCode::Tab),
    ("backtab", KeyCode::BackTab),
    ("backspace", KeyCode::Backspace),
    ("delete", KeyCode::Delete),
    ("up", KeyCode::Up),
    ("down", KeyCode::Down),
    ("left", KeyCode::Left),
    ("right", KeyCode::Right),
    ("home", KeyCode::Home),
    ("end", KeyCode::End),
    ("pageup", KeyCode::PageUp),
    ("pagedown", KeyCode::PageDown),
    ("f1", KeyCode::F(1)),
    ("f2", KeyCode::F(2)),
];

impl Key {
    /// The key that `text` names.
    pub fn parse(text: &str) -> Option<Key> {
        let (mut ctrl, mut alt, mut shift) = (false, false, false);
        let mut rest = text;
        loop {
            let (flag, tail) = match rest.split_once('-') {
                Some(("ctrl", tail)) => (&mut ctrl, tail),
                Some(("alt", tail)) => (&mut alt, tail),
                Some(("shift", tail)) => (&mut shift, tail),
                _ => break,
            };
            *flag = true;
            rest = tail;
        }
        let named = NAMED.iter().find(|(name, _)| *name == rest).map(|(_, code)| *code);
        let mut chars = rest.chars();
        let code = match (named, chars.next(), chars.next()) {
            (Some(code), ..) => code,
            (None, Some(c), None) => KeyCode::Char(c),
            _ => return None,
        };
        Some(Key { code, ctrl, alt, shift })
    }

    /// The keys of a sequence, written with blanks between them.
    pub fn sequence(text: &str) -> Option<Vec<Key>> {
        let keys: Vec<Key> = text.split(' ').map(Key::parse).collect::<Option<_>>()?;
        (1..=2).contains(&keys.len()).then_some(keys)
    }

    /// The keys of a terminal's event. A terminal says Alt by Escape before the character, and so do two keys that
    /// are pressed in quick succession: as no command wants Alt with a character, it is Escape and then that.
    pub fn pressed(mut event: KeyEvent) -> Vec<Key> {
        let mut keys = Vec::new();
        if matches!(event.code, KeyCode::Char(_)) && event.modifiers.contains(KeyModifiers::ALT) {
            event.modifiers.remove(KeyModifiers::ALT);
            keys.push(Key::of(KeyEvent::from(KeyCode::Esc)));
        }
        keys.push(Key::of(event));
        keys
    }

    /// The key of a terminal's event.
    fn of(event: KeyEvent) -> Key {
        let is_char = matches!(event.code, KeyCode::Char(_) | KeyCode::BackTab);
        Key {
            code: event.code,
            ctrl: event.modifiers.contains(KeyModifiers::CONTROL),
            alt: event.modifiers.contains(KeyModifiers::ALT),
            shift: event.modifiers.contains(KeyModifiers::SHIFT) && !is_char,
        }
    }

    /// The character that it writes in a text field.
    pub fn char(self) -> Option<char> {
        match self.code {
            KeyCode::Char(c) if !self.ctrl && !self.alt => Some(c),
            _ => None,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (held, name) in [(self.ctrl, "ctrl-"), (self.alt, "alt-"), (self.shift, "shift-")] {
            if held {
                f.write_str(name)?;
            }
        }
        match NAMED.iter().find(|(_, code)| *code == self.code) {
            Some((name, _)) => f.write_str(name),
            None => match self.code {
                KeyCode::Char(c) => write!(f, "{c}"),
                other => write!(f, "{other}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_and_a_character_in_quick_succession_are_two_keys() {
        let pressed = |code, modifiers| {
            let keys = Key::pressed(KeyEvent::new(code, modifiers));
            keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(pressed(KeyCode::Char('Q'), KeyModifiers::ALT | KeyModifiers::SHIFT), "esc Q");
        assert_eq!(pressed(KeyCode::Char('d'), KeyModifiers::ALT | KeyModifiers::CONTROL), "esc ctrl-d");
        assert_eq!(pressed(KeyCode::Char('q'), KeyModifiers::NONE), "q");
        assert_eq!(pressed(KeyCode::Left, KeyModifiers::ALT), "alt-left");
    }
}
