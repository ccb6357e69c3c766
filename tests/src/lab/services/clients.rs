//! Programs that a user of a guest would run.

use crate::lab::error::{Error, Result};
use crate::lab::namespace::Namespace;
use crate::lab::process::DEFAULT_DEADLINE;

/// Quiet but for errors, a status other than 0 from 400 on, no proxy of the environment.
const CURL: [&str; 7] = ["curl", "-sS", "--fail", "--noproxy", "*", "--max-time", "30"];

/// What `ping` counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping {
    /// Requests sent.
    pub sent: u32,
    /// Answers received.
    pub received: u32,
}

impl Ping {
    /// Reads the line `3 packets transmitted, 3 received, +1 errors, 0% packet loss, …`.
    fn parse(printed: &str) -> Option<Self> {
        let line = printed.lines().find(|line| line.contains("packets transmitted"))?;
        let mut numbers = line.split(", ").map(|part| part.split(' ').next()?.parse().ok());
        Some(Self { sent: numbers.next()??, received: numbers.next()?? })
    }
}

impl Namespace {
    /// Sends `count` echo requests, 20 ms apart, and waits at most a second for the last answer.
    /// Further arguments go before the address, as `-s 1400` or `-M do`.
    pub fn ping_with(&self, to: &str, count: u32, arguments: &[&str]) -> Result<Ping> {
        let count = count.to_string();
        let mut command = vec!["ping", "-n", "-q", "-i", "0.02", "-W", "1", "-c", &count];
        command.extend(arguments);
        command.push(to);
        // A lost answer makes the status 1, which is a result as well.
        let output = self.try_run(&command)?;
        Ping::parse(&output.stdout)
            .ok_or_else(|| Error::unexpected(output.command, output.stdout + &output.stderr))
    }

    /// As [`Namespace::ping_with`] without further arguments.
    pub fn ping(&self, to: &str, count: u32) -> Result<Ping> {
        self.ping_with(to, count, &[])
    }

    /// Downloads a URL.
    pub fn curl(&self, url: &str) -> Result<Vec<u8>> {
        let mut command = CURL.to_vec();
        command.push(url);
        let mut running = self.spawn(&command)?;
        running.wait(DEFAULT_DEADLINE)?.success()?;
        Ok(running.stdout_bytes())
    }

    /// Uploads `body` to a URL by POST; the server's answer.
    pub fn curl_upload(&self, url: &str, body: &[u8]) -> Result<String> {
        let mut command = CURL.to_vec();
        command.extend(["--data-binary", "@-", url]);
        self.run_with_input(&command, body)
    }
}
