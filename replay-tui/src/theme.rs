//! Colours and signs. Every meaning has a letter or sign beside its colour, and every sign an ASCII form.

use ratatui::style::{Color, Modifier, Style};

/// How much the terminal can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Theme {
    /// Whether colours are used.
    pub color: bool,
    /// Whether only ASCII is used for our own signs.
    pub ascii: bool,
}

/// What a piece of text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Plain,
    Dim,
    Title,
    Selected,
    Allow,
    Deny,
    Error,
    Gap,
    Alert,
    Live,
    Keyword,
    Literal,
    Comment,
    Bound,
    Heat,
    Good,
}

impl Theme {
    /// The theme for an environment: `NO_COLOR` (no-color.org) and `TERM=dumb` take colours away, a locale
    /// that is not UTF-8 takes the signs above ASCII away.
    pub fn of(color: Option<bool>, ascii: Option<bool>, env: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| env(name).is_some_and(|v| !v.is_empty());
        let dumb = env("TERM").is_none_or(|t| t.is_empty() || t == "dumb");
        let locale =
            ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(|n| env(n).filter(|v| !v.is_empty()));
        let utf8 = locale.is_some_and(|l| {
            let l = l.to_ascii_lowercase();
            l.contains("utf-8") || l.contains("utf8")
        });
        Self { color: color.unwrap_or(!set("NO_COLOR") && !dumb), ascii: ascii.unwrap_or(!utf8) }
    }

    /// The style of a role.
    pub fn style(self, role: Role) -> Style {
        let plain = Style::new();
        let (color, modifier) = match role {
            Role::Plain => (None, Modifier::empty()),
            Role::Dim | Role::Comment => (Some(Color::DarkGray), Modifier::DIM),
            Role::Title => (Some(Color::Cyan), Modifier::BOLD),
            Role::Selected => (None, Modifier::REVERSED),
            Role::Allow | Role::Good | Role::Live => (Some(Color::Green), Modifier::empty()),
            Role::Deny => (Some(Color::Red), Modifier::BOLD),
            Role::Error => (Some(Color::Yellow), Modifier::empty()),
            Role::Gap => (Some(Color::Magenta), Modifier::empty()),
            Role::Alert => (Some(Color::Red), Modifier::BOLD),
            Role::Keyword => (Some(Color::Blue), Modifier::BOLD),
            Role::Literal => (Some(Color::Green), Modifier::empty()),
            Role::Bound => (Some(Color::Yellow), Modifier::UNDERLINED),
            Role::Heat => (Some(Color::Cyan), Modifier::empty()),
        };
        match (self.color, color) {
            (true, Some(color)) => plain.fg(color).add_modifier(modifier.difference(Modifier::DIM)),
            _ => plain.add_modifier(modifier),
        }
    }

    /// A sign, or its ASCII form.
    pub fn sign(self, unicode: &'static str, ascii: &'static str) -> &'static str {
        if self.ascii { ascii } else { unicode }
    }

    /// Our own text with its signs in ASCII where needed. Recorded text keeps its letters.
    pub fn text(self, text: &str) -> String {
        if !self.ascii {
            return text.to_owned();
        }
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                '✔' => out.push_str("ok"),
                '✘' => out.push('x'),
                '…' | '⋯' => out.push_str("..."),
                '→' => out.push('>'),
                '←' => out.push('<'),
                '●' => out.push('*'),
                '■' => out.push('#'),
                '⚠' => out.push('!'),
                '│' => out.push('|'),
                '─' => out.push('-'),
                '▶' => out.push('>'),
                '×' => out.push('x'),
                '≈' => out.push('~'),
                c => out.push(c),
            }
        }
        out
    }

    /// Eight levels of heat, from nothing to most.
    pub fn heat(self, level: usize) -> &'static str {
        const UNICODE: [&str; 9] = [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];
        const ASCII: [&str; 9] = [" ", ".", ".", ":", "-", "=", "+", "*", "#"];
        let signs = if self.ascii { ASCII } else { UNICODE };
        signs.get(level.min(8)).copied().unwrap_or(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_decides_about_colours_and_signs() {
        let theme = |pairs: &[(&str, &str)]| {
            let pairs: Vec<(String, String)> =
                pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let theme =
                Theme::of(None, None, |name| pairs.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()));
            (theme.color, theme.ascii)
        };
        assert_eq!(theme(&[("TERM", "xterm"), ("LANG", "en_US.UTF-8")]), (true, false));
        assert_eq!(theme(&[("TERM", "xterm"), ("LANG", "C.utf8"), ("NO_COLOR", "1")]), (false, false));
        assert_eq!(theme(&[("TERM", "xterm"), ("LANG", "C.utf8"), ("NO_COLOR", "")]), (true, false));
        assert_eq!(theme(&[("TERM", "dumb"), ("LANG", "C.utf8")]), (false, false));
        assert_eq!(theme(&[("TERM", "xterm"), ("LANG", "C.utf8"), ("LC_ALL", "C")]), (true, true));
        assert_eq!(theme(&[]), (false, true));
        let plain = Theme { color: false, ascii: true };
        assert_eq!(plain.style(Role::Deny).fg, None);
        assert!(plain.text("✔ → … ●").is_ascii());
        assert!((0..20).all(|level| plain.heat(level).is_ascii()));
    }
}
