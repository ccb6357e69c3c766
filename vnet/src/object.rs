//! The BPF object inside this program.

use aya::include_bytes_aligned;

/// Empty if there was none to embed.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/vnet-ebpf.o"));

/// This program was built before its BPF programs were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this vnet was built without its BPF programs; build it with `cargo xtask build`")]
pub struct NotBuilt;

/// The ELF file of all BPF programs, aligned for parsing.
///
/// # Errors
/// [`NotBuilt`] if this program was built without it.
pub fn object() -> Result<&'static [u8], NotBuilt> {
    if OBJECT.is_empty() { Err(NotBuilt) } else { Ok(OBJECT) }
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
