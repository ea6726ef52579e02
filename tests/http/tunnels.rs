//! CONNECT tunnels.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use bodycam_record::ContentKind;
use bodycam_record::kinds::Body;

use crate::support::egress::{
    Egress, PATIENCE, close_reasons, closed, decisions, opened, origin, read_to_end, responses,
};

/// A server that sends back what it gets, and closes when the client has.
fn echo() -> SocketAddr {
    origin(|mut stream| {
        let mut buf = [0; 65536];
        while let Ok(n @ 1..) = stream.read(&mut buf) {
            if stream.write_all(&buf[..n]).is_err() {
                return;
            }
        }
    })
}

/// Opens a tunnel and gives the connection behind the 200.
fn connect(egress: &Egress, token: &str, to: &str) -> TcpStream {
    let mut stream = egress.connect();
    let head = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{}\r\n", Egress::credential(token));
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(!answer.to_lowercase().contains("content-length") && !answer.contains("chunked"), "{answer}");
    stream
}

/// The ClientHello that rustls sends for `name`.
fn hello(name: &str) -> Vec<u8> {
    hello_with(name, true)
}

/// As [`hello`], with or without the name in it.
fn hello_with(name: &str, named: bool) -> Vec<u8> {
    let provider = rustls::crypto::ring::default_provider();
    let mut config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.enable_sni = named;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), b"made-up".to_vec()];
    let name = name.to_owned().try_into().unwrap();
    let mut out = Vec::new();
    rustls::ClientConnection::new(config.into(), name).unwrap().write_tls(&mut out).unwrap();
    out
}

/// A ClientHello with one more extension.
fn extended(mut hello: Vec<u8>, kind: u16, data: &[u8]) -> Vec<u8> {
    let mut at = 9 + 2 + 32;
    at += 1 + usize::from(hello[at]);
    at += 2 + usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
    at += 1 + usize::from(hello[at]);
    let more = u16::try_from(data.len()).unwrap() + 4;
    for length in [3, 7, at] {
        let longer = u16::from_be_bytes([hello[length], hello[length + 1]]) + more;
        hello[length..length + 2].copy_from_slice(&longer.to_be_bytes());
    }
    hello.extend_from_slice(&kind.to_be_bytes());
    hello.extend_from_slice(&(more - 4).to_be_bytes());
    hello.extend_from_slice(data);
    hello
}

#[test]
fn a_tunnel_is_recorded_at_both_ends_with_its_bytes_and_its_gap() {
    let echo = echo();
    let egress = Egress::start(&["opaque:origin.test:*", "127.0.0.1:*"]);
    let mut stream = connect(&egress, &egress.token("robot"), &format!("origin.test:{}", echo.port()));
    let opening = egress.wait_for("the opening", |e| !opened(e).is_empty());
    assert_eq!(opening.len(), 2, "it is recorded before the client hears 200");
    stream.write_all(b"not tls").unwrap();
    let mut back = [0; 7];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"not tls");
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut stream), "");
    let events = egress.closed(1);
    let kinds: Vec<_> = events.iter().map(|e| e.body.table().name).collect();
    assert_eq!(
        kinds,
        ["session.opened", "http.tunnel_opened", "gap", "http.tunnel_closed", "session.closed"]
    );
    let open = opened(&events)[0];
    assert_eq!(
        (open.host.as_str(), open.port, open.verdict.as_str()),
        ("origin.test", i64::from(echo.port()), "allow")
    );
    assert_eq!(open.address.as_deref(), Some("127.0.0.1"));
    let close = closed(&events)[0];
    assert_eq!((close.bytes_out, close.bytes_in, close.outcome.as_str()), (7, 7, "client-closed"));
    assert!(!close.tls && close.sni.is_none() && close.duration_us > 0);
    let Body::Gap(gap) = &events[2].body else { panic!("{kinds:?}") };
    assert_eq!((gap.reason.as_str(), gap.opaque_bytes), ("opaque-tunnel", 14));
    assert_eq!((events[2].parent, events[3].parent), (Some(1), Some(1)));
    assert_eq!(close_reasons(&events), ["client"]);
    assert_eq!(events[1].text(ContentKind::Url), format!("origin.test:{}", echo.port()));
}

