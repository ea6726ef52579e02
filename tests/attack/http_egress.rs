//! Ways around the egress proxy that others fell for. The oracle is the origin: what counts is which bytes
//! reached it, never what we say about them.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::egress::{Egress, close_reasons, decisions, opened, origin, requests};

/// What must never arrive at an origin.
const MARK: &str = "SMUGGLED";

/// An origin that answers everything with 200 and keeps every byte.
struct Oracle {
    address: SocketAddr,
    got: Arc<Mutex<Vec<u8>>>,
}

impl Oracle {
    fn start() -> Self {
        let got = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&got);
        let address = origin(move |mut stream| {
            let mut buf = [0; 65536];
            let mut answered = false;
            while let Ok(n @ 1..) = stream.read(&mut buf) {
                log.lock().unwrap().extend_from_slice(&buf[..n]);
                if !answered {
                    answered = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_ok();
                }
            }
        });
        Self { address, got }
    }

    fn got(&self) -> String {
        String::from_utf8_lossy(&self.got.lock().unwrap()).into_owned()
    }
}

/// Sends `bytes` and gives the statuses that come back before the proxy closes or falls silent.
fn statuses(egress: &Egress, bytes: &[u8]) -> Vec<u16> {
    let mut stream = egress.connect();
    stream.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    stream.write_all(bytes).unwrap();
    let (mut out, mut buf) = (Vec::new(), [0; 65536]);
    while let Ok(n @ 1..) = stream.read(&mut buf) {
        out.extend_from_slice(&buf[..n]);
    }
    let text = String::from_utf8_lossy(&out).into_owned();
    text.match_indices("HTTP/1.1 ").filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok()).collect()
}

