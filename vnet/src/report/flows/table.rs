//! The flows for people.

use std::{fmt, net::IpAddr};

use super::{Endpoint, Flow};
use crate::report::text::{self, count, duration, numbers, words};

/// A table with one line per flow, wider than a narrow terminal; a sentence if there is none.
#[must_use]
pub fn table(flows: &[Flow]) -> String {
    if flows.is_empty() {
        return "no flows\n".to_owned();
    }
    let columns = [
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
