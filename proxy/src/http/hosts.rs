//! Which hosts a principal may reach: its list in the roster, and the lists of those who answer for it.
//!
//! Nothing is allowed that no rule names. Invariant: a name rule never opens an address that is not public, and
//! an address rule never opens a name; a destination inside needs both.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bodycam_record::shown;
use thiserror::Error;

use super::codec::authority::{Authority, Host, parse_port};
use super::upstream::address::AddressClass;
use crate::identity::roster::Member;

/// Ports of a rule that names none.
const DEFAULT_PORTS: [u16; 2] = [80, 443];

/// What stands before a rule whose tunnels may carry anything.
const OPAQUE: &str = "opaque:";

/// One rule: `host`, `*.host`, `address` or `network/bits`, each with or without `:port` or `:*`. With `opaque:`
/// before it a tunnel there may carry anything; without, only TLS that names the host in clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRule {
    destination: Destination,
    ports: Ports,
    opaque: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ports {
    Default,
    Only(u16),
    Any,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Destination {
    /// Exactly this name.
    Name(String),
    /// Every name below this one, not itself.
    Below(String),
    /// Addresses that share the first bits.
    Network(IpAddr, u8),
}

/// A rule that would not do what it says.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("egress rule '{rule}': {problem}")]
pub struct HostRuleError {
    /// The rule, safe to show.
    pub rule: String,
    /// What is wrong and what to write instead.
    pub problem: String,
}

/// The rules of a principal and of everyone who answers for it.
#[derive(Debug, Clone)]
pub struct HostLists {
    lists: Vec<HostList>,
}

#[derive(Debug, Clone)]
struct HostList {
    principal: Arc<str>,
    rules: Vec<HostRule>,
}

impl HostRule {
    /// Reads a rule.
    pub fn parse(text: &str) -> Result<Self, HostRuleError> {
        let fault = |problem: &str| HostRuleError { rule: shown(text), problem: problem.to_owned() };
        let (opaque, rule) = match text.strip_prefix(OPAQUE) {
            Some(rule) => (true, rule),
            None => (false, text),
        };
        let (host, port) = split_port(rule);
        let ports = match port {
            None => Ports::Default,
            Some("*") => Ports::Any,
            Some(port) => Ports::Only(
                parse_port(port.as_bytes())
                    .map_err(|_| fault("the port is neither a number from 1 to 65535 nor *"))?,
            ),
        };
        let destination = if let Some((address, bits)) = host.split_once('/') {
            network(address, bits).map_err(|problem| fault(&problem))?
        } else if let Some(parent) = host.strip_prefix("*.") {
            match Host::parse(parent.as_bytes()) {
                Ok(Host::Name(name)) if !name.contains('.') => {
                    return Err(fault("a wildcard needs at least two labels, as *.example.com"));
                }
                Ok(Host::Name(name)) if is_public_suffix(&name) => {
                    return Err(fault(
                        "anybody can have a name below it; name the hosts, as app.example.co.uk, or *.example.co.uk",
                    ));
                }
                Ok(Host::Name(name)) => Destination::Below(name),
                _ => return Err(fault("what follows '*.' is not a host name")),
            }
        } else if host.contains('*') {
            return Err(fault("'*' stands only at the start, as *.example.com"));
        } else {
            match parse_host(host) {
                Some(Host::Name(name)) => Destination::Name(name),
                Some(Host::Address(address)) => Destination::Network(address, full_bits(address)),
                None => return Err(fault("it is neither a host name, *.name, an address nor a network")),
            }
        };
        if let Destination::Network(address, _) = destination
            && AddressClass::of(address) == AddressClass::Unusable
            && host.parse::<IpAddr>().is_ok()
        {
            return Err(fault("no connection leads to such an address; remove the rule"));
        }
        Ok(Self { destination, ports, opaque })
    }

    /// Whether there is anything that this rule and the other one both open.
    pub fn meets(&self, other: &Self) -> bool {
        let ports = match (self.ports, other.ports) {
            (Ports::Any, _) | (_, Ports::Any) | (Ports::Default, Ports::Default) => true,
            (Ports::Only(only), _) => other.has_port(only),
            (_, Ports::Only(only)) => self.has_port(only),
        };
        let within = |name: &str, parent: &str| {
            name.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        ports
            && match (&self.destination, &other.destination) {
                (Destination::Name(a), Destination::Name(b)) => a == b,
                (Destination::Name(name), Destination::Below(parent))
                | (Destination::Below(parent), Destination::Name(name)) => {
                    name != parent && within(name, parent)
                }
                (Destination::Below(a), Destination::Below(b)) => within(a, b) || within(b, a),
                (Destination::Network(a, a_bits), Destination::Network(b, b_bits)) => {
                    let bits = *a_bits.min(b_bits);
                    a.is_ipv4() == b.is_ipv4() && base(*a, bits) == base(*b, bits)
                }
                _ => false,
            }
    }

    fn has_port(&self, port: u16) -> bool {
        match self.ports {
            Ports::Default => DEFAULT_PORTS.contains(&port),
            Ports::Only(only) => only == port,
            Ports::Any => true,
        }
    }

    fn names(&self, name: &str, port: u16) -> bool {
        self.has_port(port) && self.has_name(name)
    }

    /// Whether it opens this name, at whatever port.
    pub fn has_name(&self, name: &str) -> bool {
        match &self.destination {
            Destination::Name(only) => only == name,
            Destination::Below(parent) => {
                name.strip_suffix(parent.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            Destination::Network(..) => false,
        }
    }

    fn holds(&self, address: IpAddr, port: u16) -> bool {
        let Destination::Network(network, bits) = self.destination else { return false };
        let exact = bits == full_bits(network);
        let class = AddressClass::of(address);
        // Metadata services hand out the machine's own credentials: a network that happens to hold one is no
        // decision to open it.
        let opens = class != AddressClass::Unusable && (exact || class != AddressClass::Metadata);
        self.has_port(port) && opens && shares_bits(network, address, bits)
    }
}

impl HostLists {
    /// The lists of a member of the roster. A rule that cannot be read opens nothing.
    pub fn of(member: &Member) -> Self {
        let names = [Some(&member.name), member.owner.as_ref()];
        let lists =
            member.egress.iter().zip(names.into_iter().flatten()).map(|(rules, principal)| HostList {
                principal: principal.clone(),
                rules: rules.iter().filter_map(|rule| HostRule::parse(rule).ok()).collect(),
            });
        let lists: Vec<_> = lists.collect();
        // A chain that is longer than we know names for must not lose a list.
        let whole = lists.len() == member.egress.len();
        Self { lists: if whole { lists } else { Vec::new() } }
    }

    /// Whether every list names this destination. For an address this is the whole answer; for a name its
    /// addresses are judged too, by [`HostLists::allow_address`].
    pub fn allow(&self, destination: &Authority) -> Result<(), NotListed> {
        let port = destination.port;
        self.every(|rule| match &destination.host {
            Host::Name(name) => rule.names(name, port),
            Host::Address(address) => rule.holds(*address, port),
        })
    }

    /// Whether a tunnel to this destination may carry anything: every list says so.
    pub fn allow_opaque(&self, destination: &Authority) -> bool {
        let port = destination.port;
        let allowed = self.every(|rule| {
            rule.opaque
                && match &destination.host {
                    Host::Name(name) => rule.names(name, port),
                    Host::Address(address) => rule.holds(*address, port),
                }
        });
        allowed.is_ok()
    }

    /// Whether an address that a listed name leads to may be connected: public, or in every list.
    pub fn allow_address(&self, address: IpAddr, port: u16) -> Result<(), NotListed> {
        if AddressClass::of(address) == AddressClass::Public {
            return Ok(());
        }
        self.every(|rule| rule.holds(address, port))
    }

    fn every(&self, matches: impl Fn(&HostRule) -> bool) -> Result<(), NotListed> {
        let missing: Vec<Arc<str>> = self
            .lists
            .iter()
            .filter(|list| !list.rules.iter().any(&matches))
            .map(|list| list.principal.clone())
            .collect();
        if missing.is_empty() && !self.lists.is_empty() { Ok(()) } else { Err(NotListed { missing }) }
    }
}

/// The principals whose lists lack a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotListed {
    /// Their names, the principal's own first.
    pub missing: Vec<Arc<str>>,
}

impl fmt::Display for NotListed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, name) in self.missing.iter().enumerate() {
            write!(f, "{}'{}'", if i > 0 { " and " } else { "" }, shown(name))?;
        }
        Ok(())
    }
}

