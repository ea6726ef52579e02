//! Where a long message is kept aside: a file without a name, encrypted under a key that only this process has.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use bodycam_record::content::{MAX_CHUNK, seal_chunk};
use bodycam_record::{ContentKind, SealedChunk, SessionId, SessionKey};

use super::quota::Room;

/// Bytes kept aside in an unlinked file, encrypted under a key that only this process has.
pub(in crate::postgres::relay) struct Store {
    file: File,
    key: SessionKey,
    buffer: Vec<u8>,
    pieces: u32,
    read: u32,
    /// Holds the room that it takes.
    _room: Option<Room>,
}

impl Store {
    pub(super) fn new(dir: &Path, room: Option<Room>) -> io::Result<Self> {
        let mut random = [0; 48];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let (name, seed) = random.split_at(16);
        let path = dir.join(format!("spill-{}", bodycam_record::ids::to_hex(name)));
        let mut open = OpenOptions::new();
        let file = open.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        // Nobody else can open it, and it is gone when this process is.
        std::fs::remove_file(&path)?;
        let key = SessionKey::new(seed.try_into().map_err(io::Error::other)?);
        Ok(Self { file, key, buffer: Vec::new(), pieces: 0, read: 0, _room: room })
    }

    pub(super) fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = MAX_CHUNK - self.buffer.len();
            let part = bytes.get(..room).unwrap_or(bytes);
            self.buffer.extend_from_slice(part);
            bytes = bytes.get(part.len()..).unwrap_or_default();
            if self.buffer.len() == MAX_CHUNK {
                self.seal()?;
            }
        }
        Ok(())
    }

    fn seal(&mut self) -> io::Result<()> {
        let kind = ContentKind::SqlText;
        let sealed = seal_chunk(&self.key, SessionId::default(), 0, self.pieces, kind, &self.buffer).sealed;
        self.buffer.clear();
        self.pieces += 1;
        let length = u32::try_from(sealed.len()).map_err(io::Error::other)?;
        self.file.write_all(&length.to_le_bytes())?;
        self.file.write_all(&sealed)
    }

    pub(super) fn rewound(mut self) -> io::Result<Self> {
        if !self.buffer.is_empty() {
            self.seal()?;
        }
        self.buffer = Vec::new();
        self.file.rewind()?;
        Ok(self)
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.read == self.pieces {
            return Ok(None);
        }
        let mut length = [0; 4];
        self.file.read_exact(&mut length)?;
        let mut sealed = vec![0; usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?];
        self.file.read_exact(&mut sealed)?;
        let (session, kind) = (SessionId::default(), ContentKind::SqlText.code());
        let chunk = SealedChunk { session, content_no: 0, index: self.read, kind, sealed };
        self.read += 1;
        chunk.open(&self.key).map(|chunk| Some(chunk.bytes)).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_aside_comes_back_and_the_disk_never_saw_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::new(dir.path(), None).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has no name");
        let bytes: Vec<u8> = (0..700_000u32).flat_map(|n| n.to_le_bytes()).collect();
        for part in bytes.chunks(100_001) {
            store.put(part).unwrap();
        }
        let mut store = store.rewound().unwrap();
        let mut back = Vec::new();
        while let Some(piece) = store.next().unwrap() {
            back.extend_from_slice(&piece);
        }
        assert_eq!(back, bytes);
    }
}
