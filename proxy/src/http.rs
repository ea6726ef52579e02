//! Egress over HTTP/1.1: a forward proxy for requests in absolute form and for CONNECT tunnels.
//!
//! One connection is one principal and one session; every request and every tunnel is one event before its
//! bytes leave. Invariant: nothing reaches a destination that is not in the principal's host list, and no
//! connection goes to an address that was not judged.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::admission::Admission;
use crate::identity::{Directory, PrincipalConfig, Refusals, Roster, RosterError};
use crate::recording::Lane;
use crate::slots::SessionSlots;
use crate::stop::Stop;
use crate::tls::ListenerTls;

pub mod codec;
pub mod hosts;
mod inspect;
mod relay;
pub mod upstream;

use codec::authority::Host;
use codec::fields::Limits;
use hosts::{HostRule, HostRuleError};
use upstream::dial::Dialer;

/// `[http]` in `bodycam.toml`: the forward proxy for egress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Address that clients name in `HTTP_PROXY` and `HTTPS_PROXY`.
    pub listen: SocketAddr,
    /// Name of this listener: the target of its sessions in the record.
    pub name: String,
    /// Addresses of names that the system's resolver does not know, or must not be asked for. They are judged like resolved ones. Each name must be in the egress list of some principal.
    pub hosts: BTreeMap<String, Vec<IpAddr>>,
    /// Encryption of the client's side: clients then name the proxy with `https://`. Without it they connect in clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// Whether a token in clear is taken from an address that is not loopback: for networks that nobody else can listen on.
    pub allow_cleartext: bool,
    /// Connections through the proxy that one principal may have open at the same time, unless its own `max_sessions` says otherwise.
    pub max_sessions_per_principal: u32,
    /// Bytes of a request or response head.
    pub max_head_bytes: usize,
    /// Fields of a request or response head.
    pub max_head_fields: usize,
    /// Bytes of a request target.
    pub max_url_bytes: usize,
    /// Seconds in which a client must have sent a whole head, the first one counted from the connection.
    pub head_seconds: u64,
    /// Seconds that a connection may wait for its next request.
    pub idle_seconds: u64,
    /// Seconds that a body may stand still, on either side.
    pub stall_seconds: u64,
    /// Seconds that a target may take to answer a whole request.
    pub response_seconds: u64,
    /// Seconds that a tunnel may stand still.
    pub tunnel_idle_seconds: u64,
    /// Seconds for resolving a name.
    pub resolve_seconds: u64,
    /// Seconds for connecting to a target.
    pub connect_seconds: u64,
    /// Seconds between two looks at whether a session's principal is still valid, at most 60.
    pub recheck_seconds: u64,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 3128),
            name: "egress".to_owned(),
            hosts: BTreeMap::new(),
            tls: None,
            allow_cleartext: false,
            max_sessions_per_principal: 256,
            max_head_bytes: Limits::default().bytes,
            max_head_fields: Limits::default().fields,
            max_url_bytes: Limits::default().url,
            head_seconds: 10,
            idle_seconds: 120,
            stall_seconds: 60,
            response_seconds: 300,
            tunnel_idle_seconds: 900,
            resolve_seconds: 5,
            connect_seconds: 10,
            recheck_seconds: 60,
        }
    }
}

/// Encryption of the client's side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// File with the certificate chain (PEM).
    pub cert: PathBuf,
    /// File with the private key (PEM).
    pub key: PathBuf,
}

/// A setting that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HttpConfigError {
    /// In `[http]`.
    #[error("[http] {setting}: {problem}")]
    Setting { setting: &'static str, problem: String },
    /// In `[[principals]]`.
    #[error("principal '{principal}': {source}")]
    Rule { principal: String, source: HostRuleError },
    /// An agent that could reach nothing.
    #[error(
        "principal '{agent}', field 'egress': no host in it is also in that of its owner '{owner}'; an agent reaches what both may: list something of its owner's, or remove it"
    )]
    Disjoint { agent: String, owner: String },
    /// The roster itself.
    #[error(transparent)]
    Roster(#[from] RosterError),
}

/// What the forward proxy has done since it started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Connections refused before a session: limits, heads, credentials.
    pub refused: AtomicU64,
    /// Requests and tunnels that left.
    pub allowed: AtomicU64,
    /// Requests and tunnels that were denied.
    pub denied: AtomicU64,
    /// Bytes from clients.
    pub bytes_in: AtomicU64,
    /// Bytes to clients.
    pub bytes_out: AtomicU64,
}

