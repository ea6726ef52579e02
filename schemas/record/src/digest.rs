//! The hash contexts, all in one list, and the 32-byte digest they produce.
//!
//! Every digest is BLAKE3 in `derive_key` mode under a context of its own (C2SP BLAKE3: contexts are
//! hard-coded, globally unique and application-specific), so that a digest of one thing can never be passed
//! off as a digest of another.

use std::fmt;
use std::sync::OnceLock;

use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};

use crate::canonical::DecodeError;
use crate::ids::{from_hex, to_hex};

/// The hash suite of this build: 1 = BLAKE3 `derive_key`, Ed25519, ChaCha20-Poly1305.
pub const SUITE: i64 = 1;

/// A 32-byte digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// All zeros: stands where nothing precedes.
    pub const ZERO: Digest = Digest([0; 32]);

    /// 64 lower-case hex digits.
    pub fn to_hex(&self) -> String {
        to_hex(&self.0)
    }

    /// The digest that 64 hex digits name.
    pub fn from_hex(text: &str) -> Option<Self> {
        from_hex(text).map(Digest)
    }
}

impl TryFrom<&[u8]> for Digest {
    type Error = DecodeError;
    fn try_from(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(Digest(bytes.try_into().map_err(|_| DecodeError::Malformed { expected: "32-byte digest" })?))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_hex().get(..16).unwrap_or_default())
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.to_hex())
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        Digest::from_hex(&text).ok_or_else(|| serde::de::Error::custom("expected 64 hex digits"))
    }
}

/// One hash context.
pub struct Context {
    /// The context string as BLAKE3 sees it.
    pub string: &'static str,
    key: OnceLock<ContextKey>,
}

impl Context {
    /// A context of this string. Strings are listed in this file and nowhere else, but for the one per event
    /// kind that `kinds` makes of its name and version.
    pub const fn new(string: &'static str) -> Self {
        Self { string, key: OnceLock::new() }
    }

    /// A hasher under this context.
    pub fn hasher(&self) -> blake3::Hasher {
        blake3::Hasher::new_from_context_key(self.key.get_or_init(|| hash_derive_key_context(self.string)))
    }

    /// The digest of `bytes` under this context.
    pub fn digest(&self, bytes: &[u8]) -> Digest {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        Digest(*hasher.finalize().as_bytes())
    }

    /// A 32-byte subkey of `key` for this context.
    pub fn subkey(&self, key: &[u8; 32]) -> [u8; 32] {
        self.digest(key).0
    }
}

