//! The forward proxy in this process, and what it has recorded.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bodycam_bus::{Record, SpoolConfig};
use bodycam_proxy::admission::Admission;
use bodycam_proxy::clock::Clock;
use bodycam_proxy::http::{HttpConfig, Service};
use bodycam_proxy::identity::{Directory, PrincipalConfig, Roster, token};
use bodycam_proxy::recording::{Producer, ProducerOptions};
use bodycam_proxy::slots::SessionSlots;
use bodycam_proxy::state::SqliteState;
use bodycam_proxy::stop::{Stage, Stop};
use bodycam_record::content::structured::decode_pairs;
use bodycam_record::kinds::Body;
use bodycam_record::kinds::http::{HttpRequest, HttpResponse, HttpTunnelClosed, HttpTunnelOpened};
use bodycam_record::{ContentKind, Digest, SessionId, TenantKey};
use tokio::sync::watch;

use super::spool::records;

const TENANT: [u8; 32] = [7; 32];
/// Longest wait for anything a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A proxy at work. Dropped, it stops.
pub struct Egress {
    pub dir: tempfile::TempDir,
    pub address: SocketAddr,
    directory: Directory,
    state: Arc<SqliteState>,
    drain: watch::Sender<Stage>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What a test may change.
pub struct Custom {
    /// The proxy's directory.
    pub dir: PathBuf,
    pub http: HttpConfig,
    /// Bytes after which the spool is full.
    pub spool_bytes: u64,
    /// Address that clients seem to come from.
    pub peer: Option<IpAddr>,
}

/// An event with its content in clear.
pub struct Seen {
    pub session: SessionId,
    pub seq: i64,
    pub parent: Option<i64>,
    pub body: Body,
    pub content: BTreeMap<ContentKind, Vec<u8>>,
}

impl Egress {
    /// A proxy for the person `ada`, who may reach `egress`, and her agent `robot`, who may too. The names
    /// `*.test` lead to 127.0.0.1.
    pub fn start(egress: &[&str]) -> Self {
        Self::with(egress, |_| {})
    }

    /// As [`Egress::start`], with other settings.
    pub fn with(egress: &[&str], change: impl FnOnce(&mut HttpConfig)) -> Self {
        Self::custom(egress, |custom| change(&mut custom.http))
    }

    /// As [`Egress::start`], with other surroundings.
    pub fn custom(egress: &[&str], change: impl FnOnce(&mut Custom)) -> Self {
        let dir = tempfile::Builder::new().prefix("bodycam-egress-").tempdir().unwrap();
        let mut http = HttpConfig { recheck_seconds: 1, ..HttpConfig::default() };
        for name in ["origin.test", "www.origin.test", "other.test", "packages.test", "git.test"] {
            http.hosts.insert(name.to_owned(), vec!["127.0.0.1".parse().unwrap()]);
        }
        let spool_bytes = SpoolConfig::default().max_bytes;
        let mut custom = Custom { dir: dir.path().to_owned(), http, spool_bytes, peer: None };
        change(&mut custom);
        let Custom { http: config, spool_bytes, peer, .. } = custom;
        let roster = Roster::new(&roster(egress)).unwrap();
        let state = Arc::new(SqliteState::open(&dir.path().join("state.db")).unwrap());
        let tenant = TenantKey::new(TENANT);
        let directory = Directory::new(tenant.clone(), roster, state.clone()).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let drain_time = Duration::from_secs(2);
        let own = vec![address];
        let service = Arc::new(
            Service::new(config, directory.clone(), SessionSlots::default(), own, drain_time).unwrap(),
        );
        let producer = Producer::start(ProducerOptions {
            producer: "gw".to_owned(),
            tenant: "acme".to_owned(),
            tenant_key: tenant,
            spool: SpoolConfig {
                dir: dir.path().join("spool"),
                max_bytes: spool_bytes,
                ..SpoolConfig::default()
            },
            policy_digest: Digest::ZERO,
            config_digest: Digest::ZERO,
            hold_seconds: 1,
            clock: Clock::system(),
        })
        .unwrap();
        let (drain, draining) = watch::channel(Stage::default());
        let thread = std::thread::spawn(move || run(listener, service, producer, draining, peer));
        Self { dir, address, directory, state, drain, thread: Some(thread) }
    }

    /// A token of `principal`.
    pub fn token(&self, principal: &str) -> String {
        self.token_for(principal, Duration::from_secs(3600))
    }

    /// A token of `principal` that expires after `ttl`.
    pub fn token_for(&self, principal: &str, ttl: Duration) -> String {
        let (now, ttl) = (Clock::system().wall_ns(), i64::try_from(ttl.as_nanos()).unwrap());
        let issued = token::issue(&*self.state, &self.directory.roster(), principal, ttl, "test", now);
        issued.unwrap().text.to_string()
    }

