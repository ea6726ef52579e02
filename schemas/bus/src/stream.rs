//! Names of streams.

use std::fmt;
use std::str::FromStr;

use crate::BusError;

/// `<producer>/<lane>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId {
    producer: String,
    lane: String,
}

/// The lane of a producer's ledger records.
pub const LEDGER_LANE: &str = "ledger";
/// The lane of a producer's wrapped keys and names.
pub const KEYS_LANE: &str = "keys";

impl StreamId {
    /// The stream of a producer's lane. Both are 1–64 letters, digits, `-`, `_` or `.`, and do not start with `.`.
    pub fn new(producer: &str, lane: &str) -> Result<Self, BusError> {
        let valid = |name: &str| {
            !name.is_empty()
                && name.len() <= 64
                && !name.starts_with('.')
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        if valid(producer) && valid(lane) {
            Ok(Self { producer: producer.to_owned(), lane: lane.to_owned() })
        } else {
            Err(BusError::StreamName(bodycam_record::shown(&format!("{producer}/{lane}"))))
        }
    }

    /// The producer.
    pub fn producer(&self) -> &str {
        &self.producer
    }

    /// The lane.
    pub fn lane(&self) -> &str {
        &self.lane
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.producer, self.lane)
    }
}

impl FromStr for StreamId {
    type Err = BusError;
    fn from_str(text: &str) -> Result<Self, BusError> {
        let (producer, lane) =
            text.split_once('/').ok_or_else(|| BusError::StreamName(bodycam_record::shown(text)))?;
        Self::new(producer, lane)
    }
}
