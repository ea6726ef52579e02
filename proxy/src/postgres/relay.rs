//! A connection from its first byte to its end. One task serves both directions: it reads big, walks what
//! came in, makes the record durable, and writes what was passed, as much at once as there is.
//!
//! Invariant: no byte that was walked leaves before [`SessionPen::persist`](crate::recording::SessionPen) has
//! returned for the walk that passed it; and when recording fails, both sides are closed.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::Service;
use super::codec::{backend, frontend};
use super::socket::Socket;
use crate::admission::Admission;
use crate::identity::RefusedLogin;
use crate::recording::Lane;
use crate::stop::{Stage, Stop, reached};

mod answers;
pub(super) mod cancel;
mod client;
mod copy;
mod end;
mod open;
mod pipe;
mod record;
mod server;
mod session;
mod slots;
pub(super) mod spill;
mod startup;

use client::Walked;
use end::End;
use open::Opened;
use pipe::Pipe;
use startup::Outcome;

/// How long a client may be silent in the middle of a message that is kept aside.
const HALF_SENT: Duration = Duration::from_secs(60);

/// How long the last bytes of a session may take to leave.
const LAST_BYTES: Duration = Duration::from_secs(2);

/// Serves a connection.
pub(super) async fn serve(
    service: &Service,
    stream: TcpStream,
    peer: SocketAddr,
    lane: &Lane,
    mut stop: Stop,
    admission: &Admission,
) {
    super::tune(&stream);
    let patience = Duration::from_secs(service.config.startup_timeout_seconds);
    let clock = lane.producer().clock().clone();
    let accepted = tokio::time::timeout(patience, startup::accept(service, stream, peer, || clock.wall_ns()));
    let accepted = tokio::select! {
        biased;
        () = reached(&mut stop, Stage::Draining) => return refused(lane, peer, "stopping"),
        accepted = accepted => accepted,
    };
    let client = match accepted {
        Ok(Outcome::Client(client)) => client,
        Ok(Outcome::Cancel { socket, process, key }) => {
            if let Some(session) = service.cancel_keys.find(process, &key) {
                session.cancel().await;
            }
            // The end of the connection tells the client that the target has been asked.
            return socket.farewell(b"").await;
        }
        Ok(Outcome::Refused(why)) => return refused(lane, peer, why),
        Ok(Outcome::TurnedAway(away)) => {
            refused(lane, peer, away.why);
            let login = RefusedLogin {
                protocol: "postgres",
                target: &away.target,
                peer: peer.ip().to_canonical(),
                client_tls: away.client_tls,
                principal: None,
                claimed: Some(&away.claimed),
                credential: None,
                reason: away.why,
                code: away.sqlstate.to_owned(),
                detail: &away.message,
                limit: None,
            };
            service.refusals.record(lane, login).await;
            return away.tell().await;
        }
        Err(_) => return refused(lane, peer, "startup-timeout"),
    };
    admission.logged_in();
    let opened = tokio::select! {
        biased;
        () = reached(&mut stop, Stage::Cutting) => return refused(lane, peer, "stopping"),
        opened = open::open(service, client, peer, lane) => opened,
    };
    match opened {
        Ok(None) => {}
        Ok(Some(opened)) => Relay::new(service, opened, stop).run().await,
        Err(error) => {
            tracing::error!(event = "session_not_opened", error = %error, "a client is turned away");
        }
    }
}

fn refused(lane: &Lane, peer: SocketAddr, why: &'static str) {
    lane.producer().counters().refused.fetch_add(1, Ordering::Relaxed);
    tracing::info!(event = "client_refused", address = %peer.ip(), why, "a client did not log in");
}

/// A running session.
struct Relay<'a> {
    service: &'a Service,
    opened: Opened,
    /// What is known of the sockets.
    client_ended: bool,
    server_ended: bool,
    /// Whether the target was told that the client sends no more.
    server_told: bool,
    /// Whether writing to the target has failed: its last words are still read.
    server_deaf: bool,
    client_unflushed: bool,
    server_unflushed: bool,
    more: bool,
    /// How much of what may leave for the client is recorded and ends with a whole message, when that is known.
    recorded: Option<usize>,
    sleep: Pin<Box<Sleep>>,
    /// Ends with the next stage of the gateway's stop.
    stopping: Pin<Box<dyn Future<Output = Stop>>>,
}

