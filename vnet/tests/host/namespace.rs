use std::{
    panic::resume_unwind,
    process::{Command, Stdio},
    thread,
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};

/// Runs a test in a fresh network namespace, which vanishes with its thread. Says so and does
/// nothing when not root.
pub fn in_namespace<F>(test: impl FnOnce() -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    in_thread(CloneFlags::CLONE_NEWNET, move || {
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
}

/// Runs a test in a thread of its own with the namespaces that are asked for.
pub fn in_thread(flags: CloneFlags, test: impl FnOnce() + Send + 'static) {
    if !geteuid().is_root() {
        eprintln!("skipped: making namespaces needs root");
        return;
    }
    let body = move || {
        unshare(flags).unwrap();
        test();
    };
    if let Err(panic) = thread::spawn(body).join() {
        resume_unwind(panic);
    }
}

/// Runs ip with these words and returns what it prints.
pub fn ip(words: &str) -> String {
    let output = Command::new("ip")
        .args(words.split_ascii_whitespace())
        .stdin(Stdio::null())
        .output()
        .expect("ip (package iproute2) runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {words}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}