#[test]
fn the_server_name_and_protocols_of_a_tls_client_are_read_in_passing() {
    let echo = echo();
    let egress = Egress::start(&["origin.test:*", "127.0.0.1:*"]);
    let hello = hello("Origin.Test");
    // Whole, and a byte at a time.
    for step in [hello.len(), 1] {
        let mut stream = connect(&egress, &egress.token("robot"), &format!("origin.test:{}", echo.port()));
        for part in hello.chunks(step) {
            stream.write_all(part).unwrap();
        }
        let mut back = vec![0; hello.len()];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, hello, "the bytes pass unchanged");
    }
    let events = egress.closed(2);
    for close in closed(&events) {
        assert!(close.tls);
        assert_eq!(close.sni.as_deref(), Some("origin.test"));
        assert_eq!(close.alpn, ["h2", "http/1.1", "other"]);
    }
    let detail = events.iter().find(|e| matches!(e.body, Body::HttpTunnelClosed(_))).unwrap();
    let pairs = detail.pairs(ContentKind::Detail);
    for (name, value) in [("alpn", "made-up"), ("first_bytes", "tls")] {
        assert!(pairs.contains(&(name.to_owned(), value.to_owned())), "{pairs:?}");
    }
}

/// A target that tells what arrived on each connection.
fn listener() -> (SocketAddr, std::sync::mpsc::Receiver<Vec<u8>>) {
    let (tell, told) = std::sync::mpsc::channel();
    let address = origin(move |mut stream| {
        let mut got = Vec::new();
        let _ = stream.read_to_end(&mut got);
        let _ = tell.send(got);
    });
    (address, told)
}

#[test]
fn only_tls_that_names_the_host_in_clear_passes_a_tunnel() {
    const ALERT: &[u8] = &[21, 3, 1, 0, 2, 2, 49];
    let (target, told) = listener();
    let egress = Egress::with(&["origin.test:*", "other.test:*", "127.0.0.1:*"], |c| c.head_seconds = 1);
    let (name, address) = (format!("origin.test:{}", target.port()), target.to_string());
    let mut garbled = hello("origin.test");
    garbled[6] = 0xff;
    let ech = extended(hello("origin.test"), 0xfe0d, &[0; 40]);
    let clear = format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n").into_bytes();
    let inner = format!("CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n\r\n").into_bytes();
    let half = hello("origin.test")[..100].to_vec();
    for (what, to, bytes, reason, first, answer) in [
        ("another name", &name, hello("evil.example"), "sni-not-allowed", "tls", ALERT),
        (
            "a name that is listed, but not this one",
            &name,
            hello("other.test"),
            "sni-not-allowed",
            "tls",
            ALERT,
        ),
        ("no name", &name, hello_with("origin.test", false), "sni-missing", "tls", ALERT),
        ("a name for an address", &address, hello("origin.test"), "sni-not-allowed", "tls", ALERT),
        ("an encrypted name", &name, ech, "encrypted-client-hello", "tls", ALERT),
        ("a garbled hello", &name, garbled, "malformed-client-hello", "tls", ALERT),
        ("half a hello", &name, half, "hello-timeout", "tls", ALERT),
        ("HTTP in clear", &name, clear, "not-tls", "http", b"HTTP/1.1 403 "),
        ("a proxy behind the proxy", &name, inner, "not-tls", "http", b"HTTP/1.1 403 "),
        ("HTTP/2", &name, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), "not-tls", "http2", b""),
        ("SSH", &name, b"SSH-2.0-x\r\n".to_vec(), "not-tls", "ssh", b""),
        ("IMAP", &name, b"a1 LOGIN\r\n".to_vec(), "not-tls", "other", b""),
        ("nothing", &name, Vec::new(), "hello-timeout", "none", b""),
    ] {
        let mut stream = connect(&egress, &egress.token("robot"), to);
        stream.write_all(&bytes).unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        assert!(
            got.starts_with(answer) && got.is_empty() == answer.is_empty(),
            "{what}: {}",
            got.escape_ascii()
        );
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), b"", "{what} reached the target");
        let events = egress.wait_for("the end", |e| close_reasons(e).len() == decisions(e).len());
        let last = events.iter().rev().find(|e| matches!(e.body, Body::HttpTunnelClosed(_))).unwrap();
        assert_eq!(decisions(&events).last().map(String::as_str), Some(reason), "{what}");
        let Body::HttpTunnelClosed(close) = &last.body else { unreachable!() };
        assert_eq!((close.outcome.as_str(), close.bytes_out, close.bytes_in), ("refused", 0, 0), "{what}");
        let pairs = last.pairs(ContentKind::Detail);
        assert!(pairs.contains(&("first_bytes".to_owned(), first.to_owned())), "{what}: {pairs:?}");
    }
    // An address has no name to say.
    let mut stream = connect(&egress, &egress.token("robot"), &address);
    let unnamed = hello_with("origin.test", false);
    stream.write_all(&unnamed).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), unnamed);
}

