//! Proving the role's password to a target: SCRAM-SHA-256 with and without channel binding (RFC 5802, RFC
//! 7677) and MD5.

use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use md5::Md5;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::identity::scram::{SCRAM, SCRAM_PLUS, fresh_nonce};

/// Most PBKDF2 iterations that a server may ask for: beyond it would be an attack on our CPU.
const MAX_ITERATIONS: u32 = 1_000_000;

/// Keys derived from the password for the salt last seen: deriving them again costs a millisecond a login.
#[derive(Default)]
pub(super) struct KeyCache(Mutex<Option<Derived>>);

#[derive(Clone)]
struct Derived {
    salt: Vec<u8>,
    iterations: u32,
    client_key: Zeroizing<[u8; 32]>,
    server_key: Zeroizing<[u8; 32]>,
}

/// The client's side of one exchange.
pub(super) struct Scram {
    plus: bool,
    client_first: String,
    nonce: String,
    /// Base64 of what `c=` holds.
    bound: String,
    server_signature: Option<[u8; 32]>,
}

impl Scram {
    /// Chooses among the offered mechanisms; `end_point` is the channel binding data under TLS.
    pub fn start(mechanisms: &[u8], end_point: Option<Vec<u8>>) -> Result<Self, String> {
        let offers = |name: &str| mechanisms.split(|b| *b == 0).any(|m| m == name.as_bytes());
        let plus = end_point.is_some() && offers(SCRAM_PLUS);
        if !plus && !offers(SCRAM) {
            return Err("the server offers no SCRAM-SHA-256".to_owned());
        }
        let header = match (plus, &end_point) {
            (true, _) => "p=tls-server-end-point,,",
            // We could have bound: a server that can, too, learns that its offer was cut on the way.
            (false, Some(_)) => "y,,",
            (false, None) => "n,,",
        };
        let nonce = fresh_nonce().map_err(|e| format!("the system gave no random bytes: {e}"))?;
        let mut bound = header.as_bytes().to_vec();
        if plus {
            bound.extend_from_slice(&end_point.unwrap_or_default());
        }
        Ok(Self {
            plus,
            client_first: format!("{header}n=,r={nonce}"),
            nonce,
            bound: BASE64.encode(bound),
            server_signature: None,
        })
    }

    /// Name of the mechanism chosen.
    pub fn mechanism(&self) -> &'static str {
        if self.plus { SCRAM_PLUS } else { SCRAM }
    }

    /// The first message.
    pub fn client_first(&self) -> &[u8] {
        self.client_first.as_bytes()
    }

    /// Reads server-first and gives client-final.
    pub fn answer(
        &mut self,
        server_first: &[u8],
        password: &str,
        cache: &KeyCache,
    ) -> Result<String, &'static str> {
        const MALFORMED: &str = "the server's SCRAM message is malformed";
        let message = std::str::from_utf8(server_first).map_err(|_| MALFORMED)?;
        let mut parts = message.split(',');
        let mut part = |name: &str| parts.next().and_then(|p| p.strip_prefix(name)).ok_or(MALFORMED);
        let (nonce, salt, iterations) = (part("r=")?, part("s=")?, part("i=")?);
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err("the server's nonce does not continue ours");
        }
        let salt = BASE64.decode(salt).map_err(|_| MALFORMED)?;
        let iterations: u32 = iterations.parse().map_err(|_| MALFORMED)?;
        if !(1..=MAX_ITERATIONS).contains(&iterations) {
            return Err("the server asks for too many or no iterations");
        }
        let keys = cache.derive(password, salt, iterations);
        let bare = self.client_first.splitn(3, ',').nth(2).unwrap_or_default();
        let without_proof = format!("c={},r={nonce}", self.bound);
        let signed = format!("{bare},{message},{without_proof}");
        let stored_key: [u8; 32] = Sha256::digest(keys.client_key.as_slice()).into();
        let mut proof = mac(&stored_key, signed.as_bytes());
        for (p, k) in proof.iter_mut().zip(keys.client_key.iter()) {
            *p ^= k;
        }
        self.server_signature = Some(mac(&keys.server_key, signed.as_bytes()));
        Ok(format!("{without_proof},p={}", BASE64.encode(proof)))
    }

    /// Checks server-final: only someone who knows the password's verifier can have made it.
    pub fn verify(&self, server_final: &[u8]) -> Result<(), &'static str> {
        const WRONG: &str = "the server could not prove that it knows the role's password";
        let expected = self.server_signature.ok_or(WRONG)?;
        let given = server_final.strip_prefix(b"v=").ok_or(WRONG)?;
        let given = BASE64.decode(given).map_err(|_| WRONG)?;
        if bool::from(given.ct_eq(&expected)) { Ok(()) } else { Err(WRONG) }
    }
}

