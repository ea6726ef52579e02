//! The answers that the target owes, in the order of the requests.
//!
//! Invariant: every message of the target either belongs to no request (notices, notifications, parameters)
//! or to the oldest entry here; when it fits neither, the accounting is wrong and the session ends.

use std::collections::VecDeque;
use std::rc::Rc;

use super::record::{Portal, Recorded, Statement};
use super::slots::Window;

/// Requests on their way beyond which no more are taken from the client until some are answered.
pub(super) const MAX_OWED: usize = 1 << 16;

/// An answer that is owed.
#[derive(Debug)]
pub(super) enum Owed {
    /// Query: results, then ReadyForQuery.
    Query(Running),
    /// FunctionCall: its result, then ReadyForQuery.
    Call(Running),
    /// Execute: rows, then its end.
    Execute(Running),
    /// Parse: ParseComplete.
    Parse {
        name: Box<[u8]>,
        statement: Rc<Statement>,
        refusal: Option<Box<Refusal>>,
    },
    /// Bind: BindComplete.
    Bind {
        name: Box<[u8]>,
        portal: Rc<Portal>,
        refusal: Option<Box<Refusal>>,
    },
    /// Describe of a statement: ParameterDescription, then RowDescription or NoData.
    DescribeStatement(Option<Rc<Statement>>),
    /// Our own Describe of a portal, right before its Execute: the client does not see the answer.
    OwnDescribe(Rc<Portal>),
    /// Describe of a portal: RowDescription or NoData.
    DescribePortal(Option<Rc<Portal>>),
    /// Close: CloseComplete.
    CloseStatement(Box<[u8]>),
    ClosePortal(Box<[u8]>),
    /// Sync: ReadyForQuery.
    Sync,
    /// A Sync sent while the target was, or may have been, reading COPY data: it ignores it then.
    MaybeSync,
}

impl Owed {
    /// What the request was.
    pub fn name(&self) -> &'static str {
        match self {
            Owed::Query(_) => "the answer to Query",
            Owed::Call(_) => "the answer to FunctionCall",
            Owed::Execute(_) => "the answer to Execute",
            Owed::Parse { .. } => "the answer to Parse",
            Owed::Bind { .. } => "the answer to Bind",
            Owed::DescribeStatement(_) | Owed::DescribePortal(_) | Owed::OwnDescribe(_) => {
                "the answer to Describe"
            }
            Owed::CloseStatement(_) | Owed::ClosePortal(_) => "the answer to Close",
            Owed::Sync | Owed::MaybeSync => "the answer to Sync",
        }
    }
}

/// A statement that runs.
#[derive(Debug)]
pub(super) struct Running {
    pub recorded: Rc<Recorded>,
    pub portal: Option<Rc<Portal>>,
    /// When it was sent on, monotonic ns.
    pub started_ns: i64,
    /// Whether it failed; only ReadyForQuery may follow.
    pub failed: bool,
    /// What the client is told in place of the target's error about the poison.
    pub refusal: Option<Box<Refusal>>,
}

impl Running {
    /// Whether another Execute of the portal goes on with the same statement.
    pub fn goes_on(&self) -> bool {
        self.portal.as_ref().is_some_and(|portal| Rc::ptr_eq(&portal.recorded, &self.recorded))
    }
}

/// A refusal that reaches the client through the target's own error, so that everything after it stays exact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub sqlstate: &'static str,
    pub message: String,
    pub hint: &'static str,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Answers {
    queue: VecDeque<Owed>,
    /// Requests ever sent.
    sent: u64,
    /// Requests sent up to the last one after which the target goes on whatever failed before.
    batch: u64,
    /// Syncs that were taken out right behind the oldest request.
    gap: u64,
    /// Whether the target skips everything until a Sync that was not sent yet.
    pub skipping: bool,
    /// Syncs that the target may have answered although they were taken for ignored.
    spare: u32,
}

impl Answers {
    /// A request was sent.
    pub fn push(&mut self, owed: Owed) {
        self.sent += 1;
        if matches!(owed, Owed::Query(_) | Owed::Call(_) | Owed::Sync | Owed::MaybeSync) {
            self.batch = self.sent;
        }
        self.queue.push_back(owed);
    }

    /// Where the requests stand.
    pub fn window(&self) -> Window {
        Window { oldest: self.sent - self.queue.len() as u64 - self.gap, batch: self.batch, next: self.sent }
    }

    /// Requests ever sent.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Number of requests without an answer.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether the target owes nothing.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The oldest request without an answer.
    pub fn front(&mut self) -> Option<&mut Owed> {
        self.queue.front_mut()
    }

    /// Whether the last request made this portal.
    pub fn just_bound(&self, portal: &Rc<Portal>) -> bool {
        match self.queue.back() {
            Some(Owed::Bind { portal: bound, .. }) => Rc::ptr_eq(bound, portal),
            _ => false,
        }
    }

