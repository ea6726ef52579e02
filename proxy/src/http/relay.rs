//! A connection from its first byte to its last: log in, then one exchange after the other, or one tunnel.
//!
//! Invariant: whatever is refused is answered and recorded, and after anything that leaves the position in the
//! client's byte stream uncertain the connection is closed.

use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio::time::{Duration, Instant};

use super::Service;
use super::codec::head::{Framing, RequestHead};
use crate::admission::Admission;
use crate::recording::Lane;
use crate::stop::{Stage, Stop, reached};

mod answer;
mod client;
mod exchange;
mod forward;
mod login;
mod reach;
mod session;
mod tunnel;

use answer::{Answer, Refused};
use client::{Client, HeadFailure, Patience};
use login::log_in;
use session::{Close, Session};

/// Serves a connection.
pub(super) async fn serve(
    service: &Service,
    stream: TcpStream,
    peer: SocketAddr,
    lane: &Lane,
    mut stop: Stop,
    admission: &Admission,
) {
    // One deadline for everything that somebody unknown may do: handshake, heads, and every try to log in.
    let deadline = Instant::now() + Duration::from_secs(service.config.head_seconds);
    let begun = async {
        let mut client = Client::accept(stream, service, deadline).await?;
        let (login, head) = log_in(service, &mut client, peer.ip().to_canonical(), lane, deadline).await?;
        Some((client, login, head))
    };
    let begun = tokio::select! {
        biased;
        () = reached(&mut stop, Stage::Draining) => None,
        begun = begun => begun,
    };
    if let Some((mut client, login, head)) = begun {
        admission.logged_in();
        let mut session = Session::start(service, login, stop);
        let reason = run(&mut session, &mut client, head).await;
        session.close(reason, &client).await;
    }
}

/// Every exchange of a session; why it ended comes back.
async fn run(session: &mut Session<'_>, client: &mut Client, first: RequestHead) -> Close {
    let mut next = Some(first);
    loop {
        let head = match next.take() {
            Some(head) => head,
            None => match next_head(session, client).await {
                Ok(head) => head,
                Err(close) => return close,
            },
        };
        let went = match session.check_credential(&head) {
            Err(refused) => refuse_head(session, client, &head, refused).await,
            Ok(()) if head.method == "CONNECT" => tunnel::tunnel(session, client, &head).await,
            Ok(()) => exchange::exchange(session, client, &head).await,
        };
        match went {
            Ok(true) if !session.is_draining() => {}
            Ok(true) => return Close::Drain,
            Ok(false) => return Close::Client,
            Err(close) => return close,
        }
    }
}

/// Waits for the next head of a session.
async fn next_head(session: &mut Session<'_>, client: &mut Client) -> Result<RequestHead, Close> {
    let config = &session.service.config;
    let (limits, idle) = (config.head_limits(), Duration::from_secs(config.idle_seconds));
    let patience = Patience::Each { idle, whole: Duration::from_secs(config.head_seconds) };
    let failure = match session.idle(client.read_head(limits, patience)).await? {
        Ok(Some(head)) => return Ok(head),
        Ok(None) => return Err(Close::Client),
        Err(failure) => failure,
    };
    if let HeadFailure::Idle = failure {
        let idle = i64::try_from(idle.as_secs()).unwrap_or(i64::MAX);
        session.limit("idle", idle, idle, "closed").await?;
    }
    if let Some(refused) = failure.refused() {
        if let HeadFailure::Refused(error) = failure {
            session.head_limit(error).await?;
        }
        session.decide("request", &refused, None).await?;
        client.answer_and_close(&Answer::refusal(&refused), "GET").await;
    }
    Err(failure.close())
}

/// Refuses a head that names no destination that could be judged: recorded as a decision, and the connection
/// goes on only when the client cannot be misunderstood.
async fn refuse_head(
    session: &mut Session<'_>,
    client: &mut Client,
    head: &RequestHead,
    refused: Refused,
) -> Result<bool, Close> {
    session.decide("request", &refused, Some(head)).await?;
    let answer =
        if refused.status == 407 { Answer::ask_for_credentials() } else { Answer::refusal(&refused) };
    respond(client, &answer, head, refused.code != session::OTHER_CREDENTIAL).await
}

/// Answers a request that goes nowhere. An unread body would be taken for the next request: it closes.
async fn respond(
    client: &mut Client,
    answer: &Answer,
    head: &RequestHead,
    may_keep: bool,
) -> Result<bool, Close> {
    if may_keep && head.body == Framing::None && !head.closes() {
        client.answer(answer, &head.method, true).await.map_err(|_| Close::Client)?;
        return Ok(true);
    }
    client.answer_and_close(answer, &head.method).await;
    Err(if may_keep { Close::Client } else { Close::Protocol })
}
