//! One request and its response.
//!
//! Invariant: the request's event is in the spool before its first byte leaves for the target, and the
//! response's event before the last bytes of the response leave for the client.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::pin;

use bodycam_record::kinds::http::{HttpRequest, HttpResponse};
use bodycam_record::{ContentKind, Digest};
use bytes::Buf as _;
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant, sleep};

use super::answer::{Answer, Refused};
use super::client::{Client, Sink};
use super::reach::Reached;
use super::session::{Close, Session, int};
use super::{forward, refuse_head, respond};
use crate::http::codec::body::{BodyError, BodyReader};
use crate::http::codec::fields::Limits;
use crate::http::codec::head::{Framing, HeadError, RequestHead, ResponseHead, response_scanner};
use crate::http::codec::source::Source;
use crate::http::codec::target::AbsoluteForm;
use crate::http::inspect;
use crate::http::upstream::dial::Dialed;

/// How long a client that has closed its side may wait for a response.
const HALF_CLOSED: Duration = Duration::from_secs(5);

/// Interim responses (1xx) that a target may send before its response.
const MAX_INTERIM: usize = 16;

/// What has passed so far.
struct Flow {
    bytes_out: Cell<u64>,
    bytes_in: Cell<u64>,
    request: RefCell<blake3::Hasher>,
    response: RefCell<blake3::Hasher>,
    answered: RefCell<Option<ResponseHead>>,
    /// Chunk extensions and trailers of the response, which the client does not get.
    left_out: Cell<(bool, bool)>,
}

