//! How events travel: the contract between those who write the record and those who store it, and its
//! embedded implementation, the spool directory.
//!
//! A **stream** is the unit of order, `<producer>/<lane>`; a **position** is the number of a record in its
//! stream, from 0, never reset. Invariant: what [`Publisher::flush`] has accepted is delivered, in order, to
//! every subscription that starts at or before it, until it is released.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod config;
pub mod error;
pub mod record;
pub mod spool;
pub mod stream;

mod wire;

pub use config::{Durability, SpoolConfig, SpoolConfigError};
pub use error::BusError;
pub use record::Record;
pub use stream::StreamId;

use std::future::Future;

/// The writing end of one stream. One writer per stream.
pub trait Publisher {
    /// Buffers a record and gives its position. Nothing has left this process yet.
    fn append(&mut self, record: &Record) -> Result<i64, BusError>;

    /// Hands everything buffered to the operating system (spool) or the client library (Kafka): from here on
    /// a crash of this process loses nothing. On an error the buffer is kept, and the next flush tries again.
    fn flush(&mut self) -> Result<(), BusError>;

    /// Returns when everything flushed before the call is as durable as the configuration demands.
    fn settled(&mut self) -> impl Future<Output = Result<(), BusError>>;
}

/// The reading end of one stream.
pub trait Subscription {
    /// Waits for records and gives at least one and at most about `max_bytes` of them, in order, with positions.
    fn next(&mut self, max_bytes: usize)
    -> impl Future<Output = Result<Vec<(i64, Record)>, BusError>> + Send;

    /// Position of the next record.
    fn position(&self) -> i64;
}

/// A bus: streams, subscriptions, release.
pub trait Bus {
    /// The reading end.
    type Subscription: Subscription;

    /// The streams that exist now.
    fn streams(&self) -> Result<Vec<StreamId>, BusError>;

    /// Reads `stream` from position `from` on. A stream whose first kept record lies behind `from` is refused.
    fn subscribe(&self, stream: &StreamId, from: i64) -> Result<Self::Subscription, BusError>;

    /// Makes every record before `to` durable where it is. A lake commit comes after it: else a power cut could
    /// take back what the lake holds, and its positions would be given out again.
    fn settle(&self, stream: &StreamId, to: i64) -> Result<(), BusError>;

    /// Says that every record before `to` rests durably in the lake: the bus may forget it.
    fn release(&self, stream: &StreamId, to: i64) -> Result<(), BusError>;

    /// Position after the last record of the stream that can be read now.
    fn end(&self, stream: &StreamId) -> Result<i64, BusError>;
}
