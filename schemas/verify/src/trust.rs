//! Pinned keys: who may have written a record, from a file that did not come with it.
//!
//! One key a line: `producer NAME KEY` or `recorder KEY`, the key as 64 hex digits (Ed25519, RFC 8032);
//! `#` starts a comment.

use std::collections::{BTreeMap, BTreeSet};

use bodycam_record::{Digest, shown};
use thiserror::Error;

/// The keys that are trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// Long-term public keys of producers, by name.
    pub producers: BTreeMap<String, Digest>,
    /// Public keys of recorders.
    pub recorders: BTreeSet<Digest>,
}

/// Why a trust file cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "line {line} of the trust file: {why}; want 'producer NAME KEY' or 'recorder KEY', the key as 64 hex digits"
)]
pub struct TrustError {
    line: usize,
    why: String,
}

impl Trust {
    /// The keys in the text of a trust file.
    pub fn parse(text: &str) -> Result<Self, TrustError> {
        let mut trust = Self::default();
        for (i, line) in text.lines().enumerate() {
            let wrong = |why: String| TrustError { line: i + 1, why };
            let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
            let key = |text: &str| {
                Digest::from_hex(text).ok_or_else(|| wrong(format!("'{}' is not a key", shown(text))))
            };
            match words.as_slice() {
                [] => {}
                ["producer", name, hex] => {
                    if trust.producers.insert((*name).to_owned(), key(hex)?).is_some() {
                        return Err(wrong(format!("a second key for producer '{}'", shown(name))));
                    }
                }
                ["recorder", hex] => {
                    trust.recorders.insert(key(hex)?);
                }
                _ => return Err(wrong(format!("'{}' is not understood", shown(line)))),
            }
        }
        Ok(trust)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trust_file_is_read_whole_or_refused_with_its_line() {
        let a = "ab".repeat(32);
        let trust = Trust::parse(&format!("# keys\nproducer gw-1 {a} # laptop\n\nrecorder {a}\n")).unwrap();
        assert_eq!(trust.producers["gw-1"], Digest([0xab; 32]));
        assert!(trust.recorders.contains(&Digest([0xab; 32])));
        for (text, line) in [
            (format!("producer gw {a}\nproducer gw {a}"), "line 2"),
            ("recorder abc".to_owned(), "line 1"),
            ("\nproducer x".to_owned(), "line 2"),
            (format!("gw-1 {a}"), "line 1"),
        ] {
            let error = Trust::parse(&text).unwrap_err().to_string();
            assert!(error.contains(line), "{text}: {error}");
        }
    }
}