/// Whether names below this one belong to different people: a registry's (co.uk), or a service's (workers.dev).
fn is_public_suffix(name: &str) -> bool {
    psl::suffix(name.as_bytes()).is_some_and(|suffix| suffix.is_known() && suffix == name)
}

/// `[v6]:port`, `[v6/bits]:port`, `host:port`, or without a port; bare IPv6 has none.
fn split_port(text: &str) -> (&str, Option<&str>) {
    if let Some(inner) = text.strip_prefix('[')
        && let Some((host, rest)) = inner.split_once(']')
    {
        return match rest {
            "" => (host, None),
            rest => (host, Some(rest.strip_prefix(':').unwrap_or(""))),
        };
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, Some(port)),
        _ => (text, None),
    }
}

fn parse_host(text: &str) -> Option<Host> {
    match text.parse::<IpAddr>() {
        Ok(address) => Some(Host::Address(address.to_canonical())),
        Err(_) => Host::parse(text.as_bytes()).ok(),
    }
}

fn network(address: &str, bits: &str) -> Result<Destination, String> {
    let address: IpAddr =
        address.parse().map_err(|_| "what stands before '/' is not an address".to_owned())?;
    let bits = bits.parse::<u8>().ok().filter(|b| *b <= full_bits(address) && !bits.starts_with('+'));
    let bits = bits.ok_or_else(|| format!("the prefix is not a number from 0 to {}", full_bits(address)))?;
    let base = base(address, bits);
    if base != address {
        return Err(format!("it has bits set behind its prefix; write {base}/{bits}"));
    }
    if address.to_canonical() != address {
        return Err("write IPv4 networks in IPv4 form".to_owned());
    }
    Ok(Destination::Network(address, bits))
}

