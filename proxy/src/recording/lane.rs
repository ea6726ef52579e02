//! One spool lane on one core, shared by the sessions of that core. Not `Send`: it never needs a lock.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bodycam_bus::spool::LaneWriter;
use bodycam_bus::{BusError, Publisher, Record};
use bodycam_record::{Digest, Fingerprint, SessionId};

use super::producer::{Producer, Unsealed};
use super::recovery::{LaneState, SessionState};
use super::{Opening, RecordingError, SessionPen};

/// Time between two tries on a spool that refuses.
const RETRY: Duration = Duration::from_millis(50);
/// Templates remembered as sent; beyond it some are sent twice, which the recorder folds.
const MAX_TEMPLATES: usize = 100_000;

/// A handle on this core's lane.
#[derive(Clone)]
pub struct Lane {
    pub(super) shared: Rc<Shared>,
}

pub(super) struct Shared {
    pub(super) producer: Producer,
    writer: RefCell<LaneWriter>,
    sessions: RefCell<BTreeMap<SessionId, Rc<RefCell<SessionState>>>>,
    templates: RefCell<HashSet<Fingerprint>>,
    /// Sessions that have ended and whose last events the spool has not taken yet.
    unsealed: RefCell<Vec<Unsealed>>,
    /// Events appended and not in the spool yet, and how many of them were counted as dropped.
    events_waiting: Cell<u64>,
    events_dropped: Cell<u64>,
    hold: Duration,
}

impl Lane {
    pub(super) fn new(producer: Producer, writer: LaneWriter, hold: Duration) -> Self {
        Self {
            shared: Rc::new(Shared {
                producer,
                writer: RefCell::new(writer),
                sessions: RefCell::default(),
                templates: RefCell::default(),
                unsealed: RefCell::default(),
                events_waiting: Cell::new(0),
                events_dropped: Cell::new(0),
                hold,
            }),
        }
    }

    /// The producer.
    pub fn producer(&self) -> &Producer {
        &self.shared.producer
    }

    /// Opens a session: OPEN in the ledger, then `session.opened` in this lane. Await
    /// [`SessionPen::persist`] before anything moves.
    pub fn open_session(&self, opening: Opening) -> Result<SessionPen, RecordingError> {
        SessionPen::open(self.clone(), opening)
    }

    /// Tries to seal the sessions that have ended while the spool took nothing; gives how many are left.
    pub fn seal_ended(&self) -> usize {
        if !self.shared.unsealed.borrow().is_empty()
            && let Err(error) = self.shared.try_flush()
        {
            tracing::debug!(event = "seal_waits", error = %error, "sessions wait for their seal");
        }
        self.shared.unsealed.borrow().len()
    }

    /// Number of sessions open on this core.
    pub fn open_sessions(&self) -> usize {
        self.shared.sessions.borrow().len()
    }
}

impl Shared {
    pub(super) fn append(&self, record: &Record) -> Result<(), RecordingError> {
        self.writer.borrow_mut().append(record)?;
        if matches!(record, Record::Event(_)) {
            self.events_waiting.set(self.events_waiting.get() + 1);
        }
        Ok(())
    }

    /// Sends a template the first time this lane sees its fingerprint.
    pub(super) fn template(&self, fingerprint: Fingerprint, text: &str) -> Result<(), RecordingError> {
        let mut sent = self.templates.borrow_mut();
        if sent.contains(&fingerprint) {
            return Ok(());
        }
        if sent.len() >= MAX_TEMPLATES {
            sent.clear();
        }
        sent.insert(fingerprint);
        drop(sent);
        self.append(&Record::Template { fingerprint, text: text.to_owned() })
    }

    pub(super) fn register(&self, session: SessionId, genesis: Digest) -> Rc<RefCell<SessionState>> {
        let state = Rc::new(RefCell::new(SessionState {
            count: 0,
            head: genesis,
            unanswered: BTreeSet::new(),
            several: Default::default(),
        }));
        self.sessions.borrow_mut().insert(session, Rc::clone(&state));
        state
    }

    pub(super) fn forget(&self, session: SessionId) {
        self.sessions.borrow_mut().remove(&session);
    }

    /// A session has ended: it is sealed as soon as the spool has taken its last event.
    pub(super) fn seal_when_flushed(&self, session: Unsealed) {
        self.unsealed.borrow_mut().push(session);
    }

    /// One try to hand everything to the operating system. What ended before is sealed then: the lane is in
    /// order, so that with everything the last events of those sessions are out, too.
    pub(super) fn try_flush(&self) -> Result<(), BusError> {
        let state = || LaneState::of(&self.sessions.borrow()).encode();
        self.producer.flush_ledger()?;
        let flushed = self.writer.borrow_mut().flush_and_rotate(state);
        self.count(&flushed);
        flushed?;
        for session in self.unsealed.take() {
            self.forget(session.session);
            self.producer.seal(session);
        }
        Ok(())
    }

    fn count(&self, flushed: &Result<(), BusError>) {
        let (counters, waiting) = (self.producer.counters(), self.events_waiting.get());
        match flushed {
            Ok(()) => {
                counters.events.fetch_add(self.events_waiting.take(), Ordering::Relaxed);
            }
            Err(error @ BusError::Poisoned { .. }) => {
                self.producer.refused(error);
                let known = self.events_dropped.replace(waiting);
                counters.dropped.fetch_add(waiting.saturating_sub(known), Ordering::Relaxed);
            }
            Err(error) => self.producer.refused(error),
        }
    }

    /// Everything appended so far on this lane is in the spool, as durable as configured. Holds while the
    /// spool is full or failing, and until `held`, which goes on from call to call, has lasted long enough.
    pub(super) async fn persist(&self, held: &mut Option<Instant>) -> Result<(), RecordingError> {
        while let Err(error) = self.try_flush() {
            let since = *held.get_or_insert_with(Instant::now);
            let counters = self.producer.counters();
            counters.held.fetch_add(1, Ordering::Relaxed);
            let hopeless = matches!(error, BusError::Poisoned { .. });
            if hopeless || since.elapsed() >= self.hold {
                tracing::error!(event = "spool_refused", error = %error, "closing a session that cannot be recorded");
                return Err(error.into());
            }
            tokio::time::sleep(RETRY).await;
        }
        let settling = self.writer.borrow().settling();
        if let Some(settling) = settling {
            settling.wait().await?;
        }
        *held = None;
        Ok(())
    }
}
