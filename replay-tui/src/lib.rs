//! Replay of recorded sessions in a terminal, and its non-interactive twins.
//!
//! The shape is that of Elm: a [`state`](app), a pure [`update`](mod@update) from messages to a new state and
//! commands, a pure [`view`](mod@view) from the state to a frame; workers carry the commands out against a
//! [`Source`], and their answers come back as messages. [`text`] holds the twins: the same facts, printed.
//!
//! Invariant: text that a person, an agent or a target wrote reaches a terminal only as [`Shown`].

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod app;
pub mod chain;
mod clipboard;
pub mod commands;
pub mod config;
pub mod detail;
pub mod error;
pub mod event;
pub mod key;
pub mod layout;
pub mod matcher;
pub mod run;
pub mod screens;
pub mod shown;
pub mod source;
pub mod statement;
pub mod table;
pub mod text;
pub mod theme;

pub mod timeline;
pub mod units;
pub mod update;
pub mod values;
pub mod view;
pub mod widgets;
pub mod worker;

pub use config::ReplayConfig;
pub use error::ReplayError;
pub use run::{Ended, ReplayOptions, no_terminal_hint, run};
pub use shown::Shown;
pub use source::{LakeSource, Source};

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod stage;
