//! A CONNECT tunnel: a look at the ClientHello, then bytes both ways.
//!
//! A tunnel carries TLS that names in clear the host it was opened to: anything else would go past the record
//! of requests, or to another host behind the same address. Only a rule with `opaque:` opens it for the rest.
//! Invariant: the opening is in the spool before the client hears 200, no byte passes either way before the
//! client's first bytes are judged, and the closing is in the spool before the connection ends. A tunnel holds
//! no buffer while nothing moves.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bodycam_record::ContentKind;
use bodycam_record::kinds::gap::Gap;
use bodycam_record::kinds::http::{HttpTunnelClosed, HttpTunnelOpened};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant, sleep_until, timeout_at};

use super::answer::{Answer, Refused};
use super::client::Client;
use super::reach::Reached;
use super::session::{Close, Session, int};
use super::{refuse_head, respond};
use crate::http::codec::authority::{Authority, Host};
use crate::http::codec::head::RequestHead;
use crate::http::codec::source::{Reader, Source, poll_scratch};
use crate::http::codec::target::authority_form;
use crate::http::codec::tls_client_hello::{ClientHello, HelloReader, Sniffed};
use crate::http::inspect;
use crate::stop::{Stage, Stop, reached};

/// After so many bytes in one go the other connections of the core get their turn.
const TURN: usize = 256 << 10;

/// A tunnel in which nothing has moved for so long is not waited for when the gateway stops.
const QUIET: Duration = Duration::from_secs(1);

/// A fatal TLS alert, access_denied: a client shows it, where a bare close looks like a broken network.
const ACCESS_DENIED: [u8; 7] = [21, 3, 1, 0, 2, 2, 49];

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

type Writer = Box<dyn AsyncWrite + Unpin>;

/// What passes, and who ended it.
struct Flow {
    out: Cell<u64>,
    back: Cell<u64>,
    active: Cell<Instant>,
    ended_by: Cell<Option<Close>>,
    sniffed: RefCell<Option<Sniffed>>,
    first: Cell<FirstBytes>,
}

/// What a client's first bytes are, as far as anybody can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FirstBytes {
    None,
    Tls,
    Http,
    Http2,
    Ssh,
    Other,
}

/// Why a tunnel was cut.
enum Cut {
    Client,
    Server,
    Idle,
    Drain,
    Refused(Refused),
}

/// How a tunnel ended.
struct End {
    close: Close,
    refused: Option<Refused>,
}

