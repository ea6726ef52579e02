//! The lake as a source: its index for lists, its tables for events, and its content where keys open it.
//!
//! Calls block on a runtime of their own, so that they work from any thread, inside another runtime or not.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bodycam_lake::columns::findings::FindingRow;
use bodycam_lake::columns::sessions::SessionRow;
use bodycam_lake::columns::{Table, content};
use bodycam_lake::windows::Windows;
use bodycam_lake::{ContentReader, Filter, Lake, LakeError, Store, View};
use bodycam_record::content::{Commitment, structured};
use bodycam_record::kinds::Body;
use bodycam_record::rule::Severity;
use bodycam_record::{
    Chunk, ContentKind, Fingerprint, PrincipalRef, SealedChunk, SessionId, SessionKey, TenantKey,
};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::runtime::{Builder, Runtime};

use super::{Closed, Content, Finding, SessionItem, Source};
use crate::error::ReplayError;
use crate::event::{EventItem, TEXT_LIMIT};
use crate::shown::Shown;
use crate::values;

/// Names that are looked up at the same time.
const LOOKUPS: usize = 16;
/// Content kinds that name an event in a list, or that a search looks into.
const LISTED: [ContentKind; 5] =
    [ContentKind::SqlText, ContentKind::Binds, ContentKind::Url, ContentKind::Error, ContentKind::Message];
/// Bytes of one event's binds that are decoded. What is kept of them is less.
const BINDS_READ: usize = 1 << 20;

/// A lake.
pub struct LakeSource {
    runtime: Option<Runtime>,
    inner: Arc<Inner>,
}

struct Inner {
    lake: tokio::sync::Mutex<Lake>,
    view: RwLock<View>,
    /// Opens keys and names; none without a tenant key.
    reader: Option<tokio::sync::Mutex<ContentReader>>,
    names: Mutex<HashMap<PrincipalRef, Option<Arc<str>>>>,
    /// Evaluated windows of rules; read when findings are first asked for.
    windows: tokio::sync::Mutex<Option<Windows>>,
    /// Templates of the commits folded so far.
    templates: Mutex<Option<(u64, Templates)>>,
    /// Findings of the commits and windows read so far.
    findings: Mutex<Option<Cached>>,
}

/// Findings, and the state of the lake that they were read from.
type Cached = ((u64, u64), Arc<Vec<FindingRow>>);

type Templates = Arc<HashMap<Fingerprint, String>>;

impl LakeSource {
    /// Opens the lake at `location`.
    pub fn open(location: &str, tenant_key: Option<TenantKey>) -> Result<Self, ReplayError> {
        let store = Store::open(location)?;
        Self::of(store, tenant_key)
    }

    /// Opens the lake in `store`.
    pub fn of(store: Store, tenant_key: Option<TenantKey>) -> Result<Self, ReplayError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("lake")
            .enable_all()
            .build()
            .map_err(|err| ReplayError::Worker(err.to_string()))?;
        let lake = on(&runtime, async move { Ok(Lake::open_recorded(store).await?) })?;
        let view = lake.view();
        let reader = tenant_key.map(|key| tokio::sync::Mutex::new(ContentReader::new(view.clone(), key)));
        let inner = Inner {
            lake: tokio::sync::Mutex::new(lake),
            view: RwLock::new(view),
            reader,
            names: Mutex::default(),
            windows: tokio::sync::Mutex::default(),
            templates: Mutex::default(),
            findings: Mutex::default(),
        };
        Ok(Self { runtime: Some(runtime), inner: Arc::new(inner) })
    }

    fn run<T, F>(&self, work: impl FnOnce(Arc<Inner>) -> F) -> Result<T, ReplayError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ReplayError>> + Send + 'static,
    {
        match &self.runtime {
            Some(runtime) => on(runtime, work(self.inner.clone())),
            None => Err(ReplayError::Worker("it was closed".into())),
        }
    }
}

/// Runs `future` on `runtime` and waits for it.
fn on<T: Send + 'static>(
    runtime: &Runtime,
    future: impl Future<Output = Result<T, ReplayError>> + Send + 'static,
) -> Result<T, ReplayError> {
    let (answer, wait) = std::sync::mpsc::sync_channel(1);
    runtime.spawn(async move { answer.send(future.await) });
    wait.recv().map_err(|_| ReplayError::Worker("a reading thread ended early".into()))?
}

