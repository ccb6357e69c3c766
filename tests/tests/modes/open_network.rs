//! Mode open: the host's own firewall decides.

use vnet_tests::lab::require_root;
use vnet_tests::modes::{Forward, Net, Rig};
use vnet_tests::vnet::Vnet;

use crate::support::{assert_does_not_reach, assert_reaches};

#[test]
fn open_network_obeys_the_hosts_own_firewall() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let open = Net::new("open", Forward::Open, "virbr1", &["10.10.1.1/24", "2001:db8:1::1/64"]);
    let route = Net::new("route", Forward::Route, "virbr2", &["10.10.2.1/24", "2001:db8:2::1/64"]);
    let rig = Rig::new(vec![open, route])?;
    let vnet = Vnet::start(&rig.host, &rig.definitions())?;
    let [guest, routed, x, y] = ["open.1", "route.1", "X", "Y"].map(|name| rig.place(name));
    let all = || -> anyhow::Result<()> {
        assert_reaches(guest, x, "198.51.100.1", "10.10.1.11")?;
        assert_reaches(guest, x, "2001:db8:a::1", "2001:db8:1::11")?;
        assert_reaches(x, guest, "10.10.1.11", "198.51.100.1")?;
        assert_reaches(x, guest, "2001:db8:1::11", "2001:db8:a::1")?;
        assert_reaches(routed, guest, "10.10.1.11", "10.10.2.11")?;
        assert_reaches(guest, routed, "10.10.2.11", "10.10.1.11")
    };
    all()?;
    rig.host.nft(
        "table inet own {
           chain forward {
             type filter hook forward priority 0; policy accept;
             iifname virbr1 oifname upx reject
             iifname upx oifname virbr1 drop
           }
         }",
    )?;
    for (address, outside) in [("10.10.1.11", "198.51.100.1"), ("2001:db8:1::11", "2001:db8:a::1")]
    {
        assert_does_not_reach(guest, x, outside)?;
        assert_does_not_reach(x, guest, address)?;
    }
    // Nothing else is forbidden.
    assert_reaches(guest, y, "203.0.113.1", "10.10.1.11")?;
    assert_reaches(y, guest, "2001:db8:1::11", "2001:db8:b::1")?;
    assert_reaches(routed, guest, "10.10.1.11", "10.10.2.11")?;
    rig.host.nft("flush ruleset")?;
    all()?;
    vnet.stop()?;
    Ok(())
}
