//! Why a login is refused and why access ends, with the codes that the record bears.

use super::super::scram::ScramError;

/// Why a login was refused: for the record, never for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LoginRefused {
    #[error("no such principal")]
    UnknownPrincipal,
    #[error("the credential has no valid form")]
    Malformed,
    #[error("the credential is wrong")]
    WrongCredential,
    #[error("the token belongs to another principal")]
    OtherPrincipal,
    #[error("the token was revoked")]
    Revoked,
    #[error("the token has expired")]
    Expired,
    #[error("{0}")]
    Ended(Ended),
    #[error("the channel binding does not hold")]
    ChannelBinding,
    #[error("the state store cannot be read")]
    StoreUnavailable,
}

/// Why access that once was granted is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    #[error("the token was revoked")]
    Revoked,
    #[error("the token has expired")]
    Expired,
    #[error("the principal is disabled")]
    Disabled,
    #[error("the principal's contract is over")]
    ContractOver,
    #[error("who answers for the principal is disabled, over or gone")]
    OwnerGone,
    #[error("the principal is no longer in the roster")]
    Removed,
    #[error("the target is no longer listed for the principal")]
    Unlisted,
    #[error("the state store has not answered for 30 s")]
    StoreUnavailable,
}

impl LoginRefused {
    /// The reason code in the record.
    pub fn code(self) -> &'static str {
        match self {
            LoginRefused::UnknownPrincipal => "unknown-principal",
            LoginRefused::Malformed => "malformed-credential",
            LoginRefused::WrongCredential => "wrong-credential",
            LoginRefused::OtherPrincipal => "other-principal",
            LoginRefused::Revoked => "revoked",
            LoginRefused::Expired => "expired",
            LoginRefused::Ended(ended) => ended.code(),
            LoginRefused::ChannelBinding => "channel-binding",
            LoginRefused::StoreUnavailable => "store-unavailable",
        }
    }
}

impl Ended {
    /// The reason code in the record.
    pub fn code(self) -> &'static str {
        match self {
            Ended::Revoked => "revoked",
            Ended::Expired => "expired",
            Ended::Disabled => "disabled",
            Ended::ContractOver => "contract-over",
            Ended::OwnerGone => "owner-gone",
            Ended::Removed => "removed",
            Ended::Unlisted => "unlisted",
            Ended::StoreUnavailable => "store-unavailable",
        }
    }

    /// The reason of the session's last event: `revoked`, `expired` or `ended`.
    pub fn closed_reason(self) -> &'static str {
        match self {
            Ended::Revoked | Ended::Unlisted => "revoked",
            Ended::Expired => "expired",
            _ => "ended",
        }
    }
}

impl From<ScramError> for LoginRefused {
    fn from(error: ScramError) -> Self {
        match error {
            ScramError::Malformed(_) => LoginRefused::Malformed,
            ScramError::ChannelBinding(_) => LoginRefused::ChannelBinding,
            ScramError::Proof => LoginRefused::WrongCredential,
        }
    }
}

impl From<Ended> for LoginRefused {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Revoked => LoginRefused::Revoked,
            Ended::Expired => LoginRefused::Expired,
            ended => LoginRefused::Ended(ended),
        }
    }
}
