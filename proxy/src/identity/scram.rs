//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, the server's side, as a pure state machine (RFC 5802, RFC 7677).
//!
//! One principal may hold several tokens. They share a salt, so that the server can answer before it knows
//! which one the client holds; the client's proof then reveals ClientKey under the right StoredKey only.
//! Invariant: nothing here reads a clock, a store or randomness, and whatever the client sends, the answer
//! has the same shape for a known and an unknown principal until the proof is judged.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

/// Mechanism without channel binding.
pub const SCRAM: &str = "SCRAM-SHA-256";
/// Mechanism with channel binding.
pub const SCRAM_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Longest message that is read.
const MAX_MESSAGE: usize = 2048;

/// What the server keeps of one password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    /// H(ClientKey).
    pub stored_key: [u8; 32],
    /// HMAC(SaltedPassword, "Server Key").
    pub server_key: [u8; 32],
}

/// The exchange failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// A message breaks the grammar of RFC 5802 §7.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// The client wants what was not offered, or its binding is another connection's.
    #[error("SCRAM channel binding does not hold: {0}")]
    ChannelBinding(&'static str),
    /// The proof matches no key.
    #[error("SCRAM proof is wrong")]
    Proof,
}

/// The server's side of one exchange.
pub struct ScramServer {
    salt: Vec<u8>,
    iterations: u32,
    keys: Vec<Keys>,
    nonce: String,
    /// Hash of the server's certificate (RFC 5929 §4) when -PLUS was offered.
    binding: Option<Vec<u8>>,
}

/// The exchange after the server's first message.
pub struct ScramProof {
    keys: Vec<Keys>,
    nonce: String,
    /// What `c=` must decode to: the GS2 header and, with binding, the certificate hash.
    bound: Vec<u8>,
    /// client-first-bare, a comma, server-first.
    transcript: String,
}

impl ScramServer {
    /// An exchange over these keys, which all belong to one salt. `nonce` is the server's part: fresh random
    /// printable text. With `binding` set, -PLUS was offered too.
    pub fn new(
        salt: &[u8],
        iterations: u32,
        keys: Vec<Keys>,
        nonce: String,
        binding: Option<Vec<u8>>,
    ) -> Self {
        Self { salt: salt.to_vec(), iterations, keys, nonce, binding }
    }

    /// Reads client-first and gives server-first.
    pub fn start(self, mechanism: &str, client_first: &[u8]) -> Result<(String, ScramProof), ScramError> {
        let plus = match mechanism {
            SCRAM => false,
            SCRAM_PLUS if self.binding.is_some() => true,
            _ => return Err(ScramError::Malformed("mechanism that was not offered")),
        };
        let message = text(client_first)?;
        let (flag, rest) = message.split_once(',').ok_or(ScramError::Malformed("no GS2 header"))?;
        match (flag, plus) {
            ("n", false) => {}
            // The client could bind but believes that we cannot: if we can, someone cut our offer.
            ("y", false) if self.binding.is_none() => {}
            ("y", false) => {
                return Err(ScramError::ChannelBinding("the offer of -PLUS did not reach the client"));
            }
            ("p=tls-server-end-point", true) => {}
            (flag, _) if flag.starts_with("p=") => {
                return Err(ScramError::ChannelBinding("type that was not offered"));
            }
            _ => return Err(ScramError::Malformed("GS2 flag does not fit the mechanism")),
        }
        let (authzid, bare) = rest.split_once(',').ok_or(ScramError::Malformed("no GS2 header"))?;
        if !authzid.is_empty() {
            return Err(ScramError::Malformed("authorization identity"));
        }
        let mut attributes = bare.split(',');
        // The name is a hint that PostgreSQL clients leave empty: the startup message names the user.
        let name = attribute(attributes.next(), "n=")?;
        if name.replace("=2C", "").replace("=3D", "").contains('=') {
            return Err(ScramError::Malformed("escape in the user name"));
        }
        let client_nonce = attribute(attributes.next(), "r=")?;
        if client_nonce.is_empty() || !client_nonce.bytes().all(|b| matches!(b, 0x21..=0x2b | 0x2d..=0x7e)) {
            return Err(ScramError::Malformed("nonce"));
        }
        // Optional extensions may follow; a mandatory one (`m=`) stands first and was refused above.
        if attributes.any(|a| !extension(a)) {
            return Err(ScramError::Malformed("extension"));
        }
        let nonce = format!("{client_nonce}{}", self.nonce);
        let server_first = format!("r={nonce},s={},i={}", BASE64.encode(&self.salt), self.iterations);
        let mut bound = format!("{flag},,").into_bytes();
        if plus {
            bound.extend_from_slice(&self.binding.unwrap_or_default());
        }
        let transcript = format!("{bare},{server_first}");
        Ok((server_first, ScramProof { keys: self.keys, nonce, bound, transcript }))
    }
}

