//! Which windows were evaluated: the list of window records, and the findings that they name.
//!
//! Nothing here lists a directory. Records are found through the put-if-absent list `windows/index/<k>.json`;
//! its entries have no gaps, so its end is found by asking for names, and every
//! [`COMPLETE_EVERY`]th repeats all before it. A record is written before its entry: one that an entry does not name yet is found by
//! asking for the name after the newest known, or by the next evaluation, which collides with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use crate::columns::Table;
use crate::columns::findings::{self, FindingRow};
use crate::commit::FileEntry;
use crate::error::LakeError;
use crate::file::EncodedFile;
use crate::lake::View;
use crate::layout;
use crate::reader::Filter;
use crate::store::{Put, Store};
use crate::window::{COMPLETE_EVERY, IndexEntry, WindowKey, WindowMark, WindowRecord};

/// Records that are read at once.
const READ_AHEAD: usize = 16;

/// The windows that were evaluated, as far as they have been read.
#[derive(Debug, Clone)]
pub struct Windows {
    store: Store,
    /// Number of the next entry of the list.
    next: u64,
    newest: BTreeMap<WindowKey, Newest>,
}

#[derive(Debug, Clone)]
struct Newest {
    n: u64,
    findings: u64,
    record: Option<Arc<WindowRecord>>,
    /// Highest number that an entry of the list names.
    listed: Option<u64>,
}

impl Windows {
    /// Reads the list from the last entry that repeats everything: from the first one when that entry does not
    /// say that it does. Whether it does is for the verifier to find out.
    pub async fn open(store: Store) -> Result<Self, LakeError> {
        let mut windows = Self { store, next: 0, newest: BTreeMap::new() };
        let end = windows.end().await?;
        let start = end.saturating_sub(1) / COMPLETE_EVERY * COMPLETE_EVERY;
        let path = layout::window_index(start);
        if let Some(bytes) = windows.store.get(&path).await?
            && IndexEntry::parse(&path, &bytes)?.complete
        {
            windows.next = start;
        }
        windows.refresh().await?;
        Ok(windows)
    }

    /// Number of entries: doubles until a name is free, then halves the distance.
    async fn end(&self) -> Result<u64, LakeError> {
        let (mut taken, mut free) = (0, 1);
        if !self.store.exists(&layout::window_index(0)).await? {
            return Ok(0);
        }
        while self.store.exists(&layout::window_index(free)).await? {
            (taken, free) = (free, free.saturating_mul(2));
        }
        while free - taken > 1 {
            let middle = taken + (free - taken) / 2;
            match self.store.exists(&layout::window_index(middle)).await? {
                true => taken = middle,
                false => free = middle,
            }
        }
        Ok(free)
    }

    /// Reads the entries that were added since.
    pub async fn refresh(&mut self) -> Result<(), LakeError> {
        loop {
            let path = layout::window_index(self.next);
            let Some(bytes) = self.store.get(&path).await? else { return Ok(()) };
            for mark in IndexEntry::parse(&path, &bytes)?.windows {
                let (window, n) = (mark.window.clone(), mark.n);
                self.learn(mark, None);
                if let Some(newest) = self.newest.get_mut(&window) {
                    newest.listed = newest.listed.max(Some(n));
                }
            }
            self.next += 1;
        }
    }

    fn learn(&mut self, mark: WindowMark, record: Option<Arc<WindowRecord>>) {
        let newest = self.newest.get(&mark.window);
        if newest.is_some_and(|known| known.n > mark.n || (known.n == mark.n && known.record.is_some())) {
            return;
        }
        let listed = newest.and_then(|known| known.listed);
        let WindowMark { window, n, findings } = mark;
        self.newest.insert(window, Newest { n, findings, record, listed });
    }

    /// Number of the newest known record of a window, whether it can be read or not.
    pub fn revision(&self, window: &WindowKey) -> Option<u64> {
        self.newest.get(window).map(|newest| newest.n)
    }

    /// Whether an entry of the list names the newest known record of a window: whoever wrote one that none names
    /// may have died before it could tell anyone.
    pub fn is_listed(&self, window: &WindowKey) -> bool {
        self.newest.get(window).is_some_and(|newest| newest.listed >= Some(newest.n))
    }

    /// The newest known record of a window.
    pub async fn record(&mut self, window: &WindowKey) -> Result<Option<Arc<WindowRecord>>, LakeError> {
        let Some(newest) = self.newest.get(window) else { return Ok(None) };
        if let Some(record) = &newest.record {
            return Ok(Some(record.clone()));
        }
        let record = Arc::new(self.read(window, newest.n).await?);
        self.learn(record.mark(), Some(record.clone()));
        Ok(Some(record))
    }

