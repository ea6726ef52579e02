//! The target's server processes that work for this gateway: those of recorded sessions, and its own.
//!
//! `bodycam doctor` compares them with what the target says is connected. Invariant: a process is listed from
//! before its client can send a statement until the connection to it is closed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bodycam_record::SessionId;
use serde::{Deserialize, Serialize};

/// One server process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveProcess {
    /// Name of the target.
    pub target: String,
    /// The server's process id, as `pg_stat_activity` has it.
    pub process: i32,
    /// Id of the recorded session; none for the gateway's own connection that reads the catalog.
    pub session: Option<String>,
}

/// The processes of all targets. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Live(Arc<Mutex<Processes>>);

#[derive(Debug, Default)]
struct Processes {
    next: u64,
    open: HashMap<u64, LiveProcess>,
}

/// Keeps a process listed.
#[derive(Debug)]
pub(super) struct Listed {
    live: Live,
    n: u64,
}

impl Live {
    /// Lists a process until the answer is dropped.
    pub fn list(&self, target: &str, process: i32, session: Option<SessionId>) -> Listed {
        let entry =
            LiveProcess { target: target.to_owned(), process, session: session.map(|s| s.to_string()) };
        let mut processes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let n = processes.next;
        processes.next += 1;
        processes.open.insert(n, entry);
        drop(processes);
        Listed { live: self.clone(), n }
    }

    /// Every process, by target and number.
    pub fn all(&self) -> Vec<LiveProcess> {
        let processes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = processes.open.values().cloned().collect();
        drop(processes);
        all.sort_by(|a, b| (&a.target, a.process).cmp(&(&b.target, b.process)));
        all
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.live.0.lock().unwrap_or_else(PoisonError::into_inner).open.remove(&self.n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_listed_as_long_as_its_connection_lives() {
        let live = Live::default();
        let session = SessionId::new(1, [2; 10]);
        let first = live.list("shop", 7, Some(session));
        // A pooler can give two connections the same number, or none.
        let second = live.list("shop", 7, None);
        assert_eq!(live.all().len(), 2);
        drop(first);
        assert_eq!(live.all(), [LiveProcess { target: "shop".to_owned(), process: 7, session: None }]);
        drop(second);
        assert!(live.all().is_empty());
    }
}
