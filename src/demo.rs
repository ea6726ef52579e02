//! The demonstration: a throw-away PostgreSQL with a sample company, a small local internet, and an agent
//! with real clients, all through a real gateway. Nothing but the gateway writes events.

pub mod agent;
pub mod cluster;
pub mod company;
pub mod internet;
pub mod ports;
pub mod story;
pub mod tamper;
