//! One spool lane on one core, shared by the sessions of that core. Not `Send`: it never needs a lock.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bodycam_bus::spool::LaneWriter;
use bodycam_bus::{BusError, Publisher, Record};
use bodycam_record::{Digest, Fingerprint, SessionId};

use super::producer::Producer;
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

    /// Number of sessions open on this core.
    pub fn open_sessions(&self) -> usize {
        self.shared.sessions.borrow().len()
    }
}

impl Shared {
    pub(super) fn append(&self, record: &Record) -> Result<(), RecordingError> {
        self.writer.borrow_mut().append(record)?;
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
            unanswered: Vec::new(),
            several: Default::default(),
        }));
        self.sessions.borrow_mut().insert(session, Rc::clone(&state));
        state
    }

    pub(super) fn forget(&self, session: SessionId) {
        self.sessions.borrow_mut().remove(&session);
    }

    /// One try to hand everything to the operating system.
    pub(super) fn try_flush(&self) -> Result<(), BusError> {
        let mut writer = self.writer.borrow_mut();
        writer.flush()?;
        if writer.wants_rotation() {
            let state = LaneState::of(&self.sessions.borrow()).encode();
            writer.rotate(state)?;
        }
        Ok(())
    }

    /// Everything appended so far on this lane is in the spool, as durable as configured. Holds while the
    /// spool is full or failing.
    pub(super) async fn persist(&self) -> Result<(), RecordingError> {
        let mut since = None;
        while let Err(error) = self.try_flush() {
            let since = *since.get_or_insert_with(Instant::now);
            let counters = self.producer.counters();
            counters.held.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let hopeless = matches!(error, BusError::Poisoned { .. });
            if hopeless || since.elapsed() >= self.hold {
                tracing::error!(event = "spool_refused", error = %error, "closing a session that cannot be recorded");
                return Err(error.into());
            }
            tokio::time::sleep(RETRY).await;
        }
        let settling = self.writer.borrow().settling();
        Ok(settling.wait().await?)
    }
}
