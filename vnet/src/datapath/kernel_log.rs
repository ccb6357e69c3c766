//! What the programs in the kernel log, on its way to this process's log.

use std::borrow::Cow;

use anyhow::Context as _;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use tokio::io::{Interest, unix::AsyncFd};
use vnet_common::reason::{DropReason, Handover};

use super::Datapath;

/// The target of the programs' records; whoever sets up the log lets all of them through, because
/// `--log` has chosen already.
pub const TARGET: &str = "kernel";

/// The programs' log.
pub struct KernelLog {
    logger: AsyncFd<EbpfLogger<Named>>,
}

impl Datapath {
    /// Begins to listen to the programs.
    pub fn kernel_log(&mut self) -> anyhow::Result<KernelLog> {
        let logger = EbpfLogger::init_with_logger(&mut self.ebpf, Named)
            .context("cannot open the programs' log")?;
        // SAFETY: the logger owns the descriptor that it names and keeps it open until it is dropped.
        let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE)? };
        Ok(KernelLog { logger })
    }
}

impl KernelLog {
    /// Waits for records and logs them. May be cancelled without losing any.
    pub async fn drain(&mut self) -> anyhow::Result<()> {
        let mut guard = self.logger.readable_mut().await?;
        guard.get_inner_mut().flush();
        guard.clear_ready();
        Ok(())
    }
}

/// Passes records on with words for the numbers in them.
struct Named;

impl Log for Named {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let text = record.args().to_string();
        let text = name_number(&text, "drop=", |number| {
            DropReason::ALL.get(number).map(|reason| reason.id())
        });
        let text = name_number(&text, "handover=", |number| {
            Handover::ALL.get(number).map(|handover| handover.id())
        });
        log::log!(target: TARGET, record.level(), "{text}");
    }

    fn flush(&self) {}
}

/// Replaces the number after `label` by its name; leaves text without the label as it is.
fn name_number<'a>(
    text: &'a str,
    label: &str,
    name: impl Fn(usize) -> Option<&'static str>,
) -> Cow<'a, str> {
    let replaced = text.find(label).and_then(|start| {
        let number = start + label.len();
        let end = text[number..].find(' ').map_or(text.len(), |length| number + length);
        let name = name(text[number..end].parse().ok()?)?;
        Some(format!("{}{name}{}", &text[..number], &text[end..]))
    });
    replaced.map_or(Cow::Borrowed(text), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_reasons_become_words() {
        let name = |number: usize| DropReason::ALL.get(number).map(|reason| reason.id());
        let text = "drop ifindex=5 network=1 drop=3 protocol=6";
        assert_eq!(
            name_number(text, "drop=", name),
            "drop ifindex=5 network=1 drop=policy-rejected protocol=6"
        );
        assert_eq!(name_number("drop=2", "drop=", name), "drop=spoofed-source");
        assert_eq!(name_number("drop=999", "drop=", name), "drop=999");
        assert_eq!(name_number("nothing here", "drop=", name), "nothing here");
    }
}
