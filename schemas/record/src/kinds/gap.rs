//! Where we could not see.

use super::kind;

kind! {
    /// Something happened that the record does not hold.
    Gap = 40 "gap" v 1 in Gap {
        /// Why, e.g. `opaque-tunnel`, `content-limit`, `unframed`.
        reason: String,
        /// Events that are missing.
        dropped_events: i64,
        /// Bytes that passed unseen.
        opaque_bytes: i64,
    }
}