#[test]
fn smuggled_requests_never_reach_an_origin() {
    let oracle = Oracle::start();
    let egress = Egress::with(&["127.0.0.1:*"], |c| c.head_seconds = 1);
    let host = oracle.address.to_string();
    let credential = Egress::credential(&egress.token("robot"));
    let second = format!("GET http://{host}/{MARK} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let length = second.len();
    let post = |fields: &str, body: &str| {
        format!("POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{credential}{fields}\r\n{body}")
    };
    let rows: Vec<(&str, String, &[u16])> = vec![
        (
            "CL.TE",
            post(
                &format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", length + 5),
                &format!("0\r\n\r\n{second}"),
            ),
            &[400],
        ),
        (
            "TE.CL",
            post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", &format!("0\r\n\r\n{second}")),
            &[400],
        ),
        ("CL.CL", post(&format!("Content-Length: 0\r\nContent-Length: {length}\r\n"), &second), &[400]),
        ("CL list", post(&format!("Content-Length: 0, {length}\r\n"), &second), &[400]),
        ("CL with sign", post("Content-Length: +0\r\n", &second), &[400]),
        ("CL in hexadecimal", post("Content-Length: 0x0\r\n", &second), &[400]),
        ("CL that overflows", post("Content-Length: 18446744073709551616\r\n", &second), &[400]),
        (
            "TE.TE",
            post(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
                &format!("0\r\n\r\n{second}"),
            ),
            &[400],
        ),
        ("TE: xchunked", post("Transfer-Encoding: xchunked\r\n", &second), &[400]),
        ("TE: identity", post("Transfer-Encoding: identity\r\n", &second), &[400]),
        ("TE: chunked, identity", post("Transfer-Encoding: chunked, identity\r\n", &second), &[400]),
        (
            "TE with space before the colon",
            post("Transfer-Encoding : chunked\r\n", &format!("0\r\n\r\n{second}")),
            &[400],
        ),
        (
            "TE after a vertical tab",
            post("Transfer-Encoding:\x0bchunked\r\n", &format!("0\r\n\r\n{second}")),
            &[400],
        ),
        ("TE folded", post("Transfer-Encoding:\r\n chunked\r\n", &format!("0\r\n\r\n{second}")), &[400]),
        (
            "TE behind a bare LF",
            post("X: y\nTransfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{second}")),
            &[400],
        ),
        (
            "TE behind a bare CR",
            post("X: y\rTransfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{second}")),
            &[400],
        ),
        (
            "TE in HTTP/1.0",
            format!(
                "POST http://{host}/ HTTP/1.0\r\nHost: {host}\r\n{credential}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{second}"
            ),
            &[400],
        ),
        (
            "bare LF after the head",
            format!("GET http://{host}/ HTTP/1.1\nHost: {host}\n{credential}\n{second}"),
            &[400],
        ),
        ("NUL in a field", post("X: a\0b\r\n", &second), &[400]),
        ("two Host fields", post(&format!("Host: {host}\r\nHost: {MARK}.test\r\n"), ""), &[400]),
        (
            "two requests in one target",
            format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{credential}X: y\r\n\r\n{second}"),
            &[200, 407],
        ),
        (
            "chunk size with sign",
            post("Transfer-Encoding: chunked\r\n", &format!("+0\r\n\r\n{second}")),
            &[400],
        ),
        (
            "chunk size with 0x",
            post("Transfer-Encoding: chunked\r\n", &format!("0x0\r\n\r\n{second}")),
            &[400],
        ),
        (
            "chunk size that wraps",
            post("Transfer-Encoding: chunked\r\n", &format!("10000000000000000\r\n\r\n{second}")),
            &[400],
        ),
        ("chunk ended by LF", post("Transfer-Encoding: chunked\r\n", &format!("0\n\n{second}")), &[400]),
        (
            "chunk longer than it says",
            post("Transfer-Encoding: chunked\r\n", &format!("1\r\nab{second}0\r\n\r\n")),
            &[400],
        ),
        (
            "chunk extension with a bare CR",
            post("Transfer-Encoding: chunked\r\n", &format!("0;a\rb\r\n\r\n{second}")),
            &[400],
        ),
        (
            "chunked, with a trailer that frames",
            post("Transfer-Encoding: chunked\r\n", &format!("0\r\nContent-Length: {length}\r\n\r\n{second}")),
            &[400],
        ),
        (
            "chunked, with a trailer that carries",
            post("Transfer-Encoding: chunked\r\n", &format!("0\r\nX: {MARK}\r\n\r\n")),
            &[400],
        ),
        (
            "chunk extension that carries",
            post("Transfer-Encoding: chunked\r\n", &format!("1;x={MARK}\r\na\r\n0\r\n\r\n")),
            &[400],
        ),
        (
            "GET with a length of its own",
            format!(
                "GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{credential}Content-Length: 0\r\n\r\n{second}"
            ),
            &[200, 407],
        ),
        (
            "Connection that names the framing",
            post("Connection: Content-Length\r\nContent-Length: 2\r\n", &format!("ok{second}")),
            &[200, 407],
        ),
        (
            "CONNECT with a body",
            format!(
                "CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n{credential}Content-Length: {length}\r\n\r\n{second}"
            ),
            &[400],
        ),
        ("an obsolete upgrade", post("Connection: upgrade\r\nUpgrade: websocket\r\n", ""), &[501]),
        (
            "h2c by upgrade",
            post(
                "Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
                "",
            ),
            &[200],
        ),
        ("HTTP/2 with prior knowledge", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), &[505]),
        ("TLS to the proxy port", "\x16\x03\x01\x02\0\x01\0".to_owned(), &[400]),
    ];
    for (name, bytes, want) in rows {
        let got = statuses(&egress, bytes.as_bytes());
        // An upload that turns out malformed may be refused after its target has already answered.
        assert!(got == want || (name.starts_with("chunk") && got == [200]), "{name}: {got:?}, want {want:?}");
        assert!(!oracle.got().contains(MARK), "{name}: {}", oracle.got());
        assert!(!oracle.got().to_lowercase().contains("upgrade"), "{name}");
    }
}

