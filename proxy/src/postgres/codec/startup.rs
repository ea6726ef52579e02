//! The packets before a session: requests for encryption, cancel requests, startup messages. They have a length
//! but no type byte.

use super::{Body, FrameError, frame, put_text};

/// Longest packet, as in the server (`MAX_STARTUP_PACKET_LENGTH`).
pub const MAX_PACKET: usize = 10_000;

const CANCEL_REQUEST: i32 = 80_877_102;
const SSL_REQUEST: i32 = 80_877_103;
const GSSENC_REQUEST: i32 = 80_877_104;

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u16,
    pub minor: u16,
}

impl Version {
    /// What the gateway speaks to targets.
    pub const V3_0: Version = Version { major: 3, minor: 0 };
    /// The newest that it speaks to clients.
    pub const V3_2: Version = Version { major: 3, minor: 2 };

    fn of(code: i32) -> Self {
        let [a, b, c, d] = code.to_be_bytes();
        Version { major: u16::from_be_bytes([a, b]), minor: u16::from_be_bytes([c, d]) }
    }

    /// The number that stands for it in messages.
    pub fn code(self) -> i32 {
        i32::from(self.major) << 16 | i32::from(self.minor)
    }

    /// The version to go on with when a client asks for this one: 3.2, or 3.0 (3.1 was never spoken).
    pub fn spoken(self) -> Self {
        if self >= Version::V3_2 { Version::V3_2 } else { Version::V3_0 }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A packet before the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// SSLRequest.
    Tls,
    /// GSSENCRequest.
    Gss,
    /// CancelRequest: process id and secret key.
    Cancel { process: i32, key: Vec<u8> },
    /// StartupMessage.
    Startup(Startup),
    /// A startup message of a version that nobody here speaks.
    Unsupported(Version),
}

/// Names and values of startup parameters, in order.
pub type Parameters = Vec<(Vec<u8>, Vec<u8>)>;

/// A StartupMessage of major version 3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup {
    /// As asked for.
    pub version: Version,
    /// Names and values in order.
    pub parameters: Parameters,
}

impl Startup {
    /// The value of a parameter; the last one when it is given more than once, as in the server.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.parameters.iter().rev().find(|(n, _)| n == name.as_bytes()).map(|(_, v)| v.as_slice())
    }
}

/// The packet at the start of `bytes` and its length; none when there are too few bytes. A bad length is
/// refused as soon as it is there.
pub fn packet(bytes: &[u8]) -> Result<Option<(Packet, usize)>, FrameError> {
    let malformed = |what| FrameError::Malformed { message: "startup", what };
    let Some(length) = bytes.first_chunk().map(|b| i32::from_be_bytes(*b)) else { return Ok(None) };
    let length = usize::try_from(length)
        .ok()
        .filter(|l| (8..=MAX_PACKET).contains(l))
        .ok_or(malformed("its length is not between 8 and 10,000 bytes"))?;
    let Some(body) = bytes.get(4..length) else { return Ok(None) };
    let mut body = Body::new("startup", body);
    let packet = match body.i32()? {
        SSL_REQUEST => {
            body.end()?;
            Packet::Tls
        }
        GSSENC_REQUEST => {
            body.end()?;
            Packet::Gss
        }
        CANCEL_REQUEST => {
            let process = body.i32()?;
            let key = body.rest();
            if !(4..=256).contains(&key.len()) {
                return Err(malformed("its secret key is not of 4 to 256 bytes"));
            }
            Packet::Cancel { process, key: key.to_vec() }
        }
        code => {
            let version = Version::of(code);
            if version.major == 3 { startup(version, body)? } else { Packet::Unsupported(version) }
        }
    };
    Ok(Some((packet, length)))
}

fn startup(version: Version, mut body: Body<'_>) -> Result<Packet, FrameError> {
    let mut parameters = Vec::new();
    loop {
        let name = body.text()?;
        if name.is_empty() {
            break;
        }
        parameters.push((name.to_vec(), body.text()?.to_vec()));
    }
    body.end()?;
    Ok(Packet::Startup(Startup { version, parameters }))
}

/// One setting in `options`, and how it is written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionSetting {
    /// Name, with `_` where `-` was written.
    pub name: String,
    /// Value.
    pub value: Vec<u8>,
}

/// The settings in the startup parameter `options` when all of it has the form `-c name=value` or
/// `--name=value`; none when there is anything else, which nobody could judge.
pub fn options(text: &[u8]) -> Option<Vec<OptionSetting>> {
    let mut settings = Vec::new();
    let mut words = split_options(text)?.into_iter();
    while let Some(word) = words.next() {
        let setting = match word.as_slice() {
            [b'-', b'c'] => words.next()?,
            [b'-', b'c', setting @ ..] | [b'-', b'-', setting @ ..] => setting.to_vec(),
            _ => return None,
        };
        let at = memchr::memchr(b'=', &setting)?;
        let (name, value) = (setting.get(..at)?, setting.get(at + 1..)?);
        let lawful = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        if name.is_empty() || !name.iter().all(lawful) {
            return None;
        }
        let name = name.iter().map(|b| if *b == b'-' { '_' } else { char::from(*b) }).collect();
        settings.push(OptionSetting { name, value: value.to_vec() });
    }
    Some(settings)
}

