//! The state of the replay, the messages that change it and the commands that it gives.
//!
//! Invariant: every answer carries the generation of the request that it answers; one of an older generation
//! changes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bodycam_record::SessionId;

use crate::chain::ChainCheck;
use crate::commands::{Context, Keymap};
use crate::detail::Detail;
use crate::event::EventItem;
use crate::key::Key;
use crate::matcher::Matcher;
use crate::source::{EvidenceBySeq, Finding, SessionItem};
use crate::theme::Theme;
use crate::timeline::{Player, Tick, Ticker, Timeline};

/// Events on a page of the event list.
pub const PAGE: i64 = 128;
/// Pages that are kept.
const PAGES_KEPT: usize = 24;

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
    /// Where to go in the session that was opened at the start, once it was read.
    pub at_start: Option<crate::timeline::Goto>,
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
    pub text: crate::shown::Shown,
    /// Whether something went wrong.
    pub is_error: bool,
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

/// A list: what is chosen and what is in view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Index of the chosen row.
    pub selected: usize,
    /// Index of the first row in view.
    pub top: usize,
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
    /// The filter in force.
    pub filter: String,
    /// The search in force.
    pub search: String,
    /// The finding whose evidence is being walked, by id, and how far.
    pub walking: Option<(bodycam_record::Id16, usize)>,
    /// Generation of the request whose answer counts.
    pub generation: u64,
}

/// Which pane of a session has the focus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pane {
    #[default]
    Events,
    Detail,
}

/// How an event's details are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DetailView {
    #[default]
    Pretty,
    Raw,
    Hex,
}

/// An open session.
pub struct SessionState {
    /// Its row.
    pub item: SessionItem,
    /// Its ticks, as far as they were read.
    pub timeline: Timeline,
    /// Its chain, as far as it was checked.
    pub chain: ChainCheck,
    /// Where reading goes on.
    pub ticker: Ticker,
    /// Number after the last event that was read.
    pub next_seq: i64,
    /// Whether a scan is under way.
    pub scanning: bool,
    /// The clock.
    pub player: Player,
    /// Index of the tick that is shown; none before the first was read.
    pub cursor: usize,
    /// Index of the first row in view, among those that are shown.
    pub top: usize,
    /// Pages of events.
    pub pages: Pages,
    /// The pane with the focus.
    pub pane: Pane,
    /// Whether it fills the screen.
    pub maximised: bool,
    /// Details of the event under the cursor, or of the one before while they are read.
    pub detail: Option<Arc<Detail>>,
    /// Number of the event whose details are wanted.
    pub detail_seq: Option<i64>,
    /// How details are shown.
    pub detail_view: DetailView,
    /// First line and first column of the details in view.
    pub detail_scroll: (usize, usize),
    /// The filter in force, and numbers of the events that pass it.
    pub filter: Option<Matches>,
    /// The search in force, and numbers of its hits.
    pub search: Option<Matches>,
    /// Findings by event.
    pub evidence: Arc<EvidenceBySeq>,
    /// Marked events.
    pub marks: BTreeSet<i64>,
    /// Whether the newest event is kept in view.
    pub follow: bool,
    /// Number of the event to go to once it was read.
    pub wanted_seq: Option<i64>,
    /// Generation of everything about this session.
    pub generation: u64,
    /// Generation of the details asked for last.
    pub detail_generation: u64,
}

/// Events that pass a filter, as far as they were looked for.
#[derive(Debug, Clone, Default)]
pub struct Matches {
    /// The text that was asked for.
    pub text: String,
    /// Numbers of the events, ascending.
    pub seqs: Vec<i64>,
    /// Number after the last event looked at.
    pub scanned: i64,
    /// Whether all that were read have been looked at.
    pub done: bool,
    /// Generation of the request whose answers count.
    pub generation: u64,
}

