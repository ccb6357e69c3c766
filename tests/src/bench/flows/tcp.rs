//! Connections of TCP, each with a request and an answer.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::{TimeVal, TimeValLike as _},
};

use crate::{
    bench::site::{Base, GENERATES, Way, bind, number},
    lab::Node,
};

const SERVER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), 8080);
/// Connections at once.
const AT_ONCE: usize = 8;
const TIME: Duration = Duration::from_millis(700);
/// Bytes of a request and of its answer.
const BYTES: usize = 64;
/// How long the server waits before it looks whether it is over.
const PATIENCE_MS: i64 = 20;
/// How long an end waits for the other one, which may have to wait for the CPU.
const DEADLINE: Duration = Duration::from_secs(10);

/// What was done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Connections {
    pub per_second: f64,
    /// Of the threads that have forwarded, for each connection.
    pub nanoseconds: f64,
}

/// Connects from the guest to the outside as often as it goes.
pub(super) fn connect(base: &Base) -> Result<Connections> {
    let ends = AtomicBool::new(false);
    let listener = base.outside.enter(|| TcpListener::bind(SERVER))??;
    setsockopt(&listener, ReceiveTimeout, &TimeVal::milliseconds(PATIENCE_MS))?;
    let (elapsed, spent, count) = thread::scope(|scope| -> Result<_> {
        let server = scope.spawn(|| on_threads(&base.outside, || serve(&listener, &ends)));
        let done = connect_for_a_while(base);
        ends.store(true, Ordering::Relaxed);
        server.join().ok().context("the server has panicked")??;
        done
    })?;
    ensure!(count > 0, "no connection has come about");
    Ok(Connections {
        per_second: number(count) / elapsed.as_secs_f64(),
        nanoseconds: number(spent) / number(count),
    })
}

/// How long it took, nanoseconds of the threads that have forwarded, and how many connections there were.
fn connect_for_a_while(base: &Base) -> Result<(Duration, u64, u64)> {
    let guest = base.guest()?;
    // So that neighbours are known.
    guest.enter(request)??;
    base.rest()?;
    let count = AtomicU64::new(0);
    let before = base.time(Way::Out)? + base.time(Way::In)?;
    let begin = Instant::now();
    on_threads(guest, || {
        while begin.elapsed() < TIME {
            request()?;
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    })?;
    let elapsed = begin.elapsed();
    base.rest()?;
    let spent = base.time(Way::Out)? + base.time(Way::In)? - before;
    Ok((elapsed, spent, count.into_inner()))
}

/// Does the same on several threads of a node, on the CPU that does not forward.
fn on_threads(node: &Node, work: impl Fn() -> Result<()> + Sync) -> Result<()> {
    node.enter(|| -> Result<()> {
        bind(0, GENERATES)?;
        thread::scope(|scope| {
            let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(&work)).collect();
            threads.into_iter().try_for_each(|thread| thread.join().ok().context("panicked")?)
        })
    })?
}

fn request() -> Result<()> {
    let mut connection = TcpStream::connect_timeout(&SERVER, DEADLINE)?;
    connection.set_read_timeout(Some(DEADLINE))?;
    connection.write_all(&[0; BYTES])?;
    let mut answer = [0; BYTES];
    connection.read_exact(&mut answer)?;
    // The server closes first, so that the guest has its port back at once.
    ensure!(connection.read(&mut answer)? == 0, "more than the answer has come");
    Ok(())
}

fn serve(listener: &TcpListener, ends: &AtomicBool) -> Result<()> {
    while !ends.load(Ordering::Relaxed) {
        // Nobody has come in time.
        let Ok((mut connection, _)) = listener.accept() else { continue };
        // It has the listener's patience otherwise.
        connection.set_read_timeout(Some(DEADLINE))?;
        let mut request = [0; BYTES];
        connection.read_exact(&mut request)?;
        connection.write_all(&request)?;
    }
    Ok(())
}
