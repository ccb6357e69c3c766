//! The BPF object inside this program.

use std::{env, fs, path::PathBuf, sync::LazyLock};

use aya::include_bytes_aligned;
use vnet_common::names;

/// Empty if there was none to embed.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/vnet-ebpf.o"));

/// With `VNET_TEST_OBJECT=LAYOUT:FILE`, tests run what an earlier version has left.
static OTHER: LazyLock<Option<Other>> = LazyLock::new(|| {
    let told = env::var("VNET_TEST_OBJECT").ok()?;
    let (layout, path) = told.split_once(':')?;
    Other::read(layout.parse().ok()?, &PathBuf::from(path))
});

struct Other {
    layout: u32,
    length: usize,
    /// Words, so that they are aligned.
    words: Vec<u64>,
}

impl Other {
    fn read(layout: u32, path: &PathBuf) -> Option<Self> {
        let mut bytes = fs::read(path).ok()?;
        let length = bytes.len();
        bytes.resize(length.next_multiple_of(size_of::<u64>()), 0);
        let words = bytes.chunks_exact(size_of::<u64>());
        let words = words.map(bytemuck::pod_read_unaligned).collect();
        Some(Self { layout, length, words })
    }
}

/// This program was built before its BPF programs were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this vnet was built without its BPF programs; build it with `cargo xtask build`")]
pub struct NotBuilt;

/// The ELF file of all BPF programs, aligned for parsing.
///
/// # Errors
/// [`NotBuilt`] if this program was built without it.
pub fn object() -> Result<&'static [u8], NotBuilt> {
    if let Some(other) = OTHER.as_ref() {
        return bytemuck::cast_slice(&other.words).get(..other.length).ok_or(NotBuilt);
    }
    if OBJECT.is_empty() { Err(NotBuilt) } else { Ok(OBJECT) }
}

/// The layout of its maps: see [`names::LAYOUT`].
#[must_use]
pub fn layout() -> u32 {
    OTHER.as_ref().map_or(names::LAYOUT, |other| other.layout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_is_an_aligned_elf_file_or_the_error_names_the_command_that_builds_it() {
        match object() {
            Ok(object) => {
                assert_eq!(object[..4], *b"\x7fELF");
                assert_eq!(object.as_ptr().addr() % align_of::<u64>(), 0);
            }
            Err(error) => assert!(error.to_string().ends_with("`cargo xtask build`")),
        }
    }
}
