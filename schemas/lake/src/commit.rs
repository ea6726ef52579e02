//! A commit: the positions `[from, to)` of one stream, the files that hold them, and where every session stood
//! afterwards. Written once, under the name of its first position; two writers collide on that name.
//!
//! What is signed is the digest of canonical bytes, never of JSON. The reader is bounded and refuses unknown
//! fields, other versions, and paths that leave the folder of their table.

use bodycam_record::canonical::Writer;
use bodycam_record::digest::{self, Digest};
use bodycam_record::{EpochKey, Id16, SessionId, key};
use serde::{Deserialize, Serialize};

use crate::columns::Table;
use crate::error::LakeError;
use crate::layout::{self, StreamName};

/// Version of the commit format.
pub const VERSION: i64 = 1;

/// Largest commit or snapshot that is read.
pub const MAX_BYTES: usize = 256 << 20;

/// One commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// [`VERSION`].
    pub version: i64,
    /// The stream.
    pub stream: StreamName,
    /// Generation of the stream.
    pub generation: u64,
    /// First position.
    pub from: u64,
    /// First position after it: the name of the next commit.
    pub to: u64,
    /// Wall time of the commit, Unix ns.
    pub created_ns: i64,
    /// Digest of the commit before it in this stream and generation.
    pub previous: Option<Digest>,
    /// New files.
    pub files: Vec<FileEntry>,
    /// Paths of files that the new files stand for (compaction): they are no longer part of the lake.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaces: Vec<String>,
    /// Every compaction commit before this position has had its replaced files deleted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub deleted_to: u64,
    /// Sessions that this commit touched, as they stand after it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sessions: Vec<SessionState>,
    /// The ledger of the stream's producer after this commit, when the stream carries one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<LedgerState>,
    /// Events that came again and were dropped.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub duplicates: u64,
    /// Ed25519 public key of the recorder.
    pub recorder: Digest,
    /// Signature of that key over [`Commit::digest`].
    pub signature: Signature,
}

/// A data file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Where it is, from the root of the lake.
    pub path: String,
    /// Its table.
    pub table: TableName,
    /// Rows in it.
    pub rows: u64,
    /// Bytes of it.
    pub bytes: u64,
    /// SHA-256 of it, so that `sha256sum` checks it.
    pub sha256: Digest,
    /// Smallest time in it, Unix ns, where its rows have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_ts_ns: Option<i64>,
    /// Largest time in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ts_ns: Option<i64>,
    /// Sum of its row hashes modulo 2^256: equal before and after a compaction, but for the index of sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row_sum: Option<Digest>,
    /// Smallest session id in it, where its rows have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_session: Option<SessionId>,
    /// Largest session id in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_session: Option<SessionId>,
    /// The sessions in it, ascending. A snapshot leaves them out of files with many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<Vec<SessionRange>>,
}

/// A table in its JSON form: its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub struct TableName(pub Table);

/// What of a session a file holds: written as `[session, from, to, head]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(SessionId, i64, i64, Option<Digest>)", into = "(SessionId, i64, i64, Option<Digest>)")]
pub struct SessionRange {
    /// The session.
    pub session: SessionId,
    /// Smallest `seq`; for content smallest `content_no`.
    pub seq_from: i64,
    /// Largest, included.
    pub seq_to: i64,
    /// Hash of the row with the largest `seq`, for events.
    pub head: Option<Digest>,
}

/// Where a session stands after a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionState {
    /// The session.
    pub session: SessionId,
    /// Number of its next event.
    pub next_seq: i64,
    /// Hash of its last event.
    pub head: Digest,
    /// Whether more events are expected.
    pub open: bool,
}

/// Where a producer's ledger stands after a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerState {
    /// The producer.
    pub producer: String,
    /// Epoch of its last record.
    pub epoch: i64,
    /// Long-term public key that the last START named.
    pub producer_key: Digest,
    /// Public key of the epoch.
    pub epoch_key: Digest,
    /// Number of its next record.
    pub next_seq: i64,
    /// Hash of its last record.
    pub head: Digest,
    /// Everything that the producer recorded before this time is in the lake: the time of the last ledger
    /// record, which is committed only after the events spooled before it.
    pub watermark_ns: i64,
    /// Whether the last record is a STOP: nothing more is expected of this epoch.
    pub stopped: bool,
}

