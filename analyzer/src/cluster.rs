//! Queries on a Ballista cluster: the client plans as on one machine and sends the physical plan, a scheduler cuts it
//! into stages, executors run them over the same lake.
//!
//! Invariant: a plan names the files of the client's moment of the lake and nothing that opens them. Executors reach
//! the lake, and the tenant key, by their own configuration, and run nothing but what reads it: no listing, no other
//! format, no writing.

mod config;

pub use config::{ClusterConfig, ClusterTls};

#[cfg(feature = "cluster")]
mod admission;
#[cfg(feature = "cluster")]
mod client;
#[cfg(feature = "cluster")]
mod codec;
#[cfg(feature = "cluster")]
mod executor;
#[cfg(feature = "cluster")]
mod scheduler;
#[cfg(feature = "cluster")]
mod tls;

#[cfg(feature = "cluster")]
pub use client::Client;
#[cfg(feature = "cluster")]
pub use executor::{Executor, run as run_executor};
#[cfg(feature = "cluster")]
pub use scheduler::run as run_scheduler;
#[cfg(feature = "cluster")]
pub use tls::Tls;

/// Largest message between the processes of a cluster: a plan with all its files, or a batch of rows.
#[cfg(feature = "cluster")]
const MESSAGE_BYTES: usize = 256 << 20;
