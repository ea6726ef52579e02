//! The first message of TLS (RFC 8446 §4.1.2), read in passing: which server the client names.
//!
//! It is reassembled over records and reads, because a client may split it anywhere. Invariant: what begins
//! like TLS and is not a well-formed ClientHello is malformed, never "no name": a hello that we cannot read
//! must not pass as one that names nobody.

/// Longest ClientHello message.
pub const MAX_HELLO: usize = 16 << 10;
/// Longest fragment in a record (RFC 8446 §5.1).
const MAX_FRAGMENT: usize = 1 << 14;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;

/// What a ClientHello says in clear.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// Server name as sent.
    pub server_name: Option<Vec<u8>>,
    /// Application protocols as sent, in order.
    pub alpn: Vec<Vec<u8>>,
    /// Whether an encrypted ClientHello comes with it: the name in clear may not be the real one.
    pub encrypted: bool,
}

/// What the bytes so far are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sniffed {
    /// The start of a ClientHello.
    NeedMore,
    /// Not TLS.
    NotTls,
    /// It begins like TLS, but is no ClientHello that a server would take.
    Malformed,
    /// A whole ClientHello.
    Hello(ClientHello),
}

/// Reads the first bytes of a client.
#[derive(Debug, Default)]
pub struct HelloReader {
    /// Bytes of the record at hand: header, then fragment.
    header: Vec<u8>,
    left: usize,
    message: Vec<u8>,
    begun: bool,
    verdict: Option<Sniffed>,
}

impl HelloReader {
    /// Takes the next bytes and says what they all are.
    pub fn push(&mut self, bytes: &[u8]) -> Sniffed {
        for byte in bytes {
            if let Some(verdict) = &self.verdict {
                return verdict.clone();
            }
            self.verdict = self.byte(*byte);
        }
        self.verdict.clone().unwrap_or(Sniffed::NeedMore)
    }

    fn byte(&mut self, byte: u8) -> Option<Sniffed> {
        if !self.begun && byte != HANDSHAKE {
            return Some(Sniffed::NotTls);
        }
        self.begun = true;
        if self.left == 0 {
            self.header.push(byte);
            return self.header_so_far();
        }
        self.left -= 1;
        self.message.push(byte);
        if let (Some(&kind), 1) = (self.message.first(), self.message.len())
            && kind != CLIENT_HELLO
        {
            return Some(Sniffed::Malformed);
        }
        let length = match self.message.get(1..4) {
            Some(&[a, b, c]) => usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            _ => return None,
        };
        if length > MAX_HELLO {
            return Some(Sniffed::Malformed);
        }
        if self.message.len() < 4 + length {
            return None;
        }
        // Nothing may follow a ClientHello in its record: the keys change after it.
        if self.left > 0 {
            return Some(Sniffed::Malformed);
        }
        let hello = self.message.get(4..).and_then(parse);
        Some(hello.map_or(Sniffed::Malformed, Sniffed::Hello))
    }

    fn header_so_far(&mut self) -> Option<Sniffed> {
        let good = match *self.header.as_slice() {
            [kind] => kind == HANDSHAKE,
            [_, major] => major == 3,
            [_, _, minor] => minor <= 4,
            [_, _, _, _] => true,
            [_, _, _, high, low] => {
                self.left = usize::from(high) << 8 | usize::from(low);
                self.header.clear();
                (1..=MAX_FRAGMENT).contains(&self.left)
            }
            _ => false,
        };
        (!good).then_some(Sniffed::Malformed)
    }
}

