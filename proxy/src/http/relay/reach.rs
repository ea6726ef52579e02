//! The way to a destination: the principal's lists, the name's addresses, the connection.

use std::sync::Arc;

use super::answer::Refused;
use super::session::{Close, Session};
use crate::http::codec::authority::{Authority, Host};
use crate::http::upstream::dial::{DialError, Dialed};

/// What came of the way to a destination.
pub(super) enum Reached {
    /// Connected.
    Connected(Dialed),
    /// It must not be reached.
    Denied(Refused),
    /// It could not be reached.
    Failed(Refused),
    /// The session ended on the way.
    Cut(Close),
}

impl Session<'_> {
    /// Connects to a destination, if every list and every address allow it.
    pub async fn reach(&mut self, to: &Authority) -> Result<Reached, Close> {
        if let Err(not_listed) = self.hosts.allow(to) {
            return Ok(Reached::Denied(Refused::new(
                403,
                "host-not-allowed",
                format!(
                    "host {} port {} is not in the egress list of {not_listed}; whoever administers bodycam adds \"{to}\" to `egress` of that [[principals]] entry",
                    to.host, to.port
                ),
            )));
        }
        let (service, hosts) = (self.service, Arc::clone(&self.hosts));
        let dialed = match self.guarded(service.dialer.dial(to, &hosts)).await {
            Ok(dialed) => dialed,
            Err(Close::Spool) => return Err(Close::Spool),
            Err(close) => return Ok(Reached::Cut(close)),
        };
        if dialed.is_ok() {
            self.destination = Some(to.clone());
        }
        Ok(match dialed {
            Ok(dialed) => Reached::Connected(dialed),
            Err(error) => self.not_dialed(to, error),
        })
    }

    /// The destination is no longer open.
    pub fn left(&mut self) {
        self.destination = None;
        self.opaque = false;
    }

    fn not_dialed(&self, to: &Authority, error: DialError) -> Reached {
        let (denied, status, code, detail) = match &error {
            DialError::Address { address, class, not_listed } => {
                let rule = Authority { host: Host::Address(*address), port: to.port };
                let detail = format!(
                    "host {} port {} leads to {address}, a {} address that is not in the egress list of {not_listed}; whoever administers bodycam adds \"{rule}\" to `egress` of that [[principals]] entry",
                    to.host,
                    to.port,
                    class.name()
                );
                (true, 403, "address-not-allowed", detail)
            }
            DialError::Own(_) => (
                true,
                403,
                "own-listener",
                format!("host {} port {} is the gateway itself", to.host, to.port),
            ),
            DialError::Resolve(_) => (false, 502, "not-resolved", format!("host {}: {error}", to.host)),
            DialError::Connect(_) => {
                (false, 502, "not-connected", format!("host {} port {}: {error}", to.host, to.port))
            }
            DialError::Timeout(_) => {
                (false, 504, "connect-timeout", format!("host {} port {}: {error}", to.host, to.port))
            }
        };
        let mut refused = Refused::new(status, code, detail);
        if let DialError::Address { address, class, .. } = error {
            refused.address = Some((address, class));
        }
        if denied { Reached::Denied(refused) } else { Reached::Failed(refused) }
    }
}