/// Gives the stop back when it has come to `stage`.
async fn wait_for(mut stop: Stop, stage: Stage) -> Stop {
    reached(&mut stop, stage).await;
    stop
}

/// What woke the relay.
enum Woken {
    /// Bytes moved.
    Moved,
    /// A look at the clock is due.
    Tick,
    /// The gateway stops.
    Draining,
    /// The gateway waits no longer.
    Cutting,
}

/// What the relay looks at from time to time.
struct Watch {
    recheck: Instant,
    every: Duration,
    last_heard: Instant,
    heard: u64,
    /// Since when the client has sent nothing, as far as was looked, and how much it had sent then.
    silent_since: Instant,
    silent_at: u64,
    idle: Option<Duration>,
    drain_until: Option<Instant>,
}

impl<'a> Relay<'a> {
    fn new(service: &'a Service, opened: Opened, stop: Stop) -> Self {
        Self {
            service,
            opened,
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            stopping: Box::pin(wait_for(stop, Stage::Draining)),
            client_ended: false,
            server_ended: false,
            server_told: false,
            server_deaf: false,
            client_unflushed: false,
            server_unflushed: false,
            more: true,
            recorded: None,
        }
    }

    async fn run(mut self) {
        let end = match self.relay().await {
            Ok(end) | Err(end) => end,
        };
        self.finish(end).await;
    }

    /// Moves bytes until the session ends.
    async fn relay(&mut self) -> Result<End, End> {
        let every = Duration::from_secs(self.service.config.recheck_seconds);
        let mut watch = Watch {
            recheck: Instant::now() + every,
            every,
            last_heard: Instant::now(),
            heard: 0,
            silent_since: Instant::now(),
            silent_at: 0,
            idle: self.service.config.idle_timeout_seconds.map(Duration::from_secs),
            drain_until: None,
        };
        loop {
            let Opened { session, up, down, .. } = &mut self.opened;
            self.recorded = session.at_boundary().then(|| down.outgoing().len());
            let client = session.walk_client(up).await?;
            let target = session.walk_target(down)?;
            if session.dirty {
                session.pen.persist().await?;
                session.dirty = false;
            }
            let answered = session.waits_since.is_some() && !session.waits();
            self.more = client == Walked::More || target == Walked::More || answered;
            if self.more {
                // Others on this core get their turn every 256 KiB.
                tokio::task::yield_now().await;
            }
            if self.server_ended && self.opened.down.outgoing().is_empty() {
                return Ok(self.left());
            }
            match self.wait(&watch).await? {
                Woken::Moved => {}
                Woken::Tick => {
                    self.look(&mut watch)?;
                    self.sleep.as_mut().reset(watch.next());
                }
                Woken::Draining => {
                    let patience = Duration::from_secs(self.service.config.drain_seconds);
                    watch.drain_until = Some(Instant::now() + patience);
                    self.sleep.as_mut().reset(watch.next());
                }
                Woken::Cutting => return Err(End::Drain),
            }
            if let Some(until) = watch.drain_until
                && (self.opened.session.is_idle() || Instant::now() >= until)
            {
                return Err(End::Drain);
            }
        }
    }

    /// Who left, and whether in the middle of a message.
    fn left(&self) -> End {
        let Opened { session, up, down, .. } = &self.opened;
        if !session.at_boundary() || !down.unread().is_empty() {
            return End::Truncated { from: "target" };
        }
        match self.client_ended || session.terminated {
            true if session.terminated || session.waits_since.is_some() => End::Client,
            true if up.unread().is_empty() && session.is_between_messages() => End::Client,
            true => End::Truncated { from: "client" },
            false => End::Server,
        }
    }