/// A cursor over length-prefixed vectors.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |n, b| n << 8 | usize::from(*b)))
    }

    /// A vector whose length stands in `bytes` bytes before it.
    fn vector(&mut self, bytes: usize) -> Option<Input<'a>> {
        let length = self.number(bytes)?;
        self.take(length).map(Input)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn parse(message: &[u8]) -> Option<ClientHello> {
    let mut input = Input(message);
    if input.number(2)? >> 8 != 3 {
        return None;
    }
    input.take(32)?;
    if input.vector(1)?.0.len() > 32 {
        return None;
    }
    let suites = input.vector(2)?.0.len();
    if suites < 2 || suites % 2 != 0 || input.vector(1)?.is_empty() {
        return None;
    }
    let mut hello = ClientHello::default();
    if input.is_empty() {
        return Some(hello);
    }
    let mut extensions = input.vector(2)?;
    let mut seen = std::collections::HashSet::new();
    while !extensions.is_empty() {
        let kind = u16::try_from(extensions.number(2)?).ok()?;
        let data = extensions.vector(2)?;
        if !seen.insert(kind) {
            return None;
        }
        match kind {
            SERVER_NAME => hello.server_name = Some(server_name(data)?),
            ALPN => hello.alpn = protocols(data)?,
            ENCRYPTED_CLIENT_HELLO => hello.encrypted = true,
            _ => {}
        }
    }
    input.is_empty().then_some(hello)
}

/// Exactly one name of type host_name (RFC 6066 §3).
fn server_name(mut data: Input<'_>) -> Option<Vec<u8>> {
    let mut list = data.vector(2)?;
    let kind = list.number(1)?;
    let name = list.vector(2)?.0;
    (kind == 0 && !name.is_empty() && list.is_empty() && data.is_empty()).then(|| name.to_vec())
}

