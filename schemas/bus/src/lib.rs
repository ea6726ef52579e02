//! How events travel: the contract between those who write the record and those who store it, and its two
//! implementations: the spool directory, and Kafka behind the spools of many gateways (feature `kafka`).
//!
//! A **stream** is the unit of order, `<producer>/<lane>`; a **position** is the number of a record in its
//! stream, from 0, never reset. Invariant: what [`Publisher::flush`] has accepted is delivered, in order, to
//! every subscription that starts at or before it, until it is released.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod config;
pub mod error;
pub mod held;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod mark;
pub mod record;
pub mod spool;
pub mod stream;

mod wire;

pub use config::{Durability, SpoolConfig, SpoolConfigError};
pub use error::BusError;
pub use held::Held;
pub use mark::{Progress, Scope};
pub use record::Record;
pub use stream::StreamId;

use std::collections::BTreeMap;
use std::future::Future;

use bodycam_record::Id16;

/// The writing end of one stream. One writer per stream.
pub trait Publisher {
    /// Buffers a record and gives its position. Nothing has left this process yet.
    fn append(&mut self, record: &Record) -> Result<i64, BusError>;

    /// Hands everything buffered to the operating system: from here on a crash of this process loses nothing. On
    /// an error the buffer is kept, and the next flush tries again.
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
    /// The bus at a moment.
    type Mark: Send;

    /// Whether several readers share it, each with streams of its own that can become another's at any time.
    fn is_shared(&self) -> bool;

    /// Says what the lake holds of every stream. A bus that can begin to read elsewhere than at the start gives nothing
    /// before it knows.
    fn holds(&self, held: BTreeMap<StreamId, Held>) -> Result<(), BusError>;

    /// Whether the bus has streams for this reader that others may have read since it was told what the lake holds. It
    /// gives nothing of them before it is told again.
    fn asks(&self) -> Result<bool, BusError>;

    /// Says what the lake holds of one stream, which is read from there, possibly as a new generation.
    fn goes_on(&self, stream: &StreamId, held: Held) -> Result<(), BusError>;

    /// The streams that exist now.
    fn streams(&self) -> Result<Vec<StreamId>, BusError>;

    /// Reads `stream` from position `from` on. A stream whose first kept record lies behind `from` is refused.
    fn subscribe(&self, stream: &StreamId, from: i64) -> Result<Self::Subscription, BusError>;

    /// Says that nobody is going to read the stream until it is subscribed to again: what it has stays where it is, and
    /// holds up nothing else.
    fn park(&self, stream: &StreamId) -> Result<(), BusError>;

    /// Makes every record before `to` durable where it is. A lake commit comes after it: else a power cut could
    /// take back what the lake holds, and its positions would be given out again.
    fn settle(&self, stream: &StreamId, to: i64) -> Result<(), BusError>;

    /// Says that every record before `to` rests durably in the lake: the bus may forget it.
    fn release(&self, stream: &StreamId, to: i64) -> Result<(), BusError>;

    /// Position after the last record of the stream that can be read now; none when the bus would have to read
    /// on to know it.
    fn known_end(&self, stream: &StreamId) -> Result<Option<i64>, BusError>;

    /// What tells the stream from another one of the same name, where its producer has said it.
    fn origin(&self, stream: &StreamId) -> Result<Option<Id16>, BusError>;

    /// What of some streams is on the bus now.
    fn mark(&self, scope: Scope<'_>) -> Result<Self::Mark, BusError>;

    /// Whether a reader that has come this far with its streams has taken everything that was there at the mark.
    fn passed(
        &self,
        mark: &mut Self::Mark,
        progress: &BTreeMap<StreamId, Progress>,
    ) -> Result<bool, BusError>;
}
