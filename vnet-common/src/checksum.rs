//! Incremental Internet checksum arithmetic (RFC 1624).

/// Folds a 32-bit one's-complement sum to 16 bits.
#[inline]
#[must_use]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum after one 16-bit word changed: equation 3 of RFC 1624, `HC' = ~(~HC + ~m + m')`.
///
/// All three values in the same byte order, whichever it is.
#[inline]
#[must_use]
pub const fn replace_word(checksum: u16, from: u16, to: u16) -> u16 {
    !fold(!checksum as u32 + !from as u32 + to as u32)
}

/// The checksum after a 32-bit word changed; as [`replace_word`].
#[inline]
#[must_use]
pub const fn replace_long(checksum: u16, from: u32, to: u32) -> u16 {
    let sum = !checksum as u32 + (!from & 0xffff) + (!from >> 16) + (to & 0xffff) + (to >> 16);
    !fold(sum)
}

/// The checksum of whole data, in the byte order in which it lies in the packet.
#[must_use]
pub fn compute(data: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in data.chunks(2) {
        let word = u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)]);
        sum = u32::from(fold(sum)) + u32::from(word);
    }
    !fold(sum)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn replacing_a_word_equals_computing_anew(
            mut data in proptest::collection::vec(any::<u8>(), 20..64),
            index in 0_usize..10,
            to in any::<[u8; 2]>(),
        ) {
            let before = compute(&data);
            let from = [data[2 * index], data[2 * index + 1]];
            data[2 * index..2 * index + 2].copy_from_slice(&to);
            // The all-zero packet has two representations of zero; real headers are never all zero.
            prop_assume!(data.iter().any(|&byte| byte != 0));
            let incremental = replace_word(before, u16::from_ne_bytes(from), u16::from_ne_bytes(to));
            prop_assert_eq!(incremental, compute(&data));
        }

        #[test]
        fn replacing_a_long_equals_replacing_its_words(checksum: u16, from: u32, to: u32) {
            let words = |value: u32| (value as u16, (value >> 16) as u16);
            let ((f0, f1), (t0, t1)) = (words(from), words(to));
            let in_steps = replace_word(replace_word(checksum, f0, t0), f1, t1);
            let at_once = replace_long(checksum, from, to);
            // 0x0000 and 0xffff are both zero in one's complement.
            let canonical = |value: u16| if value == 0xffff { 0 } else { value };
            prop_assert_eq!(canonical(at_once), canonical(in_steps));
        }
    }

    #[test]
    fn rfc_1624_example() {
        // RFC 1624, section 4: HC = 0xDD2F, m = 0x5555, m' = 0x3285 gives 0x0000.
        assert_eq!(replace_word(0xdd2f, 0x5555, 0x3285), 0x0000);
    }
}
