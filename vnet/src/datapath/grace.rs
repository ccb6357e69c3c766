//! Waiting for the programs that run now.

use std::{thread, time::Duration};

/// `MEMBARRIER_CMD_GLOBAL` of `include/uapi/linux/membarrier.h`: `synchronize_rcu` in the kernel.
const GLOBAL: libc::c_int = 1;
/// Far longer than any program runs.
const PAUSE: Duration = Duration::from_millis(100);

/// Returns when every run of a program that had begun has ended: what it read may be written to. BPF
/// programs run as RCU readers, so that a grace period is what it takes.
pub(super) fn wait_for_running_programs() {
    // SAFETY: the call takes numbers only and changes nothing.
    let waited = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if waited != 0 {
        // Kernels with `nohz_full` CPUs do not have it.
        thread::sleep(PAUSE);
    }
}
