//! For the tests of this crate: a lake in memory, made by the lake's own files and commits, and a store that
//! fails when it is told to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use bodycam_lake::columns::{self, findings::FindingRow};
use bodycam_lake::commit::{Signature, VERSION};
use bodycam_lake::layout::{self, FileName};
use bodycam_lake::store::{Put, Writes};
use bodycam_lake::{
    Commit, FileEntry, Filter, Hour, Lake, LakeError, LedgerState, Store, StreamName, Table, Windows, file,
};
use bodycam_record::{Digest, EpochKey, Event, Family, KindTable, SealedChunk};
use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::BoxFuture;
use object_store::memory::InMemory;

use crate::rules::fixtures;

/// 2026-11-20T00:00Z.
pub const DAY: &str = "2026-11-20T";
pub const MINUTE: i64 = 60_000_000_000;

/// The time `clock` of [`DAY`], in Unix ns.
pub fn at(clock: &str) -> i64 {
    arrow::compute::kernels::cast_utils::string_to_timestamp_nanos(&format!("{DAY}{clock}Z")).unwrap()
}

/// Events as fixtures write them, one a line of YAML flow.
pub fn events(yaml: &str) -> Vec<Event> {
    fixtures::events(&serde_norway::from_str::<Vec<_>>(yaml).unwrap())
}

/// A lake that is being written.
pub struct Scene {
    pub store: Store,
    /// When its commits are made.
    pub created_ns: i64,
    lake: Lake,
    key: EpochKey,
    writer: u32,
}

impl Scene {
    pub async fn new() -> Self {
        Self::on(Store::on(Arc::new(InMemory::new()), "memory")).await
    }

    pub async fn on(store: Store) -> Self {
        let lake = Lake::open(store.clone()).await.unwrap();
        Self { store, created_ns: 0, lake, key: EpochKey::from_seed(&[5; 32]), writer: 0 }
    }

    /// Commits events to a stream: a file for each family and hour.
    pub async fn commit(&mut self, stream: &str, events: &[Event]) {
        self.commit_with(stream, events, None).await;
    }

    /// Says that everything before `watermark_ns` is committed, and whether nothing more will come.
    pub async fn heartbeat(&mut self, producer: &str, watermark_ns: i64, stopped: bool) {
        let ledger = LedgerState {
            producer: producer.to_owned(),
            epoch: 1,
            producer_key: Digest::ZERO,
            epoch_key: Digest::ZERO,
            next_seq: watermark_ns,
            head: Digest::ZERO,
            watermark_ns,
            stopped,
        };
        self.commit_with(&format!("{producer}/ledger"), &[], Some(ledger)).await;
    }

    async fn commit_with(&mut self, stream: &str, events: &[Event], ledger: Option<LedgerState>) {
        let stream: StreamName = stream.parse().unwrap();
        self.lake.add_stream(&stream, 0, 0).await.unwrap();
        let from = self.lake.state().stream(&stream, 0).unwrap().1.position;
        let mut groups: BTreeMap<(Family, i64), Vec<&Event>> = BTreeMap::new();
        for event in events {
            let family = KindTable::of(event.envelope.kind).unwrap().family;
            groups.entry((family, Hour::of_ns(event.envelope.ts_wall_ns).0)).or_default().push(event);
        }
        let mut files = Vec::new();
        for ((family, hour), mut events) in groups {
            events.sort_by_key(|e| (e.envelope.session, e.envelope.seq));
            let batch = columns::encode(family, events).unwrap();
            files.push(self.write(&stream, from, Table::Events(family), hour, &batch).await);
        }
        self.put(stream, from, events.len().max(1) as u64, files, vec![], ledger).await;
    }

    /// Commits content to a stream, as one file.
    pub async fn commit_content(&mut self, stream: &str, chunks: &[SealedChunk]) {
        let stream: StreamName = stream.parse().unwrap();
        self.lake.add_stream(&stream, 0, 0).await.unwrap();
        let from = self.lake.state().stream(&stream, 0).unwrap().1.position;
        let batch = columns::content::encode(chunks).unwrap();
        let file =
            self.write(&stream, from, Table::Content, Hour::of_session(chunks[0].session).0, &batch).await;
        self.put(stream, from, chunks.len() as u64, vec![file], vec![], None).await;
    }

    async fn write(
        &mut self,
        stream: &StreamName,
        from: u64,
        table: Table,
        hour: i64,
        batch: &arrow::array::RecordBatch,
    ) -> FileEntry {
        self.writer += 1;
        let mut encoded = file::encode(table, batch).unwrap();
        let name = FileName { stream, generation: 0, from, n: 0, writer: self.writer };
        encoded.entry.path = layout::data_file(table, table.has_hours().then_some(Hour(hour)), name);
        self.store.put_new(&encoded.entry.path, encoded.bytes).await.unwrap();
        encoded.entry
    }

