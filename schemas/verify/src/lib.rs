//! How anyone checks a lake: bytes in, verdicts out. No async, no threads, no clock, no file system: the caller
//! brings the bytes ([`Files`]) and, if it likes, the threads ([`Pool`]).
//!
//! Two passes. The first reads every file once and proves sessions whole, keeping state for each session and
//! never for each event. What it cannot prove is looked at again, row by row, and named with file, row,
//! session, seq and class. It never stops at the first fault. `docs/event-format.md` §11 says what is checked.
//!
//! Invariant: a session without a fault in the report was proven whole.

// A fault is as large as its coordinates; it is an answer here, not an exception.
#![allow(clippy::result_large_err)]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use bodycam_lake::{Table, layout};
use bodycam_record::{Family, PrincipalRef, SessionId, SessionKey, TenantKey};
use bytes::Bytes;

mod commits;
mod content;
mod declared;
mod events;
pub mod fault;
mod files;
mod ledger;
mod rewritten;
mod session;
mod sessions;
mod snapshots;
mod statistics;
mod strays;
mod texts;
mod tree;
mod trust;
mod unread;
pub mod verdict;
mod windows;

pub use declared::recorder_name;
pub use fault::{Class, Fault, Gravity};
pub use strays::Strays;
pub use trust::{Trust, TrustError};
pub use verdict::Report;

use commits::Walk;
use content::Contents;
use files::{DataFile, FileFacts, SecondLook, Wanted};
use ledger::{Ledgers, Placed};
use rewritten::Rewritten;
use sessions::{Sessions, Settled};
use strays::{Known, Listing};
use texts::Texts;
use unread::Unread;
use verdict::{Checked, KeyReport, Parts, ProducerReport, TrustReport};

/// How much a data file may have grown, beside four times its size, and still be read whole.
const GROWTH: u64 = 16 << 20;

/// Largest wrapped key that is read.
const MAX_KEY: u64 = 4096;
/// More than a wrapped name takes.
const MAX_NAME: u64 = 1 << 20;

/// How often a lake is verified from the beginning because its files were replaced meanwhile.
const ATTEMPTS: u32 = 4;

/// Rows of suspect sessions that are held at once.
const ROWS_AT_ONCE: u64 = 1_000_000;

/// The objects of a lake, by their path from its root.
pub trait Files: Sync {
    /// The bytes of an object; none when there is no such object. The error says why it cannot be read. Of an
    /// object longer than `limit` no more is needed than `limit` bytes and one, which tells that it is longer.
    fn read(&self, path: &str, limit: u64) -> Result<Option<Bytes>, String>;

    /// The paths from the root of all objects below a folder (which ends in `/`), at whatever depth; no path when
    /// the folder is not there, and none at all when the store cannot list. The error says why the folder, or one
    /// below it, cannot be read. Used to tell a gap from an end.
    fn list(&self, folder: &str) -> Result<Option<Vec<String>>, String>;
}

/// Who does the work on `n` independent pieces.
pub trait Pool: Sync {
    /// Calls `work` once for each number below `n`, in any order, and returns when all are done.
    fn each(&self, n: usize, work: &(dyn Fn(usize) + Sync));
}

/// One piece after the other, on the caller's thread.
pub struct Sequential;

impl Pool for Sequential {
    fn each(&self, n: usize, work: &(dyn Fn(usize) + Sync)) {
        (0..n).for_each(work);
    }
}

/// What to check, and what to believe.
#[derive(Debug, Clone)]
pub struct Options {
    /// The time asked for, Unix ns: an open session without a heartbeat for 15 seconds before it is incomplete.
    pub as_of_ns: Option<i64>,
    /// Pinned keys.
    pub trust: Option<Trust>,
    /// Opens content.
    pub tenant_key: Option<TenantKey>,
    /// Only this session.
    pub session: Option<SessionId>,
    /// Findings that the report lists.
    pub max_faults: usize,
}