/// Pages of events that were read.
#[derive(Default)]
pub struct Pages {
    pages: HashMap<i64, (u64, Arc<Vec<EventItem>>)>,
    requested: HashSet<i64>,
    used: u64,
}

impl Pages {
    /// The event with number `seq`, when its page is here.
    pub fn event(&self, seq: i64) -> Option<&EventItem> {
        let (_, page) = self.pages.get(&seq.div_euclid(PAGE))?;
        let at = page.partition_point(|e| e.seq() < seq);
        page.get(at).filter(|e| e.seq() == seq)
    }

    /// Whether page `page` must be asked for; from then on it counts as asked for.
    pub fn want(&mut self, page: i64) -> bool {
        self.used += 1;
        if let Some((used, _)) = self.pages.get_mut(&page) {
            *used = self.used;
            return false;
        }
        self.requested.insert(page)
    }

    /// Keeps a page, and lets the one go that was not used for longest.
    pub fn put(&mut self, page: i64, events: Vec<EventItem>) {
        self.requested.remove(&page);
        self.used += 1;
        self.pages.insert(page, (self.used, Arc::new(events)));
        while self.pages.len() > PAGES_KEPT {
            let oldest = self.pages.iter().min_by_key(|(_, (used, _))| *used).map(|(page, _)| *page);
            oldest.map(|page| self.pages.remove(&page));
        }
    }

    /// Forgets a request that failed.
    pub fn failed(&mut self, page: i64) {
        self.requested.remove(&page);
    }

    /// Forgets pages to which events may have been added.
    pub fn forget_from(&mut self, seq: i64) {
        let page = seq.div_euclid(PAGE);
        self.pages.retain(|p, _| *p < page);
        self.requested.retain(|p| *p < page);
    }
}

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

impl Lane {
    /// Number of lanes.
    pub const COUNT: usize = 9;
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
        self.status = Some(Status { text: crate::shown::Shown::limit(text, 500), is_error: false });
    }

    /// Says on the last line what went wrong.
    pub fn complain(&mut self, text: &str) {
        self.status = Some(Status { text: crate::shown::Shown::limit(text, 500), is_error: true });
    }
}

impl SessionState {
    /// A session that is about to be read.
    pub fn new(item: SessionItem, generation: u64, wanted_seq: Option<i64>) -> Self {
        Self {
            item,
            timeline: Timeline::default(),
            chain: ChainCheck::default(),
            ticker: Ticker::default(),
            next_seq: 0,
            scanning: true,
            player: Player::default(),
            cursor: 0,
            top: 0,
            pages: Pages::default(),
            pane: Pane::Events,
            maximised: false,
            detail: None,
            detail_seq: None,
            detail_view: DetailView::Pretty,
            detail_scroll: (0, 0),
            filter: None,
            search: None,
            evidence: Arc::default(),
            marks: BTreeSet::new(),
            follow: false,
            wanted_seq,
            generation,
            detail_generation: 0,
        }
    }

    /// Number of rows in the event list.
    pub fn rows(&self) -> usize {
        self.filter.as_ref().map_or(self.timeline.len(), |f| f.seqs.len())
    }

    /// Index of the tick in row `row`.
    pub fn tick_of_row(&self, row: usize) -> Option<usize> {
        match &self.filter {
            None => (row < self.timeline.len()).then_some(row),
            Some(filter) => filter.seqs.get(row).map(|seq| self.timeline.index_of_seq(*seq)),
        }
    }

    /// The row of the cursor, or the last row before it.
    pub fn row_of_cursor(&self) -> usize {
        match &self.filter {
            None => self.cursor,
            Some(filter) => {
                let seq = self.seq().unwrap_or(0);
                filter.seqs.partition_point(|s| *s <= seq).saturating_sub(1)
            }
        }
    }

    /// Number of the event under the cursor.
    pub fn seq(&self) -> Option<i64> {
        self.timeline.ticks().get(self.cursor).map(|t| t.seq)
    }
}
