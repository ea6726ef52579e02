//! The pen of one session.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bodycam_bus::Record;
use bodycam_record::chain::Genesis;
use bodycam_record::content::{Commitment, MAX_CHUNK, seal_chunk, structured};
use bodycam_record::kinds::Body;
use bodycam_record::kinds::session::{SessionCheckpoint, SessionClosed, SessionOpened};
use bodycam_record::{
    Chain, ContentKind, Digest, Draft, Fingerprint, Id16, Seal, SessionId, SessionKey, TenantKey, digest,
};

use super::producer::{Progress, Unsealed, lock, random_seed};
use super::recovery::SessionState;
use super::{Lane, RecordingError};

/// A CHECKPOINT follows at the latest after this many events.
const CHECKPOINT_EVENTS: i64 = 1000;
/// A CHECKPOINT follows at the latest after this many nanoseconds in which events were recorded.
const CHECKPOINT_NS: i64 = 60_000_000_000;

/// What is known when a session opens.
#[derive(Debug, Clone, Default)]
pub struct Opening {
    /// `postgres` or `http`.
    pub protocol: &'static str,
    /// Name of the principal.
    pub principal: String,
    /// `person`, `agent` or `contractor`.
    pub principal_kind: String,
    /// Id of the credential used.
    pub credential: Id16,
    /// How it was proven.
    pub auth_method: String,
    /// Name of the target in the configuration; of the listener for egress.
    pub target: String,
    /// Database, empty for HTTP.
    pub database: String,
    /// Role at the target, empty for HTTP.
    pub upstream_role: String,
    /// Client address (without port).
    pub client_address: String,
    /// Different addresses that used this credential in the last 24 hours, this one included.
    pub credential_addresses: i64,
    /// Whether the client's side is encrypted.
    pub client_tls: bool,
    /// Whether the target's side is encrypted.
    pub upstream_tls: bool,
    /// Protocol version negotiated with the client.
    pub protocol_version: String,
    /// Correlation id in text.
    pub correlation: Option<String>,
    /// Further facts in text: startup parameters, credential name, TLS facts. Content, never hashed directly.
    pub facts: Vec<(String, Vec<u8>)>,
}

/// Totals of a session, kept by the relay, recorded at close.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Statements or requests.
    pub statements: i64,
    /// Result rows sent to the client.
    pub rows: i64,
    /// Bytes from the client.
    pub bytes_in: i64,
    /// Bytes to the client.
    pub bytes_out: i64,
}

/// Content that is being written for an event that may come later.
#[derive(Debug)]
pub struct ContentWriter {
    commitment: Commitment,
}

/// Records one session. Dropped without [`SessionPen::close`], it closes with reason `error`.
pub struct SessionPen {
    lane: Lane,
    key: SessionKey,
    chain: Chain,
    state: Rc<RefCell<SessionState>>,
    progress: Arc<Mutex<Progress>>,
    open_seq: i64,
    next_content: i64,
    first_ts_ns: i64,
    last_ts_ns: i64,
    last_mono_ns: i64,
    checkpoint_count: i64,
    /// Monotonic time of the last CHECKPOINT: the wall clock may jump.
    checkpoint_ns: i64,
    opened_mono_ns: i64,
    totals: Totals,
    correlation: Option<Id16>,
    /// Since when the spool has refused what this session recorded.
    held: Option<Instant>,
    closed: bool,
    sealed: bool,
}