    /// Makes `robot` a contractor of ada whose contract ends after `time`.
    pub fn contract(&self, egress: &[&str], time: Duration) {
        let end = i128::from(Clock::system().wall_ns()) + i128::try_from(time.as_nanos()).unwrap();
        let end = jiff::Timestamp::from_nanosecond(end).unwrap().to_string();
        let mut entries = roster(egress);
        let robot = serde_json::json!({
            "name": "robot", "kind": "contractor", "sponsor": "ada", "ends": end, "egress": egress
        });
        entries[1] = serde_json::from_value(robot).unwrap();
        self.directory.set_roster(Roster::new(&entries).unwrap());
    }

    /// Revokes a token.
    pub fn revoke(&self, token: &str) {
        token::revoke(&*self.state, token, Clock::system().wall_ns()).unwrap();
    }

    /// Gives everybody other egress lists.
    pub fn allow_only(&self, egress: &[&str]) {
        self.directory.set_roster(Roster::new(&roster(egress)).unwrap());
    }

    /// What a client puts into `HTTP_PROXY`.
    pub fn url(&self, user: &str, token: &str) -> String {
        format!("http://{user}:{token}@{}", self.address)
    }

    /// A command that knows no proxy but this one.
    pub fn client(&self, program: &str, token: &str) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars() {
            let lower = name.to_ascii_lowercase();
            if lower.ends_with("_proxy") || lower.starts_with("pip_") || lower.starts_with("git_") {
                command.env_remove(name);
            }
        }
        let url = self.url("robot", token);
        for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"] {
            command.env(name, &url);
        }
        command.env("HOME", self.dir.path());
        command
    }

    /// The credential field of `robot`.
    pub fn credential(token: &str) -> String {
        Self::credential_of(&format!("robot:{token}"))
    }

    /// The credential field of `name:secret`.
    pub fn credential_of(pair: &str) -> String {
        use std::fmt::Write as _;
        let mut out = String::from("Proxy-Authorization: Basic ");
        let bytes = pair.as_bytes();
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        for part in bytes.chunks(3) {
            let n = part.iter().chain([&0, &0]).take(3).fold(0u32, |n, b| n << 8 | u32::from(*b));
            for i in 0..4 {
                let six = ALPHABET[(n >> (18 - 6 * i) & 63) as usize];
                let _ = write!(out, "{}", if i <= part.len() { char::from(six) } else { '=' });
            }
        }
        out + "\r\n"
    }

    /// Sends bytes and gives everything that comes back until the proxy closes.
    pub fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        read_to_end(&mut stream)
    }

    /// A connection to the proxy.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Every event recorded so far, in order of session and number.
    pub fn events(&self) -> Vec<Seen> {
        let tenant = TenantKey::new(TENANT);
        let spool = SpoolConfig { dir: self.dir.path().join("spool"), ..SpoolConfig::default() };
        let (mut keys, mut chunks, mut events) = (BTreeMap::new(), Vec::new(), Vec::new());
        for record in records(&spool) {
            match record {
                Record::Event(event) => events.push(*event),
                Record::Chunk(chunk) => chunks.push(chunk),
                Record::Key { session, wrapped } => {
                    keys.insert(session, tenant.unwrap(session, &wrapped).unwrap());
                }
                _ => {}
            }
        }
        let mut seen: Vec<Seen> = events
            .into_iter()
            .map(|event| {
                let (session, no) = (event.envelope.session, event.envelope.content_no);
                let mut content: BTreeMap<ContentKind, Vec<u8>> = BTreeMap::new();
                for chunk in chunks.iter().filter(|c| c.session == session && Some(c.content_no) == no) {
                    let chunk = chunk.open(&keys[&session]).unwrap();
                    content.entry(chunk.kind).or_default().extend_from_slice(&chunk.bytes);
                }
                let body = event.decode_body().unwrap();
                Seen { session, seq: event.envelope.seq, parent: event.envelope.parent_seq, body, content }
            })
            .collect();
        seen.sort_by_key(|e| (e.session, e.seq));
        seen
    }

    /// Waits until the record holds `enough`, and gives the events.
    pub fn wait_for(&self, what: &str, enough: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let events = self.events();
            if enough(&events) {
                return events;
            }
            let kinds: Vec<_> = events.iter().map(|e| e.body.table().name).collect();
            assert!(Instant::now() < deadline, "{what} was not recorded: {kinds:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until `n` sessions are closed, and gives the events.
    pub fn closed(&self, n: usize) -> Vec<Seen> {
        let closed = |e: &&Seen| matches!(e.body, Body::SessionClosed(_));
        self.wait_for("the end of the sessions", |events| events.iter().filter(closed).count() >= n)
    }

    /// Tells the gateway to stop, and waits until it has.
    pub fn stop(&mut self) {
        let _ = self.drain.send(Stage::Draining);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Egress {
    fn drop(&mut self) {
        let _ = self.drain.send(Stage::Draining);
        if let Some(thread) = self.thread.take()
            && !std::thread::panicking()
        {
            thread.join().unwrap();
        }
    }
}

impl Seen {
    /// Its content of one kind as text.
    pub fn text(&self, kind: ContentKind) -> String {
        String::from_utf8_lossy(self.content.get(&kind).map_or(&[][..], Vec::as_slice)).into_owned()
    }

    /// Its content of one kind as names and values.
    pub fn pairs(&self, kind: ContentKind) -> Vec<(String, String)> {
        let pairs = decode_pairs(self.content.get(&kind).map_or(&[][..], Vec::as_slice)).unwrap();
        pairs.into_iter().map(|(n, v)| (n, String::from_utf8_lossy(&v).into_owned())).collect()
    }
}

/// The requests.
pub fn requests(events: &[Seen]) -> Vec<&HttpRequest> {
    events.iter().filter_map(|e| if let Body::HttpRequest(b) = &e.body { Some(b) } else { None }).collect()
}

/// The responses.
pub fn responses(events: &[Seen]) -> Vec<&HttpResponse> {
    events.iter().filter_map(|e| if let Body::HttpResponse(b) = &e.body { Some(b) } else { None }).collect()
}

/// The openings of tunnels.
pub fn opened(events: &[Seen]) -> Vec<&HttpTunnelOpened> {
    events
        .iter()
        .filter_map(|e| if let Body::HttpTunnelOpened(b) = &e.body { Some(b) } else { None })
        .collect()
}

/// The closings of tunnels.
pub fn closed(events: &[Seen]) -> Vec<&HttpTunnelClosed> {
    events
        .iter()
        .filter_map(|e| if let Body::HttpTunnelClosed(b) = &e.body { Some(b) } else { None })
        .collect()
}

/// The reasons of decisions that are neither a request's nor a tunnel's.
pub fn decisions(events: &[Seen]) -> Vec<String> {
    let reason = |e: &Seen| match &e.body {
        Body::ControlDecision(d) => Some(d.reason.clone()),
        _ => None,
    };
    events.iter().filter_map(reason).collect()
}

/// Why sessions were closed.
pub fn close_reasons(events: &[Seen]) -> Vec<String> {
    let reason = |e: &Seen| match &e.body {
        Body::SessionClosed(c) => Some(c.reason.clone()),
        _ => None,
    };
    events.iter().filter_map(reason).collect()
}

/// Everything until the other side closes; a reset ends it too.
pub fn read_to_end(stream: &mut TcpStream) -> String {
    let mut out = Vec::new();
    let mut buf = [0; 65536];
    loop {
        match stream.read(&mut buf) {
            Ok(0) => break,
            Ok(n) => out.extend_from_slice(&buf[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(e) => panic!("{e} after {}", String::from_utf8_lossy(&out)),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A file of a temporary directory.
pub fn file(dir: &tempfile::TempDir, name: &str, content: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, content).unwrap();
    path
}

fn roster(egress: &[&str]) -> Vec<PrincipalConfig> {
    let entry = |value: serde_json::Value| serde_json::from_value(value).unwrap();
    vec![
        entry(serde_json::json!({ "name": "ada", "kind": "person", "egress": egress })),
        entry(serde_json::json!({ "name": "robot", "kind": "agent", "owner": "ada", "egress": egress })),
    ]
}

/// One core of a gateway.
fn run(
    listener: std::net::TcpListener,
    service: Arc<Service>,
    producer: Producer,
    drain: Stop,
    as_if_from: Option<IpAddr>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let lane = producer.lane(0).unwrap();
        let (mut open, mut stop) = (tokio::task::JoinSet::new(), drain.clone());
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (stream, mut peer) = accepted.unwrap();
                    as_if_from.iter().for_each(|ip| peer.set_ip(*ip));
                    let (service, lane, drain) = (Arc::clone(&service), lane.clone(), drain.clone());
                    open.spawn_local(async move {
                        service.serve(stream, peer, &lane, drain, &Admission::default()).await
                    });
                }
                _ = stop.wait_for(|stage| *stage >= Stage::Draining) => break,
            }
        }
        while let Some(done) = open.join_next().await {
            done.unwrap();
        }
    });
    // A full spool takes no STOP either.
    let _ = producer.stop("drain");
}

/// A server that hands every connection to `serve` on a thread of its own.
pub fn origin(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// A server that answers every connection's first head with `response` at once, and tells what arrived.
pub fn scripted(response: &'static [u8]) -> (SocketAddr, mpsc::Receiver<Vec<u8>>) {
    let (tell, told) = mpsc::channel();
    let address = origin(move |mut stream| {
        let mut got = Vec::new();
        let mut buf = [0; 65536];
        while !got.windows(4).any(|w| w == b"\r\n\r\n") {
            match stream.read(&mut buf) {
                Ok(n @ 1..) => got.extend_from_slice(&buf[..n]),
                _ => break,
            }
        }
        let _ = stream.write_all(response);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        while let Ok(n @ 1..) = stream.read(&mut buf) {
            got.extend_from_slice(&buf[..n]);
        }
        let _ = tell.send(got);
    });
    (address, told)
}
