//! RFC 7857 (updates), where no other test shows what `docs/nat.md` says.

use anyhow::Result;
use vnet_common::flow::Direction::*;
use vnet_tests::programs::*;

#[test]
fn errors_from_a_guest_do_not_refresh_its_flow() -> Result<()> {
    with_rig(|rig| {
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        rig.from_outside(&udp("192.0.2.10:53", "198.51.100.1:20000"))?;
        rig.set_session(0, |session| session.last_outbound -= 1)?;
        let before = rig.tables()?.only();
        let received = udp("192.0.2.10:53", "192.168.122.10:20000").ttl(63);
        let on_the_wire = udp("192.0.2.10:53", "198.51.100.1:20000").ttl(63);
        let error = icmp_error(GUEST, REMOTE, (3, 3), &received, 28);
        let expected = icmp_error(EXTERNAL, REMOTE, (3, 3), &on_the_wire, 28).ttl(63);
        rig.from_guest(&error)?.assert_redirected(NETWORK, Outbound, &expected);
        let after = rig.tables()?.only();
        assert_eq!(after.last_outbound, before.last_outbound);
        assert_eq!(after.outbound.packets, before.outbound.packets);
        Ok(())
    })
}