#[test]
fn no_spelling_of_a_forbidden_destination_is_connected() {
    let oracle = Oracle::start();
    let port = oracle.address.port();
    let egress = Egress::with(&["*.origin.test:*", "allowed.test:*", "mixed.test:*", "mapped.test:*"], |c| {
        for (name, addresses) in [
            ("allowed.test", &["93.184.216.34"][..]),
            ("mixed.test", &["93.184.216.34", "127.0.0.1"]),
            ("mapped.test", &["::ffff:127.0.0.1"]),
            ("evil-allowed.test", &["127.0.0.1"]),
            ("allowed.test.evil.test", &["127.0.0.1"]),
        ] {
            c.hosts.insert(name.to_owned(), addresses.iter().map(|a| a.parse().unwrap()).collect());
        }
        c.connect_seconds = 1;
    });
    let credential = Egress::credential(&egress.token("robot"));
    let hosts: &[(&str, u16)] = &[
        ("127.0.0.1", 403),
        ("127.1", 400),
        ("127.0.1", 400),
        ("0", 400),
        ("0.0.0.0", 403),
        ("2130706433", 400),
        ("0x7f000001", 400),
        ("0x7f.0x0.0x0.0x1", 400),
        ("0177.0.0.1", 400),
        ("127.0.0.01", 400),
        ("127.0.0.1.", 400),
        ("%31%32%37.0.0.1", 400),
        ("127。0。0。1", 400),
        ("①②⑦.0.0.1", 400),
        ("localhost", 403),
        ("LOCALHOST.", 403),
        ("[::1]", 403),
        ("[::]", 403),
        ("[::ffff:127.0.0.1]", 403),
        ("[::ffff:7f00:1]", 403),
        ("[::127.0.0.1]", 403),
        ("[64:ff9b::7f00:1]", 403),
        ("[2002:7f00:1::]", 403),
        ("[::1%25lo]", 400),
        ("[::1%lo]", 400),
        ("169.254.169.254", 403),
        ("[fd00:ec2::254]", 403),
        ("metadata.google.internal", 403),
        ("origin.test", 403),
        ("www.origin.test", 403),
        ("mixed.test", 403),
        ("mapped.test", 403),
        ("evil-allowed.test", 403),
        ("allowed.test.evil.test", 403),
        ("allowed.test@127.0.0.1", 400),
        ("allowed.test:80@127.0.0.1", 400),
        ("allowed.test\\@127.0.0.1", 400),
        ("allowed.test%00.127.0.0.1", 400),
        ("allowed.test\t", 400),
        ("allowed.test..", 400),
        ("127.0.0.1:80", 400),
    ];
    for (host, want) in hosts {
        let connect = format!(
            "CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{credential}Connection: close\r\n\r\n"
        );
        assert_eq!(statuses(&egress, connect.as_bytes()), [*want], "CONNECT {host}");
        let get = format!(
            "GET http://{host}:{port}/ HTTP/1.1\r\nHost: {host}:{port}\r\n{credential}Connection: close\r\n\r\n"
        );
        assert_eq!(statuses(&egress, get.as_bytes()), [*want], "GET {host}");
    }
    for target in [
        "/",
        "*",
        "",
        "example.test",
        "https://allowed.test/",
        "http://allowed.test/#x",
        "http://",
        "allowed.test:",
    ] {
        let get =
            format!("GET {target} HTTP/1.1\r\nHost: allowed.test\r\n{credential}Connection: close\r\n\r\n");
        assert_eq!(statuses(&egress, get.as_bytes()), [400], "GET {target}");
        let connect = format!(
            "CONNECT {target} HTTP/1.1\r\nHost: allowed.test\r\n{credential}Connection: close\r\n\r\n"
        );
        assert_eq!(statuses(&egress, connect.as_bytes()), [400], "CONNECT {target}");
    }
    // Fronting: one host in the target, another in the Host field.
    let fronted = format!(
        "GET http://allowed.test/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{credential}Connection: close\r\n\r\n"
    );
    assert_eq!(statuses(&egress, fronted.as_bytes()), [421]);
    let fronted = format!(
        "CONNECT allowed.test:443 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{credential}Connection: close\r\n\r\n"
    );
    assert_eq!(statuses(&egress, fronted.as_bytes()), [421]);
    assert_eq!(oracle.got(), "", "something was connected");
    let events = egress.events();
    assert!(requests(&events).iter().all(|r| r.verdict == "deny"));
    assert!(opened(&events).iter().all(|t| t.verdict == "deny"));
    assert!(decisions(&events).len() > 20, "what names no destination is recorded too");
}