/// The forward proxy: one in a process, shared by all cores.
pub struct Service {
    config: HttpConfig,
    directory: Directory,
    slots: SessionSlots,
    dialer: Dialer,
    drain: Duration,
    tls: Option<TlsAcceptor>,
    counters: Counters,
    refusals: Refusals,
    open: AtomicUsize,
}

impl HttpConfig {
    /// Relative paths lie below `base`.
    pub fn rebase(&mut self, base: &Path) {
        if let Some(tls) = &mut self.tls {
            tls.cert = base.join(&tls.cert);
            tls.key = base.join(&tls.key);
        }
    }

    /// Whether every setting, and every egress rule of the principals, can be meant.
    pub fn check(&self, principals: &[PrincipalConfig]) -> Result<(), HttpConfigError> {
        rules_of(principals)?;
        self.check_settings()
    }

    /// Whether every egress rule of the principals, and every known host, leads somewhere. Agents without access at
    /// `now_ns` may have what leads nowhere: rosters keep them.
    pub fn check_effect(&self, principals: &[PrincipalConfig], now_ns: i64) -> Result<(), HttpConfigError> {
        let lists = rules_of(principals)?;
        for principal in principals {
            let rules = lists.get(principal.name.as_str()).map(Vec::as_slice).unwrap_or_default();
            let twice = rules.iter().zip(&principal.egress).enumerate();
            let twice =
                twice.into_iter().find(|(at, (rule, _))| rules.iter().take(*at).any(|other| other == *rule));
            if let Some((_, (_, text))) = twice {
                let problem = "appears twice in the list; remove one of them".to_owned();
                let source = HostRuleError { rule: bodycam_record::shown(text), problem };
                return Err(HttpConfigError::Rule {
                    principal: bodycam_record::shown(&principal.name),
                    source,
                });
            }
        }
        let roster = Roster::new(principals)?;
        for principal in principals {
            let (Some(own), Some(owner)) = (lists.get(principal.name.as_str()), principal.owner.as_deref())
            else {
                continue;
            };
            if roster.standing(&principal.name, now_ns).is_err() {
                continue;
            }
            let theirs = lists.get(owner).map(Vec::as_slice).unwrap_or_default();
            if !own.is_empty() && !own.iter().any(|rule| theirs.iter().any(|other| rule.meets(other))) {
                let (agent, owner) = (&principal.name, owner);
                let (agent, owner) = (bodycam_record::shown(agent), bodycam_record::shown(owner));
                return Err(HttpConfigError::Disjoint { agent, owner });
            }
        }
        self.check_hosts_asked_for(principals, &lists)
    }

    /// Refuses known hosts that no principal may reach, whose rules are in `lists`: nobody asks for their addresses.
    fn check_hosts_asked_for(
        &self,
        principals: &[PrincipalConfig],
        lists: &HashMap<&str, Vec<HostRule>>,
    ) -> Result<(), HttpConfigError> {
        for name in self.known_hosts()?.keys() {
            let rules = |principal: &str| {
                let list = lists.get(principal).map(Vec::as_slice).unwrap_or_default();
                list.iter().filter(|rule| rule.has_name(name))
            };
            let asked = principals.iter().any(|principal| {
                let mut own = rules(&principal.name);
                match principal.owner.as_deref() {
                    None => own.next().is_some(),
                    Some(owner) => own.any(|rule| rules(owner).any(|other| rule.meets(other))),
                }
            });
            if !asked {
                let problem = format!(
                    "'{}' is a name that no principal may reach, so that nobody asks for its addresses; list it in \
                     somebody's egress, or remove it",
                    bodycam_record::shown(name)
                );
                return Err(HttpConfigError::Setting { setting: "hosts", problem });
            }
        }
        Ok(())
    }

    /// Whether what the settings refer to can be read: certificate and private key.
    pub fn check_files(&self) -> Result<(), HttpConfigError> {
        self.listener_tls().map(drop)
    }

    fn listener_tls(&self) -> Result<Option<ListenerTls>, HttpConfigError> {
        let listener = self.tls.as_ref().map(|tls| ListenerTls::read(&tls.cert, &tls.key, b"http/1.1"));
        listener.transpose().map_err(|problem| HttpConfigError::Setting { setting: "tls", problem })
    }

