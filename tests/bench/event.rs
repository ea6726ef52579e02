//! The bench event, as the benchmarks of recorder and verifier write it: about 300 bytes of envelope and body in
//! a session that opens and closes. Both include this file, so that they count the same events.

use std::num::TryFromIntError;

use bodycam_record::kinds::session::{SessionClosed, SessionOpened};
use bodycam_record::kinds::sql::SqlStatement;
use bodycam_record::{Digest, Genesis, Id16, PrincipalRef, SessionId, TenantKey};

/// When the first session opens: 2026-11-21T10:00Z.
pub const T0: i64 = 1_795_255_200_000_000_000;
/// Who records them.
pub const PRODUCER: &str = "bench";
/// Different statement texts.
pub const TEXTS: u64 = 200;
/// What they go to.
pub const TARGET: &str = "shop";

/// Id of session `n`, which opens at `start_ns`.
pub fn session_id(n: u64, start_ns: i64) -> Result<SessionId, TryFromIntError> {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&n.to_le_bytes());
    Ok(SessionId::new(u64::try_from(start_ns / 1_000_000)?, random))
}

/// Whose session `n` is.
pub fn principal_ref(tenant: &TenantKey, n: u64) -> PrincipalRef {
    tenant.principal_ref(&format!("agent-{}", n % 5000))
}

/// The first event of session `n`.
pub fn opened(n: u64, key_digest: Digest, ledger_seq: i64) -> SessionOpened {
    SessionOpened {
        tenant: "bench".into(),
        nonce: Digest([n as u8; 32]),
        identity_digest: Digest([2; 32]),
        target_digest: Digest([3; 32]),
        key_digest,
        ledger_seq,
        protocol: "postgres".into(),
        principal_kind: "agent".into(),
        auth_method: "token".into(),
        credential: Id16([5; 16]),
        client_address: Id16([6; 16]),
        credential_addresses: 1,
        database: TARGET.into(),
        upstream_role: "app".into(),
        client_tls: false,
        upstream_tls: false,
        protocol_version: "3.0".into(),
        correlation: None,
        simulated_clock: true,
    }
}

/// What the chain of a session begins with.
pub fn genesis(session: SessionId, opened: &SessionOpened) -> Genesis<'_> {
    Genesis { producer: PRODUCER, epoch: 1, session, policy_digest: Digest([8; 32]), opened }
}

/// Text `n` of [`TEXTS`], free of literals.
pub fn text(n: u64) -> String {
    format!("SELECT a, b FROM t{n} WHERE id = $1")
}

/// Event `i` of a session.
pub fn statement(tenant: &TenantKey, session: u64, i: u64) -> SqlStatement {
    let table = (session * 31 + i) % TEXTS;
    SqlStatement {
        statement_no: i as i64,
        form: "extended".into(),
        statement_kind: "select".into(),
        verdict: "allow".into(),
        fingerprint: Some(tenant.fingerprint(&text(table))),
        main_relation: Some(format!("public.t{table}")),
        relations_read: vec![format!("public.t{table}")],
        relations_written: vec![],
        output_columns: vec![format!("public.t{table}.a"), format!("public.t{table}.b")],
        functions: vec![],
        has_predicate: true,
        limit_rows: None,
        offset_rows: None,
        statement_count: 1,
        opaque: vec![],
        est_rows: Some(1000),
        statement_bytes: 60,
        statement_digest: Digest([(i % 251) as u8; 32]),
        bind_count: 1,
        bind_bytes: 8,
        binds_digest: None,
        portal: None,
        content_cut: false,
        correlation: None,
    }
}

/// The last event of a session.
pub fn closed(statements: i64) -> SessionClosed {
    SessionClosed { reason: "client".into(), statements, rows: 0, bytes_in: 0, bytes_out: 0, duration_us: 1 }
}