impl ScramProof {
    /// Reads client-final and gives server-final and the index of the key that the proof matched.
    pub fn finish(self, client_final: &[u8]) -> Result<(String, usize), ScramError> {
        let message = text(client_final)?;
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(ScramError::Malformed("no proof"))?;
        let mut attributes = without_proof.split(',');
        let channel = attribute(attributes.next(), "c=")?;
        let nonce = attribute(attributes.next(), "r=")?;
        if attributes.any(|a| !extension(a)) {
            return Err(ScramError::Malformed("extension"));
        }
        if !bool::from(nonce.as_bytes().ct_eq(self.nonce.as_bytes())) {
            return Err(ScramError::Malformed("nonce is not the one of this exchange"));
        }
        let channel =
            BASE64.decode(channel).map_err(|_| ScramError::Malformed("channel binding is not base64"))?;
        if !bool::from(channel.ct_eq(&self.bound)) {
            return Err(ScramError::ChannelBinding("the client saw another certificate or offer"));
        }
        let proof: [u8; 32] = BASE64
            .decode(proof)
            .ok()
            .and_then(|p| p.try_into().ok())
            .ok_or(ScramError::Malformed("proof is not 32 bytes of base64"))?;
        let auth_message = format!("{},{without_proof}", self.transcript);
        let (mut found, mut index, mut server_key) = (Choice::from(0), 0u64, [0; 32]);
        // Every key is tried, and at least one, so that the time tells neither which matched nor whether
        // the principal has any.
        let decoy = Keys { stored_key: [0; 32], server_key: [0; 32] };
        let known = self.keys.len();
        let tried = self.keys.iter().chain((known == 0).then_some(&decoy));
        for (i, keys) in tried.enumerate() {
            let signature = hmac(&keys.stored_key, auth_message.as_bytes());
            let mut client_key = proof;
            for (k, s) in client_key.iter_mut().zip(signature) {
                *k ^= s;
            }
            let hit = sha256(&client_key).ct_eq(&keys.stored_key) & Choice::from(u8::from(i < known));
            index.conditional_assign(&(i as u64), hit);
            for (to, from) in server_key.iter_mut().zip(keys.server_key) {
                to.conditional_assign(&from, hit);
            }
            found |= hit;
        }
        let server_final = format!("v={}", BASE64.encode(hmac(&server_key, auth_message.as_bytes())));
        if bool::from(found) { Ok((server_final, index as usize)) } else { Err(ScramError::Proof) }
    }
}

/// The keys of a password. The password must be ASCII, which SASLprep (RFC 4013) leaves as it is.
pub fn keys(password: &[u8], salt: &[u8], iterations: u32) -> Keys {
    let mut salted = zeroize::Zeroizing::new([0u8; 32]);
    pbkdf2::pbkdf2_hmac::<Sha256>(password, salt, iterations, salted.as_mut_slice());
    Keys { stored_key: sha256(&hmac(&salted, b"Client Key")), server_key: hmac(&salted, b"Server Key") }
}

/// The server's part of a nonce: 18 random bytes in base64, as PostgreSQL does.
pub fn fresh_nonce() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 18];
    getrandom::fill(&mut bytes)?;
    Ok(BASE64.encode(bytes))
}