/// The paths below a folder; none when the store cannot list, or when the folder cannot be read, which is told.
fn listed(files: &dyn Files, folder: &str, faults: &mut Vec<Fault>) -> Option<Vec<String>> {
    files.list(folder).unwrap_or_else(|why| {
        faults.push(files::unreadable(folder, &why));
        None
    })
}

impl Default for Options {
    fn default() -> Self {
        Self { as_of_ns: None, trust: None, tenant_key: None, session: None, max_faults: 10_000 }
    }
}

/// How far the verification has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Files checked.
    pub files: u64,
    /// Files in the lake.
    pub files_total: u64,
    /// Bytes checked.
    pub bytes: u64,
    /// Bytes in the lake.
    pub bytes_total: u64,
}

/// Checks the lake that `files` holds.
pub fn run(
    files: &dyn Files,
    options: &Options,
    pool: &dyn Pool,
    progress: &(dyn Fn(Progress) + Sync),
) -> Report {
    let mut attempt = 1;
    loop {
        let (report, gone) = run_once(files, options, pool, progress);
        // A lake at work replaces files and deletes them after a while: what was looked for longer than that is looked for
        // where it is now. Only a commit says that a file was replaced.
        if attempt == ATTEMPTS || gone.is_empty() || !was_replaced(files, options, &gone) {
            return report;
        }
        attempt += 1;
    }
}

/// Whether commits that are there now have replaced one of these files.
fn was_replaced(files: &dyn Files, options: &Options, gone: &[String]) -> bool {
    let Some(walk) = commits::walk(files, options.trust.as_ref()) else { return false };
    let live: HashSet<&str> = walk.files.iter().map(|file| &*file.entry.path).collect();
    gone.iter().any(|path| walk.named.contains(path) && !live.contains(path.as_str()))
}

/// The report on a lake as it was at the beginning, and the files of it that were not there.
fn run_once(
    files: &dyn Files,
    options: &Options,
    pool: &dyn Pool,
    progress: &(dyn Fn(Progress) + Sync),
) -> (Report, Vec<String>) {
    let trust = options.trust.as_ref();
    let listing = Listing::of(files);
    let Some(mut walk) = commits::walk(files, trust) else { return (Report::without_lake(), Vec::new()) };
    let mut faults = std::mem::take(&mut walk.faults);
    let rewritten = Mutex::default();
    let run = Run { files, options, pool, progress, walk, rewritten, gone: Mutex::default() };
    let is_ledger = |f: &&DataFile| f.entry.table.0 == Table::Events(Family::Ledger);
    let (ledger_files, data_files): (Vec<_>, Vec<_>) = run.walk.files.iter().partition(is_ledger);
    let done = Mutex::new(Progress {
        files: 0,
        files_total: run.walk.files.len() as u64,
        bytes: 0,
        bytes_total: run.walk.files.iter().fold(0, |sum, f| sum.saturating_add(f.entry.bytes)),
    });

    let ledgers = run.ledgers(&ledger_files, &done, &mut faults);
    let (mut sessions, mut contents, texts, mut checked) =
        run.data(&data_files, &ledgers, &done, &mut faults);
    let grows = |producer: &str| run.walk.has_grown(files, producer);
    let mut settled = sessions.settle(&run.walk, &grows, options.as_of_ns, options.session);
    faults.append(&mut settled.faults);
    let suspects: HashSet<SessionId> = settled.suspects.keys().copied().collect();
    run.look_again(&settled, &data_files, &ledgers, &sessions, &mut faults);
    faults.append(&mut contents.finish(&suspects));
    faults.extend(texts.missing(&ledgers, &suspects));
    faults.extend(run.keys(&ledgers, &listing));
    let windows = windows::check(files, &mut faults);
    let strays = match options.session {
        Some(_) => Vec::new(),
        None => run.strays(&listing, &ledgers, &sessions, &windows, &mut faults),
    };
    rewritten::judge(std::mem::take(&mut lock(&run.rewritten)), &mut faults);
    declared::account_for(&run.walk, &ledgers, trust, &mut faults);
    let told = faults.len();
    let unread = Unread::of(&faults, &run.walk.files);
    faults.retain(|fault| !unread.explains(fault));
    let withheld = told.saturating_sub(faults.len()) as u64;
    if let Some(only) = options.session {
        faults.retain(|f| f.session.is_none_or(|s| s == only));
    }
    checked.ledger_records = ledgers.records;
    checked.events = sessions.events;
    checked.contents = contents.verified;
    checked.contents_not_opened = contents.not_opened;
    checked.streams = run.walk.streams;
    checked.commits = run.walk.commits;
    let progress = *done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    (checked.files, checked.bytes) = (progress.files, progress.bytes);
    let gone = std::mem::take(&mut *lock(&run.gone));
    let report = Report::new(Parts {
        faults,
        trust: trust_report(trust, &ledgers, &run.walk),
        checked,
        windows,
        strays,
        sessions: settled.counts,
        open_sessions: settled.open,
        as_of: options.as_of_ns.is_some(),
        tenant_key: options.tenant_key.is_some(),
        one_session: options.session.is_some(),
        withheld,
        max_faults: options.max_faults,
    });
    (report, gone)
}

