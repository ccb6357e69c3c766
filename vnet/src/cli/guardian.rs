//! The process that goes back to what ran before `vnet try`, whatever becomes of that.

use std::{
    fs::File,
    io::{self, BufReader},
    os::fd::AsFd as _,
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use nix::{
    sys::signal::{SigHandler, Signal, signal},
    unistd::setsid,
};
use vnet::{
    control,
    guests::watch::LIBVIRT_DIRECTORY,
    instance::{Name, Told},
    supervise::{self, Trial, Word},
};

use super::{apply::apply_told, print, run::refused, runtime};

/// What it has come to: the definitions are kept.
pub const KEPT: u8 = 0;
/// What ran before is back.
pub const GONE_BACK: u8 = 3;
/// Somebody has applied something else, which is left as it is.
pub const OTHERS: u8 = 4;

/// How long to wait before going back is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Goes back unless it is told otherwise.
#[derive(Debug, Args)]
pub struct Guardian {
    #[arg(long, value_name = "NAME")]
    instance: Name,
    #[arg(long, value_name = "SECONDS")]
    timeout: u32,
}

impl Guardian {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        leave_the_terminal();
        let mut words = BufReader::new(File::from(io::stdin().as_fd().try_clone_to_owned()?));
        let mut trial = match Trial::begin(&self.instance) {
            Ok(trial) => trial,
            Err(error) => return Ok(refused(&error.to_string())),
        };
        let before = Told::read(&self.instance).context("cannot read what runs")?;
        print("watching\n")?;
        let timeout = Duration::from_secs(self.timeout.into());
        let mut tried = None;
        loop {
            match trial.wait(&mut words, timeout) {
                Word::Applied => tried = Told::read(&self.instance).ok().flatten(),
                Word::Confirmed => return Ok(ExitCode::from(KEPT)),
                Word::Over => break,
            }
        }
        // Too late to confirm.
        let _alone = trial.end();
        while let Err(error) = self.go_back(before.as_ref(), tried.as_ref()) {
            let Some(error) = error else { return Ok(ExitCode::from(OTHERS)) };
            log::error!("cannot go back yet: {error:#}");
            thread::sleep(PAUSE);
        }
        Ok(ExitCode::from(GONE_BACK))
    }

    /// The error is none if something else runs than what was tried.
    fn go_back(
        &self,
        before: Option<&Told>,
        tried: Option<&Told>,
    ) -> Result<(), Option<anyhow::Error>> {
        let present = Told::read(&self.instance).map_err(anyhow::Error::from)?;
        let is_tried = match (&present, tried) {
            (Some(present), Some(tried)) => with_ways_of(tried, present, None) == *present,
            (present, tried) => present.as_ref() == tried,
        };
        if tried.is_some() && !is_tried {
            log::warn!("something else has been applied meanwhile: it stays");
            return Err(None);
        }
        log::warn!("not confirmed: going back to what ran before");
        let gone_back = match before {
            Some(told) => {
                let mut options = supervise::Options::of_instance(self.instance.clone());
                let leases = told.settings.leases.clone();
                options.leases = leases.unwrap_or_else(|| LIBVIRT_DIRECTORY.into());
                let told = match (&present, tried) {
                    (Some(present), Some(tried)) => with_ways_of(told, present, Some(tried)),
                    _ => told.clone(),
                };
                apply_told(&options, &told).map(drop).map_err(anyhow::Error::from)
            }
            None if control::is_anybody(&self.instance) => {
                log::warn!("a daemon has taken it over meanwhile: it stays");
                return Err(None);
            }
            None => runtime()
                .map_err(anyhow::Error::from)
                .and_then(|runtime| runtime.block_on(supervise::take_down(&self.instance))),
        };
        gone_back.map_err(Some)
    }
}

/// What was told, with the short ways and XDP that run now, where those are not what was tried: they are switched
/// alone, too.
fn with_ways_of(told: &Told, present: &Told, tried: Option<&Told>) -> Told {
    let mut told = told.clone();
    let (settings, present) = (&mut told.settings, &present.settings);
    if tried.is_none_or(|tried| tried.settings.short_ways != present.short_ways) {
        settings.short_ways = present.short_ways;
    }
    if tried.is_none_or(|tried| tried.settings.xdp != present.xdp) {
        settings.xdp = present.xdp;
    }
    told
}

/// It outlives the terminal, and whoever ends the process that tries.
fn leave_the_terminal() {
    // Fails for the leader of a group, which a new child is not.
    let _ = setsid();
    for ignored in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGPIPE] {
        // SAFETY: ignoring a signal runs no code of ours.
        let _ = unsafe { signal(ignored, SigHandler::SigIgn) };
    }
}
