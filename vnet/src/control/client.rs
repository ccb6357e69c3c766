//! The end of whoever gives orders.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
};

use super::{Answer, Order};
use crate::instance::Name;

/// An order has not got through.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No daemon listens.
    #[error("no daemon of instance `{0}` takes orders")]
    Nobody(Name),
    /// The connection broke.
    #[error("the daemon of instance `{instance}` did not answer: {source}")]
    Broken {
        /// The instance.
        instance: Name,
        /// The error.
        source: io::Error,
    },
}

/// Whether a daemon of an instance takes orders.
#[must_use]
pub fn is_anybody(instance: &Name) -> bool {
    UnixStream::connect(instance.control_socket()).is_ok()
}

/// Gives an order to the daemon of an instance and waits for the answer, however long it takes.
pub fn send(instance: &Name, order: &Order) -> Result<Answer, ControlError> {
    let stream = UnixStream::connect(instance.control_socket())
        .map_err(|_| ControlError::Nobody(instance.clone()))?;
    exchange(stream, order)
        .map_err(|source| ControlError::Broken { instance: instance.clone(), source })
}

fn exchange(mut stream: UnixStream, order: &Order) -> io::Result<Answer> {
    let mut line = serde_json::to_vec(order)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&answer)?)
}
