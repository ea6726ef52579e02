//! The gateway: it stands on the wire between agents and what they may touch, and records every session.
//!
//! Invariant: nothing moves on before the event that says so is in the spool, and what cannot be recorded is
//! refused (`recording`).

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod admin;
pub mod admission;
pub mod clock;
pub mod correlation;
pub mod gateway;
pub mod http;
pub mod identity;
pub mod postgres;
pub mod recording;
pub mod secret;
pub mod slots;
pub mod state;
pub mod stop;
mod tls;
