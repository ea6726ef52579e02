//! What can be found wrong, in classes that tests, alerts and people can rely on, and where.

use std::fmt;

use bodycam_record::{SessionId, shown};
use serde::Serialize;

/// How much a finding weighs: what it does to the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gravity {
    /// Something could not be read, so nothing can be said about it.
    Unreadable,
    /// The record was altered, or contradicts itself.
    Tamper,
    /// A newer verifier may understand it.
    Unsupported,
    /// Something is missing, and the record itself says so.
    Incomplete,
    /// Worth knowing; changes nothing.
    Notice,
}

/// The property that a class speaks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aspect {
    /// What is there is what was recorded.
    Integrity,
    /// It is in the order in which it was recorded.
    Order,
    /// No session lacks events.
    SessionCompleteness,
    /// No session or ledger record is missing, and none was added.
    PopulationCompleteness,
    /// It comes from the producers that it names.
    Authenticity,
    /// It reaches to the present.
    Freshness,
    /// Content is what its events commit to.
    Content,
    /// Findings are those of the evaluations that were recorded.
    Findings,
    /// Everything was of a known format.
    Support,
}

macro_rules! classes {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal $gravity:ident $aspect:ident,)*) => {
        /// The class of a finding.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Class { $($(#[doc = $doc])* $name),* }

        impl Class {
            /// Every class, with its meaning.
            pub const ALL: &[(Class, &str)] = &[$((Class::$name, concat!($($doc),*))),*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(Class::$name => $text),* }
            }

            /// How much it weighs.
            pub fn gravity(self) -> Gravity {
                match self { $(Class::$name => Gravity::$gravity),* }
            }

            /// The property that it speaks about.
            pub fn aspect(self) -> Aspect {
                match self { $(Class::$name => Aspect::$aspect),* }
            }
        }
    };
}

