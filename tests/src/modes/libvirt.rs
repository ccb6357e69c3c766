//! The rules that libvirt itself would make, as a reference.

use std::fmt::Write as _;

use super::{Forward, Net};

/// What libvirt's nftables backend installs for these networks in both families
/// (`src/network/network_nftables.c`), without counters.
#[must_use]
pub fn libvirt_rules(nets: &[Net]) -> String {
    let tables = [("ip", false), ("ip6", true)].map(|(family, is_v6)| table(nets, family, is_v6));
    tables.concat()
}

fn table(nets: &[Net], family: &str, is_v6: bool) -> String {
    let [mut cross, mut input, mut output, mut nat] = [const { String::new() }; 4];
    for net in nets {
        let bridge = net.bridge;
        let (forwarded, masqueraded, device) = match net.forward {
            Forward::Nat => (true, !is_v6 || net.nat66, None),
            Forward::NatTo(device) => (true, !is_v6 || net.nat66, Some(device)),
            Forward::Route => (true, false, None),
            Forward::RouteTo(device) => (true, false, Some(device)),
            Forward::Isolated => (false, false, None),
            Forward::Open => continue,
        };
        let way = |key| device.map_or(String::new(), |name| format!("{key} \"{name}\""));
        let (iif, oif) = (way("iif"), way("oif"));
        let state = if masqueraded { "ct state related,established" } else { "" };
        let subnets = net.addresses.iter().filter(|address| address.contains(':') == is_v6);
        for subnet in subnets.filter(|_| forwarded) {
            let _ = writeln!(output, "    {family} saddr {subnet} iif \"{bridge}\" {oif} accept");
            let _ = writeln!(
                input,
                "    {iif} oif \"{bridge}\" {family} daddr {subnet} {state} accept"
            );
            if masqueraded {
                let from = format!("{family} saddr {subnet} {family} daddr != {subnet} {oif}");
                let _ = write!(
                    nat,
                    "    meta l4proto tcp {from} masquerade to :1024-65535\n    meta l4proto udp {from} \
                     masquerade to :1024-65535\n    {from} masquerade\n"
                );
            }
        }
        let _ = writeln!(cross, "    iif \"{bridge}\" oif \"{bridge}\" accept");
        let _ = writeln!(input, "    oif \"{bridge}\" reject");
        let _ = writeln!(output, "    iif \"{bridge}\" reject");
    }
    format!(
        "table {family} libvirt_network {{
  chain forward {{
    type filter hook forward priority filter; policy accept;
    jump guest_cross
    jump guest_input
    jump guest_output
  }}
  chain guest_cross {{
{cross}  }}
  chain guest_input {{
{input}  }}
  chain guest_output {{
{output}  }}
  chain guest_nat {{
    type nat hook postrouting priority srcnat; policy accept;
{nat}  }}
}}
"
    )
}
