//! bpf-linker, which makes one BPF object from rustc's bitcode.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    process::{self, CommandExt as _},
    workspace::Workspace,
};

/// The version that is installed; older ones are not used.
pub const VERSION: &str = "0.13.0";
const OLDEST: [u32; 3] = [0, 13, 0];

/// LLVM versions that it can be built on, the best tested one first.
pub const LLVM_VERSIONS: [u32; 3] = [22, 23, 21];

#[derive(Debug, PartialEq, Eq)]
pub struct Linker {
    pub path: PathBuf,
    version: [u32; 3],
    /// The LLVM that it loads; unknown for one that has it inside.
    llvm: Option<u32>,
}

impl Linker {
    /// Whether it is new enough, and its LLVM for the bitcode of rustc's: LLVM reads what older
    /// versions wrote, never what newer ones did.
    pub fn fits(&self, rustc_llvm: Option<u32>) -> bool {
        let reads = match (self.llvm, rustc_llvm) {
            (Some(own), Some(rustc)) => own >= rustc,
            _ => true,
        };
        self.version >= OLDEST && reads
    }
}

/// Those on this machine that start: ours first, because it was built for our rustc.
pub fn installed(workspace: &Workspace) -> Vec<Linker> {
    let ours = workspace.tools().join("bin/bpf-linker");
    [Some(ours), process::find_program("bpf-linker")]
        .into_iter()
        .flatten()
        .filter_map(inspect)
        .collect()
}

fn inspect(path: PathBuf) -> Option<Linker> {
    let mut command = Command::new(&path);
    process::forget_outer_cargo(&mut command);
    let version = parse_version(&command.arg("--version").probe()?)?;
    let libraries = Command::new("ldd").arg(&path).probe().unwrap_or_default();
    Some(Linker { path, version, llvm: linked_llvm(&libraries) })
}

/// The version in `bpf-linker 0.13.0`.
fn parse_version(output: &str) -> Option<[u32; 3]> {
    let mut numbers = output.trim().strip_prefix("bpf-linker ")?.split(['.', '-', '+']);
    let mut next = || numbers.next()?.parse().ok();
    Some([next()?, next()?, next()?])
}

/// The major version of libLLVM in the output of `ldd`; both Debian's and Fedora's names.
fn linked_llvm(libraries: &str) -> Option<u32> {
    let (_, after) = libraries.split_once("libLLVM")?;
    let digits = after.trim_start_matches('-').trim_start_matches(".so.");
    digits.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

/// The major versions of LLVM whose development files Debian's packages put on this machine.
pub fn llvm_prefixes() -> Vec<u32> {
    LLVM_VERSIONS
        .into_iter()
        .filter(|version| {
            let prefix = llvm_prefix(*version);
            // The second one only comes with llvm-N-dev, which the build links with.
            prefix.join("bin/llvm-config").exists() && prefix.join("lib/libLLVM.so").exists()
        })
        .collect()
}

pub fn llvm_prefix(version: u32) -> PathBuf {
    Path::new("/usr/lib").join(format!("llvm-{version}"))
}

/// LLVM versions that a linker for this rustc can be built on, the best one first.
pub fn usable_llvm(rustc_llvm: Option<u32>) -> Vec<u32> {
    let mut versions = LLVM_VERSIONS.to_vec();
    if let Some(rustc) = rustc_llvm {
        versions.retain(|version| *version >= rustc);
        versions.sort_unstable();
    }
    versions
}

/// Fetches the release binary, which has its LLVM inside.
pub fn release_line(tools: &str) -> String {
    let arch = std::env::consts::ARCH;
    format!(
        "mkdir -p {tools}/bin && curl -fL https://github.com/aya-rs/bpf-linker/releases/latest/\
         download/bpf-linker-{arch}-unknown-linux-musl.tar.zst | tar --zstd -x -C {tools}/bin"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linker(version: [u32; 3], llvm: Option<u32>) -> Linker {
        Linker { path: "bpf-linker".into(), version, llvm }
    }

    #[test]
    fn linker_needs_an_llvm_that_is_not_older_than_that_of_rustc() {
        assert!(linker([0, 13, 0], Some(22)).fits(Some(22)));
        assert!(linker([0, 14, 1], Some(23)).fits(Some(22)));
        assert!(!linker([0, 13, 0], Some(22)).fits(Some(23)));
        assert!(linker([0, 13, 0], None).fits(Some(23)));
        assert!(linker([0, 13, 0], Some(22)).fits(None));
    }

    #[test]
    fn linker_older_than_the_tested_version_is_not_used() {
        assert!(!linker([0, 9, 15], Some(22)).fits(Some(22)));
    }

    #[test]
    fn version_is_read_from_what_the_linker_prints() {
        assert_eq!(parse_version("bpf-linker 0.13.0\n"), Some([0, 13, 0]));
        assert_eq!(parse_version("bpf-linker 0.14.0-rc.1\n"), Some([0, 14, 0]));
        assert_eq!(parse_version("something else"), None);
    }

    #[test]
    fn llvm_of_a_linker_is_read_from_its_libraries() {
        let debian = "\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x0)\n";
        assert_eq!(linked_llvm(debian), Some(22));
        assert_eq!(linked_llvm("\tlibLLVM-17.so => /usr/lib64/libLLVM-17.so (0x0)\n"), Some(17));
        assert_eq!(linked_llvm("\tnot a dynamic executable\n"), None);
    }

    #[test]
    fn linker_is_built_on_the_llvm_of_rustc_if_possible_else_a_newer_one() {
        assert_eq!(usable_llvm(Some(22)), [22, 23]);
        assert_eq!(usable_llvm(Some(21)), [21, 22, 23]);
        assert_eq!(usable_llvm(Some(24)), [0_u32; 0]);
        assert_eq!(usable_llvm(None)[0], 22);
    }
}
