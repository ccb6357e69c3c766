//! tcpdump as an independent witness.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::lab::error::Result;
use crate::lab::namespace::Namespace;
use crate::lab::process::{DEFAULT_DEADLINE, Running};

/// A running tcpdump.
#[derive(Debug)]
pub struct Tcpdump {
    namespace: Namespace,
    running: Running,
}

impl Namespace {
    /// Starts tcpdump on an interface with a filter, which may be empty. It captures when this
    /// returns.
    pub fn tcpdump(&self, interface: &str, filter: &str) -> Result<Tcpdump> {
        let running = self.spawn(&[
            "tcpdump",
            "--immediate-mode",
            "-U",
            // Leaving root would cancel the wish to die with the test (prctl(2), PR_SET_PDEATHSIG).
            "-Z",
            "root",
            "-i",
            interface,
            "-w",
            "-",
            filter,
        ])?;
        running.wait_for_line("listening on", Duration::from_secs(10))?;
        Ok(Tcpdump { namespace: self.clone(), running })
    }
}

impl Tcpdump {
    /// Ends the capture; the pcap file that was written.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.running.signal_and_wait(Signal::SIGINT, DEFAULT_DEADLINE)?.success()?;
        Ok(self.running.stdout_bytes())
    }

    /// Ends the capture; what tcpdump says of each packet (`-nnvv`, so with verified checksums), one
    /// packet on one line.
    pub fn finish_as_text(self) -> Result<Vec<String>> {
        let namespace = self.namespace.clone();
        let file = self.finish()?;
        let text = namespace.run_with_input(&["tcpdump", "-nnvv", "-t", "-r", "-"], &file)?;
        let mut lines: Vec<String> = Vec::new();
        for line in text.lines() {
            match lines.last_mut() {
                // Continuation lines are indented.
                Some(last) if line.starts_with(char::is_whitespace) => {
                    last.push(' ');
                    last.push_str(line.trim());
                }
                _ => lines.push(line.to_owned()),
            }
        }
        Ok(lines)
    }
}
