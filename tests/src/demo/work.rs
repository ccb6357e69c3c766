//! What the guests do: ping, download, upload, ask by UDP.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::page::{Finding, Page};
use super::stage::{OUTSIDE, Stage};
use crate::lab::Node;
use crate::lab::services::{Upload, content, hash};

const MIB: usize = 1024 * 1024;
const DOWNLOAD: usize = 8 * MIB;
const UPLOAD: usize = 4 * MIB;
const PINGS: u32 = 4;
const QUESTIONS: u32 = 10;

pub(super) fn show(page: &Page, stage: &Stage) {
    for (guest, name) in stage.guests() {
        page.check(&format!("{name} pings outside"), || ping(guest));
        page.check(&format!("{name} downloads 8 MiB over HTTP"), || download(guest, stage));
        page.check(&format!("{name} uploads 4 MiB over HTTP"), || upload(guest, stage));
        page.check(&format!("{name} asks port 53 over UDP"), || ask(guest, stage.udp.address()));
    }
}

fn ping(guest: &Node) -> Result<Finding> {
    // After the last request ping waits only for one more interval; a machine may be busy.
    let ping = guest.ping_with(OUTSIDE, PINGS, &["-i", "0.25"])?;
    let text = format!("{} of {} answered", ping.received, ping.sent);
    Ok(Finding::new((ping.sent, ping.received) == (PINGS, PINGS), text))
}

fn download(guest: &Node, stage: &Stage) -> Result<Finding> {
    let (body, seconds) = timed(|| guest.curl(&url(stage, &format!("bytes/{DOWNLOAD}"))));
    Ok(content_finding(body? == content(DOWNLOAD), seconds))
}

fn upload(guest: &Node, stage: &Stage) -> Result<Finding> {
    let body = content(UPLOAD);
    let (answer, seconds) = timed(|| guest.curl_upload(&url(stage, "upload"), &body));
    let upload = Upload::parse(&answer?).context("the web server's answer makes no sense")?;
    let same = upload == Upload { bytes: UPLOAD as u64, hash: hash(&body) };
    Ok(content_finding(same, seconds))
}

/// Each question from a new port, as a resolver does it (RFC 5452 section 9.2).
fn ask(guest: &Node, server: SocketAddr) -> Result<Finding> {
    for number in 0..QUESTIONS {
        let question = content(50 + 10 * number as usize);
        let answer = guest.udp_ask(server, &question, Duration::from_secs(5))?;
        if answer != question {
            return Ok(Finding::new(false, format!("answer {number} is not what was asked")));
        }
    }
    Ok(Finding::new(true, format!("{QUESTIONS} of {QUESTIONS} answered, each from a new port")))
}

fn url(stage: &Stage, path: &str) -> String {
    format!("http://{}/{path}", stage.web.address())
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, f32) {
    let started = Instant::now();
    let result = work();
    (result, started.elapsed().as_secs_f32())
}

fn content_finding(same: bool, seconds: f32) -> Finding {
    let text = if same { "content as sent" } else { "content is NOT as sent" };
    Finding::new(same, format!("{text}, {seconds:.2} s"))
}
