//! What was staged → the files of a commit, encoded off the runtime's threads, two at a time.

use std::collections::VecDeque;

use bodycam_lake::columns::{self, content, findings, sessions, templates};
use bodycam_lake::file::{self, EncodedFile};
use bodycam_lake::layout::Hour;
use bodycam_lake::{LakeError, Table};
use bodycam_record::Family;
use tokio::task::JoinHandle;

use crate::error::RecorderError;
use crate::ingest::Staged;
use crate::sessions::Sessions;

/// Files encoded at once.
const PARALLEL: usize = 2;

type Encoded = Result<EncodedFile, LakeError>;
type Job = Box<dyn FnOnce() -> Encoded + Send>;

/// The files of a commit, still to be encoded; each with its hour.
pub struct Files {
    jobs: VecDeque<(Option<Hour>, Job)>,
    running: VecDeque<(Option<Hour>, JoinHandle<Encoded>)>,
}

impl Files {
    /// The files that hold what was staged. Takes the rows out of `staged`.
    pub fn of(staged: &mut Staged, sessions: &Sessions) -> Self {
        let mut jobs: VecDeque<(Option<Hour>, Job)> = VecDeque::new();
        for ((family, hour), mut events) in std::mem::take(&mut staged.events) {
            jobs.push_back((
                Some(hour),
                Box::new(move || {
                    events.sort_by_key(|e| (e.envelope.session, e.envelope.seq));
                    let batch = columns::encode(family, events.iter().map(Box::as_ref))?;
                    file::encode(Table::Events(family), &batch)
                }),
            ));
        }
        for (hour, mut chunks) in std::mem::take(&mut staged.chunks) {
            jobs.push_back((
                Some(hour),
                Box::new(move || {
                    chunks.sort_by_key(|c| (c.session, c.content_no, c.index));
                    file::encode(Table::Content, &content::encode(&chunks)?)
                }),
            ));
        }
        for (hour, records) in std::mem::take(&mut staged.ledger) {
            jobs.push_back((
                Some(hour),
                Box::new(move || {
                    let batch = columns::encode_ledger(records.iter().map(Box::as_ref))?;
                    file::encode(Table::Events(Family::Ledger), &batch)
                }),
            ));
        }
        let mut whole = |rows: usize, job: Job| {
            if rows > 0 {
                jobs.push_back((None, job));
            }
        };
        let rows: Vec<_> =
            staged.sessions.iter().filter_map(|id| sessions.get(*id)).map(|s| s.row.clone()).collect();
        whole(rows.len(), Box::new(move || file::encode(Table::Sessions, &sessions::encode(&rows)?)));
        let rows = staged.findings.rows();
        whole(rows.len(), Box::new(move || file::encode(Table::Findings, &findings::encode(&rows)?)));
        let mut rows: Vec<_> = std::mem::take(&mut staged.templates)
            .into_iter()
            .map(|(fingerprint, text)| templates::TemplateRow { fingerprint, text })
            .collect();
        rows.sort_by_key(|r| r.fingerprint);
        whole(rows.len(), Box::new(move || file::encode(Table::Templates, &templates::encode(&rows)?)));
        Self { jobs, running: VecDeque::new() }
    }

    /// The next file, encoded.
    pub async fn next(&mut self) -> Result<Option<(Option<Hour>, EncodedFile)>, RecorderError> {
        while self.running.len() < PARALLEL {
            let Some((hour, job)) = self.jobs.pop_front() else { break };
            self.running.push_back((hour, tokio::task::spawn_blocking(job)));
        }
        let Some((hour, task)) = self.running.pop_front() else { return Ok(None) };
        let encoded = task.await.map_err(|err| RecorderError::Task(err.to_string()))??;
        Ok(Some((hour, encoded)))
    }
}
