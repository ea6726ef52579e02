//! Text that may reach a terminal: the one type through which untrusted text is drawn or printed.
//!
//! Invariant: a [`Shown`] holds no escape, control, bidirectional or zero-width format character, and no line
//! break.

use std::fmt;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Text that is safe to show, on one line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Shown(String);

impl Shown {
    /// `text`, made safe, at most 4,096 characters and a note of what was cut.
    pub fn of(text: &str) -> Self {
        Shown(bodycam_record::shown(text))
    }

    /// `text`, made safe, at most `limit` characters and a note of what was cut.
    pub fn limit(text: &str, limit: usize) -> Self {
        Shown(bodycam_record::shown::shown_limit(text, limit))
    }

    /// `bytes`, made safe; those that are not UTF-8 appear as `\xNN`.
    pub fn bytes(bytes: &[u8]) -> Self {
        Shown(bodycam_record::shown::shown_bytes(bytes))
    }

    /// As [`Shown::bytes`], at most `limit` bytes and a note of what was cut.
    pub fn bytes_limit(bytes: &[u8], limit: usize) -> Self {
        match bytes.get(..limit) {
            Some(head) if bytes.len() > limit => {
                // Do not cut a character in two: its head would read as bytes that are not UTF-8.
                let boundary = (head.len().saturating_sub(3)..=head.len())
                    .rev()
                    .find(|at| bytes.get(*at).is_none_or(|b| b & 0xc0 != 0x80))
                    .unwrap_or(limit);
                let head = bytes.get(..boundary).unwrap_or(head);
                let mut text = bodycam_record::shown::shown_bytes(head);
                text.push_str(&format!("… ({} more bytes)", bytes.len() - head.len()));
                Shown(text)
            }
            _ => Shown::bytes(bytes),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Columns that it takes in a terminal.
    pub fn width(&self) -> usize {
        self.0.width()
    }

    /// The text in exactly `width` columns: padded, or cut with an ellipsis.
    pub fn fit(&self, width: usize) -> String {
        fit(&self.0, width)
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<Shown> for String {
    fn from(shown: Shown) -> String {
        shown.0
    }
}

/// Safe `text` in exactly `width` columns: padded on the right, or cut with an ellipsis.
pub fn fit(text: &str, width: usize) -> String {
    let mut out = cut(text, width);
    let missing = width.saturating_sub(out.width());
    out.extend(std::iter::repeat_n(' ', missing));
    out
}

/// As [`fit`], padded on the left.
pub fn fit_right(text: &str, width: usize) -> String {
    let out = cut(text, width);
    format!("{}{out}", " ".repeat(width.saturating_sub(out.width())))
}

/// Safe `text` in at most `width` columns, cut with an ellipsis.
pub fn cut(text: &str, width: usize) -> String {
    if text.len() <= width || text.width() <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        let w = c.width().unwrap_or(0);
        if used + w > width.saturating_sub(1) {
            break;
        }
        used += w;
        out.push(c);
    }
    if width > 0 {
        out.push('…');
    }
    out
}

/// Safe `text` in lines of at most `width` columns.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut used = 0;
    // Bytes and columns up to and with the last blank of the line.
    let mut blank = None;
    for c in text.chars() {
        let w = c.width().unwrap_or(0);
        if used + w > width && !line.is_empty() {
            let rest = match blank.take() {
                Some((bytes, columns)) if columns > width / 2 => {
                    used -= columns;
                    line.split_off(bytes)
                }
                _ => {
                    used = 0;
                    String::new()
                }
            };
            lines.push(std::mem::replace(&mut line, rest));
        }
        line.push(c);
        used += w;
        if c == ' ' {
            blank = Some((line.len(), used));
        }
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_is_cut_by_columns_not_by_bytes() {
        assert_eq!(fit("漢字漢字", 5), "漢字…");
        assert_eq!(fit("漢字", 5), "漢字 ");
        assert_eq!(fit("漢字漢字", 4), "漢… ");
        assert_eq!(fit_right("12", 4), "  12");
        assert_eq!(fit("abc", 0), "");
        assert_eq!(wrap("漢字ab", 3), ["漢", "字a", "b"]);
        assert_eq!(wrap("counts and a digest", 11), ["counts and ", "a digest"]);
        assert_eq!(wrap("counts and a digest", 12), ["counts and ", "a digest"]);
        assert_eq!(wrap("a 0123456789abcdef", 8), ["a 012345", "6789abcd", "ef"]);
    }

    #[test]
    fn a_cut_of_bytes_does_not_split_a_character() {
        assert_eq!(Shown::bytes_limit("aé€".as_bytes(), 2).as_str(), "a… (5 more bytes)");
        assert_eq!(Shown::bytes_limit("aé€".as_bytes(), 3).as_str(), "aé… (3 more bytes)");
        assert_eq!(Shown::bytes_limit(b"\xff\xfe\xfd", 2).as_str(), "\\xff\\xfe… (1 more bytes)");
    }

    proptest! {
        #[test]
        fn nothing_hostile_comes_through_and_widths_are_kept(bytes in prop::collection::vec(any::<u8>(), 0..60), text in "\\PC*|[\\x00-\\u{20ff}]{0,30}", width in 0usize..20) {
            for shown in [Shown::bytes(&bytes), Shown::of(&text), Shown::bytes_limit(text.as_bytes(), width)] {
                prop_assert!(!shown.as_str().chars().any(bodycam_record::shown::is_hostile));
                prop_assert!(cut(shown.as_str(), width).width() <= width);
                prop_assert!(wrap(shown.as_str(), width.max(2)).iter().all(|l| l.width() <= width.max(2)));
            }
        }
    }
}