classes! {
    /// The columns of an event do not hash to the hash that it states.
    Hash = "HASH" Tamper Integrity,
    /// A row does not hold an event: a value is missing, superfluous or of the wrong form.
    Row = "ROW" Tamper Integrity,
    /// An event is genuine but stands in another place than the one it was recorded in.
    Link = "LINK" Tamper Order,
    /// Events are missing between two others.
    SeqGap = "SEQ_GAP" Tamper Order,
    /// The first events of a session are missing.
    GenesisMissing = "GENESIS_MISSING" Tamper SessionCompleteness,
    /// The genesis of a session is not the one that its producer announced in the ledger.
    Genesis = "GENESIS" Tamper Integrity,
    /// The last events of a session are missing.
    TailTruncated = "TAIL_TRUNCATED" Tamper SessionCompleteness,
    /// A session ended, its producer went on or stopped, and there is neither a SEAL nor a CRASH.
    NoSeal = "NO_SEAL" Tamper SessionCompleteness,
    /// The last event is not the one that the SEAL or CRASH names.
    HeadMismatch = "HEAD_MISMATCH" Tamper Integrity,
    /// A checkpoint does not fit the events before it.
    CheckpointMismatch = "CHECKPOINT_MISMATCH" Tamper Integrity,
    /// The SEAL states another Merkle root or other totals than the events do.
    SealMismatch = "SEAL_MISMATCH" Tamper Integrity,
    /// The signature of a checkpoint does not fit.
    CheckpointSig = "CHECKPOINT_SIG" Tamper Authenticity,
    /// The signature of a SEAL does not fit.
    SealSig = "SEAL_SIG" Tamper Authenticity,
    /// An event of a session carries another epoch than the one that opened the session.
    EpochKey = "EPOCH_KEY" Tamper Authenticity,
    /// The same event twice, identical: harmless.
    Duplicate = "DUPLICATE" Notice Order,
    /// Two different events with one number.
    Fork = "FORK" Tamper Order,
    /// Events after the end of a session.
    AfterSeal = "AFTER_SEAL" Tamper SessionCompleteness,
    /// An event that belongs to another session.
    Splice = "SPLICE" Tamper Order,
    /// A session that no ledger announces.
    Orphan = "ORPHAN_SESSION" Tamper PopulationCompleteness,
    /// A session that the ledger announces and of which there is nothing.
    MissingSession = "MISSING_SESSION" Tamper PopulationCompleteness,
    /// A session that a crash cut; the producer's next epoch said so.
    Crashed = "CRASHED" Incomplete SessionCompleteness,
    /// An open session without a heartbeat for 15 seconds before the time asked for.
    Silent = "SILENT" Incomplete Freshness,
    /// Events whose OPEN is not in the lake yet.
    Pending = "PENDING" Notice PopulationCompleteness,
    /// Events whose OPEN is not in the lake, at the end of a ledger that should have passed it long ago.
    PendingLong = "PENDING_LONG" Incomplete PopulationCompleteness,
    /// Events of a producer of which there is no ledger at all.
    NoLedger = "NO_LEDGER" Incomplete PopulationCompleteness,
    /// A ledger lacks its end.
    LedgerTail = "LEDGER_TAIL" Tamper PopulationCompleteness,
    /// Ledger records are missing, or one number stands for two.
    LedgerSeq = "LEDGER_SEQ" Tamper PopulationCompleteness,
    /// A ledger record does not hash to the hash that it states.
    LedgerHash = "LEDGER_HASH" Tamper Integrity,
    /// The signature of a ledger record does not fit.
    LedgerSig = "LEDGER_SIG" Tamper Authenticity,
    /// A ledger record contradicts the ones before it.
    LedgerRecord = "LEDGER_RECORD" Tamper PopulationCompleteness,
    /// Epochs are missing from a ledger.
    EpochGap = "EPOCH_GAP" Tamper PopulationCompleteness,
    /// An epoch key is not certified by its producer's key.
    Certificate = "CERTIFICATE" Tamper Authenticity,
    /// A producer uses another key than the pinned one, or a second one.
    ProducerKey = "PRODUCER_KEY" Tamper Authenticity,
    /// A heartbeat states other heads of open sessions than the events have.
    Heartbeat = "HEARTBEAT" Tamper Integrity,
    /// A gap that was declared: by its producer, or by a recorder for positions that were given up; or what was lost in it.
    DeclaredGap = "DECLARED_GAP" Incomplete SessionCompleteness,
    /// A file is missing, or is not the one that its commit names.
    Manifest = "MANIFEST" Tamper Integrity,
    /// A file was written anew: other bytes than its commit names, and the same rows.
    Rewritten = "REWRITTEN" Notice Integrity,
    /// A file is not a Parquet file of its table.
    File = "FILE" Tamper Integrity,
    /// Stated column statistics deny values that are there: readers would skip them.
    Statistics = "STATISTICS" Tamper Integrity,
    /// A Bloom filter denies a value that is there: readers would skip it.
    Bloom = "BLOOM" Tamper Integrity,
    /// A commit is damaged, does not follow on the one before it, or states what its rows do not say.
    Commit = "COMMIT" Tamper Integrity,
    /// Commits are missing between others.
    CommitGap = "COMMIT_GAP" Tamper PopulationCompleteness,
    /// A stream is listed and has no commits: it was about to begin, or they were removed.
    EmptyStream = "EMPTY_STREAM" Notice PopulationCompleteness,
    /// Objects in a folder of the lake are no part of it: readers of whole folders would take them for it.
    Stray = "STRAY" Notice PopulationCompleteness,
    /// A commit is signed with a key that is not pinned.
    CommitKey = "COMMIT_KEY" Tamper Authenticity,
    /// A snapshot is damaged, or is not what the commits before it add up to: readers would begin with it.
    Snapshot = "SNAPSHOT" Tamper Integrity,
    /// A compaction lost, repeated or changed rows.
    Compaction = "COMPACTION" Tamper Integrity,
    /// A derived row (index of sessions, statement text) is not what the events say, or is missing.
    Index = "INDEX" Tamper Integrity,
    /// A window record or findings file is missing, or not what names it says.
    Window = "WINDOW" Tamper Findings,
    /// Content is not what its event commits to.
    Payload = "PAYLOAD" Tamper Content,
    /// An event commits to content that is not there.
    PayloadMissing = "PAYLOAD_MISSING" Tamper Content,
    /// A session key is not the one that the ledger names, or a key or name cannot be opened.
    Key = "KEY" Tamper Content,
    /// A session key or the name of a principal is gone, and no record says that it was erased.
    UndeclaredErasure = "UNDECLARED_ERASURE" Tamper Content,
    /// A suite, version, kind or column that this verifier does not know.
    Unsupported = "UNSUPPORTED" Unsupported Support,
    /// An object could not be read.
    Unreadable = "UNREADABLE" Unreadable Integrity,
}

impl Serialize for Class {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One finding, with its coordinates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// What it is.
    pub class: Class,
    /// How much it weighs.
    pub gravity: Gravity,
    /// The producer, for findings in a ledger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub producer: Option<String>,
    /// The session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// Number in the session or ledger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<i64>,
    /// Last number, when the finding speaks of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq_to: Option<i64>,
    /// The object in the lake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The row in the file, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row: Option<u64>,
    /// What is wrong, in words.
    pub detail: String,
}