    fn check_settings(&self) -> Result<(), HttpConfigError> {
        let fault = |setting, problem: String| Err(HttpConfigError::Setting { setting, problem });
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.name.is_empty() || self.name.len() > 63 || !self.name.chars().all(plain) {
            return fault("name", "must be 1 to 63 of the characters A-Z a-z 0-9 . _ -".to_owned());
        }
        for (setting, value) in [
            ("max_sessions_per_principal", self.max_sessions_per_principal as usize),
            ("max_head_fields", self.max_head_fields),
        ] {
            if value == 0 {
                return fault(
                    setting,
                    "0 would let nothing through; remove [http] to switch it off".to_owned(),
                );
            }
        }
        for (setting, value) in
            [("max_head_bytes", self.max_head_bytes), ("max_url_bytes", self.max_url_bytes)]
        {
            if !(256..=1 << 20).contains(&value) {
                return fault(setting, format!("{value} is not between 256 and {}", 1 << 20));
            }
        }
        if self.max_url_bytes > self.max_head_bytes {
            return fault("max_url_bytes", "is larger than max_head_bytes, which already cuts it".to_owned());
        }
        for (setting, value, most) in [
            ("head_seconds", self.head_seconds, 300),
            ("idle_seconds", self.idle_seconds, 86_400),
            ("stall_seconds", self.stall_seconds, 86_400),
            ("response_seconds", self.response_seconds, 86_400),
            ("tunnel_idle_seconds", self.tunnel_idle_seconds, 86_400),
            ("resolve_seconds", self.resolve_seconds, 300),
            ("connect_seconds", self.connect_seconds, 300),
            ("recheck_seconds", self.recheck_seconds, 60),
        ] {
            if !(1..=most).contains(&value) {
                return fault(setting, format!("{value} is not between 1 and {most}"));
            }
        }
        if !self.listen.ip().is_loopback() && self.tls.is_none() && !self.allow_cleartext {
            let problem = "tokens would travel in clear: set tls, or allow_cleartext = true on a network that nobody else can listen on";
            return fault("listen", problem.to_owned());
        }
        if self.listen.ip().is_loopback() && self.allow_cleartext {
            let problem = "does nothing: only this machine reaches the listener; remove it";
            return fault("allow_cleartext", problem.to_owned());
        }
        self.known_hosts().map(|_| ())
    }

    /// The addresses by canonical name.
    fn known_hosts(&self) -> Result<BTreeMap<String, Vec<IpAddr>>, HttpConfigError> {
        let mut known = BTreeMap::new();
        for (name, addresses) in &self.hosts {
            let fault = |what: &str| HttpConfigError::Setting {
                setting: "hosts",
                problem: format!("'{}' {what}", bodycam_record::shown(name)),
            };
            let Ok(Host::Name(canonical)) = Host::parse(name.as_bytes()) else {
                return Err(fault("is not a host name"));
            };
            if addresses.is_empty() {
                return Err(fault("has no address; remove it, or list one"));
            }
            let addresses = addresses.iter().map(IpAddr::to_canonical).collect();
            if known.insert(canonical, addresses).is_some() {
                return Err(fault("appears twice"));
            }
        }
        Ok(known)
    }

    fn head_limits(&self) -> Limits {
        Limits { bytes: self.max_head_bytes, fields: self.max_head_fields, url: self.max_url_bytes }
    }
}

impl Service {
    /// A forward proxy. `own` are the addresses that this process listens on, whatever the protocol: no client
    /// reaches them through it. `drain` is how long the gateway waits for sessions when it stops.
    pub fn new(
        config: HttpConfig,
        directory: Directory,
        slots: SessionSlots,
        own: Vec<SocketAddr>,
        drain: Duration,
    ) -> Result<Self, HttpConfigError> {
        config.check_settings()?;
        let resolve = Duration::from_secs(config.resolve_seconds);
        let connect = Duration::from_secs(config.connect_seconds);
        let dialer = Dialer::new(config.known_hosts()?.into_iter().collect(), own, resolve, connect);
        let (counters, refusals, open) = (Counters::default(), Refusals::default(), AtomicUsize::new(0));
        // What goes on until then is cut and recorded in the last second, before the gateway drops it.
        let drain = drain.saturating_sub(Duration::from_secs(1)).max(drain / 2);
        let tls = config.listener_tls()?.map(|tls| tls.acceptor);
        Ok(Self { config, directory, slots, dialer, drain, tls, counters, refusals, open })
    }

