//! Everything that needs more than one crate, or a real server, in one test binary.

mod architecture;
mod facts;
mod http;
mod support;
