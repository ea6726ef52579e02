//! From a listed name to a connection: resolve once, judge every address, connect to one that was judged.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};

use super::address::AddressClass;
use crate::http::codec::authority::{Authority, Host};
use crate::http::hosts::{HostLists, NotListed};

/// Most addresses of one name that are looked at; a name with more is refused.
const MAX_ADDRESSES: usize = 64;

/// Resolves and connects.
#[derive(Debug)]
pub struct Dialer {
    hosts: HashMap<String, Vec<IpAddr>>,
    own: Vec<SocketAddr>,
    resolve: Duration,
    connect: Duration,
}

/// A connection to an address that was judged.
#[derive(Debug)]
pub struct Dialed {
    /// The connection.
    pub stream: TcpStream,
    /// The address at its other end.
    pub address: IpAddr,
    /// Class of the address.
    pub class: AddressClass,
}

/// No connection, and why.
#[derive(Debug, Error)]
pub enum DialError {
    /// An address that the name leads to is neither public nor listed.
    #[error("{address} is a {} address and not in the egress list of {not_listed}", class.name())]
    Address { address: IpAddr, class: AddressClass, not_listed: NotListed },
    /// It would connect to the gateway itself.
    #[error("{0} is a listener of the gateway itself")]
    Own(SocketAddr),
    /// The name has no address.
    #[error("the name cannot be resolved: {0}")]
    Resolve(String),
    /// Nobody answered.
    #[error("no address of the host could be connected: {0}")]
    Connect(io::Error),
    /// Nobody answered in time.
    #[error("no address of the host answered within {0} s")]
    Timeout(u64),
}

impl Dialer {
    /// A dialer that knows these names itself, refuses these addresses as its own, and waits so long.
    pub fn new(
        hosts: HashMap<String, Vec<IpAddr>>,
        own: Vec<SocketAddr>,
        resolve: Duration,
        connect: Duration,
    ) -> Self {
        Self { hosts, own, resolve, connect }
    }

    /// Connects to a destination that `lists` allow.
    pub async fn dial(&self, destination: &Authority, lists: &HostLists) -> Result<Dialed, DialError> {
        let addresses = self.resolve(&destination.host).await?;
        for address in &addresses {
            self.judge(*address, destination.port, lists)?;
        }
        self.connect(&addresses, destination.port).await
    }

    /// Whether this address may be connected. One that may not denies the whole name: an answer that mixes
    /// inside and outside is how a name is turned against the network that trusts it.
    fn judge(&self, address: IpAddr, port: u16, lists: &HostLists) -> Result<(), DialError> {
        let socket = SocketAddr::new(address, port);
        if self.is_own(socket) {
            return Err(DialError::Own(socket));
        }
        lists.allow_address(address, port).map_err(|not_listed| DialError::Address {
            address,
            class: AddressClass::of(address),
            not_listed,
        })
    }

    async fn resolve(&self, host: &Host) -> Result<Vec<IpAddr>, DialError> {
        let name = match host {
            Host::Address(address) => return Ok(vec![*address]),
            Host::Name(name) => name,
        };
        if let Some(known) = self.hosts.get(name) {
            return Ok(known.clone());
        }
        let found = timeout(self.resolve, lookup_host((name.as_str(), 0))).await;
        let found =
            found.map_err(|_| DialError::Resolve(format!("no answer in {} s", self.resolve.as_secs())))?;
        let mut addresses: Vec<IpAddr> =
            found.map_err(|e| DialError::Resolve(e.to_string()))?.map(|a| a.ip().to_canonical()).collect();
        addresses.dedup();
        match addresses.len() {
            0 => Err(DialError::Resolve("it has no address".to_owned())),
            n if n > MAX_ADDRESSES => Err(DialError::Resolve(format!("it has {n} addresses"))),
            _ => Ok(addresses),
        }
    }

    async fn connect(&self, addresses: &[IpAddr], port: u16) -> Result<Dialed, DialError> {
        let deadline = Instant::now() + self.connect;
        let mut last = DialError::Timeout(self.connect.as_secs());
        for (i, address) in addresses.iter().enumerate() {
            // Each address gets its share of the time that is left, so that a dead first one costs not all.
            let left = deadline.saturating_duration_since(Instant::now());
            let share = u32::try_from(addresses.len() - i).unwrap_or(u32::MAX);
            let attempt = TcpStream::connect((*address, port));
            match timeout_at(Instant::now() + left / share, attempt).await {
                Ok(Ok(stream)) => return connected(stream, *address),
                Ok(Err(error)) => last = DialError::Connect(error),
                Err(_) => {}
            }
        }
        Err(last)
    }

