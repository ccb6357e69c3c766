//! What a running instance tells: its status and its flows, read from its state file and its
//! pinned maps. Nothing here needs the daemon; nothing here changes anything.
//!
//! Data and presentation are apart: `read` returns plain data, which is JSON through `serde` and a
//! table through a function that returns text.

mod daemon;
mod error;
pub mod flows;
pub(crate) mod pinned;
mod protocol;
mod sessions;
pub mod status;
pub(crate) mod text;

use std::{fs, io};

use serde::Serialize;
use vnet_common::flow::Traffic;

pub use error::ReportError;
pub use protocol::{InvalidProtocol, Protocol};

use crate::instance::{Name, State};

/// Packets and bytes of one direction, as [`Traffic`] counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Socket buffers; a segmentation-offload packet is one.
    pub packets: u64,
    /// Bytes with link-layer headers.
    pub bytes: u64,
}

impl From<Traffic> for Counts {
    fn from(traffic: Traffic) -> Self {
        Self { packets: traffic.packets, bytes: traffic.bytes }
    }
}

/// The state of a running instance.
pub(crate) fn state(name: &Name) -> Result<State, ReportError> {
    match State::read(name) {
        Ok(Some(state)) => Ok(state),
        Ok(None) => {
            let others = others(name);
            Err(ReportError::NoInstance { name: name.clone(), others })
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(ReportError::NotPermitted { path: name.runtime_directory() })
        }
        Err(source) => Err(ReportError::State { path: name.runtime_directory(), source }),
    }
}

/// The instances that have a state, by name.
fn others(name: &Name) -> Vec<String> {
    let directory = name.runtime_directory();
    let entries = directory.parent().map(fs::read_dir).and_then(Result::ok).into_iter().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.parse().ok())
        .filter(|other: &Name| !matches!(State::read(other), Ok(None)))
        .map(|other| other.to_string())
        .collect();
    names.sort();
    names
}
