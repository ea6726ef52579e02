//! Health and metrics: `/healthz`, `/readyz`, `/metrics` and `/processes` on a listener of their own.
//!
//! Who runs the process says through a [`Probe`] what there is to tell. Invariant: nothing here changes
//! anything, and nothing that a session carries (no name, no address, no byte of payload) is in an answer.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::http::codec::fields::Limits;
use crate::http::codec::head::{RequestHead, request_scanner};
use crate::postgres::live::LiveProcess;

/// Head of a request here.
const LIMITS: Limits = Limits { bytes: 8 << 10, fields: 64, url: 1 << 10 };
/// A request and its answer take at most this long.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time to wait after the system refused to accept (out of file descriptors).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Longest answer that [`ask`] reads.
const MAX_ANSWER: u64 = 16 << 20;
/// Connections served at the same time; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 64;

/// `[admin]` in `bodycam.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Address of `/healthz`, `/readyz`, `/metrics` and `/processes`. They ask for no credentials: keep it on loopback or on a network of your own.
    pub listen: SocketAddr,
    /// The same for a recorder that runs alone (`bodycam recorder`), so that it can stand beside a gateway.
    pub recorder_listen: SocketAddr,
    /// The same for detection that runs alone (`bodycam detect watch`). Without it that listens nowhere, so that any number of them can stand on a host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detect_listen: Option<SocketAddr>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        let at = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self { listen: at(9464), recorder_listen: at(9465), detect_listen: None }
    }
}

/// What the listener asks the parts of the process.
pub trait Probe: Send + Sync {
    /// Whether traffic can be taken; the problem says what is wrong and what to do.
    fn ready(&self) -> Result<(), String>;

    /// What is wrong beside the traffic, which goes on: told with the readiness, and no part of it.
    fn note(&self) -> Option<String> {
        None
    }

    /// Metrics in the Prometheus text format (version 0.0.4).
    fn metrics(&self) -> String;

    /// The targets' server processes that work for this gateway; none where there is no gateway.
    fn processes(&self) -> Vec<LiveProcess> {
        Vec::new()
    }
}

/// Asks the admin listener of a gateway at `address` for `path`: the status and the body.
pub async fn ask(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let work = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut bytes).await?;
        let text = String::from_utf8(bytes).map_err(io::Error::other)?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("no HTTP answer"))?;
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
        Ok((status.ok_or_else(|| io::Error::other("no HTTP answer"))?, body.to_owned()))
    };
    timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The address cannot be listened on.
#[derive(Debug, Error)]
#[error("[admin] cannot listen on {address}: {source}; is another process using the port?")]
pub struct AdminError {
    /// The address.
    pub address: SocketAddr,
    /// Why.
    pub source: io::Error,
}

/// The listener at work. Dropped, it stops.
pub struct Admin {
    address: SocketAddr,
    draining: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

/// What the connections share.
#[derive(Clone)]
struct Desk {
    probe: Arc<dyn Probe>,
    draining: Arc<AtomicBool>,
    patience: Duration,
}

impl Admin {
    /// Listens, and answers on the runtime that this is called in.
    pub fn start(listen: SocketAddr, probe: Arc<dyn Probe>) -> Result<Self, AdminError> {
        Self::with_patience(listen, probe, PATIENCE)
    }

    fn with_patience(
        listen: SocketAddr,
        probe: Arc<dyn Probe>,
        patience: Duration,
    ) -> Result<Self, AdminError> {
        let fault = |source| AdminError { address: listen, source };
        let listener = std::net::TcpListener::bind(listen).map_err(fault)?;
        listener.set_nonblocking(true).map_err(fault)?;
        let address = listener.local_addr().map_err(fault)?;
        let listener = TcpListener::from_std(listener).map_err(fault)?;
        let draining = Arc::new(AtomicBool::new(false));
        let desk = Desk { probe, draining: Arc::clone(&draining), patience };
        Ok(Self { address, draining, task: tokio::spawn(desk.serve(listener)) })
    }

    /// The address listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on `/readyz` says no, so that load balancers send nobody here any more.
    pub fn draining(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Desk {
    async fn serve(self, listener: TcpListener) {
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                Some(_) = open.join_next() => {}
                accepted = listener.accept(), if open.len() < MAX_CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        let desk = self.clone();
                        open.spawn(async move {
                            let _ = timeout(desk.patience, desk.answer(stream)).await;
                        });
                    }
                    Err(error) => {
                        tracing::warn!(event = "admin_accept_failed", error = %error, "the system refused a connection");
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                },
            }
        }
    }

    /// One request, one answer, close.
    async fn answer(&self, mut stream: TcpStream) {
        let (mut buf, mut scanner) = (BytesMut::new(), request_scanner());
        let answer = loop {
            match RequestHead::read(&mut scanner, &buf, LIMITS) {
                Err(error) => break answer(error.status(), "text/plain", &format!("{error}\n"), ""),
                Ok(Some(head)) => break self.route(&head),
                Ok(None) => match stream.read_buf(&mut buf).await {
                    Ok(1..) => {}
                    _ => return,
                },
            }
        };
        if stream.write_all(&answer).await.is_ok() {
            let _ = stream.shutdown().await;
        }
    }

