//! Everybody tries to reach everybody, by ping and by TCP.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::page::{Colour, Finding, Page};
use super::stage::{ECHO, OUTSIDE, Stage, UPLINK};
use super::table::{Answer, Cell, render};
use crate::lab::{Error, Node};

/// How long an answer may take, in seconds; a machine may be busy.
const PATIENCE: u64 = 3;
const NAMES: [&str; 4] = ["guest1", "guest2", "host", "outside"];

pub(super) fn show(page: &Page, stage: &Stage) -> Result<()> {
    let nodes = [&stage.tap_guest, &stage.veth_guest, &stage.host, &stage.outside];
    // Otherwise the outside would fail for lack of a route, which says nothing of vnet.
    stage.outside.route("192.168.122.0/24", UPLINK)?;
    let cells = page.meanwhile("asking", || measure(nodes))?;
    stage.outside.run(&["ip", "route", "delete", "192.168.122.0/24"])?;

    page.text(&render(&NAMES, &cells, |cell, text| match cell {
        Some(cell) if !cell.is_kept() => page.paint(Colour::Red, text),
        Some(cell) if cell.promised => page.paint(Colour::Green, text),
        Some(_) => page.paint(Colour::Yellow, text),
        None => page.paint(Colour::Dim, text),
    }));
    let mut broken = 0;
    for (from, row) in NAMES.iter().zip(&cells) {
        for (to, cell) in NAMES.iter().zip(row) {
            let Some(cell) = cell else { continue };
            broken += usize::from(!cell.is_kept());
            let should = if cell.promised { "should work" } else { "must fail" };
            let text = format!("{cell}, {should}");
            page.count(&format!("{from} to {to}"), Finding::new(cell.is_kept(), text));
        }
    }
    page.check("what libvirt's NAT mode promises", || {
        let text = match broken {
            0 => "kept: all works but outside to guest".to_owned(),
            broken => format!("not kept in the {broken} places marked (!)"),
        };
        Ok(Finding::new(broken == 0, text))
    });
    Ok(())
}

/// Rows ask, columns are asked.
fn measure(nodes: [&Node; 4]) -> Result<Vec<Vec<Option<Cell>>>> {
    thread::scope(|scope| {
        let asking = [0, 1, 2, 3].map(|from| {
            [0, 1, 2, 3]
                .map(|to| (from != to).then(|| scope.spawn(move || ask(nodes[from], from, to))))
        });
        let join = |cell: thread::ScopedJoinHandle<'_, Result<Cell>>| {
            cell.join().map_err(|_| anyhow!("a thread that asks has panicked"))?
        };
        asking
            .into_iter()
            .map(|row| row.into_iter().map(|cell| cell.map(join).transpose()).collect())
            .collect()
    })
}

fn ask(node: &Node, from: usize, to: usize) -> Result<Cell> {
    let outside = from == 3;
    let address: IpAddr = match to {
        0 => "192.168.122.11",
        1 => "192.168.122.12",
        2 if outside => UPLINK,
        2 => "192.168.122.1",
        _ => OUTSIDE,
    }
    .parse()?;
    let promised = !(outside && to < 2);
    Ok(Cell { ping: ping(node, address)?, tcp: connect(node, address)?, promised })
}

/// One echo request. `ping` ends at once when an ICMP error comes back.
fn ping(node: &Node, to: IpAddr) -> Result<Answer> {
    let (to, patience) = (to.to_string(), PATIENCE.to_string());
    let output = node.try_run(&["ping", "-n", "-c", "1", "-W", &patience, &to])?;
    Ok(if output.status.success() {
        Answer::Reached
    } else if output.stdout.contains(" errors,") {
        Answer::Refused
    } else {
        Answer::Silence
    })
}

fn connect(node: &Node, to: IpAddr) -> Result<Answer> {
    let deadline = Duration::from_secs(PATIENCE);
    match node.tcp_connect(SocketAddr::new(to, ECHO), deadline) {
        Ok(mut stream) => {
            let mut answer = [0; 5];
            stream.write_all(b"hello")?;
            stream.read_exact(&mut answer)?;
            Ok(if &answer == b"hello" { Answer::Reached } else { Answer::Silence })
        }
        Err(Error::System { source, .. }) if is_refusal(&source) => Ok(Answer::Refused),
        Err(Error::System { source, .. }) if source.kind() == io::ErrorKind::TimedOut => {
            Ok(Answer::Silence)
        }
        Err(error) => Err(error.into()),
    }
}

/// A reset, or what Linux makes of an ICMP error (tcp(7), icmp(7)).
fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, PermissionDenied};
    [ConnectionRefused, HostUnreachable, NetworkUnreachable, PermissionDenied]
        .contains(&error.kind())
}
