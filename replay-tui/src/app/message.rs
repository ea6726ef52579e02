//! The messages that change the state and the commands that it gives.

use std::sync::Arc;

use bodycam_record::SessionId;

use super::lists::SortBy;
use crate::chain::ChainCheck;
use crate::detail::Detail;
use crate::event::EventItem;
use crate::key::Key;
use crate::matcher::Matcher;
use crate::source::{EvidenceBySeq, Finding, SessionItem};
use crate::timeline::{Tick, Ticker};

/// What happened.
pub enum Msg {
    /// A key was pressed.
    Key(Key),
    /// The terminal has this size now.
    Resize(u16, u16),
    /// The mouse was clicked at a column and row, or its wheel turned (lines down).
    Click(u16, u16),
    Wheel(i64),
    /// The player's time has come.
    Tick,
    /// The process was asked to end, or to stop for now.
    Quit,
    Suspend,
    /// Something was committed to the lake.
    Refreshed,
    /// Sessions were read.
    Sessions {
        generation: u64,
        sessions: Vec<SessionItem>,
        truncated: bool,
    },
    /// Sessions were filtered and ordered.
    SessionsShown {
        generation: u64,
        shown: Vec<u32>,
    },
    /// A session was found to open at an event.
    Session {
        generation: u64,
        session: Box<SessionItem>,
        seq: Option<i64>,
    },
    /// The next events of a session were read and checked.
    Scanned {
        generation: u64,
        ticks: Vec<Tick>,
        ticker: Ticker,
        chain: Box<ChainCheck>,
        next_seq: i64,
        done: bool,
    },
    /// A page of events was read.
    Page {
        generation: u64,
        page: i64,
        events: Vec<EventItem>,
    },
    /// A page could not be read.
    PageFailed {
        generation: u64,
        page: i64,
        error: String,
    },
    /// Details were read.
    Detail {
        generation: u64,
        detail: Option<Box<Detail>>,
    },
    /// Some events were looked at for a filter or search.
    Matched {
        generation: u64,
        seqs: Vec<i64>,
        scanned: i64,
        done: bool,
    },
    /// Findings were read.
    Findings {
        generation: u64,
        findings: Vec<Finding>,
    },
    /// Something could not be read.
    Failed {
        generation: u64,
        error: String,
    },
}

/// What is to be done outside.
#[derive(Clone)]
pub enum Cmd {
    /// Read the list of sessions.
    Sessions { generation: u64, limit: usize },
    /// Filter and order sessions.
    ShowSessions {
        generation: u64,
        all: Arc<Vec<SessionItem>>,
        matcher: Matcher,
        sort: SortBy,
        reversed: bool,
    },
    /// Find a session.
    Session { generation: u64, session: SessionId, seq: Option<i64> },
    /// Read and check a session's events from here on.
    Scan { generation: u64, session: Box<SessionItem>, from: i64, ticker: Ticker, chain: Box<ChainCheck> },
    /// Read a page of events.
    Page { generation: u64, session: SessionId, page: i64 },
    /// Read the details of an event.
    Detail { generation: u64, session: Box<SessionItem>, seq: i64 },
    /// Look for events that pass, for a filter or a search.
    Match(Box<MatchRequest>),
    /// Read the findings.
    Findings { generation: u64 },
}

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    Sessions,
    ShowSessions,
    Session,
    Scan,
    Page,
    Detail,
    Filter,
    Search,
    Findings,
}

/// What events are looked for.
#[derive(Clone)]
pub struct MatchRequest {
    pub generation: u64,
    pub session: SessionItem,
    pub matcher: Matcher,
    pub evidence: Arc<EvidenceBySeq>,
    /// Number of the first event to look at.
    pub from: i64,
    /// Whether it is for the search, not the filter.
    pub search: bool,
}

impl Cmd {
    /// The kind of request: an answer counts when no later request of its kind was made.
    pub fn lane(&self) -> (Lane, u64) {
        match self {
            Cmd::Sessions { generation, .. } => (Lane::Sessions, *generation),
            Cmd::ShowSessions { generation, .. } => (Lane::ShowSessions, *generation),
            Cmd::Session { generation, .. } => (Lane::Session, *generation),
            Cmd::Scan { generation, .. } => (Lane::Scan, *generation),
            Cmd::Page { generation, .. } => (Lane::Page, *generation),
            Cmd::Detail { generation, .. } => (Lane::Detail, *generation),
            Cmd::Match(request) if request.search => (Lane::Search, request.generation),
            Cmd::Match(request) => (Lane::Filter, request.generation),
            Cmd::Findings { generation } => (Lane::Findings, *generation),
        }
    }
}

impl Lane {
    /// Number of lanes.
    pub const COUNT: usize = 9;
}