/// The channel binding data `tls-server-end-point` of a certificate in DER (RFC 5929 §4.1): its hash by the
/// hash function of its signature, SHA-256 in place of MD5 and SHA-1. Undefined for other algorithms.
pub fn tls_server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    // Certificate ::= SEQUENCE { tbsCertificate SEQUENCE, signatureAlgorithm SEQUENCE { OID, ... }, ... }
    let (certificate_body, _) = der(certificate, 0x30)?;
    let (_, rest) = der(certificate_body, 0x30)?;
    let (algorithm, _) = der(rest, 0x30)?;
    let (oid, _) = der(algorithm, 0x06)?;
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA_SHA2: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
    let bits = match (oid.strip_prefix(RSA), oid.strip_prefix(ECDSA_SHA2)) {
        (Some([4 | 5 | 11]), _) | (_, Some([2])) => 256,
        (Some([12]), _) | (_, Some([3])) => 384,
        (Some([13]), _) | (_, Some([4])) => 512,
        _ => return None,
    };
    Some(match bits {
        256 => Sha256::digest(certificate).to_vec(),
        384 => sha2::Sha384::digest(certificate).to_vec(),
        _ => sha2::Sha512::digest(certificate).to_vec(),
    })
}

/// The content of the DER element with this tag at the start of `bytes`, and what follows it.
fn der(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match *length {
        short @ 0..=0x7f => (usize::from(short), rest),
        long @ 0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            (digits.iter().fold(0, |n, d| n << 8 | usize::from(*d)), rest)
        }
        _ => return None,
    };
    if *first == tag { rest.split_at_checked(length) } else { None }
}

fn text(message: &[u8]) -> Result<&str, ScramError> {
    if message.len() > MAX_MESSAGE {
        return Err(ScramError::Malformed("too long"));
    }
    std::str::from_utf8(message).map_err(|_| ScramError::Malformed("not UTF-8"))
}

fn attribute<'a>(part: Option<&'a str>, name: &'static str) -> Result<&'a str, ScramError> {
    part.and_then(|p| p.strip_prefix(name)).ok_or(ScramError::Malformed("attribute missing or out of order"))
}

/// Whether an attribute has the form of an optional extension.
fn extension(part: &str) -> bool {
    let mut chars = part.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() && c != 'm') && chars.next() == Some('=')
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