/// Judges, records, opens, and records the end. True when it was refused and the connection goes on.
pub(super) async fn tunnel(
    session: &mut Session<'_>,
    client: &mut Client,
    head: &RequestHead,
) -> Result<bool, Close> {
    let to = match authority_form(&head.target, head.fields.all("host").next()) {
        Ok(to) => to,
        Err(error) => return refuse_head(session, client, head, error.into()).await,
    };
    let started_us = session.mono_us();
    let mut opened = HttpTunnelOpened {
        request_no: session.next_request(),
        verdict: "allow".to_owned(),
        refusal: None,
        host: to.host.to_string(),
        port: i64::from(to.port),
        address: None,
        address_class: None,
        correlation: session.correlation(),
    };
    let reached = session.reach(&to).await?;
    let (address, refused) = match &reached {
        Reached::Connected(dialed) => (Some((dialed.address, dialed.class)), None),
        Reached::Denied(refused) => (refused.address, Some(refused)),
        Reached::Failed(refused) => (None, Some(refused)),
        Reached::Cut(_) => (None, None),
    };
    opened.address = address.map(|(address, _)| address.to_string());
    opened.address_class = address.map(|(_, class)| class.name().to_owned());
    let refusal = match &reached {
        Reached::Denied(refused) => Some(refused.code),
        Reached::Cut(close) => Some(close.outcome()),
        Reached::Connected(_) | Reached::Failed(_) => None,
    };
    if let Some(refusal) = refusal {
        opened.verdict = "deny".to_owned();
        opened.refusal = Some(refusal.to_owned());
    }
    session.count(&opened.verdict);
    let content = session.request_content(head, to.to_string().as_bytes(), refused)?;
    let parent = session.record(opened.clone().into(), None, Some(content))?;
    session.persist().await?;

    let flow = Flow::new();
    let end = match reached {
        Reached::Denied(refused) => return respond(client, &Answer::refusal(&refused), head, true).await,
        Reached::Cut(close) => return Err(close),
        Reached::Failed(refused) => {
            let close = if refused.status == 504 { Close::Timeout } else { Close::Server };
            let end = End { close, refused: Some(refused) };
            record_end(session, &opened, &flow, &end, parent, started_us).await?;
            let Some(refused) = end.refused else { return Err(close) };
            return respond(client, &Answer::refusal(&refused), head, true).await;
        }
        Reached::Connected(dialed) => {
            let (reader, writer) = dialed.stream.into_split();
            carry(session, client, &to, (Box::new(reader), Box::new(writer)), &flow).await
        }
    };
    session.left();
    if end.close == Close::Spool {
        return Err(end.close);
    }
    if let Some(refused) = &end.refused {
        session.decide_in("tunnel", refused, None, Some(parent))?;
    }
    record_end(session, &opened, &flow, &end, parent, started_us).await?;
    if let Some(refused) = &end.refused {
        // Told in the language that the client speaks; who speaks another one sees the end of the connection.
        match flow.first.get() {
            FirstBytes::Tls => drop(session.guarded(client.sink.write(&ACCESS_DENIED)).await?),
            FirstBytes::Http => drop(client.answer(&Answer::refusal(refused), "GET", false).await),
            FirstBytes::None | FirstBytes::Http2 | FirstBytes::Ssh | FirstBytes::Other => {}
        }
        client.finish().await;
    }
    client.sink.shutdown().await;
    Err(end.close)
}

/// Records what passed unseen, and that the tunnel is closed.
async fn record_end(
    session: &mut Session<'_>,
    opened: &HttpTunnelOpened,
    flow: &Flow,
    end: &End,
    parent: i64,
    started_us: i64,
) -> Result<(), Close> {
    let (out, back) = (int(flow.out.get()), int(flow.back.get()));
    if out + back > 0 {
        let gap = Gap { reason: "opaque-tunnel".to_owned(), dropped_events: 0, opaque_bytes: out + back };
        session.record(gap.into(), Some(parent), None)?;
    }
    let sniffed = flow.sniffed.borrow().clone();
    let (tls, hello) = match sniffed {
        Some(Sniffed::Hello(hello)) => (true, hello),
        Some(Sniffed::Malformed) => (true, ClientHello::default()),
        Some(Sniffed::NotTls | Sniffed::NeedMore) | None => (false, ClientHello::default()),
    };
    let mut content = session.pen().content();
    let detail = detail(flow.first.get(), &hello, end.refused.as_ref());
    session.put_pairs(&mut content, ContentKind::Detail, &detail)?;
    let closed = HttpTunnelClosed {
        request_no: opened.request_no,
        verdict: opened.verdict.clone(),
        host: opened.host.clone(),
        port: opened.port,
        outcome: match &end.refused {
            Some(refused) if refused.status < 500 => "refused",
            _ => end.close.outcome(),
        }
        .to_owned(),
        bytes_out: out,
        bytes_in: back,
        tls,
        sni: hello.server_name.as_deref().and_then(inspect::server_name),
        alpn: inspect::protocols(&hello.alpn),
        duration_us: session.mono_us() - started_us,
        correlation: opened.correlation,
    };
    session.record(closed.into(), Some(parent), Some(content))?;
    session.persist().await
}

/// What a hello says beside the closed lists.
fn detail(first: FirstBytes, hello: &ClientHello, refused: Option<&Refused>) -> Vec<(String, Vec<u8>)> {
    let mut pairs = vec![("first_bytes".to_owned(), first.name().as_bytes().to_vec())];
    if let Some(name) = &hello.server_name {
        pairs.push(("server_name".to_owned(), name.clone()));
    }
    for protocol in &hello.alpn {
        pairs.push(("alpn".to_owned(), protocol.clone()));
    }
    if hello.encrypted {
        pairs.push(("encrypted_client_hello".to_owned(), b"offered".to_vec()));
    }
    if let Some(refused) = refused {
        pairs.push((refused.code.to_owned(), refused.detail.clone().into_bytes()));
    }
    pairs
}

