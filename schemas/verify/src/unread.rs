//! What could not be read, and which findings may only be its consequences: of a session one of whose files cannot
//! be read nobody can say that events are missing. Such a verification "could not run" (code 1), and must not also
//! say that the record was altered.

use std::collections::HashSet;

use bodycam_lake::Table;
use bodycam_record::{Family, SessionId, shown};

use crate::fault::{Class, Fault};
use crate::files::DataFile;

/// What could not be read.
#[derive(Debug, Default)]
pub struct Unread {
    /// Entries of the list of streams, or commits: then any file and any session may be missing.
    commits: bool,
    ledger: bool,
    /// The index of sessions, or statement texts.
    derived: bool,
    events: Of,
    content: Of,
}

/// Sessions with rows in files that could not be read.
#[derive(Debug, Default)]
struct Of {
    /// Of some file it is not known which sessions it holds.
    any: bool,
    sessions: HashSet<SessionId>,
}

impl Unread {
    /// What `faults` say could not be read, of the files of the lake and of what names them.
    pub fn of(faults: &[Fault], files: &[DataFile]) -> Self {
        let paths: HashSet<&str> = faults
            .iter()
            .filter(|f| f.class == Class::Unreadable)
            .filter_map(|f| f.path.as_deref())
            .collect();
        let mut out = Self {
            commits: paths.iter().any(|path| path.starts_with("commits/") || path.starts_with("streams/")),
            ..Self::default()
        };
        if paths.is_empty() {
            return out;
        }
        for file in files.iter().filter(|file| paths.contains(shown(&file.entry.path).as_str())) {
            match file.entry.table.0 {
                Table::Events(Family::Ledger) => out.ledger = true,
                Table::Events(_) => out.events.add(file),
                Table::Content => out.content.add(file),
                Table::Sessions | Table::Templates => out.derived = true,
                Table::Findings => {}
            }
        }
        out
    }

    /// Whether a finding may be there only because something could not be read. Only findings that something is
    /// missing can be: what was read and is wrong stays wrong.
    pub fn explains(&self, fault: &Fault) -> bool {
        let events = self.commits || self.events.has(fault.session);
        match fault.class {
            Class::SeqGap | Class::GenesisMissing | Class::TailTruncated | Class::MissingSession => events,
            Class::Orphan => events || self.ledger,
            Class::NoSeal
            | Class::LedgerTail
            | Class::LedgerSeq
            | Class::EpochGap
            | Class::NoLedger
            | Class::Pending
            | Class::PendingLong => self.commits || self.ledger,
            Class::CommitGap => self.commits,
            Class::Index => events || self.derived,
            Class::Payload | Class::PayloadMissing => {
                fault.path.is_none() && (self.commits || self.content.has(fault.session))
            }
            // That its key signed no commit that was read.
            Class::Snapshot => self.commits,
            _ => false,
        }
    }
}

impl Of {
    fn add(&mut self, file: &DataFile) {
        match &file.entry.sessions {
            Some(sessions) => self.sessions.extend(sessions.iter().map(|range| range.session)),
            None => self.any = true,
        }
    }

    fn has(&self, session: Option<SessionId>) -> bool {
        self.any || session.is_some_and(|session| self.sessions.contains(&session))
    }
}
