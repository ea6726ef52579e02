//! Keys: tenant, session, producer, epoch, and what is derived from each.

use std::fmt;

use ed25519_dalek::{Signer, SigningKey, Verifier, VerifyingKey};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::canonical::Writer;
use crate::digest::{self, Digest};
use crate::envelope::keyed16;
use crate::ids::{Fingerprint, Id16, PrincipalRef, SessionId};

/// The key of a tenant: pseudonyms, fingerprints, and the wrapping of session keys. 32 random bytes.
#[derive(Clone)]
pub struct TenantKey(Zeroizing<[u8; 32]>);

/// The key of a session: content encryption, salts, keyed digests. 32 random bytes made at open, and the subkeys
/// derived from them.
#[derive(Clone)]
pub struct SessionKey {
    root: Zeroizing<[u8; 32]>,
    content: Zeroizing<[u8; 32]>,
    salt: Zeroizing<[u8; 32]>,
    digest: Zeroizing<[u8; 32]>,
}

/// The long-term Ed25519 key of a producer.
pub struct ProducerKey(SigningKey);

/// The Ed25519 key of one epoch of a producer.
pub struct EpochKey(SigningKey);

/// A wrapped key or name could not be opened: another tenant's, or altered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot be opened with this tenant key: wrapped under another key, or altered")]
pub struct Unopenable;

impl fmt::Debug for TenantKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TenantKey(…)")
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(…)")
    }
}

impl TenantKey {
    /// The key of these bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Pseudonym of a principal.
    pub fn principal_ref(&self, name: &str) -> PrincipalRef {
        keyed16(&digest::TENANT_PRINCIPAL.subkey(&self.0), name.as_bytes())
    }

    /// Fingerprint of literal-free statement text.
    pub fn fingerprint(&self, template: &str) -> Fingerprint {
        keyed16(&digest::TENANT_FINGERPRINT.subkey(&self.0), template.as_bytes())
    }

    /// What stands for a correlation id in event bodies.
    pub fn correlation(&self, id: &str) -> Id16 {
        keyed16(&digest::TENANT_CORRELATION.subkey(&self.0), id.as_bytes())
    }

    /// What stands for a client address in event bodies.
    pub fn address(&self, address: &str) -> Id16 {
        keyed16(&digest::TENANT_ADDRESS.subkey(&self.0), address.as_bytes())
    }

    /// What stands for a credential in event bodies, made of its id, never of its secret.
    pub fn credential(&self, id: &str) -> Id16 {
        keyed16(&digest::TENANT_CREDENTIAL.subkey(&self.0), id.as_bytes())
    }

    /// `?` and 16 hex digits: what stands for a name that the target's catalog does not know.
    pub fn unknown_identifier(&self, name: &str) -> String {
        let id = keyed16(&digest::TENANT_IDENTIFIER.subkey(&self.0), name.as_bytes()).to_hex();
        format!("?{}", id.get(..16).unwrap_or_default())
    }

    /// The identity digest of a genesis.
    pub fn identity_digest(
        &self,
        principal: &str,
        kind: &str,
        credential: Id16,
        auth_method: &str,
    ) -> Digest {
        let mut w = Writer::new();
        for field in [principal.as_bytes(), kind.as_bytes(), &credential.0, auth_method.as_bytes()] {
            w.bytes(field);
        }
        Digest(*blake3::keyed_hash(&digest::TENANT_IDENTITY.subkey(&self.0), w.as_slice()).as_bytes())
    }

    /// Authenticates an object that detection keeps in the lake for itself, under the name that it has there: who
    /// can write to the lake cannot make one, nor put one in the place of another.
    pub fn state_mac(&self, path: &str, bytes: &[u8]) -> Digest {
        let mut w = Writer::new();
        w.bytes(path.as_bytes());
        let mut hasher = blake3::Hasher::new_keyed(&digest::TENANT_STATE.subkey(&self.0));
        hasher.update(w.as_slice()).update(bytes);
        Digest(*hasher.finalize().as_bytes())
    }