fn full_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn base(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

fn shares_bits(network: IpAddr, address: IpAddr, bits: u8) -> bool {
    let address = address.to_canonical();
    network.is_ipv4() == address.is_ipv4() && base(address, bits) == network
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::roster::{PrincipalConfig, PrincipalKind, Roster};

    fn person(name: &str, egress: &[&str]) -> PrincipalConfig {
        PrincipalConfig {
            name: name.to_owned(),
            kind: PrincipalKind::Person,
            owner: None,
            sponsor: None,
            ends: None,
            disabled: false,
            targets: Vec::new(),
            egress: egress.iter().map(|r| (*r).to_owned()).collect(),
            max_sessions: None,
        }
    }

    fn lists(egress: &[&str]) -> HostLists {
        HostLists::of(Roster::new(&[person("ada", egress)]).unwrap().get("ada").unwrap())
    }

    fn allowed(rules: &[&str], destination: &str) -> bool {
        let destination = Authority::parse(destination.as_bytes(), Some(443)).unwrap();
        lists(rules).allow(&destination).is_ok()
    }

    #[test]
    fn a_rule_opens_what_it_names_and_nothing_else() {
        for (rule, destination, want) in [
            ("example.com", "example.com:443", true),
            ("example.com", "example.com:80", true),
            ("example.com", "example.com:8443", false),
            ("example.com", "EXAMPLE.com.:443", true),
            ("Example.COM.", "example.com:443", true),
            ("example.com", "www.example.com:443", false),
            ("example.com", "evil-example.com:443", false),
            ("example.com", "example.com.evil.net:443", false),
            ("example.com:8443", "example.com:8443", true),
            ("example.com:8443", "example.com:443", false),
            ("example.com:*", "example.com:8443", true),
            ("example.com:*", "www.example.com:8443", false),
            ("10.0.0.0/8:*", "10.1.2.3:5", true),
            ("*.example.com", "a.example.com:443", true),
            ("*.example.com", "a.b.example.com:443", true),
            ("*.example.com", "example.com:443", false),
            ("*.example.com", "evilexample.com:443", false),
            ("*.example.com", "a.example.com.evil.net:443", false),
            ("*.example.com:22", "a.example.com:22", true),
            ("*.example.com:22", "a.example.com:443", false),
            ("bücher.example", "xn--bcher-kva.example:443", true),
            ("xn--bcher-kva.example", "bücher.example:443", true),
            ("localhost", "localhost:80", true),
            ("8.8.8.8", "8.8.8.8:443", true),
            ("8.8.8.8", "8.8.4.4:443", false),
            ("10.0.0.0/8:8080", "10.1.2.3:8080", true),
            ("10.0.0.0/8:8080", "11.1.2.3:8080", false),
            ("10.0.0.0/8", "10.1.2.3:8080", false),
            ("10.0.0.5:8080", "[::ffff:10.0.0.5]:8080", true),
            ("[2001:db8::1]:8443", "[2001:db8::1]:8443", true),
            ("2001:db8::/32", "[2001:db8:ffff::1]:443", true),
            ("[2001:db8::/32]:99", "[2001:db8::5]:99", true),
            ("2001:db8::/32", "[2001:db9::1]:443", false),
            ("0.0.0.0/0", "8.8.8.8:443", true),
            ("0.0.0.0/0", "[2001:4860:4860::8888]:443", false),
            ("0.0.0.0/0", "169.254.169.254:80", false),
            ("169.254.0.0/16", "169.254.169.254:80", false),
            ("169.254.169.254", "169.254.169.254:80", true),
            ("0.0.0.0/0", "0.0.0.0:80", false),
            ("0.0.0.0/0", "255.255.255.255:80", false),
            ("example.com", "8.8.8.8:443", false),
            ("8.8.8.8", "example.com:443", false),
            ("opaque:example.com", "example.com:443", true),
            ("opaque:*.example.com:22", "git.example.com:22", true),
            ("opaque:[2001:db8::1]:22", "[2001:db8::1]:22", true),
        ] {
            assert_eq!(allowed(&[rule], destination), want, "{rule} → {destination}");
        }
        assert!(!allowed(&[], "example.com:443"), "nothing is open by default");
    }

    #[test]
    fn only_a_rule_that_says_so_makes_a_tunnel_opaque() {
        for (rules, destination, want) in [
            (&["git.example.com:22"][..], "git.example.com:22", false),
            (&["opaque:git.example.com:22"], "git.example.com:22", true),
            (&["opaque:git.example.com:22"], "git.example.com:443", false),
            (&["opaque:*.example.com:22", "git.example.com:*"], "git.example.com:22", true),
            (&["opaque:*.example.com:22", "git.example.com:*"], "git.example.com:443", false),
            (&["opaque:10.0.0.0/8:5432"], "10.1.2.3:5432", true),
        ] {
            let destination = Authority::parse(destination.as_bytes(), Some(443)).unwrap();
            assert_eq!(lists(rules).allow_opaque(&destination), want, "{rules:?} → {destination}");
        }
        let mut agent = person("robot", &["opaque:git.example.com:22"]);
        (agent.kind, agent.owner) = (PrincipalKind::Agent, Some("ada".to_owned()));
        let roster = Roster::new(&[person("ada", &["git.example.com:22"]), agent]).unwrap();
        let lists = HostLists::of(roster.get("robot").unwrap());
        let git = Authority::parse(b"git.example.com:22", None).unwrap();
        assert!(lists.allow(&git).is_ok() && !lists.allow_opaque(&git), "the owner's list does not say so");
    }

    #[test]
    fn two_rules_meet_where_both_open_something() {
        for (one, other, want) in [
            ("a.example.com", "a.example.com", true),
            ("a.example.com", "b.example.com", false),
            ("a.example.com", "*.example.com", true),
            ("example.com", "*.example.com", false),
            ("*.a.example.com", "*.example.com", true),
            ("*.aexample.com", "*.example.com", false),
            ("a.example.com:22", "a.example.com", false),
            ("a.example.com:443", "a.example.com", true),
            ("a.example.com:22", "a.example.com:*", true),
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.0.0.0/8", false),
            ("10.0.0.0/8", "2001:db8::/32", false),
            ("10.0.0.0/8", "a.example.com", false),
        ] {
            let rule = |text| HostRule::parse(text).unwrap();
            assert_eq!(rule(one).meets(&rule(other)), want, "{one} {other}");
            assert_eq!(rule(other).meets(&rule(one)), want, "{other} {one}");
        }
    }

    #[test]
    fn a_rule_that_would_do_nothing_is_refused() {
        for rule in [
            "",
            "*",
            "*.",
            "*.com",
            "*.co.uk",
            "*.CO.UK.",
            "*.workers.dev:443",
            "*.github.io",
            "opaque:*.co.uk:22",
            "a*.example.com",
            "*.*.example.com",
            "*.10.0.0.1",
            "example.com:",
            "example.com:0",
            "example.com:http",
            "http://example.com",
            "example.com/path",
            "user@example.com",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "::ffff:10.0.0.0/104",
            "127.1",
            "0177.0.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "[fe80::1%eth0]",
            "[::1",
            "exa mple.com",
            "opaque:",
            "opaque:22",
            "opaque:opaque:example.com:22",
            "Opaque:example.com:22",
        ] {
            assert!(HostRule::parse(rule).is_err(), "{rule}");
        }
        let error = HostRule::parse("10.0.0.1/8").unwrap_err().to_string();
        assert_eq!(error, "egress rule '10.0.0.1/8': it has bits set behind its prefix; write 10.0.0.0/8");
    }

    #[test]
    fn a_listed_name_opens_only_public_addresses_unless_they_are_listed_too() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let plain = lists(&["internal.example:8080"]);
        assert!(plain.allow_address(address("93.184.216.34"), 8080).is_ok());
        for forbidden in
            ["127.0.0.1", "10.0.0.5", "169.254.169.254", "::1", "fd00::1", "64:ff9b::a00:5", "100.64.0.1"]
        {
            assert!(plain.allow_address(address(forbidden), 8080).is_err(), "{forbidden}");
        }
        let opened = lists(&["internal.example:8080", "10.0.0.5:8080"]);
        assert!(opened.allow_address(address("10.0.0.5"), 8080).is_ok());
        assert!(opened.allow_address(address("10.0.0.5"), 443).is_err());
        assert!(opened.allow_address(address("10.0.0.6"), 8080).is_err());
    }

    #[test]
    fn an_agent_reaches_only_what_its_owner_reaches_too() {
        let agent = PrincipalConfig {
            kind: PrincipalKind::Agent,
            owner: Some("ada".to_owned()),
            ..person("crawler", &["a.example", "b.example"])
        };
        let roster = Roster::new(&[person("ada", &["a.example", "c.example"]), agent]).unwrap();
        let lists = HostLists::of(roster.get("crawler").unwrap());
        let ask = |host: &str| lists.allow(&Authority::parse(host.as_bytes(), Some(443)).unwrap());
        assert!(ask("a.example").is_ok());
        assert_eq!(ask("b.example").unwrap_err().to_string(), "'ada'");
        assert_eq!(ask("c.example").unwrap_err().to_string(), "'crawler'");
        assert_eq!(ask("d.example").unwrap_err().to_string(), "'crawler' and 'ada'");
    }
}
