//! The one place that builds a principal, for every protocol.
//!
//! Protocols only extract what the client presented and write what is answered. Invariant: every refusal has
//! the same public message; which it was goes to the record only.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bodycam_record::{Id16, PrincipalRef, TenantKey};
use subtle::ConstantTimeEq;

use super::roster::{Member, PrincipalKind, Roster};
use super::token;
use crate::state::{State, StateError, StoredToken};

mod exchange;
mod reasons;
mod store;

pub use exchange::ScramLogin;
pub use reasons::{Ended, LoginRefused};

use store::{Cached, LOGIN_GRACE, SESSION_GRACE};

/// What a refused client is told, whatever the reason.
pub const REFUSED: &str =
    "authentication failed: unknown principal, or a credential that is wrong, expired or revoked";

/// The store is read so often even when nobody logs in, so that the grace counts from when it failed.
const REFRESH: Duration = Duration::from_millis(500);
/// Addresses of a credential are counted over this time.
const SIGHTING_WINDOW_NS: i64 = 24 * 3_600 * 1_000_000_000;
/// Someone whom roster and store admit.
#[derive(Debug, Clone)]
pub struct Principal {
    /// Name in the roster.
    pub name: Arc<str>,
    /// Kind.
    pub kind: PrincipalKind,
    /// Pseudonym in the record.
    pub principal_ref: PrincipalRef,
    /// What stands for the credential in the record.
    pub credential: Id16,
    /// Id of the token used: content, never a secret.
    pub credential_name: Arc<str>,
    /// How they authenticated: `scram-sha-256`, `token`, `proxy-basic`.
    pub auth_method: &'static str,
    /// First moment the credential no longer works, Unix ns.
    pub expires_ns: i64,
    /// Who they are in the roster, with the rights of the chain.
    pub member: Arc<Member>,
}

/// What ties the exchange to the TLS connection under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelBinding {
    /// No TLS, or a certificate without a defined hash: -PLUS is not offered.
    None,
    /// Hash of the server's certificate ([`tls_server_end_point`](super::scram::tls_server_end_point)).
    TlsServerEndPoint(Vec<u8>),
}

/// Everyone who may come in. Cheap to clone; shared by all cores and protocols.
#[derive(Clone)]
pub struct Directory(Arc<Inner>);

struct Inner {
    tenant: TenantKey,
    state: Arc<dyn State>,
    decoy_key: [u8; 32],
    roster: RwLock<Arc<Roster>>,
    snapshot: Mutex<Cached>,
}

impl Directory {
    /// The directory of a roster and a store. A thread of its own reads the store every half second while the
    /// directory lives.
    pub fn new(tenant: TenantKey, roster: Roster, state: Arc<dyn State>) -> Result<Self, StateError> {
        let decoy_key = state.decoy_key()?;
        let (version, read_at, complained_at) = (None, Instant::now(), None);
        let snapshot = Mutex::new(Cached { version, read_at, complained_at, store: Arc::default() });
        let roster = RwLock::new(Arc::new(roster));
        let inner = Arc::new(Inner { tenant, state, decoy_key, roster, snapshot });
        let weak = Arc::downgrade(&inner);
        std::thread::Builder::new()
            .name("state".to_owned())
            .spawn(move || {
                while let Some(inner) = weak.upgrade() {
                    // Whoever asks meets the error too, and judges it.
                    let _ = Self(inner).snapshot(Duration::ZERO);
                    std::thread::sleep(REFRESH);
                }
            })
            .map_err(StateError::Thread)?;
        Ok(Self(inner))
    }

    /// Puts another roster in place; open sessions are judged by it at their next check.
    pub fn set_roster(&self, roster: Roster) {
        *self.0.roster.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(roster);
    }