pub(super) fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
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
pub mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLIENT_NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";

    /// The client's side, as RFC 5802 §3 describes it.
    pub struct Client {
        header: String,
        bound: Vec<u8>,
    }

    impl Client {
        pub fn new(header: &str, bound: &[u8]) -> Self {
            Self { header: header.to_owned(), bound: bound.to_vec() }
        }

        pub fn first(&self) -> String {
            format!("{}n=user,r={CLIENT_NONCE}", self.header)
        }

        /// client-final, and the server-final that it expects.
        pub fn last(&self, server_first: &str, password: &str) -> (String, String) {
            let attribute = |name| server_first.split(',').find_map(|a| a.strip_prefix(name)).unwrap();
            let salt = BASE64.decode(attribute("s=")).unwrap();
            let mut salted = [0; 32];
            pbkdf2::pbkdf2_hmac::<Sha256>(
                password.as_bytes(),
                &salt,
                attribute("i=").parse().unwrap(),
                &mut salted,
            );
            let client_key = hmac(&salted, b"Client Key");
            let channel = BASE64.encode([self.header.as_bytes(), &self.bound].concat());
            let without_proof = format!("c={channel},r={}", attribute("r="));
            let auth_message = format!("n=user,r={CLIENT_NONCE},{server_first},{without_proof}");
            let signature = hmac(&sha256(&client_key), auth_message.as_bytes());
            let proof: Vec<u8> = client_key.iter().zip(signature).map(|(k, s)| k ^ s).collect();
            let server = hmac(&hmac(&salted, b"Server Key"), auth_message.as_bytes());
            (format!("{without_proof},p={}", BASE64.encode(proof)), format!("v={}", BASE64.encode(server)))
        }
    }

    fn salt() -> Vec<u8> {
        BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap()
    }

    fn server(passwords: &[&str], binding: Option<&[u8]>) -> ScramServer {
        // Derived once: without optimisation 4,096 rounds take long.
        static DERIVED: std::sync::Mutex<Vec<(String, Keys)>> = std::sync::Mutex::new(Vec::new());
        let mut derived = DERIVED.lock().unwrap();
        let keys = passwords.iter().map(|password| match derived.iter().find(|(p, _)| p == password) {
            Some((_, keys)) => *keys,
            None => {
                derived.push((password.to_string(), keys(password.as_bytes(), &salt(), 4096)));
                derived[derived.len() - 1].1
            }
        });
        ScramServer::new(&salt(), 4096, keys.collect(), SERVER_NONCE.to_owned(), binding.map(<[u8]>::to_vec))
    }

    #[test]
    fn the_exchange_of_rfc_7677_is_reproduced() {
        let (server_first, proof) =
            server(&["pencil"], None).start(SCRAM, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO").unwrap();
        assert_eq!(
            server_first,
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        let (server_final, index) = proof.finish(last.as_bytes()).unwrap();
        assert_eq!(server_final, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert_eq!(index, 0);
    }

    #[test]
    fn the_key_that_the_proof_matches_is_found_and_signs() {
        for (index, password) in ["one", "two", "three"].iter().enumerate() {
            let client = Client::new("n,,", b"");
            let (first, proof) =
                server(&["one", "two", "three"], None).start(SCRAM, client.first().as_bytes()).unwrap();
            let (last, expected) = client.last(&first, password);
            assert_eq!(proof.finish(last.as_bytes()).unwrap(), (expected, index));
        }
        for passwords in [&["one", "two"][..], &[]] {
            let client = Client::new("n,,", b"");
            let (first, proof) = server(passwords, None).start(SCRAM, client.first().as_bytes()).unwrap();
            let (last, _) = client.last(&first, "wrong");
            assert_eq!(proof.finish(last.as_bytes()).unwrap_err(), ScramError::Proof);
        }
    }

    #[test]
    fn a_zero_proof_does_not_match_the_decoy() {
        let client = Client::new("n,,", b"");
        let (first, proof) = server(&[], None).start(SCRAM, client.first().as_bytes()).unwrap();
        let nonce = first.split(',').next().unwrap();
        let last = format!("c=biws,{nonce},p={}", BASE64.encode([0; 32]));
        assert_eq!(proof.finish(last.as_bytes()).unwrap_err(), ScramError::Proof);
    }

    #[test]
    fn channel_binding_holds_and_its_removal_is_noticed() {
        let run = |offered: Option<&[u8]>, mechanism, header: &str, bound: &[u8]| {
            let client = Client::new(header, bound);
            let (first, proof) = server(&["pencil"], offered).start(mechanism, client.first().as_bytes())?;
            proof.finish(client.last(&first, "pencil").0.as_bytes()).map(|(_, index)| index)
        };
        let plus = "p=tls-server-end-point,,";
        assert_eq!(run(Some(b"cert"), SCRAM_PLUS, plus, b"cert"), Ok(0));
        assert_eq!(run(None, SCRAM, "y,,", b""), Ok(0));
        assert_eq!(run(Some(b"cert"), SCRAM, "n,,", b""), Ok(0));
        // Somebody in the middle shows another certificate.
        assert!(matches!(run(Some(b"cert"), SCRAM_PLUS, plus, b"other"), Err(ScramError::ChannelBinding(_))));
        // Somebody in the middle cut -PLUS out of the offer.
        assert!(matches!(run(Some(b"cert"), SCRAM, "y,,", b""), Err(ScramError::ChannelBinding(_))));
        assert!(matches!(
            run(Some(b"cert"), SCRAM, "p=tls-unique,,", b""),
            Err(ScramError::ChannelBinding(_))
        ));
        assert!(matches!(run(None, SCRAM_PLUS, plus, b"cert"), Err(ScramError::Malformed(_))));
        assert!(matches!(run(Some(b"cert"), SCRAM_PLUS, "n,,", b""), Err(ScramError::Malformed(_))));
        assert!(matches!(run(None, "SCRAM-SHA-1", "n,,", b""), Err(ScramError::Malformed(_))));
    }

    #[test]
    fn messages_that_break_the_grammar_are_refused() {
        for first in [
            "",
            "n",
            "n,",
            "n,,",
            "n,,n=user",
            "n,,r=abc",
            "n,,n=user,r=",
            "n,,n=user,r=a b",
            "n,,n=user,r=a\u{e9}",
            "n,a=admin,n=user,r=abc",
            "n,,m=x,n=user,r=abc",
            "n,,n=us=er,r=abc",
            "x,,n=user,r=abc",
            "n,,n=user,r=abc,x",
            "n,,n=user,r=abc,m=x",
        ] {
            let result = server(&["pencil"], None).start(SCRAM, first.as_bytes());
            assert!(matches!(result, Err(ScramError::Malformed(_))), "{first}");
        }
        let long = format!("n,,n=user,r={}", "a".repeat(3000));
        assert!(server(&[], None).start(SCRAM, long.as_bytes()).is_err());
        assert!(server(&[], None).start(SCRAM, b"n,,n=\xff,r=abc").is_err());
        assert!(server(&[], None).start(SCRAM, b"n,,n=a=2Cb=3D,r=abc,x=extension").is_ok());
        let client = Client::new("n,,", b"");
        let good = |proof_end: &str| {
            let (first, proof) = server(&["pencil"], None).start(SCRAM, client.first().as_bytes()).unwrap();
            let last = client.last(&first, "pencil").0;
            (proof, format!("{last}{proof_end}"), last)
        };
        let (proof, with_rest, last) = good(",x=1");
        assert!(proof.finish(with_rest.as_bytes()).is_err(), "nothing follows the proof");
        for cut in 0..last.len() {
            assert!(good("").0.finish(&last.as_bytes()[..cut]).is_err(), "cut at {cut}");
        }
        let other_nonce = last.replace("hvYD", "XXXX");
        assert!(matches!(good("").0.finish(other_nonce.as_bytes()), Err(ScramError::Malformed(_))));
        assert!(good("").0.finish(last.as_bytes()).is_ok());
    }

    #[test]
    fn the_end_point_hash_follows_the_certificates_signature() {
        use rcgen::{
            CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
        };
        let made = |algorithm| {
            let key = KeyPair::generate_for(algorithm).unwrap();
            CertificateParams::new(vec!["localhost".to_owned()])
                .unwrap()
                .self_signed(&key)
                .unwrap()
                .der()
                .to_vec()
        };
        let sha256 = made(&PKCS_ECDSA_P256_SHA256);
        assert_eq!(tls_server_end_point(&sha256), Some(Sha256::digest(&sha256).to_vec()));
        let sha384 = made(&PKCS_ECDSA_P384_SHA384);
        assert_eq!(tls_server_end_point(&sha384), Some(sha2::Sha384::digest(&sha384).to_vec()));
        assert_eq!(tls_server_end_point(&made(&PKCS_ED25519)), None);
        for cut in 0..sha256.len().min(700) {
            tls_server_end_point(&sha256[..cut]);
        }
    }

    proptest! {
        #[test]
        fn any_message_gets_an_answer(first in proptest::collection::vec(any::<u8>(), 0..80), last in "\\PC{0,120}", text in "[npy],[,=a-z]{0,3}n=[a-z]{0,3},r=[ -~]{0,20}") {
            let _ = server(&["pencil"], None).start(SCRAM, &first);
            if let Ok((_, proof)) = server(&["pencil"], Some(b"x")).start(SCRAM, text.as_bytes()) {
                prop_assert!(proof.finish(last.as_bytes()).is_err());
            }
        }
    }
}