fn protocols(mut data: Input<'_>) -> Option<Vec<Vec<u8>>> {
    let mut list = data.vector(2)?;
    let mut protocols = Vec::new();
    while !list.is_empty() {
        let name = list.vector(1)?.0;
        if name.is_empty() {
            return None;
        }
        protocols.push(name.to_vec());
    }
    (data.is_empty() && !protocols.is_empty()).then_some(protocols)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &u16::try_from(data.len()).unwrap().to_be_bytes(), data].concat()
    }

    fn sni(name: &[u8]) -> Vec<u8> {
        let n = u16::try_from(name.len()).unwrap();
        extension(0, &[&(n + 3).to_be_bytes()[..], &[0], &n.to_be_bytes(), name].concat())
    }

    fn message(extensions: &[u8]) -> Vec<u8> {
        let extensions_len = u16::try_from(extensions.len()).unwrap().to_be_bytes();
        let body =
            [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0], &extensions_len, extensions].concat();
        [&[1][..], &u32::try_from(body.len()).unwrap().to_be_bytes()[1..], &body].concat()
    }

    fn records(message: &[u8], fragment: usize) -> Vec<u8> {
        let record =
            |part: &[u8]| [&[22, 3, 1][..], &u16::try_from(part.len()).unwrap().to_be_bytes(), part].concat();
        message.chunks(fragment).flat_map(record).collect()
    }

    fn sniff(bytes: &[u8]) -> Sniffed {
        HelloReader::default().push(bytes)
    }

    /// The hello that rustls sends.
    fn real_hello(name: &str, alpn: &[&[u8]]) -> Vec<u8> {
        let mut config =
            rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        let name = name.to_owned().try_into().unwrap();
        let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
        let mut out = Vec::new();
        client.write_tls(&mut out).unwrap();
        out
    }

    #[test]
    fn the_hello_of_a_real_client_is_read_whole_or_a_byte_at_a_time() {
        let bytes = real_hello("api.example.com", &[b"h2", b"http/1.1"]);
        let want = Sniffed::Hello(ClientHello {
            server_name: Some(b"api.example.com".to_vec()),
            alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            encrypted: false,
        });
        assert_eq!(sniff(&bytes), want);
        let mut reader = HelloReader::default();
        let (last, first) = bytes.split_last().unwrap();
        assert!(first.iter().all(|b| reader.push(&[*b]) == Sniffed::NeedMore));
        assert_eq!(reader.push(&[*last]), want);
    }

    #[test]
    fn a_hello_split_over_records_is_read() {
        let message = message(&sni(b"a.example"));
        for fragment in [1, 3, 7, 64, 16384] {
            let Sniffed::Hello(hello) = sniff(&records(&message, fragment)) else { panic!("{fragment}") };
            assert_eq!(hello.server_name.as_deref(), Some(&b"a.example"[..]));
        }
    }

    #[test]
    fn what_is_no_tls_and_what_is_no_hello_are_told_apart() {
        let good = message(&sni(b"a.example"));
        let mut server_hello = good.clone();
        server_hello[0] = 2;
        let twice = message(&[sni(b"a.example"), sni(b"b.example")].concat());
        let two_names = {
            let mut list = vec![0, 24];
            for name in [b"a.example", b"b.example"] {
                list.extend_from_slice(&[0, 0, 9]);
                list.extend_from_slice(name);
            }
            message(&extension(0, &list))
        };
        let mut huge = good.clone();
        huge[1] = 1;
        let trailing = [good.clone(), vec![1]].concat();
        let alert = [21, 3, 1, 0, 2, 2, 40];
        for (bytes, want) in [
            (&b"GET / HTTP/1.1\r\n"[..], Sniffed::NotTls),
            (b"SSH-2.0-x", Sniffed::NotTls),
            (b"\x80\x2e\x01", Sniffed::NotTls),
            (b"", Sniffed::NeedMore),
            (b"\x16", Sniffed::NeedMore),
            (b"\x16\x03\x01\x02\x00", Sniffed::NeedMore),
            (&alert, Sniffed::NotTls),
            (b"\x16\x02\x00", Sniffed::Malformed),
            (b"\x16\x03\x01\x00\x00", Sniffed::Malformed),
            (b"\x16\x03\x01\xff\xff", Sniffed::Malformed),
            (&records(&server_hello, 512), Sniffed::Malformed),
            (&records(&twice, 512), Sniffed::Malformed),
            (&records(&two_names, 512), Sniffed::Malformed),
            (&records(&huge, 512), Sniffed::Malformed),
            (&records(&trailing, 512), Sniffed::Malformed),
            (&[&records(&good, 20)[..50], &alert[..]].concat(), Sniffed::Malformed),
            (&records(&message(&extension(0, b"")), 512), Sniffed::Malformed),
            (&records(&message(&sni(b"")), 512), Sniffed::Malformed),
            (&records(&message(&extension(16, &[0, 1, 0])), 512), Sniffed::Malformed),
        ] {
            assert_eq!(sniff(bytes), want, "{}", bytes.escape_ascii());
        }
        let silent = records(&message(b""), 512);
        assert_eq!(sniff(&silent), Sniffed::Hello(ClientHello::default()));
        let Sniffed::Hello(ech) = sniff(&records(&message(&extension(0xfe0d, &[0; 40])), 512)) else {
            panic!("ECH")
        };
        assert!(ech.encrypted && ech.server_name.is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_split_anywhere_give_the_same_verdict(
            noise in proptest::collection::vec(any::<u8>(), 0..80),
            flips in proptest::collection::vec((0usize..400, any::<u8>()), 0..4),
            cuts in proptest::collection::vec(0usize..400, 0..8),
        ) {
            let mut hello = records(&message(&[sni(b"a.example"), extension(16, b"\0\x03\x02h2")].concat()), 50);
            for (at, byte) in flips {
                if let Some(b) = hello.get_mut(at) { *b = byte; }
            }
            hello.extend_from_slice(&noise);
            let mut cuts = cuts;
            cuts.sort_unstable();
            let (mut reader, mut from, mut last) = (HelloReader::default(), 0, Sniffed::NeedMore);
            for cut in cuts.into_iter().chain([hello.len()]) {
                let cut = cut.clamp(from, hello.len());
                last = reader.push(&hello[from..cut]);
                from = cut;
            }
            prop_assert_eq!(last, sniff(&hello));
        }
    }
}