impl SessionPen {
    pub(super) fn open(lane: Lane, opening: Opening) -> Result<Self, RecordingError> {
        // On a lane that takes nothing no session is begun that could not be told.
        lane.shared.try_flush()?;
        let producer = lane.producer().clone();
        let (clock, tenant) = (producer.clock().clone(), producer.tenant_key().clone());
        let now = clock.wall_ns();
        let mut random = [0; 10];
        getrandom::fill(&mut random).map_err(RecordingError::Random)?;
        let session = SessionId::new(u64::try_from(now / 1_000_000).unwrap_or(0), random);
        let key = SessionKey::new(*random_seed()?);
        let nonce = Digest(*random_seed()?);
        let mut target_facts = bodycam_record::canonical::Writer::new();
        for field in [&opening.target, opening.protocol, &opening.database] {
            target_facts.bytes(field.as_bytes());
        }
        let correlation = opening.correlation.as_deref().map(|id| tenant.correlation(id));
        let mut opened = SessionOpened {
            tenant: producer.tenant().to_owned(),
            nonce,
            identity_digest: tenant.identity_digest(
                &opening.principal,
                &opening.principal_kind,
                opening.credential,
                &opening.auth_method,
            ),
            target_digest: digest::TARGET.digest(target_facts.as_slice()),
            key_digest: key.digest(),
            ledger_seq: 0,
            protocol: opening.protocol.to_owned(),
            principal_kind: opening.principal_kind,
            auth_method: opening.auth_method,
            credential: opening.credential,
            client_address: tenant.address(&opening.client_address),
            credential_addresses: opening.credential_addresses,
            database: opening.database,
            upstream_role: opening.upstream_role,
            client_tls: opening.client_tls,
            upstream_tls: opening.upstream_tls,
            protocol_version: opening.protocol_version,
            correlation,
            simulated_clock: clock.is_simulated(),
        };
        let principal_ref = tenant.principal_ref(&opening.principal);
        let mut chain = None;
        let progress = producer.open(
            session,
            &key,
            (&opening.principal, principal_ref),
            &opening.target,
            |ledger_seq| {
                opened.ledger_seq = ledger_seq;
                let genesis = Genesis {
                    producer: producer.name(),
                    epoch: producer.epoch(),
                    session,
                    policy_digest: producer.policy_digest(),
                    opened: &opened,
                };
                chain = Some(Chain::start(&genesis, principal_ref, &opening.target));
                genesis.digest()
            },
        )?;
        let Some(chain) = chain else { return Err(RecordingError::Stopping) };
        let mut pen = Self {
            state: lane.shared.register(session, chain.head()),
            open_seq: opened.ledger_seq,
            lane,
            key,
            chain,
            progress,
            next_content: 0,
            first_ts_ns: now,
            last_ts_ns: now,
            last_mono_ns: clock.mono_ns(),
            checkpoint_count: 0,
            checkpoint_ns: clock.mono_ns(),
            opened_mono_ns: clock.mono_ns(),
            totals: Totals::default(),
            correlation,
            held: None,
            closed: false,
            sealed: false,
        };
        let mut facts = opening.facts;
        facts.push(("client_address".to_owned(), opening.client_address.into_bytes()));
        let mut content = pen.content();
        let bytes = structured::encode_pairs(facts.iter().map(|(n, v)| (n.as_str(), v.as_slice())));
        pen.put(&mut content, ContentKind::SessionFacts, &bytes)?;
        if let Some(text) = &opening.correlation {
            pen.put(&mut content, ContentKind::Correlation, text.as_bytes())?;
        }
        pen.event(opened.into(), None, Some(content))?;
        Ok(pen)
    }

    /// The session.
    pub fn session(&self) -> SessionId {
        self.chain.session()
    }

    /// The session's key, for keyed digests.
    pub fn key(&self) -> &SessionKey {
        &self.key
    }

    /// The tenant's key, for fingerprints and pseudonyms.
    pub fn tenant_key(&self) -> &TenantKey {
        self.lane.producer().tenant_key()
    }

    /// The lane.
    pub fn lane(&self) -> &Lane {
        &self.lane
    }

    /// The session's correlation id under the tenant key.
    pub fn correlation(&self) -> Option<Id16> {
        self.correlation
    }

    /// Totals, for the relay to keep.
    pub fn totals(&mut self) -> &mut Totals {
        &mut self.totals
    }

    /// Starts the content of a later event.
    pub fn content(&mut self) -> ContentWriter {
        let no = self.next_content;
        self.next_content += 1;
        ContentWriter { commitment: Commitment::new(&self.key, no) }
    }

    /// Adds bytes to a content: sealed and appended to the lane in chunks. Bytes of one kind are one string,
    /// however they are split.
    pub fn put(
        &mut self,
        content: &mut ContentWriter,
        kind: ContentKind,
        bytes: &[u8],
    ) -> Result<(), RecordingError> {
        for part in bytes.chunks(MAX_CHUNK) {
            let (no, index) = (content.commitment.no(), content.commitment.count());
            let sealed = seal_chunk(&self.key, self.session(), no, index, kind, part);
            self.lane.shared.append(&Record::Chunk(sealed))?;
            content.commitment.add(kind, part);
        }
        Ok(())
    }

    /// Says what literal-free text stands behind a fingerprint.
    pub fn template(&mut self, fingerprint: Fingerprint, text: &str) -> Result<(), RecordingError> {
        self.lane.shared.template(fingerprint, text)
    }

    /// Appends an event and gives its sequence number. It counts only after [`SessionPen::persist`].
    pub fn event(
        &mut self,
        body: Body,
        parent_seq: Option<i64>,
        content: Option<ContentWriter>,
    ) -> Result<i64, RecordingError> {
        let seq = self.append(body, parent_seq, content)?;
        if seq + 1 - self.checkpoint_count >= CHECKPOINT_EVENTS
            || self.last_mono_ns - self.checkpoint_ns >= CHECKPOINT_NS
        {
            self.checkpoint()?;
        }
        Ok(seq)
    }

