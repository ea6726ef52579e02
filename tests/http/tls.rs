//! The listener behind TLS: what a slow reader gets, and what a client in clear is told.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bodycam_proxy::http::TlsConfig;

use crate::support::egress::{Custom, Egress, decisions, origin, read_to_end};
use crate::support::web::Certificates;

type TlsStream = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

/// Sizes of bodies: steps smaller than what TLS keeps back (64 KiB), up to more than what the system holds for
/// a client that does not read. With one of them the last bytes are all that does not fit.
const STEP: usize = 48 << 10;
const SIZES: usize = 120;

/// Puts the listener behind TLS.
fn behind_tls(custom: &mut Custom) {
    let certificates = Certificates::new(&custom.dir, &["localhost"]);
    custom.http.tls = Some(TlsConfig { cert: certificates.cert, key: certificates.key });
}

/// A connection to the proxy, encrypted.
fn connect(egress: &Egress) -> TlsStream {
    use rustls::pki_types::pem::PemObject as _;
    let pem = egress.dir.path().join("authority.pem");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = rustls::ClientConnection::new(config.into(), "localhost".try_into().unwrap()).unwrap();
    rustls::StreamOwned::new(client, egress.connect())
}

fn read_head(stream: &mut TlsStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// Asks for bodies of every size at once, reads none of them for a while, and then all of them.
fn read_late(egress: &Egress, ask: impl Fn(usize) -> String + Sync) {
    let (mut whole, ask) = (0, &ask);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (1..=SIZES)
            .map(|step| {
                scope.spawn(move || {
                    let size = step * STEP;
                    let mut stream = connect(egress);
                    stream.sock.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                    stream.write_all(ask(size).as_bytes()).unwrap();
                    assert!(read_head(&mut stream).starts_with("HTTP/1.1 200 "));
                    std::thread::sleep(Duration::from_secs(2));
                    stream.read_exact(&mut vec![0; size])
                })
            })
            .collect();
        for (step, reader) in (1..=SIZES).zip(readers) {
            reader
                .join()
                .unwrap()
                .unwrap_or_else(|e| panic!("the last of {} bytes did not come: {e}", step * STEP));
            whole += 1;
        }
    });
    assert_eq!(whole, SIZES);
}

#[test]
fn a_late_reader_gets_the_last_byte_of_a_response_and_of_a_tunnel() {
    // It stays open: nothing more comes that would push the last bytes out.
    let origin = origin(|mut stream| {
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            asked.push(byte[0]);
        }
        let asked = String::from_utf8(asked).unwrap();
        let size: usize = asked.split('/').nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        if asked.starts_with("GET") {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").unwrap();
        }
        stream.write_all(&vec![b'x'; size]).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let egress = Egress::custom(&["opaque:127.0.0.1:*"], behind_tls);
    let credential = Egress::credential(&egress.token("robot"));
    read_late(&egress, |size| {
        format!("GET http://{origin}/{size} HTTP/1.1\r\nHost: {origin}\r\n{credential}\r\n")
    });
    read_late(&egress, |size| {
        format!("CONNECT {origin} HTTP/1.1\r\nHost: {origin}\r\n{credential}\r\nsend /{size} \r\n\r\n")
    });
}

#[test]
fn who_has_not_logged_in_has_one_deadline_for_all_of_it() {
    let egress = Egress::custom(&["127.0.0.1:*"], |c| {
        behind_tls(c);
        c.http.head_seconds = 2;
    });
    let ask = "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n";
    let begun = Instant::now();
    let silent = egress.connect();
    let mut half = egress.connect();
    half.write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
    let mut slow = connect(&egress);
    slow.write_all(ask.as_bytes()).unwrap();
    let mut again = connect(&egress);
    let again = std::thread::spawn(move || {
        // Every question for a credential is answered by the next one; none of them earns more time.
        while again.write_all(format!("{ask}\r\n").as_bytes()).and_then(|()| again.flush()).is_ok() {
            std::thread::sleep(Duration::from_millis(500));
            let mut buf = [0; 4096];
            if !matches!(again.read(&mut buf), Ok(1..)) {
                break;
            }
        }
    });
    let mut end = [silent, half];
    for stream in &mut end {
        read_to_end(stream);
    }
    let mut answer = String::new();
    let _ = slow.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    again.join().unwrap();
    let took = begun.elapsed();
    assert!((Duration::from_millis(1800)..Duration::from_millis(3900)).contains(&took), "{took:?}");
    let events = egress.closed(1);
    assert_eq!(decisions(&events), ["head-timeout"], "who said nothing is not in the record");
}

#[test]
fn a_client_in_clear_from_afar_is_not_asked_for_its_token() {
    let egress = Egress::custom(&["127.0.0.1:*"], |c| {
        behind_tls(c);
        c.peer = Some([192, 0, 2, 7].into());
    });
    let answer = egress.exchange(b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden (bodycam: encryption-required)"), "{answer}");
    assert!(answer.contains("https://") && !answer.to_lowercase().contains("proxy-authenticate"), "{answer}");
    let mut stream = connect(&egress);
    stream.write_all(b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n").unwrap();
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 407 "));
    assert_eq!(decisions(&egress.closed(1)), ["encryption-required"]);
}
