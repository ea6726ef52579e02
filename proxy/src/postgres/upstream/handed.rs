//! A connection that is logged in already, for a client library that wants to log in by itself.
//!
//! Invariant: what the library says before its first query never reaches the target, and it hears the greeting
//! that the target has sent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Upstream;
use crate::postgres::codec::{backend, frame};
use crate::postgres::socket::Socket;

/// The connection.
pub(super) struct HandedOver {
    socket: Socket,
    /// What the library hears first.
    greeting: Vec<u8>,
    heard: usize,
    /// Its startup message, until it is whole.
    startup: Vec<u8>,
    started: bool,
}

impl HandedOver {
    pub fn new(upstream: Upstream) -> Self {
        let mut greeting = Vec::new();
        frame(&mut greeting, b'R', |out| out.extend_from_slice(&[0; 4]));
        greeting.extend_from_slice(&upstream.greeting);
        if upstream.key.len() == 4 {
            backend::put_key_data(&mut greeting, upstream.process, &upstream.key);
        }
        frame(&mut greeting, b'Z', |out| out.push(b'I'));
        greeting.extend_from_slice(&upstream.rest);
        Self { socket: upstream.socket, greeting, heard: 0, startup: Vec::new(), started: false }
    }
}

impl AsyncRead for HandedOver {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.greeting.get(self.heard..).unwrap_or_default();
        if left.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, buf);
        }
        let part = left.get(..buf.remaining()).unwrap_or(left);
        buf.put_slice(part);
        let n = part.len();
        self.heard += n;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HandedOver {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.started {
            return Pin::new(&mut self.socket).poll_write(cx, bytes);
        }
        let wanted = match self.startup.first_chunk::<4>() {
            Some(length) => usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX),
            None => 4,
        };
        let room = wanted.saturating_sub(self.startup.len());
        let part = bytes.get(..room).unwrap_or(bytes);
        self.startup.extend_from_slice(part);
        self.started = self.startup.len() > 4 && self.startup.len() >= wanted;
        Poll::Ready(Ok(part.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
