//! Ports that the host itself wants: its ephemeral ones, and those of its sockets.

use std::ops::RangeInclusive;

use vnet_common::flow::protocol;

use super::{Advice, Plan, Surroundings};
use crate::{
    definition::Network,
    host::sysctl::{self, IP_LOCAL_PORT_RANGE, IP_LOCAL_RESERVED_PORTS},
};

const CHECK: &str = "ports";

/// Networks whose guests have few external ports or none, because the host keeps them for itself.
pub(super) fn of_masquerading(
    definitions: &[Network],
    plan: &Plan,
    around: &Surroundings,
) -> Vec<Advice> {
    let Some(ephemeral) = &around.ephemeral else { return Vec::new() };
    let mut advice = Vec::new();
    for network in &plan.networks {
        let definition = definitions.iter().find(|other| other.name.value == network.name);
        let Some(nat) = definition.and_then(|definition| definition.forward.nat.as_ref()) else {
            continue;
        };
        let (first, last) = (*network.ports.start(), *network.ports.end());
        let is_kept = |port: &u16| {
            ephemeral.contains(port) || around.reserved.iter().any(|range| range.contains(port))
        };
        let all = network.ports.len();
        let left = all - network.ports.clone().filter(is_kept).count();
        let name = &network.name;
        let (start, end) = (ephemeral.start(), ephemeral.end());
        let mend = || {
            let range = if nat.ports_span.is_some() {
                "write other ports into <port start='…' end='…'/> of its <nat>, or "
            } else {
                ""
            };
            format!("{range}sysctl -w {IP_LOCAL_PORT_RANGE}='32768 60999'")
        };
        if left == 0 {
            let message = format!(
                "network `{name}`: its guests are masqueraded to ports {first}-{last}, and the host keeps \
                 every one of them for itself ({IP_LOCAL_PORT_RANGE} is {start}-{end})"
            );
            advice.push(Advice::fatal(CHECK, message, mend()).of(name));
        } else if nat.ports_span.is_some() && left < all {
            let message = format!(
                "network `{name}`: of the {all} ports {first}-{last} of its <nat>, {left} are left for \
                 guests: the host keeps the others for itself ({IP_LOCAL_PORT_RANGE} is {start}-{end}, \
                 {IP_LOCAL_RESERVED_PORTS} is \"{}\")",
                sysctl::format_port_list(&around.reserved)
            );
            advice.push(Advice::warning(CHECK, message, mend()));
        }
    }
    advice
}

/// Forwards of ports at which the host itself waits, or from which it may send.
///
/// A forward is looked up before the host's sockets are (`find` in vnet-ebpf/src/forward.rs), so that it
/// wins.
pub(super) fn of_forwards(plan: &Plan, around: &Surroundings) -> Vec<Advice> {
    let mut advice: Vec<Advice> = Vec::new();
    for forward in &plan.forwards {
        let ports = forward.ports.first..=forward.ports.last;
        let network = plan.networks.iter().find(|network| network.slot == forward.network);
        let network = network.map_or("", |network| network.name.as_str());
        let name = protocol_name(forward.protocol);
        for socket in &around.sockets {
            let hears = socket.hears(forward.protocol, forward.external, socket.port);
            if !hears || !ports.contains(&socket.port) {
                continue;
            }
            let port = socket.port;
            let option = if forward.protocol == protocol::TCP { "-Hltnp" } else { "-Hlunp" };
            advice.push(Advice::warning(
                "sockets",
                format!(
                    "network `{network}`: {name} port {port} of {} is forwarded to {}, and a socket of the \
                     host waits there, too: the forward wins, so that nobody outside reaches that service",
                    forward.external, forward.to
                ),
                format!("move one of the two to another port; whose it is, says ss {option} 'sport = :{port}'"),
            ));
        }
        advice.extend(ephemeral(network, name, &ports, around));
    }
    // Of each address there may be a forward, and of each family a socket.
    let mut seen = Vec::new();
    advice.retain(|one| {
        let is_new = !seen.contains(&one.message);
        seen.push(one.message.clone());
        is_new
    });
    advice
}

/// Forwarded ports that the kernel may give to sockets of the host.
fn ephemeral(
    network: &str,
    protocol: &str,
    ports: &RangeInclusive<u16>,
    around: &Surroundings,
) -> Option<Advice> {
    let range = around.ephemeral.as_ref()?;
    let is_reserved = |port: &u16| around.reserved.iter().any(|reserved| reserved.contains(port));
    let first = ports.clone().find(|port| range.contains(port) && !is_reserved(port))?;
    let shown = sysctl::format_port_list(std::slice::from_ref(ports));
    let mut reserved = around.reserved.clone();
    reserved.push(ports.clone());
    reserved.sort_by_key(|range| *range.start());
    Some(Advice::warning(
        CHECK,
        format!(
            "network `{network}`: its forward of {protocol} {shown} is in the host's ephemeral ports \
             ({}-{}): answers to a socket of the host that gets port {first} may go to the guest",
            range.start(),
            range.end()
        ),
        format!("sysctl -w {IP_LOCAL_RESERVED_PORTS}={}", sysctl::format_port_list(&reserved)),
    ))
}

fn protocol_name(number: u8) -> &'static str {
    match number {
        protocol::TCP => "TCP",
        protocol::UDP => "UDP",
        _ => "SCTP",
    }
}