    /// Wraps a session key. The nonce is fixed because the wrapping key is the session's own.
    pub fn wrap(&self, session: SessionId, key: &SessionKey) -> Vec<u8> {
        seal(&self.wrap_key(session), 0, 0, &session.0, key.root.to_vec())
    }

    /// Opens a wrapped session key.
    pub fn unwrap(&self, session: SessionId, wrapped: &[u8]) -> Result<SessionKey, Unopenable> {
        let plain =
            Zeroizing::new(open(&self.wrap_key(session), 0, 0, &session.0, wrapped).ok_or(Unopenable)?);
        Ok(SessionKey::new(plain.as_slice().try_into().map_err(|_| Unopenable)?))
    }

    /// Wraps the name behind a pseudonym, for the directory.
    pub fn wrap_name(&self, principal_ref: PrincipalRef, name: &str) -> Vec<u8> {
        seal(&self.directory_key(principal_ref), 0, 0, &principal_ref.0, name.as_bytes().to_vec())
    }

    /// Opens the name behind a pseudonym.
    pub fn unwrap_name(&self, principal_ref: PrincipalRef, wrapped: &[u8]) -> Result<String, Unopenable> {
        let plain =
            open(&self.directory_key(principal_ref), 0, 0, &principal_ref.0, wrapped).ok_or(Unopenable)?;
        String::from_utf8(plain).map_err(|_| Unopenable)
    }

    fn wrap_key(&self, session: SessionId) -> [u8; 32] {
        *blake3::keyed_hash(&digest::TENANT_WRAP.subkey(&self.0), &session.0).as_bytes()
    }

    /// A name always wraps to the same bytes, so a fixed nonce under a key per pseudonym is safe.
    fn directory_key(&self, principal_ref: PrincipalRef) -> [u8; 32] {
        *blake3::keyed_hash(&digest::TENANT_DIRECTORY.subkey(&self.0), &principal_ref.0).as_bytes()
    }
}

impl SessionKey {
    /// The key of these bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self {
            content: Zeroizing::new(digest::SESSION_CONTENT.subkey(&bytes)),
            salt: Zeroizing::new(digest::SESSION_SALT.subkey(&bytes)),
            digest: Zeroizing::new(digest::SESSION_DIGEST.subkey(&bytes)),
            root: Zeroizing::new(bytes),
        }
    }

    /// Its digest, bound in the genesis.
    pub fn digest(&self) -> Digest {
        digest::SESSION_KEY.digest(self.root.as_slice())
    }

    /// The salt of the commitment of content `no`.
    pub fn salt(&self, no: i64) -> [u8; 32] {
        *blake3::keyed_hash(&self.salt, &no.to_le_bytes()).as_bytes()
    }

    /// A hasher for a keyed digest over something that a person or a target wrote.
    pub fn hasher(&self) -> blake3::Hasher {
        blake3::Hasher::new_keyed(&self.digest)
    }

    /// The keyed digest of `bytes`.
    pub fn keyed_digest(&self, bytes: &[u8]) -> Digest {
        Digest(*blake3::keyed_hash(&self.digest, bytes).as_bytes())
    }

    /// The keyed digest of `bytes`, cut to 16 bytes.
    pub fn keyed_id(&self, bytes: &[u8]) -> Id16 {
        keyed16(&self.digest, bytes)
    }

    /// Encrypts content in place and appends its tag; (`no`, `index`) must be used once in a session.
    pub(crate) fn seal(&self, no: i64, index: u32, aad: &[u8], bytes: Vec<u8>) -> Vec<u8> {
        seal(&self.content, no, index, aad, bytes)
    }

    /// Decrypts content.
    pub(crate) fn open(&self, no: i64, index: u32, aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        open(&self.content, no, index, aad, sealed)
    }
}

impl ProducerKey {
    /// The key of this 32-byte seed (RFC 8032).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Its public key.
    pub fn public(&self) -> Digest {
        Digest(self.0.verifying_key().to_bytes())
    }

    /// Certifies an epoch key.
    pub fn certify(&self, producer: &str, epoch: i64, epoch_key: Digest) -> Vec<u8> {
        self.0.sign(&certificate_digest(producer, epoch, epoch_key).0).to_bytes().to_vec()
    }
}

