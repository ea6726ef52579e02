//! Content that has a structure of its own, in canonical bytes.

use crate::canonical::{DecodeError, Reader, Writer};

/// Names and values in order; names may repeat.
pub type Pairs = Vec<(String, Vec<u8>)>;

/// Canonical bytes of `pairs`.
pub fn encode_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let mut w = Writer::new();
    for (name, value) in pairs {
        w.bytes(name.as_bytes());
        w.bytes(value);
    }
    w.into_vec()
}

/// The pairs that canonical bytes hold.
pub fn decode_pairs(bytes: &[u8]) -> Result<Pairs, DecodeError> {
    let mut r = Reader::new(bytes);
    let mut pairs = Pairs::new();
    while !r.is_empty() {
        let name =
            std::str::from_utf8(r.bytes()?).map_err(|_| DecodeError::Malformed { expected: "text" })?;
        pairs.push((name.to_owned(), r.bytes()?.to_vec()));
    }
    Ok(pairs)
}

/// One bind parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Type OID given at Parse; 0 when left to the server.
    pub type_oid: i64,
    /// 0 text, 1 binary.
    pub format: i64,
    /// The value; none for NULL.
    pub value: Option<Vec<u8>>,
}

/// Bind parameters, in order.
pub type Binds = Vec<Bind>;

/// Canonical bytes of bind parameters.
pub fn encode_binds(binds: &[Bind]) -> Vec<u8> {
    let mut w = Writer::new();
    for bind in binds {
        w.int(bind.type_oid);
        w.int(bind.format);
        crate::value::put_field(&mut w, &bind.value);
    }
    w.into_vec()
}

/// The bind parameters that canonical bytes hold; a cut tail gives the whole ones before it.
pub fn decode_binds(bytes: &[u8]) -> Binds {
    let mut r = Reader::new(bytes);
    let mut binds = Binds::new();
    while !r.is_empty() {
        let (Ok(type_oid), Ok(format), Ok(value)) = (r.int(), r.int(), crate::value::take_field(&mut r))
        else {
            break;
        };
        binds.push(Bind { type_oid, format, value });
    }
    binds
}
