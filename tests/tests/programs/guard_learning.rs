//! The guard of a guest's port: what it learns, once.

use anyhow::Result;
use vnet_common::{
    guard::{Mac, flags},
    limits,
    reason::DropReason,
    timeout::NANOSECONDS,
};
use vnet_tests::programs::{guard::*, *};

use super::guard::{assert_drops, assert_passes, with_guest};

const PREFIX: &str = "2001:db8:122::";

/// `port0` learns everything; `port1` is another guest's of the same bridge.
fn with_learner(work: impl FnOnce(&mut Rig) -> Result<()> + Send) -> Result<()> {
    with_rig(|rig| {
        for port in ["port0", "port1"] {
            rig.guard(port, |port| {
                port.mac = Mac::NONE;
                port.learn_ipv4 = limits::LEARNED_IPV4;
                port.learn_ipv6 = limits::LEARNED_IPV6;
            })?;
        }
        rig.add_ipv6_subnet(NETWORK, PREFIX, 64)?;
        work(rig)
    })
}

fn ipv4_from(address: &str) -> Vec<u8> {
    udp(&format!("{address}:1000"), "192.0.2.10:53").frame()
}

fn ipv6_from(address: &str) -> Vec<u8> {
    ipv6(address, "2001:db8::1", 17, &udp_message(1000, 53))
}