/// How the relaying of an exchange ended.
enum Ending {
    /// The response is whole; these bytes of it are still to be sent.
    Whole { last: Vec<u8>, keep: bool },
    /// Nothing of a response was sent: this is answered instead.
    Answer(Refused, &'static str),
    /// The response was cut.
    Cut(Close),
}

/// The target's response cannot be relayed.
#[derive(Debug, Error)]
enum ServerError {
    #[error("the target's response head is refused: {0}")]
    Head(#[from] HeadError),
    #[error("the target closed the connection before it answered")]
    Closed,
    #[error("the target did not answer in time")]
    Timeout,
    #[error("the target wants to switch protocols, which is not relayed")]
    Switch,
    #[error("the target asks for proxy credentials, which only this proxy does")]
    ProxyCredentials,
    #[error("the target sent too many interim responses")]
    Interim,
}

/// Why the request's body did not reach the target.
enum UploadError {
    Client(BodyError),
    Server,
}

/// Why the response's body did not reach the client.
enum DownloadError {
    Client(io::Error),
    Server(BodyError),
    Upload(BodyError),
}

/// Judges, records, relays and records again. True when the connection can take another request.
pub(super) async fn exchange(
    session: &mut Session<'_>,
    client: &mut Client,
    head: &RequestHead,
) -> Result<bool, Close> {
    let form = match AbsoluteForm::parse(&head.target, head.fields.all("host").next()) {
        Ok(form) => form,
        Err(error) => return refuse_head(session, client, head, error.into()).await,
    };
    let started_us = session.mono_us();
    let mut event = request_event(session, head, &form);
    let reached = match asks_for_upgrade(head) {
        Some(refused) => Reached::Denied(refused),
        None => session.reach(&form.authority).await?,
    };
    match &reached {
        Reached::Connected(dialed) => {
            event.address = Some(dialed.address.to_string());
            event.address_class = Some(dialed.class.name().to_owned());
        }
        Reached::Denied(refused) => {
            event.verdict = "deny".to_owned();
            event.refusal = Some(refused.code.to_owned());
            event.address = refused.address.map(|(address, _)| address.to_string());
            event.address_class = refused.address.map(|(_, class)| class.name().to_owned());
        }
        Reached::Cut(close) => {
            event.verdict = "deny".to_owned();
            event.refusal = Some(close.outcome().to_owned());
        }
        Reached::Failed(_) => {}
    }
    let detail = match &reached {
        Reached::Denied(refused) | Reached::Failed(refused) => Some(refused),
        Reached::Connected(_) | Reached::Cut(_) => None,
    };
    let content = session.request_content(head, form.url().as_bytes(), detail)?;
    session.count(&event.verdict);
    let parent = session.record(event.clone().into(), None, Some(content))?;
    session.persist().await?;

    let flow = Flow::new(session);
    let ending = match reached {
        Reached::Denied(refused) => return respond(client, &Answer::refusal(&refused), head, true).await,
        Reached::Cut(close) => return Err(close),
        Reached::Failed(refused) => {
            let outcome = if refused.status == 504 { "timeout" } else { "error" };
            Ok(Ending::Answer(refused, outcome))
        }
        Reached::Connected(dialed) => carry(session, client, head, &form, dialed, &flow).await,
    };
    session.left();
    if ending.as_ref().err() != Some(&Close::Spool) {
        let response = response_event(session, &event, &flow, head, &ending, started_us);
        record_response(session, response, parent, &flow, &ending).await?;
    }
    match ending? {
        Ending::Whole { last, keep } => {
            session.guarded(client.sink.write(&last)).await?.map_err(|_| Close::Client)?;
            if !keep {
                client.finish().await;
            }
            Ok(keep)
        }
        Ending::Answer(refused, _) => respond(client, &Answer::refusal(&refused), head, true).await,
        Ending::Cut(close) => Err(close),
    }
}

impl Flow {
    fn new(session: &mut Session<'_>) -> Self {
        let hasher = || RefCell::new(session.pen().key().hasher());
        let (mut hasher, zero) = (hasher, || Cell::new(0));
        Self {
            bytes_out: zero(),
            bytes_in: zero(),
            request: hasher(),
            response: hasher(),
            answered: RefCell::new(None),
            left_out: Cell::new((false, false)),
        }
    }
}

/// Upgrades are not relayed. `h2c` is an offer that may be ignored, and is.
fn asks_for_upgrade(head: &RequestHead) -> Option<Refused> {
    let other = head.fields.tokens("upgrade").any(|token| !token.eq_ignore_ascii_case(b"h2c"));
    other.then(|| {
        let detail = "protocol upgrades in clear are not relayed; use the protocol over TLS, through CONNECT";
        Refused::new(501, "upgrade-not-allowed", detail)
    })
}

fn request_event(session: &mut Session<'_>, head: &RequestHead, form: &AbsoluteForm) -> HttpRequest {
    let url = form.url();
    HttpRequest {
        request_no: session.next_request(),
        verdict: "allow".to_owned(),
        refusal: None,
        method: inspect::method(&head.method).to_owned(),
        scheme: "http".to_owned(),
        host: form.authority.host.to_string(),
        port: i64::from(form.authority.port),
        address: None,
        address_class: None,
        url_digest: session.pen().key().keyed_digest(url.as_bytes()),
        url_bytes: int(url.len() as u64),
        head_bytes: int(head.bytes as u64),
        media_type: inspect::media_type(&head.fields),
        content_length: match head.body {
            Framing::Length(length) => Some(int(length)),
            _ => None,
        },
        correlation: session.correlation(),
    }
}

fn response_event(
    session: &Session<'_>,
    request: &HttpRequest,
    flow: &Flow,
    head: &RequestHead,
    ending: &Result<Ending, Close>,
    started_us: i64,
) -> HttpResponse {
    let answered = flow.answered.borrow();
    let (status, outcome) = match ending {
        Ok(Ending::Whole { .. }) => (answered.as_ref().map(|h| h.status), "complete"),
        Ok(Ending::Answer(refused, outcome)) => (Some(refused.status), *outcome),
        Ok(Ending::Cut(close)) | Err(close) => (answered.as_ref().map(|h| h.status), close.outcome()),
    };
    let digest = |hasher: &RefCell<blake3::Hasher>| Digest(*hasher.borrow().finalize().as_bytes());
    let has_body = answered.as_ref().is_some_and(|h| h.body != Framing::None);
    HttpResponse {
        request_no: request.request_no,
        verdict: request.verdict.clone(),
        host: request.host.clone(),
        port: request.port,
        status: status.map(i64::from),
        outcome: outcome.to_owned(),
        bytes_out: int(flow.bytes_out.get()),
        bytes_in: int(flow.bytes_in.get()),
        request_digest: (head.body != Framing::None).then(|| digest(&flow.request)),
        response_digest: has_body.then(|| digest(&flow.response)),
        media_type: answered.as_ref().and_then(|h| inspect::media_type(&h.fields)),
        duration_us: session.mono_us() - started_us,
        correlation: request.correlation,
    }
}

async fn record_response(
    session: &mut Session<'_>,
    event: HttpResponse,
    parent: i64,
    flow: &Flow,
    ending: &Result<Ending, Close>,
) -> Result<(), Close> {
    let mut content = session.pen().content();
    if let Some(answered) = flow.answered.borrow().as_ref() {
        session.put_pairs(
            &mut content,
            ContentKind::ResponseHead,
            &inspect::kept_fields(&answered.fields),
        )?;
    }
    let mut pairs = Vec::new();
    if let Ok(Ending::Answer(refused, _)) = ending {
        pairs.push((refused.code.to_owned(), refused.detail.clone().into_bytes()));
    }
    let (extensions, trailers) = flow.left_out.get();
    for (what, _) in [("chunk-extensions", extensions), ("trailers", trailers)].iter().filter(|(_, is)| *is) {
        pairs.push(("left_out".to_owned(), what.as_bytes().to_vec()));
    }
    session.put_pairs(&mut content, ContentKind::Detail, &pairs)?;
    session.record(event.into(), Some(parent), Some(content))?;
    session.persist().await
}

/// Sends the request and brings the response back, both bodies at the same time.
async fn carry(
    session: &mut Session<'_>,
    client: &mut Client,
    head: &RequestHead,
    form: &AbsoluteForm,
    dialed: Dialed,
    flow: &Flow,
) -> Result<Ending, Close> {
    let config = &session.service.config;
    let (limits, stall) = (config.head_limits(), Duration::from_secs(config.stall_seconds));
    let patience = Duration::from_secs(config.response_seconds);
    let (reader, writer) = dialed.stream.into_split();
    let mut server = Source::new(Box::new(reader));
    let mut to_server = Sink::new(Box::new(writer), stall);
    let Client { source, sink, .. } = client;

    let sent = session.guarded(to_server.write(&forward::request_head(head, form))).await?;
    if sent.is_err() {
        return Ok(ServerError::Closed.ending());
    }
    if head.expects_continue {
        let sent = session.guarded(sink.write(b"HTTP/1.1 100 Continue\r\n\r\n")).await?;
        if sent.is_err() {
            return Ok(Ending::Cut(Close::Client));
        }
    }
    let mut uploading = head.body != Framing::None;
    let (tell, mut told) = oneshot::channel();
    let mut outward = pin!(async {
        // The other end of the channel is gone only when the exchange is over.
        let _ = tell.send(upload(source, head.body, stall, &mut to_server, flow).await);
        gone(source).await;
    });

    let answered = session
        .guarded(async {
            let mut response = pin!(read_response(&mut server, limits, &head.method));
            let mut late = pin!(sleep(patience));
            loop {
                tokio::select! {
                    biased;
                    got = &mut response => return Ok(got),
                    sent = &mut told, if uploading => {
                        uploading = false;
                        late.as_mut().reset(Instant::now() + patience);
                        if let Ok(Err(UploadError::Client(error))) = sent {
                            return Err(error);
                        }
                    }
                    () = &mut outward => return Err(BodyError::Cut),
                    () = &mut late, if !uploading => return Ok(Err(ServerError::Timeout)),
                }
            }
        })
        .await?;
    let answered = match answered {
        Ok(Ok(answered)) => answered,
        Ok(Err(error)) => return Ok(error.ending()),
        Err(error) => return Ok(upload_ending(&error)),
    };
    let keep = !head.closes() && !uploading && !session.is_draining();
    let (first, chunked) = forward::response_head(&answered, head.version, keep);
    let mut body = BodyReader::download(answered.body, stall);
    flow.answered.replace(Some(answered));

    let ended = session
        .guarded(async {
            let mut download = pin!(download(&mut server, &mut body, first, chunked, sink, flow));
            loop {
                tokio::select! {
                    biased;
                    ended = &mut download => return ended,
                    sent = &mut told, if uploading => {
                        uploading = false;
                        if let Ok(Err(UploadError::Client(error))) = sent {
                            return Err(DownloadError::Upload(error));
                        }
                    }
                    // It ends long after it has told, or not at all.
                    () = &mut outward, if uploading => {}
                }
            }
        })
        .await?;
    flow.left_out.set(body.left_out());
    Ok(match ended {
        Ok(last) => Ending::Whole { last, keep },
        Err(error) => Ending::Cut(error.close()),
    })
}

/// Returns when the client has closed its side and then not got an answer for a moment. One that has sent its
/// requests may close and still wait; nobody can tell it from one that is gone.
async fn gone(source: &mut Source) {
    // Bytes of the next request say that it is there.
    if source.buf.is_empty() && !matches!(source.fill().await, Ok(1..)) {
        return sleep(HALF_CLOSED).await;
    }
    std::future::pending().await
}

/// Sends the request's body on as it comes.
async fn upload(
    source: &mut Source,
    framing: Framing,
    stall: Duration,
    to: &mut Sink,
    flow: &Flow,
) -> Result<(), UploadError> {
    let mut body = BodyReader::upload(framing, stall);
    let mut out = Vec::new();
    while !body.is_done() {
        let piece = body.next(source).await.map_err(UploadError::Client)?;
        flow.request.borrow_mut().update(&piece.data);
        out.clear();
        if framing == Framing::Chunked {
            forward::put_chunk(&mut out, &piece.data);
            if piece.last {
                out.extend_from_slice(forward::LAST_CHUNK);
            }
        } else {
            out.extend_from_slice(&piece.data);
        }
        to.write(&out).await.map_err(|_| UploadError::Server)?;
        flow.bytes_out.set(flow.bytes_out.get() + piece.data.len() as u64);
    }
    Ok(())
}

/// Reads the head of the response, past interim ones. Safe to cancel only for good.
async fn read_response(
    server: &mut Source,
    limits: Limits,
    method: &str,
) -> Result<ResponseHead, ServerError> {
    let mut scanner = response_scanner();
    let mut interim = 0;
    loop {
        match ResponseHead::read(&mut scanner, &server.buf, limits, method)? {
            None => match server.fill().await {
                Ok(0) | Err(_) => return Err(ServerError::Closed),
                Ok(_) => {}
            },
            Some(head) => {
                server.buf.advance(head.bytes);
                match head.status {
                    101 => return Err(ServerError::Switch),
                    407 => return Err(ServerError::ProxyCredentials),
                    100..=199 if interim == MAX_INTERIM => return Err(ServerError::Interim),
                    100..=199 => {
                        interim += 1;
                        scanner = response_scanner();
                    }
                    _ => return Ok(head),
                }
            }
        }
    }
}

/// Sends the response on as it comes, but for its last bytes, which come back.
async fn download(
    server: &mut Source,
    body: &mut BodyReader,
    head: Vec<u8>,
    chunked: bool,
    to: &mut Sink,
    flow: &Flow,
) -> Result<Vec<u8>, DownloadError> {
    let mut out = head;
    if body.is_done() {
        return Ok(out);
    }
    loop {
        if !out.is_empty() && server.buf.is_empty() {
            to.write(&out).await.map_err(DownloadError::Client)?;
            out.clear();
        }
        let piece = body.next(server).await.map_err(DownloadError::Server)?;
        flow.response.borrow_mut().update(&piece.data);
        flow.bytes_in.set(flow.bytes_in.get() + piece.data.len() as u64);
        if chunked {
            forward::put_chunk(&mut out, &piece.data);
        } else {
            out.extend_from_slice(&piece.data);
        }
        if piece.last {
            if chunked {
                out.extend_from_slice(forward::LAST_CHUNK);
            }
            return Ok(out);
        }
        to.write(&out).await.map_err(DownloadError::Client)?;
        out.clear();
    }
}

impl ServerError {
    fn ending(&self) -> Ending {
        let (status, code, outcome) = match self {
            ServerError::Head(error) => (502, error.code(), "refused"),
            ServerError::Closed => (502, "server-closed", "server-closed"),
            ServerError::Timeout => (504, "response-timeout", "timeout"),
            ServerError::Switch => (502, "upgrade-not-allowed", "refused"),
            ServerError::ProxyCredentials => (502, "proxy-credentials-asked", "refused"),
            ServerError::Interim => (502, "interim-responses", "refused"),
        };
        Ending::Answer(Refused::new(status, code, self.to_string()), outcome)
    }
}

impl DownloadError {
    fn close(&self) -> Close {
        match self {
            DownloadError::Client(error) if error.kind() == io::ErrorKind::TimedOut => Close::Timeout,
            DownloadError::Client(_) => Close::Client,
            DownloadError::Server(error) => match error {
                BodyError::Stalled(_) => Close::Timeout,
                BodyError::Io(_) | BodyError::Cut => Close::Server,
                BodyError::Chunk(_) => Close::Protocol,
            },
            DownloadError::Upload(error) => match error {
                BodyError::Stalled(_) => Close::Timeout,
                BodyError::Io(_) | BodyError::Cut => Close::Client,
                BodyError::Chunk(_) => Close::Protocol,
            },
        }
    }
}

/// A request whose body cannot be read, before anything was answered.
fn upload_ending(error: &BodyError) -> Ending {
    match error {
        BodyError::Io(_) | BodyError::Cut => Ending::Cut(Close::Client),
        BodyError::Stalled(_) => {
            Ending::Answer(Refused::new(408, "body-timeout", error.to_string()), "timeout")
        }
        BodyError::Chunk(_) => Ending::Answer(
            Refused::new(400, "malformed-body", format!("the request body is refused: {error}")),
            "refused",
        ),
    }
}