    fn route(&self, head: &RequestHead) -> Vec<u8> {
        let method = head.method.as_str();
        if !matches!(method, "GET" | "HEAD") {
            return answer(405, "text/plain", "only GET and HEAD\n", method);
        }
        match head.target.split(|b| *b == b'?').next().unwrap_or_default() {
            b"/healthz" => answer(200, "text/plain", "ok\n", method),
            b"/readyz" if self.draining.load(Ordering::SeqCst) => {
                answer(503, "text/plain", "stopping\n", method)
            }
            b"/readyz" => match self.probe.ready() {
                Ok(()) => {
                    let note =
                        self.probe.note().map(|note| format!("note: {}\n", bodycam_record::shown(&note)));
                    answer(200, "text/plain", &format!("ready\n{}", note.unwrap_or_default()), method)
                }
                Err(problem) => {
                    answer(503, "text/plain", &format!("{}\n", bodycam_record::shown(&problem)), method)
                }
            },
            b"/metrics" => answer(200, "text/plain; version=0.0.4", &self.probe.metrics(), method),
            b"/processes" => match serde_json::to_string(&self.probe.processes()) {
                Ok(json) => answer(200, "application/json", &json, method),
                Err(error) => answer(500, "text/plain", &format!("{error}\n"), method),
            },
            _ => answer(404, "text/plain", "there are /healthz, /readyz, /metrics and /processes\n", method),
        }
    }
}

fn answer(status: u16, ty: &str, body: &str, method: &str) -> Vec<u8> {
    let phrase = match status {
        200 => "OK",
        404 => "Not Found",
        405 => "Method Not Allowed",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Bad Request",
    };
    let length = body.len();
    let body = if method == "HEAD" { "" } else { body };
    format!(
        "HTTP/1.1 {status} {phrase}\r\nContent-Type: {ty}\r\nContent-Length: {length}\r\nCache-Control: no-store\r\n\
         Connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    struct Part(Mutex<Result<(), String>>);

    impl Probe for Part {
        fn ready(&self) -> Result<(), String> {
            self.0.lock().unwrap().clone()
        }

        fn metrics(&self) -> String {
            "# TYPE a_total counter\na_total 1\n".to_owned()
        }

        fn processes(&self) -> Vec<LiveProcess> {
            vec![LiveProcess { target: "shop".to_owned(), process: 7, session: None }]
        }
    }

    fn start(patience: Duration) -> (Admin, Arc<Part>) {
        let part = Arc::new(Part(Mutex::new(Ok(()))));
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        (Admin::with_patience(any, part.clone(), patience).unwrap(), part)
    }

    async fn ask(admin: &Admin, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(admin.address()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test(flavor = "current_thread")]
    async fn health_readiness_and_metrics_are_answered_and_nothing_else() {
        let (admin, part) = start(PATIENCE);
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes();
        for (bytes, begin, end) in [
            (get("/healthz"), "HTTP/1.1 200 OK\r\n", "\r\n\r\nok\n"),
            (get("/readyz?verbose"), "HTTP/1.1 200 OK\r\n", "\r\n\r\nready\n"),
            (
                get("/metrics"),
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n",
                "\na_total 1\n",
            ),
            (b"HEAD /metrics HTTP/1.0\r\n\r\n".to_vec(), "HTTP/1.1 200 OK\r\n", "close\r\n\r\n"),
            (b"POST /metrics HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "HTTP/1.1 405 ", "GET and HEAD\n"),
            (get("/secrets"), "HTTP/1.1 404 ", "/processes\n"),
            (b"GET /metrics HTTP/1.1\n\n".to_vec(), "HTTP/1.1 400 ", "LF alone\n"),
        ] {
            let answer = ask(&admin, &bytes).await;
            assert!(answer.starts_with(begin) && answer.ends_with(end), "{answer}");
        }
        *part.0.lock().unwrap() = Err("the spool is full\u{1b}[31m".to_owned());
        let answer = ask(&admin, &get("/readyz")).await;
        assert!(
            answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\nthe spool is full\\x1b[31m\n")
        );
        *part.0.lock().unwrap() = Ok(());
        admin.draining();
        assert!(ask(&admin, &get("/readyz")).await.ends_with("\r\n\r\nstopping\n"));
        assert!(ask(&admin, &get("/healthz")).await.starts_with("HTTP/1.1 200 OK\r\n"));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn its_own_question_gets_the_answer() {
        let (desk, part) = start(PATIENCE);
        let (status, body) = super::ask(desk.address(), "/processes").await.unwrap();
        assert_eq!(status, 200);
        assert_eq!(serde_json::from_str::<Vec<LiveProcess>>(&body).unwrap(), part.processes());
        assert_eq!(super::ask(desk.address(), "/other").await.unwrap().0, 404);
        drop(desk);
        tokio::task::yield_now().await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_client_that_says_nothing_is_cut() {
        let (admin, _part) = start(Duration::from_millis(50));
        assert_eq!(ask(&admin, b"GET /healthz").await, "");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_address_in_use_is_named() {
        let (admin, part) = start(PATIENCE);
        let error = Admin::start(admin.address(), part).err().unwrap().to_string();
        assert!(error.contains(&format!("cannot listen on {}", admin.address())), "{error}");
    }
}