    /// Waits until bytes can move and moves them, or until something else wants attention.
    async fn wait(&mut self, watch: &Watch) -> Result<Woken, End> {
        poll_fn(|cx| {
            // The timers come first: bytes that never stop must not starve them.
            if let Poll::Ready(stop) = self.stopping.as_mut().poll(cx) {
                let draining = watch.drain_until.is_none();
                self.stopping = Box::pin(wait_for(stop, Stage::Cutting));
                return Poll::Ready(Ok(if draining { Woken::Draining } else { Woken::Cutting }));
            }
            if self.sleep.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(Woken::Tick));
            }
            match self.poll_move(cx)? || self.more {
                true => Poll::Ready(Ok(Woken::Moved)),
                false => Poll::Pending,
            }
        })
        .await
    }

    /// Writes what may leave, reads what fits; says whether anything moved.
    fn poll_move(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut moved = false;
        let Opened { client, server, up, down, session, .. } = &mut self.opened;
        if !self.server_deaf {
            match push(server, up, &mut self.server_unflushed, cx) {
                Ok(sent) => moved |= sent,
                Err(_) => self.server_deaf = true,
            }
        }
        if self.server_deaf && !up.outgoing().is_empty() {
            let n = up.outgoing().len();
            up.sent(n);
            moved = true;
        }
        match push(client, down, &mut self.client_unflushed, cx) {
            Ok(sent) => moved |= sent,
            Err(_) => return Err(End::Client),
        }
        if !self.client_ended {
            match pull(client, up, cx) {
                Ok(Pulled::Bytes) => moved = true,
                Ok(Pulled::Nothing) => {}
                Ok(Pulled::End) | Err(_) => {
                    self.client_ended = true;
                    moved = true;
                }
            }
        }
        if !self.server_ended {
            match pull(server, down, cx) {
                Ok(Pulled::Bytes) => moved = true,
                Ok(Pulled::Nothing) => {}
                Ok(Pulled::End) | Err(_) => {
                    self.server_ended = true;
                    moved = true;
                }
            }
        }
        let all_walked = session.waits_since.is_none();
        if self.client_ended && !self.server_told && up.outgoing().is_empty() && all_walked {
            // What the client has sent is with the target; it may finish it and then close.
            match Pin::new(&mut *server).poll_shutdown(cx) {
                Poll::Pending => {}
                Poll::Ready(_) => self.server_told = true,
            }
        }
        Ok(moved)
    }

    /// What is looked at once in a while.
    fn look(&mut self, watch: &mut Watch) -> Result<(), End> {
        let now = Instant::now();
        let heard = self.opened.up.received();
        let session = &mut self.opened.session;
        if heard != watch.heard || !session.is_quiet() {
            watch.heard = heard;
            watch.last_heard = now;
        }
        if heard != watch.silent_at || !session.spills() {
            (watch.silent_at, watch.silent_since) = (heard, now);
        } else if now.duration_since(watch.silent_since) >= HALF_SENT {
            return Err(End::Idle { seconds: HALF_SENT.as_secs() });
        }
        if let Some(idle) = watch.idle
            && session.is_idle()
            && now.duration_since(watch.last_heard) >= idle
        {
            return Err(End::Idle { seconds: idle.as_secs() });
        }
        if now >= watch.recheck {
            watch.recheck = now + watch.every;
            let wall = session.pen.lane().producer().clock().wall_ns();
            session.still_valid(&self.service.directory, wall).map_err(End::Identity)?;
            session.pen.tick()?;
            session.dirty = true;
        }
        Ok(())
    }

    /// Records the end, tells both sides, seals the session.
    async fn finish(self, end: End) {
        let Opened { mut client, mut server, up, mut down, mut session, cancel_key, cancel, slot, listed } =
            self.opened;
        let reason = end.reason();
        let left = matches!(end, End::Client | End::Server);
        // The target must not go on with what nobody records any more, however long recording the end takes.
        if !session.is_quiet() && !left {
            let _ = tokio::time::timeout(LAST_BYTES, cancel.cancel()).await;
        }
        drop(cancel_key);
        let recorded = async {
            session.conclude()?;
            session.explain(&end)?;
            session.pen.persist().await
        };
        // The session's pen holds once: when recording has failed before, this is one more try.
        let failed = match recorded.await {
            Ok(()) => false,
            Err(error) => {
                tracing::error!(event = "end_not_recorded", session = %session.pen.session(), error = %error, "the session is closed all the same");
                true
            }
        };
        if let End::Recording(error) = &end {
            tracing::error!(event = "session_not_recorded", session = %session.pen.session(), error = %error, "closing both sides");
        }
        if !left {
            tracing::info!(event = "session_closed", session = %session.pen.session(), reason, end = ?end, "the gateway closed a session");
        }
        // What was recorded and passed belongs to the client; what was not never leaves.
        let (due, farewell) = match failed || matches!(end, End::Recording(_)) {
            true => (self.recorded, End::unrecorded()),
            false => (session.at_boundary().then_some(usize::MAX), end.farewell()),
        };
        match (due, farewell) {
            (Some(mut due), Some((sqlstate, message, hint))) if !left => {
                let mut last = Vec::new();
                backend::put_error(&mut last, "FATAL", sqlstate, &message, hint);
                let sent = async {
                    while due > 0 && !down.outgoing().is_empty() {
                        let out = down.outgoing();
                        let out = out.get(..due).unwrap_or(out);
                        let sent = poll_fn(|cx| Pin::new(&mut client).poll_write(cx, out)).await?;
                        down.sent(sent);
                        due -= sent;
                    }
                    Ok::<(), io::Error>(())
                };
                if let Ok(Ok(())) = tokio::time::timeout(LAST_BYTES, sent).await {
                    client.farewell(&last).await;
                }
            }
            _ if matches!(end, End::Client) => {}
            _ => {
                let _ = tokio::time::timeout(LAST_BYTES, poll_fn(|cx| poll_shutdown(&mut client, cx))).await;
            }
        }
        let mut goodbye = Vec::new();
        if up.outgoing().is_empty() && session.at_client_boundary() {
            frontend::put_terminate(&mut goodbye);
        }
        let _ = tokio::time::timeout(LAST_BYTES, server.send(&goodbye)).await;
        drop(server);
        let as_count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        session.pen.totals().bytes_in = as_count(up.received());
        session.pen.totals().bytes_out = as_count(down.departed());
        if let Err(error) = session.into_pen().close(reason).await {
            tracing::error!(event = "session_not_sealed", error = %error, "sealed when the spool takes records again; a process that ends before leaves that to the next start");
        }
        drop((slot, listed));
    }
}

