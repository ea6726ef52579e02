//! Text that is safe to show: the only way in which bytes that a person, an agent or a target wrote reach a
//! terminal, a log or an error message.
//!
//! Escapes (ESC, C0, C1), line and paragraph separators, bidirectional overrides and isolates, zero-width
//! and tag characters become visible; everything else stays. Nothing is lost silently: the cut of an
//! over-long text says how much is missing.

use std::fmt::Write as _;

/// Longest text that [`shown`] lets through, in characters.
const LIMIT: usize = 4096;

/// Most lines that [`shown_lines`] lets through.
const MAX_LINES: usize = 200;

/// `text` on one line, safe for a terminal, at most 4,096 characters.
pub fn shown(text: &str) -> String {
    shown_limit(text, LIMIT)
}

/// `bytes` on one line, safe for a terminal; bytes that are not UTF-8 appear as `\xNN`.
pub fn shown_bytes(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        push_safe(&mut out, chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// `text` on one line, safe for a terminal, at most `limit` characters and a note of what was cut.
pub fn shown_limit(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => {
            let mut out = String::with_capacity(text.len());
            push_safe(&mut out, text);
            out
        }
        Some((at, _)) => {
            let mut out = String::new();
            push_safe(&mut out, text.get(..at).unwrap_or_default());
            let _ = write!(out, "… ({} more bytes)", text.len() - at);
            out
        }
    }
}

/// `text` safe for a terminal with its line ends kept, such as a message that shows an excerpt. Further lines are
/// set in, so that none passes for a message of its own.
pub fn shown_lines(text: &str) -> String {
    let mut lines = text.trim_end().lines();
    let mut out: Vec<String> = lines.by_ref().take(MAX_LINES).map(shown).collect();
    let more = lines.count();
    if more > 0 {
        out.push(format!("… ({more} more lines)"));
    }
    out.join("\n    ")
}

/// JSON text with the same meaning, safe for a terminal: what is hostile becomes `\\uNNNN`. Line feeds between
/// values stay.
pub fn shown_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        // JSON itself escapes C0 within strings: a line feed here is layout.
        if c == '\n' || !is_hostile(c) {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    out
}

/// Whether a character must not reach a terminal as it is.
pub fn is_hostile(c: char) -> bool {
    matches!(c,
        '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{180e}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

fn push_safe(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_hostile(c) && (c as u32) < 0x100 => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c if is_hostile(c) => {
                let _ = write!(out, "\\u{{{:x}}}", c as u32);
            }
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_hostile_comes_through() {
        let hostile = "a\u{1b}]52;c;aGk=\u{7}\u{9b}31m\r\n\0\u{202e}b\u{2066}\u{200b}é€漢";
        let safe = shown(hostile);
        assert!(safe.chars().all(|c| !is_hostile(c)), "{safe:?}");
        assert!(safe.ends_with("é€漢"));
        assert_eq!(shown_bytes(b"ok\xff\x1b"), "ok\\xff\\x1b");
    }

    #[test]
    fn several_lines_stay_lines_and_none_passes_for_another_message() {
        assert_eq!(shown_lines("a\n\u{1b}[31mb\r\nc\n\n"), "a\n    \\x1b[31mb\n    c");
        let many = shown_lines(&"x\n".repeat(1000));
        assert_eq!(many.lines().count(), MAX_LINES + 1);
        assert!(many.ends_with("… (800 more lines)"));
        assert_eq!(shown_lines(""), "");
    }

    #[test]
    fn json_keeps_its_meaning() {
        let value = serde_json::json!({"a": "\u{9b}31m \u{202e} \u{e0041} é\n"});
        let safe = shown_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(safe.chars().all(|c| c == '\n' || !is_hostile(c)), "{safe:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
    }

    #[test]
    fn a_cut_says_what_is_missing() {
        assert_eq!(shown_limit("abcdef", 4), "abcd… (2 more bytes)");
        assert_eq!(shown_limit("abcd", 4), "abcd");
    }
}