    /// The roster in force.
    pub fn roster(&self) -> Arc<Roster> {
        self.0.roster.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Logs in with a token given as a password or in a header. `user` is the name given with it, if any.
    pub fn by_token(
        &self,
        user: Option<&str>,
        secret: &str,
        auth_method: &'static str,
        now_ns: i64,
    ) -> Result<Principal, LoginRefused> {
        let id = token::id_of(secret).ok_or(LoginRefused::Malformed)?;
        let store = self.snapshot(LOGIN_GRACE).map_err(|_| LoginRefused::StoreUnavailable)?;
        let token = store.by_id.get(id).ok_or(LoginRefused::WrongCredential)?;
        if !bool::from(token.verifier.ct_eq(&token::verifier(secret))) {
            return Err(LoginRefused::WrongCredential);
        }
        if user.is_some_and(|u| u != token.principal) {
            return Err(LoginRefused::OtherPrincipal);
        }
        self.admit(token, auth_method, now_ns)
    }

    /// Whether an open session may go on.
    pub fn principal_still_valid(&self, principal: &Principal, now_ns: i64) -> Result<(), Ended> {
        let store = self.snapshot(SESSION_GRACE).map_err(|_| Ended::StoreUnavailable)?;
        let token = store.by_id.get(&*principal.credential_name).ok_or(Ended::Revoked)?;
        standing_of(token, now_ns)?;
        self.roster().standing(&principal.name, now_ns).map(|_| ())
    }

    /// As [`Directory::principal_still_valid`], for a session with `target`: the roster may have withdrawn that since.
    pub fn may_still_reach(&self, principal: &Principal, target: &str, now_ns: i64) -> Result<(), Ended> {
        self.principal_still_valid(principal, now_ns)?;
        match self.roster().get(&principal.name) {
            Some(member) if member.may_reach(target) => Ok(()),
            _ => Err(Ended::Unlisted),
        }
    }

    /// Notes where a credential is used from and says how many different addresses used it in 24 hours, this
    /// one included.
    pub fn sighting(&self, credential: Id16, address: Id16, now_ns: i64) -> Result<i64, StateError> {
        self.0.state.sighting(credential, address, now_ns, now_ns.saturating_sub(SIGHTING_WINDOW_NS))
    }

    /// The only function that makes a [`Principal`].
    fn admit(
        &self,
        token: &StoredToken,
        auth_method: &'static str,
        now_ns: i64,
    ) -> Result<Principal, LoginRefused> {
        standing_of(token, now_ns)?;
        let roster = self.roster();
        let member = roster.standing(&token.principal, now_ns).map_err(|ended| match ended {
            Ended::Removed => LoginRefused::UnknownPrincipal,
            ended => LoginRefused::Ended(ended),
        })?;
        Ok(Principal {
            name: member.name.clone(),
            kind: member.kind,
            principal_ref: self.0.tenant.principal_ref(&member.name),
            credential: self.0.tenant.credential(&token.id),
            credential_name: token.id.as_str().into(),
            auth_method,
            expires_ns: token.expires_ns,
            member: member.clone(),
        })
    }

    /// Whether new logins can be judged.
    pub fn usable(&self) -> Result<(), StateError> {
        self.snapshot(LOGIN_GRACE).map(drop)
    }
}

impl Principal {
    /// Whether every target list of the chain names `target`.
    pub fn may_reach(&self, target: &str) -> bool {
        self.member.may_reach(target)
    }

    /// Whether every egress list of the chain holds a rule that `matches`.
    pub fn may_leave_to(&self, matches: impl Fn(&str) -> bool) -> bool {
        self.member.egress.iter().all(|list| list.iter().any(|rule| matches(rule)))
    }

