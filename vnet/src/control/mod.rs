//! Orders to a running daemon, by a socket: a line of JSON, and a line of JSON for an answer.

mod client;
mod listener;

use serde::{Deserialize, Serialize};

pub use client::{ControlError, is_anybody, send};
pub use listener::{Listener, Received};

use crate::{definition::Difference, instance::Told, plan::XdpSetting};

/// The longest order, in bytes: the largest file of definitions (1 MiB) a hundred times.
const ORDER_LIMIT: u64 = 100 << 20;

/// What a daemon can be told to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Run these definitions instead.
    Apply(Told),
    /// Use short ways or XDP otherwise, and leave all else as it is.
    ShortWays {
        /// Whether there are short ways; as before if it is not said.
        on: Option<bool>,
        /// When XDP is used; as before if it is not said.
        xdp: Option<XdpSetting>,
    },
}

/// How an order went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It is done; this is what has changed.
    Applied(Vec<Difference>),
    /// The definitions or the host do not allow it; nothing was changed.
    Refused(String),
    /// A step failed; what ran before goes on.
    Failed(String),
}
