//! An open session: how far it was read and checked, and what of it is in view.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::chain::ChainCheck;
use crate::detail::Detail;
use crate::event::EventItem;
use crate::shown::Shown;
use crate::source::{EvidenceBySeq, SessionItem};
use crate::timeline::{Player, Ticker, Timeline};

/// Events on a page of the event list.
pub const PAGE: i64 = 128;

/// Pages that are kept.
const PAGES_KEPT: usize = 24;

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
    /// Why reading ended before the end.
    pub failed: Option<Shown>,
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
            failed: None,
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
