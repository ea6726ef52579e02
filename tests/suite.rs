//! Everything that needs more than one crate, or a real server, in one test binary.

mod architecture;
<<<<<<< HEAD
#[path = "attack/http_egress.rs"]
mod attack_http_egress;
mod crash;
mod facts;
=======
mod facts;
#[path = "attack/http_egress.rs"]
mod attack_http_egress;
>>>>>>> facts
mod http;
mod pipeline;
mod postgres;
mod support;
mod tamper;