    async fn put(
        &mut self,
        stream: StreamName,
        from: u64,
        rows: u64,
        files: Vec<FileEntry>,
        replaces: Vec<String>,
        ledger: Option<LedgerState>,
    ) {
        let commit = Commit {
            version: VERSION,
            stream,
            generation: 0,
            from,
            to: from + rows,
            created_ns: self.created_ns,
            previous: None,
            files,
            replaces,
            deleted_to: 0,
            sessions: vec![],
            ledger,
            duplicates: 0,
            recorder: Digest::ZERO,
            signature: Signature::NONE,
        };
        self.lake.commit(commit, &self.key).await.unwrap();
    }

    /// Replaces the files of every table and hour by one.
    pub async fn compact(&mut self) {
        let stream = StreamName::compaction();
        self.lake.add_stream(&stream, 0, 0).await.unwrap();
        let view = self.lake.view();
        let from = self.lake.state().stream(&stream, 0).unwrap().1.position;
        let (mut outputs, mut replaced) = (Vec::new(), Vec::new());
        for family in Family::EVENTS {
            let table = Table::Events(family);
            let mut hours: BTreeMap<i64, Vec<Arc<FileEntry>>> = BTreeMap::new();
            for entry in view.state().files(table) {
                hours.entry(Hour::of_ns(entry.min_ts_ns.unwrap()).0).or_default().push(entry.clone());
            }
            for (hour, entries) in hours {
                let mut events = Vec::new();
                for entry in &entries {
                    let batches = view.read_file(entry, &Filter::all()).await.unwrap();
                    for batch in batches.try_collect::<Vec<_>>().await.unwrap() {
                        events.extend(columns::decode(family, &batch).unwrap().into_iter().map(|row| {
                            let row = row.unwrap();
                            Event { envelope: row.envelope, body: row.body, hash: row.hash }
                        }));
                    }
                    replaced.push(entry.path.clone());
                }
                events.sort_by_key(|e| (e.envelope.session, e.envelope.seq));
                let batch = columns::encode(family, &events).unwrap();
                outputs.push(self.write(&stream, from, table, hour, &batch).await);
            }
        }
        self.put(stream, from, 1, outputs, replaced, None).await;
    }

    /// All findings, without what depends on how often a window was evaluated.
    pub async fn findings(&self) -> Vec<FindingRow> {
        let view = Lake::open(self.store.clone()).await.unwrap().view();
        let mut windows = Windows::open(self.store.clone()).await.unwrap();
        view.findings(&mut windows).await.unwrap()
    }
}

/// A writing side that dies at its `left`-th write, before or after it, and stays dead.
pub struct Dying {
    inner: Arc<dyn Writes>,
    left: AtomicI64,
    write_first: bool,
    pub writes: Arc<AtomicU32>,
}

impl Dying {
    /// `store` with a writing side that dies after `left` writes; the last one may still reach the store.
    pub fn wrap(store: Store, left: i64, write_first: bool) -> (Store, Arc<AtomicU32>) {
        let writes = Arc::new(AtomicU32::new(0));
        let counter = writes.clone();
        let store = store.with_writes(|inner| {
            Arc::new(Dying { inner, left: AtomicI64::new(left), write_first, writes: counter })
        });
        (store, writes)
    }
}

impl Writes for Dying {
    fn put_new(&self, path: String, bytes: Bytes) -> BoxFuture<'_, Result<Put, LakeError>> {
        Box::pin(async move {
            let left = self.left.fetch_sub(1, Ordering::SeqCst);
            if left > 0 || (left == 0 && self.write_first) {
                self.writes.fetch_add(1, Ordering::SeqCst);
                let put = self.inner.put_new(path.clone(), bytes).await?;
                if left > 0 {
                    return Ok(put);
                }
            }
            Err(LakeError::Store { action: "write", path, reason: "killed".to_owned() })
        })
    }

    fn put(&self, path: String, bytes: Bytes) -> BoxFuture<'_, Result<(), LakeError>> {
        assert!(path.starts_with("state/worker-"), "detection writes over nothing, and wrote over {path}");
        Box::pin(async move {
            match self.left.load(Ordering::SeqCst) > 0 {
                true => self.inner.put(path, bytes).await,
                false => Err(LakeError::Store { action: "write", path, reason: "killed".to_owned() }),
            }
        })
    }

    fn delete(&self, path: String) -> BoxFuture<'_, Result<(), LakeError>> {
        let own = ["state/claim-", "state/worker-"].iter().any(|own| path.starts_with(own));
        assert!(own, "detection deletes nothing, and deleted {path}");
        Box::pin(async move {
            match self.left.load(Ordering::SeqCst) > 0 {
                true => self.inner.delete(path).await,
                false => Err(LakeError::Store { action: "delete", path, reason: "killed".to_owned() }),
            }
        })
    }
}