    /// Reads records that are not at hand yet, several at once. One that is damaged or missing is left out: who asks
    /// for it is told.
    pub async fn load(&mut self, rule: &str, from_ns: i64) -> Result<(), LakeError> {
        let missing: Vec<_> = self
            .newest
            .iter()
            .filter(|(key, newest)| {
                newest.record.is_none() && key.rule.as_str() == rule && key.start_ns >= from_ns
            })
            .map(|(key, newest)| (key.clone(), newest.n))
            .collect();
        let this = &*self;
        let read = stream::iter(missing)
            .map(|(key, n)| async move {
                match this.read(&key, n).await {
                    Err(LakeError::Damaged { .. } | LakeError::Missing { .. }) => Ok(None),
                    read => read.map(Some),
                }
            })
            .buffer_unordered(READ_AHEAD)
            .try_collect::<Vec<_>>()
            .await?;
        read.into_iter().flatten().for_each(|record| self.learn(record.mark(), Some(Arc::new(record))));
        Ok(())
    }

    async fn read(&self, window: &WindowKey, n: u64) -> Result<WindowRecord, LakeError> {
        let path = window.path(n)?;
        let bytes = self.store.need(&path, "the list of window records").await?;
        WindowRecord::parse(&path, &bytes)
    }

    /// Writes a record, its findings file first. When another evaluation of the window was first, nothing is
    /// written and the newest record is read instead.
    pub async fn put(
        &mut self,
        mut record: WindowRecord,
        findings: Option<EncodedFile>,
    ) -> Result<Put, LakeError> {
        if let Some(EncodedFile { bytes, mut entry }) = findings {
            entry.path = layout::window_findings(
                record.rule.as_str(),
                record.rule_version.major,
                record.window_start_ns,
                record.n,
                entry.sha256,
            )?;
            self.store.put_once(&entry.path, bytes).await?;
            record.files.push(entry);
        }
        let put = self.store.put_new(&record.path()?, Bytes::from(record.to_json())).await?;
        match put {
            Put::New => self.learn(record.mark(), Some(Arc::new(record))),
            Put::Exists => self.catch_up(&record.key(), record.n).await?,
        }
        Ok(put)
    }

    /// Looks for the record number `n` of a window and later ones, which the list may not name yet; whether there is
    /// one.
    pub async fn look_for(&mut self, window: &WindowKey, n: u64) -> Result<bool, LakeError> {
        if self.revision(window).is_none_or(|known| known < n) {
            self.catch_up(window, n).await?;
        }
        Ok(self.revision(window).is_some_and(|known| known >= n))
    }

    /// Reads the records of a window from number `n` on.
    async fn catch_up(&mut self, window: &WindowKey, mut n: u64) -> Result<(), LakeError> {
        loop {
            let path = window.path(n)?;
            let Some(bytes) = self.store.get(&path).await? else { return Ok(()) };
            match WindowRecord::parse(&path, &bytes) {
                Ok(record) => self.learn(record.mark(), Some(Arc::new(record))),
                // Its number is taken all the same; who asks for it is told what is wrong.
                Err(LakeError::Damaged { .. }) => {
                    self.learn(WindowMark { window: window.clone(), n, findings: 0 }, None);
                }
                Err(err) => return Err(err),
            }
            n += 1;
        }
    }

    /// Adds windows to the list, each with its newest known record.
    pub async fn announce(&mut self, windows: &BTreeSet<WindowKey>) -> Result<(), LakeError> {
        while !windows.is_empty() {
            let complete = self.next.is_multiple_of(COMPLETE_EVERY);
            let marks = self.newest.iter().filter(|(key, _)| complete || windows.contains(key));
            let marks = marks.map(|(key, newest)| WindowMark {
                window: key.clone(),
                n: newest.n,
                findings: newest.findings,
            });
            let entry = IndexEntry::new(complete, marks.collect());
            let path = layout::window_index(self.next);
            match self.store.put_new(&path, Bytes::from(entry.to_json())).await? {
                Put::New => {
                    self.next += 1;
                    for key in windows {
                        if let Some(newest) = self.newest.get_mut(key) {
                            newest.listed = Some(newest.n);
                        }
                    }
                    return Ok(());
                }
                Put::Exists => self.refresh().await?,
            }
        }
        Ok(())
    }

    /// Number of entries of the list that were read: grows when something was evaluated.
    pub fn entries(&self) -> u64 {
        self.next
    }

    /// The windows of which a record is known, and the number of their findings.
    pub fn known(&self) -> impl Iterator<Item = (&WindowKey, u64)> {
        self.newest.iter().map(|(key, newest)| (key, newest.findings))
    }

