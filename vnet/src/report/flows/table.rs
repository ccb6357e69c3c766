//! The flows for people.

use std::{fmt, net::IpAddr};

use super::{Endpoint, Flow};
use crate::report::text::{self, count, duration, numbers, words};

/// Where flows of unusual kinds say so: before the state.
const KIND_COLUMN: usize = 4;

/// A table with one line per flow, wider than a narrow terminal; a sentence if there is none. Only where
/// a flow is of an unusual kind is there a column for it.
#[must_use]
pub fn table(flows: &[Flow]) -> String {
    if flows.is_empty() {
        return "no flows\n".to_owned();
    }
    let has_kinds = flows.iter().any(|flow| kind(flow).is_some());
    let mut columns = vec![
        words("PROTO"),
        words("INSIDE"),
        words("OUTSIDE"),
        words("REMOTE"),
        words("STATE"),
        numbers("AGE"),
        numbers("IDLE"),
        numbers("PACKETS\nOUT"),
        numbers("PACKETS\nIN"),
        numbers("BYTES\nOUT"),
        numbers("BYTES\nIN"),
        words("NETWORK"),
        words("UPLINK"),
    ];
    if has_kinds {
        columns.insert(KIND_COLUMN, words("KIND"));
    }
    let row = |flow: &Flow| {
        let mut cells = row(flow);
        if has_kinds {
            cells.insert(KIND_COLUMN, kind(flow).unwrap_or_else(|| "-".to_owned()));
        }
        cells
    };
    text::table(&columns, None, flows.iter().map(row))
}

fn row(flow: &Flow) -> Vec<String> {
    vec![
        flow.protocol.to_string(),
        flow.inside.to_string(),
        flow.outside.to_string(),
        flow.remote.to_string(),
        flow.state.name().to_owned(),
        duration(flow.age),
        duration(flow.idle),
        count(flow.outbound.packets),
        count(flow.inbound.packets),
        count(flow.outbound.bytes),
        count(flow.inbound.bytes),
        flow.network.clone(),
        flow.uplink.clone(),
    ]
}

/// What is unusual about a flow: that the remote sent first, by a forward or to an open mapping, and that it
/// turns round at the host's address.
fn kind(flow: &Flow) -> Option<String> {
    let opened = match (flow.forwarded, flow.from_outside) {
        (true, _) => Some("forward"),
        (false, true) => Some("outside"),
        (false, false) => None,
    };
    let words: Vec<_> = opened.into_iter().chain(flow.hairpin.then_some("hairpin")).collect();
    (!words.is_empty()).then(|| words.join(","))
}

/// `ADDRESS:PORT`, IPv6 addresses in brackets (RFC 3986, section 3.2.2), or `ADDRESS id NUMBER`.
impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, self.identifier, self.address) {
            (Some(port), _, IpAddr::V4(address)) => write!(formatter, "{address}:{port}"),
            (Some(port), _, IpAddr::V6(address)) => write!(formatter, "[{address}]:{port}"),
            (None, Some(identifier), address) => write!(formatter, "{address} id {identifier}"),
            (None, None, address) => address.fmt(formatter),
        }
    }
}
