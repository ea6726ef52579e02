//! Everything that needs more than one crate, or a real server, in one test binary.

// clippy exempts only `#[test]` functions; here everything is a test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::type_complexity
)]

mod analyzer;
mod architecture;
#[cfg(feature = "cluster")]
mod cluster;
mod crash;
mod demo;
mod dependencies;
mod deploy;
mod docs;
mod doctor;
mod facts;
mod fuzz_seeds;
mod group;
mod http;
mod identity;
mod kafka;
mod lake;
mod object_store;
mod pipeline;
mod postgres;
mod replay;
mod service;
mod support;
mod tamper;
mod terminal;

/// Every bypass that anyone thought of.
mod attack {
    mod http_egress;
    mod postgres_wire;
}
