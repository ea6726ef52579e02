//! Ports for servers that are stopped and started again.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::TcpListener;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below those that systems give the connections of clients (32768 and up on Linux, `ip_local_port_range`), so that none
/// of these has a server's port while it is down.
const PORTS: Range<u16> = 10_000..32_000;

/// A port of the loopback address that nobody listens on now, and that this process has given nobody before.
///
/// # Errors
/// When all are taken.
pub fn free_port() -> io::Result<u16> {
    static FIRST: OnceLock<u16> = OnceLock::new();
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let count = PORTS.end - PORTS.start;
    // Processes side by side begin in different places.
    let first = *FIRST.get_or_init(|| {
        u16::try_from(RandomState::new().hash_one(std::process::id()) % u64::from(count)).unwrap_or_default()
    });
    (0..count)
        .map(|_| PORTS.start + first.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % count)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::AddrInUse, "no free port between 10000 and 32000"))
}
