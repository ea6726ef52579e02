//! The one place that builds a principal, for every protocol.
//!
//! Protocols only extract what the client presented and write what is answered. Invariant: every refusal has
//! the same public message; which it was goes to the record only.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bodycam_record::{Id16, PrincipalRef, TenantKey};
use subtle::ConstantTimeEq;

use super::roster::{Member, PrincipalKind, Roster};
use super::scram::{self, Keys, ScramError, ScramProof, ScramServer};
use super::token;
use crate::state::{ScramSalt, State, StateError, StoredToken};

/// What a refused client is told, whatever the reason.
pub const REFUSED: &str =
    "authentication failed: unknown principal, or a credential that is wrong, expired or revoked";

/// A store that failed is trusted from memory this long for new logins.
const LOGIN_GRACE: Duration = Duration::from_secs(5);
/// And this long for open sessions.
const SESSION_GRACE: Duration = Duration::from_secs(30);
/// The store is read so often even when nobody logs in, so that the grace counts from when it failed.
const REFRESH: Duration = Duration::from_millis(500);
/// A store that keeps failing is logged so often.
const COMPLAIN: Duration = Duration::from_secs(10);
/// Addresses of a credential are counted over this time.
const SIGHTING_WINDOW_NS: i64 = 24 * 3_600 * 1_000_000_000;
/// Tokens of one principal that SCRAM tries: the live ones, and the newest dead ones so that the record can
/// say "revoked" or "expired" instead of "wrong".
const MAX_TRIED: usize = 2 * token::MAX_LIVE;

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

/// Why a login was refused: for the record, never for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LoginRefused {
    #[error("no such principal")]
    UnknownPrincipal,
    #[error("the credential has no valid form")]
    Malformed,
    #[error("the credential is wrong")]
    WrongCredential,
    #[error("the token belongs to another principal")]
    OtherPrincipal,
    #[error("the token was revoked")]
    Revoked,
    #[error("the token has expired")]
    Expired,
    #[error("{0}")]
    Ended(Ended),
    #[error("the channel binding does not hold")]
    ChannelBinding,
    #[error("the state store cannot be read")]
    StoreUnavailable,
}

/// Why access that once was granted is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    #[error("the token was revoked")]
    Revoked,
    #[error("the token has expired")]
    Expired,
    #[error("the principal is disabled")]
    Disabled,
    #[error("the principal's contract is over")]
    ContractOver,
    #[error("who answers for the principal is disabled, over or gone")]
    OwnerGone,
    #[error("the principal is no longer in the roster")]
    Removed,
    #[error("the target is no longer listed for the principal")]
    Unlisted,
    #[error("the state store has not answered for 30 s")]
    StoreUnavailable,
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

/// The tokens as last read.
#[derive(Clone)]
struct Cached {
    version: Option<u64>,
    read_at: Instant,
    complained_at: Option<Instant>,
    store: Arc<Snapshot>,
}

#[derive(Default)]
struct Snapshot {
    by_id: HashMap<String, Arc<StoredToken>>,
    by_principal: HashMap<String, Vec<Arc<StoredToken>>>,
    salts: HashMap<String, ScramSalt>,
}

/// One SCRAM login in progress.
pub struct ScramLogin {
    directory: Directory,
    user: String,
    plus: bool,
    tokens: Vec<Arc<StoredToken>>,
    step: Step,
}

enum Step {
    First(ScramServer),
    Final(ScramProof),
    Done,
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