/// Relays until both sides have ended, one side fails, or nothing has moved for too long.
async fn carry(
    session: &mut Session<'_>,
    client: &mut Client,
    to: &Authority,
    (mut from_server, mut to_server): (Reader, Writer),
    flow: &Flow,
) -> End {
    let end = |close| End { close, refused: None };
    match session.guarded(client.sink.write(ESTABLISHED)).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return end(Close::Client),
        Err(close) => return end(close),
    }
    let idle = Duration::from_secs(session.service.config.tunnel_idle_seconds);
    session.opaque = session.hosts.allow_opaque(to);
    let (opaque, stop) = (session.opaque, session.stop());
    let patience = Duration::from_secs(session.service.config.head_seconds);
    let Client { source, sink, .. } = client;
    // Without such a rule the target is not heard before the client was.
    let (approve, approved) = oneshot::channel();
    let outward = async {
        match opaque {
            true => {
                let _ = approve.send(());
                any_first_flight(source, &mut to_server, flow).await?;
            }
            false => {
                first_flight(source, &mut to_server, to, Instant::now() + patience, flow).await?;
                let _ = approve.send(());
            }
        }
        let (reader, read) = source.parts();
        let passed = |n: usize| {
            *read += n as u64;
            flow.passed(&flow.out, n);
        };
        pump(reader, &mut to_server, passed).await.map_err(|e| e.cut(Cut::Client, Cut::Server))?;
        if flow.side_ends(Close::Client) {
            let _ = to_server.shutdown().await;
        }
        Ok(())
    };
    let back = async {
        if approved.await.is_err() {
            return Ok(());
        }
        let (writer, sent) = sink.parts();
        let passed = |n: usize| {
            *sent += n as u64;
            flow.passed(&flow.back, n);
        };
        pump(&mut from_server, writer, passed).await.map_err(|e| e.cut(Cut::Server, Cut::Client))?;
        if flow.side_ends(Close::Server) {
            let _ = writer.shutdown().await;
        }
        Ok(())
    };
    let both = session.guarded(async {
        tokio::select! {
            ended = async { tokio::try_join!(outward, back) } => ended.map(|_| ()),
            cut = flow.idles(idle, stop) => Err(cut),
        }
    });
    match both.await {
        Ok(Ok(())) => end(flow.ended_by.get().unwrap_or(Close::Client)),
        Ok(Err(Cut::Client)) => end(Close::Client),
        Ok(Err(Cut::Server)) => end(Close::Server),
        Ok(Err(Cut::Idle)) => end(Close::Timeout),
        Ok(Err(Cut::Drain)) => end(Close::Drain),
        Ok(Err(Cut::Refused(refused))) => End { close: Close::Protocol, refused: Some(refused) },
        Err(close) => end(close),
    }
}

impl Flow {
    fn new() -> Self {
        Self {
            out: Cell::new(0),
            back: Cell::new(0),
            active: Cell::new(Instant::now()),
            ended_by: Cell::new(None),
            sniffed: RefCell::new(None),
            first: Cell::new(FirstBytes::None),
        }
    }

    fn passed(&self, count: &Cell<u64>, n: usize) {
        count.set(count.get() + n as u64);
        self.active.set(Instant::now());
    }

    /// What the client's first bytes are, after those beyond `seen` have come.
    fn sniff(&self, reader: &mut HelloReader, bytes: &[u8], seen: usize) -> Sniffed {
        let sniffed = reader.push(bytes.get(seen..).unwrap_or_default());
        self.first.set(FirstBytes::of(bytes));
        if sniffed != Sniffed::NeedMore {
            self.sniffed.replace(Some(sniffed.clone()));
        }
        sniffed
    }

    /// One side sends no more. True when the other still may: only then is it told before the record knows.
    fn side_ends(&self, side: Close) -> bool {
        self.active.set(Instant::now());
        let first = self.ended_by.get().is_none();
        if first {
            self.ended_by.set(Some(side));
        }
        first
    }