    /// The statement whose answer is on its way.
    pub fn running(&self) -> Option<Rc<Recorded>> {
        match self.queue.front() {
            Some(Owed::Query(run) | Owed::Call(run) | Owed::Execute(run)) => Some(Rc::clone(&run.recorded)),
            _ => None,
        }
    }

    /// As [`Answers::front`], for an answer that no Sync has: Syncs that the target ignored go away.
    pub fn front_but_sync(&mut self) -> Option<&mut Owed> {
        while matches!(self.queue.front(), Some(Owed::MaybeSync)) {
            self.pop();
        }
        self.queue.front_mut()
    }

    /// The oldest request is answered.
    pub fn pop(&mut self) -> Option<Owed> {
        self.gap = 0;
        self.queue.pop_front()
    }

    /// ReadyForQuery arrived: gives the request that it ends; none when it fits nothing.
    pub fn ready(&mut self) -> Option<Owed> {
        match self.queue.front() {
            Some(Owed::Query(_) | Owed::Call(_) | Owed::Sync) => {
                self.spare = 0;
                self.pop()
            }
            Some(Owed::MaybeSync) => {
                let maybes = self.queue.iter().take_while(|o| matches!(o, Owed::MaybeSync)).count();
                if matches!(self.queue.get(maybes), Some(Owed::Sync)) {
                    // Either the target ignored them and answers the Sync behind, or it answers each.
                    self.spare += u32::try_from(maybes).unwrap_or(u32::MAX);
                    self.queue.drain(..maybes);
                }
                self.pop()
            }
            None if self.spare > 0 => {
                self.spare -= 1;
                Some(Owed::Sync)
            }
            _ => None,
        }
    }

    /// The target reads COPY data: Syncs sent before request number `until` may be ignored.
    pub fn copying(&mut self, until: u64) {
        let first = self.sent - self.queue.len() as u64;
        let before = usize::try_from(until.saturating_sub(first)).unwrap_or(usize::MAX);
        for owed in self.queue.iter_mut().take(before) {
            if matches!(owed, Owed::Sync) {
                *owed = Owed::MaybeSync;
            }
        }
    }

    /// The COPY at the front has ended well, so that the target did ignore the Syncs right behind it.
    pub fn copied(&mut self) {
        while matches!(self.queue.get(1), Some(Owed::MaybeSync)) {
            self.queue.remove(1);
            self.gap += 1;
        }
    }

    /// The next request that the target skips after an error; none when the Sync that ends it comes next, or
    /// was not sent yet.
    pub fn skip(&mut self) -> Option<Owed> {
        match self.queue.front() {
            Some(Owed::Sync | Owed::MaybeSync) => None,
            Some(_) => self.pop(),
            None => {
                self.skipping = true;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(answers: &Answers) -> Vec<&'static str> {
        let name = |o: &Owed| match o {
            Owed::Sync => "sync",
            Owed::MaybeSync => "maybe",
            _ => "other",
        };
        answers.queue.iter().map(name).collect()
    }

    fn queue(owed: Vec<Owed>) -> Answers {
        let mut answers = Answers::default();
        owed.into_iter().for_each(|o| answers.push(o));
        answers
    }

    fn describe() -> Owed {
        Owed::DescribeStatement(None)
    }

    #[test]
    fn an_error_skips_to_the_next_sync_wherever_it_is() {
        let mut answers = queue(vec![describe(), describe(), Owed::Sync, describe()]);
        assert!(answers.skip().is_some() && answers.skip().is_some() && answers.skip().is_none());
        assert_eq!(kinds(&answers), ["sync", "other"]);
        assert!(!answers.skipping);
        let mut answers = queue(vec![describe()]);
        assert!(answers.skip().is_some() && answers.skip().is_none());
        assert!(answers.skipping, "the Sync comes later");
    }

    #[test]
    fn syncs_sent_into_a_copy_are_forgotten_when_it_ends_well() {
        let mut answers = queue(vec![describe(), Owed::Sync]);
        answers.copying(u64::MAX);
        answers.push(Owed::Sync);
        answers.copied();
        assert_eq!(kinds(&answers), ["other", "sync"]);
    }

    #[test]
    fn syncs_sent_into_a_copy_that_fails_are_answered_once_or_each() {
        let mut answers = queue(vec![Owed::MaybeSync, Owed::Sync]);
        assert!(answers.ready().is_some());
        assert!(answers.is_empty());
        assert!(answers.ready().is_some(), "the target had answered the first, too");
        assert!(answers.ready().is_none());
    }

    #[test]
    fn an_answer_that_nobody_asked_for_fits_nothing() {
        assert!(Answers::default().ready().is_none());
        assert!(queue(vec![describe()]).ready().is_none());
    }
}