/// One verification.
struct Run<'a> {
    files: &'a dyn Files,
    options: &'a Options,
    pool: &'a dyn Pool,
    progress: &'a (dyn Fn(Progress) + Sync),
    walk: Walk,
    /// Files with other bytes than their commits say, and so far with the same rows.
    rewritten: Mutex<Vec<Rewritten>>,
    /// Files that were not there.
    gone: Mutex<Vec<String>>,
}

impl Run<'_> {
    /// Reads a data file; a fault when it is not there.
    fn read(&self, file: &DataFile) -> Result<Bytes, Box<Fault>> {
        // A file that was encoded anew may have grown, and what was changed in it is named all the same.
        match self.files.read(&file.entry.path, file.entry.bytes.saturating_mul(4).saturating_add(GROWTH)) {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => {
                lock(&self.gone).push(file.entry.path.clone());
                Err(Box::new(files::missing(file)))
            }
            Err(why) => Err(Box::new(files::unreadable(&file.entry.path, &why))),
        }
    }

    /// Checks files; `take` gets the facts of each, one at a time.
    fn check(
        &self,
        list: &[&DataFile],
        wanted: &Wanted<'_>,
        done: &Mutex<Progress>,
        take: &mut (dyn FnMut(usize, FileFacts) + Send),
    ) {
        let take = Mutex::new(take);
        self.pool.each(list.len(), &|index| {
            let Some(file) = list.get(index) else { return };
            let mut facts = match self.read(file) {
                // The Parquet library is not made for hostile bytes in every corner; where it gives up, so that
                // the process would, that is a finding about this file.
                Ok(bytes) => {
                    catch_unwind(AssertUnwindSafe(|| files::check(file, &bytes, wanted))).unwrap_or_else(
                        |_| FileFacts { faults: vec![files::hostile(file)], ..FileFacts::default() },
                    )
                }
                Err(fault) => FileFacts { faults: vec![*fault], ..FileFacts::default() },
            };
            let now = {
                let mut done = lock(done);
                done.files += 1;
                done.bytes = done.bytes.saturating_add(file.entry.bytes);
                *done
            };
            (self.progress)(now);
            lock(&self.rewritten).extend(facts.rewritten.take());
            lock(&take)(index, facts);
        });
    }

    fn ledgers(&self, list: &[&DataFile], done: &Mutex<Progress>, faults: &mut Vec<Fault>) -> Ledgers {
        let wanted = Wanted { heads: &HashMap::new(), session: None, keys: None, tenant: None };
        let (mut records, mut holes) = (Vec::new(), BTreeMap::new());
        self.check(list, &wanted, done, &mut |index, mut facts: FileFacts| {
            faults.append(&mut facts.faults);
            holes.extend(facts.ledger_holes.drain(..));
            let Some(file) = list.get(index) else { return };
            let path: std::sync::Arc<str> = file.entry.path.as_str().into();
            records.extend(facts.ledger.into_iter().map(|(row, record)| Placed {
                path: path.clone(),
                row,
                record,
            }));
        });
        let mut ledgers = Ledgers::check(records, &holes, self.options.trust.as_ref(), &self.walk.ledgers);
        faults.append(&mut ledgers.faults);
        ledgers
    }

    fn data<'l>(
        &self,
        list: &[&DataFile],
        ledgers: &'l Ledgers,
        done: &Mutex<Progress>,
        faults: &mut Vec<Fault>,
    ) -> (Sessions<'l>, Contents, Texts, Checked) {
        let heads = ledgers.wanted_heads(&self.walk.stated);
        let key = |session| self.session_key(session, ledgers).ok().flatten();
        let keys: Option<&(dyn Fn(SessionId) -> Option<SessionKey> + Sync)> =
            if self.options.tenant_key.is_some() { Some(&key) } else { None };
        let tenant = self.options.tenant_key.as_ref();
        let wanted = Wanted { heads: &heads, session: self.options.session, keys, tenant };
        let (mut sessions, mut contents) = (Sessions::new(ledgers), Contents::default());
        let (mut texts, mut checked) = (Texts::default(), Checked::default());
        self.check(list, &wanted, done, &mut |index, mut facts: FileFacts| {
            let Some(file) = list.get(index) else { return };
            checked.rows += facts.rows;
            faults.append(&mut facts.faults);
            contents.add(std::mem::take(&mut facts.contents));
            texts.add(&file.entry.path, std::mem::take(&mut facts.texts));
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            sessions.add(index, &file.entry.path, file.committed_ns, &mut facts);
        });
        (sessions, contents, texts, checked)
    }

    /// Looks at suspect sessions row by row, some at a time.
    fn look_again(
        &self,
        settled: &Settled,
        list: &[&DataFile],
        ledgers: &Ledgers,
        sessions: &Sessions<'_>,
        faults: &mut Vec<Fault>,
    ) {
        let mut left = settled.suspects.iter().peekable();
        while left.peek().is_some() {
            let (mut batch, mut files, mut rows) = (HashSet::new(), BTreeSet::new(), 0);
            while let Some((session, (places, n))) =
                left.next_if(|(_, (_, n))| rows == 0 || rows + n <= ROWS_AT_ONCE)
            {
                batch.insert(*session);
                files.extend(places.iter().copied());
                rows += n;
            }
            let files: Vec<&DataFile> =
                files.iter().filter_map(|i| list.get(usize::try_from(*i).ok()?)).copied().collect();
            self.examine(&batch, &files, ledgers, sessions, faults);
        }
    }

    fn examine(
        &self,
        batch: &HashSet<SessionId>,
        files: &[&DataFile],
        ledgers: &Ledgers,
        sessions: &Sessions<'_>,
        faults: &mut Vec<Fault>,
    ) {
        let found = Mutex::new(SecondLook::default());
        self.pool.each(files.len(), &|index| {
            let Some((file, bytes)) = files.get(index).and_then(|f| Some((f, self.read(f).ok()?))) else {
                return;
            };
            let look = catch_unwind(AssertUnwindSafe(|| files::look_again(file, &bytes, batch)));
            let Ok(look) = look else { return };
            let mut all = lock(&found);
            for (session, rows) in look.rows {
                all.rows.entry(session).or_default().extend(rows);
            }
            for (session, holes) in look.holes {
                all.holes.entry(session).or_default().extend(holes);
            }
            all.neighbours.extend(look.neighbours);
        });
        let mut found = found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut batch: Vec<SessionId> = batch.iter().copied().collect();
        batch.sort_unstable();
        // Sessions of one batch are one another's neighbours, too.
        let SecondLook { rows, neighbours, .. } = &mut found;
        neighbours.extend(rows.iter().flat_map(|(s, rows)| rows.iter().map(|r| (*s, r.seq, r.hash))));
        neighbours.sort_unstable();
        for session in batch {
            let evidence = session::Evidence {
                session,
                rows: found.rows.remove(&session).unwrap_or_default(),
                holes: found.holes.remove(&session).unwrap_or_default().into_iter().collect(),
                ledgers,
                neighbours: &found.neighbours,
                committed: self.walk.open.get(&session).copied(),
            };
            let mut named = session::examine(&evidence);
            if named.is_empty() && !sessions.is_unreadable(session) {
                // Both passes look for the same things; should they ever differ, the stricter one counts.
                let detail = "the session does not verify as a whole, and no row of it could be named";
                named.push(Fault::new(Class::Hash, detail).of(session));
            }
            faults.append(&mut named);
        }
    }

    /// The key of a session: none without a tenant key or when its object is gone.
    fn session_key(&self, session: SessionId, ledgers: &Ledgers) -> Result<Option<SessionKey>, Box<Fault>> {
        let Some(tenant) = &self.options.tenant_key else { return Ok(None) };
        let path = layout::session_key(session);
        let wrapped = match self.files.read(&path, MAX_KEY) {
            Ok(Some(wrapped)) => wrapped,
            Ok(None) => return Ok(None),
            Err(why) => return Err(Box::new(files::unreadable(&path, &why).of(session))),
        };
        let wrong = |what: &str| Err(Box::new(Fault::new(Class::Key, what).of(session).at(&path)));
        let Ok(key) = tenant.unwrap(session, &wrapped) else {
            return wrong("cannot be opened with this tenant key: altered, or wrapped under another");
        };
        match ledgers.sessions.get(&session) {
            Some(announced) if announced.key_digest != key.digest() => {
                wrong("not the key that the session's OPEN names")
            }
            _ => Ok(Some(key)),
        }
    }

    /// What lies in the folders and is no part of the lake, and streams without commits.
    fn strays(
        &self,
        listing: &Listing,
        ledgers: &Ledgers,
        sessions: &Sessions<'_>,
        windows: &windows::Windows,
        faults: &mut Vec<Fault>,
    ) -> Vec<Strays> {
        let mut principals: HashSet<String> = sessions.principals().map(layout::directory_entry).collect();
        principals.extend(ledgers.sessions.values().map(|s| layout::directory_entry(s.principal_ref)));
        let has = |session| sessions.has(session);
        let known = Known { walk: &self.walk, ledgers, windows, sessions: &has, principals: &principals };
        if !self.walk.unread {
            listing.empty_streams(&known, faults);
            listing.beyond(&known, faults);
        }
        listing.strays(&known, faults)
    }

    /// Checks the keys of all sessions that have ended, and the names of their principals. Without a tenant key
    /// it is only seen whether they are there.
    fn keys(&self, ledgers: &Ledgers, listing: &Listing) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut sessions: Vec<_> = ledgers.sessions.iter().collect();
        sessions.retain(|(id, _)| self.options.session.is_none_or(|only| only == **id));
        // The key and the name of an open session can still be on their way.
        let ended = |announced: &ledger::InLedger| !matches!(announced.end, ledger::End::Open);
        let stored = Names::of(self.files, "keys/", listing, &mut faults);
        for (session, announced) in &sessions {
            let path = layout::session_key(**session);
            let there = match self.options.tenant_key.is_some() {
                true => self.session_key(**session, ledgers).map(|key| key.is_some()),
                false => stored.has(&path).map_err(|fault| Box::new(fault.of(**session))),
            };
            match there {
                Ok(false) if ended(announced) => {
                    let detail = "the session's key is gone, and no record says that it was erased";
                    faults.push(Fault::new(Class::UndeclaredErasure, detail).of(**session).at(&path));
                }
                Ok(_) => {}
                Err(fault) => faults.push(*fault),
            }
        }
        let stored = Names::of(self.files, "directory/", listing, &mut faults);
        let mut principals: BTreeMap<PrincipalRef, bool> = BTreeMap::new();
        for (_, announced) in &sessions {
            *principals.entry(announced.principal_ref).or_default() |= ended(announced);
        }
        for (principal, ended) in principals {
            match self.name(principal, &stored) {
                Ok(false) if ended => {
                    let detail = "the name of a principal is gone, and no record says that it was erased";
                    let path = layout::directory_entry(principal);
                    faults.push(Fault::new(Class::UndeclaredErasure, detail).at(&path));
                }
                Ok(_) => {}
                Err(fault) => faults.push(fault),
            }
        }
        faults
    }

    /// Whether the name of a principal is there and, with the tenant key, is the one that the pseudonym is of.
    fn name(&self, principal: PrincipalRef, stored: &Names<'_>) -> Result<bool, Fault> {
        let path = layout::directory_entry(principal);
        let Some(tenant) = &self.options.tenant_key else { return stored.has(&path) };
        let wrapped = match self.files.read(&path, MAX_NAME) {
            Ok(Some(wrapped)) => wrapped,
            Ok(None) => return Ok(false),
            Err(why) => return Err(files::unreadable(&path, &why)),
        };
        match tenant.unwrap_name(principal, &wrapped) {
            Ok(name) if tenant.principal_ref(&name) == principal => Ok(true),
            Ok(_) => Err(Fault::new(Class::Key, "the name of another principal").at(&path)),
            Err(_) => {
                let detail = "cannot be opened with this tenant key: altered, or wrapped under another";
                Err(Fault::new(Class::Key, detail).at(&path))
            }
        }
    }
}