/// An entry of the list of streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamEntry {
    /// [`VERSION`].
    pub version: i64,
    /// The stream.
    pub stream: StreamName,
    /// Its generation.
    pub generation: u64,
    /// Position of its first commit.
    pub from: u64,
    /// What tells it from another stream of the same name, where its producer has said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Id16>,
}

/// A 64-byte signature, in hex.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signature(pub [u8; 64]);

impl Commit {
    /// The commit that `bytes` of the object `path` hold. The signature is checked against the key that the
    /// commit itself names; whether that key is to be trusted is for the caller to say.
    pub fn parse(path: &str, bytes: &[u8]) -> Result<Self, LakeError> {
        check_size(path, bytes)?;
        check_version(path, bytes)?;
        let commit: Commit = serde_json::from_slice(bytes).map_err(|err| LakeError::damaged(path, err))?;
        commit.check().map_err(|reason| LakeError::damaged(path, reason))?;
        if !commit.signature_is_valid() {
            return Err(LakeError::damaged(path, "the signature does not fit"));
        }
        Ok(commit)
    }

    /// The JSON of the commit.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec(self).unwrap_or_default();
        json.push(b'\n');
        json
    }

    /// Where it belongs.
    pub fn path(&self) -> String {
        layout::commit(&self.stream, self.generation, self.from)
    }

    /// The digest over its canonical bytes, signature left out.
    pub fn digest(&self) -> Digest {
        let mut w = Writer::new();
        w.int(self.version);
        w.bytes(self.stream.as_str().as_bytes());
        for n in [self.generation, self.from, self.to] {
            w.bytes(&n.to_le_bytes());
        }
        w.int(self.created_ns);
        bodycam_record::value::put_field(&mut w, &self.previous);
        list(&mut w, &self.files, |w, f| f.put(w));
        list(&mut w, &self.replaces, |w, p| w.bytes(p.as_bytes()));
        w.bytes(&self.deleted_to.to_le_bytes());
        list(&mut w, &self.sessions, |w, s| s.put(w));
        list(&mut w, self.ledger.as_slice(), |w, l| l.put(w));
        w.bytes(&self.duplicates.to_le_bytes());
        w.bytes(&self.recorder.0);
        digest::LAKE_COMMIT.digest(w.as_slice())
    }

    /// Names the recorder and signs.
    pub fn sign(&mut self, key: &EpochKey) {
        self.recorder = key.public();
        self.signature = Signature::by(key, self.digest());
    }

    /// Whether the signature is that of the key that the commit names.
    pub fn signature_is_valid(&self) -> bool {
        key::verify_signature(self.recorder, self.digest(), &self.signature.0)
    }

    fn check(&self) -> Result<(), String> {
        if self.to <= self.from {
            return Err(format!("it ends at {}, not after its start {}", self.to, self.from));
        }
        self.files.iter().try_for_each(FileEntry::check)
    }
}

impl FileEntry {
    /// Whether rows of `session` can be in it.
    pub fn may_hold(&self, session: SessionId) -> bool {
        match (&self.sessions, self.min_session, self.max_session) {
            (Some(ranges), ..) => ranges.binary_search_by_key(&session, |r| r.session).is_ok(),
            (None, Some(min), Some(max)) => min <= session && session <= max,
            _ => true,
        }
    }

    /// Whether rows with a time in `[from_ns, to_ns)` can be in it.
    pub fn overlaps(&self, from_ns: i64, to_ns: i64) -> bool {
        self.min_ts_ns.is_none_or(|min| min < to_ns) && self.max_ts_ns.is_none_or(|max| max >= from_ns)
    }

    /// Refuses a path outside the table's folder, and ranges out of order.
    pub(crate) fn check(&self) -> Result<(), String> {
        let TableName(table) = self.table;
        if !layout::belongs(table, &self.path) {
            return Err(format!("{} is no path of table {}", self.path, table.name()));
        }
        let ranges = self.sessions.as_deref().unwrap_or_default();
        if !ranges.is_sorted_by(|a, b| a.session < b.session) {
            return Err(format!("the sessions of {} are not in ascending order", self.path));
        }
        Ok(())
    }

