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
        println!("cargo:warning=built without BPF programs; run `cargo xtask build`");
        fs::write(&embedded, [])?;
    }
    Ok(())
}

/// The root of cargo's output, which cargo marks as a cache. Not passed by xtask, because this
/// crate would be rebuilt whenever plain cargo and `cargo xtask` take turns.
fn target_directory(out: &Path) -> PathBuf {
    let marked = out.ancestors().find(|path| path.join("CACHEDIR.TAG").exists());
    match marked {
        Some(directory) if directory.join("bpf/vnet-ebpf.o").exists() => directory.to_path_buf(),
        // The default place, also if `build.build-dir` has moved everything else.
        _ => Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target"),
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
