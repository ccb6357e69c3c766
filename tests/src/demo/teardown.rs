//! vnet ends, and the host is as it was.

use anyhow::{Context as _, Result};

use super::daemon::Daemon;
use super::page::{Finding, Page};
use super::stage::Stage;
use crate::lab::HostState;

/// The lab's host before vnet has touched it.
#[derive(Debug)]
pub(super) struct Before(HostState);

impl Before {
    pub(super) fn of(stage: &Stage) -> Result<Self> {
        Ok(Self(HostState::read(&stage.host)?))
    }
}

pub(super) fn show(page: &Page, stage: &Stage, daemon: &Daemon, before: &Before) {
    page.check("vnet ends by itself", || {
        let output = daemon.stop()?.context("it did not run any more")?;
        let complaints: Vec<&str> =
            output.stderr.lines().filter(|line| line.contains("ERROR")).collect();
        let text = format!("{}{}", output.status, complaints.join("\n"));
        Ok(Finding::new(output.status.success() && complaints.is_empty(), text))
    });
    page.check("the host, compared with before the start", || {
        let difference = before.0.difference(&HostState::read(&stage.host)?);
        let same = difference.is_empty();
        let text =
            if same { "the same, down to qdiscs, filters, sysctls".to_owned() } else { difference };
        Ok(Finding::new(same, text))
    });
    page.check("/run/vnet and /sys/fs/bpf/vnet", || {
        let mut left = daemon.leftovers();
        left.extend(stage.host.enter(|| daemon.leftovers())?);
        let text = if left.is_empty() {
            "nothing of this instance".to_owned()
        } else {
            format!("{left:?}")
        };
        Ok(Finding::new(left.is_empty(), text))
    });
}
