//! Servers that real clients talk to: files over HTTP and HTTPS.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::egress::origin;

/// A certificate authority and a server certificate of it.
pub struct Certificates {
    /// File with the authority's certificate, for clients.
    pub authority: PathBuf,
    /// Files with the server's certificate and private key.
    pub cert: PathBuf,
    pub key: PathBuf,
    /// The server's side.
    pub server: Arc<rustls::ServerConfig>,
}

impl Certificates {
    /// Certificates for these names, with the authority's file in `dir`.
    pub fn new(dir: &Path, names: &[&str]) -> Self {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
        let (authority_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut authority = CertificateParams::new(Vec::<String>::new()).unwrap();
        authority.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = authority.self_signed(&authority_key).unwrap();
        let file = dir.join("authority.pem");
        std::fs::write(&file, root.pem()).unwrap();
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut server = CertificateParams::new(names).unwrap();
        server.use_authority_key_identifier_extension = true;
        let leaf = server.signed_by(&key, &Issuer::new(authority, authority_key)).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf.der().clone()],
                rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let (cert_file, key_file) = (dir.join("server.pem"), dir.join("server.key"));
        std::fs::write(&cert_file, leaf.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        Self { authority: file, cert: cert_file, key: key_file, server: Arc::new(config) }
    }
}

/// Serves the files below `root` over HTTP.
pub fn files(root: &Path) -> SocketAddr {
    let root = root.to_owned();
    origin(move |mut stream| while serve(&mut stream, &root).is_some() {})
}

/// Serves the files below `root` over HTTPS.
pub fn files_tls(root: &Path, certificates: &Certificates) -> SocketAddr {
    let (root, config) = (root.to_owned(), Arc::clone(&certificates.server));
    origin(move |stream| {
        let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, stream);
        while serve(&mut stream, &root).is_some() {}
        stream.conn.send_close_notify();
        let _ = stream.flush();
    })
}

/// One request: a file, the names in a directory as links, or the body that was sent.
fn serve(stream: &mut (impl Read + Write), root: &Path) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let mut first = head.split(' ');
    let (method, target) = (first.next()?, first.next()?);
    let field = |name: &str| {
        head.lines().find_map(|l| {
            let (n, v) = l.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| v.trim().to_owned())
        })
    };
    let mut body = vec![0; field("content-length").and_then(|v| v.parse().ok()).unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    let path = root.join(target.split('?').next()?.trim_matches('/'));
    let (status, ty, answer) = if method == "POST" || method == "PUT" {
        ("200 OK", "application/octet-stream", body)
    } else if path.is_dir() {
        let mut names: Vec<_> = std::fs::read_dir(&path)
            .ok()?
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        let links: String = names.iter().map(|n| format!("<a href=\"{n}\">{n}</a><br>\n")).collect();
        ("200 OK", "text/html", format!("<!DOCTYPE html><html><body>\n{links}</body></html>\n").into_bytes())
    } else {
        match std::fs::read(&path) {
            Ok(content) => ("200 OK", "application/octet-stream", content),
            Err(_) => ("404 Not Found", "text/plain", b"no such file\n".to_vec()),
        }
    };
    let length = answer.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Type: {ty}\r\nContent-Length: {length}\r\n\r\n").ok()?;
    if method != "HEAD" {
        stream.write_all(&answer).ok()?;
    }
    stream.flush().ok()?;
    (field("connection").as_deref() != Some("close")).then_some(())
}
