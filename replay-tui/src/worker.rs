//! The workers: they carry commands out against the source and answer with messages. A command whose kind was
//! given anew is dropped, also while it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use crate::app::{Cmd, Lane, MatchRequest, Msg, PAGE, SortBy};
use crate::detail;
use crate::error::ReplayError;
use crate::matcher::Matcher;
use crate::source::{EventInSession, SessionItem, Source, each_window};

/// Threads that read.
const THREADS: usize = 3;
/// Events that a scan reads first: the first screen does not wait for the whole session.
const SCAN_WINDOW: i64 = 2048;
/// Events that a search reads at a time, with their texts.
const MATCH_WINDOW: i64 = 1024;
/// Sessions of the first answer: enough for any screen, and quick in any lake.
const FIRST_SESSIONS: usize = 512;

/// The newest generation of each lane.
#[derive(Default)]
struct Newest([AtomicU64; Lane::COUNT]);

impl Newest {
    fn slot(&self, lane: Lane) -> Option<&AtomicU64> {
        self.0.get(lane as usize)
    }

    fn raise(&self, lane: Lane, generation: u64) {
        if let Some(slot) = self.slot(lane) {
            slot.fetch_max(generation, Ordering::SeqCst);
        }
    }

    fn is(&self, lane: Lane, generation: u64) -> bool {
        self.slot(lane).is_none_or(|slot| slot.load(Ordering::SeqCst) == generation)
    }
}

/// Where commands go.
pub struct Workers {
    commands: Sender<Cmd>,
    newest: Arc<Newest>,
}

impl Workers {
    /// Starts the threads; answers go to `answers`.
    pub fn start(source: Arc<dyn Source>, answers: Sender<Msg>) -> Result<Self, ReplayError> {
        let (commands, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let newest = Arc::new(Newest::default());
        for n in 0..THREADS {
            let worker = Worker { source: source.clone(), answers: answers.clone(), newest: newest.clone() };
            let queue = queue.clone();
            std::thread::Builder::new()
                .name(format!("replay-{n}"))
                .spawn(move || worker.run(&queue))
                .map_err(|err| ReplayError::Worker(err.to_string()))?;
        }
        Ok(Self { commands, newest })
    }

    /// Has a command carried out.
    pub fn give(&self, command: Cmd) {
        let (lane, generation) = command.lane();
        self.newest.raise(lane, generation);
        // The threads end only with the process: there is always one to take it.
        let _ = self.commands.send(command);
    }
}

pub(crate) struct Worker {
    source: Arc<dyn Source>,
    answers: Sender<Msg>,
    newest: Arc<Newest>,
}

impl Worker {
    fn run(&self, queue: &Mutex<Receiver<Cmd>>) {
        loop {
            let command = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(command) = command else { return };
            let (lane, generation) = command.lane();
            if !self.newest.is(lane, generation) {
                continue;
            }
            let page = match &command {
                Cmd::Page { page, .. } => Some(*page),
                _ => None,
            };
            if let Err(err) = self.carry_out(command) {
                let error = err.to_string();
                self.answer(match page {
                    Some(page) => Msg::PageFailed { generation, page, error },
                    None => Msg::Failed { generation, error },
                });
            }
        }
    }

    /// A worker without a thread: whoever has it asks and waits.
    pub(crate) fn inline(source: Arc<dyn Source>) -> Self {
        Self { source, answers: channel().0, newest: Arc::default() }
    }

    /// All answers to a command, errors among them.
    pub(crate) fn answers_to(&mut self, command: Cmd) -> Vec<Msg> {
        let (answers, inbox) = channel();
        let (lane, generation) = command.lane();
        self.answers = answers;
        self.newest.raise(lane, generation);
        if let Err(err) = self.carry_out(command) {
            self.answer(Msg::Failed { generation, error: err.to_string() });
        }
        inbox.try_iter().collect()
    }

    /// Sends an answer; whether anyone is there to take it.
    fn answer(&self, msg: Msg) -> bool {
        self.answers.send(msg).is_ok()
    }

