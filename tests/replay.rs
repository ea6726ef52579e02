//! The replay in a real terminal.

mod tmux;