    pub(crate) fn put(&self, w: &mut Writer) {
        use bodycam_record::value::put_field;
        let id = |s: &SessionId| bodycam_record::Id16(s.0);
        w.bytes(self.path.as_bytes());
        w.bytes(self.table.0.name().as_bytes());
        w.bytes(&self.rows.to_le_bytes());
        w.bytes(&self.bytes.to_le_bytes());
        w.bytes(&self.sha256.0);
        put_field(w, &self.min_ts_ns);
        put_field(w, &self.max_ts_ns);
        put_field(w, &self.row_sum);
        put_field(w, &self.min_session.as_ref().map(id));
        put_field(w, &self.max_session.as_ref().map(id));
        w.bool(self.sessions.is_some());
        list(w, self.sessions.as_deref().unwrap_or_default(), |w, r| {
            w.bytes(&r.session.0);
            w.int(r.seq_from);
            w.int(r.seq_to);
            put_field(w, &r.head);
        });
    }
}

impl SessionState {
    pub(crate) fn put(&self, w: &mut Writer) {
        w.bytes(&self.session.0);
        w.int(self.next_seq);
        w.bytes(&self.head.0);
        w.bool(self.open);
    }
}

impl LedgerState {
    pub(crate) fn put(&self, w: &mut Writer) {
        w.bytes(self.producer.as_bytes());
        w.int(self.epoch);
        w.bytes(&self.producer_key.0);
        w.bytes(&self.epoch_key.0);
        w.int(self.next_seq);
        w.bytes(&self.head.0);
        w.int(self.watermark_ns);
        w.bool(self.stopped);
    }
}

impl StreamEntry {
    /// The entry that `bytes` of the object `path` hold.
    pub fn parse(path: &str, bytes: &[u8]) -> Result<Self, LakeError> {
        check_size(path, bytes)?;
        check_version(path, bytes)?;
        serde_json::from_slice(bytes).map_err(|err| LakeError::damaged(path, err))
    }

    /// The JSON of the entry.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec(self).unwrap_or_default();
        json.push(b'\n');
        json
    }
}

impl Signature {
    /// No signature yet.
    pub const NONE: Signature = Signature([0; 64]);

    /// The signature of `key` over `digest`.
    pub(crate) fn by(key: &EpochKey, digest: Digest) -> Self {
        Signature(key.sign(digest).as_slice().try_into().unwrap_or([0; 64]))
    }
}

impl std::fmt::Debug for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(bodycam_record::ids::to_hex(&self.0).get(..16).unwrap_or_default())
    }
}

impl TryFrom<String> for Signature {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        bodycam_record::ids::from_hex(&text).map(Signature).ok_or("expected 128 hex digits")
    }
}

impl From<Signature> for String {
    fn from(signature: Signature) -> String {
        bodycam_record::ids::to_hex(&signature.0)
    }
}

impl TryFrom<String> for TableName {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        Table::named(&name)
            .map(TableName)
            .ok_or_else(|| format!("unknown table '{}'", bodycam_record::shown(&name)))
    }
}

impl From<TableName> for &'static str {
    fn from(name: TableName) -> Self {
        name.0.name()
    }
}

impl From<(SessionId, i64, i64, Option<Digest>)> for SessionRange {
    fn from((session, seq_from, seq_to, head): (SessionId, i64, i64, Option<Digest>)) -> Self {
        Self { session, seq_from, seq_to, head }
    }
}

impl From<SessionRange> for (SessionId, i64, i64, Option<Digest>) {
    fn from(r: SessionRange) -> Self {
        (r.session, r.seq_from, r.seq_to, r.head)
    }
}

/// A canonical list: its length, then its items.
pub(crate) fn list<T>(w: &mut Writer, items: &[T], put: impl Fn(&mut Writer, &T)) {
    w.bytes(&(items.len() as u64).to_le_bytes());
    items.iter().for_each(|item| put(w, item));
}

/// Refuses an object of absurd size.
pub(crate) fn check_size(path: &str, bytes: &[u8]) -> Result<(), LakeError> {
    match bytes.len() {
        n if n > MAX_BYTES => {
            Err(LakeError::damaged(path, format_args!("{n} bytes are more than any commit has")))
        }
        _ => Ok(()),
    }
}

