//! The terminal's clipboard, by OSC 52: it works over SSH, and inside tmux with `set-clipboard on`.

use std::io::{Write, stdout};

use crossterm::clipboard::CopyToClipboard;
use crossterm::execute;

/// Most bytes that are handed over: terminals take sequences of some 75,000 bytes, in base64.
pub const MAX_BYTES: usize = 56_000;

/// Hands `text` to the terminal, which may take it or not: there is no answer.
pub fn put(text: &str) -> std::io::Result<()> {
    execute!(stdout(), CopyToClipboard::to_clipboard_from(text))?;
    stdout().flush()
}