macro_rules! contexts {
    ($($(#[doc = $doc:literal])* $name:ident = $string:literal;)*) => {
        $($(#[doc = $doc])* pub static $name: Context = Context::new($string);)*
        /// Every context string but those of the event kinds, with what it is for.
        pub const CONTEXTS: &[(&str, &str, &str)] = &[$((stringify!($name), $string, concat!($($doc),*))),*];
    };
}

contexts! {
    /// The hash of an event: its envelope, with the hash of the event before it.
    EVENT = "bodycam 2026-11-21 event v1";
    /// What the first event of a session links to.
    GENESIS = "bodycam 2026-11-21 genesis v1";
    /// The content commitment of an event.
    COMMIT = "bodycam 2026-11-21 content commitment v1";
    /// The digest of one content chunk, inside the commitment.
    CHUNK = "bodycam 2026-11-21 content chunk v1";
    /// A leaf of a session's Merkle tree: an event hash.
    MERKLE_LEAF = "bodycam 2026-11-21 merkle leaf v1";
    /// An inner node of a session's Merkle tree.
    MERKLE_NODE = "bodycam 2026-11-21 merkle node v1";
    /// The Merkle root of no events.
    MERKLE_EMPTY = "bodycam 2026-11-21 merkle empty v1";
    /// A seal or checkpoint: what the epoch key signs.
    SEAL = "bodycam 2026-11-21 seal v1";
    /// A ledger record.
    LEDGER = "bodycam 2026-11-21 ledger v1";
    /// What a producer's long-term key signs to certify an epoch key.
    EPOCH_CERTIFICATE = "bodycam 2026-11-21 epoch certificate v1";
    /// The heads of all open sessions, in a heartbeat.
    OPEN_HEADS = "bodycam 2026-11-21 open heads v1";
    /// A lake commit: what the recorder's epoch key signs.
    LAKE_COMMIT = "bodycam 2026-11-21 lake commit v1";
    /// A lake snapshot: what the recorder's epoch key signs.
    LAKE_SNAPSHOT = "bodycam 2026-11-21 lake snapshot v1";
    /// A row of the content table, inside the row sum of a file.
    LAKE_CONTENT_ROW = "bodycam 2026-11-21 lake content row v1";
    /// A row of a derived table (sessions, templates, findings), inside the row sum of a file.
    LAKE_TABLE_ROW = "bodycam 2026-11-21 lake table row v1";
    /// A configuration or policy in force.
    POLICY = "bodycam 2026-11-21 policy v1";
    /// A target: name, protocol, database.
    TARGET = "bodycam 2026-11-21 target v1";
    /// The digest of a session key, bound in the genesis.
    SESSION_KEY = "bodycam 2026-11-21 session key digest v1";
    /// Subkey of a session key: content encryption.
    SESSION_CONTENT = "bodycam 2026-11-21 session content key v1";
    /// Subkey of a session key: salts of content commitments.
    SESSION_SALT = "bodycam 2026-11-21 session salt key v1";
    /// Subkey of a session key: keyed digests of statements, binds, rows and bodies.
    SESSION_DIGEST = "bodycam 2026-11-21 session digest key v1";
    /// Subkey of the tenant key: wrapping session keys.
    TENANT_WRAP = "bodycam 2026-11-21 tenant wrap key v1";
    /// Subkey of the tenant key: wrapping names in the directory.
    TENANT_DIRECTORY = "bodycam 2026-11-21 tenant directory key v1";
    /// Subkey of the tenant key: pseudonyms of principals.
    TENANT_PRINCIPAL = "bodycam 2026-11-21 tenant principal key v1";
    /// Subkey of the tenant key: statement fingerprints.
    TENANT_FINGERPRINT = "bodycam 2026-11-21 tenant fingerprint key v1";
    /// Subkey of the tenant key: correlation ids.
    TENANT_CORRELATION = "bodycam 2026-11-21 tenant correlation key v1";
    /// Subkey of the tenant key: client addresses.
    TENANT_ADDRESS = "bodycam 2026-11-21 tenant address key v1";
    /// Subkey of the tenant key: credential ids.
    TENANT_CREDENTIAL = "bodycam 2026-11-21 tenant credential key v1";
    /// Subkey of the tenant key: identity digests in a genesis.
    TENANT_IDENTITY = "bodycam 2026-11-21 tenant identity key v1";
    /// Subkey of the tenant key: names inside statements that no catalog knows.
    TENANT_IDENTIFIER = "bodycam 2026-11-21 tenant identifier key v1";
    /// Subkey of the tenant key: what detection keeps for itself in `state/`.
    TENANT_STATE = "bodycam 2026-11-21 tenant state key v1";
    /// The id of a finding.
    FINDING = "bodycam 2026-11-21 finding v1";
    /// The digest of a detection rule.
    RULE = "bodycam 2026-11-21 rule v1";
    /// What an evaluation of a rule saw of events: for each family the sum of the rows.
    RULE_INPUT = "bodycam 2026-11-21 rule input v1";
    /// What an evaluation of a rule saw of roll-ups: for each family the sum of the rows that they are made of.
    RULE_HISTORY = "bodycam 2026-11-21 rule history v1";
    /// What a finding says, in the record of its window.
    FINDING_MARK = "bodycam 2026-11-21 finding mark v1";
    /// What the roll-up of an hour is made of: its definition and the sum of the rows.
    ROLL_UP = "bodycam 2026-11-21 roll-up v1";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_strings_are_unique() {
        let mut strings: Vec<_> = CONTEXTS.iter().map(|(_, s, _)| *s).collect();
        strings.extend(crate::kinds::TABLES.iter().map(|t| t.context().string));
        let n = strings.len();
        strings.sort_unstable();
        strings.dedup();
        assert_eq!(strings.len(), n);
    }

    #[test]
    fn a_context_is_blake3_derive_key_mode() {
        assert_eq!(EVENT.digest(b"abc").0, blake3::derive_key(EVENT.string, b"abc"));
    }
}
