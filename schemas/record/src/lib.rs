//! What an event is: the envelope, the kinds and their fields, canonical bytes, the hash chain, content
//! commitments, seals and the ledger. `docs/event-format.md` says the same for people who write a
//! verifier without reading this code.
//!
//! Invariant: nothing here does I/O, reads a clock or draws randomness; equal inputs give equal bytes.

pub mod canonical;
pub mod chain;
pub mod content;
pub mod digest;
pub mod envelope;
pub mod filter;
pub mod ids;
pub mod key;
pub mod kinds;
pub mod ledger;
pub mod merkle;
pub mod rule;
pub mod seal;
pub mod shown;
pub mod value;

pub use chain::{Chain, Genesis};
pub use content::{Chunk, ContentKind, SealedChunk};
pub use digest::Digest;
pub use envelope::{Draft, Envelope, Event};
pub use filter::{Filter, FilterError};
pub use ids::{Fingerprint, Id16, PrincipalRef, SessionId};
pub use key::{EpochKey, ProducerKey, SessionKey, TenantKey};
pub use kinds::{Body, Family, KindTable};
pub use ledger::{Ledger, LedgerRecord};
pub use seal::{Seal, SealReason};
pub use shown::shown;