#[test]
fn a_target_is_not_heard_before_its_client_was_unless_a_rule_says_so() {
    let target = origin(|mut stream| {
        let _ = stream.write_all(b"220 secret greeting");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let to = target.to_string();
    let strict = Egress::with(&["127.0.0.1:*"], |c| c.head_seconds = 1);
    let mut stream = connect(&strict, &strict.token("robot"), &to);
    assert_eq!(read_to_end(&mut stream), "");
    let opened = Egress::with(&["opaque:127.0.0.1:*"], |c| c.head_seconds = 1);
    let mut stream = connect(&opened, &opened.token("robot"), &to);
    let mut greeting = [0; 19];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"220 secret greeting");
}

#[test]
fn each_side_may_end_first() {
    let egress = Egress::start(&["opaque:127.0.0.1:*"]);
    let token = egress.token("robot");
    let counting = origin(|mut stream| {
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        stream.write_all(format!("{} bytes", got.len()).as_bytes()).unwrap();
    });
    let mut stream = connect(&egress, &token, &counting.to_string());
    stream.write_all(&[b'x'; 100_000]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut stream), "100000 bytes", "after the client's half was closed");

    let greeting = origin(|mut stream| {
        stream.write_all(b"220 hello").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let mut stream = connect(&egress, &token, &greeting.to_string());
    assert_eq!(read_to_end(&mut stream), "220 hello", "a server may speak first");
    stream.write_all(b"bye").unwrap();
    drop(stream);

    // Closed with bytes unread, a connection is reset.
    let resetting = origin(|stream| while stream.peek(&mut [0; 2]).unwrap() < 2 {});
    let mut stream = connect(&egress, &token, &resetting.to_string());
    stream.write_all(b"xx").unwrap();
    let _ = read_to_end(&mut stream);
    let events = egress.closed(3);
    let outcomes: Vec<_> = closed(&events).iter().map(|c| c.outcome.clone()).collect();
    assert_eq!(outcomes, ["client-closed", "server-closed", "server-closed"]);
    assert_eq!(close_reasons(&events), ["client", "server", "server"]);
    assert_eq!((closed(&events)[1].bytes_out, closed(&events)[1].bytes_in), (3, 9));
}

#[test]
fn megabytes_pass_both_ways_at_once_unchanged() {
    let echo = echo();
    let egress = Egress::start(&["opaque:127.0.0.1:*"]);
    let mut stream = connect(&egress, &egress.token("robot"), &echo.to_string());
    let sent: Vec<u8> = (0..8u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut writer = stream.try_clone().unwrap();
    let copy = sent.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(b"!").unwrap();
        writer.write_all(&copy).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    writing.join().unwrap();
    assert_eq!(back.len(), sent.len() + 1);
    assert!(back[1..] == sent[..], "the bytes changed");
    let events = egress.closed(1);
    let size = i64::try_from(sent.len()).unwrap() + 1;
    assert_eq!((closed(&events)[0].bytes_out, closed(&events)[0].bytes_in), (size, size));
}

#[test]
fn an_idle_tunnel_a_revoked_token_an_unlisted_host_and_a_stop_each_end_it() {
    let echo = echo();
    let mut egress = Egress::with(&["opaque:127.0.0.1:*"], |c| c.tunnel_idle_seconds = 3);
    let begin = |egress: &Egress, token: &str| {
        let mut stream = connect(egress, token, &echo.to_string());
        stream.write_all(b"x").unwrap();
        let mut back = [0];
        stream.read_exact(&mut back).unwrap();
        stream
    };
    let token = egress.token("robot");
    let mut stream = begin(&egress, &token);
    egress.revoke(&token);
    read_to_end(&mut stream);

    let mut stream = begin(&egress, &egress.token("robot"));
    egress.allow_only(&["opaque:127.0.0.1:1"]);
    read_to_end(&mut stream);
    egress.allow_only(&["opaque:127.0.0.1:*"]);

    let mut stream = begin(&egress, &egress.token("robot"));
    read_to_end(&mut stream);

    let mut stream = begin(&egress, &egress.token("robot"));
    egress.stop();
    read_to_end(&mut stream);
    let events = egress.closed(4);
    let outcomes: Vec<_> = closed(&events).iter().map(|c| c.outcome.clone()).collect();
    assert_eq!(outcomes, ["revoked", "unlisted", "timeout", "drain"]);
    assert_eq!(decisions(&events), ["revoked", "unlisted"]);
    assert_eq!(close_reasons(&events), ["revoked", "revoked", "timeout", "drain"]);
}

#[test]
fn a_tunnel_that_cannot_be_opened_says_why_and_leaves_the_connection_usable() {
    let echo = echo();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let egress = Egress::start(&["opaque:127.0.0.1:*"]);
    let credential = Egress::credential(&egress.token("robot"));
    let ask = |to: &str| format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{credential}\r\n");
    let mut stream = egress.connect();
    let all = [
        ask("denied.example:443"),
        ask(&free.to_string()),
        ask(&egress.address.to_string()),
        ask(&echo.to_string()),
    ];
    stream.write_all(all.concat().as_bytes()).unwrap();
    stream.write_all(b"hi").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let answer = read_to_end(&mut stream);
    let reasons: Vec<_> = answer.lines().filter(|l| l.starts_with("HTTP/1.1 ")).collect();
    assert_eq!(
        reasons,
        [
            "HTTP/1.1 403 Forbidden (bodycam: host-not-allowed)",
            "HTTP/1.1 502 Bad Gateway (bodycam: not-connected)",
            "HTTP/1.1 403 Forbidden (bodycam: own-listener)",
            "HTTP/1.1 200 Connection established",
        ]
    );
    assert!(answer.ends_with("\r\n\r\nhi"), "{answer}");
    let events = egress.closed(1);
    let verdicts: Vec<_> = opened(&events).iter().map(|o| (o.request_no, o.verdict.as_str())).collect();
    assert_eq!(verdicts, [(1, "deny"), (2, "allow"), (3, "deny"), (4, "allow")]);
    assert_eq!(
        closed(&events).iter().map(|c| c.outcome.as_str()).collect::<Vec<_>>(),
        ["server-closed", "client-closed"]
    );
    assert!(responses(&events).is_empty());
}

#[test]
fn an_old_client_opens_a_tunnel_too() {
    let echo = echo();
    let egress = Egress::start(&["opaque:127.0.0.1:*"]);
    let credential = Egress::credential(&egress.token("robot"));
    let mut stream = egress.connect();
    stream.write_all(format!("CONNECT {echo} HTTP/1.0\r\n{credential}\r\nhi").as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(
        read_to_end(&mut stream).ends_with("\r\n\r\nhi"),
        "as Python 3.11 does, with bytes behind the head"
    );
}
