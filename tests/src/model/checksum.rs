//! Internet checksums (RFC 1071) and how they follow a change (RFC 1624).

/// The sum of bytes as words of 16 bits, not folded.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u64::from);
    bytes.chunks(2).map(word).sum()
}

/// Folds carries in until 16 bits are left.
pub(super) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The checksum after `old` has become `new`: HC' = ~(~HC + ~m + m'), equation 3 of RFC 1624.
pub(super) fn follow(checksum: u16, old: &[u8], new: &[u8]) -> u16 {
    assert!(old.len() == new.len() && old.len().is_multiple_of(2), "words, and as many");
    let complement: Vec<u8> = old.iter().map(|byte| !byte).collect();
    !fold(u64::from(!checksum) + sum(&complement) + sum(new))
}
