//! The lists of sessions and of findings: what is in them, how they are ordered, what is chosen.

use std::sync::Arc;

use bodycam_record::{Id16, SessionId};

use crate::source::{Finding, SessionItem};

/// The list of sessions.
#[derive(Default)]
pub struct SessionList {
    /// All of them, newest activity first.
    pub all: Arc<Vec<SessionItem>>,
    /// Indices of those that are shown, in order.
    pub shown: Arc<Vec<u32>>,
    /// What is chosen.
    pub position: Position,
    /// The order.
    pub sort: SortBy,
    /// Whether it is reversed.
    pub reversed: bool,
    /// The filter in force.
    pub filter: String,
    /// The search in force.
    pub search: String,
    /// Whether the first answer is still to come.
    pub loading: bool,
    /// Whether there are more sessions than were read.
    pub truncated: bool,
    /// Generation of the request whose answer counts.
    pub generation: u64,
    /// The same of the request to filter and order them.
    pub shown_generation: u64,
    /// Most sessions that are read.
    pub limit: usize,
    /// The session that stays chosen when the list changes.
    pub chosen: Option<SessionId>,
}

/// The list of findings.
#[derive(Default)]
pub struct FindingList {
    /// All of them.
    pub all: Arc<Vec<Finding>>,
    /// Indices of those that are shown.
    pub shown: Vec<usize>,
    /// What is chosen.
    pub position: Position,
    /// Whether the newest come first, whatever their severity.
    pub newest_first: bool,
    /// The filter in force.
    pub filter: String,
    /// The search in force.
    pub search: String,
    /// The finding whose evidence is being walked, by id, and how far.
    pub walking: Option<(Id16, usize)>,
    /// Generation of the request whose answer counts.
    pub generation: u64,
}

/// A list: what is chosen and what is in view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Index of the chosen row.
    pub selected: usize,
    /// Index of the first row in view.
    pub top: usize,
}

/// How the list of sessions is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortBy {
    #[default]
    Activity,
    Start,
    Duration,
    Events,
    Rows,
    Bytes,
    Denies,
    Findings,
}

impl Position {
    /// Chooses row `selected` of `count`, and moves the view so that it is among the `height` rows shown.
    pub fn select(&mut self, selected: usize, count: usize, height: usize) {
        self.selected = selected.min(count.saturating_sub(1));
        let height = height.max(1);
        let lowest = (self.selected + 1).saturating_sub(height);
        self.top = self.top.clamp(lowest, self.selected.max(lowest)).min(count.saturating_sub(1));
    }

    /// The choice `by` rows away.
    pub fn moved(&self, by: i64) -> usize {
        let moved = i64::try_from(self.selected).unwrap_or(i64::MAX).saturating_add(by);
        usize::try_from(moved.max(0)).unwrap_or(0)
    }
}

impl SortBy {
    /// Every order, as `s` walks through them.
    pub const ALL: [SortBy; 8] = [
        SortBy::Activity,
        SortBy::Start,
        SortBy::Duration,
        SortBy::Events,
        SortBy::Rows,
        SortBy::Bytes,
        SortBy::Denies,
        SortBy::Findings,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            SortBy::Activity => "activity",
            SortBy::Start => "start",
            SortBy::Duration => "duration",
            SortBy::Events => "events",
            SortBy::Rows => "rows",
            SortBy::Bytes => "bytes",
            SortBy::Denies => "denies",
            SortBy::Findings => "findings",
        }
    }

    /// What a session is ordered by.
    pub fn key(self, session: &SessionItem) -> i64 {
        let row = &session.row;
        match self {
            SortBy::Activity => row.last_activity_ns,
            SortBy::Start => row.started_ns,
            SortBy::Duration => session.duration_ns(),
            SortBy::Events => row.events,
            SortBy::Rows => row.rows,
            SortBy::Bytes => session.bytes_left(),
            SortBy::Denies => row.denies,
            SortBy::Findings => i64::try_from(session.findings.len()).unwrap_or(i64::MAX),
        }
    }
}
