//! tcpdump as an independent witness.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::lab::background::wait_until;
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
            // KiB of buffer, for a burst while tcpdump is not scheduled; with `--immediate-mode` each packet takes
            // as many bytes of it as the largest could have.
            "-B",
            "131072",
            "-s",
            "65600",
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
    ///
    /// # Errors
    /// If packets were missed, because then the file would prove nothing.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.wait_until_all_are_written()?;
        self.running.signal_and_wait(Signal::SIGINT, DEFAULT_DEADLINE)?.success()?;
        Ok(self.running.stdout_bytes())
    }

    /// SIGINT would lose what is still in the buffer; SIGUSR1 makes tcpdump say how far it is.
    fn wait_until_all_are_written(&self) -> Result<()> {
        wait_until("tcpdump has written all packets", DEFAULT_DEADLINE, || {
            let before = self.statistics().len();
            self.running.signal(Signal::SIGUSR1).map_err(|error| error.to_string())?;
            let statistics = wait_until("tcpdump answers SIGUSR1", DEFAULT_DEADLINE, || {
                self.statistics().get(before).cloned().ok_or_else(|| self.running.stderr())
            });
            match statistics.map_err(|error| error.to_string())?.as_slice() {
                [captured, received, 0] if captured == received => Ok(()),
                statistics => Err(format!("captured, received, dropped: {statistics:?}")),
            }
        })
    }

    /// `tcpdump: 2 packets captured, 4 packets received by filter, 0 packets dropped by kernel`
    fn statistics(&self) -> Vec<Vec<u32>> {
        let printed = self.running.stderr();
        // The last line may not be whole yet.
        let whole = printed.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .filter(|line| line.contains("packets captured, "))
            .map(|line| line.split(' ').filter_map(|word| word.parse().ok()).collect())
            .collect()
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
