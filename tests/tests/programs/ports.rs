//! Finding external ports, however full the range is.

use anyhow::{Result, ensure};
use vnet_common::{flow::ExternalPort, names::program, port::PortRange};
use vnet_tests::programs::*;

/// The most steps that one search may take: the own port, a look at each summary word and at the words
/// next to the three ends of a range that the host's ephemeral ports split, and the claim.
const MOST_STEPS: usize = 28;

/// The ports that are masqueraded to: 1024 to 65535 without the host's ephemeral 32768 to 60999.
const USABLE: u32 = 64512 - 28232;

/// A UDP packet of the `index`-th of many inside endpoints, none of whose ports may be kept.
fn endpoint(index: u32) -> String {
    format!("192.168.122.{}:{}", 20 + index / 28000, 32768 + index % 28000)
}

/// Offset of the IPv4 header's protocol in a frame.
const PROTOCOL: usize = 14 + 9;

/// Opens a flow without looking at the tables; whether it was sent on.
fn open(rig: &mut Rig, from: &str, to: &str) -> Result<bool> {
    let arrival = Arrival {
        program: program::BRIDGE_INGRESS,
        frame: &udp(from, to).frame(),
        interface: "virbr0",
        origin: Origin::Interface("virbr0"),
        mark: 0,
        gso_size: 0,
    };
    let (action, frame, _) = rig.run_uncounted(arrival)?;
    // What is refused is sent back, too, as an ICMP error.
    Ok(Verdict::from_action(action) == Verdict::Redirect && frame[PROTOCOL] == 17)
}

/// The searches since an earlier reading: how many, their mean and their most steps.
#[expect(clippy::cast_precision_loss, reason = "a mean of small numbers")]
fn cost(before: &[u64], after: &[u64]) -> (u64, f64, usize) {
    let by_steps: Vec<u64> =
        after.iter().zip(before).map(|(after, before)| after - before).collect();
    let count: u64 = by_steps.iter().sum();
    let total: u64 = by_steps.iter().zip(0..).map(|(count, steps)| count * steps).sum();
    let most = by_steps.iter().rposition(|count| *count > 0).unwrap_or(0);
    (count, total as f64 / count as f64, most)
}

#[test]
fn search_costs_the_same_at_50_90_99_and_100_percent() -> Result<()> {
    with_large_rig(1 << 17, |rig| {
        let mut opened = 0;
        for percent in [50, 90, 99, 100] {
            let filled = USABLE * percent / 100;
            // The last of these are the searches at this fill.
            while opened < filled - 300 {
                ensure!(open(rig, &endpoint(opened), "192.0.2.10:53")?, "flow {opened} is refused");
                opened += 1;
            }
            let before = rig.port_searches()?;
            while opened < filled {
                ensure!(open(rig, &endpoint(opened), "192.0.2.10:53")?, "flow {opened} is refused");
                opened += 1;
            }
            let (count, mean, most) = cost(&before, &rig.port_searches()?);
            println!("{percent} % full: {count} searches, {mean:.1} steps each, at most {most}");
            assert_eq!(count, 300);
            assert!(most <= MOST_STEPS, "{most} steps");
        }
        let tables = rig.tables()?;
        let mut ports: Vec<u16> =
            tables.ports.iter().map(|(port, _)| port.port.to_host()).collect();
        ports.sort_unstable();
        assert!(ports.iter().copied().eq((1024..=32767).chain(61000..=65535)), "each port once");
        tables.check_port_maps()?;

        // Nothing is left: searches that fail cost no more, and flows share.
        let before = rig.port_searches()?;
        for index in opened..opened + 300 {
            let to = format!("192.0.3.{}:{}", index % 250 + 1, index);
            ensure!(open(rig, &endpoint(index), &to)?, "flow {index} is refused");
        }
        let (count, mean, most) = cost(&before, &rig.port_searches()?);
        println!("none left: {count} searches, {mean:.1} steps each, at most {most}");
        assert_eq!(count, 300);
        assert!(most <= MOST_STEPS, "{most} steps");
        rig.tables()?.check_port_maps()
    })
}

#[test]
fn guest_that_takes_every_port_makes_no_flow_of_another_fail() -> Result<()> {
    with_large_rig(1 << 17, |rig| {
        let (mut taken, mut refused, mut failed) = (0, 0, 0);
        for index in 0..USABLE + 2000 {
            let from = format!("192.168.122.20:{}", 1 + index % 65535);
            let to = format!("192.0.2.{}:53", 10 + index / 65535);
            if open(rig, &from, &to)? {
                taken += 1;
            } else {
                refused += 1;
            }
            if index % 20 == 0 {
                let from = format!("192.168.122.21:{}", 1024 + index / 20);
                failed += u32::from(!open(rig, &from, "192.0.2.200:443")?);
            }
        }
        println!("one guest: {taken} flows, {refused} refused; the other: {failed} failures");
        assert!(taken > USABLE - 2000 && refused > 0, "the range is not exhausted");
        assert_eq!(failed, 0);
        rig.tables()?.check_port_maps()
    })
}

#[test]
fn pool_of_more_addresses_than_there_are_port_maps_works() -> Result<()> {
    with_rig(|rig| {
        rig.set_network(NETWORK, |network| {
            network.pool_first = ipv4("203.0.113.16");
            network.pool_last = ipv4("203.0.113.47");
        })?;
        for guest in 20..60 {
            let outcome =
                rig.from_guest(&udp(&format!("192.168.122.{guest}:40000"), "192.0.2.1:53"))?;
            assert_eq!(outcome.verdict, Verdict::Redirect);
        }
        let tables = rig.tables()?;
        let maps: Vec<ExternalPort> = tables.port_maps.iter().map(|(key, _)| *key).collect();
        let beyond =
            tables.ports.iter().filter(|(port, _)| !maps.contains(&port.port_map())).count();
        assert_eq!(maps.len(), 8);
        assert!(beyond > 0, "the pool has no more addresses than there are maps");
        Ok(())
    })
}

#[test]
fn ports_of_host_sockets_are_passed_over() -> Result<()> {
    with_rig(|rig| {
        rig.set_network(NETWORK, |n| n.ports = PortRange { first: 5000, last: 5003 })?;
        let sockets: Vec<_> = [5000, 5001, 5003]
            .map(|port| std::net::UdpSocket::bind(("198.51.100.1", port)))
            .into_iter()
            .collect::<Result<_, _>>()?;
        let mut found = false;
        // Each search has a few attempts; a socket in the way costs one of them.
        for port in 20000..20010 {
            let from = format!("{GUEST}:{port}");
            let outcome = rig.from_guest(&udp(&from, "192.0.2.10:53"))?;
            found = found || outcome.verdict == Verdict::Redirect && outcome.counted.len() == 2;
            if found {
                assert_eq!(rig.tables()?.external_port_of(port), 5002);
                break;
            }
        }
        assert!(found, "the port without a socket is not found");
        drop(sockets);
        Ok(())
    })
}