    /// Returns when nothing has moved for `limit`, or for a moment when the gateway stops: most tunnels that
    /// stand open then are a client's pool.
    async fn idles(&self, limit: Duration, mut stop: Stop) -> Cut {
        let mut draining = false;
        loop {
            let at = self.active.get() + if draining { limit.min(QUIET) } else { limit };
            if Instant::now() >= at {
                return if draining { Cut::Drain } else { Cut::Idle };
            }
            tokio::select! {
                () = sleep_until(at) => {}
                () = reached(&mut stop, Stage::Draining), if !draining => draining = true,
            }
        }
    }
}

/// Reads the client's first bytes, which must be a ClientHello for this host, and sends them on.
async fn first_flight(
    source: &mut Source,
    to_server: &mut Writer,
    to: &Authority,
    deadline: Instant,
    flow: &Flow,
) -> Result<(), Cut> {
    let (mut reader, mut seen) = (HelloReader::default(), 0);
    loop {
        let sniffed = flow.sniff(&mut reader, &source.buf, seen);
        seen = source.buf.len();
        let verdict = match &sniffed {
            Sniffed::NeedMore => None,
            Sniffed::NotTls => Some(Err(not_tls(to, flow.first.get()))),
            Sniffed::Malformed => Some(Err(Refused::new(
                403,
                "malformed-client-hello",
                "the tunnel begins like TLS, but not with a ClientHello that can be read",
            ))),
            Sniffed::Hello(hello) => Some(judge(hello, to)),
        };
        match verdict {
            Some(Ok(())) => return send_first(source, to_server, flow).await,
            Some(Err(refused)) => return Err(Cut::Refused(refused)),
            None => {}
        }
        match timeout_at(deadline, source.fill()).await {
            Err(_) => {
                let detail = format!(
                    "no whole ClientHello came through the tunnel to {to} in time; {}",
                    opaque_rule(to)
                );
                return Err(Cut::Refused(Refused::new(408, "hello-timeout", detail)));
            }
            // Half a hello is not sent on: nobody has read the name in it.
            Ok(Err(_) | Ok(0)) => return Err(Cut::Client),
            Ok(Ok(_)) => flow.active.set(Instant::now()),
        }
    }
}

/// Reads the client's first bytes as far as they may be a ClientHello, for the record, and sends them on.
async fn any_first_flight(source: &mut Source, to_server: &mut Writer, flow: &Flow) -> Result<(), Cut> {
    let (mut reader, mut seen) = (HelloReader::default(), 0);
    while flow.sniff(&mut reader, &source.buf, seen) == Sniffed::NeedMore {
        seen = source.buf.len();
        let n = source.fill().await.map_err(|_| Cut::Client)?;
        flow.active.set(Instant::now());
        if n == 0 {
            break;
        }
    }
    send_first(source, to_server, flow).await
}

async fn send_first(source: &mut Source, to_server: &mut Writer, flow: &Flow) -> Result<(), Cut> {
    to_server.write_all(&source.buf).await.map_err(|_| Cut::Server)?;
    flow.passed(&flow.out, source.buf.len());
    source.buf = bytes::BytesMut::new();
    Ok(())
}

/// Whether the client names the host that it was allowed. Another name would reach whatever the target serves
/// under it (domain fronting), no name or an encrypted one leaves that open.
fn judge(hello: &ClientHello, to: &Authority) -> Result<(), Refused> {
    let refused = |code, what: &str| {
        let detail = format!("the TLS client in the tunnel to {to} {what}; {}", opaque_rule(to));
        Err(Refused::new(403, code, bodycam_record::shown(&detail)))
    };
    if hello.encrypted {
        return refused("encrypted-client-hello", "hides the server that it asks for (ECH)");
    }
    match (&hello.server_name, &to.host) {
        (None, Host::Address(_)) => Ok(()),
        (None, Host::Name(_)) => refused("sni-missing", "does not say which server it asks for"),
        (Some(name), host) if Host::parse(name).as_ref() == Ok(host) => Ok(()),
        (Some(name), _) => {
            let what = format!("asks for server '{}'", String::from_utf8_lossy(name));
            refused("sni-not-allowed", &what)
        }
    }
}

