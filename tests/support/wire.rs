//! A client that says on the wire exactly what a test wants said.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bodycam_proxy::postgres::codec::{backend, frame, frontend, put_text, startup};

/// A connection in clear.
pub struct Wire {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

/// Type and body of a message.
pub type Message = (u8, Vec<u8>);

impl Wire {
    /// Logs in at a server that asks for no password.
    pub fn direct(port: u16, user: &str, database: &str) -> Self {
        let mut wire = Self::connect(port);
        wire.hello(startup::Version::V3_0, &[("user", user), ("database", database)]);
        let messages = wire.until_ready();
        assert_eq!(messages.last().unwrap().0, b'Z', "{messages:?}");
        wire
    }

    /// Connects; nothing is sent.
    pub fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// Logs in at a gateway with `auth = "token"`, or at a server that asks for a password in clear, and reads
    /// up to the first ReadyForQuery.
    pub fn log_in(port: u16, user: &str, token: &str, database: &str) -> Self {
        let mut wire = Self::connect(port);
        wire.hello(startup::Version::V3_0, &[("user", user), ("database", database)]);
        assert_eq!(wire.read().unwrap().0, b'R');
        let mut out = Vec::new();
        frontend::put_password(&mut out, token.as_bytes());
        wire.send(&out);
        let messages = wire.until_ready();
        assert_eq!(messages.last().unwrap().0, b'Z', "{messages:?}");
        wire
    }

    /// Sends a startup message.
    pub fn hello(&mut self, version: startup::Version, parameters: &[(&str, &str)]) {
        let mut out = Vec::new();
        startup::put_startup(&mut out, version, parameters.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())));
        self.send(&out);
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next message; none when the connection has ended.
    pub fn read(&mut self) -> Option<Message> {
        loop {
            if let Some(length) = self.buffer.get(1..5) {
                let frame = 1 + usize::try_from(u32::from_be_bytes(length.try_into().unwrap())).unwrap();
                if self.buffer.len() >= frame {
                    let rest = self.buffer.split_off(frame);
                    let whole = std::mem::replace(&mut self.buffer, rest);
                    return Some((whole[0], whole[5..].to_vec()));
                }
            }
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(e) => panic!("no message: {e}"),
            }
        }
    }

    /// Messages up to and with ReadyForQuery, or up to the end.
    pub fn until_ready(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(message) = self.read() {
            let ready = message.0 == b'Z';
            messages.push(message);
            if ready {
                break;
            }
        }
        messages
    }

    /// Sends `bytes`; gives the answer up to ReadyForQuery as one line.
    pub fn ask(&mut self, bytes: &[u8]) -> String {
        self.send(bytes);
        line(&self.until_ready())
    }

    /// A simple query; its answer as one line.
    pub fn query(&mut self, sql: &str) -> String {
        self.ask(&query(sql))
    }

    /// Everything up to the end of the connection, as one line.
    pub fn until_end(&mut self) -> String {
        let mut messages = Vec::new();
        while let Some(message) = self.read() {
            messages.push(message);
        }
        line(&messages)
    }
}

/// The messages as one line: type and what matters.
pub fn line(messages: &[Message]) -> String {
    let word = |(tag, body): &Message| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
        match tag {
            b'C' => format!("C({})", text(body)),
            b'E' => format!("E({})", backend::sqlstate(body).unwrap_or_default()),
            b'Z' => format!("Z{}", text(body)),
            b'D' => format!("D({})", {
                let values = backend::values(body).unwrap();
                text(values.first().and_then(Option::as_deref).unwrap_or(b"NULL"))
            }),
            tag => char::from(*tag).to_string(),
        }
    };
    messages.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// The text of the last error among messages.
pub fn last_error(messages: &[Message]) -> String {
    let error = messages.iter().rev().find(|(tag, _)| *tag == b'E').expect("an error");
    String::from_utf8_lossy(backend::error_field(&error.1, b'M').unwrap()).into_owned()
}

/// Query.
pub fn query(sql: &str) -> Vec<u8> {
    let mut out = Vec::new();
    frontend::put_query(&mut out, sql.as_bytes());
    out
}

/// Parse.
pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    let mut out = Vec::new();
    frontend::put_parse(&mut out, name.as_bytes(), sql.as_bytes());
    out
}

/// Bind with parameters in text.
pub fn bind(portal: &str, statement: &str, values: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    frame(&mut out, b'B', |out| {
        put_text(out, portal.as_bytes());
        put_text(out, statement.as_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&u16::try_from(values.len()).unwrap().to_be_bytes());
        for value in values {
            out.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
            out.extend_from_slice(value.as_bytes());
        }
        out.extend_from_slice(&[0, 0]);
    });
    out
}

/// Describe; `kind` is `S` or `P`.
pub fn describe(kind: u8, name: &str) -> Vec<u8> {
    named(b'D', kind, name)
}

/// Close; `kind` is `S` or `P`.
pub fn close(kind: u8, name: &str) -> Vec<u8> {
    named(b'C', kind, name)
}

fn named(tag: u8, kind: u8, name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    frame(&mut out, tag, |out| {
        out.push(kind);
        put_text(out, name.as_bytes());
    });
    out
}

/// Execute.
pub fn execute(portal: &str, max_rows: u32) -> Vec<u8> {
    let mut out = Vec::new();
    frame(&mut out, b'E', |out| {
        put_text(out, portal.as_bytes());
        out.extend_from_slice(&max_rows.to_be_bytes());
    });
    out
}

/// Sync.
pub fn sync() -> Vec<u8> {
    vec![b'S', 0, 0, 0, 4]
}

/// A message of any type.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame(&mut out, tag, |out| out.extend_from_slice(body));
    out
}
