//! Kinds of the HTTP family (egress).

use super::kind;
use crate::digest::Digest;
use crate::ids::Id16;

kind! {
    /// A request in absolute form was checked and is about to leave.
    HttpRequest = 20 "http.request" v 1 in Http {
        /// Number of the request in its session, from 1.
        request_no: i64,
        /// `allow` or `deny`.
        verdict: String,
        /// Why it was refused, e.g. `host-not-allowed`, `address-not-allowed`; absent when allowed.
        refusal: Option<String>,
        /// Method, when it is a registered one; `other` otherwise (its text is content).
        method: String,
        /// Scheme: `http`.
        scheme: String,
        /// Destination host, canonical (RFC 5890 A-label, lower case, or an address).
        host: String,
        /// Destination port.
        port: i64,
        /// Address connected to; absent when none was.
        address: Option<String>,
        /// Class of the address: `public`, `private`, `loopback`, `link-local`, `metadata`, `other`.
        address_class: Option<String>,
        /// Keyed digest (session key) of the URL.
        url_digest: Digest,
        /// Bytes of the URL.
        url_bytes: i64,
        /// Bytes of the request head.
        head_bytes: i64,
        /// Media type of the body, without parameters; absent when there is none.
        media_type: Option<String>,
        /// Declared body length.
        content_length: Option<i64>,
        /// Correlation id under the tenant key.
        correlation: Option<Id16>,
    }
}

kind! {
    /// The exchange of a request ended. `parent_seq` names the request.
    HttpResponse = 21 "http.response" v 1 in Http {
        /// Number of the request in its session.
        request_no: i64,
        /// Verdict of the request.
        verdict: String,
        /// Destination host of the request.
        host: String,
        /// Destination port of the request.
        port: i64,
        /// Status code sent to the client.
        status: Option<i64>,
        /// How it ended: `complete`, `client-closed`, `server-closed`, `timeout`, `refused`, `drain`, `error`, or why access was over, as in the decision about the session.
        outcome: String,
        /// Body bytes that left for the target.
        bytes_out: i64,
        /// Body bytes that came from the target.
        bytes_in: i64,
        /// Keyed digest (session key) of the request body.
        request_digest: Option<Digest>,
        /// Keyed digest (session key) of the response body.
        response_digest: Option<Digest>,
        /// Media type of the response body, without parameters.
        media_type: Option<String>,
        /// Microseconds from the request's head to the end.
        duration_us: i64,
        /// Correlation id of the request, under the tenant key.
        correlation: Option<Id16>,
    }
}

kind! {
    /// A CONNECT tunnel was checked and, when allowed, is about to open.
    HttpTunnelOpened = 22 "http.tunnel_opened" v 1 in Http {
        /// Number of the request in its session, from 1.
        request_no: i64,
        /// `allow` or `deny`.
        verdict: String,
        /// Why it was refused; absent when allowed.
        refusal: Option<String>,
        /// Destination host, canonical.
        host: String,
        /// Destination port.
        port: i64,
        /// Address connected to.
        address: Option<String>,
        /// Class of the address.
        address_class: Option<String>,
        /// Correlation id under the tenant key.
        correlation: Option<Id16>,
    }
}

kind! {
    /// A CONNECT tunnel ended. `parent_seq` names its opening.
    HttpTunnelClosed = 23 "http.tunnel_closed" v 1 in Http {
        /// Number of the request in its session.
        request_no: i64,
        /// Verdict of the opening.
        verdict: String,
        /// Destination host.
        host: String,
        /// Destination port.
        port: i64,
        /// How it ended: `client-closed`, `server-closed`, `timeout`, `refused`, `drain`, `error`, or why access was over, as in the decision about the session.
        outcome: String,
        /// Bytes from the client to the target.
        bytes_out: i64,
        /// Bytes from the target to the client.
        bytes_in: i64,
        /// Whether the client's first bytes were a TLS ClientHello.
        tls: bool,
        /// Server name in the ClientHello, canonical; absent when there was none or it was encrypted.
        sni: Option<String>,
        /// Application protocols offered in the ClientHello.
        alpn: Vec<String>,
        /// Microseconds from opening to end.
        duration_us: i64,
        /// Correlation id of the opening, under the tenant key.
        correlation: Option<Id16>,
    }
}
