//! The daemon's end.

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};

use super::{Answer, ORDER_LIMIT, Order};
use crate::instance::{self, Name};

/// How long a client may take to send its order, and to read the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait after a connection that failed.
const PAUSE: Duration = Duration::from_millis(100);
/// Orders that wait for their turn.
const WAITING: usize = 16;

/// The socket on which a daemon takes orders. Removed when dropped.
#[derive(Debug)]
pub struct Listener {
    path: PathBuf,
    orders: mpsc::Receiver<Received>,
}

/// An order, and who waits for the answer.
#[derive(Debug)]
pub struct Received {
    /// The order.
    pub order: Order,
    client: UnixStream,
}

impl Listener {
    /// Listens. The caller holds the instance's lock, so that a socket which is there is nobody's.
    pub fn bind(instance: &Name) -> anyhow::Result<Self> {
        let path = instance.control_socket();
        let listener = instance::listen(&path)
            .and_then(to_async)
            .with_context(|| format!("cannot listen at {}", path.display()))?;
        let (sender, orders) = mpsc::channel(WAITING);
        tokio::spawn(accept(listener, sender));
        Ok(Self { path, orders })
    }

    /// The next order. May be cancelled.
    pub async fn next(&mut self) -> Received {
        match self.orders.recv().await {
            Some(received) => received,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Received {
    /// Answers. A client that has gone away needs none.
    pub async fn answer(mut self, answer: &Answer) {
        let Ok(mut line) = serde_json::to_vec(answer) else { return };
        line.push(b'\n');
        let _ = timeout(PATIENCE, self.client.write_all(&line)).await;
    }
}

fn to_async(listener: std::os::unix::net::UnixListener) -> io::Result<UnixListener> {
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

async fn accept(listener: UnixListener, orders: mpsc::Sender<Received>) {
    let room = Arc::new(Semaphore::new(WAITING));
    loop {
        // Never closed.
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                // Out of file descriptors, for example: it may pass.
                log::warn!("cannot take orders for the moment: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        let orders = orders.clone();
        tokio::spawn(async move {
            if let Ok(Ok(received)) = timeout(PATIENCE, receive(client)).await {
                let _ = orders.send(received).await;
            }
            drop(place);
        });
    }
}

async fn receive(client: UnixStream) -> io::Result<Received> {
    let mut reader = BufReader::new(client).take(ORDER_LIMIT);
    let mut line = String::new();
    reader.read_line(&mut line).await?;
    let mut client = reader.into_inner().into_inner();
    match serde_json::from_str(&line) {
        Ok(order) => Ok(Received { order, client }),
        Err(error) => {
            let answer = Answer::Refused(format!("the daemon does not understand: {error}"));
            let mut line = serde_json::to_vec(&answer)?;
            line.push(b'\n');
            client.write_all(&line).await?;
            Err(error.into())
        }
    }
}