impl KeyCache {
    fn derive(&self, password: &str, salt: Vec<u8>, iterations: u32) -> Derived {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(derived) = cached.as_ref().filter(|d| d.salt == salt && d.iterations == iterations) {
            return derived.clone();
        }
        // What SASLprep (RFC 4013) forbids is used as it is, as PostgreSQL does.
        let prepared = stringprep::saslprep(password).unwrap_or(password.into());
        let mut salted = Zeroizing::new([0; 32]);
        pbkdf2::pbkdf2_hmac::<Sha256>(prepared.as_bytes(), &salt, iterations, salted.as_mut_slice());
        let derived = Derived {
            salt,
            iterations,
            client_key: Zeroizing::new(mac(&salted, b"Client Key")),
            server_key: Zeroizing::new(mac(&salted, b"Server Key")),
        };
        *cached = Some(derived.clone());
        derived
    }
}

/// The answer to AuthenticationMD5Password.
pub(super) fn md5(password: &str, role: &str, salt: [u8; 4]) -> Zeroizing<String> {
    let hex = |parts: [&[u8]; 2]| {
        let mut hash = Md5::new();
        parts.iter().for_each(|p| hash.update(p));
        Zeroizing::new(bodycam_record::ids::to_hex(&hash.finalize()))
    };
    let inner = hex([password.as_bytes(), role.as_bytes()]);
    Zeroizing::new(format!("md5{}", *hex([inner.as_bytes(), &salt])))
}

fn mac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    // RFC 2104 pads keys with zeros to a block; a full block needs no fallible constructor.
    let mut block = hmac::digest::generic_array::GenericArray::default();
    for (to, from) in block.iter_mut().zip(key) {
        *to = *from;
    }
    let mut mac = <Hmac<Sha256> as Mac>::new(&block);
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::scram::{Keys, ScramServer, keys};

    fn server(password: &str, binding: Option<Vec<u8>>) -> ScramServer {
        let known: Vec<Keys> = vec![keys(password.as_bytes(), b"salt of 16 bytes", 4096)];
        ScramServer::new(b"salt of 16 bytes", 4096, known, fresh_nonce().unwrap(), binding)
    }

    #[test]
    fn both_sides_prove_the_same_password() {
        let cache = KeyCache::default();
        for binding in [None, Some(b"certificate hash".to_vec())] {
            let mut client = Scram::start(b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0", binding.clone()).unwrap();
            assert_eq!(client.mechanism() == SCRAM_PLUS, binding.is_some());
            let (first, proof) =
                server("hunter2", binding).start(client.mechanism(), client.client_first()).unwrap();
            let answer = client.answer(first.as_bytes(), "hunter2", &cache).unwrap();
            let (server_final, _) = proof.finish(answer.as_bytes()).unwrap();
            client.verify(server_final.as_bytes()).unwrap();
            assert!(client.verify(b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").is_err());
        }
    }

    #[test]
    fn a_hostile_server_gets_no_proof() {
        let cache = KeyCache::default();
        let mut client = Scram::start(b"SCRAM-SHA-256\0\0", None).unwrap();
        let nonce = client.nonce.clone();
        let cases = [
            "".to_owned(),
            "r=other,s=AAAA,i=4096".to_owned(),
            format!("r={nonce},s=AAAA,i=4096"),
            format!("r={nonce}x,s=AAAA,i=2000000000"),
            format!("r={nonce}x,s=AAAA,i=0"),
            format!("r={nonce}x,s=*,i=4096"),
        ];
        for message in cases {
            assert!(client.answer(message.as_bytes(), "p", &cache).is_err(), "{message}");
        }
        assert!(client.verify(b"v=").is_err(), "nothing to verify before a proof");
        assert!(Scram::start(b"PLAIN\0\0", None).is_err());
    }

    #[test]
    fn md5_is_the_answer_that_postgresql_expects() {
        // SELECT 'md5' || md5(md5('pencil' || 'app') || E'\x01\x02\x03\x04')
        assert_eq!(md5("pencil", "app", [1, 2, 3, 4]).as_str(), "md54bfca4ca571b8df74c2fc2247888d96f");
    }
}