    /// The newest records of all windows with findings. Looks once more for a newer record of each.
    pub async fn with_findings(&mut self) -> Result<Vec<Arc<WindowRecord>>, LakeError> {
        let candidates: Vec<_> = self
            .newest
            .iter()
            .filter(|(_, newest)| newest.findings > 0)
            .map(|(key, newest)| (key.clone(), newest.n, newest.record.clone()))
            .collect();
        let this = &*self;
        let read = stream::iter(candidates)
            .map(|(key, n, record)| async move {
                let newer = this.store.exists(&key.path(n + 1)?).await?;
                let record = match record {
                    Some(record) => record,
                    None => Arc::new(this.read(&key, n).await?),
                };
                Ok::<_, LakeError>((key, n, newer, record))
            })
            .buffered(READ_AHEAD)
            .try_collect::<Vec<_>>()
            .await?;
        let mut records = Vec::new();
        for (key, n, newer, record) in read {
            self.learn(record.mark(), Some(record));
            if newer {
                self.catch_up(&key, n + 1).await?;
            }
            records.extend(self.record(&key).await?.filter(|r| !r.findings.is_empty()));
        }
        Ok(records)
    }

    /// The findings files that count.
    pub async fn finding_files(&mut self) -> Result<Vec<Arc<FileEntry>>, LakeError> {
        let records = self.with_findings().await?;
        Ok(records.iter().flat_map(|r| r.files.iter().cloned().map(Arc::new)).collect())
    }
}

impl View {
    /// All findings: those of the recorder and those of rules, the newest revision of each, by window and id.
    pub async fn findings(&self, windows: &mut Windows) -> Result<Vec<FindingRow>, LakeError> {
        let mut newest: BTreeMap<bodycam_record::Id16, FindingRow> = BTreeMap::new();
        let mut rows = self.committed_findings().await?;
        for file in windows.finding_files().await? {
            let mut batches = self.read_file(&file, &Filter::all()).await?;
            while let Some(batch) = batches.try_next().await? {
                rows.extend(findings::decode(&batch).map_err(|err| LakeError::damaged(&file.path, err))?);
            }
        }
        for row in rows {
            match newest.get(&row.id) {
                Some(known) if known.revision >= row.revision => {}
                _ => drop(newest.insert(row.id, row)),
            }
        }
        let mut rows: Vec<_> = newest.into_values().collect();
        rows.sort_by_key(|row| (row.window_start_ns, row.id));
        Ok(rows)
    }
}

