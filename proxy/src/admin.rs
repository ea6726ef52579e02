//! Health and metrics: `/healthz`, `/readyz` and `/metrics` on a listener of their own.
//!
//! Parts of the process register checks and metrics; this file only asks them. Invariant: nothing here changes
//! anything, and nothing from a session (no name, no address, no byte of payload) is in an answer.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::BytesMut;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::http::Service;
use crate::http::codec::fields::Limits;
use crate::http::codec::head::{RequestHead, request_scanner};
use crate::recording::Producer;

/// Head of a request here.
const LIMITS: Limits = Limits { bytes: 8 << 10, fields: 64, url: 1 << 10 };
/// A request and its answer take at most this long.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections served at the same time; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 64;

/// `[admin]` in `bodycam.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Address of `/healthz`, `/readyz` and `/metrics`. They ask for no credentials: keep it on loopback or on a network of your own.
    pub listen: SocketAddr,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464) }
    }
}

type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;
type Source = Box<dyn Fn(&mut Metrics) + Send + Sync>;

/// What the parts of the process have registered.
pub struct Admin {
    patience: Duration,
    checks: Vec<(&'static str, Check)>,
    sources: Vec<Source>,
}

/// Metrics in the Prometheus text format (version 0.0.4).
#[derive(Debug, Default)]
pub struct Metrics {
    text: String,
    last: String,
}

impl Default for Admin {
    fn default() -> Self {
        Self { patience: PATIENCE, checks: Vec::new(), sources: Vec::new() }
    }
}

impl Admin {
    /// Adds a part that must be ready; its problem says what is wrong and what to do.
    pub fn check(
        mut self,
        part: &'static str,
        ready: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.checks.push((part, Box::new(ready)));
        self
    }

    /// Adds a part that has metrics.
    pub fn metrics(mut self, source: impl Fn(&mut Metrics) + Send + Sync + 'static) -> Self {
        self.sources.push(Box::new(source));
        self
    }

    /// Answers until `stop` turns true. From the first moment of a drain on `/readyz` says no, so that load
    /// balancers send nobody here any more.
    pub async fn serve(
        self,
        listener: TcpListener,
        drain: watch::Receiver<bool>,
        mut stop: watch::Receiver<bool>,
    ) {
        let admin = Arc::new(self);
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = async { drop(stop.wait_for(|s| *s).await) } => return,
                Some(_) = open.join_next() => {}
                accepted = listener.accept(), if open.len() < MAX_CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        let (admin, draining) = (Arc::clone(&admin), *drain.borrow());
                        open.spawn(async move {
                            let _ = timeout(admin.patience, admin.answer(stream, draining)).await;
                        });
                    }
                    // Out of descriptors: wait for some to come back.
                    Err(error) => {
                        tracing::warn!(event = "admin_accept_failed", error = %error, "waiting");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }

