//! Kinds of the control family: what the gateway itself decided.

use super::kind;

kind! {
    /// The gateway refused something that is neither a statement nor a request.
    ControlDecision = 30 "control.decision" v 1 in Control {
        /// What was refused: `login`, `startup`, `message`, `statement`, `request`, `tunnel`, `copy`.
        subject: String,
        /// `deny`.
        verdict: String,
        /// Why, from the fixed list in `docs/event-format.md`, e.g. `replication`, `options`, `unknown-message`, `bad-length`, `malformed-head`.
        reason: String,
        /// SQLSTATE or HTTP status sent to the client.
        code: String,
        /// Message type byte concerned, where there is one.
        message_type: Option<i64>,
    }
}

kind! {
    /// A limit was reached.
    ControlLimit = 31 "control.limit" v 1 in Control {
        /// Which limit: `statement-bytes`, `kept-aside`, `sessions`, `names`, `kept-facts`, `idle`, `stored-rows`, `stored-bytes`, `head-bytes`, `head-fields`, `url-bytes`, `refused-logins`.
        limit_name: String,
        /// Its value.
        limit_value: i64,
        /// What was reached.
        observed: i64,
        /// What followed: `closed`, `refused`, `digest-only`, `counted`.
        action: String,
    }
}