    /// The settings.
    pub fn config(&self) -> &HttpConfig {
        &self.config
    }

    /// What was done so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The text that Prometheus scrapes.
    pub fn prometheus(&self) -> String {
        use std::fmt::Write as _;
        let c = &self.counters;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let open = self.open.load(Ordering::Relaxed) as u64;
        let mut out = String::new();
        for (name, kind, help, rows) in [
            ("connections_total", "counter", "Connections accepted.", &[("", load(&c.connections))][..]),
            ("connections_open", "gauge", "Connections open now.", &[("", open)]),
            ("refused_total", "counter", "Connections refused before a session.", &[("", load(&c.refused))]),
            (
                "requests_total",
                "counter",
                "Requests and tunnels.",
                &[("{verdict=\"allow\"}", load(&c.allowed)), ("{verdict=\"deny\"}", load(&c.denied))],
            ),
            (
                "bytes_total",
                "counter",
                "Bytes from and to clients, of sessions that are over.",
                &[("{direction=\"in\"}", load(&c.bytes_in)), ("{direction=\"out\"}", load(&c.bytes_out))],
            ),
        ] {
            let _ = writeln!(out, "# HELP bodycam_http_{name} {help}\n# TYPE bodycam_http_{name} {kind}");
            for (labels, value) in rows {
                let _ = writeln!(out, "bodycam_http_{name}{labels} {value}");
            }
        }
        out
    }

    /// Serves one connection to its end, which `stop` may bring about; `admission` is told when the client has
    /// logged in.
    pub async fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        lane: &Lane,
        stop: Stop,
        admission: &Admission,
    ) {
        self.counters.connections.fetch_add(1, Ordering::Relaxed);
        let _place = Place::take(self);
        relay::serve(self, stream, peer, lane, stop, admission).await;
    }
}

/// A connection's place in the count.
struct Place<'a>(&'a Service);