#[test]
fn credentials_in_a_refused_url_or_in_the_place_of_a_name_are_not_recorded() {
    let egress = Egress::start(&["origin.test:*"]);
    let token = egress.token("robot");
    let credential = Egress::credential(&token);
    let secret = &token[token.len() - 46..];
    let head = |line: &str, fields: &str| {
        format!("{line} HTTP/1.1\r\n{fields}{credential}Connection: close\r\n\r\n")
    };
    let rows = [
        (head("GET http://bob:CANARY@origin.test/", "Host: origin.test\r\n"), 400),
        (head("GET http://bob:CAN/CANARY@origin.test/", "Host: origin.test\r\n"), 400),
        (head("GET ftp://u:CANARY@origin.test/", "Host: origin.test\r\n"), 400),
        (head("CONNECT bob:CANARY@origin.test:443", "Host: origin.test:443\r\n"), 400),
        (head("GET http://origin.test/", "Host: u:CANARY@origin.test\r\n"), 421),
        (
            head(
                "GET http://other.test/?%74oken=CANARY",
                "Host: other.test\r\nReferer: https://u:CANARY@h/\r\n",
            ),
            403,
        ),
        (
            head(
                "GET http://other.test/?to=http%3A%2F%2Fu%3ACANARY%40h%2F",
                "Host: other.test\r\nX-See: http://u:CANARY@h/\r\n",
            ),
            403,
        ),
        (
            head(
                &format!("GET http://other.test/{token}"),
                &format!("Host: other.test\r\nUser-Agent: {token}\r\n"),
            ),
            403,
        ),
    ];
    let sessions = rows.len();
    for (bytes, want) in rows {
        assert_eq!(statuses(&egress, bytes.as_bytes()), [want], "{bytes}");
    }
    // As `curl -x http://TOKEN@proxy` sends it.
    let alone = Egress::credential_of(&format!("{token}:"));
    let ask =
        format!("GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n{alone}Connection: close\r\n\r\n");
    assert_eq!(statuses(&egress, ask.as_bytes()), [407]);
    let events = egress.closed(sessions + 1);
    let mut replaced = 0;
    for event in &events {
        for (kind, bytes) in &event.content {
            let text = String::from_utf8_lossy(bytes);
            assert!(!text.contains("CANARY") && !text.contains(secret), "{kind:?}: {text}");
            replaced += usize::from(text.contains("[removed, ") || text.contains("***"));
        }
    }
    assert!(replaced >= sessions, "what is cut out says so: {replaced}");
}

#[test]
fn the_gateway_cannot_be_used_to_reach_itself() {
    let egress = Egress::with(&["127.0.0.0/8:*", "self.test:*"], |c| {
        c.hosts.insert("self.test".to_owned(), vec!["127.0.0.1".parse().unwrap()]);
    });
    let credential = Egress::credential(&egress.token("robot"));
    let port = egress.address.port();
    for host in ["127.0.0.1", "self.test", "[::ffff:127.0.0.1]"] {
        let connect = format!(
            "CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{credential}Connection: close\r\n\r\n"
        );
        assert_eq!(statuses(&egress, connect.as_bytes()), [403], "{host}");
    }
    let events = egress.closed(3);
    assert!(opened(&events).iter().all(|t| t.refusal.as_deref() == Some("own-listener")));
}

