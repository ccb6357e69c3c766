//! The daemon's end.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::PathBuf, time::Duration};

use anyhow::Context as _;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::mpsc,
    time::timeout,
};

use super::{Answer, ORDER_LIMIT, Order};
use crate::instance::Name;

/// How long a client may take to send its order, and to read the answer.
const PATIENCE: Duration = Duration::from_secs(10);
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
        let listener =
            bind(&path).with_context(|| format!("cannot listen at {}", path.display()))?;
        let (sender, orders) = mpsc::channel(WAITING);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let sender = sender.clone();
                tokio::spawn(async move {
                    if let Ok(Ok(received)) = timeout(PATIENCE, receive(client)).await {
                        let _ = sender.send(received).await;
                    }
                });
            }
        });
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

/// Only root may connect.
fn bind(path: &PathBuf) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
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
