//! Bytes as they arrive on one side of a connection.
//!
//! Invariant: an idle source holds no buffer beyond the bytes that wait to be read, so that ten thousand idle
//! connections cost almost nothing; every method is safe to cancel.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

/// The reading half of a connection.
pub type Reader = Box<dyn AsyncRead + Unpin>;

/// Most bytes taken from the system at once.
pub const READ: usize = 64 << 10;

thread_local! {
    /// Where reads of all connections of this core land; used within one poll only.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

/// A reader and the bytes that were read too far.
pub struct Source {
    reader: Reader,
    /// Bytes that wait.
    pub buf: BytesMut,
    read: u64,
}

impl Source {
    /// A source without waiting bytes.
    pub fn new(reader: Reader) -> Self {
        Self { reader, buf: BytesMut::new(), read: 0 }
    }

    /// Bytes read from the connection so far.
    pub fn bytes_read(&self) -> u64 {
        self.read
    }

    /// Reads some more bytes behind those that wait; 0 is the end.
    pub async fn fill(&mut self) -> io::Result<usize> {
        if self.buf.is_empty() {
            self.buf = BytesMut::new();
        }
        let n = std::future::poll_fn(|cx| {
            poll_scratch(&mut self.reader, cx, |_, bytes| {
                self.buf.extend_from_slice(bytes);
                bytes.len()
            })
        })
        .await?;
        self.read += n as u64;
        Ok(n)
    }

    /// The bare reader, and the count that [`Source::bytes_read`] gives, for a pump that reads itself.
    pub fn parts(&mut self) -> (&mut Reader, &mut u64) {
        (&mut self.reader, &mut self.read)
    }
}

/// Reads into this core's scratch buffer and hands over what came.
pub fn poll_scratch<T>(
    reader: &mut Reader,
    cx: &mut Context<'_>,
    take: impl FnOnce(&mut Context<'_>, &[u8]) -> T,
) -> Poll<io::Result<T>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buf = ReadBuf::new(scratch);
        ready!(Pin::new(reader).poll_read(cx, &mut buf))?;
        Poll::Ready(Ok(take(cx, buf.filled())))
    })
}
