//! Where tests stop a change to see what its death leaves.

use tokio::signal::unix::{SignalKind, signal};

/// With `VNET_PAUSE_AT=STEP` it says so and waits for its end, or for SIGUSR1 to go on.
pub(super) async fn pause(step: &str) {
    if std::env::var_os("VNET_PAUSE_AT").is_none_or(|wanted| wanted != step) {
        return;
    }
    let resume = signal(SignalKind::user_defined1());
    eprintln!("paused at {step}");
    match resume {
        Ok(mut resume) => drop(resume.recv().await),
        Err(_) => std::future::pending().await,
    }
}
