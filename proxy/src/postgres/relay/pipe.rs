//! One direction of a session: bytes come in at the end, are walked in place, and leave at the front.
//!
//! ```text
//!   head        clear              tail
//!    | may leave  | not walked yet  | free
//! ```
//! Invariant: nothing leaves that was not passed, and everything passed leaves once, in order.

/// First size of a buffer.
const FIRST: usize = 16 << 10;
/// Size up to which a buffer grows for throughput; beyond it only for a frame that is held whole.
const FULL: usize = 256 << 10;

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    buf: Vec<u8>,
    head: usize,
    clear: usize,
    tail: usize,
    /// Bytes from `clear` on that the walker must see at once.
    wanted: usize,
    /// What is sent in place of the next `replaced` bytes, and how much of it has left.
    insert: Vec<u8>,
    inserted: usize,
    replaced: usize,
    replacing: bool,
    received: u64,
    sent: u64,
}

impl Pipe {
    /// A pipe that has received these bytes already.
    pub fn with(bytes: Vec<u8>) -> Self {
        let tail = bytes.len();
        Self { buf: bytes, tail, received: tail as u64, ..Self::default() }
    }

    /// Adds bytes that came in elsewhere.
    pub fn append(&mut self, bytes: &[u8]) {
        self.buf.truncate(self.tail);
        self.buf.extend_from_slice(bytes);
        self.tail = self.buf.len();
        self.received += bytes.len() as u64;
    }

    /// Bytes that came in and are not walked yet; none while a replacement waits to leave.
    pub fn unread(&self) -> &[u8] {
        if self.replacing { &[] } else { self.buf.get(self.clear..self.tail).unwrap_or_default() }
    }

    /// Lets the next `n` bytes leave as they are.
    pub fn pass(&mut self, n: usize) {
        self.clear = self.clear.saturating_add(n).min(self.tail);
        self.wanted = 0;
    }

    /// Sends `bytes` in place of the next `n` bytes.
    pub fn replace(&mut self, n: usize, bytes: Vec<u8>) {
        self.replacing = true;
        self.replaced = n.min(self.tail - self.clear);
        self.insert = bytes;
        self.inserted = 0;
        self.wanted = 0;
        self.settle();
    }

    /// The walker must see `n` bytes at once before it can go on.
    pub fn want(&mut self, n: usize) {
        self.wanted = n;
    }

    /// The next bytes to send.
    pub fn outgoing(&self) -> &[u8] {
        if self.head < self.clear {
            self.buf.get(self.head..self.clear).unwrap_or_default()
        } else if self.replacing {
            self.insert.get(self.inserted..).unwrap_or_default()
        } else {
            &[]
        }
    }

    /// `n` bytes of [`Pipe::outgoing`] have left.
    pub fn sent(&mut self, n: usize) {
        self.sent += n as u64;
        if self.head < self.clear {
            self.head += n;
        } else {
            self.inserted += n;
        }
        self.settle();
    }

    /// Room for more bytes; none while enough waits to be walked or to leave.
    pub fn room(&mut self) -> Option<&mut [u8]> {
        if self.head == self.tail {
            self.head = 0;
            self.clear = 0;
            self.tail = 0;
            if self.buf.len() > FULL {
                self.buf.truncate(FULL);
                self.buf.shrink_to_fit();
            }
        }
        let limit = FULL.max((self.clear - self.head) + self.wanted);
        if self.tail == self.buf.len() {
            if self.head > 0 {
                self.buf.copy_within(self.head..self.tail, 0);
                self.clear -= self.head;
                self.tail -= self.head;
                self.head = 0;
            }
            if self.tail == self.buf.len() && self.buf.len() < limit {
                let grown = (self.buf.len() * 2).clamp(FIRST, limit.max(FIRST));
                self.buf.resize(grown, 0);
            }
        }
        if self.tail >= self.buf.len() { None } else { self.buf.get_mut(self.tail..) }
    }

    /// `n` bytes came into [`Pipe::room`].
    pub fn filled(&mut self, n: usize) {
        self.tail = (self.tail + n).min(self.buf.len());
        self.received += n as u64;
    }

    /// Bytes that came in so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Bytes that left so far.
    pub fn departed(&self) -> u64 {
        self.sent
    }

    fn settle(&mut self) {
        if self.replacing && self.head == self.clear && self.inserted >= self.insert.len() {
            self.clear += self.replaced;
            self.head = self.clear;
            self.replacing = false;
            self.replaced = 0;
            self.insert = Vec::new();
            self.inserted = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fill(pipe: &mut Pipe, bytes: &[u8]) -> usize {
        let Some(room) = pipe.room() else { return 0 };
        let n = room.len().min(bytes.len());
        room[..n].copy_from_slice(&bytes[..n]);
        pipe.filled(n);
        n
    }

    #[test]
    fn a_frame_that_is_wanted_whole_makes_room_only_as_bytes_come() {
        let mut pipe = Pipe::default();
        pipe.want(1 << 20);
        fill(&mut pipe, &[1; 100]);
        assert_eq!(pipe.buf.len(), FIRST, "no room is made for bytes that are only announced");
        let all = vec![2; (1 << 20) - 100];
        let mut at = 0;
        while at < all.len() {
            let n = fill(&mut pipe, &all[at..]);
            assert!(n > 0, "room for the whole frame");
            at += n;
        }
        assert_eq!(pipe.unread().len(), 1 << 20);
        pipe.pass(1 << 20);
        assert!(pipe.room().is_none(), "no more comes in before it leaves");
        pipe.sent(1 << 20);
        assert_eq!(pipe.room().unwrap().len(), FULL, "and the room is given back");
    }

    proptest! {
        #[test]
        fn what_was_passed_leaves_once_in_order(
            steps in proptest::collection::vec((0usize..5, 1usize..40_000), 1..200),
        ) {
            let mut pipe = Pipe::default();
            let (mut next_in, mut expected, mut left) = (0u32, Vec::new(), Vec::new());
            for (step, n) in steps {
                match step {
                    0 | 1 => {
                        if let Some(room) = pipe.room() {
                            let n = n.min(room.len());
                            for b in room.iter_mut().take(n) {
                                *b = next_in as u8;
                                next_in += 1;
                            }
                            pipe.filled(n);
                        }
                    }
                    2 => {
                        let n = n.min(pipe.unread().len());
                        expected.extend_from_slice(&pipe.unread()[..n]);
                        pipe.pass(n);
                    }
                    3 => {
                        let n = n.min(pipe.unread().len());
                        if n > 0 {
                            expected.extend_from_slice(b"poison");
                            pipe.replace(n, b"poison".to_vec());
                        }
                    }
                    _ => {
                        let out = pipe.outgoing();
                        let n = n.min(out.len());
                        left.extend_from_slice(&out[..n]);
                        pipe.sent(n);
                    }
                }
                prop_assert!(expected.starts_with(&left));
            }
            while !pipe.outgoing().is_empty() {
                left.extend_from_slice(pipe.outgoing());
                let n = pipe.outgoing().len();
                pipe.sent(n);
            }
            prop_assert_eq!(left, expected);
        }
    }
}
