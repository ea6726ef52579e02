//! The Merkle tree over a session's event hashes, of the shape of RFC 6962 section 2.1, so that a sample of
//! events can be proven without the others. Leaves and nodes are hashed under contexts of their own instead
//! of RFC 6962's prefix bytes.

use crate::digest::{self, Digest};

/// An append-only Merkle tree that keeps only its right edge: one digest per set bit of its size.
#[derive(Debug, Clone, Default)]
pub struct Merkle {
    /// (leaves below, digest), largest first.
    edge: Vec<(u64, Digest)>,
}

/// Which side of the path a sibling stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Left,
    Right,
}

impl Merkle {
    /// A tree without leaves.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the leaf of an event hash.
    pub fn push(&mut self, event_hash: Digest) {
        let mut size = 1;
        let mut node = leaf(event_hash);
        while let Some(&(left_size, left)) = self.edge.last() {
            if left_size != size {
                break;
            }
            self.edge.pop();
            node = inner(left, node);
            size *= 2;
        }
        self.edge.push((size, node));
    }

    /// The root.
    pub fn root(&self) -> Digest {
        let mut parts = self.edge.iter().rev().map(|(_, digest)| *digest);
        let Some(first) = parts.next() else { return digest::MERKLE_EMPTY.digest(b"") };
        parts.fold(first, |right, left| inner(left, right))
    }
}

/// The siblings on the way from leaf `index` to the root of the tree over `hashes`, leaf first.
pub fn inclusion_path(hashes: &[Digest], index: usize) -> Option<Vec<(Side, Digest)>> {
    if index >= hashes.len() {
        return None;
    }
    let mut path = Vec::new();
    let (mut from, mut to) = (0, hashes.len());
    while to - from > 1 {
        let split = from + largest_power_below(to - from);
        if index < split {
            path.push((Side::Right, root_of(hashes.get(split..to)?)));
            to = split;
        } else {
            path.push((Side::Left, root_of(hashes.get(from..split)?)));
            from = split;
        }
    }
    path.reverse();
    Some(path)
}

/// The root that `path` leads to from an event hash.
pub fn root_from_path(event_hash: Digest, path: &[(Side, Digest)]) -> Digest {
    path.iter().fold(leaf(event_hash), |node, (side, sibling)| match side {
        Side::Left => inner(*sibling, node),
        Side::Right => inner(node, *sibling),
    })
}

fn largest_power_below(n: usize) -> usize {
    let mut k = 1;
    while k * 2 < n {
        k *= 2;
    }
    k
}

fn root_of(hashes: &[Digest]) -> Digest {
    let mut tree = Merkle::new();
    hashes.iter().for_each(|h| tree.push(*h));
    tree.root()
}

fn leaf(event_hash: Digest) -> Digest {
    digest::MERKLE_LEAF.digest(&event_hash.0)
}

fn inner(left: Digest, right: Digest) -> Digest {
    let mut hasher = digest::MERKLE_NODE.hasher();
    hasher.update(&left.0).update(&right.0);
    Digest(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_leaf_of_every_small_tree_has_a_path_to_the_root() {
        for n in 1..70usize {
            let hashes: Vec<_> = (0..n).map(|i| digest::EVENT.digest(&[i as u8])).collect();
            let root = root_of(&hashes);
            for i in 0..n {
                let path = inclusion_path(&hashes, i).unwrap();
                assert_eq!(root_from_path(hashes[i], &path), root, "leaf {i} of {n}");
                if n > 1 {
                    assert_ne!(root_from_path(hashes[(i + 1) % n], &path), root, "wrong leaf {i} of {n}");
                }
            }
        }
        assert!(inclusion_path(&[], 0).is_none());
    }
}