#[test]
fn floods_are_cut_at_their_limits() {
    let oracle = Oracle::start();
    let egress = Egress::start(&["127.0.0.1:*"]);
    let host = oracle.address;
    let credential = Egress::credential(&egress.token("robot"));
    let begin = format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{credential}");
    let fields = begin.clone() + &"X: y\r\n".repeat(1000) + "\r\n";
    let large = format!("{begin}X: {}\r\n\r\n", "y".repeat(100_000));
    let url =
        format!("GET http://{host}/{} HTTP/1.1\r\nHost: {host}\r\n{credential}\r\n", "a".repeat(20_000));
    let name = format!("{begin}{}: y\r\n\r\n", "x".repeat(100_000));
    for (what, bytes, want) in
        [("fields", fields, 431), ("bytes", large, 431), ("URL", url, 414), ("name", name, 431)]
    {
        assert_eq!(statuses(&egress, bytes.as_bytes()), [want], "{what}");
        // The same behind a good request is recorded in its session.
        let second = format!("{begin}\r\n{bytes}");
        assert_eq!(statuses(&egress, second.as_bytes()), [200, want], "{what} as the second request");
    }
    // Before a login it is a session of nobody.
    let events = egress.closed(8);
    for reason in ["protocol-violation", "refused"] {
        assert_eq!(close_reasons(&events).iter().filter(|r| *r == reason).count(), 4, "{reason}");
    }
    assert_eq!(decisions(&events).len(), 8);
    // Heads without an end, and a hundred connections that say nothing, leave the others alone.
    let silent: Vec<_> = (0..100).map(|_| egress.connect()).collect();
    let mut endless = egress.connect();
    endless.write_all(begin.as_bytes()).unwrap();
    let begun = Instant::now();
    let good = format!("{begin}Connection: close\r\n\r\n");
    assert!(egress.exchange(good.as_bytes()).starts_with("HTTP/1.1 200 OK"));
    assert!(begun.elapsed() < Duration::from_secs(2));
    drop(silent);
}

#[test]
fn bytes_behind_a_response_do_not_answer_the_next_request() {
    let poisoned = origin(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(
            format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{MARK}").as_bytes(),
        );
    });
    let oracle = Oracle::start();
    let egress = Egress::start(&["127.0.0.1:*"]);
    let credential = Egress::credential(&egress.token("robot"));
    let ask = |host: SocketAddr, close| {
        format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{credential}{close}\r\n")
    };
    let both = ask(poisoned, "") + &ask(oracle.address, "Connection: close\r\n");
    let answer = egress.exchange(both.as_bytes());
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
    assert!(!answer.contains(MARK), "{answer}");
}

#[test]
fn a_tunnel_is_no_way_around_the_judging_of_requests() {
    let oracle = Oracle::start();
    let egress = Egress::with(&["origin.test:*", "127.0.0.1:*"], |c| c.head_seconds = 1);
    let credential = Egress::credential(&egress.token("robot"));
    let to = format!("origin.test:{}", oracle.address.port());
    let tunnel = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{credential}\r\n");
    for (what, inside) in [
        ("HTTP in clear", format!("GET /{MARK} HTTP/1.1\r\nHost: elsewhere.test\r\n\r\n")),
        ("a proxy behind the proxy", format!("CONNECT {MARK}.test:443 HTTP/1.1\r\n\r\n")),
        ("HTTP/2 in clear", format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{MARK}")),
        ("SSH", format!("SSH-2.0-{MARK}\r\n")),
        ("Redis", format!("*1\r\n$4\r\n{MARK}\r\n")),
        ("SOCKS", format!("\x05\x01\0{MARK}")),
        ("an alert instead of a hello", format!("\x15\x03\x01\0\x02\x02\x31{MARK}")),
        ("a record that is no hello", format!("\x16\x03\x01\0\x08\x02\0\0\x04{MARK}")),
        ("half a hello", format!("\x16\x03\x01\x02\0\x01\0\x01\0\x03\x03{MARK}")),
    ] {
        // Behind the head in one write, and after the 200.
        let answer = egress.exchange((tunnel.clone() + &inside).as_bytes());
        assert!(answer.starts_with("HTTP/1.1 200 "), "{what}: {answer}");
        let mut stream = egress.connect();
        stream.write_all(tunnel.as_bytes()).unwrap();
        let _ = stream.read(&mut [0; 256]);
        stream.write_all(inside.as_bytes()).unwrap();
        crate::support::egress::read_to_end(&mut stream);
        assert_eq!(oracle.got(), "", "{what} reached the origin");
    }
}
