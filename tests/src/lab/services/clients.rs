//! Programs that a user of a guest would run.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use crate::lab::error::{Error, Result, While};
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
    /// Sends `count` echo requests, 20 ms apart or, if there are few, 200 ms, and waits at most a second
    /// for the last answer.
    /// Further arguments go before the address, as `-s 1400` or `-M do`.
    pub fn ping_with(&self, to: &str, count: u32, arguments: &[&str]) -> Result<Ping> {
        let few = count <= 5;
        let count = count.to_string();
        // For the last answer ping waits one interval or two round trips, whichever is longer: too
        // short on a busy machine, so that few requests take their time.
        let interval = if few { "0.2" } else { "0.02" };
        let mut command = vec!["ping", "-n", "-q", "-i", interval, "-W", "1", "-c", &count];
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

    /// A TCP connection that belongs to the namespace; reads and writes fail after `deadline`.
    pub fn tcp_connect(&self, to: SocketAddr, deadline: Duration) -> Result<TcpStream> {
        let what = || format!("TCP connection from {} to {to}", self.name());
        let stream = self.enter(|| TcpStream::connect_timeout(&to, deadline))?.during(what)?;
        stream.set_read_timeout(Some(deadline)).during(what)?;
        stream.set_write_timeout(Some(deadline)).during(what)?;
        Ok(stream)
    }

    /// A UDP socket that belongs to the namespace, bound to `from` and connected to `to`; reads
    /// fail after `deadline`.
    pub fn udp_socket(
        &self,
        from: SocketAddr,
        to: SocketAddr,
        deadline: Duration,
    ) -> Result<UdpSocket> {
        let what = || format!("UDP socket from {from} to {to} in {}", self.name());
        let socket = self.bind(&what, || UdpSocket::bind(from))?;
        socket.connect(to).during(what)?;
        socket.set_read_timeout(Some(deadline)).during(what)?;
        Ok(socket)
    }

    /// Sends one datagram from a new port and waits for the answer.
    pub fn udp_ask(&self, to: SocketAddr, question: &[u8], deadline: Duration) -> Result<Vec<u8>> {
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let what = || format!("answer of {to} to a datagram from {}", self.name());
        let socket = self.udp_socket(SocketAddr::new(any, 0), to, deadline)?;
        socket.send(question).during(what)?;
        let mut answer = vec![0; 64 * 1024];
        let length = socket.recv(&mut answer).during(what)?;
        answer.truncate(length);
        Ok(answer)
    }
}
