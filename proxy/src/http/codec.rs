//! Foreign bytes ⇄ frames: heads, bodies, targets, and the first message of TLS.
//!
//! Everything here is strict (RFC 9110, 9112): what two readers could understand in two ways is refused, never
//! repaired. Invariant: no byte that we forward as part of a head was copied without being parsed; the relay
//! writes every head itself.

pub mod authority;
pub mod body;
pub mod chunked;
pub mod credential;
pub mod fields;
pub mod head;
pub mod source;
pub mod target;
pub mod tls_client_hello;
