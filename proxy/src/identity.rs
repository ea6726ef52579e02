//! Who is this: the roster, tokens, SCRAM, and the one place that builds a principal for every protocol.
//!
//! Invariant: a [`Principal`] exists only for someone whom the roster and the token store both admit at the
//! moment given; everyone else gets one constant public message, and the record gets the reason.

pub mod login;
pub mod refusals;
pub mod roster;
pub mod scram;
pub mod token;

pub use login::{ChannelBinding, Directory, Ended, LoginRefused, Principal, ScramLogin};
pub use refusals::{Refusals, RefusedLogin};
pub use roster::{PrincipalConfig, PrincipalKind, Roster, RosterError};
