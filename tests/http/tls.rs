//! The listener behind TLS: what a slow reader gets, and what a client in clear is told.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bodycam_proxy::http::TlsConfig;

use crate::support::egress::{Custom, Egress, decisions, origin, read_to_end};
use crate::support::web::Certificates;

type TlsStream = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

/// Bytes of a response that no buffer between origin and client holds whole.
const LARGE: usize = 24 << 20;

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

/// Reads as one who is slower than the origin, so that the proxy's last write finds the connection full.
fn read_slowly(stream: &mut TlsStream, bytes: usize) {
    let (mut got, mut buf) = (0, vec![0; 512 << 10]);
    std::thread::sleep(Duration::from_millis(500));
    while got < bytes {
        let want = buf.len().min(bytes - got);
        stream.read_exact(&mut buf[..want]).unwrap_or_else(|e| panic!("{e} after {got} of {bytes} bytes"));
        got += want;
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_slow_reader_gets_the_last_byte_of_a_response_and_of_a_tunnel() {
    let origin = origin(|mut stream| {
        let mut first = [0; 7];
        stream.read_exact(&mut first).unwrap();
        if &first == b"GET / H" {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n").unwrap();
        }
        stream.write_all(&vec![b'x'; LARGE]).unwrap();
        // It stays open: nothing more comes that would push the last bytes out.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let egress = Egress::custom(&["opaque:127.0.0.1:*"], behind_tls);
    let credential = Egress::credential(&egress.token("robot"));
    let mut stream = connect(&egress);
    write!(stream, "GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n{credential}\r\n").unwrap();
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 200 "));
    read_slowly(&mut stream, LARGE);

    let mut stream = connect(&egress);
    write!(stream, "CONNECT {origin} HTTP/1.1\r\nHost: {origin}\r\n{credential}\r\n").unwrap();
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 200 "));
    stream.write_all(b"a file!").unwrap();
    read_slowly(&mut stream, LARGE);
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