/// One findings file.
pub fn encode_findings(rows: &[FindingRow]) -> Result<EncodedFile, LakeError> {
    crate::file::encode(Table::Findings, &findings::encode(rows)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bodycam_record::{Digest, Id16};
    use object_store::memory::InMemory;

    use crate::commit::VERSION;
    use crate::lake::Lake;
    use crate::window::FindingMark;

    fn store() -> Store {
        Store::on(Arc::new(InMemory::new()), "memory")
    }

    fn record(start_ns: i64, n: u64, findings: &[u8]) -> WindowRecord {
        WindowRecord {
            version: VERSION,
            rule: "EXF-002".parse().unwrap(),
            rule_version: "1.0".to_owned().try_into().unwrap(),
            rule_digest: Digest([1; 32]),
            window_start_ns: start_ns,
            window_end_ns: start_ns + 1,
            n,
            closed: true,
            input: Digest([2; 32]),
            history: Digest([3; 32]),
            read: Vec::new(),
            files: Vec::new(),
            findings: findings
                .iter()
                .map(|id| FindingMark {
                    id: Id16([*id; 16]),
                    severity: bodycam_record::rule::Severity::Low,
                    said: Digest([n as u8; 32]),
                })
                .collect(),
            retracted: Vec::new(),
        }
    }

    fn row(id: u8, start_ns: i64, revision: i64) -> FindingRow {
        FindingRow {
            id: Id16([id; 16]),
            rule: "EXF-002".into(),
            rule_version: "1.0".into(),
            severity: "medium".into(),
            window_start_ns: start_ns,
            window_end_ns: start_ns + 1,
            principal_ref: None,
            target: None,
            session_ids: vec![],
            measure: Some(revision),
            threshold: None,
            evidence_sessions: vec![],
            evidence_seqs: vec![],
            revision,
            is_final: true,
            text: String::new(),
        }
    }

    async fn put(windows: &mut Windows, start_ns: i64, n: u64, findings: &[u8]) -> Put {
        let rows: Vec<_> = findings.iter().map(|id| row(*id, start_ns, n as i64)).collect();
        let file = (!rows.is_empty()).then(|| encode_findings(&rows).unwrap());
        windows.put(record(start_ns, n, findings), file).await.unwrap()
    }

    async fn ids(store: &Store) -> Vec<(u8, i64)> {
        let view = Lake::open(store.clone()).await.unwrap().view();
        let mut windows = Windows::open(store.clone()).await.unwrap();
        let rows = view.findings(&mut windows).await.unwrap();
        rows.iter().map(|r| (r.id.0[0], r.revision)).collect()
    }

    #[tokio::test]
    async fn the_highest_record_of_a_window_says_which_findings_there_are() {
        let store = store();
        let mut windows = Windows::open(store.clone()).await.unwrap();
        put(&mut windows, -5, 0, &[1]).await;
        put(&mut windows, 10, 0, &[2, 3]).await;
        put(&mut windows, 20, 0, &[]).await;
        windows.announce(&windows.newest.keys().cloned().collect()).await.unwrap();
        assert_eq!(ids(&store).await, [(1, 0), (2, 0), (3, 0)]);
        // A later evaluation that no entry names yet is found all the same, and what it dropped is gone.
        put(&mut windows, 10, 1, &[3]).await;
        assert_eq!(ids(&store).await, [(1, 0), (3, 1)]);
        put(&mut windows, -5, 1, &[]).await;
        assert_eq!(ids(&store).await, [(3, 1)]);
    }

    #[tokio::test]
    async fn of_two_evaluations_of_a_window_one_counts() {
        let store = store();
        let (mut a, mut b) =
            (Windows::open(store.clone()).await.unwrap(), Windows::open(store.clone()).await.unwrap());
        assert_eq!(put(&mut a, 0, 0, &[1]).await, Put::New);
        assert_eq!(put(&mut a, 0, 1, &[1, 2]).await, Put::New);
        assert_eq!(put(&mut b, 0, 0, &[9]).await, Put::Exists);
        let key = record(0, 0, &[]).key();
        assert_eq!(b.record(&key).await.unwrap().unwrap().n, 1, "it reads what the other wrote");
        b.announce(&[key].into()).await.unwrap();
        assert_eq!(ids(&store).await, [(1, 1), (2, 1)]);
    }

    #[tokio::test]
    async fn the_list_is_found_at_any_length_and_by_writers_that_race() {
        let store = store();
        let (mut a, mut b) =
            (Windows::open(store.clone()).await.unwrap(), Windows::open(store.clone()).await.unwrap());
        for k in 0..(2 * COMPLETE_EVERY as i64 + 3) {
            let windows = if k % 3 == 0 { &mut b } else { &mut a };
            put(windows, k, 0, &[k as u8]).await;
            windows.announce(&[record(k, 0, &[]).key()].into()).await.unwrap();
            if [0, 1, 2, 3, 62, 63, 64, 65, 127, 128, 129, 130].contains(&k) {
                let opened = Windows::open(store.clone()).await.unwrap();
                assert_eq!((opened.next, opened.newest.len()), (k as u64 + 1, k as usize + 1), "{k}");
            }
        }
    }

    #[tokio::test]
    async fn the_list_is_read_from_its_beginning_when_an_entry_does_not_say_that_it_repeats_everything() {
        let store = store();
        let mut windows = Windows::open(store.clone()).await.unwrap();
        for k in 0..=COMPLETE_EVERY as i64 {
            put(&mut windows, k, 0, &[]).await;
            windows.announce(&[record(k, 0, &[]).key()].into()).await.unwrap();
        }
        let path = layout::window_index(COMPLETE_EVERY);
        let mut entry = IndexEntry::parse(&path, &store.get(&path).await.unwrap().unwrap()).unwrap();
        assert!(entry.complete && entry.windows.len() == 65);
        entry.windows.retain(|mark| mark.window.start_ns == COMPLETE_EVERY as i64);
        entry.complete = false;
        store.put(&path, entry.to_json().into()).await.unwrap();
        assert_eq!(Windows::open(store).await.unwrap().newest.len(), 65);
    }

    #[tokio::test]
    async fn a_record_in_anothers_place_is_refused() {
        let store = store();
        let mut windows = Windows::open(store.clone()).await.unwrap();
        let stray = record(7, 0, &[]).to_json();
        store.put_new(&record(8, 0, &[]).path().unwrap(), stray.into()).await.unwrap();
        windows.learn(record(8, 0, &[]).mark(), None);
        let error = windows.record(&record(8, 0, &[]).key()).await.unwrap_err();
        assert!(error.to_string().contains("another window"), "{error}");
    }
}