/// Which objects a folder has: listed once where that is possible, else asked for one by one.
struct Names<'a> {
    files: &'a dyn Files,
    listed: Option<HashSet<&'a str>>,
    /// Whether the folder cannot be read, which was told: nothing is said of what cannot be asked for either.
    unreadable: bool,
}

impl<'a> Names<'a> {
    fn of(files: &'a dyn Files, folder: &str, listing: &'a Listing, faults: &mut Vec<Fault>) -> Self {
        let listed = listing.folder(folder);
        faults.extend(listed.err().map(|why| files::unreadable(folder, why)));
        let names = listed.ok().flatten().map(|names| names.iter().map(String::as_str).collect());
        Self { files, listed: names, unreadable: listed.is_err() }
    }

    fn has(&self, path: &str) -> Result<bool, Fault> {
        match &self.listed {
            Some(listed) if listed.contains(path) => Ok(true),
            // What was not there when the folder was listed can have come since.
            _ => match self.files.read(path, 0) {
                Ok(found) => Ok(found.is_some()),
                Err(_) if self.unreadable => Ok(true),
                Err(why) => Err(files::unreadable(path, &why)),
            },
        }
    }
}

fn trust_report(trust: Option<&Trust>, ledgers: &Ledgers, walk: &Walk) -> TrustReport {
    let producers: Vec<ProducerReport> = ledgers
        .producers
        .iter()
        .map(|(name, p)| ProducerReport {
            name: bodycam_record::shown(name),
            key: p.key,
            pinned: trust.zip(p.key).is_some_and(|(t, key)| {
                // A recorder's ledger is under the key of its commits.
                let of_recorder = *name == recorder_name(key) && t.recorders.contains(&key);
                of_recorder || t.producers.get(name) == Some(&key)
            }),
            epochs: p.epochs.len() as u64,
            last_ns: p.last_ns,
            stopped: p.stopped,
            simulated_clock: p.simulated,
        })
        .collect();
    let recorders: Vec<KeyReport> = walk
        .recorders
        .iter()
        .map(|key| KeyReport { key: *key, pinned: trust.is_some_and(|t| t.recorders.contains(key)) })
        .collect();
    let pinned =
        !producers.is_empty() && producers.iter().all(|p| p.pinned) && recorders.iter().all(|r| r.pinned);
    TrustReport { mode: if pinned { "pinned" } else { "self" }, producers, recorders }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
