//! Everything that needs more than one crate, or a real server, in one test binary.

// clippy's exceptions for tests stop at `#[test]` functions; here everything is a test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod architecture;
#[path = "attack/http_egress.rs"]
mod attack_http_egress;
mod facts;
mod http;
mod postgres;
mod support;
mod tamper;