    /// One request, one answer, close.
    async fn answer(&self, mut stream: TcpStream, draining: bool) {
        let (mut buf, mut scanner) = (BytesMut::new(), request_scanner());
        let answer = loop {
            match RequestHead::read(&mut scanner, &buf, LIMITS) {
                Err(error) => break answer(error.status(), "text/plain", &format!("{error}\n"), ""),
                Ok(Some(head)) => break self.route(&head, draining),
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

    fn route(&self, head: &RequestHead, draining: bool) -> Vec<u8> {
        let method = head.method.as_str();
        if !matches!(method, "GET" | "HEAD") {
            return answer(405, "text/plain", "only GET and HEAD\n", method);
        }
        match head.target.split(|b| *b == b'?').next().unwrap_or_default() {
            b"/healthz" => answer(200, "text/plain", "ok\n", method),
            b"/readyz" => match self.problems(draining) {
                problems if problems.is_empty() => answer(200, "text/plain", "ready\n", method),
                problems => answer(503, "text/plain", &problems, method),
            },
            b"/metrics" => answer(200, "text/plain; version=0.0.4", &self.collect(), method),
            _ => answer(404, "text/plain", "there are /healthz, /readyz and /metrics\n", method),
        }
    }

    fn problems(&self, draining: bool) -> String {
        let mut problems = String::new();
        if draining {
            problems.push_str("gateway: stopping\n");
        }
        for (part, check) in &self.checks {
            if let Err(problem) = check() {
                let _ = writeln!(problems, "{part}: {}", bodycam_record::shown(&problem));
            }
        }
        problems
    }

    fn collect(&self) -> String {
        let mut metrics = Metrics::default();
        for source in &self.sources {
            source(&mut metrics);
        }
        metrics.text
    }
}

impl Metrics {
    /// A number that only grows; its name ends with `_total`.
    pub fn counter(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: u64) {
        self.put(name, help, "counter", labels, &value.to_string());
    }

    /// A number that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        self.put(name, help, "gauge", labels, &value.to_string());
    }

    /// Metrics that are already in the text format.
    pub fn text_of(&mut self, text: &str) {
        self.text.push_str(text);
        self.last.clear();
    }

    /// The text so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn put(&mut self, name: &str, help: &str, kind: &str, labels: &[(&str, &str)], value: &str) {
        if self.last != name {
            let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            self.last = name.to_owned();
        }
        self.text.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{}{label}=\"{text}\"", if i == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.text, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

/// The metrics of a producer: sessions, events, spool.
pub fn producer_metrics(producer: &Producer, out: &mut Metrics) {
    let counters = producer.counters();
    for (name, help, value) in [
        ("bodycam_sessions_accepted_total", "Sessions opened.", &counters.accepted),
        ("bodycam_sessions_refused_total", "Connections refused before a session.", &counters.refused),
        ("bodycam_events_total", "Events recorded.", &counters.events),
        ("bodycam_spool_held_total", "Tries on a spool that refused.", &counters.held),
    ] {
        out.counter(name, help, &[], value.load(Relaxed));
    }
    let open = producer.open_sessions() as f64;
    out.gauge("bodycam_sessions_open", "Sessions open now.", &[], open);
    let bytes = producer.spool_bytes() as f64;
    out.gauge("bodycam_spool_bytes", "Bytes in the spool that wait for the recorder.", &[], bytes);
}

/// The metrics of the forward proxy.
pub fn http_metrics(service: &Service, out: &mut Metrics) {
    let counters = service.counters();
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Relaxed);
    out.counter(
        "bodycam_http_connections_total",
        "Connections to the forward proxy.",
        &[],
        load(&counters.connections),
    );
    out.counter(
        "bodycam_http_refused_total",
        "Connections refused before a session.",
        &[],
        load(&counters.refused),
    );
    for (verdict, counter) in [("allow", &counters.allowed), ("deny", &counters.denied)] {
        let help = "Requests and tunnels by verdict.";
        out.counter("bodycam_http_requests_total", help, &[("verdict", verdict)], load(counter));
    }
    for (direction, counter) in [("in", &counters.bytes_in), ("out", &counters.bytes_out)] {
        let help = "Bytes from and to clients, of sessions that are over.";
        out.counter("bodycam_http_bytes_total", help, &[("direction", direction)], load(counter));
    }
    let open = service.open_connections() as f64;
    out.gauge("bodycam_http_connections_open", "Connections to the forward proxy open now.", &[], open);
}

fn answer(status: u16, ty: &str, body: &str, method: &str) -> Vec<u8> {
    let phrase = match status {
        200 => "OK",
        404 => "Not Found",
        405 => "Method Not Allowed",
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
    use std::sync::atomic::AtomicBool;

    async fn ask(address: SocketAddr, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test(flavor = "current_thread")]
    async fn health_readiness_and_metrics_are_answered_and_nothing_else() {
        let broken = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&broken);
        let admin = Admin::default()
            .check(
                "spool",
                move || if seen.load(Relaxed) { Err("full\u{1b}[31m".to_owned()) } else { Ok(()) },
            )
            .metrics(|out| {
                out.counter("a_total", "A.", &[("k", "x\"y\n")], 1);
                out.counter("a_total", "A.", &[("k", "z")], 2);
                out.gauge("b", "B.", &[], 1.5);
            });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (drain, draining) = watch::channel(false);
        let (stop, stopping) = watch::channel(false);
        let serving = tokio::spawn(admin.serve(listener, draining, stopping));
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes();

        assert!(ask(address, &get("/healthz")).await.starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(ask(address, &get("/readyz?verbose")).await.ends_with("\r\n\r\nready\n"));
        let metrics = ask(address, &get("/metrics")).await;
        let want = "# HELP a_total A.\n# TYPE a_total counter\na_total{k=\"x\\\"y\\n\"} 1\na_total{k=\"z\"} 2\n\
                    # HELP b B.\n# TYPE b gauge\nb 1.5\n";
        assert!(metrics.ends_with(want), "{metrics}");
        assert!(ask(address, b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.ends_with("close\r\n\r\n"));
        assert!(
            ask(address, b"POST /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.starts_with("HTTP/1.1 405 ")
        );
        assert!(ask(address, &get("/secrets")).await.starts_with("HTTP/1.1 404 "));
        assert!(ask(address, b"GET /metrics HTTP/1.1\n\n").await.starts_with("HTTP/1.1 400 "));

        broken.store(true, Relaxed);
        let problem = ask(address, &get("/readyz")).await;
        assert!(
            problem.starts_with("HTTP/1.1 503 ") && problem.ends_with("\r\n\r\nspool: full\\x1b[31m\n"),
            "{problem}"
        );
        broken.store(false, Relaxed);
        drain.send(true).unwrap();
        assert!(ask(address, &get("/readyz")).await.ends_with("gateway: stopping\n"));
        assert!(ask(address, &get("/healthz")).await.starts_with("HTTP/1.1 200 OK\r\n"));
        stop.send(true).unwrap();
        serving.await.unwrap();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_client_that_says_nothing_is_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_drain, draining) = watch::channel(false);
        let (_stop, stopping) = watch::channel(false);
        let admin = Admin { patience: Duration::from_millis(100), ..Admin::default() };
        tokio::spawn(admin.serve(listener, draining, stopping));
        assert_eq!(ask(address, b"GET /healthz").await, "");
    }
}
