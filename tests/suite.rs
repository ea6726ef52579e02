//! Everything that needs more than one crate, or a real server, in one test binary.

mod architecture;
mod facts;
#[path = "attack/http_egress.rs"]
mod attack_http_egress;
mod http;
mod support;
mod postgres;