impl<'a> Place<'a> {
    fn take(service: &'a Service) -> Self {
        service.open.fetch_add(1, Ordering::Relaxed);
        Self(service)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The egress rules of each principal.
fn rules_of(principals: &[PrincipalConfig]) -> Result<HashMap<&str, Vec<HostRule>>, HttpConfigError> {
    let rules = |principal: &PrincipalConfig| {
        let parsed: Result<Vec<_>, _> = principal.egress.iter().map(|text| HostRule::parse(text)).collect();
        parsed.map_err(|source| HttpConfigError::Rule {
            principal: bodycam_record::shown(&principal.name),
            source,
        })
    };
    principals.iter().map(|principal| Ok((principal.name.as_str(), rules(principal)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    impl HttpConfig {
        /// Both checks, at the beginning of time.
        fn check_all(&self, principals: &[PrincipalConfig]) -> Result<(), HttpConfigError> {
            self.check(principals).and_then(|()| self.check_effect(principals, 0))
        }
    }

    #[test]
    fn the_default_settings_are_valid_and_unknown_ones_are_refused() {
        HttpConfig::default().check_all(&[]).unwrap();
        let config: HttpConfig =
            toml::from_str("listen = \"127.0.0.1:3128\"\nhosts.\"A.example\" = [\"10.0.0.1\"]").unwrap();
        config.check_settings().unwrap();
        assert!(toml::from_str::<HttpConfig>("liste = \"127.0.0.1:3128\"").is_err());
    }

    #[test]
    fn a_setting_that_cannot_be_meant_is_named() {
        for (text, setting) in [
            ("name = \"\"", "name"),
            ("name = \"a b\"", "name"),
            ("max_head_fields = 0", "max_head_fields"),
            ("listen = \"0.0.0.0:3128\"", "listen"),
            ("allow_cleartext = true", "allow_cleartext"),
            ("max_head_bytes = 10", "max_head_bytes"),
            ("max_head_bytes = 1024", "max_url_bytes"),
            ("recheck_seconds = 61", "recheck_seconds"),
            ("idle_seconds = 0", "idle_seconds"),
            ("hosts.\"10.0.0.1\" = [\"10.0.0.1\"]", "hosts"),
            ("hosts.\"a.example\" = []", "hosts"),
            ("hosts.\"a.example\" = [\"::1\"]\nhosts.\"A.example.\" = [\"::1\"]", "hosts"),
        ] {
            let config: HttpConfig = toml::from_str(text).unwrap();
            let error = config.check_all(&[]).unwrap_err();
            assert!(
                matches!(error, HttpConfigError::Setting { setting: named, .. } if named == setting),
                "{text}: {error}"
            );
        }
        let principal = "name = \"ada\"\nkind = \"person\"\negress = [\"*.com\"]";
        let error = HttpConfig::default().check_all(&[toml::from_str(principal).unwrap()]).unwrap_err();
        let want =
            "principal 'ada': egress rule '*.com': a wildcard needs at least two labels, as *.example.com";
        assert_eq!(error.to_string(), want);
    }

    #[test]
    fn an_agent_that_could_reach_nothing_is_named() {
        let text = |agent: &str| {
            format!(
                "[[p]]\nname = \"ada\"\nkind = \"person\"\negress = [\"*.example.com\"]\n[[p]]\nname = \"robot\"\nkind = \"agent\"\nowner = \"ada\"\negress = {agent}"
            )
        };
        let check = |agent: &str| {
            let mut parsed: HashMap<String, Vec<PrincipalConfig>> = toml::from_str(&text(agent)).unwrap();
            HttpConfig::default().check_all(&parsed.remove("p").unwrap())
        };
        for good in [
            "[]",
            "[\"api.example.com\"]",
            "[\"other.test\", \"api.example.com\"]",
            "[\"other.test\"]\ndisabled = true",
        ] {
            check(good).unwrap();
        }
        for bad in ["[\"other.test\"]", "[\"example.com\", \"api.example.com:22\"]"] {
            let error = check(bad).unwrap_err().to_string();
            assert!(
                error.contains("principal 'robot', field 'egress'") && error.contains("'ada'"),
                "{error}"
            );
        }
    }

    fn principals(text: &str) -> Vec<PrincipalConfig> {
        toml::from_str::<HashMap<String, Vec<PrincipalConfig>>>(text).unwrap().remove("p").unwrap()
    }

    #[test]
    fn a_host_that_is_listed_twice_is_named_however_it_is_spelled() {
        let check = |egress: &str| {
            let text = format!("[[p]]\nname = \"ada\"\nkind = \"person\"\negress = {egress}");
            HttpConfig::default().check_all(&principals(&text))
        };
        for (twice, named) in [
            ("[\"a.example\", \"b.example\", \"a.example\"]", "'a.example': appears twice"),
            ("[\"a.example\", \"A.example.\"]", "'A.example.': appears twice"),
            ("[\"10.0.0.1:80\", \"10.0.0.1/32:80\"]", "'10.0.0.1/32:80': appears twice"),
        ] {
            let error = check(twice).unwrap_err().to_string();
            assert!(error.contains("principal 'ada'") && error.contains(named), "{error}");
        }
        for once in ["[\"a.example:22\", \"opaque:a.example:22\"]", "[\"a.example\", \"a.example:443\"]"] {
            check(once).unwrap();
        }
    }

    #[test]
    fn a_known_host_that_nobody_may_reach_is_named() {
        let check = |host: &str, ada: &str, robot: &str| {
            let config: HttpConfig = toml::from_str(&format!("hosts.\"{host}\" = [\"10.0.0.1\"]")).unwrap();
            let text = format!(
                "[[p]]\nname = \"ada\"\nkind = \"person\"\negress = [{ada}]\n[[p]]\nname = \"robot\"\nkind = \"agent\"\nowner = \"ada\"\negress = [{robot}]"
            );
            config.check_all(&principals(&text)).map_err(|error| error.to_string())
        };
        for (host, ada, robot) in [
            ("other.example.com", "\"api.example.com\"", ""),
            ("example.com", "\"*.example.com\"", ""),
            ("api.example.com", "\"10.0.0.0/8\"", ""),
            // What the agent alone lists, it does not reach.
            ("api.example.com", "\"www.example.com\"", "\"api.example.com\", \"www.example.com\""),
        ] {
            let error = check(host, ada, robot).unwrap_err();
            assert!(error.starts_with(&format!("[http] hosts: '{host}' is a name that no")), "{error}");
        }
        for (host, ada, robot) in [
            ("API.example.com.", "\"api.example.com:22\"", ""),
            ("a.b.example.com", "\"*.example.com\"", "\"a.b.example.com\""),
        ] {
            check(host, ada, robot).unwrap();
        }
    }
}