fn not_tls(to: &Authority, first: FirstBytes) -> Refused {
    let what = match first {
        FirstBytes::Http | FirstBytes::Http2 => {
            "HTTP in clear, which is asked for without a tunnel (http://, the absolute form)".to_owned()
        }
        other => format!("{} where TLS is expected", other.name()),
    };
    Refused::new(403, "not-tls", format!("the tunnel to {to} begins with {what}; {}", opaque_rule(to)))
}

/// What to change when it is meant.
fn opaque_rule(to: &Authority) -> String {
    format!("if it may carry anything, whoever administers bodycam writes \"opaque:{to}\" into `egress`")
}

impl FirstBytes {
    fn of(bytes: &[u8]) -> Self {
        let word = bytes.iter().take_while(|b| b.is_ascii_uppercase()).count();
        match bytes.first() {
            None => FirstBytes::None,
            Some(22) => FirstBytes::Tls,
            Some(_) if bytes.starts_with(b"PRI * HTTP/2") => FirstBytes::Http2,
            Some(_) if bytes.starts_with(b"SSH-") => FirstBytes::Ssh,
            Some(_) if (3..=16).contains(&word) && bytes.get(word) == Some(&b' ') => FirstBytes::Http,
            Some(_) => FirstBytes::Other,
        }
    }

    fn name(self) -> &'static str {
        match self {
            FirstBytes::None => "none",
            FirstBytes::Tls => "tls",
            FirstBytes::Http => "http",
            FirstBytes::Http2 => "http2",
            FirstBytes::Ssh => "ssh",
            FirstBytes::Other => "other",
        }
    }
}

/// Which side of a pump failed.
enum PumpError {
    Read,
    Write,
}

impl PumpError {
    fn cut(self, reader: Cut, writer: Cut) -> Cut {
        match self {
            PumpError::Read => reader,
            PumpError::Write => writer,
        }
    }
}

/// Passes bytes on until the reader ends. What the writer takes at once is never copied.
async fn pump(
    reader: &mut Reader,
    writer: &mut Writer,
    mut passed: impl FnMut(usize),
) -> Result<(), PumpError> {
    let (mut turn, mut rest, mut held) = (0, Vec::new(), false);
    loop {
        let n = std::future::poll_fn(|cx| poll_pass(reader, writer, &mut rest, &mut held, cx)).await?;
        if n == 0 {
            return Ok(());
        }
        if !rest.is_empty() {
            writer.write_all(&rest).await.map_err(|_| PumpError::Write)?;
            rest = Vec::new();
        }
        passed(n);
        turn += n;
        if turn >= TURN {
            turn = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// Reads once and writes once; what the writer did not take is left in `rest`. While there is nothing to read,
/// the writer is made to send what it holds back: TLS takes up to 64 KiB that it has not sent.
fn poll_pass(
    reader: &mut Reader,
    writer: &mut Writer,
    rest: &mut Vec<u8>,
    held: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<Result<usize, PumpError>> {
    let passed = poll_scratch(reader, cx, |cx, bytes| {
        if bytes.is_empty() {
            return Ok(0);
        }
        *held = true;
        let taken = match Pin::new(&mut *writer).poll_write(cx, bytes) {
            Poll::Ready(Ok(0) | Err(_)) => return Err(PumpError::Write),
            Poll::Ready(Ok(n)) => n,
            Poll::Pending => 0,
        };
        rest.extend_from_slice(bytes.get(taken..).unwrap_or_default());
        Ok(bytes.len())
    });
    if passed.is_pending() && *held {
        match Pin::new(writer).poll_flush(cx) {
            Poll::Ready(Ok(())) => *held = false,
            Poll::Ready(Err(_)) => return Poll::Ready(Err(PumpError::Write)),
            Poll::Pending => {}
        }
    }
    passed.map(|read: io::Result<_>| read.map_err(|_| PumpError::Read)?)
}