    fn carry_out(&self, command: Cmd) -> Result<(), ReplayError> {
        let source = self.source.as_ref();
        match command {
            Cmd::Sessions { generation, limit } => {
                for limit in [FIRST_SESSIONS.min(limit), limit] {
                    let sessions = source.sessions(limit.saturating_add(1))?;
                    let truncated = sessions.len() > limit;
                    let sessions = sessions.into_iter().take(limit).collect();
                    self.answer(Msg::Sessions { generation, sessions, truncated });
                    if !truncated {
                        break;
                    }
                }
            }
            Cmd::ShowSessions { generation, all, matcher, sort, reversed } => {
                self.answer(Msg::SessionsShown { generation, shown: show(&all, &matcher, sort, reversed) });
            }
            Cmd::Session { generation, session, seq } => match source.session(session)? {
                Some(found) => drop(self.answer(Msg::Session { generation, session: Box::new(found), seq })),
                None => return Err(ReplayError::NoSession(session.to_string())),
            },
            Cmd::Scan { generation, session, from, mut ticker, mut chain } => {
                let mut next_seq = from;
                each_window(source, &session, from, SCAN_WINDOW, false, |events| {
                    let ticks = ticker.ticks(&events);
                    chain.extend(&events);
                    next_seq = events.last().map_or(next_seq, |e| e.seq().saturating_add(1));
                    let chain = chain.clone();
                    let went = Msg::Scanned { generation, ticks, ticker, chain, next_seq, done: false };
                    Ok(self.answer(went) && self.newest.is(Lane::Scan, generation))
                })?;
                self.answer(Msg::Scanned {
                    generation,
                    ticks: Vec::new(),
                    ticker,
                    chain,
                    next_seq,
                    done: true,
                });
            }
            Cmd::Page { generation, session, page } => {
                let from = page.saturating_mul(PAGE);
                let events = source.events(session, from, from.saturating_add(PAGE))?;
                self.answer(Msg::Page { generation, page, events });
            }
            Cmd::Detail { generation, session, seq } => {
                let detail = detail::of(source, &session, seq)?.map(Box::new);
                self.answer(Msg::Detail { generation, detail });
            }
            Cmd::Match(request) => self.look(&request)?,
            Cmd::Findings { generation } => {
                self.answer(Msg::Findings { generation, findings: source.findings()? });
            }
        }
        Ok(())
    }

    fn look(&self, request: &MatchRequest) -> Result<(), ReplayError> {
        let MatchRequest { generation, session, matcher, evidence, from, search } = request;
        let (generation, lane) = (*generation, if *search { Lane::Search } else { Lane::Filter });
        let mut scanned = *from;
        each_window(self.source.as_ref(), session, *from, MATCH_WINDOW, true, |events| {
            let passes = |event: &&crate::event::EventItem| {
                matcher.matches(&EventInSession { session, event, evidence })
            };
            let seqs = events.iter().filter(passes).map(|e| e.seq()).collect();
            scanned = events.last().map_or(scanned, |e| e.seq().saturating_add(1));
            Ok(self.answer(Msg::Matched { generation, seqs, scanned, done: false })
                && self.newest.is(lane, generation))
        })?;
        self.answer(Msg::Matched { generation, seqs: Vec::new(), scanned, done: true });
        Ok(())
    }
}

/// Indices of the sessions that pass, in order.
fn show(all: &[SessionItem], matcher: &Matcher, sort: SortBy, reversed: bool) -> Vec<u32> {
    let passing = all.iter().enumerate().filter(|(_, s)| matcher.matches(*s));
    let mut keyed: Vec<(i64, u32)> =
        passing.filter_map(|(i, s)| Some((sort.key(s), u32::try_from(i).ok()?))).collect();
    // `all` is in order of newest activity: equal keys stay in that order.
    match reversed {
        true => keyed.sort_by_key(|(key, _)| *key),
        false => keyed.sort_by_key(|(key, _)| std::cmp::Reverse(*key)),
    }
    keyed.into_iter().map(|(_, i)| i).collect()
}
