//! The Merkle tree over event hashes in pieces: events `[a, b)` become the roots of the largest aligned
//! subtrees in that range, so that files can be checked apart and joined without keeping every hash.

use bodycam_record::digest::{self, Digest};

/// The subtrees over a range of events, left to right.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    next: u64,
    blocks: Vec<Block>,
}

/// A perfect subtree: `size` is a power of two, and its first leaf's number is a multiple of it.
#[derive(Debug, Clone, Copy)]
struct Block {
    size: u64,
    root: Digest,
}

impl Tree {
    /// The empty range at event `from`.
    pub fn at(from: u64) -> Self {
        Self { next: from, blocks: Vec::new() }
    }

    /// Appends the leaf of an event hash.
    pub fn push(&mut self, event_hash: Digest) {
        self.push_block(Block { size: 1, root: digest::MERKLE_LEAF.digest(&event_hash.0) });
    }

    /// Appends the range that starts where this one ends. Any other range makes both meaningless; the
    /// caller joins runs by their numbers.
    pub fn append(&mut self, range: &Tree) {
        for block in &range.blocks {
            self.push_block(*block);
        }
    }

    /// The root; meaningful for a range that starts at event 0.
    pub fn root(&self) -> Digest {
        let mut parts = self.blocks.iter().rev().map(|b| b.root);
        let Some(first) = parts.next() else { return digest::MERKLE_EMPTY.digest(b"") };
        parts.fold(first, |right, left| node(left, right))
    }

    fn push_block(&mut self, mut block: Block) {
        self.next = self.next.saturating_add(block.size);
        // Two neighbours of one size are the halves of a subtree only when the left starts aligned to it.
        while let Some(left) = self.blocks.last() {
            let start = self.next.saturating_sub(block.size * 2);
            if left.size != block.size || !start.is_multiple_of(block.size * 2) {
                break;
            }
            block = Block { size: block.size * 2, root: node(left.root, block.root) };
            self.blocks.pop();
        }
        self.blocks.push(block);
    }
}

fn node(left: Digest, right: Digest) -> Digest {
    let mut hasher = digest::MERKLE_NODE.hasher();
    hasher.update(&left.0).update(&right.0);
    Digest(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bodycam_record::merkle::Merkle;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_join_to_the_same_root_wherever_they_are_cut(
            cuts in proptest::collection::vec(0usize..20, 0..12),
        ) {
            let mut whole = Tree::default();
            let mut merkle = Merkle::new();
            let mut n = 0u64;
            for cut in cuts {
                let mut piece = Tree::at(n);
                for _ in 0..cut {
                    let hash = digest::EVENT.digest(&n.to_le_bytes());
                    piece.push(hash);
                    merkle.push(hash);
                    n += 1;
                }
                whole.append(&piece);
                prop_assert_eq!(whole.root(), merkle.root());
                prop_assert_eq!(whole.next, n);
            }
        }
    }
}
