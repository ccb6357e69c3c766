//! Embeds the BPF object that `cargo xtask build` leaves in the target directory.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=VNET_BPF_OBJECT");

    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    let object = match env::var_os("VNET_BPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => target_directory(&out).join("bpf/vnet-ebpf.o"),
    };
    let embedded = out.join("vnet-ebpf.o");
    if object.is_file() {
        println!("cargo:rerun-if-changed={}", object.display());
        fs::copy(&object, &embedded)?;
    } else {
        watch_directory_of(&object)?;
        // OUT_DIR is TARGET/PROFILE/build/vnet-HASH/out; the object may yet come there.
        if let Some(target) = out.ancestors().nth(4) {
            println!("cargo:rerun-if-changed={}", target.join("bpf/vnet-ebpf.o").display());
        }
        println!("cargo:warning=built without BPF programs; run `cargo xtask build`");
        fs::write(&embedded, [])?;
    }
    Ok(())
}

/// The root of cargo's output: the directory above ours that has the object. Not passed by xtask,
/// because this crate would be rebuilt whenever plain cargo and `cargo xtask` take turns.
fn target_directory(out: &Path) -> PathBuf {
    let with_object = out.ancestors().find(|path| path.join("bpf/vnet-ebpf.o").exists());
    match with_object {
        Some(directory) => directory.to_path_buf(),
        // The default place, also if `build.build-dir` has moved everything else.
        None => Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target"),
    }
}

/// Cargo runs this script on every build if it watches a file that does not exist.
fn watch_directory_of(object: &Path) -> io::Result<()> {
    if let Some(directory) = object.parent() {
        fs::create_dir_all(directory)?;
        println!("cargo:rerun-if-changed={}", directory.display());
    }
    Ok(())
}
