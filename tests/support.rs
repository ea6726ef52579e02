//! Servers on free ports, and the real binary in front of them.

pub mod broker;
#[path = "../src/demo/cluster.rs"]
pub mod cluster;
pub mod disk;
pub mod egress;
pub mod gateway;
#[path = "bench/history.rs"]
pub mod history;
#[path = "../src/demo/ports.rs"]
pub mod ports;
pub mod postgres;
pub mod s3;
pub mod spool;
pub mod stack;
pub mod web;
pub mod wire;