#[test]
fn mac_is_that_of_the_first_frame() -> Result<()> {
    with_learner(|rig| {
        let frame = ipv4_from(GUEST);
        for nobody in [[0; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
            assert_drops(rig, &from_mac(frame.clone(), nobody), DropReason::SpoofedMac);
        }
        assert_passes(rig, &frame);
        assert_eq!(Mac::from_word(rig.learned("port0")?.mac).to_bytes(), GUEST_MAC);
        assert_drops(rig, &from_mac(frame.clone(), OTHER_MAC), DropReason::SpoofedMac);
        assert_passes(rig, &frame);
        Ok(())
    })
}

#[test]
fn mac_of_another_port_is_not_learned() -> Result<()> {
    with_learner(|rig| {
        assert_passes(rig, &ipv4_from(GUEST));
        let outcome = rig.at_port_of("port1", &ipv4_from("192.168.122.11"))?;
        outcome.assert_dropped(NETWORK, DropReason::SpoofedMac);
        assert_eq!(rig.learned("port1")?.mac, 0);
        let own = from_mac(ipv4_from("192.168.122.11"), OTHER_MAC);
        rig.at_port_of("port1", &own)?.assert_passed_unchanged();
        Ok(())
    })
}

#[test]
fn first_ipv4_address_is_the_only_one() -> Result<()> {
    with_learner(|rig| {
        assert_passes(rig, &udp("0.0.0.0:68", "255.255.255.255:67").frame());
        assert_passes(rig, &ipv4_from(GUEST));
        assert_drops(rig, &ipv4_from("192.168.122.77"), DropReason::SpoofedAddress);
        assert_drops(
            rig,
            &Arp::new(2, "192.168.122.77", GATEWAY).frame(),
            DropReason::SpoofedNeighbour,
        );
        assert_passes(rig, &ipv4_from(GUEST));
        assert_eq!((rig.holder(GUEST)?, rig.holder("192.168.122.77")?), (Some(GUEST_MAC), None));
        assert_eq!(rig.learned("port0")?.ipv4, 1);
        Ok(())
    })
}

#[test]
fn address_is_learned_from_arp() -> Result<()> {
    for arp in [Arp::new(1, GUEST, GATEWAY), Arp::new(1, "0.0.0.0", GUEST)] {
        with_learner(|rig| {
            assert_passes(rig, &arp.frame());
            assert_eq!(rig.holder(GUEST)?, Some(GUEST_MAC));
            assert_drops(rig, &ipv4_from("192.168.122.77"), DropReason::SpoofedAddress);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn address_of_another_port_is_not_learned() -> Result<()> {
    with_learner(|rig| {
        assert_passes(rig, &ipv4_from(GUEST));
        assert_passes(rig, &ipv6_from(GUEST_IPV6));
        for (frame, reason) in [
            (ipv4_from(GUEST), DropReason::SpoofedAddress),
            (ipv6_from(GUEST_IPV6), DropReason::SpoofedAddress),
            (ipv6_from(GUEST_LINK_LOCAL), DropReason::SpoofedAddress),
        ] {
            let outcome = rig.at_port_of("port1", &from_mac(frame, OTHER_MAC))?;
            outcome.assert_dropped(NETWORK, reason);
        }
        let arp = Arp { sender_mac: OTHER_MAC, ..Arp::new(1, GUEST, GUEST) };
        let outcome = rig.at_port_of("port1", &from_mac(arp.frame(), OTHER_MAC))?;
        outcome.assert_dropped(NETWORK, DropReason::SpoofedNeighbour);
        assert_eq!(rig.learned("port1")?.ipv4, 0);
        Ok(())
    })
}

#[test]
fn only_addresses_of_the_network_are_learned() -> Result<()> {
    with_learner(|rig| {
        // Of another network, of nobody, of no single host.
        for address in ["192.168.123.10", "8.8.8.8", "127.0.0.1", "240.0.0.1", "224.0.0.5"] {
            assert_drops(rig, &ipv4_from(address), DropReason::SpoofedAddress);
        }
        for address in ["2001:db8:123::1", "2001:db8::7", "::1", "::7", "ff02::1", "fe80:0:0:1::1"]
        {
            assert_drops(rig, &ipv6_from(address), DropReason::SpoofedAddress);
        }
        assert_passes(rig, &ipv4_from("10.1.0.5"));
        Ok(())
    })
}

#[test]
fn bridged_network_learns_any_unicast_address() -> Result<()> {
    with_learner(|rig| {
        rig.guard("port0", |port| {
            port.mac = Mac::NONE;
            port.learn_ipv4 = 1;
            port.learn_ipv6 = 1;
            port.flags |= flags::ANY_SUBNET;
        })?;
        for address in ["127.0.0.1", "240.0.0.1", "224.0.0.5", "255.255.255.255"] {
            assert_drops(rig, &ipv4_from(address), DropReason::SpoofedAddress);
        }
        for address in ["::1", "ff0e::1"] {
            assert_drops(rig, &ipv6_from(address), DropReason::SpoofedAddress);
        }
        assert_passes(rig, &ipv4_from("8.8.8.8"));
        assert_passes(rig, &ipv6_from("2001:db8::7"));
        assert_drops(rig, &ipv6_from("2001:db8::8"), DropReason::SpoofedAddress);
        Ok(())
    })
}

#[test]
fn ipv6_addresses_are_learned_up_to_the_limit() -> Result<()> {
    with_learner(|rig| {
        for host in 1..=u64::from(limits::LEARNED_IPV6) {
            assert_passes(rig, &ipv6_from(&format!("{PREFIX}{host:x}")));
        }
        let one_more = format!("{PREFIX}ffff");
        assert_drops(rig, &ipv6_from(&one_more), DropReason::SpoofedAddress);
        assert_passes(rig, &ipv6_from(&format!("{PREFIX}1")));
        for host in 1..=limits::LEARNED_LINK_LOCAL {
            assert_passes(rig, &ipv6_from(&format!("fe80::{host:x}")));
        }
        assert_drops(rig, &ipv6_from("fe80::ffff"), DropReason::SpoofedAddress);
        // Its own does not count.
        assert_passes(rig, &ipv6_from(GUEST_LINK_LOCAL));
        let learned = rig.learned("port0")?;
        assert_eq!((learned.ipv6, learned.link_local), (8, 4));
        Ok(())
    })
}

#[test]
fn new_ipv6_address_takes_the_place_of_one_that_rests() -> Result<()> {
    let uptime = std::fs::read_to_string("/proc/uptime")?;
    let seconds: u64 = uptime.split('.').next().unwrap_or_default().parse()?;
    if seconds * NANOSECONDS < 2 * limits::LEARNED_IDLE_NS {
        println!("not run: the machine has been up for too short a time");
        return Ok(());
    }
    with_learner(|rig| {
        let of = |host: u16| format!("{PREFIX}{host:x}");
        for host in 1..=limits::LEARNED_IPV6 {
            assert_passes(rig, &ipv6_from(&of(host)));
        }
        rig.let_rest(&of(3), limits::LEARNED_IDLE_NS / 2)?;
        assert_drops(rig, &ipv6_from(&of(0x100)), DropReason::SpoofedAddress);
        rig.let_rest(&of(3), limits::LEARNED_IDLE_NS)?;
        assert_passes(rig, &ipv6_from(&of(0x100)));
        assert_eq!((rig.holder(&of(3))?, rig.holder(&of(0x100))?), (None, Some(GUEST_MAC)));
        // Use counts, and there are no more than before.
        rig.let_rest(&of(5), 2 * limits::LEARNED_IDLE_NS)?;
        assert_passes(rig, &ipv6_from(&of(5)));
        assert_drops(rig, &ipv6_from(&of(3)), DropReason::SpoofedAddress);
        assert_eq!(rig.learned("port0")?.ipv6, 8);
        Ok(())
    })
}

#[test]
fn detection_of_duplicates_learns_the_address() -> Result<()> {
    with_learner(|rig| {
        let detect = |target| ipv6("::", "ff02::1:ff00:1", 58, &discovery(135, Some(target), &[]));
        assert_passes(rig, &detect(GUEST_IPV6));
        assert_eq!(rig.holder(GUEST_IPV6)?, Some(GUEST_MAC));
        let outcome = rig.at_port_of("port1", &from_mac(detect(GUEST_IPV6), OTHER_MAC))?;
        outcome.assert_dropped(NETWORK, DropReason::SpoofedNeighbour);
        Ok(())
    })
}

#[test]
fn what_is_given_to_another_is_not_learned() -> Result<()> {
    with_learner(|rig| {
        rig.give_address([0xff; 6], "192.168.122.255")?;
        rig.give_address([0x52, 0x54, 0, 0, 0, 0xfe], GATEWAY)?;
        rig.give_address(OTHER_MAC, "192.168.122.11")?;
        for address in ["192.168.122.255", GATEWAY, "192.168.122.11"] {
            assert_drops(rig, &ipv4_from(address), DropReason::SpoofedAddress);
        }
        Ok(())
    })
}

#[test]
fn free_address_may_be_probed_before_its_lease_is_known() -> Result<()> {
    with_guest(|rig| {
        let probe = |target| Arp::new(1, "0.0.0.0", target).frame();
        assert_drops(rig, &probe("192.168.122.50"), DropReason::SpoofedNeighbour);
        rig.guard("port0", |port| port.flags |= flags::PROBES)?;
        assert_passes(rig, &probe("192.168.122.50"));
        // To probe is not to hold.
        assert_eq!(rig.holder("192.168.122.50")?, None);
        assert_drops(rig, &ipv4_from("192.168.122.50"), DropReason::SpoofedAddress);
        assert_drops(rig, &probe("192.168.122.11"), DropReason::SpoofedNeighbour);
        assert_drops(rig, &probe("8.8.8.8"), DropReason::SpoofedNeighbour);
        Ok(())
    })
}

#[test]
fn link_local_addresses_are_learned_on_a_port_with_given_addresses() -> Result<()> {
    with_guest(|rig| {
        assert_passes(rig, &ipv6_from("fe80::1234"));
        assert_eq!(rig.holder("fe80::1234")?, Some(GUEST_MAC));
        Ok(())
    })
}