    /// Sessions that this principal may have open at the same time.
    pub fn max_sessions(&self) -> Option<u32> {
        self.member.max_sessions
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Directory(…)")
    }
}

fn standing_of(token: &StoredToken, now_ns: i64) -> Result<(), Ended> {
    if token.revoked_ns.is_some() {
        return Err(Ended::Revoked);
    }
    if now_ns >= token.expires_ns {
        return Err(Ended::Expired);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::scram::tests::Client;
    use super::*;
    use crate::identity::roster::tests::roster;
    use crate::identity::scram;
    use crate::state::SqliteState;

    pub(super) const DAY: i64 = 86_400 * 1_000_000_000;
    pub(super) const NOW: i64 = 1_800_000_000 * 1_000_000_000;

    pub(super) struct House {
        _dir: tempfile::TempDir,
        path: std::path::PathBuf,
        pub(super) state: Arc<SqliteState>,
        directory: Directory,
    }

    pub(super) fn house() -> House {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let state = Arc::new(SqliteState::open(&path).unwrap());
        let directory = Directory::new(TenantKey::new([1; 32]), roster(), state.clone()).unwrap();
        House { _dir: dir, path, state, directory }
    }

    impl House {
        pub(super) fn issue(&self, principal: &str, ttl_ns: i64) -> token::Issued {
            token::issue(&*self.state, &roster(), principal, ttl_ns, "", NOW).unwrap()
        }

        fn password(&self, user: &str, secret: &str, now_ns: i64) -> Result<Principal, LoginRefused> {
            self.directory.by_token(Some(user), secret, "token", now_ns)
        }

        fn scram(&self, user: &str, secret: &str, now_ns: i64) -> Result<Principal, LoginRefused> {
            let mut login = self.directory.scram(user, ChannelBinding::None, now_ns)?;
            assert_eq!(login.mechanisms(), [scram::SCRAM]);
            let client = Client::new("n,,", b"");
            let server_first = login.start(scram::SCRAM, client.first().as_bytes())?;
            let (client_final, expected) = client.last(&String::from_utf8(server_first).unwrap(), secret);
            let (server_final, principal) = login.finish(client_final.as_bytes(), now_ns)?;
            assert_eq!(String::from_utf8(server_final).unwrap(), expected, "the server proves itself");
            Ok(principal)
        }
    }

    #[test]
    fn every_live_token_of_a_principal_logs_in_both_ways() {
        let house = house();
        let tokens = [house.issue("agent-7", DAY), house.issue("agent-7", DAY), house.issue("agent-7", DAY)];
        for token in &tokens {
            for principal in [
                house.password("agent-7", &token.text, NOW).unwrap(),
                house.scram("agent-7", &token.text, NOW).unwrap(),
            ] {
                assert_eq!((&*principal.name, &*principal.credential_name), ("agent-7", &*token.id));
                assert_eq!(principal.expires_ns, token.expires_ns);
                house.directory.principal_still_valid(&principal, NOW).unwrap();
            }
        }
        let of = |token: &token::Issued| house.password("agent-7", &token.text, NOW).unwrap().credential;
        assert_ne!(of(&tokens[0]), of(&tokens[1]));
    }

    #[test]
    fn a_revoked_expired_or_foreign_token_is_refused_and_the_record_knows_why() {
        let house = house();
        let token = house.issue("agent-7", DAY);
        let other = house.issue("ann", DAY);
        assert_eq!(house.password("agent-7", &other.text, NOW).unwrap_err(), LoginRefused::OtherPrincipal);
        assert_eq!(house.scram("agent-7", &other.text, NOW).unwrap_err(), LoginRefused::WrongCredential);
        assert_eq!(house.scram("nobody", &other.text, NOW).unwrap_err(), LoginRefused::UnknownPrincipal);
        let past = NOW + DAY;
        assert_eq!(house.password("agent-7", &token.text, past).unwrap_err(), LoginRefused::Expired);
        assert_eq!(house.scram("agent-7", &token.text, past).unwrap_err(), LoginRefused::Expired);
        let session = house.password("agent-7", &token.text, NOW).unwrap();
        assert_eq!(
            house.directory.principal_still_valid(&session, past).unwrap_err().closed_reason(),
            "expired"
        );
        // Another process revokes.
        let elsewhere = SqliteState::open(&house.path).unwrap();
        token::revoke(&elsewhere, &token.id, NOW).unwrap();
        assert_eq!(house.password("agent-7", &token.text, NOW).unwrap_err(), LoginRefused::Revoked);
        assert_eq!(house.scram("agent-7", &token.text, NOW).unwrap_err(), LoginRefused::Revoked);
        assert_eq!(house.directory.principal_still_valid(&session, NOW), Err(Ended::Revoked));
        let mut wrong = token.text.to_string();
        wrong.pop();
        assert_eq!(house.password("agent-7", &wrong, NOW).unwrap_err(), LoginRefused::Malformed);
        assert_eq!(house.password("agent-7", "", NOW).unwrap_err(), LoginRefused::Malformed);
    }

    #[test]
    fn whoever_answers_for_an_agent_takes_it_along() {
        let house = house();
        let token = house.issue("agent-7", DAY);
        let session = house.scram("agent-7", &token.text, NOW).unwrap();
        let mut entries = crate::identity::roster::tests::entries();
        entries.iter_mut().find(|e| e.name == "ann").unwrap().disabled = true;
        house.directory.set_roster(Roster::new(&entries).unwrap());
        assert_eq!(house.directory.principal_still_valid(&session, NOW), Err(Ended::OwnerGone));
        assert_eq!(
            house.scram("agent-7", &token.text, NOW).unwrap_err(),
            LoginRefused::Ended(Ended::OwnerGone)
        );
        entries.retain(|e| e.name != "agent-7");
        entries.iter_mut().for_each(|e| e.disabled = false);
        house.directory.set_roster(Roster::new(&entries).unwrap());
        assert_eq!(house.directory.principal_still_valid(&session, NOW), Err(Ended::Removed));
        assert_eq!(house.password("agent-7", &token.text, NOW).unwrap_err(), LoginRefused::UnknownPrincipal);
    }

    #[test]
    fn an_unknown_principal_sees_a_salt_of_its_own_that_never_changes() {
        let house = house();
        house.issue("ann", DAY);
        let first = |user: &str| {
            let mut login = house.directory.scram(user, ChannelBinding::None, NOW).unwrap();
            let answer = login.start(scram::SCRAM, b"n,,n=,r=abc").unwrap();
            let answer = String::from_utf8(answer).unwrap();
            let salt = answer.split(',').find(|a| a.starts_with("s=")).unwrap().to_owned();
            (salt, answer.split(',').nth(2).unwrap().to_owned())
        };
        assert_eq!(first("nobody"), first("nobody"));
        assert_ne!(first("nobody").0, first("nobody2").0);
        assert_eq!(first("ann").0.len(), first("nobody").0.len());
        assert_eq!(first("ann").1, first("nobody").1);
    }

    #[test]
    fn a_login_has_one_order_of_messages() {
        let house = house();
        let mut login = house.directory.scram("ann", ChannelBinding::None, NOW).unwrap();
        assert_eq!(login.finish(b"c=biws,r=x,p=", NOW).unwrap_err(), LoginRefused::Malformed);
        assert_eq!(login.start(scram::SCRAM, b"n,,n=,r=abc").unwrap_err(), LoginRefused::Malformed);
    }

    #[test]
    fn a_token_that_is_revoked_in_the_file_that_took_the_stores_place_is_refused() {
        let house = house();
        let token = house.issue("ann", DAY);
        let session = house.password("ann", &token.text, NOW).unwrap();
        // A backup from after the token was issued, put in the place of the store.
        let backup = house.path.with_file_name("backup.db");
        let to = backup.to_str().unwrap();
        rusqlite::Connection::open(&house.path).unwrap().execute("VACUUM INTO ?1", [to]).unwrap();
        std::fs::set_permissions(&backup, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::rename(&backup, &house.path).unwrap();
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(house.path.with_file_name(format!("state.db{suffix}")));
        }
        let elsewhere = SqliteState::open_existing(&house.path).unwrap();
        token::revoke(&elsewhere, &token.id, NOW).unwrap();
        assert_eq!(house.password("ann", &token.text, NOW).unwrap_err(), LoginRefused::Revoked);
        assert_eq!(house.directory.principal_still_valid(&session, NOW), Err(Ended::Revoked));
    }
}
