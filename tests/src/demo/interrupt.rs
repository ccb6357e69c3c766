//! Ctrl-C and its like: vnet ends first, then the demonstration.

use std::process;
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use super::daemon::Daemon;
use super::page::{Page, write};

/// Ends the process on SIGINT, SIGTERM and SIGHUP, after vnet has ended. The namespaces and all
/// that runs in them end with the process.
pub(super) fn watch(page: &Arc<Page>, daemon: &Arc<Daemon>) -> Result<()> {
    const WHAT: &str = "cannot listen to signals";
    let runtime = Builder::new_current_thread().enable_io().build().context(WHAT)?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt()).context(WHAT)?,
            signal(SignalKind::terminate()).context(WHAT)?,
            signal(SignalKind::hangup()).context(WHAT)?,
        )
    };
    let (page, daemon) = (Arc::clone(page), Arc::clone(daemon));
    let wait = move || {
        let kind = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => SignalKind::interrupt(),
                _ = terminate.recv() => SignalKind::terminate(),
                _ = hangup.recv() => SignalKind::hangup(),
            }
        });
        let _terminal = page.take_over();
        let end = match daemon.stop() {
            Err(error) => format!("{error:#}"),
            Ok(_) => match daemon.leftovers().as_slice() {
                [] => "nothing is left behind".to_owned(),
                left => format!("left behind: {left:?}"),
            },
        };
        write(&format!("\ndemo: interrupted; {end}\n"));
        // As a shell reports a program that a signal has ended.
        process::exit(128 + kind.as_raw_value());
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).context(WHAT)?;
    Ok(())
}
