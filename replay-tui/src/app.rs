//! The state of the replay, the messages that change it and the commands that it gives.
//!
//! Invariant: every answer carries the generation of the request that it answers; one of an older generation
//! changes nothing.

use std::collections::BTreeMap;

use crate::commands::{Context, Keymap};
use crate::key::Key;
use crate::shown::Shown;
use crate::source::{Finding, SessionItem};
use crate::theme::Theme;
use crate::timeline::Goto;

mod lists;
mod message;
mod session;

pub use lists::{FindingList, Position, SessionList, SortBy};
pub use message::{Cmd, Lane, MatchRequest, Msg};
pub use session::{DetailView, Matches, PAGE, Pages, Pane, SessionState};

/// Everything that is shown and how.
pub struct State {
    /// The screen in front.
    pub screen: Screen,
    /// Screens to go back to.
    pub history: Vec<Screen>,
    /// The list of sessions.
    pub sessions: SessionList,
    /// The session that is open.
    pub session: Option<SessionState>,
    /// The list of findings.
    pub findings: FindingList,
    /// What lies over the screen.
    pub overlay: Option<Overlay>,
    /// The line that is being written.
    pub prompt: Option<Prompt>,
    /// Keys of a sequence that is not complete.
    pub pending: Vec<Key>,
    /// What the last line says until the next key.
    pub status: Option<Status>,
    /// Columns and rows of the terminal.
    pub size: (u16, u16),
    /// The caller's monotonic clock, nanoseconds.
    pub now_ns: i64,
    /// Wall time, Unix nanoseconds.
    pub wall_ns: i64,
    /// Whether times are shown in UTC instead of as offsets.
    pub absolute_time: bool,
    /// Colours and signs.
    pub theme: Theme,
    /// The keys in force.
    pub keymap: Keymap,
    /// Saved filters.
    pub saved: BTreeMap<String, String>,
    /// What the lake is called.
    pub lake: String,
    /// Whether to leave.
    pub quit: bool,
    /// Whether to give the terminal back to the shell until the process is continued.
    pub suspend: bool,
    /// Whether everything is drawn anew.
    pub redraw: bool,
    /// What to hand to the terminal's clipboard.
    pub copy: Option<String>,
    /// Where to go in the session that was opened at the start, once it was read.
    pub at_start: Option<Goto>,
    /// When ctrl-c was pressed last.
    pub interrupted_ns: Option<i64>,
    generation: u64,
}

/// A screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Screen {
    Sessions,
    Session,
    Findings,
}

/// What lies over a screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Overlay {
    /// The commands of the context, scrolled by so many lines.
    Help(usize),
    /// Commands that match what is written, and which of them is chosen.
    Palette(String, usize),
    /// What was verified of the open session.
    Integrity,
}

/// A line that is being written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// What it is for.
    pub kind: PromptKind,
    /// The text.
    pub text: String,
    /// Where the cursor stands, in characters.
    pub cursor: usize,
    /// What is wrong with it so far.
    pub error: Option<(String, usize)>,
}

/// What a prompt is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptKind {
    Filter,
    Search,
    Command,
    Goto,
}

/// A message on the last line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What it says; safe to show.
    pub text: Shown,
    /// Whether something went wrong.
    pub is_error: bool,
}

/// What the state starts from.
pub struct Start {
    pub lake: String,
    pub theme: Theme,
    pub keymap: Keymap,
    pub saved: BTreeMap<String, String>,
    pub max_sessions: usize,
    pub size: (u16, u16),
    pub wall_ns: i64,
}

impl State {
    /// The state before anything was read, and what to read first.
    pub fn new(start: Start) -> (Self, Vec<Cmd>) {
        let mut state = Self {
            screen: Screen::Sessions,
            history: Vec::new(),
            sessions: SessionList { loading: true, limit: start.max_sessions, ..SessionList::default() },
            session: None,
            findings: FindingList::default(),
            overlay: None,
            prompt: None,
            pending: Vec::new(),
            status: None,
            size: start.size,
            now_ns: 0,
            wall_ns: start.wall_ns,
            absolute_time: false,
            theme: start.theme,
            keymap: start.keymap,
            saved: start.saved,
            lake: start.lake,
            quit: false,
            suspend: false,
            redraw: false,
            copy: None,
            at_start: None,
            interrupted_ns: None,
            generation: 0,
        };
        let commands = vec![state.load_sessions(), state.load_findings()];
        (state, commands)
    }

    /// A generation that was never used.
    pub fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    /// Asks for the sessions.
    pub fn load_sessions(&mut self) -> Cmd {
        let generation = self.next_generation();
        self.sessions.generation = generation;
        Cmd::Sessions { generation, limit: self.sessions.limit }
    }

    /// Asks for the findings.
    pub fn load_findings(&mut self) -> Cmd {
        let generation = self.next_generation();
        self.findings.generation = generation;
        Cmd::Findings { generation }
    }

    /// The context that keys are read in.
    pub fn context(&self) -> Context {
        match (self.screen, &self.session) {
            (Screen::Sessions, _) | (Screen::Session, None) => Context::Sessions,
            (Screen::Findings, _) => Context::Findings,
            (Screen::Session, Some(session)) => match session.pane {
                Pane::Events => Context::Session,
                Pane::Detail => Context::Detail,
            },
        }
    }

    /// The session that is chosen in the list.
    pub fn selected_session(&self) -> Option<&SessionItem> {
        let index = self.sessions.shown.get(self.sessions.position.selected)?;
        self.sessions.all.get(usize::try_from(*index).ok()?)
    }

    /// The finding that is chosen in the list.
    pub fn selected_finding(&self) -> Option<&Finding> {
        let index = self.findings.shown.get(self.findings.position.selected)?;
        self.findings.all.get(*index)
    }

    /// Says something on the last line.
    pub fn say(&mut self, text: &str) {
        self.status = Some(Status { text: Shown::limit(text, 500), is_error: false });
    }

    /// Says on the last line what went wrong.
    pub fn complain(&mut self, text: &str) {
        self.status = Some(Status { text: Shown::limit(text, 500), is_error: true });
    }
}
