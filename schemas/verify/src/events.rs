//! Events of one file: each row's hash is recomputed, and rows that follow on one another in the file are
//! joined into runs. What a run follows on lies elsewhere; [`crate::sessions`] joins the runs.

use bodycam_lake::StoredEvent;
use bodycam_lake::columns::sessions::Tally;
use bodycam_record::canonical::Writer;
use bodycam_record::kinds::{KindBody, session};
use bodycam_record::{Digest, SessionId, digest};

use crate::tree::Tree;

/// Events `[from, next)` of a session, each of which follows on the one before it.
#[derive(Debug, Clone)]
pub struct Run {
    /// The first event, which is not checked against what is before it.
    pub first: Box<StoredEvent>,
    /// Number after the last event.
    pub next: i64,
    /// Stated hash of the last event.
    pub head: Digest,
    /// Wall time of the last event.
    pub last_ts_ns: i64,
    /// Subtrees over the stated hashes.
    pub tree: Tree,
    /// What the index of sessions sums up of these events.
    pub tally: Tally,
    /// The `session.closed` with which the run ends.
    pub closed: Option<Box<StoredEvent>>,
    /// Whether something about it is wrong, so that the session must be looked at row by row.
    pub broken: bool,
}

/// How an event stands to the row before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// It follows on this hash, which the row before it states, and its own hash fits.
    Follows(Digest),
    /// It would follow on the row before it, but its hash does not fit.
    Broken,
    /// It does not follow on the row before it.
    Apart,
}

/// Recomputes hashes row by row.
#[derive(Default)]
pub struct Linker {
    last: Option<StoredEvent>,
    scratch: Vec<u8>,
}

impl Linker {
    /// How `event` stands to the event that was given before it.
    pub fn link(&mut self, event: &mut StoredEvent) -> Link {
        let prev = match &self.last {
            Some(last) if follows(last, event) => last.hash,
            _ => return Link::Apart,
        };
        match self.hash(event, prev) == event.hash {
            true => Link::Follows(prev),
            false => Link::Broken,
        }
    }

    /// Remembers `event` as the row before the next.
    pub fn passed(&mut self, event: StoredEvent) {
        self.last = Some(event);
    }

    /// Forgets the row before: the next event follows on nothing here.
    pub fn interrupt(&mut self) {
        self.last = None;
    }

    /// The hash of `event` as the one that follows on `prev`.
    pub fn hash(&mut self, event: &mut StoredEvent, prev: Digest) -> Digest {
        event.envelope.prev = prev;
        let mut w = Writer::reusing(std::mem::take(&mut self.scratch));
        event.envelope.put(&mut w);
        let hash = digest::EVENT.digest(w.as_slice());
        self.scratch = w.into_vec();
        hash
    }
}

/// The hash of `event` as the one that follows on `prev`.
pub fn hash_after(event: &StoredEvent, prev: Digest) -> Digest {
    let mut envelope = event.envelope.clone();
    envelope.prev = prev;
    envelope.hash()
}

/// Whether the two are neighbours in one session, by what they say of themselves.
fn follows(last: &StoredEvent, event: &StoredEvent) -> bool {
    let (a, b) = (&last.envelope, &event.envelope);
    b.seq.checked_sub(1) == Some(a.seq) && same_session(last, event)
}

/// Whether the two agree in everything that is the same in all events of a session.
pub fn same_session(one: &StoredEvent, other: &StoredEvent) -> bool {
    let (a, b) = (&one.envelope, &other.envelope);
    (a.session, a.epoch, a.principal_ref) == (b.session, b.epoch, b.principal_ref)
        && (&a.producer, &a.target) == (&b.producer, &b.target)
}

/// Whether the event is of this kind.
pub fn is<K: KindBody>(event: &StoredEvent) -> bool {
    event.envelope.kind == K::TABLE.code
}

/// Collects the runs of a file.
#[derive(Default)]
pub struct Runs {
    linker: Linker,
    done: Vec<Run>,
    current: Option<Run>,
}

impl Runs {
    /// Takes the next row.
    pub fn add(&mut self, mut event: StoredEvent) {
        // A checkpoint speaks of all events before it: its run starts with it, so that it is compared with
        // exactly those.
        let apart = is::<session::SessionCheckpoint>(&event);
        let link = if apart { Link::Apart } else { self.linker.link(&mut event) };
        match (&mut self.current, link) {
            (Some(run), Link::Follows(_) | Link::Broken) => {
                run.broken |= link == Link::Broken || run.closed.is_some();
                run.extend(&event);
            }
            (current, _) => {
                self.done.extend(current.take());
                *current = Some(Run::of(&event));
            }
        }
        self.linker.passed(event);
    }

    /// The row before the next cannot be read.
    pub fn interrupt(&mut self) {
        self.linker.interrupt();
    }

    /// The runs.
    pub fn finish(mut self) -> Vec<Run> {
        self.done.extend(self.current.take());
        self.done
    }
}

impl Run {
    fn of(event: &StoredEvent) -> Self {
        let from = event.envelope.seq;
        let mut run = Run {
            first: Box::new(event.clone()),
            next: from,
            head: event.hash,
            last_ts_ns: event.envelope.ts_wall_ns,
            tree: Tree::at(u64::try_from(from).unwrap_or_default()),
            tally: Tally::default(),
            closed: None,
            broken: from < 0,
        };
        run.extend(event);
        run
    }

    fn extend(&mut self, event: &StoredEvent) {
        self.next = self.next.saturating_add(1);
        self.head = event.hash;
        self.last_ts_ns = event.envelope.ts_wall_ns;
        self.tree.push(event.hash);
        if !Tally::is_end(event.envelope.kind) {
            self.tally.add(&event.envelope, &event.body);
        }
        if is::<session::SessionClosed>(event) {
            self.closed = Some(Box::new(event.clone()));
        }
    }

    /// The session.
    pub fn session(&self) -> SessionId {
        self.first.envelope.session
    }

    /// Number of the first event.
    pub fn from(&self) -> i64 {
        self.first.envelope.seq
    }
}