impl Drop for LakeSource {
    fn drop(&mut self) {
        // A runtime must not be dropped inside another one while it waits for its threads.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Source for LakeSource {
    fn name(&self) -> String {
        self.inner.view().store().name().to_owned()
    }

    fn refresh(&self) -> Result<bool, ReplayError> {
        self.run(|inner| async move {
            let mut lake = inner.lake.lock().await;
            let moved = lake.follow().await? > 0;
            if moved {
                let view = lake.view();
                if let Some(reader) = &inner.reader {
                    reader.lock().await.set_view(view.clone());
                }
                lock(&inner.names).retain(|_, name| name.is_some());
                *inner.view.write().unwrap_or_else(PoisonError::into_inner) = view;
            }
            let evaluated = match &mut *inner.windows.lock().await {
                Some(windows) => {
                    let before = windows.entries();
                    windows.refresh().await?;
                    windows.entries() > before
                }
                None => false,
            };
            Ok(moved || evaluated)
        })
    }

    fn sessions(&self, limit: usize) -> Result<Vec<SessionItem>, ReplayError> {
        self.run(move |inner| async move {
            let rows = inner.view().recent_sessions(limit).await?;
            inner.items(rows).await
        })
    }

    fn session(&self, session: SessionId) -> Result<Option<SessionItem>, ReplayError> {
        self.run(move |inner| async move {
            let row = inner.view().session(session).await?;
            Ok(inner.items(row.into_iter().collect()).await?.pop())
        })
    }

    fn events(&self, session: SessionId, from: i64, to: i64) -> Result<Vec<EventItem>, ReplayError> {
        self.run(move |inner| async move {
            let mut items = inner.bare_events(session, from, to).await?;
            inner.add_texts(session, &mut items).await?;
            Ok(items)
        })
    }

    fn bare_events(&self, session: SessionId, from: i64, to: i64) -> Result<Vec<EventItem>, ReplayError> {
        self.run(move |inner| async move { inner.bare_events(session, from, to).await })
    }

    fn content(&self, session: SessionId, no: i64) -> Result<Content, ReplayError> {
        self.run(move |inner| async move { inner.content(session, no).await })
    }

    fn findings(&self) -> Result<Vec<Finding>, ReplayError> {
        self.run(|inner| async move {
            let rows = inner.findings().await?;
            let names = inner.names(rows.iter().filter_map(|r| r.principal_ref)).await?;
            Ok(rows.iter().map(|row| finding(row.clone(), &names)).collect())
        })
    }
}

impl Inner {
    fn view(&self) -> View {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn bare_events(
        &self,
        session: SessionId,
        from: i64,
        to: i64,
    ) -> Result<Vec<EventItem>, ReplayError> {
        let filter = Filter { seq: Some((from, to)), ..Filter::session(session) };
        let events = self.view().events(&filter).await?;
        Ok(events.events.into_iter().map(EventItem::new).collect())
    }

    async fn items(&self, rows: Vec<SessionRow>) -> Result<Vec<SessionItem>, ReplayError> {
        let names = self.names(rows.iter().map(|r| r.principal_ref)).await?;
        let item = |row: SessionRow| SessionItem {
            principal: names.get(&row.principal_ref).cloned().flatten(),
            findings: Vec::new(),
            row,
        };
        Ok(rows.into_iter().map(item).collect())
    }

    /// The names behind pseudonyms; those that cannot be opened stay pseudonyms.
    async fn names(
        &self,
        references: impl Iterator<Item = PrincipalRef>,
    ) -> Result<HashMap<PrincipalRef, Option<Arc<str>>>, ReplayError> {
        let Some(reader) = &self.reader else { return Ok(HashMap::new()) };
        let mut names: HashMap<PrincipalRef, Option<Arc<str>>> = HashMap::new();
        let mut missing = Vec::new();
        for reference in references {
            match lock(&self.names).get(&reference) {
                Some(known) => drop(names.insert(reference, known.clone())),
                None if names.insert(reference, None).is_none() => missing.push(reference),
                None => {}
            }
        }
        if missing.is_empty() {
            return Ok(names);
        }
        let tenant = reader.lock().await.tenant().clone();
        let view = self.view();
        let mut looked_up = stream::iter(missing)
            .map(|reference| {
                let view = view.clone();
                async move { Ok::<_, LakeError>((reference, view.wrapped_name(reference).await?)) }
            })
            .buffer_unordered(LOOKUPS);
        while let Some((reference, wrapped)) = looked_up.try_next().await? {
            let name = wrapped.and_then(|w| tenant.unwrap_name(reference, &w).ok()).map(Arc::from);
            lock(&self.names).insert(reference, name.clone());
            names.insert(reference, name);
        }
        Ok(names)
    }

    /// All findings, highest severity first and then newest window, each in its highest revision.
    async fn findings(&self) -> Result<Arc<Vec<FindingRow>>, ReplayError> {
        let view = self.view();
        let mut windows = self.windows.lock().await;
        let windows = match &mut *windows {
            Some(windows) => windows,
            none => none.insert(Windows::open(view.store().clone()).await?),
        };
        let at = (view.state().commits, windows.entries());
        if let Some((known, rows)) = lock(&self.findings).as_ref()
            && *known == at
        {
            return Ok(rows.clone());
        }
        let mut rows = view.findings(windows).await?;
        rows.sort_by_key(|r| (Reverse(Severity::named(&r.severity)), Reverse(r.window_end_ns), r.id));
        let rows = Arc::new(rows);
        *lock(&self.findings) = Some((at, rows.clone()));
        Ok(rows)
    }

    async fn templates(&self) -> Result<Templates, ReplayError> {
        let view = self.view();
        let at = view.state().commits;
        if let Some((known, texts)) = lock(&self.templates).as_ref()
            && *known == at
        {
            return Ok(texts.clone());
        }
        let texts = Arc::new(view.templates().await?);
        *lock(&self.templates) = Some((at, texts.clone()));
        Ok(texts)
    }

    /// Puts the texts that name them beside events: the recorded ones, else the literal-free ones.
    async fn add_texts(&self, session: SessionId, items: &mut [EventItem]) -> Result<(), ReplayError> {
        let numbers = || items.iter().filter_map(|i| i.event.envelope.content_no);
        if let (Some(from), Some(to)) = (numbers().min(), numbers().max())
            && let Ok(key) = self.key(session).await?
        {
            let mut texts = self.listed_texts(session, from, to.saturating_add(1), &key).await?;
            for item in items.iter_mut() {
                let listed = item.event.envelope.content_no.and_then(|no| texts.remove(&no));
                let Some(listed) = listed else { continue };
                item.text =
                    Some(String::from_utf8_lossy(&listed.text).into_owned()).filter(|t| !t.is_empty());
                item.binds = listed.binds;
            }
        }
        if items.iter().any(|i| i.text.is_none() && fingerprint(i).is_some()) {
            let templates = self.templates().await?;
            for item in items.iter_mut().filter(|i| i.text.is_none()) {
                item.template = fingerprint(item).and_then(|f| templates.get(&f).cloned());
            }
        }
        Ok(())
    }

    /// The beginnings of the texts that name events, and of their binds, by content number. One batch is held at a
    /// time, and the binds of one event: a page of events can have many megabytes of statements.
    async fn listed_texts(
        &self,
        session: SessionId,
        from: i64,
        to: i64,
        key: &SessionKey,
    ) -> Result<HashMap<i64, Listed>, ReplayError> {
        let view = self.view();
        let kinds = LISTED.iter().map(|k| k.code()).collect();
        let filter = Filter { seq: Some((from, to)), kinds, batch_rows: 64, ..Filter::session(session) };
        let mut texts: HashMap<i64, Listed> = HashMap::new();
        // Rows are in order of content: the binds of one are whole when the next begins.
        let mut binds: (i64, Vec<u8>) = Default::default();
        let mut batches = view.read(Table::Content, &filter);
        while let Some((_, batch)) = batches.try_next().await? {
            for sealed in content::decode(&batch)?.into_iter().flatten() {
                let no = sealed.content_no;
                if binds.0 != no {
                    let (of, bytes) = std::mem::take(&mut binds);
                    texts.entry(of).or_default().add_binds(&bytes);
                    binds.0 = no;
                }
                let text = &mut texts.entry(no).or_default().text;
                let is_binds = sealed.kind == ContentKind::Binds.code();
                let wanted = if is_binds { binds.1.len() < BINDS_READ } else { text.len() < TEXT_LIMIT };
                let Some(chunk) = wanted.then(|| sealed.open(key).ok()).flatten() else { continue };
                match chunk.kind {
                    ContentKind::Binds => binds.1.extend(chunk.bytes),
                    _ => text.extend(listed_text(chunk).into_iter().take(TEXT_LIMIT)),
                }
            }
        }
        texts.entry(binds.0).or_default().add_binds(&binds.1);
        texts.values_mut().for_each(|t| t.text.truncate(TEXT_LIMIT));
        Ok(texts)
    }

    async fn content(&self, session: SessionId, no: i64) -> Result<Content, ReplayError> {
        let key = match self.key(session).await? {
            Ok(key) => key,
            Err(closed) => return Ok(Content { closed: Some(closed), ..Content::default() }),
        };
        let mut commitment = Commitment::new(&key, no);
        let mut parts: BTreeMap<ContentKind, Vec<u8>> = BTreeMap::new();
        for sealed in self.sealed(session, no).await? {
            let Ok(chunk) = sealed.open(&key) else {
                return Ok(Content { closed: Some(Closed::Altered), ..Content::default() });
            };
            commitment.add(chunk.kind, &chunk.bytes);
            parts.entry(chunk.kind).or_default().extend(chunk.bytes);
        }
        Ok(Content { parts, closed: None, commitment: commitment.finish() })
    }

    /// The key of a session, or why there is none.
    async fn key(&self, session: SessionId) -> Result<Result<Arc<SessionKey>, Closed>, ReplayError> {
        let Some(reader) = &self.reader else { return Ok(Err(Closed::NoTenantKey)) };
        match reader.lock().await.key(session).await {
            Ok(key) => Ok(key.ok_or(Closed::NoSessionKey)),
            Err(LakeError::Unopenable { .. }) => Ok(Err(Closed::WrongTenantKey)),
            Err(err) => Err(err.into()),
        }
    }

    /// The sealed chunks of one content, in order.
    async fn sealed(&self, session: SessionId, no: i64) -> Result<Vec<SealedChunk>, ReplayError> {
        let view = self.view();
        let filter = Filter { seq: Some((no, no.saturating_add(1))), ..Filter::session(session) };
        let mut chunks = Vec::new();
        let mut batches = view.read(Table::Content, &filter);
        while let Some((file, batch)) = batches.try_next().await? {
            for row in content::decode(&batch)? {
                let damaged = |fault: bodycam_lake::columns::RowFault| LakeError::Damaged {
                    path: file.path.clone(),
                    reason: fault.to_string(),
                };
                chunks.push(row.map_err(damaged)?);
            }
        }
        chunks.sort_by_key(|c| (c.content_no, c.index));
        chunks.dedup();
        Ok(chunks)
    }
}

/// What lists and searches know of an event's content.
#[derive(Default)]
struct Listed {
    text: Vec<u8>,
    binds: Vec<Shown>,
}

impl Listed {
    /// Adds binds, as far as there is room for them.
    fn add_binds(&mut self, bytes: &[u8]) {
        let mut room = TEXT_LIMIT;
        let binds = structured::decode_binds(bytes);
        self.binds.extend(binds.iter().map(values::bind).take_while(|bind| {
            room = room.saturating_sub(bind.as_str().len());
            room > 0
        }));
    }
}

fn fingerprint(item: &EventItem) -> Option<Fingerprint> {
    match item.body.as_ref()? {
        Body::SqlStatement(b) => b.fingerprint,
        _ => None,
    }
}

/// What of a chunk names its event in a list.
fn listed_text(chunk: Chunk) -> Vec<u8> {
    match chunk.kind {
        ContentKind::Error | ContentKind::Message => {
            let fields = bodycam_record::content::postgres::error_fields(&chunk.bytes);
            fields.into_iter().find(|(code, _)| *code == b'M').map(|(_, text)| text).unwrap_or_default()
        }
        _ => chunk.bytes,
    }
}

fn finding(row: FindingRow, names: &HashMap<PrincipalRef, Option<Arc<str>>>) -> Finding {
    let sessions = row.evidence_sessions.iter().map(|s| s.parse::<SessionId>());
    let evidence =
        sessions.zip(&row.evidence_seqs).filter_map(|(session, seq)| Some((session.ok()?, *seq))).collect();
    let principal = row.principal_ref.and_then(|r| names.get(&r).cloned().flatten());
    Finding { principal, evidence, row }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
