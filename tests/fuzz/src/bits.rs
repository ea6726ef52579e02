//! Small pieces of messages, and places to cut them.

/// An Int16 that counts.
pub fn count(out: &mut Vec<u8>, n: usize) {
    out.extend_from_slice(&u16::try_from(n).expect("counts are Int16").to_be_bytes());
}

/// An Int32 length and the bytes.
pub fn value(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&i32::try_from(bytes.len()).expect("lengths are Int32").to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Ascending places in `bytes`: all of them when there are few, else some near both ends and some between.
pub fn cuts(bytes: &[u8]) -> Vec<usize> {
    let length = bytes.len();
    if length <= 64 {
        return (0..=length).collect();
    }
    let between = (1..16).map(|n| n * length / 16).filter(|at| (16..length - 16).contains(at));
    (0..16).chain(between).chain(length - 16..=length).collect()
}