    /// Begins a SCRAM login of the user that the startup message names, known or not.
    pub fn scram(
        &self,
        user: &str,
        binding: ChannelBinding,
        now_ns: i64,
    ) -> Result<ScramLogin, LoginRefused> {
        let store = self.snapshot(LOGIN_GRACE).map_err(|_| LoginRefused::StoreUnavailable)?;
        let mut tokens = store.by_principal.get(user).cloned().unwrap_or_default();
        tokens.sort_by_key(|t| (!live(t, now_ns), std::cmp::Reverse(t.issued_ns)));
        tokens.truncate(MAX_TRIED);
        let salt = store.salts.get(user).cloned().unwrap_or_else(|| self.decoy_salt(user));
        let keys =
            tokens.iter().map(|t| Keys { stored_key: t.stored_key, server_key: t.server_key }).collect();
        let nonce = scram::fresh_nonce().map_err(|_| LoginRefused::StoreUnavailable)?;
        let binding = match binding {
            ChannelBinding::None => None,
            ChannelBinding::TlsServerEndPoint(hash) => Some(hash),
        };
        let plus = binding.is_some();
        let server = ScramServer::new(&salt.salt, salt.iterations, keys, nonce, binding);
        Ok(ScramLogin {
            directory: self.clone(),
            user: user.to_owned(),
            plus,
            tokens,
            step: Step::First(server),
        })
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

    /// The tokens, read again when they changed; from memory while the store fails, for at most `grace`.
    fn snapshot(&self, grace: Duration) -> Result<Arc<Snapshot>, StateError> {
        let mut cached = self.0.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        match self.read(&cached) {
            Ok((version, store)) => {
                let (read_at, complained_at) = (Instant::now(), None);
                *cached = Cached { version: Some(version), read_at, complained_at, store };
                Ok(cached.store.clone())
            }
            Err(error) => {
                if cached.complained_at.is_none_or(|at| at.elapsed() >= COMPLAIN) {
                    cached.complained_at = Some(Instant::now());
                    tracing::error!(event = "state.unreadable", %error, "judging by the tokens last read: logins for 5 s, open sessions for 30 s");
                }
                if cached.version.is_none() || cached.read_at.elapsed() > grace {
                    return Err(error);
                }
                Ok(cached.store.clone())
            }
        }
    }

    fn read(&self, cached: &Cached) -> Result<(u64, Arc<Snapshot>), StateError> {
        let version = self.0.state.version()?;
        if cached.version == Some(version) {
            return Ok((version, cached.store.clone()));
        }
        // Read after the version: a change in between makes the next look read again.
        let mut store =
            Snapshot { salts: self.0.state.salts()?.into_iter().collect(), ..Snapshot::default() };
        for token in self.0.state.tokens()?.into_iter().map(Arc::new) {
            store.by_principal.entry(token.principal.clone()).or_default().push(token.clone());
            store.by_id.insert(token.id.clone(), token);
        }
        Ok((version, Arc::new(store)))
    }

    /// The salt of someone who has none: always the same for the same name.
    fn decoy_salt(&self, user: &str) -> ScramSalt {
        let mut salt = [0; 16];
        for (to, from) in salt.iter_mut().zip(scram::hmac(&self.0.decoy_key, user.as_bytes())) {
            *to = from;
        }
        ScramSalt { salt, iterations: crate::state::SCRAM_ITERATIONS }
    }
}

impl ScramLogin {
    /// The mechanisms to offer, best first.
    pub fn mechanisms(&self) -> &'static [&'static str] {
        if self.plus { &[scram::SCRAM_PLUS, scram::SCRAM] } else { &[scram::SCRAM] }
    }

    /// Reads SASLInitialResponse's mechanism and data, and gives the data of AuthenticationSASLContinue.
    pub fn start(&mut self, mechanism: &str, client_first: &[u8]) -> Result<Vec<u8>, LoginRefused> {
        match std::mem::replace(&mut self.step, Step::Done) {
            Step::First(server) => {
                let (server_first, proof) = server.start(mechanism, client_first)?;
                self.step = Step::Final(proof);
                Ok(server_first.into_bytes())
            }
            _ => Err(LoginRefused::Malformed),
        }
    }

    /// Reads SASLResponse, and gives the data of AuthenticationSASLFinal and who it is.
    pub fn finish(&mut self, client_final: &[u8], now_ns: i64) -> Result<(Vec<u8>, Principal), LoginRefused> {
        let Step::Final(proof) = std::mem::replace(&mut self.step, Step::Done) else {
            return Err(LoginRefused::Malformed);
        };
        let unknown = self.tokens.is_empty() && self.directory.roster().get(&self.user).is_none();
        let (server_final, index) = proof.finish(client_final).map_err(|error| match error {
            ScramError::Proof if unknown => LoginRefused::UnknownPrincipal,
            error => error.into(),
        })?;
        let token = self.tokens.get(index).ok_or(LoginRefused::WrongCredential)?;
        let principal = self.directory.admit(token, "scram-sha-256", now_ns)?;
        Ok((server_final.into_bytes(), principal))
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

impl LoginRefused {
    /// The reason code in the record.
    pub fn code(self) -> &'static str {
        match self {
            LoginRefused::UnknownPrincipal => "unknown-principal",
            LoginRefused::Malformed => "malformed-credential",
            LoginRefused::WrongCredential => "wrong-credential",
            LoginRefused::OtherPrincipal => "other-principal",
            LoginRefused::Revoked => "revoked",
            LoginRefused::Expired => "expired",
            LoginRefused::Ended(ended) => ended.code(),
            LoginRefused::ChannelBinding => "channel-binding",
            LoginRefused::StoreUnavailable => "store-unavailable",
        }
    }
}

impl Ended {
    /// The reason code in the record.
    pub fn code(self) -> &'static str {
        match self {
            Ended::Revoked => "revoked",
            Ended::Expired => "expired",
            Ended::Disabled => "disabled",
            Ended::ContractOver => "contract-over",
            Ended::OwnerGone => "owner-gone",
            Ended::Removed => "removed",
            Ended::Unlisted => "unlisted",
            Ended::StoreUnavailable => "store-unavailable",
        }
    }

