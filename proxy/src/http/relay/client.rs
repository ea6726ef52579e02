//! The client's side of a connection: heads in, answers out.

use std::io;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, timeout, timeout_at};

use bytes::Buf as _;

use super::answer::{Answer, Refused};
use super::session::Close;
use crate::http::Service;
use crate::http::codec::fields::Limits;
use crate::http::codec::head::{HeadError, RequestHead, request_scanner};
use crate::http::codec::source::Source;

/// The first byte of a TLS client.
const TLS_HANDSHAKE: u8 = 22;
/// How long, and how much, a client may still send after its last answer, so that it can read the answer
/// before the connection is reset.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;

/// A client.
pub(super) struct Client {
    /// What it sends.
    pub source: Source,
    /// What it gets.
    pub sink: Sink,
    /// Whether both pass encrypted.
    pub encrypted: bool,
}

/// A writer that counts, and that gives up on a reader who stands still.
pub(super) struct Sink {
    writer: Box<dyn AsyncWrite + Unpin>,
    stall: Duration,
    sent: u64,
}

/// How long a head is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Patience {
    /// Its last byte until then, whatever came before it.
    Until(Instant),
    /// Its first byte for `idle`, its last for `whole` after that.
    Each { idle: Duration, whole: Duration },
}

/// No head.
#[derive(Debug)]
pub(super) enum HeadFailure {
    /// It is refused.
    Refused(HeadError),
    /// Nothing came.
    Idle,
    /// It did not come whole in time.
    Slow,
    /// The connection ended in it.
    Cut,
}

impl Client {
    /// The client at the other end of `stream`, behind TLS when it begins like TLS and there is a certificate.
    /// The handshake must be over by `deadline`.
    pub async fn accept(stream: TcpStream, service: &Service, deadline: Instant) -> Option<Self> {
        // Latency matters more than packets; a socket without the option still works.
        let _ = stream.set_nodelay(true);
        let stall = Duration::from_secs(service.config.stall_seconds);
        if let Some(tls) = &service.tls {
            let mut first = [0];
            let peeked = timeout_at(deadline, stream.peek(&mut first)).await;
            if let Ok(Ok(1)) = peeked
                && first == [TLS_HANDSHAKE]
            {
                let stream = timeout_at(deadline, tls.accept(stream)).await.ok()?.ok()?;
                let (reader, writer) = tokio::io::split(stream);
                let (source, sink) = (Source::new(Box::new(reader)), Sink::new(Box::new(writer), stall));
                return Some(Self { source, sink, encrypted: true });
            }
            peeked.ok()?.ok()?;
        }
        let (reader, writer) = stream.into_split();
        let (source, sink) = (Source::new(Box::new(reader)), Sink::new(Box::new(writer), stall));
        Some(Self { source, sink, encrypted: false })
    }

    /// Reads a head: none when the client has closed instead. Safe to cancel.
    pub async fn read_head(
        &mut self,
        limits: Limits,
        patience: Patience,
    ) -> Result<Option<RequestHead>, HeadFailure> {
        let mut scanner = request_scanner();
        if self.source.buf.is_empty() {
            let first = match patience {
                Patience::Until(deadline) => deadline,
                Patience::Each { idle, .. } => Instant::now() + idle,
            };
            match timeout_at(first, self.source.fill()).await {
                Err(_) => return Err(HeadFailure::Idle),
                Ok(Ok(0) | Err(_)) => return Ok(None),
                Ok(Ok(_)) => {}
            }
        }
        let deadline = match patience {
            Patience::Until(deadline) => deadline,
            Patience::Each { whole, .. } => Instant::now() + whole,
        };
        loop {
            let head =
                RequestHead::read(&mut scanner, &self.source.buf, limits).map_err(HeadFailure::Refused)?;
            if let Some(head) = head {
                self.source.buf.advance(head.bytes);
                return Ok(Some(head));
            }
            match timeout_at(deadline, self.source.fill()).await {
                Err(_) => return Err(HeadFailure::Slow),
                Ok(Ok(0) | Err(_)) => return Err(HeadFailure::Cut),
                Ok(Ok(_)) => {}
            }
        }
    }

    /// Sends an answer of our own.
    pub async fn answer(&mut self, answer: &Answer, method: &str, keep: bool) -> io::Result<()> {
        self.sink.write(&answer.encode(method, keep)).await
    }

    /// Sends an answer of our own, and closes so that the client can read it.
    pub async fn answer_and_close(&mut self, answer: &Answer, method: &str) {
        if self.answer(answer, method, false).await.is_ok() {
            self.finish().await;
        }
    }

    /// Closes our side, then takes what the client still sends for a moment: unread bytes would reset the
    /// connection and throw away what it has not read yet.
    pub async fn finish(&mut self) {
        self.sink.shutdown().await;
        let _ = timeout(LINGER, async {
            let mut left = LINGER_BYTES;
            while let Ok(n @ 1..) = self.source.fill().await {
                self.source.buf.clear();
                left = left.saturating_sub(n);
                if left == 0 {
                    break;
                }
            }
        })
        .await;
    }
}

impl Sink {
    /// A sink whose reader may stand still for `stall`.
    pub fn new(writer: Box<dyn AsyncWrite + Unpin>, stall: Duration) -> Self {
        Self { writer, stall, sent: 0 }
    }

    /// Writes all of `bytes`, and hands them to the system.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut left = bytes;
        while !left.is_empty() {
            let n = timeout(self.stall, self.writer.write(left))
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.sent += n as u64;
            left = left.get(n..).unwrap_or_default();
        }
        // TLS takes up to 64 KiB that it has not sent: the reader would wait for them until the next write.
        timeout(self.stall, self.writer.flush())
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Says that nothing more comes.
    pub async fn shutdown(&mut self) {
        let _ = timeout(self.stall, self.writer.shutdown()).await;
    }

    /// Bytes written so far.
    pub fn bytes_sent(&self) -> u64 {
        self.sent
    }

    /// The bare writer, and the count that [`Sink::bytes_sent`] gives, for a pump that writes itself.
    pub fn parts(&mut self) -> (&mut Box<dyn AsyncWrite + Unpin>, &mut u64) {
        (&mut self.writer, &mut self.sent)
    }
}

impl HeadFailure {
    /// What the client is told; nothing when nobody listens.
    pub fn refused(&self) -> Option<Refused> {
        match self {
            HeadFailure::Refused(error) => Some((*error).into()),
            HeadFailure::Slow => {
                Some(Refused::new(408, "head-timeout", "the head did not come whole in time"))
            }
            HeadFailure::Idle | HeadFailure::Cut => None,
        }
    }

    /// Why the session ends.
    pub fn close(&self) -> Close {
        match self {
            HeadFailure::Refused(_) => Close::Protocol,
            HeadFailure::Idle | HeadFailure::Slow => Close::Timeout,
            HeadFailure::Cut => Close::Client,
        }
    }
}