impl Watch {
    /// When to look again.
    fn next(&self) -> Instant {
        let idle = self.idle.map(|idle| self.last_heard + idle);
        let soon = Instant::now() + Duration::from_millis(10);
        [idle, self.drain_until].into_iter().flatten().fold(self.recheck, Instant::min).max(soon)
    }
}

enum Pulled {
    Bytes,
    Nothing,
    End,
}

/// Writes what may leave; says whether anything did.
fn push(
    socket: &mut Socket,
    pipe: &mut Pipe,
    unflushed: &mut bool,
    cx: &mut Context<'_>,
) -> io::Result<bool> {
    let mut moved = false;
    while !pipe.outgoing().is_empty() {
        match Pin::new(&mut *socket).poll_write(cx, pipe.outgoing()) {
            Poll::Pending => break,
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(n)) => {
                pipe.sent(n);
                moved = true;
                *unflushed = socket.is_tls();
            }
            Poll::Ready(Err(error)) => return Err(error),
        }
    }
    if *unflushed && Pin::new(socket).poll_flush(cx)?.is_ready() {
        *unflushed = false;
    }
    Ok(moved)
}

/// Reads what fits.
fn pull(socket: &mut Socket, pipe: &mut Pipe, cx: &mut Context<'_>) -> io::Result<Pulled> {
    let Some(room) = pipe.room() else { return Ok(Pulled::Nothing) };
    let mut buf = ReadBuf::new(room);
    match Pin::new(socket).poll_read(cx, &mut buf) {
        Poll::Pending => Ok(Pulled::Nothing),
        Poll::Ready(Err(error)) => Err(error),
        Poll::Ready(Ok(())) => match buf.filled().len() {
            0 => Ok(Pulled::End),
            n => {
                pipe.filled(n);
                Ok(Pulled::Bytes)
            }
        },
    }
}

fn poll_shutdown(socket: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    Pin::new(socket).poll_shutdown(cx)
}
