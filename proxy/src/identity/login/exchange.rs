//! A SCRAM login, from the name in the startup message to the principal.
//!
//! Invariant: a name that nobody has is answered like one that somebody has; only the proof tells.

use std::sync::Arc;

use super::super::scram::{self, Keys, ScramError, ScramProof, ScramServer};
use super::super::token;
use super::store::LOGIN_GRACE;
use super::{ChannelBinding, Directory, LoginRefused, Principal, standing_of};
use crate::state::{ScramSalt, StoredToken};

/// Tokens of one principal that SCRAM tries: the live ones, and the newest dead ones so that the record can
/// say "revoked" or "expired" instead of "wrong".
const MAX_TRIED: usize = 2 * token::MAX_LIVE;

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

fn live(token: &StoredToken, now_ns: i64) -> bool {
    standing_of(token, now_ns).is_ok()
}
