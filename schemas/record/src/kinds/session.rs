//! Kinds of the session family.

use super::kind;
use crate::digest::Digest;
use crate::ids::Id16;

kind! {
    /// A session was opened: the first event of every chain; its fields determine the genesis.
    SessionOpened = 1 "session.opened" v 1 in Session {
        /// Tenant that the deployment serves.
        tenant: String,
        /// 32 random bytes, so that no two sessions share a genesis.
        nonce: Digest,
        /// Keyed digest (tenant key) over principal name, kind, credential id and authentication method.
        identity_digest: Digest,
        /// Digest over target name, protocol and database.
        target_digest: Digest,
        /// Digest of the session key.
        key_digest: Digest,
        /// Ledger sequence number of this session's OPEN record.
        ledger_seq: i64,
        /// Wire protocol: `postgres` or `http`.
        protocol: String,
        /// Kind of principal: `person`, `agent` or `contractor`; `unknown` in the session of a refused login.
        principal_kind: String,
        /// How the principal authenticated: `scram-sha-256`, `token`, `proxy-basic`; `none` when a login was refused without.
        auth_method: String,
        /// Id of the credential used: keyed digest cut to 16 bytes, never the credential.
        credential: Id16,
        /// Client address under the tenant key; the text is content.
        client_address: Id16,
        /// How many different client addresses used this credential in the last 24 hours, this one included.
        credential_addresses: i64,
        /// Database at the target, empty for HTTP.
        database: String,
        /// Role used at the target, empty for HTTP.
        upstream_role: String,
        /// Whether the client's side is encrypted.
        client_tls: bool,
        /// Whether the target's side is encrypted.
        upstream_tls: bool,
        /// Protocol version as negotiated with the client, e.g. `3.2`.
        protocol_version: String,
        /// Correlation id under the tenant key, when the client gave one.
        correlation: Option<Id16>,
        /// Whether the gateway ran on an injected clock (demonstrations and tests).
        simulated_clock: bool,
    }
}

kind! {
    /// A signed statement about all events before this one.
    SessionCheckpoint = 2 "session.checkpoint" v 1 in Session {
        /// Number of events before this one.
        count: i64,
        /// Hash of the event before this one.
        head: Digest,
        /// Merkle root over the hashes of all events before this one.
        root: Digest,
        /// Ed25519 signature of the epoch key over the seal digest with reason `open`.
        signature: Vec<u8>,
    }
}

kind! {
    /// The session ended: the last event of every chain that was not cut by a crash.
    SessionClosed = 3 "session.closed" v 1 in Session {
        /// Why: `client`, `server`, `error`, `protocol-violation`, `revoked`, `expired`, `ended`, `drain`, `limit`, `refused`, `timeout`, `spool`.
        reason: String,
        /// Statements or requests seen.
        statements: i64,
        /// Result rows sent to the client.
        rows: i64,
        /// Bytes from the client.
        bytes_in: i64,
        /// Bytes to the client.
        bytes_out: i64,
        /// Microseconds from open to close.
        duration_us: i64,
    }
}
