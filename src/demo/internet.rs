//! A small local internet: one HTTP server on loopback that answers under every name that resolves to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

/// A server that takes uploads and answers questions; it counts what it received.
pub struct Internet {
    address: SocketAddr,
    received: Arc<AtomicU64>,
}

impl Internet {
    /// Listens on a free port of 127.0.0.1.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("no free port for the local internet")?;
        let address = listener.local_addr()?;
        let received = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&received);
        std::thread::Builder::new().name("internet".to_owned()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let counter = Arc::clone(&counter);
                // A connection that cannot have a thread is dropped; the client then sees it closed.
                let _ = std::thread::Builder::new().spawn(move || serve(&stream, &counter));
            }
        })?;
        Ok(Self { address, received })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Body bytes received so far, over all names.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::SeqCst)
    }
}

fn serve(stream: &TcpStream, received: &AtomicU64) -> Option<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    let mut reader = BufReader::new(stream);
    let (mut length, mut chunked, mut expects) = (0u64, false, false);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    loop {
        let mut field = String::new();
        reader.read_line(&mut field).ok()?;
        let field = field.trim().to_ascii_lowercase();
        if field.is_empty() {
            break;
        }
        if let Some(value) = field.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        chunked |= field.starts_with("transfer-encoding:") && field.contains("chunked");
        expects |= field.starts_with("expect:");
    }
    let mut writer = stream;
    if expects {
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    let body = if chunked { read_chunks(&mut reader)? } else { copy(&mut reader, length)? };
    received.fetch_add(body, Ordering::SeqCst);
    let answer = format!("{{\"ok\":true,\"received\":{body}}}\n");
    write!(
        writer,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}",
        answer.len()
    )
    .ok()
}

fn copy(reader: &mut impl Read, length: u64) -> Option<u64> {
    std::io::copy(&mut reader.take(length), &mut std::io::sink()).ok()
}

fn read_chunks(reader: &mut impl BufRead) -> Option<u64> {
    let mut total = 0;
    loop {
        let mut size = String::new();
        reader.read_line(&mut size).ok()?;
        let size = u64::from_str_radix(size.trim(), 16).ok()?;
        total += copy(reader, size)?;
        let mut end = String::new();
        reader.read_line(&mut end).ok()?;
        if size == 0 {
            return Some(total);
        }
    }
}