impl EpochKey {
    /// Both keys of the ledger of one who has a single key, as a recorder: it certifies itself for every epoch.
    pub fn for_ledger(&self) -> (ProducerKey, EpochKey) {
        (ProducerKey(self.0.clone()), EpochKey(self.0.clone()))
    }

    /// The key of this 32-byte seed (RFC 8032).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Its public key.
    pub fn public(&self) -> Digest {
        Digest(self.0.verifying_key().to_bytes())
    }

    /// Signs a digest; 64 bytes.
    pub fn sign(&self, digest: Digest) -> Vec<u8> {
        self.0.sign(&digest.0).to_bytes().to_vec()
    }
}

/// What a producer's long-term key signs to certify an epoch key.
pub fn certificate_digest(producer: &str, epoch: i64, epoch_key: Digest) -> Digest {
    let mut w = Writer::new();
    w.bytes(producer.as_bytes());
    w.int(epoch);
    w.bytes(&epoch_key.0);
    digest::EPOCH_CERTIFICATE.digest(w.as_slice())
}

/// Whether `signature` is the Ed25519 signature of `public` over `digest` (strict: no small-order keys).
pub fn verify_signature(public: Digest, digest: Digest, signature: &[u8]) -> bool {
    let (Ok(key), Ok(bytes)) = (VerifyingKey::from_bytes(&public.0), <&[u8; 64]>::try_from(signature)) else {
        return false;
    };
    let signature = ed25519_dalek::Signature::from_bytes(bytes);
    !key.is_weak()
        && key.verify(&digest.0, &signature).is_ok()
        && key.verify_strict(&digest.0, &signature).is_ok()
}

fn nonce(seq: i64, index: u32) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    for (n, b) in nonce.iter_mut().zip(seq.to_le_bytes().into_iter().chain(index.to_le_bytes())) {
        *n = b;
    }
    Nonce::assume_unique_for_key(nonce)
}

fn cipher(key: &[u8; 32]) -> Option<LessSafeKey> {
    UnboundKey::new(&CHACHA20_POLY1305, key).ok().map(LessSafeKey::new)
}

fn seal(key: &[u8; 32], seq: i64, index: u32, aad: &[u8], mut bytes: Vec<u8>) -> Vec<u8> {
    let sealed = cipher(key)
        .and_then(|c| c.seal_in_place_append_tag(nonce(seq, index), Aad::from(aad), &mut bytes).ok());
    // ChaCha20-Poly1305 fails only above 256 GiB; an empty result then fails to open, and nothing leaks.
    if sealed.is_some() { bytes } else { Vec::new() }
}

fn open(key: &[u8; 32], seq: i64, index: u32, aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = sealed.to_vec();
    let plain = cipher(key)?.open_in_place(nonce(seq, index), Aad::from(aad), &mut bytes).ok()?.len();
    bytes.truncate(plain);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapped_session_key_opens_only_under_its_tenant_and_session() {
        let (tenant, other) = (TenantKey::new([1; 32]), TenantKey::new([2; 32]));
        let (a, b) = (SessionId([1; 16]), SessionId([2; 16]));
        let wrapped = tenant.wrap(a, &SessionKey::new([9; 32]));
        assert_eq!(tenant.unwrap(a, &wrapped).unwrap().digest(), SessionKey::new([9; 32]).digest());
        assert!(tenant.unwrap(b, &wrapped).is_err());
        assert!(other.unwrap(a, &wrapped).is_err());
        assert!(tenant.unwrap(a, &wrapped[1..]).is_err());
    }

    #[test]
    fn a_signature_verifies_only_for_its_key_and_digest() {
        let key = EpochKey::from_seed(&[7; 32]);
        let signature = key.sign(Digest([1; 32]));
        assert!(verify_signature(key.public(), Digest([1; 32]), &signature));
        assert!(!verify_signature(key.public(), Digest([2; 32]), &signature));
        assert!(!verify_signature(EpochKey::from_seed(&[8; 32]).public(), Digest([1; 32]), &signature));
        assert!(!verify_signature(key.public(), Digest([1; 32]), &signature[..63]));
    }
}