/// Tells a newer format from a damaged object before its fields are looked at.
pub(crate) fn check_version(path: &str, bytes: &[u8]) -> Result<(), LakeError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: i64,
    }
    let Versioned { version } = serde_json::from_slice(bytes).map_err(|err| LakeError::damaged(path, err))?;
    match version {
        VERSION => Ok(()),
        value => Err(LakeError::Unsupported { path: path.to_owned(), what: "format version", value }),
    }
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit() -> Commit {
        let session = SessionId([1; 16]);
        let mut commit = Commit {
            version: VERSION,
            stream: "gw/0".parse().unwrap(),
            generation: 0,
            from: 10,
            to: 20,
            created_ns: 5,
            previous: Some(Digest([1; 32])),
            files: vec![FileEntry {
                path: "tables/sql/dt=2026-11-21/hh=10/gw@0-0-10-0-00000001.parquet".into(),
                table: TableName(Table::Events(bodycam_record::Family::Sql)),
                rows: 3,
                bytes: 4000,
                sha256: Digest([2; 32]),
                min_ts_ns: Some(1),
                max_ts_ns: Some(2),
                row_sum: Some(Digest([3; 32])),
                min_session: Some(session),
                max_session: Some(session),
                sessions: Some(vec![SessionRange {
                    session,
                    seq_from: 1,
                    seq_to: 3,
                    head: Some(Digest([4; 32])),
                }]),
            }],
            replaces: vec![],
            deleted_to: 0,
            sessions: vec![SessionState { session, next_seq: 4, head: Digest([4; 32]), open: true }],
            ledger: None,
            duplicates: 0,
            recorder: Digest::ZERO,
            signature: Signature::NONE,
        };
        commit.sign(&EpochKey::from_seed(&[5; 32]));
        commit
    }

    #[test]
    fn a_commit_reads_back_as_it_was_written() {
        let commit = commit();
        assert_eq!(Commit::parse("c", &commit.to_json()).unwrap(), commit);
        assert_eq!(commit.path(), "commits/gw@0/0/10.json");
    }

    #[test]
    fn every_altered_field_breaks_the_signature() {
        let json: serde_json::Value = serde_json::from_slice(&commit().to_json()).unwrap();
        let mut leaves = Vec::new();
        fn walk(value: &serde_json::Value, at: String, leaves: &mut Vec<String>) {
            match value {
                serde_json::Value::Object(map) => {
                    map.iter().for_each(|(k, v)| walk(v, format!("{at}/{k}"), leaves));
                }
                serde_json::Value::Array(items) => {
                    items.iter().enumerate().for_each(|(i, v)| walk(v, format!("{at}/{i}"), leaves));
                }
                _ => leaves.push(at),
            }
        }
        walk(&json, String::new(), &mut leaves);
        assert!(leaves.len() > 20, "{leaves:?}");
        for leaf in leaves {
            let mut altered = json.clone();
            let value = altered.pointer_mut(&leaf).unwrap();
            *value = match &*value {
                serde_json::Value::Number(n) => (n.as_i64().unwrap() + 1).into(),
                serde_json::Value::Bool(b) => (!b).into(),
                serde_json::Value::String(s) => {
                    let last = if s.ends_with('1') { "2" } else { "1" };
                    format!("{}{last}", &s[..s.len() - 1]).into()
                }
                other => panic!("{other}"),
            };
            let bytes = serde_json::to_vec(&altered).unwrap();
            assert!(Commit::parse("c", &bytes).is_err(), "{leaf}");
        }
    }

    #[test]
    fn a_bad_commit_is_named_with_what_is_wrong() {
        let good = String::from_utf8(commit().to_json()).unwrap();
        let cases = [
            (good[..good.len() / 2].to_owned(), "EOF"),
            ("[]".to_owned(), "invalid"),
            (String::new(), "EOF"),
            (good.replace("\"version\":1", "\"version\":2"), "format version 2"),
            (good.replace("\"from\"", "\"more\":1,\"from\""), "unknown field"),
            (good.replace("tables/sql/dt", "tables/../../etc/dt"), "no path of table sql"),
            (good.replace("\"to\":20", "\"to\":10"), "not after its start"),
            (good.replace("gw/0", "../0"), "cannot be a stream"),
            (good.replace("\"sql\"", "\"sqlx\""), "unknown table"),
        ];
        for (json, expected) in cases {
            let message = Commit::parse("commits/gw@0/0/10.json", json.as_bytes()).unwrap_err().to_string();
            assert!(message.contains(expected), "{expected}: {message}");
            assert!(message.contains("commits/gw@0/0/10.json"), "{message}");
        }
    }
}