/// Splits as the server does (`pg_split_opts`): at white space, a backslash takes the next byte as it is.
fn split_options(text: &[u8]) -> Option<Vec<Vec<u8>>> {
    let space = |b: u8| matches!(b, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c);
    let (mut words, mut word, mut started) = (Vec::new(), Vec::new(), false);
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                word.push(bytes.next()?);
                started = true;
            }
            byte if space(byte) => {
                if started {
                    words.push(std::mem::take(&mut word));
                }
                started = false;
            }
            byte => {
                word.push(byte);
                started = true;
            }
        }
    }
    if started {
        words.push(word);
    }
    Some(words)
}

/// Appends a startup message.
pub fn put_startup<'a>(
    out: &mut Vec<u8>,
    version: Version,
    parameters: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) {
    put_packet(out, version.code(), |out| {
        for (name, value) in parameters {
            put_text(out, name);
            put_text(out, value);
        }
        out.push(0);
    });
}

/// Appends an SSLRequest.
pub fn put_tls_request(out: &mut Vec<u8>) {
    put_packet(out, SSL_REQUEST, |_| ());
}

/// Appends a CancelRequest.
pub fn put_cancel(out: &mut Vec<u8>, process: i32, key: &[u8]) {
    put_packet(out, CANCEL_REQUEST, |out| {
        out.extend_from_slice(&process.to_be_bytes());
        out.extend_from_slice(key);
    });
}

fn put_packet(out: &mut Vec<u8>, code: i32, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut framed = Vec::new();
    frame(&mut framed, 0, |out| {
        out.extend_from_slice(&code.to_be_bytes());
        fill(out);
    });
    out.extend(framed.into_iter().skip(1));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn startup_messages_come_back_as_written_and_only_when_whole() {
        let mut bytes = Vec::new();
        let pairs = [(&b"user"[..], &b"ada"[..]), (b"user", b"bob"), (b"options", b"")];
        put_startup(&mut bytes, Version { major: 3, minor: 9999 }, pairs);
        for cut in 0..bytes.len() {
            assert_eq!(packet(&bytes[..cut]).unwrap(), None);
        }
        let (Packet::Startup(startup), length) = packet(&bytes).unwrap().unwrap() else { panic!() };
        assert_eq!((length, startup.version.spoken()), (bytes.len(), Version::V3_2));
        assert_eq!(startup.get("user"), Some(&b"bob"[..]), "the last one counts");
        assert_eq!(Version { major: 3, minor: 1 }.spoken(), Version::V3_0);
    }

    #[test]
    fn packets_with_a_bad_length_or_form_are_refused() {
        let cases: [&[u8]; 9] = [
            &[0, 0, 0, 0],
            &[0, 0, 0, 7],
            &[0xff, 0xff, 0xff, 0xff],
            &[0, 0, 0x27, 0x11],
            &[0x7f, 0xff, 0xff, 0xff],
            &[0, 0, 0, 9, 4, 210, 22, 47, 0],
            &[0, 0, 0, 12, 4, 210, 22, 46, 0, 0, 0, 1],
            &[0, 0, 0, 9, 0, 3, 0, 0, b'u'],
            b"\0\0\0\x0a\0\x03\0\0\0x",
        ];
        for bytes in cases {
            assert!(packet(bytes).is_err(), "{bytes:?}");
        }
        let two = [0, 0, 0, 8, 0, 2, 0, 0];
        let (got, _) = packet(&two).unwrap().unwrap();
        assert_eq!(got, Packet::Unsupported(Version { major: 2, minor: 0 }));
    }

    #[test]
    fn options_pass_only_in_the_two_forms_that_can_be_read() {
        let read = |text: &str| {
            options(text.as_bytes()).map(|all| {
                all.into_iter()
                    .map(|s| format!("{}={}", s.name, String::from_utf8(s.value).unwrap()))
                    .collect::<Vec<_>>()
            })
        };
        let cases: [(&str, Option<&[&str]>); 14] = [
            ("", Some(&[])),
            ("-c search_path=a,b", Some(&["search_path=a,b"])),
            ("-csearch_path=a --work-mem=4MB", Some(&["search_path=a", "work_mem=4MB"])),
            (r"-c search_path=a\ b\\c", Some(&[r"search_path=a b\c"])),
            ("--x.y=", Some(&["x.y="])),
            ("-c", None),
            ("-c novalue", None),
            ("-c =v", None),
            ("--", None),
            ("-e -c a=b", None),
            ("-ec a=b", None),
            ("word", None),
            ("-c a;b=c", None),
            ("-c a=b \\", None),
        ];
        for (text, want) in cases {
            let want = want.map(|w| w.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
            assert_eq!(read(text), want, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = packet(&bytes);
            let _ = options(&bytes);
        }

        #[test]
        fn damaged_startup_messages_never_panic(at in 0usize..40, byte in any::<u8>(), cut in 0usize..41) {
            let mut bytes = Vec::new();
            put_startup(&mut bytes, Version::V3_0, [(&b"user"[..], &b"ada"[..]), (b"database", b"crm")]);
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(cut.max(1));
            let _ = packet(&bytes);
        }
    }
}