    /// The reason of the session's last event: `revoked`, `expired` or `ended`.
    pub fn closed_reason(self) -> &'static str {
        match self {
            Ended::Revoked | Ended::Unlisted => "revoked",
            Ended::Expired => "expired",
            _ => "ended",
        }
    }
}

impl From<ScramError> for LoginRefused {
    fn from(error: ScramError) -> Self {
        match error {
            ScramError::Malformed(_) => LoginRefused::Malformed,
            ScramError::ChannelBinding(_) => LoginRefused::ChannelBinding,
            ScramError::Proof => LoginRefused::WrongCredential,
        }
    }
}

impl From<Ended> for LoginRefused {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Revoked => LoginRefused::Revoked,
            Ended::Expired => LoginRefused::Expired,
            ended => LoginRefused::Ended(ended),
        }
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Directory(…)")
    }
}

fn live(token: &StoredToken, now_ns: i64) -> bool {
    standing_of(token, now_ns).is_ok()
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
    use crate::state::SqliteState;

    const DAY: i64 = 86_400 * 1_000_000_000;
    const NOW: i64 = 1_800_000_000 * 1_000_000_000;

    struct House {
        _dir: tempfile::TempDir,
        path: std::path::PathBuf,
        state: Arc<SqliteState>,
        directory: Directory,
    }

    fn house() -> House {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let state = Arc::new(SqliteState::open(&path).unwrap());
        let directory = Directory::new(TenantKey::new([1; 32]), roster(), state.clone()).unwrap();
        House { _dir: dir, path, state, directory }
    }

    impl House {
        fn issue(&self, principal: &str, ttl_ns: i64) -> token::Issued {
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

    /// A store that can be switched off.
    struct Switch(Arc<SqliteState>, std::sync::atomic::AtomicBool);

    impl State for Switch {
        fn version(&self) -> Result<u64, StateError> {
            if self.1.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(StateError::Malformed { what: "everything" });
            }
            self.0.version()
        }
        fn tokens(&self) -> Result<Vec<StoredToken>, StateError> {
            self.0.tokens()
        }
        fn salts(&self) -> Result<Vec<(String, ScramSalt)>, StateError> {
            self.0.salts()
        }
        fn salt_of(&self, principal: &str) -> Result<ScramSalt, StateError> {
            self.0.salt_of(principal)
        }
        fn add_token(&self, token: &StoredToken) -> Result<(), StateError> {
            self.0.add_token(token)
        }
        fn revoke_token(&self, id: &str, now_ns: i64) -> Result<bool, StateError> {
            self.0.revoke_token(id, now_ns)
        }
        fn decoy_key(&self) -> Result<[u8; 32], StateError> {
            self.0.decoy_key()
        }
        fn sighting(&self, c: Id16, a: Id16, now_ns: i64, since_ns: i64) -> Result<i64, StateError> {
            self.0.sighting(c, a, now_ns, since_ns)
        }
    }

    #[test]
    fn without_the_store_logins_end_after_5_s_and_sessions_after_30_s() {
        let house = house();
        let token = house.issue("ann", DAY);
        let switch = Arc::new(Switch(house.state.clone(), false.into()));
        let directory = Directory::new(TenantKey::new([1; 32]), roster(), switch.clone()).unwrap();
        let login = || directory.by_token(None, &token.text, "token", NOW);
        let set = |off| switch.1.store(off, std::sync::atomic::Ordering::Relaxed);
        let last_read = || directory.0.snapshot.lock().unwrap().read_at;
        let session = login().unwrap();
        // Nobody logs in for an hour; the store is read all the same.
        let age = |by: u64| {
            let mut cached = directory.0.snapshot.lock().unwrap();
            cached.read_at = Instant::now().checked_sub(Duration::from_secs(by)).unwrap();
        };
        age(3600);
        let deadline = Instant::now() + Duration::from_secs(10);
        while last_read().elapsed() > Duration::from_secs(2) {
            assert!(Instant::now() < deadline, "nobody reads the store");
            std::thread::sleep(Duration::from_millis(20));
        }
        set(true);
        assert!(login().is_ok());
        age(4);
        assert!(login().is_ok());
        age(6);
        assert_eq!(login().unwrap_err(), LoginRefused::StoreUnavailable);
        age(28);
        assert!(directory.principal_still_valid(&session, NOW).is_ok());
        age(31);
        assert_eq!(directory.principal_still_valid(&session, NOW), Err(Ended::StoreUnavailable));
        set(false);
        assert!(login().is_ok());
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