    /// Writes a CHECKPOINT when events were recorded since the last and a minute has passed. The relay calls
    /// it once a minute.
    pub fn tick(&mut self) -> Result<(), RecordingError> {
        let due = self.lane.producer().clock().mono_ns() - self.checkpoint_ns >= CHECKPOINT_NS;
        if due && self.chain.next_seq() > self.checkpoint_count {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// Returns when everything recorded so far is in the spool. Only then may bytes move on. While the spool
    /// refuses, a session is held for `hold_seconds` in all: once they have passed, a further call tries once.
    pub async fn persist(&mut self) -> Result<(), RecordingError> {
        self.lane.shared.persist(&mut self.held).await?;
        self.publish_progress();
        Ok(())
    }

    /// Records the end and seals the session. When the spool refuses, the lane seals it later.
    pub async fn close(mut self, reason: &str) -> Result<(), RecordingError> {
        self.append_closed(reason)?;
        self.persist().await?;
        self.seal();
        Ok(())
    }

    fn append(
        &mut self,
        body: Body,
        parent_seq: Option<i64>,
        content: Option<ContentWriter>,
    ) -> Result<i64, RecordingError> {
        let clock = self.lane.producer().clock();
        let (ts_wall_ns, ts_mono_ns) = (clock.wall_ns(), clock.mono_ns());
        let content = content.and_then(|c| c.commitment.finish().map(|d| (c.commitment.no(), d)));
        let draft = Draft { ts_wall_ns, ts_mono_ns, parent_seq, body, content };
        let event = self.chain.append(&draft);
        (self.last_ts_ns, self.last_mono_ns) = (ts_wall_ns, ts_mono_ns);
        let seq = event.envelope.seq;
        if seq == 0 {
            self.first_ts_ns = ts_wall_ns;
        }
        self.state.borrow_mut().saw(seq, event.hash, &draft.body);
        self.lane.shared.append(&Record::Event(Box::new(event)))?;
        Ok(seq)
    }

    fn checkpoint(&mut self) -> Result<(), RecordingError> {
        let producer = self.lane.producer().clone();
        let (count, head, root) = (self.chain.next_seq(), self.chain.head(), self.chain.root());
        let seal = Seal::checkpoint(
            self.session(),
            producer.name(),
            producer.epoch(),
            count,
            head,
            root,
            self.open_seq,
        );
        let signature = producer.sign(seal.digest());
        self.append(SessionCheckpoint { count, head, root, signature }.into(), None, None)?;
        self.checkpoint_count = self.chain.next_seq();
        self.checkpoint_ns = producer.clock().mono_ns();
        Ok(())
    }

    fn publish_progress(&self) {
        *lock(&self.progress) = Progress { count: self.chain.next_seq(), head: self.chain.head() };
    }

    fn append_closed(&mut self, reason: &str) -> Result<(), RecordingError> {
        self.closed = true;
        let mono = self.lane.producer().clock().mono_ns();
        let closed = SessionClosed {
            reason: reason.to_owned(),
            statements: self.totals.statements,
            rows: self.totals.rows,
            bytes_in: self.totals.bytes_in,
            bytes_out: self.totals.bytes_out,
            duration_us: (mono - self.opened_mono_ns) / 1000,
        };
        self.append(closed.into(), None, None)?;
        Ok(())
    }

    /// What the seal says.
    fn ending(&self) -> Unsealed {
        Unsealed {
            session: self.session(),
            count: self.chain.next_seq(),
            head: self.chain.head(),
            root: self.chain.root(),
            first_ts_ns: self.first_ts_ns,
            last_ts_ns: self.last_ts_ns,
            bytes_in: self.totals.bytes_in,
            bytes_out: self.totals.bytes_out,
            open_seq: self.open_seq,
        }
    }

    fn seal(&mut self) {
        self.sealed = true;
        self.lane.shared.forget(self.session());
        self.lane.producer().seal(self.ending());
    }
}

impl Drop for SessionPen {
    fn drop(&mut self) {
        if self.sealed {
            return;
        }
        if !self.closed
            && let Err(error) = self.append_closed("error")
        {
            tracing::error!(event = "session_not_sealed", session = %self.session(), error = %error, "sealed when the spool takes records again; a process that ends before leaves that to the next start");
            return;
        }
        self.lane.shared.seal_when_flushed(self.ending());
        if let Err(error) = self.lane.shared.try_flush() {
            tracing::warn!(event = "seal_waits", session = %self.session(), error = %error, "a session is sealed when the spool takes its end");
        }
    }
}
