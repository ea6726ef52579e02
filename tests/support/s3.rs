//! An S3 service on a free port that checks signatures and fails as it is told to: `tests/support/s3.py`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use bodycam_lake::store::{S3Credentials, S3Options, Store};
use serde_json::{Value, json};

use super::stack::python;

/// Name of the key that requests are signed with.
pub const ACCESS_KEY: &str = "bodycam-test";
/// Its secret.
pub const SECRET_KEY: &str = "a+secret/of-the-key";
/// The one bucket.
pub const BUCKET: &str = "the-lake";

/// The service; gone, with everything in it, when dropped.
pub struct S3 {
    child: Child,
    address: SocketAddr,
    scheme: &'static str,
}

/// A request as the service saw it.
#[derive(Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// The part that was asked for; empty for all of it.
    pub range: String,
    pub status: u64,
    /// Bytes of the answer.
    pub sent: u64,
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl S3 {
    /// Starts it, with TLS when there are a certificate and its key.
    pub fn start(tls: Option<(&Path, &Path)>) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/s3.py");
        let mut command = python();
        command.args([script, ACCESS_KEY, SECRET_KEY, BUCKET]);
        if let Some((cert, key)) = tls {
            command.args([cert, key]);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port: u16 = line.trim().parse().expect("the S3 service of the tests did not start");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Self { child, address, scheme: if tls.is_some() { "https" } else { "http" } }
    }

    /// URL of the service.
    pub fn endpoint(&self) -> String {
        format!("{}://localhost:{}", self.scheme, self.address.port())
    }

    /// `[lake]` for a lake under `prefix`; the key lies in files of `dir`, which this writes.
    pub fn section(&self, dir: &Path, prefix: &str) -> String {
        std::fs::write(dir.join("s3.access"), ACCESS_KEY).unwrap();
        std::fs::write(dir.join("s3.secret"), format!("{SECRET_KEY}\n")).unwrap();
        format!(
            "[lake]\nurl = \"s3://{BUCKET}/{prefix}\"\n\n[lake.s3]\nendpoint = \"{}\"\nregion = \"us-east-1\"\n\
             access_key = \"file:s3.access\"\nsecret_key = \"file:s3.secret\"\nallow_http = true\ntimeout_seconds = 2\n\
             retry_seconds = 20\n",
            self.endpoint()
        )
    }

    /// How the service is reached by somebody who waits a second for each answer, and asks again for `retry`.
    pub fn options(&self, retry: Duration) -> S3Options {
        S3Options {
            endpoint: Some(self.endpoint()),
            region: Some("us-east-1".to_owned()),
            credentials: Some(S3Credentials {
                access_key: ACCESS_KEY.to_owned(),
                secret_key: SECRET_KEY.to_owned(),
                session_token: None,
            }),
            allow_http: true,
            timeout: Duration::from_secs(1),
            retry,
            ..S3Options::default()
        }
    }

    /// The store under `prefix`.
    pub fn store(&self, prefix: &str, retry: Duration) -> Store {
        Store::open_at(&format!("s3://{BUCKET}/{prefix}"), &self.options(retry)).unwrap()
    }

    /// Has requests fail from now on; see the rules in `s3.py`.
    pub fn faults(&self, rules: &Value) {
        self.control("PUT", "/-/faults", &rules.to_string());
    }

    /// How often each rule was applied.
    pub fn applied(&self) -> Vec<u64> {
        let done: Vec<u64> = serde_json::from_str(&self.control("GET", "/-/done", "")).unwrap();
        done
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.control("DELETE", "/-/log", "");
    }

    /// Requests since the last [`S3::forget`].
    pub fn requests(&self) -> Vec<Request> {
        let log: Vec<Value> = serde_json::from_str(&self.control("GET", "/-/log", "")).unwrap();
        let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let number = |entry: &Value, name: &str| entry[name].as_u64().unwrap_or(0);
        let request = |entry: &Value| Request {
            method: text(entry, "method"),
            path: text(entry, "path"),
            range: text(entry, "range"),
            status: number(entry, "status"),
            sent: number(entry, "sent"),
        };
        log.iter().map(request).collect()
    }

    /// No faults any more.
    pub fn heal(&self) {
        self.faults(&json!([]));
    }

    fn control(&self, method: &str, path: &str, body: &str) -> String {
        assert_eq!(self.scheme, "http", "the service is told nothing over TLS");
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }
}