impl Fault {
    /// A finding without coordinates. Text that others wrote may be part of `detail`.
    pub fn new(class: Class, detail: impl fmt::Display) -> Self {
        Self {
            class,
            gravity: class.gravity(),
            producer: None,
            session: None,
            seq: None,
            seq_to: None,
            path: None,
            row: None,
            detail: shown(&detail.to_string()),
        }
    }

    /// In this object.
    pub fn at(mut self, path: &str) -> Self {
        self.path = Some(shown(path));
        self
    }

    /// In this row of a file.
    pub fn at_row(mut self, path: &str, row: u64) -> Self {
        self.row = Some(row);
        self.at(path)
    }

    /// Of this session.
    pub fn of(mut self, session: SessionId) -> Self {
        self.session = Some(session);
        self
    }

    /// Of this event or ledger record.
    pub fn seq(mut self, seq: i64) -> Self {
        self.seq = Some(seq);
        self
    }

    /// Of these events or ledger records, both included.
    pub fn seqs(mut self, from: i64, to: i64) -> Self {
        self.seq = Some(from);
        self.seq_to = (to > from).then_some(to);
        self
    }

    /// In the ledger of this producer.
    pub fn of_producer(mut self, producer: &str) -> Self {
        self.producer = Some(shown(producer));
        self
    }

    /// Takes `next` into this finding, when it says the same of the event that follows.
    pub fn absorbs(&mut self, next: &Fault) -> bool {
        let last = self.seq_to.or(self.seq);
        let follows = last.is_some_and(|n| next.seq == n.checked_add(1));
        let same = (self.class, self.session, &self.path, &self.detail)
            == (next.class, next.session, &next.path, &next.detail);
        if follows && same {
            self.seq_to = next.seq_to.or(next.seq);
        }
        follows && same
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.class)?;
        if let Some(session) = self.session {
            write!(f, "  session {session}")?;
        }
        if let Some(producer) = &self.producer {
            write!(f, "  ledger of {producer}")?;
        }
        match (self.seq, self.seq_to) {
            (Some(from), Some(to)) => write!(f, "  seq {from}-{to}")?,
            (Some(seq), None) => write!(f, "  seq {seq}")?,
            _ => {}
        }
        if let Some(path) = &self.path {
            write!(f, "  {path}")?;
        }
        if let Some(row) = self.row {
            write!(f, " row {row}")?;
        }
        write!(f, "\n    {}", self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    #[test]
    fn class_names_are_unique() {
        let names: std::collections::BTreeSet<_> = Class::ALL.iter().map(|(class, _)| class.name()).collect();
        assert_eq!(names.len(), Class::ALL.len());
    }

    #[test]
    fn generated_docs_are_current() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/event-format.md");
        let text = std::fs::read_to_string(&path).unwrap();
        let mut table = "\n| Class | Weight | Meaning |\n|---|---|---|\n".to_owned();
        for (class, meaning) in Class::ALL {
            let weight = format!("{:?}", class.gravity()).to_lowercase();
            writeln!(table, "| `{class}` | {weight} | {} |", meaning.trim()).unwrap();
        }
        table.push('\n');
        let (open, close) = ("<!-- generated: classes -->\n", "<!-- end of classes -->\n");
        let (before, rest) = text.split_once(open).unwrap();
        let (_, after) = rest.split_once(close).unwrap();
        let expected = format!("{before}{open}{table}{close}{after}");
        if std::env::var("BODYCAM_UPDATE").is_ok_and(|v| v == "1") {
            std::fs::write(&path, &expected).unwrap();
        }
        let current = std::fs::read_to_string(&path).unwrap();
        assert!(current == expected, "docs/event-format.md lacks a class of findings: run `make docs`");
    }

    #[test]
    fn findings_of_neighbours_become_one() {
        let fault = |seq, detail: &str| Fault::new(Class::Hash, detail).at_row("f", seq as u64).seq(seq);
        let mut first = fault(3, "a");
        assert!(first.absorbs(&fault(4, "a")) && first.absorbs(&fault(5, "a")));
        assert_eq!((first.seq, first.seq_to, first.row), (Some(3), Some(5), Some(3)));
        assert!(!first.absorbs(&fault(7, "a")) && !first.absorbs(&fault(6, "b")));
        let hostile = Fault::new(Class::Row, "\u{1b}[2J").at("x\u{202e}");
        assert!(!hostile.to_string().contains(['\u{1b}', '\u{202e}']));
    }
}