    /// Whether a connection to `to` would end at a listener of this process.
    fn is_own(&self, to: SocketAddr) -> bool {
        self.own.iter().filter(|own| own.port() == to.port()).any(|own| {
            let own = own.ip().to_canonical();
            own == to.ip() || (own.is_unspecified() && is_local(to.ip()))
        })
    }
}

/// Whether `address` is one of this machine's: only those can be bound.
fn is_local(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

fn connected(stream: TcpStream, address: IpAddr) -> Result<Dialed, DialError> {
    let peer = stream.peer_addr().map_err(DialError::Connect)?;
    // A socket that connected to itself (simultaneous open on a free local port) has no server behind it.
    let itself = stream.local_addr().is_ok_and(|local| local == peer);
    if peer.ip().to_canonical() != address || itself {
        return Err(DialError::Connect(io::Error::other("the connection leads to another address")));
    }
    // Latency matters more than packets; a socket without the option still works.
    let _ = stream.set_nodelay(true);
    Ok(Dialed { stream, address, class: AddressClass::of(address) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::roster::{PrincipalConfig, Roster};

    fn lists(egress: &[&str]) -> HostLists {
        let entry = serde_json::json!({ "name": "ada", "kind": "person", "egress": egress });
        let entry: PrincipalConfig = serde_json::from_value(entry).unwrap();
        HostLists::of(Roster::new(&[entry]).unwrap().get("ada").unwrap())
    }

    fn dialer(hosts: &[(&str, &[&str])], own: &[SocketAddr]) -> Dialer {
        let hosts = hosts.iter().map(|(name, addresses)| {
            ((*name).to_owned(), addresses.iter().map(|a| a.parse().unwrap()).collect())
        });
        let second = Duration::from_secs(1);
        Dialer::new(hosts.collect(), own.to_vec(), second, second)
    }

    async fn dial(dialer: &Dialer, to: &str, rules: &[&str]) -> Result<Dialed, DialError> {
        dialer.dial(&Authority::parse(to.as_bytes(), None).unwrap(), &lists(rules)).await
    }

    #[tokio::test(flavor = "current_thread")]
    async fn one_forbidden_address_denies_the_name() {
        let dialer = dialer(&[("mixed.example", &["93.184.216.34", "169.254.169.254"])], &[]);
        let error = dial(&dialer, "mixed.example:80", &["mixed.example"]).await.unwrap_err();
        assert!(matches!(error, DialError::Address { class: AddressClass::Metadata, .. }), "{error}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_listed_inside_address_is_connected_and_the_next_one_tried_when_it_is_dead() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let dialer = dialer(&[("in.example", &["127.0.0.2", "127.0.0.1"])], &[]);
        let (name, first, second) =
            (format!("in.example:{port}"), format!("127.0.0.1:{port}"), format!("127.0.0.2:{port}"));
        let refused = dial(&dialer, &name, &[&name, &first]).await.unwrap_err();
        assert!(refused.to_string().contains("127.0.0.2 is a loopback address"), "{refused}");
        let dialed = dial(&dialer, &name, &[&name, &first, &second]).await.unwrap();
        assert_eq!(dialed.address, IpAddr::from([127, 0, 0, 1]));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_gateways_own_listeners_are_never_reached() {
        let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
        let own = listener.local_addr().unwrap();
        let dialer = dialer(&[("self.example", &["127.0.0.9"])], &[own]);
        for host in ["127.0.0.1", "127.3.2.1", "self.example"] {
            let to = format!("{host}:{}", own.port());
            let error = dial(&dialer, &to, &[&to, &format!("127.0.0.0/8:{}", own.port())]).await.unwrap_err();
            assert!(matches!(error, DialError::Own(_)), "{error}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_host_that_does_not_answer_says_so() {
        let dialer = dialer(&[], &[]);
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let to = free.to_string();
        assert!(matches!(dial(&dialer, &to, &[&to]).await.unwrap_err(), DialError::Connect(_)));
        let error = dial(&dialer, "nothing.invalid:80", &["nothing.invalid"]).await.unwrap_err();
        assert!(matches!(error, DialError::Resolve(_)), "{error}");
    }
}
