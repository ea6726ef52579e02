//! A TCP connection, in clear or under TLS, and the buffered reader that handshakes use.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

use super::codec::{self, Direction, FrameError, Header};

/// How long a goodbye may take, and how much is read for it.
const FAREWELL: Duration = Duration::from_secs(1);
const FAREWELL_BYTES: usize = 1 << 20;

/// A connection to a client or a target.
pub(super) enum Socket {
    Plain(TcpStream),
    TlsServer(Box<server::TlsStream<TcpStream>>),
    TlsClient(Box<client::TlsStream<TcpStream>>),
}

impl Socket {
    /// Whether it is encrypted.
    pub fn is_tls(&self) -> bool {
        !matches!(self, Socket::Plain(_))
    }

    /// Writes all of `bytes` and sends them.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes).await?;
        self.flush().await
    }

    /// Appends at most 4 KiB to `buf`; 0 at the end of the stream.
    async fn receive(&mut self, buf: &mut Vec<u8>) -> io::Result<usize> {
        let mut chunk = [0; 4096];
        let n = self.read(&mut chunk).await?;
        buf.extend_from_slice(chunk.get(..n).unwrap_or_default());
        Ok(n)
    }

    /// Says goodbye: sends `bytes`, ends the stream, and reads what is still on its way, so that closing does
    /// not destroy the last message before the peer has read it.
    pub async fn farewell(mut self, bytes: &[u8]) {
        let goodbye = async {
            if self.send(bytes).await.is_ok() && self.shutdown().await.is_ok() {
                let (mut sink, mut read) = (Vec::new(), 0);
                while read < FAREWELL_BYTES && matches!(self.receive(&mut sink).await, Ok(n) if n > 0) {
                    read += sink.len();
                    sink.clear();
                }
            }
        };
        // A peer that does not read or never closes is left alone.
        let _ = tokio::time::timeout(FAREWELL, goodbye).await;
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Socket::TlsServer(tls) => Pin::new(tls).poll_read(cx, buf),
            Socket::TlsClient(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Socket::TlsServer(tls) => Pin::new(tls).poll_write(cx, bytes),
            Socket::TlsClient(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Socket::TlsServer(tls) => Pin::new(tls).poll_flush(cx),
            Socket::TlsClient(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Socket::TlsServer(tls) => Pin::new(tls).poll_shutdown(cx),
            Socket::TlsClient(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

/// Bytes that arrived during a handshake and were not used yet.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
}

/// Why a handshake got no message.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("the connection ended")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
}

impl Inbox {
    /// An inbox that holds these bytes.
    pub fn with(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// Whether nothing is left over.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What is left over.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Reads until `take` finds a message at the start and says how long it is. `take` refuses what is too
    /// long, which bounds what is held.
    pub async fn read<T>(
        &mut self,
        socket: &mut Socket,
        mut take: impl FnMut(&[u8]) -> Result<Option<(T, usize)>, FrameError>,
    ) -> Result<T, ReadError> {
        loop {
            if let Some((message, length)) = take(&self.bytes)? {
                self.bytes.drain(..length.min(self.bytes.len()));
                return Ok(message);
            }
            if socket.receive(&mut self.bytes).await? == 0 {
                return Err(ReadError::Closed);
            }
        }
    }

    /// Reads a whole frame whose body is at most `limit` bytes.
    pub async fn frame<D: Direction>(
        &mut self,
        socket: &mut Socket,
        limit: usize,
    ) -> Result<(D::Kind, Vec<u8>), ReadError> {
        self.read(socket, |bytes| whole::<D>(bytes, limit)).await
    }
}

type Whole<K> = Option<((K, Vec<u8>), usize)>;

fn whole<D: Direction>(bytes: &[u8], limit: usize) -> Result<Whole<D::Kind>, FrameError> {
    let Some(header) = codec::header::<D>(bytes)? else { return Ok(None) };
    let Header { kind, body } = header;
    if body > limit {
        let tag = bytes.first().copied().unwrap_or_default();
        return Err(FrameError::Length {
            from: D::FROM,
            tag,
            length: i64::try_from(body + 4).unwrap_or(i64::MAX),
            most: limit + 4,
        });
    }
    Ok(bytes.get(codec::HEADER..header.frame()).map(|b| ((kind, b.to_vec()), header.frame())))
}
