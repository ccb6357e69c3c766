//! `<port isolated='yes'/>`: guests of one network that do not see each other.

use vnet_tests::lab::{Node, require_root};
use vnet_tests::modes::{Arrivals, Forward, Net, Place, Rig, frame};
use vnet_tests::vnet::Vnet;

use crate::support::{assert_none_reaches, assert_reaches, assert_rejected, ip};

fn isolated_network(forward: Forward) -> Net {
    let addresses = ["10.10.1.1/24", "2001:db8:1::1/64"];
    Net::new("shared", forward, "virbr1", &addresses).element("<port isolated='yes'/>").nat66()
}

/// Reaching the neighbour by way of the host instead of the link.
fn route_by_host(guest: &Node, neighbour: [&str; 2]) -> anyhow::Result<()> {
    for (neighbour, gateway) in neighbour.into_iter().zip(["10.10.1.1", "2001:db8:1::1"]) {
        guest.route(neighbour, gateway)?;
    }
    Ok(())
}

#[test]
fn isolated_guests_reach_the_gateway_and_outside_but_not_each_other() -> anyhow::Result<()> {
    const FIRST: [&str; 2] = ["10.10.1.11", "2001:db8:1::11"];
    const SECOND: [&str; 2] = ["10.10.1.12", "2001:db8:1::12"];
    const GATEWAY: [&str; 2] = ["10.10.1.1", "2001:db8:1::1"];
    if !require_root() {
        return Ok(());
    }
    for (forward, sources) in
        [(Forward::Nat, Some(["198.51.100.2", "2001:db8:a::2"])), (Forward::Route, None)]
    {
        let rig = Rig::new(vec![isolated_network(forward)])?;
        let vnet = Vnet::start(&rig.host, &rig.definitions())?;
        let [first, second, x, host] =
            ["shared.1", "shared.2", "X", "host"].map(|name| rig.place(name));
        let guests = [(first, FIRST, second, SECOND), (second, SECOND, first, FIRST)];
        let among = guests.iter().flat_map(|(guest, _, other, others)| {
            others.map(|address| (*guest, *other, address.to_owned()))
        });
        assert_none_reaches(&among.collect::<Vec<_>>())?;
        for (guest, own, _, _) in guests {
            for index in [0, 1] {
                assert_reaches(guest, host, GATEWAY[index], own[index])?;
                assert_reaches(host, guest, own[index], GATEWAY[index])?;
                let source = sources.map_or(own[index], |sources| sources[index]);
                assert_reaches(guest, x, ["198.51.100.1", "2001:db8:a::1"][index], source)?;
            }
        }
        assert_no_frame_crosses(&rig, first, second)?;
        for (guest, _, other, others) in guests {
            route_by_host(&guest.node, others)?;
            for index in [0, 1] {
                assert_rejected(guest, other, others[index], GATEWAY[index])?;
            }
        }
        vnet.stop()?;
    }
    Ok(())
}

/// Neither a frame to the other's address nor one to everybody.
fn assert_no_frame_crosses(rig: &Rig, first: &Place, second: &Place) -> anyhow::Result<()> {
    let arrivals = Arrivals::start(&rig.places)?;
    let [mine, theirs] = [first, second].map(|guest| frame::mac_of(&guest.node, "eth0").unwrap());
    let gateway = frame::mac_of(&rig.host, "virbr1")?;
    let addresses = (ip("10.10.1.11"), ip("10.10.1.12"));
    for destination in [theirs, [0xff; 6], [0x01, 0, 0x5e, 0, 0, 1]] {
        let frame = frame::udp((mine, destination), addresses, (4000, 4000), b"over the link.");
        frame::send(&first.node, "eth0", &frame)?;
    }
    // The last one arrives outside: what was sent before it has gone its way.
    let addresses = (ip("10.10.1.11"), ip("198.51.100.1"));
    frame::send(
        &first.node,
        "eth0",
        &frame::udp((mine, gateway), addresses, (4000, 4000), b"to outside."),
    )?;
    arrivals.wait_for_text("X", b"to outside.")?;
    let arrived = arrivals.finish()?;
    let crossed: Vec<String> =
        arrived.with_text(&second.name, b"over the link.").map(ToString::to_string).collect();
    assert!(crossed.is_empty(), "{crossed:?}");
    Ok(())
}
