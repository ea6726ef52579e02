//! What the targets share. The laws stand in the targets themselves.

use bodycam_proxy::postgres::codec::{Direction, Header, header};

pub mod bits;

/// Walks `bytes` frame by frame and hands each whole frame to `look`. However the bytes are cut, the frames are
/// the same, an error comes no later than with all bytes there, and no length is one that its type cannot have.
pub fn walk_is_split_invariant<D: Direction>(bytes: &[u8], look: impl Fn(Header<D::Kind>, &[u8])) {
    let mut rest = bytes;
    loop {
        let whole = header::<D>(rest);
        for cut in 0..rest.len().min(5) {
            let part = header::<D>(&rest[..cut]);
            assert!(part == Ok(None) || part == whole, "{cut} bytes give {part:?}, all {whole:?}");
        }
        let Ok(Some(head)) = whole else { break };
        let lawful = D::kind(rest[0]).expect("the type of a header is known").1;
        assert!(lawful.contains(&head.body), "{head:?}");
        let declared = i32::from_be_bytes([rest[1], rest[2], rest[3], rest[4]]);
        assert_eq!(usize::try_from(declared).ok(), Some(head.frame() - 1));
        let Some((frame, after)) = rest.split_at_checked(head.frame()) else { break };
        assert_eq!(header::<D>(frame), Ok(Some(head)), "a header depends on what comes after its frame");
        look(head, frame);
        rest = after;
    }
}
