//! `vnet status` and `vnet flows` as they stand.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::daemon::Daemon;
use super::page::{Colour, Finding, Page};
use super::stage::{ECHO, OUTSIDE, Stage, UPLINK};

/// What a user would look at.
const VIEWS: [&[&str]; 3] = [
    &["status"],
    &["flows", "--limit", "7"],
    &["flows", "--guest", "192.168.122.12", "--protocol", "udp", "--limit", "3"],
];

pub(super) fn show(page: &Page, stage: &Stage, daemon: &Daemon) -> Result<()> {
    // Open while the flows are listed, so that one of them is established.
    let _open = chat(stage)?;
    for view in VIEWS {
        page.text(&page.paint(Colour::Bold, &format!("host# vnet {}", view.join(" "))));
        page.text(&daemon.ask(&stage.host, view)?);
        page.text("");
    }
    page.check("vnet status -o json", || {
        let status = json(daemon, stage, "status")?;
        let count = |list: &str| status[list].as_array().map_or(0, Vec::len);
        let (networks, uplinks, hooks) = (count("networks"), count("uplinks"), count("hooks"));
        let text = format!("{networks} network, {uplinks} uplink, {hooks} hooks");
        Ok(Finding::new((networks, uplinks) == (1, 1) && hooks >= 4, text))
    });
    page.check("vnet flows -o json", || {
        let flows = json(daemon, stage, "flows")?;
        let flows = flows.as_array().context("not a list")?;
        for guest in ["192.168.122.11", "192.168.122.12"] {
            let known = flows.iter().any(|flow| flow["inside"]["address"] == guest);
            ensure!(known, "no flow of {guest}");
        }
        let masked = flows.iter().all(|flow| flow["outside"]["address"] == UPLINK);
        let text = format!("{} flows, all seen outside as {UPLINK}", flows.len());
        Ok(Finding::new(masked, text))
    });
    Ok(())
}

fn json(daemon: &Daemon, stage: &Stage, verb: &str) -> Result<Value> {
    Ok(serde_json::from_str(&daemon.ask(&stage.host, &[verb, "-o", "json"])?)?)
}

/// A connection over which enough has gone to be among the first flows.
fn chat(stage: &Stage) -> Result<TcpStream> {
    let server = SocketAddr::new(OUTSIDE.parse()?, ECHO);
    let mut stream = stage.tap_guest.tcp_connect(server, Duration::from_secs(5))?;
    let mut buffer = [0; 4096];
    for _ in 0..32 {
        stream.write_all(&buffer)?;
        stream.read_exact(&mut buffer)?;
    }
    Ok(stream)
}
