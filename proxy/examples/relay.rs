//! A plain framed byte relay for PostgreSQL: what any proxy that looks at messages must do, and nothing more.
//! The yardstick of the benchmarks: `relay LISTEN TARGET`, for example `relay 127.0.0.1:6433 127.0.0.1:5432`.
//!
//! It knows where every message ends in both directions and counts them, keeps both directions of a
//! connection on one task of one core, reads big and forwards what it read with one write. It authenticates
//! nobody, records nothing and understands no TLS.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bodycam_proxy::postgres::codec::backend::Backend;
use bodycam_proxy::postgres::codec::frontend::Frontend;
use bodycam_proxy::postgres::codec::{Direction, header, startup};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::LocalSet;

const BUFFER: usize = 256 << 10;

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(listen), Some(target)) = (args.next(), args.next()) else {
        return Err(io::Error::other("usage: relay LISTEN TARGET"));
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cores: Vec<_> = (0..cores).map(|_| core(target.clone())).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(&listen).await?;
        for core in cores.iter().cycle() {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            core.send(stream.into_std()?).map_err(io::Error::other)?;
        }
        Ok(())
    })
}

/// A thread that relays the connections it is given.
fn core(target: String) -> mpsc::UnboundedSender<std::net::TcpStream> {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, async {
            while let Some(client) = receiver.recv().await {
                let target = target.clone();
                tokio::task::spawn_local(async move {
                    let server = TcpStream::connect(target).await?;
                    server.set_nodelay(true)?;
                    relay(TcpStream::from_std(client)?, server).await
                });
            }
        });
        Ok::<(), io::Error>(())
    });
    sender
}

/// One direction.
struct Half<D> {
    buffer: Vec<u8>,
    /// Bytes that may leave, bytes whose frames are known, bytes that came in.
    head: usize,
    clear: usize,
    tail: usize,
    /// Bytes of the frame at `clear` that are still to come.
    owed: usize,
    started: bool,
    messages: u64,
    direction: std::marker::PhantomData<D>,
}

impl<D: Direction> Half<D> {
    fn new(started: bool) -> Self {
        let buffer = vec![0; BUFFER];
        Self {
            buffer,
            head: 0,
            clear: 0,
            tail: 0,
            owed: 0,
            started,
            messages: 0,
            direction: std::marker::PhantomData,
        }
    }

    /// Finds the frames in what came in.
    fn walk(&mut self) -> io::Result<()> {
        loop {
            let unread = self.buffer.get(self.clear..self.tail).unwrap_or_default();
            let part = self.owed.min(unread.len());
            self.clear += part;
            self.owed -= part;
            let rest = unread.get(part..).unwrap_or_default();
            if self.owed > 0 || rest.is_empty() {
                return Ok(());
            }
            if !self.started {
                match startup::packet(rest).map_err(io::Error::other)? {
                    None => return Ok(()),
                    Some((packet, length)) => {
                        self.started = matches!(packet, startup::Packet::Startup(_));
                        self.owed = length;
                    }
                }
                continue;
            }
            let Some(head) = header::<D>(rest).map_err(io::Error::other)? else { return Ok(()) };
            self.owed = head.frame();
            self.messages += 1;
        }
    }

    /// Writes and reads what is possible; says whether anything moved, none at the end of the stream.
    fn step(
        &mut self,
        from: &mut TcpStream,
        to: &mut TcpStream,
        cx: &mut Context<'_>,
    ) -> io::Result<Option<bool>> {
        let mut moved = false;
        while self.head < self.clear {
            let ready = self.buffer.get(self.head..self.clear).unwrap_or_default();
            match Pin::new(&mut *to).poll_write(cx, ready)? {
                Poll::Pending => break,
                Poll::Ready(n) => {
                    self.head += n;
                    moved = true;
                }
            }
        }
        if self.head == self.tail {
            (self.head, self.clear, self.tail) = (0, 0, 0);
        } else if self.tail == self.buffer.len() && self.head > 0 {
            self.buffer.copy_within(self.head..self.tail, 0);
            self.clear -= self.head;
            self.tail -= self.head;
            self.head = 0;
        }
        let Some(room) = self.buffer.get_mut(self.tail..).filter(|room| !room.is_empty()) else {
            return Ok(Some(moved));
        };
        let mut room = ReadBuf::new(room);
        if Pin::new(from).poll_read(cx, &mut room)?.is_ready() {
            match room.filled().len() {
                0 => return Ok(None),
                n => self.tail += n,
            }
            self.walk()?;
            moved = true;
        }
        Ok(Some(moved))
    }
}

async fn relay(mut client: TcpStream, mut server: TcpStream) -> io::Result<()> {
    let (mut up, mut down) = (Half::<Frontend>::new(false), Half::<Backend>::new(true));
    poll_fn(|cx| {
        loop {
            let (Some(sent), Some(answered)) =
                (up.step(&mut client, &mut server, cx)?, down.step(&mut server, &mut client, cx)?)
            else {
                return Poll::Ready(Ok(()));
            };
            if !sent && !answered {
                return Poll::Pending;
            }
        }
    })
    .await
}
